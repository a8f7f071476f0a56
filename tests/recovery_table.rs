//! The table of docs/recovery.md, cell by cell, on the files of a real replica beside three running peers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "faults/damage.rs"]
mod damage;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use damage::{Spot, Victim};
use exo_federation::audit::audit;
use stage::Stage;

const FAULTS: [&str; 10] =
    ["bit flip", "torn tail", "hole", "zeroed page", "truncated", "deleted", "older copy", "disk full", "EIO on write", "EIO on sync"];

/// What a start makes of each fault in each file. `docs/recovery.md` holds the same table and says why.
#[rustfmt::skip]
const TABLE: &[(&str, [&str; 10])] = &[
    // file                bit flip     torn tail    hole         zeroed page  truncated    deleted      older copy   disk full    EIO on write EIO on sync
    ("journal votes",    ["suspect",   "cut",       "suspect",   "suspect",   "suspect",   "suspect",   "suspect",   "stopped",   "stopped",   "stopped"]),
    ("journal segments", ["suspect",   "cut",       "suspect",   "suspect",   "suspect",   "suspect",   "suspect",   "stopped",   "stopped",   "stopped"]),
    ("body segment",     ["repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "unwritten", "unwritten", "unwritten"]),
    ("sled row",         ["repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "stopped",   "stopped",   "stopped"]),
    ("sled file",        ["repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "stopped",   "stopped",   "stopped"]),
    ("sled conf",        ["repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "harmless",  "unwritten", "unwritten", "refused"]),
    ("log/head",         ["repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "harmless",  "stopped",   "stopped",   "stopped"]),
    ("Merkle files",     ["repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "stopped",   "stopped",   "stopped"]),
    ("index runs",       ["repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "repaired",  "stopped",   "stopped",   "stopped"]),
    ("secret",           ["refused",   "refused",   "refused",   "refused",   "refused",   "refused",   "refused",   "unwritten", "unwritten", "unwritten"]),
    ("genesis",          ["refused",   "refused",   "refused",   "refused",   "refused",   "refused",   "refused",   "unwritten", "unwritten", "unwritten"]),
    ("replica.toml",     ["refused",   "refused",   "refused",   "refused",   "refused",   "refused",   "refused",   "unwritten", "unwritten", "unwritten"]),
];

/// The member whose files are damaged.
const VICTIM: usize = 3;
const WORKERS: usize = 2;

#[test]
fn the_document_holds_this_table() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recovery.md")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().filter(|l| l.starts_with('|')).map(|l| l.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let head = rows.iter().position(|row| row.get(1) == Some(&"bit flip")).expect("a table with a column for every fault");
    assert_eq!(rows[head][1..], FAULTS);
    let documented: Vec<(&str, &[&str])> = rows[head + 2..].iter().take_while(|row| row.len() == 11).map(|row| (row[0], &row[1..])).collect();
    let tested: Vec<(&str, &[&str])> = TABLE.iter().map(|(file, outcomes)| (*file, &outcomes[..])).collect();
    assert_eq!(documented, tested);
}

/// Compiles the layer between the program and its disk.
fn shim(dir: &Path) -> PathBuf {
    let library = dir.join("inject.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/inject.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(compiled.expect("a C compiler is needed, as for the build").success());
    library
}

#[test]
fn every_cell_ends_as_the_table_says() {
    let started = Instant::now();
    let only = std::env::var("EXOFED_RECOVERY_CELL").unwrap_or_default();
    let wanted = |row: usize, column: usize, file: &str| match only.as_str() {
        // As on a chessboard, so that every file and every fault is among them.
        "" => (row + column).is_multiple_of(2),
        "all" => true,
        only => format!("{file}, {}", FAULTS[column]).starts_with(only),
    };
    let mut cells = Vec::new();
    for (row, (file, outcomes)) in TABLE.iter().enumerate() {
        let named = FAULTS.iter().zip(outcomes).enumerate().filter(|(column, _)| wanted(row, *column, file));
        cells.extend(named.map(|(_, (fault, outcome))| (*file, *fault, *outcome)));
    }
    let library = tempfile::tempdir().unwrap();
    let shim = shim(library.path());
    // Failing disks last: what is committed during one does not change what the others find.
    let (disks, damages): (Vec<_>, Vec<_>) = cells.iter().partition(|(_, fault, _)| FAULTS[7..].contains(fault));
    let work = Mutex::new(damages.into_iter().chain(disks).rev().collect::<Vec<_>>());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut bench = Bench::new(&shim);
                let next = || work.lock().unwrap().pop();
                while let Some((file, fault, expected)) = next() {
                    let at = Instant::now();
                    let (found, why) = bench.attempt(file, fault, expected);
                    println!("{file}, {fault}: {found} ({} ms): {why}", at.elapsed().as_millis());
                    if found != expected {
                        wrong.lock().unwrap().push(format!("{file}, {fault}: expected {expected}, found {found}: {why}"));
                    }
                }
                bench.stage.stop();
            });
        }
    });
    println!("{} cells in {:.1} s", cells.len(), started.elapsed().as_secs_f32());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// A federation with a history; three members run, the fourth's files are damaged and started, again and again.
struct Bench {
    stage: Stage,
    victim: Victim,
    shim: String,
    submitted: u64,
}

impl Bench {
    fn new(shim: &Path) -> Self {
        let stage = Stage::init();
        damage::shrink(&stage);
        let mut bench = Self { victim: Victim::new(&stage, VICTIM), stage, shim: shim.to_str().unwrap().to_owned(), submitted: 0 };
        bench.stage.start();
        bench.submit(1_100, 50);
        bench.submit(10, 20_000);
        bench.stage.settle(bench.submitted);
        bench.stage.stop();
        bench.victim.keep_older();
        bench.stage.start();
        bench.submit(2_400, 50);
        for _ in 0..8 {
            bench.submit(30, 20_000);
        }
        // The last proposals are above the last checkpoint, which stands at every fourth slot.
        while bench.stage.agree()[VICTIM]["slot"].as_u64().unwrap() % 4 != 2 {
            bench.submit(1, 50);
        }
        bench.stage.stop_one(VICTIM);
        bench.victim.keep();
        bench
    }

    /// Commits updates of about this size.
    fn submit(&mut self, count: u64, size: u64) {
        let update = |i: u64| {
            let data: String = (0..size).map(|k| char::from(b'a' + ((i * 7 + k * k) % 26) as u8)).collect();
            format!("{{\"update_id\":\"update-{i}\",\"data\":\"{data}\"}}\n")
        };
        let lines: String = (self.submitted..self.submitted + count).map(update).collect();
        assert!(self.stage.submit(lines.as_bytes()).status.success());
        self.submitted += count;
    }

    /// Damages the victim's files, or lets its disk fail, and says how a start ends and what it says.
    fn attempt(&mut self, file: &str, fault: &str, expected: &str) -> (&'static str, String) {
        self.victim.restore();
        let spot = self.victim.spot(file);
        // A file that is never written is not waited for as long as one that is.
        let patience = Duration::from_millis(if expected == "stopped" { 10_000 } else { 500 });
        let outcome = match fault {
            "disk full" => self.fail(&spot, "write", "28", patience),
            "EIO on write" => self.fail(&spot, "write", "5", patience),
            "EIO on sync" => self.fail(&spot, "sync", "5", patience),
            _ => {
                self.victim.apply(fault, &spot);
                let first = self.start(&[]);
                if first.0 != "refused" {
                    self.stage.wait_for(|r| r[VICTIM]["sequence"] == r[0]["sequence"]);
                    self.stage.stop_one(VICTIM);
                }
                // A second start must not find the same again, nor forget that the replica is suspect.
                let second = self.start(&[]);
                let lasting = matches!(first.0, "refused" | "suspect");
                assert_eq!(second.0, if lasting { first.0 } else { "harmless" }, "{file}, {fault}: {}\nthe second start: {}", first.1, second.1);
                if second.0 != "refused" {
                    self.stage.stop_one(VICTIM);
                }
                if !lasting {
                    let report = audit(&self.victim.data(), &self.victim.federation(), |_| {}).unwrap();
                    assert!(report.clean, "{file}, {fault}: {}\nthe audit afterwards: {:?}", first.1, report.findings);
                }
                first
            }
        };
        let nameless = matches!(outcome.0, "refused" | "stopped") && !outcome.1.contains(&spot.name);
        if nameless { ("ended without naming the file", outcome.1) } else { outcome }
    }

    /// One start of the victim, and what it says of its files.
    fn start(&mut self, environment: &[(&str, &str)]) -> (&'static str, String) {
        let before = self.stage.log_of(VICTIM).len();
        let line = self.stage.try_start(VICTIM, environment);
        if !line.contains("ready at") {
            assert_eq!(self.stage.ended(VICTIM, Duration::from_secs(10)), Some(false), "a start that is refused ends, and says so");
        }
        let said = self.stage.log_of(VICTIM)[before..].to_owned();
        let calm = !said
            .lines()
            .any(|line| (line.contains("panicked at") && !line.contains("sled-0.34.7")) || line.contains("task") && line.contains("panicked"));
        assert!(calm, "it panicked: {said}");
        let outcome = if !line.contains("ready at") {
            "refused"
        } else if said.contains("suspect: ") {
            "suspect"
        } else if said.contains("repaired: ") {
            "repaired"
        } else if said.contains("cut: ") {
            "cut"
        } else {
            "harmless"
        };
        (outcome, said)
    }

    /// Lets the victim's disk fail while it runs, and starts it on the failing disk; afterwards on a sound one.
    fn fail(&mut self, spot: &Spot, op: &str, errno: &str, patience: Duration) -> (&'static str, String) {
        let failing = self.stage.path("failing");
        let when = failing.to_str().unwrap();
        let shim = self.shim.clone();
        let environment =
            [("LD_PRELOAD", &*shim), ("INJECT_PATH", &*spot.failing), ("INJECT_OP", op), ("INJECT_ERRNO", errno), ("INJECT_WHEN", when)];
        let (outcome, mut said) = self.start(&environment);
        assert_eq!(outcome, "harmless", "{said}");
        let before = self.stage.log_of(VICTIM).len();
        fs::write(&failing, "").unwrap();
        self.submit(1_100, 10);
        self.submit(30, 5_000);
        let stopped = self.stage.ended(VICTIM, patience);
        assert_ne!(stopped, Some(true), "a replica that stops by itself says so");
        if stopped.is_some() {
            said = self.stage.log_of(VICTIM)[before..].to_owned();
        } else {
            self.stage.stop_one(VICTIM);
        }
        let (start, at_start) = self.start(&environment);
        // A run of the index that could not be written is really missing.
        let calm = matches!(start, "refused" | "harmless" | "cut") || (start == "repaired" && at_start.contains("as if a run were missing"));
        assert!(calm, "a failing disk is no damage: {start}: {at_start}");
        fs::remove_file(&failing).unwrap();
        self.stage.kill(VICTIM);
        let (after, sound) = self.start(&[]);
        assert!(!matches!(after, "refused" | "suspect"), "on a sound disk it goes on: {sound}\nafter: {said}\nand: {at_start}");
        self.stage.wait_for(|r| r[VICTIM]["sequence"] == r[0]["sequence"] && r[VICTIM]["suspect"].is_null());
        self.stage.stop_one(VICTIM);
        match (stopped, start) {
            (Some(_), _) => ("stopped", said),
            (None, "refused") => ("refused", at_start),
            (None, _) => ("unwritten", said),
        }
    }
}
