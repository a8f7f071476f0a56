//! A replica that cannot prove that it remembers its votes serves, and does not vote: now and after every restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::os::unix::fs::FileExt;

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

#[test]
fn a_replica_with_a_damaged_voting_record_never_votes_again() {
    let mut stage = Stage::init();
    stage.start();
    submit(&stage, 0, 300);
    stage.settle(300);
    stage.stop();
    // The current votes file is the one that was written last.
    let journal = stage.path("replica-3/data/journal");
    let files = ["votes.0", "votes.1"].map(|name| journal.join(name));
    let current = files.iter().max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap()).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(current).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    drop(file);

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
