//! Metrics for Prometheus: what HTTP costs, and where the replica stands. Every name has its unit and its help.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::response::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, prometheus_text, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::auth::MayRead;
use super::extract::accepted;
use super::fates::State;
use super::openapi::Common;
use super::problem::{Kind, Problem};
use super::respond::bytes;
use super::state::Api;
use crate::node::{Handle, Observation};
use crate::types::Role;

/// Bounds of the latency histogram: from a cached answer to a client that waits for a view change.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

/// What the HTTP interface counts itself, and the registry of everything.
pub(super) struct Metrics {
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
    connections: Gauge,
    refused: Counter,
    streams: Gauge,
    updates: Family<Outcome, Counter>,
    registry: Registry,
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    pub(super) fn new(handle: &Handle) -> Self {
        let mut registry = Registry::with_prefix("exofed");
        let status = handle.status();
        let about = vec![("peer", status.peer.to_string()), ("version", status.version), ("federation_id", status.federation_id.to_string())];
        registry.register("replica", "Which replica this is", Info::new(about));
        registry.register_collector(Box::new(Replica(handle.clone())));
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            connections: Gauge::default(),
            refused: Counter::default(),
            streams: Gauge::default(),
            updates: Family::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "HTTP requests answered, by method, route and status code", metrics.requests.clone());
        let help = "How long HTTP requests took until their answer began, by method and route";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, metrics.seconds.clone());
        registry.register("http_connections", "HTTP connections that are open", metrics.connections.clone());
        registry.register(
            "http_connections_refused",
            "HTTP connections closed at once, because as many as allowed were open",
            metrics.refused.clone(),
        );
        registry.register("http_streams", "Streams of the log that are open", metrics.streams.clone());
        registry.register("http_updates", "Updates submitted over HTTP whose fate became known, by fate", metrics.updates.clone());
        Self { registry, ..metrics }
    }

    /// Counts an answered request.
    pub(super) fn answered(&self, method: &axum::http::Method, route: &str, code: u16, took: Duration) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            // Any text may stand there: it must not become a label.
            _ => "other",
        };
        self.requests.get_or_create(&Answered { method, route: route.to_owned(), code }).inc();
        self.seconds.get_or_create(&Route { method, route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// Counts an update whose fate became known.
    pub(super) fn settled(&self, state: State) {
        let status = match state {
            State::Committed => "committed",
            State::Pending => "pending",
            State::Unknown => "unknown",
            State::Conflict => "conflict",
            State::Expired => "expired",
            State::Rejected => "rejected",
            State::Busy => "busy",
        };
        self.updates.get_or_create(&Outcome { status }).inc();
    }

    /// Counts a connection turned away.
    pub(super) fn connection_refused(&self) {
        self.refused.inc();
    }

    /// Counts a connection until the guard is dropped.
    pub(super) fn connection_opened(&self) -> GaugeGuard {
        GaugeGuard::of(&self.connections)
    }

    /// Counts a stream until the guard is dropped.
    pub(super) fn stream_opened(&self) -> StreamGuard {
        GaugeGuard::of(&self.streams)
    }
}

/// One of what a gauge counts.
pub(super) struct GaugeGuard(Gauge);

/// An open stream.
pub(super) type StreamGuard = GaugeGuard;

impl GaugeGuard {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Where the replica stands, looked up at each scrape.
struct Replica(Handle);

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replica")
    }
}

impl Collector for Replica {
    fn encode(&self, mut out: DescriptorEncoder) -> fmt::Result {
        let seen = self.0.observe();
        gauges(&mut out, &seen)?;
        counters(&mut out, &seen)?;
        peers(&mut out, &seen)
    }
}

fn gauge(out: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(out.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(out: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(out.encode_descriptor(name, help, unit, counter.metric_type())?)
}

fn gauges(out: &mut DescriptorEncoder, seen: &Observation) -> fmt::Result {
    let s = &seen.status;
    gauge(out, "view", "The view that the replica is in", s.view)?;
    gauge(out, "leader", "1 if the replica leads its view", u64::from(s.role == Role::Leader))?;
    gauge(out, "changing", "1 if the replica is between two views", u64::from(s.role == Role::Changing))?;
    gauge(out, "suspect", "1 if the replica must not vote", u64::from(s.role == Role::Suspect))?;
    gauge(out, "commit_slot", "The last committed slot", s.slot)?;
    gauge(out, "commit_sequence", "The last committed sequence number", s.sequence)?;
    gauge(out, "log_sequence", "The last sequence number that the log holds", seen.log_sequence)?;
    gauge(out, "log_backlog_batches", "Committed batches on their way to the log", seen.log_backlog)?;
    gauge(out, "stable_slot", "The slot of the stable checkpoint", s.stable_slot)?;
    gauge(out, "lag_slots", "How many slots the replica is behind what f + 1 others say they have committed", seen.lag_slots)?;
    gauge(out, "pending_submissions", "Submissions that the replica waits for", s.pending)?;
    gauge(out, "connected_peers", "Members that messages of the replica reach", u64::from(s.connected))?;
    gauge(out, "recovery_records", "Journal records that the last start replayed", s.replayed)?;
    let took = ConstGauge::new(Duration::from_millis(s.recovery_millis).as_secs_f64());
    took.encode(out.encode_descriptor("recovery", "How long the last start's recovery took", Some(&Unit::Seconds), took.metric_type())?)
}

fn counters(out: &mut DescriptorEncoder, seen: &Observation) -> fmt::Result {
    let (s, n) = (&seen.status, &seen.net);
    counter(out, "view_changes", "View changes since the start", None, s.view_changes)?;
    counter(out, "evidence_found", "Contradictions of members seen since the start", None, s.evidence)?;
    counter(out, "messages_refused", "Messages of members refused since the start", None, s.refused)?;
    let bytes = Some(&Unit::Bytes);
    counter(out, "net_received", "Payload bytes of messages received from members", bytes, n.bytes_in)?;
    counter(out, "net_sent", "Payload bytes of messages handed to QUIC for members", bytes, n.bytes_out)?;
    let plain: [(&str, &str, u64); 14] = [
        ("net_messages_received", "Messages received from members", n.frames_in),
        ("net_messages_sent", "Messages handed to QUIC for members", n.frames_out),
        ("net_requests_served", "Requests of clients and members answered over QUIC", n.requests_served),
        ("net_oversized_sent", "Own messages longer than their class allows, never sent", n.oversized_out),
        ("net_oversized_received", "Frames whose claimed length was over the limit", n.oversized_in),
        ("net_slow_frames", "Frames that did not come in time", n.slow_in),
        ("net_violations", "Streams that broke the protocol", n.violations),
        ("net_handshakes_refused", "Connections that failed in TLS or spoke a protocol their key may not", n.refused_handshakes),
        ("net_hellos_refused", "Hellos answered with a refusal", n.refused_hellos),
        ("net_busy_refused", "Connection attempts turned away, too many handshakes being under way", n.refused_busy),
        ("net_retries_demanded", "Connection attempts asked to prove their address first", n.retries_demanded),
        ("net_accepted", "QUIC connections accepted", n.accepted),
        ("net_dialled", "QUIC connections dialled that came up", n.dialled),
        ("net_dials_failed", "QUIC dials that failed", n.dials_failed),
    ];
    for (name, help, value) in plain {
        counter(out, name, help, None, value)?;
    }
    let (full, down) = (&n.dropped_full, &n.dropped_down);
    let full = [("votes", full.votes), ("control", full.control), ("bulk", full.bulk)];
    dropped(out, "net_dropped_full", "Messages dropped because a member's queue was full, by class", full)?;
    let down = [("votes", down.votes), ("control", down.control), ("bulk", down.bulk)];
    dropped(out, "net_dropped_down", "Messages dropped because a member was not connected, by class", down)
}

fn dropped(out: &mut DescriptorEncoder, name: &str, help: &str, classes: [(&'static str, u64); 3]) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, ConstCounter::new(0u64).metric_type())?;
    for (class, value) in classes {
        ConstCounter::new(value).encode(family.encode_family(&Class { class })?)?;
    }
    Ok(())
}

fn peers(out: &mut DescriptorEncoder, seen: &Observation) -> fmt::Result {
    let kind = ConstGauge::new(0i64).metric_type();
    let mut family = out.encode_descriptor("peer_connected", "1 if messages reach the member", None, kind)?;
    for peer in &seen.peers {
        ConstGauge::new(i64::from(peer.connected)).encode(family.encode_family(&Peer { peer: peer.peer.to_string() })?)?;
    }
    let mut family = out.encode_descriptor("peer_slot", "The slot that the member says it has committed", None, kind)?;
    for (peer, said) in seen.peers.iter().filter_map(|peer| peer.said.map(|said| (&peer.peer, said))) {
        let slot = ConstGauge::new(i64::try_from(said.committed).unwrap_or(i64::MAX));
        slot.encode(family.encode_family(&Peer { peer: peer.to_string() })?)?;
    }
    Ok(())
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics for Prometheus
///
/// OpenMetrics text, with units; with `Accept: text/plain` the older Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "status", security((), ("token" = ["read"])),
    responses((status = 200, description = "All of them", content((String = "application/openmetrics-text"), (String = "text/plain"))), Common))]
pub(super) async fn metrics(Shared(api): Shared<Arc<Api>>, _: MayRead, headers: HeaderMap) -> Result<Response, Problem> {
    let form = accepted(&headers, &["application/openmetrics-text", "text/plain"])?;
    let mut out = String::new();
    let written =
        if form == "text/plain" { prometheus_text::encode(&mut out, &api.metrics.registry) } else { text::encode(&mut out, &api.metrics.registry) };
    written.map_err(|_| Problem::new(Kind::Internal, "the metrics could not be written"))?;
    Ok(bytes(if form == "text/plain" { PLAIN } else { OPENMETRICS }, out.into_bytes()))
}
