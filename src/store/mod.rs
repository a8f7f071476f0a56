//! The log: committed batches with their certificates in sled, the Merkle tree in flat files, and an index of update ids.
//!
//! One row a batch, keyed by the sequence number of its first update; the body inline if it is small, else where a segment of the journal holds
//! it. The log is never the only copy of anything that is not synced: the journal can rebuild it. It appends what continues it and nothing else,
//! so a row that is there was checked against the chain. It knows neither the journal's files nor consensus; `docs/store-format.md` has the bytes.

mod contract;
mod database;
mod error;
mod index;
mod migrate;
mod reader;
mod tiles;

#[cfg(test)]
mod tests;

pub use contract::{Log, LogReader};
pub use database::MAX_ROW_BYTES;
pub use error::{Damage, OrderProblem, StoreError};
pub use migrate::SCHEMA_VERSION;
pub use reader::StoreReader;
pub use tiles::Tiles;

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bincode::{Decode, Encode};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::crypto::Digest;
use crate::crypto::merkle::Frontier;
use crate::failpoint::{self, Point};
use crate::types::{
    Body, BodyDigests, CheckpointCertificate, CommitCertificate, CommittedBatch, FederationId, Header, Leaf, Sequence, Slot, TimestampMs, UpdateId,
    View, decode, encode,
};
use database::{Database, sync_file, wait_until_closed};
use index::Index;
use migrate::{SCHEMAS, Schemas};

/// What an operator may set. Sizes in bytes, times in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    /// Bodies up to this size, as encoded, lie in their row; larger ones in a segment only. At most 180 KiB.
    pub inline_body_bytes: u64,
    /// sled's cache.
    pub cache_bytes: u64,
    /// How long a flush may take before the log is given up, ms.
    pub flush_timeout_ms: u64,
    /// How many ids are kept in memory before they are written as an index run.
    pub index_run_entries: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { inline_body_bytes: 4 << 10, cache_bytes: 64 << 20, flush_timeout_ms: 60_000, index_run_entries: 65_536 }
    }
}

impl StoreOptions {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`StoreError::Option`].
    pub fn validate(&self) -> Result<(), StoreError> {
        let within =
            |name, value: u64, min, max| if (min..=max).contains(&value) { Ok(()) } else { Err(StoreError::Option { name, value, min, max }) };
        within("inline_body_bytes", self.inline_body_bytes, 0, 180 << 10)?;
        within("cache_bytes", self.cache_bytes, 1 << 20, 64 << 30)?;
        within("flush_timeout_ms", self.flush_timeout_ms, 1_000, 3_600_000)?;
        within("index_run_entries", self.index_run_entries, 1_024, 16 << 20)
    }
}

/// Where a segment of the journal holds a body; the journal alone reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BodyLocator {
    /// The segment's number.
    pub segment: u64,
    /// The first page of the group.
    pub page: u32,
    /// The byte offset in the group's payload.
    pub offset: u32,
    /// The length in bytes.
    pub len: u32,
}

#[derive(Debug, Clone, Encode, Decode)]
enum BodyPlace {
    Inline(Vec<u8>),
    Segment(BodyLocator),
}

#[derive(Debug, Clone, Encode, Decode)]
struct BatchRow {
    header: Header,
    certificate: CommitCertificate,
    body: BodyPlace,
}

/// A batch as the log holds it.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    /// The header.
    pub header: Header,
    /// The quorum's commits.
    pub certificate: CommitCertificate,
    /// The body, or where it is.
    pub body: StoredBody,
}

/// A body, or where it is.
#[derive(Debug, Clone)]
pub enum StoredBody {
    /// In the row.
    Inline(Arc<Body>),
    /// In a segment.
    Segment(BodyLocator),
}

/// The end of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// The last slot; 0 for the empty log.
    pub slot: Slot,
    /// The last sequence number.
    pub sequence: Sequence,
    /// The digest of the last header; zero for the empty log.
    pub digest: Digest,
    /// The last header's timestamp.
    pub timestamp: TimestampMs,
    /// The tree's frontier.
    pub frontier: Frontier,
}

/// A batch to be appended.
pub struct AppendBatch<'a> {
    /// The batch; its certificate was checked.
    pub batch: &'a CommittedBatch,
    /// The digests of its body.
    pub digests: &'a BodyDigests,
    /// Where a segment holds the body; needed if it is too large for its row.
    pub place: Option<BodyLocator>,
}

/// When and why a view began, as this replica saw it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ViewRecord {
    /// The wall clock, ms.
    pub at: TimestampMs,
    /// Why the view before was left.
    pub reason: String,
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Rows behind the last sync that were cut because one of them was missing or damaged.
    pub rows_cut: u64,
    /// What was repaired.
    pub repaired: Vec<String>,
    /// The schemas that the log was brought out of.
    pub migrated: Vec<String>,
}

/// What was synced last; kept beside the database, because sled may silently roll back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
struct Synced {
    slot: Slot,
    sequence: Sequence,
    digest: Digest,
}

/// A log open for writing: one writer, any number of readers.
pub struct Store {
    dir: PathBuf,
    options: StoreOptions,
    database: Database,
    tiles: Tiles,
    index: Index,
    head: Arc<RwLock<Head>>,
    poisoned: Option<String>,
}

impl Store {
    /// Creates an empty log in `dir/log`.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or IO.
    pub fn create(dir: &Path, federation: FederationId, options: &StoreOptions) -> Result<Self, StoreError> {
        options.validate()?;
        let log = dir.join("log");
        if log.exists() {
            return Err(StoreError::Exists { dir: log });
        }
        let building = dir.join("log.new");
        let io = |e: std::io::Error| StoreError::io(&building, &e);
        if building.exists() {
            fs::remove_dir_all(&building).map_err(io)?;
        }
        for part in ["sled", "merkle", "index"] {
            fs::create_dir_all(building.join(part)).map_err(io)?;
        }
        {
            let database = Database::open(&building.join("sled"), options.cache_bytes)?;
            migrate::initialise(&database, federation)?;
            database.sync(options.flush_timeout_ms)?;
            Tiles::open(&building.join("merkle"), true).map_err(io)?;
        }
        wait_until_closed(&building.join("sled"))?;
        write_synced(&building, &Synced::default())?;
        for part in ["merkle", "index", "."] {
            sync_file(&building.join(part))?;
        }
        fs::rename(&building, &log).map_err(|e| StoreError::io(&log, &e))?;
        sync_file(dir)?;
        Self::open(dir, federation, options).map(|(store, _)| store)
    }

    /// Opens the log in `dir/log`. What lies behind the last sync is checked row by row, and cut where it is not whole; what was synced and is
    /// not there is damage.
    ///
    /// # Errors
    /// [`StoreError`]; those of [`StoreError::is_damage`] call for a rebuild from the journal.
    pub fn open(dir: &Path, federation: FederationId, options: &StoreOptions) -> Result<(Self, StoreReport), StoreError> {
        options.validate()?;
        let log = dir.join("log");
        if !log.exists() {
            return Err(StoreError::Missing { dir: dir.to_path_buf() });
        }
        // A log is made whole under another name: sled would take a lost file for a new database.
        if !log.join("sled").join("db").exists() {
            return Err(StoreError::Damaged(Damage::Database { message: "the file db is missing".to_owned() }));
        }
        // Whoever made it may have been killed before its name was durable.
        sync_file(dir)?;
        Self::open_known(dir, federation, options, &SCHEMAS)
    }

    /// Opens the log, and brings it to the newest schema first.
    fn open_known(dir: &Path, federation: FederationId, options: &StoreOptions, schemas: &Schemas<'_>) -> Result<(Self, StoreReport), StoreError> {
        migrate::discard(dir)?;
        let mut migrated = Vec::new();
        loop {
            match Self::open_log(&dir.join("log"), federation, options, schemas) {
                Err(StoreError::OlderSchema { found, .. }) => {
                    tracing::info!(from = found, to = found + 1, "migrating the log");
                    migrate::migrate(dir, federation, options, found, schemas, |_| Ok(()))?;
                    migrated.push(format!("the log was of schema {found}, and is of schema {} now", found + 1));
                }
                Ok((store, mut report)) => {
                    report.migrated = migrated;
                    return Ok((store, report));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn open_log(log: &Path, federation: FederationId, options: &StoreOptions, schemas: &Schemas<'_>) -> Result<(Self, StoreReport), StoreError> {
        let mut report = StoreReport::default();
        let unconfigured = !log.join("sled").join("conf").exists();
        let database = Database::open(&log.join("sled"), options.cache_bytes)?;
        let found = migrate::check(&database, federation, schemas).map_err(StoreError::while_opening)?;
        if found < schemas.known() {
            return Err(StoreError::OlderSchema { known: schemas.known(), found });
        }
        let synced = read_synced(log)?;
        let from = synced_end(&database, &synced).map_err(StoreError::while_opening)?;
        let mut end = follow(&database, &from).map_err(StoreError::while_opening)?;
        let io = |e: std::io::Error| StoreError::io(log, &e);
        for part in ["merkle", "index"] {
            fs::create_dir_all(log.join(part)).map_err(io)?;
        }
        let tiles = Tiles::open(&log.join("merkle"), true).map_err(io)?;
        let mut frontier = tree_behind(&tiles, &from, &end);
        if frontier.is_none() {
            // A power cut may take of the Merkle files what it leaves of the rows: what was synced is whole by itself.
            end = from.clone();
            frontier = tree_behind(&tiles, &from, &end);
        }
        let End { head, .. } = end;
        let frontier = frontier.ok_or(StoreError::Damaged(Damage::Merkle { sequence: head.sequence }))?;
        report.rows_cut = database.batches.remove_from(&(head.sequence + 1).to_be_bytes()).map_err(StoreError::while_opening)?;
        tiles.truncate(head.sequence).map_err(io)?;
        let run_entries = usize::try_from(options.index_run_entries).unwrap_or(usize::MAX);
        let index = Index::open(&log.join("index"), run_entries, head.sequence, &mut report.repaired).map_err(io)?;
        // A sync leaves no more than a run unwritten, so a longer gap is a run that was lost.
        if report.repaired.is_empty() && index.last().saturating_add(options.index_run_entries) < synced.sequence {
            report.repaired.push(format!("the lookup index, from the log: it ended at {}, as if a run were missing", index.last()));
        }
        if unconfigured {
            report.repaired.push("the file conf of the database, which was missing".to_owned());
        }
        let head = Arc::new(RwLock::new(Head { frontier, ..head }));
        Ok((Self { dir: log.to_path_buf(), options: *options, database, tiles, index, head, poisoned: None }, report))
    }

    /// Copies the log into a temporary directory and opens the copy: not a byte of the original changes.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_copy(dir: &Path, federation: FederationId, options: &StoreOptions) -> Result<(tempfile::TempDir, Self, StoreReport), StoreError> {
        let log = dir.join("log");
        if !log.exists() {
            return Err(StoreError::Missing { dir: dir.to_path_buf() });
        }
        let copy = tempfile::tempdir().map_err(|e| StoreError::io(&log, &e))?;
        copy_dir(&log, &copy.path().join("log")).map_err(|e| StoreError::io(&log, &e))?;
        let (store, report) = Self::open(copy.path(), federation, options)?;
        Ok((copy, store, report))
    }

    /// Renames a damaged log to `log.damaged-N`, so that nothing of it is lost.
    ///
    /// # Errors
    /// IO.
    pub fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
        let log = dir.join("log");
        if !log.exists() {
            return Ok(log);
        }
        let free = (1u32..).map(|n| dir.join(format!("log.damaged-{n}"))).find(|p| !p.exists());
        let aside = free.unwrap_or_else(|| dir.join("log.damaged"));
        fs::rename(&log, &aside).map_err(|e| StoreError::io(&log, &e))?;
        sync_file(dir)?;
        Ok(aside)
    }

    /// The end of the log.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.read().clone()
    }

    /// Appends a batch that continues the log; gives its leaf hashes. Durable after [`Store::sync`].
    ///
    /// # Errors
    /// [`StoreError::Order`] if it does not continue the log (nothing changes then); any other error stops the log.
    pub fn append(&mut self, append: AppendBatch<'_>) -> Result<Vec<Digest>, StoreError> {
        self.alive()?;
        let header = &append.batch.header;
        let leaves = append.batch.body.leaves(append.digests, header.first_sequence);
        let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
        let next = self.head.read().extended(header, &hashes)?;
        let body = self.place(&append)?;
        let row = BatchRow { header: header.clone(), certificate: append.batch.certificate.clone(), body };
        let size = next.sequence - hashes.len() as u64;
        failpoint::hit(Point::LogAppend);
        let written = self.tiles.append(size, &hashes).map_err(|e| StoreError::io(&self.dir, &e));
        failpoint::hit(Point::LogMerkle);
        let written = written.and_then(|()| self.database.batches.put(&header.first_sequence.to_be_bytes(), &row));
        written.inspect_err(|error| self.poisoned = Some(error.to_string()))?;
        failpoint::hit(Point::LogAppended);
        self.index.add(leaves.iter().map(|leaf| (&leaf.update_id, leaf.sequence)));
        *self.head.write() = next;
        Ok(hashes)
    }

    /// Points a row to another place of its body: the journal holds it there now. Durable after [`Store::sync`], and harmless if it is lost.
    ///
    /// # Errors
    /// [`StoreError`]; [`Damage::Row`] if there is no such row.
    pub fn move_body(&self, first_sequence: Sequence, place: BodyLocator) -> Result<(), StoreError> {
        let key = first_sequence.to_be_bytes();
        let missing = StoreError::Damaged(Damage::Row { tree: "batches", sequence: first_sequence });
        let row: BatchRow = self.database.batches.get(&key)?.ok_or(missing)?;
        self.database.batches.put(&key, &BatchRow { body: BodyPlace::Segment(place), ..row })
    }

    fn place(&self, append: &AppendBatch<'_>) -> Result<BodyPlace, StoreError> {
        let body = &append.batch.body;
        let fits = body.encoded_bytes() <= self.options.inline_body_bytes;
        match append.place {
            Some(place) if !fits => Ok(BodyPlace::Segment(place)),
            _ => {
                let bytes = encode(&**body).map_err(|e| StoreError::Database { message: e.to_string() })?;
                let limit = MAX_ROW_BYTES - (12 << 10);
                if bytes.len() > limit { Err(StoreError::BodyTooLong { limit, actual: bytes.len() }) } else { Ok(BodyPlace::Inline(bytes)) }
            }
        }
    }

    /// Makes everything appended survive a power cut: Merkle files, database, then the note of what was synced.
    ///
    /// # Errors
    /// Any error stops the log: a failed sync is never retried.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.alive()?;
        let head = self.head();
        let synced = Synced { slot: head.slot, sequence: head.sequence, digest: head.digest };
        let io = |e: std::io::Error| StoreError::io(&self.dir, &e);
        failpoint::hit(Point::LogSync);
        let result = self.tiles.sync().map_err(io).inspect(|()| failpoint::hit(Point::LogTilesSynced));
        let result = result.and_then(|()| self.database.sync(self.options.flush_timeout_ms));
        failpoint::hit(Point::LogFlushed);
        let result = result.and_then(|()| write_synced(&self.dir, &synced));
        let result = result.and_then(|()| self.index.settle().map_err(io));
        result.inspect_err(|error| self.poisoned = Some(error.to_string()))
    }

    fn alive(&self) -> Result<(), StoreError> {
        self.poisoned.as_ref().map_or(Ok(()), |message| Err(StoreError::Poisoned { message: message.clone() }))
    }

    /// Keeps a stable checkpoint.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn put_checkpoint(&self, certificate: &CheckpointCertificate) -> Result<(), StoreError> {
        self.database.checkpoints.put(&certificate.checkpoint.slot.to_be_bytes(), certificate)
    }

    /// Keeps when and why a view began.
    ///
    /// # Errors
    /// As above.
    pub fn put_view(&self, view: View, record: &ViewRecord) -> Result<(), StoreError> {
        self.database.views.put(&view.to_be_bytes(), record)
    }

    /// Keeps evidence under its digest.
    ///
    /// # Errors
    /// As above.
    pub fn put_evidence(&self, digest: &Digest, evidence: &crate::types::Evidence) -> Result<(), StoreError> {
        self.database.evidence.put(&digest.0, evidence)
    }

    /// The sequence numbers that the index lacks, if any.
    #[must_use]
    pub fn index_gap(&self) -> Option<RangeInclusive<Sequence>> {
        let (last, head) = (self.index.last(), self.head.read().sequence);
        (last < head).then_some(last + 1..=head)
    }

    /// Gives the index ids that continue it.
    pub fn index_add(&self, entries: &[(UpdateId, Sequence)]) {
        self.index.add(entries.iter().map(|(id, sequence)| (id, *sequence)));
    }

    /// A reader of this log.
    #[must_use]
    pub fn reader(&self) -> StoreReader {
        StoreReader::new(self.database.clone(), self.tiles.clone(), self.index.clone(), self.head.clone())
    }
}

/// A place where the log may end, and its root there.
#[derive(Clone)]
struct End {
    head: Head,
    root: Digest,
}

/// The end that the last sync noted; its row must be there.
fn synced_end(database: &Database, synced: &Synced) -> Result<End, StoreError> {
    let mut end = End { head: Head { slot: synced.slot, sequence: synced.sequence, digest: synced.digest, ..Head::default() }, root: Digest::ZERO };
    if synced.sequence > 0 {
        let rollback = |found| StoreError::Damaged(Damage::Rollback { expected: synced.slot, found });
        let row = database.batches.last::<BatchRow>(Some(&synced.sequence.to_be_bytes()))?;
        let (_, row) = row.ok_or_else(|| rollback(0))?;
        if row.header.digest() != synced.digest {
            return Err(rollback(row.header.slot));
        }
        (end.head.timestamp, end.root) = (row.header.timestamp, row.header.log_root);
    }
    Ok(end)
}

/// The last row behind an end up to which every row is whole and continues the one before.
fn follow(database: &Database, from: &End) -> Result<End, StoreError> {
    let mut end = from.clone();
    loop {
        let (head, next) = (&end.head, end.head.sequence + 1);
        match database.batches.get::<BatchRow>(&next.to_be_bytes()) {
            Ok(Some(row)) if row.header.slot == head.slot + 1 && row.header.parent == head.digest && row.header.first_sequence == next => {
                let header = row.header;
                let (slot, sequence, timestamp) = (header.slot, header.last_sequence(), header.timestamp);
                end = End { head: Head { slot, sequence, digest: header.digest(), timestamp, ..Head::default() }, root: header.log_root };
            }
            Ok(None) | Err(StoreError::Damaged(_)) | Ok(Some(_)) => return Ok(end),
            Err(error) => return Err(error),
        }
    }
}

/// The tree's frontier at an end, if the files give its root. Behind the last sync every leaf is read, and the levels above are written anew:
/// any of those pages may be missing though the root follows from others.
fn tree_behind(tiles: &Tiles, synced: &End, end: &End) -> Option<Frontier> {
    let from = synced.head.sequence;
    let mut frontier = tiles.frontier(from).ok().filter(|f| from == 0 || f.root() == synced.root)?;
    if end.head.sequence > from {
        let leaves = tiles.leaves(from, usize::try_from(end.head.sequence - from).ok()?).ok()?;
        leaves.iter().for_each(|leaf| frontier.append(*leaf));
        if frontier.root() != end.root {
            return None;
        }
        tiles.append(from, &leaves).ok()?;
    }
    Some(frontier)
}

/// `log/head`: crc32c, then what was synced last. Replaced by rename.
fn write_synced(log: &Path, synced: &Synced) -> Result<(), StoreError> {
    let value = encode(synced).map_err(|e| StoreError::Database { message: e.to_string() })?;
    let bytes = [&crc32c::crc32c(&value).to_le_bytes()[..], &value].concat();
    let (path, building) = (log.join("head"), log.join("head.new"));
    let io = |e: std::io::Error| StoreError::io(&building, &e);
    fs::write(&building, bytes).map_err(io)?;
    sync_file(&building)?;
    failpoint::hit(Point::HeadRename);
    fs::rename(&building, &path).map_err(|e| StoreError::io(&path, &e))?;
    failpoint::hit(Point::HeadRenamed);
    sync_file(log)
}

fn read_synced(log: &Path) -> Result<Synced, StoreError> {
    let path = log.join("head");
    let bytes = fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => StoreError::Damaged(Damage::Meta),
        _ => StoreError::io(&path, &error),
    })?;
    let (crc, value) = bytes.split_at_checked(4).ok_or(StoreError::Damaged(Damage::Meta))?;
    if crc != crc32c::crc32c(value).to_le_bytes() {
        return Err(StoreError::Damaged(Damage::Meta));
    }
    decode(value).map_err(|_| StoreError::Damaged(Damage::Meta))
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() { copy_dir(&entry.path(), &target)? } else { fs::copy(entry.path(), &target).map(|_| ())? }
    }
    Ok(())
}
