//! Repair by hand: `exofed recover`, backups of running replicas, and replicas that come back from a backup or with a new disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "faults/history.rs"]
mod history;
mod stage;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use history::{History, Shape};
use serde_json::Value;
use stage::{EXOFED, Stage, copy_tree, documents, exofed, files_of, stderr};

const SMALL: Shape = Shape { updates_per_batch: 4, data_bytes: 256, batch_ms: 30_000, segment_bytes: 64 << 10 };

fn recover(stage: &Stage) -> (Option<i32>, Value) {
    let output = exofed(&["recover", &stage.text("replica-0"), "--json"]);
    (output.status.code(), documents(&output).pop().unwrap_or_else(|| panic!("{}", stderr(&output))))
}

fn audit(stage: &Stage, target: &str) -> Value {
    let output = exofed(&["audit", &stage.text(target), "--genesis", &stage.text("federation.toml"), "--json"]);
    documents(&output).pop().unwrap_or_else(|| panic!("{}", stderr(&output)))
}

/// Flips a bit in the middle of the second segment.
fn flip(stage: &Stage) {
    let segment = files_of(&stage.path("replica-0/data/journal/segments")).remove(1);
    let file = fs::OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 32 << 10).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 32 << 10).unwrap();
}

#[test]
fn an_interrupted_rebuild_goes_on_where_it_was() {
    let stage = Stage::init();
    History::write(&stage, 0, 24_000, SMALL);
    for pause in [150, 300, 450] {
        let mut rebuild = Command::new(EXOFED);
        let mut rebuild = rebuild.args(["recover", &stage.text("replica-0")]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        rebuild.kill().unwrap();
        rebuild.wait().unwrap();
    }
    let (code, report) = recover(&stage);
    assert_eq!((code, &report["log_head"], &report["suspect"]), (Some(0), &Value::from(24_000), &Value::Null), "{report}");
    let audit = audit(&stage, "replica-0");
    assert_eq!((&audit["clean"], &audit["entries"]), (&Value::from(true), &Value::from(24_000)), "{audit}");
    // The same with a log that was whole, and is lost.
    fs::remove_dir_all(stage.path("replica-0/data/log")).unwrap();
    let (code, report) = recover(&stage);
    assert_eq!((code, &report["log_head"]), (Some(0), &Value::from(24_000)));
    assert!(report["repaired"].as_array().unwrap().iter().any(|r| r.as_str().unwrap().starts_with("the log, from the journal")), "{report}");
}

#[test]
fn what_the_journal_lost_and_the_log_has_is_written_to_it_again() {
    let stage = Stage::init();
    History::write(&stage, 0, 2_000, SMALL);
    assert_eq!(recover(&stage).0, Some(0));
    flip(&stage);
    assert_eq!(audit(&stage, "replica-0")["clean"], false);
    let (code, report) = recover(&stage);
    assert_eq!((code, &report["suspect"], &report["missing"]), (Some(0), &Value::Null, &Value::Array(vec![])), "{report}");
    assert!(report["repaired"].to_string().contains("written to it again from the log"), "{report}");
    let after = audit(&stage, "replica-0");
    assert_eq!((&after["clean"], &after["entries"]), (&Value::from(true), &Value::from(2_000)), "{after}");
    assert_eq!(after["made_good"].as_array().unwrap().len(), 1, "{after}");
    let (code, report) = recover(&stage);
    assert_eq!((code, &report["repaired"]), (Some(0), &Value::Array(vec![])), "once only: {report}");
}

#[test]
fn a_body_that_only_a_peer_has_is_noted_for_the_next_start() {
    let stage = Stage::init();
    History::write(&stage, 0, 2_400, Shape { updates_per_batch: 30, segment_bytes: 128 << 10, ..SMALL });
    assert_eq!(recover(&stage).0, Some(0));
    flip(&stage);
    let (code, report) = recover(&stage);
    assert_eq!((code, &report["suspect"]), (Some(1), &Value::Null), "{report}");
    let missing = report["missing"].as_array().unwrap();
    assert!(!missing.is_empty(), "{report}");
    let noted = fs::read_to_string(stage.path("replica-0/data/wanted")).unwrap();
    assert_eq!(noted.lines().count(), missing.len());
    let check = exofed(&["recover", "--check", &stage.text("replica-0")]);
    assert_eq!(check.status.code(), Some(1), "{}", stderr(&check));
}

#[test]
fn damaged_tiles_are_rebuilt() {
    let stage = Stage::init();
    History::write(&stage, 0, 4_000, SMALL);
    assert_eq!(recover(&stage).0, Some(0));
    let level = fs::OpenOptions::new().write(true).open(stage.path("replica-0/data/log/merkle/level-0")).unwrap();
    level.write_all_at(&[7; 8], 100 * 32).unwrap();
    let (code, report) = recover(&stage);
    assert_eq!(code, Some(0), "{report}");
    assert!(report["repaired"].to_string().contains("Merkle"), "{report}");
    assert_eq!(audit(&stage, "replica-0")["clean"], true);
}

fn lines(from: u64, count: u64) -> String {
    (from..from + count).map(|i| format!("{{\"update_id\":\"b{i}\",\"data\":\"{}\"}}\n", "x".repeat(2_000))).collect()
}

/// Starts the fourth replica; it must say that it is suspect for this reason, and catch up.
fn comes_back_suspect(stage: &mut Stage, reason: &str, head: u64) {
    let said = stage.log_of(3).len();
    stage.restart(3);
    let said = stage.log_of(3)[said..].to_owned();
    assert!(said.contains("suspect: ") && said.contains(reason), "{said}");
    stage.settle(head);
    stage.stop_one(3);
    let report = audit(stage, "replica-3");
    assert_eq!((&report["clean"], &report["head"]), (&Value::from(true), &Value::from(head)), "{report}");
}

#[test]
fn a_backup_of_a_running_replica_comes_back_suspect_and_so_does_a_new_disk() {
    let mut stage = Stage::init();
    stage.start();
    assert!(stage.submit(lines(0, 400).as_bytes()).status.success());
    stage.settle(400);
    let (replica, copy) = (stage.text("replica-3"), stage.text("copy"));
    // Beside a load, so that the segment that is copied grows meanwhile.
    let output = std::thread::scope(|scope| {
        let load = scope.spawn(|| stage.submit(lines(400, 600).as_bytes()));
        let output = exofed(&["backup", &replica, "--to", &copy, "--json"]);
        assert!(load.join().unwrap().status.success());
        output
    });
    assert!(output.status.success(), "{}{:?}", stderr(&output), documents(&output));
    let copied = documents(&output)[0]["head"].as_u64().unwrap();
    assert!((400..=1_000).contains(&copied));
    let again = exofed(&["backup", &replica, "--to", &copy]);
    assert!(again.status.code() == Some(3) && stderr(&again).contains("nothing is overwritten"), "{}", stderr(&again));
    let over = exofed(&["restore", &copy, "--to", &replica]);
    assert!(over.status.code() == Some(3) && stderr(&over).contains("nothing is overwritten"), "{}", stderr(&over));
    stage.settle(1_000);
    stage.stop_one(3);

    let data = stage.path("replica-3/data");
    fs::remove_dir_all(&data).unwrap();
    let lost = stage.try_start(3, &[]);
    assert!(lost.is_empty() && stage.log_of(3).contains("--new-disk"), "{}", stage.log_of(3));
    let restored = exofed(&["restore", &copy, "--to", &replica]);
    assert!(restored.status.success(), "{}", stderr(&restored));
    comes_back_suspect(&mut stage, "restored from the backup", 1_000);

    fs::remove_dir_all(&data).unwrap();
    let made = exofed(&["recover", &replica, "--new-disk"]);
    assert!(made.status.success(), "{}", stderr(&made));
    comes_back_suspect(&mut stage, "its disk was lost", 1_000);
    let twice = exofed(&["recover", &replica, "--new-disk"]);
    assert!(twice.status.code() == Some(3) && stderr(&twice).contains("nothing is overwritten"), "{}", stderr(&twice));
    stage.stop();
}

#[test]
fn restarts_beside_damage_do_not_fill_the_disk() {
    let stage = Stage::init();
    History::write(&stage, 0, 2_000, SMALL);
    assert_eq!(recover(&stage).0, Some(0));
    let segments = || files_of(&stage.path("replica-0/data/journal/segments"));
    let newest = segments().into_iter().rfind(|path| fs::read(path).unwrap()[0] != 0).unwrap();
    fs::OpenOptions::new().write(true).open(newest).unwrap().write_all_at(&[9; 64], 200).unwrap();
    // Nothing is left to be written to the segment that is begun behind it.
    fs::remove_dir_all(stage.path("replica-0/data/log")).unwrap();
    let count = segments().len();
    for _ in 0..4 {
        let (code, report) = recover(&stage);
        assert!(code == Some(1) && report["suspect"].is_string(), "{report}");
    }
    assert!(segments().len() <= count + 2, "one is begun behind the damaged one, and one ahead: {:?}", segments());
}

#[test]
fn a_journal_older_than_the_log_is_noticed() {
    let mut stage = Stage::init();
    stage.start();
    assert!(stage.submit(lines(0, 100).as_bytes()).status.success());
    stage.settle(100);
    stage.stop();
    let (journal, older) = (stage.path("replica-0/data/journal"), stage.path("older"));
    copy_tree(&journal, &older);
    stage.start();
    assert!(stage.submit(lines(100, 100).as_bytes()).status.success());
    stage.settle(200);
    stage.stop();
    fs::remove_dir_all(&journal).unwrap();
    copy_tree(&older, &journal);
    for round in 1..=2 {
        let (code, report) = recover(&stage);
        let reason = report["suspect"].as_str().unwrap_or_default();
        assert!(code == Some(1) && reason.contains("the journal is older than the log"), "round {round}: {report}");
    }
}

#[test]
fn a_damaged_journal_is_not_backed_up() {
    let stage = Stage::init();
    History::write(&stage, 0, 2_000, SMALL);
    flip(&stage);
    let refused = exofed(&["backup", &stage.text("replica-0"), "--to", &stage.text("copy")]);
    assert!(refused.status.code() == Some(3) && stderr(&refused).contains("repair it first"), "{}", stderr(&refused));
    assert!(!Path::new(&stage.text("copy")).exists());
}
