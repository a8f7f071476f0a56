//! Status gossip: replicas tell each other where they stand, and send again what a peer seems to lack.

use super::state::Replica;
use crate::planted::{Bug, on};
use crate::types::{ConsensusMessage, ReplicaIndex, Status};

impl Replica {
    pub(super) fn on_tick(&mut self) {
        self.check_timers();
        if self.now.mono.saturating_sub(self.timers.last_gossip) >= self.options.gossip_ms {
            self.timers.last_gossip = self.now.mono;
            self.peers.iter_mut().for_each(|peer| peer.bodies = 0);
            self.broadcast(ConsensusMessage::Status(self.own_status()));
            self.expire_submissions();
            self.spread_late(self.options.stall_timeout_ms / 2);
            self.repeat_view_change();
            self.fetch_missing_bodies();
            self.ask_to_rejoin();
        }
        self.consider_catch_up();
    }

    fn own_status(&self) -> Status {
        Status { epoch: 0, view: self.view, changing: self.changing, committed: self.tip.slot, accepted: self.head(), stable: self.stable_slot() }
    }

    /// Remembers where a peer stands. Only a peer that did not move since its last status is sent anything again, so a healthy federation
    /// gossips nothing but statuses.
    pub(super) fn on_status(&mut self, from: ReplicaIndex, status: Status) {
        let Some(peer) = self.peers.get_mut(usize::from(from)) else { return };
        peer.repeats = if peer.status == Some(status) { peer.repeats.saturating_add(1) } else { 0 };
        peer.status = Some(status);
        let repeats = peer.repeats;
        // Not more often than it should ask: an answer may be much larger than the question.
        if repeats == 0 || from == self.me || self.now.mono < peer.helped_at.saturating_add(self.options.gossip_ms / 2) {
            return;
        }
        peer.helped_at = self.now.mono;
        if status.view < self.view || (status.view == self.view && status.changing && !self.changing) {
            self.help_into_view(from);
        } else if status.view == self.view && !status.changing && !self.changing && status.committed >= self.floor() {
            // Bodies are heavy, and a peer that is merely slow has them: they go again less often.
            self.resend_to(from, &status, repeats.is_multiple_of(4));
        }
        if on(Bug::CheckpointsNotResent) {
            return;
        }
        if status.stable < self.stable_slot()
            && let Some(stable) = self.stable.clone()
        {
            self.send(from, ConsensusMessage::Stable(stable));
        } else {
            self.resend_checkpoints(from, status.stable);
        }
    }

    /// Own checkpoint signatures that may have been lost.
    fn resend_checkpoints(&mut self, to: ReplicaIndex, stable: u64) {
        let own = self.checkpoints.range(stable + 1..).filter_map(|(_, votes)| votes.get(&self.me)).cloned();
        let messages: Vec<_> = own.map(ConsensusMessage::Checkpoint).collect();
        messages.into_iter().for_each(|message| self.send(to, message));
    }
}
