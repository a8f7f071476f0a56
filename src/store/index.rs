//! The lookup index: update id to sequence numbers, in sorted runs beside the log.
//!
//! A run is a file of 4 KiB blocks: 255 entries of {hash u64, sequence u64}, ascending, zero padded, then 12 bytes {count u32, zero u32} and
//! a CRC32C. The hash is the first eight bytes of H(tag, update id), so an answer is a candidate that the batch confirms. The index may lag
//! behind the log and is refilled from it; a damaged run is dropped and its span refilled.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::crypto::Canonical;
use crate::types::{Sequence, UpdateId};

const BLOCK: usize = 4096;
const ENTRY: usize = 16;
const PER_BLOCK: usize = 255;

fn hash(id: &UpdateId) -> u64 {
    let digest = Canonical::hash("exo-federation/v1/index\0").var(id.0.as_bytes()).digest();
    u64::from_le_bytes(digest.0[..8].try_into().unwrap_or_default())
}

/// One sorted file: entries of the sequence numbers `first..=last`.
struct Run {
    first: Sequence,
    last: Sequence,
    path: PathBuf,
    file: File,
    blocks: u64,
}

impl Run {
    fn open(path: PathBuf, first: Sequence, last: Sequence) -> io::Result<Self> {
        let file = File::open(&path)?;
        let blocks = file.metadata()?.len() / BLOCK as u64;
        Ok(Self { first, last, path, file, blocks })
    }

    fn block(&self, at: u64) -> io::Result<Vec<(u64, Sequence)>> {
        let mut bytes = [0; BLOCK];
        self.file.read_exact_at(&mut bytes, at * BLOCK as u64)?;
        let word = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap_or_default());
        let count = word(BLOCK - 12) as usize;
        if crc32c::crc32c(&bytes[..BLOCK - 4]) != word(BLOCK - 4) || count > PER_BLOCK {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let long = |c: &[u8]| u64::from_le_bytes(c.try_into().unwrap_or_default());
        Ok(bytes[..count * ENTRY].chunks_exact(ENTRY).map(|e| (long(&e[..8]), long(&e[8..]))).collect())
    }

    /// All sequence numbers under a hash: a binary search for the first block that may hold it, then forward.
    fn find(&self, hash: u64, out: &mut Vec<Sequence>) -> io::Result<()> {
        let (mut low, mut high) = (0, self.blocks);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.block(middle)?.last().is_some_and(|e| e.0 < hash) { low = middle + 1 } else { high = middle }
        }
        for at in low..self.blocks {
            let entries = self.block(at)?;
            out.extend(entries.iter().filter(|e| e.0 == hash).map(|e| e.1));
            if entries.last().is_none_or(|e| e.0 > hash) {
                break;
            }
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<(u64, Sequence)>> {
        let mut all = Vec::new();
        for at in 0..self.blocks {
            all.extend(self.block(at)?);
        }
        Ok(all)
    }

    /// Whether every block is, and every sequence number is there.
    fn is_whole(&self) -> bool {
        self.entries().is_ok_and(|e| e.len() as u64 == self.last - self.first + 1 && e.is_sorted())
    }

    fn write(dir: &Path, first: Sequence, last: Sequence, entries: &[(u64, Sequence)]) -> io::Result<Self> {
        let path = dir.join(format!("run-{first:020}-{last:020}"));
        Self::write_to(dir, &path, entries).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Self::open(path, first, last)
    }

    fn write_to(dir: &Path, path: &Path, entries: &[(u64, Sequence)]) -> io::Result<()> {
        let building = path.with_extension("new");
        let mut file = io::BufWriter::new(File::create(&building)?);
        for chunk in entries.chunks(PER_BLOCK) {
            let mut bytes = [0; BLOCK];
            for (slot, (hash, sequence)) in bytes.chunks_exact_mut(ENTRY).zip(chunk) {
                slot[..8].copy_from_slice(&hash.to_le_bytes());
                slot[8..].copy_from_slice(&sequence.to_le_bytes());
            }
            bytes[BLOCK - 12..BLOCK - 8].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..BLOCK - 4]);
            bytes[BLOCK - 4..].copy_from_slice(&crc.to_le_bytes());
            file.write_all(&bytes)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&building, path)?;
        File::open(dir)?.sync_all()
    }
}

#[derive(Default)]
struct State {
    /// Runs by their first sequence number; together they cover 1 to some sequence number without a gap.
    runs: Vec<Arc<Run>>,
    /// Entries behind the runs.
    fresh: BTreeMap<u64, Vec<Sequence>>,
    fresh_count: usize,
    /// The last sequence number indexed.
    last: Sequence,
}

/// The index of one log. Shared by the writer and all readers.
#[derive(Clone)]
pub struct Index {
    dir: PathBuf,
    run_entries: usize,
    state: Arc<Mutex<State>>,
}

impl Index {
    /// Opens the runs in a directory: those that are whole and continue each other without a gap from sequence number 1. Others are removed, and
    /// damaged ones set aside and named.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(dir: &Path, run_entries: usize, head: Sequence, damaged: &mut Vec<String>) -> io::Result<Self> {
        let mut found: Vec<(Sequence, Sequence, PathBuf)> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let span = name.strip_prefix("run-").and_then(|n| n.split_once('-')).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            match span {
                Some((first, last)) if first <= last && last <= head => found.push((first, last, path)),
                _ if path.extension().is_some_and(|e| e == "damaged") => {}
                _ => fs::remove_file(&path)?,
            }
        }
        // Of two runs from one place the longer is the merged one.
        found.sort_by_key(|(first, last, _)| (*first, std::cmp::Reverse(*last)));
        let mut state = State::default();
        for (first, last, path) in found {
            if first != state.last + 1 {
                fs::remove_file(&path)?;
                continue;
            }
            let run = Run::open(path, first, last)?;
            if run.is_whole() {
                state.runs.push(Arc::new(run));
                state.last = last;
            } else {
                let name = run.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                damaged.push(format!("the lookup index, from the log: {name} was damaged"));
                fs::rename(&run.path, run.path.with_extension("damaged"))?;
            }
        }
        Ok(Self { dir: dir.to_path_buf(), run_entries, state: Arc::new(Mutex::new(state)) })
    }

    /// The last sequence number indexed; everything up to it is.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.state.lock().last
    }

    /// Adds the ids that continue the index.
    pub fn add<'a>(&self, entries: impl Iterator<Item = (&'a UpdateId, Sequence)>) {
        let mut state = self.state.lock();
        for (id, sequence) in entries {
            if sequence == state.last + 1 {
                state.fresh.entry(hash(id)).or_default().push(sequence);
                state.fresh_count += 1;
                state.last = sequence;
            }
        }
    }

    /// The sequence numbers that an id may stand at, newest first.
    ///
    /// # Errors
    /// What the operating system says; a block that its checksum does not fit among it. The next opening sets that run aside.
    pub fn find(&self, id: &UpdateId) -> io::Result<Vec<Sequence>> {
        let hash = hash(id);
        let (runs, mut out) = {
            let state = self.state.lock();
            (state.runs.clone(), state.fresh.get(&hash).cloned().unwrap_or_default())
        };
        runs.iter().try_for_each(|run| run.find(hash, &mut out))?;
        out.sort_unstable_by(|a, b| b.cmp(a));
        Ok(out)
    }

    /// Writes the fresh entries as a run if there are many, and merges runs of like size.
    ///
    /// # Errors
    /// What the operating system says; the index stays as it was.
    pub fn settle(&self) -> io::Result<()> {
        let (mut entries, first, last) = {
            let state = self.state.lock();
            if state.fresh_count < self.run_entries {
                return Ok(());
            }
            let entries: Vec<(u64, Sequence)> = state.fresh.iter().flat_map(|(h, s)| s.iter().map(|s| (*h, *s))).collect();
            (entries, state.last + 1 - state.fresh_count as u64, state.last)
        };
        let (mut first, mut replaced) = (first, Vec::new());
        let runs = self.state.lock().runs.clone();
        for run in runs.iter().rev() {
            if run.last - run.first + 1 > 4 * entries.len() as u64 {
                break;
            }
            let Ok(older) = run.entries() else { break };
            entries.extend(older);
            first = run.first;
            replaced.push(run.path.clone());
        }
        entries.sort_unstable();
        let run = Arc::new(Run::write(&self.dir, first, last, &entries)?);
        let mut state = self.state.lock();
        let kept = state.runs.len() - replaced.len();
        state.runs.truncate(kept);
        state.runs.push(run);
        state.fresh.clear();
        state.fresh_count = 0;
        drop(state);
        replaced.iter().try_for_each(fs::remove_file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(i: u64) -> UpdateId {
        UpdateId(format!("id-{}", i % 4_000))
    }

    #[test]
    fn ids_are_found_across_runs_reopening_and_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut damaged = Vec::new();
        let index = Index::open(dir.path(), 500, 0, &mut damaged).unwrap();
        for i in 1..=5_000u64 {
            index.add([(&id(i), i)].into_iter());
            index.settle().unwrap();
        }
        assert_eq!(index.find(&id(123)).unwrap(), vec![4_123, 123]);
        assert_eq!(index.find(&id(3_000)).unwrap(), vec![3_000]);
        assert!(index.find(&UpdateId("other".into())).unwrap().is_empty());
        let again = Index::open(dir.path(), 500, 5_000, &mut damaged).unwrap();
        assert_eq!(again.last(), 5_000, "the last run ended at the last entry");
        assert_eq!(again.find(&id(123)).unwrap(), vec![4_123, 123]);
        assert_eq!(damaged, Vec::<String>::new());
        let run = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&run).unwrap();
        bytes[100] ^= 1;
        fs::write(&run, bytes).unwrap();
        assert!((0..4_000).any(|i| again.find(&id(i)).is_err()), "what is damaged is not answered from");
        let refilled = Index::open(dir.path(), 500, 5_000, &mut damaged).unwrap();
        assert!(refilled.last() < 5_000, "the damaged run is gone, and what it held is to be refilled");
        assert_eq!(damaged.len(), 1);
    }
}
