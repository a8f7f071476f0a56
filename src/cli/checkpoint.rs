//! `exofed checkpoint`: the newest published checkpoint, as a note that anyone checks with the genesis alone.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Problem, Verdict, print_json, print_line};
use crate::client::Client;
use crate::config::{ClientFile, FederationFile};
use crate::export::published_in;
use crate::types::{Federation, PublishedCheckpoint};

/// Print the newest published checkpoint: size and root of the log, with the cosignatures of a quorum of members.
///
/// It is a C2SP note (tlog-checkpoint, tlog-cosignature). `exofed verify` checks it offline, and so does any program that reads such notes, given
/// the policy that `exofed export policy` prints.
#[derive(clap::Args)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    source: Source,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Where a published checkpoint comes from.
#[derive(clap::Args)]
pub(crate) struct Source {
    /// A replica's directory (DIR/replica-K), of a running replica too, or a data directory; or a client's configuration (client.toml), for a live federation.
    target: PathBuf,
    /// The federation's public genesis (federation.toml); needed for a directory.
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
}

/// A source that was opened.
pub(crate) enum Opened {
    Directory(PathBuf, Box<Federation>),
    Live(Box<Client>),
}

impl Source {
    pub(crate) fn open(self) -> Result<Opened, Problem> {
        if self.target.is_file() {
            let loaded = ClientFile::load(&self.target).map_err(|e| Problem(e.to_string()))?;
            return Ok(Opened::Live(Box::new(Client::new(loaded))));
        }
        let genesis = self.genesis.as_ref().ok_or_else(|| Problem("a directory's checkpoint needs --genesis FILE".into()))?;
        Ok(Opened::Directory(self.target, Box::new(FederationFile::read_genesis(genesis)?)))
    }
}

impl Checkpoint {
    pub(crate) async fn run(self) -> Verdict {
        let (federation, checkpoint) = match self.source.open()? {
            Opened::Directory(target, federation) => {
                let checkpoint = published_in(&target, &federation)?;
                (federation, checkpoint)
            }
            Opened::Live(client) => {
                let federation = Federation::clone(client.federation());
                let every = federation.parameters().checkpoint_slots;
                let none = || Problem(format!("no replica has published a checkpoint yet; one is every {every} slots"));
                (Box::new(federation), client.checkpoint().await?.ok_or_else(none)?)
            }
        };
        let note = checkpoint.to_note(&federation);
        if self.json {
            let mut document = describe(&checkpoint, &federation);
            document["note"] = Value::String(note);
            print_json(&document)?;
        } else {
            print_line(note.trim_end_matches('\n'))?;
        }
        Ok(true)
    }
}

/// What a verified checkpoint says.
pub(crate) fn describe(checkpoint: &PublishedCheckpoint, federation: &Federation) -> Value {
    let cosigners: Vec<Value> =
        checkpoint.cosignatures.iter().map(|c| json!({ "member": federation.peer(c.replica), "timestamp": c.timestamp })).collect();
    json!({ "size": checkpoint.size, "root": checkpoint.root, "cosigners": cosigners, "quorum": federation.quorum() })
}

/// Who cosigned, for people: labels, and the time of the earliest.
pub(crate) fn cosigners(checkpoint: &PublishedCheckpoint, federation: &Federation) -> String {
    let labels: Vec<String> = checkpoint.cosignatures.iter().filter_map(|c| federation.peer(c.replica)).map(ToString::to_string).collect();
    let earliest = checkpoint.cosignatures.iter().map(|c| c.timestamp).min().unwrap_or(0);
    // The form of RFC 3339 ends with the year 9999.
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(earliest.min(253_402_300_799));
    format!("{} (a quorum is {}), from {} on", labels.join(", "), federation.quorum(), humantime::format_rfc3339_seconds(time))
}
