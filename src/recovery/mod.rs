//! Recovery: from what is on disk to a replica that may go on, and a report of what was found.
//!
//! In order: open the journal and the log; replay the journal's end, appending to the log what it had not yet made durable; rebuild the duplicate
//! table from the log's newest batches; replay the records into the core. Its time grows with the tail since the stable checkpoint, not with the
//! log. A damaged log is set aside and rebuilt from the journal; a damaged voting record, or a damaged tail of the segments, makes the replica
//! suspect: it cannot prove that it remembers its votes. This module opens no socket and knows no timer.

pub mod backup;
mod gaps;
mod medium;
pub mod repair;
mod replay;
mod report;
mod suspicion;
mod tables;

pub use medium::{Medium, RealMedium};
pub use report::RecoveryReport;
pub use suspicion::Suspicion;
pub use tables::{body_locator, body_of};

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::consensus::{CoreOptions, DuplicateTable, Record, RecordError, Replica, Suspicion as Suspect, Tip};
use crate::crypto::{Digest, PublicKey, SigningKey};
use crate::failpoint::{self, Point};
use crate::journal::{Disk, Journal, JournalError, JournalOptions, Locator, RealDisk};
use crate::planted::{Bug, on};
use crate::proof::MAX_NOTE_BYTES;
use crate::store::{Log, LogReader, Store, StoreError, StoreOptions, StoredBatch};
use crate::types::{Checkpoint, CodecError, Federation, ReplicaIndex, Slot};
use replay::{Replayed, open_or_rebuild, record_of, replay_journal, stable_slot};
use tables::{duplicate_table, refill_index};

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

    /// The newest published checkpoint, as a signed note.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// This replica's newest cosignature, as a signed note.
    #[must_use]
    pub fn cosignature(&self) -> PathBuf {
        self.0.join("cosignature")
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
        let snapshot =
            [Record::Owner(owner), Record::Started { run: 0 }].iter().map(Record::to_frame).collect::<Result<Vec<_>, _>>().map_err(codec)?;
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
    let open = |rebuilt| open_and_replay(medium, dir, &federation, &journal_options, rebuilt);
    let opened = match open(None) {
        // A damaged row that opening the log did not read: the journal has it, and all the others.
        Err(RecoveryError::Store { error, .. }) if error.is_damage() => open(Some(set_aside(medium, dir, &error)?)),
        opened => opened,
    };
    let Opened { mut journal, mut store, replayed, duplicates, votes_lost, mut report } = opened?;
    let journal_error = |error| RecoveryError::Journal { dir: dir.journal(), error };
    let head = store.head();
    let tip = Tip { slot: head.slot, sequence: head.sequence, digest: head.digest, timestamp: head.timestamp, frontier: head.frontier };
    let suspicion = Suspect { votes_lost: votes_lost.then_some(nonce), blind_until: report.blind_until };
    let owner = key.public();
    let mut core = Replica::new(federation.clone(), me, key, core, tip, duplicates, suspicion);
    match store.reader().evidence() {
        Ok(kept) => kept.iter().for_each(|evidence| core.remember_evidence(evidence)),
        // No vote depends on it, and what is found anew is kept anew.
        Err(error) => tracing::error!(%error, "evidence that earlier runs kept cannot be read; exofed audit names the row"),
    }
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

struct Opened<L> {
    journal: Journal,
    store: L,
    replayed: Replayed,
    duplicates: DuplicateTable,
    votes_lost: bool,
    report: RecoveryReport,
}

/// Everything but the core. `rebuilt` is what was found damaged in a log that was set aside.
fn open_and_replay<M: Medium>(
    medium: &M,
    dir: &DataDir,
    federation: &Federation,
    options: &JournalOptions,
    rebuilt: Option<String>,
) -> Result<Opened<M::Log>, RecoveryError> {
    let journal_error = |error| RecoveryError::Journal { dir: dir.journal(), error };
    let (mut journal, found) = Journal::open_on(medium.disk(), &dir.journal(), federation.id().0.0, options).map_err(journal_error)?;
    let mut report = RecoveryReport::new(&found);
    report.repaired.extend(rebuilt);
    let (reader, note) = (journal.reader(), Suspicion::new(medium.disk(), dir));
    // Before anything else is written: what is damaged now may not be read by a later start.
    remember_suspicion(&note, &mut report)?;
    let noted = stable_slot(federation, &reader)?;
    let mut store = open_or_rebuild(medium, dir, noted, &mut report)?;
    failpoint::hit(Point::RecoveryOpened);
    // A suspect replica's voting record stands still; the log keeps every stable checkpoint.
    let kept = store.reader().stable().ok().flatten().filter(|c| c.checkpoint.slot > noted && c.verify(federation).is_ok());
    let replayed = replay_journal(federation, &mut journal, &mut store, dir, (noted, kept), &found.damage, &mut report)?;
    failpoint::hit(Point::RecoveryReplayed);
    remember_suspicion(&note, &mut report)?;
    let votes_lost = report.suspect.is_some();
    refill_index(&mut store, &reader, &mut report)?;
    repair::recall_wanted(&*medium.disk(), dir, &store.reader(), &reader, &mut report)?;
    let duplicates = duplicate_table(federation, &store.reader(), &reader, &store.head(), &mut report)?;
    Ok(Opened { journal, store, replayed, duplicates, votes_lost, report })
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

/// Once suspect, suspect until it has rejoined: later starts may no longer read the damaged place, and what was forgotten there stays forgotten.
fn remember_suspicion(note: &Suspicion, report: &mut RecoveryReport) -> Result<(), RecoveryError> {
    let found = note.read()?.filter(|_| !on(Bug::SuspicionForgotten));
    note.keep(found.is_some())?;
    match (found, &report.suspect) {
        (Some(earlier), Some(known)) if known.ends_with(&earlier) => {}
        (Some(earlier), _) => report.suspect_because(format!("since an earlier start: {earlier}")),
        (None, Some(reason)) => note.note(reason)?,
        (None, None) => {}
    }
    Ok(())
}

/// A published note's file, if it is one and not longer than any note is.
///
/// # Errors
/// What the operating system says; a file that is none, or too long.
pub fn read_note(path: &Path) -> io::Result<Vec<u8>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if !fs::metadata(path)?.is_file() {
        return Err(invalid("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let limit = MAX_NOTE_BYTES as u64;
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_NOTE_BYTES { Err(invalid(format!("more than the {limit} bytes that a note may have"))) } else { Ok(bytes) }
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

/// Sets a damaged log aside; says so.
fn set_aside<M: Medium>(medium: &M, dir: &DataDir, error: &StoreError) -> Result<String, RecoveryError> {
    let aside = medium.set_aside_log().map_err(|error| RecoveryError::Store { dir: dir.0.clone(), error })?;
    tracing::warn!(%error, aside = %aside.display(), "the log is damaged; it is set aside and rebuilt from the journal");
    Ok(format!("the log, from the journal: {error}; set aside as {}", aside.display()))
}
