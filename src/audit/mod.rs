//! The audit of a federation's history, against the public genesis alone.
//!
//! A target is a replica's data directory (of a running replica too), a backup, or a live federation. The segments of a directory hold the whole
//! history; they are read without a lock and without changing a byte. Of a stopped replica the log is compared as well, in a private copy, because
//! opening it would write. An audit goes on after an error and names every bad range. Several targets are compared with each other, and all of
//! them with proofs handed out earlier: two committed histories convict who signed both.

mod diff;
mod directory;
mod examiner;
mod ledger;
mod live;
mod old_proofs;
mod options;
mod page;
mod plot;
mod published;
mod report;
mod rules;
mod state;
mod statistics;
mod summary;
mod testimony;

pub(crate) use directory::given_back;

pub use diff::{Comparison, Difference, End, Side, Which, diff};
pub use live::FollowEvent;
pub use old_proofs::OldProofs;
pub use options::{AuditOptions, Level, Range};
pub use report::{AuditReport, BadRange, Finding};
pub use rules::{CONVICTING, explain};
pub use state::{AuditState, STATE_FORMAT};
pub use statistics::{AuthorShare, Pause, ReplicaShare, Statistics, Timeline, ViewSpan};
pub use summary::Summary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use directory::{Directory, certificate_at};
use examiner::{Examiner, Fork};
use ledger::Ledger;
use live::Live;
use testimony::Testimony;

use crate::client::Client;
use crate::config::{ReplicaFile, read_toml};
use crate::error::FederationError;
use crate::journal::{JournalOptions, JournalReader};
use crate::types::{CommitCertificate, Federation};

/// Why an audit cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A journal that cannot be opened, or a federation of which no replica answers.
    #[error(transparent)]
    Target(#[from] FederationError),
    /// A state file that cannot be used.
    #[error("{}: {problem}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// How far an audit is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Updates checked.
    pub entries: u64,
    /// How far, of `total`: bytes of a journal, entries of a live federation.
    pub done: u64,
    /// All there is.
    pub total: u64,
}

/// That a live federation is followed once its history is read, until the audit is stopped.
pub struct Follow<'a> {
    /// How long nothing may be committed while something waits.
    pub stall_after: Duration,
    /// Is told what happens.
    pub events: &'a mut dyn FnMut(FollowEvent<'_>),
}

/// An audit of one or several targets of one federation.
pub struct Audit<'f> {
    federation: &'f Federation,
    options: AuditOptions,
    stop: Arc<AtomicBool>,
    began: Instant,
    ledger: Ledger,
    testimony: Testimony,
    targets: Vec<Option<PathBuf>>,
    reports: Vec<AuditReport>,
}

impl<'f> Audit<'f> {
    /// Begins an audit.
    #[must_use]
    pub fn new(federation: &'f Federation, options: AuditOptions) -> Self {
        let (stop, began) = (Arc::default(), Instant::now());
        Self { federation, options, stop, began, ledger: Ledger::default(), testimony: Testimony::default(), targets: vec![], reports: vec![] }
    }

    /// Set to true, it ends the audit soon; the report then says that it is incomplete.
    #[must_use]
    pub fn stop_switch(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Audits a data directory.
    ///
    /// # Errors
    /// Only if there is no journal to audit; everything else is in the report.
    pub fn directory(&mut self, name: &str, data: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(), AuditError> {
        let began = Instant::now();
        let reader = self.reader(data)?;
        let state = self.earlier()?;
        let mut examiner = Examiner::new(self.federation, &self.options, &mut self.ledger, self.targets.len(), name);
        state.iter().for_each(|state| examiner.resume(state));
        let examiner =
            Directory::new(examiner, data, reader, &mut self.testimony, &self.stop, progress).audit(data).map_err(FederationError::from)?;
        let ended = examiner.finish();
        self.add(Some(data.to_owned()), ended, began);
        Ok(())
    }

    /// Audits a live federation: its whole history from whichever replica gives it, and the end of every other replica's log against that.
    ///
    /// # Errors
    /// If no replica answers, or the state file cannot be used.
    pub async fn live(
        &mut self,
        name: &str,
        client: &Client,
        progress: &mut dyn FnMut(Progress),
        follow: Option<Follow<'_>>,
    ) -> Result<(), AuditError> {
        let began = Instant::now();
        let state = self.earlier()?;
        let mut examiner = Examiner::new(self.federation, &self.options, &mut self.ledger, self.targets.len(), name);
        state.iter().for_each(|state| examiner.resume(state));
        let mut live = Live::new(examiner, client, &self.stop);
        live.see_earlier().await;
        live.catch_up(Duration::ZERO, progress).await?;
        live.compare_ends().await;
        live.hear_evidence().await;
        live.examiner.report.complete = !self.stop.load(Ordering::Relaxed);
        if let Some(Follow { stall_after, events }) = follow {
            live.follow(stall_after, events).await;
        }
        let ended = live.examiner.finish();
        self.add(None, ended, began);
        Ok(())
    }

    fn earlier(&self) -> Result<Option<AuditState>, AuditError> {
        let path = self.options.resume.as_ref();
        path.map_or(Ok(None), |path| AuditState::read(path, self.federation, self.options.level))
    }

    fn add(&mut self, data: Option<PathBuf>, (mut report, fork): (AuditReport, Option<(Fork, CommitCertificate)>), began: Instant) {
        self.targets.push(data);
        if let Some((fork, certificate)) = fork {
            self.judge_fork(&mut report, fork, &certificate);
        }
        report.seconds = began.elapsed().as_secs_f64();
        report.entries_per_second = (report.entries as f64 / report.seconds.max(1e-9)) as u64;
        self.reports.push(report);
    }

    /// The report of the target that was audited last.
    pub fn last(&mut self) -> Option<&mut AuditReport> {
        self.reports.last_mut()
    }

    fn reader(&self, data: &Path) -> Result<JournalReader, FederationError> {
        Ok(JournalReader::open(&data.join("journal"), Some(self.federation.id().0.0), &JournalOptions::default())?)
    }

    /// Two targets hold different batches at one slot: whom that convicts.
    fn judge_fork(&self, report: &mut AuditReport, fork: Fork, certificate: &CommitCertificate) {
        let other = self.reports.get(fork.other);
        let name = other.map_or_else(String::new, |other| other.target.clone());
        let theirs = self.targets.get(fork.other).and_then(Option::as_ref).and_then(|data| {
            let reader = self.reader(data).ok()?;
            certificate_at(&reader, fork.slot, &certificate.digest)
        });
        let expected = theirs.as_ref().map_or_else(|| format!("the batch of {name}"), |theirs| format!("header {} as in {name}", theirs.digest));
        report.bad_at("", fork.slot, (0, 0), "fork", &expected, &format!("header {}", certificate.digest));
        theirs.iter().for_each(|theirs| report.convict_both(self.federation, theirs, certificate));
        report.conclude();
    }

    /// Every proposal, in any target, for a slot at which another batch was committed: leaders that proposed two at one place.
    fn judge_proposals(&mut self) {
        let readers: Vec<_> = self.targets.iter().flatten().filter_map(|data| self.reader(data).ok()).collect();
        for reader in if self.testimony.is_contested() { readers } else { vec![] } {
            let found = self.testimony.hear_proposals(self.federation, &reader);
            found.into_iter().for_each(|found| self.reports.last_mut().iter_mut().for_each(|report| report.convict(found.clone())));
        }
    }

    /// Ends the audit.
    #[must_use]
    pub fn finish(mut self) -> Summary {
        if !self.stop.load(Ordering::Relaxed) {
            self.judge_proposals();
        }
        Summary::new(self.federation, self.options.level, self.reports, self.began.elapsed())
    }
}

/// Audits one data directory at full depth. `progress` is told the entries checked so far.
///
/// # Errors
/// Only if there is no journal to audit; everything else is in the report.
pub fn audit(data: &Path, federation: &Federation, mut progress: impl FnMut(u64)) -> Result<AuditReport, AuditError> {
    let mut audit = Audit::new(federation, AuditOptions::default());
    audit.directory(&data.display().to_string(), data, &mut |now: Progress| progress(now.entries))?;
    Ok(audit.reports.pop().unwrap_or_default())
}

/// The data directory of a replica: the one that its configuration names, `data` below the directory given, or that directory itself.
#[must_use]
pub fn data_dir(given: &Path) -> PathBuf {
    let configured = read_toml::<ReplicaFile>(&given.join("replica.toml")).ok().map(|file| given.join(file.data));
    let candidates = configured.into_iter().chain([given.join("data")]);
    candidates.into_iter().find(|dir| dir.join("journal").is_dir()).unwrap_or_else(|| given.to_path_buf())
}
