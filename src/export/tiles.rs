//! The file tree itself: `checkpoint`, `tile/L/N[.p/W]`, `tile/entries/N[.p/W]`.
//!
//! A full tile below the checkpoint that stands in the tree is never written again. Whatever is new is written beside it, looked at once more as its
//! readers will see it, made durable, and only then does the new checkpoint take the old one's place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::ExportError;
use crate::crypto::Digest;
use crate::crypto::merkle::{Frontier, Nodes, empty_root, leaf_hash, node_hash};
use crate::recovery::read_note;
use crate::types::{Federation, PublishedCheckpoint};

/// Hashes, or entries, in a full tile.
const WIDTH: u64 = 256;
const HASH: usize = 32;
const LEVEL_BITS: u32 = 8;
/// Where the next file is built: one name, so that an interruption leaves one file at most.
const BUILDING: &str = ".building";

/// What an export did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// Entries in the tree.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// Entries that were in it before.
    pub size_before: u64,
    /// Files written.
    pub files_written: u64,
}

/// Which column of the tree a file belongs to.
#[derive(Clone, Copy)]
enum Column {
    Entries,
    Level(u32),
}

/// An export under way.
pub struct TileExport<'f> {
    federation: &'f Federation,
    dir: PathBuf,
    _lock: File,
    checkpoint: PublishedCheckpoint,
    before: u64,
    next: u64,
    hashes: Vec<u8>,
    bundle: Vec<u8>,
    files_written: u64,
}

/// A tile's file, of full width or of a partial one.
fn tile_path(dir: &Path, column: Column, tile: u64, width: u64) -> PathBuf {
    let mut path = dir.join("tile").join(match column {
        Column::Entries => "entries".to_owned(),
        Column::Level(level) => level.to_string(),
    });
    let mut groups = vec![format!("{:03}", tile % 1_000)];
    let mut rest = tile / 1_000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1_000));
        rest /= 1_000;
    }
    path.extend(groups.into_iter().rev());
    if width < WIDTH { path.with_added_extension("p").join(width.to_string()) } else { path }
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_path_buf();
    move |error| ExportError::Io { path, error }
}

impl<'f> TileExport<'f> {
    /// Begins, or goes on with, an export to a directory that is new, empty, or holds an earlier export of the same log.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn begin(federation: &'f Federation, to: &Path, checkpoint: PublishedCheckpoint) -> Result<Self, ExportError> {
        fs::create_dir_all(to).map_err(io_at(to))?;
        let lock = File::open(to).map_err(io_at(to))?;
        lock.try_lock().map_err(|_| ExportError::Busy { path: to.to_path_buf() })?;
        let held = held_before(federation, to)?;
        let before = held.as_ref().map_or(0, |held| held.size);
        if before > checkpoint.size {
            return Err(ExportError::Newer { path: to.to_path_buf(), held: before, size: checkpoint.size });
        }
        if let Some(held) = held.filter(|held| held.size == checkpoint.size && held.root != checkpoint.root) {
            return Err(ExportError::Root { path: to.to_path_buf(), size: held.size, expected: checkpoint.root, found: held.root });
        }
        let next = if before == checkpoint.size { before } else { before - before % WIDTH };
        let dir = to.to_path_buf();
        Ok(Self { federation, dir, _lock: lock, checkpoint, before, next, hashes: vec![], bundle: vec![], files_written: 0 })
    }

    /// The index of the next entry wanted, which is the sequence number of the one before.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many entries the tree will have.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.checkpoint.size
    }

    /// Takes the next entry: a leaf's canonical bytes.
    ///
    /// # Errors
    /// [`ExportError::TooLong`], or IO.
    pub fn push(&mut self, entry: &[u8]) -> Result<(), ExportError> {
        let (limit, actual) = (usize::from(u16::MAX), entry.len());
        let length = u16::try_from(actual).map_err(|_| ExportError::TooLong { sequence: self.next + 1, limit, actual })?;
        self.bundle.extend_from_slice(&length.to_be_bytes());
        self.bundle.extend_from_slice(entry);
        self.hashes.extend_from_slice(&leaf_hash(entry).0);
        self.next += 1;
        if self.next.is_multiple_of(WIDTH) || self.next == self.checkpoint.size {
            let (tile, width) = ((self.next - 1) / WIDTH, (self.next - 1) % WIDTH + 1);
            let (bundle, hashes) = (std::mem::take(&mut self.bundle), std::mem::take(&mut self.hashes));
            self.write(&tile_path(&self.dir, Column::Entries, tile, width), &bundle)?;
            self.write(&tile_path(&self.dir, Column::Level(0), tile, width), &hashes)?;
        }
        Ok(())
    }

    /// Writes the levels above, checks the root as a reader would find it, and then replaces the checkpoint.
    ///
    /// # Errors
    /// [`ExportError`]; the old checkpoint and all that belongs to it are untouched then.
    pub fn finish(mut self) -> Result<Exported, ExportError> {
        let (size, root) = (self.checkpoint.size, self.checkpoint.root);
        if self.next < size {
            return Err(ExportError::Short { size, found: self.next });
        }
        for level in (1..).take_while(|level| nodes_at(size, *level) > 0) {
            self.write_level(level)?;
        }
        let found = if size == 0 { empty_root() } else { TileDir { dir: &self.dir, size }.subtree(0, size)? };
        if found != root {
            return Err(ExportError::Root { path: self.dir, size, expected: root, found });
        }
        let dir = File::open(&self.dir).map_err(io_at(&self.dir))?;
        rustix::fs::syncfs(&dir).map_err(|error| io_at(&self.dir)(error.into()))?;
        let note = self.checkpoint.to_note(self.federation);
        self.write(&self.dir.join("checkpoint"), note.as_bytes())?;
        dir.sync_all().map_err(io_at(&self.dir))?;
        self.remove_superseded()?;
        Ok(Exported { size, root, size_before: self.before, files_written: self.files_written })
    }

    /// The tiles of one level that the checkpoint before did not have.
    fn write_level(&mut self, level: u32) -> Result<(), ExportError> {
        let (first, end) = (nodes_at(self.before, level) / WIDTH, nodes_at(self.checkpoint.size, level));
        for tile in first..end.div_ceil(WIDTH) {
            let (from, to) = (tile * WIDTH, end.min((tile + 1) * WIDTH));
            let below = TileDir { dir: &self.dir, size: self.checkpoint.size };
            let mut hashes = Vec::new();
            for node in from..to {
                let mut frontier = Frontier::default();
                below.read(level - 1, node)?.into_iter().for_each(|hash| frontier.append(hash));
                hashes.extend_from_slice(&frontier.root().0);
            }
            self.write(&tile_path(&self.dir, Column::Level(level), tile, to - from), &hashes)?;
        }
        Ok(())
    }

    /// Writes a file by rename; one that is there already with this content stays as it is.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
        if fs::read(path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let building = self.dir.join(BUILDING);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            let mut file = File::create(&building)?;
            file.write_all(bytes)?;
            // The tiles are synced together; the checkpoint, which comes after that, by itself.
            if path == self.dir.join("checkpoint") {
                file.sync_all()?;
            }
            fs::rename(&building, path)
        };
        write().map_err(io_at(path))?;
        self.files_written += 1;
        Ok(())
    }

    /// Removes the partial tiles of which there is a full one now. Those of a tile that is still partial stay: readers of an older checkpoint need them.
    fn remove_superseded(&self) -> Result<(), ExportError> {
        let columns = std::iter::once((Column::Entries, 0)).chain((0..LEVEL_BITS).map(|level| (Column::Level(level), level)));
        for (column, level) in columns {
            let tile = nodes_at(self.before, level) / WIDTH;
            if nodes_at(self.checkpoint.size, level) / WIDTH <= tile {
                continue;
            }
            let partial = tile_path(&self.dir, column, tile, WIDTH).with_added_extension("p");
            match fs::remove_dir_all(&partial) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&partial)(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// How many nodes of a level a tree has: roots of complete subtrees of 256^level leaves.
fn nodes_at(size: u64, level: u32) -> u64 {
    size.checked_shr(LEVEL_BITS * level).unwrap_or(0)
}

/// The checkpoint of the export that a directory holds; `None` for one that is empty, or where the first export was interrupted.
fn held_before(federation: &Federation, to: &Path) -> Result<Option<PublishedCheckpoint>, ExportError> {
    let path = to.join("checkpoint");
    match read_note(&path) {
        Ok(bytes) => {
            let checked = PublishedCheckpoint::from_note(&bytes, federation).and_then(|note| Ok(note.verify(federation).map(|()| note)?));
            checked.map(Some).map_err(|error| ExportError::Note { path, error })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for entry in fs::read_dir(to).map_err(io_at(to))? {
                let name = entry.map_err(io_at(to))?.file_name();
                if name != "tile" && name != BUILDING {
                    return Err(ExportError::NotAnExport { path: to.to_path_buf() });
                }
            }
            Ok(None)
        }
        Err(error) => Err(io_at(&path)(error)),
    }
}

/// The tree as its readers find it.
struct TileDir<'a> {
    dir: &'a Path,
    size: u64,
}

impl TileDir<'_> {
    fn read(&self, level: u32, tile: u64) -> Result<Vec<Digest>, ExportError> {
        let width = (nodes_at(self.size, level) - tile * WIDTH).min(WIDTH);
        let path = tile_path(self.dir, Column::Level(level), tile, width);
        let bytes = fs::read(&path).map_err(io_at(&path))?;
        let (hashes, rest) = bytes.as_chunks::<HASH>();
        if hashes.len() as u64 != width || !rest.is_empty() {
            let problem = format!("{} bytes, a tile of {width} hashes has {}", bytes.len(), width * HASH as u64);
            return Err(ExportError::Io { path, error: io::Error::new(io::ErrorKind::InvalidData, problem) });
        }
        Ok(hashes.iter().map(|hash| Digest(*hash)).collect())
    }
}

impl Nodes for TileDir<'_> {
    type Error = ExportError;

    fn subtree(&self, from: u64, to: u64) -> Result<Digest, ExportError> {
        let width = to - from;
        if width.is_power_of_two() && from.is_multiple_of(width) {
            let level = width.trailing_zeros() / LEVEL_BITS;
            let unit = 1u64 << (LEVEL_BITS * level);
            let (first, count) = (from / unit, width / unit);
            let hashes = self.read(level, first / WIDTH)?;
            let mut frontier = Frontier::default();
            // Aligned and at most half a tile, so that it lies in this one.
            let skip = usize::try_from(first % WIDTH).unwrap_or(usize::MAX);
            hashes.into_iter().skip(skip).take(usize::try_from(count).unwrap_or(0)).for_each(|hash| frontier.append(hash));
            return Ok(frontier.root());
        }
        let middle = from + (1 << (63 - (width - 1).leading_zeros()));
        Ok(node_hash(&self.subtree(from, middle)?, &self.subtree(middle, to)?))
    }
}
