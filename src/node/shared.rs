//! What a replica's threads share: who waits for what, where the core stands, and why to stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::consensus::{CoreStatus, Ticket};
use crate::types::{Sequence, SubmitOutcome};

/// Clients that wait for the fate of a submission. Looked up by ticket, never iterated.
#[derive(Default)]
pub(super) struct Tickets {
    next: AtomicU64,
    waiting: Mutex<HashMap<Ticket, oneshot::Sender<SubmitOutcome>>>,
}

impl Tickets {
    /// A new ticket and where its answer comes.
    pub(super) fn issue(&self) -> (Ticket, oneshot::Receiver<SubmitOutcome>) {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, wait) = oneshot::channel();
        self.waiting.lock().insert(ticket, answer);
        (ticket, wait)
    }

    /// Answers a ticket; one that nobody waits for any more is forgotten.
    pub(super) fn answer(&self, ticket: Ticket, outcome: SubmitOutcome) {
        if let Some(waiting) = self.waiting.lock().remove(&ticket) {
            let _ = waiting.send(outcome);
        }
    }

    /// Forgets a ticket whose client went away.
    pub(super) fn forget(&self, ticket: Ticket) {
        self.waiting.lock().remove(&ticket);
    }
}

/// Counters that no single thread owns.
#[derive(Default)]
pub(super) struct Counters {
    /// Messages that did not pass the verifier.
    pub(super) refused: AtomicU64,
    /// Batches on their way to the log.
    pub(super) log_backlog: AtomicU64,
    /// Groups of the journal written and synced.
    pub(super) journal_syncs: AtomicU64,
}

/// Shared by all threads of one replica.
pub(super) struct Shared {
    pub(super) tickets: Tickets,
    pub(super) counters: Counters,
    pub(super) status: Mutex<CoreStatus>,
    /// The log's last sequence number, for whoever follows it.
    pub(super) head: watch::Sender<Sequence>,
    /// Why the replica stops, once it does.
    stop: watch::Sender<Option<String>>,
}

impl Shared {
    pub(super) fn new(status: CoreStatus, head: Sequence) -> Self {
        Self {
            tickets: Tickets::default(),
            counters: Counters::default(),
            status: Mutex::new(status),
            head: watch::Sender::new(head),
            stop: watch::Sender::new(None),
        }
    }

    /// Stops the replica; the first reason stays.
    pub(super) fn stop(&self, reason: &str) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert_with(|| reason.to_owned());
            first
        });
    }

    pub(super) fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.stop.subscribe()
    }
}
