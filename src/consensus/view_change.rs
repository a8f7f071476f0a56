//! Replacing a leader: complaints, view-changes, new-views.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::Record;
use super::state::{Accepted, Heard, Replica};
use super::{Effect, Halt};
use crate::crypto::{Digest, Signature};
use crate::planted::{Bug, on};
use crate::types::{
    CheckpointCertificate, ConsensusMessage, Header, NewView, Phase, PreparedCertificate, ReplicaIndex, SignedComplaint, Slot, View, ViewChange,
};

/// What a new-view implies: the highest certified checkpoint among its view-changes, and from there upward, for each slot, the header of the
/// certificate of the highest view; it stops at the first slot that is missing or whose parent is not the header chosen before it.
#[must_use]
pub fn choose(new_view: &NewView) -> (Option<CheckpointCertificate>, Vec<Header>) {
    let base = new_view.view_changes.iter().filter_map(|vc| vc.stable.as_ref()).max_by_key(|c| c.checkpoint.slot).cloned();
    let (base_slot, mut parent) = base.as_ref().map_or((0, Digest::ZERO), |c| (c.checkpoint.slot, c.checkpoint.digest));
    let mut best: BTreeMap<Slot, &PreparedCertificate> = BTreeMap::new();
    let longest = || new_view.view_changes.iter().max_by_key(|vc| vc.prepared.last().map(|c| c.header.slot)).map(|vc| vc.replica);
    let changes = new_view.view_changes.iter().filter(|vc| !on(Bug::HighestTip) || longest() == Some(vc.replica));
    for certificate in changes.flat_map(|vc| &vc.prepared).filter(|c| c.header.slot > base_slot) {
        let entry = best.entry(certificate.header.slot).or_insert(certificate);
        if (certificate.view > entry.view) != on(Bug::LowestView) {
            *entry = certificate;
        }
    }
    let mut chosen = Vec::new();
    for (slot, certificate) in (base_slot + 1..).zip(best) {
        let (found, certificate) = certificate;
        if found != slot || certificate.header.parent != parent && !on(Bug::ChosenParentUnchecked) {
            break;
        }
        parent = certificate.header.digest();
        chosen.push(certificate.header.clone());
    }
    (base, chosen)
}

impl Replica {
    /// Tells all that the current view does not serve, and goes on taking part in it.
    pub(super) fn complain(&mut self, reason: &'static str) {
        let Ok(signed) = self.safety.complaint(self.view) else { return };
        if self.complained != Some(self.view) {
            self.complained = Some(self.view);
            self.leave_reason = reason;
        }
        self.complaints.insert(self.me, Heard { view: self.view, at: self.now.mono });
        self.broadcast(ConsensusMessage::Complaint(signed));
        self.weigh_complaints();
    }

    pub(super) fn on_complaint(&mut self, signed: &SignedComplaint) {
        let view = signed.complaint.view;
        if view < self.view {
            return;
        }
        let entry = self.complaints.entry(signed.replica).or_insert(Heard { view, at: self.now.mono });
        if view >= entry.view {
            *entry = Heard { view, at: self.now.mono };
        }
        // A leader that says it does not lead is believed at once.
        if view == self.view && signed.replica == self.federation.leader(view) && !self.changing && self.complained != Some(view) {
            self.complain("the leader resigned");
        }
        self.weigh_complaints();
    }

    /// f+1 fresh complaints about this view or later ones include a correct replica's: leave for the view behind it. Who left a view complains
    /// about it for good, because it cannot come back: otherwise a replica that alone heard f+1 complaints would stay outside.
    fn weigh_complaints(&mut self) {
        let fresh_since = self.now.mono.saturating_sub(self.options.max_timeout_ms);
        let fresh = self.complaints.iter().filter(|(_, h)| h.at >= fresh_since && h.view >= self.view).map(|(i, h)| (*i, h.view));
        let left = self.view_changes.iter().filter(|(_, vc)| vc.new_view > self.view).map(|(i, vc)| (*i, vc.new_view - 1));
        let mut by_member: BTreeMap<ReplicaIndex, View> = BTreeMap::new();
        for (member, view) in fresh.chain(left) {
            let entry = by_member.entry(member).or_insert(view);
            *entry = view.max(*entry);
        }
        let mut views: Vec<View> = by_member.into_values().collect();
        views.sort_unstable();
        let weak = self.federation.weak_quorum();
        if let Some(view) = views.len().checked_sub(weak).and_then(|at| views.get(at)) {
            let reason = if self.complained == Some(*view) { self.leave_reason } else { "others complained" };
            self.start_view_change(view + 1, reason);
        }
    }

    /// Leaves for a view, and says what was prepared.
    pub(super) fn start_view_change(&mut self, new_view: View, reason: &'static str) {
        if self.suspect || new_view <= self.view {
            return;
        }
        let stable = self.stable.clone();
        let floor = self.stable_slot();
        let prepared = self.slots.range(floor + 1..=self.window_end()).filter_map(|(_, s)| s.prepared.clone());
        let prepared = prepared.filter(|_| !on(Bug::PreparedLeftOut)).collect();
        let unsigned = ViewChange { epoch: 0, new_view, stable, prepared, replica: self.me, signature: Signature([0; 64]) };
        let Ok(change) = self.safety.view_change(unsigned) else { return };
        let change = Arc::new(change);
        self.leave_reason = reason;
        self.count_view_changes += 1;
        self.timers.attempts = self.timers.attempts.saturating_add(1);
        self.record(Record::ViewChange(change.clone()));
        self.broadcast(ConsensusMessage::ViewChange(change.clone()));
        self.view_changes.insert(self.me, change);
        self.weigh_view_changes();
    }

    pub(super) fn on_view_change(&mut self, change: Arc<ViewChange>) {
        self.judge_view_change(&change);
        if change.new_view < self.view || (change.new_view == self.view && !self.changing) || change.replica == self.me {
            return;
        }
        let known = self.view_changes.get(&change.replica);
        if known.is_none_or(|known| known.new_view < change.new_view) {
            self.view_changes.insert(change.replica, change);
            self.weigh_view_changes();
            self.weigh_complaints();
        }
    }

    /// Joins the smallest view that f+1 members move to; starts the timer, and the view if it is this replica's to lead, once a quorum does.
    fn weigh_view_changes(&mut self) {
        let above: Vec<View> = self.view_changes.values().map(|vc| vc.new_view).filter(|v| *v > self.view).collect();
        if above.len() >= self.federation.weak_quorum()
            && let Some(smallest) = above.iter().min()
        {
            return self.start_view_change(*smallest, "others left the view");
        }
        if !self.changing {
            return;
        }
        // Whoever left for a later view cannot come back to this one: a quorum at this view or beyond is all that it will ever get.
        let there = |vc: &&Arc<ViewChange>| vc.new_view == self.view || vc.new_view > self.view && !on(Bug::ExactViewQuorum);
        if self.view_changes.values().filter(there).count() >= self.federation.quorum() {
            self.timers.quorum_since.get_or_insert(self.now.mono);
        }
        let joined: Vec<ViewChange> = self.view_changes.values().filter(|vc| vc.new_view == self.view).map(|vc| ViewChange::clone(vc)).collect();
        if self.leads() && joined.len() >= self.federation.quorum() {
            let unsigned = NewView { epoch: 0, view: self.view, view_changes: joined, signature: Signature([0; 64]) };
            if let Ok(new_view) = self.safety.new_view(unsigned) {
                self.enter(Arc::new(new_view));
            }
        }
    }

    pub(super) fn on_new_view(&mut self, new_view: Arc<NewView>) {
        self.judge_new_view(&new_view);
        if new_view.view > self.view || (new_view.view == self.view && self.changing) {
            self.enter(new_view);
        }
    }

    fn enter(&mut self, new_view: Arc<NewView>) {
        let view = new_view.view;
        let leads = self.federation.leader(view) == self.me;
        self.record(Record::NewView(new_view.clone()));
        if leads {
            self.broadcast(ConsensusMessage::NewView(new_view));
        }
        self.out.effects.push(Effect::ViewEntered { view, reason: self.leave_reason });
        self.timers.view_entered = self.now.mono;
        self.timers.work_since = None;
        self.forward_pending();
        self.fetch_missing_bodies();
    }

    pub(super) fn apply_view_change(&mut self, change: &Arc<ViewChange>) {
        self.safety.leave(change.new_view);
        self.own_view_change = Some(change.clone());
        self.own_new_view = None;
        self.begin_view(change.new_view, true);
        if on(Bug::EntersWithoutNewView) {
            self.safety.enter(change.new_view);
            self.changing = false;
        }
    }

    /// A new-view: adopt its checkpoint, and take the chosen headers as accepted.
    pub(super) fn apply_new_view(&mut self, new_view: &Arc<NewView>) {
        self.safety.enter(new_view.view);
        self.view_ended_by = None;
        self.own_view_change = None;
        self.own_new_view = Some(new_view.clone());
        self.begin_view(new_view.view, false);
        let (base, chosen) = choose(new_view);
        if let Some(certificate) = base {
            self.apply_stable(&certificate);
        }
        for header in chosen {
            self.accept_chosen(new_view.view, header);
        }
        self.fill_frontiers();
    }

    fn accept_chosen(&mut self, view: View, header: Header) {
        let (slot, digest) = (header.slot, header.digest());
        if slot <= self.floor() {
            return;
        }
        self.safety.remember(Phase::Prepare, view, slot, digest);
        let state = self.slots.entry(slot).or_default();
        if state.committed.is_some_and(|committed| committed != digest) {
            self.out.effects.push(Effect::Halt(Halt::Fork { slot }));
            return;
        }
        state.accepted = Some(Accepted { header, digest, proposal: None, frontier: None });
        if slot > self.tip.slot
            && let Some((_, body)) = self.bodies.get(&(slot, digest))
        {
            self.duplicates.take_in_flight(body, slot);
            for digests in &body.digests.submissions {
                self.pool.mark(&digests.submission, slot);
            }
        }
    }

    /// Forgets what was of the view before.
    fn begin_view(&mut self, view: View, changing: bool) {
        self.view = view;
        self.changing = changing;
        self.voted_with_us.clear();
        self.vote_cursor = self.floor() + 1;
        for state in self.slots.values_mut() {
            state.accepted = None;
            state.prepare_sent = false;
            state.commit_sent = false;
            state.prepares.enter(view);
            state.commits.enter(view);
        }
        self.duplicates.clear_in_flight();
        self.pool.unmark_all();
        self.proposals.retain(|_, p| p.view == view);
        let (now, later): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.proposals_ahead).into_iter().partition(|(_, p)| p.view <= view);
        self.proposals.extend(now.into_iter().filter(|(_, p)| p.view == view));
        self.proposals_ahead = later;
        self.complaints.retain(|_, heard| heard.view >= view);
        self.complained = None;
        self.view_changes.retain(|_, vc| vc.new_view > view || (changing && vc.new_view == view));
        self.timers.quorum_since = None;
    }

    /// The timeout after so many view changes without a commit.
    pub(super) fn scaled(&self, timeout_ms: u64) -> u64 {
        let factor = 1u64 << self.timers.attempts.min(16);
        timeout_ms.saturating_mul(factor).min(self.options.max_timeout_ms.max(timeout_ms))
    }

    /// Complains when pending work is not served.
    pub(super) fn check_timers(&mut self) {
        let now = self.now.mono;
        if self.changing {
            let waited = self.timers.quorum_since.map_or(0, |since| now.saturating_sub(since));
            if waited > self.scaled(self.options.stall_timeout_ms) && self.complained != Some(self.view) {
                self.complain("the new leader did not begin its view");
            }
            return;
        }
        // While the duplicate table is full no leader can serve, and none is to blame.
        let room = self.duplicates.has_room(self.federation.parameters().max_submission_updates);
        // Nor is one for what has expired: no leader may propose it any more.
        let oldest = self.pool.oldest(self.now.wall).filter(|_| room);
        let has_work = oldest.is_some() || self.head() > self.tip.slot;
        if !has_work {
            self.timers.work_since = None;
            return;
        }
        let since = *self.timers.work_since.get_or_insert(now);
        let stalled = now.saturating_sub(since) > self.scaled(self.options.stall_timeout_ms);
        let oldest = oldest.map_or(now, |at| at.max(self.timers.view_entered));
        let starved = !on(Bug::RequestTimeoutIgnored) && now.saturating_sub(oldest) > self.scaled(self.options.request_timeout_ms);
        if on(Bug::TimeoutsIgnored) {
            return;
        }
        if (stalled || starved) && self.complained != Some(self.view) {
            self.complain(if stalled { "nothing was committed while work was pending" } else { "a submission was left waiting" });
        }
    }

    /// The own view-change, as long as it stands. A suspect replica repeats none: what its damaged journal still shows was perhaps never durable.
    fn own_change_to_repeat(&self) -> Option<Arc<ViewChange>> {
        self.own_view_change.clone().filter(|_| self.changing && !self.suspect)
    }

    /// Says again, while it still holds, what may have been lost: the complaint, the view-change.
    pub(super) fn repeat_view_change(&mut self) {
        if let Some(change) = self.own_change_to_repeat().filter(|_| !on(Bug::ViewChangeNotRepeated)) {
            self.broadcast(ConsensusMessage::ViewChange(change));
            if let Some(evidence) = self.view_ended_by.clone() {
                self.broadcast(ConsensusMessage::Evidence(evidence));
            }
        }
        if self.barred_view == Some(self.view) && self.leads() && !self.changing {
            self.complain("restarted as leader");
        } else if self.complained == Some(self.view) && (self.timers.work_since.is_some() || self.changing) {
            self.complain(self.leave_reason);
        }
    }

    /// Helps a peer that stands in an older view, or between views, into this one.
    pub(super) fn help_into_view(&mut self, peer: ReplicaIndex) {
        if self.changing {
            if let Some(change) = self.own_change_to_repeat() {
                self.send(peer, ConsensusMessage::ViewChange(change));
            }
        } else if let Some(new_view) = self.own_new_view.clone() {
            self.send(peer, ConsensusMessage::NewView(new_view));
        }
    }
}
