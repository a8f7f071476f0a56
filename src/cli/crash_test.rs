//! `exofed crash-test`: the command line and the report of the crash test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::init::{Network, make_federation};
use super::{Problem, Verdict as Answer, print_json, print_line};
use crate::config::FederationFile;
use crate::crash_test::{
    CrashReport, KillMode, LocalOptions, LocalTest, PowerCheck, PowerLoad, Preflight, Verdict, Witness, holds_federation, look, parameters, prepare,
    quiet_base_port,
};
use crate::crypto::random_bytes;
use crate::failpoint;
use crate::types::Federation;

/// The exit code of this command alone where others have 3.
pub(crate) const COULD_NOT_TELL: u8 = 2;

/// Test whether this machine keeps what the federation acknowledges, while its processes die.
///
/// Runs a federation of real processes on real files, lets updates flow, kills replicas with SIGKILL, starts them again, and holds every
/// acknowledgement (with the proof that came with it) against the log of every replica. `local` does all of it here. `witness`, `load` and `verify`
/// are for the test that no program can do alone: pulling the plug. Start the witness on a second machine, `load` on the machine under test, cut
/// its power, start it again, and `verify`.
///
/// Exit code: 0 nothing wrong; 1 a loss: something acknowledged is gone, stands twice, forked, was signed twice, or is damaged for good; 2 it could
/// not be told (of all commands only this one uses 2 for that).
#[derive(Parser)]
pub(crate) struct CrashTest {
    #[command(subcommand)]
    command: CrashCommand,
}

#[derive(Subcommand)]
enum CrashCommand {
    Local(Local),
    Witness(WitnessArgs),
    Load(LoadArgs),
    Verify(VerifyArgs),
}

/// Kill replicas of a federation on this machine, cycle after cycle.
///
/// Each cycle: updates flow for 0.6 s while replicas die and come back; then every replica's log is read from it, verified against the genesis and
/// compared with the others', every acknowledgement is looked up (sequence, leaf, header), a few proofs are asked of each replica, and every journal
/// is searched for statements that contradict each other. At the end all logs are read again from their beginning and audited from their files.
/// The first thing that is wrong ends the test; the directory is then kept. Ctrl-C gives the report so far.
///
/// Kill modes: `random`, one replica or several at random moments; `all-at-once`, all in one moment; `failpoint`, replicas kill themselves around
/// a write, a sync or a rename (they run `exofed serve --crash-at POINT:COUNT`, which kills the process at the COUNT-th time it passes the point).
/// The same seed gives the same schedule, as far as real processes can keep one.
///
/// The replicas run with small journal files, so that segments roll and votes rotate often, and with short timeouts. A clean run says: killing
/// processes loses nothing here. It says nothing about a power cut, because the kernel's page cache survives a SIGKILL.
#[derive(clap::Args)]
#[command(after_long_help = points())]
struct Local {
    /// Where the test's federation lives while it runs, on the disk to be tested; must not exist or be empty.
    #[arg(long)]
    dir: PathBuf,
    /// How many times to kill.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    cycles: u64,
    /// How many replicas; at least 4.
    #[arg(long, default_value_t = 4)]
    replicas: u16,
    /// How they die.
    #[arg(long, value_enum, default_value_t = KillMode::Random)]
    kill: KillMode,
    /// Repeats an earlier schedule; a random one if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the directory also when nothing is wrong.
    #[arg(long)]
    keep: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Keep the acknowledgements of loads on other machines.
///
/// Run it on a machine whose plug stays in. What it answered for is on its disk before it answers. Whoever reaches its port can say anything to it,
/// and so make a test fail, but cannot make a loss look clean: still, listen in a network that you trust. Ctrl-C ends it; started again with the
/// same directory it goes on.
#[derive(clap::Args)]
struct WitnessArgs {
    /// Where to listen.
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,
    /// Where to keep the acknowledgements, one file per federation.
    #[arg(long, default_value = "exofed-witness")]
    dir: PathBuf,
}

/// Let updates flow until somebody pulls the plug of this machine.
///
/// Makes a federation in DIR, or goes on with the one that an earlier load made there. Each acknowledgement counts once the witness has it on disk.
/// Pull the plug at any time after the first; do not press a button that shuts the machine down in order. Then start it again and run
/// `exofed crash-test verify`. Load, cut and verify as often as you like: each cut is one cycle. Ctrl-C ends the load in order, and counts as no cut.
#[derive(clap::Args)]
struct LoadArgs {
    /// Where the federation lives, on the disk to be tested.
    #[arg(long)]
    dir: PathBuf,
    /// The witness, on another machine.
    #[arg(long, value_name = "HOST:PORT")]
    witness: String,
    /// How many replicas a new federation has; at least 4.
    #[arg(long, default_value_t = 4)]
    replicas: u16,
}

/// After a power cut: check everything that the witness keeps.
///
/// Starts the federation in DIR again, has it commit one more update, reads every replica's log from its beginning, looks up every acknowledgement
/// that the witness keeps, searches the journals, stops the replicas and audits their files. The directory stays.
#[derive(clap::Args)]
struct VerifyArgs {
    /// The directory that `load` was given.
    #[arg(long)]
    dir: PathBuf,
    /// The witness that `load` was given.
    #[arg(long, value_name = "HOST:PORT")]
    witness: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl CrashTest {
    pub(crate) async fn run(self) -> Answer {
        match self.command {
            CrashCommand::Local(local) => local.run().await,
            CrashCommand::Witness(witness) => witness.run().await,
            CrashCommand::Load(load) => load.run().await,
            CrashCommand::Verify(verify) => verify.run().await,
        }
    }
}

impl Local {
    async fn run(self) -> Answer {
        let preflight = look_first(&self.dir)?;
        let federation = make(&self.dir, self.replicas)?;
        let seed = match self.seed {
            Some(seed) => seed,
            None => u64::from_le_bytes(random_bytes::<8>()?),
        };
        eprintln!("{} cycles of {} replicas in {}, seed {seed}", self.cycles, self.replicas, self.dir.display());
        let options = LocalOptions { dir: self.dir.clone(), cycles: self.cycles, kill: self.kill, seed };
        let mut test = LocalTest::new(options, federation, preflight);
        let bar = ProgressBar::new(self.cycles);
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {pos} of {len} cycles, {msg}, {eta} left") {
            bar.set_style(style);
        }
        let interrupted = {
            let progress = |cycles, acked| {
                bar.set_position(cycles);
                bar.set_message(format!("{acked} acknowledged"));
            };
            tokio::select! {
                () = test.run(progress) => false,
                () = interrupted() => true,
            }
        };
        bar.finish_and_clear();
        let mut report = test.report(interrupted);
        if report.verdict != Verdict::Clean {
            test.keep_acks()?;
        }
        // Every process ends with the test, before its files are removed.
        drop(test);
        if report.verdict == Verdict::Clean && !self.keep {
            fs::remove_dir_all(&self.dir)?;
        } else {
            report.kept = Some(self.dir.clone());
        }
        conclude(&report, self.json)
    }
}

impl WitnessArgs {
    async fn run(self) -> Answer {
        let witness = Witness::bind(&self.listen, &self.dir).await?;
        print_line(&format!("witness ready at {}, keeping acknowledgements in {}", witness.address()?, self.dir.display()))?;
        tokio::select! {
            () = witness.serve() => Err(Problem("the witness ended".into())),
            () = interrupted() => Ok(true),
        }
    }
}

impl LoadArgs {
    async fn run(self) -> Answer {
        let federation = if holds_federation(&self.dir) {
            FederationFile::read_genesis(&self.dir.join("federation.toml"))?
        } else {
            look_first(&self.dir)?;
            make(&self.dir, self.replicas)?
        };
        let load = PowerLoad { dir: self.dir.clone(), federation: Arc::new(federation), witness: self.witness };
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} acknowledged and kept by the witness, {per_sec}: pull the plug at any time")
        {
            bar.set_style(style);
        }
        let kept = load.run(run_name()?, interrupted(), |kept| bar.set_position(kept)).await;
        bar.finish_and_clear();
        print_line(&format!("{} acknowledged and kept by the witness; the load ended in order, which is no cut", kept?))?;
        Ok(true)
    }
}

impl VerifyArgs {
    async fn run(self) -> Answer {
        if !holds_federation(&self.dir) {
            return Err(Problem(format!("{} holds no federation; give the directory that crash-test load was given", self.dir.display())));
        }
        let federation = Arc::new(FederationFile::read_genesis(&self.dir.join("federation.toml"))?);
        let preflight = warned(look(&self.dir)?);
        eprintln!("starting the federation in {} and checking it against what {} keeps", self.dir.display(), self.witness);
        let check = PowerCheck { dir: self.dir, federation, witness: self.witness, preflight };
        let report = tokio::select! {
            report = check.run(run_name()?) => report,
            () = interrupted() => return Err(Problem("interrupted before the check was done".into())),
        };
        conclude(&report, self.json)
    }
}

/// Ctrl-C or SIGTERM.
async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

fn points() -> String {
    format!("Points of serve --crash-at: {}", failpoint::names())
}

/// A name that no other run has.
fn run_name() -> Result<String, Problem> {
    Ok(data_encoding::HEXLOWER.encode(&random_bytes::<8>()?))
}

fn warned(preflight: Preflight) -> Preflight {
    for warning in &preflight.warnings {
        eprintln!("warning: {warning}");
    }
    preflight
}

/// Makes the directory, which must be new or empty, and looks at what it lies on.
fn look_first(dir: &Path) -> Result<Preflight, Problem> {
    fs::create_dir_all(dir).map_err(|e| Problem(format!("{}: {e}", dir.display())))?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(Problem(format!("{} is not empty; choose a new directory on the disk to be tested", dir.display())));
    }
    Ok(warned(look(dir)?))
}

/// Makes the federation to be tested.
fn make(dir: &Path, replicas: u16) -> Result<Federation, Problem> {
    let random = u64::from_le_bytes(random_bytes::<8>()?);
    let base_port = quiet_base_port(replicas, random).ok_or_else(|| Problem(format!("no {replicas} consecutive UDP ports are free")))?;
    let made = make_federation(dir, replicas, &Network::loopback(base_port), parameters())?;
    prepare(dir, &made.federation)?;
    Ok(made.federation)
}

fn conclude(report: &CrashReport, json: bool) -> Answer {
    if json {
        print_json(report)?
    } else {
        print(report)?
    }
    match (report.verdict, &report.reason) {
        (Verdict::Clean, _) => Ok(true),
        (Verdict::Loss, _) => Ok(false),
        (Verdict::CouldNotTell, Some(reason)) => Err(Problem(format!("it could not be told: {reason}"))),
        (Verdict::CouldNotTell, None) => Err(Problem("it could not be told: no cycle was completed".into())),
    }
}

fn print(report: &CrashReport) -> Result<(), Problem> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    for (what, value) in rows(report) {
        table.add_row([what.to_owned(), value]);
    }
    print_line(&table.to_string())?;
    for finding in &report.findings {
        print_line(&format!("cycle {}: {:?}: {}", finding.cycle, finding.kind, finding.what))?;
    }
    print_line("not tested by this:")?;
    for what in report.not_tested {
        print_line(&format!("  - {what}"))?;
    }
    if let Some(kept) = &report.kept {
        let kept = kept.display();
        print_line(&format!("kept: {kept}"))?;
        if report.verdict != Verdict::Clean {
            print_line(&format!("  what was acknowledged      {kept}/acks.jsonl"))?;
            print_line(&format!("  what each replica logged   {kept}/replica-K.log"))?;
            print_line(&format!("  audit a replica's files    exofed audit {kept}/replica-K --genesis {kept}/federation.toml"))?;
            print_line(&format!("  replay as a start would    exofed recover {kept}/replica-K --check"))?;
        }
    }
    Ok(())
}

fn rows(report: &CrashReport) -> Vec<(&'static str, String)> {
    let medium = &report.preflight;
    let cache = medium.write_cache.as_deref().map_or_else(String::new, |cache| format!(", cache {cache}"));
    let verdict = match (report.verdict, report.interrupted) {
        (Verdict::Clean, false) => "clean",
        (Verdict::Clean, true) => "clean so far (interrupted)",
        (Verdict::Loss, _) => "LOSS",
        (Verdict::CouldNotTell, _) => "could not tell",
    };
    let restart = report.restart_ms.map_or_else(|| "-".to_owned(), |s| format!("p50 {} ms, p99 {} ms", s.p50, s.p99));
    let below = |bound: f64| match report.cycles {
        0..=3 => format!("no loss in {} cycles, too few to say more", report.cycles),
        cycles => format!("no loss in {cycles} cycles: a cycle loses with less than {:.2} % (at 95 %)", bound * 100.0),
    };
    let mut rows = vec![
        ("verdict", verdict.to_owned()),
        ("grade", report.grade.name().to_owned()),
        ("medium", format!("{} on {} ({}){cache}", medium.file_system, medium.device, medium.mount_options)),
        ("cycles, kills", format!("{}, {}", report.cycles, report.kills)),
        ("acknowledged", report.acked.to_string()),
        ("recovered", report.recovered.to_string()),
        ("lost, duplicated, forked", format!("{}, {}, {}", report.lost, report.duplicated, report.forked)),
        ("signed twice, other", format!("{}, {}", report.signed_twice, report.other_violations)),
        ("unanswered", report.unanswered.to_string()),
        ("torn tails cut", report.torn_tails_cut.to_string()),
        ("damage found, repaired", format!("{}, {}", report.damage_found, report.damage_repaired)),
        ("restart to ready", restart),
        ("sync of a page", format!("p50 {} us, p99 {} us", report.sync_us.p50, report.sync_us.p99)),
        ("confidence", report.loss_per_cycle_below.map_or_else(|| "none: something is wrong".to_owned(), below)),
        ("full check at the end", if report.full_check { "done" } else { "not done" }.to_owned()),
    ];
    if !report.failpoints.is_empty() {
        let points: Vec<String> = report.failpoints.iter().map(|(point, count)| format!("{point} {count}")).collect();
        rows.push(("died at", points.chunks(4).map(|some| some.join(", ")).collect::<Vec<_>>().join("\n")));
    }
    if let Some(seed) = report.seed {
        rows.push(("seed", seed.to_string()));
    }
    rows
}
