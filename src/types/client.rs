//! What clients ask of a replica, and what peers ask when they catch up; every answer that matters carries its proof.

use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{
    CommitCertificate, CommittedBatch, Cosignature, Epoch, Evidence, FederationId, Header, Leaf, PeerId, PublishedCheckpoint, PublishedProof,
    Sequence, Slot, Submission, TimestampMs, UpdateId, View,
};
use crate::crypto::{Digest, PublicKey};

/// A request; one per stream, answered by one [`Response`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Order this submission; answered when its fate is known or the replica gives up waiting.
    Submit(Arc<Submission>),
    /// Where the replica stands.
    Status,
    /// Committed batches.
    Log(LogQuery),
    /// The proof for one update.
    Proof(ProofQuery),
    /// The evidence that it holds.
    Evidence,
    /// That an older log is the beginning of a newer one.
    Consistency(ConsistencyQuery),
    /// The replica's own cosignature of the log at one size.
    Cosignature(CosignatureQuery),
    /// The newest published checkpoint.
    Checkpoint,
    /// The proof for one update in the newest published checkpoint.
    PublishedProof(ProofQuery),
}

/// Which cosignature is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct CosignatureQuery {
    /// Of the log of how many entries.
    pub size: u64,
    /// How long to wait until the replica has come that far, ms; the replica has a limit of its own.
    pub wait_ms: u64,
}

/// Which two states of the log: after the batches that hold these sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ConsistencyQuery {
    /// The older one.
    pub old: Sequence,
    /// The newer one; `None` for the end of the replica's log.
    pub new: Option<Sequence>,
}

/// Which batches are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum LogQuery {
    /// From the batch that holds this sequence number on. If there is none yet, the answer waits up to `wait_ms` for it.
    FromSequence {
        /// The first update wanted.
        sequence: Sequence,
        /// About how many bytes of batches the answer may hold; the replica has a limit of its own.
        max_bytes: u64,
        /// How long to wait, ms; the replica has a limit of its own.
        wait_ms: u64,
    },
    /// From this slot on.
    FromSlot {
        /// The first slot wanted.
        slot: Slot,
        /// As above.
        max_bytes: u64,
    },
}

/// Which proof is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ProofQuery {
    /// The update at this place.
    Sequence(Sequence),
    /// The latest update with this id, of this author if one is named.
    Id {
        /// The id.
        update_id: UpdateId,
        /// Whose.
        author: Option<PublicKey>,
    },
}

impl ProofQuery {
    /// Whether a leaf is what was asked for.
    #[must_use]
    pub fn asks_for(&self, leaf: &Leaf) -> bool {
        match self {
            Self::Sequence(sequence) => leaf.sequence == *sequence,
            Self::Id { update_id, author } => leaf.update_id == *update_id && author.is_none_or(|author| author == leaf.author),
        }
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// To `Submit`.
    Submitted(SubmitOutcome),
    /// To `Status`.
    Status(Box<ReplicaStatus>),
    /// To `Log`.
    Log(BatchRange),
    /// To `Proof`; `None` if the replica's log holds no such update.
    Proof(Option<Box<ProofAnswer>>),
    /// The request was refused; a sentence for a person.
    Refused(String),
    /// To `Evidence`.
    Evidence(Vec<Evidence>),
    /// To `Consistency`; `None` if the replica's log does not hold both.
    Consistency(Option<Box<ConsistencyAnswer>>),
    /// To `Cosignature`; `None` if the replica cosigned no log of this size, or long ago.
    Cosignature(Option<Cosignature>),
    /// To `Checkpoint`; `None` before the first.
    Checkpoint(Option<Box<PublishedCheckpoint>>),
    /// To `PublishedProof`; `None` if the replica's log holds no such update.
    PublishedProof(Option<Box<PublishedProof>>),
}

/// What makes a consistency proof; `proof::ConsistencyProof` is its portable form.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ConsistencyAnswer {
    /// The size of the older log.
    pub old_size: u64,
    /// Its root.
    pub old_root: Digest,
    /// RFC 9162, section 2.1.4.
    pub path: Vec<Digest>,
    /// The header of the last batch of the newer log.
    pub header: Header,
    /// Its certificate.
    pub certificate: CommitCertificate,
}

/// Committed batches in order, and where the log ends.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BatchRange {
    /// Consecutive batches; each verifies by itself.
    pub batches: Vec<CommittedBatch>,
    /// The replica's last committed sequence number.
    pub head: Sequence,
}

/// What makes one update's proof; `proof::CommitProof` is its portable form.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ProofAnswer {
    /// The update's leaf.
    pub leaf: Leaf,
    /// Sibling hashes from the leaf up, in the tree whose size is the header's last sequence number.
    pub path: Vec<Digest>,
    /// The header of the update's batch.
    pub header: Header,
    /// The quorum that committed it.
    pub certificate: CommitCertificate,
    /// The salt and payload, if the replica still holds them.
    pub opening: Option<([u8; 16], Vec<u8>)>,
}

/// What proves a whole submission committed: its leaves are known to the author but for their sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SubmissionReceipt {
    /// The header of the batch that holds it.
    pub header: Header,
    /// The quorum that committed it.
    pub certificate: CommitCertificate,
    /// The sequence number of its first update.
    pub first_sequence: Sequence,
    /// The hashes outside its leaves, left to right, in the tree whose size is the header's last sequence number.
    pub outside: Vec<Digest>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SubmitOutcome {
    /// Committed, and here is the proof.
    Committed(Box<SubmissionReceipt>),
    /// Every update of it was committed before, with the same payloads; their places, in order.
    AlreadyCommitted(Vec<Sequence>),
    /// These ids stand in the log, or in flight, with other payloads, or were committed apart from the rest; nothing was appended.
    Conflict(Vec<UpdateId>),
    /// `not_after` has passed, and it was not committed.
    Expired {
        /// Its `not_after`.
        not_after: TimestampMs,
        /// The federation's time.
        now: TimestampMs,
    },
    /// It breaks a rule; a sentence for a person.
    Rejected(String),
    /// The replica cannot take it now: try later, or another one.
    Busy {
        /// When to try again, ms from now.
        retry_after_ms: u64,
    },
    /// The replica stopped waiting. It may yet be committed: ask by update id.
    Unknown {
        /// Prepares seen for its batch.
        prepares: u32,
        /// Commits seen for its batch.
        commits: u32,
        /// How many of each are needed.
        needed: u32,
    },
}

/// What a replica does at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Leads its view.
    Leader,
    /// Follows.
    Follower,
    /// Between two views.
    Changing,
    /// Reads and serves, and must not vote.
    Suspect,
}

/// Where a replica stands, for people and tools.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReplicaStatus {
    /// Its label.
    pub peer: PeerId,
    /// Its program's version.
    pub version: String,
    /// Its federation.
    pub federation_id: FederationId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its view.
    pub view: View,
    /// What it does.
    pub role: Role,
    /// The last committed slot.
    pub slot: Slot,
    /// The last committed sequence number.
    pub sequence: Sequence,
    /// The stable checkpoint's slot.
    pub stable_slot: Slot,
    /// The root of its log at `sequence`.
    pub log_root: Digest,
    /// Why it must not vote, if so.
    pub suspect: Option<String>,
    /// Submissions it waits for.
    pub pending: u64,
    /// Peers it holds a connection to.
    pub connected: u32,
    /// View changes it went through since it started.
    pub view_changes: u64,
    /// Records of evidence that it holds, those of earlier runs too.
    pub evidence: u64,
    /// Messages refused since it started.
    pub refused: u64,
    /// What its start replayed: journal records, into the protocol.
    pub replayed: u64,
    /// How long its start took, ms.
    pub recovery_millis: u64,
    /// Where its HTTP interface is, as a URL; `None` if it has none.
    pub http: Option<String>,
    /// Groups of the journal written and synced since it started.
    pub journal_syncs: u64,
}
