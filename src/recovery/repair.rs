//! Repair: what damage took from the journal, given back to it from the log or from a peer's answer.
//!
//! A damaged segment is never written again. A batch that it lost is appended anew behind it, body and certificate, and the log's row names the
//! new place. Every batch is checked against the row of the log, whose chain a quorum certified; nothing is taken on trust.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::suspicion::read_text;
use super::{BodyProblem, DataDir, Inputs, RealMedium, Recovered, RecoveryError, RecoveryReport, body_locator, body_of, recover, set_aside};
use crate::consensus::{CheckedBody, Record, batch_of_frame, kind};
use crate::crypto::Digest;
use crate::crypto::merkle::Frontier;
use crate::journal::{Disk, Journal, JournalError, JournalReader};
use crate::store::{Log, LogReader, StoreError, StoreReader, StoredBatch, StoredBody};
use crate::types::{Body, CommitCertificate, Federation, Slot, decode};

fn store_failed(error: StoreError) -> RecoveryError {
    RecoveryError::Store { dir: PathBuf::from("log"), error }
}

fn journal_failed(error: JournalError) -> RecoveryError {
    RecoveryError::Journal { dir: PathBuf::from("journal"), error }
}

/// The slots above `base` (all without one) that the log holds and of which the segments lack the body or the certificate.
///
/// # Errors
/// [`RecoveryError`]; damage is what this looks for, and no error.
pub fn lacking(rows: &impl LogReader, reader: &JournalReader, base: Option<Slot>, progress: impl FnMut(Slot)) -> Result<Vec<Slot>, RecoveryError> {
    let whole = whole_slots(reader, base, progress)?;
    let head = rows.head().slot;
    Ok((base.unwrap_or(0) + 1..=head).filter(|slot| !whole.contains(slot)).collect())
}

/// The slots of which the segments hold certificate and body.
fn whole_slots(reader: &JournalReader, base: Option<Slot>, mut progress: impl FnMut(Slot)) -> Result<BTreeSet<Slot>, RecoveryError> {
    let mut whole = BTreeSet::new();
    let mut bodies: BTreeSet<(Slot, Digest)> = BTreeSet::new();
    let mut certified: BTreeMap<Slot, Digest> = BTreeMap::new();
    for frame in reader.segments_from(base) {
        let frame = match frame {
            Ok(frame) => frame,
            Err(JournalError::Damage(_)) => continue,
            Err(error) => return Err(journal_failed(error)),
        };
        let slot = frame.tag;
        if whole.contains(&slot) {
            continue;
        }
        if frame.kind == kind::COMMITTED {
            if let Ok(certificate) = decode::<CommitCertificate>(&frame.payload) {
                certified.insert(slot, certificate.digest);
            }
        } else if let Ok((header, _)) = batch_of_frame(&frame.payload) {
            bodies.insert((slot, header.digest()));
        }
        if certified.get(&slot).is_some_and(|digest| bodies.contains(&(slot, *digest))) {
            certified.remove(&slot);
            bodies.retain(|(other, _)| *other != slot);
            whole.insert(slot);
            progress(slot);
        }
    }
    Ok(whole)
}

/// The rows whose bodies lie in a segment and cannot be read from it.
///
/// # Errors
/// [`RecoveryError::Store`].
pub fn unreadable(rows: &StoreReader, reader: &JournalReader, mut progress: impl FnMut(Slot)) -> Result<Vec<Slot>, RecoveryError> {
    let mut slots = Vec::new();
    for row in rows.rows_from_sequence(1) {
        let row = row.map_err(store_failed)?;
        if matches!(row.body, StoredBody::Segment(_)) && body_of(reader, &row).is_err() {
            slots.push(row.header.slot);
        }
        progress(row.header.slot);
    }
    Ok(slots)
}

/// Gives the journal back what it lacks of these slots as far as the log's own rows have the bodies; the others are noted as missing.
pub(super) fn from_log(
    federation: &Federation,
    journal: &mut Journal,
    store: &mut impl Log,
    slots: &[Slot],
    report: &mut RecoveryReport,
) -> Result<(), RecoveryError> {
    let (rows, reader) = (store.reader(), journal.reader());
    let mut given = Vec::new();
    for slot in slots {
        let Some(row) = rows.row_at_slot(*slot).map_err(store_failed)? else { continue };
        match body_of(&reader, &row) {
            Ok(body) => {
                give_back(federation, journal, store, &row, body)?;
                given.push(*slot);
            }
            Err(_) => report.lacks(*slot),
        }
    }
    if !given.is_empty() {
        report.repaired.push(format!("{} that the journal had lost: written to it again from the log", batches(&given)));
    }
    Ok(())
}

/// Recovers a stopped replica and repairs everything that can be repaired without peers. Bodies that only a peer can give are in the report, and
/// noted for the next start.
///
/// # Errors
/// [`RecoveryError`]: a start would be refused.
pub fn offline(dir: &DataDir, inputs: impl Fn() -> Inputs, mut progress: impl FnMut(Slot)) -> Result<RecoveryReport, RecoveryError> {
    let mut again = None;
    loop {
        let federation = inputs().federation;
        let mut recovered = recover(dir, inputs())?;
        let surveyed = survey(&federation, &mut recovered, &mut progress);
        let Recovered { journal, mut store, mut report, .. } = recovered;
        store.sync().map_err(store_failed)?;
        drop((journal, store));
        report.repaired.splice(0..0, again.take());
        match surveyed {
            Ok(()) => {
                note_wanted(dir, &report.missing)?;
                return Ok(report);
            }
            // Once only: a log that was just rebuilt has no such row.
            Err(RecoveryError::Store { error, .. }) if error.is_damage() && report.repaired.is_empty() => {
                let inputs = inputs();
                let medium = RealMedium { dir: dir.clone(), federation: inputs.federation.id(), options: inputs.store };
                again = Some(set_aside(&medium, dir, &error)?);
            }
            Err(error) => return Err(error),
        }
    }
}

fn survey(federation: &Federation, recovered: &mut Recovered, mut progress: impl FnMut(Slot)) -> Result<(), RecoveryError> {
    let rows = recovered.store.reader();
    merkle_whole(&rows)?;
    let unreadable = unreadable(&rows, &recovered.journal.reader(), &mut progress)?;
    unreadable.into_iter().for_each(|slot| recovered.report.lacks(slot));
    complete(federation, recovered, progress)
}

/// Every node of the Merkle files against the leaves, and the leaves against the root that the quorum signed.
fn merkle_whole(rows: &StoreReader) -> Result<(), RecoveryError> {
    const AT_A_TIME: u64 = 1 << 16;
    let head = rows.head();
    let damaged = |sequence| store_failed(StoreError::Damaged(crate::store::Damage::Merkle { sequence }));
    let (mut frontier, mut from) = (Frontier::default(), 0);
    while from < head.sequence {
        let count = AT_A_TIME.min(head.sequence - from);
        let leaves = rows.leaf_hashes(from, usize::try_from(count).unwrap_or_default()).map_err(store_failed)?;
        leaves.iter().for_each(|leaf| frontier.append(*leaf));
        from += count;
        if rows.frontier(from).map_err(store_failed)? != frontier {
            return Err(damaged(from));
        }
    }
    if frontier == head.frontier { Ok(()) } else { Err(damaged(head.sequence)) }
}

/// Notes the slots whose bodies the next start is to fetch; none removes the note.
///
/// # Errors
/// [`RecoveryError::Suspicion`] names the note.
pub fn note_wanted(dir: &DataDir, slots: &[Slot]) -> Result<(), RecoveryError> {
    let path = dir.wanted();
    let write = || match slots {
        [] if !path.exists() => Ok(()),
        [] => fs::remove_file(&path),
        _ => {
            let lines: String = slots.iter().map(|slot| format!("{slot}\n")).collect();
            fs::write(&path, lines)?;
            fs::File::open(&path)?.sync_all()
        }
    };
    write().map_err(|error| RecoveryError::Suspicion { path: path.clone(), error })
}

/// Adds what an earlier repair noted to what this start lacks, as far as it still does. A note that cannot be read as one says nothing.
pub(super) fn recall_wanted(
    disk: &dyn Disk,
    dir: &DataDir,
    rows: &impl LogReader,
    reader: &JournalReader,
    report: &mut RecoveryReport,
) -> Result<(), RecoveryError> {
    for slot in read_text(disk, &dir.wanted()).unwrap_or_default().lines().filter_map(|line| line.parse().ok()) {
        let Some(row) = rows.row_at_slot(slot).map_err(store_failed)? else { continue };
        if let Err(problem) = body_of(reader, &row) {
            report.lacks_body(slot, &problem);
        }
    }
    Ok(())
}

/// Surveys the whole journal where damage was met, and gives it back what the log's own rows have.
///
/// # Errors
/// [`RecoveryError`].
pub fn complete(federation: &Federation, recovered: &mut Recovered, progress: impl FnMut(Slot)) -> Result<(), RecoveryError> {
    let Recovered { journal, store, report, .. } = recovered;
    let lacking = lacking(&store.reader(), &journal.reader(), None, progress)?;
    from_log(federation, journal, store, &lacking, report)
}

/// Writes one batch to the journal again, durably, and points the log's row to it. The body must be the one that the row's header names.
///
/// # Errors
/// [`RecoveryError`]: another body among it.
pub fn give_back(
    federation: &Federation,
    journal: &mut Journal,
    store: &mut impl Log,
    row: &StoredBatch,
    body: Arc<Body>,
) -> Result<(), RecoveryError> {
    let header = &row.header;
    let body = CheckedBody::compute(federation, body, header.first_sequence);
    if body.digests.body != header.body_digest {
        return Err(RecoveryError::Body { slot: header.slot, problem: BodyProblem::Other });
    }
    let frame = |record: Record| record.to_frame().map_err(|error| RecoveryError::Body { slot: header.slot, problem: error.into() });
    let (kind, payload) = frame(Record::Body { header: header.clone(), body })?;
    let place = journal.append_segment(kind, header.slot, &payload).map_err(journal_failed)?;
    let (kind, payload) = frame(Record::Committed(row.certificate.clone()))?;
    journal.append_segment(kind, header.slot, &payload).map_err(journal_failed)?;
    journal.sync().map_err(journal_failed)?;
    match row.body {
        StoredBody::Inline(_) => Ok(()),
        StoredBody::Segment(_) => store.move_body(header.first_sequence, body_locator(place)).map_err(store_failed),
    }
}

/// "3 batches (slots 4, 5, 9)", for people.
#[must_use]
pub fn batches(slots: &[Slot]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> = slots.iter().take(SHOWN).map(ToString::to_string).collect();
    if slots.len() > SHOWN {
        names.push("...".to_owned());
    }
    let (one, few) = if slots.len() == 1 { ("batch", "slot") } else { ("batches", "slots") };
    format!("{} {one} ({few} {})", slots.len(), names.join(", "))
}
