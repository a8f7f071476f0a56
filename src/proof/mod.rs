//! Proofs that anyone checks offline with the federation's public genesis: of one update, of a submission, of a chain of batches.
//!
//! It imports `types` and `crypto` only and knows no clock, file, socket or replica: an auditor's build needs nothing else. Every layout
//! and every step is in `docs/proofs.md`, with frozen vectors in `tests/vectors/`.

pub mod chain;
mod commit;
mod consistency;
mod evidence;
mod json;
mod note;
mod page;
mod receipt;
mod tlog_proof;

pub use commit::{CommitProof, Opening, PROOF_MAGIC, VerifiedProof};
pub use consistency::{CONSISTENCY_FORMAT, ConsistencyProof};
pub use evidence::EVIDENCE_FORMAT;
pub use json::PROOF_FORMAT;
pub use note::{MAX_NOTE_BYTES, NoteError, policy_text};
pub use page::VERIFIER_SCRIPT;
pub use receipt::{ReceiptMaker, make_receipt, verify_receipt};
pub use tlog_proof::{TLOG_PROOF_FORMAT, TlogProof, TlogProofError};

use crate::crypto::{Digest, PublicKey};
use crate::types::{CertificateError, CodecError, Epoch, EvidenceError, EvidenceRule, Federation, FederationId, Header, Sequence, UpdateIdError};

/// The longest proof, in either form, that is read or written: 64 MiB.
pub const MAX_PROOF_BYTES: usize = crate::types::MAX_FRAME_BYTES;

/// Why a header cannot be one of this federation's, whoever signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another federation's.
    #[error("the header is of federation {found}, expected {expected}")]
    Federation {
        /// The federation asked about.
        expected: FederationId,
        /// The one the header names.
        found: FederationId,
    },
    /// An epoch that the genesis's membership does not cover.
    #[error("the header is of epoch {found}, the membership of epoch {expected}")]
    Epoch {
        /// The membership's epoch.
        expected: Epoch,
        /// The header's.
        found: Epoch,
    },
    /// Another membership.
    #[error("the header names membership {found}, expected {expected}")]
    Membership {
        /// The federation's membership digest.
        expected: Digest,
        /// The header's.
        found: Digest,
    },
    /// A batch without updates.
    #[error("the header counts {found} updates, expected at least 1")]
    Empty {
        /// Always 0.
        found: u32,
    },
    /// Sequence numbers that start at zero or run past the last u64.
    #[error("the header's {count} updates from {first} on leave the sequence numbers 1 to 2^64 - 1")]
    Range {
        /// The header's first sequence number.
        first: Sequence,
        /// The header's count.
        count: u32,
    },
}

impl HeaderError {
    /// The broken rule's name.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Federation { .. } => "federation",
            Self::Epoch { .. } => "epoch",
            Self::Membership { .. } => "membership",
            Self::Empty { .. } => "count",
            Self::Range { .. } => "sequence",
        }
    }
}

/// Checks what a header says of itself: federation, epoch, membership, and that it holds at least one update within the sequence numbers.
///
/// # Errors
/// [`HeaderError`]: the first rule broken.
pub fn check_header(federation: &Federation, header: &Header) -> Result<(), HeaderError> {
    if header.federation_id != federation.id() {
        return Err(HeaderError::Federation { expected: federation.id(), found: header.federation_id });
    }
    if header.epoch != 0 {
        return Err(HeaderError::Epoch { expected: 0, found: header.epoch });
    }
    if header.membership_digest != federation.membership_digest() {
        return Err(HeaderError::Membership { expected: federation.membership_digest(), found: header.membership_digest });
    }
    if header.count == 0 {
        return Err(HeaderError::Empty { found: 0 });
    }
    if header.first_sequence == 0 || header.first_sequence.checked_add(u64::from(header.count) - 1).is_none() {
        return Err(HeaderError::Range { first: header.first_sequence, count: header.count });
    }
    Ok(())
}

/// Why a proof or a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Longer than [`MAX_PROOF_BYTES`]; refused before it is parsed.
    #[error("the proof has {actual} bytes, the limit is {limit}")]
    TooLong {
        /// The bytes allowed.
        limit: usize,
        /// The bytes given.
        actual: usize,
    },
    /// No JSON of this shape: unknown, missing or mistyped fields, or broken text.
    #[error("line {line}, column {column}: {reason}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// Another file format, or another version of this one.
    #[error("the format is {found:?}, expected {expected:?}")]
    Format {
        /// What [`CommitProof::from_json`] reads.
        expected: &'static str,
        /// What the file says, its first 64 characters.
        found: String,
    },
    /// Evidence that proves nothing.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// Evidence whose statements are not of the kinds that convict together.
    #[error("the statements and what they are held against are not of the kinds that rule {rule} takes")]
    EvidenceShape {
        /// The rule claimed.
        rule: EvidenceRule,
    },
    /// Evidence whose statements break another rule than it says.
    #[error("the evidence claims rule {claimed}, its statements break {found}")]
    Rule {
        /// The rule claimed.
        claimed: EvidenceRule,
        /// The rule of the statements' phase.
        found: EvidenceRule,
    },
    /// The binary form begins otherwise.
    #[error("the proof begins with {found:02x?}, expected {expected:02x?}")]
    Magic {
        /// [`PROOF_MAGIC`].
        expected: [u8; 8],
        /// The first bytes found, at most eight.
        found: Vec<u8>,
    },
    /// The bytes mean a proof, but are not its one canonical form.
    #[error("the proof differs from its canonical form at byte {at}")]
    NotCanonical {
        /// The first byte that differs, from 0.
        at: usize,
    },
    /// Bytes that do not decode, or a proof that is too long to encode.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A signer's label that the genesis does not name.
    #[error("{label:?} is no member of the federation")]
    UnknownPeer {
        /// The label, its first 64 characters.
        label: String,
    },
    /// A signer beyond the membership cannot be written with a label.
    #[error("signer {index} is beyond the {members} members of the federation")]
    UnknownSigner {
        /// The signer's index.
        index: u16,
        /// n.
        members: usize,
    },
    /// The header is not of this federation.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// An update id whose length is out of bounds.
    #[error(transparent)]
    UpdateId(#[from] UpdateIdError),
    /// A sequence number that the header's batch does not hold.
    #[error("sequence {found} is outside the header's batch, {first} to {last}")]
    Sequence {
        /// The batch's first.
        first: Sequence,
        /// The batch's last.
        last: Sequence,
        /// The one found.
        found: Sequence,
    },
    /// An author whom the genesis does not admit.
    #[error("the author {found} is not admitted by the genesis")]
    UnknownAuthor {
        /// The key found.
        found: PublicKey,
    },
    /// A path whose length fits no leaf at this place.
    #[error("a path of {hashes} hashes does not fit leaf {index} of {size}")]
    Path {
        /// The leaf's index, from 0.
        index: u64,
        /// The tree's size.
        size: u64,
        /// The path's length.
        hashes: usize,
    },
    /// The path or the range leads to another root than the one that was signed.
    #[error("the leaves lead to root {found}, the header names {expected}")]
    Root {
        /// The header's.
        expected: Digest,
        /// The one computed.
        found: Digest,
    },
    /// The path does not show that the older log is the newer one's beginning.
    #[error("the log of {old_size} entries with root {old_root} is not shown to be the beginning of the log of {new_size} with root {new_root}")]
    Consistency {
        /// The older log's size.
        old_size: u64,
        /// Its root.
        old_root: Digest,
        /// The newer log's size.
        new_size: u64,
        /// Its root.
        new_root: Digest,
    },
    /// The quorum's signatures prove nothing.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A payload of another length than the leaf's.
    #[error("the payload has {found} bytes, the leaf names {expected}")]
    DataLength {
        /// The leaf's.
        expected: u64,
        /// The payload's.
        found: u64,
    },
    /// A payload or a salt with another digest than the leaf's.
    #[error("the payload's digest is {found}, the leaf names {expected}")]
    DataDigest {
        /// The leaf's.
        expected: Digest,
        /// The payload's, under the opening's salt.
        found: Digest,
    },
    /// The proof holds no salt, without which a payload cannot be compared.
    #[error("the proof of sequence {sequence} holds no opening (salt and payload), so that no payload can be compared with it")]
    NoOpening {
        /// The proof's sequence number.
        sequence: Sequence,
    },
    /// A receipt for no update, or leaves whose number is not the header's.
    #[error("{found} updates, expected {expected}")]
    Count {
        /// The number wanted; of a receipt at least this.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A receipt whose hashes do not fit its place.
    #[error("{hashes} hashes do not fit leaves {from} to {to} of {size}")]
    Outside {
        /// The first leaf's index, from 0.
        from: u64,
        /// One past the last leaf's index.
        to: u64,
        /// The tree's size.
        size: u64,
        /// The hashes found.
        hashes: usize,
    },
    /// A frontier that does not end where the batch begins.
    #[error("the tree before the batch has {found} leaves, expected {expected}")]
    Frontier {
        /// The header's first sequence number less one.
        expected: u64,
        /// The frontier's size.
        found: u64,
    },
}
