//! The note in the data directory that says why a replica must not vote, for as long as it must not.
//!
//! Later starts may no longer read the damaged place, and what was forgotten there stays forgotten; so the note outlives them. It is removed when the
//! replica has rejoined (`consensus/rejoin.rs`), after its new voting record is durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DataDir, RecoveryError};
use crate::journal::{Access, Disk};

/// The note's place.
#[derive(Clone)]
pub struct Suspicion {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
}

impl Suspicion {
    /// The note of a data directory.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: &DataDir) -> Self {
        Self { disk, dir: dir.0.clone(), path: dir.suspect() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the replica must not vote, if there is a note.
    ///
    /// # Errors
    /// [`RecoveryError::Suspicion`].
    pub fn read(&self) -> Result<Option<String>, RecoveryError> {
        match read_text(&*self.disk, &self.path) {
            Ok(reason) => Ok(Some(reason.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Makes what was found survive a power cut, a note or that there is none: whoever left or removed it may have been killed before its sync.
    ///
    /// # Errors
    /// As above.
    pub fn keep(&self, found: bool) -> Result<(), RecoveryError> {
        let sync = || {
            if found {
                self.disk.open(&self.path, Access::ReadWrite)?.sync_all()?;
            }
            self.disk.sync_dir(&self.dir)
        };
        sync().map_err(|error| self.failed(error))
    }

    /// Leaves a note, durably.
    ///
    /// # Errors
    /// As above.
    pub fn note(&self, reason: &str) -> Result<(), RecoveryError> {
        let write = || {
            let file = self.disk.open(&self.path, Access::Create)?;
            file.write(format!("{reason}\n").as_bytes(), 0)?;
            file.sync_all()?;
            self.disk.sync_dir(&self.dir)
        };
        write().map_err(|error| self.failed(error))
    }

    /// Removes the note, durably. The new voting record must be durable before.
    ///
    /// # Errors
    /// As above.
    pub fn lift(&self) -> Result<(), RecoveryError> {
        let remove = || match self.disk.remove(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.disk.sync_dir(&self.dir)),
        };
        remove().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> RecoveryError {
        RecoveryError::Suspicion { path: self.path.clone(), error }
    }
}

/// A short text file, whatever bytes it holds.
pub(super) fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open(path, Access::Read)?;
    let mut bytes = vec![0; usize::try_from(file.length()?.min(1 << 20)).unwrap_or(0)];
    file.read(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
