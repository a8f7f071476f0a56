//! How a replica that forgot its votes may vote again, under the same key.
//!
//! It asks all members where they stand, with a number that it never used before, so that an answer was given after the question. Let k = n - q + f.
//! Whatever it signed before, it signed
//!
//! - *at slots* up to a stable checkpoint it knew plus the window. A quorum signed that checkpoint over durable logs, so of any k other members one
//!   is correct and committed that slot: **S** = the k-th smallest slot answered + `window_slots`;
//! - *in views* up to W + 1, where W is the highest view that a quorum had left for, because a correct replica leaves view v only if a correct one complained
//!   about v or a later view, which it does only once v began or a quorum left for it. Of any k other members one is correct and remembers W:
//!   **V** = the k-th smallest view answered + 1.
//!
//! (k + (q - 1) - (n - 1) = f members of the quorum are among those k, and at most f - 1 besides this replica are faulty. The k smallest answers are
//! as good as any k, so nobody can push the bounds up for ever.)
//!
//! It votes again once a stable checkpoint and its log have passed S and it stands in a view not below V that a new-view began. From then on every slot
//! it may have voted at lies below its floor; its view-changes carry a checkpoint not below S, so no prepared certificate it forgot is missing
//! in them; and the view-changes it may have sent were all for views not above its own.
//!
//! A federation at rest in its view would make it wait for V; so it says which view it waits for, and a leader that led for
//! `max_timeout_ms` makes room.

use std::collections::BTreeMap;

use super::state::Replica;
use crate::planted::{Bug, on};
use crate::types::{ConsensusMessage, Rejoin, RejoinAnswer, ReplicaIndex, Slot, TimestampMs, View};

/// What keeps a replica from voting when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suspicion {
    /// Its voting record cannot be trusted. The number is random and was never used before.
    pub votes_lost: Option<u64>,
    /// It lacks a body that its duplicate table needs: until the chain's time has passed this.
    pub blind_until: TimestampMs,
}

/// On the way back.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Rejoining {
    nonce: u64,
    answers: BTreeMap<ReplicaIndex, (View, Slot)>,
}

impl Rejoining {
    pub(super) fn new(nonce: u64) -> Self {
        Self { nonce, answers: BTreeMap::new() }
    }

    /// V and S, once enough members answered.
    fn bounds(&self, n: usize, quorum: usize, faulty: usize, window: u64) -> Option<(View, Slot)> {
        if on(Bug::RejoinsAtOnce) {
            return Some((0, 0));
        }
        let at = (n - quorum + faulty).checked_sub(1)?;
        let nth = |of: fn(&(View, Slot)) -> u64| {
            let mut values: Vec<u64> = self.answers.values().map(of).collect();
            values.sort_unstable();
            values.get(at).copied()
        };
        Some((nth(|a| a.0)?.saturating_add(1), nth(|a| a.1)?.saturating_add(window)))
    }
}

impl Replica {
    /// Asks again with every gossip, as long as it must not vote.
    pub(super) fn ask_to_rejoin(&mut self) {
        let Some(rejoining) = &self.rejoining else { return };
        let nonce = rejoining.nonce;
        // The view is the last thing to wait for: nobody makes room before the slots have passed.
        let view = self.rejoin_bounds().filter(|(_, slot)| self.floor() >= *slot).map_or(0, |(view, _)| view);
        self.broadcast(ConsensusMessage::Rejoin(Rejoin { epoch: 0, nonce, view }));
    }

    fn rejoin_bounds(&self) -> Option<(View, Slot)> {
        let federation = &self.federation;
        let rejoining = self.rejoining.as_ref()?;
        rejoining.bounds(federation.size(), federation.quorum(), federation.weak_quorum() - 1, federation.parameters().window_slots)
    }

    pub(super) fn on_rejoin(&mut self, from: ReplicaIndex, rejoin: &Rejoin) {
        if self.rejoining.is_some() {
            return;
        }
        let answer = RejoinAnswer { epoch: 0, nonce: rejoin.nonce, view: self.view, committed: self.tip.slot };
        self.send(from, ConsensusMessage::RejoinAnswer(answer));
        let led_long = self.now.mono.saturating_sub(self.timers.view_entered) >= self.options.max_timeout_ms;
        if rejoin.view > self.view && self.leads() && !self.changing && led_long && self.complained != Some(self.view) {
            self.complain("a member that forgot its votes waits for the next view");
        }
    }

    pub(super) fn on_rejoin_answer(&mut self, from: ReplicaIndex, answer: &RejoinAnswer) {
        if from == self.me {
            return;
        }
        if let Some(rejoining) = self.rejoining.as_mut().filter(|r| r.nonce == answer.nonce) {
            let entry = rejoining.answers.entry(from).or_insert((answer.view, answer.committed));
            // The first answer came soonest after the start; later ones only raise the bounds.
            entry.0 = entry.0.min(answer.view);
            entry.1 = entry.1.min(answer.committed);
        }
    }

    /// Votes again if everything it may have voted on is behind it.
    pub(super) fn consider_rejoining(&mut self) {
        if !self.suspect {
            return;
        }
        let behind = |(view, slot): (View, Slot)| !self.changing && self.view >= view && self.floor() >= slot;
        if self.rejoining.is_some() && self.rejoin_bounds().is_some_and(behind) {
            self.rejoining = None;
            // It may have led this view before it forgot.
            self.barred_view = Some(self.view);
            self.out.rejoin = Some(self.voting_snapshot());
        }
        if self.rejoining.is_none() && self.tip.timestamp >= self.blind_until {
            self.suspect = false;
            self.safety.trust(self.view);
            self.vote_cursor = self.floor() + 1;
        }
    }
}
