//! What a crash test has to tell.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::finding::{Finding, Findings, Wrong};
use super::fleet::Starts;
use super::preflight::Preflight;
use super::stats::{Spread, loss_below};

/// How near a power cut a test came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Grade {
    /// Processes die, the machine goes on.
    #[serde(rename = "L1 process")]
    Process,
    /// The machine loses power; the acknowledgements are kept on another.
    #[serde(rename = "L3 real power")]
    Power,
}

impl Grade {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Process => "L1 process",
            Self::Power => "L3 real power",
        }
    }

    /// What a clean report of this grade does not say.
    pub(crate) const fn not_tested(self) -> &'static [&'static str] {
        match self {
            Self::Process => &[
                "a power cut: SIGKILL leaves the kernel's page cache alive, so writes that were never synced survive here (L3: crash-test load and verify)",
                "torn and reordered sectors, and what the device does with its cache (L2, a simulated power cut, is in the project's own test suite)",
                "the kernel's own crashes, and other machines than this one",
            ],
            Self::Power => &[
                "more power cuts than were made: one cut is one cycle",
                "what was acknowledged and had not reached the witness yet: it is not counted",
                "whether the power really was cut: only you know what you pulled",
            ],
        }
    }
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Nothing was wrong.
    Clean,
    /// Something was lost, doubled, forked, signed twice, or damaged for good.
    Loss,
    /// The question could not be answered.
    CouldNotTell,
}

/// The report of a test.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CrashReport {
    pub(crate) verdict: Verdict,
    pub(crate) grade: Grade,
    pub(crate) replicas: usize,
    /// How it was run: the kill mode and the seed repeat a local test's schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kill: Option<super::schedule::KillMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// Cycles whose check was completed.
    pub(crate) cycles: u64,
    pub(crate) kills: u64,
    /// Updates acknowledged with a proof that verified.
    pub(crate) acked: u64,
    /// Of these, found in every replica's log where their proofs say.
    pub(crate) recovered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) forked: u64,
    pub(crate) signed_twice: u64,
    /// Updates that a replica holds and could not prove, and new ids that were refused.
    pub(crate) other_violations: u64,
    /// Submissions nobody could tell the fate of in time; they may be in the log.
    pub(crate) unanswered: u64,
    pub(crate) torn_tails_cut: u64,
    pub(crate) damage_found: u64,
    pub(crate) damage_repaired: u64,
    /// From the start of a process to its being ready, ms.
    pub(crate) restart_ms: Option<Spread>,
    /// By the preflight: a page's write and its sync, microseconds.
    pub(crate) sync_us: Spread,
    /// At 95 %, a cycle's chance of a loss is below this; `None` after a loss.
    pub(crate) loss_per_cycle_below: Option<f64>,
    /// How often replicas killed themselves at each point.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failpoints: BTreeMap<&'static str, u64>,
    /// Whether every log was read again from its beginning and audited from its files at the end.
    pub(crate) full_check: bool,
    pub(crate) interrupted: bool,
    /// Why it could not be told, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) not_tested: &'static [&'static str],
    /// Where the data is, if it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<PathBuf>,
    pub(crate) preflight: Preflight,
}

impl CrashReport {
    /// A report in which nothing happened yet.
    pub(crate) fn new(grade: Grade, replicas: usize, preflight: Preflight) -> Self {
        Self {
            verdict: Verdict::CouldNotTell,
            grade,
            replicas,
            kill: None,
            seed: None,
            cycles: 0,
            kills: 0,
            acked: 0,
            recovered: 0,
            lost: 0,
            duplicated: 0,
            forked: 0,
            signed_twice: 0,
            other_violations: 0,
            unanswered: 0,
            torn_tails_cut: 0,
            damage_found: 0,
            damage_repaired: 0,
            restart_ms: None,
            sync_us: preflight.sync_us,
            loss_per_cycle_below: None,
            failpoints: BTreeMap::new(),
            full_check: false,
            interrupted: false,
            reason: None,
            findings: Vec::new(),
            not_tested: grade.not_tested(),
            kept: None,
            preflight,
        }
    }

    /// Takes over what the starts said and what was found, and concludes.
    pub(crate) fn conclude(&mut self, starts: &Starts, findings: &Findings) {
        (self.lost, self.duplicated) = (findings.count(Wrong::Lost), findings.count(Wrong::Duplicated));
        (self.forked, self.signed_twice) = (findings.count(Wrong::Forked), findings.count(Wrong::SignedTwice));
        self.other_violations = findings.count(Wrong::Unproven) + findings.count(Wrong::Refused);
        self.torn_tails_cut = starts.torn_tails_cut;
        self.damage_found = starts.damage_found.max(findings.count(Wrong::Damaged));
        self.damage_repaired = starts.damage_repaired;
        self.restart_ms = Spread::of(&starts.ready_ms);
        self.findings = findings.kept.clone();
        self.verdict = match () {
            () if !findings.is_empty() => Verdict::Loss,
            () if self.reason.is_some() || self.cycles == 0 => Verdict::CouldNotTell,
            () => Verdict::Clean,
        };
        self.loss_per_cycle_below = findings.is_empty().then(|| loss_below(self.cycles));
    }
}
