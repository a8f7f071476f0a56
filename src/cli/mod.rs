//! The command line: `exofed`.
//!
//! Answers go to stdout, progress and logs to stderr. With `--json` stdout holds exactly one JSON document, or one a line for streams. The exit
//! code is 0 only if what was asked is true.

mod audit;
mod backup;
mod bench;
mod checkpoint;
mod crash_test;
mod demo;
mod diff;
mod evidence;
mod export;
mod init;
mod log;
mod proof;
mod recover;
mod serve;
mod simulate;
mod status;
mod submit;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client::Client;
use crate::config::ClientFile;
use crate::error::FederationError;

/// What a command ends with: whether what was asked is true, or why it could not be told.
pub(crate) type Verdict = Result<bool, Problem>;

/// A message for the person at the terminal.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) String);

impl<E: std::error::Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A Byzantine-fault-tolerant, durable, replicated log with a proof for every entry.
///
/// Members of a federation who do not fully trust each other run one replica each. They agree on the order of updates, and anyone who holds the
/// federation's public genesis can check every entry offline. Start with: exofed demo
#[derive(Parser)]
#[command(name = "exofed", version, propagate_version = true, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Init(init::Init),
    Serve(serve::Serve),
    Submit(submit::Submit),
    Status(status::Status),
    #[command(subcommand)]
    Token(token::Token),
    Log(log::Log),
    Proof(proof::Proof),
    Verify(proof::Verify),
    Checkpoint(checkpoint::Checkpoint),
    #[command(subcommand)]
    Export(export::Export),
    Audit(audit::Audit),
    Diff(diff::Diff),
    #[command(subcommand)]
    Evidence(evidence::Evidence),
    Recover(recover::Recover),
    Simulate(simulate::Simulate),
    #[command(name = "crash-test")]
    CrashTest(crash_test::CrashTest),
    Bench(bench::Bench),
    Backup(backup::Backup),
    Restore(backup::Restore),
}

/// Where a client finds its federation and key.
#[derive(clap::Args, Clone)]
pub(crate) struct ClientArgs {
    /// The client's configuration, as `exofed init` writes it (client.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl ClientArgs {
    fn client(&self) -> Result<Client, FederationError> {
        ClientFile::load(&self.config).map(Client::new).map_err(|e| FederationError::Stopped(e.to_string()))
    }
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // What simulated replicas log is theirs.
    let usual = if matches!(arguments.command, Command::Simulate(_)) { "off" } else { "warn,exo_federation=info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("EXOFED_LOG").unwrap_or_else(|_| usual.into());
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).with_target(false).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("exofed: the runtime cannot be started: {error}");
            return ExitCode::from(3);
        }
    };
    let could_not_tell = if matches!(arguments.command, Command::CrashTest(_)) { crash_test::COULD_NOT_TELL } else { 3 };
    let verdict = runtime.block_on(dispatch(arguments.command));
    // The farewells of closed connections leave on the runtime's threads; without them each counts against its key for the idle timeout.
    std::thread::sleep(std::time::Duration::from_millis(5));
    // A read from a terminal may still be blocked; it must not keep the program alive.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    match verdict {
        Ok(code) => ExitCode::from(code),
        Err(Problem(message)) => {
            eprintln!("exofed: {message}");
            ExitCode::from(could_not_tell)
        }
    }
}

/// Runs a command; yields its exit code.
async fn dispatch(command: Command) -> Result<u8, Problem> {
    let verdict = match command {
        Command::Demo(demo) => demo.run().await,
        Command::Init(init) => init.run(),
        Command::Serve(serve) => serve.run().await,
        Command::Submit(submit) => submit.run().await,
        Command::Status(status) => status.run().await,
        Command::Token(token) => token.run(),
        Command::Log(log) => log.run().await,
        Command::Proof(proof) => proof.run().await,
        Command::Verify(verify) => verify.run(),
        Command::Checkpoint(checkpoint) => checkpoint.run().await,
        Command::Export(export) => export.run().await,
        Command::Audit(audit) => return audit.run().await,
        Command::Diff(diff) => return diff.run().await,
        Command::Evidence(evidence) => evidence.run().await,
        Command::Recover(recover) => recover.run(),
        Command::Simulate(simulate) => tokio::task::block_in_place(|| simulate.run()),
        Command::CrashTest(test) => test.run().await,
        Command::Bench(bench) => bench.run().await,
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
    };
    verdict.map(|held| u8::from(!held))
}

/// Prints a line to stdout; a closed pipe ends the program quietly, as `head` expects.
pub(crate) fn print_line(line: &str) -> Result<(), Problem> {
    use std::io::Write as _;
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// Prints one JSON document.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Problem> {
    print_line(&serde_json::to_string(value)?)
}
