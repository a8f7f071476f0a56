//! Proofs, exactly as `exofed proof` writes them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::MayRead;
use super::extract::{MAX_INTEGER, Params, Segment, accepted, maybe_sequence, sequence};
use super::log::beyond;
use super::openapi::Common;
use super::problem::{Kind, Problem};
use super::respond::{JSON, bytes};
use super::state::Api;
use crate::proof::ProofError;
use crate::types::{ConsistencyQuery, ProofQuery};

const BINARY: &str = "application/octet-stream";

/// The proof of one update
///
/// The same file as `exofed proof` writes, byte for byte: `exofed verify` checks it offline, with nothing but the genesis. With
/// `Accept: application/octet-stream` its binary form.
#[utoipa::path(get, path = "/v1/proofs/{sequence}", tag = "proofs", security((), ("token" = ["read"])),
    params(("sequence" = u64, Path, description = "The update's sequence number", minimum = 1, maximum = 9007199254740991_u64)),
    responses((status = 200, description = "The proof, which docs/proofs.md describes", content((serde_json::Value = "application/json"), (Vec<u8> = "application/octet-stream"))), Common))]
pub(super) async fn commit(
    State(api): State<Arc<Api>>,
    _: MayRead,
    Segment(sequence): Segment<u64>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let form = accepted(&headers, &[JSON, BINARY])?;
    let proof = api.handle.proof(ProofQuery::Sequence(sequence)).await?.ok_or_else(|| beyond(&api, sequence))?;
    let federation = api.handle.federation().clone();
    if form == BINARY {
        return write(BINARY, move || proof.to_bytes()).await;
    }
    write(JSON, move || proof.to_json(&federation)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Between {
    /// The older log: after the batch that holds this entry.
    #[serde(deserialize_with = "sequence")]
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    from: u64,
    /// The newer log: after the batch that holds this entry; the end of this replica's log if left out.
    #[serde(default, deserialize_with = "maybe_sequence")]
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    to: Option<u64>,
}

/// The proof that an older log is the beginning of a newer one
///
/// The same file as `exofed proof --consistency` writes.
#[utoipa::path(get, path = "/v1/proofs/consistency", tag = "proofs", params(Between), security((), ("token" = ["read"])),
    responses((status = 200, description = "The proof, which docs/proofs.md describes", body = serde_json::Value), Common))]
pub(super) async fn consistency(State(api): State<Arc<Api>>, _: MayRead, Params(between): Params<Between>) -> Result<Response, Problem> {
    let Between { from, to } = between;
    if to.is_some_and(|to| to < from) {
        return Err(Problem::new(Kind::Rejected, format!("from {from} is behind to {}: the older log comes first", to.unwrap_or(MAX_INTEGER))));
    }
    let found = api.handle.consistency(ConsistencyQuery { old: from, new: to }).await?;
    let proof = found.ok_or_else(|| beyond(&api, to.unwrap_or(from).max(from)))?;
    let federation = api.handle.federation().clone();
    write(JSON, move || proof.to_json(&federation)).await
}

/// Writes a proof aside from the threads that serve sockets.
async fn write(media_type: &'static str, form: impl FnOnce() -> Result<Vec<u8>, ProofError> + Send + 'static) -> Result<Response, Problem> {
    let written = tokio::task::spawn_blocking(form).await.map_err(|_| Problem::new(Kind::Internal, "the proof could not be written"))?;
    written.map(|proof| bytes(media_type, proof)).map_err(|e| Problem::new(Kind::Internal, e.to_string()))
}
