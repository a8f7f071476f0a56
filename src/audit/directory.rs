//! The audit of one data directory: its journal, and of a stopped replica its log as well.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::examiner::{CHUNK, Examiner, Found, Gap, Held};
use super::published::PublishedNotes;
use super::testimony::Testimony;
use super::{AuditReport, Level, Progress};
use crate::consensus::{Record, Verifier, batch_of_frame, header_of_frame, kind};
use crate::crypto::Digest;
use crate::crypto::merkle::Frontier;
use crate::journal::{Damage, Frame, JournalError, JournalReader};
use crate::store::{Store, StoreError, StoreOptions, StoreReader};
use crate::types::{CheckpointCertificate, CommitCertificate, CommittedBatch, ConsensusMessage, Federation, Header, Slot, decode};

/// Read ahead of the checks: so many times so many bytes.
const READ_AHEAD: usize = 2;
const READ_BYTES: usize = 8 << 20;
/// Large batches are checked sooner, so that memory stays flat.
const CHUNK_BYTES: usize = 16 << 20;
/// A page of the journal (`docs/store-format.md`).
const PAGE_BYTES: u64 = 4_096;

/// Whether a running replica holds the journal.
fn in_use(journal: &Path) -> bool {
    File::open(journal).is_ok_and(|dir| dir.try_lock().is_err())
}

/// A batch in its frame: the header, decoded, and the whole.
type Framed = (Header, Arc<Vec<u8>>);

/// Reads a data directory and hands its batches to the examiner.
pub(super) struct Directory<'a, 'e> {
    examiner: Examiner<'e>,
    testimony: &'a mut Testimony,
    stop: &'a AtomicBool,
    progress: &'a mut dyn FnMut(Progress),
    /// Bytes of segments read, and there are.
    bytes: (u64, u64),
    /// Where each segment begins among all.
    begins: BTreeMap<u64, u64>,
    reader: JournalReader,
    log_missing: bool,
    backup: bool,
    chunk: Vec<Found>,
    /// Bytes of frames in the chunk.
    chunk_bytes: usize,
    next: Slot,
    /// Frames of batches that no certificate has named yet.
    bodies: BTreeMap<(Slot, Digest), Framed>,
    /// What a repair wrote to the journal again, behind everything that was there; looked for when something is missed.
    given_back: Option<BTreeMap<Slot, CommittedBatch>>,
    /// Damage met, and the slot that was next there.
    damaged: Vec<(Damage, Slot)>,
    /// Damage that took nothing but what was given back.
    made_good: Vec<Damage>,
    _copy: Option<(tempfile::TempDir, Store)>,
}

impl<'a, 'e> Directory<'a, 'e> {
    pub(super) fn new(
        examiner: Examiner<'e>,
        data: &Path,
        reader: JournalReader,
        testimony: &'a mut Testimony,
        stop: &'a AtomicBool,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self {
            examiner,
            testimony,
            stop,
            progress,
            bytes: (0, 0),
            begins: BTreeMap::new(),
            reader,
            log_missing: false,
            backup: data.join("backup").exists(),
            chunk: Vec::with_capacity(CHUNK),
            chunk_bytes: 0,
            next: 0,
            bodies: BTreeMap::new(),
            given_back: None,
            damaged: Vec::new(),
            made_good: Vec::new(),
            _copy: None,
        }
    }

    /// Everything that the directory holds.
    pub(super) fn audit(mut self, data: &Path) -> Result<Examiner<'e>, JournalError> {
        // Before the history: a running replica publishes what its journal holds already.
        self.examiner.published = PublishedNotes::read(data, self.examiner.federation, &mut self.examiner.report);
        self.examiner.resume_published();
        self.open_log(data);
        self.hear_votes();
        let cosigned = self.testimony.hear_cosignatures(self.examiner.federation, &self.examiner.published.cosignatures);
        cosigned.into_iter().for_each(|found| self.examiner.report.convict(found));
        self.next = self.examiner.chain.slot().saturating_add(1);
        for (segment, bytes) in self.reader.segment_sizes()? {
            self.begins.insert(segment, self.bytes.1);
            self.bytes.1 += bytes;
        }
        let damage = self.walk()?;
        self.judge_files(damage);
        self.judge_log();
        Ok(self.examiner)
    }

    /// The voting record: each statement in it verified, as the replica had done before it wrote it, and held against what other targets say.
    fn hear_votes(&mut self) {
        let federation = self.examiner.federation;
        let gate = Verifier::new(Arc::new(federation.clone()));
        for frame in self.reader.votes().frames {
            let record = Record::from_frame(federation, frame.kind, &frame.payload);
            let verified = record.as_ref().map_err(ToString::to_string).and_then(|record| verify_record(federation, &gate, record));
            if let Err(problem) = verified {
                if self.examiner.options.level >= Level::Quorum {
                    self.examiner.report.bad("voting record", "vote", "a record whose signatures hold", &problem);
                }
                continue;
            }
            let found = record.map(|record| self.testimony.hear(federation, &record)).unwrap_or_default();
            found.into_iter().for_each(|found| self.examiner.report.convict(found));
        }
    }

    /// Opens a copy of a stopped replica's log.
    fn open_log(&mut self, data: &Path) {
        let report = &mut self.examiner.report;
        if in_use(&data.join("journal")) {
            report.not_checked.push("the sled log: the replica is running".to_owned());
            return;
        }
        match Store::open_copy(data, self.examiner.federation.id(), &StoreOptions::default()) {
            Ok((copy, store, found)) => {
                if found.rows_cut > 0 {
                    let rows = found.rows_cut;
                    report.not_checked.push(format!("{rows} rows of the log behind its last sync: a start cuts and replays them"));
                }
                for repaired in found.repaired {
                    report.bad("log", "log", "whole files", &format!("what a start would repair: {repaired}"));
                }
                self.examiner.log = Some(store.reader());
                self._copy = Some((copy, store));
            }
            Err(StoreError::Missing { .. }) => self.log_missing = true,
            Err(error) => report.bad("log", "log", "a log that opens", &error.to_string()),
        }
    }

    /// Every page of every journal file. Damage whose batches were all given back took nothing from the history.
    fn judge_files(&mut self, damage: Vec<Damage>) {
        for damage in damage {
            if self.made_good.contains(&damage) {
                self.examiner.report.made_good.push(damage.to_string());
            } else {
                self.examiner.report.bad("journal", "journal", "whole pages", &damage.to_string());
            }
        }
    }

    /// The whole history, in chunks; reading goes on while they are checked. Yields the damage to the journal's files.
    fn walk(&mut self) -> Result<Vec<Damage>, JournalError> {
        let reader = self.reader.clone();
        let (found, damage) = std::thread::scope(|scope| {
            let (send, items) = mpsc::sync_channel::<Vec<Result<Frame, Damage>>>(READ_AHEAD);
            let reading = scope.spawn(move || read(&reader, &send));
            let mut found = End::Reached;
            // The range's end ends the checks, not the reading: damage behind it is still named. An interruption ends both.
            for item in items.iter().flatten() {
                if self.stop.load(Ordering::Relaxed) {
                    found = End::Stopped;
                    break;
                }
                if !self.examiner.done {
                    self.item(item);
                }
            }
            drop(items);
            (found, reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let damage = damage?;
        if found == End::Reached && !self.examiner.done {
            self.complete_from_log();
        }
        self.flush();
        if found == End::Reached && !self.examiner.done {
            self.examiner.miss_earlier();
        }
        self.examiner.report.complete = found == End::Reached;
        Ok(damage)
    }

    fn item(&mut self, item: Result<Frame, Damage>) {
        match item {
            Ok(frame) => self.frame(frame),
            Err(damage) => self.damaged.push((damage, self.next)),
        }
    }

    fn frame(&mut self, frame: Frame) {
        if let Some((locator, begin)) = frame.locator.and_then(|at| Some((at, self.begins.get(&at.segment)?))) {
            self.bytes.0 = begin + u64::from(locator.page) * PAGE_BYTES;
        }
        let place = frame.locator.map_or_else(String::new, |at| format!("journal, segment {} page {}", at.segment, at.page));
        if frame.kind == kind::PROPOSAL || frame.kind == kind::BODY {
            match header_of_frame(&frame.payload) {
                Ok(header) if header.slot >= self.next => {
                    self.bodies.insert((header.slot, header.digest()), (header, Arc::new(frame.payload)));
                }
                Ok(_) => {}
                Err(error) => self.examiner.report.bad(&place, "record", "a batch", &error.to_string()),
            }
            return;
        }
        match decode::<CommitCertificate>(&frame.payload) {
            Ok(certificate) if certificate.slot >= self.next => self.certificate(certificate, place),
            Ok(certificate) => self.examiner.compare_with_earlier(&place, &certificate),
            Err(_) => {
                let record = Record::from_frame(self.examiner.federation, frame.kind, &frame.payload);
                let found = record.err().map_or_else(String::new, |e| e.to_string());
                self.examiner.report.bad(&place, "record", "a commit certificate", &found);
            }
        }
    }

    fn certificate(&mut self, certificate: CommitCertificate, place: String) {
        let mut again = false;
        while certificate.slot > self.next && self.give_back(self.next) {
            (self.next, again) = (self.next + 1, true);
        }
        if certificate.slot > self.next {
            let expected = format!("the certificate of slot {}", self.next);
            self.missing(self.next, "gap", &place, expected, format!("the certificate of slot {}", certificate.slot));
        }
        let slot = certificate.slot;
        let forgot = self.testimony.hear_commits(self.examiner.federation, &certificate);
        forgot.into_iter().for_each(|found| self.examiner.report.convict(found));
        self.contest(slot, &certificate.digest);
        match self.bodies.get(&(slot, certificate.digest)).cloned() {
            Some((header, frame)) => {
                self.chunk_bytes += frame.len();
                self.chunk.push(Found { held: Held::Encoded { header, certificate, frame }, place });
            }
            None if self.give_back(slot) => again = true,
            None => self.missing(slot, "body", &place, "the batch that was committed".to_owned(), "none in the journal".to_owned()),
        }
        self.next = slot.saturating_add(1);
        if again {
            self.made_good.extend(self.damaged.drain(..).map(|(damage, _)| damage));
        }
        // What a damaged place held was about slots in the window of its time.
        let (next, window) = (self.next, self.examiner.federation.parameters().window_slots);
        self.damaged.retain(|(_, at)| next <= at.saturating_add(window));
        self.bodies = self.bodies.split_off(&(next, Digest::ZERO));
        if self.chunk.len() >= CHUNK || self.chunk_bytes >= CHUNK_BYTES {
            self.flush();
        }
    }

    /// Other batches than the committed one that were proposed at a slot.
    fn contest(&mut self, slot: Slot, committed: &Digest) {
        let others = self.bodies.range((slot, Digest::ZERO)..(slot.saturating_add(1), Digest::ZERO)).filter(|((_, digest), _)| digest != committed);
        for (_, (_, frame)) in others {
            if !self.testimony.contest(self.examiner.federation, frame) {
                let text = "proposals for more slots than are looked up for a leader that proposed twice".to_owned();
                if !self.examiner.report.not_checked.contains(&text) {
                    self.examiner.report.not_checked.push(text);
                }
            }
        }
    }

    /// Takes the batch of a slot from what a repair wrote again, if it did.
    fn give_back(&mut self, slot: Slot) -> bool {
        let reader = &self.reader;
        let batch = self.given_back.get_or_insert_with(|| given_back(reader)).remove(&slot);
        let found = batch.map(|batch| Found { held: Held::Decoded(batch), place: "journal, written again by a repair".to_owned() });
        found.map(|found| self.chunk.push(found)).is_some()
    }

    /// The batch of a slot is not there.
    fn missing(&mut self, slot: Slot, rule: &'static str, place: &str, expected: String, found: String) {
        self.flush();
        self.examiner.gap(Gap { place: place.to_owned(), slot, rule, expected, found });
    }

    /// Commit certificates are written lazily, so after a crash the log may hold some that the journal lost. Bodies it may not have lost.
    fn complete_from_log(&mut self) {
        let Some(log) = self.examiner.log.clone() else { return };
        for slot in self.next..=log.head().slot {
            let row = match log.row_at_slot(slot) {
                Ok(Some(row)) => row,
                Ok(None) => return,
                Err(error) => {
                    self.missing(slot, "log row", "batches tree", "a whole row".to_owned(), error.to_string());
                    continue;
                }
            };
            self.examiner.report.behind_log += 1;
            match self.bodies.get(&(slot, row.header.digest())).cloned() {
                Some((header, frame)) => {
                    let held = Held::Encoded { header, certificate: row.certificate, frame };
                    self.chunk.push(Found { held, place: "batches tree".to_owned() });
                }
                None => self.missing(slot, "body", "journal", "the batch that the log holds".to_owned(), "none in the journal".to_owned()),
            }
            if self.chunk.len() >= CHUNK {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        self.examiner.take(&mut self.chunk);
        self.chunk_bytes = 0;
        self.examiner.keep_state(false);
        let (done, total) = self.bytes;
        (self.progress)(Progress { entries: self.examiner.report.entries, done, total: total.max(done) });
    }

    /// What the log says beside its batches.
    fn judge_log(&mut self) {
        let report = &mut self.examiner.report;
        if self.log_missing && self.backup {
            report.not_checked.push("the sled log: a backup holds none".to_owned());
        } else if self.log_missing && report.batches == 0 {
            report.not_checked.push("the sled log: this replica never ran".to_owned());
        } else if self.log_missing {
            report.bad("log", "log", "a log beside the journal", "none; a start rebuilds it from the journal");
        }
        let Some(log) = self.examiner.log.clone() else { return };
        let (slots, rows) = (log.head().slot, log.count_rows());
        if rows.as_ref().ok() != Some(&slots) {
            let found = rows.map_or_else(|error| error.to_string(), |rows| format!("{rows} rows"));
            self.examiner.report.bad("batches tree", "log row", &format!("{slots} rows, one a slot"), &found);
        }
        self.judge_tiles(&log);
        self.judge_rows(&log);
    }

    /// The tile levels above the leaves against the leaves themselves, and the root that they give.
    fn judge_tiles(&mut self, log: &StoreReader) {
        let head = log.head();
        let (chain, report) = (&self.examiner.chain, &mut self.examiner.report);
        let mut bad = |sequence, expected: &str, found: &str| {
            report.bad_at("tile files", head.slot, (sequence, sequence), "merkle file", expected, found);
        };
        if head.sequence == chain.sequence() && head.frontier.root() != chain.log_root() {
            bad(head.sequence, &chain.log_root().to_string(), &head.frontier.root().to_string());
        }
        let mut frontier = Frontier::default();
        let mut from = 0;
        while from < head.sequence {
            let count = usize::try_from((head.sequence - from).min(4_096)).unwrap_or(4_096);
            let Ok(hashes) = log.leaf_hashes(from, count) else {
                bad(from + 1, "leaf hashes", "too short a file");
                return;
            };
            hashes.iter().for_each(|hash| frontier.append(*hash));
            from += count as u64;
            // Every complete tile below here has its root in the level above.
            if log.frontier(from).ok().as_ref() != Some(&frontier) {
                bad(from, "tile roots that follow from the leaves", "others");
                return;
            }
        }
    }

    /// Evidence, the newest checkpoint, and why views were left.
    fn judge_rows(&mut self, log: &StoreReader) {
        let (federation, report) = (self.examiner.federation, &mut self.examiner.report);
        match log.evidence_by_id() {
            Ok(records) => {
                for (id, record) in records {
                    match record.convict(federation) {
                        Ok(found) if found.conviction.id.0.as_slice() == id => report.convict(found),
                        Ok(_) => report.bad("evidence tree", "log row", "evidence under its own id", "evidence under another"),
                        Err(error) => report.bad("evidence tree", "log row", "evidence that verifies", &error.to_string()),
                    }
                }
            }
            Err(error) => report.bad("evidence tree", "log row", "whole rows", &error.to_string()),
        }
        match log.checkpoints() {
            Ok(rows) => rows.into_iter().for_each(|(slot, row)| judge_checkpoint(federation, report, log, slot, &row)),
            Err(error) => report.bad("checkpoints tree", "log row", "whole rows", &error.to_string()),
        }
        match log.views_from(0) {
            Ok(records) => {
                let reasons: BTreeMap<_, _> = records.into_iter().map(|(view, record)| (view, record.reason)).collect();
                for span in &mut report.statistics.views {
                    span.reason = reasons.get(&span.view).cloned();
                }
            }
            Err(error) => report.bad("views tree", "log row", "whole rows", &error.to_string()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Reached,
    Stopped,
}

/// Reads the segments and checks every file, ahead of whoever takes what is read.
fn read(reader: &JournalReader, send: &mpsc::SyncSender<Vec<Result<Frame, Damage>>>) -> Result<Vec<Damage>, JournalError> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    let report = reader.check_and_visit(&mut |item| {
        bytes += item.as_ref().map_or(0, |frame| frame.payload.len());
        items.push(item);
        if bytes < READ_BYTES {
            return true;
        }
        bytes = 0;
        send.send(std::mem::take(&mut items)).is_ok()
    })?;
    // Nobody listens after an interruption.
    let _ = send.send(items);
    Ok(report.damage)
}

/// The batches of which body and certificate stand behind the certificate of a later slot: a repair wrote them again.
pub(crate) fn given_back(reader: &JournalReader) -> BTreeMap<Slot, CommittedBatch> {
    let (mut batches, mut bodies, mut highest) = (BTreeMap::new(), BTreeMap::new(), 0);
    for frame in reader.segments_from(None).flatten() {
        let late = frame.tag < highest;
        if frame.kind == kind::BODY && late {
            if let Ok((header, body)) = batch_of_frame(&frame.payload) {
                bodies.insert((header.slot, header.digest()), (header, body));
            }
        } else if frame.kind == kind::COMMITTED {
            highest = highest.max(frame.tag);
            let certificate = decode::<CommitCertificate>(&frame.payload).ok().filter(|_| late);
            if let Some(certificate) = certificate
                && let Some((header, body)) = bodies.remove(&(certificate.slot, certificate.digest))
            {
                batches.insert(certificate.slot, CommittedBatch { header, body, certificate });
            }
        }
    }
    batches
}

/// The certificate that a directory's journal holds for a slot.
pub(super) fn certificate_at(reader: &JournalReader, slot: Slot, differs_from: &Digest) -> Option<CommitCertificate> {
    let certificates = reader.segments_from(None).flatten().filter(|frame| frame.kind == kind::COMMITTED && frame.tag == slot);
    certificates.filter_map(|frame| decode::<CommitCertificate>(&frame.payload).ok()).find(|certificate| certificate.digest != *differs_from)
}

/// What a replica recorded of its votes, against the signatures in it.
fn verify_record(federation: &Federation, gate: &Verifier, record: &Record) -> Result<(), String> {
    let message = match record {
        Record::Prepared(certificate) => return certificate.verify(federation).map_err(|e| e.to_string()),
        Record::Stable(certificate) => return certificate.verify(federation).map_err(|e| e.to_string()),
        Record::ViewChange(change) => ConsensusMessage::ViewChange(change.clone()),
        Record::NewView(new_view) => ConsensusMessage::NewView(new_view.clone()),
        _ => return Ok(()),
    };
    // Neither depends on who passes it on.
    gate.message(0, message).map(drop).map_err(|e| e.to_string())
}

/// A checkpoint that the log keeps, against its signatures and against the batch that it covers.
fn judge_checkpoint(federation: &Federation, report: &mut AuditReport, log: &StoreReader, slot: Slot, row: &CheckpointCertificate) {
    let checkpoint = row.checkpoint;
    let sequences = (checkpoint.sequence, checkpoint.sequence);
    let mut bad = |expected: &str, found: &str| report.bad_at("checkpoints tree", slot, sequences, "checkpoint", expected, found);
    if checkpoint.slot != slot {
        bad(&format!("the checkpoint of slot {slot}"), &format!("that of slot {}", checkpoint.slot));
    } else if let Err(error) = row.verify(federation) {
        bad("a quorum of valid signatures", &error.to_string());
    } else if let Ok(Some(batch)) = log.row_at_slot(slot) {
        let held = (batch.header.digest(), batch.header.last_sequence(), batch.header.log_root);
        if held != (checkpoint.digest, checkpoint.sequence, checkpoint.log_root) {
            bad(&format!("header {} and root {}", held.0, held.2), &format!("header {} and root {}", checkpoint.digest, checkpoint.log_root));
        }
    }
}
