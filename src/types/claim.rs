//! What a view-change, a new-view or a body says, without what it carries along to prove it: the parts that are signed or hashed, and no more.
//! Evidence holds these, so that a record stays small and has no byte that could be changed unnoticed.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::update::submission_digest;
use super::{
    Body, BodyDigests, Checkpoint, Epoch, FederationId, Header, Leaf, NewView, ReplicaIndex, Sequence, Slot, TimestampMs, UpdateId, View, ViewChange,
};
use crate::crypto::{Canonical, Digest, PublicKey, Signature};

/// The stable checkpoint that a view-change names; all zero before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StableClaim {
    /// Its slot.
    pub slot: Slot,
    /// Its last sequence number.
    pub sequence: Sequence,
    /// The digest of its slot's header.
    pub digest: Digest,
    /// The log root after it.
    pub log_root: Digest,
}

impl From<&Checkpoint> for StableClaim {
    fn from(checkpoint: &Checkpoint) -> Self {
        let Checkpoint { slot, sequence, digest, log_root, .. } = *checkpoint;
        Self { slot, sequence, digest, log_root }
    }
}

/// A prepared certificate that a view-change names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreparedClaim {
    /// The view in which it was prepared.
    pub view: View,
    /// The slot.
    pub slot: Slot,
    /// The header's digest.
    pub digest: Digest,
}

/// What a view-change says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ViewChangeClaim {
    /// Under which membership.
    pub epoch: Epoch,
    /// The view that its signer moves to.
    pub new_view: View,
    /// Who says it.
    pub replica: ReplicaIndex,
    /// Its stable checkpoint.
    pub stable: StableClaim,
    /// What it had prepared above that.
    pub prepared: Vec<PreparedClaim>,
}

impl ViewChangeClaim {
    /// What a view-change says.
    #[must_use]
    pub fn of(change: &ViewChange) -> Self {
        let stable = change.stable.as_ref().map_or_else(StableClaim::default, |certificate| StableClaim::from(&certificate.checkpoint));
        let claim = |p: &super::PreparedCertificate| PreparedClaim { view: p.view, slot: p.header.slot, digest: p.header.digest() };
        let prepared = change.prepared.iter().map(claim).collect();
        Self { epoch: change.epoch, new_view: change.new_view, replica: change.replica, stable, prepared }
    }

    /// What is signed: tag, federation id, epoch u64, new view u64, replica u16, stable slot u64, sequence u64, header digest, log root (zeros
    /// before the first checkpoint), then per prepared certificate: view u64, slot u64, header digest.
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        Canonical::bytes("exo-federation/v1/view-change\0")
            .digest_field(&federation.0)
            .u64(self.epoch)
            .u64(self.new_view)
            .u16(self.replica)
            .u64(self.stable.slot)
            .u64(self.stable.sequence)
            .digest_field(&self.stable.digest)
            .digest_field(&self.stable.log_root)
            .each(self.prepared.iter(), |out, p| out.u64(p.view).u64(p.slot).digest_field(&p.digest))
            .finish()
    }

    /// H(tag, signed bytes): how a new-view names it.
    #[must_use]
    pub fn digest(&self, federation: FederationId) -> Digest {
        Canonical::hash("exo-federation/v1/view-change-digest\0").var(&self.signed_bytes(federation)).digest()
    }
}

/// What a new-view says; the leader of its view signs it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NewViewClaim {
    /// Under which membership.
    pub epoch: Epoch,
    /// The view that begins.
    pub view: View,
    /// The view-changes that it rests on: whose, and their digests.
    pub view_changes: Vec<(ReplicaIndex, Digest)>,
}

impl NewViewClaim {
    /// What a new-view says.
    #[must_use]
    pub fn of(new_view: &NewView, federation: FederationId) -> Self {
        let view_changes = new_view.view_changes.iter().map(|change| (change.replica, change.digest(federation))).collect();
        Self { epoch: new_view.epoch, view: new_view.view, view_changes }
    }

    /// What is signed: tag, federation id, epoch u64, view u64, then per view-change: replica u16, view-change digest.
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        Canonical::bytes("exo-federation/v1/new-view\0")
            .digest_field(&federation.0)
            .u64(self.epoch)
            .u64(self.view)
            .each(self.view_changes.iter(), |out, (replica, digest)| out.u16(*replica).digest_field(digest))
            .finish()
    }
}

/// A body without its payloads: what its digest and its leaves are made of.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BodyClaim {
    /// The submissions, in log order.
    pub submissions: Vec<SubmissionClaim>,
}

/// A submission without its payloads.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmissionClaim {
    /// The author's key.
    pub author: PublicKey,
    /// The last header timestamp (ms) at which a batch may contain it.
    pub not_after: TimestampMs,
    /// The updates.
    pub updates: Vec<UpdateClaim>,
    /// The author's signature.
    pub signature: Signature,
}

/// An update without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateClaim {
    /// The update's id.
    pub update_id: UpdateId,
    /// The author's own time, ms.
    pub timestamp: TimestampMs,
    /// The payload's length in bytes.
    pub data_length: u64,
    /// The payload's digest.
    pub data_digest: Digest,
}

impl BodyClaim {
    /// A body without its payloads. `digests` must be its own.
    #[must_use]
    pub fn of(body: &Body, digests: &BodyDigests) -> Self {
        let submissions = body.submissions.iter().zip(&digests.submissions).map(|(submission, digests)| {
            let updates = submission.updates.iter().zip(&digests.data).map(|(submitted, data)| UpdateClaim {
                update_id: submitted.update.update_id.clone(),
                timestamp: submitted.update.timestamp,
                data_length: submitted.update.data.len() as u64,
                data_digest: *data,
            });
            SubmissionClaim {
                author: submission.author,
                not_after: submission.not_after,
                updates: updates.collect(),
                signature: submission.signature,
            }
        });
        Self { submissions: submissions.collect() }
    }

    /// The digest that a header carries, as [`Body::digests`] computes it.
    #[must_use]
    pub fn digest(&self, federation: FederationId) -> Digest {
        Canonical::hash("exo-federation/v1/body\0")
            .each(self.submissions.iter(), |out, s| {
                let updates = s.updates.iter().map(|u| (&u.update_id, u.timestamp, u.data_length, &u.data_digest));
                out.digest_field(&submission_digest(federation, &s.author, s.not_after, updates)).fixed(&s.signature.0)
            })
            .digest()
    }

    /// The leaf hashes of its updates, the first at `first_sequence`.
    pub fn leaf_hashes(&self, first_sequence: Sequence) -> impl Iterator<Item = Digest> {
        let updates = self.submissions.iter().flat_map(|s| s.updates.iter().map(|update| (s.author, update)));
        updates.zip(0u64..).map(move |((author, update), offset)| {
            let leaf = Leaf {
                sequence: first_sequence.wrapping_add(offset),
                author,
                update_id: update.update_id.clone(),
                timestamp: update.timestamp,
                data_length: update.data_length,
                data_digest: update.data_digest,
            };
            leaf.hash()
        })
    }
}

/// What a quorum's view-changes imply, told from what they say and the headers that they name: the header that each slot above the highest stable
/// checkpoint must have, up to where the chain breaks. `headers` are those of the slots from that checkpoint upward.
#[must_use]
pub fn implied<'a>(changes: &[ViewChangeClaim], headers: &'a [Header]) -> Vec<&'a Header> {
    let base = changes.iter().map(|change| change.stable).max_by_key(|stable| stable.slot).unwrap_or_default();
    let mut parent = base.digest;
    let mut chosen = Vec::new();
    // A view-change may name any slot, the last number too, behind which there is none.
    for (slot, header) in base.slot.checked_add(1).into_iter().flat_map(|first| first..=Slot::MAX).zip(headers) {
        let mut best: Option<PreparedClaim> = None;
        for claim in changes.iter().flat_map(|change| &change.prepared).filter(|claim| claim.slot == slot) {
            if best.is_none_or(|best| claim.view > best.view) {
                best = Some(*claim);
            }
        }
        if best.is_none_or(|best| best.digest != header.digest()) || header.slot != slot || header.parent != parent {
            break;
        }
        parent = header.digest();
        chosen.push(header);
    }
    chosen
}
