//! `exofed recover`: repair offline what can be repaired, look without changing anything, or begin again on a new disk.

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Problem, Verdict, print_json, print_line};
use crate::config::ReplicaFile;
use crate::node::NodeConfig;
use crate::recovery::{DataDir, Inputs, RecoveryError, RecoveryReport, backup, recover, repair};

/// Repair a stopped replica's files offline, as far as they can be, and say what was done.
///
/// Recovers as a start would, then reads the whole journal and the whole log: a damaged log is rebuilt from the journal, what the journal lost and
/// the log still has is written to it again, and bodies that only a peer can give are noted for the next start to fetch. May be interrupted and
/// started again. Exit code 0 if nothing is left to repair and the replica may vote.
#[derive(clap::Args)]
pub(crate) struct Recover {
    /// The replica's directory (DIR/replica-K).
    target: PathBuf,
    /// Change nothing: replay as a start would, in a private copy, and print the report. Needs room for a copy of the data.
    #[arg(long, conflicts_with = "new_disk")]
    check: bool,
    /// The disk was lost: prepare an empty data directory for a replica that comes back suspect, and rejoins when it has caught up.
    #[arg(long)]
    new_disk: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Recover {
    pub(crate) fn run(self) -> Verdict {
        let config = ReplicaFile::load(&self.target.join("replica.toml"))?;
        if self.new_disk {
            return self.begin_again(&config);
        }
        let journal = config.data.journal();
        if fs::File::open(&journal).is_ok_and(|dir| dir.try_lock().is_err()) {
            return Err(Problem(format!("{} is in use by a running replica; stop it first", journal.display())));
        }
        let report = if self.check { self.check(&config) } else { self.repair(&config) };
        match report {
            Ok(report) => self.show(&report),
            Err(error) => self.refused(&error),
        }
    }

    /// A start in a private copy.
    fn check(&self, config: &NodeConfig) -> Result<RecoveryReport, Failure> {
        let copy = tempfile::tempdir_in(&self.target).or_else(|_| tempfile::tempdir())?;
        copy_tree(&config.data.0, copy.path())?;
        let dir = DataDir(copy.path().to_path_buf());
        Ok(recover(&dir, inputs(config))?.report)
    }

    fn repair(&self, config: &NodeConfig) -> Result<RecoveryReport, Failure> {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} batches read, {per_sec}") {
            bar.set_style(style);
        }
        let dir = config.data.clone();
        let report = repair::offline(&dir, || inputs(config), |_| bar.inc(1));
        bar.finish_and_clear();
        Ok(report?)
    }

    fn begin_again(&self, config: &NodeConfig) -> Verdict {
        backup::new_disk(&config.federation, &config.journal, &config.data)?;
        let dir = config.data.0.display();
        if self.json {
            print_json(&json!({ "new_disk": config.data.0 }))?;
        } else {
            print_line(&format!("{dir} is empty and suspect: the next start catches up from the peers, and votes again once that is safe"))?;
        }
        Ok(true)
    }

    fn show(&self, report: &RecoveryReport) -> Verdict {
        let sound = if self.check { report.damaged.is_empty() } else { report.missing.is_empty() } && report.suspect.is_none();
        if self.json {
            print_json(report)?;
            return Ok(sound);
        }
        print_line(&format!(
            "log head {}, {} journal records read, {} replayed, {} batches appended to the log, {} pages and rows cut, {} ms",
            report.log_head, report.journal_records, report.replayed, report.appended, report.cut, report.millis
        ))?;
        report.damaged.iter().try_for_each(|damage| print_line(&format!("damaged: {damage}")))?;
        report.repaired.iter().try_for_each(|repair| print_line(&format!("repaired: {repair}")))?;
        if !report.missing.is_empty() {
            print_line(&format!("{}: bodies that only a peer can give; the next start fetches them", repair::batches(&report.missing)))?;
        }
        match &report.suspect {
            Some(reason) => print_line(&format!("suspect: a start would serve and not vote: {reason}"))?,
            None => print_line("a start would vote")?,
        }
        Ok(sound)
    }

    fn refused(&self, error: &Failure) -> Verdict {
        let Failure::Refused(error) = error else { return Err(Problem(error.to_string())) };
        if self.json {
            print_json(&json!({ "refused": error.to_string() }))?;
        } else {
            print_line(&format!("a start would be refused: {error}"))?;
        }
        Ok(false)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A start would be refused for the same reason.
    #[error(transparent)]
    Refused(#[from] RecoveryError),
    /// The copy could not be made.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn inputs(config: &NodeConfig) -> Inputs {
    Inputs {
        key: config.secret.consensus_key(),
        federation: config.federation.clone(),
        me: config.me,
        core: config.core.clone(),
        journal: config.journal,
        store: config.store,
        // Nobody here rejoins.
        nonce: 0,
    }
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { copy_tree(&entry.path(), &target)? } else { fs::copy(entry.path(), &target).map(drop)? }
    }
    Ok(())
}
