//! Acknowledged is kept: updates flow while replicas are killed and restarted at random.
//!
//! `EXOFED_KILL_UPDATES=100000 cargo test --release --test kill_storm` is the long version.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use stage::{EXOFED, Stage, exofed, stdout};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// A schedule that a seed repeats.
struct Schedule(u64);

impl Schedule {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn every_acknowledged_update_is_in_every_log_exactly_once() {
    let updates = setting("EXOFED_KILL_UPDATES", 8_000);
    let seed = setting("EXOFED_KILL_SEED", 1);
    println!("updates {updates}, seed {seed}; repeat with EXOFED_KILL_UPDATES and EXOFED_KILL_SEED");
    let mut stage = Stage::init();
    stage.start();
    let mut submit = Command::new(EXOFED)
        .args(["submit", "--json", "--config", &stage.text("client.toml"), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufWriter::new(submit.stdin.take().unwrap());
    let feeder = std::thread::spawn(move || {
        for i in 0..updates {
            writeln!(lines, "{{\"update_id\":\"u{i}\",\"data\":\"{}\"}}", "x".repeat(usize::try_from(i % 700).unwrap())).unwrap();
            // About 1,500 a second at most, so that the storm has something to hit.
            if i % 64 == 63 {
                lines.flush().unwrap();
                std::thread::sleep(Duration::from_millis(40));
            }
        }
    });
    let mut output = submit.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut answers = String::new();
        output.read_to_string(&mut answers).unwrap();
        answers
    });
    let mut stderr = submit.stderr.take().unwrap();
    let complaints = std::thread::spawn(move || {
        let mut complaints = String::new();
        stderr.read_to_string(&mut complaints).unwrap();
        complaints
    });
    let mut schedule = Schedule(seed);
    let mut kills = 0;
    while submit.try_wait().unwrap().is_none() {
        if schedule.below(12) == 0 {
            (0..4).for_each(|k| stage.kill(k));
            kills += 4;
            (0..4).for_each(|k| stage.restart(k));
        }
        let victim = usize::try_from(schedule.below(4)).unwrap();
        stage.kill(victim);
        kills += 1;
        std::thread::sleep(Duration::from_millis(schedule.below(800)));
        stage.restart(victim);
        std::thread::sleep(Duration::from_millis(schedule.below(800)));
    }
    feeder.join().unwrap();
    let answers = reader.join().unwrap();
    let complaints = complaints.join().unwrap();
    let statuses = stage.agree();
    stage.stop();
    println!("{kills} kills; view {}", statuses[0]["view"]);

    let mut acknowledged = BTreeMap::new();
    for line in answers.lines() {
        let fate: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(fate["status"], "committed", "{line}; {complaints}");
        let id = fate["update_id"].as_str().unwrap().to_owned();
        assert!(acknowledged.insert(id, fate["sequence"].as_u64().unwrap()).is_none(), "answered twice: {line}");
    }
    assert_eq!(acknowledged.len() as u64, updates);
    for k in 0..4 {
        let entries = stage.entries(k);
        let mut places = BTreeMap::new();
        for (entry, sequence) in entries.iter().zip(1u64..) {
            assert_eq!(entry.sequence, sequence, "replica {k} has a gap");
            let earlier = places.insert(entry.update.update_id.0.clone(), sequence);
            assert_eq!(earlier, None, "replica {k} holds {:?} twice", entry.update.update_id);
        }
        for (id, sequence) in &acknowledged {
            assert_eq!(places.get(id), Some(sequence), "replica {k}, update {id}");
        }
        let audit = exofed(&["audit", &stage.text(&format!("replica-{k}")), "--genesis", &stage.text("federation.toml")]);
        assert!(audit.status.success(), "replica {k}: {}", stdout(&audit));
    }
}
