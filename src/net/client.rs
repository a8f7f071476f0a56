//! A client's connection to one replica.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint};

use super::directory::Speaks;
use super::error::code;
use super::frame::within;
use super::hello::{Claim, Hello};
use super::tls::{self, TlsIdentity};
use super::{NetError, NetOptions, endpoint, requests};
use crate::crypto::SigningKey;
use crate::types::{Federation, Member, ReplicaIndex};

/// A connection to one replica as an admitted author or reader. Closed when dropped.
#[derive(Debug)]
pub struct ClientConnection {
    endpoint: Endpoint,
    pub(super) connection: Connection,
    options: NetOptions,
}

impl ClientConnection {
    /// Dials a replica at "host:port", trying every address that the name resolves to, and says hello.
    ///
    /// # Errors
    /// [`NetError`]: among them a replica that holds another key than the genesis names, [`NetError::Refused`] with the replica's
    /// reason, and [`NetError::Timeout`] after `handshake_timeout_ms` for each address. A key that was not admitted shows as
    /// [`NetError::Connection`].
    pub async fn connect(
        federation: &Federation,
        key: &SigningKey,
        replica: ReplicaIndex,
        address: &str,
        options: &NetOptions,
    ) -> Result<Self, NetError> {
        options.validate()?;
        let unknown = NetError::UnknownReplica { index: replica, members: federation.size() };
        let member = federation.members().get(usize::from(replica)).ok_or(unknown)?;
        let protocol = tls::alpn(federation.id(), Speaks::Client);
        let config = TlsIdentity::new(key)?.dial(&member.transport_key, protocol, options)?;
        let hello = Hello::new(federation, Claim::Client);
        let limit = options.handshake_timeout();
        let mut failure = NetError::NoAddress { address: address.to_owned() };
        for remote in within("resolving", limit, endpoint::resolve(address, None)).await? {
            let tried = within("connecting", limit, dial(remote, key, config.clone(), &hello, member, options)).await;
            match tried {
                Ok((endpoint, connection)) => return Ok(Self { endpoint, connection, options: options.clone() }),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Sends one request and waits for its answer; many may be under way.
    ///
    /// # Errors
    /// [`NetError::TooLong`] for a request over `max_request_bytes` or an answer over `max_response_bytes`, [`NetError::Timeout`],
    /// and whatever ends the connection or the stream. After an error the request may have been carried out all the same.
    pub async fn request(&self, request: Bytes, timeout: Duration, max_response_bytes: usize) -> Result<Bytes, NetError> {
        requests::ask(&self.connection, request, timeout, max_response_bytes, &self.options).await
    }

    /// Whether the connection has ended; it does not come back.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Ends the connection and every request on it.
    pub fn close(&self) {
        self.connection.close(code::BYE, b"");
        self.endpoint.close(code::BYE, b"");
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.close();
    }
}

async fn dial(
    remote: SocketAddr,
    key: &SigningKey,
    config: quinn::ClientConfig,
    hello: &Hello,
    member: &Member,
    options: &NetOptions,
) -> Result<(Endpoint, Connection), NetError> {
    let local = if remote.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let endpoint = endpoint::bind(local, key, None)?;
    let connection = endpoint.connect_with(config, remote, tls::SERVER_NAME)?.await?;
    hello.say(&connection, &member.peer, options).await?;
    Ok((endpoint, connection))
}
