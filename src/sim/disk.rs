//! A simulated disk: what a power cut leaves, what damage does, and when it fails.
//!
//! A write reaches a cache of pages; a sync makes the file's pages durable, a directory's sync its names. A power cut keeps or loses
//! each page that was not synced, in any combination, and each name by itself or all up to one. A page is written as one (`docs/store-format.md` assumes
//! that of the medium); a page torn by sectors is damage. A killed process loses nothing of the cache. After a sync that
//! failed, pages count as clean and are not durable, as on Linux ("Can Applications Recover from fsync Failures?", USENIX ATC 2020).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::rng::Rng;
use crate::journal::{Access, Disk, DiskFile};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// What a disk can be made to fail at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    /// The power goes at this operation.
    Crash,
    /// The next write from then on fails with "no space left".
    NoSpace,
    /// The next write from then on fails with "input/output error".
    WriteError,
    /// The next sync from then on does.
    SyncError,
}

/// One file's bytes, in the cache and on the medium.
#[derive(Debug, Clone, Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn write(&mut self, bytes: &[u8], at: usize) {
        if self.cached.len() < at + bytes.len() {
            self.cached.resize(at + bytes.len(), 0);
        }
        if let Some(target) = self.cached.get_mut(at..at + bytes.len()) {
            target.copy_from_slice(bytes);
        }
        self.dirty.extend(at / PAGE..(at + bytes.len()).div_ceil(PAGE));
    }

    fn persist(&mut self) {
        let Self { cached, durable, dirty } = self;
        durable.resize(cached.len(), 0);
        for page in std::mem::take(dirty) {
            let range = page * PAGE..((page + 1) * PAGE).min(cached.len());
            if let (Some(to), Some(from)) = (durable.get_mut(range.clone()), cached.get(range)) {
                to.copy_from_slice(from);
            }
        }
    }

    /// What a power cut leaves of it.
    fn lose_power(&mut self, rng: &mut Rng, counts: &mut DiskCounts) {
        let Self { cached, durable, dirty } = self;
        if cached.len() > durable.len() && rng.chance(500) {
            durable.resize(cached.len(), 0);
        } else if cached.len() < durable.len() && rng.chance(500) {
            durable.truncate(cached.len());
        }
        let (mut kept, mut lost) = (0, 0);
        for page in std::mem::take(dirty) {
            let range = page * PAGE..((page + 1) * PAGE).min(cached.len());
            let Some(new) = cached.get(range.clone()).filter(|new| !new.is_empty()) else { continue };
            if rng.chance(500) {
                lost += 1;
                continue;
            }
            kept += 1;
            if durable.len() < range.end {
                durable.resize(range.end, 0);
            }
            if let Some(target) = durable.get_mut(range) {
                target.copy_from_slice(new);
            }
        }
        counts.pages_lost += lost;
        counts.files_torn += u64::from(kept > 0 && lost > 0);
        cached.clone_from(durable);
    }
}

/// What happened to a disk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DiskCounts {
    pub(crate) pages_lost: u64,
    pub(crate) files_torn: u64,
    pub(crate) names_lost: u64,
    pub(crate) syncs: u64,
    pub(crate) lies: u64,
    pub(crate) misdirected: u64,
    pub(crate) lost_writes: u64,
    pub(crate) errors: u64,
}

#[derive(Debug, Clone)]
enum NameOp {
    Put(PathBuf, u64),
    Remove(PathBuf),
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names not yet synced, oldest first; a rename is two that belong together.
    pending: Vec<Vec<NameOp>>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    operations: u64,
    trap: Option<(Trap, u64)>,
    /// The power is off: nothing works until it comes back.
    off: bool,
    /// Syncs answer without doing anything.
    lying: bool,
    /// The next write goes to another page, or nowhere at all.
    misdirect: bool,
    drop_write: bool,
    counts: DiskCounts,
    rng: Option<Rng>,
}

/// A disk, shared by whoever holds a file of it.
#[derive(Default)]
pub(crate) struct SimDisk(Mutex<State>);

fn broken(message: &'static str, kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, message)
}

fn missing() -> io::Error {
    broken("no such file", io::ErrorKind::NotFound)
}

impl State {
    /// Counts an operation; springs the trap.
    fn operate(&mut self, writes: bool, syncs: bool) -> io::Result<()> {
        if self.off {
            return Err(broken("the power is off", io::ErrorKind::NotConnected));
        }
        self.operations += 1;
        let Some((trap, at)) = self.trap.filter(|(_, at)| self.operations >= *at) else { return Ok(()) };
        let _ = at;
        let error = match trap {
            Trap::Crash => {
                self.off = true;
                broken("the power went", io::ErrorKind::NotConnected)
            }
            Trap::NoSpace if writes => broken("no space left on device", io::ErrorKind::StorageFull),
            Trap::WriteError if writes => broken("input/output error", io::ErrorKind::Other),
            Trap::SyncError if syncs => broken("input/output error", io::ErrorKind::Other),
            _ => return Ok(()),
        };
        self.trap = None;
        self.counts.errors += u64::from(trap != Trap::Crash);
        Err(error)
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(missing)
    }

    fn change_names(&mut self, changes: Vec<NameOp>) {
        for change in &changes {
            apply(&mut self.names, change);
        }
        self.pending.push(changes);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: &NameOp) {
    match change {
        NameOp::Put(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameOp::Remove(path) => {
            names.remove(path);
        }
    }
}

/// Damage to what is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// One bit is another.
    BitFlip,
    /// A 512-byte sector reads as zeros.
    ZeroedSector,
    /// A page reads as zeros.
    ZeroedPage,
    /// Some sectors of a page are those of another write: a page was not written as one.
    TornPage,
    /// The end is missing.
    Truncated,
    /// The file is gone.
    Deleted,
    /// The next write lands on another page.
    Misdirected,
    /// The next write never lands.
    LostWrite,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { rng: Some(Rng::new(seed, 0xd15c)), ..State::default() })))
    }

    pub(crate) fn counts(&self) -> DiskCounts {
        self.0.lock().counts
    }

    /// Something beside a file is written or synced: the simulated log's rows share the disk's power.
    pub(crate) fn operate(&self, writes: bool, syncs: bool) -> io::Result<()> {
        self.0.lock().operate(writes, syncs)
    }

    /// Whether everything written is durable, as far as the disk says. Pages of zeros and files under a temporary name stand for nothing.
    pub(crate) fn is_clean(&self) -> bool {
        let state = self.0.lock();
        let temporary = |change: &NameOp| match change {
            NameOp::Put(path, _) | NameOp::Remove(path) => path.extension().is_some_and(|extension| extension == "tmp"),
        };
        let zero = |inode: &Inode, page: usize| inode.cached.iter().skip(page * PAGE).take(PAGE).all(|byte| *byte == 0);
        let whole = |inode: &Inode| inode.dirty.iter().all(|page| zero(inode, *page));
        state.lying || (state.pending.iter().flatten().all(temporary) && state.names.values().filter_map(|i| state.inodes.get(i)).all(whole))
    }

    pub(crate) fn is_lying(&self) -> bool {
        self.0.lock().lying
    }

    /// Whether the power went at a trap.
    pub(crate) fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// Sets a trap so many operations ahead.
    pub(crate) fn set_trap(&self, trap: Trap, ahead: u64) {
        let mut state = self.0.lock();
        state.trap = Some((trap, state.operations + ahead));
    }

    pub(crate) fn set_lying(&self, lying: bool) {
        self.0.lock().lying = lying;
    }

    /// The power goes, and comes back: what was not synced is kept, torn or lost.
    pub(crate) fn lose_power(&self, rng: &mut Rng) {
        let mut state = self.0.lock();
        let state = &mut *state;
        (state.off, state.trap, state.misdirect, state.drop_write) = (false, None, false, false);
        let kept_up_to = rng.chance(500).then(|| rng.below(state.pending.len() as u64 + 1) as usize);
        for (at, changes) in std::mem::take(&mut state.pending).iter().enumerate() {
            let kept = kept_up_to.map_or_else(|| rng.chance(500), |end| at < end);
            if kept {
                changes.iter().for_each(|change| apply(&mut state.durable_names, change));
            } else {
                state.counts.names_lost += 1;
            }
        }
        state.names = state.durable_names.clone();
        let live: BTreeSet<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| live.contains(inode));
        for inode in state.inodes.values_mut() {
            inode.lose_power(rng, &mut state.counts);
        }
    }

    /// The process ended, the machine did not: the cache stays.
    pub(crate) fn end_process(&self) {
        let mut state = self.0.lock();
        (state.off, state.trap, state.misdirect, state.drop_write) = (false, None, false, false);
    }

    /// Damages a file whose path contains `within`; says whether there was one.
    pub(crate) fn damage(&self, damage: Damage, within: &str, rng: &mut Rng) -> bool {
        let mut state = self.0.lock();
        match damage {
            Damage::Misdirected => state.misdirect = true,
            Damage::LostWrite => state.drop_write = true,
            _ => {}
        }
        let candidates: Vec<(PathBuf, u64)> =
            state.names.iter().filter(|(p, _)| p.to_string_lossy().contains(within)).map(|(p, i)| (p.clone(), *i)).collect();
        let Some((path, number)) = rng.pick(&candidates).cloned() else { return false };
        if damage == Damage::Deleted {
            state.names.remove(&path);
            state.durable_names.remove(&path);
            return true;
        }
        let Ok(inode) = state.inode(number) else { return false };
        // Damage where something was written tells more than damage to zeros.
        let used = inode.durable.chunks(PAGE).rposition(|page| page.iter().any(|b| *b != 0)).map_or(1, |last| last + 1) as u64;
        let page = rng.below(used) as usize * PAGE;
        let end = inode.durable.len();
        match damage {
            Damage::BitFlip => {
                let at = (page + rng.below(PAGE as u64) as usize).min(end.saturating_sub(1));
                let bit = 1 << rng.below(8);
                for bytes in [&mut inode.durable, &mut inode.cached] {
                    bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= bit);
                }
            }
            Damage::TornPage => {
                let older: Vec<u8> = inode.durable.get(page.saturating_sub(PAGE)..page).unwrap_or_default().to_vec();
                let (from, to) = (rng.below(8) as usize * SECTOR, PAGE);
                for bytes in [&mut inode.durable, &mut inode.cached] {
                    if let (Some(target), Some(source)) = (bytes.get_mut(page + from..page + to), older.get(from..to)) {
                        target.copy_from_slice(source);
                    }
                }
            }
            Damage::ZeroedSector | Damage::ZeroedPage => {
                let (at, len) = if damage == Damage::ZeroedPage { (page, PAGE) } else { (page + rng.below(8) as usize * SECTOR, SECTOR) };
                for bytes in [&mut inode.durable, &mut inode.cached] {
                    bytes.iter_mut().skip(at).take(len).for_each(|b| *b = 0);
                }
            }
            Damage::Truncated => {
                inode.durable.truncate(page);
                inode.cached.truncate(page);
                inode.dirty.retain(|dirty| dirty * PAGE < page);
            }
            Damage::Deleted | Damage::Misdirected | Damage::LostWrite => {}
        }
        true
    }

    /// Everything on the medium, to be put back later: an older copy restored.
    pub(crate) fn image(&self) -> Image {
        let state = self.0.lock();
        let files = state.durable_names.iter().filter_map(|(path, inode)| Some((path.clone(), state.inodes.get(inode)?.durable.clone())));
        Image(files.collect())
    }

    /// Replaces everything by an image.
    pub(crate) fn restore(&self, image: &Image) {
        let mut state = self.0.lock();
        let state = &mut *state;
        (state.off, state.trap) = (false, None);
        state.pending.clear();
        state.names.clear();
        state.inodes.clear();
        for (path, bytes) in &image.0 {
            state.next_inode += 1;
            state.names.insert(path.clone(), state.next_inode);
            state.inodes.insert(state.next_inode, Inode { cached: bytes.clone(), durable: bytes.clone(), dirty: BTreeSet::new() });
        }
        state.durable_names = state.names.clone();
    }

    /// Bytes on the medium.
    pub(crate) fn bytes(&self) -> u64 {
        let state = self.0.lock();
        state.inodes.values().map(|inode| inode.durable.len() as u64).sum()
    }
}

/// A disk's whole contents.
#[derive(Clone, Default)]
pub(crate) struct Image(BTreeMap<PathBuf, Vec<u8>>);

struct SimFile {
    disk: Arc<SimDisk>,
    inode: u64,
}

impl DiskFile for SimFile {
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let held = &state.inode(self.inode)?.cached;
        let source = held.get(at..at.saturating_add(bytes.len())).ok_or_else(|| broken("end of file", io::ErrorKind::UnexpectedEof))?;
        bytes.copy_from_slice(source);
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let state = &mut *state;
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = bytes;
        let failed = state.operate(true, false);
        if failed.is_err() {
            // Some of it may have reached the cache.
            let pages = state.rng.as_mut().map_or(0, |rng| rng.below((bytes.len() / PAGE) as u64 + 1)) as usize;
            bytes = bytes.get(..pages * PAGE).unwrap_or(bytes);
        }
        if std::mem::take(&mut state.drop_write) {
            state.counts.lost_writes += 1;
            return failed;
        }
        if std::mem::take(&mut state.misdirect) {
            state.counts.misdirected += 1;
            let pages = state.inode(self.inode)?.cached.len() / PAGE;
            at = state.rng.as_mut().map_or(0, |rng| rng.below(pages as u64)) as usize * PAGE;
            // Nobody will ever sync it there: it is where it is.
            let inode = state.inode(self.inode)?;
            inode.write(bytes, at);
            inode.persist();
            return failed;
        }
        state.inode(self.inode)?.write(bytes, at);
        failed
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().inode(self.inode)?.cached.len() as u64)
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.operate(true, false)?;
        state.inode(self.inode)?.cached.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.set_length(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let state = &mut *state;
        let failed = state.operate(false, true);
        state.counts.syncs += 1;
        if failed.is_err() {
            if !state.off {
                state.inode(self.inode)?.dirty.clear();
            }
            return failed;
        }
        if state.lying {
            state.counts.lies += 1;
            return Ok(());
        }
        state.inode(self.inode)?.persist();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

/// The simulated disk as the journal sees it.
#[derive(Clone)]
pub(crate) struct Mounted(pub(crate) Arc<SimDisk>);

impl Disk for Mounted {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.0.lock();
        let state = &mut *state;
        let known = state.names.get(path).copied();
        let inode = match (access, known) {
            (Access::Read | Access::ReadWrite, known) => known.ok_or_else(missing)?,
            (Access::Create, known) => {
                state.operate(true, false)?;
                // An emptied file is another one under the same name: that is what a power cut may bring back.
                let _ = known;
                state.next_inode += 1;
                let inode = state.next_inode;
                state.inodes.insert(inode, Inode::default());
                state.change_names(vec![NameOp::Put(path.to_path_buf(), inode)]);
                inode
            }
        };
        Ok(Box::new(SimFile { disk: self.0.clone(), inode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.0.lock();
        let below = state.names.keys().filter_map(|path| path.strip_prefix(dir).ok());
        let first = |path: &Path| path.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
        let names: BTreeSet<String> = below.filter_map(first).collect();
        if names.is_empty() { Err(missing()) } else { Ok(names.into_iter().collect()) }
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.0.lock();
        state.operate(true, false)?;
        let gone: Vec<NameOp> = state.names.keys().filter(|path| path.starts_with(dir)).cloned().map(NameOp::Remove).collect();
        state.change_names(gone);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.0.lock();
        state.operate(true, false)?;
        if !state.names.contains_key(path) {
            return Err(missing());
        }
        state.change_names(vec![NameOp::Remove(path.to_path_buf())]);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.0.lock();
        state.operate(true, false)?;
        let moved: Vec<(PathBuf, u64)> = state.names.iter().filter(|(path, _)| path.starts_with(from)).map(|(p, i)| (p.clone(), *i)).collect();
        if moved.is_empty() {
            return Err(missing());
        }
        let mut changes = Vec::new();
        for (path, inode) in moved {
            let rest = path.strip_prefix(from).unwrap_or(Path::new(""));
            let target = if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) };
            changes.extend([NameOp::Remove(path), NameOp::Put(target, inode)]);
        }
        state.change_names(changes);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.0.lock();
        let state = &mut *state;
        state.operate(false, true)?;
        if state.lying {
            return Ok(());
        }
        let within = |change: &NameOp| match change {
            NameOp::Put(path, _) | NameOp::Remove(path) => path.starts_with(dir),
        };
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending).into_iter().partition(|changes| changes.iter().any(within));
        now.iter().flatten().for_each(|change| apply(&mut state.durable_names, change));
        state.pending = later;
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn prepares_ahead(&self) -> bool {
        false
    }

    fn pause(&self, _: Duration) {}
}
