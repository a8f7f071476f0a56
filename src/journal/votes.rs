//! The voting record: choosing the generation to believe, and writing it.
//!
//! Generation g lives in `votes.(g mod 2)`. The next one is written into the other file, and only when its first group is
//! durable does the file of the one before become free. So at every instant one of the two files holds a whole generation.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, Root, create_filled, open_rw, sync_dir, write_again, write_synced, zero_extend, zero_pages};
use super::error::{Damage, DamageKind, IoContext, JournalError, Operation};
use super::frame::{FORMAT_VERSION, FRAME_HEADER, Frame, HEADER_FRAME, Header, MARK_FRAME, StreamKind, push_frame, push_mark};
use super::page::{GroupBuilder, PAGE, PAYLOAD, PageFound};
use super::report::{JournalOptions, MAX_PAGES};
use super::scan::{Expectation, FrameScan, LIVE_LOOKS, LIVE_PAUSE, PageSource, Tail};
use crate::failpoint::{self, Point};

/// The path of the file that holds `generation`.
pub(super) fn votes_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(if generation.is_multiple_of(2) { "votes.0" } else { "votes.1" })
}

/// What the two files say.
#[derive(Default)]
pub(super) struct VotesState {
    /// Records of the current generation, in order.
    pub(super) frames: Vec<Frame>,
    /// The current generation, 0 if none is whole.
    pub(super) generation: u64,
    /// The highest generation any valid page names.
    pub(super) highest_generation: u64,
    /// Its header.
    pub(super) header: Option<Header>,
    /// Where it ends, and the pages of its file.
    end: Option<(Tail, u32)>,
    /// Pages of a torn rotation in the other file.
    torn_rotation: Vec<u32>,
    /// The last record of the stream.
    pub(super) last_lsn: u64,
    /// The last segment record that the votes say was durable.
    pub(super) mark: u64,
    /// Every damaged place.
    pub(super) damage: Vec<Damage>,
}

impl VotesState {
    /// Pages of torn groups.
    pub(super) fn pages_cut(&self) -> usize {
        self.torn_rotation.len() + self.end.as_ref().map_or(0, |(tail, _)| tail.torn.len())
    }
}

/// One of the two files, read as the generation that its highest page names.
struct VotesFile {
    lap: u64,
    first_page: PageFound,
    /// Set if the first group of that generation is whole.
    whole: bool,
    scan: FrameScan,
    frames: Vec<Frame>,
    damage: Vec<Damage>,
}

/// Reads the voting record. Beside a running writer (`expected.live`) a file can be recycled while it is read, so what
/// looks damaged is read again.
pub(super) fn load(root: &Root, expected: Expectation) -> VotesState {
    let mut looks = 1;
    loop {
        let state = load_once(root, expected);
        if state.damage.is_empty() || !expected.live || looks == LIVE_LOOKS {
            return state;
        }
        looks += 1;
        root.disk.pause(LIVE_PAUSE);
    }
}

fn load_once(root: &Root, expected: Expectation) -> VotesState {
    let mut state = VotesState::default();
    let mut files = Vec::with_capacity(2);
    for parity in 0..2 {
        match read_file(&root.disk, &votes_path(&root.dir, parity), parity, expected) {
            Ok(file) => files.push(file),
            Err(damage) => state.damage.push(damage),
        }
    }
    state.highest_generation = files.iter().map(|file| file.lap).max().unwrap_or(0);
    files.sort_by_key(|file| (file.whole, file.lap));
    let Some(file) = files.pop_if(|file| file.whole) else {
        state.damage.extend(files.into_iter().flat_map(|file| file.damage));
        let kind = DamageKind::NoGeneration;
        state.damage.push(Damage { stream: StreamKind::Votes, file: root.dir.clone(), page: None, kind });
        return state;
    };
    let generation = file.lap;
    for other in files {
        judge_other(&mut state, other, generation);
    }
    state.generation = generation;
    state.header = file.scan.header;
    state.last_lsn = file.scan.last_lsn;
    state.mark = file.scan.mark;
    state.frames = file.frames;
    state.damage.extend(file.damage);
    let pages = file.scan.pages();
    state.end = file.scan.tail.map(|tail| (tail, pages));
    state
}

fn read_file(disk: &Arc<dyn Disk>, path: &Path, parity: u64, expected: Expectation) -> Result<VotesFile, Damage> {
    let stream = StreamKind::Votes;
    let (mut source, _) = PageSource::open(disk, path, stream)?;
    let (mut lap, mut first_page, mut damage) = (0, PageFound::Zero, Vec::new());
    if source.pages() == 0 {
        // Both files have pages from the beginning; an emptied one may have held the newer generation.
        let kind = DamageKind::Length { expected: PAGE as u64, found: 0 };
        damage.push(Damage { stream, file: path.to_path_buf(), page: None, kind });
    }
    for number in 0..source.pages() {
        let found = source.page(number).0;
        if number == 0 {
            first_page = found;
        }
        let PageFound::Whole(place) = found else { continue };
        if place.lap % 2 != parity && damage.is_empty() {
            let kind = DamageKind::Number { expected: place.lap.saturating_sub(1), found: place.lap };
            damage.push(Damage { stream, file: path.to_path_buf(), page: Some(number), kind });
        }
        lap = lap.max(place.lap);
    }
    // The pages are held still by the check above only as far as the caller repeats it; groups need no second look.
    let mut scan = FrameScan::open(disk, path, Expectation { stream, lap, live: false, ..expected })?;
    let mut frames = Vec::new();
    while let Some(item) = scan.next() {
        match item {
            Ok(frame) => frames.push(frame),
            Err(found) => damage.push(found),
        }
    }
    let whole = lap > 0 && scan.header.is_some();
    Ok(VotesFile { lap, first_page, whole, scan, frames, damage })
}

/// The file that is not current must be free (the generation before, or its remains) or hold a torn rotation; if it
/// could have held a newer generation that was acknowledged, the voting record is damaged.
fn judge_other(state: &mut VotesState, other: VotesFile, generation: u64) {
    let free = match other.first_page {
        PageFound::Zero => other.lap < generation,
        PageFound::Whole(place) => other.lap < generation && place.lap.checked_add(1) == Some(generation),
        PageFound::Invalid | PageFound::Unreadable(_) => false,
    };
    if free {
        return;
    }
    let torn = other.damage.is_empty() && !other.whole && generation.checked_add(1) == Some(other.lap);
    if torn {
        state.torn_rotation = other.scan.tail.map(|tail| tail.torn).unwrap_or_default();
    } else if other.damage.is_empty() {
        let kind = DamageKind::Number { expected: generation.saturating_sub(1), found: other.lap };
        let file = other.scan.path().to_path_buf();
        state.damage.push(Damage { stream: StreamKind::Votes, file, page: Some(0), kind });
    } else {
        state.damage.extend(other.damage);
    }
}

/// What goes into a snapshot group.
pub(super) struct Snapshot<'a> {
    pub(super) records: &'a [(u8, Vec<u8>)],
    /// Number of the first record.
    pub(super) first_lsn: u64,
    pub(super) segments_synced: u64,
}

/// Pages of a snapshot group.
fn snapshot_pages(records: &[(u8, Vec<u8>)]) -> usize {
    let bytes = records.iter().map(|(_, payload)| payload.len().saturating_add(FRAME_HEADER));
    bytes.fold(HEADER_FRAME + MARK_FRAME, usize::saturating_add).div_ceil(PAYLOAD)
}

fn too_large(pages: usize) -> JournalError {
    let bytes = |pages: u64| pages.saturating_mul(PAGE as u64);
    JournalError::VotesTooLarge { needed: bytes(pages as u64), actual: bytes(u64::from(MAX_PAGES)) }
}

/// Pages of a file of which a group of `needed` pages takes at most half.
fn roomy(needed: usize, least: u32) -> Result<u32, JournalError> {
    let pages = u32::try_from(needed).ok().filter(|pages| *pages <= MAX_PAGES).ok_or_else(|| too_large(needed))?;
    Ok(pages.saturating_mul(2).clamp(least, MAX_PAGES.max(least)))
}

/// Builds the first group of a generation; returns its bytes.
fn snapshot_group(federation_id: [u8; 32], generation: u64, pages: u32, before: u64, snapshot: &Snapshot<'_>) -> Vec<u8> {
    let mut group = GroupBuilder::default();
    let header = Header {
        version: FORMAT_VERSION,
        federation_id,
        number: generation,
        pages,
        first_lsn: snapshot.first_lsn,
        last_lsn_before: before,
        max_tag_before: 0,
    };
    header.push(&mut group);
    for (lsn, (kind, payload)) in (snapshot.first_lsn..).zip(snapshot.records) {
        push_frame(&mut group, *kind, lsn, 0, payload);
    }
    push_mark(&mut group, snapshot.segments_synced);
    group.seal(StreamKind::Votes, generation, 1, 0)
}

/// Appends to the current generation.
pub(super) struct VotesWriter {
    root: Root,
    federation_id: [u8; 32],
    least_pages: u32,
    generation: u64,
    path: PathBuf,
    /// None while the voting record is damaged.
    file: Option<Box<dyn DiskFile>>,
    pages: u32,
    next_page: u32,
    next_group: u32,
    builder: GroupBuilder,
    last_lsn: u64,
    synced_lsn: u64,
}

impl VotesWriter {
    /// Creates both files, generation 1 in `votes.1`.
    pub(super) fn create(root: &Root, federation_id: [u8; 32], options: &JournalOptions, snapshot: &Snapshot<'_>) -> Result<(), JournalError> {
        let mut writer = Self::damaged(root, federation_id, options, 0, 0);
        writer.replace(snapshot).map(|_| ())
    }

    /// Goes on where `state` ends: cuts torn groups. A damaged record is left as it is until it is replaced.
    pub(super) fn resume(
        root: &Root,
        federation_id: [u8; 32],
        options: &JournalOptions,
        state: &VotesState,
        last_lsn: u64,
    ) -> Result<Self, JournalError> {
        let mut writer = Self::damaged(root, federation_id, options, state.highest_generation, last_lsn);
        let (disk, dir) = (&*root.disk, root.dir.as_path());
        let Some((tail, pages)) = state.end.as_ref().filter(|_| state.damage.is_empty()) else { return Ok(writer) };
        if !state.torn_rotation.is_empty() {
            let other = votes_path(dir, state.generation.saturating_add(1));
            zero_pages(&*open_rw(disk, &other)?, &other, &state.torn_rotation)?;
        }
        writer.generation = state.generation;
        writer.path = votes_path(dir, state.generation);
        let file = open_rw(disk, &writer.path)?;
        zero_pages(&*file, &writer.path, &tail.torn)?;
        write_again(&*file, &writer.path, tail.last.unwrap_or(tail.page)..tail.page)?;
        sync_dir(disk, dir)?;
        (writer.file, writer.pages, writer.next_page, writer.next_group) = (Some(file), *pages, tail.page, tail.group);
        Ok(writer)
    }

    fn damaged(root: &Root, federation_id: [u8; 32], options: &JournalOptions, generation: u64, last_lsn: u64) -> Self {
        Self {
            root: root.clone(),
            federation_id,
            least_pages: options.votes_pages(),
            generation,
            path: votes_path(&root.dir, generation),
            file: None,
            pages: 0,
            next_page: 0,
            next_group: 1,
            builder: GroupBuilder::default(),
            last_lsn,
            synced_lsn: last_lsn,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    pub(super) const fn is_damaged(&self) -> bool {
        self.file.is_none()
    }

    pub(super) const fn synced_lsn(&self) -> u64 {
        self.synced_lsn
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether less than a quarter of the file is left.
    pub(super) const fn need_rotation(&self) -> bool {
        let used = self.next_page as usize + self.builder.pages_with(MARK_FRAME);
        self.file.is_none() || (self.pages as usize).saturating_sub(used) < self.pages as usize / 4
    }

    pub(super) fn append(&mut self, kind: u8, lsn: u64, payload: &[u8]) {
        push_frame(&mut self.builder, kind, lsn, 0, payload);
        self.last_lsn = lsn;
    }

    /// Writes the open group and makes it durable; returns its bytes. A full file grows.
    pub(super) fn flush(&mut self, segments_synced: u64) -> Result<u64, JournalError> {
        let Some(file) = &self.file else { return Err(JournalError::VotesDamaged { dir: self.root.dir.clone() }) };
        let mut group = std::mem::take(&mut self.builder);
        push_mark(&mut group, segments_synced);
        let count = group.pages_with(0);
        let end = count.saturating_add(self.next_page as usize);
        if end > self.pages as usize {
            let pages = roomy(end, self.pages)?;
            zero_extend(&**file, &self.path, self.pages, pages)?;
            self.pages = pages;
        }
        let bytes = group.seal(StreamKind::Votes, self.generation, self.next_group, self.next_page);
        failpoint::hit(Point::VotesWrite);
        write_synced(&**file, &self.path, &bytes, self.next_page)?;
        failpoint::hit(Point::VotesSynced);
        self.next_page += count as u32;
        self.next_group = self.next_group.checked_add(1).ok_or(JournalError::Exhausted { what: "group" })?;
        self.synced_lsn = self.last_lsn;
        Ok(bytes.len() as u64)
    }

    /// Begins the next generation with a snapshot; returns its bytes. The open group must have been flushed.
    pub(super) fn rotate(&mut self, snapshot: &Snapshot<'_>) -> Result<u64, JournalError> {
        if self.is_damaged() {
            return self.replace(snapshot);
        }
        let generation = self.next_generation()?;
        let path = votes_path(&self.root.dir, generation);
        let file = open_rw(&*self.root.disk, &path)?;
        let length = file.length().during(Operation::Read, &path)?;
        let held = u32::try_from(length / PAGE as u64).unwrap_or(u32::MAX);
        let pages = roomy(snapshot_pages(snapshot.records), self.least_pages)?.max(held);
        if pages > held {
            zero_extend(&*file, &path, held, pages)?;
        }
        let bytes = snapshot_group(self.federation_id, generation, pages, self.last_lsn, snapshot);
        failpoint::hit(Point::VotesRotate);
        write_synced(&*file, &path, &bytes, 0)?;
        failpoint::hit(Point::VotesRotated);
        self.begin(generation, path, file, pages, bytes.len(), snapshot);
        Ok(bytes.len() as u64)
    }

    /// Writes both files anew, each under a temporary name until it is durable. The new generation comes first, so a
    /// crash in between leaves it beside the damaged file, which is reported again.
    fn replace(&mut self, snapshot: &Snapshot<'_>) -> Result<u64, JournalError> {
        let generation = self.next_generation()?;
        let pages = roomy(snapshot_pages(snapshot.records), self.least_pages)?;
        let bytes = snapshot_group(self.federation_id, generation, pages, self.last_lsn, snapshot);
        let Root { disk, dir } = self.root.clone();
        let path = votes_path(&dir, generation);
        let file = create_filled(&*disk, &path, pages, &bytes)?;
        sync_dir(&*disk, &dir)?;
        create_filled(&*disk, &votes_path(&dir, generation.saturating_add(1)), pages, &[])?;
        sync_dir(&*disk, &dir)?;
        self.begin(generation, path, file, pages, bytes.len(), snapshot);
        Ok(bytes.len() as u64)
    }

    fn next_generation(&self) -> Result<u64, JournalError> {
        self.generation.checked_add(1).ok_or(JournalError::Exhausted { what: "generation" })
    }

    fn begin(&mut self, generation: u64, path: PathBuf, file: Box<dyn DiskFile>, pages: u32, bytes: usize, snapshot: &Snapshot<'_>) {
        (self.generation, self.path, self.file, self.pages) = (generation, path, Some(file), pages);
        (self.next_page, self.next_group) = ((bytes / PAGE) as u32, 2);
        if let Some(more) = (snapshot.records.len() as u64).checked_sub(1) {
            self.last_lsn = snapshot.first_lsn.saturating_add(more);
        }
        self.synced_lsn = self.last_lsn;
    }
}
