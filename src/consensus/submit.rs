//! Submissions: from a client or forwarded, into the pool, and out of it once their fate is known.

use super::duplicates::Standing;
use super::pool::{Pending, Waiter};
use super::state::Replica;
use super::verify::{CheckedBody, CheckedSubmission};
use super::{Answer, Effect};
use crate::types::{ConsensusMessage, Header, SubmitOutcome, UpdateId};

/// When a client that was told "busy" should try again, ms.
const RETRY_AFTER_MS: u64 = 200;

impl Replica {
    pub(super) fn on_submit(&mut self, submission: CheckedSubmission, waiter: Option<Waiter>) {
        let digest = submission.digests.submission;
        if let Some(pending) = self.pool.get_mut(&digest) {
            pending.waiters.extend(waiter);
            return;
        }
        // Whoever forwards it judged it by a clock of its own.
        let slack = if waiter.is_some() { self.federation.parameters().max_drift_ms } else { 0 };
        if let Some(outcome) = self.refuse(&submission, slack) {
            self.answer(waiter.as_slice(), outcome);
            return;
        }
        let in_flight = self.slot_in_flight(&submission);
        if self.pool.insert(submission.clone(), self.now.mono).is_err() {
            self.answer(waiter.as_slice(), SubmitOutcome::Busy { retry_after_ms: RETRY_AFTER_MS });
            return;
        }
        if let Some(slot) = in_flight {
            self.pool.mark(&digest, slot);
        }
        if let Some(pending) = self.pool.get_mut(&digest) {
            pending.waiters.extend(waiter);
        }
        // Only the replica that a client reached forwards; a forwarded submission stops here.
        if waiter.is_some() && in_flight.is_none() && !self.changing {
            self.send(self.federation.leader(self.view), ConsensusMessage::Forward(submission.submission));
        }
    }

    /// Why a submission does not enter the pool, if so; `slack` is how much of the longest lifetime it must leave to others' clocks.
    fn refuse(&self, checked: &CheckedSubmission, slack: u64) -> Option<SubmitOutcome> {
        let submission = &checked.submission;
        let standings: Vec<Standing> = submission
            .ids()
            .zip(&checked.digests.data)
            .map(|(id, data)| self.duplicates.standing(&submission.author, id, data, self.tip.timestamp))
            .collect();
        if let Some(sequences) = standings.iter().map(|s| if let Standing::Committed(at) = s { Some(*at) } else { None }).collect() {
            return Some(SubmitOutcome::AlreadyCommitted(sequences));
        }
        let at_fault = |s: &Standing| matches!(s, Standing::Conflict | Standing::Committed(_));
        if standings.iter().any(at_fault) {
            let ids: Vec<UpdateId> = submission.ids().zip(&standings).filter(|(_, s)| at_fault(s)).map(|(id, _)| id.clone()).collect();
            return Some(SubmitOutcome::Conflict(ids));
        }
        let not_after = submission.not_after;
        if not_after <= self.tip.timestamp {
            return Some(SubmitOutcome::Expired { not_after, now: self.tip.timestamp });
        }
        let parameters = self.federation.parameters();
        // Within every correct leader's limit, though its clock may lag by the drift allowed.
        let latest = self.now.wall.saturating_add(parameters.max_lifetime_ms.saturating_sub(slack));
        if not_after > latest {
            return Some(SubmitOutcome::Rejected(format!(
                "not_after is {} ms later than allowed: at most {} ms from now (is a clock wrong?)",
                not_after - latest,
                latest - self.now.wall
            )));
        }
        if not_after < self.now.wall {
            // Nobody will propose it, but another replica may have: its fate is not ours to tell.
            return Some(self.unknown(None));
        }
        let whole_in_flight = standings.iter().all(|s| *s == Standing::InFlight);
        let part_in_flight = !whole_in_flight && standings.contains(&Standing::InFlight);
        if part_in_flight || self.pool.overlapping(checked).is_some() || !self.duplicates.has_room(submission.updates.len() as u64) {
            return Some(SubmitOutcome::Busy { retry_after_ms: RETRY_AFTER_MS });
        }
        None
    }

    fn slot_in_flight(&self, checked: &CheckedSubmission) -> Option<u64> {
        let holds = |slot: u64| {
            let accepted = self.slots.get(&slot).and_then(|s| s.accepted.as_ref());
            let body = accepted.and_then(|a| self.bodies.get(&(slot, a.digest)));
            body.is_some_and(|(_, b)| b.digests.submissions.iter().any(|d| d.submission == checked.digests.submission))
        };
        (self.tip.slot + 1..=self.head()).find(|slot| holds(*slot))
    }

    /// Takes what a committed batch settles out of the pool; gives who waits for a receipt.
    pub(super) fn settle(&mut self, header: &Header, body: &CheckedBody) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut offset = 0;
        for (submission, digests) in body.body.submissions.iter().zip(&body.digests.submissions) {
            let count = submission.updates.len() as u64;
            if let Some(pending) = self.pool.remove(&digests.submission) {
                answers.extend(pending.waiters.iter().map(|w| Answer { ticket: w.ticket, offset, count }));
            }
            offset += count;
            let same = CheckedSubmission { submission: submission.clone(), digests: digests.clone() };
            while let Some(pending) = self.pool.overlapping(&same).and_then(|d| self.pool.remove(&d)) {
                let outcome = self.refuse(&pending.checked, 0).unwrap_or_else(|| self.unknown(None));
                self.answer(&pending.waiters, outcome);
            }
        }
        debug_assert_eq!(offset, u64::from(header.count));
        answers
    }

    /// Gives up on what can no longer be committed, and on clients that waited long enough.
    pub(super) fn expire_submissions(&mut self) {
        let clock = self.now.wall.saturating_sub(self.federation.parameters().max_drift_ms);
        let chain_time = self.tip.timestamp;
        for pending in self.pool.expire(chain_time, clock) {
            let not_after = pending.checked.submission.not_after;
            let certain = not_after <= chain_time;
            let outcome = if certain { SubmitOutcome::Expired { not_after, now: chain_time } } else { self.unknown(Some(&pending)) };
            self.answer(&pending.waiters, outcome);
        }
        let now = self.now.mono;
        let late: Vec<_> = self.pool.iter().filter(|(_, p)| p.waiters.iter().any(|w| w.deadline <= now)).map(|(d, _)| *d).collect();
        for digest in late {
            let Some(pending) = self.pool.get_mut(&digest) else { continue };
            let (gone, waiting): (Vec<Waiter>, Vec<Waiter>) = pending.waiters.drain(..).partition(|w| w.deadline <= now);
            pending.waiters = waiting;
            let slot = pending.slot;
            let outcome = self.unknown_at(slot);
            self.answer(&gone, outcome);
        }
    }

    fn unknown(&self, pending: Option<&Pending>) -> SubmitOutcome {
        self.unknown_at(pending.and_then(|p| p.slot))
    }

    /// The honest answer of a replica that does not know: how many votes it saw.
    fn unknown_at(&self, slot: Option<u64>) -> SubmitOutcome {
        let state = slot.and_then(|slot| self.slots.get(&slot)).and_then(|s| s.accepted.as_ref().map(|a| (s, a.digest)));
        let (prepares, commits) = state.map_or((0, 0), |(s, d)| (s.prepares.matching(d).count(), s.commits.matching(d).count()));
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        SubmitOutcome::Unknown { prepares: small(prepares), commits: small(commits), needed: small(self.federation.quorum()) }
    }

    fn answer(&mut self, waiters: &[Waiter], outcome: SubmitOutcome) {
        for waiter in waiters {
            self.out.effects.push(Effect::Answer { ticket: waiter.ticket, outcome: outcome.clone() });
        }
    }

    /// Sends every pending submission that is not in flight to the leader again: the view is new.
    pub(super) fn forward_pending(&mut self) {
        let leader = self.federation.leader(self.view);
        if leader == self.me {
            return;
        }
        let waiting = self.pool.iter().filter(|(_, p)| p.slot.is_none() && !p.waiters.is_empty());
        let messages: Vec<_> = waiting.map(|(_, p)| ConsensusMessage::Forward(p.checked.submission.clone())).collect();
        messages.into_iter().for_each(|message| self.send(leader, message));
    }

    /// Shows submissions that are late to all, so that each times the leader for their author's sake; again as long as they wait, because
    /// the first showing may have been lost, and whoever a client reached may be gone.
    pub(super) fn spread_late(&mut self, after_ms: u64) {
        let now = self.now.mono;
        let again_ms = self.options.request_timeout_ms;
        let due = |p: &Pending| p.spread.map_or(p.since + after_ms, |at| at + again_ms) <= now;
        let late = |p: &Pending| p.slot.is_none() && due(p);
        let digests: Vec<_> = self.pool.iter().filter(|(_, p)| late(p)).map(|(d, _)| *d).collect();
        for digest in digests {
            let Some(pending) = self.pool.get_mut(&digest) else { continue };
            pending.spread = Some(now);
            let message = ConsensusMessage::Forward(pending.checked.submission.clone());
            self.broadcast(message);
        }
    }
}
