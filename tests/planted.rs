//! Every planted bug is caught by the simulator within 3,000 seeds, and without one nothing is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use exo_federation::planted::{Bug, plant};
use exo_federation::sim::{Draw, simulate};

const SEEDS: u64 = 3_000;
const CONTROLS: u64 = 300;

/// Every fourth seed is a schedule for twins.
fn draw(seed: u64) -> Draw {
    Draw { replicas: None, twins: seed % 4 == 3 }
}

/// What a seed breaks with this bug planted in this thread.
fn run(bug: Option<Bug>, seed: u64) -> Option<(String, String)> {
    plant(bug);
    let outcome = simulate(&draw(seed).plan(seed));
    plant(None);
    outcome.violation.map(|violation| (violation.invariant.to_owned(), violation.detail))
}

struct Caught {
    seeds: u64,
    invariant: String,
    detail: String,
}

/// The first seed that fails because of the bug: a seed that fails without it proves nothing.
fn hunt(bug: Bug) -> Option<Caught> {
    (0..SEEDS).find_map(|seed| {
        let (invariant, detail) = run(Some(bug), seed)?;
        run(None, seed).is_none().then_some(Caught { seeds: seed + 1, invariant, detail })
    })
}

/// Runs `work` for all numbers below `count` on all cores.
fn on_all_cores(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    work(at);
                }
            });
        }
    });
}

#[test]
fn every_planted_bug_is_caught() {
    let only = std::env::var("EXOFED_PLANTED_BUG").ok();
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|bug| only.as_ref().is_none_or(|only| only.split(',').any(|n| n == bug.name()))).collect();
    assert!(!bugs.is_empty(), "EXOFED_PLANTED_BUG names none of the bugs");
    let rows = Mutex::new(Vec::new());
    on_all_cores(bugs.len(), |at| {
        let started = Instant::now();
        let caught = hunt(bugs[at]);
        let row = (at, caught, started.elapsed().as_secs_f64());
        if let Some(caught) = &row.1 {
            eprintln!(
                "{}: {} at seed {}: {}",
                bugs[at].name(),
                caught.invariant,
                caught.seeds - 1,
                caught.detail.chars().take(300).collect::<String>()
            );
        } else {
            eprintln!("{}: not caught in {SEEDS} seeds", bugs[at].name());
        }
        rows.lock().unwrap().push(row);
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|row| row.0);
    let (mut table, mut missed) = ("| bug | what is broken | seeds | caught by | seconds |\n|---|---|---|---|---|\n".to_owned(), Vec::new());
    for (at, caught, seconds) in rows {
        let bug = bugs[at];
        let (seeds, invariant) = match caught {
            Some(caught) => (caught.seeds.to_string(), caught.invariant),
            None => {
                missed.push(bug.name());
                (format!("> {SEEDS}"), "nothing".to_owned())
            }
        };
        writeln!(table, "| `{}` | {} | {seeds} | {invariant} | {seconds:.1} |", bug.name(), bug.about()).unwrap();
    }
    println!("{table}");
    assert!(missed.is_empty(), "not caught within {SEEDS} seeds: {missed:?}");
}

#[test]
fn without_a_bug_nothing_is_found() {
    let failed = Mutex::new(Vec::new());
    on_all_cores(usize::try_from(CONTROLS).unwrap(), |seed| {
        let seed = seed as u64;
        if let Some((invariant, detail)) = run(None, seed) {
            failed.lock().unwrap().push(format!("seed {seed} (twins: {}): {invariant}: {detail}", draw(seed).twins));
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
