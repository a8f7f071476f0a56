//! Files of proofs and evidence, changed in every way that a reader must notice; what is signed anew, so that only the change is wrong.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod records;
pub(crate) mod signed;
mod text;

pub(crate) use text::{Draw, spellings, splices};

use exo_federation::proof::{CommitProof, ConsistencyProof};
use exo_federation::types::{Evidence, Federation};
use serde_json::{Value, json};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Commit,
    Consistency,
    Evidence,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit-proof",
            Self::Consistency => "consistency-proof",
            Self::Evidence => "evidence",
        }
    }

    /// What the library says that a file proves; `None` if it refuses it.
    pub(crate) fn proves(self, text: &[u8], federation: &Federation) -> Option<Value> {
        match self {
            Self::Commit => {
                let proof = CommitProof::from_json(text, federation).ok()?.verify(federation).ok()?;
                Some(json!({ "update_id": proof.update_id, "sequence": proof.sequence, "signers": proof.signers }))
            }
            Self::Consistency => {
                let proof = ConsistencyProof::from_json(text, federation).ok()?;
                proof.verify(federation).ok()?;
                let (new_size, new_root) = (proof.header.last_sequence(), proof.header.log_root);
                Some(json!({ "old_size": proof.old_size, "old_root": proof.old_root, "new_size": new_size, "new_root": new_root }))
            }
            Self::Evidence => {
                let found = Evidence::from_json(text, federation).ok()?.verify(federation).ok()?;
                let (id, rule, member, digests) = (found.id, found.rule, found.member, found.digests);
                Some(json!({ "id": id, "rule": rule, "member": member, "view": found.view, "slot": found.slot, "digests": digests }))
            }
        }
    }
}

/// A file to be judged.
pub(crate) struct Case {
    pub(crate) kind: Kind,
    /// What was changed.
    pub(crate) what: String,
    /// Under which genesis it is judged: its place in a list.
    pub(crate) genesis: usize,
    pub(crate) text: Vec<u8>,
}
