//! The few things the journal does to a disk, and the seam at which tests make it fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::error::{IoContext, JournalError, Operation};
use super::page::PAGE;
use crate::failpoint::{self, Point};

/// Writes of groups and zeros, and the syncs that acknowledge them. Everything a record's durability rests on goes
/// through here; reading and naming files does not.
pub(super) trait Disk: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Makes what was written durable.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The operating system's files.
pub(super) struct RealDisk;

impl Disk for RealDisk {}

/// Writes `bytes` at page `page` and makes them durable.
pub(super) fn write_synced(disk: &dyn Disk, file: &File, path: &Path, bytes: &[u8], page: u32) -> Result<(), JournalError> {
    disk.write(file, bytes, u64::from(page) * PAGE as u64).during(Operation::Write, path)?;
    failpoint::hit(Point::JournalWritten);
    disk.sync(file).during(Operation::Sync, path)
}

/// Overwrites single pages with zeros and makes that durable.
pub(super) fn zero_pages(disk: &dyn Disk, file: &File, path: &Path, pages: &[u32]) -> Result<(), JournalError> {
    if pages.is_empty() {
        return Ok(());
    }
    for page in pages {
        disk.write(file, &[0; PAGE], u64::from(*page) * PAGE as u64).during(Operation::Write, path)?;
    }
    disk.sync(file).during(Operation::Sync, path)
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).during(Operation::Sync, dir)
}

/// Opens an existing file for reading and writing.
pub(super) fn open_rw(path: &Path) -> Result<File, JournalError> {
    OpenOptions::new().read(true).write(true).open(path).during(Operation::Open, path)
}

fn create_rw(path: &Path) -> Result<File, JournalError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).open(path).during(Operation::Open, path)
}

/// Creates a file of `pages` pages whose space is reserved, and makes it durable; its name is not.
pub(super) fn reserve(path: &Path, pages: u32) -> Result<File, JournalError> {
    let file = create_rw(path)?;
    let bytes = u64::from(pages) * PAGE as u64;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes).during(Operation::Allocate, path)?,
        Err(errno) => return Err(io::Error::from(errno)).during(Operation::Allocate, path),
    }
    file.sync_all().during(Operation::Sync, path)?;
    Ok(file)
}

/// Creates a file of `pages` zero pages that starts with `bytes`, under a temporary name until it is durable.
pub(super) fn create_filled(disk: &dyn Disk, path: &Path, pages: u32, bytes: &[u8]) -> Result<File, JournalError> {
    let temporary = path.with_added_extension("tmp");
    let file = create_rw(&temporary)?;
    zero_extend(disk, &file, &temporary, 0, pages)?;
    write_synced(disk, &file, &temporary, bytes, 0)?;
    fs::rename(&temporary, path).during(Operation::Rename, path)?;
    Ok(file)
}

/// Lengthens a file from `from` to `to` pages with zeros that are really written, so that a later `fdatasync` has no
/// metadata to write. The length is set first: a crash leaves whole pages.
pub(super) fn zero_extend(disk: &dyn Disk, file: &File, path: &Path, from: u32, to: u32) -> Result<(), JournalError> {
    const CHUNK: u32 = 64;
    file.set_len(u64::from(to) * PAGE as u64).during(Operation::Allocate, path)?;
    let zeros = vec![0; CHUNK as usize * PAGE];
    let mut at = from;
    while at < to {
        let pages = CHUNK.min(to - at);
        let chunk = zeros.get(..pages as usize * PAGE).unwrap_or(&zeros);
        disk.write(file, chunk, u64::from(at) * PAGE as u64).during(Operation::Write, path)?;
        at += pages;
    }
    file.sync_all().during(Operation::Sync, path)
}
