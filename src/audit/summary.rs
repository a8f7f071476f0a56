//! The audit of all targets together, and its verdict.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::{AuditReport, BadRange, Finding, Level};
use crate::crypto::Digest;
use crate::types::{Convicted, Federation, FederationId, Sequence};

/// All targets together.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The federation whose genesis everything was checked against.
    pub federation_id: FederationId,
    /// Whether nothing is wrong with any history.
    pub clean: bool,
    /// Whether every target was read to its end, or to the end of the range.
    pub complete: bool,
    /// 0 clean, 1 damage, 2 a conviction, 3 incomplete.
    pub exit_code: u8,
    /// How deep the histories were checked.
    pub level: Level,
    /// Updates checked, over all targets.
    pub entries: u64,
    /// Batches.
    pub batches: u64,
    /// Signatures.
    pub signatures: u64,
    /// The last sequence number that every target has.
    pub head: Sequence,
    /// The log root of the target with the shortest history.
    pub log_root: Digest,
    /// Sequence numbers of which something is wrong, over all targets.
    pub bad_ranges: Vec<BadRange>,
    /// The first finding.
    pub first_bad: Option<Finding>,
    /// All findings kept.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub bad: u64,
    /// Who is convicted, with records that verify alone.
    pub evidence: Vec<Value>,
    /// Damaged places that a repair made good.
    pub made_good: Vec<String>,
    /// What was not checked, and why.
    pub not_checked: Vec<String>,
    /// How long it took, s.
    pub seconds: f64,
    /// Updates a second, everything included.
    pub entries_per_second: u64,
    /// Target by target.
    pub targets: Vec<AuditReport>,
    #[serde(skip)]
    pub(super) convicted: Vec<Convicted>,
}

impl Summary {
    pub(super) fn new(federation: &Federation, level: Level, targets: Vec<AuditReport>, took: Duration) -> Self {
        let several = targets.len() > 1;
        let of_target = |target: &AuditReport, text: &String| if several { format!("{}: {text}", target.target) } else { text.clone() };
        let gather = |pick: fn(&AuditReport) -> &Vec<String>| -> Vec<String> {
            targets.iter().flat_map(|target| pick(target).iter().map(move |text| of_target(target, text))).collect()
        };
        let mut convicted: Vec<Convicted> = Vec::new();
        for found in targets.iter().flat_map(|target| &target.evidence) {
            if convicted.iter().all(|known| known.conviction.id != found.conviction.id) {
                convicted.push(found.clone());
            }
        }
        let record = |c: &Convicted| c.record.to_json(federation).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let evidence = convicted.iter().map(|c| json!({ "conviction": c.conviction, "record": record(c) })).collect();
        let shortest = targets.iter().min_by_key(|target| target.head);
        let entries = targets.iter().map(|target| target.entries).sum();
        let clean = targets.iter().all(|target| target.clean);
        let complete = !targets.is_empty() && targets.iter().all(|target| target.complete);
        let convicts = targets.iter().any(AuditReport::convicts);
        Self {
            federation_id: federation.id(),
            clean,
            complete,
            exit_code: match (convicts, clean, complete) {
                (true, ..) => 2,
                (_, false, _) => 1,
                (_, _, false) => 3,
                _ => 0,
            },
            level,
            entries,
            batches: targets.iter().map(|target| target.batches).sum(),
            signatures: targets.iter().map(|target| target.signatures).sum(),
            head: shortest.map_or(0, |target| target.head),
            log_root: shortest.map_or(Digest::ZERO, |target| target.log_root),
            bad_ranges: targets.iter().flat_map(|target| target.bad_ranges.clone()).collect(),
            first_bad: targets.iter().find_map(|target| target.first_bad.clone()),
            findings: targets.iter().flat_map(|target| target.findings.clone()).collect(),
            bad: targets.iter().map(|target| target.bad).sum(),
            evidence,
            made_good: gather(|target| &target.made_good),
            not_checked: gather(|target| &target.not_checked),
            seconds: took.as_secs_f64(),
            entries_per_second: (entries as f64 / took.as_secs_f64().max(1e-9)) as u64,
            convicted,
            targets,
        }
    }

    /// Who is convicted, of what.
    #[must_use]
    pub fn convictions(&self) -> &[Convicted] {
        &self.convicted
    }
}
