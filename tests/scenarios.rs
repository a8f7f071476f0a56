//! The dangerous schedules of `tests/scenarios`: none breaks anything, each gives the same trace again, and each still leads where it is kept for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use exo_federation::sim::{Plan, simulate};

/// What each must reach, by the names that runs count under.
const KEPT_FOR: &[(&str, &[&str])] = &[
    ("all-lose-power", &["all-power-cut", "log-refilled", "view-change-with-prepared", "receipt-verified"]),
    ("body-by-digest", &["withhold", "new-view-with-chosen", "body-fetched-by-digest"]),
    ("cut-in-the-middle-of-io", &["crash-in-io", "crash-in-recovery", "catch-up", "stable-checkpoint"]),
    ("disk-lost", &["disk-lost", "suspect", "rejoin-answered", "rejoined", "catch-up"]),
    ("equivocating-leader", &["equivocate", "double-vote", "evidence-E2", "view-entered"]),
    ("first-run-forgotten", &["damaged-votes", "damage-silent"]),
    ("loss-after-rejoining", &["damaged-segments", "rejoin-answered", "rejoined"]),
    ("new-view-lost", &["lost-write", "all-power-cut", "view-entered"]),
    ("prepared-set", &["view-change-with-prepared", "new-view-with-chosen", "view-entered"]),
    ("stuck-without-a-checkpoint", &["partition", "checkpoint-certificate-sent", "catch-up", "view-entered"]),
    ("suspect-view-change", &["damaged-votes", "suspect", "rejoin-answered", "view-left"]),
    ("suspicion-lifted-unsynced", &["disk-lost", "stopped-by-disk-error", "rejoin-answered", "damage-harmless-or-repaired"]),
    ("torn-last-group", &["crash-in-io", "write-torn", "torn-group-cut", "catch-up"]),
    ("truncated-chain", &["one-way", "new-view-with-chosen", "new-view-truncates-chain", "submission-committed"]),
    ("twins-of-the-leader", &["twins", "twin-sides", "partition", "view-entered"]),
];

fn read(name: &str) -> Plan {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert!(text.starts_with("# "), "{name} does not say why it is kept");
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn every_scenario_holds_repeats_and_leads_where_it_is_kept_for() {
    for (name, kept_for) in KEPT_FOR {
        let plan = read(name);
        assert!(!plan.over_budget, "{name}: a run over its budget proves nothing");
        let outcome = simulate(&plan);
        assert_eq!(outcome.violation, None, "{name}: {:#?}", outcome.last_events);
        assert_eq!(simulate(&plan).trace_hash, outcome.trace_hash, "{name} does not repeat");
        let missing: Vec<_> = kept_for.iter().filter(|state| outcome.reached.get(*state).is_none_or(|count| *count == 0)).collect();
        assert!(missing.is_empty(), "{name} does not reach {missing:?} any more, only {:?}", outcome.reached);
    }
}

#[test]
fn every_file_is_known() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files: BTreeSet<String> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let known: BTreeSet<String> = KEPT_FOR.iter().map(|(name, _)| format!("{name}.toml")).collect();
    assert_eq!(files, known);
}
