//! `exofed proof` and `exofed verify`: a portable proof, and checking it with the public genesis alone.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::{ClientArgs, Problem, Verdict, print_json, print_line};
use crate::config::FederationFile;
use crate::proof::CommitProof;
use crate::types::{ProofQuery, UpdateId};

/// Fetch the portable proof of one update; it is verified before it is written.
///
/// The proof holds the update's payload. Whoever has the federation's genesis can check it offline, with `exofed verify` or with a program of
/// their own (docs/proofs.md).
#[derive(clap::Args)]
pub(crate) struct Proof {
    #[command(flatten)]
    client: ClientArgs,
    /// The update's id; the latest one with this id.
    #[arg(required_unless_present = "sequence", conflicts_with = "sequence")]
    update_id: Option<String>,
    /// The update's place in the log.
    #[arg(long)]
    sequence: Option<u64>,
    /// Where to write the proof; standard output if not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write a self-contained HTML page that shows the update and verifies the proof in the reader's browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the proof on standard output also when it is written to a file; it is JSON in any case.
    #[arg(long)]
    json: bool,
}

impl Proof {
    pub(crate) async fn run(self) -> Verdict {
        let client = self.client.client()?;
        let query = match (self.sequence, self.update_id) {
            (Some(sequence), _) => ProofQuery::Sequence(sequence),
            (None, Some(id)) => ProofQuery::Id { update_id: UpdateId(id), author: None },
            (None, None) => return Err(Problem("name an update id or --sequence".into())),
        };
        let Some(proof) = client.proof(&query).await? else {
            return Err(Problem("no replica that answers holds such an update".into()));
        };
        let text = proof.to_json(client.federation())?;
        if let Some(path) = &self.html {
            fs::write(path, proof.to_html(client.federation())?).map_err(|e| Problem(format!("{}: {e}", path.display())))?;
            eprintln!("wrote {}", path.display());
        }
        match self.output {
            None if self.html.is_some() && !self.json => {}
            Some(path) if !self.json => {
                fs::write(&path, text)?;
                eprintln!("wrote {}", path.display());
            }
            path => {
                path.map_or(Ok(()), |path| fs::write(path, &text))?;
                print_line(String::from_utf8_lossy(&text).trim_end_matches('\n'))?;
            }
        }
        Ok(true)
    }
}

/// Check a proof offline, with nothing but the federation's genesis.
///
/// Exit code 0 if the proof holds, 1 if it does not.
#[derive(clap::Args)]
pub(crate) struct Verify {
    /// The proof, as `exofed proof` writes it.
    proof: PathBuf,
    /// The federation's public genesis (federation.toml).
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Also check that the update's payload is the content of this file.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Verdict {
        let federation = FederationFile::read_genesis(&self.genesis)?;
        let bytes = fs::read(&self.proof).map_err(|e| Problem(format!("{}: {e}", self.proof.display())))?;
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
