//! `exofed demo`: a whole federation on this machine, with kills.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::init::{Network, make_federation};
use super::submit::{Fate, Parsed, Pipeline, open};
use super::{Problem, Verdict, print_json, print_line};
use crate::audit::{AuditReport, audit};
use crate::client::Client;
use crate::config::{ClientFile, FederationFile};
use crate::process::Replica;
use crate::types::{Parameters, ReplicaStatus, Role, StateUpdate, UpdateId};

/// The records that a demo submits unless it is given others.
const SAMPLE: &str = include_str!("../../examples/sample.jsonl");

/// Run a whole federation on this machine, kill its replicas, and audit what is left.
///
/// Starts the replicas as processes of its own (QUIC on loopback, free ports, real keys, data under --dir), submits records, kills a follower and
/// later the leader with SIGKILL while updates keep flowing, restarts both, waits until all logs agree, audits every data directory offline and
/// prints what happened. Without --exit it then stays up. Ctrl-C ends every process it started. Exit code 0 only if nothing was lost.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// How many replicas; at least 4.
    #[arg(long, default_value_t = 4)]
    replicas: u16,
    /// How many updates to submit at least; the records are repeated, under new ids, until there are so many.
    #[arg(long, default_value_t = 3_000)]
    updates: usize,
    /// JSON lines to submit, or - for standard input; a bundled sample if not given.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where to keep the federation; must be new. A temporary directory, removed at the end, if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// End after the report.
    #[arg(long)]
    exit: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Small submissions, so that many are in flight when a replica dies.
const UPDATES_PER_SUBMISSION: usize = 8;

/// A kill, and what the replica's next start said.
struct Kill {
    replica: usize,
    role: &'static str,
    replayed: u64,
    millis: u64,
}

impl Demo {
    pub(crate) async fn run(self) -> Verdict {
        // Ctrl-C drops the future, and with it every child. After the report it is the expected end.
        let reported = Cell::new(None);
        tokio::select! {
            verdict = self.play(&reported) => verdict,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("\nexofed: interrupted; every replica is stopped");
                Ok(reported.get().unwrap_or(false))
            }
        }
    }

    async fn play(&self, reported: &Cell<Option<bool>>) -> Verdict {
        let temporary = if self.dir.is_none() { Some(tempfile::tempdir()?) } else { None };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(temporary)) => temporary.path().join("federation"),
            (None, None) => return Err(Problem("no directory".into())),
        };
        let made = make_federation(&dir, self.replicas, &Network { gateway: true, ..Network::loopback(0) }, Parameters::default())?;
        eprintln!("federation {} of {} replicas in {}", made.federation.id(), self.replicas, dir.display());
        let mut stage = Stage { dir: dir.clone(), processes: Vec::new(), kills: Vec::new() };
        for replica in 0..usize::from(self.replicas) {
            stage.processes.push(Some(stage.start(replica).await?));
        }
        let client = Arc::new(Client::new(ClientFile::load(&dir.join("client.toml"))?));
        let updates = self.updates().await?;
        let submitted = updates.len();
        let started = Instant::now();
        let fates = stage.submit_and_kill(&client, updates).await?;
        let seconds = started.elapsed().as_secs_f64();
        let statuses = stage.settle(&client, &fates).await?;
        // Audits are offline: of stopped replicas everything is compared, the sled log too.
        stage.stop_all().await;
        eprintln!("  stopped every replica; auditing their files");
        let audits = stage.audit_all(&dir)?;
        let outcome = Outcome { submitted, seconds, fates, statuses, audits, kills: std::mem::take(&mut stage.kills), n: usize::from(self.replicas) };
        let good = outcome.good();
        if self.json {
            outcome.print_json(&client, self.replicas)?
        } else {
            outcome.print(&client)?
        }
        reported.set(Some(good));
        if !self.exit {
            for replica in 0..usize::from(self.replicas) {
                stage.restart(replica).await?;
            }
            let d = dir.display();
            eprintln!("\nthe federation is still running; talk to it from another terminal:");
            if let Some(url) = stage.processes.iter().flatten().find_map(|process| process.ready.http.as_ref()) {
                eprintln!("  {url}/ in a browser, or with curl (docs/http-api.md)");
            }
            eprintln!("  exofed status --config {d}/client.toml");
            eprintln!("  echo '{{\"data\":\"hello\"}}' | exofed submit --config {d}/client.toml");
            eprintln!("  exofed log --config {d}/client.toml --follow");
            eprintln!("Ctrl-C ends it.");
            std::future::pending::<()>().await;
        }
        Ok(good)
    }

    /// The updates to submit: the input's, repeated under new ids until there are enough.
    async fn updates(&self) -> Result<Vec<StateUpdate>, Problem> {
        let mut records = Vec::new();
        let mut lines = match &self.input {
            Some(path) => open(path).await?,
            None => {
                let sample = tempfile::NamedTempFile::new()?;
                std::fs::write(sample.path(), SAMPLE)?;
                open(sample.path()).await?
            }
        };
        while let Some(line) = lines.recv().await {
            records.push(line.map_err(|(_, reason): (Option<String>, String)| Problem(reason))?);
        }
        if records.is_empty() {
            return Err(Problem("there is no record to submit".into()));
        }
        let count = self.updates.max(records.len());
        let repeated = records.iter().cycle().take(count).enumerate();
        Ok(repeated
            .map(|(i, record)| match i / records.len() {
                0 => record.clone(),
                round => StateUpdate { update_id: UpdateId(format!("{}#{round}", record.update_id)), ..record.clone() },
            })
            .collect())
    }
}

/// The running federation.
struct Stage {
    dir: PathBuf,
    processes: Vec<Option<Replica>>,
    kills: Vec<Kill>,
}

impl Stage {
    /// Starts a replica and waits until it is ready.
    async fn start(&self, replica: usize) -> Result<Replica, Problem> {
        let process = Replica::start(&self.dir, replica).await?;
        eprintln!("  {}", process.ready.line());
        Ok(process)
    }

    /// SIGKILL.
    async fn kill(&mut self, replica: usize, role: &'static str) -> Result<(), Problem> {
        if let Some(Some(mut process)) = self.processes.get_mut(replica).map(Option::take) {
            process.send_kill()?;
            process.died().await;
            eprintln!("  killed {} ({role}) with SIGKILL", process.peer);
            self.kills.push(Kill { replica, role, replayed: 0, millis: 0 });
        }
        Ok(())
    }

    async fn restart(&mut self, replica: usize) -> Result<(), Problem> {
        let process = self.start(replica).await?;
        if let Some(place) = self.processes.get_mut(replica) {
            *place = Some(process);
        }
        Ok(())
    }

    /// Submits everything; at a fifth of it a follower dies, at two fifths it comes back, at three fifths the leader dies, at four it comes back.
    async fn submit_and_kill(&mut self, client: &Arc<Client>, updates: Vec<StateUpdate>) -> Result<Vec<Fate>, Problem> {
        let total = updates.len();
        let mut pipeline = Pipeline::new(client.clone());
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {pos} of {len} committed, {per_sec}") {
            bar.set_style(style);
        }
        let (mut fates, mut act) = (Vec::new(), 0);
        let mut waiting = updates.into_iter().map(Ok::<_, (Option<String>, String)>).peekable();
        while waiting.peek().is_some() {
            let part: Vec<Parsed> = waiting.by_ref().take(UPDATES_PER_SUBMISSION).collect();
            fates.extend(pipeline.push(part).await?);
            bar.set_position(fates.len() as u64);
            if fates.len() * 5 >= total * (act + 1) && act < 4 {
                // More is in flight: the kill hits a federation at work.
                bar.suspend(|| self.act(client, act)).await?;
                act += 1;
            }
        }
        fates.extend(pipeline.drain().await?);
        bar.finish_and_clear();
        for late in act..4 {
            self.act(client, late).await?;
        }
        Ok(fates)
    }

    async fn act(&mut self, client: &Client, act: usize) -> Result<(), Problem> {
        match act {
            0 => {
                let leader = leader(client).await;
                let n = self.processes.len();
                self.kill((leader + 1) % n, "follower").await
            }
            2 => {
                let leader = leader(client).await;
                self.kill(leader, "leader").await
            }
            _ => match self.kills.last().map(|k| k.replica) {
                Some(replica) => self.restart(replica).await,
                None => Ok(()),
            },
        }
    }

    /// Waits until every replica has every committed update and all logs agree.
    async fn settle(&mut self, client: &Client, fates: &[Fate]) -> Result<Vec<ReplicaStatus>, Problem> {
        let newest = fates.iter().filter_map(|f| f.sequence).max().unwrap_or(0);
        let until = Instant::now() + Duration::from_secs(60);
        eprintln!("  waiting until all logs agree at sequence {newest} or later");
        loop {
            let answers = client.status().await;
            let statuses: Vec<ReplicaStatus> = answers.into_iter().flatten().collect();
            let agree = statuses.windows(2).all(|s| s[0].sequence == s[1].sequence && s[0].log_root == s[1].log_root);
            if statuses.len() == self.processes.len() && agree && statuses.iter().all(|s| s.sequence >= newest) {
                for kill in &mut self.kills {
                    if let Some(status) = statuses.get(kill.replica) {
                        (kill.replayed, kill.millis) = (status.replayed, status.recovery_millis);
                    }
                }
                return Ok(statuses);
            }
            if Instant::now() > until {
                let heads: Vec<String> = statuses.iter().map(|s| format!("{} at {}", s.peer, s.sequence)).collect();
                return Err(Problem(format!("the logs did not come together within 60 s: {}", heads.join(", "))));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Audits every data directory offline, from the files alone.
    fn audit_all(&self, dir: &Path) -> Result<Vec<AuditReport>, Problem> {
        let federation = FederationFile::read_genesis(&dir.join("federation.toml"))?;
        let audit_one = |replica: usize| audit(&dir.join(format!("replica-{replica}")).join("data"), &federation, |_| {});
        (0..self.processes.len()).map(|replica| Ok(audit_one(replica)?)).collect()
    }

    /// Closes every replica's standard input, so that it stops in order, and waits.
    async fn stop_all(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            process.ask_to_stop();
        }
        for process in self.processes.iter_mut().flatten() {
            process.stopped().await;
        }
    }
}

/// Who leads the highest view that anyone is in.
async fn leader(client: &Client) -> usize {
    let statuses = client.status().await;
    let views = statuses.iter().flatten().filter(|s| s.role != Role::Changing).map(|s| s.view);
    usize::from(client.federation().leader(views.max().unwrap_or(0)))
}

/// Everything that a demo has to tell.
struct Outcome {
    submitted: usize,
    seconds: f64,
    fates: Vec<Fate>,
    statuses: Vec<ReplicaStatus>,
    audits: Vec<AuditReport>,
    kills: Vec<Kill>,
    n: usize,
}

impl Outcome {
    fn committed(&self) -> usize {
        self.fates.iter().filter(|f| f.status == "committed").count()
    }

    /// Updates answered `committed` that some log does not hold. Every log was audited to its end, and each proof names its place.
    fn lost(&self) -> usize {
        let shortest = self.audits.iter().map(|a| a.head).min().unwrap_or(0);
        self.fates.iter().filter(|f| f.status == "committed" && f.sequence.is_none_or(|s| s > shortest)).count()
    }

    fn view_changes(&self) -> u64 {
        self.statuses.iter().map(|s| s.view).max().unwrap_or(0)
    }

    fn clean(&self) -> bool {
        let same_root = self.audits.windows(2).all(|a| a[0].log_root == a[1].log_root);
        self.audits.len() == self.n && self.audits.iter().all(|a| a.clean) && same_root
    }

    fn signatures(&self) -> u64 {
        self.audits.iter().map(|a| a.signatures).sum()
    }

    fn good(&self) -> bool {
        self.lost() == 0 && self.committed() == self.submitted && self.clean() && self.kills.len() == 2 && self.view_changes() > 0
    }

    fn print_json(&self, client: &Client, replicas: u16) -> Result<(), Problem> {
        let peer = |k: &Kill| client.federation().members().get(k.replica).map(|m| m.peer.clone());
        let kills: Vec<_> = self.kills.iter().map(|k| json!({ "peer": peer(k), "role": k.role })).collect();
        let recovered: Vec<_> = self.kills.iter().map(|k| json!({ "peer": peer(k), "replayed": k.replayed, "millis": k.millis })).collect();
        let entries = self.audits.iter().map(|a| a.entries).min().unwrap_or(0);
        print_json(&json!({
            "replicas": replicas, "submitted": self.submitted, "committed": self.committed(), "lost": self.lost(),
            "view_changes": self.view_changes(), "kills": kills, "recovered": recovered,
            "audit": { "clean": self.clean(), "entries": entries, "signatures": self.signatures() },
        }))
    }

    fn print(&self, client: &Client) -> Result<(), Problem> {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        let mut row = |what: &str, value: String| {
            table.add_row([what.to_owned(), value]);
        };
        row("updates committed", format!("{} of {} in {:.1} s", self.committed(), self.submitted, self.seconds));
        for kill in &self.kills {
            let peer = client.federation().members().get(kill.replica).map_or_else(String::new, |m| m.peer.to_string());
            row(&format!("{} killed", kill.role), format!("{peer}: replayed {} records in {} ms", kill.replayed, kill.millis));
        }
        row("view changes", self.view_changes().to_string());
        let verdict = if self.clean() { "clean" } else { "NOT clean" };
        row("offline audits", format!("{} of {} replicas {verdict}", self.audits.iter().filter(|a| a.clean).count(), self.n));
        row("signatures checked", self.signatures().to_string());
        row("log root", self.audits.first().map_or_else(String::new, |a| a.log_root.to_string()));
        row("lost", if self.lost() == 0 { "nothing".to_owned() } else { self.lost().to_string() });
        print_line(&table.to_string())?;
        for bad in self.audits.iter().filter_map(|a| a.first_bad.as_ref()) {
            print_line(&format!("slot {} sequence {}: {}: expected {}, found {}", bad.slot, bad.sequence, bad.rule, bad.expected, bad.found))?;
        }
        Ok(())
    }
}
