//! The transport on loopback: both ends in this process, with the keys, handshakes and frames of a federation.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::bench::BenchError;
use crate::bench::latency::{Latencies, LatencyMs};
use crate::bench::usage::Usage;
use crate::crypto::{ReplicaSecret, SigningKey};
use crate::net::{Caller, ClientConnection, Net, NetIdentity, NetOptions, RequestHandler};
use crate::types::{Author, Federation, Genesis, Member, Parameters, PeerId};

/// A small question.
const PING: usize = 64;
/// A frame as long as a proposal under load.
const FRAME: usize = 256 << 10;
/// Frames on their way at a time.
const STREAMS: usize = 4;
/// No limit of the machine is found by this; it only turns a hang into an error.
const PATIENCE: Duration = Duration::from_secs(20);

/// QUIC on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NetworkLimits {
    /// From a small request to its answer.
    pub round_trip_ms: LatencyMs,
    /// Frames of 256 KiB one way, four at a time, 10^6 bytes a second.
    pub stream_mb_per_second: f64,
    /// CPU time that it takes to send and receive a megabyte (10^6 bytes), both ends together, us.
    pub cpu_us_per_mb: f64,
}

/// Answers every request with nothing.
struct Swallow;

impl RequestHandler for Swallow {
    fn handle(&self, _: Caller, _: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        Box::pin(async { Bytes::new() })
    }
}

pub(super) async fn measure(slice: Duration) -> Result<NetworkLimits, BenchError> {
    let secrets = (0..4).map(|_| ReplicaSecret::generate()).collect::<Result<Vec<_>, _>>()?;
    let author = SigningKey::generate()?;
    let federation = Arc::new(federation(&secrets, &author)?);
    let Some(first) = secrets.first() else { return Err(BenchError::Thread("the network")) };
    let identity = NetIdentity { index: 0, transport_key: first.transport_key() };
    // Port 9 is "discard": nobody answers there, and the other replicas are not wanted.
    let addresses = vec!["127.0.0.1:9".to_owned(); federation.size()];
    let (inbound, _nothing) = tokio::sync::mpsc::unbounded_channel();
    let listen = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let net = Net::start(federation.clone(), identity, listen, addresses, NetOptions::default(), inbound, Arc::new(Swallow)).await?;
    let connected = ClientConnection::connect(&federation, &author, 0, &net.local_addr().to_string(), &NetOptions::default()).await;
    let measured = match connected {
        Ok(connection) => talk(Arc::new(connection), slice).await,
        Err(error) => Err(error.into()),
    };
    net.shutdown().await;
    measured
}

fn federation(secrets: &[ReplicaSecret], author: &SigningKey) -> Result<Federation, BenchError> {
    let member = |(index, secret): (usize, &ReplicaSecret)| Member {
        peer: PeerId(crate::process::name(index)),
        consensus_key: secret.consensus_key().public(),
        transport_key: secret.transport_key().public(),
        cosignature_key: secret.cosignature_key().public(),
    };
    Ok(Federation::new(Genesis {
        name: "limits".into(),
        members: secrets.iter().enumerate().map(member).collect(),
        authors: vec![Author { name: "author".into(), key: author.public() }],
        readers: vec![],
        parameters: Parameters::default(),
    })?)
}

async fn talk(connection: Arc<ClientConnection>, slice: Duration) -> Result<NetworkLimits, BenchError> {
    let mut latencies = Latencies::new().ok_or(BenchError::Thread("the network"))?;
    let (ping, until) = (Bytes::from(vec![7; PING]), Instant::now() + slice);
    while latencies.count() == 0 || Instant::now() < until {
        let began = Instant::now();
        connection.request(ping.clone(), PATIENCE, PING).await?;
        latencies.record(began.elapsed());
    }
    let round_trip_ms = latencies.summary().ok_or(BenchError::Thread("the network"))?;
    let cpu_before = Usage::of(std::process::id())?.cpu_seconds;
    let (began, frame) = (Instant::now(), Bytes::from(vec![7; FRAME]));
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (connection, frame, until) = (connection.clone(), frame.clone(), began + slice);
        streams.spawn(async move {
            let mut sent = 0u64;
            while sent == 0 || Instant::now() < until {
                connection.request(frame.clone(), PATIENCE, PING).await?;
                sent += FRAME as u64;
            }
            Ok::<_, BenchError>(sent)
        });
    }
    let mut bytes = 0;
    while let Some(ended) = streams.join_next().await {
        bytes += ended.map_err(|_| BenchError::Thread("the network"))??;
    }
    let (seconds, megabytes) = (began.elapsed().as_secs_f64(), bytes as f64 / 1e6);
    let cpu_seconds = Usage::of(std::process::id())?.cpu_seconds - cpu_before;
    Ok(NetworkLimits { round_trip_ms, stream_mb_per_second: megabytes / seconds, cpu_us_per_mb: cpu_seconds * 1e6 / megabytes })
}
