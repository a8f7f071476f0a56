//! What an audit found.

use serde::Serialize;

use crate::crypto::Digest;
use crate::crypto::merkle::Frontier;
use crate::store::StoreReader;
use crate::types::{Sequence, Slot};

/// How many findings are kept; their number is always counted.
const KEPT: usize = 1_000;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstBad {
    /// The slot; 0 where the finding is about a file.
    pub slot: Slot,
    /// The sequence number; 0 as above.
    pub sequence: Sequence,
    /// The rule that is broken.
    pub rule: String,
    /// What the rule wants.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// The result of an audit.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditReport {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// Updates checked.
    pub entries: u64,
    /// How many of them a second, everything included.
    pub entries_per_second: u64,
    /// Batches checked.
    pub batches: u64,
    /// Signatures checked: authors' and replicas'.
    pub signatures: u64,
    /// The first finding.
    pub first_bad: Option<FirstBad>,
    /// Every finding, up to a thousand.
    pub findings: Vec<FirstBad>,
    /// How many there are.
    pub bad: u64,
    /// Damaged places whose batches a repair wrote to the journal again: they are no longer part of the history.
    pub made_good: Vec<String>,
    /// What was not checked, and why.
    pub not_checked: Vec<String>,
    /// The last slot verified.
    pub slot: Slot,
    /// The last sequence number verified.
    pub head: Sequence,
    /// The log root there.
    pub log_root: Digest,
    /// Batches that the log holds and whose certificates the journal has yet to get back (a crash before its last sync): the next start
    /// writes them.
    pub behind_log: u64,
}

impl AuditReport {
    pub(super) fn bad(&mut self, slot: Slot, sequence: Sequence, rule: &str, expected: &str, found: &str) {
        let finding = FirstBad { slot, sequence, rule: rule.to_owned(), expected: expected.to_owned(), found: found.to_owned() };
        self.bad += 1;
        self.first_bad.get_or_insert_with(|| finding.clone());
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        }
    }

    /// The tile levels above the leaves, against the leaves themselves, and the verdict.
    pub(super) fn check_tiles(&mut self, log: &StoreReader) {
        let head = log.head();
        let mut frontier = Frontier::default();
        let mut from = 0;
        while from < head.sequence {
            let count = usize::try_from((head.sequence - from).min(4_096)).unwrap_or(4_096);
            let Ok(hashes) = log.leaf_hashes(from, count) else {
                self.bad(head.slot, from + 1, "merkle file", "leaf hashes", "too short a file");
                return;
            };
            hashes.iter().for_each(|hash| frontier.append(*hash));
            from += count as u64;
            // Every complete tile below here has its root in the level above.
            if log.frontier(from).ok().as_ref() != Some(&frontier) {
                self.bad(head.slot, from, "merkle file", "tile roots that follow from the leaves", "others");
                return;
            }
        }
    }

    /// Adds a finding about a file beside the data.
    pub fn found(&mut self, rule: &str, expected: &str, found: &str) {
        self.bad(0, 0, rule, expected, found);
        self.conclude();
    }

    pub(super) fn conclude(&mut self) {
        self.clean = self.bad == 0;
    }
}
