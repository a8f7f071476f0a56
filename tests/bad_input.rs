//! What people get wrong, through the real program: each mistake is refused with words that say what to do, and costs nobody else anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::{Value, json};
use stage::{Stage, documents, exofed, exofed_with, stderr, stdout};

/// The program refused to do anything, and said all of this.
fn assert_refused(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(3), "{said}{}", stdout(output));
    assert!(said.contains("exofed: "), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

/// A replica that must not start.
fn serve(stage: &Stage, replica: &str) -> Output {
    exofed(&["serve", "--until-stdin-ends", "--config", &stage.text(&format!("{replica}/replica.toml"))])
}

fn edit(stage: &Stage, name: &str, change: impl Fn(String) -> String) {
    let path = stage.path(name);
    let text = fs::read_to_string(&path).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "{name} was to be changed");
    fs::write(&path, changed).unwrap();
}

#[test]
fn init_wants_four_replicas_and_overwrites_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("three");
    let three = exofed(&["init", dir.to_str().unwrap(), "--replicas", "3", "--base-port", "0"]);
    assert_refused(&three, &["at least 4", "3"]);
    assert!(!dir.exists(), "nothing was written");
    let stage = Stage::init();
    let before: Vec<(_, _)> = stage::files_of(&stage.path("")).into_iter().map(|p| (p.clone(), fs::read(p).unwrap())).collect();
    assert_refused(&exofed(&["init", &stage.text(""), "--base-port", "0"]), &["federation.toml exists", "nothing is overwritten"]);
    let after: Vec<(_, _)> = stage::files_of(&stage.path("")).into_iter().map(|p| (p.clone(), fs::read(p).unwrap())).collect();
    assert!(before == after);
    assert_refused(&exofed(&["init", dir.to_str().unwrap(), "--base-port", "65534"]), &["--base-port 65534", "4 replicas"]);
}

#[test]
fn a_secret_that_others_may_read_is_refused() {
    let stage = Stage::init();
    let secret = stage.path("replica-0/secret.key");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(&serve(&stage, "replica-0"), &["0644", "chmod 600", "secret.key"]);
    fs::set_permissions(stage.path("author.key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_refused(&stage.submit(b"{}"), &["0640", "chmod 600", "author.key"]);
}

#[test]
fn a_secret_that_is_not_this_replicas_is_refused() {
    let stage = Stage::init();
    fs::copy(stage.path("replica-1/secret.key"), stage.path("replica-0/secret.key")).unwrap();
    assert_refused(&serve(&stage, "replica-0"), &["secret.key", "is not that of replica-0"]);
    fs::write(stage.path("replica-0/secret.key"), "exofed-secret-1 00 00\n").unwrap();
    assert_refused(&serve(&stage, "replica-0"), &["not a secret file, or damaged"]);
}

#[test]
fn a_genesis_that_does_not_fit_is_refused() {
    let (stage, other) = (Stage::init(), Stage::init());
    // Another federation's genesis names other keys.
    fs::copy(other.path("federation.toml"), stage.path("federation.toml")).unwrap();
    assert_refused(&serve(&stage, "replica-0"), &["is not that of replica-0"]);
    let stage = Stage::init();
    edit(&stage, "federation.toml", |text| text.replace("max_drift_ms = 10000", "max_drift_ms = 1"));
    assert_refused(&serve(&stage, "replica-0"), &["max_drift_ms"]);
}

#[test]
fn data_of_another_federation_is_refused() {
    // The same members under other rules are another federation, and the data belongs to the first.
    let stage = Stage::init();
    edit(&stage, "federation.toml", |text| text.replace("max_drift_ms = 10000", "max_drift_ms = 20000"));
    assert_refused(&serve(&stage, "replica-0"), &["belongs to federation", "expected"]);
    assert!(!stage.path("replica-0/data/log").exists(), "and nothing is written");
}

#[test]
fn mistakes_in_configurations_are_named_with_their_place() {
    let stage = Stage::init();
    assert_refused(&exofed(&["serve", "--config", &stage.text("nowhere.toml")]), &["nowhere.toml", "No such file"]);
    assert_refused(&exofed(&["status", "--config", &stage.text("nowhere.toml")]), &["nowhere.toml", "No such file"]);
    edit(&stage, "replica-0/replica.toml", |text| text + "\n[store]\ncache_byte = 5\n");
    let lines = fs::read_to_string(stage.path("replica-0/replica.toml")).unwrap().lines().count();
    assert_refused(&serve(&stage, "replica-0"), &["replica.toml", &format!("line {lines}"), "cache_byte"]);
    edit(&stage, "replica-1/replica.toml", |text| text + "\n[store]\ncache_bytes = 5\n");
    assert_refused(&serve(&stage, "replica-1"), &["replica.toml", "[store]", "cache_bytes is 5"]);
    edit(&stage, "replica-2/replica.toml", |text| text.replace("peer = \"replica-2\"", "peer = \"stranger\""));
    assert_refused(&serve(&stage, "replica-2"), &["stranger is no member"]);
    edit(&stage, "replica-3/replica.toml", |text| text.replace("data = \"data\"", "data = \"elsewhere\""));
    assert_refused(&serve(&stage, "replica-3"), &["journal", "elsewhere"]);
}

#[test]
fn an_audit_of_another_data_directory_than_the_configured_one_is_not_clean() {
    let stage = Stage::init();
    edit(&stage, "replica-0/replica.toml", |text| text.replace("data = \"data\"", "data = \"elsewhere\""));
    let report = exofed(&["audit", &stage.text("replica-0"), "--genesis", &stage.text("federation.toml"), "--json"]);
    assert_eq!(report.status.code(), Some(1));
    let findings = documents(&report)[0]["findings"].as_array().unwrap().clone();
    assert!(findings.iter().any(|f| f["rule"] == "configuration" && f["found"].as_str().unwrap().contains("elsewhere")), "{findings:?}");
}

#[test]
fn a_proof_that_is_none_is_refused() {
    let stage = Stage::init();
    let (genesis, proof) = (stage.text("federation.toml"), stage.path("proof.json"));
    let verify = || exofed(&["verify", proof.to_str().unwrap(), "--genesis", &genesis, "--json"]);
    assert_refused(&verify(), &["proof.json", "No such file"]);
    for text in ["", "{}", "not json", "[1, 2, 3]", "{\"version\": 1, \"version\": 1}", &"[".repeat(100_000)] {
        fs::write(&proof, text).unwrap();
        let output = verify();
        assert_eq!(output.status.code(), Some(1), "{text:.40}: {}", stderr(&output));
        let answer = &documents(&output)[0];
        assert!(answer["valid"] == false && answer["reason"].is_string(), "{answer}");
    }
    fs::write(&proof, [0xff; 64]).unwrap();
    assert_eq!(verify().status.code(), Some(1));
}

/// The fate of each line.
fn fates(output: &Output) -> Vec<(Value, Value, Value)> {
    documents(output).into_iter().map(|d| (d["update_id"].clone(), d["status"].clone(), d["sequence"].clone())).collect()
}

fn line(update_id: &str, data: &str) -> String {
    format!("{}\n", json!({ "update_id": update_id, "data": data, "timestamp": 1 }))
}

#[test]
fn a_running_federation_refuses_what_is_wrong_and_commits_the_rest() {
    let mut stage = Stage::init();
    stage.start();
    assert_refused(&serve(&stage, "replica-0"), &["replica-0", "open for writing elsewhere"]);
    bad_lines_cost_the_others_nothing(&stage);
    too_much_data_is_refused(&stage);
    the_same_id_is_the_same_update(&stage);
    proofs_are_checked_against_their_genesis(&stage);
    in_use_is_in_use(&stage);
    stage.stop();
}

fn bad_lines_cost_the_others_nothing(stage: &Stage) {
    let too_long = "i".repeat(257);
    let input = [
        line("good-1", "one"),
        "this is no JSON\n".into(),
        "{\"update_id\": \"both\", \"data\": \"a\", \"data_base64\": \"YQ==\"}\n".into(),
        "{\"update_id\": \"base64\", \"data_base64\": \"%%%\"}\n".into(),
        "{\"update_id\": \"unknown\", \"data\": \"a\", \"dta\": 1}\n".into(),
        "\n".into(),
        line("", "an empty id"),
        line(&too_long, "a long id"),
        line(&"i".repeat(256), "the longest id"),
        line("good-2", "two"),
    ]
    .concat();
    let output = stage.submit(input.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let documents = documents(&output);
    let status: Vec<&str> = documents.iter().map(|d| d["status"].as_str().unwrap()).collect();
    let r = "rejected";
    assert_eq!(status, ["committed", r, r, r, r, r, r, "committed", "committed"]);
    for (at, number) in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 7), (6, 8)] {
        let reason = documents[at]["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("line {number}:")), "{reason}");
    }
    assert!(documents[6]["reason"].as_str().unwrap().contains("1 to 256 bytes, this one has 257"));
    assert_eq!(documents[8]["update_id"], "good-2");
    // Bytes that are no text at all.
    let output = stage.submit(&[b"\xff\xfe\x00\n", line("good-3", "three").as_bytes()].concat());
    let status: Vec<Value> = fates(&output).into_iter().map(|f| f.1).collect();
    assert_eq!((status, output.status.code()), (vec![json!("rejected"), json!("committed")], Some(1)));
}

fn too_much_data_is_refused(stage: &Stage) {
    // max_data_bytes is 1 MiB.
    let (most, too_much) = ("x".repeat(1 << 20), "x".repeat((1 << 20) + 1));
    let output = stage.submit([line("most", &most), line("too-much", &too_much), line("little", "x")].concat().as_bytes());
    let documents = documents(&output);
    let status: Vec<&str> = documents.iter().map(|d| d["status"].as_str().unwrap()).collect();
    assert_eq!((status, output.status.code()), (vec!["committed", "rejected", "committed"], Some(1)), "{}", stderr(&output));
    let reason = documents[1]["reason"].as_str().unwrap();
    assert!(reason.contains("1048577") || reason.contains("max_data_bytes"), "{reason}");
}

fn the_same_id_is_the_same_update(stage: &Stage) {
    let first = stage.submit(line("retry", "the data").as_bytes());
    assert!(first.status.success(), "{}", stderr(&first));
    let again = stage.submit(line("retry", "the data").as_bytes());
    assert!(again.status.success(), "a retry is no error: {}", stderr(&again));
    assert_eq!(fates(&again), fates(&first), "and has the same place");
    let other = stage.submit([line("retry", "other data"), line("beside", "x")].concat().as_bytes());
    assert_eq!(other.status.code(), Some(1));
    let fates = fates(&other);
    assert_eq!((&fates[0].1, &fates[0].2), (&json!("conflict"), &Value::Null));
    assert_eq!(fates[1].1, "committed");
    // The same id twice in one input, with other data.
    let twice = stage.submit([line("twice", "a"), line("twice", "b")].concat().as_bytes());
    let mut status: Vec<String> = documents(&twice).iter().map(|d| d["status"].as_str().unwrap().to_owned()).collect();
    status.sort();
    assert_eq!((status, twice.status.code()), (vec!["committed".into(), "conflict".into()], Some(1)));
}

fn proofs_are_checked_against_their_genesis(stage: &Stage) {
    let (config, genesis, file) = (stage.text("client.toml"), stage.text("federation.toml"), stage.text("proof.json"));
    assert_refused(&exofed(&["proof", "--config", &config, "never-submitted"]), &["no replica", "holds such an update"]);
    assert_refused(&exofed(&["proof", "--config", &config, "--sequence", "999999"]), &["holds such an update"]);
    let made = exofed(&["proof", "--config", &config, "retry", "--output", &file]);
    assert!(made.status.success(), "{}", stderr(&made));
    let valid = |genesis: &str| exofed(&["verify", &file, "--genesis", genesis, "--json"]);
    assert!(valid(&genesis).status.success());
    let other = Stage::init();
    assert_eq!(valid(&other.text("federation.toml")).status.code(), Some(1));
    let (right, wrong) = (stage.text("right"), stage.text("wrong"));
    fs::write(&right, "the data").unwrap();
    fs::write(&wrong, "the date").unwrap();
    let with_data = |data: &str| exofed(&["verify", &file, "--genesis", &genesis, "--data", data]).status.code();
    assert_eq!((with_data(&right), with_data(&wrong)), (Some(0), Some(1)));
}

fn in_use_is_in_use(stage: &Stage) {
    assert_refused(&exofed(&["recover", &stage.text("replica-0"), "--check"]), &["in use by a running replica", "stop it first"]);
    let missing = exofed_with(&["submit", "--config", &stage.text("client.toml"), &stage.text("no-such-input.jsonl")], b"");
    assert_refused(&missing, &["no-such-input.jsonl", "No such file"]);
}
