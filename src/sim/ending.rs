//! The clients' side of a simulated federation, and its end: once faults are healed, everything pending must commit.

use super::instance::Live;
use super::world::{Item, START, World};
use crate::consensus::{Event, Waiter};
use crate::types::fault_limit;

impl World {
    pub(super) fn load(&mut self) {
        let load = self.plan.load.clone();
        if self.healed || self.invoked >= load.submissions {
            return;
        }
        self.invoked += 1;
        let operation = self.clients.invoke(&load, START + self.time, self.time, &mut self.rng);
        let targets = if self.rng.chance(load.broadcasts) { 3 } else { 1 };
        for _ in 0..targets {
            let to = usize::from(self.rng.member(self.plan.replicas));
            self.submit(operation, to);
        }
        let pause = self.rng.below(2 * self.plan.faulty_ms / load.submissions.max(1) + 1);
        self.schedule(self.time + pause, Item::Load);
    }

    /// Whether something expired is certain only once the chain's own time has passed it, and that moves with batches.
    pub(super) fn keep_time_moving(&mut self) {
        if self.time < self.next_probe || self.clients.unsettled() == 0 {
            return;
        }
        // Others are served all the time: whoever is left out must not be helped by their silence.
        self.next_probe = self.time + 100;
        let operation = self.clients.probe(&self.plan.load, START + self.time, self.time, &mut self.rng);
        let to = usize::from(self.rng.member(self.plan.replicas));
        self.submit(operation, to);
    }

    pub(super) fn submit(&mut self, operation: usize, to: usize) {
        let time = self.time;
        let Some(known) = self.clients.operations.get_mut(operation) else { return };
        known.asked_at = time;
        let submission = known.submission.clone();
        if self.instances.get(to).is_some_and(|i| i.liars.iter().any(|liar| !liar.takes(&self.federation, &submission))) {
            return;
        }
        let Some(live) = self.instances.get(to).and_then(|i| i.live.as_deref()) else { return };
        let Ok(submission) = live.verifier.submission(submission) else { return };
        let waiter = Waiter { ticket: operation as u64, deadline: time + 1_400 };
        self.event(to, Event::Submit { submission, waiter });
    }

    pub(super) fn answer(&mut self, at: usize, ticket: u64, outcome: &crate::types::SubmitOutcome) {
        let honest = self.honest(at);
        let now = self.now(at).wall;
        let held = self.clients.answered(ticket, outcome, honest, &self.checker, now);
        self.hold(held);
    }

    pub(super) fn ask_again(&mut self) {
        for operation in self.clients.due(self.time) {
            self.reach("submission-retried");
            let to = usize::from(self.rng.member(self.plan.replicas));
            self.submit(operation, to);
        }
        if self.healed {
            self.finished();
            self.keep_time_moving();
        }
        self.schedule(self.time + 100, Item::Clients);
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        (self.loss, self.partition) = (0, None);
        self.one_way.clear();
        self.view_changes.clear();
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get_mut(at) else { continue };
            (instance.skew, instance.slow_ms) = (0, 0);
            if instance.live.is_none() {
                self.schedule(self.time + 1, Item::Start { to: at });
            }
        }
        if std::mem::take(&mut self.plan.network.spike_ms) > 0 {
            self.plan.network.delay_max = self.plan.network.delay_max.min(20);
        }
    }

    /// Whether everything pending is committed, all logs end alike, and all know the last checkpoint to be stable.
    pub(super) fn finished(&mut self) {
        if self.clients.unsettled() > 0 || self.violation.is_some() || self.clients.check_claims(&self.checker).is_err() {
            return;
        }
        let slots = self.checker.committed().len() as u64;
        let interval = self.federation.parameters().checkpoint_slots;
        let honest: Vec<usize> = (0..self.instances.len()).filter(|at| self.honest(*at)).collect();
        let settled = honest.iter().filter_map(|at| self.instances.get(*at)).all(|instance| {
            let together = |live: &Live| {
                live.place.tip == slots && (live.place.suspect || live.core.pending() == 0 && live.place.stable == slots - slots % interval)
            };
            instance.live.as_deref().is_some_and(together) && instance.store.digests().len() as u64 == slots
        });
        if !settled {
            return;
        }
        for at in honest {
            let Some(instance) = self.instances.get(at) else { continue };
            let digests = instance.store.digests();
            let held = self.checker.log(instance.member, &digests);
            let (member, bytes) = (instance.member, instance.disk.bytes());
            self.hold(held);
            if bytes > (64 << 20) {
                self.fail("19 bounded disk", format!("replica {member}'s disk holds {bytes} bytes"));
            }
        }
        self.check_proofs();
        self.done = true;
    }

    /// The last update's proof verifies from the genesis alone, at every replica.
    pub(super) fn check_proofs(&mut self) {
        let last = self.checker.last_sequence();
        if last == 0 {
            return;
        }
        let sequence = 1 + self.rng.below(last);
        for at in (0..self.instances.len()).filter(|at| self.honest(*at)).collect::<Vec<_>>() {
            let Some(live) = self.instances.get(at).and_then(|i| i.live.as_deref()) else { continue };
            let answer = match live.archive.proof(&crate::types::ProofQuery::Sequence(sequence)) {
                Ok(Some(answer)) => answer,
                // A row that was damaged is refused, not served.
                Err(_) => continue,
                Ok(None) => return self.fail("8 proofs verify", format!("replica {at} has no proof of sequence {sequence}")),
            };
            let proof = crate::proof::CommitProof {
                leaf: answer.leaf,
                path: answer.path,
                header: answer.header,
                certificate: answer.certificate,
                opening: None,
            };
            if let Err(error) = proof.verify(&self.federation) {
                return self.fail("8 proofs verify", format!("replica {at}, sequence {sequence}: {error}"));
            }
        }
    }

    pub(super) fn overdue(&mut self) {
        if self.faulty() > fault_limit(usize::from(self.plan.replicas)) && !self.plan.over_budget {
            // Damage that had hit nothing of use came to light in more members than may be faulty: nothing was promised then.
            self.reach("latent-damage-over-budget");
            self.done = true;
            return;
        }
        let slots = self.checker.committed().len();
        let claims = self.clients.check_claims(&self.checker);
        let mut detail = format!("{} submissions pending, {slots} slots committed; claims {claims:?};", self.clients.unsettled());
        for (at, instance) in self.instances.iter().enumerate() {
            let stands = instance.live.as_ref().map(|live| (live.place, live.core.pending(), live.log_inbox.len()));
            detail.push_str(&format!(" {at}: {} {:?} {stands:?}", if instance.liars.is_empty() { "" } else { "lies" }, instance.taint));
        }
        detail.push_str(&self.clients.pending());
        self.fail("17 everything pending commits once faults are healed", detail);
    }
}
