//! The verifiers of `examples`, written in Python from `docs/proofs.md`, and the library say the same of every file: of what is sound, of what a
//! quorum or a liar signed and is wrong, and of every field spelled, moved, doubled or mistyped.
//!
//! Needs a Python with the `cryptography` package: `EXOFED_PYTHON=python3 cargo test --test python_verifiers -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;
mod tampering;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use data_encoding::BASE64;
use exo_federation::types::{Federation, Genesis};
use proof_fixture::evidence::World;
use proof_fixture::federation;
use serde_json::{Value, json};
use tampering::{Case, Draw, Kind, records, signed, spellings, splices};

/// The seed of what is drawn; a failure is the same at every run.
const SEED: u64 = 4;
const SPLICES: usize = 1_500;

/// What Python says that each file proves, one process for all of them.
fn judged(cases: &[Case], geneses: &[&Genesis]) -> Vec<Option<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut lines = json!(geneses).to_string();
    for case in cases {
        write!(lines, "\n{}", json!({ "kind": case.kind.name(), "genesis": case.genesis, "text": BASE64.encode(&case.text) })).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cases");
    std::fs::write(&file, lines).unwrap();
    let python = std::env::var("EXOFED_PYTHON").expect("EXOFED_PYTHON names a Python with the cryptography package");
    let run = Command::new(&python).args([root.join("tests/tampering/judge.py"), root.join("examples"), file]).output();
    let run = run.unwrap_or_else(|e| panic!("{python}: {e}"));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    std::str::from_utf8(&run.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Judges all files by both; yields how many were accepted and refused.
fn agree(cases: &[Case], federations: &[Federation]) -> BTreeMap<Kind, [usize; 2]> {
    let theirs = judged(cases, &federations.iter().map(Federation::genesis).collect::<Vec<_>>());
    assert_eq!(theirs.len(), cases.len(), "a verdict for each case");
    let (mut counts, mut differences) = (BTreeMap::<Kind, [usize; 2]>::new(), Vec::new());
    for (case, theirs) in cases.iter().zip(theirs) {
        let ours = case.kind.proves(&case.text, &federations[case.genesis]);
        counts.entry(case.kind).or_default()[usize::from(ours.is_none())] += 1;
        if ours != theirs {
            let text = String::from_utf8_lossy(&case.text);
            let excerpt: String = text.chars().take(6_000).collect();
            differences.push(format!("{:?}, {}: the library says {ours:?}, Python {theirs:?}, of\n{excerpt}", case.kind, case.what));
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} differ, among them\n{}",
        differences.len(),
        cases.len(),
        differences[..differences.len().min(5)].join("\n")
    );
    println!("accepted and refused: {counts:?}");
    counts
}

fn case(kind: Kind, genesis: usize, what: &str, text: Vec<u8>) -> Case {
    Case { kind, what: what.to_owned(), genesis, text }
}

/// Federations of four and of seven, and the first under another name.
fn federations() -> Vec<Federation> {
    let mut renamed = federation(4).genesis().clone();
    renamed.name.push('x');
    vec![federation(4), federation(7), Federation::new(renamed).unwrap()]
}

#[test]
#[ignore = "needs a Python with the cryptography package, named by EXOFED_PYTHON"]
fn python_agrees_on_what_is_signed() {
    let federations = federations();
    let mut cases = Vec::new();
    for (genesis, members) in [(0, 4), (1, 7)] {
        let federation = &federations[genesis];
        for (what, proof) in signed::commit_proofs(members) {
            cases.push(case(Kind::Commit, genesis, &what, proof.to_json(federation).unwrap()));
        }
        for (what, proof) in signed::consistency_proofs(members) {
            cases.push(case(Kind::Consistency, genesis, &what, proof.to_json(federation).unwrap()));
        }
    }
    cases.extend(records::records(&World::new()).into_iter().map(|(what, text)| case(Kind::Evidence, 0, &what, text)));
    // Under the wrong genesis, and as what they are not.
    let sound = sound_files();
    for (kind, text) in &sound {
        cases.extend([1, 2].map(|genesis| case(*kind, genesis, "another federation", text.clone())));
        cases.extend([Kind::Commit, Kind::Consistency, Kind::Evidence].map(|as_kind| case(as_kind, 0, "another kind", text.clone())));
    }
    let counts = agree(&cases, &federations);
    for (kind, accepted, refused) in [(Kind::Commit, 30, 150), (Kind::Consistency, 100, 500), (Kind::Evidence, 100, 1_000)] {
        assert!(counts[&kind][0] >= accepted && counts[&kind][1] >= refused, "{kind:?}: {counts:?}");
    }
}

/// Sound files of the first federation.
fn sound_files() -> Vec<(Kind, Vec<u8>)> {
    let federation = federation(4);
    let (_, proof) = proof_fixture::proven(4);
    let closed = exo_federation::proof::CommitProof { opening: None, ..proof.clone() };
    // Of a log of one update, whose path is empty.
    let mut chain = proof_fixture::Chain::new(4);
    let before = chain.frontier.clone();
    let batch = chain.commit_some(1, 1);
    let only = proof_fixture::proof_of(&federation, &before, &batch, 0);
    let mut out: Vec<(Kind, Vec<u8>)> = [proof, closed, only.clone(), exo_federation::proof::CommitProof { opening: None, ..only }]
        .iter()
        .map(|proof| (Kind::Commit, proof.to_json(&federation).unwrap()))
        .collect();
    for (older, newer) in [(0, 3), (3, 6), (4, 4)] {
        out.push((Kind::Consistency, proof_fixture::consistent(4, older, newer).1.to_json(&federation).unwrap()));
    }
    let world = World::new();
    out.extend(world.guilty().iter().map(|(_, _, evidence)| (Kind::Evidence, evidence.to_json(&federation).unwrap())));
    out
}

#[test]
#[ignore = "needs a Python with the cryptography package, named by EXOFED_PYTHON"]
fn python_agrees_on_how_it_is_written() {
    let sound = sound_files();
    let mut cases: Vec<Case> = sound.iter().map(|(kind, text)| case(*kind, 0, "sound", text.clone())).collect();
    for (kind, text) in &sound {
        cases.extend(spellings(text).into_iter().map(|text| case(*kind, 0, "spelled otherwise", text)));
    }
    let mut draw = Draw(SEED);
    for kind in [Kind::Commit, Kind::Consistency, Kind::Evidence] {
        let texts: Vec<Vec<u8>> = sound.iter().filter(|(of, _)| *of == kind).map(|(_, text)| text.clone()).collect();
        cases.extend(splices(&texts, &mut draw, SPLICES).into_iter().map(|text| case(kind, 0, "spliced", text)));
    }
    // Not what came out unchanged, and each once.
    let mut seen = BTreeSet::new();
    cases.retain(|case| seen.insert((case.kind, case.text.clone())));
    let counts = agree(&cases, &federations());
    for (kind, refused) in [(Kind::Commit, 2_000), (Kind::Consistency, 3_000), (Kind::Evidence, 10_000)] {
        let [accepted, refusals] = counts[&kind];
        let free = kind == Kind::Evidence && accepted > 100;
        assert!(refusals > refused && (free || accepted == sound.iter().filter(|(of, _)| *of == kind).count()), "{kind:?}: {counts:?}");
    }
}
