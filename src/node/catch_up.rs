//! Fetching committed batches from one peer, off every other thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::Bytes;
use rayon::prelude::*;
use tokio::runtime::Handle as Runtime;

use super::NodeOptions;
use super::driver::Input;
use super::shared::Shared;
use crate::consensus::{CheckedBatch, Event, Verified, Verifier};
use crate::net::Net;
use crate::types::{LogQuery, MAX_FRAME_BYTES, ReplicaIndex, Request, Response, Slot, decode, encode};

/// Asks peers for batches and brings what verifies to the core.
#[derive(Clone)]
pub(super) struct CatchUp {
    pub(super) net: Arc<Net>,
    pub(super) runtime: Runtime,
    pub(super) verifier: Arc<Verifier>,
    pub(super) shared: Arc<Shared>,
    pub(super) core: Sender<Input>,
    pub(super) options: NodeOptions,
}

impl CatchUp {
    /// Starts one request; its answer, or its failure, becomes an event.
    pub(super) fn fetch(&self, peer: ReplicaIndex, from_slot: Slot) {
        let this = self.clone();
        self.runtime.spawn(async move {
            while this.shared.counters.log_backlog.load(Ordering::Relaxed) > this.options.catch_up_backlog_batches {
                if this.shared.stopped().borrow().is_some() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let event = match this.ask(peer, from_slot).await {
                Ok(batches) => {
                    tracing::debug!(peer, from_slot, batches = batches.len(), "caught up");
                    Event::CaughtUp { from: peer, batches }
                }
                Err(reason) => {
                    tracing::debug!(peer, from_slot, reason, "catch-up failed");
                    Event::CatchUpFailed { from: peer }
                }
            };
            let _ = this.core.send(Input::Event(Box::new(event), None));
        });
    }

    async fn ask(&self, peer: ReplicaIndex, slot: Slot) -> Result<Vec<Verified<CheckedBatch>>, String> {
        let request = Request::Log(LogQuery::FromSlot { slot, max_bytes: self.options.catch_up_bytes });
        let request = encode(&request).map_err(|e| e.to_string())?;
        let timeout = Duration::from_millis(self.options.catch_up_timeout_ms);
        let answer = self.net.request(peer, Bytes::from(request), timeout, MAX_FRAME_BYTES).await.map_err(|e| e.to_string())?;
        let verifier = self.verifier.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let Ok(Response::Log(range)) = decode::<Response>(&answer) else { return Err("not a range of batches".to_owned()) };
            range.batches.into_par_iter().map(|batch| verifier.batch(batch).map_err(|e| e.to_string())).collect()
        });
        verified.await.map_err(|e| e.to_string())?
    }
}
