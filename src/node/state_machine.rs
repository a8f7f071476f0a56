//! Folding committed updates into a state of the embedder's own, downstream of consensus.

use crate::crypto::PublicKey;
use crate::types::{CommittedBatch, Sequence, Slot, StateUpdate, TimestampMs};

/// One committed update, as readers of the log see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log.
    pub sequence: Sequence,
    /// The slot of its batch.
    pub slot: Slot,
    /// Who signed it.
    pub author: PublicKey,
    /// The timestamp of its batch: the leader's time, ms.
    pub committed_at: TimestampMs,
    /// The update.
    pub update: StateUpdate,
}

impl LogEntry {
    /// The updates of a batch, in order.
    pub fn of_batch(batch: &CommittedBatch) -> impl Iterator<Item = Self> + '_ {
        let (slot, committed_at) = (batch.header.slot, batch.header.timestamp);
        let updates = batch.body.submissions.iter().flat_map(|s| s.updates.iter().map(|u| (s.author, &u.update)));
        let first = batch.header.first_sequence;
        let entry = move |((author, update), offset): ((PublicKey, &StateUpdate), u64)| Self {
            sequence: first.wrapping_add(offset),
            slot,
            author,
            committed_at,
            update: update.clone(),
        };
        updates.zip(0u64..).map(entry)
    }
}

/// A deterministic fold over the log: every replica applies the same updates in the same order.
///
/// Consensus never waits for it; it runs on a thread of its own, behind the log.
pub trait StateMachine: Send + 'static {
    /// The last sequence number that this state has folded, from wherever it keeps its state; 0 to begin at the beginning.
    fn last_applied(&self) -> Sequence {
        0
    }

    /// Folds the next committed update. Sequence numbers come without gaps.
    fn apply(&mut self, entry: &LogEntry);
}
