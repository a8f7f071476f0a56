//! The connections that others dial to us.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{Connection, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::directory::Speaks;
use super::error::code;
use super::frame::{FrameReader, within};
use super::hello::{Hello, HelloAck};
use super::link::class_byte;
use super::options::{FRAME_OVERHEAD_BYTES, count, var_int};
use super::pending::{Pending, Ticket, Verdict};
use super::requests::{Asked, RequestBudget, answer};
use super::{Caller, NetError, NetOptions, PerClass, Refusal, Shared, tls};
use crate::crypto::PublicKey;
use crate::types::{FederationId, MessageClass, ReplicaIndex};

/// A message from another replica, not looked into.
#[derive(Debug)]
pub struct Inbound {
    /// Who sent it, as its TLS key proves.
    pub from: ReplicaIndex,
    /// The stream it came on; its length keeps the class's limit.
    pub class: MessageClass,
    /// The message's bytes.
    pub frame: Bytes,
    /// The sender's budget, held until this is dropped.
    pub permit: InboundPermit,
}

/// A share of one sender's inbound budget for one class. While a sender's budget is used up, no more is read of that class from it; no
/// other sender and no other class waits for it.
#[derive(Debug)]
pub struct InboundPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// Who is connected to us, and what each may hold.
pub(super) struct Registry {
    replicas: Mutex<BTreeMap<ReplicaIndex, Connection>>,
    clients: Mutex<Clients>,
    messages: BTreeMap<ReplicaIndex, PerClass<Arc<Semaphore>>>,
    requests: BTreeMap<ReplicaIndex, RequestBudget>,
    client_requests: Arc<Semaphore>,
}

#[derive(Default)]
struct Clients {
    of_key: BTreeMap<PublicKey, ClientSlot>,
    all: u64,
}

struct ClientSlot {
    connections: u64,
    budget: RequestBudget,
}

impl Registry {
    pub(super) fn new(others: impl Iterator<Item = ReplicaIndex> + Clone, options: &NetOptions) -> Self {
        let semaphore = |bytes: u64| Arc::new(Semaphore::new(count(bytes).min(Semaphore::MAX_PERMITS)));
        let budget = |_| PerClass::from_fn(|class| semaphore(*options.inbound_bytes.get(class)));
        Self {
            replicas: Mutex::default(),
            clients: Mutex::default(),
            messages: others.clone().map(|index| (index, budget(index))).collect(),
            requests: others
                .map(|index| (index, RequestBudget::new(options.max_requests_per_replica, options.request_bytes_per_key, None)))
                .collect(),
            client_requests: semaphore(options.request_bytes_of_clients),
        }
    }
}

/// A client's connection, counted until this is dropped.
struct ClientSeat {
    shared: Arc<Shared>,
    key: PublicKey,
    budget: RequestBudget,
}

impl ClientSeat {
    fn take(shared: &Arc<Shared>, key: PublicKey) -> Result<Self, Refusal> {
        let options = &shared.options;
        let mut clients = shared.registry.clients.lock();
        if clients.all >= options.max_client_connections {
            return Err(Refusal::Busy { limit: options.max_client_connections });
        }
        let of_all = || Some(shared.registry.client_requests.clone());
        let budget = || RequestBudget::new(options.max_requests_per_client, options.request_bytes_per_key, of_all());
        let fresh = || ClientSlot { connections: 0, budget: budget() };
        let slot = clients.of_key.entry(key).or_insert_with(fresh);
        if slot.connections >= options.max_connections_per_client {
            return Err(Refusal::Busy { limit: options.max_connections_per_client });
        }
        slot.connections = slot.connections.saturating_add(1);
        let budget = slot.budget.clone();
        clients.all = clients.all.saturating_add(1);
        Ok(Self { shared: shared.clone(), key, budget })
    }
}

impl Drop for ClientSeat {
    fn drop(&mut self) {
        let mut clients = self.shared.registry.clients.lock();
        clients.all = clients.all.saturating_sub(1);
        if let Some(slot) = clients.of_key.get_mut(&self.key) {
            slot.connections = slot.connections.saturating_sub(1);
            if slot.connections == 0 {
                clients.of_key.remove(&self.key);
            }
        }
    }
}

/// Takes connections until the endpoint closes.
pub(super) async fn run(shared: Arc<Shared>) {
    let pending = Pending::new(&shared.options);
    while let Some(incoming) = shared.endpoint.accept().await {
        match pending.judge(incoming.remote_address().ip(), incoming.remote_address_validated()) {
            Verdict::Begin(ticket) => {
                shared.tasks.spawn(welcome(shared.clone(), incoming, ticket));
            }
            Verdict::Prove => {
                shared.counters.retries_demanded.one();
                // Only an address that was validated already cannot be asked again.
                let _ = incoming.retry();
            }
            Verdict::Refuse => {
                shared.counters.refused_busy.one();
                incoming.refuse();
            }
        }
    }
}

/// What makes a connection's requests possible.
enum Peer {
    Replica(ReplicaIndex),
    Client { key: PublicKey, can_submit: bool, seat: ClientSeat },
}

async fn welcome(shared: Arc<Shared>, incoming: Incoming, ticket: Ticket) {
    let remote = incoming.remote_address();
    let welcomed = within("the handshake", shared.options.handshake_timeout(), handshake(&shared, incoming)).await;
    drop(ticket);
    match welcomed {
        Ok((connection, peer)) => {
            shared.counters.accepted.one();
            match peer {
                Peer::Replica(index) => serve_replica(&shared, index, &connection).await,
                Peer::Client { key, can_submit, seat } => {
                    let caller = Caller::Client { key, can_submit };
                    let over = CancellationToken::new();
                    let _guard = over.clone().drop_guard();
                    serve_requests(&shared, caller, &connection, &seat.budget, &over).await;
                }
            }
            connection.close(code::BYE, b"");
        }
        Err(NetError::Refused(refusal)) => {
            shared.counters.refused_hellos.one();
            tracing::warn!(%remote, %refusal, "refused a hello");
        }
        Err(error) => {
            shared.counters.refused_handshakes.one();
            tracing::debug!(%remote, %error, "refused a connection");
        }
    }
}

async fn handshake(shared: &Arc<Shared>, incoming: Incoming) -> Result<(Connection, Peer), NetError> {
    let connection = incoming.accept()?.await?;
    let Some(caller) = entitled(shared, &connection) else {
        connection.close(code::WRONG_PROTOCOL, b"this key may not speak this protocol");
        return Err(NetError::WrongProtocol);
    };
    let (hello, stream) = Hello::hear(&connection, &shared.options).await?;
    let peer = hello.check(&shared.federation, caller).and_then(|()| admit(shared, caller));
    let peer = match peer {
        Ok(peer) => peer,
        Err(refusal) => {
            HelloAck::new(&shared.federation, &shared.peer, Some(refusal.clone())).send(stream).await?;
            connection.close(code::REFUSED, b"hello refused");
            return Err(refusal.into());
        }
    };
    let options = &shared.options;
    match peer {
        Peer::Replica(_) => {
            connection.set_receive_window(options.replica_window());
            connection.set_max_concurrent_uni_streams(var_int(MessageClass::ALL.len() as u64));
            connection.set_max_concurrent_bi_streams(var_int(options.max_requests_per_replica));
        }
        Peer::Client { .. } => {
            connection.set_receive_window(var_int(options.client_window_bytes));
            connection.set_max_concurrent_bi_streams(var_int(options.max_requests_per_client));
        }
    }
    HelloAck::new(&shared.federation, &shared.peer, None).send(stream).await?;
    Ok((connection, peer))
}

/// Who a connection's key belongs to, if it may speak the protocol that was negotiated. A replica never dials itself.
fn entitled(shared: &Shared, connection: &Connection) -> Option<Caller> {
    let (key, protocol) = tls::proven(connection)?;
    let caller = shared.directory.caller(&key).filter(|caller| *caller != Caller::Replica(shared.index))?;
    (protocol == tls::alpn(shared.federation.id(), caller.speaks())).then_some(caller)
}

fn admit(shared: &Arc<Shared>, caller: Caller) -> Result<Peer, Refusal> {
    match caller {
        Caller::Replica(index) => Ok(Peer::Replica(index)),
        Caller::Client { key, can_submit } => Ok(Peer::Client { key, can_submit, seat: ClientSeat::take(shared, key)? }),
    }
}

async fn serve_replica(shared: &Arc<Shared>, index: ReplicaIndex, connection: &Connection) {
    let replaced = shared.registry.replicas.lock().insert(index, connection.clone());
    if let Some(old) = replaced.filter(|old| old.close_reason().is_none()) {
        shared.counters.replaced.one();
        old.close(code::REPLACED, b"a newer connection of this key");
    }
    if let Some(link) = shared.link(index) {
        link.awake.notify_one();
    }
    let over = CancellationToken::new();
    let _guard = over.clone().drop_guard();
    let Some(budget) = shared.registry.requests.get(&index) else { return };
    tokio::join!(serve_messages(shared, index, connection, &over), serve_requests(shared, Caller::Replica(index), connection, budget, &over));
    let mut replicas = shared.registry.replicas.lock();
    if replicas.get(&index).is_some_and(|current| current.stable_id() == connection.stable_id()) {
        replicas.remove(&index);
    }
}

/// Until the connection ends. Each stream has its own task, so that none waits for another.
async fn serve_messages(shared: &Arc<Shared>, from: ReplicaIndex, connection: &Connection, over: &CancellationToken) {
    let taken = Arc::new(PerClass::from_fn(|_| AtomicBool::new(false)));
    while let Ok(stream) = connection.accept_uni().await {
        let (shared, connection, taken, over) = (shared.clone(), connection.clone(), taken.clone(), over.clone());
        shared.tasks.clone().spawn(async move {
            let read = read_messages(&shared, from, FrameReader::new(stream), &taken);
            if let Some(Err(error)) = over.run_until_cancelled(read).await {
                part_with(&shared, from, &connection, &error);
            }
        });
    }
}

/// A replica that breaks the rules of a stream loses its connection; it may dial again.
fn part_with(shared: &Shared, from: ReplicaIndex, connection: &Connection, error: &NetError) {
    let (counter, code) = match error {
        NetError::Read(quinn::ReadError::ConnectionLost(_)) => return,
        NetError::TooLong { .. } => (&shared.counters.oversized_in, code::OVERSIZED),
        NetError::Timeout { .. } => (&shared.counters.slow_in, code::SLOW),
        _ => (&shared.counters.violations, code::VIOLATION),
    };
    counter.one();
    tracing::warn!(from, %error, "closing a replica's connection");
    connection.close(code, b"");
}

async fn read_messages(shared: &Shared, from: ReplicaIndex, mut reader: FrameReader, taken: &PerClass<AtomicBool>) -> Result<(), NetError> {
    let first = reader.byte().await?;
    let class = MessageClass::ALL.into_iter().find(|class| Some(class_byte(*class)) == first).ok_or(NetError::UnknownClass { byte: first })?;
    if taken.get(class).swap(true, Ordering::Relaxed) {
        return Err(NetError::SecondStream { class });
    }
    let Some(budget) = shared.registry.messages.get(&from).map(|of_peer| of_peer.get(class)) else { return Ok(()) };
    while let Some(length) = reader.length(class.max_frame_bytes(), &shared.options).await? {
        let charge = u32::try_from(length.saturating_add(FRAME_OVERHEAD_BYTES)).unwrap_or(u32::MAX);
        // A closed budget or a consumer that is gone: the transport is stopping.
        let Ok(permit) = budget.clone().acquire_many_owned(charge).await else { return Ok(()) };
        let frame = reader.body(length, &shared.options).await?;
        shared.counters.frames_in.one();
        shared.counters.bytes_in.add(length);
        if shared.inbound.send(Inbound { from, class, frame, permit: InboundPermit(permit) }).is_err() {
            return Ok(());
        }
    }
    Err(NetError::Ended { expected: 4, actual: 0 })
}

async fn serve_requests(shared: &Arc<Shared>, caller: Caller, connection: &Connection, budget: &RequestBudget, over: &CancellationToken) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        let asked = Asked { caller, connection: connection.clone(), send, recv, budget: budget.clone() };
        let (shared, over) = (shared.clone(), over.clone());
        shared.tasks.clone().spawn(async move { over.run_until_cancelled(answer(shared, asked)).await });
    }
}

/// The protocols that a replica listens for.
pub(super) fn protocols(federation: FederationId) -> Vec<Vec<u8>> {
    [Speaks::Replica, Speaks::Client].into_iter().map(|speaks| tls::alpn(federation, speaks)).collect()
}
