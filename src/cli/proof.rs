//! `exofed proof` and `exofed verify`: a portable proof, and checking it with the public genesis alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::checkpoint::{cosigners, describe};
use super::{ClientArgs, Problem, Verdict, print_json, print_line};
use crate::config::FederationFile;
use crate::crypto::Digest;
use crate::proof::{CONSISTENCY_FORMAT, CommitProof, ConsistencyProof, ProofError, TLOG_PROOF_FORMAT, TlogProof};
use crate::types::{ConsistencyQuery, Federation, ORIGIN_PREFIX, ProofQuery, PublishedCheckpoint, UpdateId};

/// Fetch the portable proof of one update; it is verified before it is written.
///
/// The proof holds the update's payload. Whoever has the federation's genesis can check it offline, with `exofed verify` or with a program of
/// their own (docs/proofs.md).
#[derive(clap::Args)]
pub(crate) struct Proof {
    #[command(flatten)]
    client: ClientArgs,
    /// The update's id; the latest one with this id.
    #[arg(required_unless_present_any = ["sequence", "consistency"], conflicts_with = "sequence")]
    update_id: Option<String>,
    /// The update's place in the log.
    #[arg(long)]
    sequence: Option<u64>,
    /// Prove instead that the log after the batch that holds entry OLD is the beginning of the log after the one that holds NEW (the newest if not given).
    #[arg(long, num_args = 1..=2, value_names = ["OLD", "NEW"], conflicts_with_all = ["update_id", "sequence", "html"])]
    consistency: Vec<u64>,
    /// The proof's form; by the ending of the output file if not given.
    #[arg(long, value_enum, conflicts_with_all = ["consistency", "html"])]
    form: Option<Form>,
    /// Where to write the proof; standard output if not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write a self-contained HTML page that shows the update and verifies the proof in the reader's browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the proof on standard output also when it is written to a file.
    #[arg(long)]
    json: bool,
}

/// In which form a proof is written.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// This program's own: with the payload, and of the batch's own commit.
    Json,
    /// C2SP's (tlog-proof, files that end in .tlog-proof): of the entry in the newest published checkpoint, without the payload.
    Tlog,
}

impl Proof {
    fn form(&self) -> Form {
        let by_ending = || self.output.as_ref().and_then(|path| path.extension()).filter(|ending| *ending == "tlog-proof").map(|_| Form::Tlog);
        let own = self.html.is_some() || !self.consistency.is_empty();
        self.form.or_else(|| if own { None } else { by_ending() }).unwrap_or(Form::Json)
    }

    pub(crate) async fn run(self) -> Verdict {
        let client = self.client.client()?;
        if let Some(old) = self.consistency.first() {
            let query = ConsistencyQuery { old: *old, new: self.consistency.get(1).copied() };
            let Some(proof) = client.consistency(query).await? else {
                return Err(Problem("no replica that answers holds both entries, in that order".into()));
            };
            return write_proof(&proof.to_json(client.federation())?, self.output.as_deref(), self.json);
        }
        let query = match (self.sequence, self.update_id.clone()) {
            (Some(sequence), _) => ProofQuery::Sequence(sequence),
            (None, Some(id)) => ProofQuery::Id { update_id: UpdateId(id), author: None },
            (None, None) => return Err(Problem("name an update id or --sequence".into())),
        };
        let missing = || Problem("no replica that answers holds such an update".into());
        if self.form() == Form::Tlog {
            let proof = client.published_proof(&query).await?.ok_or_else(missing)?;
            return write_proof(proof.to_text(client.federation()).as_bytes(), self.output.as_deref(), self.json);
        }
        let proof = client.proof(&query).await?.ok_or_else(missing)?;
        let text = proof.to_json(client.federation())?;
        if let Some(path) = &self.html {
            fs::write(path, proof.to_html(client.federation())?).map_err(|e| Problem(format!("{}: {e}", path.display())))?;
            eprintln!("wrote {}", path.display());
        }
        if self.html.is_some() && self.output.is_none() && !self.json {
            return Ok(true);
        }
        write_proof(&text, self.output.as_deref(), self.json)
    }
}

/// To a file, or to standard output, or both.
fn write_proof(text: &[u8], output: Option<&Path>, json: bool) -> Verdict {
    if let Some(path) = output {
        fs::write(path, text).map_err(|e| Problem(format!("{}: {e}", path.display())))?;
    }
    match output {
        Some(path) if !json => eprintln!("wrote {}", path.display()),
        _ => print_line(String::from_utf8_lossy(text).trim_end_matches('\n'))?,
    }
    Ok(true)
}

/// Check a proof or a checkpoint offline, with nothing but the federation's genesis.
///
/// A proof of an update, in either form; a proof that one log is the beginning of another; or a published checkpoint.
///
/// Exit code 0 if the proof holds, 1 if it does not.
#[derive(clap::Args)]
pub(crate) struct Verify {
    /// The proof, as `exofed proof` writes it, or the checkpoint, as `exofed checkpoint` prints it.
    proof: PathBuf,
    /// The federation's public genesis (federation.toml).
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Also check that the update's payload is the content of this file.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// For a consistency proof: an earlier proof (JSON), whose log must be the older one.
    #[arg(long, value_name = "PROOF", conflicts_with = "data")]
    since: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What a file says it is.
#[derive(serde::Deserialize)]
struct Kind {
    format: String,
}

/// What a file is by its beginning.
enum Text {
    Note,
    TlogProof,
    Other,
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            _ if bytes.starts_with(TLOG_PROOF_FORMAT.as_bytes()) => Self::TlogProof,
            _ if bytes.starts_with(ORIGIN_PREFIX.as_bytes()) => Self::Note,
            _ => Self::Other,
        }
    }
}

fn is_consistency(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Kind>(bytes).is_ok_and(|kind| kind.format == CONSISTENCY_FORMAT)
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|e| Problem(format!("{}: {e}", path.display())))
}

impl Verify {
    fn consistency(&self, bytes: &[u8], federation: &Federation) -> Verdict {
        let since = self.since.as_deref().map(read).transpose()?;
        let checked = ConsistencyProof::from_json(bytes, federation).and_then(|proof| proof.verify(federation).map(|()| proof));
        let checked = checked.map_err(|e| e.to_string()).and_then(|proof| match since.map(|bytes| end_of(&bytes, federation)) {
            Some(Err(reason)) => Err(format!("the earlier proof: {reason}")),
            Some(Ok((size, root))) if (size, root) != (proof.old_size, proof.old_root) => Err(format!(
                "the earlier proof is of {size} entries with root {root}, this one begins at {} with root {}",
                proof.old_size, proof.old_root
            )),
            _ => Ok(proof),
        });
        match &checked {
            Ok(proof) if self.json => print_json(&json!({
                "valid": true, "old_size": proof.old_size, "old_root": proof.old_root, "new_size": proof.header.last_sequence(),
                "new_root": proof.header.log_root, "slot": proof.header.slot, "reason": null,
            }))?,
            Ok(proof) => {
                let (size, root) = (proof.header.last_sequence(), proof.header.log_root);
                print_line(&format!("valid: the log of {} entries with root {}", proof.old_size, proof.old_root))?;
                print_line(&format!("is the beginning of the log of {size} with root {root}, committed in slot {}", proof.header.slot))?;
            }
            Err(reason) if self.json => print_json(&json!({ "valid": false, "reason": reason }))?,
            Err(reason) => print_line(&format!("NOT valid: {reason}"))?,
        }
        Ok(checked.is_ok())
    }

    fn note(&self, bytes: &[u8], federation: &Federation) -> Verdict {
        let checked = PublishedCheckpoint::from_note(bytes, federation).and_then(|note| Ok(note.verify(federation).map(|()| note)?));
        match &checked {
            Ok(note) if self.json => {
                let mut document = describe(note, federation);
                (document["valid"], document["reason"]) = (true.into(), serde_json::Value::Null);
                print_json(&document)?;
            }
            Ok(note) => {
                print_line(&format!("valid: the log of federation {} has {} entries with root {}", federation.id(), note.size, note.root))?;
                print_line(&format!("cosigned by {}", cosigners(note, federation)))?;
            }
            Err(reason) => self.refuse(&reason.to_string())?,
        }
        Ok(checked.is_ok())
    }

    fn tlog_proof(&self, bytes: &[u8], federation: &Federation) -> Verdict {
        let checked = TlogProof::from_text(bytes, federation).and_then(|proof| proof.verify(federation).map(|()| proof));
        match &checked {
            Ok(proof) if self.json => {
                let leaf = &proof.leaf;
                print_json(&json!({
                    "valid": true, "update_id": leaf.update_id, "sequence": leaf.sequence, "author": leaf.author, "timestamp": leaf.timestamp,
                    "data_length": leaf.data_length, "data_digest": leaf.data_digest, "checkpoint": describe(&proof.checkpoint, federation), "reason": null,
                }))?;
            }
            Ok(proof) => {
                let (leaf, size) = (&proof.leaf, proof.checkpoint.size);
                print_line(&format!("valid: update {} is entry {} of federation {}", leaf.update_id, leaf.sequence, federation.id()))?;
                print_line(&format!("in its log of {size} entries, cosigned by {}", cosigners(&proof.checkpoint, federation)))?;
            }
            Err(reason) => self.refuse(&reason.to_string())?,
        }
        Ok(checked.is_ok())
    }

    fn refuse(&self, reason: &str) -> Result<(), Problem> {
        if self.json { print_json(&json!({ "valid": false, "reason": reason })) } else { print_line(&format!("NOT valid: {reason}")) }
    }

    pub(crate) fn run(self) -> Verdict {
        let federation = FederationFile::read_genesis(&self.genesis)?;
        let bytes = read(&self.proof)?;
        if is_consistency(&bytes) {
            return self.consistency(&bytes, &federation);
        }
        match Text::of(&bytes) {
            Text::Other => {}
            _ if self.since.is_some() || self.data.is_some() => {
                return Err(Problem("--since and --data are for proofs in this program's own form; this one holds no payload and no salt".into()));
            }
            Text::Note => return self.note(&bytes, &federation),
            Text::TlogProof => return self.tlog_proof(&bytes, &federation),
        }
        if self.since.is_some() {
            return Err(Problem("--since is for consistency proofs, and this is the proof of an update".into()));
        }
        let data = self.data.map(|path| fs::read(&path).map_err(|e| Problem(format!("{}: {e}", path.display())))).transpose()?;
        let checked = CommitProof::from_json(&bytes, &federation).and_then(|proof| {
            let verified = proof.verify(&federation)?;
            data.as_ref().map_or(Ok(()), |data| proof.verify_data(data))?;
            Ok(verified)
        });
        match checked {
            Ok(proof) => {
                if self.json {
                    print_json(&json!({
                        "valid": true, "update_id": proof.update_id, "sequence": proof.sequence, "slot": proof.slot, "author": proof.author,
                        "timestamp": proof.timestamp, "committed_at": proof.committed_at, "signers": proof.signers, "reason": null,
                    }))?;
                } else {
                    let signers: Vec<String> = proof.signers.iter().map(ToString::to_string).collect();
                    print_line(&format!("valid: update {} is entry {} of federation {}", proof.update_id, proof.sequence, federation.id()))?;
                    print_line(&format!("committed in slot {} by {} (a quorum is {})", proof.slot, signers.join(", "), federation.quorum()))?;
                }
                Ok(true)
            }
            Err(reason) => {
                if self.json {
                    print_json(&json!({ "valid": false, "update_id": null, "sequence": null, "signers": [], "reason": reason.to_string() }))?;
                } else {
                    print_line(&format!("NOT valid: {reason}"))?;
                }
                Ok(false)
            }
        }
    }
}

/// The log that an earlier proof ends with: its size and root.
fn end_of(bytes: &[u8], federation: &Federation) -> Result<(u64, Digest), ProofError> {
    let header = if is_consistency(bytes) {
        let proof = ConsistencyProof::from_json(bytes, federation)?;
        proof.verify(federation)?;
        proof.header
    } else {
        let proof = CommitProof::from_json(bytes, federation)?;
        proof.verify(federation)?;
        proof.header
    };
    Ok((header.last_sequence(), header.log_root))
}
