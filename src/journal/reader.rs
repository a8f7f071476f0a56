//! Reading a journal without changing a byte of it, beside a running replica too.

use std::path::Path;
use std::sync::Arc;

use super::disk::{Access, Disk, RealDisk, Root};
use super::error::{Damage, DamageKind, FrameProblem, IoContext, JournalError, Operation};
use super::frame::{FRAME_HEADER, Frame, FrameHead, KIND_MARK, Locator, StreamKind};
use super::page::{PAGE, PAYLOAD, PageFound, PagePlace, classify};
use super::report::{JournalOptions, JournalReport};
use super::scan::Expectation;
use super::segments::{SegmentWalk, from_base, list, peek_header, segment_path, segments_dir};
use super::votes::{VotesState, load};

/// What the voting record holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Votes {
    /// The generation read, 0 if none is whole.
    pub generation: u64,
    /// Its records, in order.
    pub frames: Vec<Frame>,
    /// Every damaged place. Not empty: the replica cannot prove that it remembers its votes.
    pub damage: Vec<Damage>,
}

/// A read-only view of a journal. Takes no lock, writes nothing, and is safe beside a running writer.
#[derive(Clone)]
pub struct JournalReader {
    root: Root,
    federation_id: Option<[u8; 32]>,
    max_frame_bytes: u32,
}

/// Fails if `dir` is missing or empty.
pub(super) fn require_journal(root: &Root) -> Result<(), JournalError> {
    let missing = || JournalError::NotFound { dir: root.dir.clone() };
    match root.disk.list(&root.dir) {
        Ok(names) => names.first().map(|_| ()).ok_or_else(missing),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(error).during(Operation::List, &root.dir),
    }
}

/// Fails if the voting record was written for another federation or by another format.
pub(super) fn require_same(state: &VotesState) -> Result<(), JournalError> {
    for Damage { file, kind, .. } in &state.damage {
        match *kind {
            DamageKind::OtherFederation { expected, found } => {
                return Err(JournalError::OtherFederation { file: file.clone(), expected, found });
            }
            DamageKind::Version { expected, found } => {
                return Err(JournalError::Version { file: file.clone(), supported: expected, found });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Records that one stream says were durable in the other and that are not there.
pub(super) fn lost_segments(dir: &Path, numbers: &[u64], walk: &SegmentWalk, votes: &VotesState) -> Option<Damage> {
    let damage = |file, kind| Damage { stream: StreamKind::Segments, file, page: None, kind };
    let Some(newest) = numbers.last() else { return Some(damage(segments_dir(dir), DamageKind::MissingFile)) };
    let kind = DamageKind::LostRecords { expected: votes.mark, found: walk.last_lsn };
    (votes.mark > walk.last_lsn).then(|| damage(segment_path(dir, *newest), kind))
}

/// See [`lost_segments`].
pub(super) fn lost_votes(dir: &Path, walk: &SegmentWalk, votes: &VotesState) -> Option<Damage> {
    let kind = DamageKind::LostRecords { expected: walk.mark, found: votes.last_lsn };
    (votes.generation > 0 && walk.mark > votes.last_lsn).then(|| Damage {
        stream: StreamKind::Votes,
        file: super::votes::votes_path(dir, votes.generation),
        page: None,
        kind,
    })
}

impl JournalReader {
    /// Opens `dir` for reading. Without a federation id, the one the journal names for itself is taken.
    ///
    /// # Errors
    /// [`JournalError::NotFound`], [`JournalError::OtherFederation`], [`JournalError::Version`], a bad option, or IO.
    /// Damage is no error here.
    pub fn open(dir: &Path, federation_id: Option<[u8; 32]>, options: &JournalOptions) -> Result<Self, JournalError> {
        Self::open_on(RealDisk::shared(), dir, federation_id, options)
    }

    /// The same on another disk.
    ///
    /// # Errors
    /// As above.
    pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, federation_id: Option<[u8; 32]>, options: &JournalOptions) -> Result<Self, JournalError> {
        options.validate()?;
        let root = Root::new(disk, dir);
        require_journal(&root)?;
        let mut reader = Self { root, federation_id, max_frame_bytes: options.max_frame_bytes };
        let state = reader.load_votes();
        require_same(&state)?;
        if federation_id.is_none() {
            let named = state.header.or_else(|| list(&reader.root).ok()?.iter().find_map(|number| peek_header(&reader.root, *number)));
            reader.federation_id = named.map(|header| header.federation_id);
        }
        Ok(reader)
    }

    /// A reader of a journal that is known to be one.
    pub(super) fn new(root: Root, federation_id: [u8; 32], options: &JournalOptions) -> Self {
        Self { root, federation_id: Some(federation_id), max_frame_bytes: options.max_frame_bytes }
    }

    /// The federation the journal belongs to; `None` if it was not given and no header could be read.
    #[must_use]
    pub const fn federation_id(&self) -> Option<[u8; 32]> {
        self.federation_id
    }

    const fn expected(&self, stream: StreamKind) -> Expectation {
        let (federation_id, max_frame_bytes) = (self.federation_id, self.max_frame_bytes);
        Expectation { stream, lap: 0, federation_id, max_frame_bytes, live: true }
    }

    fn load_votes(&self) -> VotesState {
        load(&self.root, self.expected(StreamKind::Votes))
    }

    /// The segment records in order, from the newest segment that no record with a tag above `base_tag` precedes;
    /// without a base, the whole history. Streams: memory is bounded by one group. A damaged place is an `Err` item
    /// ([`JournalError::Damage`]), after which the walk goes on at the next group that can be found.
    pub fn segments_from(&self, base_tag: Option<u64>) -> impl Iterator<Item = Result<Frame, JournalError>> + use<> {
        let walk = list(&self.root).map(|numbers| self.walk(from_base(&self.root, &numbers, base_tag)));
        let (walk, failure) = match walk {
            Ok(walk) => (Some(walk), None),
            Err(error) => (None, Some(Err(error))),
        };
        let frames = walk.into_iter().flat_map(|mut walk| std::iter::from_fn(move || walk.step()));
        failure.into_iter().chain(frames.map(|item| item.map_err(JournalError::from)))
    }

    /// The segments by number, and their bytes.
    ///
    /// # Errors
    /// If they cannot be listed or looked at.
    pub fn segment_sizes(&self) -> Result<Vec<(u64, u64)>, JournalError> {
        let size = |number| {
            let path = segment_path(&self.root.dir, number);
            let length = self.root.disk.open(&path, Access::Read).and_then(|file| file.length()).during(Operation::Read, &path)?;
            Ok((number, length))
        };
        list(&self.root)?.into_iter().map(size).collect()
    }

    fn walk(&self, files: Vec<u64>) -> SegmentWalk {
        SegmentWalk::new(&self.root, files, self.expected(StreamKind::Segments))
    }

    /// The current generation of the voting record and the damage met in reading it.
    #[must_use]
    pub fn votes(&self) -> Votes {
        let VotesState { generation, frames, damage, .. } = self.load_votes();
        Votes { generation, frames, damage }
    }

    /// The payload at `locator`, read and checked page by page. Only records that have been synced can be read.
    ///
    /// # Errors
    /// [`JournalError::Damage`] if the pages or the frame there are not what the locator says,
    /// [`JournalError::FrameTooLong`], or IO.
    pub fn read(&self, locator: Locator) -> Result<Vec<u8>, JournalError> {
        let Locator { segment, page, offset, len } = locator;
        if len > self.max_frame_bytes {
            return Err(JournalError::FrameTooLong { len: len as usize, max: self.max_frame_bytes });
        }
        let path = segment_path(&self.root.dir, segment);
        let bad = |page, kind| Damage { stream: StreamKind::Segments, file: path.clone(), page: Some(page), kind };
        let malformed = |found| {
            let problem = FrameProblem::Locator { expected: len, found };
            bad(page, DamageKind::Frame { group: 0, offset: offset as usize, problem })
        };
        let start = (offset as usize).checked_sub(FRAME_HEADER).ok_or_else(|| malformed(0))?;
        let (first, skip) = (start / PAYLOAD, start % PAYLOAD);
        let count = (skip + FRAME_HEADER + len as usize).div_ceil(PAYLOAD);
        let file = self.root.disk.open(&path, Access::Read).during(Operation::Open, &path)?;
        let size = file.length().during(Operation::Read, &path)?;
        let at = (u64::from(page) + first as u64) * PAGE as u64;
        if at + (count * PAGE) as u64 > size {
            return Err(malformed(0).into());
        }
        let mut raw = vec![0; count * PAGE];
        file.read(&mut raw, at).during(Operation::Read, &path)?;
        let (mut payload, mut group) = (Vec::with_capacity(count * PAYLOAD), None);
        for (index, bytes) in (first as u32..).zip(raw.chunks_exact(PAGE)) {
            let number = page.saturating_add(index);
            let found = classify(StreamKind::Segments, number, bytes);
            match found {
                PageFound::Whole(PagePlace { lap, group: its, index: place, .. })
                    if lap == segment && place == index && *group.get_or_insert(its) == its => {}
                _ => return Err(bad(number, DamageKind::Page { group: group.unwrap_or(0), index, found }).into()),
            }
            payload.extend_from_slice(bytes.get(..PAYLOAD).unwrap_or_default());
        }
        let frame = payload.get(skip..).unwrap_or_default();
        let head = FrameHead::parse(frame).filter(|head| head.kind != 0 && head.kind < KIND_MARK);
        let found = head.map_or(0, |head| head.len);
        let body = frame.get(FRAME_HEADER..FRAME_HEADER + len as usize);
        body.filter(|_| head.is_some() && found == len).map(<[u8]>::to_vec).ok_or_else(|| malformed(found).into())
    }

    /// Reads everything: every frame of every segment, both votes files, and that unused space is unused.
    ///
    /// # Errors
    /// Only if the segments cannot be listed; everything else is in the report.
    pub fn check(&self) -> Result<JournalReport, JournalError> {
        self.check_and_visit(&mut |_| true)
    }

    /// The same, and hands out every segment record, and every damage between them, on the way. When `visit` yields false the rest is not read.
    ///
    /// # Errors
    /// As above.
    pub fn check_and_visit(&self, visit: &mut dyn FnMut(Result<Frame, Damage>) -> bool) -> Result<JournalReport, JournalError> {
        // A running writer goes on while this reads. What the votes say of the segments is compared with segments read
        // later, and what the segments say of the votes with votes read later still.
        let before = self.load_votes();
        let numbers = list(&self.root)?;
        let mut walk = self.walk(numbers.clone());
        let mut report = JournalReport::default();
        while let Some(item) = walk.step() {
            if let Err(damage) = &item {
                report.add(damage.clone());
            }
            if !visit(item) {
                return Ok(report);
            }
        }
        let after = self.load_votes();
        lost_segments(&self.root.dir, &numbers, &walk, &before).into_iter().for_each(|damage| report.add(damage));
        lost_votes(&self.root.dir, &walk, &after).into_iter().for_each(|damage| report.add(damage));
        fill(&mut report, &numbers, &walk, &after);
        Ok(report)
    }
}

/// Completes a report whose segment damage is already in it.
pub(super) fn fill(report: &mut JournalReport, numbers: &[u64], walk: &SegmentWalk, votes: &VotesState) {
    votes.damage.iter().cloned().for_each(|damage| report.add(damage));
    report.first_segment = numbers.first().copied().unwrap_or(0);
    report.last_segment = numbers.last().copied().unwrap_or(0);
    report.segments_read = walk.segments;
    report.segment_frames = walk.frames;
    report.votes_generation = votes.generation;
    report.votes_frames = votes.frames.len() as u64;
    report.segment_pages_cut = walk.end.as_ref().map_or(0, |(tail, _)| tail.torn.len() as u32);
    report.votes_pages_cut = votes.pages_cut() as u32;
    report.highest_lsn = walk.last_lsn.max(walk.mark).max(votes.last_lsn).max(votes.mark);
}
