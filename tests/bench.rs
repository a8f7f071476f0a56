//! The benchmark itself: its figures have their shape and add up, and a wrong result has none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stage::{EXOFED, documents, exofed, files_of, stderr, stdout};

const PAGE: u64 = 4096;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"))
}

fn assert_ordered(latency: &Value) {
    let values: Vec<f64> = ["p50", "p90", "p99", "p999", "max"].iter().map(|key| number(latency, key)).collect();
    assert!(values[0] > 0.0 && values.is_sorted(), "{latency}");
}

fn assert_limits(limits: &Value) {
    for group in limits["disk"]["groups"].as_array().unwrap() {
        assert!(number(group, "mb_per_second") > 0.0 && number(group, "syncs_per_second") > 0.0, "{group}");
        assert_ordered(&group["latency_ms"]);
    }
    assert_ordered(&limits["network"]["round_trip_ms"]);
    for key in ["sign_us", "verify_strict_us", "sha256_payload_us", "sha256_mb_per_second"] {
        assert!(number(&limits["crypto"], key) > 0.0, "{limits}");
    }
    let ceiling = &limits["ceiling"];
    let us: f64 = ceiling["terms"].as_array().unwrap().iter().map(|term| number(term, "us_per_update")).sum();
    let cpu = number(limits, "cores") * 1e6 / us;
    assert!((number(ceiling, "cpu_updates_per_second") / cpu - 1.0).abs() < 1e-6, "{ceiling}");
    let least = cpu.min(number(ceiling, "disk_updates_per_second"));
    assert!((number(ceiling, "updates_per_second") / least - 1.0).abs() < 1e-6, "{ceiling}");
}

/// Everything that must hold of a right result, whatever the speed.
fn assert_right(report: &Value) {
    assert_eq!((report["verdict"].as_str(), &report["findings"]), (Some("right"), &Value::Array(vec![])), "{report}");
    let [acknowledged, entries, errors, offered] = ["acknowledged", "log_entries", "errors", "offered"].map(|key| number(report, key));
    assert!(entries >= acknowledged && acknowledged + errors >= entries && (offered - acknowledged - errors).abs() < 0.5, "{report}");
    let measured = number(report, "committed_per_second") * number(report, "seconds");
    assert!(measured > 0.0 && measured <= acknowledged, "{report}");
    let mb = number(report, "committed_per_second") * number(report, "size") / 1e6;
    assert!((number(report, "mb_per_second") / mb - 1.0).abs() < 1e-9, "{report}");
    assert_ordered(&report["latency_ms"]);
    for key in ["cpu_seconds_per_replica", "rss_mb_per_replica"] {
        let values = report[key].as_array().unwrap();
        assert!(values.len() == 4 && values.iter().all(|value| value.as_f64().unwrap() > 0.0), "{key}: {report}");
    }
    for key in ["disk_bytes_per_update", "syncs_per_second", "batch_updates_mean", "share_of_ceiling", "proofs_checked"] {
        assert!(number(report, key) > 0.0, "{key}: {report}");
    }
    // On a file system in memory nothing is written to a medium.
    assert!(report["written_bytes_per_update"].as_f64().is_none_or(|bytes| bytes >= 0.0), "{report}");
    assert_limits(&report["limits"]);
}

#[test]
fn an_open_loop_adds_up_and_its_logs_hold_what_was_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("federation");
    let load = ["--rate", "200", "--size", "100", "--submission", "4", "--clients", "3", "--seconds", "2", "--warmup", "1"];
    let run = exofed(&[&["bench", "load", "--dir", text(&dir), "--json"], &load[..]].concat());
    assert_eq!(run.status.code(), Some(0), "{}{}", stdout(&run), stderr(&run));
    let report = documents(&run).swap_remove(0);
    assert_right(&report);
    // Three seconds of 200 a second, however slow the machine is.
    assert!((number(&report, "offered") - 600.0).abs() <= 4.0, "{report}");
    for replica in 0..4 {
        let audit = exofed(&["audit", text(&dir.join(format!("replica-{replica}"))), "--genesis", text(&dir.join("federation.toml")), "--json"]);
        let audit = documents(&audit).swap_remove(0);
        assert_eq!((&audit["entries"], &audit["log_root"]), (&report["log_entries"], &report["log_root"]), "{audit}");
    }
}

#[test]
fn a_closed_loop_adds_up_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(EXOFED);
    command.args(["bench", "load", "--clients", "2", "--in-flight", "2", "--submission", "16", "--seconds", "2", "--warmup", "0", "--json"]);
    let run = command.env("TMPDIR", temporary.path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}{}", stdout(&run), stderr(&run));
    let report = documents(&run).swap_remove(0);
    assert_right(&report);
    assert_eq!(report["kept"], Value::Null, "{report}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

/// The first segment of a replica's journal, once it holds pages enough that those at its beginning are written for good.
fn written_segment(dir: &Path) -> PathBuf {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let journal = dir.join("replica-3/data/journal");
        let segments = if journal.is_dir() { files_of(&journal) } else { vec![] };
        for segment in segments.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "seg")) {
            let mut late = [0; 64];
            let read = fs::File::open(&segment).and_then(|file| file.read_exact_at(&mut late, 40 * PAGE));
            if read.is_ok() && late != [0; 64] {
                return segment;
            }
        }
        assert!(Instant::now() < until, "no segment was written");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_damaged_log_is_found_and_there_are_no_figures() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("federation");
    let mut command = Command::new(EXOFED);
    command.args(["bench", "load", "--rate", "400", "--submission", "8", "--clients", "2", "--seconds", "3", "--warmup", "0", "--json", "--dir"]);
    let running = command.arg(&dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let segment = fs::OpenOptions::new().read(true).write(true).open(written_segment(&dir)).unwrap();
    let mut byte = [0];
    segment.read_exact_at(&mut byte, 20 * PAGE + 1_000).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], 20 * PAGE + 1_000).unwrap();
    let run = running.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{}{}", stdout(&run), stderr(&run));
    let report = documents(&run).swap_remove(0);
    assert_eq!(report["verdict"], "wrong", "{report}");
    assert!(report["findings"].to_string().contains("replica-3"), "{report}");
    assert!(report.get("committed_per_second").is_none() && report.get("latency_ms").is_none(), "{report}");
    assert!(dir.join("replica-3").is_dir(), "what is wrong is kept");
}

#[test]
fn loads_that_cannot_be_are_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("mine"), "").unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--dir", text(root.path())], 3, "is not empty"),
        (&["--rate", "fast"], 2, "updates per second"),
        (&["--replicas", "3"], 2, "4..=64"),
        (&["--submission", "5000"], 3, "signed together"),
        (&["--size", "2000000"], 3, "an update has at most"),
        (&["--size", "100000", "--submission", "64"], 3, "lower --size or --submission"),
    ];
    for (arguments, code, expected) in cases {
        let run = exofed(&[&["bench", "load"], arguments].concat());
        assert_eq!(run.status.code(), Some(code), "{arguments:?}: {}", stderr(&run));
        assert!(stderr(&run).contains(expected), "{arguments:?}: {}", stderr(&run));
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn limits_are_positive_and_the_ceiling_follows_from_them() {
    let dir = tempfile::tempdir().unwrap();
    let run = exofed(&["bench", "limits", "--dir", text(dir.path()), "--size", "256", "--submission", "8", "--json"]);
    assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
    assert_limits(&documents(&run).swap_remove(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
