//! The audit of one replica's data directory: everything that its journal holds, against the public genesis alone.
//!
//! The segments hold the whole history; they are read without a lock and without changing a byte, of a running replica too. Of a stopped replica
//! the log is compared as well, in a private copy, because opening it would write. The audit goes on after an error and names the first bad place.

mod report;

pub use report::{AuditReport, FirstBad};

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use crate::config::{ReplicaFile, read_toml};
use crate::consensus::{Record, batch_of_frame, kind};
use crate::crypto::Digest;
use crate::error::FederationError;
use crate::journal::{Damage, JournalError, JournalOptions, JournalReader};
use crate::proof::chain::{AuthorSignatures, ChainVerifier, CheckedBatch, check_batch};
use crate::store::{Store, StoreError, StoreOptions, StoreReader, StoredBody};
use crate::types::{Body, CommitCertificate, CommittedBatch, Federation, Header, Slot, decode};

/// How many batches are checked side by side.
const CHUNK: usize = 256;

/// Audits a data directory. `progress` is told the entries checked so far.
///
/// # Errors
/// Only if there is no journal to audit; everything else is in the report.
pub fn audit(data: &Path, federation: &Federation, progress: impl FnMut(u64)) -> Result<AuditReport, FederationError> {
    let began = Instant::now();
    let journal = data.join("journal");
    let options = JournalOptions::default();
    let reader = JournalReader::open(&journal, Some(federation.id().0.0), &options)?;
    let mut auditor = Auditor {
        federation,
        chain: ChainVerifier::genesis(),
        report: AuditReport::default(),
        log: None,
        progress,
        log_missing: false,
        backup: data.join("backup").exists(),
        given_back: BTreeMap::new(),
        made_good: Vec::new(),
        _copy: None,
    };
    auditor.open_log(data, &journal);
    let damage = reader.check()?.damage;
    auditor.given_back = given_back(&reader);
    auditor.walk(&reader);
    auditor.judge_files(damage);
    auditor.finish();
    auditor.report.conclude();
    auditor.report.entries_per_second = (auditor.report.entries as f64 / began.elapsed().as_secs_f64().max(1e-9)) as u64;
    Ok(auditor.report)
}

/// Whether a running replica holds the journal.
fn in_use(journal: &Path) -> bool {
    File::open(journal).is_ok_and(|dir| dir.try_lock().is_err())
}

struct Auditor<'a, P> {
    federation: &'a Federation,
    chain: ChainVerifier,
    report: AuditReport,
    log: Option<StoreReader>,
    progress: P,
    log_missing: bool,
    backup: bool,
    /// What a repair wrote to the journal again, behind everything that was there.
    given_back: BTreeMap<Slot, CommittedBatch>,
    /// Damage that took nothing but what was given back.
    made_good: Vec<Damage>,
    _copy: Option<(tempfile::TempDir, Store)>,
}

impl<P: FnMut(u64)> Auditor<'_, P> {
    /// Opens a copy of a stopped replica's log.
    fn open_log(&mut self, data: &Path, journal: &Path) {
        if in_use(journal) {
            self.report.not_checked.push("the sled log: the replica is running".to_owned());
            return;
        }
        match Store::open_copy(data, self.federation.id(), &StoreOptions::default()) {
            Ok((copy, store, found)) => {
                if found.rows_cut > 0 {
                    let rows = found.rows_cut;
                    self.report.not_checked.push(format!("{rows} rows of the log behind its last sync: a start cuts and replays them"));
                }
                for repaired in found.repaired {
                    self.report.bad(0, 0, "log", "whole files", &format!("what a start would repair: {repaired}"));
                }
                self.log = Some(store.reader());
                self._copy = Some((copy, store));
            }
            Err(StoreError::Missing { .. }) => self.log_missing = true,
            Err(error) => self.report.bad(0, 0, "log", "a log that opens", &error.to_string()),
        }
    }

    /// Every page of every journal file. Damage whose batches were all given back took nothing from the history.
    fn judge_files(&mut self, damage: Vec<Damage>) {
        for damage in damage {
            if self.made_good.contains(&damage) {
                self.report.made_good.push(damage.to_string());
            } else {
                self.report.bad(0, 0, "journal", "whole pages", &damage.to_string());
            }
        }
    }

    /// The whole history, in chunks: what a batch says by itself is checked on all cores, the chain in order.
    fn walk(&mut self, reader: &JournalReader) {
        let mut bodies: BTreeMap<(Slot, Digest), (Header, Arc<Body>)> = BTreeMap::new();
        let mut chunk: Vec<CommittedBatch> = Vec::with_capacity(CHUNK);
        let (mut next, mut damaged) = (1, Vec::new());
        for frame in reader.segments_from(None) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(JournalError::Damage(damage)) => {
                    damaged.push((damage, next));
                    continue;
                }
                Err(error) => {
                    self.report.bad(0, 0, "journal", "a readable journal", &error.to_string());
                    break;
                }
            };
            if frame.kind == kind::PROPOSAL || frame.kind == kind::BODY {
                match batch_of_frame(&frame.payload) {
                    Ok((header, body)) if header.slot >= next => drop(bodies.insert((header.slot, header.digest()), (header, body))),
                    Ok(_) => {}
                    Err(error) => self.report.bad(0, 0, "record", "a batch", &error.to_string()),
                }
                continue;
            }
            let Ok(certificate) = decode::<CommitCertificate>(&frame.payload) else {
                let found = Record::from_frame(self.federation, frame.kind, &frame.payload).err().map_or_else(String::new, |e| e.to_string());
                self.report.bad(0, 0, "record", "a commit certificate", &found);
                continue;
            };
            if certificate.slot < next {
                continue;
            }
            let again = self.given_back.len();
            while certificate.slot > next
                && let Some(batch) = self.given_back.remove(&next)
            {
                chunk.push(batch);
                next += 1;
            }
            if certificate.slot > next {
                let found = format!("the certificate of slot {}", certificate.slot);
                self.report.bad(next, self.chain.sequence() + 1, "gap", &format!("the certificate of slot {next}"), &found);
            }
            match bodies.get(&(certificate.slot, certificate.digest)).cloned() {
                Some((header, body)) => chunk.push(CommittedBatch { header, body, certificate: certificate.clone() }),
                None => match self.given_back.remove(&certificate.slot) {
                    Some(batch) => chunk.push(batch),
                    None => self.report.bad(certificate.slot, 0, "body", "the batch that was committed", "none in the journal"),
                },
            }
            next = certificate.slot + 1;
            if self.given_back.len() < again {
                self.made_good.extend(damaged.drain(..).map(|(damage, _)| damage));
            }
            // What a damaged place held was about slots in the window of its time.
            damaged.retain(|(_, at)| next <= at + self.federation.parameters().window_slots);
            bodies = bodies.split_off(&(next, Digest::ZERO));
            if chunk.len() >= CHUNK {
                self.check(&mut chunk);
            }
        }
        self.complete_from_log(&bodies, next, &mut chunk);
        self.check(&mut chunk);
    }

    /// Commit certificates are written lazily, so after a crash the log may hold some that the journal lost. Bodies it may not have lost.
    fn complete_from_log(&mut self, bodies: &BTreeMap<(Slot, Digest), (Header, Arc<Body>)>, next: Slot, chunk: &mut Vec<CommittedBatch>) {
        let Some(log) = self.log.clone() else { return };
        for slot in next..=log.head().slot {
            let row = match log.row_at_slot(slot) {
                Ok(Some(row)) => row,
                Ok(None) => return,
                Err(error) => {
                    self.report.bad(slot, 0, "log row", "a whole row", &error.to_string());
                    continue;
                }
            };
            self.report.behind_log += 1;
            match bodies.get(&(slot, row.header.digest())).cloned() {
                Some((header, body)) => chunk.push(CommittedBatch { header, body, certificate: row.certificate }),
                None => self.report.bad(slot, row.header.first_sequence, "body", "the batch that the log holds", "none in the journal"),
            }
            if chunk.len() >= CHUNK {
                self.check(chunk);
            }
        }
    }

    fn check(&mut self, chunk: &mut Vec<CommittedBatch>) {
        let federation = self.federation;
        let checked: Vec<_> = chunk.par_iter().map(|batch| check_batch(federation, batch, AuthorSignatures::Check)).collect();
        for (batch, checked) in chunk.drain(..).zip(checked) {
            let header = &batch.header;
            self.report.batches += 1;
            match checked {
                Ok(checked) => {
                    self.report.entries += checked.leaves.len() as u64;
                    self.report.signatures += checked.signatures;
                    if let Err(error) = self.chain.extend(header, &checked.leaf_hashes) {
                        self.report.bad(error.slot, error.sequence, error.rule(), &error.expected(), &error.found());
                        self.resume_after(header);
                    }
                    self.compare(&batch, &checked);
                }
                Err(error) => {
                    self.report.bad(error.slot, error.sequence, error.rule(), &error.expected(), &error.found());
                    self.resume_after(header);
                }
            }
        }
        (self.progress)(self.report.entries);
    }

    /// Goes on behind a bad batch, from the log's own tree if there is one, so that later damage is found too.
    fn resume_after(&mut self, header: &Header) {
        let frontier = self.log.as_ref().and_then(|log| log.frontier(header.last_sequence()).ok());
        if let Some(chain) = frontier.and_then(|f| ChainVerifier::after(header, f)) {
            self.chain = chain;
        }
    }

    /// What the log says of the same batch.
    fn compare(&mut self, batch: &CommittedBatch, checked: &CheckedBatch) {
        let Some(log) = self.log.clone() else { return };
        let header = &batch.header;
        if header.first_sequence > log.head_sequence() {
            return;
        }
        let place = (header.slot, header.first_sequence);
        match log.row_at_sequence(header.first_sequence) {
            Ok(Some(row)) => {
                let same_body = match &row.body {
                    StoredBody::Inline(body) => *body == batch.body,
                    // A locator points into the journal, which is checked as a whole.
                    StoredBody::Segment(_) => true,
                };
                if row.header != *header || row.certificate.verify(self.federation, header).is_err() || !same_body {
                    self.report.bad(place.0, place.1, "log row", "the batch of the journal", "another one");
                }
            }
            Ok(None) => self.report.bad(place.0, place.1, "log row", "a row", "none"),
            Err(error) => self.report.bad(place.0, place.1, "log row", "a whole row", &error.to_string()),
        }
        match log.leaf_hashes(header.first_sequence - 1, checked.leaf_hashes.len()) {
            Ok(hashes) if hashes == checked.leaf_hashes => {}
            Ok(_) => self.report.bad(place.0, place.1, "merkle file", "the leaf hashes of the batch", "others"),
            Err(error) => self.report.bad(place.0, place.1, "merkle file", "the leaf hashes of the batch", &error.to_string()),
        }
    }

    fn finish(&mut self) {
        self.report.head = self.chain.sequence();
        self.report.slot = self.chain.slot();
        self.report.log_root = self.chain.frontier().root();
        if self.log_missing && self.backup {
            self.report.not_checked.push("the sled log: a backup holds none".to_owned());
        } else if self.log_missing && self.report.batches == 0 {
            self.report.not_checked.push("the sled log: this replica never ran".to_owned());
        } else if self.log_missing {
            self.report.bad(0, 0, "log", "a log beside the journal", "none; a start rebuilds it from the journal");
        }
        if let Some(log) = &self.log {
            let head = log.head();
            // The upper tile levels, through the frontier that they give.
            if head.sequence == self.chain.sequence() && head.frontier.root() != self.report.log_root {
                self.report.bad(head.slot, head.sequence, "merkle file", &self.report.log_root.to_string(), &head.frontier.root().to_string());
            }
            self.report.check_tiles(log);
        }
    }
}

/// The batches of which body and certificate stand behind the certificate of a later slot: a repair wrote them again.
fn given_back(reader: &JournalReader) -> BTreeMap<Slot, CommittedBatch> {
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

/// The data directory of a replica: the one that its configuration names, `data` below the directory given, or that directory itself.
#[must_use]
pub fn data_dir(given: &Path) -> PathBuf {
    let configured = read_toml::<ReplicaFile>(&given.join("replica.toml")).ok().map(|file| given.join(file.data));
    let candidates = configured.into_iter().chain([given.join("data")]);
    candidates.into_iter().find(|dir| dir.join("journal").is_dir()).unwrap_or_else(|| given.to_path_buf())
}
