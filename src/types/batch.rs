//! Batches: the header that votes name, and the body it commits to.

use std::sync::Arc;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{CommitCertificate, Epoch, FederationId, Leaf, Sequence, Slot, Submission, SubmissionDigests, TimestampMs};
use crate::crypto::{Canonical, Digest};

/// The header layout's version.
pub const HEADER_VERSION: u16 = 1;

/// What a batch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchKind {
    /// Updates of admitted authors.
    Normal,
    /// The last batch of an epoch: a membership update alone.
    EpochEnd,
}

/// A batch's fixed description. It names no view and no proposer, so that a batch proposed again in a later view keeps its digest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// What the batch is for.
    pub kind: BatchKind,
    /// Which federation.
    pub federation_id: FederationId,
    /// Under which membership.
    pub epoch: Epoch,
    /// Its place in the chain.
    pub slot: Slot,
    /// The sequence number of its first update.
    pub first_sequence: Sequence,
    /// How many updates it holds; at least 1.
    pub count: u32,
    /// The digest of the header of slot - 1; zero for slot 1.
    pub parent: Digest,
    /// The digest of the body.
    pub body_digest: Digest,
    /// The Merkle root of the log after this batch; the tree's size is [`Header::last_sequence`].
    pub log_root: Digest,
    /// The leader's time, ms since the Unix epoch; strictly increasing along the chain.
    pub timestamp: TimestampMs,
    /// The digest of the membership.
    pub membership_digest: Digest,
}

impl Header {
    /// H(tag, version u16, kind u8, federation id, epoch u64, slot u64, first sequence u64, count u32, parent, body digest, log root,
    /// timestamp u64, membership digest).
    #[must_use]
    pub fn digest(&self) -> Digest {
        let kind = match self.kind {
            BatchKind::Normal => 0,
            BatchKind::EpochEnd => 1,
        };
        Canonical::hash("exo-federation/v1/header\0")
            .u16(HEADER_VERSION)
            .u8(kind)
            .digest_field(&self.federation_id.0)
            .u64(self.epoch)
            .u64(self.slot)
            .u64(self.first_sequence)
            .u32(self.count)
            .digest_field(&self.parent)
            .digest_field(&self.body_digest)
            .digest_field(&self.log_root)
            .u64(self.timestamp)
            .digest_field(&self.membership_digest)
            .digest()
    }

    /// The sequence number of its last update: the size of the log after it. Where that is no u64, in a header that was never valid, the nearest one.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        let last = (u128::from(self.first_sequence) + u128::from(self.count)).saturating_sub(1);
        Sequence::try_from(last).unwrap_or(Sequence::MAX)
    }
}

/// A batch's submissions. Shared, because a body is held by the protocol, the journal and the log at once.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Body {
    /// The submissions, in log order.
    pub submissions: Vec<Arc<Submission>>,
}

/// The digests of a body, computed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyDigests {
    /// The digest that the header carries.
    pub body: Digest,
    /// Per submission.
    pub submissions: Vec<Arc<SubmissionDigests>>,
}

impl Body {
    /// Hashes every payload and the body.
    #[must_use]
    pub fn digests(&self, federation: FederationId) -> BodyDigests {
        self.digests_with(self.submissions.iter().map(|s| Arc::new(s.digests(federation))).collect())
    }

    /// The body digest from submissions already hashed: H(tag, count, then per submission: submission digest, signature (64 bytes)). No payload byte
    /// is hashed twice, and a body verifies after a payload is erased.
    #[must_use]
    pub fn digests_with(&self, submissions: Vec<Arc<SubmissionDigests>>) -> BodyDigests {
        let body = Canonical::hash("exo-federation/v1/body\0")
            .each(self.submissions.iter().zip(&submissions), |out, (submission, digests)| {
                out.digest_field(&digests.submission).fixed(&submission.signature.0)
            })
            .digest();
        BodyDigests { body, submissions }
    }

    /// How many updates it holds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.submissions.iter().map(|s| s.updates.len()).sum()
    }

    /// The leaves of its updates, the first at `first_sequence`. `digests` must be this body's own.
    #[must_use]
    pub fn leaves(&self, digests: &BodyDigests, first_sequence: Sequence) -> Vec<Leaf> {
        let updates = self.submissions.iter().zip(&digests.submissions);
        let updates = updates.flat_map(|(s, d)| s.updates.iter().zip(&d.data).map(|(update, digest)| (s.author, &update.update, *digest)));
        // Wrapping, because a header may name any number before it is checked.
        updates
            .zip(0u64..)
            .map(|((author, update, data_digest), offset)| Leaf {
                sequence: first_sequence.wrapping_add(offset),
                author,
                update_id: update.update_id.clone(),
                timestamp: update.timestamp,
                data_length: update.data.len() as u64,
                data_digest,
            })
            .collect()
    }

    /// The bytes it takes on the wire, as encoded.
    #[must_use]
    pub fn encoded_bytes(&self) -> u64 {
        8 + self.submissions.iter().map(|s| s.encoded_bytes()).sum::<u64>()
    }
}

/// A committed batch: it verifies by itself against the federation's genesis.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CommittedBatch {
    /// The header.
    pub header: Header,
    /// The body.
    pub body: Arc<Body>,
    /// The quorum's commits.
    pub certificate: CommitCertificate,
}
