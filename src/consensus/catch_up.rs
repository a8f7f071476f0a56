//! Catch-up: committed batches verify by themselves, so one peer is enough, honest or not.

use super::Effect;
use super::record::Record;
use super::state::Replica;
use super::verify::{CheckedBatch, CheckedBody, Verified};
use crate::planted::{Bug, on};
use crate::types::{ConsensusMessage, FetchBody, Header, ReplicaIndex};

impl Replica {
    /// Asks one peer for batches when this replica stays behind.
    pub(super) fn consider_catch_up(&mut self) {
        if self.catching_up.is_some() {
            return;
        }
        let Some((slot, peer)) = self.next_ahead() else { return };
        let waited = self.now.mono.saturating_sub(self.timers.last_commit) >= self.options.catch_up_after_ms;
        let far = slot - self.tip.slot > self.federation.parameters().window_slots / 2;
        if waited || far {
            self.ask_for_batches(peer);
        }
    }

    fn ask_for_batches(&mut self, peer: ReplicaIndex) {
        (self.catching_up, self.caught_up_from) = (Some(peer), Some(peer));
        self.out.effects.push(Effect::CatchUp { peer, from_slot: self.tip.slot + 1 });
    }

    /// The next member, in turn, that says it is ahead, and the slot it names: whoever failed, lies or is slow is asked again only after all others.
    fn next_ahead(&self) -> Option<(u64, ReplicaIndex)> {
        let ahead = self.peers.iter().zip(0u16..).filter_map(|(p, index)| p.status.map(|s| (s.committed, index)));
        let ahead: Vec<_> = ahead.filter(|(slot, index)| *slot > self.tip.slot && *index != self.me).collect();
        let after = ahead.iter().find(|(_, index)| self.caught_up_from.is_none_or(|last| *index > last) || on(Bug::CatchUpAsksOnePeer));
        after.or(ahead.first()).copied()
    }

    pub(super) fn on_caught_up(&mut self, from: ReplicaIndex, batches: Vec<Verified<CheckedBatch>>) {
        if self.catching_up == Some(from) {
            self.catching_up = None;
        }
        let before = self.tip.slot;
        for batch in batches {
            self.take_committed(batch.into_inner());
        }
        if self.tip.slot > before
            && let Some((_, peer)) = self.next_ahead()
        {
            self.ask_for_batches(peer);
        }
    }

    pub(super) fn on_catch_up_failed(&mut self, from: ReplicaIndex) {
        if self.catching_up == Some(from) {
            self.catching_up = None;
        }
    }

    /// Commits a certified batch if it is the next one.
    fn take_committed(&mut self, batch: CheckedBatch) {
        let CheckedBatch { header, body, certificate } = batch;
        if header.slot != self.tip.slot + 1 {
            return;
        }
        let mut frontier = self.tip.frontier.clone();
        body.leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
        let extends = header.parent == self.tip.digest && header.first_sequence == self.tip.sequence + 1;
        if !extends || frontier.root() != header.log_root {
            self.out.effects.push(Effect::Halt(super::Halt::Fork { slot: header.slot }));
            return;
        }
        if !self.bodies.contains_key(&(header.slot, certificate.digest)) {
            self.record(Record::Body { header: header.clone(), body: body.clone() });
        }
        self.commit(certificate, header, body);
    }

    /// Asks for bodies that the new view chose and this replica does not hold. Every signer of the prepared certificate holds it.
    pub(super) fn fetch_missing_bodies(&mut self) {
        const AT_A_TIME: usize = 8;
        let missing = |(slot, state): (&u64, &super::state::SlotState)| {
            let accepted = state.accepted.as_ref()?;
            (!self.bodies.contains_key(&(*slot, accepted.digest))).then_some(FetchBody { slot: *slot, digest: accepted.digest })
        };
        if on(Bug::BodiesNotFetched) {
            return;
        }
        let wanted: Vec<FetchBody> = self.slots.range(self.tip.slot + 1..).filter_map(missing).take(AT_A_TIME).collect();
        for fetch in wanted {
            self.broadcast(ConsensusMessage::FetchBody(fetch));
        }
    }

    pub(super) fn on_fetch_body(&mut self, from: ReplicaIndex, fetch: FetchBody) {
        const PER_GOSSIP: u32 = 16;
        let Some(peer) = self.peers.get_mut(usize::from(from)).filter(|peer| peer.bodies < PER_GOSSIP) else { return };
        if let Some((header, body)) = self.bodies.get(&(fetch.slot, fetch.digest)) {
            peer.bodies += 1;
            let message = ConsensusMessage::Body(header.clone(), body.body.clone());
            self.send(from, message);
        }
    }

    /// A body that came. It is kept only if this view chose its header.
    pub(super) fn on_body(&mut self, header: Header, body: CheckedBody) {
        let (slot, digest) = (header.slot, header.digest());
        let chosen = self.slots.get(&slot).and_then(|s| s.accepted.as_ref()).is_some_and(|a| a.digest == digest);
        if chosen && slot > self.tip.slot && !self.bodies.contains_key(&(slot, digest)) {
            self.record(Record::Body { header, body });
        }
    }
}
