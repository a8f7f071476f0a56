//! Replaying the journal: into the log what it had not yet made durable, and into the core what the protocol still needs.

use std::collections::{BTreeMap, BTreeSet};

use super::gaps::Gaps;
use super::{DataDir, Medium, RecoveryError, RecoveryReport, body_locator, repair, set_aside};
use crate::consensus::{CheckedBody, Part, Record};
use crate::crypto::Digest;
use crate::journal::{Damage, Frame, Journal, JournalError, JournalReader, Locator, StreamKind};
use crate::store::{AppendBatch, Log, LogReader, StoreError};
use crate::types::{CheckpointCertificate, CommitCertificate, CommittedBatch, Federation, Header, Slot};

/// The slot of the last stable checkpoint that the voting record holds.
pub(super) fn stable_slot(federation: &Federation, reader: &JournalReader) -> Result<Slot, RecoveryError> {
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

pub(super) fn record_of(federation: &Federation, frame: &Frame) -> Result<Record, RecoveryError> {
    Record::from_frame(federation, frame.kind, &frame.payload).map_err(|error| RecoveryError::Record { lsn: frame.lsn, error })
}

/// Opens the log; one that cannot be opened, or ends below what a stable checkpoint promised, is set aside, and an empty one takes its place.
pub(super) fn open_or_rebuild<M: Medium>(medium: &M, dir: &DataDir, stable: Slot, report: &mut RecoveryReport) -> Result<M::Log, RecoveryError> {
    let failed = |error| RecoveryError::Store { dir: dir.0.clone(), error };
    match medium.open_log() {
        Ok((store, found)) => {
            report.cut += found.rows_cut;
            report.repaired.extend(found.repaired);
            report.migrated.extend(found.migrated);
            return Ok(store);
        }
        Err(StoreError::Missing { .. }) if stable == 0 => {}
        Err(error) if error.is_damage() => report.repaired.push(set_aside(medium, dir, &error)?),
        Err(error) => return Err(failed(error)),
    }
    medium.create_log().map_err(failed)
}

pub(super) struct Replayed {
    pub(super) records: Vec<Record>,
    pub(super) places: BTreeMap<(Slot, Digest), Locator>,
}

/// Replays the journal's end: committed batches that the log lacks are appended to it; what the protocol still needs is kept for the core.
pub(super) fn replay_journal(
    federation: &Federation,
    journal: &mut Journal,
    store: &mut impl Log,
    dir: &DataDir,
    (noted, kept): (Slot, Option<CheckpointCertificate>),
    opening: &[Damage],
    report: &mut RecoveryReport,
) -> Result<Replayed, RecoveryError> {
    let stable = kept.as_ref().map_or(noted, |c| c.checkpoint.slot);
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
        if records.len() >= 8_192 {
            // A long log is being rebuilt: most of it is of no more use.
            let floor = stable.min(store.head().slot);
            records.retain(|r: &Record| r.part() == Part::Votes || r.slot() > floor);
            held = held.split_off(&(floor + 1, Digest::ZERO));
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
    records.retain(|r| r.part() == Part::Votes || r.slot() > floor);
    snapshot.records.extend(kept.map(Record::Stable));
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
fn restore_certificates(journal: &mut Journal, store: &impl Log, dir: &DataDir, certified: Slot) -> Result<(), RecoveryError> {
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
fn never_held(store: &impl Log, dir: &DataDir, certified: Slot, held: &BTreeSet<(Slot, Digest)>) -> Result<Vec<Slot>, RecoveryError> {
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
