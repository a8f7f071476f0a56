//! A federation of real processes for tests: `exofed init`, one `exofed serve` a replica, all killed when the test ends, however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use exo_federation::config::FederationFile;
use exo_federation::journal::{JournalOptions, JournalReader};
use exo_federation::node::LogEntry;
use exo_federation::recovery::body_of;
use exo_federation::store::{Store, StoreOptions};
use exo_federation::types::{CommittedBatch, Federation};

pub const EXOFED: &str = env!("CARGO_BIN_EXE_exofed");

/// A running replica.
struct Replica {
    child: Child,
    /// Closed, it stops the replica; so nothing outlives the test.
    stdin: Option<ChildStdin>,
}

/// A federation below a temporary directory.
pub struct Cluster {
    home: tempfile::TempDir,
    replicas: Vec<Option<Replica>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in self.replicas.iter_mut().flatten() {
            let _ = replica.child.kill();
            let _ = replica.child.wait();
        }
    }
}

impl Cluster {
    /// Makes a federation and starts every replica.
    pub fn start(replicas: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("federation");
        let made = exofed(&["init", dir.to_str().unwrap(), "--replicas", &replicas.to_string(), "--base-port", "0"]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let mut cluster = Self { home, replicas: (0..replicas).map(|_| None).collect() };
        (0..replicas).for_each(|k| cluster.restart(k));
        cluster
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("federation")
    }

    pub fn path(&self, name: &str) -> String {
        self.dir().join(name).to_str().unwrap().to_owned()
    }

    pub fn data(&self, k: usize) -> PathBuf {
        self.dir().join(format!("replica-{k}")).join("data")
    }

    pub fn federation(&self) -> Federation {
        FederationFile::read_genesis(&self.dir().join("federation.toml")).unwrap()
    }

    pub fn is_up(&self, k: usize) -> bool {
        self.replicas[k].is_some()
    }

    /// Starts a replica and waits until it says that it is ready.
    pub fn restart(&mut self, k: usize) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir().join(format!("replica-{k}.log"))).unwrap();
        let mut child = Command::new(EXOFED)
            .args(["serve", "--until-stdin-ends", "--config", &self.path(&format!("replica-{k}/replica.toml"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let stdin = child.stdin.take();
        if !ready.contains(" ready at ") {
            let _ = child.kill();
            panic!("replica {k} did not become ready: {}", std::fs::read_to_string(self.dir().join(format!("replica-{k}.log"))).unwrap());
        }
        self.replicas[k] = Some(Replica { child, stdin });
    }

    /// SIGKILL.
    pub fn kill(&mut self, k: usize) {
        if let Some(mut replica) = self.replicas[k].take() {
            replica.child.kill().unwrap();
            replica.child.wait().unwrap();
        }
    }

    /// Stops every replica in order.
    pub fn stop(&mut self) {
        for replica in self.replicas.iter_mut().flatten() {
            drop(replica.stdin.take());
        }
        for (k, replica) in self.replicas.iter_mut().enumerate() {
            if let Some(mut replica) = replica.take() {
                assert!(replica.child.wait().unwrap().success(), "replica {k} stops in order");
            }
        }
    }

    /// Waits until every replica answers with one log root.
    pub fn settle(&self) -> serde_json::Value {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let status = exofed(&["status", "--json", "--config", &self.path("client.toml")]);
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
            let replicas = status["replicas"].as_array().unwrap();
            if replicas.iter().all(|r| r["reachable"] == true && r["log_root"] == replicas[0]["log_root"] && r["pending"] == 0) {
                return status;
            }
            assert!(Instant::now() < until, "the logs do not come together: {status:#}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Every entry of a stopped replica's log, from its files.
    pub fn entries(&self, k: usize) -> Vec<LogEntry> {
        let federation = self.federation();
        let (_copy, store, _) = Store::open_copy(&self.data(k), federation.id(), &StoreOptions::default()).unwrap();
        let journal = JournalReader::open(&self.data(k).join("journal"), Some(federation.id().0.0), &JournalOptions::default()).unwrap();
        let rows = store.reader().rows_from_sequence(1).map(|row| {
            let row = row.unwrap();
            let body = body_of(&journal, &row).unwrap();
            CommittedBatch { header: row.header, body, certificate: row.certificate }
        });
        rows.flat_map(|batch| LogEntry::of_batch(&batch).collect::<Vec<_>>()).collect()
    }
}

/// Runs the program to its end.
pub fn exofed(arguments: &[&str]) -> Output {
    Command::new(EXOFED).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Copies a directory tree.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
