//! What the protocol speaks of: updates, headers, votes, certificates, messages, and the federation's public genesis.
//!
//! Every byte that is signed or hashed is laid out here (see `docs/proofs.md`), and nothing else is done here: this module knows no
//! clock, file or socket.

mod batch;
mod checkpoint;
mod claim;
mod client;
mod codec;
mod cosignature;
mod evidence;
mod genesis;
mod hex;
mod message;
mod parameters;
mod published;
mod update;
mod view_change;
mod vote;

pub use batch::{BatchKind, Body, BodyDigests, CommittedBatch, HEADER_VERSION, Header};
pub use checkpoint::{Checkpoint, CheckpointCertificate, SignedCheckpoint};
pub use claim::{BodyClaim, NewViewClaim, PreparedClaim, StableClaim, SubmissionClaim, UpdateClaim, ViewChangeClaim};
pub use client::{
    BatchRange, ConsistencyAnswer, ConsistencyQuery, CosignatureQuery, LogQuery, ProofAnswer, ProofQuery, ReplicaStatus, Request, Response, Role,
    SubmissionReceipt, SubmitOutcome,
};
pub use codec::{CodecError, MAX_FRAME_BYTES, decode, decode_front, encode};
pub use cosignature::{Cosignature, CosignatureError, NoteKey, NoteKeyKind, ORIGIN_PREFIX, checkpoint_origin, checkpoint_text};
pub use evidence::{Convicted, Conviction, Evidence, EvidenceError, EvidenceRule, Growth, InvalidVote, MAX_EVIDENCE_BYTES, Signed, Unfaithful};
pub use genesis::{Author, Federation, Genesis, GenesisError, Member, Reader, byzantine_threshold, fault_limit, weak_quorum};
pub use message::{ConsensusMessage, FetchBody, MessageClass, Rejoin, RejoinAnswer, SignedProposal, Status};
pub use parameters::Parameters;
pub use published::{PublishedCheckpoint, PublishedError, PublishedProof};
pub use update::{LEAF_VERSION, Leaf, LeafError, StateUpdate, Submission, SubmissionDigests, SubmittedUpdate, UpdateId, UpdateIdError, data_digest};
pub use view_change::{Complaint, NewView, SignedComplaint, ViewChange};
pub use vote::{CertificateError, CommitCertificate, CommitMessage, Phase, PreparedCertificate, SignatureSet, SignedVote, Vote};

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::crypto::Digest;

/// A consensus instance's number: 1, 2, 3 ... without gaps; 0 stands for the genesis.
pub type Slot = u64;
/// An update's place in the log: 1, 2, 3 ... without gaps; 0 stands for the empty log.
pub type Sequence = u64;
/// A view's number: 0, 1, 2 ...
pub type View = u64;
/// A membership's number: 0, 1, 2 ...
pub type Epoch = u64;
/// Milliseconds since the Unix epoch (UTC).
pub type TimestampMs = u64;
/// A member's place in the genesis: 0, 1, 2 ...
pub type ReplicaIndex = u16;

/// The federation's name for all purposes: the hash of its canonical genesis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct FederationId(pub Digest);

impl fmt::Display for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for FederationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FederationId({})", self.0.short())
    }
}

/// A member's label, 1 to 64 bytes of ASCII letters, digits, `-`, `_` and `.`; the genesis binds it to keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(pub String);

impl PeerId {
    /// Whether the label keeps the rule above.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (1..=64).contains(&self.0.len()) && self.0.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
