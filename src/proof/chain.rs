//! The checks of auditors, catch-up and log readers: what a batch says of itself, and how it continues the chain.
//!
//! [`check_batch`] is stateless and holds all the expensive work, so that a caller may run it on many batches at once; [`ChainVerifier`] is
//! sequential and hashes only.

use std::collections::BTreeSet;

use super::{HeaderError, check_header};
use crate::crypto::{
    Digest, PublicKey,
    merkle::{self, Frontier},
};
use crate::types::{
    BatchKind, BodyDigests, CertificateError, CommittedBatch, Federation, Header, Leaf, Sequence, Slot, Submission, TimestampMs, UpdateId,
    UpdateIdError,
};

/// Whether the authors' signatures are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorSignatures {
    /// Every one.
    Check,
    /// None: a correct member among the quorum checked them when it voted.
    Skip,
}

/// A rule that a batch breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The header is not of this federation.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// An epoch ends with one update alone.
    #[error("an epoch-end batch holds {found} updates, expected {expected}")]
    Kind {
        /// Always 1.
        expected: u32,
        /// The header's count.
        found: u32,
    },
    /// No quorum committed it.
    #[error(transparent)]
    Quorum(#[from] CertificateError),
    /// Header and body, or header and leaves, count differently.
    #[error("the header counts {expected} updates, there are {found}")]
    Count {
        /// The header's count.
        expected: u64,
        /// The body's.
        found: u64,
    },
    /// Another body than the one that was voted on.
    #[error("the body's digest is {found}, the header names {expected}")]
    Body {
        /// The header's.
        expected: Digest,
        /// The one computed.
        found: Digest,
    },
    /// An author whom the genesis does not admit.
    #[error("the author {found} is not admitted by the genesis")]
    Author {
        /// The key found.
        found: PublicKey,
    },
    /// An author's signature that does not verify.
    #[error("the submission's signature does not verify under its author's key {author}")]
    Signature {
        /// The author.
        author: PublicKey,
    },
    /// An update id whose length is out of bounds.
    #[error(transparent)]
    UpdateId(#[from] UpdateIdError),
    /// The same author and id twice in one batch.
    #[error("update id {update_id:?} of author {author} stands twice in the batch")]
    Duplicate {
        /// The author.
        author: PublicKey,
        /// The id.
        update_id: UpdateId,
    },
    /// An agreed limit.
    #[error("{key} is {limit}, found {found}")]
    Limit {
        /// The parameter's name in the genesis, or `submission` for the least number of updates in one.
        key: &'static str,
        /// The limit.
        limit: u64,
        /// What was found.
        found: u64,
    },
    /// `header timestamp <= not_after <= header timestamp + max_lifetime_ms` does not hold.
    #[error("not_after is {found}, expected {earliest} to {latest}")]
    Lifetime {
        /// The header's timestamp.
        earliest: TimestampMs,
        /// The header's timestamp and the longest lifetime.
        latest: TimestampMs,
        /// The submission's.
        found: TimestampMs,
    },
    /// A gap or a step back among slots.
    #[error("expected slot {expected}, found {found}")]
    Slot {
        /// The tip's successor.
        expected: Slot,
        /// The header's.
        found: Slot,
    },
    /// The header does not continue the one before it.
    #[error("the parent is {found}, expected {expected}")]
    Parent {
        /// The tip's digest.
        expected: Digest,
        /// The header's parent.
        found: Digest,
    },
    /// A gap or a step back among sequence numbers.
    #[error("the first sequence number is {found}, expected {expected}")]
    Sequence {
        /// The tip's successor.
        expected: Sequence,
        /// The header's.
        found: Sequence,
    },
    /// Time that stands or runs back.
    #[error("the timestamp is {found}, expected more than {after}")]
    Timestamp {
        /// The tip's.
        after: TimestampMs,
        /// The header's.
        found: TimestampMs,
    },
    /// Another tree than the one that was voted on.
    #[error("the log root is {found}, the header names {expected}")]
    Root {
        /// The header's.
        expected: Digest,
        /// The one computed.
        found: Digest,
    },
}

/// A broken rule and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slot {slot}, sequence {sequence}, rule {}: {violation}", .violation.rule())]
pub struct ChainError {
    /// The slot that the header names.
    pub slot: Slot,
    /// The sequence number of the update at fault, or the header's first.
    pub sequence: Sequence,
    /// What is broken.
    pub violation: Violation,
}

impl Violation {
    /// The broken rule's name.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Header(error) => error.rule(),
            Self::Kind { .. } => "kind",
            Self::Quorum(_) => "quorum",
            Self::Count { .. } => "count",
            Self::Body { .. } => "body",
            Self::Author { .. } => "author",
            Self::Signature { .. } => "signature",
            Self::UpdateId(_) => "update-id",
            Self::Duplicate { .. } => "duplicate",
            Self::Limit { .. } => "limit",
            Self::Lifetime { .. } => "lifetime",
            Self::Slot { .. } => "slot",
            Self::Parent { .. } => "parent",
            Self::Sequence { .. } => "sequence",
            Self::Timestamp { .. } => "timestamp",
            Self::Root { .. } => "root",
        }
    }

    /// What was expected and what was found, for a report.
    #[must_use]
    pub fn expected_and_found(&self) -> (String, String) {
        let pair = |expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| (expected.to_string(), found.to_string());
        match self {
            Self::Header(HeaderError::Federation { expected, found }) => pair(expected, found),
            Self::Header(HeaderError::Epoch { expected, found }) | Self::Slot { expected, found } | Self::Sequence { expected, found } => {
                pair(expected, found)
            }
            Self::Header(HeaderError::Empty { found }) => pair(&"at least 1", found),
            Self::Header(HeaderError::Range { first, count }) => pair(&"1 to 2^64 - 1", &format!("{count} updates from {first} on")),
            Self::Kind { expected, found } => pair(expected, found),
            Self::Quorum(error) => pair(&"a quorum of valid commits", error),
            Self::Count { expected, found } => pair(expected, found),
            Self::Header(HeaderError::Membership { expected, found })
            | Self::Body { expected, found }
            | Self::Parent { expected, found }
            | Self::Root { expected, found } => pair(expected, found),
            Self::Author { found } => pair(&"an admitted author", found),
            Self::Signature { author } => pair(author, &"a signature that does not verify"),
            Self::UpdateId(error) => pair(&format!("1 to {} bytes", error.limit), &format!("{} bytes", error.actual)),
            Self::Duplicate { update_id, .. } => pair(&"every id once", update_id),
            Self::Limit { key, limit, found } => pair(&format!("{key} {limit}"), found),
            Self::Lifetime { earliest, latest, found } => pair(&format!("{earliest} to {latest}"), found),
            Self::Timestamp { after, found } => pair(&format!("more than {after}"), found),
        }
    }
}

impl ChainError {
    fn at(header: &Header, violation: impl Into<Violation>) -> Self {
        Self { slot: header.slot, sequence: header.first_sequence, violation: violation.into() }
    }

    /// The broken rule's name: `federation`, `epoch`, `membership`, `count`, `sequence`, `kind`, `quorum`, `body`, `author`, `signature`,
    /// `update-id`, `duplicate`, `limit`, `lifetime`, `slot`, `parent`, `timestamp` or `root`.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.violation.rule()
    }

    /// What was expected, for a report.
    #[must_use]
    pub fn expected(&self) -> String {
        self.violation.expected_and_found().0
    }

    /// What was found, for a report.
    #[must_use]
    pub fn found(&self) -> String {
        self.violation.expected_and_found().1
    }
}

/// A batch that keeps every rule it can keep by itself; what was hashed on the way is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedBatch {
    /// The header's digest.
    pub digest: Digest,
    /// The body's digests.
    pub digests: BodyDigests,
    /// The leaves of its updates, in order.
    pub leaves: Vec<Leaf>,
    /// Their hashes.
    pub leaf_hashes: Vec<Digest>,
    /// How many signatures were checked.
    pub signatures: u64,
}

/// Checks a batch by itself: header fields, counts and limits, lifetimes, ids, authors, body digest, certificate, authors' signatures.
///
/// # Errors
/// [`ChainError`]: the first rule broken, cheap ones first.
pub fn check_batch(federation: &Federation, batch: &CommittedBatch, authors: AuthorSignatures) -> Result<CheckedBatch, ChainError> {
    check_structure(federation, batch)?;
    let mut checked = check_hashes(federation, batch)?;
    checked.signatures = check_certificate(federation, batch)?;
    if authors == AuthorSignatures::Check {
        let authors = check_author_signatures(federation, batch, &checked.digests)?;
        checked.signatures = checked.signatures.saturating_add(authors);
    }
    Ok(checked)
}

/// What a batch says without a hash or a signature: header fields, counts and limits, lifetimes, ids, admitted authors.
///
/// # Errors
/// [`ChainError`]: the first rule broken.
pub fn check_structure(federation: &Federation, batch: &CommittedBatch) -> Result<(), ChainError> {
    let CommittedBatch { header, body, .. } = batch;
    check_header(federation, header).map_err(|e| ChainError::at(header, e))?;
    check_shape(federation, batch).map_err(|violation| ChainError::at(header, violation))?;
    let mut sequence = header.first_sequence;
    let mut seen = BTreeSet::new();
    for submission in &body.submissions {
        check_submission(federation, header, submission, &mut seen).map_err(|violation| ChainError { slot: header.slot, sequence, violation })?;
        sequence = sequence.saturating_add(submission.updates.len() as u64);
    }
    Ok(())
}

/// The body digest, and the leaves with their hashes; every payload is hashed. No signature is checked.
///
/// # Errors
/// [`ChainError`] with the rule `body`.
pub fn check_hashes(federation: &Federation, batch: &CommittedBatch) -> Result<CheckedBatch, ChainError> {
    let CommittedBatch { header, body, .. } = batch;
    let digests = body.digests(federation.id());
    if digests.body != header.body_digest {
        return Err(ChainError::at(header, Violation::Body { expected: header.body_digest, found: digests.body }));
    }
    let leaves = body.leaves(&digests, header.first_sequence);
    let leaf_hashes = leaves.iter().map(Leaf::hash).collect();
    Ok(CheckedBatch { digest: header.digest(), digests, leaves, leaf_hashes, signatures: 0 })
}

/// The quorum's signatures; yields how many there were.
///
/// # Errors
/// [`ChainError`] with the rule `quorum`.
pub fn check_certificate(federation: &Federation, batch: &CommittedBatch) -> Result<u64, ChainError> {
    batch.certificate.verify(federation, &batch.header).map_err(|e| ChainError::at(&batch.header, e))?;
    Ok(batch.certificate.signatures.0.len() as u64)
}

fn check_shape(federation: &Federation, batch: &CommittedBatch) -> Result<(), Violation> {
    let CommittedBatch { header, body, .. } = batch;
    let parameters = federation.parameters();
    let found = body.count() as u64;
    if found != u64::from(header.count) {
        return Err(Violation::Count { expected: u64::from(header.count), found });
    }
    if header.kind == BatchKind::EpochEnd && header.count != 1 {
        return Err(Violation::Kind { expected: 1, found: header.count });
    }
    at_most("max_batch_updates", parameters.max_batch_updates, found)?;
    at_most("max_batch_bytes", parameters.max_batch_bytes, body.encoded_bytes())
}

fn check_submission<'a>(
    federation: &Federation,
    header: &Header,
    submission: &'a Submission,
    seen: &mut BTreeSet<(PublicKey, &'a UpdateId)>,
) -> Result<(), Violation> {
    let parameters = federation.parameters();
    let updates = submission.updates.len() as u64;
    if updates == 0 {
        return Err(Violation::Limit { key: "submission", limit: 1, found: 0 });
    }
    at_most("max_submission_updates", parameters.max_submission_updates, updates)?;
    let (earliest, latest) = (header.timestamp, header.timestamp.saturating_add(parameters.max_lifetime_ms));
    if !(earliest..=latest).contains(&submission.not_after) {
        return Err(Violation::Lifetime { earliest, latest, found: submission.not_after });
    }
    if federation.author_key(&submission.author).is_none() {
        return Err(Violation::Author { found: submission.author });
    }
    for submitted in &submission.updates {
        let update = &submitted.update;
        update.update_id.check()?;
        at_most("max_data_bytes", parameters.max_data_bytes, update.data.len() as u64)?;
        if !seen.insert((submission.author, &update.update_id)) {
            return Err(Violation::Duplicate { author: submission.author, update_id: update.update_id.clone() });
        }
    }
    Ok(())
}

/// Every author's signature; yields how many there were. `digests` must be the body's own.
///
/// # Errors
/// [`ChainError`] with the rule `author` or `signature`.
pub fn check_author_signatures(federation: &Federation, batch: &CommittedBatch, digests: &BodyDigests) -> Result<u64, ChainError> {
    let mut sequence = batch.header.first_sequence;
    for (submission, digests) in batch.body.submissions.iter().zip(&digests.submissions) {
        let error = |violation| ChainError { slot: batch.header.slot, sequence, violation };
        let author = submission.author;
        let key = federation.author_key(&author).ok_or_else(|| error(Violation::Author { found: author }))?;
        let bytes = Submission::signed_bytes(federation.id(), &digests.submission);
        key.verify(&bytes, &submission.signature).map_err(|_| error(Violation::Signature { author }))?;
        sequence = sequence.saturating_add(submission.updates.len() as u64);
    }
    Ok(batch.body.submissions.len() as u64)
}

fn at_most(key: &'static str, limit: u64, found: u64) -> Result<(), Violation> {
    if found > limit { Err(Violation::Limit { key, limit, found }) } else { Ok(()) }
}

/// The chain up to a slot, and the check that a header continues it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainVerifier {
    slot: Slot,
    sequence: Sequence,
    digest: Digest,
    timestamp: TimestampMs,
    log_root: Digest,
    /// `None` behind a header whose leaves nobody gave.
    frontier: Option<Frontier>,
}

impl ChainVerifier {
    /// Before the first slot.
    #[must_use]
    pub fn genesis() -> Self {
        Self { slot: 0, sequence: 0, digest: Digest::ZERO, timestamp: 0, log_root: merkle::empty_root(), frontier: Some(Frontier::default()) }
    }

    /// After a header that is trusted, with the tree after it. `None` when the frontier is not the header's: its size or root differs.
    #[must_use]
    pub fn after(header: &Header, frontier: Frontier) -> Option<Self> {
        let fits = frontier.size() == header.last_sequence() && frontier.root() == header.log_root;
        fits.then(|| Self { frontier: Some(frontier), ..Self::behind(header) })
    }

    /// After a header that is trusted, without the tree: from here on headers are linked, roots are not compared.
    #[must_use]
    pub fn behind(header: &Header) -> Self {
        Self {
            slot: header.slot,
            sequence: header.last_sequence(),
            digest: header.digest(),
            timestamp: header.timestamp,
            log_root: header.log_root,
            frontier: None,
        }
    }

    /// The tip's slot; 0 before the first.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The tip's header digest; zero before the first slot.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The last sequence number: the tree's size.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The tip's timestamp, ms; 0 before the first slot.
    #[must_use]
    pub fn timestamp(&self) -> TimestampMs {
        self.timestamp
    }

    /// The log root at the tip, as its header has it.
    #[must_use]
    pub fn log_root(&self) -> Digest {
        self.log_root
    }

    /// The tree's right edge; `None` if the leaves of some batch before are not known.
    #[must_use]
    pub fn frontier(&self) -> Option<&Frontier> {
        self.frontier.as_ref()
    }

    /// Takes the next header with the leaf hashes of its batch. On an error nothing changes. Where the tree is not known, this is [`Self::link`].
    ///
    /// # Errors
    /// [`ChainError`] with one of the rules `slot`, `parent`, `sequence`, `timestamp`, `count` and `root`.
    pub fn extend(&mut self, header: &Header, leaf_hashes: &[Digest]) -> Result<(), ChainError> {
        let error = |violation| ChainError::at(header, violation);
        self.continues(header).map_err(error)?;
        let frontier = self.frontier.as_ref().map(|before| grown(before, header, leaf_hashes)).transpose().map_err(error)?;
        *self = Self { frontier, ..Self::behind(header) };
        Ok(())
    }

    /// Takes the next header without its leaves; the tree is unknown from here on.
    ///
    /// # Errors
    /// [`ChainError`] with one of the rules `slot`, `parent`, `sequence` and `timestamp`.
    pub fn link(&mut self, header: &Header) -> Result<(), ChainError> {
        self.continues(header).map_err(|violation| ChainError::at(header, violation))?;
        *self = Self::behind(header);
        Ok(())
    }

    fn continues(&self, header: &Header) -> Result<(), Violation> {
        if self.slot.checked_add(1) != Some(header.slot) {
            return Err(Violation::Slot { expected: self.slot.saturating_add(1), found: header.slot });
        }
        if header.parent != self.digest {
            return Err(Violation::Parent { expected: self.digest, found: header.parent });
        }
        if self.sequence.checked_add(1) != Some(header.first_sequence) {
            return Err(Violation::Sequence { expected: self.sequence.saturating_add(1), found: header.first_sequence });
        }
        if header.timestamp <= self.timestamp {
            return Err(Violation::Timestamp { after: self.timestamp, found: header.timestamp });
        }
        if header.count == 0 {
            return Err(HeaderError::Empty { found: 0 }.into());
        }
        if self.sequence.checked_add(u64::from(header.count)).is_none() {
            return Err(HeaderError::Range { first: header.first_sequence, count: header.count }.into());
        }
        Ok(())
    }
}

/// The tree with a batch's leaves, whose root is the header's.
fn grown(before: &Frontier, header: &Header, leaf_hashes: &[Digest]) -> Result<Frontier, Violation> {
    let found = leaf_hashes.len() as u64;
    if found != u64::from(header.count) {
        return Err(Violation::Count { expected: u64::from(header.count), found });
    }
    let mut frontier = before.clone();
    leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
    let found = frontier.root();
    if found == header.log_root { Ok(frontier) } else { Err(Violation::Root { expected: header.log_root, found }) }
}
