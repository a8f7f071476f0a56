//! Checkpoints: what a replica says once its log is durable up to a slot.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{CertificateError, Epoch, Federation, FederationId, ReplicaIndex, Sequence, SignatureSet, Slot};
use crate::crypto::{Canonical, Digest, Signature};

/// The log up to a slot is durable, and this is its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Under which membership.
    pub epoch: Epoch,
    /// The last slot covered.
    pub slot: Slot,
    /// The last sequence number covered: the tree's size.
    pub sequence: Sequence,
    /// The digest of that slot's header.
    pub digest: Digest,
    /// The log root after that slot.
    pub log_root: Digest,
}

impl Checkpoint {
    /// What is signed: tag, federation id, epoch u64, slot u64, sequence u64, header digest, log root.
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        Canonical::bytes("exo-federation/v1/checkpoint\0")
            .digest_field(&federation.0)
            .u64(self.epoch)
            .u64(self.slot)
            .u64(self.sequence)
            .digest_field(&self.digest)
            .digest_field(&self.log_root)
            .finish()
    }
}

/// A checkpoint with its signer and signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedCheckpoint {
    /// The statement.
    pub checkpoint: Checkpoint,
    /// Who signed.
    pub replica: ReplicaIndex,
    /// The signature on [`Checkpoint::signed_bytes`].
    pub signature: Signature,
}

/// A quorum's signatures on one checkpoint: it is stable.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct CheckpointCertificate {
    /// The statement.
    pub checkpoint: Checkpoint,
    /// The signatures, by ascending member.
    pub signatures: SignatureSet,
}

impl CheckpointCertificate {
    /// Checks the quorum.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(&self, federation: &Federation) -> Result<(), CertificateError> {
        if self.checkpoint.epoch != 0 {
            return Err(CertificateError::WrongEpoch { expected: 0, found: self.checkpoint.epoch });
        }
        self.signatures.verify(federation, &self.checkpoint.signed_bytes(federation.id()))
    }
}
