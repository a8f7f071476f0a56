//! sled 0.34.7 under guard: every call that may panic is caught, and what sled does not sync is synced here.
//!
//! Its `flush` does not fsync on Linux, so `db` is synced behind each flush; `conf` and the directories once. It answers damage with panics, so
//! opening and scanning run under `catch_unwind`; a flush runs on a thread of its own with a time limit, because after a panic in sled's IO
//! thread it never returns. One `insert` a row; no `apply_batch`, no transaction.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};

use super::error::{Damage, StoreError};
use crate::types::{decode, encode};

/// The longest row: 17 of them fit a quarter of a segment, so that no page spills into sled's unsynced `blobs/`.
pub const MAX_ROW_BYTES: usize = 192 << 10;
const SEGMENT_BYTES: usize = 16 << 20;
/// How long a database that was given up in this process may take to let go of its lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// A part of sled, given up under guard: the last one to go writes and syncs, and panics when the disk refuses.
#[derive(Clone)]
struct Held<T>(Option<T>);

impl<T> Held<T> {
    fn get(&self) -> sled::Result<&T> {
        self.0.as_ref().ok_or_else(|| sled::Error::Unsupported("it is closed".into()))
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        let held = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(held))).is_err() {
            tracing::error!("the database did not close in order");
        }
    }
}

/// The trees; each has one kind of key and row.
#[derive(Clone)]
pub struct Database {
    db: Held<sled::Db>,
    /// Open since before anything was written: a descriptor is told of every failed write since it was opened, also of one that sled's own
    /// flusher was told of and passed over.
    file: Arc<File>,
    dir: PathBuf,
    /// First sequence number (big-endian) to batch row.
    pub batches: Tree,
    /// Name to one value.
    pub meta: Tree,
    /// Slot (big-endian) to checkpoint certificate.
    pub checkpoints: Tree,
    /// View (big-endian) to when and why it began.
    pub views: Tree,
    /// Digest to evidence.
    pub evidence: Tree,
}

/// One tree whose rows carry a checksum.
#[derive(Clone)]
pub struct Tree {
    name: &'static str,
    tree: Held<sled::Tree>,
}

impl Database {
    /// Opens the database in a directory, which is created if `create`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if sled refuses or panics.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        remove_unfinished_snapshots(dir)?;
        let until = Instant::now() + LOCK_WAIT;
        let opened = loop {
            match Self::open_once(dir, cache_bytes) {
                // The journal's lock keeps other processes out: a database of this process that was just given up lets go a moment later.
                Err(StoreError::Refused { message }) if message.contains("acquire lock") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                opened => break opened,
            }
        };
        let database = opened.map_err(StoreError::while_opening)?;
        sync_file(&dir.join("conf"))?;
        sync_file(dir)?;
        Ok(database)
    }

    fn open_once(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        guarded(|| {
            let db = sled::Config::new()
                .path(dir)
                .segment_size(SEGMENT_BYTES)
                .cache_capacity(cache_bytes)
                .flush_every_ms(Some(500))
                .mode(sled::Mode::HighThroughput)
                .open()?;
            let tree = |name: &'static str| db.open_tree(name).map(|tree| Tree { name, tree: Held(Some(tree)) });
            Ok(Self {
                batches: tree("batches")?,
                meta: tree("meta")?,
                checkpoints: tree("checkpoints")?,
                views: tree("views")?,
                evidence: tree("evidence")?,
                dir: dir.to_path_buf(),
                file: Arc::new(File::open(dir.join("db"))?),
                db: Held(Some(db)),
            })
        })
    }

    /// Flushes and syncs, within a time limit.
    ///
    /// # Errors
    /// [`StoreError::Stuck`], or what sled or the operating system says.
    pub fn sync(&self, limit_ms: u64) -> Result<(), StoreError> {
        let (done, wait) = mpsc::sync_channel(1);
        let db = self.db.clone();
        std::thread::Builder::new()
            .name("sled-flush".into())
            .spawn(move || {
                let flushed = guarded(|| db.get()?.flush().map(|_| ()));
                // Whoever waits may close the database next and open it again: its lock must not outlive the answer.
                drop(db);
                let _ = done.send(flushed);
            })
            .map_err(|e| StoreError::io(&self.dir, &e))?;
        wait.recv_timeout(Duration::from_millis(limit_ms)).map_err(|_| StoreError::Stuck { limit_ms })??;
        self.file.sync_data().map_err(|e| StoreError::io(&self.dir.join("db"), &e))
    }
}

impl Tree {
    /// Writes one row: crc32c of key and value, then the value.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn put<T: Encode>(&self, key: &[u8], value: &T) -> Result<(), StoreError> {
        let value = encode(value).map_err(|e| StoreError::Database { message: e.to_string() })?;
        let mut row = Vec::with_capacity(4 + value.len());
        row.extend_from_slice(&checksum(key, &value).to_le_bytes());
        row.extend_from_slice(&value);
        if row.len() > MAX_ROW_BYTES {
            return Err(StoreError::BodyTooLong { limit: MAX_ROW_BYTES, actual: row.len() });
        }
        guarded(|| self.tree.get()?.insert(key, row.as_slice()).map(|_| ()))
    }

    /// Reads one row.
    ///
    /// # Errors
    /// [`Damage::Row`] if its checksum does not fit.
    pub fn get<T: Decode<()>>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        guarded(|| self.tree.get()?.get(key))?.map(|row| self.read(key, &row)).transpose()
    }

    /// The last row at or before a key, or of all.
    ///
    /// # Errors
    /// As [`Tree::get`].
    pub fn last<T: Decode<()>>(&self, up_to: Option<&[u8]>) -> Result<Option<(u64, T)>, StoreError> {
        let found = guarded(|| match up_to {
            Some(key) => self.tree.get()?.range(..=key).next_back().transpose(),
            None => self.tree.get()?.last(),
        })?;
        found.map(|(key, row)| Ok((number(&key), self.read(&key, &row)?))).transpose()
    }

    /// The first row at or after a key.
    ///
    /// # Errors
    /// As [`Tree::get`].
    pub fn first<T: Decode<()>>(&self, from: &[u8]) -> Result<Option<(u64, T)>, StoreError> {
        let found = guarded(|| self.tree.get()?.range(from..).next().transpose())?;
        found.map(|(key, row)| Ok((number(&key), self.read(&key, &row)?))).transpose()
    }

    /// How many rows there are; it reads all keys.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn count(&self) -> Result<u64, StoreError> {
        guarded(|| Ok(self.tree.get()?.len() as u64))
    }

    /// Every key and row; for a tree whose writer bounds it.
    ///
    /// # Errors
    /// As [`Tree::get`].
    pub fn rows<T: Decode<()>>(&self) -> Result<Vec<(sled::IVec, T)>, StoreError> {
        let rows = guarded(|| self.tree.get()?.iter().collect::<Result<Vec<_>, _>>())?;
        rows.into_iter().map(|(key, row)| self.read(&key, &row).map(|value| (key, value))).collect()
    }

    /// Removes the rows from a key on; gives how many.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_from(&self, from: &[u8]) -> Result<u64, StoreError> {
        let mut removed = 0;
        while let Some((key, _)) = guarded(|| self.tree.get()?.range(from..).next_back().transpose())? {
            guarded(|| self.tree.get()?.remove(&key).map(|_| ()))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Copies every row as it is, checksum and all.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn copy_to(&self, to: &Self) -> Result<(), StoreError> {
        guarded(|| {
            let to = to.tree.get()?;
            self.tree.get()?.iter().try_for_each(|row| row.and_then(|(key, value)| to.insert(key, value).map(drop)))
        })
    }

    fn read<T: Decode<()>>(&self, key: &[u8], row: &[u8]) -> Result<T, StoreError> {
        let damaged = || StoreError::Damaged(Damage::Row { tree: self.name, sequence: number(key) });
        let (crc, value) = row.split_at_checked(4).ok_or_else(damaged)?;
        if crc != checksum(key, value).to_le_bytes() {
            return Err(damaged());
        }
        decode(value).map_err(|_| damaged())
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// A key of eight big-endian bytes as a number; other keys are 0.
fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) if of_the_system(&error) => Err(StoreError::Refused { message: error.to_string() }),
        Ok(Err(error)) => Err(StoreError::Database { message: error.to_string() }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let message = text.unwrap_or_else(|| "it panicked".to_owned());
            // The operating system's answer, as sled unwraps it.
            Err(if message.contains("Os { code") { StoreError::Refused { message } } else { StoreError::Database { message } })
        }
    }
}

/// Waits until a database that was dropped is closed: sled's own threads may hold it, and its lock, a moment longer.
///
/// # Errors
/// What the operating system says.
pub fn wait_until_closed(dir: &Path) -> Result<(), StoreError> {
    let db = dir.join("db");
    File::open(&db).and_then(|file| file.lock()).map_err(|e| StoreError::io(&db, &e))
}

/// sled writes a snapshot under another name until it is whole, and after a crash in between takes that file for the snapshot.
fn remove_unfinished_snapshots(dir: &Path) -> Result<(), StoreError> {
    let io = |e: std::io::Error| StoreError::io(dir, &e);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(&path).map_err(io)?;
        }
    }
    Ok(())
}

/// Whether an error is the operating system's answer; sled wraps some as text.
fn of_the_system(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some() || error.to_string().contains("Os { code")
}

/// Syncs a file or directory.
pub fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| StoreError::io(path, &e))
}
