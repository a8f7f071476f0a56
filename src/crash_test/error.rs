//! Why a crash test could not tell.

use std::io;
use std::path::PathBuf;

use crate::audit::AuditError;
use crate::config::ConfigError;
use crate::error::FederationError;
use crate::journal::JournalError;
use crate::process::ProcessError;
use crate::recovery::RecoveryError;

/// Neither clean nor a loss: the question could not be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CrashTestError {
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{peer}: its journal could not be made: {error}")]
    Prepare { peer: String, error: RecoveryError },
    #[error("{peer} ended by itself, and logged last: {said} (in {})", .log.display())]
    Ended { peer: String, log: PathBuf, said: String },
    #[error("the federation committed nothing within {seconds} s after the restart: {reason}")]
    NoProgress { seconds: u64, reason: String },
    #[error("the replicas did not all reach sequence {expected} within {seconds} s: {found}")]
    NoAgreement { expected: u64, seconds: u64, found: String },
    #[error("{peer}: {error}")]
    Answer { peer: String, error: FederationError },
    #[error("the journal of {peer}: {error}")]
    Journal { peer: String, error: JournalError },
    #[error("the audit of {peer}: {error}")]
    Audit { peer: String, error: Box<AuditError> },
    #[error("the witness at {address}: {problem}")]
    Witness { address: String, problem: String },
    #[error("{begun} loads began and all ended in order: no power was cut, so nothing was tested")]
    NoCut { begun: u64 },
    #[error("nothing was acknowledged, so nothing was tested")]
    Nothing,
}

impl CrashTestError {
    /// An IO error with its path.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { path, error }
    }
}
