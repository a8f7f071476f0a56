//! `exofed export`: the log as static files, and what other people's programs need to check it.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::checkpoint::{Opened, Source};
use super::{Verdict, print_json, print_line};
use crate::config::FederationFile;
use crate::export::{export_directory, export_live};
use crate::proof::policy_text;
use crate::types::{Federation, NoteKey, NoteKeyKind, checkpoint_origin};

/// Export the log, or its keys, in the C2SP forms that other people's programs read.
#[derive(clap::Subcommand)]
pub(crate) enum Export {
    /// Write the log as a static tree of files that any web server can serve (C2SP tlog-tiles).
    ///
    /// The tree holds the leaves (author, id, time, payload digest), not the payloads, up to the newest published checkpoint. Run it again to bring the
    /// same directory up to date: full tiles are never rewritten, and the checkpoint is replaced last.
    Tiles(Tiles),
    /// Print the policy by which others check checkpoints and proofs: every member's key, and the quorum (C2SP tlog-policy).
    Policy(Policy),
}

/// A static tree.
#[derive(clap::Args)]
pub(crate) struct Tiles {
    #[command(flatten)]
    source: Source,
    /// Where to write: a new or empty directory, or an earlier export of the same log.
    #[arg(long, value_name = "OUT")]
    to: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Keys and quorum.
#[derive(clap::Args)]
pub(crate) struct Policy {
    /// The federation's public genesis (federation.toml).
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Print one JSON document: origin, quorum, and the verifier keys as logs and as witnesses.
    #[arg(long)]
    json: bool,
}

impl Export {
    pub(crate) async fn run(self) -> Verdict {
        match self {
            Self::Tiles(tiles) => tiles.run().await,
            Self::Policy(policy) => policy.run(),
        }
    }
}

impl Tiles {
    async fn run(self) -> Verdict {
        let style = ProgressStyle::with_template("{pos} entries  {per_sec}  {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        let exported = match self.source.open()? {
            Opened::Directory(target, federation) => {
                tokio::task::block_in_place(|| export_directory(&target, &federation, &self.to, |done| bar.set_position(done)))
            }
            Opened::Live(client) => export_live(&client, &self.to, |done| bar.set_position(done)).await,
        };
        bar.finish_and_clear();
        let exported = exported?;
        if self.json {
            print_json(&exported)?;
        } else {
            let added = exported.size - exported.size_before;
            print_line(&format!("{}: {} entries, {added} of them new, {} files written", self.to.display(), exported.size, exported.files_written))?;
            print_line(&format!("log root {}", exported.root))?;
        }
        Ok(true)
    }
}

impl Policy {
    fn run(self) -> Verdict {
        let federation = FederationFile::read_genesis(&self.genesis)?;
        if self.json {
            let (logs, witnesses) = (vkeys(&federation, NoteKeyKind::Log), vkeys(&federation, NoteKeyKind::Cosigner));
            let origin = checkpoint_origin(federation.id());
            print_json(&json!({ "origin": origin, "quorum": federation.quorum(), "logs": logs, "witnesses": witnesses }))?;
        } else {
            print_line(policy_text(&federation).trim_end_matches('\n'))?;
        }
        Ok(true)
    }
}

fn vkeys(federation: &Federation, kind: NoteKeyKind) -> Vec<String> {
    (0..).zip(federation.members()).filter_map(|(at, _)| NoteKey::of_member(federation, at, kind)).map(|key| key.vkey()).collect()
}
