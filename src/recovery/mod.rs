//! Recovery: from what is on disk to a replica that may go on, and a report of what was found.
//!
//! In order: open the journal and the log; replay the journal's end, appending to the log what it had not yet made durable; rebuild the duplicate
//! table from the log's newest batches; replay the records into the core. Its time grows with the tail since the stable checkpoint, not with the
//! log. A damaged log is set aside and rebuilt from the journal; a damaged voting record, or a damaged tail of the segments, makes the replica
//! suspect: it cannot prove that it remembers its votes. This module opens no socket and knows no timer.

pub mod backup;
mod gaps;
pub mod repair;
mod report;

pub use report::RecoveryReport;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use crate::consensus::{CheckedBody, CoreOptions, DuplicateTable, Record, RecordError, Replica, Tip, batch_of_frame};
use crate::crypto::{Digest, SigningKey};
use crate::journal::{Damage, Frame, Journal, JournalError, JournalOptions, JournalReader, Locator, StreamKind};
use crate::store::{AppendBatch, BodyLocator, Head, Store, StoreError, StoreOptions, StoreReader, StoredBatch, StoredBody};
use crate::types::{Body, CodecError, CommitCertificate, CommittedBatch, Federation, Header, ReplicaIndex, Slot};
use gaps::Gaps;

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal cannot be opened.
    #[error("the journal in {dir}: {error}")]
    Journal {
        /// The journal's directory.
        dir: PathBuf,
        /// Why.
        error: JournalError,
    },
    /// The log cannot be opened or rebuilt.
    #[error("the log in {dir}: {error}")]
    Store {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        error: StoreError,
    },
    /// A frame that passed its checksum is no record: written by another program, or another version.
    #[error("journal record {lsn}: {error}")]
    Record {
        /// The record's number.
        lsn: u64,
        /// Why.
        error: RecordError,
    },
    /// The note of why the replica must not vote cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Suspicion {
        /// The note.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A body that was to be written again cannot be.
    #[error("the body of slot {slot}: {problem}")]
    Body {
        /// Which.
        slot: Slot,
        /// What is wrong.
        problem: BodyProblem,
    },
    /// The journal certifies a batch that does not continue the log.
    #[error("the journal's batch at slot {slot} does not continue the log, though a quorum certified it")]
    Fork {
        /// Where.
        slot: Slot,
    },
}

/// Why a body cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyProblem {
    /// The segment does not hold it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The bytes are no body.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// It is another body.
    #[error("the segment holds another batch there")]
    Other,
}

/// Where a replica's data lies below its data directory.
#[derive(Debug, Clone)]
pub struct DataDir(pub PathBuf);

impl DataDir {
    /// The journal: segments and votes.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The file that says why this replica must not vote any more.
    #[must_use]
    pub fn suspect(&self) -> PathBuf {
        self.0.join("suspect")
    }

    /// The note of slots whose bodies the next start is to fetch from peers.
    #[must_use]
    pub fn wanted(&self) -> PathBuf {
        self.0.join("wanted")
    }

    /// The directory that holds `log/`.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.0
    }

    /// Prepares an empty data directory for a replica that never ran. Only such a replica may lead view 0.
    ///
    /// # Errors
    /// [`RecoveryError::Journal`], among them that there is a journal already.
    pub fn create(&self, federation: &Federation, options: &JournalOptions) -> Result<(), RecoveryError> {
        let io = |error| RecoveryError::Journal { dir: self.journal(), error };
        let (kind, payload) =
            Record::Started { run: 0 }.to_frame().map_err(|error| RecoveryError::Record { lsn: 0, error: RecordError::Codec { kind: 0, error } })?;
        Journal::create(&self.journal(), federation.id().0.0, options, &[(kind, payload)]).map_err(io)
    }
}

/// What recovery works with.
pub struct Inputs {
    /// The federation.
    pub federation: Arc<Federation>,
    /// Which member this is.
    pub me: ReplicaIndex,
    /// Its consensus key.
    pub key: SigningKey,
    /// The core's options.
    pub core: CoreOptions,
    /// The journal's options.
    pub journal: JournalOptions,
    /// The log's options.
    pub store: StoreOptions,
}

/// A replica ready to go on.
pub struct Recovered {
    /// The core, before `resume`.
    pub core: Replica,
    /// The journal, open for writing, the start recorded.
    pub journal: Journal,
    /// The log, open for writing.
    pub store: Store,
    /// Where the bodies of batches not yet in the log lie.
    pub places: BTreeMap<(Slot, Digest), Locator>,
    /// What was found.
    pub report: RecoveryReport,
}

/// Recovers a replica from its data directory.
///
/// # Errors
/// [`RecoveryError`]. Damage that leaves the replica able to serve is in the report instead.
pub fn recover(dir: &DataDir, inputs: Inputs) -> Result<Recovered, RecoveryError> {
    let started = Instant::now();
    let Inputs { federation, me, key, core, journal: journal_options, store: store_options } = inputs;
    let open = |rebuilt| open_and_replay(dir, &federation, &journal_options, &store_options, rebuilt);
    let opened = match open(None) {
        // A damaged row that opening the log did not read: the journal has it, and all the others.
        Err(RecoveryError::Store { error, .. }) if error.is_damage() => open(Some(set_aside(dir, &error)?)),
        opened => opened,
    };
    let Opened { mut journal, store, replayed, duplicates, mut report } = opened?;
    let head = store.head();
    let tip = Tip { slot: head.slot, sequence: head.sequence, digest: head.digest, timestamp: head.timestamp, frontier: head.frontier };
    let mut core = Replica::new(federation, me, key, core, tip, duplicates, report.suspect.is_some());
    let mut run = 0;
    for record in &replayed.records {
        if let Record::Started { run: before } = record {
            run = *before;
        }
        core.replay(record);
    }
    let journal_error = |error| RecoveryError::Journal { dir: dir.journal(), error };
    record_start(&mut journal, &mut core, run + 1, report.suspect.is_some()).map_err(journal_error)?;
    report.log_head = core.status().sequence;
    report.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Recovered { core, journal, store, places: replayed.places, report })
}

struct Opened {
    journal: Journal,
    store: Store,
    replayed: Replayed,
    duplicates: DuplicateTable,
    report: RecoveryReport,
}

/// Everything but the core. `rebuilt` is what was found damaged in a log that was set aside.
fn open_and_replay(
    dir: &DataDir,
    federation: &Federation,
    journal_options: &JournalOptions,
    store_options: &StoreOptions,
    rebuilt: Option<String>,
) -> Result<Opened, RecoveryError> {
    let (mut journal, found) =
        Journal::open(&dir.journal(), federation.id().0.0, journal_options).map_err(|error| RecoveryError::Journal { dir: dir.journal(), error })?;
    let mut report = RecoveryReport::new(&found);
    report.repaired.extend(rebuilt);
    let reader = journal.reader();
    let stable = stable_slot(federation, &reader)?;
    let mut store = open_or_rebuild(dir, federation, store_options, stable, &mut report)?;
    let replayed = replay_journal(federation, &mut journal, &mut store, dir, stable, &found.damage, &mut report)?;
    remember_suspicion(dir, &mut report)?;
    refill_index(&store, &reader, &mut report)?;
    repair::recall_wanted(dir, &store.reader(), &reader, &mut report)?;
    let duplicates = duplicate_table(federation, &store.reader(), &reader, &store.head(), &mut report)?;
    Ok(Opened { journal, store, replayed, duplicates, report })
}

/// Once suspect, always suspect: later starts may no longer read the damaged place, and what was forgotten there stays forgotten. The replica
/// may vote again only as a new member, under a new key.
fn remember_suspicion(dir: &DataDir, report: &mut RecoveryReport) -> Result<(), RecoveryError> {
    let path = dir.suspect();
    let failed = |error| RecoveryError::Suspicion { path: path.clone(), error };
    match (std::fs::read_to_string(&path), &report.suspect) {
        (Ok(earlier), Some(reason)) if earlier.trim() == reason => {}
        (Ok(earlier), _) => report.suspect_because(format!("since an earlier start: {}", earlier.trim())),
        (Err(error), Some(reason)) if error.kind() == std::io::ErrorKind::NotFound => {
            let write = || {
                std::fs::write(&path, format!("{reason}\n"))?;
                std::fs::File::open(&path)?.sync_all()?;
                std::fs::File::open(&dir.0)?.sync_all()
            };
            write().map_err(failed)?;
        }
        (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => {}
        (Err(error), _) => return Err(failed(error)),
    }
    Ok(())
}

/// Notes durably that the replica ran, before anything can be sent. A damaged voting record stays as it is: it is the evidence.
fn record_start(journal: &mut Journal, core: &mut Replica, run: u64, suspect: bool) -> Result<(), JournalError> {
    let record = Record::Started { run };
    core.replay(&record);
    if suspect {
        return Ok(());
    }
    if let Ok((kind, payload)) = record.to_frame() {
        journal.append_vote(kind, &payload)?;
    }
    journal.sync()
}

/// The slot of the last stable checkpoint that the voting record holds.
fn stable_slot(federation: &Federation, reader: &JournalReader) -> Result<Slot, RecoveryError> {
    let mut stable = 0;
    for frame in reader.votes().frames {
        match record_of(federation, &frame)? {
            Record::Stable(certificate) => stable = certificate.checkpoint.slot.max(stable),
            Record::NewView(new_view) => {
                let base = new_view.view_changes.iter().map(crate::types::ViewChange::stable_slot).max();
                stable = base.unwrap_or(0).max(stable);
            }
            _ => {}
        }
    }
    Ok(stable)
}

fn record_of(federation: &Federation, frame: &Frame) -> Result<Record, RecoveryError> {
    Record::from_frame(federation, frame.kind, &frame.payload).map_err(|error| RecoveryError::Record { lsn: frame.lsn, error })
}

/// Opens the log; one that cannot be opened, or ends below what a stable checkpoint promised, is set aside, and an empty one takes its place.
fn open_or_rebuild(
    dir: &DataDir,
    federation: &Federation,
    options: &StoreOptions,
    stable: Slot,
    report: &mut RecoveryReport,
) -> Result<Store, RecoveryError> {
    let failed = |error| RecoveryError::Store { dir: dir.0.clone(), error };
    match Store::open(dir.store(), federation.id(), options) {
        Ok((store, found)) => {
            report.cut += found.rows_cut;
            report.repaired.extend(found.repaired);
            report.migrated.extend(found.migrated);
            return Ok(store);
        }
        Err(StoreError::Missing { .. }) if stable == 0 => {}
        Err(error) if error.is_damage() => report.repaired.push(set_aside(dir, &error)?),
        Err(error) => return Err(failed(error)),
    }
    Store::create(dir.store(), federation.id(), options).map_err(failed)
}

/// Sets a damaged log aside; says so.
fn set_aside(dir: &DataDir, error: &StoreError) -> Result<String, RecoveryError> {
    let aside = Store::set_aside(dir.store()).map_err(|error| RecoveryError::Store { dir: dir.0.clone(), error })?;
    tracing::warn!(%error, aside = %aside.display(), "the log is damaged; it is set aside and rebuilt from the journal");
    Ok(format!("the log, from the journal: {error}; set aside as {}", aside.display()))
}

struct Replayed {
    records: Vec<Record>,
    places: BTreeMap<(Slot, Digest), Locator>,
}

/// Replays the journal's end: committed batches that the log lacks are appended to it; what the protocol still needs is kept for the core.
fn replay_journal(
    federation: &Federation,
    journal: &mut Journal,
    store: &mut Store,
    dir: &DataDir,
    stable: Slot,
    opening: &[Damage],
    report: &mut RecoveryReport,
) -> Result<Replayed, RecoveryError> {
    let (mut records, mut snapshot, mut gaps, mut held) = (Vec::new(), Snapshot::default(), Gaps::default(), BTreeSet::new());
    let mut pending: BTreeMap<(Slot, Digest), (Header, CheckedBody, Locator)> = BTreeMap::new();
    let base = stable.min(store.head().slot);
    let mut certified = base;
    for frame in journal.tail(Some(base)) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(JournalError::Damage(damage)) => {
                gaps.damaged(damage);
                continue;
            }
            Err(error) => return Err(RecoveryError::Journal { dir: dir.journal(), error }),
        };
        gaps.whole(&frame);
        report.journal_records += 1;
        let record = record_of(federation, &frame)?;
        match (&record, frame.locator) {
            (Record::Proposal { header, body, .. } | Record::Body { header, body }, Some(place)) if header.slot > base => {
                held.insert((header.slot, header.digest()));
                pending.insert((header.slot, header.digest()), (header.clone(), body.clone(), place));
            }
            (Record::Committed(certificate), _) => {
                certified = certified.max(certificate.slot);
                append_committed(federation, store, dir, certificate, &mut pending, report)?;
            }
            _ => {}
        }
        if snapshot.takes(&frame) {
            snapshot.records.push(record);
        } else if frame.stream == StreamKind::Votes || record.slot() > stable.min(store.head().slot) {
            records.push(record);
        }
    }
    judge(&gaps, opening, stable.min(store.head().slot), report);
    if gaps.any() {
        let lacking = repair::lacking(&store.reader(), &journal.reader(), Some(base), |_| ())?;
        repair::from_log(federation, journal, store, &lacking, report)?;
    } else {
        restore_certificates(journal, store, dir, certified)?;
        let lacking = never_held(store, dir, certified, &held)?;
        if let Some(slot) = lacking.first() {
            report.suspect_because(format!("the journal is older than the log: it never held slot {slot}, which the log does"));
            repair::from_log(federation, journal, store, &lacking, report)?;
        }
    }
    if let Some(reason) = &report.suspect {
        tracing::error!(%reason, "the replica is suspect: it serves, and does not vote");
    }
    // Records of slots that became stable while the journal was read are of no more use.
    let floor = stable.min(store.head().slot);
    records.retain(|r| r.part() == crate::consensus::Part::Votes || r.slot() > floor);
    snapshot.records.extend(records);
    let records = snapshot.records;
    report.replayed += records.len() as u64;
    let places = pending.into_iter().map(|(key, (_, _, place))| (key, place)).collect();
    Ok(Replayed { records, places })
}

/// Damage in the segments makes the replica suspect only where a vote above the floor may be forgotten.
fn judge(gaps: &Gaps, opening: &[Damage], floor: Slot, report: &mut RecoveryReport) {
    let unmet = opening.iter().find(|damage| damage.stream == StreamKind::Segments && !gaps.met(damage));
    if let Some(damage) = unmet.or_else(|| gaps.forgetful(floor)) {
        report.suspect_because(format!("the journal is damaged: {damage}"));
    }
}

/// What the voting record begins with: the voting state at its last rotation. It comes first, whatever its record numbers: proposals of the
/// current view may have been written before it, and must find that view begun.
#[derive(Default)]
struct Snapshot {
    records: Vec<Record>,
    next_lsn: Option<u64>,
    ended: bool,
}

impl Snapshot {
    /// Whether a frame belongs to it: the first voting records, as far as their numbers follow each other.
    fn takes(&mut self, frame: &Frame) -> bool {
        if frame.stream != StreamKind::Votes || self.ended {
            return false;
        }
        self.ended = self.next_lsn.is_some_and(|next| next != frame.lsn);
        self.next_lsn = Some(frame.lsn + 1);
        !self.ended
    }
}

/// A commit certificate is written lazily, so the log may hold some that the journal lost. The journal alone must hold all that an audit
/// needs: they are written to it again.
fn restore_certificates(journal: &mut Journal, store: &Store, dir: &DataDir, certified: Slot) -> Result<(), RecoveryError> {
    let store_error = |error| RecoveryError::Store { dir: dir.0.clone(), error };
    let journal_error = |error| RecoveryError::Journal { dir: dir.journal(), error };
    for slot in certified + 1..=store.head().slot {
        let Some(row) = store.reader().row_at_slot(slot).map_err(store_error)? else { continue };
        if let Ok((kind, payload)) = Record::Committed(row.certificate).to_frame() {
            journal.append_segment(kind, slot, &payload).map_err(journal_error)?;
        }
    }
    journal.sync().map_err(journal_error)
}

/// The slots beyond the journal's last certificate that the log holds and the journal never did. A body is durable in the journal before the
/// log gets its row, so there are some only if an older journal was put back.
fn never_held(store: &Store, dir: &DataDir, certified: Slot, held: &BTreeSet<(Slot, Digest)>) -> Result<Vec<Slot>, RecoveryError> {
    let mut slots = Vec::new();
    for slot in certified + 1..=store.head().slot {
        let row = store.reader().row_at_slot(slot).map_err(|error| RecoveryError::Store { dir: dir.0.clone(), error })?;
        if row.is_some_and(|row| !held.contains(&(slot, row.header.digest()))) {
            slots.push(slot);
        }
    }
    Ok(slots)
}

/// Appends a batch that the journal says is committed, if the log lacks it. The certificate is checked: the log takes nothing on trust.
fn append_committed(
    federation: &Federation,
    store: &mut Store,
    dir: &DataDir,
    certificate: &CommitCertificate,
    pending: &mut BTreeMap<(Slot, Digest), (Header, CheckedBody, Locator)>,
    report: &mut RecoveryReport,
) -> Result<(), RecoveryError> {
    let head = store.head();
    if certificate.slot == head.slot + 1
        && let Some((header, body, place)) = pending.get(&(certificate.slot, certificate.digest)).cloned()
    {
        certificate.verify(federation, &header).map_err(|_| RecoveryError::Fork { slot: header.slot })?;
        let batch = CommittedBatch { header, body: body.body.clone(), certificate: certificate.clone() };
        let place = Some(body_locator(place));
        let appended = store.append(AppendBatch { batch: &batch, digests: &body.digests, place });
        match appended {
            Ok(_) => report.appended += 1,
            Err(error) if error.is_order() => return Err(RecoveryError::Fork { slot: certificate.slot }),
            Err(error) => return Err(RecoveryError::Store { dir: dir.0.clone(), error }),
        }
        if report.appended > 0 && report.appended.is_multiple_of(4_096) {
            tracing::info!(slot = certificate.slot, appended = report.appended, "replaying the journal");
            // Whoever interrupts a rebuild finds it here again.
            store.sync().map_err(|error| RecoveryError::Store { dir: dir.0.clone(), error })?;
        }
    }
    // Bodies at or below the head lie in the log now; keep those still in progress.
    let head = store.head().slot;
    if pending.first_key_value().is_some_and(|((slot, _), _)| *slot <= head) {
        *pending = pending.split_off(&(head + 1, Digest::ZERO));
    }
    Ok(())
}

/// The same place in the log's terms.
#[must_use]
pub fn body_locator(place: Locator) -> BodyLocator {
    BodyLocator { segment: place.segment, page: place.page, offset: place.offset, len: place.len }
}

/// Reads a batch's body from its row, or from the segment that the row names.
///
/// # Errors
/// [`BodyProblem`].
pub fn body_of(reader: &JournalReader, row: &StoredBatch) -> Result<Arc<Body>, BodyProblem> {
    match &row.body {
        StoredBody::Inline(body) => Ok(body.clone()),
        StoredBody::Segment(place) => {
            let locator = Locator { segment: place.segment, page: place.page, offset: place.offset, len: place.len };
            let (header, body) = batch_of_frame(&reader.read(locator)?)?;
            if header == row.header { Ok(body) } else { Err(BodyProblem::Other) }
        }
    }
}

/// Gives the lookup index what it lags behind. A body that cannot be read leaves it lagging.
fn refill_index(store: &Store, reader: &JournalReader, report: &mut RecoveryReport) -> Result<(), RecoveryError> {
    let Some(gap) = store.index_gap() else { return Ok(()) };
    let failed = |error| RecoveryError::Store { dir: PathBuf::from("log"), error };
    for row in store.reader().rows_from_sequence(*gap.start()) {
        let row = row.map_err(failed)?;
        let body = match body_of(reader, &row) {
            Ok(body) => body,
            // The index takes what continues it only: it ends here until the body is there again.
            Err(problem) => {
                report.lacks_body(row.header.slot, &problem);
                continue;
            }
        };
        let ids = body.submissions.iter().flat_map(|s| s.ids().cloned()).zip(row.header.first_sequence..);
        store.index_add(&ids.collect::<Vec<_>>());
    }
    Ok(())
}

/// Rebuilds the duplicate table from the batches that may still count. A replica that lacks one of their bodies could not tell a duplicate, and
/// must not vote until header time has passed that batch by; that is no lasting suspicion, because its votes are whole.
fn duplicate_table(
    federation: &Federation,
    rows: &StoreReader,
    reader: &JournalReader,
    head: &Head,
    report: &mut RecoveryReport,
) -> Result<DuplicateTable, RecoveryError> {
    let parameters = federation.parameters();
    let mut table = DuplicateTable::new(parameters.max_lifetime_ms, parameters.max_live_ids);
    let oldest = head.timestamp.saturating_sub(DuplicateTable::horizon_ms(parameters.max_lifetime_ms));
    const AT_A_TIME: usize = 64;
    let mut recent = Vec::new();
    for row in rows.rows_backwards() {
        let row = row.map_err(|error| RecoveryError::Store { dir: PathBuf::from("log"), error })?;
        if row.header.timestamp < oldest {
            break;
        }
        recent.push(row);
    }
    // Hashed side by side, taken in order.
    let whole = |row: &StoredBatch| -> Result<CheckedBody, BodyProblem> {
        let checked = CheckedBody::compute(federation, body_of(reader, row)?, row.header.first_sequence);
        if checked.digests.body == row.header.body_digest { Ok(checked) } else { Err(BodyProblem::Other) }
    };
    recent.reverse();
    for rows in recent.chunks(AT_A_TIME) {
        let checked: Vec<_> = rows.par_iter().map(whole).collect();
        for (row, checked) in rows.iter().zip(checked) {
            take_committed(&mut table, row, checked, parameters.max_lifetime_ms, report);
        }
    }
    Ok(table)
}

/// Notes one batch in the duplicate table.
fn take_committed(
    table: &mut DuplicateTable,
    row: &StoredBatch,
    checked: Result<CheckedBody, BodyProblem>,
    max_lifetime_ms: u64,
    report: &mut RecoveryReport,
) {
    let slot = row.header.slot;
    match checked {
        Ok(checked) => table.commit(&checked, row.header.first_sequence, row.header.timestamp),
        Err(problem) => {
            report.lacks_body(slot, &problem);
            report.suspect_because(format!(
                "the body of slot {slot}, needed to tell duplicates: {problem}; start again once a peer can be reached, \
                 or {max_lifetime_ms} ms have passed in the log"
            ));
        }
    }
}
