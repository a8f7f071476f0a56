//! The test on one machine: cycles of load, kills, restarts and checks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::acks::Ack;
use super::checker::Checker;
use super::error::CrashTestError;
use super::finding::{Findings, Wrong};
use super::fleet::{Fleet, client};
use super::load::{Fate, Load, Source};
use super::preflight::Preflight;
use super::report::{CrashReport, Grade};
use super::schedule::{Dice, KillMode, LOAD, Plan, plan};
use super::whole::{check_whole, probe_end};
use crate::failpoint::CrashAt;
use crate::types::{Federation, Sequence};

/// How long replicas may take, beyond the load, to reach the points at which they die.
const REACH_LIMIT: Duration = Duration::from_millis(1_500);

/// What a local test is told.
pub(crate) struct LocalOptions {
    /// A directory with a new federation, prepared.
    pub(crate) dir: PathBuf,
    pub(crate) cycles: u64,
    pub(crate) kill: KillMode,
    pub(crate) seed: u64,
}

/// A local test, and what it found so far.
pub(crate) struct LocalTest {
    options: LocalOptions,
    federation: Arc<Federation>,
    preflight: Preflight,
    fleet: Fleet,
    checker: Checker,
    source: Arc<Source>,
    acks: Vec<Ack>,
    /// How many of these were found.
    recovered: u64,
    /// How many of `acks` were looked up.
    checked: usize,
    findings: Findings,
    cycles: u64,
    unanswered: u64,
    failpoints: BTreeMap<&'static str, u64>,
    full_check: bool,
    reason: Option<String>,
}

impl LocalTest {
    /// Nothing runs yet.
    pub(crate) fn new(options: LocalOptions, federation: Federation, preflight: Preflight) -> Self {
        let federation = Arc::new(federation);
        let (fleet, dir) = (Fleet::new(&options.dir, federation.size()), options.dir.clone());
        Self {
            checker: Checker::new(dir, federation.clone()),
            source: Arc::new(Source::new("u".into())),
            options,
            federation,
            preflight,
            fleet,
            acks: Vec::new(),
            recovered: 0,
            checked: 0,
            findings: Findings::default(),
            cycles: 0,
            unanswered: 0,
            failpoints: BTreeMap::new(),
            full_check: false,
            reason: None,
        }
    }

    /// Runs all cycles and the check at the end; ends early with the first thing that is wrong. `progress` is told cycles and acknowledgements.
    /// May be dropped at any time: [`LocalTest::report`] tells what was found until then.
    pub(crate) async fn run(&mut self, progress: impl Fn(u64, u64)) {
        if let Err(error) = self.run_all(progress).await {
            self.reason = Some(error.to_string());
        }
    }

    async fn run_all(&mut self, progress: impl Fn(u64, u64)) -> Result<(), CrashTestError> {
        let everyone: Vec<usize> = (0..self.fleet.size()).collect();
        self.fleet.start(&everyone, &mut self.findings).await?;
        for cycle in 1..=self.options.cycles {
            self.findings.cycle = cycle;
            self.cycle(cycle).await?;
            if !self.findings.is_empty() {
                return Ok(());
            }
            self.cycles = cycle;
            progress(cycle, self.acks.len() as u64);
        }
        self.findings.cycle = 0;
        self.check_everything().await
    }

    /// Load, kills, restarts; then every log and every acknowledgement of the cycle.
    async fn cycle(&mut self, cycle: u64) -> Result<(), CrashTestError> {
        let mut dice = Dice::new(self.options.seed.wrapping_add(cycle));
        let (fates_in, mut fates) = mpsc::unbounded_channel();
        let load = Load::start(&client(&self.options.dir)?, &self.source, dice.roll(), &fates_in);
        let began = Instant::now();
        match plan(self.options.kill, self.options.seed, cycle, self.fleet.size()) {
            Plan::Kills(kills) => {
                for kill in kills {
                    sleep_until(began + kill.at).await;
                    self.fleet.kill(&kill.victims).await?;
                    sleep(kill.down).await;
                    self.fleet.start(&kill.victims, &mut self.findings).await?;
                }
            }
            Plan::Failpoints(armed) => self.crash_at(&armed, began).await?,
        }
        sleep_until(began + LOAD).await;
        let stopped = began.elapsed();
        load.finish().await;
        let drained = began.elapsed();
        drop(fates_in);
        let first = self.acks.len();
        while let Some(fate) = fates.recv().await {
            self.take(fate);
        }
        self.fleet.all_run()?;
        let target = self.probe(&mut dice).await?;
        let probed = began.elapsed();
        self.check(target, first, &mut dice).await?;
        tracing::debug!(cycle, ?stopped, ?drained, ?probed, checked = ?began.elapsed(), "a cycle");
        Ok(())
    }

    /// Starts replicas anew that kill themselves, waits for that under load, and starts them again.
    async fn crash_at(&mut self, armed: &[(usize, CrashAt)], began: Instant) -> Result<(), CrashTestError> {
        let victims: Vec<usize> = armed.iter().map(|(replica, _)| *replica).collect();
        self.fleet.kill(&victims).await?;
        let mut crashed = self.fleet.start_armed(armed, &mut self.findings).await?;
        let until = (began + LOAD).max(Instant::now()) + REACH_LIMIT;
        while crashed.len() < armed.len() && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
            for replica in victims.iter().copied() {
                if !crashed.contains(&replica) && self.fleet.is_gone(replica).await? {
                    crashed.push(replica);
                }
            }
        }
        for (replica, at) in armed {
            *self.failpoints.entry(at.point.name()).or_default() += u64::from(crashed.contains(replica));
        }
        self.fleet.kill(&victims).await?;
        self.fleet.start(&victims, &mut self.findings).await
    }

    fn take(&mut self, fate: Fate) {
        match fate {
            Fate::Acked(acks) => self.acks.extend(acks),
            Fate::Unknown(_) => self.unanswered += 1,
            Fate::Refused(why) => self.findings.add(Wrong::Refused, why),
        }
    }

    /// Where the log ends, by one more update.
    async fn probe(&mut self, dice: &mut Dice) -> Result<Sequence, CrashTestError> {
        let (target, ack) = probe_end(&self.options.dir, &self.source, dice).await?;
        self.acks.push(ack);
        Ok(target)
    }

    /// What is new since the last check.
    async fn check(&mut self, target: Sequence, first: usize, dice: &mut Dice) -> Result<(), CrashTestError> {
        let client = client(&self.options.dir)?;
        self.checker.follow_all(&client, target, &mut self.findings).await?;
        let new = self.acks.get(first..).unwrap_or_default();
        self.recovered += self.checker.look_up(new, &mut self.findings);
        self.checked = self.acks.len();
        self.checker.prove_some(&client, new, dice, &mut self.findings).await?;
        tokio::task::block_in_place(|| self.checker.search_journals(&mut self.findings))
    }

    async fn check_everything(&mut self) -> Result<(), CrashTestError> {
        let target = self.probe(&mut Dice::new(self.options.seed)).await?;
        let Self { options, federation, fleet, acks, findings, .. } = self;
        self.recovered = check_whole(&options.dir, federation, fleet, target, acks, findings).await?;
        self.full_check = true;
        Ok(())
    }

    /// What was found so far.
    pub(crate) fn report(&self, interrupted: bool) -> CrashReport {
        let mut report = CrashReport::new(Grade::Process, self.fleet.size(), self.preflight.clone());
        (report.kill, report.seed) = (Some(self.options.kill), Some(self.options.seed));
        (report.cycles, report.kills) = (self.cycles, self.fleet.kills);
        // A cycle that was interrupted before its check says nothing.
        let acked = if interrupted { self.checked } else { self.acks.len() };
        (report.acked, report.recovered) = (acked as u64, self.recovered);
        (report.unanswered, report.failpoints) = (self.unanswered, self.failpoints.clone());
        (report.full_check, report.interrupted, report.reason) = (self.full_check, interrupted, self.reason.clone());
        report.conclude(&self.fleet.starts, &self.findings);
        report
    }

    /// Writes the acknowledgements beside the data, for whoever looks into a loss.
    pub(crate) fn keep_acks(&self) -> Result<PathBuf, CrashTestError> {
        let path = self.options.dir.join("acks.jsonl");
        super::acks::write(&path, &self.acks).map(|()| path.clone()).map_err(CrashTestError::io(&path))
    }
}
