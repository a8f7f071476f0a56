//! Simulated power cuts: a preload layer records what a real process does to its files (`layer.c`), and `disk` replays the record up to any
//! instant, forgetting, tearing and reordering what was not synced by then.
//!
//! The model of the medium is in `disk`; who runs under the layer, and what must hold of a state, is the business of the tests.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod disk;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::stage::files_of;

/// CLOCK_MONOTONIC in ns, the clock of every record.
pub(crate) fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

/// A stream of numbers that a seed repeats (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }
}

/// The compiled layer; made once for each test program.
fn layer() -> &'static Path {
    static LAYER: OnceLock<PathBuf> = OnceLock::new();
    LAYER.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        // Under its own name until it is whole: test programs may run side by side.
        let (source, library) = (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/powercut/layer.c"), dir.join("powercut.so"));
        let building = dir.join(format!("powercut.{}.so", std::process::id()));
        let mut compile = Command::new("cc");
        let made = compile.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&building).args([source, "-ldl"]).output();
        let made = made.expect("these tests need a C compiler, `cc`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::rename(&building, &library).unwrap();
        library
    })
}

/// The environment that puts a process under the layer: `watched` is looked at, `trace` takes the record, `fail` names calls that fail.
pub(crate) fn environment(watched: &Path, trace: Option<&Path>, fail: Option<&str>) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let mut environment = vec![("LD_PRELOAD".to_owned(), text(layer())), ("POWERCUT_DIR".to_owned(), text(&fs::canonicalize(watched).unwrap()))];
    environment.extend(trace.map(|trace| ("POWERCUT_TRACE".to_owned(), text(trace))));
    environment.extend(fail.map(|rules| ("POWERCUT_FAIL".to_owned(), rules.to_owned())));
    environment
}

/// What a recorded call does. Paths are relative to the watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Creates a file, or empties one that was there.
    Open { path: PathBuf, inode: Option<u64>, was_there: bool, truncate: bool },
    /// `data` is the range of the trace that holds the bytes.
    Write { inode: u64, offset: u64, data: Range<usize> },
    /// A new length.
    Length { inode: u64, length: u64 },
    /// A new name.
    Rename { from: PathBuf, to: PathBuf },
    /// A name less, of a file or an empty directory.
    Unlink { path: PathBuf },
    /// A new directory.
    MakeDir { path: PathBuf, inode: Option<u64> },
    /// A second name.
    Link { from: PathBuf, to: PathBuf },
    /// fsync or fdatasync; the length the file had.
    Sync { inode: u64, length: u64 },
    /// syncfs or sync.
    SyncAll,
    /// sync_file_range: nothing is durable behind it.
    SyncRange,
}

/// One recorded call. Without `after`, its process was killed in it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) pid: u64,
    pub(crate) before: u64,
    pub(crate) after: Option<u64>,
    pub(crate) what: What,
}

/// The record of one directory, over all processes that worked in it.
pub(crate) struct Trace {
    pub(crate) bytes: Vec<u8>,
    pub(crate) calls: Vec<Call>,
}

const HEAD: usize = 72;
const MAGIC: u32 = 0x5455_4350;
const DONE: u32 = 255;

/// The fixed part of a record; see `layer.c`.
struct Head {
    kind: u32,
    pid: u64,
    number: u64,
    time: u64,
    inode: u64,
    a: i64,
    b: i64,
    lengths: [usize; 3],
}

impl Head {
    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(word(0), MAGIC, "the trace is whole");
        let lengths = [word(56) as usize, word(60) as usize, usize::try_from(long(64)).unwrap()];
        Self { kind: word(4), pid: long(8), number: long(16), time: long(24), inode: long(32), a: long(40) as i64, b: long(48) as i64, lengths }
    }

    fn done(&self, inode: u64, result: i64) -> Vec<u8> {
        let mut bytes = [MAGIC.to_le_bytes(), DONE.to_le_bytes()].concat();
        for field in [self.pid, self.number, monotonic(), inode, result as u64, 0, 0, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }
}

/// A record with where its path, its second path and its data lie.
type Found = (Head, [Range<usize>; 3]);

fn records(bytes: &[u8]) -> Vec<Found> {
    let (whole, found) = whole_records(bytes);
    assert_eq!(whole, bytes.len(), "the last record is torn, and nobody cut it");
    found
}

/// The records up to one that is torn, and where they end. A SIGKILL may end a long `write` at any page: the record of a call that then never began.
fn whole_records(bytes: &[u8]) -> (usize, Vec<Found>) {
    let (mut at, mut found) = (0, Vec::new());
    while bytes.len() - at >= HEAD {
        let head = Head::read(&bytes[at..]);
        let path = at + HEAD..at + HEAD + head.lengths[0];
        let other = path.end..path.end + head.lengths[1];
        let data = other.end..other.end + head.lengths[2];
        if data.end > bytes.len() {
            break;
        }
        at = data.end;
        found.push((head, [path, other, data]));
    }
    (at, found)
}

impl Trace {
    pub(crate) fn empty() -> Self {
        Self { bytes: Vec::new(), calls: Vec::new() }
    }

    /// Reads a record of `watched`; a missing file is an empty one. Calls that failed did nothing and are left out.
    pub(crate) fn read(file: &Path, watched: &Path) -> Self {
        let bytes = fs::read(file).unwrap_or_default();
        let (mut begun, mut results) = (Vec::new(), BTreeMap::new());
        for (head, places) in records(&bytes) {
            match head.kind {
                DONE => drop(results.insert((head.pid, head.number), (head.time, head.inode, head.a))),
                _ => begun.push((head, places)),
            }
        }
        let mut calls = Vec::new();
        for (head, places) in begun {
            let done = results.get(&(head.pid, head.number)).copied();
            if done.is_some_and(|(_, _, result)| result < 0) {
                continue;
            }
            let what = what(&head, &places, &bytes, watched, done);
            calls.push(Call { pid: head.pid, before: head.time, after: done.map(|(time, ..)| time), what });
        }
        calls.sort_by_key(|call| call.before);
        Self { bytes, calls }
    }

    /// The instants at which anything began or ended.
    pub(crate) fn instants(&self) -> impl Iterator<Item = u64> + '_ {
        self.calls.iter().flat_map(|call| [Some(call.before), call.after]).flatten()
    }

    /// The instants at which a process went on where another had ended.
    pub(crate) fn restarts(&self) -> impl Iterator<Item = u64> + '_ {
        self.calls.windows(2).filter(|pair| pair[0].pid != pair[1].pid).map(|pair| pair[1].before)
    }
}

fn what(head: &Head, places: &[Range<usize>; 3], bytes: &[u8], watched: &Path, done: Option<(u64, u64, i64)>) -> What {
    let path = |place: &Range<usize>| {
        let path = Path::new(std::str::from_utf8(&bytes[place.clone()]).unwrap());
        // Without `.` components, which name the directory itself.
        path.strip_prefix(watched).unwrap_or_else(|_| panic!("{} is not below {}", path.display(), watched.display())).components().collect()
    };
    let inode = done.map(|(_, inode, _)| inode);
    match head.kind {
        1 => {
            What::Open { path: path(&places[0]), inode, was_there: head.b == 1, truncate: head.a & i64::from(rustix::fs::OFlags::TRUNC.bits()) != 0 }
        }
        2 => {
            // A short write wrote the first part.
            let length = done.map_or(places[2].len(), |(_, _, result)| usize::try_from(result).unwrap());
            What::Write { inode: head.inode, offset: u64::try_from(head.a).unwrap(), data: places[2].start..places[2].start + length }
        }
        3 => What::Length { inode: head.inode, length: u64::try_from(head.a).unwrap() },
        4 => What::Rename { from: path(&places[0]), to: path(&places[1]) },
        5 | 7 => What::Unlink { path: path(&places[0]) },
        6 => What::MakeDir { path: path(&places[0]), inode },
        8 => What::Link { from: path(&places[0]), to: path(&places[1]) },
        9 => What::Sync { inode: head.inode, length: u64::try_from(head.a).unwrap() },
        10 => What::SyncRange,
        11 => What::SyncAll,
        kind => {
            panic!("the layer recorded a call that this model does not know: kind {kind}, {:?}", String::from_utf8_lossy(&bytes[places[0].clone()]))
        }
    }
}

/// Ends the calls that a killed process had begun, as the files show: a later process may rely on what it finds. A sync that was interrupted made
/// nothing durable.
pub(crate) fn seal(file: &Path, watched: &Path) {
    let bytes = fs::read(file).unwrap_or_default();
    let (whole, all) = whole_records(&bytes);
    if whole < bytes.len() {
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(whole as u64).unwrap();
    }
    let ended: std::collections::BTreeSet<_> = all.iter().filter(|(h, _)| h.kind == DONE).map(|(h, _)| (h.pid, h.number)).collect();
    let inodes: BTreeMap<u64, PathBuf> = files_of(watched).into_iter().map(|path| (fs::metadata(&path).unwrap().ino(), path)).collect();
    let mut out = fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
    for (head, [path, other, data]) in all.iter().filter(|(h, _)| h.kind != DONE && !ended.contains(&(h.pid, h.number))) {
        let name = |place: &Range<usize>| PathBuf::from(std::str::from_utf8(&bytes[place.clone()]).unwrap());
        let inode = fs::metadata(name(path)).map_or(0, |found| found.ino());
        let happened = |happened: bool| if happened { 0 } else { -1 };
        let result = match head.kind {
            1 | 6 => happened(inode != 0),
            2 => inodes.get(&head.inode).map_or(-1, |path| written(path, head.a, &bytes[data.clone()])),
            3 => happened(inodes.get(&head.inode).is_some_and(|path| fs::metadata(path).unwrap().len() as i64 == head.a)),
            4 => happened(inode == 0 && name(other).exists()),
            5 | 7 => happened(inode == 0),
            8 => happened(name(other).exists()),
            _ => -1,
        };
        out.write_all(&head.done(inode, result)).unwrap();
    }
}

/// How much of a write is in the file; -1 if nothing.
fn written(path: &Path, offset: i64, data: &[u8]) -> i64 {
    let mut found = vec![0; data.len()];
    let file = fs::File::open(path).unwrap();
    let offset = u64::try_from(offset).unwrap();
    let length = file.metadata().unwrap().len().saturating_sub(offset).min(data.len() as u64) as usize;
    file.read_exact_at(&mut found[..length], offset).unwrap();
    let same = found[..length].iter().zip(data).take_while(|(a, b)| a == b).count();
    if same == 0 { -1 } else { same as i64 }
}

#[test]
fn a_record_that_a_kill_tore_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    let head = Head { kind: 5, pid: 1, number: 1, time: 1, inode: 0, a: 0, b: 0, lengths: [0; 3] };
    let whole = head.done(0, 0);
    let torn = [&whole[..64], &9_000u64.to_le_bytes(), &[0; 4_096]].concat();
    fs::write(&file, [&whole[..], &torn[..]].concat()).unwrap();
    seal(&file, dir.path());
    assert_eq!(fs::read(&file).unwrap(), whole);
    assert!(Trace::read(&file, dir.path()).calls.is_empty());
}
