//! The transport: QUIC with mutual TLS 1.3, in which a peer's key is its federation key.
//!
//! It carries frames between replicas and requests from clients, proves who sent them, and bounds what each sender may cost. It may not
//! know what a frame says, nor anything of consensus, journal, store or node: it imports `types` and `crypto` only.
//!
//! **Topology.** Every replica dials every other. The connection that A dialled to B carries A's messages to B, on one long-lived stream
//! per [`MessageClass`], and A's requests to B, on one stream each. So each direction stands by itself, and no tie is to be broken.
//!
//! **Admission.** TLS refuses every key that the genesis does not name, and a dialler every key but the one it dials. The protocol name
//! (ALPN) carries the federation's id and says whether a replica or a client speaks; a key may speak one of the two only. Then the
//! dialler says hello, and the answer makes it a peer. Until then a connection may open one stream and send 64 KiB.
//!
//! **Bounds.** Nothing is allocated for a length that was merely claimed. Queues out and budgets in are per peer and class, so that a
//! slow or flooding peer costs nobody else, and its bodies cost not even its own votes: the receive window of a connection is the sum of
//! its streams' windows, which leaves no stream able to use up another's.
//!
//! Messages may be lost: when a queue is full, when a peer is not connected, when a connection breaks. All of it is counted, and the
//! protocol above sends again what still matters.

mod client;
mod counters;
mod directory;
mod endpoint;
mod error;
mod frame;
mod hello;
mod link;
mod listen;
mod options;
mod outbox;
mod pending;
mod per_class;
mod requests;
mod tls;

pub use client::ClientConnection;
pub use counters::NetCounters;
pub use directory::Caller;
pub use error::{NetError, Refusal};
pub use hello::PROTOCOL_VERSION;
pub use listen::{Inbound, InboundPermit};
pub use options::{FRAME_OVERHEAD_BYTES, NetOptions};
pub use per_class::PerClass;
pub use requests::RequestHandler;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::counters::Counters;
use self::directory::{Directory, Speaks};
use self::error::code;
use self::link::Link;
use self::listen::Registry;
use self::tls::TlsIdentity;
use crate::crypto::SigningKey;
use crate::types::{Federation, MessageClass, PeerId, ReplicaIndex};

/// Who a replica is on the network.
#[derive(Debug, Clone)]
pub struct NetIdentity {
    /// Its place in the genesis.
    pub index: ReplicaIndex,
    /// The secret half of the transport key that the genesis names.
    pub transport_key: SigningKey,
}

/// What all tasks of one transport share.
struct Shared {
    federation: Arc<Federation>,
    index: ReplicaIndex,
    peer: PeerId,
    directory: Arc<Directory>,
    options: NetOptions,
    endpoint: Endpoint,
    local: SocketAddr,
    links: BTreeMap<ReplicaIndex, Link>,
    registry: Registry,
    connected: watch::Sender<BTreeSet<ReplicaIndex>>,
    inbound: mpsc::UnboundedSender<Inbound>,
    handler: Arc<dyn RequestHandler>,
    counters: Counters,
    tasks: TaskTracker,
}

impl Shared {
    fn link(&self, index: ReplicaIndex) -> Option<&Link> {
        self.links.get(&index)
    }
}

/// How long a stopping replica waits for its connections to close.
const FAREWELL: Duration = Duration::from_millis(500);

/// The running transport of one replica. It stops when it is dropped; [`Net::shutdown`] also waits for its end.
pub struct Net {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Net {
    /// Binds the UDP socket, listens, and starts dialling `addresses`: "host:port" by replica index, our own place unused, resolved again
    /// at every attempt.
    ///
    /// `inbound` needs no bound of its own: what it holds is bounded by `inbound_bytes` per peer and class, through the permits.
    ///
    /// # Errors
    /// [`NetError::Option`], [`NetError::UnknownReplica`], [`NetError::WrongTransportKey`], [`NetError::Addresses`] and
    /// [`NetError::Bind`]. A peer that cannot be reached is no error.
    pub async fn start(
        federation: Arc<Federation>,
        identity: NetIdentity,
        listen: SocketAddr,
        addresses: Vec<String>,
        options: NetOptions,
        inbound: mpsc::UnboundedSender<Inbound>,
        handler: Arc<dyn RequestHandler>,
    ) -> Result<Self, NetError> {
        options.validate()?;
        let peer = check(&federation, &identity, &addresses)?;
        let tls = TlsIdentity::new(&identity.transport_key)?;
        let directory = Arc::new(Directory::new(&federation));
        let server = tls.listen(directory.clone(), listen::protocols(federation.id()), &options)?;
        let endpoint = endpoint::bind(listen, &identity.transport_key, Some(server))?;
        let local = endpoint.local_addr().map_err(|error| NetError::Bind { address: listen, error })?;
        let links = links(&federation, identity.index, &tls, addresses, &options)?;
        let registry = Registry::new(links.keys().copied(), &options);
        let shared = Arc::new(Shared {
            index: identity.index,
            peer,
            directory,
            endpoint,
            local,
            links,
            registry,
            connected: watch::Sender::default(),
            inbound,
            handler,
            counters: Counters::default(),
            tasks: TaskTracker::new(),
            options,
            federation,
        });
        let stop = CancellationToken::new();
        spawn(&shared, &stop);
        Ok(Self { shared, stop })
    }

    /// The address that the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// Queues a message for one replica. Never blocks; from any thread. Dropped and counted when the replica is not connected, its queue
    /// for the class is full, or the message is longer than the class allows. Ignored for ourselves and for an unknown index.
    pub fn send(&self, to: ReplicaIndex, class: MessageClass, frame: Bytes) {
        if let Some(link) = self.shared.link(to) {
            link.send(&self.shared, class, frame);
        }
    }

    /// Queues a message for every other replica; the bytes are shared, not copied.
    pub fn broadcast(&self, class: MessageClass, frame: Bytes) {
        for link in self.shared.links.values() {
            link.send(&self.shared, class, frame.clone());
        }
    }

    /// Asks a replica on the connection that we dialled to it.
    ///
    /// # Errors
    /// [`NetError::UnknownReplica`] (ourselves included), [`NetError::NotConnected`], and as [`ClientConnection::request`].
    pub async fn request(&self, to: ReplicaIndex, request: Bytes, timeout: Duration, max_response_bytes: usize) -> Result<Bytes, NetError> {
        let unknown = NetError::UnknownReplica { index: to, members: self.shared.federation.size() };
        let connection = self.shared.link(to).ok_or(unknown)?.connection()?;
        requests::ask(&connection, request, timeout, max_response_bytes, &self.shared.options).await
    }

    /// The replicas that our messages reach at present, in order.
    #[must_use]
    pub fn connected(&self) -> Vec<ReplicaIndex> {
        self.shared.connected.borrow().iter().copied().collect()
    }

    /// Watches which replicas our messages reach: a reason to send them at once where we stand.
    #[must_use]
    pub fn watch_connected(&self) -> watch::Receiver<BTreeSet<ReplicaIndex>> {
        self.shared.connected.subscribe()
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> NetCounters {
        self.shared.counters.snapshot()
    }

    /// Closes every connection, tells the peers, and waits until all tasks have ended. The socket is freed when this is dropped, too.
    pub async fn shutdown(&self) {
        self.halt();
        self.shared.tasks.wait().await;
        // Long enough for the farewells to leave; a peer that is gone would otherwise be waited for through its backed-off timers.
        let _ = tokio::time::timeout(FAREWELL, self.shared.endpoint.wait_idle()).await;
    }

    fn halt(&self) {
        self.stop.cancel();
        self.shared.tasks.close();
        self.shared.endpoint.close(code::BYE, b"shutting down");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.halt();
    }
}

fn check(federation: &Federation, identity: &NetIdentity, addresses: &[String]) -> Result<PeerId, NetError> {
    let unknown = NetError::UnknownReplica { index: identity.index, members: federation.size() };
    let member = federation.members().get(usize::from(identity.index)).ok_or(unknown)?;
    let actual = identity.transport_key.public();
    if member.transport_key != actual {
        return Err(NetError::WrongTransportKey { index: identity.index, expected: member.transport_key, actual });
    }
    if addresses.len() != federation.size() {
        return Err(NetError::Addresses { expected: federation.size(), actual: addresses.len() });
    }
    Ok(member.peer.clone())
}

fn links(
    federation: &Federation,
    own: ReplicaIndex,
    tls: &TlsIdentity,
    addresses: Vec<String>,
    options: &NetOptions,
) -> Result<BTreeMap<ReplicaIndex, Link>, NetError> {
    let protocol = tls::alpn(federation.id(), Speaks::Replica);
    let others = federation.members().iter().zip(addresses).zip(0..).filter(|(_, index)| *index != own);
    others
        .map(|((member, address), index)| {
            let config = tls.dial(&member.transport_key, protocol.clone(), options)?;
            Ok((index, Link::new(index, member.peer.clone(), address, config, options)))
        })
        .collect()
}

fn spawn(shared: &Arc<Shared>, stop: &CancellationToken) {
    let listener = stop.clone();
    let accepting = listen::run(shared.clone());
    shared.tasks.spawn(async move { listener.run_until_cancelled_owned(accepting).await });
    for index in shared.links.keys().copied() {
        let (shared, stop) = (shared.clone(), stop.clone());
        shared.tasks.clone().spawn(async move {
            if let Some(link) = shared.link(index) {
                stop.run_until_cancelled(link.run(&shared)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests;
