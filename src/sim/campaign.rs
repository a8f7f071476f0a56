//! Many seeds on all cores, and what they came to together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Outcome, Plan, simulate};

/// A seed that broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The invariant.
    pub invariant: String,
    /// What was seen.
    pub detail: String,
    /// When, ms of simulated time.
    pub at: u64,
    /// The hash of the trace up to there.
    pub trace_hash: String,
    /// The last events.
    pub last_events: Vec<String>,
}

/// What many runs came to; two of them add up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Runs.
    pub seeds: u64,
    /// Events handled.
    pub events: u64,
    /// Simulated time, ms.
    pub simulated_ms: u64,
    /// Wall time, seconds.
    pub seconds: f64,
    /// How often each fault and state was reached, over all runs.
    pub reached: BTreeMap<String, u64>,
    /// In how many runs.
    pub runs_that_reached: BTreeMap<String, u64>,
    /// Those that failed.
    pub failures: Vec<Failure>,
}

impl Tally {
    /// Adds one run.
    pub fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.simulated_ms += outcome.simulated_ms;
        for (name, count) in outcome.reached.iter().filter(|(_, count)| **count > 0) {
            *self.reached.entry((*name).to_owned()).or_default() += count;
            *self.runs_that_reached.entry((*name).to_owned()).or_default() += 1;
        }
        if let Some(violation) = &outcome.violation {
            self.failures.push(Failure {
                seed,
                invariant: violation.invariant.to_owned(),
                detail: violation.detail.clone(),
                at: violation.at,
                trace_hash: format!("{:016x}", outcome.trace_hash),
                last_events: outcome.last_events.clone(),
            });
        }
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.simulated_ms += other.simulated_ms;
        self.seconds += other.seconds;
        for (name, count) in other.reached {
            *self.reached.entry(name).or_default() += count;
        }
        for (name, count) in other.runs_that_reached {
            *self.runs_that_reached.entry(name).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.seed);
    }
}

/// How seeds become plans.
#[derive(Debug, Clone, Copy, Default)]
pub struct Draw {
    /// n, if it is fixed.
    pub replicas: Option<u16>,
    /// Schedules for twins.
    pub twins: bool,
}

impl Draw {
    /// The plan of a seed.
    #[must_use]
    pub fn plan(self, seed: u64) -> Plan {
        if self.twins { Plan::draw_twins(seed, self.replicas) } else { Plan::draw(seed, self.replicas) }
    }
}

/// Runs a range of seeds on so many threads; `stop` ends it early, after the runs that have begun, and `progress` is told of seeds done and failures.
/// Gives the tally and the first seed that was not run.
pub fn campaign(
    draw: Draw,
    seeds: Range<u64>,
    threads: usize,
    max_failures: usize,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64, usize) + Sync),
) -> (Tally, u64) {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    if stop.load(Ordering::Relaxed) || total.lock().failures.len() >= max_failures {
                        return;
                    }
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = simulate(&draw.plan(seed));
                    let (done, failures) = {
                        let mut total = total.lock();
                        total.add(seed, &outcome);
                        (total.seeds, total.failures.len())
                    };
                    progress(done, failures);
                }
            });
        }
    });
    let mut tally = total.into_inner();
    tally.seconds = started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
    tally.failures.sort_by_key(|failure| failure.seed);
    // Threads take seeds in order, and each finishes what it began.
    (tally, next.into_inner().min(seeds.end))
}
