//! What can go wrong in the log.

use std::path::{Path, PathBuf};

use crate::types::{FederationId, Sequence, Slot};

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no log here.
    #[error("no log in {}", .dir.display())]
    Missing {
        /// The data directory.
        dir: PathBuf,
    },
    /// A log was to be created where one is.
    #[error("{} exists; a log is never created over another", .dir.display())]
    Exists {
        /// The log's directory.
        dir: PathBuf,
    },
    /// An option out of bounds.
    #[error("store option {name} is {value}, must be {min} to {max}")]
    Option {
        /// The option's name.
        name: &'static str,
        /// The value given.
        value: u64,
        /// Least allowed value.
        min: u64,
        /// Greatest allowed value.
        max: u64,
    },
    /// The log belongs to another federation.
    #[error("the log belongs to federation {found}, expected {expected}: is this the right genesis for this data directory?")]
    OtherFederation {
        /// The federation asked for.
        expected: FederationId,
        /// The one the log names.
        found: FederationId,
    },
    /// Written by an older program: a migration comes first.
    #[error("the log has schema {found}, which is brought to {known} when it is opened for writing")]
    OlderSchema {
        /// The newest schema known.
        known: u32,
        /// The one found.
        found: u32,
    },
    /// Written by a newer program.
    #[error("the log has schema {found}, this program knows up to {known}: use the newer program")]
    NewerSchema {
        /// The newest schema known.
        known: u32,
        /// The one found.
        found: u32,
    },
    /// The operating system refused.
    #[error("{}: {message}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Its answer.
        message: String,
    },
    /// The database failed or panicked.
    #[error("the database: {message}")]
    Database {
        /// What it said.
        message: String,
    },
    /// The operating system refused the database: no damage, and nothing that setting the log aside would mend.
    #[error("log/sled/db: {message}")]
    Refused {
        /// Its answer.
        message: String,
    },
    /// The database did not answer in time; after a panic in its IO thread it never would.
    #[error("the database did not flush within {limit_ms} ms")]
    Stuck {
        /// How long was waited, ms.
        limit_ms: u64,
    },
    /// Something stored is not what was written.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// A batch that does not continue the log.
    #[error("slot {slot} does not continue the log: {problem}")]
    Order {
        /// The batch's slot.
        slot: Slot,
        /// Which rule it breaks.
        problem: OrderProblem,
    },
    /// A body too large for its row, without a place in a segment.
    #[error("a body of {actual} bytes has no place in a segment, and a row holds at most {limit}")]
    BodyTooLong {
        /// The most a row holds.
        limit: usize,
        /// The body's bytes.
        actual: usize,
    },
    /// An earlier failure stopped the log.
    #[error("the log stopped after an earlier failure: {message}")]
    Poisoned {
        /// The failure.
        message: String,
    },
}

/// Which rule of order a batch breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderProblem {
    /// Not the next slot.
    #[error("the next slot is {expected}")]
    Slot {
        /// The next slot.
        expected: Slot,
    },
    /// Not the next sequence number.
    #[error("the next sequence number is {expected}, it begins at {found}")]
    Sequence {
        /// The next one.
        expected: Sequence,
        /// The header's.
        found: Sequence,
    },
    /// Another parent.
    #[error("its parent is not the last header")]
    Parent,
    /// Header and body count differently.
    #[error("its header counts {expected} updates, its body {found}")]
    Count {
        /// The header's.
        expected: u64,
        /// The body's.
        found: u64,
    },
    /// Another root.
    #[error("its log root does not follow from the log")]
    Root,
}

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A row that its checksum does not fit, or that is no row.
    #[error("the row of sequence {sequence} in {tree}")]
    Row {
        /// The tree.
        tree: &'static str,
        /// The row's key.
        sequence: u64,
    },
    /// A row that should be there.
    #[error("no batch at slot {slot}, though later ones are there")]
    Gap {
        /// The slot missing.
        slot: Slot,
    },
    /// The log ends before what was synced.
    #[error("the log ends at slot {found}, though it was synced up to slot {expected}")]
    Rollback {
        /// What was synced.
        expected: Slot,
        /// Where it ends.
        found: Slot,
    },
    /// The database cannot be opened.
    #[error("the database does not open: {message}")]
    Database {
        /// What it said.
        message: String,
    },
    /// The meta row is missing or wrong.
    #[error("the database does not say what it is")]
    Meta,
    /// A run of the lookup index cannot be read.
    #[error("a run of the lookup index: {message}; the next start refills it")]
    Index {
        /// What is wrong.
        message: String,
    },
    /// The Merkle files do not give the root that the quorum signed.
    #[error("the Merkle files do not give the root signed at sequence {sequence}")]
    Merkle {
        /// The tree's size.
        sequence: Sequence,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), message: error.to_string() }
    }

    /// What the database refuses while the log is opened is damage: nothing was asked of it but to read.
    pub(super) fn while_opening(self) -> Self {
        match self {
            Self::Database { message } => Self::Damaged(Damage::Database { message }),
            other => other,
        }
    }

    /// Whether rebuilding the log from the journal is the remedy.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Missing { .. })
    }

    /// Whether a batch does not continue the log.
    #[must_use]
    pub fn is_order(&self) -> bool {
        matches!(self, Self::Order { .. })
    }
}
