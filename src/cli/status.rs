//! `exofed status`: where every replica stands.

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::{ClientArgs, Verdict, print_json, print_line};
use crate::error::FederationError;
use crate::types::ReplicaStatus;

/// Show where every replica stands.
///
/// Exit code 0 if a quorum answers and none is suspect, 1 otherwise.
#[derive(clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    client: ClientArgs,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) async fn run(self) -> Verdict {
        let client = self.client.client()?;
        let answers = client.status().await;
        let peers: Vec<String> = client.federation().members().iter().map(|m| m.peer.to_string()).collect();
        let healthy = answers.iter().flatten().filter(|s| s.suspect.is_none()).count();
        if self.json {
            let replicas: Vec<Value> = peers.iter().zip(&answers).map(|(peer, answer)| as_json(peer, answer)).collect();
            print_json(&json!({ "federation_id": client.federation().id(), "replicas": replicas }))?;
        } else {
            print_line(&table(&peers, &answers).to_string())?;
        }
        let suspects = answers.iter().flatten().any(|s| s.suspect.is_some());
        Ok(healthy >= client.federation().quorum() && !suspects)
    }
}

fn as_json(peer: &str, answer: &Result<ReplicaStatus, FederationError>) -> Value {
    match answer {
        Ok(s) => json!({
            "peer": peer, "reachable": true, "version": s.version, "view": s.view, "role": s.role, "slot": s.slot, "sequence": s.sequence,
            "stable_slot": s.stable_slot, "log_root": s.log_root, "suspect": s.suspect, "pending": s.pending, "connected": s.connected,
            "view_changes": s.view_changes, "evidence": s.evidence, "refused": s.refused, "replayed": s.replayed, "recovery_millis": s.recovery_millis,
            "http": s.http,
            "journal_syncs": s.journal_syncs,
        }),
        Err(error) => json!({ "peer": peer, "reachable": false, "problem": error.to_string() }),
    }
}

fn table(peers: &[String], answers: &[Result<ReplicaStatus, FederationError>]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["replica", "role", "view", "slot", "sequence", "stable", "log root", "note"]);
    for (peer, answer) in peers.iter().zip(answers) {
        match answer {
            Ok(s) => {
                let role = serde_json::to_string(&s.role).unwrap_or_default().replace('"', "");
                let evidence = (s.evidence > 0).then(|| format!("{} records of evidence: see exofed evidence list", s.evidence));
                let note = s.suspect.iter().cloned().chain(evidence).collect::<Vec<_>>().join("; ");
                let numbers = [s.view, s.slot, s.sequence, s.stable_slot].map(|n| n.to_string());
                let [view, slot, sequence, stable] = numbers;
                table.add_row([peer.clone(), role, view, slot, sequence, stable, s.log_root.short(), note]);
            }
            Err(error) => {
                let blank = String::new;
                table.add_row([peer.clone(), "unreachable".into(), blank(), blank(), blank(), blank(), blank(), error.to_string()]);
            }
        }
    }
    table
}
