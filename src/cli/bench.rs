//! `exofed bench`: what a federation reaches on this machine, and what the machine allows.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::init::{Network, make_federation_for};
use super::{Problem, Verdict as Answer, print_json, print_line};
use crate::bench::{
    Bound, Checked, Effort, Event, Figures, LatencyMs, Limits, LoadPlan, LoadReport, Rate, Stage, Verdict, Workload, client_file, generate, measure,
    parameters, run,
};
use crate::config::{ClientFile, ClientOptions, write_secret};
use crate::crypto::SigningKey;
use crate::types::Author;

/// Measure what a federation reaches on this machine, and what the machine allows.
///
/// `load` runs real replicas and a load generator as processes, with everything that a federation has: QUIC, signatures, synced writes. `limits`
/// measures disk, network and signatures alone, and says what ceiling follows for a load.
///
/// A machine that does other work at the same time gives figures of that work too: compare what was measured in one run. docs/performance.md says
/// how to read the figures.
#[derive(Parser)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    Load(Load),
    Limits(LimitsArgs),
    #[command(hide = true)]
    Generate(Generate),
}

/// Offer updates to a new federation and say how many it commits, how soon, and at what cost.
///
/// Makes a federation, measures the machine's limits in the same directory, starts the replicas and the load generator as processes, and lets the load
/// run: first --warmup seconds that do not count, then --seconds that do. An update counts as committed once its submission's receipt came back and
/// verified. With --rate R each submission has a time at which it is due, and its latency counts from then, however late it is sent (an open
/// loop, no coordinated omission); with --rate max each client keeps --in-flight submissions on their way (a closed loop).
///
/// Every run ends with a check: the replicas are stopped in order, and their files must agree in every entry, audit clean, hold exactly what was
/// acknowledged, and hold every proof that was kept on the way. Only then are there figures. Every vote waits for its fdatasync: there is no switch
/// for less. To see what the disk costs, run once more with --dir on a file system in memory.
///
/// Exit code: 0 the result is right, however slow; 1 it is wrong (the directory is kept); 3 the run could not be made.
#[derive(clap::Args)]
struct Load {
    /// How many replicas; at least 4.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(4..=64))]
    replicas: u16,
    /// Payload bytes of each update.
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    size: u64,
    /// Updates that are signed and sent together.
    #[arg(long, value_name = "UPDATES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    submission: u64,
    /// Updates offered a second, or max.
    #[arg(long, default_value = "max")]
    rate: Rate,
    /// Clients, each an author with a key and connections of its own.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=200))]
    clients: u16,
    /// Submissions that a client has on their way at most; a replica serves 64 of one author at a time.
    #[arg(long, value_name = "SUBMISSIONS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    in_flight: u16,
    /// How long is measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long the load runs before that.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warmup: u64,
    /// Where the federation is made and kept, on the disk to be measured; must not exist or be empty. A temporary directory, removed if the
    /// result is right, if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Measure what this machine allows: synced writes, QUIC on loopback, signatures and hashes.
///
/// The disk is written as replicas write it: one writer for each, all at once, each with a file of its own whose space is reserved, every group
/// synced. The network is the federation's own transport with both ends in one process. Signatures and hashes are timed on one core. From these
/// follows the ceiling for a load, with the arithmetic: it counts what no implementation of the protocol can leave out, so it cannot be reached.
#[derive(clap::Args)]
struct LimitsArgs {
    /// The directory whose disk is measured; it must exist, and 1 GiB must be free. The system's temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Replicas of the load whose ceiling is wanted, and writers at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(4..=64))]
    replicas: u16,
    /// Payload bytes of its updates.
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    size: u64,
    /// Updates that it signs together.
    #[arg(long, value_name = "UPDATES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    submission: u64,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// The load generator's process: the plan comes as a line on standard input, what happens goes to standard output.
#[derive(clap::Args)]
struct Generate {
    #[arg(long)]
    dir: PathBuf,
}

impl Bench {
    pub(crate) async fn run(self) -> Answer {
        match self.command {
            BenchCommand::Load(load) => load.run().await,
            BenchCommand::Limits(limits) => limits.run().await,
            BenchCommand::Generate(generate) => generate.run().await,
        }
    }
}

impl Load {
    async fn run(self) -> Answer {
        let plan = self.plan()?;
        if cfg!(debug_assertions) {
            eprintln!("warning: this is a debug build, several times slower than cargo build --release");
        }
        let temporary = if self.dir.is_none() { Some(tempfile::tempdir()?) } else { None };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(temporary)) => temporary.path().to_path_buf(),
            (None, None) => return Err(Problem("no directory".into())),
        };
        self.make(&dir)?;
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(std::time::Duration::from_millis(200));
        let ran = tokio::select! {
            ran = run(&dir, plan, |stage| bar.set_message(told(stage))) => ran,
            _ = tokio::signal::ctrl_c() => return Err(Problem("interrupted; every process is stopped, and there is no result".into())),
        };
        bar.finish_and_clear();
        let right = ran.as_ref().is_ok_and(|report| report.checked.verdict == Verdict::Right);
        let kept = match temporary {
            // Whoever looks into it needs the files.
            Some(temporary) if !right => Some(temporary.keep()),
            Some(_) => None,
            None => Some(dir),
        };
        let mut report = match (ran, &kept) {
            (Ok(report), _) => report,
            (Err(error), Some(kept)) => return Err(Problem(format!("{error}; kept: {}", kept.display()))),
            (Err(error), None) => return Err(error.into()),
        };
        report.kept = kept;
        if self.json {
            print_json(&report)?
        } else {
            show(&report)?
        }
        Ok(right)
    }

    /// The plan, if the federation would take its submissions.
    fn plan(&self) -> Result<LoadPlan, Problem> {
        let limits = parameters();
        if self.size > limits.max_data_bytes {
            return Err(Problem(format!("--size {}: an update has at most {} bytes", self.size, limits.max_data_bytes)));
        }
        if self.submission > limits.max_submission_updates {
            return Err(Problem(format!("--submission {}: at most {} updates are signed together", self.submission, limits.max_submission_updates)));
        }
        let (bytes, most) = (self.submission.saturating_mul(self.size + 64), limits.max_batch_bytes / 2);
        if bytes > most {
            return Err(Problem(format!("a submission of {bytes} bytes is more than the {most} that are sensible; lower --size or --submission")));
        }
        let &Self { size, submission, rate, clients, in_flight, seconds, warmup, .. } = self;
        Ok(LoadPlan { size, submission, rate, clients, in_flight, seconds, warmup })
    }

    /// Makes the federation, with a key for each client.
    fn make(&self, dir: &Path) -> Result<(), Problem> {
        fs::create_dir_all(dir).map_err(|e| Problem(format!("{}: {e}", dir.display())))?;
        if fs::read_dir(dir)?.next().is_some() {
            return Err(Problem(format!("{} is not empty; choose a new directory on the disk to be measured", dir.display())));
        }
        let keys = (0..self.clients).map(|_| SigningKey::generate()).collect::<Result<Vec<_>, _>>()?;
        let authors = keys.iter().enumerate().map(|(client, key)| Author { name: format!("client-{client}"), key: key.public() });
        let made = make_federation_for(dir, self.replicas, &Network::loopback(0), parameters(), authors.collect())?;
        // A replica takes no submission that would outlast the ids' memory on a clock that is as far off as clocks may be.
        let agreed = made.federation.parameters();
        let lifetime_ms = agreed.max_lifetime_ms.saturating_sub(agreed.max_drift_ms) * 9 / 10;
        for (client, key) in (0..self.clients).zip(&keys) {
            let secret = format!("client-{client}.key");
            write_secret(&dir.join(&secret), &key.seed())?;
            let file = ClientFile {
                genesis: "federation.toml".into(),
                key: secret.into(),
                client: ClientOptions { lifetime_ms, ..ClientOptions::default() },
                net: crate::net::NetOptions::default(),
            };
            fs::write(dir.join(client_file(client)), toml::to_string(&file)?)?;
        }
        Ok(())
    }
}

impl LimitsArgs {
    async fn run(self) -> Answer {
        let dir = self.dir.unwrap_or_else(std::env::temp_dir);
        let workload = Workload { replicas: usize::from(self.replicas), size: self.size, submission: self.submission };
        let limits = measure(&dir, workload, Effort::Full).await?;
        if self.json {
            print_json(&limits)?
        } else {
            show_limits(&limits)?
        }
        Ok(true)
    }
}

impl Generate {
    async fn run(self) -> Answer {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let line = lines.next_line().await?.ok_or_else(|| Problem("no plan on standard input".into()))?;
        let plan: LoadPlan = serde_json::from_str(&line)?;
        // A pipe that is closed: nobody listens any more.
        let tell = |event: &Event| print_json(event).unwrap_or_else(|_| std::process::exit(0));
        tokio::select! {
            done = generate(&self.dir, plan, tell) => done.map(|()| true).map_err(Problem::from),
            _ = lines.next_line() => Err(Problem("whoever started the load has ended".into())),
        }
    }
}

fn told(stage: Stage) -> &'static str {
    match stage {
        Stage::Limits => "measuring what the machine allows",
        Stage::Starting => "starting replicas",
        Stage::WarmUp => "warming up",
        Stage::Measuring => "measuring",
        Stage::Settling => "waiting until all logs agree",
        Stage::Auditing => "auditing every log",
    }
}

fn show(report: &LoadReport) -> Result<(), Problem> {
    let LoadPlan { size, submission, rate, clients, in_flight, seconds, warmup } = &report.plan;
    let loop_kind = if *rate == Rate::Max { "as fast as answers come".to_owned() } else { format!("{rate} updates/s offered") };
    let mut rows = vec![
        ("load", format!("{loop_kind}, {size} B, {submission} signed together, {clients} clients with {in_flight} in flight")),
        ("federation", format!("{} replicas, every vote synced; measured {seconds} s after {warmup} s", report.replicas)),
        ("result", verdict(&report.checked)),
    ];
    if let Some(figures) = &report.figures {
        rows.extend(figure_rows(figures));
    }
    table(&rows)?;
    for finding in &report.checked.findings {
        print_line(&format!("wrong: {finding}"))?;
    }
    if let Some(kept) = &report.kept {
        print_line(&format!("kept: {}", kept.display()))?;
    }
    Ok(())
}

fn verdict(checked: &Checked) -> String {
    let Checked { log_entries, log_batches, proofs_checked, .. } = checked;
    match checked.verdict {
        Verdict::Right => {
            format!("right: all logs agree and audit clean, {log_entries} entries in {log_batches} batches, {proofs_checked} earlier proofs hold")
        }
        Verdict::Wrong => "WRONG: figures of this run would mean nothing".to_owned(),
    }
}

fn latency(latency: &LatencyMs) -> String {
    let LatencyMs { p50, p90, p99, p999, max } = latency;
    format!("p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2}")
}

fn figure_rows(figures: &Figures) -> Vec<(&'static str, String)> {
    let list = |values: &[f64]| values.iter().map(|value| format!("{value:.1}")).collect::<Vec<_>>().join(", ");
    let or_none = |value: Option<f64>| value.map_or_else(|| "not counted on this system".to_owned(), |value| format!("{value:.0}"));
    let ceiling = &figures.limits.ceiling;
    let mut rows = vec![
        ("committed/s", format!("{:.0} ({:.2} MB/s of payload)", figures.committed_per_second, figures.mb_per_second)),
        ("latency, ms", figures.latency_ms.as_ref().map_or_else(|| "nothing was due".to_owned(), latency)),
        (
            "share of the ceiling",
            format!("{:.1} % of {:.0}/s ({})", figures.share_of_ceiling * 100.0, ceiling.updates_per_second, bound(ceiling.bound)),
        ),
        ("not acknowledged", format!("{} of {} offered, {} of them not sent in time", figures.errors, figures.offered, figures.not_sent)),
        ("updates in a batch", figures.batch_updates_mean.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.1} in the mean"))),
        ("view changes", figures.view_changes.to_string()),
        ("journal syncs/s", format!("{:.0} a replica", figures.syncs_per_second)),
        (
            "CPU, s",
            format!(
                "replicas {}; load {:.1}; in {:.1} s",
                list(&figures.cpu_seconds_per_replica),
                figures.cpu_seconds_load,
                figures.measured_seconds
            ),
        ),
        ("resident, MiB", list(&figures.rss_mb_per_replica)),
        (
            "bytes of an update",
            format!("{} written, {:.0} on disk, a replica", or_none(figures.written_bytes_per_update), figures.disk_bytes_per_update),
        ),
    ];
    rows.extend(figures.error_reasons.iter().map(|(reason, updates)| ("  why", format!("{updates} updates: {reason}"))));
    rows
}

fn bound(bound: Bound) -> &'static str {
    match bound {
        Bound::Cpu => "CPU stops first",
        Bound::Disk => "the disk stops first",
    }
}

fn show_limits(limits: &Limits) -> Result<(), Problem> {
    let Limits { cores, disk, network, crypto, ceiling } = limits;
    let mut rows = Vec::new();
    for group in &disk.groups {
        let (kib, writers) = (group.group_bytes >> 10, disk.writers);
        let rates = format!("{:.1} MB/s, {:.0} syncs/s", group.mb_per_second, group.syncs_per_second);
        rows.push((format!("disk, {writers} x {kib} KiB"), format!("{rates}; ms: {}", latency(&group.latency_ms))));
    }
    rows.push(("QUIC round trip, ms".to_owned(), latency(&network.round_trip_ms)));
    rows.push(("QUIC stream".to_owned(), format!("{:.0} MB/s, {:.0} us of CPU a MB", network.stream_mb_per_second, network.cpu_us_per_mb)));
    rows.push(("Ed25519, us".to_owned(), format!("sign {:.1}, verify_strict {:.1}", crypto.sign_us, crypto.verify_strict_us)));
    rows.push(("SHA-256".to_owned(), format!("{:.0} MB/s; a payload {:.2} us", crypto.sha256_mb_per_second, crypto.sha256_payload_us)));
    rows.push(("cores".to_owned(), cores.to_string()));
    table(&rows)?;
    let load = ceiling.load;
    print_line(&format!("\nceiling for {} replicas, {} B, {} signed together, us of CPU an update:", load.replicas, load.size, load.submission))?;
    for term in &ceiling.terms {
        print_line(&format!("  {:>7.2}  {}: {}", term.us_per_update, term.what, term.arithmetic))?;
    }
    for line in &ceiling.arithmetic {
        print_line(&format!("  {line}"))?;
    }
    print_line(&format!("  ceiling: {:.0} updates/s; {}", ceiling.updates_per_second, bound(ceiling.bound)))
}

fn table(rows: &[(impl AsRef<str>, String)]) -> Result<(), Problem> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    for (what, value) in rows {
        table.add_row([what.as_ref(), value]);
    }
    print_line(&table.to_string())
}
