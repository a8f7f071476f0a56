//! One replica as a child process of this program: started, awaited, killed. For commands that run whole federations.
//!
//! A child ends with its handle and, because its standard input closes, with this process, however that ends. This module may not know what the
//! replica is started for.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::failpoint::CrashAt;
use crate::recovery::RecoveryReport;

/// How long a replica may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What a replica says once it is ready: one JSON document, or one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) peer: String,
    pub(crate) address: String,
    /// Where its HTTP interface is, if it has one.
    pub(crate) http: Option<String>,
    pub(crate) recovery: RecoveryReport,
}

impl Ready {
    /// The line for people.
    pub(crate) fn line(&self) -> String {
        let RecoveryReport { log_head, replayed, millis, .. } = self.recovery;
        let http = self.http.as_ref().map_or_else(String::new, |url| format!(" ({url})"));
        format!("{} ready at {}{http}: log head {log_head}, {replayed} records replayed, recovered in {millis} ms", self.peer, self.address)
    }
}

/// Why a replica does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("{peer} could not be started: {error}")]
    Spawn { peer: String, error: io::Error },
    #[error("{peer} was not ready within {} s; see {}", .limit.as_secs(), .log.display())]
    Slow { peer: String, limit: Duration, log: PathBuf },
    #[error("{peer} ended before it was ready; see {}", .log.display())]
    Ended { peer: String, log: PathBuf },
    #[error("{peer} could not be killed: {error}")]
    Kill { peer: String, error: io::Error },
}

/// A replica that was started; killed when it is dropped.
pub(crate) struct Replica {
    pub(crate) peer: String,
    child: Child,
    /// What it said when it was ready.
    pub(crate) ready: Ready,
    /// How long that took, from before the process began.
    pub(crate) ready_after: Duration,
}

/// The name of a replica's directory in a federation's.
pub(crate) fn name(replica: usize) -> String {
    format!("replica-{replica}")
}

/// The file that takes what a replica logs.
pub(crate) fn log_of(dir: &Path, replica: usize) -> PathBuf {
    dir.join(format!("replica-{replica}.log"))
}

impl Replica {
    /// Starts a replica of the federation in `dir` and waits until it is ready.
    pub(crate) async fn start(dir: &Path, replica: usize) -> Result<Self, ProcessError> {
        let started = Self::launch(dir, replica, None).await?;
        started.ok_or_else(|| ProcessError::Ended { peer: name(replica), log: log_of(dir, replica) })
    }

    /// Starts a replica that kills itself where it is told to; `None` if it did so before it was ready.
    pub(crate) async fn start_armed(dir: &Path, replica: usize, crash_at: CrashAt) -> Result<Option<Self>, ProcessError> {
        Self::launch(dir, replica, Some(crash_at)).await
    }

    async fn launch(dir: &Path, replica: usize, crash_at: Option<CrashAt>) -> Result<Option<Self>, ProcessError> {
        let (peer, log) = (name(replica), log_of(dir, replica));
        let spawn = || {
            let errors = OpenOptions::new().create(true).append(true).open(&log)?;
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("serve").arg("--config").arg(dir.join(&peer).join("replica.toml")).args(["--until-stdin-ends", "--json"]);
            if let Some(crash_at) = crash_at {
                command.arg("--crash-at").arg(crash_at.to_string());
            }
            // Ctrl-C is for the command that runs the federation; it ends its replicas itself.
            command.process_group(0);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true).spawn()
        };
        let began = Instant::now();
        let spawn_error = |error| ProcessError::Spawn { peer: peer.clone(), error };
        let mut child = spawn().map_err(spawn_error)?;
        let stdout = child.stdout.take().ok_or_else(|| spawn_error(io::Error::from(io::ErrorKind::BrokenPipe)))?;
        let mut lines = BufReader::new(stdout).lines();
        let Ok(line) = tokio::time::timeout(READY_LIMIT, lines.next_line()).await else {
            return Err(ProcessError::Slow { peer, limit: READY_LIMIT, log });
        };
        let ready = line.ok().flatten().and_then(|line| serde_json::from_str::<Ready>(&line).ok());
        match ready {
            Some(ready) => Ok(Some(Self { peer, child, ready, ready_after: began.elapsed() })),
            None if crash_at.is_some() && was_killed(&mut child).await => Ok(None),
            None => Err(ProcessError::Ended { peer, log }),
        }
    }

    /// Its process id; `None` once its end was awaited.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends SIGKILL without waiting for the end, so that several replicas can die in one moment.
    pub(crate) fn send_kill(&mut self) -> Result<(), ProcessError> {
        match self.child.start_kill() {
            // It is dead already.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            sent => sent.map_err(|error| ProcessError::Kill { peer: self.peer.clone(), error }),
        }
    }

    /// Waits for the end of a replica that is to die; says whether it was by SIGKILL.
    pub(crate) async fn died(&mut self) -> bool {
        was_killed(&mut self.child).await
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Closes its standard input, so that it stops in order.
    pub(crate) fn ask_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end of a replica that was asked to stop; says whether it ended in order.
    pub(crate) async fn stopped(&mut self) -> bool {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await;
        matches!(ended, Ok(Ok(status)) if status.success())
    }
}

async fn was_killed(child: &mut Child) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    child.wait().await.is_ok_and(|status| status.signal() == Some(rustix::process::Signal::KILL.as_raw()))
}
