//! What all handlers share.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fates::Fates;
use super::metrics::Metrics;
use super::problem::{Kind, Problem};
use super::tokens::TokenWatch;
use crate::config::HttpOptions;
use crate::crypto::SigningKey;
use crate::node::Handle;

/// One replica's HTTP interface.
pub(super) struct Api {
    pub(super) handle: Handle,
    pub(super) options: HttpOptions,
    /// Signs for callers with scope submit, if there is one.
    pub(super) author: Option<SigningKey>,
    pub(super) tokens: TokenWatch,
    /// Whether the server listens on loopback alone.
    pub(super) on_loopback: bool,
    pub(super) limits: Limits,
    pub(super) fates: Fates,
    pub(super) metrics: Metrics,
    /// Submissions that are waited for, whether or not their clients still do.
    pub(super) waiting: TaskTracker,
    /// Set when the replica stops.
    pub(super) stop: CancellationToken,
    /// The OpenAPI document.
    pub(super) openapi: Bytes,
}

/// What may be under way at a time.
pub(super) struct Limits {
    pub(super) requests: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) submissions: Arc<Semaphore>,
    /// In KiB.
    pub(super) bodies: Arc<Semaphore>,
    per_caller: u64,
    /// Requests under way by token. Looked up, never iterated.
    callers: Mutex<HashMap<String, u64>>,
}

impl Limits {
    pub(super) fn new(options: &HttpOptions) -> Self {
        let semaphore = |permits: u64| Arc::new(Semaphore::new(usize::try_from(permits).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)));
        Self {
            requests: semaphore(options.max_requests),
            streams: semaphore(options.max_streams),
            submissions: semaphore(options.max_submissions),
            bodies: semaphore(options.max_bodies_bytes.div_ceil(1_024)),
            per_caller: options.max_requests_per_caller,
            callers: Mutex::default(),
        }
    }

    /// Counts a request of a caller until the share is dropped.
    pub(super) fn share<'a>(&'a self, caller: &str) -> Result<CallerShare<'a>, Problem> {
        let mut callers = self.callers.lock();
        let under_way = callers.entry(caller.to_owned()).or_default();
        if *under_way >= self.per_caller {
            let detail = format!("{} requests of this caller are under way, which is the limit for one", self.per_caller);
            return Err(Problem::new(Kind::TooManyRequests, detail).retry_after(std::time::Duration::from_secs(1)));
        }
        *under_way += 1;
        Ok(CallerShare { limits: self, caller: caller.to_owned() })
    }
}

/// One request of a caller.
pub(super) struct CallerShare<'a> {
    limits: &'a Limits,
    caller: String,
}

impl Drop for CallerShare<'_> {
    fn drop(&mut self) {
        let mut callers = self.limits.callers.lock();
        if let Some(under_way) = callers.get_mut(&self.caller) {
            *under_way -= 1;
            if *under_way == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}
