//! The statements of a view change.

use bincode::{Decode, Encode};

use super::{CheckpointCertificate, Epoch, FederationId, NewViewClaim, PreparedCertificate, ReplicaIndex, Slot, View, ViewChangeClaim};
use crate::crypto::{Canonical, Digest, Signature};

/// A replica is not served by the leader of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Complaint {
    /// Under which membership.
    pub epoch: Epoch,
    /// The view complained about.
    pub view: View,
}

impl Complaint {
    /// What is signed: tag, federation id, epoch u64, view u64.
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        Canonical::bytes("exo-federation/v1/complaint\0").digest_field(&federation.0).u64(self.epoch).u64(self.view).finish()
    }
}

/// A complaint with its signer and signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedComplaint {
    /// The statement.
    pub complaint: Complaint,
    /// Who signed.
    pub replica: ReplicaIndex,
    /// The signature on [`Complaint::signed_bytes`].
    pub signature: Signature,
}

/// A replica leaves for a view, and says what it had prepared.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ViewChange {
    /// Under which membership.
    pub epoch: Epoch,
    /// The view it moves to.
    pub new_view: View,
    /// Its stable checkpoint; `None` before the first.
    pub stable: Option<CheckpointCertificate>,
    /// For each slot above it that it had prepared, the certificate of the highest view; by ascending slot.
    pub prepared: Vec<PreparedCertificate>,
    /// Who signed.
    pub replica: ReplicaIndex,
    /// The signature on [`ViewChange::signed_bytes`].
    pub signature: Signature,
}

impl ViewChange {
    /// The slot of its stable checkpoint; 0 before the first.
    #[must_use]
    pub fn stable_slot(&self) -> Slot {
        self.stable.as_ref().map_or(0, |c| c.checkpoint.slot)
    }

    /// What is signed: [`ViewChangeClaim::signed_bytes`]. The certificates' own signatures are not covered: each verifies by itself.
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        ViewChangeClaim::of(self).signed_bytes(federation)
    }

    /// H(tag, signed bytes): how a new-view names it.
    #[must_use]
    pub fn digest(&self, federation: FederationId) -> Digest {
        ViewChangeClaim::of(self).digest(federation)
    }
}

/// The new leader's collection of a quorum of view-changes; what follows from it, every replica computes for itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewView {
    /// Under which membership.
    pub epoch: Epoch,
    /// The view that begins.
    pub view: View,
    /// A quorum of view-changes to it, by ascending member.
    pub view_changes: Vec<ViewChange>,
    /// The leader's signature on [`NewView::signed_bytes`].
    pub signature: Signature,
}

impl NewView {
    /// What is signed: [`NewViewClaim::signed_bytes`].
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        NewViewClaim::of(self, federation).signed_bytes(federation)
    }
}
