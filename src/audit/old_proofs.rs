//! Proofs handed out earlier: they convict a log that was rolled back, cut or written anew.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::proof::{CommitProof, PROOF_MAGIC};
use crate::types::{Federation, Slot};

/// Verified proofs, by the slot of their batch.
#[derive(Debug, Clone, Default)]
pub struct OldProofs {
    by_slot: BTreeMap<Slot, Vec<(PathBuf, CommitProof)>>,
    /// Files that prove nothing, and why.
    pub refused: Vec<String>,
    /// How many verify.
    pub count: u64,
}

impl OldProofs {
    /// Reads and verifies every proof in a directory, JSON or binary; other files are named in `refused`.
    ///
    /// # Errors
    /// If the directory or a file cannot be read.
    pub fn read(dir: &Path, federation: &Federation) -> io::Result<Self> {
        let mut proofs = Self::default();
        let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?;
        paths.sort();
        for path in paths.into_iter().filter(|path| path.is_file()) {
            let bytes = fs::read(&path)?;
            let binary = bytes.starts_with(&PROOF_MAGIC);
            let proof = if binary { CommitProof::from_bytes(&bytes) } else { CommitProof::from_json(&bytes, federation) };
            match proof.and_then(|proof| proof.verify(federation).map(|_| proof)) {
                Ok(proof) => {
                    proofs.count += 1;
                    proofs.by_slot.entry(proof.header.slot).or_default().push((path, proof));
                }
                Err(error) => proofs.refused.push(format!("{}: {error}", path.display())),
            }
        }
        Ok(proofs)
    }

    /// Those of one slot.
    #[must_use]
    pub fn at(&self, slot: Slot) -> &[(PathBuf, CommitProof)] {
        self.by_slot.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// Those of slots behind one.
    pub fn behind(&self, slot: Slot) -> impl Iterator<Item = &(PathBuf, CommitProof)> {
        self.by_slot.range(slot.saturating_add(1)..).flat_map(|(_, proofs)| proofs)
    }
}
