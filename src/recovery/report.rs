//! What a start found.

use serde::{Deserialize, Serialize};

use crate::journal::JournalReport;

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
    /// What was found damaged.
    pub damaged: Vec<String>,
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
        if let Some(first) = journal.damage.first() {
            report.suspect_because(format!("the journal is damaged: {first}"));
        }
        report
    }

    /// Notes why the replica must not vote; the first reason stays.
    pub fn suspect_because(&mut self, reason: String) {
        self.suspect.get_or_insert(reason);
    }
}
