//! The segments: listing them, walking over their frames, and writing them.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::disk::{Disk, DiskFile, Root, open_rw, reserve, sync_dir, write_again, write_synced, zero_pages};
use super::error::{Damage, DamageKind, IoContext, JournalError, Operation};
use super::frame::{FORMAT_VERSION, FRAME_HEADER, Frame, HEADER_FRAME, Header, Locator, MARK_FRAME, StreamKind, push_frame, push_mark};
use super::page::{GroupBuilder, PAYLOAD, PageFound, PagePlace};
use super::report::JournalOptions;
use super::scan::{Expectation, FrameScan, PageSource, Tail};
use crate::failpoint::{self, Point};
use crate::planted::{Bug, on};

/// The directory of the segments within the journal's.
pub(super) fn segments_dir(dir: &Path) -> PathBuf {
    dir.join("segments")
}

/// The path of segment `number`.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    segments_dir(dir).join(format!("{number:020}.seg"))
}

/// The numbers of the segments in the directory, ascending. A missing directory holds none; other names are ignored.
pub(super) fn list(root: &Root) -> Result<Vec<u64>, JournalError> {
    let segments = segments_dir(&root.dir);
    let names = match root.disk.list(&segments) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.during(Operation::List, &segments)?,
    };
    let mut numbers = Vec::new();
    for name in names {
        let number = name.strip_suffix(".seg").filter(|digits| digits.len() == 20);
        numbers.extend(number.and_then(|digits| digits.parse::<u64>().ok()).filter(|number| *number > 0));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The header of segment `number`, if its first group is whole; reads that group only. A torn one was never acknowledged, and whoever begins
/// there would miss what the segment before holds.
pub(super) fn peek_header(root: &Root, number: u64) -> Option<Header> {
    let (mut source, _) = PageSource::open(&root.disk, &segment_path(&root.dir, number), StreamKind::Segments).ok()?;
    if source.pages() == 0 {
        return None;
    }
    let (found, bytes) = source.page(0);
    let PageFound::Whole(first @ PagePlace { lap, group: 1, index: 0, count }) = found else { return None };
    let header = Header::at_start(bytes.get(..PAYLOAD)?).filter(|header| lap == number && header.number == number)?;
    let whole = (1..count).all(|index| index < source.pages() && source.page(index).0 == PageFound::Whole(PagePlace { index, ..first }));
    whole.then_some(header)
}

/// The segments from the newest one whose earlier segments hold no tag above `base`; all without a base.
/// A segment without a readable header is never the start, so its damage is met, not skipped.
pub(super) fn from_base(root: &Root, numbers: &[u64], base: Option<u64>) -> Vec<u64> {
    let starts = |number: &&u64| base.is_some_and(|base| peek_header(root, **number).is_some_and(|header| header.max_tag_before <= base));
    let start = numbers.iter().rev().find(starts).copied().unwrap_or(0);
    numbers.iter().copied().filter(|number| *number >= start).collect()
}

/// Walks over the frames of several segments in order, memory bounded by one group.
pub(super) struct SegmentWalk {
    root: Root,
    files: VecDeque<u64>,
    expected: Expectation,
    current: Option<FrameScan>,
    pending: VecDeque<Result<Frame, Damage>>,
    previous: Option<u64>,
    header_seen: bool,
    /// Segments begun.
    pub(super) segments: u64,
    /// Records yielded.
    pub(super) frames: u64,
    /// The last record of the stream.
    pub(super) last_lsn: u64,
    /// The highest tag.
    pub(super) max_tag: u64,
    /// The last record of the votes that the segments say was durable.
    pub(super) mark: u64,
    /// Where the last segment ends, and its pages.
    pub(super) end: Option<(Tail, u32)>,
}

impl SegmentWalk {
    /// `expected.lap` is set per file.
    pub(super) fn new(root: &Root, files: Vec<u64>, expected: Expectation) -> Self {
        Self {
            root: root.clone(),
            files: files.into(),
            expected,
            current: None,
            pending: VecDeque::new(),
            previous: None,
            header_seen: false,
            segments: 0,
            frames: 0,
            last_lsn: 0,
            max_tag: 0,
            mark: 0,
            end: None,
        }
    }

    /// The next frame or damaged place.
    pub(super) fn step(&mut self) -> Option<Result<Frame, Damage>> {
        loop {
            if let Some(item) = self.pending.pop_front() {
                self.frames += u64::from(item.is_ok());
                return Some(item);
            }
            let Some(mut scan) = self.current.take() else {
                let number = self.files.pop_front()?;
                self.begin(number);
                continue;
            };
            let item = scan.next();
            // A lost end of the segment before is reported before the frames that follow it.
            self.meet_header(&scan);
            match item {
                Some(item) => {
                    self.pending.push_back(item);
                    self.current = Some(scan);
                }
                None => self.finish(scan),
            }
        }
    }

    fn begin(&mut self, number: u64) {
        let missing = self.previous.map(|previous| previous.saturating_add(1)).filter(|next| *next < number);
        if let Some(missing) = missing {
            let file = segment_path(&self.root.dir, missing);
            self.pending.push_back(Err(Damage { stream: StreamKind::Segments, file, page: None, kind: DamageKind::MissingFile }));
        }
        // Without the segment before, there is nothing to compare this one's beginning with.
        let linked = self.previous.is_some() && missing.is_none();
        self.segments += 1;
        self.previous = Some(number);
        self.header_seen = !linked;
        // Its first group may be damaged behind the header's page: what was numbered before is never numbered again.
        if let Some(header) = peek_header(&self.root, number).filter(|_| !linked) {
            self.last_lsn = self.last_lsn.max(header.last_lsn_before);
            self.max_tag = self.max_tag.max(header.max_tag_before);
        }
        match FrameScan::open(&self.root.disk, &segment_path(&self.root.dir, number), Expectation { lap: number, ..self.expected }) {
            Ok(mut scan) => {
                scan.last_lsn = self.last_lsn;
                self.current = Some(scan);
            }
            Err(damage) => {
                self.pending.push_back(Err(damage));
                self.end = None;
            }
        }
    }

    /// Compares what a segment says of the one before with what was found there.
    fn meet_header(&mut self, scan: &FrameScan) {
        let Some(header) = scan.header.filter(|_| !self.header_seen) else { return };
        self.header_seen = true;
        if header.last_lsn_before > self.last_lsn {
            let file = segment_path(&self.root.dir, header.number.saturating_sub(1));
            let kind = DamageKind::LostRecords { expected: header.last_lsn_before, found: self.last_lsn };
            self.pending.push_back(Err(Damage { stream: StreamKind::Segments, file, page: None, kind }));
        }
    }

    fn finish(&mut self, scan: FrameScan) {
        self.last_lsn = self.last_lsn.max(scan.last_lsn);
        self.max_tag = self.max_tag.max(scan.max_tag);
        self.mark = self.mark.max(scan.mark);
        let Some(tail) = scan.tail.clone() else { return };
        if !self.files.is_empty() {
            let damage = |page, kind| Damage { stream: StreamKind::Segments, file: scan.path().to_path_buf(), page, kind };
            if !tail.torn.is_empty() {
                self.pending.push_back(Err(damage(Some(tail.page), DamageKind::TornInside { group: tail.group })));
            } else if scan.header.is_none() && !scan.damaged {
                self.pending.push_back(Err(damage(Some(0), DamageKind::NoHeader)));
            }
        }
        self.end = Some((tail, scan.pages()));
    }
}

/// The next segment, being prepared by a thread of its own.
struct Preparation {
    number: u64,
    pages: u32,
    path: PathBuf,
    thread: JoinHandle<Result<Box<dyn DiskFile>, JournalError>>,
}

impl Preparation {
    fn start(disk: Arc<dyn Disk>, path: PathBuf, number: u64, pages: u32) -> Result<Self, JournalError> {
        let target = path.clone();
        let builder = thread::Builder::new().name("journal-segment".to_owned());
        let thread = builder.spawn(move || reserve(&*disk, &target, pages)).during(Operation::Allocate, &path)?;
        Ok(Self { number, pages, path, thread })
    }

    fn wait(self) -> Result<Box<dyn DiskFile>, JournalError> {
        self.thread.join().map_err(|_| JournalError::Preparation { path: self.path })?
    }
}

/// Appends to the newest segment.
pub(super) struct SegmentWriter {
    root: Root,
    federation_id: [u8; 32],
    segment_pages: u32,
    number: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    pages: u32,
    next_page: u32,
    next_group: u32,
    builder: GroupBuilder,
    last_lsn: u64,
    synced_lsn: u64,
    max_tag: u64,
    preparation: Option<Preparation>,
    begun: u64,
}

impl SegmentWriter {
    /// Goes on where `walk` (which has reached its end) found the last segment to end and cuts a torn group. If the
    /// segments are not `intact` they are left as they are and the next one is begun.
    pub(super) fn resume(
        root: &Root,
        federation_id: [u8; 32],
        options: &JournalOptions,
        walk: &SegmentWalk,
        intact: bool,
        last_lsn: u64,
    ) -> Result<Self, JournalError> {
        discard_preparations(root)?;
        let (disk, dir) = (&*root.disk, root.dir.as_path());
        let segment_pages = options.segment_pages();
        // A killed process may have named a segment and not synced the name.
        sync_dir(&*root.disk, &segments_dir(&root.dir))?;
        let newest = walk.previous.unwrap_or(0);
        let usable = walk.end.as_ref().filter(|_| intact);
        let (number, path, file, pages, tail) = match usable {
            Some((tail, pages)) => {
                let path = segment_path(dir, newest);
                let file = open_rw(disk, &path)?;
                zero_pages(&*file, &path, &tail.torn)?;
                write_again(&*file, &path, tail.last.unwrap_or(tail.page)..tail.page)?;
                (newest, path, file, *pages, tail.clone())
            }
            None => {
                let number = newest.checked_add(1).ok_or(JournalError::Exhausted { what: "segment" })?;
                let path = segment_path(dir, number);
                let file = reserve(disk, &path.with_added_extension("tmp"), segment_pages)?;
                put_in_place(root, &path)?;
                (number, path, file, segment_pages, Tail { page: 0, group: 1, torn: Vec::new(), last: None })
            }
        };
        Ok(Self {
            root: root.clone(),
            federation_id,
            segment_pages,
            number,
            path,
            file,
            pages,
            next_page: tail.page,
            next_group: tail.group,
            builder: GroupBuilder::default(),
            last_lsn,
            synced_lsn: last_lsn,
            max_tag: walk.max_tag,
            preparation: None,
            begun: 0,
        })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    pub(super) const fn synced_lsn(&self) -> u64 {
        self.synced_lsn
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether `record` payload bytes still fit this segment with the frames around them.
    fn fits(&self, record: usize) -> bool {
        let header = if self.builder.is_empty() && self.next_page == 0 { HEADER_FRAME } else { 0 };
        let pages = self.builder.pages_with(header + record + MARK_FRAME);
        pages <= self.pages.saturating_sub(self.next_page) as usize
    }

    /// Whether the record can only be appended after `flush`.
    pub(super) fn needs_flush(&self, payload: usize) -> bool {
        !self.builder.is_empty() && !self.fits(FRAME_HEADER + payload)
    }

    /// Appends a record to the open group, which `needs_flush` has said to be possible.
    pub(super) fn append(&mut self, kind: u8, tag: u64, lsn: u64, payload: &[u8]) -> Result<Locator, JournalError> {
        if !self.fits(FRAME_HEADER + payload.len()) {
            self.roll(FRAME_HEADER + payload.len())?;
        }
        if self.builder.is_empty() && self.next_page == 0 {
            self.header(lsn).push(&mut self.builder);
        }
        let offset = self.builder.payload().saturating_add(FRAME_HEADER);
        push_frame(&mut self.builder, kind, lsn, tag, payload);
        self.last_lsn = lsn;
        self.max_tag = self.max_tag.max(tag);
        // A group fits its file and a file has at most 1 GiB, so both fit a u32.
        Ok(Locator { segment: self.number, page: self.next_page, offset: offset as u32, len: payload.len() as u32 })
    }

    /// Makes room for a group of a mark alone, for `flush` to write.
    pub(super) fn begin_mark(&mut self, next_lsn: u64) -> Result<(), JournalError> {
        if !self.fits(0) {
            self.roll(0)?;
        }
        if self.builder.is_empty() && self.next_page == 0 {
            self.header(next_lsn).push(&mut self.builder);
        }
        Ok(())
    }

    const fn header(&self, first_lsn: u64) -> Header {
        Header {
            version: FORMAT_VERSION,
            federation_id: self.federation_id,
            number: self.number,
            pages: self.pages,
            first_lsn,
            last_lsn_before: self.last_lsn,
            max_tag_before: self.max_tag,
        }
    }

    /// Begins the next segment, large enough for one record; an unused segment that is too small is replaced.
    fn roll(&mut self, record: usize) -> Result<(), JournalError> {
        let needed = (HEADER_FRAME + record + MARK_FRAME).div_ceil(PAYLOAD) as u32;
        let step = u64::from(self.next_page > 0);
        let number = self.number.checked_add(step).ok_or(JournalError::Exhausted { what: "segment" })?;
        let pages = needed.max(self.segment_pages);
        let path = segment_path(&self.root.dir, number);
        let prepared = match self.preparation.take() {
            Some(preparation) => {
                let (its, size) = (preparation.number, preparation.pages);
                let file = preparation.wait()?;
                (its == number && size == pages).then_some(file)
            }
            None => None,
        };
        self.file = match prepared {
            Some(file) => file,
            None => reserve(&*self.root.disk, &path.with_added_extension("tmp"), pages)?,
        };
        failpoint::hit(Point::SegmentRoll);
        put_in_place(&self.root, &path)?;
        failpoint::hit(Point::SegmentRolled);
        (self.number, self.path, self.pages) = (number, path, pages);
        (self.next_page, self.next_group) = (0, 1);
        self.begun += 1;
        Ok(())
    }

    /// Writes the open group and makes it durable; returns its bytes. `votes_synced` is the last durable vote record.
    pub(super) fn flush(&mut self, votes_synced: u64) -> Result<u64, JournalError> {
        let mut group = std::mem::take(&mut self.builder);
        push_mark(&mut group, votes_synced);
        let count = group.pages_with(0) as u32;
        let bytes = group.seal(StreamKind::Segments, self.number, self.next_group, self.next_page);
        failpoint::hit(Point::SegmentWrite);
        write_synced(&*self.file, &self.path, &bytes, self.next_page)?;
        failpoint::hit(Point::SegmentSynced);
        self.next_page += count;
        self.next_group = self.next_group.checked_add(1).ok_or(JournalError::Exhausted { what: "group" })?;
        self.synced_lsn = self.last_lsn;
        if self.preparation.is_none() && self.root.disk.prepares_ahead() {
            let next = self.number.saturating_add(1);
            let path = segment_path(&self.root.dir, next).with_added_extension("tmp");
            self.preparation = Some(Preparation::start(self.root.disk.clone(), path, next, self.segment_pages)?);
        }
        Ok(bytes.len() as u64)
    }
}

impl Drop for SegmentWriter {
    /// Nothing of this writer may still touch the directory once it is closed.
    fn drop(&mut self) {
        if let Some(preparation) = self.preparation.take() {
            // A file that could not be prepared is not needed any more.
            let _ = preparation.wait();
        }
    }
}

/// Gives a prepared segment its name, durably.
fn put_in_place(root: &Root, path: &Path) -> Result<(), JournalError> {
    root.disk.rename(&path.with_added_extension("tmp"), path).during(Operation::Rename, path)?;
    if on(Bug::SegmentNameNotSynced) {
        return Ok(());
    }
    sync_dir(&*root.disk, &segments_dir(&root.dir))
}

/// Removes segments that were prepared and never used, whatever their size.
fn discard_preparations(root: &Root) -> Result<(), JournalError> {
    let segments = segments_dir(&root.dir);
    root.disk.create_dir(&segments).during(Operation::Open, &segments)?;
    for name in root.disk.list(&segments).during(Operation::List, &segments)? {
        if name.ends_with(".seg.tmp") {
            let path = segments.join(name);
            root.disk.remove(&path).during(Operation::Remove, &path)?;
        }
    }
    Ok(())
}
