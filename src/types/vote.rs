//! Votes and the certificates that a quorum of them makes.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Epoch, Federation, FederationId, Header, PeerId, ReplicaIndex, Slot, View};
use crate::crypto::{Canonical, Digest, Signature};

/// What a signature on a header digest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The leader proposes; no vote.
    PrePrepare,
    /// The replica accepted the proposal.
    Prepare,
    /// The replica holds a prepared certificate.
    Commit,
}

impl Phase {
    /// The phase in signed bytes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::PrePrepare => 0,
            Self::Prepare => 1,
            Self::Commit => 2,
        }
    }
}

/// One statement about one header at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Vote {
    /// What is said.
    pub phase: Phase,
    /// Under which membership.
    pub epoch: Epoch,
    /// In which view.
    pub view: View,
    /// At which slot.
    pub slot: Slot,
    /// Of which header.
    pub digest: Digest,
}

impl Vote {
    /// What is signed: tag, phase u8 (0, 1, 2), federation id, epoch u64, view u64, slot u64, header digest.
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        Canonical::bytes("exo-federation/v1/vote\0")
            .u8(self.phase.code())
            .digest_field(&federation.0)
            .u64(self.epoch)
            .u64(self.view)
            .u64(self.slot)
            .digest_field(&self.digest)
            .finish()
    }
}

/// A vote with its signer and signature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedVote {
    /// The statement.
    pub vote: Vote,
    /// Who signed.
    pub replica: ReplicaIndex,
    /// The signature on [`Vote::signed_bytes`].
    pub signature: Signature,
}

/// One member's commit, as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitMessage {
    /// Who committed.
    pub peer_id: PeerId,
    /// The header's digest.
    pub digest: Digest,
    /// The signature.
    pub signature: Signature,
}

/// Why a set of signatures proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Too few signatures.
    #[error("{actual} signatures, a quorum is {needed}")]
    NoQuorum {
        /// The quorum.
        needed: usize,
        /// Signatures found.
        actual: usize,
    },
    /// Signers not strictly ascending: one stands twice, or the order is not the canonical one.
    #[error("signer {0} stands twice or out of order")]
    DuplicateSigner(ReplicaIndex),
    /// A signer beyond the membership.
    #[error("signer {0} is no member")]
    UnknownSigner(ReplicaIndex),
    /// A signature that does not verify for this phase, epoch, view, slot and digest.
    #[error("the signature of member {0} does not verify")]
    BadSignature(ReplicaIndex),
    /// The certificate is for something else.
    #[error("the certificate is for slot {found}, not for slot {expected}, or for another header")]
    WrongPlace {
        /// The slot asked about.
        expected: Slot,
        /// The slot the certificate names.
        found: Slot,
    },
    /// An epoch that this membership did not vote in.
    #[error("the certificate is of epoch {found}, the membership of epoch {expected}")]
    WrongEpoch {
        /// The membership's epoch.
        expected: Epoch,
        /// The certificate's epoch.
        found: Epoch,
    },
}

/// Signatures of different members on one statement, by ascending member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignatureSet(pub Vec<(ReplicaIndex, Signature)>);

impl SignatureSet {
    /// Checks that a quorum of different members signed these bytes. Every signature given must verify: a set with a bad one is refused whole.
    ///
    /// # Errors
    /// [`CertificateError`]; cheap checks come before signature checks.
    pub fn verify(&self, federation: &Federation, bytes: &[u8]) -> Result<(), CertificateError> {
        self.verify_at_least(federation, bytes, federation.quorum())
    }

    fn verify_at_least(&self, federation: &Federation, bytes: &[u8], needed: usize) -> Result<(), CertificateError> {
        if let Some(pair) = self.0.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(CertificateError::DuplicateSigner(pair[1].0));
        }
        if let Some((index, _)) = self.0.iter().find(|(index, _)| federation.consensus_key(*index).is_none()) {
            return Err(CertificateError::UnknownSigner(*index));
        }
        if self.0.len() < needed {
            return Err(CertificateError::NoQuorum { needed, actual: self.0.len() });
        }
        for (index, signature) in &self.0 {
            let key = federation.consensus_key(*index).ok_or(CertificateError::UnknownSigner(*index))?;
            key.verify(bytes, signature).map_err(|_| CertificateError::BadSignature(*index))?;
        }
        Ok(())
    }

    /// The signers.
    pub fn signers(&self) -> impl Iterator<Item = ReplicaIndex> {
        self.0.iter().map(|(index, _)| *index)
    }
}

/// A quorum of Prepares for one header at one (epoch, view, slot): no other header can have one in that view.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PreparedCertificate {
    /// The view of every Prepare in it.
    pub view: View,
    /// The header prepared; its own epoch and slot are the certificate's.
    pub header: Header,
    /// The Prepares' signatures.
    pub signatures: SignatureSet,
}

impl PreparedCertificate {
    /// The statement that every signer signed.
    #[must_use]
    pub fn vote(&self) -> Vote {
        Vote { phase: Phase::Prepare, epoch: self.header.epoch, view: self.view, slot: self.header.slot, digest: self.header.digest() }
    }

    /// Checks the quorum.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(&self, federation: &Federation) -> Result<(), CertificateError> {
        if self.header.epoch != 0 || self.header.federation_id != federation.id() {
            return Err(CertificateError::WrongEpoch { expected: 0, found: self.header.epoch });
        }
        self.signatures.verify(federation, &self.vote().signed_bytes(federation.id()))
    }
}

/// A quorum of Commits of one view for one header: the batch is committed. Stored with every batch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitCertificate {
    /// The membership that voted.
    pub epoch: Epoch,
    /// The view of every Commit in it; views are never mixed.
    pub view: View,
    /// The slot.
    pub slot: Slot,
    /// The header's digest.
    pub digest: Digest,
    /// The Commits' signatures, by ascending member.
    pub signatures: SignatureSet,
}

impl CommitCertificate {
    /// The statement that every signer signed.
    #[must_use]
    pub fn vote(&self) -> Vote {
        Vote { phase: Phase::Commit, epoch: self.epoch, view: self.view, slot: self.slot, digest: self.digest }
    }

    /// Checks the quorum, for the header given.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(&self, federation: &Federation, header: &Header) -> Result<(), CertificateError> {
        if self.epoch != header.epoch || self.epoch != 0 {
            return Err(CertificateError::WrongEpoch { expected: header.epoch, found: self.epoch });
        }
        if self.slot != header.slot || self.digest != header.digest() {
            return Err(CertificateError::WrongPlace { expected: header.slot, found: self.slot });
        }
        self.signatures.verify(federation, &self.vote().signed_bytes(federation.id()))
    }

    /// The commits with their signers' labels; signers beyond the membership are left out.
    #[must_use]
    pub fn messages(&self, federation: &Federation) -> Vec<CommitMessage> {
        let commits = self.signatures.0.iter();
        commits
            .filter_map(|(index, signature)| {
                federation.peer(*index).map(|peer| CommitMessage { peer_id: peer.clone(), digest: self.digest, signature: *signature })
            })
            .collect()
    }
}
