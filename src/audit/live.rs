//! The audit of a live federation over QUIC: every byte that a replica says is verified.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::examiner::{Examiner, Found, Held};
use super::{Finding, Progress};
use crate::client::Client;
use crate::crypto::Digest;
use crate::error::FederationError;
use crate::proof::chain::{check_certificate, check_structure};
use crate::types::{BatchRange, CommittedBatch, Conviction, LogQuery, Request, Response, Sequence, Slot};

/// How long a replica is asked to wait for something new.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);
/// How often all replicas are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What happens while a federation is followed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum FollowEvent<'a> {
    /// Everything up to here is verified.
    Verified {
        /// The last sequence number.
        sequence: Sequence,
        /// Its slot.
        slot: Slot,
        /// The log root there.
        log_root: Digest,
    },
    /// Something is not as it should be.
    Alarm(&'a Finding),
    /// A member's key was misused.
    Convicted(&'a Conviction),
    /// Submissions wait, and nothing is committed.
    Stalled {
        /// How many wait, at the replica with the most.
        pending: u64,
        /// For how long nothing was committed, s.
        seconds: u64,
    },
    /// No replica answers.
    Silent(String),
}

/// About how much one answer may hold.
const ANSWER_BYTES: u64 = 8 << 20;

/// Reads a live federation and hands its batches to the examiner.
pub(super) struct Live<'a, 'e> {
    pub(super) examiner: Examiner<'e>,
    client: &'a Client,
    stop: &'a AtomicBool,
    timeout: Duration,
    /// Who is asked next.
    replica: usize,
    alarms: BTreeSet<(&'static str, String)>,
}

impl<'a, 'e> Live<'a, 'e> {
    pub(super) fn new(examiner: Examiner<'e>, client: &'a Client, stop: &'a AtomicBool) -> Self {
        let timeout = Duration::from_millis(client.options().attempt_timeout_ms);
        Self { examiner, client, stop, timeout, replica: 0, alarms: BTreeSet::new() }
    }

    fn label(&self, replica: usize) -> String {
        self.client.federation().members().get(replica).map_or_else(|| format!("replica {replica}"), |m| m.peer.to_string())
    }

    async fn ask(&self, replica: usize, sequence: Sequence, max_bytes: u64, wait: Duration) -> Result<BatchRange, FederationError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Log(LogQuery::FromSequence { sequence, max_bytes, wait_ms });
        match self.client.ask(replica, &request, self.timeout + wait).await? {
            Response::Log(range) => Ok(range),
            _ => Err(FederationError::Answer { replica: self.label(replica), problem: "another answer than batches".into() }),
        }
    }

    /// The last header that an earlier run verified must still be there, at whichever replica answers.
    pub(super) async fn see_earlier(&mut self) {
        let known = self.examiner.chain.sequence();
        if known == 0 {
            return;
        }
        for replica in 0..self.client.federation().size() {
            let Ok(range) = self.ask(replica, known, 1, Duration::ZERO).await else { continue };
            let Some(batch) = range.batches.into_iter().next() else { continue };
            if check_certificate(self.examiner.federation, &batch).is_ok() {
                let place = self.label(replica);
                self.examiner.compare_with_earlier(&place, &batch.certificate);
                return;
            }
        }
        self.examiner.miss_earlier();
    }

    /// Everything that is committed and not yet checked, from whichever replica gives it. One that lies is named, and the next one asked; so it is
    /// when one has no more, because it may lag or hold back.
    pub(super) async fn catch_up(&mut self, wait: Duration, progress: &mut dyn FnMut(Progress)) -> Result<(), FederationError> {
        let n = self.client.federation().size();
        let (mut in_vain, mut errors, mut wait) = (0, 0, wait);
        let mut last = None;
        while in_vain < n && !self.examiner.done && !self.stop.load(Ordering::Relaxed) {
            let next = self.examiner.chain.sequence().saturating_add(1);
            match self.ask(self.replica, next, ANSWER_BYTES, wait).await {
                Ok(range) => {
                    let head = range.head;
                    if self.take(self.replica, range.batches) {
                        (in_vain, errors) = (0, 0);
                        progress(Progress { entries: self.examiner.report.entries, done: self.examiner.chain.sequence(), total: head });
                        continue;
                    }
                }
                Err(error) => (errors, last) = (errors + 1, Some(error)),
            }
            // Only one replica is waited for.
            wait = Duration::ZERO;
            (self.replica, in_vain) = ((self.replica + 1) % n, in_vain + 1);
        }
        last.filter(|_| errors == n).map_or(Ok(()), Err)
    }

    /// Takes an answer. What no quorum signed, or is not what was asked for, is the replica's own and no part of the history.
    fn take(&mut self, replica: usize, batches: Vec<CommittedBatch>) -> bool {
        let place = self.label(replica);
        let mut chunk = Vec::new();
        for (next, batch) in (self.examiner.chain.slot().saturating_add(1)..).zip(batches) {
            let header = &batch.header;
            let proved = check_structure(self.examiner.federation, &batch).and_then(|()| check_certificate(self.examiner.federation, &batch));
            let problem = match proved {
                Ok(_) if header.slot == next => None,
                Ok(_) => Some((format!("slot {next}"), format!("slot {}", header.slot))),
                Err(error) => Some((error.expected(), error.found())),
            };
            if let Some((expected, found)) = problem {
                self.alarm(&place, next, "answer", &expected, &found);
                break;
            }
            chunk.push(Found { held: Held::Decoded(batch), place: place.clone() });
        }
        let taken = !chunk.is_empty();
        self.examiner.take(&mut chunk);
        self.examiner.keep_state(false);
        taken
    }

    /// The end of every replica's log against the history that was read.
    pub(super) async fn compare_ends(&mut self) {
        for replica in 0..self.client.federation().size() {
            let place = self.label(replica);
            match self.end_of(replica).await {
                Ok(Some(batch)) => self.compare_end(&place, batch).await,
                Ok(None) => {}
                Err(error) => self.leave_out(format!("the end of {place}'s log: {error}")),
            }
        }
    }

    /// A finding about a replica's answer, once for each replica and rule.
    fn alarm(&mut self, place: &str, slot: Slot, rule: &'static str, expected: &str, found: &str) {
        if self.alarms.insert((rule, place.to_owned())) {
            self.examiner.report.bad_at(place, slot, (0, 0), rule, expected, found);
        }
    }

    fn leave_out(&mut self, what: String) {
        if !self.examiner.report.not_checked.contains(&what) {
            self.examiner.report.not_checked.push(what);
        }
    }

    /// What the replicas hold against members. Whoever holds something that proves nothing is named.
    pub(super) async fn hear_evidence(&mut self) {
        for (replica, answer) in self.client.evidence().await.into_iter().enumerate() {
            match answer {
                Ok(held) => {
                    let found = held.into_iter().filter_map(|evidence| evidence.convict(self.examiner.federation).ok());
                    found.for_each(|found| self.examiner.report.convict(found));
                }
                Err(error) => self.leave_out(format!("the evidence that {} holds: {error}", self.label(replica))),
            }
        }
    }

    /// Goes on until it is stopped: verifies what is committed, and raises an alarm when the federation contradicts itself, shows less than
    /// before, or stalls.
    pub(super) async fn follow(&mut self, stall_after: Duration, events: &mut dyn FnMut(FollowEvent<'_>)) {
        let (mut told, mut convicted, mut moved, mut looked, mut silent, mut stalled) = (0, 0, Instant::now(), Instant::now(), false, false);
        let mut verified = 0;
        while !self.stop.load(Ordering::Relaxed) {
            match self.catch_up(FOLLOW_WAIT, &mut |_| {}).await {
                Ok(()) => silent = false,
                Err(error) => {
                    if !std::mem::replace(&mut silent, true) {
                        events(FollowEvent::Silent(error.to_string()));
                    }
                    tokio::time::sleep(FOLLOW_WAIT).await;
                }
            }
            let sequence = self.examiner.chain.sequence();
            if sequence > verified {
                (verified, moved, stalled) = (sequence, Instant::now(), false);
                events(FollowEvent::Verified { sequence, slot: self.examiner.chain.slot(), log_root: self.examiner.chain.log_root() });
            }
            if looked.elapsed() > LOOK_EVERY {
                looked = Instant::now();
                self.compare_ends().await;
                self.hear_evidence().await;
                let pending = self.look_around().await;
                if pending > 0 && moved.elapsed() > stall_after && !std::mem::replace(&mut stalled, true) {
                    events(FollowEvent::Stalled { pending, seconds: moved.elapsed().as_secs() });
                }
            }
            let report = &self.examiner.report;
            report.findings.iter().skip(told).for_each(|finding| events(FollowEvent::Alarm(finding)));
            told = report.findings.len();
            report.evidence.iter().skip(convicted).for_each(|found| events(FollowEvent::Convicted(&found.conviction)));
            convicted = report.evidence.len();
        }
    }

    /// Whether a quorum shows less than was verified; yields how many submissions wait.
    async fn look_around(&mut self) -> u64 {
        let known = self.examiner.chain.sequence();
        let statuses: Vec<_> = self.client.status().await.into_iter().flatten().collect();
        let behind = statuses.iter().filter(|status| status.sequence < known).count();
        if statuses.len() >= self.examiner.federation.quorum() && behind == statuses.len() {
            let heads: Vec<String> = statuses.iter().map(|status| format!("{} at {}", status.peer, status.sequence)).collect();
            let expected = format!("sequence {known}, which was verified");
            self.alarm("every replica that answers", self.examiner.chain.slot(), "rollback", &expected, &heads.join(", "));
        }
        statuses.iter().map(|status| status.pending).max().unwrap_or(0)
    }

    /// The last batch of a replica's log that lies within the history that was read.
    async fn end_of(&self, replica: usize) -> Result<Option<CommittedBatch>, FederationError> {
        let known = self.examiner.chain.sequence();
        if known == 0 {
            return Ok(None);
        }
        let mut range = self.ask(replica, known, 1, Duration::ZERO).await?;
        if range.batches.is_empty() && range.head > 0 {
            range = self.ask(replica, range.head.min(known), 1, Duration::ZERO).await?;
        }
        Ok(range.batches.into_iter().next())
    }

    async fn compare_end(&mut self, place: &str, batch: CommittedBatch) {
        let slot = batch.header.slot;
        if let Err(error) = check_certificate(self.examiner.federation, &batch) {
            self.alarm(place, slot, "answer", &error.expected(), &error.found());
            return;
        }
        if !self.examiner.agrees(&batch.header) {
            let found = format!("header {}", batch.header.digest());
            self.alarm(place, slot, "fork", "the batch that was read from another replica", &found);
            self.convict_fork(&batch).await;
        }
    }

    /// Whoever signed this batch and the one that was verified at its slot; any replica may still hold that one.
    async fn convict_fork(&mut self, batch: &CommittedBatch) {
        for replica in 0..self.client.federation().size() {
            let Ok(range) = self.ask(replica, batch.header.first_sequence, 1, Duration::ZERO).await else { continue };
            let Some(other) = range.batches.into_iter().next() else { continue };
            if self.examiner.agrees(&other.header) {
                self.examiner.report.convict_both(self.examiner.federation, &batch.certificate, &other.certificate);
            }
        }
    }
}
