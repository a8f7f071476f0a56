//! `exofed serve`: one replica in the foreground.

use std::path::PathBuf;

use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Problem, Verdict, print_json, print_line};
use crate::api::ApiServer;
use crate::config::{HttpConfig, ReplicaFile, read_toml};
use crate::error::FederationError;
use crate::failpoint::{self, CrashAt};
use crate::journal::JournalError;
use crate::node::Node;
use crate::process::Ready;
use crate::recovery::RecoveryError;
use crate::store::StoreError;

/// Run one replica in the foreground.
///
/// Recovers from its data directory, prints a line when it is ready, and stops in order on SIGTERM or Ctrl-C. Logs go to stderr; set EXOFED_LOG
/// (for example EXOFED_LOG=debug) for more.
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// The replica's configuration, as `exofed init` writes it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop when standard input ends: for a parent that must not leave replicas behind.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
    /// Print the line that says it is ready as one JSON document.
    #[arg(long)]
    json: bool,
    /// Kill this process with SIGKILL when it passes a point for the COUNT-th time: for `exofed crash-test`, whose help says more.
    #[arg(long, value_name = "POINT:COUNT", hide = true)]
    crash_at: Option<CrashAt>,
}

impl Serve {
    pub(crate) async fn run(self) -> Verdict {
        let config = ReplicaFile::load(&self.config)?;
        let http = HttpConfig::load(&self.config)?;
        let peer = config.federation.peer(config.me).cloned();
        let peer = peer.map_or_else(String::new, |p| p.to_string());
        if let Some(crash_at) = self.crash_at {
            failpoint::arm(crash_at);
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let node = Node::start(config, None).await.map_err(|error| self.refused(&error))?;
        let report = node.report();
        if report.cut > 0 {
            tracing::info!("cut: {} pages and rows of a write that was never acknowledged", report.cut);
        }
        report.damaged.iter().for_each(|damaged| tracing::warn!("found damaged: {damaged}"));
        report.repaired.iter().for_each(|repaired| tracing::warn!("repaired: {repaired}"));
        if let Some(reason) = &report.suspect {
            tracing::error!("suspect: this replica serves what it has and does not vote: {reason}");
        }
        // Its address is announced before the replica says that it is ready.
        let api = match http {
            Some(http) => match ApiServer::start(node.handle(), http).await {
                Ok(api) => Some(api),
                Err(error) => {
                    node.stop().await?;
                    return Err(error.into());
                }
            },
            None => None,
        };
        let http = api.as_ref().map(|api| api.url().to_owned());
        let ready = Ready { peer: peer.clone(), address: node.local_addr().to_string(), http, recovery: node.report().clone() };
        if self.json {
            print_json(&ready)?
        } else {
            print_line(&ready.line())?
        }
        let failed = tokio::select! {
            reason = node.failed() => Some(reason),
            _ = terminate.recv() => None,
            _ = tokio::signal::ctrl_c() => None,
            () = stdin_ends(self.until_stdin_ends) => None,
        };
        if let Some(reason) = &failed {
            tracing::error!("{peer} stops: {reason}");
        }
        if let Some(api) = api {
            api.stop().await;
        }
        node.stop().await?;
        Ok(failed.is_none())
    }
}

impl Serve {
    /// What to do where there is something to do. Data of another federation may mean that the genesis is not the right one: both are named.
    fn refused(&self, error: &FederationError) -> Problem {
        if let FederationError::Recovery(RecoveryError::Journal { error: JournalError::NotFound { .. }, .. }) = error {
            return Problem(format!("{error}; if its disk was lost: exofed recover DIR --new-disk, or exofed restore BACKUP --to DIR"));
        }
        let other = matches!(
            error,
            FederationError::Recovery(
                RecoveryError::Journal { error: JournalError::OtherFederation { .. }, .. }
                    | RecoveryError::Store { error: StoreError::OtherFederation { .. }, .. }
            )
        );
        let genesis = read_toml::<ReplicaFile>(&self.config).ok().filter(|_| other).map(|file| file.genesis);
        Problem(genesis.map_or_else(
            || error.to_string(),
            |genesis| format!("{error}; the genesis, {}, is not that of this data, or is damaged", genesis.display()),
        ))
    }
}

async fn stdin_ends(wanted: bool) {
    if !wanted {
        std::future::pending::<()>().await;
    }
    let mut sink = [0; 256];
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut sink).await.is_ok_and(|read| read > 0) {}
}
