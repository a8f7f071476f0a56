//! The simulator itself: it repeats, it can fail, and what fails is made small.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::AtomicBool;

use super::*;

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let run = |seed| simulate(&Plan::draw(seed, None)).trace_hash;
    let twins = |seed| simulate(&Plan::draw_twins(seed, None)).trace_hash;
    for seed in 0..6 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
        assert_eq!(twins(seed), twins(seed), "twins, seed {seed}");
    }
    assert_ne!(run(0), run(1));
}

#[test]
fn some_seeds_break_nothing() {
    let stop = AtomicBool::new(false);
    for twins in [false, true] {
        let (tally, next) = campaign(Draw { replicas: None, twins }, 0..24, 2, 1, &stop, &|_, _| ());
        assert_eq!((tally.failures.clone(), next), (vec![], 24));
        assert!(tally.reached.get("submission-committed").is_some_and(|count| *count > 100), "{:?}", tally.reached);
    }
}

#[test]
fn a_plan_survives_its_file() {
    for seed in 0..50 {
        let plan = Plan::draw(seed, None);
        let text = toml::to_string_pretty(&plan).unwrap();
        assert_eq!(toml::from_str::<Plan>(&text).unwrap(), plan, "seed {seed}");
    }
}

/// A machine whose disk lies forgets what it signed, and this run does not excuse it.
#[test]
fn a_run_over_its_budget_breaks_and_is_made_small() {
    let mut plan = Plan::draw(3, Some(4));
    plan.over_budget = true;
    plan.byzantine.clear();
    plan.actions.retain(|action| matches!(action.what, What::Mend | What::Clock { .. } | What::SlowDisk { .. }));
    plan.actions.extend((0..4).map(|replica| Action { at: 300 + u64::from(replica), what: What::LyingDisk { replica, after: 600 } }));
    plan.actions.sort_by_key(|action| action.at);
    let outcome = simulate(&plan);
    let broken = outcome.violation.expect("who forgot its votes is seen");
    let small = minimise(&plan, &|_, _| ());
    assert!(small.actions.len() <= 2 && small.actions.len() < plan.actions.len(), "{:?}", small.actions);
    assert_eq!(simulate(&small).violation.map(|violation| violation.invariant), Some(broken.invariant));
}

#[test]
fn within_its_budget_the_same_plan_breaks_nothing() {
    let mut plan = Plan::draw(3, Some(4));
    plan.byzantine.clear();
    plan.actions = vec![Action { at: 300, what: What::LyingDisk { replica: 1, after: 600 } }];
    assert_eq!(simulate(&plan).violation, None);
}
