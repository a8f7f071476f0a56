//! What a replica says, for outsiders, of its log at a stable checkpoint: a C2SP cosignature (`tlog-cosignature`, Ed25519, `cosignature/v1`).
//!
//! These are the only signed bytes of the project that are text: they are laid out by C2SP, so that other people's programs check them.
//! `docs/checkpoints.md` says how the names are chosen and why.

use bincode::{Decode, Encode};
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::{Federation, FederationId, PeerId, ReplicaIndex};
use crate::crypto::{Digest, PublicKey, Signature, SigningKey, sha256};

/// What every federation's origin line begins with.
pub const ORIGIN_PREFIX: &str = "exo-federation/";

/// The origin line: what names this federation's log wherever checkpoints are compared.
#[must_use]
pub fn checkpoint_origin(federation: FederationId) -> String {
    format!("{ORIGIN_PREFIX}{federation}")
}

/// The note text of a checkpoint (`tlog-checkpoint`): origin, size and base64 root, each on its line.
#[must_use]
pub fn checkpoint_text(federation: FederationId, size: u64, root: &Digest) -> String {
    format!("{}\n{size}\n{}\n", checkpoint_origin(federation), BASE64.encode(&root.0))
}

/// One member's cosignature: as of `timestamp`, the largest log it holds, durably and by a quorum's word, has `size` entries and this root.
///
/// A correct replica cosigns stable checkpoints of its own log only, and one size at one time only. Two cosignatures of one key for one size with
/// different roots therefore prove misuse of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cosignature {
    /// Who signed.
    pub replica: ReplicaIndex,
    /// How many entries the log has: its last sequence number.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// When it was signed, by the signer's clock: seconds since the Unix epoch, at most 2^63 - 1.
    pub timestamp: u64,
    /// The signature on [`Cosignature::signed_bytes`], under the member's cosignature key.
    pub signature: Signature,
}

/// Why a cosignature proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignatureError {
    /// Nobody's.
    #[error("the cosignature is of member {index}, there are {members}")]
    UnknownMember {
        /// The index named.
        index: ReplicaIndex,
        /// How many there are.
        members: usize,
    },
    /// Beyond what the format holds.
    #[error("the cosignature's time is {found} s, the format ends at {limit}")]
    Timestamp {
        /// The last second.
        limit: u64,
        /// The time found.
        found: u64,
    },
    /// The member did not say that.
    #[error("the cosignature of {size} entries is not signed by the cosignature key of {member}")]
    BadSignature {
        /// The size that it names.
        size: u64,
        /// Whose it would be.
        member: PeerId,
    },
}

impl Cosignature {
    /// The last second that the format holds.
    pub const MAX_TIMESTAMP: u64 = i64::MAX.cast_unsigned();

    /// Signs. The caller sees to it that this is a stable checkpoint of its own log, and that it never signed this size at another time.
    #[must_use]
    pub fn sign(federation: FederationId, key: &SigningKey, replica: ReplicaIndex, (size, root): (u64, Digest), timestamp: u64) -> Self {
        let timestamp = timestamp.min(Self::MAX_TIMESTAMP);
        let mut cosignature = Self { replica, size, root, timestamp, signature: Signature([0; 64]) };
        cosignature.signature = key.sign(&cosignature.signed_bytes(federation));
        cosignature
    }

    /// What is signed: the line `cosignature/v1`, the line `time N`, and the note text ([`checkpoint_text`]).
    #[must_use]
    pub fn signed_bytes(&self, federation: FederationId) -> Vec<u8> {
        format!("cosignature/v1\ntime {}\n{}", self.timestamp, checkpoint_text(federation, self.size, &self.root)).into_bytes()
    }

    /// Checks the signature with the membership alone.
    ///
    /// # Errors
    /// [`CosignatureError`].
    pub fn verify(&self, federation: &Federation) -> Result<(), CosignatureError> {
        let unknown = || CosignatureError::UnknownMember { index: self.replica, members: federation.size() };
        let member = federation.peer(self.replica).ok_or_else(unknown)?;
        let key = federation.cosignature_key(self.replica).ok_or_else(unknown)?;
        if self.timestamp > Self::MAX_TIMESTAMP {
            return Err(CosignatureError::Timestamp { limit: Self::MAX_TIMESTAMP, found: self.timestamp });
        }
        let bad = |_| CosignatureError::BadSignature { size: self.size, member: member.clone() };
        key.verify(&self.signed_bytes(federation.id()), &self.signature).map_err(bad)
    }
}

/// Which kind of signature a line of a note holds (`signed-note`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoteKeyKind {
    /// Ed25519 over the note text: the line that says "this log published it".
    Log,
    /// Ed25519 over the timestamped statement of [`Cosignature::signed_bytes`].
    Cosigner,
}

impl NoteKeyKind {
    /// The signature type of C2SP's `signed-note`.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Log => 0x01,
            Self::Cosigner => 0x04,
        }
    }
}

/// A public key as notes name it.
///
/// Each member's cosignature key has two names: as the log's (its line says who published the note) and as a cosigner's. The signed bytes of the
/// two begin differently, so that neither can stand in for the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteKey {
    /// The key name: no space, no plus.
    pub name: String,
    /// What it signs.
    pub kind: NoteKeyKind,
    /// The key.
    pub key: PublicKey,
}

impl NoteKey {
    /// A member's cosignature key under one of its two names; `None` beyond the membership.
    #[must_use]
    pub fn of_member(federation: &Federation, replica: ReplicaIndex, kind: NoteKeyKind) -> Option<Self> {
        let member = federation.members().get(usize::from(replica))?;
        let origin = checkpoint_origin(federation.id());
        let name = match kind {
            NoteKeyKind::Log => origin,
            NoteKeyKind::Cosigner => format!("{origin}/{}", member.peer),
        };
        Some(Self { name, kind, key: member.cosignature_key })
    }

    /// The key id: the first four bytes of H(name, newline, kind, key).
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let mut bytes = format!("{}\n", self.name).into_bytes();
        bytes.push(self.kind.code());
        bytes.extend_from_slice(&self.key.0);
        let Digest([a, b, c, d, ..]) = sha256(&bytes);
        [a, b, c, d]
    }

    /// The key in the text form that other programs are configured with: `name+id+base64(kind, key)`.
    #[must_use]
    pub fn vkey(&self) -> String {
        let material = [&[self.kind.code()][..], &self.key.0].concat();
        format!("{}+{}+{}", self.name, HEXLOWER.encode(&self.id()), BASE64.encode(&material))
    }
}
