//! A member that signs two Commits at one place is convicted by whoever sees both, and the record convicts with the genesis alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use exo_federation::config::{LoadedFederation, ReplicaFile};
use exo_federation::crypto::{Digest, SigningKey};
use exo_federation::net::{Caller, Net, NetIdentity, RequestHandler};
use exo_federation::types::{ConsensusMessage, Evidence, Phase, SignedVote, Vote, encode};
use serde_json::Value;
use stage::{Stage, documents, exofed, stdout};

const LIAR: u16 = 3;

struct Nothing;

impl RequestHandler for Nothing {
    fn handle(&self, _: Caller, _: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        Box::pin(async { Bytes::new() })
    }
}

fn commit(key: &SigningKey, federation: &LoadedFederation, slot: u64, digest: Digest) -> SignedVote {
    let vote = Vote { phase: Phase::Commit, epoch: 0, view: 0, slot, digest };
    SignedVote { vote, replica: LIAR, signature: key.sign(&vote.signed_bytes(federation.federation.id())) }
}

/// In the place of the stopped replica 3, under its keys, tells replica 0 two things.
async fn lie(stage: &Stage) {
    let config = ReplicaFile::load(&stage.path("replica-3/replica.toml")).unwrap();
    let loaded = LoadedFederation { federation: config.federation.clone(), addresses: config.addresses.clone() };
    let identity = NetIdentity { index: LIAR, transport_key: config.secret.transport_key() };
    let (inbound, _keep) = tokio::sync::mpsc::unbounded_channel();
    let net = Net::start(config.federation.clone(), identity, config.listen, config.addresses, config.net, inbound, Arc::new(Nothing)).await.unwrap();
    let mut connected = net.watch_connected();
    tokio::time::timeout(Duration::from_secs(30), connected.wait_for(|peers| peers.contains(&0))).await.unwrap().unwrap();
    for digest in [Digest([1; 32]), Digest([2; 32])] {
        let message = ConsensusMessage::Vote(commit(&config.secret.consensus_key(), &loaded, 5, digest));
        net.send(0, message.class(), encode(&message).unwrap().into());
    }
    let until = Instant::now() + Duration::from_secs(30);
    while list(&["evidence", "list", "--json", &stage.text("client.toml")]).is_empty() {
        assert!(Instant::now() < until, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    net.shutdown().await;
}

fn list(arguments: &[&str]) -> Vec<Value> {
    let run = exofed(arguments);
    assert!(run.status.success(), "{}", stage::stderr(&run));
    documents(&run).swap_remove(0)["evidence"].as_array().unwrap().clone()
}

/// What every replica but the liar holds, once all three do.
fn held_by_all(stage: &Stage) -> Value {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = list(&["evidence", "list", "--json", &stage.text("client.toml")]);
        if found.len() == 1 && found[0]["held_by"].as_array().unwrap().len() == 3 {
            return found[0].clone();
        }
        assert!(Instant::now() < until, "not all learn of it: {found:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn two_commits_at_one_place_convict_over_restarts_and_the_record_verifies_alone() {
    let mut stage = Stage::init();
    (0..3).for_each(|index| stage.restart(index));
    assert!(list(&["evidence", "list", "--json", &stage.text("client.toml")]).is_empty());
    tokio::runtime::Runtime::new().unwrap().block_on(lie(&stage));

    let record = held_by_all(&stage);
    let conviction = &record["conviction"];
    assert_eq!((&conviction["member"], &conviction["rule"], &conviction["slot"]), (&"replica-3".into(), &"E3".into(), &5.into()));
    let id = conviction["id"].as_str().unwrap().to_owned();

    // It is there after a stop and a start, and without any process at all.
    stage.stop();
    let genesis = stage.text("federation.toml");
    let stored = list(&["evidence", "list", "--json", "--genesis", &genesis, &stage.text("replica-1")]);
    assert_eq!(stored[0]["conviction"]["id"], *id);
    (0..3).for_each(|index| stage.restart(index));
    assert_eq!(held_by_all(&stage)["conviction"]["id"], *id);
    let status = exofed(&["status", "--json", "--config", &stage.text("client.toml")]);
    let counts: Vec<Value> = documents(&status)[0]["replicas"].as_array().unwrap()[..3].iter().map(|replica| replica["evidence"].clone()).collect();
    assert_eq!(counts, vec![Value::from(1); 3], "the status counts what earlier runs found");

    let file = stage.text("evidence.json");
    let export = exofed(&["evidence", "export", "--id", &id[..8], "--output", &file, &stage.text("client.toml")]);
    assert!(export.status.success(), "{}", stage::stderr(&export));
    let verify = exofed(&["evidence", "verify", "--genesis", &genesis, &file]);
    assert!(verify.status.success(), "{}", stage::stderr(&verify));
    assert!(stdout(&verify).contains("replica-3 broke rule E3") && stdout(&verify).contains("misused"), "{}", stdout(&verify));
    let shown = exofed(&["evidence", "show", "--id", &id[..8], &stage.text("client.toml")]);
    assert!(stdout(&shown).contains(&id) && stdout(&shown).contains("held by   replica-0, replica-1, replica-2"), "{}", stdout(&shown));

    every_changed_digit_is_refused(&stage, &file, &genesis);
}

/// Whatever is changed in the record, it convicts nobody else and of nothing else.
fn every_changed_digit_is_refused(stage: &Stage, file: &str, genesis: &str) {
    let federation = exo_federation::config::FederationFile::read_genesis(genesis.as_ref()).unwrap();
    let text = std::fs::read(file).unwrap();
    let whole = Evidence::from_json(&text, &federation).unwrap().verify(&federation).unwrap();
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        let verdict = Evidence::from_json(&changed, &federation).and_then(|evidence| Ok(evidence.verify(&federation)?));
        assert!(verdict.as_ref().map_or(true, |conviction| *conviction == whole), "byte {at}: {verdict:?}");
    }
    let text = String::from_utf8(text).unwrap();
    for (what, changed) in [
        ("another member", text.replace("replica-3", "replica-2")),
        ("another slot", text.replace("\"slot\": 5", "\"slot\": 6")),
        ("another phase", text.replace("\"commit\"", "\"prepare\"").replace("E3", "E2")),
        ("one statement twice", text.replace(&"02".repeat(32), &"01".repeat(32))),
    ] {
        assert_ne!(changed, text, "{what}");
        let path = stage.text("changed.json");
        std::fs::write(&path, changed).unwrap();
        let verify = exofed(&["evidence", "verify", "--json", "--genesis", genesis, &path]);
        assert_eq!((verify.status.code(), &documents(&verify)[0]["valid"]), (Some(1), &false.into()), "{what}: {}", stdout(&verify));
    }
}
