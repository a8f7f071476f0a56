//! Reading the log while it grows.

use std::sync::Arc;

use parking_lot::RwLock;

use super::database::Database;
use super::error::{Damage, StoreError};
use super::index::Index;
use super::tiles::Tiles;
use super::{BatchRow, BodyPlace, Head, StoredBatch, StoredBody, ViewRecord};
use crate::crypto::Digest;
use crate::crypto::merkle::{consistency_path, inclusion_path, is_consistent, root_from_path};
use crate::types::{CheckpointCertificate, Evidence, Header, Sequence, Slot, UpdateId, View, decode};

/// A reader; cheap to clone, safe beside the writer.
#[derive(Clone)]
pub struct StoreReader {
    database: Database,
    tiles: Tiles,
    index: Index,
    head: Arc<RwLock<Head>>,
}

impl StoreReader {
    pub(super) fn new(database: Database, tiles: Tiles, index: Index, head: Arc<RwLock<Head>>) -> Self {
        Self { database, tiles, index, head }
    }

    /// The end of the log.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.read().clone()
    }

    /// The last sequence number.
    #[must_use]
    pub fn head_sequence(&self) -> Sequence {
        self.head.read().sequence
    }

    /// The batch that holds an update; `None` beyond the log.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn row_at_sequence(&self, sequence: Sequence) -> Result<Option<StoredBatch>, StoreError> {
        if sequence == 0 || sequence > self.head_sequence() {
            return Ok(None);
        }
        let found = self.database.batches.last::<BatchRow>(Some(&sequence.to_be_bytes()))?;
        let missing = || StoreError::Damaged(Damage::Row { tree: "batches", sequence });
        let (_, row) = found.ok_or_else(missing)?;
        if row.header.last_sequence() < sequence {
            return Err(missing());
        }
        stored(row).map(Some)
    }

    /// The batch of a slot; `None` beyond the log. Slots rise with sequence numbers, so a binary search finds it.
    ///
    /// # Errors
    /// As above.
    pub fn row_at_slot(&self, slot: Slot) -> Result<Option<StoredBatch>, StoreError> {
        let head = self.head();
        if slot == 0 || slot > head.slot {
            return Ok(None);
        }
        // Every batch has an update, so a slot's first sequence number is not below its number.
        let (mut low, mut high) = (slot, head.sequence);
        while low <= high {
            let middle = low + (high - low) / 2;
            let Some(row) = self.row_at_sequence(middle)? else { break };
            match row.header.slot.cmp(&slot) {
                std::cmp::Ordering::Equal => return Ok(Some(row)),
                std::cmp::Ordering::Less => low = row.header.last_sequence() + 1,
                std::cmp::Ordering::Greater => high = row.header.first_sequence.saturating_sub(1),
            }
        }
        Err(StoreError::Damaged(Damage::Gap { slot }))
    }

    /// The inclusion path of an update in the tree of its own batch, checked against the root that the quorum signed.
    ///
    /// # Errors
    /// [`Damage::Merkle`] if the files do not give that root.
    pub fn prove(&self, sequence: Sequence, leaf: Digest, header: &Header) -> Result<Vec<Digest>, StoreError> {
        let size = header.last_sequence();
        let damaged = || StoreError::Damaged(Damage::Merkle { sequence: size });
        let index = sequence.checked_sub(1).ok_or_else(damaged)?;
        let path = inclusion_path(&self.tiles, index, size).map_err(|_| damaged())?;
        if root_from_path(leaf, index, size, &path) == Some(header.log_root) { Ok(path) } else { Err(damaged()) }
    }

    /// The path from the log after one header to the log after a later one, checked against the roots that quorums signed.
    ///
    /// # Errors
    /// [`Damage::Merkle`] if the files do not give those roots.
    pub fn prove_consistency(&self, old: &Header, new: &Header) -> Result<Vec<Digest>, StoreError> {
        let (before, after) = (old.last_sequence(), new.last_sequence());
        let damaged = || StoreError::Damaged(Damage::Merkle { sequence: after });
        let path = consistency_path(&self.tiles, before, after).map_err(|_| damaged())?;
        if is_consistent((before, old.log_root), (after, new.log_root), &path) { Ok(path) } else { Err(damaged()) }
    }

    /// The leaf hashes `[from, from + count)`, unchecked: for an auditor, who compares them.
    ///
    /// # Errors
    /// [`Damage::Merkle`] if the file is too short.
    pub fn leaf_hashes(&self, from: u64, count: usize) -> Result<Vec<Digest>, StoreError> {
        self.tiles.leaves(from, count).map_err(|_| StoreError::Damaged(Damage::Merkle { sequence: from + count as u64 }))
    }

    /// The frontier of the tree's first `size` leaves as the files have it: for an auditor.
    ///
    /// # Errors
    /// As above.
    pub fn frontier(&self, size: u64) -> Result<crate::crypto::merkle::Frontier, StoreError> {
        self.tiles.frontier(size).map_err(|_| StoreError::Damaged(Damage::Merkle { sequence: size }))
    }

    /// The sequence numbers that an id may stand at, newest first; the batch decides.
    ///
    /// # Errors
    /// [`Damage::Index`]; the next start refills it.
    pub fn lookup(&self, id: &UpdateId) -> Result<Vec<Sequence>, StoreError> {
        self.index.find(id).map_err(|error| StoreError::Damaged(Damage::Index { message: error.to_string() }))
    }

    /// How many batches' rows there are, whether or not they belong there; for an audit.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count_rows(&self) -> Result<u64, StoreError> {
        self.database.batches.count()
    }

    /// Every checkpoint kept, with the slot that it is kept under; for an audit.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn checkpoints(&self) -> Result<Vec<(Slot, CheckpointCertificate)>, StoreError> {
        let slot = |key: &[u8]| key.try_into().map_or(0, u64::from_be_bytes);
        Ok(self.database.checkpoints.rows()?.into_iter().map(|(key, row)| (slot(&key), row)).collect())
    }

    /// The evidence kept, with the id that it is kept under; for an audit.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn evidence_by_id(&self) -> Result<Vec<(Vec<u8>, Evidence)>, StoreError> {
        Ok(self.database.evidence.rows()?.into_iter().map(|(key, row)| (key.to_vec(), row)).collect())
    }

    /// How many records of evidence are kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count_evidence(&self) -> Result<u64, StoreError> {
        self.database.evidence.count()
    }

    /// The evidence kept.
    ///
    /// # Errors
    /// [`Damage::Row`].
    pub fn evidence(&self) -> Result<Vec<Evidence>, StoreError> {
        Ok(self.database.evidence.rows()?.into_iter().map(|(_, evidence)| evidence).collect())
    }

    /// The newest stable checkpoint kept.
    ///
    /// # Errors
    /// As above.
    pub fn stable(&self) -> Result<Option<CheckpointCertificate>, StoreError> {
        Ok(self.database.checkpoints.last(None)?.map(|(_, certificate)| certificate))
    }

    /// The views kept from one on: number, when, why.
    ///
    /// # Errors
    /// As above.
    pub fn views_from(&self, view: View) -> Result<Vec<(View, ViewRecord)>, StoreError> {
        let mut views = Vec::new();
        let mut from = view;
        while let Some((view, record)) = self.database.views.first(&from.to_be_bytes())? {
            views.push((view, record));
            let Some(next) = view.checked_add(1) else { break };
            from = next;
        }
        Ok(views)
    }
}

fn stored(row: BatchRow) -> Result<StoredBatch, StoreError> {
    let body = match row.body {
        BodyPlace::Segment(place) => StoredBody::Segment(place),
        BodyPlace::Inline(bytes) => {
            let body = decode(&bytes).map_err(|_| StoreError::Damaged(Damage::Row { tree: "batches", sequence: row.header.first_sequence }))?;
            StoredBody::Inline(Arc::new(body))
        }
    };
    Ok(StoredBatch { header: row.header, certificate: row.certificate, body })
}
