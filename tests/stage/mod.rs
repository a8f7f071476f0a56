//! A federation of real processes for tests; every process ends with the test, however that ends.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use exo_federation::config::FederationFile;
use exo_federation::journal::{JournalOptions, JournalReader};
use exo_federation::node::LogEntry;
use exo_federation::recovery::body_of;
use exo_federation::store::{LogReader as _, Store, StoreOptions};
use exo_federation::types::CommittedBatch;
use serde_json::Value;

pub(crate) const EXOFED: &str = env!("CARGO_BIN_EXE_exofed");

/// How long anything that must happen may take before the test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the program with these arguments and this input.
pub(crate) fn exofed_with(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(EXOFED);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that refuses its arguments closes its input early.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Runs the program with these arguments.
pub(crate) fn exofed(arguments: &[&str]) -> Output {
    exofed_with(arguments, b"")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON documents in an answer, one a line.
pub(crate) fn documents(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Copies a directory with its files' permissions.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Every file below a directory, sorted.
pub(crate) fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_of(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// One replica's process, killed when it is dropped; it also ends when its input is closed, as it is when the test itself is killed.
struct Replica {
    child: Child,
    _input: ChildStdin,
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A federation of four in a temporary directory.
pub(crate) struct Stage {
    root: tempfile::TempDir,
    replicas: Vec<Option<Replica>>,
}

impl Stage {
    /// Makes a federation on free ports; nothing runs yet.
    pub(crate) fn init() -> Self {
        let stage = Self { root: tempfile::tempdir().unwrap(), replicas: (0..4).map(|_| None).collect() };
        let made = exofed(&["init", stage.path("").to_str().unwrap(), "--base-port", "0", "--json"]);
        assert!(made.status.success(), "{}", stderr(&made));
        stage
    }

    /// A path below the federation's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("federation").join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Starts all four.
    pub(crate) fn start(&mut self) {
        (0..4).for_each(|index| self.restart(index));
    }

    /// Starts a replica and waits until it says that it is ready.
    pub(crate) fn restart(&mut self, index: usize) {
        self.restart_with(index, &[]);
    }

    /// The same, with variables in its environment.
    pub(crate) fn restart_with(&mut self, index: usize, environment: &[(String, String)]) {
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let line = self.try_start(index, &environment);
        assert!(line.contains("ready at"), "replica-{index} did not start: {line}{}", self.log_of(index));
    }

    /// Starts a replica in this environment; gives the line that it prints when it is ready, or nothing if it ended before.
    pub(crate) fn try_start(&mut self, index: usize, environment: &[(&str, &str)]) -> String {
        let log = self.path(&format!("replica-{index}.log"));
        let errors = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(EXOFED);
        command.envs(environment.iter().copied());
        command.args(["serve", "--until-stdin-ends", "--config"]).arg(self.path(&format!("replica-{index}/replica.toml")));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        self.replicas[index] = Some(Replica { child, _input: input });
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        line
    }

    /// What a replica said on its standard error, over all its starts.
    pub(crate) fn log_of(&self, index: usize) -> String {
        fs::read_to_string(self.path(&format!("replica-{index}.log"))).unwrap_or_default()
    }

    /// Waits until a replica's process ends by itself; gives whether it ended in order.
    pub(crate) fn ended(&mut self, index: usize, limit: Duration) -> Option<bool> {
        let until = Instant::now() + limit;
        let replica = self.replicas[index].as_mut()?;
        while Instant::now() < until {
            if let Some(status) = replica.child.try_wait().unwrap() {
                self.replicas[index] = None;
                return Some(status.success());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Stops one replica by SIGTERM; it must end in order.
    pub(crate) fn stop_one(&mut self, index: usize) {
        let mut replica = self.replicas[index].take().unwrap();
        let pid = rustix::process::Pid::from_child(&replica.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(replica.child.wait().unwrap().success(), "replica-{index} did not stop in order: {}", self.log_of(index));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, index: usize) {
        self.replicas[index] = None;
    }

    /// Stops all by SIGTERM; each must end in order.
    pub(crate) fn stop(&mut self) {
        for replica in self.replicas.iter().flatten() {
            let pid = rustix::process::Pid::from_child(&replica.child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        for mut replica in self.replicas.iter_mut().filter_map(Option::take) {
            assert!(replica.child.wait().unwrap().success(), "a replica did not stop in order");
        }
    }

    /// Submits JSON lines.
    pub(crate) fn submit(&self, lines: &[u8]) -> Output {
        exofed_with(&["submit", "--json", "--config", &self.text("client.toml")], lines)
    }

    /// Waits until every replica's log ends at a sequence number.
    pub(crate) fn settle(&self, sequence: u64) {
        self.wait_for(|replicas| replicas.iter().all(|r| r["sequence"] == sequence));
    }

    /// Waits until every replica answers with one log root and nothing pending; gives their statuses.
    pub(crate) fn agree(&self) -> Vec<Value> {
        self.wait_for(|replicas| replicas.iter().all(|r| r["reachable"] == true && r["log_root"] == replicas[0]["log_root"] && r["pending"] == 0))
    }

    pub(crate) fn wait_for(&self, reached: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let until = Instant::now() + LIMIT;
        let mut pause = Duration::from_millis(5);
        loop {
            let status = exofed(&["status", "--json", "--config", &self.text("client.toml")]);
            let replicas = documents(&status).swap_remove(0)["replicas"].as_array().unwrap().clone();
            if reached(&replicas) {
                return replicas;
            }
            assert!(Instant::now() < until, "the logs did not come together: {replicas:?}");
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Every entry of a stopped replica's log, from its files.
    pub(crate) fn entries(&self, index: usize) -> Vec<LogEntry> {
        let federation = FederationFile::read_genesis(&self.path("federation.toml")).unwrap();
        let data = self.path(&format!("replica-{index}/data"));
        let (_copy, store, _) = Store::open_copy(&data, federation.id(), &StoreOptions::default()).unwrap();
        let journal = JournalReader::open(&data.join("journal"), Some(federation.id().0.0), &JournalOptions::default()).unwrap();
        let batches = store.reader().rows_from_sequence(1).map(|row| {
            let row = row.unwrap();
            let body = body_of(&journal, &row).unwrap();
            CommittedBatch { header: row.header, body, certificate: row.certificate }
        });
        batches.flat_map(|batch| LogEntry::of_batch(&batch).collect::<Vec<_>>()).collect()
    }
}
