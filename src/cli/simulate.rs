//! `exofed simulate`.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::{Problem, Verdict, print_json, print_line};
use crate::sim::{Draw, Failure, Outcome, Plan, Tally, campaign, simulate};

/// Search for bugs: run whole federations on a simulated clock, network and disk.
///
/// Each seed decides how many replicas there are, what is lost, delayed, cut, crashed, torn and damaged, who lies and how, and what clients do; then all faults
/// heal, and everything pending must commit. Every invariant is held after every event. The same seed always gives the same run, so a failure is
/// repeated by its seed alone. Exit code 0 if nothing failed, 1 if something did.
#[derive(Args)]
pub(crate) struct Simulate {
    /// The seeds to run: A..B, B not included.
    #[arg(long, value_name = "A..B", default_value = "0..1000", value_parser = range)]
    seeds: Range<u64>,
    /// Run one seed and show its end.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "scenario", "resume"])]
    replay: Option<u64>,
    /// Run a plan from a file (TOML), as --minimise writes it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "resume"])]
    scenario: Option<PathBuf>,
    /// With --replay: leave out what the failure does not need, and write the plan that is left here.
    #[arg(long, value_name = "FILE")]
    minimise: Option<PathBuf>,
    /// Add up over several runs: go on where this file says, and keep the sum in it.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Fix the number of replicas; otherwise each seed draws 4 to 13.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(4..=13))]
    replicas: Option<u16>,
    /// Schedules in which one member runs twice under one key.
    #[arg(long)]
    twins: bool,
    /// How many seeds run side by side; all cores unless said.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Stop after so many failures.
    #[arg(long, value_name = "N", default_value_t = 10)]
    max_failures: usize,
    /// Fail unless every fault and every state that is expected was reached.
    #[arg(long)]
    require_coverage: bool,
    /// The answer as one JSON document.
    #[arg(long)]
    json: bool,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let problem = || format!("{text:?} is no range of seeds: write A..B with A below B, for example 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(problem)?;
    let (from, to) = (from.trim().parse::<u64>().map_err(|_| problem())?, to.trim().parse::<u64>().map_err(|_| problem())?);
    if from < to { Ok(from..to) } else { Err(problem()) }
}

impl Simulate {
    pub(crate) fn run(self) -> Verdict {
        if let Some(file) = &self.scenario {
            return self.one(&read_plan(file)?);
        }
        match self.replay {
            Some(seed) => self.one(&self.draw().plan(seed)),
            None => self.many(),
        }
    }

    fn draw(&self) -> Draw {
        Draw { replicas: self.replicas, twins: self.twins }
    }

    /// The line that repeats a seed.
    fn again(&self, seed: u64) -> String {
        let replicas = self.replicas.map(|n| format!(" --replicas {n}")).unwrap_or_default();
        format!("exofed simulate --replay {seed}{replicas}{}", if self.twins { " --twins" } else { "" })
    }

    fn one(&self, plan: &Plan) -> Verdict {
        let outcome = simulate(plan);
        let mut tally = Tally::default();
        tally.add(plan.seed, &outcome);
        if let Some(file) = &self.minimise {
            if outcome.violation.is_none() {
                return Err(Problem(format!("seed {} breaks nothing: there is nothing to minimise", plan.seed)));
            }
            let smaller = crate::sim::minimise(plan, &|left, runs| eprintln!("{left} actions left after {runs} runs"));
            let text = toml::to_string_pretty(&smaller)?;
            std::fs::write(file, text).map_err(|e| Problem(format!("{}: {e}", file.display())))?;
            eprintln!("wrote {}", file.display());
        }
        if self.json {
            print_json(&serde_json::json!({
                "seed": plan.seed, "events": outcome.events, "simulated_ms": outcome.simulated_ms,
                "trace_hash": format!("{:016x}", outcome.trace_hash), "reached": outcome.reached, "violation": outcome.violation,
                "last_events": outcome.last_events,
            }))?;
        } else {
            show_one(plan, &outcome)?;
        }
        Ok(outcome.violation.is_none())
    }

    fn many(self) -> Verdict {
        let mut sum = Tally::default();
        let mut seeds = self.seeds.clone();
        if let Some(file) = self.resume.as_ref().filter(|file| file.exists()) {
            let kept: Kept = serde_json::from_slice(&std::fs::read(file)?).map_err(|e| Problem(format!("{}: {e}", file.display())))?;
            eprintln!("{}: {} seeds so far, going on at seed {}", file.display(), kept.sum.seeds, kept.next);
            (sum, seeds.start) = (kept.sum, kept.next.max(seeds.start));
        }
        let stop = Arc::new(AtomicBool::new(false));
        watch_for_interrupt(&stop);
        let bar = ProgressBar::new(seeds.end.saturating_sub(seeds.start));
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left{msg}") {
            bar.set_style(style);
        }
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        while seeds.start < seeds.end && !stop.load(Ordering::Relaxed) && sum.failures.len() < self.max_failures {
            let part = seeds.start..seeds.end.min(seeds.start.saturating_add(PART));
            let before = bar.position();
            let progress = |done: u64, failures: usize| {
                bar.set_position(before + done);
                if failures > 0 {
                    bar.set_message(format!(", {failures} failed"));
                }
            };
            let (tally, next) = campaign(self.draw(), part, threads, self.max_failures - sum.failures.len(), &stop, &progress);
            sum.merge(tally);
            seeds.start = next;
            if let Some(file) = &self.resume {
                keep(file, &Kept { next, sum: sum.clone() })?;
            }
        }
        bar.finish_and_clear();
        let missing = missing(&sum);
        self.report(&sum, &missing)?;
        Ok(sum.failures.is_empty() && (missing.is_empty() || !self.require_coverage))
    }

    fn report(&self, sum: &Tally, missing: &[&str]) -> Result<(), Problem> {
        let rate = sum.seeds as f64 / sum.seconds.max(0.001);
        let (faults, states): (Vec<_>, Vec<_>) = sum.reached.iter().partition(|(name, _)| crate::sim::FAULTS.contains(&name.as_str()));
        let by = |counts: Vec<(&String, &u64)>| counts.into_iter().map(|(n, c)| (n.clone(), *c)).collect::<std::collections::BTreeMap<_, _>>();
        let (faults, states) = (by(faults), by(states));
        if self.json {
            return print_json(&serde_json::json!({
                "seeds": sum.seeds, "failures": sum.failures, "events": sum.events, "faults_by_kind": faults, "states_reached": states,
                "seeds_per_second": rate, "seconds": sum.seconds, "simulated_ms": sum.simulated_ms, "not_reached": missing,
            }));
        }
        for failure in &sum.failures {
            self.show_failure(failure)?;
        }
        let hours = sum.simulated_ms as f64 / 3_600_000.0;
        print_line(&format!(
            "{} seeds, {} failed; {} events, {hours:.1} simulated hours in {:.0} s ({rate:.0} seeds/s)",
            sum.seeds,
            sum.failures.len(),
            sum.events,
            sum.seconds
        ))?;
        let list = |counts: &std::collections::BTreeMap<String, u64>| counts.iter().map(|(n, c)| format!("{n} {c}")).collect::<Vec<_>>().join(", ");
        print_line(&format!("faults: {}", list(&faults)))?;
        print_line(&format!("states: {}", list(&states)))?;
        if !missing.is_empty() {
            print_line(&format!("not reached: {}", missing.join(", ")))?;
        }
        Ok(())
    }

    fn show_failure(&self, failure: &Failure) -> Result<(), Problem> {
        print_line(&format!("seed {} broke \"{}\" at {} ms: {}", failure.seed, failure.invariant, failure.at, failure.detail))?;
        for event in failure.last_events.iter().rev().take(12).rev() {
            print_line(&format!("    {event}"))?;
        }
        print_line(&format!("  trace {}; repeat with: {}", failure.trace_hash, self.again(failure.seed)))
    }
}

/// Seeds between two times that `--resume` keeps the sum.
const PART: u64 = 2_000;

/// What `--resume` keeps.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept {
    next: u64,
    sum: Tally,
}

/// Replaces the file at once, so that whatever ends this process leaves the old sum or the new one.
fn keep(file: &std::path::Path, kept: &Kept) -> Result<(), Problem> {
    let new = file.with_extension("new");
    let written = std::fs::write(&new, serde_json::to_vec_pretty(kept)?).and_then(|()| std::fs::rename(&new, file));
    written.map_err(|e| Problem(format!("{}: {e}", file.display())))
}

fn read_plan(file: &std::path::Path) -> Result<Plan, Problem> {
    let text = std::fs::read_to_string(file).map_err(|e| Problem(format!("{}: {e}", file.display())))?;
    toml::from_str(&text).map_err(|e| Problem(format!("{}: {e}", file.display())))
}

fn show_one(plan: &Plan, outcome: &Outcome) -> Result<(), Problem> {
    print_line(&format!(
        "seed {}: {} replicas, {} events, {} ms, trace {:016x}",
        plan.seed, plan.replicas, outcome.events, outcome.simulated_ms, outcome.trace_hash
    ))?;
    for (member, behaviours) in &plan.byzantine {
        let names: Vec<&str> = behaviours.iter().map(|b| b.name()).collect();
        print_line(&format!("  replica {member} lies: {}", names.join(", ")))?;
    }
    let reached: Vec<String> = outcome.reached.iter().filter(|(_, c)| **c > 0).map(|(n, c)| format!("{n} {c}")).collect();
    print_line(&format!("  reached: {}", reached.join(", ")))?;
    match &outcome.violation {
        None => print_line("nothing is broken"),
        Some(violation) => {
            for event in &outcome.last_events {
                print_line(&format!("    {event}"))?;
            }
            print_line(&format!("BROKEN at {} ms: {}: {}", violation.at, violation.invariant, violation.detail))
        }
    }
}

/// Which expected states no run reached.
fn missing(sum: &Tally) -> Vec<&'static str> {
    crate::sim::EXPECTED.iter().copied().filter(|name| sum.reached.get(*name).is_none_or(|count| *count == 0)).collect()
}

/// Ctrl-C or SIGTERM ends the campaign after the runs that have begun; what was done is reported and kept.
fn watch_for_interrupt(stop: &Arc<AtomicBool>) {
    let stop = stop.clone();
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
