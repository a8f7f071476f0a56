//! What must hold after every event, whoever lies or crashes. The numbers are those of `docs/testing.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::consensus::{CheckedBody, Record, Replica, choose};
use crate::crypto::{Digest, PublicKey, sha256};
use crate::types::{
    CommitCertificate, ConsensusMessage, Evidence, Federation, Header, NewView, Phase, Sequence, Signed, SignedVote, Slot, Submission, TimestampMs,
    UpdateId, View, ViewChange, ViewChangeClaim, Vote, encode,
};

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
    /// When, ms from the start.
    pub at: u64,
}

/// What a replica has durably said that it knows, and may therefore act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fact {
    Accepted(View, Slot, Digest),
    Body(Slot, Digest),
    Prepared(View, Slot, Digest),
    Left(View),
    Entered(View),
}

/// The facts of a record.
pub(super) fn facts_of(record: &Record, out: &mut Vec<Fact>) {
    match record {
        Record::Proposal { view, header, .. } => {
            let digest = header.digest();
            out.extend([Fact::Accepted(*view, header.slot, digest), Fact::Body(header.slot, digest)]);
        }
        Record::Body { header, .. } => out.push(Fact::Body(header.slot, header.digest())),
        Record::Prepared(certificate) => {
            let vote = certificate.vote();
            out.push(Fact::Prepared(vote.view, vote.slot, vote.digest));
        }
        Record::ViewChange(change) => out.push(Fact::Left(change.new_view)),
        Record::NewView(new_view) => {
            out.push(Fact::Entered(new_view.view));
            out.extend(choose(new_view).1.iter().map(|header| Fact::Accepted(new_view.view, header.slot, header.digest())));
        }
        _ => {}
    }
}

/// The facts that a recovered replica acts on.
pub(super) fn facts_of_recovered(core: &Replica) -> Vec<Fact> {
    let place = core.place();
    let mut facts = vec![if place.changing { Fact::Left(place.view) } else { Fact::Entered(place.view) }];
    for (phase, view, slot, digest) in core.remembered() {
        match phase {
            Phase::Commit => facts.push(Fact::Prepared(view, slot, digest)),
            _ => facts.push(Fact::Accepted(view, slot, digest)),
        }
    }
    facts.extend(core.held_bodies().map(|(slot, digest)| Fact::Body(slot, digest)));
    facts
}

/// Where an update stands, its data digest, and until when its id may not be used again.
type Placed = (Sequence, Digest, TimestampMs);

/// The ledgers of everything signed, sent and committed in a run.
pub(super) struct Checker {
    federation: Arc<Federation>,
    votes: BTreeMap<(u16, Phase, View, Slot), Digest>,
    statements: BTreeMap<(u16, &'static str, u64), Digest>,
    /// The highest view that each member said it left for.
    left: BTreeMap<u16, View>,
    stable: BTreeMap<u16, Slot>,
    committed: Vec<Digest>,
    /// What a quorum's Commits of one view prove, whether or not anybody collected them.
    proven: BTreeMap<Slot, (View, Digest)>,
    places: BTreeMap<(PublicKey, UpdateId), Vec<Placed>>,
    last_sequence: Sequence,
    last_time: TimestampMs,
}

fn broken(invariant: &'static str, detail: String) -> Violation {
    Violation { invariant, detail, at: 0 }
}

impl Checker {
    pub(super) fn new(federation: Arc<Federation>) -> Self {
        Self {
            federation,
            votes: BTreeMap::new(),
            statements: BTreeMap::new(),
            left: BTreeMap::new(),
            stable: BTreeMap::new(),
            committed: Vec::new(),
            proven: BTreeMap::new(),
            places: BTreeMap::new(),
            last_sequence: 0,
            last_time: 0,
        }
    }

    /// The digests committed, by slot from 1.
    pub(super) fn committed(&self) -> &[Digest] {
        &self.committed
    }

    /// Whether an update was committed there, with that payload.
    pub(super) fn holds(&self, author: &PublicKey, id: &UpdateId, sequence: Sequence, data: &Digest) -> bool {
        self.places.get(&(*author, id.clone())).is_some_and(|places| places.iter().any(|(s, d, _)| *s == sequence && d == data))
    }

    pub(super) fn last_sequence(&self) -> Sequence {
        self.last_sequence
    }

    /// A member that does not lie says something. `durable` tells what it may act on.
    pub(super) fn sent(
        &mut self,
        member: u16,
        message: &ConsensusMessage,
        tip: Slot,
        log_synced: Slot,
        durable: impl Fn(&Fact) -> bool,
    ) -> Result<(), Violation> {
        let needs = |fact: Fact| {
            if durable(&fact) {
                Ok(())
            } else {
                Err(broken("12 every sent vote was durable", format!("replica {member} acts on {fact:?}, which is not")))
            }
        };
        match message {
            ConsensusMessage::Vote(signed) if signed.replica == member => {
                let vote = signed.vote;
                match vote.phase {
                    Phase::Commit => {
                        needs(Fact::Prepared(vote.view, vote.slot, vote.digest))?;
                        let before = (member, Phase::Commit, vote.view, vote.slot.saturating_sub(1));
                        if vote.slot > tip + 1 && !self.votes.contains_key(&before) {
                            let detail = format!("replica {member} at view {} slot {}, its log ends at slot {tip}", vote.view, vote.slot);
                            return Err(broken("22 Commits leave in the order of slots", detail));
                        }
                    }
                    _ => {
                        needs(Fact::Accepted(vote.view, vote.slot, vote.digest))?;
                        if vote.slot > tip {
                            needs(Fact::Body(vote.slot, vote.digest))?;
                        }
                    }
                }
                self.vote(member, vote.phase, vote.view, vote.slot, vote.digest)
            }
            ConsensusMessage::PrePrepare(proposal) if self.federation.leader(proposal.view) == member => {
                self.vote(member, Phase::PrePrepare, proposal.view, proposal.header.slot, proposal.header.digest())
            }
            ConsensusMessage::Checkpoint(signed) if signed.replica == member => {
                let checkpoint = signed.checkpoint;
                if checkpoint.slot > log_synced {
                    let detail = format!("replica {member} signs a checkpoint at slot {}, its log is durable up to {log_synced}", checkpoint.slot);
                    return Err(broken("12 every sent vote was durable", detail));
                }
                if self.committed.get(slot_index(checkpoint.slot)) != Some(&checkpoint.digest) {
                    return Err(broken("14 checkpoints agree", format!("replica {member} signs {checkpoint:?}")));
                }
                self.state(member, "checkpoint", checkpoint.slot, checkpoint.digest)
            }
            ConsensusMessage::ViewChange(change) if change.replica == member => {
                needs(Fact::Left(change.new_view))?;
                let left = self.left.entry(member).or_default();
                *left = change.new_view.max(*left);
                self.names_its_commits(change)?;
                self.state(member, "view-change", change.new_view, digest_of(change))
            }
            ConsensusMessage::NewView(new_view) if self.federation.leader(new_view.view) == member => {
                needs(Fact::Entered(new_view.view))?;
                self.state(member, "new-view", new_view.view, digest_of(new_view))
            }
            _ => Ok(()),
        }
    }

    /// A view-change of a member that does not lie names what it committed before: nothing that it signs convicts it.
    fn names_its_commits(&self, change: &ViewChange) -> Result<(), Violation> {
        let member = change.replica;
        if self.statements.contains_key(&(member, "view-change", change.new_view)) {
            return Ok(());
        }
        let statement = Signed { statement: ViewChangeClaim::of(change), signature: change.signature };
        let commits = self.votes.range((member, Phase::Commit, 0, 0)..(member + 1, Phase::PrePrepare, 0, 0));
        for ((_, phase, view, slot), digest) in commits {
            let vote = Vote { phase: *phase, epoch: 0, view: *view, slot: *slot, digest: *digest };
            let commit = SignedVote { vote, replica: member, signature: change.signature };
            if Evidence::of_commit_and_change(&commit, &statement).is_some() {
                let detail = format!("replica {member} committed slot {slot} in view {view} and leaves for view {} without it", change.new_view);
                return Err(broken("21 a correct replica is never accused", detail));
            }
        }
        Ok(())
    }

    fn vote(&mut self, member: u16, phase: Phase, view: View, slot: Slot, digest: Digest) -> Result<(), Violation> {
        let signed = *self.votes.entry((member, phase, view, slot)).or_insert(digest);
        if signed == digest {
            return if phase == Phase::Commit { self.prove(view, slot, digest) } else { Ok(()) };
        }
        Err(broken(
            "11 nothing is signed twice",
            format!("replica {member} signed {phase:?} at view {view} slot {slot} for {signed:?} and {digest:?}"),
        ))
    }

    fn prove(&mut self, view: View, slot: Slot, digest: Digest) -> Result<(), Violation> {
        let members = 0..u16::try_from(self.federation.size()).unwrap_or(u16::MAX);
        let commits = members.filter(|member| self.votes.get(&(*member, Phase::Commit, view, slot)) == Some(&digest)).count();
        if commits < self.federation.quorum() {
            return Ok(());
        }
        let known = self.committed.get(slot_index(slot)).copied().unwrap_or(digest);
        let (_, proven) = *self.proven.entry(slot).or_insert((view, digest));
        self.one_proof(slot, Some(known), digest)?;
        self.one_proof(slot, Some(proven), digest)
    }

    /// A member that does not lie enters a view: what an earlier one committed is chosen again.
    pub(super) fn entered(&self, member: u16, new_view: &NewView) -> Result<(), Violation> {
        let (base, chosen) = choose(new_view);
        let base = base.map_or(0, |certificate| certificate.checkpoint.slot);
        for (slot, (view, digest)) in self.proven.range(base + 1..).filter(|(_, (view, _))| *view < new_view.view) {
            if chosen.get(slot_index(slot - base)).is_none_or(|header| header.digest() != *digest) {
                let detail = format!("replica {member} enters view {} without slot {slot}, committed in view {view}", new_view.view);
                return Err(broken("13 prepared certificates survive view changes", detail));
            }
        }
        Ok(())
    }

    fn one_proof(&self, slot: Slot, known: Option<Digest>, digest: Digest) -> Result<(), Violation> {
        match known.filter(|known| *known != digest) {
            Some(known) => Err(broken("9 no proof for what is not committed", format!("slot {slot}: quorums committed {known:?} and {digest:?}"))),
            None => Ok(()),
        }
    }

    fn state(&mut self, member: u16, kind: &'static str, number: u64, digest: Digest) -> Result<(), Violation> {
        let said = *self.statements.entry((member, kind, number)).or_insert(digest);
        if said == digest {
            return Ok(());
        }
        Err(broken("11 nothing is signed twice", format!("replica {member} signed two different {kind}s for {number}")))
    }

    /// What a replica that counts as correct must remember when it starts: everything it said that still matters.
    pub(super) fn recovered(&self, member: u16, core: &Replica) -> Result<(), Violation> {
        let place = core.place();
        let forgot = |what: String| Err(broken("15 replay gives what was live", format!("replica {member} forgot {what} ({place:?})")));
        if let Some(left) = self.left.get(&member).filter(|left| place.view < **left) {
            return forgot(format!("that it left for view {left}"));
        }
        // Proposals are not durable; that nothing is proposed twice rests on knowing which views began.
        let led = self.votes.range((member, Phase::PrePrepare, 0, 0)..(member, Phase::Prepare, 0, 0)).map(|((_, _, view, _), _)| *view).max();
        if let Some(view) = led.filter(|view| place.view < *view || (place.view == *view && place.changing)) {
            return forgot(format!("that view {view}, in which it proposed, began"));
        }
        if let Some(view) = led.filter(|view| place.view == *view && !core.ran_before()) {
            return forgot(format!("that it ran before, and proposed in view {view}"));
        }
        let began = self.statements.range((member, "new-view", 0)..=(member, "new-view", View::MAX)).next_back().map(|((.., view), _)| *view);
        if let Some(view) = began.filter(|view| place.view < *view || (place.view == *view && place.changing)) {
            return forgot(format!("that it began view {view}"));
        }
        let remembered: BTreeMap<(Phase, Slot), (View, Digest)> = core.remembered().into_iter().map(|(p, v, s, d)| ((p, s), (v, d))).collect();
        let said = self.votes.range((member, Phase::Prepare, 0, 0)..(member + 1, Phase::PrePrepare, 0, 0));
        for (&(_, phase, view, slot), digest) in said.filter(|((_, _, _, slot), _)| *slot > place.floor) {
            if phase == Phase::Commit && slot > place.stable && core.prepared_view(slot).is_none_or(|held| held < view) {
                return forgot(format!("the prepared certificate behind its Commit at view {view} slot {slot}"));
            }
            let over = place.view > view || (place.view == view && place.changing);
            let known = remembered.get(&(phase, slot)).is_some_and(|(its, d)| *its > view || (*its == view && d == digest));
            if !over && !known {
                return forgot(format!("its {phase:?} at view {view} slot {slot}"));
            }
        }
        Ok(())
    }

    /// Whether a member's memory is whole, told apart from a violation.
    pub(super) fn remembers(&self, member: u16, core: &Replica) -> bool {
        self.recovered(member, core).is_ok()
    }

    /// A member that does not lie stands somewhere.
    pub(super) fn stands(&mut self, member: u16, stable: Slot, restarted: bool) -> Result<(), Violation> {
        let known = self.stable.entry(member).or_default();
        // A stable checkpoint is noted lazily: any peer can give its certificate again.
        if stable < *known && !restarted {
            return Err(broken("14 stable checkpoints never regress", format!("replica {member} went from {known} to {stable}")));
        }
        *known = stable;
        Ok(())
    }

    /// A member that does not lie appends a batch to its log.
    pub(super) fn appended(&mut self, member: u16, header: &Header, certificate: &CommitCertificate, body: &CheckedBody) -> Result<(), Violation> {
        let digest = header.digest();
        if certificate.verify(&self.federation, header).is_err() {
            return Err(broken(
                "9 no proof for what is not committed",
                format!("replica {member} appended slot {} without a certificate", header.slot),
            ));
        }
        match self.committed.get(slot_index(header.slot)) {
            Some(known) if *known == digest => Ok(()),
            Some(known) => Err(broken("1 agreement", format!("slot {}: replica {member} committed {digest:?}, another {known:?}", header.slot))),
            None => self.first_committed(header, digest, body),
        }
    }

    fn first_committed(&mut self, header: &Header, digest: Digest, body: &CheckedBody) -> Result<(), Violation> {
        let slot = header.slot;
        self.one_proof(slot, self.proven.get(&slot).map(|(_, proven)| *proven), digest)?;
        let parent = self.committed.last().copied().unwrap_or(Digest::ZERO);
        let follows = slot_index(slot) == self.committed.len() && header.first_sequence == self.last_sequence + 1 && header.parent == parent;
        if !follows || header.timestamp <= self.last_time {
            return Err(broken(
                "2 total order, no gaps",
                format!("slot {slot} does not follow {} slots, {} updates", self.committed.len(), self.last_sequence),
            ));
        }
        let mut sequence = header.first_sequence;
        for submission in &body.body.submissions {
            let digests = submission.digests(self.federation.id());
            let key = self.federation.author_key(&submission.author);
            let bytes = Submission::signed_bytes(self.federation.id(), &digests.submission);
            if key.is_none_or(|key| key.verify(&bytes, &submission.signature).is_err()) {
                return Err(broken("4 every update was signed by an admitted author", format!("slot {slot}, sequence {sequence}")));
            }
            for (id, data) in submission.ids().zip(&digests.data) {
                let place = (submission.author, id.clone());
                let places = self.places.entry(place).or_default();
                let earlier = places.last().copied();
                places.push((sequence, *data, submission.not_after));
                // An id may be used again once its submission has expired.
                if let Some((earlier, ..)) = earlier.filter(|(.., not_after)| header.timestamp <= *not_after) {
                    return Err(broken("6 exactly once", format!("{id} at {earlier} and at {sequence}")));
                }
                sequence += 1;
            }
        }
        if sequence != header.last_sequence() + 1 {
            return Err(broken("2 total order, no gaps", format!("slot {slot} counts {} updates, its body another number", header.count)));
        }
        (self.last_sequence, self.last_time) = (header.last_sequence(), header.timestamp);
        self.committed.push(digest);
        Ok(())
    }

    /// What a log holds.
    pub(super) fn log(&self, member: u16, digests: &[Digest]) -> Result<(), Violation> {
        if self.committed.starts_with(digests) {
            return Ok(());
        }
        Err(broken("3 prefix consistency", format!("replica {member}'s log of {} slots is no prefix of the federation's", digests.len())))
    }
}

fn slot_index(slot: Slot) -> usize {
    usize::try_from(slot.saturating_sub(1)).unwrap_or(usize::MAX)
}

fn digest_of(value: &impl bincode::Encode) -> Digest {
    encode(value).map_or(Digest::ZERO, |bytes| sha256(&bytes))
}
