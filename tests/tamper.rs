//! One flipped byte anywhere in a replica's files: the audit names it, or a recovery proves that it changed nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use exo_federation::audit::audit;
use exo_federation::config::{FederationFile, ReplicaFile};
use exo_federation::consensus::kind;
use exo_federation::crypto::Digest;
use exo_federation::journal::{JournalOptions, JournalReader};
use exo_federation::recovery::{DataDir, Inputs, recover};
use exo_federation::types::Federation;
use stage::{Stage, copy_tree, documents, exofed, files_of, stderr};

const UPDATES: u64 = 200;
/// Flips in the data directory unless `EXOFED_TAMPER_FLIPS` says how many.
const FLIPS: usize = 200;
const WORKERS: usize = 2;

/// Small files, so that the history spans several segments and a copy is cheap.
fn shrink(stage: &Stage) -> Federation {
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let path = stage.path(name);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    };
    edit("federation.toml", &|text| text.replace("checkpoint_slots = 64", "checkpoint_slots = 4"));
    edit("client.toml", &|text| text + "\n[client]\nupdates_per_submission = 5\n");
    let federation = FederationFile::read_genesis(&stage.path("federation.toml")).unwrap();
    let journal = JournalOptions { segment_bytes: 256 << 10, votes_bytes: 64 << 10, ..JournalOptions::default() };
    for index in 0..4 {
        edit(&format!("replica-{index}/replica.toml"), &|text| text + "\n[journal]\nsegment_bytes = 262144\nvotes_bytes = 65536\n");
        let data = DataDir(stage.path(&format!("replica-{index}/data")));
        fs::remove_dir_all(data.journal()).unwrap();
        data.create(&federation, federation.members()[index].consensus_key, &journal).unwrap();
    }
    federation
}

/// Updates of many sizes; some so large that their bodies lie in segments.
fn updates() -> String {
    let update = |i: u64| {
        let size = if i % 10 == 3 { 20_000 } else { (i * 37) % 600 };
        let data: String = (0..size).map(|k| char::from(b'a' + ((i * 7 + k * k) % 26) as u8)).collect();
        format!("{{\"update_id\":\"update-{i}\",\"data\":\"{data}\",\"timestamp\":{i}}}\n")
    };
    (0..UPDATES).map(update).collect()
}

/// A stopped replica's directory with a real history in it.
fn history() -> (Stage, Federation, PathBuf) {
    let mut stage = Stage::init();
    let federation = shrink(&stage);
    stage.start();
    let submitted = stage.submit(updates().as_bytes());
    assert!(submitted.status.success(), "{}", stderr(&submitted));
    assert_eq!(documents(&submitted).iter().filter(|fate| fate["status"] == "committed").count() as u64, UPDATES);
    stage.settle(UPDATES);
    stage.stop();
    let replica = stage.path("replica-1");
    (stage, federation, replica)
}

/// The end of the log that a start makes of a replica's files, and all that it stands for.
#[derive(Debug, PartialEq, Eq)]
struct End {
    head: u64,
    root: Digest,
    damaged: Vec<String>,
    suspect: Option<String>,
}

fn recovered(replica: &Path) -> Result<End, String> {
    let config = ReplicaFile::load(&replica.join("replica.toml")).map_err(|e| e.to_string())?;
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&config.data.0, copy.path());
    let inputs = Inputs {
        key: config.secret.consensus_key(),
        federation: config.federation,
        me: config.me,
        core: config.core,
        journal: config.journal,
        store: config.store,
        nonce: 0,
    };
    let recovered = recover(&DataDir(copy.path().to_path_buf()), inputs).map_err(|e| e.to_string())?;
    let root = recovered.store.head().frontier.root();
    Ok(End { head: recovered.report.log_head, root, damaged: recovered.report.damaged, suspect: recovered.report.suspect })
}

/// Checksums of every file.
fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, u32> {
    files_of(dir).into_iter().map(|path| (path.clone(), crc32c::crc32c(&fs::read(&path).unwrap()))).collect()
}

/// One byte of one file, and the bits that change.
#[derive(Debug, Clone)]
struct Flip {
    file: PathBuf,
    at: u64,
    mask: u8,
}

impl Flip {
    /// Done twice it is undone.
    fn apply(&self, replica: &Path) {
        let file = fs::OpenOptions::new().read(true).write(true).open(replica.join(&self.file)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.at).unwrap();
        file.write_all_at(&[byte[0] ^ self.mask], self.at).unwrap();
    }
}

/// Places all over the files of a directory: an equal share for each file, every byte of those that have fewer, and a few in the tails
/// that were allocated and never written.
fn flips(replica: &Path, below: &str, count: usize) -> Vec<Flip> {
    let files: Vec<PathBuf> = files_of(&replica.join(below)).into_iter().filter(|f| fs::metadata(f).unwrap().len() > 0).collect();
    let share = (count / files.len()).max(2);
    let mut flips = Vec::new();
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let tail = bytes.len() - used;
        let file = path.strip_prefix(replica).unwrap().to_path_buf();
        let spread = |from: usize, len: usize, share: usize| {
            let share = share.min(len);
            (0..share).map(move |i| from + (i * len / share + (i * 7_919) % (len / share)))
        };
        let in_tail = if tail > 0 { share.div_ceil(8) } else { 0 };
        for (i, at) in spread(0, used, share - in_tail).chain(spread(used, tail, in_tail)).enumerate() {
            flips.push(Flip { file: file.clone(), at: at as u64, mask: 1 << (i % 8) });
        }
    }
    flips
}

/// By file: how many flips were named, and how many were harmless.
type Counts = Mutex<BTreeMap<PathBuf, [usize; 2]>>;

/// Audits a replica whose files were tampered with, and proves the audit right; says whether it was harmless.
fn judge(replica: &Path, federation: &Federation, what: &str, sound: &End) -> bool {
    let before = fingerprint(replica);
    let report = catch_unwind(AssertUnwindSafe(|| audit(&replica.join("data"), federation, |_| {}).map_err(|e| e.to_string())));
    let report = report.unwrap_or_else(|_| panic!("{what}: the audit panicked"));
    assert_eq!(fingerprint(replica), before, "{what}: the audit changed what it audits");
    match report {
        Ok(report) if report.clean => {
            assert_eq!((report.head, report.log_root), (sound.head, sound.root), "{what}: clean, but not the whole history");
            assert_eq!(recovered(replica).as_ref(), Ok(sound), "{what}: the audit found nothing, a start does");
            true
        }
        Ok(report) => {
            assert!(report.first_bad.is_some(), "{what}: not clean, but nothing is named");
            false
        }
        Err(_) => false,
    }
}

/// Flips one byte of a replica's data, judges, and undoes it.
fn attempt(replica: &Path, federation: &Federation, flip: &Flip, sound: &End, counts: &Counts) {
    flip.apply(replica);
    let harmless = judge(replica, federation, &format!("{flip:?}"), sound);
    counts.lock().unwrap().entry(flip.file.clone()).or_default()[usize::from(harmless)] += 1;
    flip.apply(replica);
}

/// The same for every file lost, emptied or cut in half.
fn files_cut_or_lost(stage: &Stage, replica: &Path, federation: &Federation, sound: &End) {
    let (mut named, mut harmless) = (0, Vec::new());
    for path in files_of(&replica.join("data")) {
        let (file, len) = (path.strip_prefix(replica).unwrap(), fs::metadata(&path).unwrap().len());
        // Empty files are levels of the tree that no leaf has reached yet.
        for keep in [None, Some(0), Some(len / 2)].into_iter().filter(|_| len > 0) {
            let copy = stage.path("cut");
            copy_tree(replica, &copy);
            match keep {
                None => fs::remove_file(copy.join(file)).unwrap(),
                Some(keep) => fs::OpenOptions::new().write(true).open(copy.join(file)).unwrap().set_len(keep).unwrap(),
            }
            let what = format!("{} of {len} bytes, kept: {keep:?}", file.display());
            if judge(&copy, federation, &what, sound) {
                harmless.push(what);
            } else {
                named += 1;
            }
            fs::remove_dir_all(copy).unwrap();
        }
    }
    println!("files lost or cut: {named} named, harmless: {harmless:#?}");
    // The newest segment may hold nothing but the last certificates, which the log holds too.
    let journal = JournalReader::open(&replica.join("data/journal"), Some(federation.id().0.0), &JournalOptions::default()).unwrap();
    let bodies = journal.segments_from(None).flatten().filter(|frame| frame.kind == kind::PROPOSAL || frame.kind == kind::BODY);
    let segments: BTreeSet<String> = bodies.filter_map(|frame| frame.locator).map(|at| format!("{:020}.seg ", at.segment)).collect();
    assert!(segments.len() >= 2, "the history spans several segments: {segments:?}");
    let parts = || segments.iter().map(String::as_str).chain(["head ", "level-0 "]);
    let matters = |what: &&String| parts().any(|name| what.contains(name));
    assert_eq!(harmless.iter().find(matters), None, "a file that holds part of the history cannot be lost harmlessly");
    let votes = |file: &str| harmless.iter().any(|what| what.contains(file));
    assert!(!votes("votes.0") || !votes("votes.1"), "of the two votes files one is current, and cannot be lost harmlessly");
}

#[test]
fn every_flipped_byte_is_named_or_changes_nothing() {
    let started = Instant::now();
    let (stage, federation, replica) = history();
    let sound = recovered(&replica).unwrap();
    let root = sound.root;
    assert_eq!(sound, End { head: UPDATES, root, damaged: vec![], suspect: None });
    for index in 0..4 {
        let report = audit(&stage.path(&format!("replica-{index}/data")), &federation, |_| {}).unwrap();
        assert!(report.clean, "replica-{index}: {:?}", report.findings);
        assert_eq!((report.entries, report.head, report.log_root), (UPDATES, UPDATES, root));
    }
    let count = std::env::var("EXOFED_TAMPER_FLIPS").map_or(FLIPS, |n| n.parse().unwrap());
    let flips = flips(&replica, "data", count);
    let ready = started.elapsed();
    let (counts, next) = (Counts::default(), AtomicUsize::new(0));
    let (federation, flips, sound) = (&federation, &flips, &sound);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            // Beside the original, so that the paths in its configuration hold.
            let copy = stage.path(&format!("copy-{worker}"));
            copy_tree(&replica, &copy);
            let (counts, next) = (&counts, &next);
            scope.spawn(move || {
                while let Some(flip) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    attempt(&copy, federation, flip, sound, counts);
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    for (file, [named, harmless]) in &counts {
        println!("{named:>6} named {harmless:>6} harmless  {}", file.display());
    }
    let [named, harmless] = [0, 1].map(|i| counts.values().map(|c| c[i]).sum::<usize>());
    let seconds = started.elapsed().as_secs_f32();
    println!("history in {:.1} s; {} flips: {named} named, {harmless} harmless; {seconds:.1} s", ready.as_secs_f32(), flips.len());
    assert_eq!(named + harmless, flips.len());
    assert!(named * 2 > flips.len(), "most flips matter");
    files_cut_or_lost(&stage, &replica, federation, sound);
    configuration(&stage, &replica, count / 6);
}

/// The same for the files beside the data, which the program itself checks.
fn configuration(stage: &Stage, replica: &Path, count: usize) {
    let target = replica.to_str().unwrap();
    let audited = || exofed(&["audit", target, "--genesis", &stage.text("federation.toml"), "--json"]);
    let sound = audited();
    assert!(sound.status.success(), "{}", stderr(&sound));
    for name in ["replica.toml", "secret.key"] {
        let len = fs::metadata(replica.join(name)).unwrap().len();
        let count = (count as u64).min(len);
        for i in 0..count {
            let flip = Flip { file: name.into(), at: i * len / count, mask: 1 << (i % 8) };
            flip.apply(replica);
            let before = fingerprint(replica);
            let report = audited();
            assert_eq!(fingerprint(replica), before, "{flip:?}: the audit changed what it audits");
            if report.status.success() {
                assert_ne!(name, "secret.key", "{flip:?}: every byte of a secret counts");
                let check = exofed(&["recover", target, "--check", "--json"]);
                assert!(check.status.success(), "{flip:?}: the audit found nothing, a start does: {}", stderr(&check));
                assert_eq!(documents(&check)[0]["log_head"], UPDATES, "{flip:?}");
            } else {
                assert_eq!(report.status.code(), Some(1), "{flip:?}: {}", stderr(&report));
                assert!(!documents(&report)[0]["first_bad"].is_null(), "{flip:?}");
            }
            flip.apply(replica);
        }
    }
    assert!(audited().status.success(), "every flip was undone");
}
