//! What an audit found.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::statistics::Statistics;
use super::{Level, explain};
use crate::crypto::Digest;
use crate::types::{CommitCertificate, Convicted, Evidence, Federation, Sequence, Slot};

/// How many findings are kept; their number is always counted.
const KEPT: usize = 1_000;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The sequence number; 0 where the finding is about a file.
    pub sequence: Sequence,
    /// The slot; 0 as above.
    pub slot: Slot,
    /// The rule that is broken.
    pub rule: String,
    /// What the rule wants.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// In which target, and where in it.
    #[serde(rename = "where")]
    pub place: String,
    /// What follows from it.
    pub meaning: String,
    /// What to do.
    pub remedy: String,
}

/// Sequence numbers, first to last, of which something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRange {
    /// The first.
    pub from: Sequence,
    /// The last.
    pub to: Sequence,
    /// The rules broken there.
    pub rules: BTreeSet<String>,
}

/// Records of evidence that a report keeps: whoever lies so often is convicted by fewer.
const MAX_EVIDENCE: usize = 1_024;

/// The audit of one target.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditReport {
    /// What was audited.
    pub target: String,
    /// Whether nothing is wrong with the history.
    pub clean: bool,
    /// Whether it was read to its end, or to the end of the range asked for.
    pub complete: bool,
    /// How deep it was checked.
    pub level: Level,
    /// Updates checked at that level.
    pub entries: u64,
    /// How many of them a second, everything included.
    pub entries_per_second: u64,
    /// How long it took, s.
    pub seconds: f64,
    /// Batches checked at that level.
    pub batches: u64,
    /// Signatures checked: authors' and replicas'.
    pub signatures: u64,
    /// Bytes of updates read.
    pub payload_bytes: u64,
    /// The first finding.
    pub first_bad: Option<Finding>,
    /// Every finding, up to a thousand.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub bad: u64,
    /// The sequence numbers that findings are about, as ranges; up to a thousand.
    pub bad_ranges: Vec<BadRange>,
    /// Members convicted by two statements that they signed; [`super::Summary::evidence`] has their JSON form.
    #[serde(skip)]
    pub evidence: Vec<Convicted>,
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
    /// Proofs handed out earlier that fit this history.
    pub old_proofs_held: u64,
    /// Who took part, and when.
    pub statistics: Statistics,
}

impl AuditReport {
    /// Adds a finding about a place in the history.
    pub(super) fn bad_at(&mut self, place: &str, slot: Slot, sequences: (Sequence, Sequence), rule: &str, expected: &str, found: &str) {
        let (meaning, remedy) = explain(rule);
        let place = if place.is_empty() { self.target.clone() } else { format!("{}: {place}", self.target) };
        let finding = Finding {
            sequence: sequences.0,
            slot,
            rule: rule.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
            place,
            meaning: meaning.to_owned(),
            remedy: remedy.to_owned(),
        };
        self.bad += 1;
        self.first_bad.get_or_insert_with(|| finding.clone());
        if sequences.0 > 0 {
            self.add_range(sequences, rule);
        }
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        }
    }

    /// Adds a finding about a file.
    pub(super) fn bad(&mut self, place: &str, rule: &str, expected: &str, found: &str) {
        self.bad_at(place, 0, (0, 0), rule, expected, found);
    }

    fn add_range(&mut self, (from, to): (Sequence, Sequence), rule: &str) {
        let to = to.max(from);
        let touches = |last: &&mut BadRange| from >= last.from && from <= last.to.saturating_add(1);
        if let Some(last) = self.bad_ranges.last_mut().filter(touches) {
            last.to = last.to.max(to);
            last.rules.insert(rule.to_owned());
        } else if self.bad_ranges.len() < KEPT {
            self.bad_ranges.push(BadRange { from, to, rules: BTreeSet::from([rule.to_owned()]) });
        }
    }

    /// Adds evidence that verifies, once.
    pub(super) fn convict(&mut self, found: Convicted) {
        if self.evidence.len() < MAX_EVIDENCE && self.evidence.iter().all(|known| known.conviction.id != found.conviction.id) {
            self.evidence.push(found);
        }
    }

    /// Adds a finding about a file beside the data.
    pub fn found(&mut self, rule: &str, expected: &str, found: &str) {
        self.bad("", rule, expected, found);
        self.conclude();
    }

    /// Turns two certificates for one slot into evidence, as far as they convict.
    pub(super) fn convict_both(&mut self, federation: &Federation, a: &CommitCertificate, b: &CommitCertificate) {
        let found = Evidence::of_certificates(a, b).into_iter();
        found.filter_map(|evidence| evidence.convict(federation).ok()).for_each(|found| self.convict(found));
    }

    /// The verdict.
    pub(super) fn conclude(&mut self) {
        self.clean = self.bad == 0;
    }

    /// Whether a rule was broken that only a liar, or who holds its keys, breaks.
    #[must_use]
    pub fn convicts(&self) -> bool {
        !self.evidence.is_empty() || self.findings.iter().any(|finding| super::CONVICTING.contains(&finding.rule.as_str()))
    }
}
