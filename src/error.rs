//! The error that embedders see; every module below has its own.

use std::path::PathBuf;

use crate::crypto::KeyError;
use crate::journal::JournalError;
use crate::net::NetError;
use crate::proof::ProofError;
use crate::recovery::RecoveryError;
use crate::store::StoreError;
use crate::types::{CodecError, GenesisError};

/// Anything that can go wrong in running a replica or being a client of one.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// Fewer members than Byzantine agreement needs.
    #[error("a federation needs at least {needed} peers, there are {actual}")]
    InsufficientPeers {
        /// Always 4.
        needed: usize,
        /// Members named.
        actual: usize,
    },
    /// The genesis is refused.
    #[error("the genesis: {0}")]
    Genesis(GenesisError),
    /// A key is refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The journal failed.
    #[error("the journal: {0}")]
    Journal(#[from] JournalError),
    /// The log failed.
    #[error("the log: {0}")]
    Store(#[from] StoreError),
    /// The transport failed.
    #[error("the transport: {0}")]
    Net(#[from] NetError),
    /// Recovery failed.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A proof does not hold.
    #[error("the proof: {0}")]
    Proof(#[from] ProofError),
    /// Bytes that are no message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The replica stopped.
    #[error("the replica stopped: {0}")]
    Stopped(String),
    /// A replica's answer was refused or did not verify.
    #[error("{replica}: {problem}")]
    Answer {
        /// Which replica.
        replica: String,
        /// What is wrong.
        problem: String,
    },
}

impl From<GenesisError> for FederationError {
    fn from(error: GenesisError) -> Self {
        match error {
            GenesisError::InsufficientPeers { needed, actual } => Self::InsufficientPeers { needed, actual },
            other => Self::Genesis(other),
        }
    }
}
