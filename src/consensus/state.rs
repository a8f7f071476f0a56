//! What a replica knows, and the one place where its protocol state changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::duplicates::DuplicateTable;
use super::pool::Pool;
use super::record::Record;
use super::rejoin::{Rejoining, Suspicion};
use super::safety::Safety;
use super::verify::{Checked, CheckedBody, CheckedProposal, Verified};
use super::{CoreOptions, Delivery, Effect, Event, Halt, Now, Step};
use crate::crypto::merkle::Frontier;
use crate::crypto::{Digest, SigningKey};
use crate::planted::{Bug, on};
use crate::types::{
    Checkpoint, CheckpointCertificate, CommitCertificate, Federation, Header, NewView, PreparedCertificate, ReplicaIndex, Role, Sequence,
    SignedCheckpoint, SignedVote, Slot, Status, TimestampMs, View, ViewChange,
};

/// The end of the committed chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// The last committed slot; 0 for the empty log.
    pub slot: Slot,
    /// The last committed sequence number; 0 for the empty log.
    pub sequence: Sequence,
    /// The digest of its header; zero for the empty log.
    pub digest: Digest,
    /// The timestamp of its header; 0 for the empty log.
    pub timestamp: TimestampMs,
    /// The tree's frontier behind it.
    pub frontier: Frontier,
}

impl Tip {
    /// The tip of the empty log.
    #[must_use]
    pub fn genesis() -> Self {
        Self { slot: 0, sequence: 0, digest: Digest::ZERO, timestamp: 0, frontier: Frontier::default() }
    }
}

/// A header accepted, or chosen by a new-view, in the current view.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) header: Header,
    pub(super) digest: Digest,
    /// The leader's proposal, unless a new-view chose it.
    pub(super) proposal: Option<SignedVote>,
    /// The tree's frontier behind it; `None` until every batch before it is held.
    pub(super) frontier: Option<Frontier>,
}

/// The votes of one phase at one slot: for the current view, and per member the highest view ahead of it.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct VoteBox {
    pub(super) current: BTreeMap<ReplicaIndex, SignedVote>,
    pub(super) ahead: BTreeMap<ReplicaIndex, SignedVote>,
}

impl VoteBox {
    /// Keeps a vote; gives back an earlier one that it contradicts.
    pub(super) fn insert(&mut self, view: View, vote: SignedVote) -> Option<SignedVote> {
        let (same_view, votes) = if vote.vote.view == view { (true, &mut self.current) } else { (false, &mut self.ahead) };
        if vote.vote.view < view {
            return None;
        }
        match votes.get(&vote.replica) {
            Some(known) if known.vote.view == vote.vote.view || on(Bug::ViewsContradict) => {
                (known.vote.digest != vote.vote.digest).then(|| known.clone())
            }
            Some(known) if !same_view && known.vote.view > vote.vote.view => None,
            _ => {
                votes.insert(vote.replica, vote);
                None
            }
        }
    }

    /// Moves to a view: votes ahead for it become current. Entering the same view twice (leaving for it, then beginning it) loses nothing.
    pub(super) fn enter(&mut self, view: View) {
        self.current.retain(|_, v| v.vote.view == view || on(Bug::MixedViews));
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ahead).into_iter().partition(|(_, v)| v.vote.view <= view);
        self.current.extend(now.into_iter().filter(|(_, v)| v.vote.view == view));
        self.ahead.extend(later);
    }

    pub(super) fn matching(&self, digest: Digest) -> impl Iterator<Item = &SignedVote> {
        self.current.values().filter(move |v| v.vote.digest == digest)
    }
}

/// One slot above the floor.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct SlotState {
    pub(super) accepted: Option<Accepted>,
    pub(super) prepared: Option<PreparedCertificate>,
    pub(super) committed: Option<Digest>,
    pub(super) prepare_sent: bool,
    pub(super) commit_sent: bool,
    pub(super) prepares: VoteBox,
    pub(super) commits: VoteBox,
}

/// What is known of a peer, from its own gossip.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peer {
    pub(super) status: Option<Status>,
    /// How many statuses in a row were the same: it may be waiting for something that was lost.
    pub(super) repeats: u32,
    /// When it was last sent something again (monotonic ms), and how many bodies since.
    pub(super) helped_at: u64,
    pub(super) bodies: u32,
}

/// A complaint and when it was last heard (monotonic ms).
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    pub(super) view: View,
    pub(super) at: u64,
}

/// Timers and what they watch; all monotonic ms.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Timers {
    pub(super) view_entered: u64,
    pub(super) work_since: Option<u64>,
    pub(super) last_commit: u64,
    pub(super) last_gossip: u64,
    pub(super) quorum_since: Option<u64>,
    /// View changes since the last commit.
    pub(super) attempts: u32,
}

/// Where the core stands, for the node's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreStatus {
    /// The view.
    pub view: View,
    /// What the replica does.
    pub role: Role,
    /// The last committed slot.
    pub slot: Slot,
    /// The last committed sequence number.
    pub sequence: Sequence,
    /// The log root.
    pub log_root: Digest,
    /// The stable checkpoint's slot.
    pub stable_slot: Slot,
    /// The lowest slot, less one, that the protocol still works on.
    pub floor: Slot,
    /// Submissions pending.
    pub pending: u64,
    /// View changes since the start.
    pub view_changes: u64,
    /// Contradictions seen since the start.
    pub evidence: u64,
    /// Proposals refused since the start.
    pub refused: u64,
    /// What each member last said of itself, by member.
    pub peers: Vec<Option<Status>>,
}

/// The protocol state of one replica.
#[cfg_attr(test, derive(Clone))]
pub struct Replica {
    pub(super) federation: Arc<Federation>,
    pub(super) me: ReplicaIndex,
    pub(super) options: CoreOptions,
    /// It signs nothing, for one or both of the next two reasons.
    pub(super) suspect: bool,
    pub(super) rejoining: Option<Rejoining>,
    pub(super) blind_until: TimestampMs,
    pub(super) safety: Safety,
    pub(super) now: Now,
    pub(super) out: Step,
    // Durable: changed by `apply` alone.
    pub(super) run: u64,
    pub(super) view: View,
    pub(super) changing: bool,
    pub(super) tip: Tip,
    pub(super) stable: Option<CheckpointCertificate>,
    pub(super) slots: BTreeMap<Slot, SlotState>,
    pub(super) bodies: BTreeMap<(Slot, Digest), (Header, CheckedBody)>,
    pub(super) duplicates: DuplicateTable,
    pub(super) own_view_change: Option<Arc<ViewChange>>,
    pub(super) own_new_view: Option<Arc<NewView>>,
    // Volatile.
    pub(super) barred_view: Option<View>,
    pub(super) pool: Pool,
    /// Of the current view, not yet judged.
    pub(super) proposals: BTreeMap<Slot, Arc<CheckedProposal>>,
    /// Of later views.
    pub(super) proposals_ahead: BTreeMap<Slot, Arc<CheckedProposal>>,
    pub(super) vote_cursor: Slot,
    /// Who voted in the current view: f + 1 of them prove that its new-view left this replica, if it leads.
    pub(super) voted_with_us: std::collections::BTreeSet<ReplicaIndex>,
    pub(super) complaints: BTreeMap<ReplicaIndex, Heard>,
    pub(super) complained: Option<View>,
    pub(super) view_changes: BTreeMap<ReplicaIndex, Arc<ViewChange>>,
    pub(super) leave_reason: &'static str,
    pub(super) checkpoints: BTreeMap<Slot, BTreeMap<ReplicaIndex, SignedCheckpoint>>,
    pub(super) peers: Vec<Peer>,
    pub(super) catching_up: Option<ReplicaIndex>,
    /// Who was asked last.
    pub(super) caught_up_from: Option<ReplicaIndex>,
    pub(super) timers: Timers,
    pub(super) evidence_seen: std::collections::BTreeSet<super::accuse::Offence>,
    /// The evidence for which the last view was left, as long as the next one has not begun.
    pub(super) view_ended_by: Option<Box<crate::types::Evidence>>,
    /// The Commit of the highest view that each member sent for each slot above the floor.
    pub(super) commits_heard: BTreeMap<(ReplicaIndex, Slot), SignedVote>,
    pub(super) count_view_changes: u64,
    pub(super) count_evidence: u64,
    pub(super) count_refused: u64,
}

impl Replica {
    /// A replica whose log ends at `tip` and whose duplicate table is that of the log. Replay its journal's records next, then [`Replica::resume`].
    #[must_use]
    pub fn new(
        federation: Arc<Federation>,
        me: ReplicaIndex,
        key: SigningKey,
        options: CoreOptions,
        tip: Tip,
        duplicates: DuplicateTable,
        suspicion: Suspicion,
    ) -> Self {
        let n = federation.size();
        let suspect = suspicion != Suspicion::default();
        Self {
            safety: Safety::new(federation.clone(), me, key, suspect),
            pool: Pool::new(options.pool_bytes, options.pool_author_bytes),
            federation,
            me,
            options,
            suspect,
            rejoining: suspicion.votes_lost.map(Rejoining::new),
            blind_until: suspicion.blind_until,
            now: Now::default(),
            out: Step::default(),
            run: 0,
            view: 0,
            changing: false,
            tip,
            stable: None,
            slots: BTreeMap::new(),
            bodies: BTreeMap::new(),
            duplicates,
            own_view_change: None,
            own_new_view: None,
            barred_view: None,
            proposals: BTreeMap::new(),
            proposals_ahead: BTreeMap::new(),
            vote_cursor: 1,
            voted_with_us: std::collections::BTreeSet::new(),
            complaints: BTreeMap::new(),
            complained: None,
            view_changes: BTreeMap::new(),
            leave_reason: "",
            checkpoints: BTreeMap::new(),
            peers: vec![Peer::default(); n],
            catching_up: None,
            caught_up_from: None,
            timers: Timers::default(),
            evidence_seen: std::collections::BTreeSet::new(),
            commits_heard: BTreeMap::new(),
            view_ended_by: None,
            count_view_changes: 0,
            count_evidence: 0,
            count_refused: 0,
        }
    }

    /// Applies a record read back from the journal.
    pub fn replay(&mut self, record: &Record) {
        let forgotten = match record {
            Record::Prepared(_) => on(Bug::PreparedForgotten),
            Record::ViewChange(_) => on(Bug::ViewChangeForgotten),
            Record::NewView(_) => on(Bug::NewViewForgotten),
            _ => false,
        };
        if !forgotten {
            self.apply(record);
        }
    }

    /// Ends recovery. A replica that ran before never proposes in the view it comes back to, because it may have led it: proposals leave
    /// before they are recorded.
    ///
    /// `durable` are the checkpoints above the stable one that the log holds: their signatures were lost with the memory, and without them a
    /// full window would never move again.
    pub fn resume(&mut self, now: Now, durable: &[Checkpoint]) -> Step {
        self.now = now;
        self.timers.view_entered = now.mono;
        self.timers.last_commit = now.mono;
        // Records have no effects; but a halt is as true now as it was then.
        self.out.effects.retain(|effect| matches!(effect, Effect::Halt(_)));
        self.vote_cursor = self.floor() + 1;
        if self.run > 1 && !self.changing && !on(Bug::ProposesAfterRestart) {
            self.barred_view = Some(self.view);
        }
        if let Some(change) = self.own_view_change.clone() {
            self.view_changes.insert(self.me, change);
        }
        if self.barred_view == Some(self.view) && self.leads() {
            self.complain("restarted as leader");
        }
        durable.iter().filter(|_| !on(Bug::CheckpointsNotSignedAgain)).for_each(|checkpoint| self.on_log_durable(*checkpoint));
        std::mem::take(&mut self.out)
    }

    /// Handles one event.
    pub fn handle(&mut self, now: Now, event: Event) -> Step {
        self.now = Now { wall: now.wall, mono: now.mono.max(self.now.mono) };
        match event {
            Event::Message { from, message } => self.on_message(from, message),
            Event::Submit { submission, waiter } => self.on_submit(submission.into_inner(), Some(waiter)),
            Event::LogDurable(checkpoint) => self.on_log_durable(checkpoint),
            Event::CaughtUp { from, batches } => self.on_caught_up(from, batches),
            Event::CatchUpFailed { from } => self.on_catch_up_failed(from),
            Event::Tick => self.on_tick(),
        }
        self.advance();
        std::mem::take(&mut self.out)
    }

    fn on_message(&mut self, from: ReplicaIndex, message: Verified<Checked>) {
        match message.into_inner() {
            Checked::Proposal(proposal) => self.on_proposal(proposal),
            Checked::Vote(vote) => self.on_vote(vote),
            Checked::Checkpoint(checkpoint) => self.on_checkpoint(checkpoint),
            Checked::Stable(certificate) => self.on_stable(certificate),
            Checked::Complaint(complaint) => self.on_complaint(&complaint),
            Checked::ViewChange(change) => self.on_view_change(change),
            Checked::NewView(new_view) => self.on_new_view(new_view),
            Checked::Status(status) => self.on_status(from, status),
            Checked::Forward(submission) => self.on_submit(submission, None),
            Checked::FetchBody(fetch) => self.on_fetch_body(from, fetch),
            Checked::Body(header, body) => self.on_body(header, body),
            Checked::Evidence(found) => self.on_evidence(found),
            Checked::Rejoin(rejoin) => self.on_rejoin(from, &rejoin),
            Checked::RejoinAnswer(answer) => self.on_rejoin_answer(from, &answer),
        }
    }

    /// What an event made possible: accept, vote, decide, propose.
    fn advance(&mut self) {
        self.consider_rejoining();
        if self.changing {
            return;
        }
        self.accept_buffered();
        self.drive_votes();
        while self.propose() {
            self.drive_votes();
        }
    }

    /// Makes a record and applies it.
    pub(super) fn record(&mut self, record: Record) {
        self.apply(&record);
        self.out.records.push(record);
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Proposal { view, header, signature, body } => self.apply_proposal(*view, header, *signature, body),
            Record::Body { header, body, .. } => self.apply_body(header, body),
            Record::Committed(certificate) => self.apply_committed(certificate),
            Record::Prepared(certificate) => {
                let vote = certificate.vote();
                self.safety.remember(crate::types::Phase::Commit, vote.view, vote.slot, vote.digest);
                if vote.slot > self.floor() {
                    let slot = self.slots.entry(vote.slot).or_default();
                    if slot.prepared.as_ref().is_none_or(|known| known.view < certificate.view) {
                        slot.prepared = Some(certificate.clone());
                    }
                }
            }
            Record::ViewChange(change) => self.apply_view_change(change),
            Record::NewView(new_view) => self.apply_new_view(new_view),
            Record::Stable(certificate) => self.apply_stable(certificate),
            Record::Owner(_) => {}
            Record::Started { run } => self.run = *run,
        }
    }

    /// A committed batch moves the tip; replayed below the tip it only marks its slot.
    fn apply_committed(&mut self, certificate: &CommitCertificate) {
        if certificate.slot > self.floor() {
            self.slots.entry(certificate.slot).or_default().committed = Some(certificate.digest);
        }
        if certificate.slot != self.tip.slot + 1 {
            return;
        }
        let Some((header, body)) = self.bodies.get(&(certificate.slot, certificate.digest)).cloned() else { return };
        let mut frontier = std::mem::take(&mut self.tip.frontier);
        body.leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
        self.duplicates.commit(&body, header.slot, header.first_sequence, header.timestamp);
        self.tip = Tip { slot: header.slot, sequence: header.last_sequence(), digest: certificate.digest, timestamp: header.timestamp, frontier };
        let accepted = self.slots.get(&certificate.slot).and_then(|s| s.accepted.as_ref()).map(|a| a.digest);
        if accepted.is_some_and(|digest| digest != certificate.digest) {
            self.rebuild_in_flight();
        }
        self.fill_frontiers();
        self.prune();
    }

    /// Keeps a body, and what follows from holding it.
    pub(super) fn apply_body(&mut self, header: &Header, body: &CheckedBody) {
        if header.slot <= self.floor() {
            return;
        }
        let digest = header.digest();
        self.bodies.insert((header.slot, digest), (header.clone(), body.clone()));
        let wanted = self.slots.get(&header.slot).and_then(|s| s.accepted.as_ref()).is_some_and(|a| a.digest == digest);
        if wanted && header.slot > self.tip.slot {
            self.duplicates.take_in_flight(body, header.slot);
            self.fill_frontiers();
        }
    }

    /// Computes the frontiers behind accepted batches as far as their bodies are held.
    pub(super) fn fill_frontiers(&mut self) {
        let mut slot = self.tip.slot + 1;
        let mut previous = self.tip.frontier.clone();
        let mut parent = self.tip.digest;
        while let Some(accepted) = self.slots.get_mut(&slot).and_then(|s| s.accepted.as_mut()) {
            // A later view committed another batch below: this branch is dead, and the next new-view will clear it away.
            if accepted.header.parent != parent {
                return;
            }
            parent = accepted.digest;
            if let Some(frontier) = &accepted.frontier {
                previous = frontier.clone();
            } else {
                let Some((_, body)) = self.bodies.get(&(slot, accepted.digest)) else { return };
                body.leaf_hashes.iter().for_each(|leaf| previous.append(*leaf));
                if previous.root() != accepted.header.log_root {
                    self.out.effects.push(Effect::Halt(Halt::Root { slot }));
                    return;
                }
                accepted.frontier = Some(previous.clone());
            }
            slot += 1;
        }
    }

    pub(super) fn rebuild_in_flight(&mut self) {
        self.duplicates.clear_in_flight();
        for (slot, state) in self.slots.range(self.tip.slot + 1..) {
            let Some(accepted) = &state.accepted else { continue };
            if let Some((_, body)) = self.bodies.get(&(*slot, accepted.digest)) {
                self.duplicates.take_in_flight(body, *slot);
            }
        }
    }

    /// Drops what no slot above the floor needs.
    pub(super) fn prune(&mut self) {
        let floor = if on(Bug::NothingPruned) { 0 } else { self.floor() };
        self.slots = self.slots.split_off(&(floor + 1));
        self.bodies = self.bodies.split_off(&(floor + 1, Digest::ZERO));
        self.proposals = self.proposals.split_off(&(self.tip.slot + 1));
        self.proposals_ahead = self.proposals_ahead.split_off(&(self.tip.slot + 1));
        self.safety.forget_through(floor);
        self.vote_cursor = self.vote_cursor.max(floor + 1);
    }

    /// Commits the next batch: record, delivery, answers.
    pub(super) fn commit(&mut self, certificate: CommitCertificate, header: Header, body: CheckedBody) {
        let before = self.tip.frontier.clone();
        self.record(Record::Committed(certificate.clone()));
        let answers = self.settle(&header, &body);
        let checkpoint = header.slot.is_multiple_of(self.federation.parameters().checkpoint_slots);
        self.out.effects.push(Effect::Deliver(Box::new(Delivery { header, certificate, body, before, answers, checkpoint })));
        self.timers.last_commit = self.now.mono;
        self.timers.work_since = None;
        self.timers.attempts = 0;
        // Progress: a complaint is made anew if its reason still holds.
        self.complained = None;
        self.complaints.remove(&self.me);
    }

    /// The slot at or below which nothing is in progress: everything up to it is both stable and in this replica's log.
    #[must_use]
    pub(super) fn floor(&self) -> Slot {
        self.stable_slot().min(self.tip.slot)
    }

    pub(super) fn stable_slot(&self) -> Slot {
        self.stable.as_ref().map_or(0, |c| c.checkpoint.slot)
    }

    /// The highest slot in the window.
    pub(super) fn window_end(&self) -> Slot {
        self.stable_slot() + self.federation.parameters().window_slots
    }

    /// Whether a slot is in progress: in the window above the floor, or above the stable checkpoint that the log has yet to reach.
    pub(super) fn in_progress(&self, slot: Slot) -> bool {
        let window = self.federation.parameters().window_slots;
        [self.floor(), self.stable_slot()].iter().any(|low| slot > *low && (slot - low <= window || on(Bug::WindowIgnored)))
    }

    /// The last slot accepted in this view, or committed, without a gap.
    pub(super) fn head(&self) -> Slot {
        let mut head = self.tip.slot;
        while self.slots.get(&(head + 1)).is_some_and(|s| s.accepted.is_some()) {
            head += 1;
        }
        head
    }

    pub(super) fn leads(&self) -> bool {
        self.federation.leader(self.view) == self.me
    }

    pub(super) fn broadcast(&mut self, message: crate::types::ConsensusMessage) {
        self.out.effects.push(Effect::Broadcast(message));
    }

    pub(super) fn send(&mut self, to: ReplicaIndex, message: crate::types::ConsensusMessage) {
        if to != self.me {
            self.out.effects.push(Effect::Send { to, message });
        }
    }

    /// The records that stand for the whole voting state: what the voting part of the journal begins anew with.
    #[must_use]
    pub fn voting_snapshot(&self) -> Vec<Record> {
        let mut records = vec![Record::Owner(self.safety.owner()), Record::Started { run: self.run }];
        records.extend(self.stable.clone().map(Record::Stable));
        records.extend(self.own_new_view.clone().map(Record::NewView));
        records.extend(self.own_view_change.clone().filter(|_| !on(Bug::SnapshotWithoutViewChange)).map(Record::ViewChange));
        let prepared = self.slots.values().filter_map(|s| s.prepared.clone());
        records.extend(prepared.filter(|_| !on(Bug::SnapshotWithoutPrepared)).map(Record::Prepared));
        records
    }

    /// Where the replica stands.
    #[must_use]
    pub fn status(&self) -> CoreStatus {
        let role = match (self.suspect, self.changing, self.leads()) {
            (true, _, _) => Role::Suspect,
            (_, true, _) => Role::Changing,
            (_, _, true) => Role::Leader,
            _ => Role::Follower,
        };
        CoreStatus {
            view: self.view,
            role,
            slot: self.tip.slot,
            sequence: self.tip.sequence,
            log_root: self.tip.frontier.root(),
            stable_slot: self.stable_slot(),
            floor: self.floor(),
            pending: self.pool.len() as u64,
            view_changes: self.count_view_changes,
            evidence: self.count_evidence,
            refused: self.count_refused,
            peers: self.peers.iter().map(|peer| peer.status).collect(),
        }
    }
}
