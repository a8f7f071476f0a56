//! What a crash test found wrong.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::types::Slot;

/// How many findings are kept; their number is always counted.
const KEPT: usize = 100;

/// The kinds of wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wrong {
    /// An acknowledged update is not where its proof says, in any log or in one.
    Lost,
    /// One update stands twice.
    Duplicated,
    /// Two logs, or a log and a proof, differ at one place.
    Forked,
    /// One member signed two statements at one place.
    SignedTwice,
    /// A replica holds an update and cannot prove it.
    Unproven,
    /// An id never used before was refused.
    Refused,
    /// Damage that no recovery mended.
    Damaged,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) kind: Wrong,
    /// The cycle in which it was found; 0 for the check at the end.
    pub(crate) cycle: u64,
    /// What, where and whose.
    pub(crate) what: String,
}

/// Every finding of a run.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) cycle: u64,
    pub(crate) kept: Vec<Finding>,
    counts: BTreeMap<Wrong, u64>,
    forked: BTreeSet<Slot>,
}

impl Findings {
    pub(crate) fn add(&mut self, kind: Wrong, what: String) {
        *self.counts.entry(kind).or_default() += 1;
        if self.kept.len() < KEPT {
            self.kept.push(Finding { kind, cycle: self.cycle, what });
        }
    }

    /// A slot is forked once, however many updates of it show that.
    pub(crate) fn fork(&mut self, slot: Slot, what: String) {
        if self.forked.insert(slot) {
            self.add(Wrong::Forked, what);
        }
    }

    pub(crate) fn count(&self, kind: Wrong) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}
