//! Whether a run's result is right: all logs agree, each audits clean, and they hold what was acknowledged, exactly once.

use std::path::Path;

use serde::Serialize;

use super::BenchError;
use super::generator::{Generated, PROOFS_DIR};
use crate::audit::{Audit, AuditOptions, OldProofs};
use crate::crypto::Digest;
use crate::process;
use crate::types::{Federation, Sequence};

/// Findings that are told; more are counted.
const TOLD: usize = 20;

/// Whether figures may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The logs agree, audit clean, and hold what was acknowledged.
    Right,
    /// They do not: the figures mean nothing.
    Wrong,
}

/// What the stopped replicas' files say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// Whether anything is wrong.
    pub verdict: Verdict,
    /// What.
    pub findings: Vec<String>,
    /// Entries in every log.
    pub log_entries: u64,
    /// Batches in every log.
    pub log_batches: u64,
    /// The root of every log; of the first one if they differ.
    pub log_root: Digest,
    /// Proofs from the run that were looked up in every log.
    pub proofs_checked: u64,
    /// Signatures checked in all logs together.
    pub signatures_checked: u64,
}

/// Where one replica's log ends.
#[derive(Debug, Clone, PartialEq)]
struct End {
    peer: String,
    entries: u64,
    head: Sequence,
    root: Digest,
}

/// Checks the stopped federation in `dir` from its files alone.
pub(super) fn check(dir: &Path, federation: &Federation, generated: &Generated) -> Result<Checked, BenchError> {
    let proofs_dir = dir.join(PROOFS_DIR);
    let old_proofs = OldProofs::read(&proofs_dir, federation).map_err(BenchError::io(&proofs_dir))?;
    let (mut findings, proofs_checked) = (old_proofs.refused.clone(), old_proofs.count);
    let mut audit = Audit::new(federation, AuditOptions { old_proofs, ..AuditOptions::default() });
    for replica in 0..federation.size() {
        let peer = process::name(replica);
        let data = dir.join(&peer).join("data");
        // A journal that cannot even be opened is no less wrong than a damaged one.
        if let Err(error) = audit.directory(&peer, &data, &mut |_| {}) {
            findings.push(format!("{peer} cannot be audited: {error}"));
        }
    }
    let summary = audit.finish();
    for found in &summary.findings {
        findings.push(format!("{}: {}: expected {}, found {}", found.place, found.rule, found.expected, found.found));
    }
    for convicted in summary.convictions() {
        let conviction = &convicted.conviction;
        findings.push(format!("{} is convicted by {}: {}", conviction.member, conviction.rule, conviction.says));
    }
    let end = |target: &crate::audit::AuditReport| {
        if !(target.clean && target.complete) {
            findings.push(format!("{} does not audit clean", target.target));
        }
        End { peer: target.target.clone(), entries: target.entries, head: target.head, root: target.log_root }
    };
    let ends: Vec<End> = summary.targets.iter().map(end).collect();
    disagreements(&ends, &mut findings);
    unaccounted(&ends, generated, &mut findings);
    let more = findings.len().saturating_sub(TOLD);
    findings.truncate(TOLD);
    if more > 0 {
        findings.push(format!("{more} more"));
    }
    Ok(Checked {
        verdict: if findings.is_empty() { Verdict::Right } else { Verdict::Wrong },
        findings,
        log_entries: ends.first().map_or(0, |end| end.entries),
        log_batches: summary.targets.first().map_or(0, |target| target.batches),
        log_root: ends.first().map_or(Digest::ZERO, |end| end.root),
        proofs_checked,
        signatures_checked: summary.signatures,
    })
}

/// Logs that do not end alike. A root is of all entries, so equal roots are equal logs.
fn disagreements(ends: &[End], findings: &mut Vec<String>) {
    let Some((first, others)) = ends.split_first() else { return findings.push("there is no log".into()) };
    for other in others.iter().filter(|other| (other.head, other.root) != (first.head, first.root)) {
        findings.push(format!(
            "the logs disagree: {} ends at {} with root {}, {} at {} with root {}",
            first.peer, first.head, first.root, other.peer, other.head, other.root
        ));
    }
}

/// Acknowledgements and entries that do not add up. The load is alone with its federation: every entry is acknowledged, or of unknown fate.
fn unaccounted(ends: &[End], generated: &Generated, findings: &mut Vec<String>) {
    let Generated { acknowledged, unknown, repeated, highest, refused, .. } = *generated;
    if acknowledged == 0 {
        findings.push("no update was acknowledged".into());
    }
    if repeated > 0 {
        findings.push(format!("{repeated} sequence numbers were acknowledged for two updates"));
    }
    if refused > 0 {
        let reasons: Vec<&str> = generated.errors.keys().take(3).map(String::as_str).collect();
        findings.push(format!("{refused} updates were refused, though each was new and within the rules: {}", reasons.join("; ")));
    }
    for end in ends {
        if end.head < highest {
            findings.push(format!("{} ends at {}, but sequence number {highest} was acknowledged", end.peer, end.head));
        }
        if end.entries < acknowledged || end.entries > acknowledged + unknown {
            let (peer, entries) = (&end.peer, end.entries);
            findings.push(format!("{peer} holds {entries} entries; {acknowledged} updates were acknowledged, and the fate of {unknown} is unknown"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(peer: &str, entries: u64, root: u8) -> End {
        End { peer: peer.into(), entries, head: entries, root: Digest([root; 32]) }
    }

    fn found(ends: &[End], generated: &Generated) -> Vec<String> {
        let mut findings = Vec::new();
        disagreements(ends, &mut findings);
        unaccounted(ends, generated, &mut findings);
        findings
    }

    #[test]
    fn logs_that_hold_exactly_what_was_acknowledged_are_right() {
        let generated = Generated { acknowledged: 90, unknown: 10, highest: 95, ..Generated::default() };
        for entries in [95, 100] {
            assert_eq!(found(&[end("a", entries, 1), end("b", entries, 1)], &generated), Vec::<String>::new());
        }
    }

    #[test]
    fn whatever_does_not_add_up_is_found() {
        let good = Generated { acknowledged: 100, highest: 100, ..Generated::default() };
        let both = [end("a", 100, 1), end("b", 100, 1)];
        let cases: [(&[End], Generated, &str); 8] = [
            (&[end("a", 100, 1), end("b", 100, 2)], good.clone(), "disagree"),
            (&[end("a", 101, 1), end("b", 101, 1)], good.clone(), "a holds 101 entries"),
            (&[end("a", 99, 1), end("b", 99, 1)], good.clone(), "sequence number 100 was acknowledged"),
            (&both, Generated { acknowledged: 101, ..good.clone() }, "b holds 100 entries; 101"),
            (&both, Generated { repeated: 1, ..good.clone() }, "acknowledged for two"),
            (&both, Generated { refused: 1, ..good.clone() }, "refused"),
            (&[end("a", 0, 1)], Generated::default(), "no update"),
            (&[], good, "no log"),
        ];
        for (ends, generated, expected) in cases {
            let findings = found(ends, &generated);
            assert!(findings.iter().any(|finding| finding.contains(expected)), "{expected}: {findings:?}");
        }
    }
}
