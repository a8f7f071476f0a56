//! A load run: replicas and load generator as processes, what they use while it is measured, and the check of what they leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

use super::check::{Checked, Verdict, check};
use super::generator::{Event, Generated};
use super::limits::{Effort, Limits, Workload, measure};
use super::report::{Figures, LoadReport};
use super::usage::{Usage, disk_bytes};
use super::{BenchError, LoadPlan};
use crate::client::Client;
use crate::config::{ClientFile, FederationFile};
use crate::process::{self, Replica};
use crate::types::{Federation, Parameters, ReplicaStatus, Request, Response};

/// How long the logs may take to come together once the load is over.
const SETTLE: Duration = Duration::from_secs(60);
/// How long a submission of a benchmark may take. Ids are remembered for so long: at 50,000 updates a second the default lifetime would fill the table of
/// live ids within a minute.
const LIFETIME_MS: u64 = 30_000;
/// How long a replica beyond saturation may take to say where it stands, ms.
const ANSWER_MS: u64 = 30_000;
/// Beyond measured time and lifetime, how long the generator may take before it is given up.
const GENERATOR_SLACK: Duration = Duration::from_secs(60);

/// What a benchmark's federation agrees on.
#[must_use]
pub fn parameters() -> Parameters {
    Parameters { max_lifetime_ms: LIFETIME_MS, ..Parameters::default() }
}

/// A stage of a run, for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The machine's limits are measured.
    Limits,
    /// Replicas and load generator start.
    Starting,
    /// The load runs, and is not measured yet.
    WarmUp,
    /// It is measured.
    Measuring,
    /// Submissions in flight are waited for, and that all logs agree.
    Settling,
    /// Every replica has stopped; their files are audited.
    Auditing,
}

/// What was seen of one replica at one moment.
struct Seen {
    at: Instant,
    status: ReplicaStatus,
    usage: Usage,
}

/// What was seen at about one moment. Each replica has a time of its own: one under load answers late.
struct Sample {
    at: Instant,
    generator: Usage,
    replicas: Vec<Seen>,
}

/// Runs a load against the new federation in `dir`, which has a `client-K.toml` for each client, and checks what it leaves. Dropped, it ends every
/// process that it started.
///
/// # Errors
/// [`BenchError`] if the run could not be made. A wrong result is in the report.
pub async fn run(dir: &Path, plan: LoadPlan, mut stage: impl FnMut(Stage)) -> Result<LoadReport, BenchError> {
    let federation = FederationFile::read_genesis(&dir.join("federation.toml"))?;
    stage(Stage::Limits);
    let workload = Workload { replicas: federation.size(), size: plan.size, submission: plan.submission };
    let limits = measure(dir, workload, Effort::Short).await?;
    let mut run = Run::start(dir, &federation, &mut stage).await?;
    let (before, after, generated) = run.load(&plan, &mut stage).await?;
    stage(Stage::Settling);
    let last = run.settle(generated.highest).await?;
    run.stop().await?;
    stage(Stage::Auditing);
    let checked = tokio::task::block_in_place(|| check(dir, &federation, &generated))?;
    let figures = match checked.verdict {
        Verdict::Right => {
            let measured = Measured { before: &before, after: &after, last: &last, disk_before: run.disk_before, disk_after: run.disk()? };
            Some(measured.figures(&plan, &checked, generated, limits))
        }
        Verdict::Wrong => None,
    };
    let replicas = u16::try_from(federation.size()).unwrap_or(u16::MAX);
    Ok(LoadReport { replicas, plan, durability: "fsync", checked, figures, kept: None })
}

/// A running federation under load.
struct Run {
    dir: PathBuf,
    replicas: Vec<Replica>,
    client: Arc<Client>,
    disk_before: u64,
}

impl Run {
    async fn start(dir: &Path, federation: &Federation, stage: &mut impl FnMut(Stage)) -> Result<Self, BenchError> {
        stage(Stage::Starting);
        let mut loaded = ClientFile::load(&dir.join("client.toml"))?;
        loaded.options.attempt_timeout_ms = ANSWER_MS;
        let mut run = Self { dir: dir.to_path_buf(), replicas: Vec::new(), client: Arc::new(Client::new(loaded)), disk_before: 0 };
        for replica in 0..federation.size() {
            run.replicas.push(Replica::start(dir, replica).await?);
        }
        run.disk_before = run.disk()?;
        Ok(run)
    }

    /// Bytes that all data directories occupy.
    fn disk(&self) -> Result<u64, BenchError> {
        (0..self.replicas.len()).map(|replica| disk_bytes(&self.dir.join(process::name(replica)).join("data"))).sum()
    }

    /// Lets the load run; gives what was seen when measuring began and ended, and what came of all submissions.
    async fn load(&mut self, plan: &LoadPlan, stage: &mut impl FnMut(Stage)) -> Result<(Sample, Sample, Generated), BenchError> {
        let mut generator = Generator::spawn(&self.dir, plan).await?;
        stage(Stage::WarmUp);
        let limit = Duration::from_secs(plan.warmup + plan.seconds) + Duration::from_millis(2 * LIFETIME_MS) + GENERATOR_SLACK;
        let until = tokio::time::Instant::now() + limit;
        let (mut before, mut after) = (None, None);
        loop {
            let event = tokio::time::timeout_at(until, generator.next()).await;
            let event = event.map_err(|_| BenchError::Generator(format!("no end after {} s", limit.as_secs())))??;
            self.all_run()?;
            match event {
                Event::Measuring => {
                    before = Some(self.sample(&generator).await?);
                    stage(Stage::Measuring);
                }
                Event::Measured => {
                    after = Some(self.sample(&generator).await?);
                    stage(Stage::Settling);
                }
                Event::Done(generated) => {
                    let samples = before.zip(after).ok_or_else(|| BenchError::Generator("it ended before it had measured".into()))?;
                    return Ok((samples.0, samples.1, *generated));
                }
            }
        }
    }

    fn all_run(&mut self) -> Result<(), BenchError> {
        let ended = self.replicas.iter_mut().position(Replica::has_ended);
        ended.map_or(Ok(()), |replica| Err(BenchError::Ended { peer: process::name(replica), log: process::log_of(&self.dir, replica) }))
    }

    /// Looks at all processes side by side.
    async fn sample(&self, generator: &Generator) -> Result<Sample, BenchError> {
        let gone = |peer: &str| BenchError::Replica(format!("{peer} has no process any more"));
        let at = Instant::now();
        let generator = generator.child.id().ok_or_else(|| gone("the load generator")).and_then(Usage::of)?;
        let mut looking = JoinSet::new();
        for (index, replica) in self.replicas.iter().enumerate() {
            looking.spawn(look(self.client.clone(), index, replica.pid().ok_or_else(|| gone(&replica.peer))?));
        }
        let mut replicas = BTreeMap::new();
        while let Some(looked) = looking.join_next().await {
            let (index, seen) = looked.map_err(|_| BenchError::Thread("the replicas"))?;
            replicas.insert(index, seen?);
        }
        Ok(Sample { at, generator, replicas: replicas.into_values().collect() })
    }

    /// Where every replica stands.
    async fn statuses(&self) -> Result<Vec<ReplicaStatus>, BenchError> {
        let answers = self.client.status().await.into_iter().enumerate();
        answers.map(|(replica, answer)| answer.map_err(|error| BenchError::Status { peer: process::name(replica), error })).collect()
    }

    /// Waits until all logs agree and hold what was acknowledged. If they do not in time, the check finds what keeps them apart.
    async fn settle(&mut self, highest: u64) -> Result<Vec<ReplicaStatus>, BenchError> {
        let until = Instant::now() + SETTLE;
        loop {
            self.all_run()?;
            let statuses = self.statuses().await?;
            let mut ends = statuses.iter().map(|status| (status.sequence, status.log_root, status.pending));
            let first = ends.next();
            let agree = first.is_some_and(|first| first.0 >= highest && first.2 == 0 && ends.all(|end| end == first));
            if agree || Instant::now() > until {
                return Ok(statuses);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops every replica in order.
    async fn stop(&mut self) -> Result<(), BenchError> {
        self.replicas.iter_mut().for_each(Replica::ask_to_stop);
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            if !replica.stopped().await {
                let log = process::log_of(&self.dir, index);
                return Err(BenchError::Replica(format!("{} did not stop in order; see {}", replica.peer, log.display())));
            }
        }
        Ok(())
    }
}

/// Asks a replica where it stands, and looks at what it used at that moment.
async fn look(client: Arc<Client>, replica: usize, pid: u32) -> (usize, Result<Seen, BenchError>) {
    let timeout = Duration::from_millis(client.options().attempt_timeout_ms);
    let seen = match client.ask(replica, &Request::Status, timeout).await {
        Ok(Response::Status(status)) => Usage::of(pid).map(|usage| Seen { at: Instant::now(), status: *status, usage }),
        Ok(_) => Err(BenchError::Replica(format!("{} gave another answer than a status", process::name(replica)))),
        Err(error) => Err(BenchError::Status { peer: process::name(replica), error }),
    };
    (replica, seen)
}

/// The load generator's process; it ends with its handle.
struct Generator {
    child: Child,
    /// Kept open: its end tells the generator that nobody listens any more.
    _input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Generator {
    async fn spawn(dir: &Path, plan: &LoadPlan) -> Result<Self, BenchError> {
        let failed = |error: std::io::Error| BenchError::Generator(error.to_string());
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["bench", "generate", "--dir"]).arg(dir).process_group(0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)?;
        let no_pipe = || failed(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let mut input = child.stdin.take().ok_or_else(no_pipe)?;
        let lines = BufReader::new(child.stdout.take().ok_or_else(no_pipe)?).lines();
        let told = serde_json::to_string(plan).map_err(|error| BenchError::Generator(error.to_string()))?;
        input.write_all(format!("{told}\n").as_bytes()).await.map_err(failed)?;
        Ok(Self { child, _input: input, lines })
    }

    async fn next(&mut self) -> Result<Event, BenchError> {
        let line = self.lines.next_line().await.map_err(|error| BenchError::Generator(error.to_string()))?;
        let line = line.ok_or_else(|| BenchError::Generator("it ended before its load did; its message is above".into()))?;
        serde_json::from_str(&line).map_err(|error| BenchError::Generator(format!("it said {line:?}: {error}")))
    }
}

/// From what figures are made.
struct Measured<'a> {
    before: &'a Sample,
    after: &'a Sample,
    last: &'a [ReplicaStatus],
    disk_before: u64,
    disk_after: u64,
}

impl Measured<'_> {
    fn figures(&self, plan: &LoadPlan, checked: &Checked, generated: Generated, limits: Limits) -> Figures {
        let Self { before, after, .. } = self;
        let n = self.last.len().max(1) as f64;
        let committed_per_second = generated.measured as f64 / plan.seconds.max(1) as f64;
        let pairs = || before.replicas.iter().zip(&after.replicas);
        let written: Option<u64> = pairs().map(|(b, a)| Some(a.usage.written_bytes?.saturating_sub(b.usage.written_bytes?))).sum();
        let counted = |count: fn(&ReplicaStatus) -> u64| -> u64 { pairs().map(|(b, a)| count(&a.status).saturating_sub(count(&b.status))).sum() };
        let (syncs, batches, updates) = (counted(|s| s.journal_syncs), counted(|s| s.slot), counted(|s| s.sequence));
        let looked: f64 = pairs().map(|(b, a)| a.at.duration_since(b.at).as_secs_f64()).sum();
        let grown = self.disk_after.saturating_sub(self.disk_before) as f64;
        Figures {
            committed_per_second,
            mb_per_second: committed_per_second * plan.size as f64 / 1e6,
            latency_ms: generated.latency_ms,
            cpu_seconds_per_replica: pairs().map(|(b, a)| a.usage.cpu_seconds - b.usage.cpu_seconds).collect(),
            cpu_seconds_load: after.generator.cpu_seconds - before.generator.cpu_seconds,
            rss_mb_per_replica: after.replicas.iter().map(|seen| seen.usage.resident_bytes as f64 / f64::from(1 << 20)).collect(),
            disk_bytes_per_update: grown / n / checked.log_entries.max(1) as f64,
            // Both are counted over the same time, each replica's own.
            written_bytes_per_update: written.filter(|_| updates > 0).map(|written| written as f64 / updates as f64),
            syncs_per_second: syncs as f64 / looked.max(1e-9),
            batch_updates_mean: (batches > 0).then(|| updates as f64 / batches as f64),
            view_changes: self.last.iter().map(|status| status.view_changes).max().unwrap_or(0),
            errors: generated.refused + generated.unknown + generated.not_sent,
            error_reasons: generated.errors,
            not_sent: generated.not_sent,
            offered: generated.offered,
            acknowledged: generated.acknowledged,
            measured_seconds: after.at.duration_since(before.at).as_secs_f64(),
            share_of_ceiling: committed_per_second / limits.ceiling.updates_per_second.max(1e-9),
            limits,
        }
    }
}
