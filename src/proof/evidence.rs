//! The JSON file form of [`Evidence`]: the signed statements and what they are held against, so that a record verifies alone with the genesis.

use serde::{Deserialize, Serialize};

use super::commit::{same_bytes, within_limit};
use super::json::{excerpt, json_error};
use super::{HeaderError, ProofError};
use crate::crypto::{Digest, Signature};
use crate::types::{
    Checkpoint, Cosignature, Epoch, Evidence, EvidenceRule, Federation, FederationId, Growth, Header, InvalidVote, NewViewClaim, PeerId, Phase,
    PreparedClaim, ReplicaIndex, Sequence, Signed, SignedCheckpoint, SignedVote, Slot, StableClaim, Unfaithful, View, ViewChangeClaim, Vote,
};

/// The first field of an evidence file.
pub const EVIDENCE_FORMAT: &str = "exo-federation/evidence/2";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    federation_id: FederationId,
    rule: EvidenceRule,
    member: PeerId,
    statements: Vec<Statement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
}

/// What the member signed.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Statement {
    Vote { phase: Phase, epoch: Epoch, view: View, slot: Slot, digest: Digest, signature: Signature },
    ViewChange { epoch: Epoch, new_view: View, stable: StableClaim, prepared: Vec<PreparedClaim>, signature: Signature },
    NewView { epoch: Epoch, view: View, view_changes: Vec<(ReplicaIndex, Digest)>, signature: Signature },
    Checkpoint { epoch: Epoch, slot: Slot, sequence: Sequence, digest: Digest, log_root: Digest, signature: Signature },
    Cosignature { size: u64, root: Digest, timestamp: u64, signature: Signature },
}

/// What it is held against, where that is more than another statement.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Against {
    /// E5: the view-changes that the new-view names, and the headers that they imply.
    NewView(Implied),
    /// E7: the header, its parent, and the tree and body behind its root.
    Header(Box<HeaderForm>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Implied {
    view_changes: Vec<Change>,
    headers: Vec<Header>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    replica: ReplicaIndex,
    epoch: Epoch,
    new_view: View,
    stable: StableClaim,
    prepared: Vec<PreparedClaim>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderForm {
    header: Header,
    parent: Option<Header>,
    growth: Option<Growth>,
}

impl Evidence {
    /// The JSON form: two spaces of indentation, fields in fixed order, one newline at the end; of two statements of one kind, the one with the lower
    /// digest first.
    ///
    /// # Errors
    /// Statements that do not convict cannot be written.
    pub fn to_json(&self, federation: &Federation) -> Result<Vec<u8>, ProofError> {
        let member = self.verify(federation)?.member;
        self.write(federation, member)
    }

    fn write(&self, federation: &Federation, member: PeerId) -> Result<Vec<u8>, ProofError> {
        let (statements, against) = self.form(federation.id());
        let file = File { format: EVIDENCE_FORMAT.to_owned(), federation_id: federation.id(), rule: self.rule(), member, statements, against };
        let mut bytes = serde_json::to_vec_pretty(&file).map_err(|e| json_error(&e))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn form(&self, federation: FederationId) -> (Vec<Statement>, Option<Against>) {
        let ordered = |mut pair: [(Digest, Statement); 2]| {
            pair.sort_by_key(|(digest, _)| *digest);
            pair.into_iter().map(|(_, statement)| statement).collect()
        };
        match self {
            Self::Votes { first, second } => (ordered([first, second].map(|s| (s.vote.digest, vote(s)))), None),
            Self::Forgot { commit, change: left } => (vec![vote(commit), change(left)], None),
            Self::Unfaithful(found) => {
                let view_changes = found.changes.iter().map(Change::of).collect();
                let against = Against::NewView(Implied { view_changes, headers: found.headers.clone() });
                (vec![new_view(&found.new_view), vote(&found.vote)], Some(against))
            }
            Self::ViewChanges { first, second } => (ordered([first, second].map(|s| (s.statement.digest(federation), change(s)))), None),
            Self::NewViews { first, second } => {
                (ordered([first, second].map(|s| (crate::crypto::sha256(&s.statement.signed_bytes(federation)), new_view(s)))), None)
            }
            Self::Invalid(found) => {
                let InvalidVote { header, parent, growth, .. } = InvalidVote::clone(found);
                (vec![vote(&found.vote)], Some(Against::Header(Box::new(HeaderForm { header, parent, growth }))))
            }
            Self::Checkpoints { first, second } => {
                let key = |s: &SignedCheckpoint| crate::crypto::sha256(&s.checkpoint.signed_bytes(federation));
                (ordered([first, second].map(|s| (key(s), checkpoint(s)))), None)
            }
            Self::Cosignatures { first, second } => (ordered([first, second].map(|s| (s.root, cosignature(s)))), None),
        }
    }

    /// Reads the JSON form; whether it proves anything is [`Evidence::verify`]'s to say.
    ///
    /// # Errors
    /// Text that is too long, malformed, of another format or federation, that names no member, or spells something in another way than it is written.
    pub fn from_json(bytes: &[u8], federation: &Federation) -> Result<Self, ProofError> {
        within_limit(bytes.len())?;
        let file: File = serde_json::from_slice(bytes).map_err(|e| json_error(&e))?;
        if file.format != EVIDENCE_FORMAT {
            return Err(ProofError::Format { expected: EVIDENCE_FORMAT, found: excerpt(&file.format) });
        }
        if file.federation_id != federation.id() {
            return Err(HeaderError::Federation { expected: federation.id(), found: file.federation_id }.into());
        }
        let replica = federation.index_of(&file.member).ok_or_else(|| ProofError::UnknownPeer { label: excerpt(&file.member.0) })?;
        let (rule, member) = (file.rule, file.member);
        let shape = || ProofError::EvidenceShape { rule };
        let mut said = file.statements.into_iter().map(|statement| statement.read(replica));
        let evidence = match (said.next(), said.next(), said.next(), file.against) {
            (Some(Said::Vote(first)), Some(Said::Vote(second)), None, None) => Self::Votes { first, second },
            (Some(Said::Vote(commit)), Some(Said::Change(change)), None, None) => Self::Forgot { commit, change },
            (Some(Said::NewView(new_view)), Some(Said::Vote(vote)), None, Some(Against::NewView(Implied { view_changes, headers }))) => {
                let changes = view_changes.into_iter().map(Change::read).collect();
                Self::Unfaithful(Box::new(Unfaithful { new_view, changes, headers, vote }))
            }
            (Some(Said::Change(first)), Some(Said::Change(second)), None, None) => Self::ViewChanges { first, second },
            (Some(Said::NewView(first)), Some(Said::NewView(second)), None, None) => Self::NewViews { first, second },
            (Some(Said::Vote(vote)), None, None, Some(Against::Header(against))) => {
                let HeaderForm { header, parent, growth } = *against;
                Self::Invalid(Box::new(InvalidVote { vote, header, parent, growth }))
            }
            (Some(Said::Checkpoint(first)), Some(Said::Checkpoint(second)), None, None) => Self::Checkpoints { first, second },
            (Some(Said::Cosignature(first)), Some(Said::Cosignature(second)), None, None) => Self::Cosignatures { first, second },
            _ => return Err(shape()),
        };
        if evidence.rule() != rule {
            return Err(ProofError::Rule { claimed: rule, found: evidence.rule() });
        }
        // The leader of a view signs its new-view: no other member can be named.
        if evidence.accused(federation) != replica {
            return Err(shape());
        }
        // The order of fields and the space between them are free, so that a record can be cut out of an audit's JSON; nothing else is.
        let canonical = evidence.write(federation, member)?;
        let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).map_err(|e| json_error(&e));
        if value(bytes)? == value(&canonical)? { Ok(evidence) } else { same_bytes(bytes, &canonical).map(|()| evidence) }
    }
}

/// A statement of the member that a file names.
enum Said {
    Vote(SignedVote),
    Change(Signed<ViewChangeClaim>),
    NewView(Signed<NewViewClaim>),
    Checkpoint(SignedCheckpoint),
    Cosignature(Cosignature),
}

impl Statement {
    fn read(self, replica: ReplicaIndex) -> Said {
        match self {
            Self::Vote { phase, epoch, view, slot, digest, signature } => {
                Said::Vote(SignedVote { vote: Vote { phase, epoch, view, slot, digest }, replica, signature })
            }
            Self::ViewChange { epoch, new_view, stable, prepared, signature } => {
                Said::Change(Signed { statement: ViewChangeClaim { epoch, new_view, replica, stable, prepared }, signature })
            }
            Self::NewView { epoch, view, view_changes, signature } => {
                Said::NewView(Signed { statement: NewViewClaim { epoch, view, view_changes }, signature })
            }
            Self::Checkpoint { epoch, slot, sequence, digest, log_root, signature } => {
                Said::Checkpoint(SignedCheckpoint { checkpoint: Checkpoint { epoch, slot, sequence, digest, log_root }, replica, signature })
            }
            Self::Cosignature { size, root, timestamp, signature } => Said::Cosignature(Cosignature { replica, size, root, timestamp, signature }),
        }
    }
}

fn vote(signed: &SignedVote) -> Statement {
    let Vote { phase, epoch, view, slot, digest } = signed.vote;
    Statement::Vote { phase, epoch, view, slot, digest, signature: signed.signature }
}

fn change(signed: &Signed<ViewChangeClaim>) -> Statement {
    let ViewChangeClaim { epoch, new_view, stable, prepared, .. } = signed.statement.clone();
    Statement::ViewChange { epoch, new_view, stable, prepared, signature: signed.signature }
}

fn new_view(signed: &Signed<NewViewClaim>) -> Statement {
    let NewViewClaim { epoch, view, view_changes } = signed.statement.clone();
    Statement::NewView { epoch, view, view_changes, signature: signed.signature }
}

fn checkpoint(signed: &SignedCheckpoint) -> Statement {
    let Checkpoint { epoch, slot, sequence, digest, log_root } = signed.checkpoint;
    Statement::Checkpoint { epoch, slot, sequence, digest, log_root, signature: signed.signature }
}

fn cosignature(signed: &Cosignature) -> Statement {
    let Cosignature { size, root, timestamp, signature, .. } = *signed;
    Statement::Cosignature { size, root, timestamp, signature }
}

impl Change {
    fn of(claim: &ViewChangeClaim) -> Self {
        let ViewChangeClaim { epoch, new_view, replica, stable, prepared } = claim.clone();
        Self { replica, epoch, new_view, stable, prepared }
    }

    fn read(self) -> ViewChangeClaim {
        let Self { replica, epoch, new_view, stable, prepared } = self;
        ViewChangeClaim { epoch, new_view, replica, stable, prepared }
    }
}
