//! A simulated log: what the store's contract promises, and what a power cut or damage leaves of it. sled does its own IO in its own threads, so it
//! cannot run on a simulated clock; the same contract suite holds both (`store/tests/contract.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Mounted, SimDisk};
use super::rng::Rng;
use crate::crypto::Digest;
use crate::crypto::merkle::{Range, consistency_path, inclusion_path, is_consistent, root_from_path};
use crate::journal::Disk;
use crate::recovery::Medium;
use crate::store::{AppendBatch, BodyLocator, Damage, Head, Log, LogReader, StoreError, StoreReport, StoredBatch, StoredBody, ViewRecord};
use crate::types::{CheckpointCertificate, Evidence, Header, Leaf, Sequence, Slot, UpdateId, View};

#[derive(Clone)]
struct Row {
    stored: StoredBatch,
    end: Head,
    leaves: Vec<Digest>,
}

#[derive(Clone, Default)]
struct State {
    exists: bool,
    /// It cannot be opened: as a damaged database.
    unreadable: bool,
    rows: Vec<Row>,
    synced: usize,
    bad: BTreeSet<usize>,
    index: BTreeMap<UpdateId, Vec<Sequence>>,
    indexed: Sequence,
    set_aside: u64,
    evidence: BTreeMap<Digest, Evidence>,
    stable: Option<CheckpointCertificate>,
    synced_stable: Option<CheckpointCertificate>,
}

/// The log's medium: it outlives the replica.
#[derive(Clone, Default)]
pub(crate) struct SimStore(Arc<Mutex<State>>);

impl SimStore {
    /// What a power cut leaves: everything synced, and some of what follows.
    pub(crate) fn lose_power(&self, rng: &mut Rng) {
        let mut state = self.0.lock();
        let extra = state.rows.len().saturating_sub(state.synced) as u64;
        let kept = state.synced + usize::try_from(rng.below(extra + 1)).unwrap_or(0);
        state.rows.truncate(kept);
        if rng.chance(500) {
            state.stable = state.synced_stable.clone();
        }
        let end = state.rows.last().map_or(0, |row| row.end.sequence);
        state.indexed = state.indexed.min(end);
    }

    /// One row reads as damaged; or, if it is to be `whole`, the database cannot be opened.
    pub(crate) fn damage(&self, whole: bool, rng: &mut Rng) {
        let mut state = self.0.lock();
        if whole {
            state.unreadable = true;
        } else if !state.rows.is_empty() {
            let at = usize::try_from(rng.below(state.rows.len() as u64)).unwrap_or(0);
            state.bad.insert(at);
        }
    }

    /// All of it is gone.
    pub(crate) fn lose(&self) {
        *self.0.lock() = State::default();
    }

    /// The last slot that is durable.
    pub(crate) fn synced_slot(&self) -> Slot {
        let state = self.0.lock();
        state.synced.checked_sub(1).and_then(|at| state.rows.get(at)).map_or(0, |row| row.stored.header.slot)
    }

    pub(crate) fn set_aside(&self) -> u64 {
        self.0.lock().set_aside
    }

    /// The digest of every batch, in order.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.0.lock().rows.iter().map(|row| row.end.digest).collect()
    }

    pub(crate) fn snapshot(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    pub(crate) fn restore(&self, older: &Self) {
        let state = older.0.lock().clone();
        *self.0.lock() = state;
    }
}

impl LogReader for SimStore {
    fn head(&self) -> Head {
        self.0.lock().rows.last().map_or_else(Head::default, |row| row.end.clone())
    }

    fn head_sequence(&self) -> Sequence {
        self.0.lock().rows.last().map_or(0, |row| row.end.sequence)
    }

    fn row_at_sequence(&self, sequence: Sequence) -> Result<Option<StoredBatch>, StoreError> {
        let state = self.0.lock();
        let at = state.rows.partition_point(|row| row.end.sequence < sequence);
        let Some(row) = state.rows.get(at).filter(|_| sequence > 0) else { return Ok(None) };
        if state.bad.contains(&at) {
            return Err(StoreError::Damaged(Damage::Row { tree: "batches", sequence }));
        }
        Ok(Some(row.stored.clone()))
    }

    fn row_at_slot(&self, slot: Slot) -> Result<Option<StoredBatch>, StoreError> {
        let sequence =
            usize::try_from(slot).ok().and_then(|slot| slot.checked_sub(1)).and_then(|at| self.0.lock().rows.get(at).map(|r| r.end.sequence));
        sequence.map_or(Ok(None), |sequence| self.row_at_sequence(sequence))
    }

    fn prove(&self, sequence: Sequence, leaf: Digest, header: &Header) -> Result<Vec<Digest>, StoreError> {
        let leaves: Vec<Digest> = self.0.lock().rows.iter().flat_map(|row| row.leaves.iter().copied()).collect();
        let size = header.last_sequence();
        let damaged = || StoreError::Damaged(Damage::Merkle { sequence: size });
        let leaves = usize::try_from(size).ok().and_then(|size| leaves.get(..size)).ok_or_else(damaged)?;
        let nodes = Range::new(0, leaves, size, &[]).ok_or_else(damaged)?;
        let path = inclusion_path(&nodes, sequence.saturating_sub(1), size).map_err(|_| damaged())?;
        if root_from_path(leaf, sequence.saturating_sub(1), size, &path) == Some(header.log_root) { Ok(path) } else { Err(damaged()) }
    }

    fn prove_consistency(&self, old: &Header, new: &Header) -> Result<Vec<Digest>, StoreError> {
        let leaves: Vec<Digest> = self.0.lock().rows.iter().flat_map(|row| row.leaves.iter().copied()).collect();
        let (before, after) = (old.last_sequence(), new.last_sequence());
        let damaged = || StoreError::Damaged(Damage::Merkle { sequence: after });
        let leaves = usize::try_from(after).ok().and_then(|size| leaves.get(..size)).ok_or_else(damaged)?;
        let nodes = Range::new(0, leaves, after, &[]).ok_or_else(damaged)?;
        let path = consistency_path(&nodes, before, after).map_err(|_| damaged())?;
        if is_consistent((before, old.log_root), (after, new.log_root), &path) { Ok(path) } else { Err(damaged()) }
    }

    fn count_evidence(&self) -> Result<u64, StoreError> {
        Ok(self.0.lock().evidence.len() as u64)
    }

    fn evidence(&self) -> Result<Vec<Evidence>, StoreError> {
        Ok(self.0.lock().evidence.values().cloned().collect())
    }

    fn stable(&self) -> Result<Option<CheckpointCertificate>, StoreError> {
        Ok(self.0.lock().stable.clone())
    }

    fn lookup(&self, id: &UpdateId) -> Result<Vec<Sequence>, StoreError> {
        Ok(self.0.lock().index.get(id).map(|found| found.iter().rev().copied().collect()).unwrap_or_default())
    }
}

/// The log open for writing.
pub(crate) struct SimLog {
    store: SimStore,
    disk: Arc<SimDisk>,
    inline_body_bytes: u64,
}

impl SimLog {
    fn operate(&self, writes: bool, syncs: bool) -> Result<(), StoreError> {
        self.disk.operate(writes, syncs).map_err(|error| StoreError::Io { path: PathBuf::from("log"), message: error.to_string() })
    }
}

impl Log for SimLog {
    type Reader = SimStore;

    fn head(&self) -> Head {
        self.store.head()
    }

    fn append(&mut self, append: AppendBatch<'_>) -> Result<Vec<Digest>, StoreError> {
        let header = &append.batch.header;
        let leaves: Vec<Leaf> = append.batch.body.leaves(append.digests, header.first_sequence);
        let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
        let end = self.head().extended(header, &hashes)?;
        let inline = append.batch.body.encoded_bytes() <= self.inline_body_bytes;
        let body = match append.place {
            Some(place) if !inline => StoredBody::Segment(place),
            _ => StoredBody::Inline(append.batch.body.clone()),
        };
        self.operate(true, false)?;
        let stored = StoredBatch { header: header.clone(), certificate: append.batch.certificate.clone(), body };
        let mut state = self.store.0.lock();
        for leaf in &leaves {
            state.index.entry(leaf.update_id.clone()).or_default().push(leaf.sequence);
        }
        state.indexed = end.sequence;
        state.rows.push(Row { stored, end, leaves: hashes.clone() });
        Ok(hashes)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.operate(false, true)?;
        if self.disk.is_lying() {
            return Ok(());
        }
        let mut state = self.store.0.lock();
        state.synced = state.rows.len();
        state.synced_stable = state.stable.clone();
        Ok(())
    }

    fn move_body(&mut self, first_sequence: Sequence, place: BodyLocator) -> Result<(), StoreError> {
        self.operate(true, false)?;
        let mut state = self.store.0.lock();
        let missing = StoreError::Damaged(Damage::Row { tree: "batches", sequence: first_sequence });
        let row = state.rows.iter_mut().find(|row| row.stored.header.first_sequence == first_sequence).ok_or(missing)?;
        row.stored.body = StoredBody::Segment(place);
        Ok(())
    }

    fn put_checkpoint(&mut self, certificate: &CheckpointCertificate) -> Result<(), StoreError> {
        self.operate(true, false)?;
        self.store.0.lock().stable = Some(certificate.clone());
        Ok(())
    }

    fn put_view(&mut self, _: View, _: &ViewRecord) -> Result<(), StoreError> {
        Ok(())
    }

    fn put_evidence(&mut self, digest: &Digest, evidence: &Evidence) -> Result<(), StoreError> {
        self.store.0.lock().evidence.insert(*digest, evidence.clone());
        Ok(())
    }

    fn index_gap(&self) -> Option<RangeInclusive<Sequence>> {
        let last = self.store.0.lock().indexed;
        let head = self.store.head_sequence();
        (last < head).then_some(last + 1..=head)
    }

    fn index_add(&mut self, entries: &[(UpdateId, Sequence)]) {
        let mut state = self.store.0.lock();
        for (id, sequence) in entries {
            state.index.entry(id.clone()).or_default().push(*sequence);
            state.indexed = state.indexed.max(*sequence);
        }
    }

    fn reader(&self) -> SimStore {
        self.store.clone()
    }
}

/// A replica's simulated data.
pub(crate) struct SimMedium {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) store: SimStore,
    pub(crate) inline_body_bytes: u64,
}

impl SimMedium {
    fn log(&self) -> SimLog {
        SimLog { store: self.store.clone(), disk: self.disk.clone(), inline_body_bytes: self.inline_body_bytes }
    }
}

impl Medium for SimMedium {
    type Log = SimLog;

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(Mounted(self.disk.clone()))
    }

    fn open_log(&self) -> Result<(SimLog, StoreReport), StoreError> {
        let state = self.store.0.lock();
        if !state.exists {
            return Err(StoreError::Missing { dir: PathBuf::from("log") });
        }
        if state.unreadable {
            return Err(StoreError::Damaged(Damage::Database { message: "the simulated database is damaged".to_owned() }));
        }
        if state.rows.len() < state.synced {
            return Err(StoreError::Damaged(Damage::Rollback { expected: state.synced as u64, found: state.rows.len() as u64 }));
        }
        drop(state);
        Ok((self.log(), StoreReport::default()))
    }

    fn create_log(&self) -> Result<SimLog, StoreError> {
        let set_aside = self.store.set_aside();
        *self.store.0.lock() = State { exists: true, set_aside, ..State::default() };
        Ok(self.log())
    }

    fn set_aside_log(&self) -> Result<PathBuf, StoreError> {
        let mut state = self.store.0.lock();
        let set_aside = state.set_aside + 1;
        *state = State { set_aside, ..State::default() };
        Ok(PathBuf::from("log.damaged"))
    }
}
