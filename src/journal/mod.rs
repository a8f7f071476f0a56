//! The journal: raw, checksummed files that make a replica's records durable before its messages leave.
//!
//! It knows bytes only: frames with a kind, a tag and a record number. It may not know what a record means, who votes
//! on what, or how the log above it is stored.
//!
//! # Two streams
//! `segments/` is append-only and kept; `votes.0` and `votes.1` are small and recycled. Records are buffered by
//! [`Journal::append_segment`] and [`Journal::append_vote`], and one [`Journal::sync`] writes both buffers, each as one
//! *group* with one `fdatasync`: **segments first, then votes.** So a vote record that is found was preceded by every
//! segment record with a lower number: a prepared certificate never outlives its proposal. The other way round nothing is
//! promised within one sync: the segments may hold records whose votes were torn, and nothing was sent for those.
//!
//! # Bytes
//! All integers are little-endian. Every file is a sequence of 4096-byte pages.
//!
//! | page offset | size | field |
//! |---|---|---|
//! | 0 | 4072 | payload |
//! | 4072 | 8 | lap: segment number, or generation of the votes (both from 1) |
//! | 4080 | 4 | group: number of the group in the file, from 1, without gaps |
//! | 4084 | 4 | index of the page in its group, from 0 |
//! | 4088 | 4 | count: pages of the group |
//! | 4092 | 4 | CRC32C of `EXSG` (segments) or `EXVT` (votes), the page's number in the file as u32, and bytes 0..4092 |
//!
//! A group starts on a page boundary and never spans two files. Its payload, the pages' payloads joined, is frames and then
//! fewer than 4072 zero bytes.
//!
//! | frame offset | size | field |
//! |---|---|---|
//! | 0 | 4 | len: bytes of the payload |
//! | 4 | 1 | kind: 1 to 0xFD the caller's, 0xFE mark, 0xFF header; never 0 |
//! | 5 | 8 | lsn: record number, strictly increasing over both streams; 0 in marks and headers |
//! | 13 | 8 | tag: the caller's in segments, 0 in votes; see the mark |
//! | 21 | len | payload |
//!
//! The first frame of a file's first group is its *header*, payload 72 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | format version, 1 |
//! | 4 | 32 | federation id |
//! | 36 | 8 | segment number or generation, equal to the lap |
//! | 44 | 4 | pages of the file when this was written; it may grow and never shrinks |
//! | 48 | 8 | first lsn: number of the next record |
//! | 56 | 8 | last lsn before: last record of this stream in an earlier segment or generation |
//! | 64 | 8 | max tag before: highest tag in any earlier segment; 0 in votes |
//!
//! The last frame of every group is its *mark*: no payload, and as its tag the last record of the *other* stream that was
//! durable when the group was written. Marks and `last lsn before` make a lost end of one file visible in another: a
//! last group that was acknowledged and then vanished looks like a torn write where it was, and is damage because of them.
//!
//! # Torn or damaged
//! After the last whole group of a file there may be missing pages (zero, or in a votes file pages of an earlier lap) and
//! whole pages of the one group that comes next, each in its place: a torn write, never acknowledged. It is cut: ignored, and
//! overwritten with zeros when the journal is opened for writing. Everything else is [`Damage`], which is reported beside what
//! could be read. Damaged segments are never written to again; the next one is begun. A damaged voting record takes no votes
//! until [`Journal::rotate_votes`] has replaced it.

mod disk;
mod error;
mod frame;
mod page;
mod reader;
mod report;
mod scan;
mod segments;
#[cfg(test)]
mod tests;
mod votes;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

pub use disk::{Access, Disk, DiskFile, RealDisk};
use disk::{Root, reserve, sync_dir};
use error::IoContext;
pub use error::{Damage, DamageKind, FrameProblem, JournalError, Operation};
use frame::KIND_MARK;
pub use frame::{FORMAT_VERSION, Frame, Locator, StreamKind};
pub use page::{PageFound, PagePlace};
pub use reader::{JournalReader, Votes};
use reader::{fill, lost_segments, lost_votes, require_journal, require_same};
pub use report::{JournalOptions, JournalReport, JournalStats};
use scan::Expectation;
use segments::{SegmentWalk, SegmentWriter, from_base, list, segment_path, segments_dir};
use votes::{Snapshot, VotesWriter};

/// A journal open for writing. After one failed write or sync every later call returns that error: what a failed
/// `fdatasync` left behind is unknown, so it is never retried.
pub struct Journal {
    root: Root,
    /// Held: one writer at a time.
    _lock: Box<dyn Send + Sync>,
    max_frame_bytes: u32,
    federation_id: [u8; 32],
    options: JournalOptions,
    segments: SegmentWriter,
    votes: VotesWriter,
    next_lsn: u64,
    recovered: Vec<Frame>,
    failed: Option<JournalError>,
    stats: JournalStats,
}

impl Journal {
    /// Creates an empty journal in `dir` (which must not exist, or be empty), with `snapshot` (kind and payload) as the
    /// first votes group. It is built in `dir` with `.new` appended and renamed, so a crash leaves all of it or none.
    ///
    /// # Errors
    /// [`JournalError::Exists`], a bad option or record, or IO.
    pub fn create(dir: &Path, federation_id: [u8; 32], options: &JournalOptions, snapshot: &[(u8, Vec<u8>)]) -> Result<(), JournalError> {
        Self::create_on(RealDisk::shared(), dir, federation_id, options, snapshot)
    }

    /// The same on another disk.
    ///
    /// # Errors
    /// As above.
    pub fn create_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        federation_id: [u8; 32],
        options: &JournalOptions,
        snapshot: &[(u8, Vec<u8>)],
    ) -> Result<(), JournalError> {
        options.validate()?;
        check_records(snapshot, options.max_frame_bytes)?;
        let exists = || JournalError::Exists { dir: dir.to_path_buf() };
        match require_journal(&Root::new(disk.clone(), dir)) {
            Ok(()) => return Err(exists()),
            Err(JournalError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let building = dir.with_added_extension("new");
        if disk.list(&building).is_ok() {
            disk.remove_dir(&building).during(Operation::Remove, &building)?;
        }
        let segments = segments_dir(&building);
        disk.create_dir(&segments).during(Operation::Open, &segments)?;
        reserve(&*disk, &segment_path(&building, 1), options.segment_pages())?;
        let first = Snapshot { records: snapshot, first_lsn: 1, segments_synced: 0 };
        VotesWriter::create(&Root::new(disk.clone(), &building), federation_id, options, &first)?;
        sync_dir(&*disk, &segments)?;
        sync_dir(&*disk, &building)?;
        disk.rename(&building, dir).during(Operation::Rename, dir)?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(&*disk, parent.unwrap_or(Path::new(".")))
    }

    /// Opens for writing: takes the lock, reads the voting record and the newest segments, cuts torn groups and goes on
    /// after the last whole ones. Reads the end of the history only; see [`Self::tail`] and [`JournalReader::check`].
    ///
    /// # Errors
    /// [`JournalError::NotFound`], [`JournalError::InUse`], [`JournalError::OtherFederation`],
    /// [`JournalError::Version`], a bad option, or IO. Damage is in the report, not an error.
    pub fn open(dir: &Path, federation_id: [u8; 32], options: &JournalOptions) -> Result<(Self, JournalReport), JournalError> {
        Self::open_on(RealDisk::shared(), dir, federation_id, options)
    }

    /// The same on another disk.
    ///
    /// # Errors
    /// As above.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        federation_id: [u8; 32],
        options: &JournalOptions,
    ) -> Result<(Self, JournalReport), JournalError> {
        options.validate()?;
        let root = Root::new(disk, dir);
        require_journal(&root)?;
        let lock = root.disk.lock(dir).during(Operation::Lock, dir)?.ok_or_else(|| JournalError::InUse { dir: dir.to_path_buf() })?;
        let max_frame_bytes = options.max_frame_bytes;
        let expected = |stream| Expectation { stream, lap: 0, federation_id: Some(federation_id), max_frame_bytes, live: false };
        let mut state = votes::load(&root, expected(StreamKind::Votes));
        require_same(&state)?;
        let numbers = list(&root)?;
        let mut walk = SegmentWalk::new(&root, from_base(&root, &numbers, Some(u64::MAX)), expected(StreamKind::Segments));
        let mut report = JournalReport::default();
        while let Some(item) = walk.step() {
            item.err().into_iter().for_each(|damage| report.add(damage));
        }
        lost_segments(dir, &numbers, &walk, &state).into_iter().for_each(|damage| report.add(damage));
        state.damage.extend(lost_votes(dir, &walk, &state));
        fill(&mut report, &numbers, &walk, &state);
        let next_lsn = report.highest_lsn.checked_add(1).ok_or(JournalError::Exhausted { what: "record" })?;
        // A damaged segment is never written again; one begun behind it is, so that restarts do not begin one each.
        let newest = numbers.last().map(|number| segment_path(dir, *number));
        let begun = walk.end.as_ref().is_some_and(|(tail, _)| tail.page > 0);
        let spoils = |damage: &Damage| Some(&damage.file) == newest.as_ref() && (begun || !matches!(damage.kind, DamageKind::LostRecords { .. }));
        let intact = !report.damage.iter().any(spoils);
        let segments = SegmentWriter::resume(&root, federation_id, options, &walk, intact, walk.last_lsn.max(state.mark))?;
        let votes = VotesWriter::resume(&root, federation_id, options, &state, state.last_lsn.max(walk.mark))?;
        let journal = Self {
            root,
            _lock: lock,
            max_frame_bytes,
            federation_id,
            options: *options,
            segments,
            votes,
            next_lsn,
            recovered: state.frames,
            failed: None,
            stats: JournalStats::default(),
        };
        Ok((journal, report))
    }

    /// What was on disk when the journal was opened, in the order of appending: the votes of the current generation merged
    /// with the segment records from the newest segment that no record with a tag above `base_tag` precedes (without a
    /// base, from the first). The votes are handed out once. Segments are streamed; damage is an `Err` item.
    ///
    /// # Errors
    /// An item is [`JournalError::Damage`], or the reader's other errors.
    pub fn tail(&mut self, base_tag: Option<u64>) -> impl Iterator<Item = Result<Frame, JournalError>> + use<> {
        let mut votes = VecDeque::from(std::mem::take(&mut self.recovered));
        let mut segments = self.reader().segments_from(base_tag).peekable();
        std::iter::from_fn(move || {
            let vote_first = match (votes.front(), segments.peek()) {
                (Some(vote), Some(Ok(frame))) => vote.lsn < frame.lsn,
                (Some(_), None) => true,
                _ => false,
            };
            if vote_first { votes.pop_front().map(Ok) } else { segments.next() }
        })
    }

    /// A reader of this journal, for other threads.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.root.clone(), self.federation_id, &self.options)
    }

    /// Buffers a segment record; durable after [`Self::sync`]. `kind` is 1 to 0xFD. Writes the open group first if the
    /// record no longer fits its segment.
    ///
    /// # Errors
    /// [`JournalError::ReservedKind`] and [`JournalError::FrameTooLong`] leave the journal as it was; any other error
    /// stops it.
    pub fn append_segment(&mut self, kind: u8, tag: u64, payload: &[u8]) -> Result<Locator, JournalError> {
        self.alive()?;
        check_record(kind, payload, self.max_frame_bytes)?;
        self.stopping(|journal| {
            if journal.segments.needs_flush(payload.len()) {
                journal.flush_segments()?;
            }
            let lsn = journal.take_lsns(1)?;
            journal.segments.append(kind, tag, lsn, payload)
        })
    }

    /// Buffers a vote record; durable after [`Self::sync`]. `kind` is 1 to 0xFD.
    ///
    /// # Errors
    /// [`JournalError::ReservedKind`], [`JournalError::FrameTooLong`] and [`JournalError::VotesDamaged`] leave the
    /// journal as it was; any other error stops it.
    pub fn append_vote(&mut self, kind: u8, payload: &[u8]) -> Result<(), JournalError> {
        self.alive()?;
        check_record(kind, payload, self.max_frame_bytes)?;
        if self.votes.is_damaged() {
            return Err(JournalError::VotesDamaged { dir: self.root.dir.clone() });
        }
        self.stopping(|journal| {
            let lsn = journal.take_lsns(1)?;
            journal.votes.append(kind, lsn, payload);
            Ok(())
        })
    }

    /// Whether less than a quarter of the votes file is left, or the voting record is damaged. A full file grows rather
    /// than fail, so rotating late costs space, not safety.
    #[must_use]
    pub const fn votes_need_rotation(&self) -> bool {
        self.votes.need_rotation()
    }

    /// Syncs what is buffered, then begins the next generation with `snapshot` (kind and payload): everything of the voting
    /// record that still matters. Earlier vote records are gone afterwards. Also replaces a damaged voting record.
    ///
    /// # Errors
    /// [`JournalError::ReservedKind`] and [`JournalError::FrameTooLong`] leave the journal as it was; any other error
    /// stops it.
    pub fn rotate_votes(&mut self, snapshot: &[(u8, Vec<u8>)]) -> Result<(), JournalError> {
        self.alive()?;
        check_records(snapshot, self.max_frame_bytes)?;
        self.sync()?;
        self.stopping(|journal| {
            let first_lsn = journal.take_lsns(snapshot.len() as u64)?;
            let segments_synced = journal.segments.synced_lsn();
            let bytes = journal.votes.rotate(&Snapshot { records: snapshot, first_lsn, segments_synced })?;
            journal.count(bytes);
            // A group of a mark alone: the segments now name the new generation's records, so that losing them is seen.
            journal.segments.begin_mark(journal.next_lsn)?;
            journal.flush_segments()
        })
    }

    /// Writes and syncs what is buffered, segments first; nothing if nothing is.
    ///
    /// # Errors
    /// Any error stops the journal.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.alive()?;
        self.stopping(|journal| {
            if !journal.segments.is_empty() {
                journal.flush_segments()?;
            }
            if !journal.votes.is_empty() {
                let bytes = journal.votes.flush(journal.segments.synced_lsn())?;
                journal.count(bytes);
            }
            Ok(())
        })
    }

    /// Whether anything is buffered.
    #[must_use]
    pub const fn has_unsynced(&self) -> bool {
        !self.segments.is_empty() || !self.votes.is_empty()
    }

    /// Counters since opening.
    #[must_use]
    pub const fn stats(&self) -> JournalStats {
        JournalStats {
            segment: self.segments.number(),
            segments_begun: self.segments.begun(),
            votes_generation: self.votes.generation(),
            ..self.stats
        }
    }

    fn flush_segments(&mut self) -> Result<(), JournalError> {
        let bytes = self.segments.flush(self.votes.synced_lsn())?;
        self.count(bytes);
        Ok(())
    }

    const fn count(&mut self, bytes: u64) {
        self.stats.groups += 1;
        self.stats.syncs += 1;
        self.stats.bytes_written += bytes;
    }

    fn take_lsns(&mut self, count: u64) -> Result<u64, JournalError> {
        let first = self.next_lsn;
        self.next_lsn = first.checked_add(count).ok_or(JournalError::Exhausted { what: "record" })?;
        Ok(first)
    }

    fn alive(&self) -> Result<(), JournalError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Runs `work`; its failure is the answer to every later call.
    fn stopping<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, JournalError>) -> Result<T, JournalError> {
        work(self).inspect_err(|error| self.failed = Some(error.clone()))
    }
}

fn check_record(kind: u8, payload: &[u8], max: u32) -> Result<(), JournalError> {
    if kind == 0 || kind >= KIND_MARK {
        return Err(JournalError::ReservedKind { kind });
    }
    let fits = u32::try_from(payload.len()).is_ok_and(|len| len <= max);
    if fits { Ok(()) } else { Err(JournalError::FrameTooLong { len: payload.len(), max }) }
}

fn check_records(records: &[(u8, Vec<u8>)], max: u32) -> Result<(), JournalError> {
    records.iter().try_for_each(|(kind, payload)| check_record(*kind, payload, max))
}
