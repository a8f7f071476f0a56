//! What replicas say to each other while they agree.

use std::sync::Arc;

use bincode::{Decode, Encode};

use super::{
    Body, CheckpointCertificate, Epoch, Evidence, FederationId, Header, NewView, Phase, SignedCheckpoint, SignedComplaint, SignedVote, Slot,
    Submission, View, ViewChange, Vote,
};
use crate::crypto::{Digest, Signature};

/// A leader's proposal. The signature is a statement, not a vote: the leader sends a Prepare like everyone.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedProposal {
    /// The view it is proposed in.
    pub view: View,
    /// The batch's header.
    pub header: Header,
    /// The batch's body.
    pub body: Arc<Body>,
    /// The leader's signature on [`SignedProposal::vote`].
    pub signature: Signature,
}

impl SignedProposal {
    /// The statement that the leader signed.
    #[must_use]
    pub fn vote(&self) -> Vote {
        Vote { phase: Phase::PrePrepare, epoch: self.header.epoch, view: self.view, slot: self.header.slot, digest: self.header.digest() }
    }

    /// The bytes that the leader signed.
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        self.vote().signed_bytes(federation)
    }
}

/// Where a replica stands; gossiped, unsigned (the transport says whose it is), and never believed beyond what to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its view.
    pub view: View,
    /// Whether it left for that view and does not yet take part in it.
    pub changing: bool,
    /// The last slot it committed, all before it too.
    pub committed: Slot,
    /// The last slot it accepted in this view, all before it too.
    pub accepted: Slot,
    /// Its stable checkpoint's slot.
    pub stable: Slot,
}

/// Asks for the body of a batch that a new view chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct FetchBody {
    /// The slot.
    pub slot: Slot,
    /// The header's digest.
    pub digest: Digest,
}

/// A replica that forgot its votes asks where the others stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Rejoin {
    /// Its epoch.
    pub epoch: Epoch,
    /// A random number that it never used before.
    pub nonce: u64,
    /// The view that it waits for, once it waits for nothing else; 0 before.
    pub view: View,
}

/// The answer; unsigned like a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct RejoinAnswer {
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The number asked with.
    pub nonce: u64,
    /// The view that the sender is in, or leaves for.
    pub view: View,
    /// The last slot it committed.
    pub committed: Slot,
}

/// Every message between replicas.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ConsensusMessage {
    /// The leader proposes a batch.
    PrePrepare(SignedProposal),
    /// A Prepare or a Commit.
    Vote(SignedVote),
    /// A log is durable up to a slot.
    Checkpoint(SignedCheckpoint),
    /// A checkpoint became stable.
    Stable(CheckpointCertificate),
    /// A leader does not serve.
    Complaint(SignedComplaint),
    /// A replica leaves for a view.
    ViewChange(Arc<ViewChange>),
    /// A view begins.
    NewView(Arc<NewView>),
    /// Where the sender stands.
    Status(Status),
    /// A submission that the receiver should know of.
    Forward(Arc<Submission>),
    /// A body is wanted.
    FetchBody(FetchBody),
    /// A body that was wanted, with its header.
    Body(Header, Arc<Body>),
    /// Statements of one member that no correct replica makes all.
    Evidence(Box<Evidence>),
    /// A replica forgot its votes.
    Rejoin(Rejoin),
    /// Where the sender stands.
    RejoinAnswer(RejoinAnswer),
}

/// Which of a peer's streams a message travels on: what is small never waits behind what is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageClass {
    /// Votes and status: at most 4 KiB each.
    Votes,
    /// View changes, certificates and evidence: at most 16 MiB each.
    Control,
    /// Proposals, bodies and forwarded submissions: at most 64 MiB each.
    Bulk,
}

impl MessageClass {
    /// Every class, in the order of urgency.
    pub const ALL: [Self; 3] = [Self::Votes, Self::Control, Self::Bulk];

    /// The longest frame of this class, in bytes; refused before it is allocated.
    #[must_use]
    pub const fn max_frame_bytes(self) -> usize {
        match self {
            Self::Votes => 4 << 10,
            Self::Control => 16 << 20,
            Self::Bulk => super::MAX_FRAME_BYTES,
        }
    }
}

impl ConsensusMessage {
    /// The stream it belongs on.
    #[must_use]
    pub fn class(&self) -> MessageClass {
        match self {
            Self::Vote(_)
            | Self::Checkpoint(_)
            | Self::Complaint(_)
            | Self::Status(_)
            | Self::FetchBody(_)
            | Self::Rejoin(_)
            | Self::RejoinAnswer(_) => MessageClass::Votes,
            Self::Stable(_) | Self::ViewChange(_) | Self::NewView(_) | Self::Evidence(_) => MessageClass::Control,
            Self::PrePrepare(_) | Self::Forward(_) | Self::Body(..) => MessageClass::Bulk,
        }
    }
}
