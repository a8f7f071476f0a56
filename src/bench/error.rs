//! Why a benchmark gives no figures.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::crypto::KeyError;
use crate::error::FederationError;
use crate::net::NetError;
use crate::process::ProcessError;
use crate::types::GenesisError;

/// What kept a benchmark from being made. A run that was made and whose result is wrong is no error: see [`super::Verdict`].
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The federation's files are refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A replica cannot be started.
    #[error("{0}")]
    Replica(String),
    /// A replica does not say where it stands.
    #[error("{peer} does not say where it stands: {error}")]
    Status {
        /// Which.
        peer: String,
        /// Why.
        error: FederationError,
    },
    /// The load generator's process failed.
    #[error("the load generator: {0}")]
    Generator(String),
    /// A replica ended by itself.
    #[error("{peer} ended under load; see {}", .log.display())]
    Ended {
        /// Which.
        peer: String,
        /// What it logged.
        log: PathBuf,
    },
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The federation for the network's measurement is refused.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The transport failed.
    #[error("the transport: {0}")]
    Net(#[from] NetError),
    /// A measuring thread ended without a result.
    #[error("measuring {0} failed: its thread ended without a result")]
    Thread(&'static str),
    /// The system does not tell what a process used.
    #[error("{}: {problem}; the benchmark reads Linux's /proc", .path.display())]
    Usage {
        /// The file asked.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl BenchError {
    /// For a file's errors.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Io { path, error }
    }
}

impl From<ProcessError> for BenchError {
    fn from(error: ProcessError) -> Self {
        Self::Replica(error.to_string())
    }
}
