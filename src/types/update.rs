//! Updates, the submissions that carry them, and the leaves that stand for them in the tree.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{FederationId, Sequence, TimestampMs};
use crate::crypto::{Canonical, Digest, PublicKey, Signature, SigningKey, merkle};

/// An update's id: 1 to 256 bytes of UTF-8, chosen by its author.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpdateId(pub String);

/// An id whose length is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an update id has 1 to {limit} bytes, this one has {actual}")]
pub struct UpdateIdError {
    /// The most bytes allowed.
    pub limit: usize,
    /// The bytes found.
    pub actual: usize,
}

impl UpdateId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Checks the length.
    ///
    /// # Errors
    /// [`UpdateIdError`].
    pub fn check(&self) -> Result<(), UpdateIdError> {
        let actual = self.0.len();
        if (1..=Self::MAX_BYTES).contains(&actual) { Ok(()) } else { Err(UpdateIdError { limit: Self::MAX_BYTES, actual }) }
    }
}

impl fmt::Display for UpdateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UpdateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What an author wants appended: opaque bytes under an id.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StateUpdate {
    /// Unique per author for as long as `not_after` has not passed.
    pub update_id: UpdateId,
    /// The payload.
    pub data: Vec<u8>,
    /// The author's own time, ms since the Unix epoch; it is signed, not checked.
    pub timestamp: TimestampMs,
}

/// An update with the salt that hides its payload in the data digest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SubmittedUpdate {
    /// The update.
    pub update: StateUpdate,
    /// Erase it with the data, and the data digest tells nothing of the data.
    pub salt: [u8; 16],
}

impl SubmittedUpdate {
    /// H(tag, salt, update id, data).
    #[must_use]
    pub fn data_digest(&self) -> Digest {
        data_digest(&self.salt, &self.update.update_id, &self.update.data)
    }
}

/// The data digest: H(tag, salt (16 bytes), var update id, var data).
#[must_use]
pub fn data_digest(salt: &[u8; 16], update_id: &UpdateId, data: &[u8]) -> Digest {
    Canonical::hash("exo-federation/v1/data\0").fixed(salt).var(update_id.0.as_bytes()).var(data).digest()
}

/// One or more updates signed once by their author: the unit a client sends. All of it is committed, in one batch, or none.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Submission {
    /// The author's key, admitted by the genesis.
    pub author: PublicKey,
    /// The last header timestamp (ms) at which a batch may contain it.
    pub not_after: TimestampMs,
    /// The updates, in the order they will have in the log.
    pub updates: Vec<SubmittedUpdate>,
    /// The author's signature on [`Submission::signed_bytes`].
    pub signature: Signature,
}

/// The digests of a submission, computed once from its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmissionDigests {
    /// The submission digest, which the author signed.
    pub submission: Digest,
    /// The data digest of each update.
    pub data: Vec<Digest>,
}

impl Submission {
    /// Makes and signs a submission; each update's salt is derived from the author's key and its id.
    #[must_use]
    pub fn sign(federation: FederationId, key: &SigningKey, not_after: TimestampMs, updates: Vec<StateUpdate>) -> Self {
        let updates = updates.into_iter().map(|update| SubmittedUpdate { salt: key.salt_for(update.update_id.0.as_bytes()), update }).collect();
        let mut submission = Self { author: key.public(), not_after, updates, signature: Signature([0; 64]) };
        let digests = submission.digests(federation);
        submission.signature = key.sign(&Self::signed_bytes(federation, &digests.submission));
        submission
    }

    /// Hashes the payloads and the submission. The submission digest is H(tag, federation id, author, not_after, count, then per update: var id,
    /// timestamp, data length, data digest): it stays verifiable after payloads are erased.
    #[must_use]
    pub fn digests(&self, federation: FederationId) -> SubmissionDigests {
        let data: Vec<Digest> = self.updates.iter().map(SubmittedUpdate::data_digest).collect();
        let updates = self.updates.iter().map(|submitted| &submitted.update).zip(&data);
        let updates = updates.map(|(update, digest)| (&update.update_id, update.timestamp, update.data.len() as u64, digest));
        let submission = submission_digest(federation, &self.author, self.not_after, updates);
        SubmissionDigests { submission, data }
    }

    /// What the author signs: tag, federation id, submission digest.
    #[must_use]
    pub fn signed_bytes(federation: FederationId, submission_digest: &Digest) -> Vec<u8> {
        Canonical::bytes("exo-federation/v1/submission-signature\0").digest_field(&federation.0).digest_field(submission_digest).finish()
    }

    /// The ids of its updates, in order.
    pub fn ids(&self) -> impl Iterator<Item = &UpdateId> {
        self.updates.iter().map(|u| &u.update.update_id)
    }

    /// The bytes it takes in a batch, as encoded.
    #[must_use]
    pub fn encoded_bytes(&self) -> u64 {
        let updates: usize = self.updates.iter().map(|u| u.update.update_id.0.len() + u.update.data.len() + 40).sum();
        (updates + 112) as u64
    }
}

/// The submission digest, from its updates' ids, timestamps, data lengths and data digests.
pub(super) fn submission_digest<'a>(
    federation: FederationId,
    author: &PublicKey,
    not_after: TimestampMs,
    updates: impl ExactSizeIterator<Item = (&'a UpdateId, TimestampMs, u64, &'a Digest)>,
) -> Digest {
    Canonical::hash("exo-federation/v1/submission\0")
        .digest_field(&federation.0)
        .fixed(&author.0)
        .u64(not_after)
        .each(updates, |out, (id, timestamp, length, digest)| out.var(id.0.as_bytes()).u64(timestamp).u64(length).digest_field(digest))
        .digest()
}

/// The version byte pair that every leaf begins with.
pub const LEAF_VERSION: u16 = 1;

/// Why bytes are no leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Too short or too long.
    #[error("{actual} bytes are not the length of the leaf that they begin like")]
    Length {
        /// The bytes given.
        actual: usize,
    },
    /// Of another format.
    #[error("the leaf is of version {found}, expected {expected}")]
    Version {
        /// [`LEAF_VERSION`].
        expected: u16,
        /// The one found.
        found: u16,
    },
    /// An update id that is no UTF-8.
    #[error("the leaf's update id is no UTF-8")]
    NotText,
    /// An update id whose length is out of bounds.
    #[error(transparent)]
    UpdateId(#[from] UpdateIdError),
}

fn take<const N: usize>(rest: &mut &[u8], whole: &[u8]) -> Result<[u8; N], LeafError> {
    let (front, behind) = rest.split_first_chunk::<N>().ok_or(LeafError::Length { actual: whole.len() })?;
    *rest = behind;
    Ok(*front)
}

/// What stands for one update in the Merkle tree: at most 350 bytes, without the payload.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// The update's place in the log; the leaf index is one less.
    pub sequence: Sequence,
    /// The author's key.
    pub author: PublicKey,
    /// The update's id.
    pub update_id: UpdateId,
    /// The author's own time, ms.
    pub timestamp: TimestampMs,
    /// The payload's length in bytes.
    pub data_length: u64,
    /// The payload's digest.
    pub data_digest: Digest,
}

impl Leaf {
    /// The canonical bytes: version u16, sequence u64, author (32 bytes), var update id, timestamp u64, data length u64, data digest (32 bytes).
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        Canonical::untagged()
            .u16(LEAF_VERSION)
            .u64(self.sequence)
            .fixed(&self.author.0)
            .var(self.update_id.0.as_bytes())
            .u64(self.timestamp)
            .u64(self.data_length)
            .digest_field(&self.data_digest)
            .finish()
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`LeafError`]: whatever [`Leaf::canonical_bytes`] would not have written.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut rest = bytes;
        let version = u16::from_le_bytes(take(&mut rest, bytes)?);
        if version != LEAF_VERSION {
            return Err(LeafError::Version { expected: LEAF_VERSION, found: version });
        }
        let sequence = u64::from_le_bytes(take(&mut rest, bytes)?);
        let author = PublicKey(take(&mut rest, bytes)?);
        let length = usize::try_from(u32::from_le_bytes(take(&mut rest, bytes)?)).unwrap_or(usize::MAX);
        let id = rest.split_off(..length).ok_or(LeafError::Length { actual: bytes.len() })?;
        let update_id = UpdateId(String::from_utf8(id.to_vec()).map_err(|_| LeafError::NotText)?);
        update_id.check()?;
        let timestamp = u64::from_le_bytes(take(&mut rest, bytes)?);
        let data_length = u64::from_le_bytes(take(&mut rest, bytes)?);
        let data_digest = Digest(take(&mut rest, bytes)?);
        if !rest.is_empty() {
            return Err(LeafError::Length { actual: bytes.len() });
        }
        Ok(Self { sequence, author, update_id, timestamp, data_length, data_digest })
    }

    /// The RFC 6962 leaf hash of the canonical bytes.
    #[must_use]
    pub fn hash(&self) -> Digest {
        merkle::leaf_hash(&self.canonical_bytes())
    }
}
