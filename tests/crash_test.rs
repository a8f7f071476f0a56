//! The crash test itself: clean runs of every kind of kill, and that its checks find what is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stage::{EXOFED, copy_tree, documents, exofed, stderr, stdout};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn local(kill: &str, cycles: &str) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("federation");
    let run = exofed(&["crash-test", "local", "--dir", text(&dir), "--cycles", cycles, "--kill", kill, "--seed", "5", "--json"]);
    assert_eq!(run.status.code(), Some(0), "{}{}", stdout(&run), stderr(&run));
    let report = documents(&run).swap_remove(0);
    assert_eq!(report["verdict"], "clean", "{report}");
    assert_eq!(report["cycles"].to_string(), cycles, "{report}");
    assert!(report["acked"].as_u64().unwrap() > 0 && report["recovered"] == report["acked"], "{report}");
    assert!(report["kills"].as_u64() >= report["cycles"].as_u64() && report["full_check"] == true, "{report}");
    assert!(report["restart_ms"]["p50"].as_u64().unwrap() > 0 && report["sync_us"]["p99"].as_u64().unwrap() > 0, "{report}");
    for none in ["lost", "duplicated", "forked", "signed_twice", "other_violations"] {
        assert_eq!(report[none], 0, "{report}");
    }
    assert!(!dir.exists(), "a clean run leaves nothing behind");
}

#[test]
fn random_kills_lose_nothing() {
    local("random", "2");
}

#[test]
fn killing_all_at_once_loses_nothing() {
    local("all-at-once", "2");
}

#[test]
fn replicas_that_kill_themselves_around_writes_and_syncs_lose_nothing() {
    local("failpoint", "2");
}

#[test]
fn a_directory_in_use_and_a_point_that_does_not_exist_are_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("mine"), "").unwrap();
    let run = exofed(&["crash-test", "local", "--dir", text(root.path())]);
    assert_eq!(run.status.code(), Some(2));
    assert!(stderr(&run).contains("is not empty"), "{}", stderr(&run));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    let run = exofed(&["serve", "--config", "replica.toml", "--crash-at", "votes-sunk:1"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(stderr(&run).contains("votes-synced"), "{}", stderr(&run));
}

/// A child that is killed when the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A witness, a federation, and what the tests do to them.
struct Power {
    root: tempfile::TempDir,
    address: String,
    witness: Option<Running>,
}

impl Power {
    fn new() -> Self {
        let mut power = Self { root: tempfile::tempdir().unwrap(), address: "127.0.0.1:0".into(), witness: None };
        power.start_witness();
        power
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("federation")
    }

    fn start_witness(&mut self) {
        self.witness = None;
        let mut command = Command::new(EXOFED);
        command.args(["crash-test", "witness", "--listen", &self.address, "--dir", text(&self.root.path().join("witness"))]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.address = line.split([' ', ',']).nth(3).unwrap_or_else(|| panic!("{line}")).to_owned();
        self.witness = Some(Running(child));
    }

    /// The witness's one file.
    fn book(&self) -> PathBuf {
        fs::read_dir(self.root.path().join("witness")).unwrap().next().unwrap().unwrap().path()
    }

    fn acks(&self) -> usize {
        let text = fs::read_dir(self.root.path().join("witness")).unwrap().next().map(|_| fs::read_to_string(self.book()).unwrap());
        text.unwrap_or_default().matches("{\"ack\"").count()
    }

    /// Runs a load until the witness holds so many more acknowledgements, then kills its replicas and it, as a power cut would.
    fn load_and_cut(&self, acks: usize) {
        let target = self.acks() + acks;
        let mut command = Command::new(EXOFED);
        command.args(["crash-test", "load", "--dir", text(&self.dir()), "--witness", &self.address]);
        let mut load = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while self.acks() < target {
            assert!(Instant::now() < until && load.0.try_wait().unwrap().is_none(), "the load does not run");
            std::thread::sleep(Duration::from_millis(20));
        }
        let replicas = children_of(load.0.id());
        assert_eq!(replicas.len(), 4, "{replicas:?}");
        for replica in &replicas {
            rustix::process::kill_process(*replica, rustix::process::Signal::KILL).unwrap();
        }
    }

    fn verify(&self) -> (Output, Value) {
        let run = exofed(&["crash-test", "verify", "--dir", text(&self.dir()), "--witness", &self.address, "--json"]);
        let report = documents(&run).swap_remove(0);
        (run, report)
    }
}

fn children_of(parent: u32) -> Vec<rustix::process::Pid> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_str().unwrap_or_default().parse::<i32>() else { continue };
        // "pid (name) state parent ...": the name may hold anything, a parenthesis too.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        if fields.split(' ').nth(1) == Some(&parent.to_string()) {
            children.extend(rustix::process::Pid::from_raw(pid));
        }
    }
    children
}

#[test]
fn what_a_witness_keeps_is_verified_after_a_cut_and_what_is_gone_is_found() {
    let mut power = Power::new();
    power.load_and_cut(100);
    let (run, report) = power.verify();
    assert_eq!(run.status.code(), Some(0), "{report} {}", stderr(&run));
    assert_eq!((&report["grade"], &report["cycles"], &report["lost"]), (&"L3 real power".into(), &1.into(), &0.into()), "{report}");
    assert!(report["acked"].as_u64().unwrap() >= 100 && report["acked"] == report["recovered"], "{report}");

    // The federation as it was then, put back after more was acknowledged: a disk that lost a committed history on every replica.
    let old = power.root.path().join("old");
    copy_tree(&power.dir(), &old);
    power.start_witness();
    power.load_and_cut(50);
    let (run, report) = power.verify();
    assert_eq!(run.status.code(), Some(0), "{report} {}", stderr(&run));
    assert_eq!(report["cycles"], 2, "{report}");
    fs::remove_dir_all(power.dir()).unwrap();
    copy_tree(&old, &power.dir());
    let (run, report) = power.verify();
    assert_eq!(run.status.code(), Some(1), "{report} {}", stderr(&run));
    assert_eq!(report["verdict"], "loss", "{report}");
    assert!(report["lost"].as_u64().unwrap() >= 50, "{report}");
    assert_eq!(report["lost"].as_u64().unwrap() + report["recovered"].as_u64().unwrap(), report["acked"].as_u64().unwrap(), "{report}");
    // What had been proposed when the copy was made may be committed anew, elsewhere: those places are forked, and named first.
    let found = |kind: &str, what: &str| {
        report["findings"].as_array().unwrap().iter().any(|f| f["kind"] == kind && f["what"].as_str().unwrap().contains(what))
    };
    assert!(found("lost", "the logs end at"), "{report}");
    assert!(report["loss_per_cycle_below"].is_null(), "{report}");
}

#[test]
fn a_tampered_acknowledgement_is_found_and_without_a_witness_or_a_cut_it_cannot_be_told() {
    let mut power = Power::new();
    power.load_and_cut(20);
    let address = std::mem::replace(&mut power.address, "127.0.0.1:1".into());
    let (run, report) = power.verify();
    assert_eq!((run.status.code(), &report["verdict"]), (Some(2), &"could_not_tell".into()), "{report}");
    assert!(stderr(&run).contains("the witness at 127.0.0.1:1"), "{}", stderr(&run));
    power.address = address;

    power.witness = None;
    let kept = fs::read_to_string(power.book()).unwrap();
    let mut lines: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let acks: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].get("ack").is_some()).collect();
    let other = "ab".repeat(32);
    lines[acks[3]]["ack"]["leaf"] = other.clone().into();
    lines[acks[5]]["ack"]["header"] = other.into();
    fs::write(power.book(), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    power.start_witness();
    let (run, report) = power.verify();
    assert_eq!(run.status.code(), Some(1), "{report} {}", stderr(&run));
    assert_eq!((&report["lost"], &report["forked"]), (&2.into(), &1.into()), "{report}");

    // The truth again, but for the cut: the load ended in order after all.
    power.witness = None;
    fs::write(power.book(), format!("{kept}\"ended\"\n")).unwrap();
    power.start_witness();
    let (run, report) = power.verify();
    assert_eq!((run.status.code(), &report["verdict"], &report["lost"]), (Some(2), &"could_not_tell".into(), &0.into()), "{report}");
    assert!(stderr(&run).contains("no power was cut"), "{}", stderr(&run));
}
