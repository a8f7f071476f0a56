//! `exofed evidence`: who contradicted itself, as records that convict with the genesis alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Problem, Verdict, print_json, print_line};
use crate::audit::data_dir;
use crate::client::Client;
use crate::config::{ClientFile, FederationFile};
use crate::crypto::Digest;
use crate::store::{Store, StoreOptions};
use crate::types::{self, Conviction, Federation};

const CAVEAT: &str = "this proves that the key was misused, not by whom or why: a restored backup or a stolen key contradicts itself too";

/// Who contradicted itself: list, show, export and verify the evidence that replicas hold.
///
/// A record holds two statements that one member signed and that no correct replica signs both. It verifies with the federation's genesis alone,
/// and proves misuse of a key, not intent.
#[derive(clap::Subcommand)]
pub(crate) enum Evidence {
    /// List what a stopped replica's directory, or every replica of a live federation, holds.
    List(Held),
    /// Show one record in full.
    Show(One),
    /// Write one record as a file that `exofed evidence verify` reads.
    Export(Export),
    /// Check a record offline, with nothing but the federation's genesis.
    ///
    /// Exit code 0 if it convicts, 1 if it does not.
    Verify(Verify),
}

/// Where evidence is looked for.
#[derive(clap::Args)]
pub(crate) struct Held {
    /// A stopped replica's directory (DIR/replica-K) or data directory; or a client's configuration (client.toml), for a live federation.
    target: PathBuf,
    /// The federation's public genesis (federation.toml); needed for a directory.
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// One record of what is held.
#[derive(clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    held: Held,
    /// The record's id, or how it begins.
    #[arg(long)]
    id: String,
}

/// One record, and where it goes.
#[derive(clap::Args)]
pub(crate) struct Export {
    #[command(flatten)]
    one: One,
    /// Where to write the record; standard output if not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A record's file.
#[derive(clap::Args)]
pub(crate) struct Verify {
    /// The record, as `exofed evidence export` writes it.
    record: PathBuf,
    /// The federation's public genesis (federation.toml).
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// A verified record, and who holds it.
struct Record {
    evidence: types::Evidence,
    conviction: Conviction,
    holders: Vec<String>,
}

/// What was found, and who could not be asked.
struct Found {
    federation: Federation,
    records: BTreeMap<Digest, Record>,
    silent: Vec<String>,
}

impl Evidence {
    pub(crate) async fn run(self) -> Verdict {
        match self {
            Self::List(held) => held.list().await,
            Self::Show(one) => {
                let (federation, record) = one.find().await?;
                if one.held.json {
                    print_json(&as_json(&record))?
                } else {
                    show(&federation, &record)?
                }
                Ok(true)
            }
            Self::Export(export) => {
                let (federation, record) = export.one.find().await?;
                let text = record.evidence.to_json(&federation)?;
                match export.output {
                    Some(path) => {
                        fs::write(&path, text).map_err(|e| Problem(format!("{}: {e}", path.display())))?;
                        eprintln!("wrote {}", path.display());
                    }
                    None => print_line(String::from_utf8_lossy(&text).trim_end())?,
                }
                Ok(true)
            }
            Self::Verify(verify) => verify.run(),
        }
    }
}

impl Held {
    async fn look(&self) -> Result<Found, Problem> {
        if self.target.is_file() {
            return live(&self.target).await;
        }
        let genesis = self.genesis.as_ref().ok_or_else(|| Problem("a directory's evidence needs --genesis FILE".into()))?;
        let federation = FederationFile::read_genesis(genesis)?;
        let data = data_dir(&self.target);
        let (_copy, store, _) = Store::open_copy(&data, federation.id(), &StoreOptions::default())
            .map_err(|e| Problem(format!("{}: {e} (of a running replica, ask it: give a client.toml instead)", data.display())))?;
        let mut found = Found { federation, records: BTreeMap::new(), silent: vec![] };
        for evidence in store.reader().evidence()? {
            found.add(evidence, &self.target.display().to_string())?;
        }
        Ok(found)
    }

    async fn list(self) -> Verdict {
        let found = self.look().await?;
        if self.json {
            let records: Vec<Value> = found.records.values().map(as_json).collect();
            print_json(&json!({ "federation_id": found.federation.id(), "evidence": records, "not_asked": found.silent }))?;
            return Ok(true);
        }
        for Record { conviction: c, holders, .. } in found.records.values() {
            print_line(&format!("{}  {c}  (held by {})", c.id.short(), holders.join(", ")))?;
        }
        found.silent.iter().for_each(|silent| eprintln!("not asked: {silent}"));
        if found.records.is_empty() {
            eprintln!("no evidence");
        } else {
            eprintln!("{CAVEAT}");
        }
        Ok(true)
    }
}

impl Found {
    fn add(&mut self, evidence: types::Evidence, holder: &str) -> Result<(), Problem> {
        let conviction = evidence.verify(&self.federation).map_err(|e| Problem(format!("{holder} holds a record that proves nothing: {e}")))?;
        let record = Record { evidence, conviction, holders: vec![] };
        self.records.entry(record.conviction.id).or_insert(record).holders.push(holder.to_owned());
        Ok(())
    }
}

/// Asks every replica; one that does not answer does not hide what others hold.
async fn live(config: &Path) -> Result<Found, Problem> {
    let client = Client::new(ClientFile::load(config).map_err(|e| Problem(e.to_string()))?);
    let answers = client.evidence().await;
    let federation = client.federation().clone();
    let mut found = Found { federation: Federation::clone(&federation), records: BTreeMap::new(), silent: vec![] };
    for (member, answer) in federation.members().iter().zip(answers) {
        match answer {
            Ok(held) => held.into_iter().try_for_each(|evidence| found.add(evidence, &member.peer.to_string()))?,
            Err(error) => found.silent.push(error.to_string()),
        }
    }
    if found.silent.len() == federation.size() {
        return Err(Problem(format!("no replica answers: {}", found.silent.join("; "))));
    }
    Ok(found)
}

impl One {
    async fn find(&self) -> Result<(Federation, Record), Problem> {
        let found = self.held.look().await?;
        let mut matching: Vec<Record> =
            found.records.into_iter().filter(|(id, _)| id.to_string().starts_with(&self.id)).map(|(_, record)| record).collect();
        match (matching.pop(), matching.is_empty()) {
            (Some(record), true) => Ok((found.federation, record)),
            (None, _) => Err(Problem(format!("no evidence has an id that begins with {}; exofed evidence list shows them", self.id))),
            (Some(_), false) => Err(Problem(format!("more than one record has an id that begins with {}", self.id))),
        }
    }
}

impl Verify {
    fn run(self) -> Verdict {
        let federation = FederationFile::read_genesis(&self.genesis)?;
        let bytes = fs::read(&self.record).map_err(|e| Problem(format!("{}: {e}", self.record.display())))?;
        let verified = types::Evidence::from_json(&bytes, &federation).and_then(|evidence| Ok(evidence.verify(&federation)?));
        match &verified {
            Ok(c) if self.json => print_json(&json!({ "valid": true, "conviction": c, "reason": null, "proves": CAVEAT }))?,
            Ok(c) => {
                print_line(&format!("valid: {c}"))?;
                print_line(CAVEAT)?;
            }
            Err(reason) if self.json => print_json(&json!({ "valid": false, "conviction": null, "reason": reason.to_string() }))?,
            Err(reason) => print_line(&format!("NOT valid: {reason}"))?,
        }
        Ok(verified.is_ok())
    }
}

fn as_json(record: &Record) -> Value {
    json!({ "conviction": record.conviction, "held_by": record.holders })
}

fn show(federation: &Federation, record: &Record) -> Result<(), Problem> {
    let c = &record.conviction;
    print_line(&format!("evidence  {}", c.id))?;
    print_line(&format!("member    {} (number {} of federation {})", c.member, c.replica, federation.id()))?;
    print_line(&format!("rule      {}", c.rule))?;
    print_line(&format!("place     view {}, slot {}", c.view, c.slot))?;
    print_line(&format!("says      it {}", c.says))?;
    for digest in &c.digests {
        print_line(&format!("digest    {digest}"))?;
    }
    print_line(&format!("held by   {}", record.holders.join(", ")))?;
    print_line(String::from_utf8_lossy(&record.evidence.to_json(federation)?).trim_end())?;
    print_line(CAVEAT)
}
