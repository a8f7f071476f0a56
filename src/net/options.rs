//! Every limit of the transport, with its unit and default.

use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};

use super::{NetError, PerClass};
use crate::types::{MAX_FRAME_BYTES, MessageClass};

/// What a frame is charged beyond its length, in bytes, in every queue and budget: a bound on bytes so bounds the count too.
pub const FRAME_OVERHEAD_BYTES: usize = 256;
/// What a connection may send before its hello was accepted, in bytes.
const UNPROVEN_WINDOW_BYTES: u32 = 64 << 10;

/// The transport's limits. Times are milliseconds, sizes bytes. Local to one replica or client: peers need not agree on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetOptions {
    /// How long TLS handshake and hello may take together, ms.
    pub handshake_timeout_ms: u64,
    /// A connection that is silent so long is dead, ms.
    pub idle_timeout_ms: u64,
    /// How often an idle connection is kept alive, ms.
    pub keep_alive_ms: u64,
    /// The round trip assumed before one was measured, ms; three times this passes before a lost first packet is sent again.
    pub initial_rtt_ms: u64,
    /// The first wait before dialling again, ms; it doubles with every failure.
    pub backoff_min_ms: u64,
    /// The longest wait before dialling again, ms.
    pub backoff_max_ms: u64,
    /// How many handshakes may be under way at a time; more are refused.
    pub max_pending_handshakes: u64,
    /// How many handshakes may be under way with one proven address; more are refused.
    pub max_pending_per_address: u64,
    /// From so many handshakes under way, an address must prove that it can receive before it costs a handshake (QUIC retry).
    pub retry_above: u64,
    /// The unread bytes that one stream may hold.
    pub stream_window_bytes: u64,
    /// The unread bytes that all streams of a client's connection may hold together.
    pub client_window_bytes: u64,
    /// What may wait to be sent, per peer and class, in bytes.
    pub queue_bytes: PerClass<u64>,
    /// What may be received and not yet dealt with, per peer and class, in bytes.
    pub inbound_bytes: PerClass<u64>,
    /// How long a frame may take, once begun, ms, beside what `min_bytes_per_second` allows for its length.
    pub frame_timeout_ms: u64,
    /// The slowest pace at which a long frame may come or be taken, bytes per second.
    pub min_bytes_per_second: u64,
    /// The longest request, bytes.
    pub max_request_bytes: u64,
    /// How many requests of one replica may be under way; more wait.
    pub max_requests_per_replica: u64,
    /// How many requests of one client's key may be under way, over all its connections; more wait.
    pub max_requests_per_client: u64,
    /// The bytes of requests that one key may have under way, over all its connections.
    pub request_bytes_per_key: u64,
    /// The bytes of requests that all clients together may have under way.
    pub request_bytes_of_clients: u64,
    /// How many connections one client's key may hold.
    pub max_connections_per_client: u64,
    /// How many connections all clients together may hold.
    pub max_client_connections: u64,
}

impl Default for NetOptions {
    fn default() -> Self {
        let class_bytes = PerClass { votes: 4 << 20, control: 32 << 20, bulk: 128 << 20 };
        Self {
            handshake_timeout_ms: 3_000,
            idle_timeout_ms: 10_000,
            keep_alive_ms: 3_000,
            initial_rtt_ms: 100,
            backoff_min_ms: 50,
            backoff_max_ms: 2_000,
            max_pending_handshakes: 256,
            max_pending_per_address: 32,
            retry_above: 64,
            stream_window_bytes: 4 << 20,
            client_window_bytes: 8 << 20,
            queue_bytes: class_bytes.clone(),
            inbound_bytes: class_bytes,
            frame_timeout_ms: 10_000,
            min_bytes_per_second: 128 << 10,
            max_request_bytes: MAX_FRAME_BYTES as u64,
            max_requests_per_replica: 16,
            max_requests_per_client: 64,
            request_bytes_per_key: 128 << 20,
            request_bytes_of_clients: 512 << 20,
            max_connections_per_client: 8,
            max_client_connections: 256,
        }
    }
}

impl NetOptions {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`NetError::Option`] names the first key out of bounds.
    pub fn validate(&self) -> Result<(), NetError> {
        let within = |key: &'static str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) { Ok(()) } else { Err(NetError::Option { key, value, low, high }) }
        };
        let gib = 1 << 30;
        let charged = |bytes: usize| bytes.saturating_add(FRAME_OVERHEAD_BYTES) as u64;
        within("handshake_timeout_ms", self.handshake_timeout_ms, 100, 60_000)?;
        within("idle_timeout_ms", self.idle_timeout_ms, 1_000, 600_000)?;
        within("keep_alive_ms", self.keep_alive_ms, 100, self.idle_timeout_ms / 2)?;
        within("initial_rtt_ms", self.initial_rtt_ms, 1, 1_000)?;
        within("backoff_min_ms", self.backoff_min_ms, 1, 60_000)?;
        within("backoff_max_ms", self.backoff_max_ms, self.backoff_min_ms, 600_000)?;
        within("max_pending_handshakes", self.max_pending_handshakes, 1, 65_536)?;
        within("max_pending_per_address", self.max_pending_per_address, 1, self.max_pending_handshakes)?;
        within("retry_above", self.retry_above, 0, self.max_pending_handshakes)?;
        within("stream_window_bytes", self.stream_window_bytes, 16 << 10, 64 << 20)?;
        within("client_window_bytes", self.client_window_bytes, u64::from(UNPROVEN_WINDOW_BYTES), gib)?;
        for class in MessageClass::ALL {
            let least = charged(class.max_frame_bytes());
            within(queue_key(class), *self.queue_bytes.get(class), least, gib)?;
            within(inbound_key(class), *self.inbound_bytes.get(class), least, gib)?;
        }
        within("frame_timeout_ms", self.frame_timeout_ms, 100, 600_000)?;
        within("min_bytes_per_second", self.min_bytes_per_second, 1 << 10, gib)?;
        within("max_request_bytes", self.max_request_bytes, 1 << 10, MAX_FRAME_BYTES as u64)?;
        within("max_requests_per_replica", self.max_requests_per_replica, 1, 256)?;
        within("max_requests_per_client", self.max_requests_per_client, 1, 4_096)?;
        let request = self.max_request_bytes.saturating_add(FRAME_OVERHEAD_BYTES as u64);
        within("request_bytes_per_key", self.request_bytes_per_key, request, gib)?;
        within("request_bytes_of_clients", self.request_bytes_of_clients, request, 64 * gib)?;
        within("max_client_connections", self.max_client_connections, 1, 65_536)?;
        within("max_connections_per_client", self.max_connections_per_client, 1, self.max_client_connections)
    }

    pub(super) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    /// How long a frame of this length may take from its first byte to its last.
    pub(super) fn frame_timeout(&self, bytes: usize) -> Duration {
        let pace = (bytes as u64).saturating_mul(1_000) / self.min_bytes_per_second.max(1);
        Duration::from_millis(self.frame_timeout_ms.saturating_add(pace))
    }

    /// The window of a replica's connection: what all its streams may hold unread together, so that no stream can take another's share.
    pub(super) fn replica_window(&self) -> VarInt {
        let streams = self.max_requests_per_replica.saturating_add(MessageClass::ALL.len() as u64);
        var_int(self.stream_window_bytes.saturating_mul(streams))
    }

    fn transport(&self) -> Result<TransportConfig, NetError> {
        let idle = IdleTimeout::try_from(Duration::from_millis(self.idle_timeout_ms)).map_err(|_| NetError::Option {
            key: "idle_timeout_ms",
            value: self.idle_timeout_ms,
            low: 1_000,
            high: 600_000,
        })?;
        let mut config = TransportConfig::default();
        config
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(Duration::from_millis(self.keep_alive_ms)))
            .initial_rtt(Duration::from_millis(self.initial_rtt_ms))
            .stream_receive_window(var_int(self.stream_window_bytes))
            .receive_window(self.replica_window())
            .send_window(self.replica_window().into_inner())
            .datagram_receive_buffer_size(None);
        Ok(config)
    }

    /// For a dialler: the other side may open no stream.
    pub(super) fn dialling_transport(&self) -> Result<TransportConfig, NetError> {
        self.transport()
    }

    /// For a listener: until its hello was accepted, a connection may open one stream and send little.
    pub(super) fn listening_transport(&self) -> Result<TransportConfig, NetError> {
        let mut config = self.transport()?;
        config.max_concurrent_bidi_streams(VarInt::from_u32(1)).receive_window(VarInt::from_u32(UNPROVEN_WINDOW_BYTES));
        Ok(config)
    }
}

fn queue_key(class: MessageClass) -> &'static str {
    match class {
        MessageClass::Votes => "queue_bytes.votes",
        MessageClass::Control => "queue_bytes.control",
        MessageClass::Bulk => "queue_bytes.bulk",
    }
}

fn inbound_key(class: MessageClass) -> &'static str {
    match class {
        MessageClass::Votes => "inbound_bytes.votes",
        MessageClass::Control => "inbound_bytes.control",
        MessageClass::Bulk => "inbound_bytes.bulk",
    }
}

pub(super) fn var_int(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

/// A limit as a count in memory; where it does not fit, the largest count.
pub(super) fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
