//! A replica that cannot prove that it remembers its votes serves, and does not vote, over restarts too, until everything it may have voted on
//! lies behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use exo_federation::config::FederationFile;
use exo_federation::journal::JournalOptions;
use exo_federation::recovery::DataDir;
use serde_json::Value;
use stage::{Stage, documents, exofed};

fn status(stage: &Stage) -> Vec<Value> {
    let status = exofed(&["status", "--json", "--config", &stage.text("client.toml")]);
    documents(&status).swap_remove(0)["replicas"].as_array().unwrap().clone()
}

fn submit(stage: &Stage, from: u64, count: u64) {
    let lines: String = (from..from + count).map(|i| format!("{{\"update_id\":\"s{i}\",\"data\":\"{i}\"}}\n")).collect();
    assert!(stage.submit(lines.as_bytes()).status.success());
}

/// Flips a bit of replica 3's voting record.
fn damage_votes(stage: &Stage) {
    // The current votes file is the one that was written last.
    let journal = stage.path("replica-3/data/journal");
    let files = ["votes.0", "votes.1"].map(|name| journal.join(name));
    let current = files.iter().max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(current).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    drop(file);
}

#[test]
fn a_replica_with_a_damaged_voting_record_does_not_vote_in_the_window_it_may_have_voted_in() {
    let mut stage = Stage::init();
    stage.start();
    submit(&stage, 0, 300);
    stage.settle(300);
    stage.stop();
    damage_votes(&stage);

    let check = exofed(&["recover", "--check", "--json", &stage.text("replica-3")]);
    assert_eq!(check.status.code(), Some(1));
    assert!(documents(&check)[0]["suspect"].as_str().unwrap().contains("votes"), "{:?}", documents(&check));
    for round in 1..=2u64 {
        stage.start();
        submit(&stage, round * 1_000, 100);
        stage.settle(300 + round * 100);
        let replicas = status(&stage);
        assert_eq!(replicas[3]["role"], "suspect", "start {round} after the damage: {replicas:?}");
        assert!(replicas[3]["suspect"].as_str().unwrap().contains("votes"));
        assert!(replicas[..3].iter().all(|r| r["suspect"].is_null()));
        stage.stop();
    }
    // Nothing that it might have signed is in any certificate since.
    stage.start();
    for sequence in [350, 450] {
        let proof = exofed(&["proof", "--json", "--sequence", &sequence.to_string(), "--config", &stage.text("client.toml")]);
        let proof: Value = serde_json::from_slice(&proof.stdout).unwrap();
        assert!(!proof.to_string().contains("replica-3"), "{proof:#}");
    }
    stage.stop();
}

/// A federation with a small window and short timeouts, so that it moves on quickly.
fn quick(stage: &Stage) {
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let path = stage.path(name);
        std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
    };
    edit("federation.toml", &|text| text.replace("window_slots = 256", "window_slots = 8").replace("checkpoint_slots = 64", "checkpoint_slots = 2"));
    let federation = FederationFile::read_genesis(&stage.path("federation.toml")).unwrap();
    assert_eq!(federation.parameters().window_slots, 8);
    for index in 0..4 {
        edit(&format!("replica-{index}/replica.toml"), &|text| text + "\n[consensus]\nmax_timeout_ms = 3000\n");
        let data = DataDir(stage.path(&format!("replica-{index}/data")));
        std::fs::remove_dir_all(data.journal()).unwrap();
        data.create(&federation, federation.members()[index].consensus_key, &JournalOptions::default()).unwrap();
    }
}

#[test]
fn a_replica_that_forgot_its_votes_rejoins_and_votes_under_its_old_key() {
    let mut stage = Stage::init();
    quick(&stage);
    stage.start();
    for round in 0..20 {
        submit(&stage, round * 10, 3);
    }
    stage.settle(60);
    stage.kill(3);
    damage_votes(&stage);
    stage.restart(3);
    assert_eq!(status(&stage)[3]["role"], "suspect");
    let note = stage.path("replica-3/data/suspect");
    assert!(note.exists());
    // It needs a window of slots more, and the next view: a leader that led for long makes room by itself.
    let until = Instant::now() + Duration::from_secs(60);
    let mut round = 1_000;
    while status(&stage)[3]["role"] == "suspect" {
        assert!(Instant::now() < until, "{:?}", status(&stage));
        submit(&stage, round * 10, 3);
        round += 1;
    }
    let replicas = status(&stage);
    assert!(replicas[3]["suspect"].is_null() && replicas[3]["view"].as_u64() > Some(0), "{replicas:?}");
    let rejoined_at = replicas[3]["sequence"].as_u64().unwrap();
    // Without replica 0 every quorum needs it.
    stage.kill(0);
    submit(&stage, 900_000, 5);
    let proof = exofed(&["proof", "--json", "--sequence", &(rejoined_at + 5).to_string(), "--config", &stage.text("client.toml")]);
    assert!(String::from_utf8_lossy(&proof.stdout).contains("replica-3"), "{proof:?}");
    assert!(!note.exists(), "the note is gone");
    stage.restart(0);
    stage.kill(3);
    stage.restart(3);
    assert_ne!(status(&stage)[3]["role"], "suspect", "it remembers its new votes");
    stage.stop();
    for index in 0..4 {
        let audit = exofed(&["audit", &stage.text(&format!("replica-{index}")), "--genesis", &stage.text("federation.toml")]);
        assert!(audit.status.success(), "replica {index}: {}", stage::stdout(&audit));
    }
}
