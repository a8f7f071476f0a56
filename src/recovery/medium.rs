//! What recovery works on: a data directory on a disk, and the log in it. The seam at which simulated ones take the place of the real.

use std::path::PathBuf;
use std::sync::Arc;

use super::DataDir;
use crate::journal::{Disk, RealDisk};
use crate::store::{Log, Store, StoreError, StoreOptions, StoreReport};
use crate::types::FederationId;

/// A replica's data.
pub trait Medium {
    /// Its log.
    type Log: Log;

    /// The disk with the journal and the note of suspicion.
    fn disk(&self) -> Arc<dyn Disk>;

    /// Opens the log.
    ///
    /// # Errors
    /// [`StoreError`]; those of [`StoreError::is_damage`] call for a rebuild from the journal.
    fn open_log(&self) -> Result<(Self::Log, StoreReport), StoreError>;

    /// Creates an empty log.
    ///
    /// # Errors
    /// [`StoreError`].
    fn create_log(&self) -> Result<Self::Log, StoreError>;

    /// Gives a damaged log another name, so that nothing of it is lost; says where it is now.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_aside_log(&self) -> Result<PathBuf, StoreError>;
}

/// The operating system's files, and sled.
pub struct RealMedium {
    /// The data directory.
    pub dir: DataDir,
    /// The federation.
    pub federation: FederationId,
    /// The log's options.
    pub options: StoreOptions,
}

impl Medium for RealMedium {
    type Log = Store;

    fn disk(&self) -> Arc<dyn Disk> {
        RealDisk::shared()
    }

    fn open_log(&self) -> Result<(Store, StoreReport), StoreError> {
        Store::open(self.dir.store(), self.federation, &self.options)
    }

    fn create_log(&self) -> Result<Store, StoreError> {
        Store::create(self.dir.store(), self.federation, &self.options)
    }

    fn set_aside_log(&self) -> Result<PathBuf, StoreError> {
        Store::set_aside(self.dir.store())
    }
}
