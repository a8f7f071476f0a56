//! Requests: one bidirectional stream each, one frame there, one frame back.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::code;
use super::frame::{FrameReader, within, write_frames};
use super::options::{FRAME_OVERHEAD_BYTES, count};
use super::{Caller, NetError, NetOptions, Shared};
use crate::types::MAX_FRAME_BYTES;

/// Answers requests. The future is dropped when the asker goes away.
pub trait RequestHandler: Send + Sync + 'static {
    /// Answers one request; the transport has not looked into it. An answer over [`MAX_FRAME_BYTES`] is not sent.
    fn handle(&self, caller: Caller, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>>;
}

/// Asks on a connection and waits for the answer.
pub(super) async fn ask(
    connection: &Connection,
    request: Bytes,
    timeout: Duration,
    max_response_bytes: usize,
    options: &NetOptions,
) -> Result<Bytes, NetError> {
    let limit = count(options.max_request_bytes);
    if request.len() > limit {
        return Err(NetError::TooLong { actual: request.len(), limit });
    }
    within("a request", timeout, async {
        let (mut send, recv) = connection.open_bi().await?;
        write_frames(&mut send, &[request]).await?;
        let _ = send.finish();
        FrameReader::new(recv).frame(max_response_bytes.min(MAX_FRAME_BYTES), options).await
    })
    .await
}

/// What a key's requests may hold, over all its connections: so many at a time, and so many bytes; and, for clients, what all of them may.
#[derive(Clone)]
pub(super) struct RequestBudget {
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    of_all: Option<Arc<Semaphore>>,
}

/// One request's share of a budget, given back when dropped.
struct Held {
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl RequestBudget {
    pub(super) fn new(places: u64, bytes: u64, of_all: Option<Arc<Semaphore>>) -> Self {
        Self { places: Arc::new(Semaphore::new(count(places))), bytes: Arc::new(Semaphore::new(count(bytes))), of_all }
    }

    /// Reads the request's length once there is a place, and holds its bytes; `None` only if a budget was closed.
    async fn hold(&self, reader: &mut FrameReader, options: &NetOptions) -> Result<Option<(usize, Held)>, NetError> {
        let Ok(place) = self.places.clone().acquire_owned().await else { return Ok(None) };
        // A stream may be opened without a byte on it: that too must not hold the place.
        let begun = within("a request", options.frame_timeout(4), reader.length(count(options.max_request_bytes), options));
        let length = begun.await?.ok_or(NetError::Ended { expected: 4, actual: 0 })?;
        let charge = u32::try_from(length.saturating_add(FRAME_OVERHEAD_BYTES)).unwrap_or(u32::MAX);
        let Ok(bytes) = self.bytes.clone().acquire_many_owned(charge).await else { return Ok(None) };
        let of_all = match &self.of_all {
            Some(all) => all.clone().acquire_many_owned(charge).await.ok(),
            None => None,
        };
        Ok(Some((length, Held { _place: place, _bytes: bytes, _of_all: of_all })))
    }
}

/// One request's stream.
pub(super) struct Asked {
    pub(super) caller: Caller,
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    pub(super) budget: RequestBudget,
}

/// Reads one request, has it answered, and writes the answer. What goes wrong costs this stream only, but for an oversized frame,
/// which no honest caller sends and which costs the connection.
pub(super) async fn answer(shared: Arc<Shared>, asked: Asked) {
    let connection = asked.connection.clone();
    match serve(&shared, asked).await {
        Ok(()) => shared.counters.requests_served.one(),
        Err(NetError::TooLong { actual, limit }) => {
            shared.counters.oversized_in.one();
            tracing::warn!(remote = %connection.remote_address(), actual, limit, "a request is too long");
            connection.close(code::OVERSIZED, b"request too long");
        }
        Err(error) => {
            if matches!(error, NetError::Timeout { .. }) {
                shared.counters.slow_in.one();
            }
            tracing::debug!(remote = %connection.remote_address(), %error, "a request was not served");
        }
    }
}

async fn serve(shared: &Shared, asked: Asked) -> Result<(), NetError> {
    let Asked { caller, mut send, recv, budget, .. } = asked;
    let options = &shared.options;
    let mut reader = FrameReader::new(recv);
    let Some((length, held)) = budget.hold(&mut reader, options).await? else { return Ok(()) };
    let request = reader.body(length, options).await?;
    let response = tokio::select! {
        response = shared.handler.handle(caller, request) => response,
        // The asker went away.
        _ = send.stopped() => return Err(NetError::Write(quinn::WriteError::ClosedStream)),
    };
    if response.len() > MAX_FRAME_BYTES {
        tracing::error!(bytes = response.len(), "an answer over the frame limit was withheld");
        let _ = send.reset(code::OVERSIZED);
        return Ok(());
    }
    let limit = options.frame_timeout(response.len());
    let written = within("an answer", limit, async { write_frames(&mut send, &[response]).await }).await;
    drop(held);
    match written {
        Ok(()) => {
            let _ = send.finish();
        }
        // Half an answer must not look like a whole one.
        Err(_) => {
            let _ = send.reset(code::SLOW);
        }
    }
    written
}
