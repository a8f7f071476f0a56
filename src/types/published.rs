//! A published checkpoint: size and root of the log with a quorum's cosignatures, for whoever holds the genesis and asks nobody.

use bincode::{Decode, Encode};

use super::{Cosignature, CosignatureError, Federation, FederationId, Leaf, PeerId, ReplicaIndex, checkpoint_text};
use crate::crypto::{Digest, Signature, SigningKey};

/// What a log of `size` entries has as its root, by the word of a quorum.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PublishedCheckpoint {
    /// How many entries: the last sequence number.
    pub size: u64,
    /// The root.
    pub root: Digest,
    /// Who published it: members' signatures on [`checkpoint_text`] itself, ascending. C2SP wants a line of the log beside those of its
    /// cosigners; it adds nothing to what the quorum says.
    pub publishers: Vec<(ReplicaIndex, Signature)>,
    /// The cosignatures, by ascending member.
    pub cosignatures: Vec<Cosignature>,
}

/// Why a published checkpoint proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishedError {
    /// Too few cosigners.
    #[error("{actual} cosignatures, a quorum is {needed}")]
    NoQuorum {
        /// The quorum.
        needed: usize,
        /// Cosignatures found.
        actual: usize,
    },
    /// A member stands twice, or the order is not the canonical one.
    #[error("member {0} stands twice or out of order")]
    Duplicate(ReplicaIndex),
    /// A cosignature of something else.
    #[error("the cosignature of member {replica} is of {found} entries or of another root, the checkpoint of {expected}")]
    OtherCheckpoint {
        /// Whose.
        replica: ReplicaIndex,
        /// The checkpoint's size.
        expected: u64,
        /// The cosignature's.
        found: u64,
    },
    /// A cosignature that does not hold.
    #[error(transparent)]
    Cosignature(#[from] CosignatureError),
    /// A publisher beyond the membership.
    #[error("publisher {index} is beyond the {members} members of the federation")]
    UnknownPublisher {
        /// The index.
        index: ReplicaIndex,
        /// n.
        members: usize,
    },
    /// A publisher who did not sign that.
    #[error("the log's line for {size} entries is not signed by the cosignature key of {member}")]
    Publisher {
        /// The size.
        size: u64,
        /// Whose signature it would be.
        member: PeerId,
    },
}

impl PublishedCheckpoint {
    /// Signs as its publisher.
    #[must_use]
    pub fn publish(
        federation: FederationId,
        key: &SigningKey,
        replica: ReplicaIndex,
        (size, root): (u64, Digest),
        mut cosignatures: Vec<Cosignature>,
    ) -> Self {
        cosignatures.sort_unstable();
        let signature = key.sign(checkpoint_text(federation, size, &root).as_bytes());
        Self { size, root, publishers: vec![(replica, signature)], cosignatures }
    }

    /// Checks everything with the membership alone. One bad signature refuses the whole.
    ///
    /// # Errors
    /// [`PublishedError`]: the first rule broken.
    pub fn verify(&self, federation: &Federation) -> Result<(), PublishedError> {
        let (needed, actual) = (federation.quorum(), self.cosignatures.len());
        if actual < needed {
            return Err(PublishedError::NoQuorum { needed, actual });
        }
        ascending(self.cosignatures.iter().map(|c| c.replica))?;
        ascending(self.publishers.iter().map(|(replica, _)| *replica))?;
        for cosignature in &self.cosignatures {
            let Cosignature { replica, size: found, root, .. } = *cosignature;
            if (found, root) != (self.size, self.root) {
                return Err(PublishedError::OtherCheckpoint { replica, expected: self.size, found });
            }
            cosignature.verify(federation)?;
        }
        let text = checkpoint_text(federation.id(), self.size, &self.root);
        for (index, signature) in &self.publishers {
            let unknown = || PublishedError::UnknownPublisher { index: *index, members: federation.size() };
            let member = federation.peer(*index).ok_or_else(unknown)?;
            let key = federation.cosignature_key(*index).ok_or_else(unknown)?;
            let bad = |_| PublishedError::Publisher { size: self.size, member: member.clone() };
            key.verify(text.as_bytes(), signature).map_err(bad)?;
        }
        Ok(())
    }
}

fn ascending(mut replicas: impl Iterator<Item = ReplicaIndex>) -> Result<(), PublishedError> {
    let mut last = None;
    replicas.try_for_each(|replica| {
        let higher = last.is_none_or(|last| last < replica);
        last = Some(replica);
        if higher { Ok(()) } else { Err(PublishedError::Duplicate(replica)) }
    })
}

/// What makes an update's proof in a published checkpoint; `proof::TlogProof` is its portable form.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PublishedProof {
    /// The update's leaf.
    pub leaf: Leaf,
    /// Sibling hashes from the leaf up, in the tree of the checkpoint.
    pub path: Vec<Digest>,
    /// The checkpoint.
    pub checkpoint: PublishedCheckpoint,
}
