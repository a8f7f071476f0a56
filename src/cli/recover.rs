//! `exofed recover --check`: a start that changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Problem, Verdict, print_json, print_line};
use crate::config::ReplicaFile;
use crate::recovery::{DataDir, Inputs, RecoveryError, recover};

/// Replay a stopped replica's journal as a start would, in a private copy, and print the recovery report.
///
/// Not a byte of the replica's data changes. Needs room for a copy of it. Exit code 0 if nothing is damaged and the replica may vote.
#[derive(clap::Args)]
pub(crate) struct Recover {
    /// The replica's directory (DIR/replica-K).
    target: PathBuf,
    /// Change nothing: the only mode there is; a start repairs by itself.
    #[arg(long, required = true)]
    check: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Recover {
    pub(crate) fn run(self) -> Verdict {
        let config = ReplicaFile::load(&self.target.join("replica.toml"))?;
        let journal = config.data.journal();
        if fs::File::open(&journal).is_ok_and(|dir| dir.try_lock().is_err()) {
            return Err(Problem(format!("{} is in use by a running replica; stop it first", journal.display())));
        }
        let copy = tempfile::tempdir_in(&self.target).or_else(|_| tempfile::tempdir())?;
        copy_tree(&config.data.0, copy.path())?;
        let inputs = Inputs {
            key: config.secret.consensus_key(),
            federation: config.federation,
            me: config.me,
            core: config.core,
            journal: config.journal,
            store: config.store,
            nonce: 0,
        };
        let recovered = match recover(&DataDir(copy.path().to_path_buf()), inputs) {
            Ok(recovered) => recovered,
            Err(error) => return self.refused(&error),
        };
        let report = &recovered.report;
        let sound = report.damaged.is_empty() && report.suspect.is_none();
        if self.json {
            print_json(report)?;
        } else {
            print_line(&format!(
                "log head {}, {} journal records read, {} replayed, {} batches appended to the log, {} pages and rows cut, {} ms",
                report.log_head, report.journal_records, report.replayed, report.appended, report.cut, report.millis
            ))?;
            report.damaged.iter().try_for_each(|damage| print_line(&format!("damaged: {damage}")))?;
            report.repaired.iter().try_for_each(|repair| print_line(&format!("repaired: {repair}")))?;
            match &report.suspect {
                Some(reason) => print_line(&format!("suspect: a start would serve and not vote: {reason}"))?,
                None => print_line("a start would vote")?,
            }
        }
        Ok(sound)
    }

    fn refused(&self, error: &RecoveryError) -> Verdict {
        if self.json {
            print_json(&json!({ "refused": error.to_string() }))?;
        } else {
            print_line(&format!("a start would be refused: {error}"))?;
        }
        Ok(false)
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
