//! Clients of a simulated federation: they submit, wait, ask elsewhere, and remember what they were told.

use std::sync::Arc;

use super::checker::{Checker, Violation};
use super::plan::Load;
use super::rng::Rng;
use crate::consensus::Ticket;
use crate::crypto::{Digest, PublicKey, SigningKey};
use crate::proof::verify_receipt;
use crate::types::{Federation, Sequence, StateUpdate, Submission, SubmitOutcome, TimestampMs, UpdateId};

/// A submission and its fate.
pub(super) struct Operation {
    pub(super) submission: Arc<Submission>,
    /// The last sequence number that anybody had been told of when it was first sent.
    after: Sequence,
    pub(super) settled: Option<Settled>,
    pub(super) asked_at: u64,
    /// The last answer that settled nothing.
    last: Option<SubmitOutcome>,
    /// Another submission uses one of its ids.
    contested: bool,
    /// The run ends without its fate.
    idle: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Committed,
    Conflict,
    Expired,
}

/// All of them.
pub(super) struct Clients {
    federation: Arc<Federation>,
    authors: Vec<SigningKey>,
    pub(super) operations: Vec<Operation>,
    acknowledged: Sequence,
    pub(super) receipts: u64,
    next_id: u64,
    claims: Vec<(PublicKey, UpdateId, Sequence, Digest)>,
}

fn broken(invariant: &'static str, detail: String) -> Violation {
    Violation { invariant, detail, at: 0 }
}

impl Clients {
    pub(super) fn new(federation: Arc<Federation>, authors: Vec<SigningKey>) -> Self {
        Self { federation, authors, operations: Vec::new(), acknowledged: 0, receipts: 0, next_id: 0, claims: Vec::new() }
    }

    /// A new submission; its number.
    pub(super) fn invoke(&mut self, load: &Load, now: TimestampMs, mono: u64, rng: &mut Rng) -> usize {
        let author = rng.below(self.authors.len() as u64) as usize;
        self.invoke_as(author, load, now, mono, rng)
    }

    /// The last author invokes something that nobody waits for. No liar leaves its submissions out.
    pub(super) fn probe(&mut self, load: &Load, now: TimestampMs, mono: u64, rng: &mut Rng) -> usize {
        let plain = Load { hurried: 0, conflicts: 0, ..load.clone() };
        let operation = self.invoke_as(self.authors.len().saturating_sub(1), &plain, now, mono, rng);
        self.awaits_nothing(operation);
        operation
    }

    fn invoke_as(&mut self, author: usize, load: &Load, now: TimestampMs, mono: u64, rng: &mut Rng) -> usize {
        let parameters = self.federation.parameters();
        let reuse = rng.chance(load.conflicts).then(|| rng.below(self.operations.len().max(1) as u64) as usize);
        let count = 1 + rng.below(load.updates);
        let mut ids: Vec<UpdateId> = Vec::new();
        if let Some(earlier) = reuse.and_then(|at| self.operations.get_mut(at)) {
            earlier.contested = true;
            ids.extend(earlier.submission.ids().next().cloned());
        }
        while (ids.len() as u64) < count {
            self.next_id += 1;
            ids.push(UpdateId(format!("u{}", self.next_id)));
        }
        let author = match reuse.and_then(|at| self.operations.get(at)) {
            Some(earlier) => self.authors.iter().position(|key| key.public() == earlier.submission.author).unwrap_or(0),
            None => author,
        };
        let contested = reuse.is_some();
        let updates = ids.into_iter().map(|update_id| {
            let size = rng.below(load.data_bytes + 1) as usize;
            let fill = u8::try_from(rng.below(256)).unwrap_or(0);
            StateUpdate { update_id, data: vec![fill; size], timestamp: now }
        });
        let updates = updates.collect();
        let longest = parameters.max_lifetime_ms.saturating_sub(parameters.max_drift_ms) / 2;
        let lifetime = if rng.chance(load.hurried) { rng.between(1, 1_500) } else { longest };
        let author = author.min(self.authors.len().saturating_sub(1));
        let submission = match self.authors.get(author) {
            Some(key) => Submission::sign(self.federation.id(), key, now + lifetime.min(longest), updates),
            None => Submission::sign(self.federation.id(), &SigningKey::simulated(&[0; 32]), now, updates),
        };
        let operation = Operation {
            submission: Arc::new(submission),
            after: self.acknowledged,
            settled: None,
            asked_at: mono,
            last: None,
            contested,
            idle: false,
        };
        self.operations.push(operation);
        self.operations.len() - 1
    }

    /// Those that wait for an answer for too long, or were told to ask again.
    pub(super) fn due(&self, mono: u64) -> Vec<usize> {
        let waiting = self.operations.iter().enumerate().filter(|(_, operation)| operation.settled.is_none() && !operation.idle);
        waiting.filter(|(_, operation)| operation.asked_at + 1_500 <= mono).map(|(at, _)| at).collect()
    }

    /// A few of those without a fate, as text.
    pub(super) fn pending(&self) -> String {
        let waiting = self.operations.iter().filter(|operation| operation.settled.is_none() && !operation.idle).take(3);
        waiting.fold(String::new(), |text, o| {
            let ids: Vec<String> = o.submission.ids().map(ToString::to_string).collect();
            text + &format!("; pending {} until {}, last told {:?}", ids.join(","), o.submission.not_after, o.last)
        })
    }

    pub(super) fn unsettled(&self) -> usize {
        self.operations.iter().filter(|operation| operation.settled.is_none() && !operation.idle).count()
    }

    /// Nobody waits for this one.
    fn awaits_nothing(&mut self, at: usize) {
        if let Some(operation) = self.operations.get_mut(at) {
            operation.idle = true;
        }
    }

    /// What liars gave valid receipts for is committed too.
    pub(super) fn check_claims(&self, checker: &Checker) -> Result<(), Violation> {
        for (author, id, sequence, data) in &self.claims {
            if !checker.holds(author, id, *sequence, data) {
                return Err(broken(
                    "5 nothing acknowledged is lost",
                    format!("{id} was said to be at {sequence}, and the federation does not have it there"),
                ));
            }
        }
        Ok(())
    }

    /// An answer from a replica; from one that does not lie it must be true.
    pub(super) fn answered(
        &mut self,
        ticket: Ticket,
        outcome: &SubmitOutcome,
        honest: bool,
        checker: &Checker,
        now: TimestampMs,
    ) -> Result<(), Violation> {
        let at = usize::try_from(ticket).unwrap_or(usize::MAX);
        let federation = self.federation.clone();
        let Some(operation) = self.operations.get_mut(at) else { return Ok(()) };
        let sequence = match outcome {
            SubmitOutcome::Committed(receipt) => {
                if let Err(error) = verify_receipt(receipt, &operation.submission, &federation) {
                    return if honest { Err(broken("8 proofs verify", format!("a receipt does not: {error}"))) } else { Ok(()) };
                }
                self.receipts += 1;
                receipt.first_sequence
            }
            SubmitOutcome::AlreadyCommitted(places) if honest => places.first().copied().unwrap_or(0),
            SubmitOutcome::Conflict(_) if honest => {
                if !operation.contested {
                    return Err(broken("6 a retry gets the same answer", format!("a conflict about ids that were used once: {outcome:?}")));
                }
                operation.settled.get_or_insert(Settled::Conflict);
                return Ok(());
            }
            SubmitOutcome::Expired { not_after, .. } if honest => {
                let _ = now;
                if *not_after != operation.submission.not_after {
                    return Err(broken("6 a retry gets the same answer", format!("expired by another time: {outcome:?}")));
                }
                operation.settled.get_or_insert(Settled::Expired);
                return Ok(());
            }
            // Not settled: the client asks again, here or elsewhere.
            _ => {
                operation.last = Some(outcome.clone());
                operation.asked_at = operation.asked_at.saturating_sub(1_200);
                return Ok(());
            }
        };
        for ((id, submitted), expected) in operation.submission.ids().zip(&operation.submission.updates).zip(sequence..) {
            let data = submitted.data_digest();
            if expected > checker.last_sequence() {
                // A log may lag behind its core, and a liar's may be ahead of every other: the promise binds all the same, and is held at the end.
                self.claims.push((operation.submission.author, id.clone(), expected, data));
            } else if !checker.holds(&operation.submission.author, id, expected, &data) {
                let detail = format!("{id} was said to be at {expected}, and the federation does not have it there");
                return Err(broken("5 nothing acknowledged is lost", detail));
            }
        }
        if sequence <= operation.after && !operation.contested {
            let detail = format!("sequence {sequence} for a submission made after {} was acknowledged", operation.after);
            return Err(broken("7 real-time order", detail));
        }
        self.acknowledged = self.acknowledged.max(sequence + operation.submission.updates.len() as u64 - 1);
        operation.settled = Some(Settled::Committed);
        Ok(())
    }
}
