//! `exofed backup` and `exofed restore`.

use std::path::PathBuf;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Problem, Verdict, print_json, print_line};
use crate::audit::{AuditReport, audit};
use crate::config::ReplicaFile;
use crate::recovery::backup::{backup, restore};

/// Copy a replica's history, of a running replica too, and check the copy.
///
/// The copy holds the journal's segments, from which everything else is rebuilt, and no votes. The secret and the configuration are not copied.
/// Nothing is overwritten. Exit code 0 if the copy was read back, page by page and as an audit does, and is clean.
#[derive(clap::Args)]
pub(crate) struct Backup {
    /// The replica's directory (DIR/replica-K).
    target: PathBuf,
    /// Where to write the copy; must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Make a replica's data directory from a backup.
///
/// The replica is suspect: what it signed since the backup is not in it. It serves, catches up, and votes again only once that is safe. The data
/// directory that DIR/replica-K/replica.toml names must be missing or empty.
#[derive(clap::Args)]
pub(crate) struct Restore {
    /// The backup.
    backup: PathBuf,
    /// The replica's directory (DIR/replica-K), with its configuration and secret.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn bytes_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {binary_bytes} copied, {binary_bytes_per_sec}") {
        bar.set_style(style);
    }
    bar
}

impl Backup {
    pub(crate) fn run(self) -> Verdict {
        let config = ReplicaFile::load(&self.target.join("replica.toml"))?;
        let bar = bytes_bar();
        let copied = backup(&config.federation, &config.journal, &config.data, &self.to, |bytes| bar.set_position(bytes))?;
        bar.finish_and_clear();
        let AuditReport { clean, head, first_bad, .. } = audit(&self.to, &config.federation, |_| {})?;
        if self.json {
            print_json(&json!({ "segments": copied.segments, "bytes": copied.bytes, "head": head, "clean": clean, "first_bad": first_bad }))?;
        } else {
            let size = HumanBytes(copied.bytes);
            print_line(&format!("{} segments, {size}, up to sequence {head}: {}", copied.segments, if clean { "clean" } else { "NOT clean" }))?;
            first_bad.map_or(Ok(()), |bad| print_line(&format!("  {}: expected {}, found {}", bad.rule, bad.expected, bad.found)))?;
        }
        Ok(clean)
    }
}

impl Restore {
    pub(crate) fn run(self) -> Verdict {
        let config = ReplicaFile::load(&self.to.join("replica.toml"))?;
        if !self.backup.join("backup").exists() {
            return Err(Problem(format!("{} is no backup: it holds no file named backup", self.backup.display())));
        }
        let bar = bytes_bar();
        restore(&config.federation, &config.journal, &self.backup, &config.data, |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        if self.json {
            print_json(&json!({ "restored": config.data.0 }))?;
        } else {
            let dir = config.data.0.display();
            print_line(&format!("{dir} is restored and suspect: the next start rebuilds the log, catches up, and votes again once that is safe"))?;
        }
        Ok(true)
    }
}
