//! `exofed audit`: the whole history of one replica, offline.

use std::fs;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Verdict, print_json, print_line};
use crate::audit::{AuditReport, audit, data_dir};
use crate::config::{FederationFile, ReplicaFile, read_toml};

/// Check a replica's whole history offline, without changing a byte.
///
/// Reads the journal's segments, of a running replica too, and checks the chain, every log root, every certificate, every author's signature and
/// every body; of a stopped replica also that its sled log, Merkle files and index say the same. Exit code 0 if everything is clean.
#[derive(clap::Args)]
pub(crate) struct Audit {
    /// A replica's directory (DIR/replica-K), or its data directory.
    target: PathBuf,
    /// The federation's public genesis (federation.toml).
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(crate) fn run(self) -> Verdict {
        let federation = FederationFile::read_genesis(&self.genesis)?;
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} entries checked, {per_sec}") {
            bar.set_style(style);
        }
        let mut report = audit(&data_dir(&self.target), &federation, |entries| bar.set_position(entries))?;
        bar.finish_and_clear();
        self.check_configuration(&mut report);
        if self.json {
            print_json(&report)?;
        } else {
            show(&report)?;
        }
        Ok(report.clean)
    }

    /// The files beside the data, when a whole replica directory is given.
    fn check_configuration(&self, report: &mut AuditReport) {
        let path = self.target.join("replica.toml");
        if !path.exists() {
            return;
        }
        match ReplicaFile::load(&path) {
            Ok(config) => {
                // A start reads the directory that is configured; another one, however clean, says nothing of it.
                let (audited, configured) = (data_dir(&self.target), config.data.0);
                let same = fs::canonicalize(&audited).ok().is_some_and(|a| fs::canonicalize(&configured).is_ok_and(|c| a == c));
                if !same {
                    report.found("configuration", &audited.display().to_string(), &configured.display().to_string());
                }
            }
            Err(error) => {
                // A genesis that moved is no damage to the replica; what it names itself is.
                let rule = if read_toml::<ReplicaFile>(&path).is_err() { "configuration" } else { "secret" };
                report.found(rule, "a configuration and secret that fit the genesis", &error.to_string());
            }
        }
    }
}

fn show(report: &AuditReport) -> Result<(), super::Problem> {
    let verdict = if report.clean { "clean" } else { "NOT clean" };
    let (entries, batches, signatures, rate) = (report.entries, report.batches, report.signatures, report.entries_per_second);
    print_line(&format!("{verdict}: {entries} entries in {batches} batches, {signatures} signatures checked, {rate} entries a second"))?;
    print_line(&format!("log root {} at sequence {}", report.log_root, report.head))?;
    for bad in report.findings.iter().take(20) {
        print_line(&format!("  slot {} sequence {}: {}: expected {}, found {}", bad.slot, bad.sequence, bad.rule, bad.expected, bad.found))?;
    }
    if report.bad > 20 {
        print_line(&format!("  and {} more", report.bad - 20))?;
    }
    for damage in &report.made_good {
        print_line(&format!("  made good: {damage}; its batches are in the journal again"))?;
    }
    for what in &report.not_checked {
        print_line(&format!("  not checked: {what}"))?;
    }
    if report.behind_log > 0 {
        print_line(&format!("  {} batches of the log lie beyond the journal's last certificate; the next start completes it", report.behind_log))?;
    }
    Ok(())
}
