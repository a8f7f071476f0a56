//! Acknowledgements: what a client was told, with a proof it verified, and what a crash test holds against the logs later.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::crypto::Digest;
use crate::proof::CommitProof;
use crate::types::{Sequence, Slot, UpdateId};

/// One acknowledged update: what its proof fixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ack {
    /// Its place.
    pub(crate) sequence: Sequence,
    /// Its id.
    pub(crate) update_id: UpdateId,
    /// The hash of its leaf: author, id, time, length and data digest.
    pub(crate) leaf: Digest,
    /// The slot of its batch.
    pub(crate) slot: Slot,
    /// The digest of the header that a quorum signed.
    pub(crate) header: Digest,
}

impl Ack {
    /// Of a proof that was verified.
    pub(crate) fn of(proof: &CommitProof) -> Self {
        Self {
            sequence: proof.leaf.sequence,
            update_id: proof.leaf.update_id.clone(),
            leaf: proof.leaf.hash(),
            slot: proof.header.slot,
            header: proof.header.digest(),
        }
    }
}

/// Writes acknowledgements as JSON lines.
pub(crate) fn write(path: &Path, acks: &[Ack]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for ack in acks {
        serde_json::to_writer(&mut file, ack)?;
        file.write_all(b"\n")?;
    }
    file.into_inner()?.sync_all()
}
