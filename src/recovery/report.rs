//! What a start found.

use serde::{Deserialize, Serialize};

use super::BodyProblem;
use crate::journal::{JournalReport, StreamKind};
use crate::types::Slot;

/// The report of one recovery.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// The log's last sequence number.
    pub log_head: u64,
    /// Journal records read.
    pub journal_records: u64,
    /// Records replayed into the protocol: what is above the stable checkpoint, and the voting record.
    pub replayed: u64,
    /// Batches that the journal had and the log lacked.
    pub appended: u64,
    /// Pages and rows cut: a write that was never acknowledged.
    pub cut: u64,
    /// What was repaired from what was whole.
    pub repaired: Vec<String>,
    /// The schemas that the log was brought out of.
    pub migrated: Vec<String>,
    /// What was found damaged.
    pub damaged: Vec<String>,
    /// The slots whose bodies this replica lacks and a peer must give.
    pub missing: Vec<Slot>,
    /// Why the replica must not vote yet, if so.
    pub suspect: Option<String>,
    /// The log's time (ms) before which it must not, because it could not tell duplicates; 0 if it can.
    pub blind_until: u64,
    /// How long it took, ms.
    pub millis: u64,
}

impl RecoveryReport {
    /// Begins with what opening the journal found.
    #[must_use]
    pub fn new(journal: &JournalReport) -> Self {
        let mut report = Self { cut: u64::from(journal.segment_pages_cut) + u64::from(journal.votes_pages_cut), ..Self::default() };
        for damage in &journal.damage {
            report.damaged.push(damage.to_string());
        }
        // What damage in the segments means depends on where it lies: the replay judges it.
        if let Some(first) = journal.damage.iter().find(|damage| damage.stream == StreamKind::Votes) {
            report.suspect_because(format!("the journal is damaged: {first}"));
        }
        report
    }

    /// Notes why the replica must not vote; the first reason stays.
    pub fn suspect_because(&mut self, reason: String) {
        self.suspect.get_or_insert(reason);
    }

    /// Notes a body that only a peer can give.
    pub fn lacks(&mut self, slot: Slot) {
        if !self.missing.contains(&slot) {
            self.missing.push(slot);
        }
    }

    /// The same, with the damage that took it.
    pub fn lacks_body(&mut self, slot: Slot, problem: &BodyProblem) {
        if !self.missing.contains(&slot) {
            self.damaged.push(format!("the body of slot {slot}: {problem}"));
            self.missing.push(slot);
        }
    }

    /// Adds what an earlier recovery of this start found, and what was fetched since.
    pub fn repairs_before(&mut self, before: Self, fetched: String) {
        self.cut += before.cut;
        self.appended += before.appended;
        let found = before.damaged.into_iter().filter(|damage| !self.damaged.contains(damage)).collect::<Vec<_>>();
        self.damaged.splice(0..0, found);
        self.repaired.splice(0..0, before.repaired.into_iter().chain([fetched]));
    }
}
