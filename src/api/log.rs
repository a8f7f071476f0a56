//! Reading the log, page by page and entry by entry.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::MayRead;
use super::extract::{Params, Segment, maybe_sequence};
use super::forms::EntryForm;
use super::openapi::Common;
use super::problem::{Kind, Problem};
use super::respond::json;
use super::state::Api;
use crate::node::LogEntry;
use crate::types::CommittedBatch;

/// The most entries on one page.
const MAX_LIMIT: u64 = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// The first sequence number; 1 if left out.
    #[serde(default, deserialize_with = "maybe_sequence")]
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    from: Option<u64>,
    /// The most entries; 100 if left out. There may be fewer, if they are large.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u64>,
}

/// A page of the log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Page)]
pub(super) struct PageForm {
    /// Consecutive entries; none if the page begins behind the end.
    entries: Vec<EntryForm>,
    /// Where the next page begins.
    next: u64,
    /// The last entry that this replica's log holds.
    head: u64,
}

/// Read a page of the log
#[utoipa::path(get, path = "/v1/log", tag = "log", params(Page), security((), ("token" = ["read"])),
    responses((status = 200, description = "Entries in order, without gaps", body = PageForm), Common))]
pub(super) async fn page(State(api): State<Arc<Api>>, _: MayRead, Params(page): Params<Page>) -> Result<Response, Problem> {
    let from = page.from.unwrap_or(1);
    let limit = page.limit.unwrap_or(100);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::malformed(format!("limit: {limit}, allowed are 1 to {MAX_LIMIT}")));
    }
    let head = api.handle.head();
    let (mut entries, mut next, mut bytes) = (Vec::new(), from, 0);
    while (entries.len() as u64) < limit && bytes < api.options.max_answer_bytes && next <= head {
        let batches = api.handle.read(next, (api.options.max_answer_bytes - bytes).min(1 << 20)).await?;
        if batches.is_empty() {
            break;
        }
        for entry in entries_from(&batches, next) {
            if entries.len() as u64 >= limit || bytes >= api.options.max_answer_bytes {
                break;
            }
            next = entry.sequence + 1;
            bytes += entry.update.data.len() as u64 + 256;
            entries.push(EntryForm::from(entry));
        }
    }
    Ok(json(StatusCode::OK, &PageForm { entries, next, head: head.max(next.saturating_sub(1).min(api.handle.head())) }))
}

fn entries_from(batches: &[CommittedBatch], from: u64) -> impl Iterator<Item = LogEntry> + '_ {
    batches.iter().flat_map(LogEntry::of_batch).filter(move |entry| entry.sequence >= from)
}

/// Read one entry
#[utoipa::path(get, path = "/v1/log/{sequence}", tag = "log", security((), ("token" = ["read"])),
    params(("sequence" = u64, Path, description = "Its sequence number", minimum = 1, maximum = 9007199254740991_u64)),
    responses((status = 200, description = "The entry", body = EntryForm), Common))]
pub(super) async fn entry(State(api): State<Arc<Api>>, _: MayRead, Segment(sequence): Segment<u64>) -> Result<Response, Problem> {
    let batches = if sequence == 0 { Vec::new() } else { api.handle.read(sequence, 1).await? };
    let found = entries_from(&batches, sequence).next().filter(|entry| entry.sequence == sequence);
    found.map(|entry| json(StatusCode::OK, &EntryForm::from(entry))).ok_or_else(|| beyond(&api, sequence))
}

/// No such place in the log, or not yet.
pub(super) fn beyond(api: &Api, sequence: u64) -> Problem {
    let head = api.handle.head();
    Problem::new(Kind::NotFound, format!("this replica's log holds the entries 1 to {head}, not {sequence}")).with("head", head)
}
