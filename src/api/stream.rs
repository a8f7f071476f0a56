//! The log as server-sent events.
//!
//! An event's id is its sequence number, so that a client that reconnects, to this replica or another, goes on exactly behind the last one it saw. The
//! stream reads ahead no more than about a batch: a client that takes nothing holds nothing but that, until the write timeout ends it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{Stream, unfold};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::auth::MayRead;
use super::extract::{MAX_INTEGER, Params, maybe_sequence};
use super::forms::EntryForm;
use super::metrics::StreamGuard;
use super::openapi::Common;
use super::problem::Problem;
use super::state::Api;
use crate::error::FederationError;
use crate::node::Subscription;

/// What a stream reads ahead, in bytes.
const READ_BYTES: u64 = 128 << 10;
/// When a client whose stream ended should come again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct From {
    /// The first sequence number; 1 if left out. It may lie ahead. A `Last-Event-ID` header goes before it.
    #[serde(default, deserialize_with = "maybe_sequence")]
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    from: Option<u64>,
    /// Instead of `from`: begin with so many of the newest entries; 0 waits for the next one.
    #[param(minimum = 0, maximum = 9007199254740991_u64)]
    tail: Option<u64>,
}

/// Follow the log
///
/// Server-sent events, one for each entry: `id` is its sequence number, `data` the entry as JSON. A client that reconnects with `Last-Event-ID` misses
/// nothing and sees nothing twice. It ends when the replica stops; comments keep it alive.
#[utoipa::path(get, path = "/v1/log/stream", tag = "log", params(From, ("Last-Event-ID" = Option<u64>, Header, description = "The last sequence number seen")),
    security((), ("token" = ["read"])),
    responses((status = 200, description = "The entries, for as long as both sides live", body = String, content_type = "text/event-stream"), Common))]
pub(super) async fn stream(State(api): State<Arc<Api>>, _: MayRead, Params(from): Params<From>, headers: HeaderMap) -> Result<Response, Problem> {
    let first = first(&api, &from, &headers)?;
    let permit = api.limits.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::busy("as many streams as allowed are open; follow another replica"))?;
    let following = Following {
        updates: api.handle.subscribe(first).reading(READ_BYTES),
        stop: api.stop.clone(),
        opening: Some(first - 1),
        _open: (permit, api.metrics.stream_opened()),
    };
    let alive = KeepAlive::new().interval(Duration::from_millis(api.options.keep_alive_ms)).text("alive");
    let mut response = Sse::new(events(following)).keep_alive(alive).into_response();
    // Proxies must pass events on one by one.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Where a stream begins.
fn first(api: &Api, from: &From, headers: &HeaderMap) -> Result<u64, Problem> {
    if from.from.is_some() && from.tail.is_some() {
        return Err(Problem::malformed("give either from or tail"));
    }
    if from.tail.is_some_and(|tail| tail > MAX_INTEGER) {
        return Err(Problem::malformed(format!("tail: allowed are 0 to {MAX_INTEGER}")));
    }
    if let Some(last) = headers.get("last-event-id").filter(|last| !last.is_empty()) {
        let parsed = last.to_str().ok().and_then(|last| last.parse::<u64>().ok()).filter(|last| *last <= MAX_INTEGER);
        return parsed.map(|last| last + 1).ok_or_else(|| Problem::malformed("Last-Event-ID: this stream's ids are sequence numbers"));
    }
    let newest = |tail: u64| (api.handle.head() + 1).saturating_sub(tail).max(1);
    Ok(from.from.or(from.tail.map(newest)).unwrap_or(1))
}

/// One client's place in the log.
struct Following {
    updates: Subscription,
    stop: CancellationToken,
    /// The id to begin with, until it was sent.
    opening: Option<u64>,
    _open: (OwnedSemaphorePermit, StreamGuard),
}

fn events(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(Some(following), |following| async move {
        let mut following = following?;
        // Without data it is no event, but it sets the id: who loses the stream before the first entry still comes back to the right place.
        if let Some(id) = following.opening.take() {
            return Some((Ok(Event::default().id(id.to_string()).retry(RETRY)), Some(following)));
        }
        let next = tokio::select! {
            biased;
            () = following.stop.cancelled() => return None,
            next = following.updates.next() => next,
        };
        match next {
            Ok(entry) => {
                let id = entry.sequence.to_string();
                let event = serde_json::to_string(&EntryForm::from(entry)).map(|data| Event::default().id(id).data(data));
                event.ok().map(|event| (Ok(event), Some(following)))
            }
            Err(FederationError::Stopped(_)) => None,
            Err(error) => {
                tracing::error!(%error, "a stream of the log met damage");
                let told = serde_json::json!({ "detail": format!("{error}; follow another replica") });
                Some((Ok(Event::default().event("problem").data(told.to_string())), None))
            }
        }
    })
}
