//! The Merkle tree on disk: one flat, append-only file per tile level, 32 bytes a node at a computable offset.
//!
//! Level k, node i is the root of the complete subtree of leaves `i * 256^k` to `(i + 1) * 256^k`. The files carry no checksum: every path read
//! from them is checked against the root that a quorum signed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crypto::Digest;
use crate::crypto::merkle::{Frontier, Nodes, node_hash};

/// Levels: 256^8 leaves are more than sequence numbers.
const LEVELS: u32 = 8;
const NODE: u64 = 32;

/// The files of one tree. Cheap to clone; readers and the one writer share them.
#[derive(Clone)]
pub struct Tiles {
    levels: Arc<Vec<(PathBuf, File)>>,
}

impl Tiles {
    /// Opens or creates the files in a directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path, write: bool) -> io::Result<Self> {
        let open = |level| {
            let path = dir.join(format!("level-{level}"));
            let file = OpenOptions::new().read(true).write(write).create(write).truncate(false).open(&path)?;
            Ok((path, file))
        };
        Ok(Self { levels: Arc::new((0..LEVELS).map(open).collect::<io::Result<_>>()?) })
    }

    /// Appends leaf hashes behind `size` leaves, and the tile roots they complete.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn append(&self, size: u64, leaves: &[Digest]) -> io::Result<()> {
        let mut nodes = leaves.to_vec();
        let mut first = size;
        for level in 0..LEVELS as usize {
            if nodes.is_empty() {
                return Ok(());
            }
            self.write(level, first, &nodes)?;
            // Tiles completed by these nodes.
            let (begin, end) = (first / 256, (first + nodes.len() as u64) / 256);
            nodes = (begin..end).map(|tile| self.tile_root(level, tile)).collect::<io::Result<_>>()?;
            first = begin;
        }
        Ok(())
    }

    fn write(&self, level: usize, first: u64, nodes: &[Digest]) -> io::Result<()> {
        let bytes: Vec<u8> = nodes.iter().flat_map(|n| n.0).collect();
        self.file(level)?.write_all_at(&bytes, first * NODE).map_err(|error| self.named(level, &error))
    }

    /// The same error with the file it is about.
    fn named(&self, level: usize, error: &io::Error) -> io::Error {
        let path = self.levels.get(level).map(|(path, _)| path.display().to_string()).unwrap_or_default();
        io::Error::new(error.kind(), format!("{path}: {error}"))
    }

    fn file(&self, level: usize) -> io::Result<&File> {
        self.levels.get(level).map(|(_, file)| file).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }

    fn read(&self, level: usize, first: u64, count: usize) -> io::Result<Vec<Digest>> {
        let file = self.file(level)?;
        let length = file.metadata()?.len();
        let end = first.checked_add(count as u64).and_then(|nodes| nodes.checked_mul(NODE));
        if end.is_none_or(|end| end > length) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut bytes = vec![0; count * NODE as usize];
        file.read_exact_at(&mut bytes, first * NODE)?;
        Ok(bytes.chunks_exact(NODE as usize).map(|c| Digest(c.try_into().unwrap_or_default())).collect())
    }

    fn tile_root(&self, level: usize, tile: u64) -> io::Result<Digest> {
        fold(self.read(level, tile * 256, 256)?)
    }

    /// The leaf hashes `[from, from + count)`.
    ///
    /// # Errors
    /// What the operating system says; too short a file among it.
    pub fn leaves(&self, from: u64, count: usize) -> io::Result<Vec<Digest>> {
        self.read(0, from, count)
    }

    /// The frontier of the tree's first `size` leaves.
    ///
    /// # Errors
    /// As above.
    pub fn frontier(&self, size: u64) -> io::Result<Frontier> {
        let mut peaks = Vec::new();
        let mut from = 0;
        for bit in (0..64).rev().map(|shift| 1u64 << shift).filter(|bit| size & bit != 0) {
            peaks.push(self.subtree(from, from + bit)?);
            from += bit;
        }
        Frontier::from_peaks(size, peaks).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Cuts the files to the tree's first `size` leaves.
    ///
    /// # Errors
    /// As above.
    pub fn truncate(&self, size: u64) -> io::Result<()> {
        let mut nodes = size;
        for (_, file) in self.levels.iter() {
            if file.metadata()?.len() > nodes * NODE {
                file.set_len(nodes * NODE)?;
            }
            nodes /= 256;
        }
        Ok(())
    }

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// As above.
    pub fn sync(&self) -> io::Result<()> {
        self.levels.iter().enumerate().try_for_each(|(level, (_, file))| file.sync_data().map_err(|error| self.named(level, &error)))
    }
}

/// The root of a complete subtree from its nodes, whose number is a power of two.
fn fold(mut nodes: Vec<Digest>) -> io::Result<Digest> {
    while nodes.len() > 1 {
        nodes = nodes.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    nodes.first().copied().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

impl Nodes for Tiles {
    type Error = io::Error;

    fn subtree(&self, from: u64, to: u64) -> io::Result<Digest> {
        let width = to - from;
        if width.is_power_of_two() && from.is_multiple_of(width) {
            // The widest tile level that this subtree is made of whole nodes of.
            let level = (width.trailing_zeros() / 8).min(LEVELS - 1);
            let unit = 1u64 << (8 * level);
            let count = usize::try_from(width / unit).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            return fold(self.read(level as usize, from / unit, count)?);
        }
        let middle = from + (1 << (63 - (width - 1).leading_zeros()));
        Ok(node_hash(&self.subtree(from, middle)?, &self.subtree(middle, to)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::merkle::{inclusion_path, leaf_hash, root_from_path};

    #[test]
    fn paths_and_frontiers_agree_with_the_tree_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let tiles = Tiles::open(dir.path(), true).unwrap();
        let mut frontier = Frontier::default();
        let mut size = 0u64;
        for step in [1usize, 2, 253, 1, 255, 300, 65_000, 700] {
            let leaves: Vec<Digest> = (0..step as u64).map(|i| leaf_hash(&(size + i).to_le_bytes())).collect();
            tiles.append(size, &leaves).unwrap();
            leaves.iter().for_each(|leaf| frontier.append(*leaf));
            size += step as u64;
            assert_eq!(tiles.frontier(size).unwrap(), frontier, "size {size}");
            for index in [0, size / 2, size - 1] {
                let path = inclusion_path(&tiles, index, size).unwrap();
                assert_eq!(root_from_path(leaf_hash(&index.to_le_bytes()), index, size, &path), Some(frontier.root()));
            }
        }
        // Proofs in an older tree come from the same files.
        let old = tiles.frontier(257).unwrap();
        let path = inclusion_path(&tiles, 256, 257).unwrap();
        assert_eq!(root_from_path(leaf_hash(&256u64.to_le_bytes()), 256, 257, &path), Some(old.root()));
        tiles.truncate(257).unwrap();
        assert!(tiles.frontier(258).is_err(), "what was cut is gone");
        assert_eq!(tiles.frontier(257).unwrap(), old);
    }
}
