//! The network of a simulated federation: what is sent, by whom it is changed, and what arrives.

use std::sync::Arc;

use super::adversary::{Liar, Means};
use super::trace::label;
use super::world::{Item, World};
use crate::consensus::Event;
use crate::types::{CommittedBatch, ConsensusMessage, LogQuery, ReplicaIndex, Slot, decode, encode};

impl World {
    pub(super) fn send(&mut self, at: usize, to: ReplicaIndex, message: ConsensusMessage) {
        let Some(instance) = self.instances.get(at) else { return };
        let (member, honest) = (instance.member, self.honest(at));
        if honest {
            let synced = instance.store.synced_slot();
            if let Some(live) = &instance.live {
                let held = self.checker.sent(member, &message, live.place.tip, synced, |fact| live.facts.contains(fact));
                let suspect = live.place.suspect;
                self.hold(held);
                if suspect && matches!(message, ConsensusMessage::Vote(_)) {
                    self.fail("16 a suspect replica casts no vote", format!("replica {member}"));
                }
            }
            self.count(&message);
            return self.transmit(at, to, message);
        }
        let messages = self.with_liars(at, vec![message], |liar, message, means| liar.send(to, message, means));
        messages.into_iter().for_each(|message| self.transmit(at, to, message));
    }

    pub(super) fn count(&mut self, message: &ConsensusMessage) {
        match message {
            ConsensusMessage::Body(..) => self.reach("body-fetched-by-digest"),
            ConsensusMessage::ViewChange(change) if !change.prepared.is_empty() => self.reach("view-change-with-prepared"),
            ConsensusMessage::ViewChange(change) if change.stable.is_some() => self.reach("view-change-with-stable"),
            ConsensusMessage::NewView(new_view) => {
                let (base, chosen) = crate::consensus::choose(new_view);
                let highest = new_view.view_changes.iter().flat_map(|vc| &vc.prepared).map(|c| c.header.slot).max().unwrap_or(0);
                if !chosen.is_empty() {
                    self.reach("new-view-with-chosen");
                }
                // What a checkpoint in it covers is no loss.
                let covered = base.map_or(0, |certificate| certificate.checkpoint.slot);
                if chosen.last().map_or(covered, |header| header.slot) < highest {
                    self.reach("new-view-truncates-chain");
                }
            }
            ConsensusMessage::Stable(_) => self.reach("checkpoint-certificate-sent"),
            ConsensusMessage::RejoinAnswer(_) => self.reach("rejoin-answered"),
            _ => {}
        }
    }

    pub(super) fn with_liars<T>(
        &mut self,
        at: usize,
        start: Vec<T>,
        mut each: impl FnMut(&mut Box<dyn Liar>, T, &mut Means<'_>) -> Vec<T>,
    ) -> Vec<T> {
        let now = self.now(at);
        let Some(instance) = self.instances.get_mut(at) else { return start };
        let mut liars = std::mem::take(&mut instance.liars);
        let (member, place) = (instance.member, instance.live.as_ref().map(|live| live.place));
        let core = self.instances.get(at).and_then(|i| i.live.as_deref()).map(|live| &live.core);
        let out = match (self.setup.keys.get(usize::from(member)), self.authors.last()) {
            (Some(key), Some(author)) => {
                let (view, tip, stable) = place.map_or((0, 0, 0), |p| (p.view, p.tip, p.stable));
                let mut means = Means { me: member, federation: &self.federation, key, author, rng: &mut self.rng, now, view, tip, stable, core };
                liars.iter_mut().fold(start, |items, liar| items.into_iter().flat_map(|item| each(liar, item, &mut means)).collect())
            }
            _ => start,
        };
        if let Some(instance) = self.instances.get_mut(at) {
            instance.liars = liars;
        }
        out
    }

    pub(super) fn lie(&mut self, at: usize) {
        if !self.rng.chance(250) {
            return;
        }
        let mut said = Vec::new();
        self.with_liars(at, vec![()], |liar, (), means| {
            said.extend(liar.tick(means));
            vec![()]
        });
        said.into_iter().for_each(|(to, message)| self.transmit(at, to, message));
    }

    pub(super) fn cut(&self, from: u16, to: u16) -> bool {
        let across = |side: u16| (side >> from) & 1 != (side >> to) & 1;
        self.partition.is_some_and(across) || self.one_way.contains(&(from, to))
    }

    /// The instances that a message to a member reaches: of twins, the one that the sender sees.
    pub(super) fn reaches(&self, at: usize, to: u16) -> Vec<usize> {
        let n = usize::from(self.plan.replicas);
        let from = self.instances.get(at).map_or(0, |i| i.member);
        let sees_second = |member: u16| (self.twin_side >> member) & 1 == 1;
        // The second instance speaks only to those who see it.
        if at >= n && !sees_second(to) || at < n && self.instances.len() > n && self.is_twin(from) && sees_second(to) {
            return vec![];
        }
        let second = (n..self.instances.len()).find(|i| self.instances.get(*i).is_some_and(|i| i.member == to));
        match second {
            Some(second) if sees_second(from) => vec![second],
            _ => vec![usize::from(to)],
        }
    }

    pub(super) fn is_twin(&self, member: u16) -> bool {
        self.instances.iter().skip(usize::from(self.plan.replicas)).any(|i| i.member == member)
    }

    pub(super) fn transmit(&mut self, at: usize, to: u16, message: ConsensusMessage) {
        let from = self.instances.get(at).map_or(0, |i| i.member);
        if from == to || self.cut(from, to) {
            return;
        }
        if self.rng.chance(self.loss) {
            return self.reach("message-lost");
        }
        let message = Arc::new(message);
        let network = self.plan.network.clone();
        let copies = 1 + u64::from(!self.healed && self.rng.chance(network.duplicates));
        for to in self.reaches(at, to) {
            for _ in 0..copies {
                let mut delay = self.rng.between(network.delay_min, network.delay_max);
                if !self.healed && self.rng.chance(network.spikes) {
                    delay += self.rng.below(network.spike_ms);
                }
                self.schedule(self.time + delay, Item::Message { from, to, message: message.clone() });
            }
        }
    }

    pub(super) fn receive(&mut self, from: u16, to: usize, message: &Arc<ConsensusMessage>) {
        self.trace.note(self.time, label(message), to, u64::from(from), 0);
        if self.instances.get(to).is_none_or(|i| i.live.is_none()) {
            return;
        }
        if self.lies(to) {
            let heard = self.with_liars(to, vec![()], |liar, (), means| if liar.hears(from, message, means) { vec![()] } else { vec![] });
            if heard.is_empty() {
                return;
            }
        }
        let mut message = ConsensusMessage::clone(message);
        if self.plan.wire {
            let Ok(bytes) = encode(&message) else { return };
            let fits = bytes.len() <= message.class().max_frame_bytes();
            match decode::<ConsensusMessage>(&bytes) {
                Ok(read) if fits => message = read,
                _ => return,
            }
        }
        let Some(live) = self.instances.get(to).and_then(|i| i.live.as_deref()) else { return };
        match live.verifier.message(from, message) {
            Ok(message) => self.event(to, Event::Message { from, message }),
            Err(_) => self.reach("message-refused"),
        }
    }

    pub(super) fn ask_for_batches(&mut self, at: usize, peer: ReplicaIndex, from_slot: Slot) {
        self.reach("catch-up");
        let Some(instance) = self.instances.get(at) else { return };
        let (member, life) = (instance.member, instance.life);
        let delay = 2 * self.rng.between(self.plan.network.delay_min, self.plan.network.delay_max) + 1;
        let from = self.reaches(at, peer).first().copied().filter(|_| !self.cut(member, peer) && !self.cut(peer, member));
        let served = from.and_then(|from| self.serve(from, from_slot));
        let honest = from.is_some_and(|from| self.honest(from));
        if let Some(batches) = served.as_ref().filter(|_| honest) {
            for batch in batches {
                let at = usize::try_from(batch.header.slot.saturating_sub(1)).unwrap_or(usize::MAX);
                if self.checker.committed().get(at) != Some(&batch.header.digest()) {
                    self.fail("20 damage is never served", format!("replica {peer} serves another batch at slot {}", batch.header.slot));
                    return;
                }
            }
        }
        self.schedule(self.time + delay, Item::CaughtUp { to: at, life, from: peer, batches: served });
    }

    pub(super) fn serve(&mut self, from: usize, slot: Slot) -> Option<Vec<CommittedBatch>> {
        let live = self.instances.get(from)?.live.as_ref()?;
        let batches = live.archive.batches(LogQuery::FromSlot { slot, max_bytes: 60_000 }).ok()?.batches;
        if !self.lies(from) {
            return Some(batches);
        }
        let served = self.with_liars(from, vec![batches], |liar, batches, means| vec![liar.serve(batches, means)]);
        served.into_iter().next()
    }

    pub(super) fn caught_up(&mut self, at: usize, life: u64, from: ReplicaIndex, batches: Option<Vec<CommittedBatch>>) {
        let Some(live) = self.alive(at, life) else { return };
        let verified = batches.and_then(|batches| batches.into_iter().map(|b| live.verifier.batch(b)).collect::<Result<Vec<_>, _>>().ok());
        match verified {
            Some(batches) => self.event(at, Event::CaughtUp { from, batches }),
            None => self.event(at, Event::CatchUpFailed { from }),
        }
    }
}
