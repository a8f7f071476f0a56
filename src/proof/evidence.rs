//! The JSON file form of [`Evidence`]: both signed statements, so that a record verifies alone with the genesis.

use serde::{Deserialize, Serialize};

use super::commit::within_limit;
use super::json::{excerpt, json_error};
use super::{HeaderError, ProofError};
use crate::crypto::{Digest, Signature};
use crate::types::{Epoch, Evidence, EvidenceRule, Federation, FederationId, PeerId, Phase, SignedVote, Slot, View, Vote};

/// The first field of an evidence file.
pub const EVIDENCE_FORMAT: &str = "exo-federation/evidence/1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    federation_id: FederationId,
    rule: EvidenceRule,
    member: PeerId,
    phase: Phase,
    epoch: Epoch,
    view: View,
    slot: Slot,
    statements: [Statement; 2],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    digest: Digest,
    signature: Signature,
}

impl Evidence {
    /// The JSON form: two spaces of indentation, fields in fixed order, one newline at the end; the statement with the lower digest first.
    ///
    /// # Errors
    /// Statements that do not contradict each other, or of nobody, cannot be written.
    pub fn to_json(&self, federation: &Federation) -> Result<Vec<u8>, ProofError> {
        let member = self.verify(federation)?.member;
        let Vote { phase, epoch, view, slot, .. } = self.first.vote;
        let mut statements = [&self.first, &self.second].map(|s| Statement { digest: s.vote.digest, signature: s.signature });
        statements.sort_unstable_by_key(|statement| statement.digest);
        let file = File {
            format: EVIDENCE_FORMAT.to_owned(),
            federation_id: federation.id(),
            rule: self.rule(),
            member,
            phase,
            epoch,
            view,
            slot,
            statements,
        };
        let mut bytes = serde_json::to_vec_pretty(&file).map_err(|e| json_error(&e))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads the JSON form; whether it proves anything is [`Evidence::verify`]'s to say.
    ///
    /// # Errors
    /// Text that is too long, malformed, of another format or federation, or that names no member.
    pub fn from_json(bytes: &[u8], federation: &Federation) -> Result<Self, ProofError> {
        within_limit(bytes.len())?;
        let file: File = serde_json::from_slice(bytes).map_err(|e| json_error(&e))?;
        if file.format != EVIDENCE_FORMAT {
            return Err(ProofError::Format { expected: EVIDENCE_FORMAT, found: excerpt(&file.format) });
        }
        if file.federation_id != federation.id() {
            return Err(HeaderError::Federation { expected: federation.id(), found: file.federation_id }.into());
        }
        let File { rule, member, phase, epoch, view, slot, statements, .. } = file;
        let replica = federation.index_of(&member).ok_or_else(|| ProofError::UnknownPeer { label: excerpt(&member.0) })?;
        let [first, second] = statements.map(|Statement { digest, signature }| {
            let vote = Vote { phase, epoch, view, slot, digest };
            SignedVote { vote, replica, signature }
        });
        let evidence = Self { first, second };
        if evidence.rule() != rule {
            return Err(ProofError::Rule { claimed: rule, found: evidence.rule() });
        }
        Ok(evidence)
    }
}
