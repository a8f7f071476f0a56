//! The log as a static file tree that any web server can serve (C2SP `tlog-tiles`), under a published checkpoint.
//!
//! The entries come from a data directory, of a running replica too and without changing a byte of it, or from a live federation. Whatever they are
//! said to be, the checkpoint is written only when the tiles lead to the root that a quorum cosigned.

mod directory;
mod tiles;

pub use tiles::{Exported, TileExport};

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::audit::data_dir;
use crate::client::Client;
use crate::crypto::Digest;
use crate::error::FederationError;
use crate::proof::NoteError;
use crate::recovery::{DataDir, read_note};
use crate::types::{Federation, Leaf, PublishedCheckpoint, Slot};

/// About how many bytes of batches one answer of a live federation may hold.
const ANSWER_BYTES: u64 = 8 << 20;

/// Why an export is not made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no checkpoint.
    #[error("{}: no checkpoint was published yet; the replica publishes one every {every} slots", .path.display())]
    NoCheckpoint {
        /// Where it would be.
        path: PathBuf,
        /// The genesis's `checkpoint_slots`.
        every: u64,
    },
    /// A file that is no checkpoint of this federation.
    #[error("{}: {error}", .path.display())]
    Note {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: NoteError,
    },
    /// The place is taken.
    #[error("{} is not empty and holds no export: nothing is overwritten, choose another directory", .path.display())]
    NotAnExport {
        /// The place.
        path: PathBuf,
    },
    /// Another export runs.
    #[error("{} is being written by another export", .path.display())]
    Busy {
        /// The place.
        path: PathBuf,
    },
    /// What was exported before is newer.
    #[error("{} holds {held} entries already, the checkpoint has {size}: export from a replica that is further", .path.display())]
    Newer {
        /// The place.
        path: PathBuf,
        /// Entries exported before.
        held: u64,
        /// The checkpoint's.
        size: u64,
    },
    /// What was exported before, or what was read now, is not what the quorum cosigned.
    #[error("the tiles lead to root {found}, the checkpoint of {size} entries has {expected}: {} or the source is damaged, or the log was forked", .path.display())]
    Root {
        /// The place.
        path: PathBuf,
        /// The checkpoint's size.
        size: u64,
        /// The checkpoint's root.
        expected: Digest,
        /// The root of the tiles.
        found: Digest,
    },
    /// Not as many entries as the checkpoint has.
    #[error("the source ends at entry {found}, the checkpoint has {size}")]
    Short {
        /// The checkpoint's size.
        size: u64,
        /// Entries read.
        found: u64,
    },
    /// An entry that no bundle holds.
    #[error("entry {sequence} has {actual} bytes, a bundle holds up to {limit}")]
    TooLong {
        /// Its sequence number.
        sequence: u64,
        /// 65,535.
        limit: usize,
        /// Its bytes.
        actual: usize,
    },
    /// The journal lacks a batch.
    #[error("the journal lacks the batch of slot {slot}: {found}; repair it (exofed recover), or export from another replica or a client.toml")]
    Missing {
        /// Which.
        slot: Slot,
        /// What is there instead.
        found: String,
    },
    /// The source.
    #[error(transparent)]
    Source(#[from] FederationError),
    /// The operating system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Its answer.
        error: std::io::Error,
    },
}

/// The newest checkpoint that a replica's directory holds, verified.
///
/// # Errors
/// [`ExportError::NoCheckpoint`], [`ExportError::Note`], or IO.
pub fn published_in(replica: &Path, federation: &Federation) -> Result<PublishedCheckpoint, ExportError> {
    let path = DataDir(data_dir(replica)).checkpoint();
    let bytes = read_note(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ExportError::NoCheckpoint { path: path.clone(), every: federation.parameters().checkpoint_slots },
        _ => ExportError::Io { path: path.clone(), error },
    })?;
    let checked = PublishedCheckpoint::from_note(&bytes, federation).and_then(|note| Ok(note.verify(federation).map(|()| note)?));
    checked.map_err(|error| ExportError::Note { path, error })
}

/// Exports from a replica's directory. `progress` is told how many entries are done.
///
/// # Errors
/// [`ExportError`].
pub fn export_directory(replica: &Path, federation: &Federation, to: &Path, mut progress: impl FnMut(u64)) -> Result<Exported, ExportError> {
    let mut export = TileExport::begin(federation, to, published_in(replica, federation)?)?;
    directory::entries(&data_dir(replica), federation, export.next(), export.size(), |leaf| {
        export.push(&leaf.canonical_bytes())?;
        progress(export.next());
        Ok(())
    })?;
    export.finish()
}

/// Exports from a live federation; every batch is verified.
///
/// # Errors
/// [`ExportError`].
pub async fn export_live(client: &Client, to: &Path, mut progress: impl FnMut(u64)) -> Result<Exported, ExportError> {
    let federation = client.federation().clone();
    let every = federation.parameters().checkpoint_slots;
    let newest = client.checkpoint().await?.ok_or(ExportError::NoCheckpoint { path: PathBuf::from("the federation"), every })?;
    let mut export = TileExport::begin(&federation, to, newest)?;
    while export.next() < export.size() {
        let range = client.read(export.next() + 1, ANSWER_BYTES, Duration::ZERO).await?;
        let before = export.next();
        for batch in &range.batches {
            let leaves = batch.body.leaves(&batch.body.digests(federation.id()), batch.header.first_sequence);
            push_wanted(&mut export, leaves)?;
            progress(export.next());
        }
        if export.next() == before {
            return Err(ExportError::Short { size: export.size(), found: before });
        }
    }
    export.finish()
}

/// Of a batch's leaves, those that continue the export and that its checkpoint covers.
fn push_wanted(export: &mut TileExport<'_>, leaves: Vec<Leaf>) -> Result<(), ExportError> {
    for leaf in leaves {
        if leaf.sequence == export.next() + 1 && leaf.sequence <= export.size() {
            export.push(&leaf.canonical_bytes())?;
        }
    }
    Ok(())
}
