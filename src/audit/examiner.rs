//! Takes the committed batches of one target in order, and checks each to the level asked for.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::ledger::Ledger;
use super::published::PublishedNotes;
use super::report::AuditReport;
use super::state::{AuditState, STATE_FORMAT};
use super::statistics::Statistics;
use super::{AuditOptions, Level};
use crate::consensus::batch_of_frame;
use crate::crypto::Digest;
use crate::proof::chain::{ChainError, ChainVerifier, check_author_signatures, check_certificate, check_hashes, check_structure};
use crate::store::{StoreReader, StoredBody};
use crate::types::{CodecError, CommitCertificate, CommittedBatch, Federation, Header, Sequence, Slot};

/// How many batches are checked side by side.
pub(super) const CHUNK: usize = 256;

/// How often the state is written.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// A batch and where it was found.
pub(super) struct Found {
    pub(super) held: Held,
    pub(super) place: String,
}

/// A batch as it was found. Decoding is work for all cores.
pub(super) enum Held {
    Decoded(CommittedBatch),
    /// The header is the one in the frame.
    Encoded {
        header: Header,
        certificate: CommitCertificate,
        frame: Arc<Vec<u8>>,
    },
}

impl Held {
    fn header(&self) -> &Header {
        match self {
            Self::Decoded(batch) => &batch.header,
            Self::Encoded { header, .. } => header,
        }
    }

    fn decode(self) -> Result<CommittedBatch, (Header, CodecError)> {
        match self {
            Self::Decoded(batch) => Ok(batch),
            Self::Encoded { header, certificate, frame } => match batch_of_frame(&frame) {
                Ok((header, body)) => Ok(CommittedBatch { header, body, certificate }),
                Err(error) => Err((header, error)),
            },
        }
    }
}

/// A slot whose batch is not there.
pub(super) struct Gap {
    pub(super) place: String,
    pub(super) slot: Slot,
    pub(super) rule: &'static str,
    pub(super) expected: String,
    pub(super) found: String,
}

/// Two targets that hold different batches at one slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork {
    pub(super) slot: Slot,
    /// The target that was read before.
    pub(super) other: usize,
}

/// What is known of a batch after it was checked by itself.
#[derive(Default)]
struct Checked {
    leaf_hashes: Option<Vec<Digest>>,
    signatures: u64,
    broken: Option<ChainError>,
}

pub(super) struct Examiner<'a> {
    pub(super) federation: &'a Federation,
    pub(super) options: &'a AuditOptions,
    pub(super) chain: ChainVerifier,
    pub(super) report: AuditReport,
    /// The log beside the journal, to compare with.
    pub(super) log: Option<StoreReader>,
    /// What the replica published.
    pub(super) published: PublishedNotes,
    ledger: &'a mut Ledger,
    target: usize,
    /// The first place where this target and an earlier one differ, with this target's certificate.
    pub(super) fork: Option<(Fork, CommitCertificate)>,
    /// Batches that are missing before the next one.
    gaps: Vec<Gap>,
    /// From which slot on the tree is not known.
    unknown_tree: Option<Slot>,
    linked_only: u64,
    /// The range asked for ends before the next batch.
    pub(super) done: bool,
    /// The last header taken.
    tip: Option<Header>,
    /// Up to where an earlier run checked.
    resumed: Option<Sequence>,
    /// The last header it verified, until it was seen in this history.
    earlier: Option<Header>,
    kept: Option<Instant>,
}

impl<'a> Examiner<'a> {
    pub(super) fn new(federation: &'a Federation, options: &'a AuditOptions, ledger: &'a mut Ledger, target: usize, name: &str) -> Self {
        let report = AuditReport { target: name.to_owned(), level: options.level, statistics: Statistics::new(federation), ..AuditReport::default() };
        Self {
            federation,
            options,
            chain: ChainVerifier::genesis(),
            report,
            log: None,
            published: PublishedNotes::default(),
            ledger,
            target,
            fork: None,
            gaps: vec![],
            unknown_tree: None,
            linked_only: 0,
            done: false,
            tip: None,
            resumed: None,
            earlier: None,
            kept: None,
        }
    }

    /// Goes on where an earlier run stopped.
    pub(super) fn resume(&mut self, state: &AuditState) {
        self.chain = state.chain();
        self.ledger.begin_behind(state.header.slot);
        (self.tip, self.earlier) = (Some(state.header.clone()), Some(state.header.clone()));
        self.resumed = Some(state.header.last_sequence());
        let report = &mut self.report;
        (report.entries, report.batches, report.signatures, report.bad) = (state.entries, state.batches, state.signatures, state.bad);
        (report.first_bad, report.findings, report.bad_ranges) = (state.findings.first().cloned(), state.findings.clone(), state.bad_ranges.clone());
    }

    /// What was published of a history that an earlier run verified.
    pub(super) fn resume_published(&mut self) {
        if let Some(header) = &self.tip {
            self.published.resume(header, &mut self.report);
        }
    }

    /// Where this run stands, for a later one.
    pub(super) fn state(&self) -> Option<AuditState> {
        let report = &self.report;
        Some(AuditState {
            format: STATE_FORMAT.to_owned(),
            federation_id: self.federation.id(),
            level: self.options.level,
            header: self.tip.clone()?,
            peaks: self.chain.frontier().map(|frontier| frontier.peaks().to_vec()),
            entries: report.entries,
            batches: report.batches,
            signatures: report.signatures,
            bad: report.bad,
            findings: report.findings.clone(),
            bad_ranges: report.bad_ranges.clone(),
        })
    }

    /// Writes the state, if a file was given and the last time is long enough ago.
    pub(super) fn keep_state(&mut self, now: bool) {
        let Some(path) = &self.options.resume else { return };
        if !now && self.kept.is_some_and(|kept| kept.elapsed() < KEEP_EVERY) {
            return;
        }
        self.kept = Some(Instant::now());
        if let Some(Err(error)) = self.state().map(|state| state.write(path)) {
            let text = error.to_string();
            if !self.report.not_checked.contains(&text) {
                self.report.not_checked.push(text);
            }
        }
    }

    /// The last header that an earlier run verified must be in this history.
    pub(super) fn compare_with_earlier(&mut self, place: &str, certificate: &CommitCertificate) {
        let Some(header) = self.earlier.take_if(|header| header.slot == certificate.slot) else { return };
        if certificate.digest != header.digest() {
            self.rolled_back(place, &header, &format!("header {}", certificate.digest));
        }
    }

    /// The history is at its end.
    pub(super) fn miss_earlier(&mut self) {
        if let Some(header) = self.earlier.take() {
            self.rolled_back("", &header, "no such slot");
        }
    }

    fn rolled_back(&mut self, place: &str, header: &Header, found: &str) {
        let expected = format!("header {} at slot {}, verified by an earlier run", header.digest(), header.slot);
        self.report.bad_at(place, header.slot, (header.first_sequence, header.last_sequence()), "rollback", &expected, found);
    }

    /// Batches are missing before what comes next, which will say how many updates they held.
    pub(super) fn gap(&mut self, gap: Gap) {
        self.gaps.push(gap);
    }

    /// Names the gaps before a batch; yields whether there were any.
    fn name_gaps(&mut self, next: Option<&Header>) -> bool {
        let gaps = mem::take(&mut self.gaps);
        let from = self.chain.sequence().saturating_add(1);
        let to = next.map_or(from, |header| header.first_sequence.saturating_sub(1));
        for Gap { place, slot, rule, expected, found } in &gaps {
            self.report.bad_at(place, *slot, (from, to), rule, expected, found);
        }
        !gaps.is_empty()
    }

    /// Checks a chunk: each batch by itself on all cores, then the chain in order.
    pub(super) fn take(&mut self, chunk: &mut Vec<Found>) {
        let federation = self.federation;
        let (level, range) = (self.options.level, self.options.range);
        let level_of = |header: &Header| if range.is_before(header) { level.min(Level::Merkle) } else { level };
        let end = chunk.iter().position(|found| range.is_behind(found.held.header()));
        if let Some(end) = end {
            chunk.truncate(end);
            self.done = true;
        }
        let checked: Vec<_> = mem::take(chunk)
            .into_par_iter()
            .map(|Found { held, place }| {
                let batch = held.decode().map(|batch| {
                    let checked = check(federation, &batch, level_of(&batch.header));
                    (batch, checked)
                });
                (batch, place)
            })
            .collect();
        for (batch, place) in checked {
            match batch {
                Ok((batch, checked)) => {
                    let before = range.is_before(&batch.header);
                    self.take_one(&batch, &place, checked, before);
                }
                Err((header, error)) => self.malformed(&header, &place, &error),
            }
        }
    }

    /// A frame whose header is committed and whose body does not decode.
    fn malformed(&mut self, header: &Header, place: &str, error: &CodecError) {
        self.name_gaps(Some(header));
        let sequences = (header.first_sequence, header.last_sequence());
        self.report.bad_at(place, header.slot, sequences, "record", "a batch", &error.to_string());
        self.resume_after(header);
        self.unknown_tree = self.unknown_tree.or_else(|| self.chain.frontier().is_none().then_some(header.slot));
        self.tip = Some(header.clone());
    }

    fn take_one(&mut self, batch: &CommittedBatch, place: &str, checked: Checked, before: bool) {
        let header = &batch.header;
        if before {
            self.linked_only += u64::from(header.count);
        } else {
            self.report.batches += 1;
            self.report.entries += u64::from(header.count);
            self.report.statistics.add(self.federation, batch);
            let updates = batch.body.submissions.iter().flat_map(|s| &s.updates);
            self.report.payload_bytes += updates.map(|u| u.update.data.len() as u64).sum::<u64>();
        }
        self.report.signatures += checked.signatures;
        let behind_gap = self.name_gaps(Some(header));
        let linked = self.link(header, &checked);
        let known_gap = behind_gap && linked.as_ref().is_err_and(|error| error.rule() == "slot");
        if linked.is_err() {
            self.resume_after(header);
        }
        // One finding a batch: what it breaks by itself says more than what follows from it. A batch behind a gap cannot continue what is
        // before it, and the gap is named already.
        if let Some(error) = checked.broken.or(linked.err().filter(|_| !known_gap)) {
            let sequences = (error.sequence, header.last_sequence());
            self.report.bad_at(place, error.slot, sequences, error.rule(), &error.expected(), &error.found());
        }
        if self.chain.frontier().is_none() {
            self.unknown_tree.get_or_insert(header.slot);
        }
        self.compare_with_log(batch, checked.leaf_hashes.as_deref());
        self.compare_with_others(batch, place);
        self.published.compare(header, &mut self.report);
        self.tip = Some(header.clone());
    }

    /// Continues the chain with a batch, as far as its level and its state allow.
    fn link(&mut self, header: &Header, checked: &Checked) -> Result<(), ChainError> {
        match &checked.leaf_hashes {
            Some(hashes) => self.chain.extend(header, hashes),
            None if checked.broken.is_some() => {
                self.resume_after(header);
                Ok(())
            }
            None if self.options.level >= Level::Chain => self.chain.link(header),
            None => {
                self.chain = ChainVerifier::behind(header);
                Ok(())
            }
        }
    }

    /// Goes on behind a bad batch, with the log's own tree if there is one, so that later damage is found too.
    fn resume_after(&mut self, header: &Header) {
        let frontier = self.log.as_ref().and_then(|log| log.frontier(header.last_sequence()).ok());
        let with_tree = frontier.and_then(|frontier| ChainVerifier::after(header, frontier));
        self.chain = with_tree.unwrap_or_else(|| ChainVerifier::behind(header));
    }

    /// What the log says of the same batch.
    fn compare_with_log(&mut self, batch: &CommittedBatch, leaf_hashes: Option<&[Digest]>) {
        let Some(log) = self.log.clone() else { return };
        let header = &batch.header;
        if header.first_sequence > log.head_sequence() {
            return;
        }
        let (slot, sequences) = (header.slot, (header.first_sequence, header.last_sequence()));
        let checks_quorum = self.options.level >= Level::Quorum;
        match log.row_at_sequence(header.first_sequence) {
            Ok(Some(row)) => {
                let same_body = match &row.body {
                    StoredBody::Inline(body) => *body == batch.body,
                    // A locator points into the journal, which is checked as a whole.
                    StoredBody::Segment(_) => true,
                };
                // The same certificate was checked with the batch.
                let proved = row.certificate == batch.certificate || !checks_quorum || row.certificate.verify(self.federation, header).is_ok();
                if row.header != *header || !proved || !same_body {
                    self.report.bad_at("batches tree", slot, sequences, "log row", "the batch of the journal", "another one");
                }
            }
            Ok(None) => self.report.bad_at("batches tree", slot, sequences, "log row", "a row", "none"),
            Err(error) => self.report.bad_at("batches tree", slot, sequences, "log row", "a whole row", &error.to_string()),
        }
        let Some(leaf_hashes) = leaf_hashes else { return };
        match log.leaf_hashes(header.first_sequence.saturating_sub(1), leaf_hashes.len()) {
            Ok(hashes) if hashes == leaf_hashes => {}
            Ok(_) => self.report.bad_at("level-0", slot, sequences, "merkle file", "the leaf hashes of the batch", "others"),
            Err(error) => self.report.bad_at("level-0", slot, sequences, "merkle file", "the leaf hashes of the batch", &error.to_string()),
        }
    }

    /// What other targets, and proofs handed out earlier, say of the same slot.
    fn compare_with_others(&mut self, batch: &CommittedBatch, place: &str) {
        let CommittedBatch { header, certificate, .. } = batch;
        let digest = header.digest();
        if let Some(other) = self.ledger.note(self.target, header.slot, &digest)
            && self.fork.is_none()
        {
            self.fork = Some((Fork { slot: header.slot, other }, certificate.clone()));
        }
        let options = self.options;
        for (path, proof) in options.old_proofs.at(header.slot) {
            if proof.header == *header {
                self.report.old_proofs_held += 1;
                continue;
            }
            let expected = format!("header {} of {}", proof.header.digest(), path.display());
            let sequences = (proof.leaf.sequence, proof.leaf.sequence);
            self.report.bad_at(place, header.slot, sequences, "old-proof", &expected, &format!("header {digest}"));
            self.report.convict_both(self.federation, &proof.certificate, certificate);
        }
    }

    /// Whether a header is the one that this history, or another target's, has at its slot.
    pub(super) fn agrees(&mut self, header: &Header) -> bool {
        if header.slot == self.chain.slot() {
            return header.digest() == self.chain.digest();
        }
        header.slot > self.chain.slot() || self.ledger.note(self.target, header.slot, &header.digest()).is_none()
    }

    /// What can only be said at the end.
    pub(super) fn finish(mut self) -> (AuditReport, Option<(Fork, CommitCertificate)>) {
        let options = self.options;
        self.name_gaps(None);
        self.keep_state(true);
        self.report.head = self.chain.sequence();
        self.report.slot = self.chain.slot();
        self.report.log_root = self.chain.log_root();
        if self.report.complete && !self.done {
            self.published.miss(&mut self.report);
            for (path, proof) in options.old_proofs.behind(self.chain.slot()) {
                let expected = format!("slot {} with header {} of {}", proof.header.slot, proof.header.digest(), path.display());
                let found = format!("the history ends at slot {}", self.chain.slot());
                let sequences = (proof.leaf.sequence, proof.leaf.sequence);
                self.report.bad_at("", proof.header.slot, sequences, "old-proof", &expected, &found);
            }
        }
        let mut left_out: Vec<String> = Level::ALL.into_iter().filter(|level| *level > options.level).map(|level| level.adds().to_owned()).collect();
        if let Some(sequence) = self.resumed {
            left_out.push(format!("entries 1 to {sequence}: an earlier run checked them, and what it found is in this report"));
        }
        if self.linked_only > 0 && options.level > Level::Merkle {
            left_out.push(format!("signatures of the {} entries before the range, which are linked and hashed only", self.linked_only));
        }
        if self.done {
            left_out.push(format!("everything behind sequence {}: outside the range", self.chain.sequence()));
        }
        if let Some(slot) = self.unknown_tree.filter(|_| options.level >= Level::Merkle) {
            left_out.push(format!("log roots from slot {slot} on: leaves before it are damaged or missing"));
        }
        left_out.extend(options.old_proofs.refused.iter().map(|refused| format!("an old proof that proves nothing: {refused}")));
        self.report.not_checked.append(&mut left_out);
        self.report.conclude();
        (self.report, self.fork)
    }
}

fn check(federation: &Federation, batch: &CommittedBatch, level: Level) -> Checked {
    let mut checked = Checked::default();
    checked.broken = check_to(federation, batch, level, &mut checked).err();
    checked
}

fn check_to(federation: &Federation, batch: &CommittedBatch, level: Level, checked: &mut Checked) -> Result<(), ChainError> {
    check_structure(federation, batch)?;
    if level < Level::Merkle {
        return Ok(());
    }
    let hashed = check_hashes(federation, batch)?;
    checked.leaf_hashes = Some(hashed.leaf_hashes);
    if level >= Level::Quorum {
        checked.signatures += check_certificate(federation, batch)?;
    }
    if level >= Level::Content {
        checked.signatures += check_author_signatures(federation, batch, &hashed.digests)?;
    }
    Ok(())
}
