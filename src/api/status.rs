//! Where the replica stands, whether it lives, whether it can vote, and whom it can convict.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::auth::MayRead;
use super::openapi::Common;
use super::problem::{Kind, Problem};
use super::respond::json;
use super::state::Api;
use crate::node::Observation;
use crate::types::Evidence;

/// Where a replica stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub(super) struct StatusForm {
    /// Its label.
    peer: String,
    /// Its program's version.
    version: String,
    /// Its federation.
    federation_id: String,
    /// How many members there are.
    members: usize,
    /// How many of them make a quorum.
    quorum: usize,
    /// Its epoch.
    epoch: u64,
    /// Its view.
    view: u64,
    /// Who leads that view.
    leader: String,
    /// leader, follower, changing or suspect.
    #[schema(value_type = String)]
    role: Value,
    /// The last committed slot.
    slot: u64,
    /// The last committed sequence number.
    sequence: u64,
    /// The last sequence number that the log holds.
    log_sequence: u64,
    /// The root of the log at `sequence`.
    log_root: String,
    /// The slot of the stable checkpoint.
    stable_slot: u64,
    /// How many slots it is behind what f + 1 others say.
    lag_slots: u64,
    /// Whether it can vote.
    ready: bool,
    /// Why not, if so.
    obstacles: Vec<String>,
    /// Why it must not vote, if so.
    suspect: Option<String>,
    /// Submissions it waits for.
    pending: u64,
    /// View changes since it started.
    view_changes: u64,
    /// Contradictions of members seen since it started.
    evidence: u64,
    /// Messages refused since it started.
    refused: u64,
    /// Journal records that its start replayed.
    replayed: u64,
    /// How long its start took, ms.
    recovery_millis: u64,
    /// Its HTTP interface.
    http: Option<String>,
    /// The other members, as this replica sees them.
    peers: Vec<PeerForm>,
    /// What its transport counted since it started.
    #[schema(value_type = serde_json::Value)]
    net: Value,
}

/// Another member, by its own words.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Peer)]
pub(super) struct PeerForm {
    /// Its label.
    peer: String,
    /// Whether messages reach it.
    connected: bool,
    /// The view it says it is in.
    view: Option<u64>,
    /// The slot it says it has committed.
    slot: Option<u64>,
    /// Whether it says it is between two views.
    changing: Option<bool>,
}

/// What keeps this replica from voting.
pub(super) fn obstacles(api: &Api, seen: &Observation) -> Vec<String> {
    let federation = api.handle.federation();
    let mut obstacles = seen.obstacles(federation.quorum(), federation.parameters().window_slots);
    if api.stop.is_cancelled() && seen.stopping.is_none() {
        obstacles.push("it stops".into());
    }
    obstacles
}

/// Where the replica stands
#[utoipa::path(get, path = "/v1/status", tag = "status", security((), ("token" = ["read"])),
    responses((status = 200, description = "Its own words", body = StatusForm), Common))]
pub(super) async fn status(State(api): State<Arc<Api>>, _: MayRead) -> Result<Response, Problem> {
    let seen = api.handle.observe();
    let federation = api.handle.federation();
    let obstacles = obstacles(&api, &seen);
    let leader = federation.peer(federation.leader(seen.status.view)).map_or_else(String::new, ToString::to_string);
    let peers = seen.peers.iter().map(|peer| PeerForm {
        peer: peer.peer.to_string(),
        connected: peer.connected,
        view: peer.said.map(|said| said.view),
        slot: peer.said.map(|said| said.committed),
        changing: peer.said.map(|said| said.changing),
    });
    let peers = peers.collect();
    let s = seen.status;
    Ok(json(
        StatusCode::OK,
        &StatusForm {
            peer: s.peer.to_string(),
            version: s.version,
            federation_id: s.federation_id.to_string(),
            members: federation.size(),
            quorum: federation.quorum(),
            epoch: s.epoch,
            view: s.view,
            leader,
            role: serde_json::to_value(s.role).unwrap_or_default(),
            slot: s.slot,
            sequence: s.sequence,
            log_sequence: seen.log_sequence,
            log_root: s.log_root.to_string(),
            stable_slot: s.stable_slot,
            lag_slots: seen.lag_slots,
            ready: obstacles.is_empty(),
            obstacles,
            suspect: s.suspect,
            pending: s.pending,
            view_changes: s.view_changes,
            evidence: s.evidence,
            refused: s.refused,
            replayed: s.replayed,
            recovery_millis: s.recovery_millis,
            http: s.http,
            peers,
            net: serde_json::to_value(seen.net).unwrap_or_default(),
        },
    ))
}

/// That the process lives.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Alive)]
pub(super) struct AliveForm {
    /// ok.
    status: &'static str,
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "status", responses((status = 200, description = "It does", body = AliveForm), Common))]
pub(super) async fn health() -> Response {
    json(StatusCode::OK, &AliveForm { status: "ok" })
}

/// Whether the replica can vote
///
/// 503 says why not: it is suspect, between two views, reaches no quorum, is too far behind, or stops.
#[utoipa::path(get, path = "/readyz", tag = "status", responses((status = 200, description = "It can", body = AliveForm), Common))]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let obstacles = obstacles(&api, &api.handle.observe());
    if obstacles.is_empty() {
        return Ok(json(StatusCode::OK, &AliveForm { status: "ok" }));
    }
    Err(Problem::new(Kind::NotReady, obstacles.join("; ")).with("obstacles", obstacles))
}

/// Members that contradicted themselves.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Evidence)]
pub(super) struct EvidenceForm {
    /// One for each contradiction.
    evidence: Vec<ConvictionForm>,
}

/// What one piece of evidence proves, and the evidence itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Conviction)]
pub(super) struct ConvictionForm {
    /// The evidence's id.
    id: String,
    /// The rule that was broken: E1, E2 or E3.
    #[schema(value_type = String)]
    rule: Value,
    /// Whose key signed both statements.
    member: String,
    /// The view of both.
    view: u64,
    /// The slot of both.
    slot: u64,
    /// The record, as `exofed evidence export` writes it; `exofed evidence verify` checks it alone.
    #[schema(value_type = serde_json::Value)]
    record: Value,
}

/// The evidence that the replica holds
///
/// Each record was verified before it is given out, and verifies alone with the genesis.
#[utoipa::path(get, path = "/v1/evidence", tag = "status", security((), ("token" = ["read"])),
    responses((status = 200, description = "All of it", body = EvidenceForm), Common))]
pub(super) async fn evidence(State(api): State<Arc<Api>>, _: MayRead) -> Result<Response, Problem> {
    let held = api.handle.evidence().await?;
    let federation = api.handle.federation().clone();
    let verified = move || held.iter().map(|evidence| conviction(evidence, &federation)).collect::<Result<Vec<_>, _>>();
    let evidence = tokio::task::spawn_blocking(verified).await.map_err(|_| Problem::new(Kind::Internal, "the evidence could not be read"))??;
    Ok(json(StatusCode::OK, &EvidenceForm { evidence }))
}

fn conviction(evidence: &Evidence, federation: &crate::types::Federation) -> Result<ConvictionForm, Problem> {
    let damaged = |reason: String| Problem::new(Kind::Damaged, format!("evidence that proves nothing: {reason}"));
    let conviction = evidence.verify(federation).map_err(|e| damaged(e.to_string()))?;
    let record = evidence.to_json(federation).map_err(|e| damaged(e.to_string()))?;
    Ok(ConvictionForm {
        id: conviction.id.to_string(),
        rule: serde_json::to_value(conviction.rule).unwrap_or_default(),
        member: conviction.member.to_string(),
        view: conviction.view,
        slot: conviction.slot,
        record: serde_json::from_slice(&record).unwrap_or_default(),
    })
}
