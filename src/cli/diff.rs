//! `exofed diff`: the first difference between two copies of the log.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Problem, print_json, print_line};
use crate::audit::{Comparison, Difference, Side, Which, data_dir, diff};
use crate::client::Client;
use crate::config::{ClientFile, FederationFile};
use crate::types::Federation;

/// Find the first difference between two copies of the log, and what it is.
///
/// Compares a handful of batches, however long the logs are: headers are chained, so equal headers at a slot mean equal logs up to it. Says whether
/// one copy lags, lacks a payload or is damaged, or whether the federation forked. It looks at what it passes; exofed audit looks at everything.
///
/// Exit code 0 if the copies are the same or one lags, 1 if one is damaged or lacks a payload, 2 after a fork, 3 if it cannot be told.
#[derive(clap::Args)]
pub(crate) struct Diff {
    /// A stopped replica's directory, or a running replica as CLIENT.toml@LABEL (fed/client.toml@replica-2).
    a: String,
    /// The other one.
    b: String,
    /// The federation's public genesis (federation.toml).
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// A live target's client, which must outlive the comparison.
fn client_of(target: &str, federation: &Federation) -> Result<Option<(Client, usize)>, Problem> {
    if Path::new(target).exists() {
        let hint = || Problem(format!("{target} is a file; name the replica as well: {target}@{}", federation.members()[0].peer));
        return if Path::new(target).is_file() { Err(hint()) } else { Ok(None) };
    }
    let Some((file, label)) = target.rsplit_once('@') else {
        return Err(Problem(format!("{target}: no such directory; a running replica is CLIENT.toml@LABEL")));
    };
    let client = Client::new(ClientFile::load(Path::new(file)).map_err(|e| Problem(e.to_string()))?);
    if client.federation().id() != federation.id() {
        return Err(Problem(format!("{file} is for federation {}, the genesis is of {}", client.federation().id(), federation.id())));
    }
    let replica = federation.members().iter().position(|member| member.peer.0 == label);
    let replica = replica.ok_or_else(|| Problem(format!("{label} is no member of the federation")))?;
    Ok(Some((client, replica)))
}

fn side<'a>(target: &str, live: Option<&'a (Client, usize)>, federation: &Federation) -> Result<Side<'a>, Problem> {
    match live {
        Some((client, replica)) => Ok(Side::live(target, client, *replica)),
        None => Side::directory(target, &data_dir(Path::new(target)), federation)
            .map_err(|e| Problem(format!("{target}: {e} (a running replica is CLIENT.toml@LABEL)"))),
    }
}

impl Diff {
    /// Yields the exit code.
    pub(crate) async fn run(self) -> Result<u8, Problem> {
        let federation = FederationFile::read_genesis(&self.genesis)?;
        let (live_a, live_b) = (client_of(&self.a, &federation)?, client_of(&self.b, &federation)?);
        let (a, b) = (side(&self.a, live_a.as_ref(), &federation)?, side(&self.b, live_b.as_ref(), &federation)?);
        let comparison = diff(&federation, &a, &b).await?;
        if self.json {
            print_json(&as_json(&comparison, [a.name(), b.name()], &federation))?;
        } else {
            show(&comparison, [a.name(), b.name()])?;
        }
        Ok(match comparison.difference {
            Difference::Same | Difference::Lags { .. } => 0,
            Difference::LacksPayload { .. } | Difference::Damaged { .. } => 1,
            Difference::Fork { .. } => 2,
        })
    }
}

fn as_json(comparison: &Comparison, names: [&str; 2], federation: &Federation) -> Value {
    let end = |at: usize| json!({ "target": names[at], "slot": comparison.ends[at].slot, "sequence": comparison.ends[at].sequence, "log_root": comparison.ends[at].log_root });
    let evidence: Vec<Value> = comparison
        .convicted
        .iter()
        .map(|c| json!({ "conviction": c.conviction, "record": c.record.to_json(federation).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()) }))
        .collect();
    json!({ "difference": comparison.difference, "a": end(0), "b": end(1), "probes": comparison.probes, "evidence": evidence })
}

fn show(comparison: &Comparison, names: [&str; 2]) -> Result<(), Problem> {
    let name = |which: &Which| names[usize::from(*which == Which::B)];
    let text = match &comparison.difference {
        Difference::Same => "the same".to_owned(),
        Difference::Lags { side, slots, entries } => {
            format!("{} lags by {slots} batches, {entries} entries; up to there they are the same", name(side))
        }
        Difference::LacksPayload { side, slot, reason } => {
            format!("{} cannot give the payloads of slot {slot}: {reason}; its next start fetches them, or exofed recover", name(side))
        }
        Difference::Damaged { side, slot, reason } => format!("{} is damaged at slot {slot}: {reason}; exofed audit names everything", name(side)),
        Difference::Fork { slot } => format!("FORK at slot {slot}: both copies are committed there, and differ; stop relying on both"),
    };
    print_line(&text)?;
    for (end, name) in comparison.ends.iter().zip(names) {
        print_line(&format!("{name}: slot {}, sequence {}, log root {}", end.slot, end.sequence, end.log_root))?;
    }
    for found in &comparison.convicted {
        print_line(&format!("convicted: {}", found.conviction))?;
    }
    Ok(())
}
