#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Real sockets on loopback. Each test has addresses of its own in 127/8, so that none can meet another's.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use quinn::{Connection, ConnectionError, TransportErrorCode, VarInt};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;

use super::hello::{Claim, Hello};
use super::*;
use crate::crypto::ReplicaSecret;
use crate::types::{Author, Genesis, MAX_FRAME_BYTES, Member, Parameters, Reader};

/// No test passes or fails by this: it only turns a hang into a failure.
const GUARD: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

fn secret(index: ReplicaIndex) -> ReplicaSecret {
    ReplicaSecret::from_bytes([u8::try_from(index).unwrap() + 1; 32])
}

fn author() -> SigningKey {
    SigningKey::from_seed(&[99; 32])
}

fn reader() -> SigningKey {
    SigningKey::from_seed(&[98; 32])
}

fn federation(name: &str) -> Arc<Federation> {
    let member = |index| Member {
        peer: PeerId(format!("replica-{index}")),
        consensus_key: secret(index).consensus_key().public(),
        transport_key: secret(index).transport_key().public(),
        cosignature_key: secret(index).cosignature_key().public(),
    };
    let genesis = Genesis {
        name: name.into(),
        members: (0..4).map(member).collect(),
        authors: vec![Author { name: "author".into(), key: author().public() }],
        readers: vec![Reader { name: "reader".into(), key: reader().public() }],
        parameters: Parameters::default(),
    };
    Arc::new(Federation::new(genesis).unwrap())
}

fn addresses() -> Vec<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, test) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let network = 0x7f00_0000 | ((process % 0x7fff + 1) << 9) | (test << 3);
    (1..=4).map(|host| SocketAddr::from((Ipv4Addr::from(network | host), 24_500))).collect()
}

/// Says who asked and what; holds a request of `hold` for ever, and gives one permit for each that it holds.
struct Echo(Arc<Semaphore>);

impl RequestHandler for Echo {
    fn handle(&self, caller: Caller, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        let held = self.0.clone();
        Box::pin(async move {
            if &request[..] == b"hold" {
                held.add_permits(1);
                std::future::pending::<()>().await;
            }
            let who = match caller {
                Caller::Replica(index) => format!("replica {index}: "),
                Caller::Client { can_submit, .. } => format!("client {can_submit}: "),
            };
            [who.as_bytes(), &request].concat().into()
        })
    }
}

struct Node {
    net: Net,
    inbound: UnboundedReceiver<Inbound>,
    held: Arc<Semaphore>,
}

impl Node {
    async fn reaches(&self, index: ReplicaIndex) {
        self.net.watch_connected().wait_for(|up| up.contains(&index)).await.unwrap();
    }

    async fn loses(&self, index: ReplicaIndex) {
        self.net.watch_connected().wait_for(|up| !up.contains(&index)).await.unwrap();
    }

    /// Takes what arrives, giving no budget back, until a message fits.
    async fn hoard(&mut self, wanted: impl Fn(&Inbound) -> bool) -> Vec<Inbound> {
        let mut hoard = Vec::new();
        loop {
            hoard.push(self.inbound.recv().await.unwrap());
            if wanted(hoard.last().unwrap()) {
                return hoard;
            }
        }
    }

    async fn counts(&self, condition: impl Fn(&NetCounters) -> bool) {
        while !condition(&self.net.counters()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Starts a replica; while a predecessor on the same address lets go of its socket, tries again.
async fn start(index: ReplicaIndex, all: &[SocketAddr], options: &NetOptions) -> Node {
    loop {
        let (sender, inbound) = mpsc::unbounded_channel();
        let held = Arc::new(Semaphore::new(0));
        let echo = Arc::new(Echo(held.clone()));
        let identity = NetIdentity { index, transport_key: secret(index).transport_key() };
        let names = all.iter().map(ToString::to_string).collect();
        match Net::start(federation("test"), identity, all[usize::from(index)], names, options.clone(), sender, echo).await {
            Ok(net) => return Node { net, inbound, held },
            Err(NetError::Bind { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn pair(options: &NetOptions) -> (Node, Node) {
    let all = addresses();
    let (a, b) = (start(0, &all, options).await, start(1, &all, options).await);
    a.reaches(1).await;
    b.reaches(0).await;
    (a, b)
}

/// A connection by hand, which may break any rule behind TLS.
struct ByHand {
    _endpoint: Endpoint,
    connection: Connection,
}

async fn dial(node: &Node, key: &SigningKey, of: &Federation, speaks: Speaks) -> Result<ByHand, NetError> {
    let target = federation("test").members()[usize::from(node.net.shared.index)].transport_key;
    let config = TlsIdentity::new(key)?.dial(&target, tls::alpn(of.id(), speaks), &NetOptions::default())?;
    let endpoint = endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), key, None)?;
    let connection = endpoint.connect_with(config, node.net.local_addr(), tls::SERVER_NAME)?.await?;
    Ok(ByHand { _endpoint: endpoint, connection })
}

async fn dial_as(node: &Node, index: ReplicaIndex, claimed: ReplicaIndex) -> Result<ByHand, NetError> {
    let federation = federation("test");
    let by_hand = dial(node, &secret(index).transport_key(), &federation, Speaks::Replica).await?;
    let claim = Claim::Replica { index: claimed, peer: federation.peer(claimed).unwrap().clone() };
    Hello::new(&federation, claim).say(&by_hand.connection, &node.net.shared.peer, &NetOptions::default()).await?;
    Ok(by_hand)
}

async fn client(node: &Node, key: &SigningKey) -> Result<ClientConnection, NetError> {
    let address = node.net.local_addr().to_string();
    ClientConnection::connect(&federation("test"), key, node.net.shared.index, &address, &NetOptions::default()).await
}

fn closed_with(reason: &ConnectionError) -> Option<VarInt> {
    match reason {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code),
        _ => None,
    }
}

/// The TLS alert (RFC 8446, section 6.2) that a connection was refused with.
fn refused_by_tls(reason: &ConnectionError, alert: u8) -> bool {
    matches!(reason, ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::crypto(alert))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(GUARD, test).await.expect("the test hangs") });
}

fn vote(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn messages_of_all_classes_and_requests_go_both_ways() {
    run(async {
        let (mut a, mut b) = pair(&NetOptions::default()).await;
        let frames =
            [(MessageClass::Votes, 0), (MessageClass::Votes, 4 << 10), (MessageClass::Control, 3 * MIB), (MessageClass::Bulk, MAX_FRAME_BYTES)];
        for (class, length) in frames {
            let frame: Bytes = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            a.net.send(1, class, frame.clone());
            b.net.broadcast(class, frame.clone());
            for (node, from) in [(&mut b, 0), (&mut a, 1)] {
                let inbound = node.inbound.recv().await.unwrap();
                assert_eq!((inbound.from, inbound.class), (from, class));
                assert!(inbound.frame == frame, "{length} bytes arrive as they were sent");
            }
        }
        a.net.send(1, MessageClass::Votes, Bytes::from(vec![0; (4 << 10) + 1]));
        assert_eq!(a.net.counters().oversized_out, 1);
        assert_eq!(&a.net.request(1, vote("ask"), SECOND, 64).await.unwrap()[..], b"replica 0: ask");
        assert_eq!(&b.net.request(0, vote("ask"), SECOND, 64).await.unwrap()[..], b"replica 1: ask");
        assert!(matches!(a.net.request(1, vote("ask"), SECOND, 13).await, Err(NetError::TooLong { actual: 14, limit: 13 })));
        let short = Duration::from_millis(10);
        assert!(matches!(a.net.request(1, vote("hold"), short, 64).await, Err(NetError::Timeout { .. })));
        assert!(matches!(a.net.request(2, vote("ask"), SECOND, 64).await, Err(NetError::NotConnected { index: 2 })));
        assert_eq!(a.net.connected(), vec![1]);
    });
}

#[test]
fn an_unknown_key_is_refused_by_tls() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let stranger = SigningKey::from_seed(&[50; 32]);
        let federation = federation("test");
        for speaks in [Speaks::Replica, Speaks::Client] {
            let reason = match dial(&node, &stranger, &federation, speaks).await {
                Ok(by_hand) => by_hand.connection.closed().await,
                Err(NetError::Connection(reason)) => reason,
                Err(other) => panic!("{other}"),
            };
            assert!(refused_by_tls(&reason, 49), "access_denied, not {reason:?}");
        }
        node.counts(|c| c.refused_handshakes == 2).await;
        assert!(client(&node, &stranger).await.is_err());
    });
}

#[test]
fn a_dialler_refuses_every_key_but_the_one_it_dials() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let address = node.net.local_addr().to_string();
        let result = ClientConnection::connect(&federation("test"), &author(), 1, &address, &NetOptions::default()).await;
        assert!(matches!(result, Err(NetError::Connection(ConnectionError::TransportError(_)))), "{result:?}");
    });
}

#[test]
fn a_member_cannot_claim_another_members_place() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let refused = dial_as(&node, 2, 3).await.err();
        assert!(matches!(refused, Some(NetError::Refused(Refusal::Identity))), "{refused:?}");
        node.counts(|c| c.refused_hellos == 1).await;
        assert!(dial_as(&node, 2, 2).await.is_ok());
        // Our own key, from outside, is nobody.
        assert!(dial_as(&node, 0, 0).await.is_err());
    });
}

#[test]
fn another_federation_is_refused_by_tls() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let other = federation("other");
        for (key, speaks) in [(secret(1).transport_key(), Speaks::Replica), (author(), Speaks::Client)] {
            let Err(NetError::Connection(reason)) = dial(&node, &key, &other, speaks).await else { panic!("the handshake must fail") };
            assert!(refused_by_tls(&reason, 120), "no_application_protocol, not {reason:?}");
        }
        node.counts(|c| c.refused_handshakes == 2).await;
    });
}

#[test]
fn a_hello_of_another_version_federation_or_epoch_is_refused() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let federation = federation("test");
        let good = Hello::new(&federation, Claim::Client);
        let changes: [fn(&mut Hello); 4] = [
            |hello| hello.version += 1,
            |hello| hello.federation_id = super::tests::federation("other").id(),
            |hello| hello.epoch += 1,
            |hello| hello.claim = Claim::Replica { index: 1, peer: PeerId("replica-1".into()) },
        ];
        for change in changes {
            let mut hello = good.clone();
            change(&mut hello);
            let by_hand = dial(&node, &author(), &federation, Speaks::Client).await.unwrap();
            let refused = hello.say(&by_hand.connection, &node.net.shared.peer, &NetOptions::default()).await;
            assert!(matches!(refused, Err(NetError::Refused(_))), "{refused:?}");
            assert_eq!(closed_with(&by_hand.connection.closed().await), Some(code::REFUSED));
        }
    });
}

#[test]
fn a_key_speaks_its_own_protocol_only() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let federation = federation("test");
        for (key, speaks) in [(author(), Speaks::Replica), (reader(), Speaks::Replica), (secret(1).transport_key(), Speaks::Client)] {
            let reason = match dial(&node, &key, &federation, speaks).await {
                Ok(by_hand) => by_hand.connection.closed().await,
                Err(NetError::Connection(reason)) => reason,
                Err(other) => panic!("{other}"),
            };
            assert_eq!(closed_with(&reason), Some(code::WRONG_PROTOCOL), "{reason:?}");
        }
        node.counts(|c| c.refused_handshakes == 3).await;
    });
}

#[test]
fn a_client_asks_but_opens_no_replica_stream() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let reading = client(&node, &reader()).await.unwrap();
        assert_eq!(&reading.request(vote("x"), SECOND, 64).await.unwrap()[..], b"client false: x");
        let writing = Arc::new(client(&node, &author()).await.unwrap());
        tokio::select! {
            biased;
            opened = writing.connection.open_uni() => panic!("a client got a stream for messages: {opened:?}"),
            answer = writing.request(vote("x"), SECOND, 64) => assert_eq!(&answer.unwrap()[..], b"client true: x"),
        }
        // More at once than the replica lets be under way.
        let mut many = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let writing = writing.clone();
            many.spawn(async move { writing.request(vote("y"), SECOND, 64).await });
        }
        for answer in many.join_all().await {
            assert_eq!(&answer.unwrap()[..], b"client true: y");
        }
        writing.close();
        assert!(writing.is_closed());
        assert!(writing.request(vote("z"), SECOND, 64).await.is_err());
    });
}

#[test]
fn an_oversized_length_costs_the_connection() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        for (byte, length) in [(1_u8, (4_u32 << 10) + 1), (2, (16 << 20) + 1), (3, u32::MAX)] {
            let member = dial_as(&node, 2, 2).await.unwrap();
            let mut stream = member.connection.open_uni().await.unwrap();
            stream.write_all(&[&[byte][..], &length.to_le_bytes()].concat()).await.unwrap();
            assert_eq!(closed_with(&member.connection.closed().await), Some(code::OVERSIZED));
        }
        let asking = client(&node, &author()).await.unwrap();
        let (mut send, _recv) = asking.connection.open_bi().await.unwrap();
        send.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        assert_eq!(closed_with(&asking.connection.closed().await), Some(code::OVERSIZED));
        assert_eq!(node.net.counters().oversized_in, 4);
        assert_eq!(node.net.counters().frames_in, 0);
    });
}

#[test]
fn a_stream_that_breaks_the_protocol_costs_the_connection() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions::default()).await;
        let unknown_class = dial_as(&node, 2, 2).await.unwrap();
        let mut stream = unknown_class.connection.open_uni().await.unwrap();
        stream.write_all(&[9]).await.unwrap();
        assert_eq!(closed_with(&unknown_class.connection.closed().await), Some(code::VIOLATION));
        let twice = dial_as(&node, 2, 2).await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let mut stream = twice.connection.open_uni().await.unwrap();
            stream.write_all(&[1]).await.unwrap();
            streams.push(stream);
        }
        assert_eq!(closed_with(&twice.connection.closed().await), Some(code::VIOLATION));
        assert_eq!(node.net.counters().violations, 2);
    });
}

#[test]
fn half_a_frame_is_given_up() {
    run(async {
        let all = addresses();
        let options = NetOptions { frame_timeout_ms: 100, ..NetOptions::default() };
        let node = start(0, &all, &options).await;
        let asking = client(&node, &author()).await.unwrap();
        let (mut send, _recv) = asking.connection.open_bi().await.unwrap();
        send.write_all(&[100, 0, 0, 0, 1, 2, 3]).await.unwrap();
        send.stopped().await.unwrap();
        node.counts(|c| c.slow_in == 1).await;
        assert!(asking.request(vote("x"), SECOND, 64).await.is_ok(), "only the stream is lost");
        let member = dial_as(&node, 2, 2).await.unwrap();
        let mut stream = member.connection.open_uni().await.unwrap();
        stream.write_all(&[1, 100, 0, 0, 0, 1, 2, 3]).await.unwrap();
        assert_eq!(closed_with(&member.connection.closed().await), Some(code::SLOW));
    });
}

#[test]
fn a_flooding_peer_uses_up_its_own_budget_only() {
    run(async {
        let all = addresses();
        let mut options = NetOptions::default();
        options.inbound_bytes.votes = 64 << 10;
        let mut node = start(0, &all, &options).await;
        let other = start(1, &all, &options).await;
        other.reaches(0).await;
        let flooder = dial_as(&node, 2, 2).await.unwrap();
        let mut votes = flooder.connection.open_uni().await.unwrap();
        let flood = tokio::spawn(async move {
            votes.write_all(&[1]).await.unwrap();
            let frame = [&4096_u32.to_le_bytes()[..], &[0; 4096]].concat();
            while votes.write_all(&frame).await.is_ok() {}
        });
        let fits = (64_u64 << 10) / (4096 + FRAME_OVERHEAD_BYTES as u64);
        node.counts(|c| c.frames_in == fits).await;
        other.net.send(0, MessageClass::Votes, vote("from the other"));
        let mut control = flooder.connection.open_uni().await.unwrap();
        control.write_all(&[2, 1, 0, 0, 0, 7]).await.unwrap();
        let mut hoard = node.hoard(|inbound| inbound.from == 1).await;
        if !hoard.iter().any(|inbound| inbound.class == MessageClass::Control) {
            hoard.extend(node.hoard(|inbound| inbound.class == MessageClass::Control).await);
        }
        let flooded = hoard.iter().filter(|inbound| inbound.from == 2 && inbound.class == MessageClass::Votes).count() as u64;
        assert_eq!(flooded, fits, "no more was read of the flood than its budget allows");
        // Budget that is given back is used again.
        drop(hoard);
        node.counts(|c| c.frames_in > 2 * fits).await;
        flood.abort();
    });
}

/// A sender whose receiver takes nothing, with the least budgets that are allowed.
fn tight() -> NetOptions {
    let mut options = NetOptions::default();
    options.inbound_bytes.bulk = (64 << 20) + FRAME_OVERHEAD_BYTES as u64;
    options.queue_bytes.bulk = options.inbound_bytes.bulk;
    options
}

#[test]
fn votes_overtake_a_backlog_of_bodies() {
    run(async {
        let (a, mut b) = pair(&tight()).await;
        let body = Bytes::from(vec![5; 12 * MIB]);
        for _ in 0..5 {
            a.net.send(1, MessageClass::Bulk, body.clone());
        }
        // The budget holds five bodies, so a sixth must wait.
        b.counts(|c| c.frames_in == 5).await;
        a.net.send(1, MessageClass::Bulk, body.clone());
        a.net.send(1, MessageClass::Votes, vote("vote"));
        a.net.send(1, MessageClass::Control, vote("control"));
        let mut hoard = b.hoard(|inbound| inbound.class != MessageClass::Bulk).await;
        hoard.extend(b.hoard(|inbound| inbound.class != MessageClass::Bulk).await);
        assert_eq!(hoard.iter().filter(|inbound| inbound.class == MessageClass::Bulk).count(), 5);
        drop(hoard);
        assert_eq!(b.inbound.recv().await.unwrap().class, MessageClass::Bulk, "the sixth comes once there is room");
    });
}

#[test]
fn what_a_full_queue_drops_is_counted() {
    run(async {
        let (a, _b) = pair(&tight()).await;
        let body = Bytes::from(vec![5; 16 * MIB]);
        for _ in 0..20 {
            a.net.broadcast(MessageClass::Bulk, body.clone());
        }
        // Three are with the receiver, one under way, one batch being written, three queued.
        let counters = a.net.counters();
        assert!(counters.dropped_full.bulk >= 10, "{counters:?}");
        assert_eq!(counters.dropped_down, PerClass { votes: 0, control: 0, bulk: 40 }, "replicas 2 and 3 are not there");
        assert_eq!((counters.dropped_full.votes, counters.dropped_full.control), (0, 0));
        a.net.send(1, MessageClass::Votes, vote("vote"));
        assert_eq!(a.net.counters().dropped_full.votes, 0, "a class has its own queue");
    });
}

#[test]
fn a_peer_that_stops_in_order_and_returns_is_reached_again() {
    run(async {
        let all = addresses();
        let options = NetOptions::default();
        let (a, b) = (start(0, &all, &options).await, start(1, &all, &options).await);
        a.reaches(1).await;
        b.net.shutdown().await;
        drop(b);
        a.loses(1).await;
        let mut b = start(1, &all, &options).await;
        a.reaches(1).await;
        a.net.send(1, MessageClass::Votes, vote("again"));
        assert_eq!(&b.inbound.recv().await.unwrap().frame[..], b"again");
        assert!(a.net.counters().dialled >= 2);
    });
}

/// The idle timeout lies far beyond the test's end: only the stateless reset of the restarted peer can tell.
#[test]
fn a_peer_that_was_killed_and_returns_is_reached_again_at_once() {
    let all = addresses();
    let options = NetOptions { idle_timeout_ms: 600_000, keep_alive_ms: 100, ..NetOptions::default() };
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let killed = runtime();
    let b = killed.block_on(start(1, &all, &options));
    run(async {
        let a = start(0, &all, &options).await;
        a.reaches(1).await;
        // The runtime ends before anything could say goodbye.
        tokio::task::spawn_blocking(move || killed.shutdown_timeout(GUARD)).await.unwrap();
        assert_eq!(a.net.connected(), vec![1], "nobody has told yet");
        drop(b);
        let mut b = start(1, &all, &options).await;
        a.net.watch_connected().wait_for(|_| a.net.counters().dialled == 2).await.unwrap();
        a.net.send(1, MessageClass::Votes, vote("again"));
        assert_eq!(&b.inbound.recv().await.unwrap().frame[..], b"again");
    });
}

#[test]
fn a_newer_connection_of_a_replica_replaces_the_older() {
    run(async {
        let all = addresses();
        let mut node = start(0, &all, &NetOptions::default()).await;
        let old = dial_as(&node, 2, 2).await.unwrap();
        let new = dial_as(&node, 2, 2).await.unwrap();
        assert_eq!(closed_with(&old.connection.closed().await), Some(code::REPLACED));
        let mut stream = new.connection.open_uni().await.unwrap();
        stream.write_all(&[1, 1, 0, 0, 0, 7]).await.unwrap();
        assert_eq!(&node.inbound.recv().await.unwrap().frame[..], &[7]);
        assert_eq!(node.net.counters().replaced, 1);
    });
}

#[test]
fn clients_connections_are_limited_by_key_and_in_all() {
    run(async {
        let all = addresses();
        let options = NetOptions { max_connections_per_client: 2, max_client_connections: 3, ..NetOptions::default() };
        let node = start(0, &all, &options).await;
        let first = client(&node, &author()).await.unwrap();
        let _second = client(&node, &author()).await.unwrap();
        let refused = client(&node, &author()).await;
        assert!(matches!(refused, Err(NetError::Refused(Refusal::Busy { limit: 2 }))), "{refused:?}");
        let _third = client(&node, &reader()).await.unwrap();
        let refused = client(&node, &reader()).await;
        assert!(matches!(refused, Err(NetError::Refused(Refusal::Busy { limit: 3 }))), "{refused:?}");
        first.close();
        while let Err(error) = client(&node, &author()).await {
            assert!(matches!(error, NetError::Refused(Refusal::Busy { .. })), "{error}");
        }
    });
}

#[test]
fn a_keys_requests_are_limited_over_all_its_connections_and_end_with_their_asker() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions { max_requests_per_client: 1, ..NetOptions::default() }).await;
        let (first, second) = (client(&node, &author()).await.unwrap(), client(&node, &author()).await.unwrap());
        let other = client(&node, &reader()).await.unwrap();
        let mut holding = Box::pin(first.request(vote("hold"), SECOND, 64));
        tokio::select! {
            answer = &mut holding => panic!("held for ever: {answer:?}"),
            _ = node.held.acquire() => {}
        }
        let mut waiting = Box::pin(second.request(vote("x"), SECOND, 64));
        tokio::select! {
            biased;
            answer = &mut waiting => panic!("its key's only place is taken: {answer:?}"),
            answer = other.request(vote("x"), SECOND, 64) => assert_eq!(&answer.unwrap()[..], b"client false: x"),
        }
        drop(holding);
        // The first asker has given up, which frees the place.
        assert_eq!(&waiting.await.unwrap()[..], b"client true: x");
    });
}

#[test]
fn garbage_datagrams_and_demanded_retries_are_harmless() {
    run(async {
        let all = addresses();
        let node = start(0, &all, &NetOptions { retry_above: 0, ..NetOptions::default() }).await;
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut state = 0x9e37_79b9_u32;
        for length in (0..1_400).step_by(3) {
            let mut datagram: Vec<u8> = Vec::with_capacity(length);
            for _ in 0..length {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                datagram.push((state >> 24) as u8);
            }
            // Half of them look like the first packet of a QUIC 1 connection.
            if length % 2 == 0 && length > 5 {
                datagram[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
            }
            socket.send_to(&datagram, node.net.local_addr()).await.unwrap();
        }
        let asking = client(&node, &author()).await.unwrap();
        assert_eq!(&asking.request(vote("x"), SECOND, 64).await.unwrap()[..], b"client true: x");
        assert!(node.net.counters().retries_demanded >= 1);
        assert_eq!(node.net.counters().accepted, 1);
    });
}

#[test]
fn a_start_with_a_wrong_key_or_address_list_is_refused() {
    run(async {
        let all = addresses();
        let attempt = |index, key: SigningKey, names: usize, options: NetOptions| {
            let (sender, _) = mpsc::unbounded_channel();
            let identity = NetIdentity { index, transport_key: key };
            Net::start(federation("test"), identity, all[0], vec![String::new(); names], options, sender, Arc::new(Echo(Arc::new(Semaphore::new(0)))))
        };
        let key = || secret(0).transport_key();
        let default = NetOptions::default;
        assert!(matches!(attempt(1, key(), 4, default()).await.err(), Some(NetError::WrongTransportKey { index: 1, .. })));
        assert!(matches!(attempt(4, key(), 4, default()).await.err(), Some(NetError::UnknownReplica { index: 4, members: 4 })));
        assert!(matches!(attempt(0, key(), 3, default()).await.err(), Some(NetError::Addresses { expected: 4, actual: 3 })));
        let narrow = NetOptions { keep_alive_ms: 9_000, ..default() };
        assert!(matches!(attempt(0, key(), 4, narrow).await.err(), Some(NetError::Option { key: "keep_alive_ms", high: 5_000, .. })));
    });
}

#[test]
fn options_refuse_unknown_keys_and_keep_defaults() {
    let parsed: NetOptions = toml::from_str("idle_timeout_ms = 20000").unwrap();
    assert_eq!(parsed, NetOptions { idle_timeout_ms: 20_000, ..NetOptions::default() });
    assert!(parsed.validate().is_ok());
    assert!(toml::from_str::<NetOptions>("idle_timeout = 20000").is_err());
}
