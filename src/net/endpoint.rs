//! The UDP endpoint, and finding an address for it to dial.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, TokioRuntime};

use super::NetError;
use crate::crypto::{Canonical, Digest, SigningKey, random_bytes};

/// Binds a socket.
///
/// The key of its stateless resets (RFC 9000, section 10.3) comes from the transport secret, so that a replica that was killed and
/// came back can tell its peers at once that their connections are gone, where they would wait for the idle timeout.
pub(super) fn bind(address: SocketAddr, key: &SigningKey, server: Option<quinn::ServerConfig>) -> Result<Endpoint, NetError> {
    let reset = ResetKey(Canonical::hash("exo-federation/v1/net/reset\0").fixed(&key.seed()).digest());
    let start = random_bytes::<32>()?;
    let next = Arc::new(AtomicU64::new(0));
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(ConnectionIds { start, next: next.clone() }));
    let bound = std::net::UdpSocket::bind(address).and_then(|socket| Endpoint::new(config, server, socket, Arc::new(TokioRuntime)));
    bound.map_err(|error| NetError::Bind { address, error })
}

/// The addresses of "host:port" that a socket of this family can reach, in the resolver's order.
pub(super) async fn resolve(address: &str, local: Option<SocketAddr>) -> Result<Vec<SocketAddr>, NetError> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| NetError::Resolve { address: address.to_owned(), error })?;
    let reachable: Vec<SocketAddr> = found.filter(|remote| local.is_none_or(|local| local.is_ipv6() || remote.is_ipv4())).collect();
    if reachable.is_empty() {
        return Err(NetError::NoAddress { address: address.to_owned() });
    }
    Ok(reachable)
}

/// SHA-256 over the secret and the length-prefixed data: both of fixed layout, so nothing can be appended.
struct ResetKey(Digest);

impl ResetKey {
    fn mac(&self, data: &[u8]) -> Digest {
        Canonical::hash("exo-federation/v1/net/reset-token\0").fixed(self.0.as_bytes()).var(data).digest()
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        for (to, from) in out.iter_mut().zip(self.mac(data).as_bytes()) {
            *to = *from;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if self.mac(data).as_bytes() == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Connection ids: a hash of a random start and a counter, unlinkable and without a call for randomness that could fail.
struct ConnectionIds {
    start: [u8; 32],
    next: Arc<AtomicU64>,
}

const CONNECTION_ID_BYTES: usize = 8;

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let digest = Canonical::hash("exo-federation/v1/net/connection-id\0").fixed(&self.start).u64(count).digest();
        ConnectionId::new(digest.as_bytes().get(..CONNECTION_ID_BYTES).unwrap_or_default())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}
