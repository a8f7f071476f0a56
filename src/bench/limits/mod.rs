//! What this machine allows: the disk under synced writes, QUIC on loopback, signatures and hashes; and the ceiling for a load that follows from them.
//!
//! Each part uses what a replica uses: the journal's files, the transport, the keys. Nothing of the protocol runs.

mod ceiling;
mod crypto;
mod disk;
mod network;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

pub use ceiling::{Bound, Ceiling, Term};
pub use crypto::CryptoLimits;
pub use disk::{DiskLimits, GroupLimits};
pub use network::NetworkLimits;

use super::BenchError;

/// How long is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// About three seconds: beside a load.
    Short,
    /// About fifteen.
    Full,
}

impl Effort {
    /// How long one thing is measured.
    fn slice(self) -> Duration {
        match self {
            Self::Short => Duration::from_millis(300),
            Self::Full => Duration::from_millis(1_500),
        }
    }
}

/// The load whose ceiling is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Replicas, all on this machine.
    pub replicas: usize,
    /// Payload bytes of an update.
    pub size: u64,
    /// Updates that are signed together.
    pub submission: u64,
}

/// What was measured, and what follows.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// Cores that this process may use.
    pub cores: usize,
    /// The disk.
    pub disk: DiskLimits,
    /// The network.
    pub network: NetworkLimits,
    /// Signatures and hashes.
    pub crypto: CryptoLimits,
    /// For the load.
    pub ceiling: Ceiling,
}

/// Measures everything, in `dir`, which must exist. What it writes there is removed again.
///
/// # Errors
/// [`BenchError`] if the disk or a socket fails.
pub async fn measure(dir: &Path, workload: Workload, effort: Effort) -> Result<Limits, BenchError> {
    let slice = effort.slice();
    let crypto = tokio::task::block_in_place(|| crypto::measure(workload.size, slice))?;
    let disk = tokio::task::block_in_place(|| disk::measure(dir, workload.replicas, slice))?;
    let network = network::measure(slice).await?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let ceiling = Ceiling::of(workload, cores, &disk, &network, &crypto);
    Ok(Limits { cores, disk, network, crypto, ceiling })
}
