//! `exofed audit`: whole histories against the public genesis, and who lied.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Problem, print_json, print_line};
use crate::audit::{self, AuditOptions, AuditReport, Finding, Follow, FollowEvent, Level, OldProofs, Progress, Summary, data_dir};
use crate::client::Client;
use crate::config::{ClientFile, FederationFile, ReplicaFile, read_toml};
use crate::types::{Federation, Sequence, TimestampMs};

/// Check whole histories against the public genesis, without changing a byte, and name who lied.
///
/// A target is a replica's directory (of a running replica too), a backup, or a client's configuration (client.toml) for a live federation, whose
/// replicas are asked and not believed. By default everything is checked: pages and records, the chain, every log root, every quorum's and every
/// author's signature; of a stopped replica also that its sled log, Merkle files and index rows say the same. What was not checked is always
/// listed. The audit goes on after an error. Several targets are compared with each other: two committed histories convict who signed both.
///
/// Exit code 0 clean, 1 damage, 2 a conviction (somebody signed what no correct replica signs, or the history is not the one proved before), 3 incomplete.
#[derive(clap::Args)]
pub(crate) struct Audit {
    /// A replica's directory (DIR/replica-K), a data directory, a backup, or a client.toml.
    #[arg(required = true)]
    targets: Vec<PathBuf>,
    /// The federation's public genesis (federation.toml).
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// How deep: structure, chain, merkle, quorum or content; each includes those before it.
    #[arg(long, default_value_t = Level::Content)]
    level: Level,
    /// Check signatures from this sequence number on; what is before it is linked and hashed only.
    #[arg(long, value_name = "N")]
    from: Option<Sequence>,
    /// Stop behind this sequence number.
    #[arg(long, value_name = "M")]
    to: Option<Sequence>,
    /// As --from, by the batches' time: ms since the Unix epoch, or as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<TimestampMs>,
    /// As --to, by the batches' time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<TimestampMs>,
    /// A directory of proofs handed out earlier: each must still be in the history.
    #[arg(long, value_name = "DIR")]
    old_proofs: Option<PathBuf>,
    /// Keep the audit's state in this file: an interrupted audit goes on there, and a later one checks what is new. One target only.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Keep watching a live federation: verify what it commits, and raise an alarm on a fork, a rollback or a stall. Ends at Ctrl-C with the report.
    #[arg(long)]
    follow: bool,
    /// With --follow: how long nothing may be committed while submissions wait, s.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "follow")]
    stall_after: u64,
    /// Also write the report as one self-contained HTML page.
    #[arg(long, value_name = "OUT.html")]
    report: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<TimestampMs, String> {
    if let Ok(millis) = text.parse() {
        return Ok(millis);
    }
    let at = humantime::parse_rfc3339_weak(text).map_err(|e| format!("{e}; give ms since the Unix epoch, or as 2026-01-31T12:00:00Z"))?;
    let since = at.duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
    u64::try_from(since.as_millis()).map_err(|e| e.to_string())
}

impl Audit {
    /// Yields the exit code.
    pub(crate) async fn run(self) -> Result<u8, Problem> {
        let federation = FederationFile::read_genesis(&self.genesis)?;
        let summary = self.audit(&federation).await?;
        if let Some(path) = &self.report {
            fs::write(path, summary.to_html(&federation)).map_err(|e| Problem(format!("{}: {e}", path.display())))?;
            eprintln!("wrote {}", path.display());
        }
        if self.json {
            print_json(&summary)?;
        } else {
            show(&summary)?;
        }
        Ok(summary.exit_code)
    }

    async fn audit(&self, federation: &Federation) -> Result<Summary, Problem> {
        if self.resume.is_some() && self.targets.len() > 1 {
            return Err(Problem("--resume keeps the state of one target; audit several one by one, or without it".into()));
        }
        if self.follow && (self.targets.len() > 1 || !self.targets.iter().all(|target| target.is_file())) {
            return Err(Problem("--follow watches one live federation: give its client.toml alone".into()));
        }
        let mut audit = audit::Audit::new(federation, self.options(federation)?);
        let stop = audit.stop_switch();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                eprintln!("stopping; what was checked so far is reported (once more to end at once)");
                stop.store(true, Ordering::Relaxed);
            }
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(3);
            }
        });
        for target in &self.targets {
            let name = target.display().to_string();
            let bar = bar(&name);
            let mut progress = |now: Progress| {
                bar.set_length(now.total);
                bar.set_position(now.done);
                bar.set_message(format!("{} entries, {:.0}/s", now.entries, now.entries as f64 / bar.elapsed().as_secs_f64().max(1e-9)));
            };
            if target.is_file() {
                let client = Client::new(ClientFile::load(target).map_err(|e| Problem(e.to_string()))?);
                if client.federation().id() != federation.id() {
                    let (theirs, ours) = (client.federation().id(), federation.id());
                    return Err(Problem(format!("{name} is for federation {theirs}, {} is of {ours}", self.genesis.display())));
                }
                let mut events = |event: FollowEvent<'_>| {
                    bar.finish_and_clear();
                    self.tell(&event);
                };
                let follow = self.follow.then_some(Follow { stall_after: Duration::from_secs(self.stall_after), events: &mut events });
                audit.live(&name, &client, &mut progress, follow).await?;
            } else {
                let data = data_dir(target);
                tokio::task::block_in_place(|| audit.directory(&name, &data, &mut progress))?;
                if let Some(report) = audit.last() {
                    check_configuration(target, report);
                }
            }
            bar.finish_and_clear();
        }
        Ok(audit.finish())
    }

    /// One line an event: on stdout, because it is what was asked for.
    fn tell(&self, event: &FollowEvent<'_>) {
        let line = match event {
            _ if self.json => serde_json::to_string(event).unwrap_or_default(),
            FollowEvent::Verified { sequence, slot, log_root } => format!("verified up to sequence {sequence} (slot {slot}), log root {log_root}"),
            FollowEvent::Alarm(Finding { place, slot, rule, expected, found, .. }) => {
                format!("ALARM {rule}: {place}, slot {slot}: expected {expected}, found {found}")
            }
            FollowEvent::Convicted(conviction) => format!("ALARM evidence: {conviction}"),
            FollowEvent::Stalled { pending, seconds } => {
                format!("ALARM stall: {pending} submissions wait, and nothing was committed for {seconds} s; ask exofed status")
            }
            FollowEvent::Silent(error) => format!("ALARM silence: no replica answers: {error}"),
        };
        // A closed pipe ends the program; any other error has nobody to be told to.
        let _ = print_line(&line);
    }

    fn options(&self, federation: &Federation) -> Result<AuditOptions, Problem> {
        let old_proofs = match &self.old_proofs {
            Some(dir) => OldProofs::read(dir, federation).map_err(|e| Problem(format!("{}: {e}", dir.display())))?,
            None => OldProofs::default(),
        };
        if let Some(dir) = self.old_proofs.as_ref().filter(|_| old_proofs.count == 0) {
            let refused = old_proofs.refused.first().map_or_else(String::new, |first| format!("; the first file: {first}"));
            return Err(Problem(format!("{} holds no proof of this federation{refused}", dir.display())));
        }
        let range = audit::Range { from: self.from, to: self.to, since: self.since, until: self.until };
        Ok(AuditOptions { level: self.level, range, old_proofs, resume: self.resume.clone() })
    }
}

fn bar(target: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {percent}%, {msg}, {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_prefix(target.to_owned())
}

/// The files beside the data, when a whole replica directory is given.
fn check_configuration(target: &Path, report: &mut AuditReport) {
    let path = target.join("replica.toml");
    if !path.exists() {
        return;
    }
    match ReplicaFile::load(&path) {
        Ok(config) => {
            // A start reads the directory that is configured; another one, however clean, says nothing of it.
            let (audited, configured) = (data_dir(target), config.data.0);
            let same = fs::canonicalize(&audited).ok().is_some_and(|a| fs::canonicalize(&configured).is_ok_and(|c| a == c));
            if !same {
                report.found("configuration", &audited.display().to_string(), &configured.display().to_string());
            }
        }
        Err(error) => {
            // A genesis that moved is no damage to the replica; what it names itself is.
            let rule = if read_toml::<ReplicaFile>(&path).is_err() { "configuration" } else { "secret" };
            report.found(rule, "a configuration and secret that fit the genesis", &error.to_string());
        }
    }
}

fn show(summary: &Summary) -> Result<(), Problem> {
    let verdict = match summary.exit_code {
        0 => "clean",
        1 => "NOT clean",
        2 => "CONVICTED",
        _ => "INCOMPLETE",
    };
    let Summary { entries, batches, signatures, entries_per_second, .. } = summary;
    print_line(&format!(
        "{verdict}: {entries} entries in {batches} batches, {signatures} signatures checked, {entries_per_second} entries a second"
    ))?;
    for target in &summary.targets {
        print_line(&format!("{}: log root {} at sequence {}", target.target, target.log_root, target.head))?;
        if target.old_proofs_held > 0 {
            print_line(&format!("  {} of the proofs handed out earlier are in it", target.old_proofs_held))?;
        }
        if target.behind_log > 0 {
            let behind = target.behind_log;
            print_line(&format!("  {behind} batches of the log lie beyond the journal's last certificate; the next start completes it"))?;
        }
    }
    for found in summary.convictions() {
        print_line(&format!("convicted: {}", found.conviction))?;
    }
    summary.findings.iter().take(20).try_for_each(show_finding)?;
    if summary.bad > 20 {
        print_line(&format!("  and {} more; --json has up to a thousand of each target", summary.bad - 20))?;
    }
    for range in summary.bad_ranges.iter().take(20) {
        let rules: Vec<&str> = range.rules.iter().map(String::as_str).collect();
        print_line(&format!("  bad: sequences {} to {} ({})", range.from, range.to, rules.join(", ")))?;
    }
    for damage in &summary.made_good {
        print_line(&format!("  made good: {damage}; its batches are in the journal again"))?;
    }
    summary.not_checked.iter().try_for_each(|what| print_line(&format!("  not checked: {what}")))
}

fn show_finding(bad: &Finding) -> Result<(), Problem> {
    let Finding { place, slot, sequence, rule, expected, found, .. } = bad;
    let at = if *slot > 0 { format!(" slot {slot} sequence {sequence}:") } else { String::new() };
    print_line(&format!("  {place}:{at} {rule}: expected {expected}, found {found}"))?;
    print_line(&format!("    {}; {}", bad.meaning, bad.remedy))
}
