//! The proof's HTML page in a real browser: it shows a valid proof as valid, and for every byte that is changed, which check failed.
//!
//! Needs Chromium: `cargo test --test proof_page -- --ignored`. `EXOFED_CHROMIUM` names it if it is not in the path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;
mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use data_encoding::BASE64;
use exo_federation::crypto::{PublicKey, VerifyingKey};
use exo_federation::proof::{CommitProof, VERIFIER_SCRIPT};
use proof_fixture::Chain;
use serde_json::{Value, json};
use stage::{Stage, exofed, stderr};

/// Loads a page in headless Chromium and gives the document as it is once `data-done` stands on its body.
fn load(page: &Path) -> String {
    let chromium = std::env::var("EXOFED_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
    let profile = tempfile::tempdir().unwrap();
    let quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
    let output = Command::new(&chromium)
        .args(quiet)
        .args(["--disable-component-update", "--disable-sync", "--dump-dom", "--virtual-time-budget=600000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap_or_else(|e| panic!("{chromium}: {e}; install Chromium or name it in EXOFED_CHROMIUM"));
    let dom = String::from_utf8(output.stdout).unwrap();
    assert!(dom.contains("data-done=\"true\""), "the page did not come to an end: {dom}\n{}", String::from_utf8_lossy(&output.stderr));
    dom
}

/// Runs a script behind the verifier, with a genesis and a value given; yields the JSON that it leaves in the document.
fn run(genesis: &Value, given: &Value, script: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let data = BASE64.encode(json!({ "genesis": genesis, "given": given }).to_string().as_bytes());
    let text = format!(
        "<!doctype html><meta charset=utf-8><body><pre id=out></pre><script type=x id=data>{data}</script><script>{VERIFIER_SCRIPT}\n\
         const {{ genesis, given }} = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(document.getElementById('data').textContent), c => \
         c.charCodeAt(0))));\nconst bytesOf = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));\n(async () => {{\n{script}\n}})()\
         .catch(error => ({{ error: String(error) }})).then(result => {{ document.getElementById('out').textContent = btoa(JSON.stringify(result)); \
         document.body.dataset.done = 'true'; }});</script>"
    );
    fs::write(&page, text).unwrap();
    let dom = load(&page);
    let out = dom.split("<pre id=\"out\">").nth(1).unwrap().split("</pre>").next().unwrap();
    serde_json::from_slice(&BASE64.decode(out.as_bytes()).unwrap()).unwrap()
}

/// Verifies every text in the browser; yields the check that refused each, or `null`.
const VERIFY_ALL: &str = "const federation = await federationOf(genesis);
const checks = [];
for (const text of given) checks.push(await verify(bytesOf(text), federation).then(() => null, error => error.check ?? String(error)));
return checks;";

#[test]
#[ignore = "needs Chromium"]
fn every_changed_byte_is_refused_and_says_by_which_check() {
    let mut chain = Chain::new(4);
    let before = chain.frontier.clone();
    let batch = chain.commit_some(1, 3);
    let proof = proof_fixture::proof_of(&chain.federation, &before, &batch, 1);
    let json = proof.to_json(&chain.federation).unwrap();
    let flips: Vec<Vec<u8>> = [0x01, 0x20]
        .iter()
        .flat_map(|mask| (0..json.len()).map(move |at| (at, mask)))
        .map(|(at, mask)| {
            let mut changed = json.clone();
            changed[at] ^= mask;
            changed
        })
        .collect();
    let texts: Vec<String> = [json.clone()].iter().chain(&flips).map(|text| BASE64.encode(text)).collect();
    let checks = run(&json!(chain.federation.genesis()), &json!(texts), VERIFY_ALL);
    let checks = checks.as_array().unwrap_or_else(|| panic!("{checks}"));
    assert_eq!((checks.len(), &checks[0]), (flips.len() + 1, &Value::Null), "the proof itself is valid");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (flip, check) in flips.iter().zip(&checks[1..]) {
        let ours = CommitProof::from_json(flip, &chain.federation).and_then(|proof| proof.verify(&chain.federation));
        assert!(ours.is_err());
        let check = check.as_str().unwrap_or_else(|| panic!("the browser takes {}", String::from_utf8_lossy(flip)));
        *counts.entry(check).or_default() += 1;
    }
    println!("{} changed bytes: {counts:?}", flips.len());
    for check in ["form", "federation", "leaf", "path", "opening", "certificate"] {
        assert!(counts.get(check).is_some_and(|count| *count > 0), "no change is refused by {check}: {counts:?}");
    }
    assert_eq!(counts.len(), counts.keys().filter(|check| check.len() < 12).count(), "a check has a name: {counts:?}");
}

#[test]
#[ignore = "needs Chromium"]
fn the_browser_agrees_with_the_vectors() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/commit-proof.json");
    let vectors: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for case in vectors["cases"].as_array().unwrap() {
        let text = BASE64.encode(case["output"]["json"].as_str().unwrap().as_bytes());
        let id = "return (await federationOf(genesis)).id;";
        assert_eq!(run(&case["input"]["genesis"], &json!([text]), VERIFY_ALL), json!([null]), "{case}");
        assert_eq!(
            run(&case["input"]["genesis"], &json!([]), id),
            serde_json::from_str::<Value>(case["output"]["json"].as_str().unwrap()).unwrap()["federation_id"]
        );
    }
}

#[test]
fn what_the_page_calls_weak_is_weak() {
    let listed: Vec<&str> =
        VERIFIER_SCRIPT.split("SMALL_ORDER = new Set([").nth(1).unwrap().split("]);").next().unwrap().split('\'').skip(1).step_by(2).collect();
    assert_eq!(listed.len(), 7);
    for encoding in listed {
        let bytes: [u8; 32] = data_encoding::HEXLOWER.decode(encoding.as_bytes()).unwrap().try_into().unwrap();
        assert!(VerifyingKey::new(PublicKey(bytes)).is_err(), "{encoding} is refused as a key");
    }
}

#[test]
#[ignore = "needs Chromium"]
fn a_page_from_a_real_federation_shows_its_update_and_compares_with_a_pasted_genesis() {
    let mut stage = Stage::init();
    stage.start();
    assert!(stage.submit("{\"update_id\":\"ord<e>r & 1\",\"data\":\"Grüße </script> 🎉\"}\n".as_bytes()).status.success());
    let (page, config) = (stage.text("proof.html"), stage.text("client.toml"));
    let made = exofed(&["proof", "ord<e>r & 1", "--config", &config, "--html", &page, "--json"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let proof: Value = serde_json::from_slice(&made.stdout).unwrap();
    stage.stop();
    let dom = load(Path::new(&page));
    assert!(dom.contains("class=\"valid\">Valid<"), "{dom}");
    assert!(dom.contains("Grüße &lt;/script&gt; 🎉") && dom.contains("ord&lt;e&gt;r &amp; 1"), "{dom}");
    assert_eq!(dom.matches("<li class=\"ok\">").count(), 6);
    let text = fs::read_to_string(&page).unwrap();
    for foreign in ["http:", "https:", "fetch(", "XMLHttp"] {
        assert!(!text.contains(foreign), "the page is self-contained, and holds {foreign}");
    }
    // The genesis as people have it, and with a changed key.
    let federation = exo_federation::config::FederationFile::read_genesis(&stage.path("federation.toml")).unwrap();
    let toml = fs::read_to_string(stage.path("federation.toml")).unwrap();
    let key = federation.members()[1].consensus_key.to_string();
    let other = toml.replace(&key, &proof["header"]["parent"].as_str().unwrap().replace('0', "1"));
    assert_ne!(toml, other);
    let ids = run(
        &json!(federation.genesis()),
        &json!([toml, other]),
        "const defaults = genesis.parameters; const ids = [];
         for (const text of given) ids.push((await federationOf(readGenesis(text, defaults))).id);
         return ids;",
    );
    assert_eq!(ids[0], federation.id().to_string());
    assert_ne!(ids[1], ids[0]);
}
