//! Reading one file: pages into groups, groups into frames, and the judgement of what is torn and what is damaged.
//!
//! The rule: after the last whole group there may be missing pages (zero, or in a votes file of an earlier lap) and whole
//! pages of the next group, each in its place. That is a torn write. Anything else is damage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::disk::{Access, Disk, DiskFile};
use super::error::{Damage, DamageKind, FrameProblem};
use super::frame::{FORMAT_VERSION, Frame, FrameCursor, FrameHead, Header, KIND_HEADER, KIND_MARK, Locator, RawFrame, StreamKind};
use super::page::{PAGE, PAYLOAD, PageFound, PagePlace, classify};
use crate::planted::{Bug, on};

/// Pages read at once.
const CHUNK: u32 = 64;
/// How often a reader beside a running writer looks again before it calls a place damaged, and how long it waits.
pub(super) const LIVE_LOOKS: u32 = 5;
pub(super) const LIVE_PAUSE: Duration = Duration::from_millis(2);

/// Pages of one file, read in chunks.
pub(super) struct PageSource {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    stream: StreamKind,
    pages: u32,
    chunk: Vec<u8>,
    chunk_start: u32,
}

impl PageSource {
    /// Opens `path` for reading. A length that is not a whole number of pages is damage, and the rest is still read.
    pub(super) fn open(disk: &Arc<dyn Disk>, path: &Path, stream: StreamKind) -> Result<(Self, Option<Damage>), Damage> {
        let damage = |kind| Damage { stream, file: path.to_path_buf(), page: None, kind };
        let file = disk.open(path, Access::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damage(DamageKind::MissingFile),
            kind => damage(DamageKind::Unreadable(kind)),
        })?;
        let found = file.length().map_err(|error| damage(DamageKind::Unreadable(error.kind())))?;
        let pages = u32::try_from(found / PAGE as u64).unwrap_or(u32::MAX);
        let expected = u64::from(pages) * PAGE as u64;
        let length = (found != expected).then(|| damage(DamageKind::Length { expected, found }));
        Ok((Self { disk: disk.clone(), file, stream, pages, chunk: Vec::new(), chunk_start: 0 }, length))
    }

    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    fn forget(&mut self) {
        self.chunk.clear();
    }

    /// What page `number` is, and its bytes.
    pub(super) fn page(&mut self, number: u32) -> (PageFound, &[u8]) {
        if let Err(error) = self.load(number) {
            return (PageFound::Unreadable(error.kind()), &[]);
        }
        let start = number.saturating_sub(self.chunk_start) as usize * PAGE;
        let bytes = self.chunk.get(start..start + PAGE).unwrap_or_default();
        (classify(self.stream, number, bytes), bytes)
    }

    fn load(&mut self, number: u32) -> io::Result<()> {
        let held = (self.chunk.len() / PAGE) as u32;
        if number.checked_sub(self.chunk_start).is_some_and(|index| index < held) {
            return Ok(());
        }
        let wanted = CHUNK.min(self.pages.saturating_sub(number)).max(1);
        // One bad sector must not hide its neighbours: after a failure the page is read alone.
        self.read(number, wanted).or_else(|_| self.read(number, 1)).inspect_err(|_| self.chunk.clear())
    }

    fn read(&mut self, start: u32, pages: u32) -> io::Result<()> {
        self.chunk.resize(pages as usize * PAGE, 0);
        self.chunk_start = start;
        self.file.read(&mut self.chunk, u64::from(start) * PAGE as u64)
    }
}

/// One whole group.
struct Group {
    page: u32,
    number: u32,
    payload: Vec<u8>,
}

/// Where a file's groups end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tail {
    /// Page at which the next group starts.
    pub(super) page: u32,
    /// Number of the next group.
    pub(super) group: u32,
    /// Whole pages of the torn group, to be overwritten with zeros.
    pub(super) torn: Vec<u32>,
    /// First page of the last whole group, if there is one.
    pub(super) last: Option<u32>,
}

enum Step {
    Group(Group),
    Damage(Damage),
    End(Tail),
}

/// What lies behind the last whole group.
struct Break {
    torn: Vec<u32>,
    problem: Option<(u32, PageFound)>,
    resume: Option<(u32, u32)>,
}

/// The groups of one file, in order.
struct GroupScan {
    source: PageSource,
    path: PathBuf,
    lap: u64,
    page: u32,
    group: u32,
    last: Option<u32>,
    live: bool,
    ended: bool,
}

impl GroupScan {
    fn next(&mut self) -> Step {
        let mut looks = 1;
        loop {
            if self.ended {
                return Step::End(Tail { page: self.page, group: self.group, torn: Vec::new(), last: self.last });
            }
            if let Some(payload) = self.whole_group() {
                self.last = Some(self.page);
                let group = Group { page: self.page, number: self.group, payload: payload.1 };
                self.page += payload.0;
                self.group = self.group.saturating_add(1);
                return Step::Group(group);
            }
            let found = self.examine_break();
            let Some((page, what)) = found.problem else {
                return Step::End(Tail { page: self.page, group: self.group, torn: found.torn, last: self.last });
            };
            if self.live && looks < LIVE_LOOKS {
                // A writer may be half-way through a page, or ahead of what was read: look again.
                looks += 1;
                self.source.forget();
                self.source.disk.pause(LIVE_PAUSE);
                continue;
            }
            let kind = DamageKind::Page { group: self.group, index: page.saturating_sub(self.page), found: what };
            let damage = Damage { stream: self.source.stream, file: self.path.clone(), page: Some(page), kind };
            match found.resume {
                Some((page, group)) => (self.page, self.group) = (page, group),
                None => self.ended = true,
            }
            return Step::Damage(damage);
        }
    }

    /// The pages and payload of the next group, if every page of it is whole.
    fn whole_group(&mut self) -> Option<(u32, Vec<u8>)> {
        let (lap, group) = (self.lap, self.group);
        let mut count = 1;
        let mut payload = Vec::new();
        let mut index = 0;
        while index < count {
            let number = self.page.checked_add(index).filter(|number| *number < self.source.pages)?;
            let (found, bytes) = self.source.page(number);
            let PageFound::Whole(place) = found else {
                return (index > 0 && on(Bug::TornGroupRead)).then_some((index, payload));
            };
            if index == 0 {
                count = place.count;
            }
            if place != (PagePlace { lap, group, index, count }) {
                return None;
            }
            payload.extend_from_slice(bytes.get(..PAYLOAD)?);
            index += 1;
        }
        Some((count, payload))
    }

    /// Looks at every page from the break to the end of the file.
    fn examine_break(&mut self) -> Break {
        let (start, lap, group, pages) = (self.page, self.lap, self.group, self.source.pages);
        let mut result = Break { torn: Vec::new(), problem: None, resume: None };
        let (mut missing, mut torn_count) = (None, None);
        for number in start..pages {
            let found = self.source.page(number).0;
            match found {
                PageFound::Zero => {
                    missing.get_or_insert((number, found));
                }
                PageFound::Whole(place) if self.is_earlier_lap(place) => {
                    missing.get_or_insert((number, found));
                }
                PageFound::Whole(place)
                    if place.lap == lap
                        && place.group == group
                        && place.index == number - start
                        && *torn_count.get_or_insert(place.count) == place.count
                        && place.count <= pages - start =>
                {
                    result.torn.push(number);
                }
                PageFound::Whole(PagePlace { lap: its, group: later, index: 0, .. }) if its == lap && later > group => {
                    result.problem = result.problem.or(missing).or(Some((number, found)));
                    result.resume = Some((number, later));
                    return result;
                }
                _ => {
                    result.problem.get_or_insert((number, found));
                }
            }
        }
        result
    }

    /// Votes files are recycled every second generation; segments never.
    fn is_earlier_lap(&self, place: PagePlace) -> bool {
        self.source.stream == StreamKind::Votes && place.lap < self.lap && (self.lap - place.lap).is_multiple_of(2)
    }
}

/// What a file must be, and what is known of its stream before it.
#[derive(Clone, Copy)]
pub(super) struct Expectation {
    pub(super) stream: StreamKind,
    pub(super) lap: u64,
    pub(super) federation_id: Option<[u8; 32]>,
    pub(super) max_frame_bytes: u32,
    pub(super) live: bool,
}

/// The frames of one file in order, with the damage between them.
pub(super) struct FrameScan {
    expected: Expectation,
    groups: GroupScan,
    open: Option<(u32, u32, FrameCursor)>,
    /// The file's header, once read and found good.
    pub(super) header: Option<Header>,
    /// The last record of the stream: of this file, or of an earlier one as the header says.
    pub(super) last_lsn: u64,
    /// The highest tag up to here, earlier segments included.
    pub(super) max_tag: u64,
    /// The last record of the other stream that this file says was durable.
    pub(super) mark: u64,
    /// Where the groups end; set once the frames are exhausted.
    pub(super) tail: Option<Tail>,
    /// Whether any damage was met.
    pub(super) damaged: bool,
    later: Option<Damage>,
}

impl FrameScan {
    /// Opens a file to be scanned; fails if it cannot be opened at all.
    pub(super) fn open(disk: &Arc<dyn Disk>, path: &Path, expected: Expectation) -> Result<Self, Damage> {
        let (source, length) = PageSource::open(disk, path, expected.stream)?;
        let Expectation { lap, live, .. } = expected;
        let groups = GroupScan { source, path: path.to_path_buf(), lap, page: 0, group: 1, last: None, live, ended: false };
        Ok(Self {
            expected,
            groups,
            open: None,
            header: None,
            last_lsn: 0,
            max_tag: 0,
            mark: 0,
            tail: None,
            damaged: length.is_some(),
            later: length,
        })
    }

    pub(super) const fn pages(&self) -> u32 {
        self.groups.source.pages
    }

    pub(super) fn path(&self) -> &Path {
        &self.groups.path
    }

    /// The next frame or damaged place; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Option<Result<Frame, Damage>> {
        if let Some(damage) = self.later.take() {
            return Some(Err(damage));
        }
        let item = loop {
            if let Some((page, number, mut cursor)) = self.open.take() {
                match self.next_in_group(page, number, &mut cursor) {
                    Ok(Some(frame)) => {
                        self.open = Some((page, number, cursor));
                        break Ok(frame);
                    }
                    Ok(None) => continue,
                    Err(damage) => break Err(damage),
                }
            }
            if self.tail.is_some() {
                return None;
            }
            match self.groups.next() {
                Step::Group(group) => self.open = Some((group.page, group.number, FrameCursor::new(group.payload))),
                Step::Damage(damage) => break Err(damage),
                Step::End(tail) => self.tail = Some(tail),
            }
        };
        self.damaged |= item.is_err();
        Some(item)
    }

    /// The next of the caller's frames in a group; what follows a malformed frame in its group is not read.
    fn next_in_group(&mut self, page: u32, group: u32, cursor: &mut FrameCursor) -> Result<Option<Frame>, Damage> {
        let (stream, max) = (self.expected.stream, self.expected.max_frame_bytes);
        loop {
            let (at, starts_file) = (cursor.offset(), group == 1 && cursor.at_start());
            let file = &self.groups.path;
            let damage = |kind| Damage { stream, file: file.clone(), page: Some(page), kind };
            let malformed = |problem| damage(DamageKind::Frame { group, offset: at, problem });
            let Some(RawFrame { head, body, start }) = cursor.next(max).map_err(malformed)? else { return Ok(None) };
            let FrameHead { kind, lsn, tag, len } = head;
            match kind {
                KIND_HEADER if starts_file => {
                    let header = Header::parse(body).ok_or_else(|| damage(DamageKind::NoHeader))?;
                    self.check_header(&header).map_err(damage)?;
                    self.last_lsn = self.last_lsn.max(header.last_lsn_before);
                    self.max_tag = self.max_tag.max(header.max_tag_before);
                    self.header = Some(header);
                }
                KIND_HEADER => return Err(malformed(FrameProblem::StrayHeader)),
                _ if starts_file => return Err(damage(DamageKind::NoHeader)),
                KIND_MARK => self.mark = self.mark.max(tag),
                _ if lsn <= self.last_lsn => {
                    return Err(malformed(FrameProblem::Order { previous: self.last_lsn, found: lsn }));
                }
                _ => {
                    self.last_lsn = lsn;
                    self.max_tag = self.max_tag.max(tag);
                    let locator = (stream == StreamKind::Segments).then(|| Locator {
                        segment: self.expected.lap,
                        page,
                        offset: u32::try_from(start).unwrap_or(u32::MAX),
                        len,
                    });
                    return Ok(Some(Frame { lsn, stream, kind, tag, payload: body.to_vec(), locator }));
                }
            }
        }
    }

    fn check_header(&self, header: &Header) -> Result<(), DamageKind> {
        if header.version != FORMAT_VERSION {
            return Err(DamageKind::Version { expected: FORMAT_VERSION, found: header.version });
        }
        if let Some(expected) = self.expected.federation_id.filter(|expected| *expected != header.federation_id) {
            return Err(DamageKind::OtherFederation { expected, found: header.federation_id });
        }
        if header.number != self.expected.lap {
            return Err(DamageKind::Number { expected: self.expected.lap, found: header.number });
        }
        let found = u64::from(self.pages()) * PAGE as u64;
        let expected = u64::from(header.pages) * PAGE as u64;
        if found < expected { Err(DamageKind::Length { expected, found }) } else { Ok(()) }
    }
}
