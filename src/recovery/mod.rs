//! Recovery: from what is on disk to a replica that may go on, and a report of what was found.
//!
//! In order: open the journal and the log; replay the journal's end, appending to the log what it had not yet made durable; rebuild the duplicate
//! table from the log's newest batches; replay the records into the core. Its time grows with the tail since the stable checkpoint, not with the
//! log. A damaged log is set aside and rebuilt from the journal; a damaged voting record, or a damaged tail of the segments, makes the replica
//! suspect: it cannot prove that it remembers its votes. This module opens no socket and knows no timer.

mod medium;
mod report;
mod suspicion;

pub use medium::{Medium, RealMedium};
pub use report::RecoveryReport;
pub use suspicion::Suspicion;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::consensus::{CheckedBody, CoreOptions, DuplicateTable, Record, RecordError, Replica, Suspicion as Suspect, Tip, batch_of_frame};
use crate::crypto::{Digest, PublicKey, SigningKey};
use crate::failpoint::{self, Point};
use crate::journal::{Disk, Frame, Journal, JournalError, JournalOptions, JournalReader, Locator, RealDisk, StreamKind};
use crate::store::{AppendBatch, BodyLocator, Head, Log, LogReader, Store, StoreError, StoreOptions, StoredBatch, StoredBody};
use crate::types::{Body, Checkpoint, CheckpointCertificate, CodecError, CommitCertificate, CommittedBatch, Federation, Header, ReplicaIndex, Slot};

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
    /// The data belongs to another replica: voting on it would forget this one's votes.
    #[error("{} belongs to the replica with consensus key {found}, this one's is {expected}: were two replicas' disks or secrets exchanged?", .dir.display())]
    OtherReplica {
        /// The data directory.
        dir: PathBuf,
        /// This replica's key.
        expected: PublicKey,
        /// The key that the journal names.
        found: PublicKey,
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

    /// The directory that holds `log/`.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.0
    }

    /// Prepares an empty data directory for a replica that never ran. Only such a replica may lead view 0.
    ///
    /// # Errors
    /// [`RecoveryError::Journal`], among them that there is a journal already.
    pub fn create(&self, federation: &Federation, owner: PublicKey, options: &JournalOptions) -> Result<(), RecoveryError> {
        self.create_on(RealDisk::shared(), federation, owner, options)
    }

    /// The same on another disk.
    ///
    /// # Errors
    /// As above.
    pub fn create_on(&self, disk: Arc<dyn Disk>, federation: &Federation, owner: PublicKey, options: &JournalOptions) -> Result<(), RecoveryError> {
        let io = |error| RecoveryError::Journal { dir: self.journal(), error };
        let codec = |error| RecoveryError::Record { lsn: 0, error: RecordError::Codec { kind: 0, error } };
        let snapshot = [Record::Owner(owner), Record::Started { run: 0 }].iter().map(Record::to_frame).collect::<Result<Vec<_>, _>>().map_err(codec)?;
        Journal::create_on(disk, &self.journal(), federation.id().0.0, options, &snapshot).map_err(io)
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
    /// A random number that was never used before, should the replica have to rejoin.
    pub nonce: u64,
}

/// A replica ready to go on.
pub struct Recovered<L = Store> {
    /// The core, before `resume`.
    pub core: Replica,
    /// The journal, open for writing, the start recorded.
    pub journal: Journal,
    /// The log, open for writing.
    pub store: L,
    /// Where the bodies of batches not yet in the log lie.
    pub places: BTreeMap<(Slot, Digest), Locator>,
    /// The checkpoints above the stable one that the log holds, durably: to be signed anew.
    pub durable: Vec<Checkpoint>,
    /// Whether the voting record cannot be trusted.
    pub votes_lost: bool,
    /// What was found.
    pub report: RecoveryReport,
}

/// Recovers a replica from its data directory.
///
/// # Errors
/// [`RecoveryError`]. Damage that leaves the replica able to serve is in the report instead.
pub fn recover(dir: &DataDir, inputs: Inputs) -> Result<Recovered, RecoveryError> {
    let medium = RealMedium { dir: dir.clone(), federation: inputs.federation.id(), options: inputs.store };
    recover_on(&medium, dir, inputs)
}

/// The same on any medium.
///
/// # Errors
/// As above.
pub fn recover_on<M: Medium>(medium: &M, dir: &DataDir, inputs: Inputs) -> Result<Recovered<M::Log>, RecoveryError> {
    let started = Instant::now();
    let Inputs { federation, me, key, core, journal: journal_options, nonce, .. } = inputs;
    let id = federation.id();
    let journal_error = |error| RecoveryError::Journal { dir: dir.journal(), error };
    let (mut journal, found) = Journal::open_on(medium.disk(), &dir.journal(), id.0.0, &journal_options).map_err(journal_error)?;
    let mut report = RecoveryReport::new(&found);
    let reader = journal.reader();
    // Before anything else is written: what is damaged now may not be read by a later start.
    let note = Suspicion::new(medium.disk(), dir);
    remember_suspicion(&note, &mut report)?;
    let noted = stable_slot(&federation, &reader)?;
    let mut store = open_or_rebuild(medium, dir, noted, &mut report)?;
    failpoint::hit(Point::RecoveryOpened);
    // A suspect replica's voting record stands still; the log keeps every stable checkpoint.
    let kept = store.reader().stable().ok().flatten().filter(|c| c.checkpoint.slot > noted && c.verify(&federation).is_ok());
    let replayed = replay_journal(&federation, &mut journal, &mut store, dir, (noted, kept), &mut report)?;
    failpoint::hit(Point::RecoveryReplayed);
    remember_suspicion(&note, &mut report)?;
    refill_index(&mut store, &reader, &mut report)?;
    let head = store.head();
    let votes_lost = report.suspect.is_some();
    let duplicates = duplicate_table(&federation, &store.reader(), &reader, &head, &mut report)?;
    let tip = Tip { slot: head.slot, sequence: head.sequence, digest: head.digest, timestamp: head.timestamp, frontier: head.frontier };
    let suspicion = Suspect { votes_lost: votes_lost.then_some(nonce), blind_until: report.blind_until };
    let owner = key.public();
    let mut core = Replica::new(federation.clone(), me, key, core, tip, duplicates, suspicion);
    let mut run = 0;
    for record in &replayed.records {
        if let Record::Owner(found) = record
            && *found != owner
        {
            return Err(RecoveryError::OtherReplica { dir: dir.0.clone(), expected: owner, found: *found });
        }
        if let Record::Started { run: before } = record {
            run = *before;
        }
        core.replay(record);
    }
    record_start(&mut journal, &mut core, run + 1, votes_lost).map_err(journal_error)?;
    failpoint::hit(Point::RecoveryStarted);
    let durable = durable_checkpoints(&federation, dir, &mut store, core.place().stable)?;
    report.log_head = core.status().sequence;
    report.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Recovered { core, journal, store, places: replayed.places, durable, votes_lost, report })
}

/// Makes the log durable, and says which checkpoints above the stable one it holds. Their signatures went with the memory.
fn durable_checkpoints(federation: &Federation, dir: &DataDir, store: &mut impl Log, stable: Slot) -> Result<Vec<Checkpoint>, RecoveryError> {
    let failed = |error| RecoveryError::Store { dir: dir.0.clone(), error };
    store.sync().map_err(failed)?;
    let every = federation.parameters().checkpoint_slots;
    let (rows, head) = (store.reader(), store.head().slot);
    let slots = (stable / every + 1..=head / every).map(|k| k * every).filter(|slot| *slot > stable);
    let checkpoint = |slot| {
        let row = rows.row_at_slot(slot).map_err(failed)?;
        Ok(row.map(|StoredBatch { header, certificate, .. }| Checkpoint {
            epoch: header.epoch,
            slot,
            sequence: header.last_sequence(),
            digest: certificate.digest,
            log_root: header.log_root,
        }))
    };
    slots.filter_map(|slot| checkpoint(slot).transpose()).collect()
}

/// Once suspect, always suspect: later starts may no longer read the damaged place, and what was forgotten there stays forgotten. The replica
/// may vote again only as a new member, under a new key.
fn remember_suspicion(note: &Suspicion, report: &mut RecoveryReport) -> Result<(), RecoveryError> {
    match (note.read()?, &report.suspect) {
        (Some(earlier), Some(known)) if known.ends_with(&earlier) => {}
        (Some(earlier), _) => report.suspect_because(format!("since an earlier start: {earlier}")),
        (None, Some(reason)) => note.note(reason)?,
        (None, None) => {}
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
fn open_or_rebuild<M: Medium>(medium: &M, dir: &DataDir, stable: Slot, report: &mut RecoveryReport) -> Result<M::Log, RecoveryError> {
    let failed = |error| RecoveryError::Store { dir: dir.0.clone(), error };
    match medium.open_log() {
        Ok((store, found)) => {
            report.cut += found.rows_cut;
            report.repaired.extend(found.repaired);
            return Ok(store);
        }
        Err(StoreError::Missing { .. }) if stable == 0 => {}
        Err(error) if error.is_damage() => {
            let aside = medium.set_aside_log().map_err(failed)?;
            tracing::warn!(%error, aside = %aside.display(), "the log is damaged; it is set aside and rebuilt from the journal");
            report.damaged.push(format!("log: {error}; set aside as {}", aside.display()));
        }
        Err(error) => return Err(failed(error)),
    }
    medium.create_log().map_err(failed)
}

struct Replayed {
    records: Vec<Record>,
    places: BTreeMap<(Slot, Digest), Locator>,
}

/// Replays the journal's end: committed batches that the log lacks are appended to it; what the protocol still needs is kept for the core.
fn replay_journal(
    federation: &Federation,
    journal: &mut Journal,
    store: &mut impl Log,
    dir: &DataDir,
    (noted, kept): (Slot, Option<CheckpointCertificate>),
    report: &mut RecoveryReport,
) -> Result<Replayed, RecoveryError> {
    let (mut records, mut snapshot, mut held) = (Vec::new(), Snapshot::default(), BTreeSet::new());
    let stable = kept.as_ref().map_or(noted, |c| c.checkpoint.slot);
    let mut pending: BTreeMap<(Slot, Digest), (Header, CheckedBody, Locator)> = BTreeMap::new();
    let base = stable.min(store.head().slot);
    let mut certified = base;
    for frame in journal.tail(Some(base)) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(JournalError::Damage(damage)) => {
                report.suspect_because(format!("the journal is damaged: {damage}"));
                continue;
            }
            Err(error) => return Err(RecoveryError::Journal { dir: dir.journal(), error }),
        };
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
        if records.len() >= 8_192 {
            // A long log is being rebuilt: most of it is of no more use, and what was rebuilt should not have to be again.
            store.sync().map_err(|error| RecoveryError::Store { dir: dir.0.clone(), error })?;
            let floor = stable.min(store.head().slot);
            records.retain(|r: &Record| r.part() == crate::consensus::Part::Votes || r.slot() > floor);
            held = held.split_off(&(floor + 1, Digest::ZERO));
        }
    }
    restore_certificates(journal, store, dir, certified, &held, report)?;
    if let Some(reason) = &report.suspect {
        tracing::error!(%reason, "the replica is suspect: it serves, and does not vote");
    }
    // Records of slots that became stable while the journal was read are of no more use.
    let floor = stable.min(store.head().slot);
    records.retain(|r| r.part() == crate::consensus::Part::Votes || r.slot() > floor);
    snapshot.records.extend(kept.map(Record::Stable));
    snapshot.records.extend(records);
    let records = snapshot.records;
    report.replayed += records.len() as u64;
    let places = pending.into_iter().map(|(key, (_, _, place))| (key, place)).collect();
    Ok(Replayed { records, places })
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
///
/// A batch reaches the log only after its body was durable in the segments. A log that holds more than its journal therefore belongs to a later
/// journal: an older copy was put in its place, and the votes since then are forgotten.
fn restore_certificates(
    journal: &mut Journal,
    store: &impl Log,
    dir: &DataDir,
    certified: Slot,
    held: &BTreeSet<(Slot, Digest)>,
    report: &mut RecoveryReport,
) -> Result<(), RecoveryError> {
    let store_error = |error| RecoveryError::Store { dir: dir.0.clone(), error };
    let journal_error = |error| RecoveryError::Journal { dir: dir.journal(), error };
    for slot in certified + 1..=store.head().slot {
        let Some(row) = store.reader().row_at_slot(slot).map_err(store_error)? else { continue };
        if !held.contains(&(slot, row.certificate.digest)) {
            report.suspect_because(format!("the log holds slot {slot} and the journal does not: an older journal was put in the place of its own"));
        }
        if let Ok((kind, payload)) = Record::Committed(row.certificate).to_frame() {
            journal.append_segment(kind, slot, &payload).map_err(journal_error)?;
        }
    }
    journal.sync().map_err(journal_error)
}

/// Appends a batch that the journal says is committed, if the log lacks it. The certificate is checked: the log takes nothing on trust.
fn append_committed(
    federation: &Federation,
    store: &mut impl Log,
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
        if report.appended > 0 && report.appended.is_multiple_of(10_000) {
            tracing::info!(slot = certificate.slot, appended = report.appended, "replaying the journal");
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
fn refill_index(store: &mut impl Log, reader: &JournalReader, report: &mut RecoveryReport) -> Result<(), RecoveryError> {
    let Some(gap) = store.index_gap() else { return Ok(()) };
    let failed = |error| RecoveryError::Store { dir: PathBuf::from("log"), error };
    for row in store.reader().rows_from_sequence(*gap.start()) {
        let row = row.map_err(failed)?;
        if row.header.first_sequence > *gap.end() {
            break;
        }
        let body = match body_of(reader, &row) {
            Ok(body) => body,
            Err(problem) => {
                report.damaged.push(format!("the lookup index ends before slot {}: its body: {problem}", row.header.slot));
                return Ok(());
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
    rows: &impl LogReader,
    reader: &JournalReader,
    head: &Head,
    report: &mut RecoveryReport,
) -> Result<DuplicateTable, RecoveryError> {
    let parameters = federation.parameters();
    let mut table = DuplicateTable::new(parameters.max_lifetime_ms, parameters.max_live_ids);
    let oldest = head.timestamp.saturating_sub(DuplicateTable::horizon_ms(parameters.max_lifetime_ms));
    let mut recent = Vec::new();
    for row in rows.rows_backwards() {
        let row = row.map_err(|error| RecoveryError::Store { dir: PathBuf::from("log"), error })?;
        if row.header.timestamp < oldest {
            break;
        }
        recent.push(row);
    }
    for row in recent.into_iter().rev() {
        let body = body_of(reader, &row);
        let checked = body.map(|body| CheckedBody::compute(federation, body, row.header.first_sequence));
        let whole = checked.and_then(|c| if c.digests.body == row.header.body_digest { Ok(c) } else { Err(BodyProblem::Other) });
        let checked = match whole {
            Ok(checked) => checked,
            Err(problem) => {
                let damage = format!("the body of slot {}, needed to tell duplicates: {problem}", row.header.slot);
                // No later header can be of a time at which this batch still counts.
                report.blind_until = row.header.timestamp.saturating_add(DuplicateTable::horizon_ms(parameters.max_lifetime_ms));
                report.suspect_because(format!("{damage}; it votes again once the log's time has passed {}", report.blind_until));
                report.damaged.push(damage);
                continue;
            }
        };
        table.commit(&checked, row.header.slot, row.header.first_sequence, row.header.timestamp);
    }
    Ok(table)
}
