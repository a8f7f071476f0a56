//! A directory on a disk that loses power: what was synced, what was only written, and the states that a cut may leave.
//!
//! What a completed sync covers is there: every change that had ended when the sync began. Of every later change to a file, each 4 KiB page may
//! be in any state it had since, whatever became of other pages; a page may also be torn at 512-byte sectors. Lengths likewise. Of changes to
//! directories, [`Names::Posix`] keeps what a sync of that directory covers, and of the rest any subset that makes sense; [`Names::Journalled`]
//! loses only a suffix of all of them, and a sync of a file also keeps what gave it its name, as ext4 and xfs do.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::{Call, Random, Trace, What};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// `None` is all zeros.
type Page = Option<Arc<[u8; PAGE]>>;
type Node = usize;

/// How directories behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// What POSIX promises, and no more.
    Posix,
    /// What a journalling file system adds.
    Journalled,
}

/// How a cut treats what was not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) names: Names,
    /// Whether pages tear at sectors.
    pub(crate) torn: bool,
    /// How much of what was not synced is kept, 0 to 1.
    pub(crate) keep: f64,
}

impl Cut {
    /// A way of losing power.
    pub(crate) fn draw(random: &mut Random, torn: bool) -> Self {
        let names = if random.chance(0.5) { Names::Posix } else { Names::Journalled };
        let keep = [0.0, 0.1, 0.5, 0.9, 1.0][random.below(5)];
        Self { names, torn, keep }
    }
}

enum Change {
    Write { offset: u64, start: usize, len: usize },
    Length(u64),
}

struct Pending<T> {
    call: usize,
    ended: bool,
    change: T,
}

#[derive(Default)]
struct File {
    pages: HashMap<u64, Arc<[u8; PAGE]>>,
    length: u64,
    pending: Vec<Pending<Change>>,
    latest_length: u64,
}

#[derive(Clone)]
enum Rename {
    Add(String, Node),
    Remove(String),
    Move { from: String, to: String, node: Node },
}

#[derive(Default)]
struct Directory {
    entries: BTreeMap<String, Node>,
    pending: Vec<Pending<Rename>>,
}

enum Object {
    File(File),
    Directory(Directory),
}

/// A call with its names resolved.
enum Act {
    Write(Node, u64, usize, usize),
    Length(Node, u64),
    Name(Node, Rename),
    Sync(Node, u64),
    SyncAll,
    Nothing,
}

/// The directory at one instant, which only moves forward.
pub(crate) struct Disk {
    trace: Trace,
    objects: Vec<Object>,
    acts: Vec<Vec<Act>>,
    /// (instant, call, whether it ends), ascending.
    steps: Vec<(u64, usize, bool)>,
    next: usize,
    /// What a sync under way will cover.
    covers: HashMap<usize, Vec<(Node, Vec<usize>)>>,
    /// In a journal all changes of names up to this call are durable.
    journalled: usize,
    journalled_by: HashMap<usize, usize>,
}

/// Every file and directory of a directory by inode, relative path and content: where a record begins.
pub(crate) struct Base(Vec<(u64, PathBuf, Option<Content>)>);

/// A file's length, and its pages that are not zero.
type Content = (u64, Vec<(u64, Page)>);
/// What a cut leaves of a file: its length, and the pages that are not as they were at the last sync.
type Left = (u64, HashMap<u64, Page>);

impl Base {
    /// Reads a directory that nobody writes to.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut base = Self(vec![(fs::metadata(dir).unwrap().ino(), PathBuf::new(), None)]);
        base.collect(dir, Path::new(""));
        base
    }

    /// The inodes, one a line with the path.
    pub(crate) fn inodes(&self) -> String {
        self.0.iter().map(|(inode, path, _)| format!("{inode} {}\n", path.display())).collect()
    }

    /// Reads a copy, with the inodes of the original.
    pub(crate) fn read_as(dir: &Path, inodes: &str) -> Self {
        let inode = |line: &str| line.split_once(' ').map(|(inode, path)| (PathBuf::from(path), inode.parse().unwrap())).unwrap();
        let inodes: HashMap<PathBuf, u64> = inodes.lines().map(inode).collect();
        let mut base = Self::read(dir);
        base.0.iter_mut().for_each(|(inode, path, _)| *inode = inodes[path]);
        base
    }

    fn collect(&mut self, dir: &Path, below: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let (path, entry) = entry.map(|e| (e.path(), e)).unwrap();
            let (relative, inode) = (below.join(entry.file_name()), entry.metadata().unwrap().ino());
            if path.is_dir() {
                self.0.push((inode, relative.clone(), None));
                self.collect(&path, &relative);
            } else {
                let bytes = fs::read(&path).unwrap();
                let pages = (0u64..).zip(bytes.chunks(PAGE).map(page)).filter(|(_, page)| page.is_some()).collect();
                self.0.push((inode, relative, Some((bytes.len() as u64, pages))));
            }
        }
    }
}

fn page(bytes: &[u8]) -> Page {
    if *bytes == [0; PAGE][..bytes.len()] {
        return None;
    }
    let mut page = [0; PAGE];
    page[..bytes.len()].copy_from_slice(bytes);
    Some(Arc::new(page))
}

/// Names as running programs see them, while a trace is read.
struct Live {
    names: HashMap<(Node, String), Node>,
    inodes: HashMap<u64, Node>,
    objects: Vec<Object>,
}

impl Live {
    fn add(&mut self, object: Object, inode: Option<u64>) -> Node {
        self.objects.push(object);
        let node = self.objects.len() - 1;
        inode.map(|inode| self.inodes.insert(inode, node));
        node
    }

    fn node(&self, path: &Path) -> Node {
        path.components().fold(0, |dir, part| match part {
            Component::Normal(name) => *self.names.get(&(dir, name.to_str().unwrap().to_owned())).unwrap_or_else(|| panic!("{path:?} is unknown")),
            _ => panic!("{path:?} is no plain path"),
        })
    }

    fn place(&self, path: &Path) -> (Node, String) {
        (self.node(path.parent().unwrap()), path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    fn inode(&self, inode: u64) -> Node {
        *self.inodes.get(&inode).unwrap_or_else(|| panic!("inode {inode} is unknown"))
    }

    fn create(&mut self, path: &Path, object: Object, inode: Option<u64>) -> Act {
        let (dir, name) = self.place(path);
        let node = self.add(object, inode);
        self.names.insert((dir, name.clone()), node);
        Act::Name(dir, Rename::Add(name, node))
    }

    fn acts(&mut self, call: &Call) -> Vec<Act> {
        match &call.what {
            What::Open { path, inode, was_there: false, .. } => vec![self.create(path, Object::File(File::default()), *inode)],
            What::Open { path, truncate, .. } if *truncate => vec![Act::Length(self.node(path), 0)],
            What::MakeDir { path, inode } => vec![self.create(path, Object::Directory(Directory::default()), *inode)],
            What::Write { inode, offset, data } => vec![Act::Write(self.inode(*inode), *offset, data.start, data.len())],
            What::Length { inode, length } => vec![Act::Length(self.inode(*inode), *length)],
            What::Rename { from, to } => {
                let ((dir, from), (other, to)) = (self.place(from), self.place(to));
                assert_eq!(dir, other, "a rename between directories is not modelled");
                let node = self.names.remove(&(dir, from.clone())).unwrap();
                self.names.insert((dir, to.clone()), node);
                vec![Act::Name(dir, Rename::Move { from, to, node })]
            }
            What::Unlink { path } => {
                let (dir, name) = self.place(path);
                self.names.remove(&(dir, name.clone()));
                vec![Act::Name(dir, Rename::Remove(name))]
            }
            What::Link { from, to } => {
                let (node, (dir, name)) = (self.node(from), self.place(to));
                self.names.insert((dir, name.clone()), node);
                vec![Act::Name(dir, Rename::Add(name, node))]
            }
            What::Sync { inode, length } => vec![Act::Sync(self.inode(*inode), *length)],
            What::SyncAll => vec![Act::SyncAll],
            What::SyncRange | What::Open { .. } => vec![Act::Nothing],
        }
    }
}

impl Disk {
    /// The directory as it was when the record began: all of it durable.
    pub(crate) fn new(base: &Base, trace: Trace) -> Self {
        let mut live = Live { names: HashMap::new(), inodes: HashMap::new(), objects: Vec::new() };
        for (inode, path, content) in &base.0 {
            let object = match content {
                None => Object::Directory(Directory::default()),
                Some((length, pages)) => {
                    let pages = pages.iter().filter_map(|(n, page)| page.clone().map(|page| (*n, page))).collect();
                    Object::File(File { pages, length: *length, latest_length: *length, pending: Vec::new() })
                }
            };
            let node = live.add(object, Some(*inode));
            if node > 0 {
                let (dir, name) = live.place(path);
                live.names.insert((dir, name.clone()), node);
                let Object::Directory(directory) = &mut live.objects[dir] else { panic!("a file holds {name}") };
                directory.entries.insert(name, node);
            }
        }
        let acts = trace.calls.iter().map(|call| live.acts(call)).collect();
        let ends = |(i, call): (usize, &Call)| call.after.map(|after| (after, i, true));
        let mut steps: Vec<_> = trace.calls.iter().enumerate().map(|(i, call)| (call.before, i, false)).collect();
        steps.extend(trace.calls.iter().enumerate().filter_map(ends));
        steps.sort_by_key(|(time, call, ends)| (*time, *ends, *call));
        let (covers, journalled_by) = (HashMap::new(), HashMap::new());
        Self { trace, objects: live.objects, acts, steps, next: 0, covers, journalled: 0, journalled_by }
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Lets everything happen that began up to an instant.
    pub(crate) fn advance(&mut self, to: u64) {
        while let Some((_, call, ends)) = self.steps.get(self.next).copied().filter(|(time, ..)| *time <= to) {
            self.next += 1;
            let acts = std::mem::take(&mut self.acts[call]);
            for act in &acts {
                if ends { self.end(call, act) } else { self.begin(call, act) }
            }
            self.acts[call] = acts;
        }
    }

    fn file(&mut self, node: Node) -> Option<&mut File> {
        if let Object::File(file) = &mut self.objects[node] { Some(file) } else { None }
    }

    fn begin(&mut self, call: usize, act: &Act) {
        match act {
            Act::Write(node, offset, start, len) => {
                let file = self.file(*node).unwrap();
                file.latest_length = file.latest_length.max(offset + *len as u64);
                file.pending.push(Pending { call, ended: false, change: Change::Write { offset: *offset, start: *start, len: *len } });
            }
            Act::Length(node, length) => {
                let file = self.file(*node).unwrap();
                file.latest_length = *length;
                file.pending.push(Pending { call, ended: false, change: Change::Length(*length) });
            }
            Act::Name(dir, rename) => {
                let Object::Directory(directory) = &mut self.objects[*dir] else { panic!("a file holds names") };
                directory.pending.push(Pending { call, ended: false, change: rename.clone() });
            }
            Act::Sync(node, length) => {
                if let Some(file) = self.file(*node).filter(|file| file.latest_length < *length) {
                    // Lengthened by a call that the layer does not see.
                    file.latest_length = *length;
                    file.pending.push(Pending { call, ended: true, change: Change::Length(*length) });
                }
                let cover = self.coverage(*node);
                self.covers.insert(call, vec![cover]);
                let names = self.objects.iter().filter_map(|o| if let Object::Directory(d) = o { Some(&d.pending) } else { None }).flatten();
                let is_directory = matches!(self.objects[*node], Object::Directory(_));
                let kept = names.filter(|p| p.ended && (is_directory || p.change.names(*node))).map(|p| p.call).max();
                self.journalled_by.insert(call, kept.map_or(0, |call| call + 1));
            }
            Act::SyncAll => {
                let covers = (0..self.objects.len()).map(|node| self.coverage(node)).collect();
                self.covers.insert(call, covers);
                self.journalled_by.insert(call, call);
            }
            Act::Nothing => {}
        }
    }

    /// The changes to a file or directory that have ended.
    fn coverage(&self, node: Node) -> (Node, Vec<usize>) {
        let ended = |(call, ended): (usize, bool)| ended.then_some(call);
        let calls = match &self.objects[node] {
            Object::File(file) => file.pending.iter().map(|p| (p.call, p.ended)).filter_map(ended).collect(),
            Object::Directory(directory) => directory.pending.iter().map(|p| (p.call, p.ended)).filter_map(ended).collect(),
        };
        (node, calls)
    }

    fn end(&mut self, call: usize, act: &Act) {
        match act {
            Act::Write(node, ..) | Act::Length(node, _) => {
                self.file(*node).unwrap().pending.iter_mut().filter(|p| p.call == call).for_each(|p| p.ended = true);
            }
            Act::Name(dir, _) => {
                let Object::Directory(directory) = &mut self.objects[*dir] else { return };
                directory.pending.iter_mut().filter(|p| p.call == call).for_each(|p| p.ended = true);
            }
            Act::Sync(..) | Act::SyncAll => {
                for (node, calls) in self.covers.remove(&call).unwrap_or_default() {
                    match &mut self.objects[node] {
                        Object::File(file) => file.settle(&calls, &self.trace.bytes),
                        Object::Directory(directory) => directory.settle(&calls),
                    }
                }
                self.journalled = self.journalled.max(self.journalled_by.remove(&call).unwrap_or(0));
            }
            Act::Nothing => {}
        }
    }

    /// Whether anything is not durable at this instant.
    pub(crate) fn is_settled(&self) -> bool {
        self.objects.iter().all(|object| match object {
            Object::File(file) => file.pending.is_empty(),
            Object::Directory(directory) => directory.pending.is_empty(),
        })
    }

    /// Writes a state that a cut at this instant may leave.
    pub(crate) fn crash(&self, cut: Cut, random: &mut Random, into: &Path) {
        let names = self.names_left(cut, random);
        fs::create_dir_all(into).unwrap();
        self.write(0, &names, into, &mut |file| file.left(cut, random, &self.trace.bytes));
    }

    fn names_left(&self, cut: Cut, random: &mut Random) -> HashMap<Node, BTreeMap<String, Node>> {
        // A journal keeps everything up to some change.
        let kept_until = self.journalled.max(if random.chance(cut.keep) { usize::MAX } else { random.below(self.trace.calls.len() + 1) });
        let mut names = HashMap::new();
        for (node, object) in self.objects.iter().enumerate() {
            let Object::Directory(directory) = object else { continue };
            let mut entries = directory.entries.clone();
            for pending in &directory.pending {
                let kept = match cut.names {
                    Names::Posix => random.chance(cut.keep),
                    Names::Journalled => pending.call < kept_until,
                };
                if kept {
                    pending.change.apply(&mut entries);
                }
            }
            names.insert(node, entries);
        }
        names
    }

    fn write(&self, dir: Node, names: &HashMap<Node, BTreeMap<String, Node>>, into: &Path, left: &mut dyn FnMut(&File) -> Left) {
        for (name, node) in &names[&dir] {
            let path = into.join(name);
            match &self.objects[*node] {
                Object::Directory(_) => {
                    fs::create_dir(&path).unwrap();
                    self.write(*node, names, &path, left);
                }
                Object::File(file) => {
                    let (length, changed) = left(file);
                    write_file(&path, length, file, &changed);
                }
            }
        }
    }

    /// Writes the directory with everything done that was begun: what a reader of the live directory sees.
    pub(crate) fn write_live(&self, into: &Path) {
        let cut = Cut { names: Names::Posix, torn: false, keep: 1.0 };
        self.crash(cut, &mut Random(0), into);
    }
}

fn write_file(path: &Path, length: u64, file: &File, changed: &HashMap<u64, Page>) {
    let out = fs::OpenOptions::new().write(true).create_new(true).open(path).unwrap();
    out.set_len(length).unwrap();
    let unchanged = file.pages.iter().filter(|(number, _)| !changed.contains_key(number));
    for (number, page) in unchanged.chain(changed.iter().filter_map(|(number, page)| page.as_ref().map(|page| (number, page)))) {
        let at = number * PAGE as u64;
        if at < length {
            out.write_all_at(&page[..usize::try_from(length - at).unwrap().min(PAGE)], at).unwrap();
        }
    }
}

impl Rename {
    fn apply(&self, entries: &mut BTreeMap<String, Node>) {
        match self {
            Self::Add(name, node) => drop(entries.insert(name.clone(), *node)),
            Self::Remove(name) => drop(entries.remove(name)),
            Self::Move { from, to, node } if entries.get(from) == Some(node) => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
            // What gave it the name that it moves from was lost.
            Self::Move { .. } => {}
        }
    }

    fn names(&self, of: Node) -> bool {
        matches!(self, Self::Add(_, node) | Self::Move { node, .. } if *node == of)
    }
}

impl Directory {
    fn settle(&mut self, calls: &[usize]) {
        let (settled, pending) = std::mem::take(&mut self.pending).into_iter().partition(|p| calls.contains(&p.call));
        self.pending = pending;
        let settled: Vec<Pending<Rename>> = settled;
        settled.iter().for_each(|p| p.change.apply(&mut self.entries));
    }
}

impl File {
    fn settle(&mut self, calls: &[usize], trace: &[u8]) {
        let (settled, pending) = std::mem::take(&mut self.pending).into_iter().partition(|p| calls.binary_search(&p.call).is_ok());
        self.pending = pending;
        let settled: Vec<Pending<Change>> = settled;
        for Pending { change, .. } in &settled {
            let mut changed = HashMap::new();
            let put = &mut |number, page| drop(changed.insert(number, page));
            let length = Self::apply(change, self.length, trace, &|number| self.pages.get(&number).cloned(), put);
            for (number, page) in changed {
                match page {
                    Some(page) => drop(self.pages.insert(number, page)),
                    None => drop(self.pages.remove(&number)),
                }
            }
            self.length = length;
        }
    }

    /// What a change makes of the pages and the length.
    fn apply(change: &Change, length: u64, trace: &[u8], get: &dyn Fn(u64) -> Page, put: &mut dyn FnMut(u64, Page)) -> u64 {
        match change {
            Change::Write { offset, start, len } => {
                let (mut at, mut data) = (*offset, &trace[*start..*start + *len]);
                while !data.is_empty() {
                    let (number, within) = (at / PAGE as u64, (at % PAGE as u64) as usize);
                    let part = data.len().min(PAGE - within);
                    if part == PAGE {
                        put(number, page(&data[..PAGE]));
                    } else {
                        let mut bytes = get(number).map_or([0; PAGE], |page| *page);
                        bytes[within..within + part].copy_from_slice(&data[..part]);
                        put(number, page(&bytes));
                    }
                    (at, data) = (at + part as u64, &data[part..]);
                }
                length.max(offset + *len as u64)
            }
            Change::Length(to) => {
                for number in to / PAGE as u64..length.div_ceil(PAGE as u64) {
                    let kept = to.saturating_sub(number * PAGE as u64) as usize;
                    let cut = get(number).and_then(|bytes| page(&bytes[..kept.min(PAGE)]));
                    put(number, cut);
                }
                *to
            }
        }
    }

    /// The length, and the pages that are not as they were at the last sync.
    fn left(&self, cut: Cut, random: &mut Random, trace: &[u8]) -> Left {
        if self.pending.is_empty() {
            return (self.length, HashMap::new());
        }
        // Now and then one file fares quite otherwise than the rest.
        let keep = if random.chance(0.25) { [0.0, 0.5, 1.0][random.below(3)] } else { cut.keep };
        let keep = if cut.keep == 1.0 { 1.0 } else { keep };
        let mut versions: BTreeMap<u64, Vec<(usize, Page)>> = BTreeMap::new();
        let mut lengths = vec![self.length];
        for (i, pending) in self.pending.iter().enumerate() {
            let mut put = Vec::new();
            let latest = |number| match versions.get(&number).and_then(|v| v.last()) {
                Some((_, page)) => page.clone(),
                None => self.pages.get(&number).cloned(),
            };
            let length = Self::apply(&pending.change, lengths[i], trace, &latest, &mut |number, page| put.push((number, page)));
            put.into_iter().for_each(|(number, page)| versions.entry(number).or_default().push((i + 1, page)));
            lengths.push(length);
        }
        let last = lengths.len() - 1;
        let at = if random.chance(keep) { last } else { random.below(last + 1) };
        let mut length = lengths[at];
        if at > 0 && lengths[at] > lengths[at - 1] + PAGE as u64 && !random.chance(keep) {
            // A part of what one call added.
            let pages = (lengths[at] - lengths[at - 1]) / PAGE as u64;
            length = (lengths[at - 1] / PAGE as u64 + 1 + random.next() % pages) * PAGE as u64;
        }
        // A file that is as short as it was made does not hold what was cut off.
        let shrunk = (1..=at).rev().find(|i| lengths[*i] < lengths[*i - 1]).unwrap_or(0);
        let pages = versions.into_iter().map(|(number, versions)| {
            let durable = (0, self.pages.get(&number).cloned());
            let cut_off = versions.iter().any(|(i, _)| *i == shrunk);
            let possible: Vec<Page> =
                std::iter::once(durable).chain(versions).filter(|(i, _)| !cut_off || *i >= shrunk).map(|(_, page)| page).collect();
            (number, choose(&possible, keep, cut.torn, random))
        });
        (length, pages.collect())
    }
}

/// One of the states of a page, or a mixture.
fn choose(possible: &[Page], keep: f64, torn: bool, random: &mut Random) -> Page {
    let last = possible.last()?;
    if random.chance(keep) {
        return last.clone();
    }
    let chosen = &possible[random.below(possible.len())];
    if !torn || !random.chance(0.3) {
        return chosen.clone();
    }
    let other = &possible[random.below(possible.len())];
    let mut bytes = chosen.as_ref().map_or([0; PAGE], |page| **page);
    let others = other.as_ref().map_or([0; PAGE], |page| **page);
    for sector in 0..PAGE / SECTOR {
        if random.chance(0.5) {
            bytes[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&others[sector * SECTOR..(sector + 1) * SECTOR]);
        }
    }
    page(&bytes)
}
