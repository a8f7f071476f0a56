//! The file system as the journal needs it: the seam at which a simulated disk, or one that fails, takes the place of the real one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::error::{IoContext, JournalError, Operation};
use super::page::PAGE;
use crate::failpoint::{self, Point};
use crate::planted::{Bug, on};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An existing file, to be read.
    Read,
    /// An existing file, to be read and written.
    ReadWrite,
    /// A new, empty file, or an existing one emptied.
    Create,
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// IO, among it an end of file before `bytes` is full.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. Durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// IO; what was written of it is unknown then.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// IO.
    fn length(&self) -> io::Result<u64>;

    /// Sets the length; new bytes are zero.
    ///
    /// # Errors
    /// IO.
    fn set_length(&self, bytes: u64) -> io::Result<()>;

    /// Reserves space, so that writing there allocates nothing; sets the length like [`DiskFile::set_length`].
    ///
    /// # Errors
    /// IO.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Must not return before what was written, and the length, would survive a power cut. The file's name is its directory's
    /// ([`Disk::sync_dir`]).
    ///
    /// # Errors
    /// IO; what is durable is unknown then, so the caller must not try again.
    fn sync(&self) -> io::Result<()>;

    /// The same, with whatever else the system knows of the file.
    ///
    /// # Errors
    /// As above.
    fn sync_all(&self) -> io::Result<()>;
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// IO.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>>;

    /// The names in a directory, in any order.
    ///
    /// # Errors
    /// IO.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// IO.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    ///
    /// # Errors
    /// IO.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// IO.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or directory another name, in place of whatever had it. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// IO.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Must not return before the names in a directory would survive a power cut.
    ///
    /// # Errors
    /// IO.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock of a directory, held until the answer is dropped; `None` if another has it.
    ///
    /// # Errors
    /// IO.
    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;

    /// Whether another thread may prepare files ahead of need. A simulated disk says no: a thread would decide the order of things.
    fn prepares_ahead(&self) -> bool {
        true
    }

    /// Waits before a place that a running writer may be changing is looked at again.
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl RealDisk {
    /// As a shared disk.
    #[must_use]
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl DiskFile for File {
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.set_len(bytes),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read);
        if access == Access::Create {
            options.create(true).truncate(true);
        }
        options.open(path).map(|file| Box::new(file) as Box<dyn DiskFile>)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let lock = File::open(dir)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Box::new(lock))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A journal's directory on its disk.
#[derive(Clone)]
pub(super) struct Root {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
}

impl Root {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, dir: dir.to_path_buf() }
    }
}

/// Writes `bytes` at page `page` and makes them durable.
pub(super) fn write_synced(file: &dyn DiskFile, path: &Path, bytes: &[u8], page: u32) -> Result<(), JournalError> {
    file.write(bytes, u64::from(page) * PAGE as u64).during(Operation::Write, path)?;
    failpoint::hit(Point::JournalWritten);
    let votes = path.extension().is_none_or(|extension| extension != "seg");
    if on(if votes { Bug::VotesNotSynced } else { Bug::SegmentsNotSynced }) {
        return Ok(());
    }
    file.sync().during(Operation::Sync, path)
}

/// Writes pages once more as they are, and makes them durable. What a reader finds may be in the cache only: the process died before its sync, or the
/// sync failed, and then even another sync would not write them.
pub(super) fn write_again(file: &dyn DiskFile, path: &Path, pages: std::ops::Range<u32>) -> Result<(), JournalError> {
    if pages.is_empty() || on(Bug::LastGroupNotWrittenAgain) {
        return Ok(());
    }
    let mut bytes = vec![0; pages.len() * PAGE];
    file.read(&mut bytes, u64::from(pages.start) * PAGE as u64).during(Operation::Read, path)?;
    write_synced(file, path, &bytes, pages.start)
}

/// Overwrites single pages with zeros and makes that durable.
pub(super) fn zero_pages(file: &dyn DiskFile, path: &Path, pages: &[u32]) -> Result<(), JournalError> {
    if pages.is_empty() {
        return Ok(());
    }
    for page in pages {
        file.write(&[0; PAGE], u64::from(*page) * PAGE as u64).during(Operation::Write, path)?;
    }
    file.sync().during(Operation::Sync, path)
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), JournalError> {
    disk.sync_dir(dir).during(Operation::Sync, dir)
}

/// Opens an existing file for reading and writing.
pub(super) fn open_rw(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>, JournalError> {
    disk.open(path, Access::ReadWrite).during(Operation::Open, path)
}

fn create_rw(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>, JournalError> {
    disk.open(path, Access::Create).during(Operation::Open, path)
}

/// Creates a file of `pages` pages whose space is reserved, and makes it durable; its name is not.
pub(super) fn reserve(disk: &dyn Disk, path: &Path, pages: u32) -> Result<Box<dyn DiskFile>, JournalError> {
    let file = create_rw(disk, path)?;
    file.allocate(u64::from(pages) * PAGE as u64).during(Operation::Allocate, path)?;
    file.sync_all().during(Operation::Sync, path)?;
    Ok(file)
}

/// Creates a file of `pages` zero pages that starts with `bytes`, under a temporary name until it is durable.
pub(super) fn create_filled(disk: &dyn Disk, path: &Path, pages: u32, bytes: &[u8]) -> Result<Box<dyn DiskFile>, JournalError> {
    let temporary = path.with_added_extension("tmp");
    let file = create_rw(disk, &temporary)?;
    zero_extend(&*file, &temporary, 0, pages)?;
    write_synced(&*file, &temporary, bytes, 0)?;
    disk.rename(&temporary, path).during(Operation::Rename, path)?;
    Ok(file)
}

/// Lengthens a file from `from` to `to` pages with zeros that are really written, so that a later `fdatasync` has no
/// metadata to write. The length is set first: a crash leaves whole pages.
pub(super) fn zero_extend(file: &dyn DiskFile, path: &Path, from: u32, to: u32) -> Result<(), JournalError> {
    const CHUNK: u32 = 64;
    file.set_length(u64::from(to) * PAGE as u64).during(Operation::Allocate, path)?;
    let zeros = vec![0; CHUNK as usize * PAGE];
    let mut at = from;
    while at < to {
        let pages = CHUNK.min(to - at);
        let chunk = zeros.get(..pages as usize * PAGE).unwrap_or(&zeros);
        file.write(chunk, u64::from(at) * PAGE as u64).during(Operation::Write, path)?;
        at += pages;
    }
    file.sync_all().during(Operation::Sync, path)
}
