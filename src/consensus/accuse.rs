//! Who lies: statements that no correct replica makes all, found as they arrive, kept and told to all (rules E1 to E9, `docs/protocol.md`).

use super::Effect;
use super::state::Replica;
use super::verify::CheckedProposal;
use super::view_change::choose;
use crate::crypto::Digest;
use crate::types::{
    BodyClaim, CheckpointCertificate, ConsensusMessage, Convicted, Evidence, EvidenceRule, Growth, Header, InvalidVote, MAX_EVIDENCE_BYTES, NewView,
    NewViewClaim, Phase, ReplicaIndex, Signed, SignedCheckpoint, SignedVote, Slot, Unfaithful, View, ViewChange, ViewChangeClaim, encode,
};

/// Records of one kind against one member that are kept, over all runs.
const EVIDENCE_PER_KIND: usize = 8;
/// An update without its payload takes no less in a record.
const LEAST_UPDATE_BYTES: usize = 64;

/// Where a member broke which rule, by the kind of its record: one record a place convicts.
pub(super) type Offence = (ReplicaIndex, u8, View, Slot);

impl Replica {
    /// This replica saw what convicts a member: all others learn of it.
    pub(super) fn caught(&mut self, evidence: Evidence) {
        let (_, view, slot) = evidence.place();
        let member = evidence.accused(&self.federation);
        let known = self.evidence_seen.contains(&(member, evidence.kind(), view, slot));
        if known && !self.may_end_the_view(&evidence, member, view) {
            return;
        }
        // Verified anew, because an accusation that does not hold up everywhere would accuse its author.
        if let Ok(found) = evidence.convict(&self.federation) {
            let fits = encode(&found.record).is_ok_and(|bytes| bytes.len() <= MAX_EVIDENCE_BYTES);
            self.weigh_evidence(Box::new(found), fits, true);
        }
    }

    /// A member is convicted by what another one saw.
    pub(super) fn on_evidence(&mut self, found: Box<Convicted>) {
        self.weigh_evidence(found, true, false);
    }

    /// Keeps what is news and fits, and tells it if it was found here. If the member leads this view and lied in leading it, the view is over for this
    /// replica; all others must hear why, because one that leaves alone would stay outside.
    fn weigh_evidence(&mut self, found: Box<Convicted>, fits: bool, found_here: bool) {
        let (member, view, slot) = (found.conviction.replica, found.conviction.view, found.conviction.slot);
        let reason = self.may_end_the_view(&found.record, member, view).then(|| lied_in_leading(&found.record)).flatten();
        // A flood of more tells nothing new, and must not crowd out what another member did.
        let kind = found.record.kind();
        let kept = self.evidence_seen.iter().filter(|offence| (offence.0, offence.1) == (member, kind)).count();
        let new = fits && kept < EVIDENCE_PER_KIND && self.evidence_seen.insert((member, kind, view, slot));
        if fits && (new && found_here || reason.is_some()) {
            self.broadcast(ConsensusMessage::Evidence(Box::new(found.record.clone())));
        }
        match reason {
            Some(reason) if fits => {
                self.start_view_change(self.view + 1, reason);
                self.view_ended_by = Some(Box::new(found.record.clone()));
            }
            Some(reason) if self.complained != Some(self.view) => self.complain(reason),
            _ => {}
        }
        if new {
            self.count_evidence += 1;
            self.out.effects.push(Effect::Evidence(found));
        }
    }

    /// What an earlier run kept: it is no news.
    pub(crate) fn remember_evidence(&mut self, evidence: &Evidence) {
        let (_, view, slot) = evidence.place();
        self.evidence_seen.insert((evidence.accused(&self.federation), evidence.kind(), view, slot));
    }

    /// Whether evidence is against the leader of this view, for a lie in leading it.
    fn may_end_the_view(&self, evidence: &Evidence, member: ReplicaIndex, view: View) -> bool {
        let leads = view == self.view && !self.changing && !self.suspect && member == self.federation.leader(self.view);
        leads && lied_in_leading(evidence).is_some()
    }

    /// A member's Commit: its later view-changes must not leave it out.
    pub(super) fn remember_commit(&mut self, vote: &SignedVote) {
        let entry = self.commits_heard.entry((vote.replica, vote.vote.slot)).or_insert_with(|| vote.clone());
        if vote.vote.view > entry.vote.view {
            *entry = vote.clone();
        }
    }

    /// Holds a view-change against its signer's Commits (E4), and against its other one to that view (E6).
    pub(super) fn judge_view_change(&mut self, change: &ViewChange) {
        let known = self.view_changes.get(&change.replica).filter(|known| known.new_view == change.new_view);
        if known.is_some_and(|known| **known == *change) {
            return;
        }
        let mut found = known.map(|known| Evidence::ViewChanges { first: signed_change(known), second: signed_change(change) });
        let commits = self.commits_heard.range((change.replica, change.stable_slot() + 1)..=(change.replica, Slot::MAX)).map(|(_, vote)| vote);
        let mut left_out = commits.filter(|commit| {
            let named = |p: &crate::types::PreparedCertificate| p.header.slot == commit.vote.slot && p.view >= commit.vote.view;
            commit.vote.view < change.new_view && !change.prepared.iter().any(named)
        });
        if let Some(commit) = left_out.next() {
            let forgot = Evidence::Forgot { commit: commit.clone(), change: signed_change(change) };
            self.caught(forgot);
        }
        if let Some(evidence) = found.take_if(|evidence| evidence.contradicts()) {
            self.caught(evidence);
        }
    }

    /// Holds a new-view against the one that this view began with (E6), and its view-changes against what their signers said elsewhere.
    pub(super) fn judge_new_view(&mut self, new_view: &NewView) {
        let known = self.own_new_view.clone().filter(|known| known.view == new_view.view);
        if known.as_ref().is_some_and(|known| **known == *new_view) {
            return;
        }
        if let Some(known) = known {
            let [first, second] = [&known, new_view].map(|n| self.signed_new_view(n));
            self.caught(Evidence::NewViews { first, second });
        }
        new_view.view_changes.iter().for_each(|change| self.judge_view_change(change));
    }

    /// Holds what this view's leader says of a slot against what its own new-view chose there (E5).
    pub(super) fn judge_leader(&mut self, vote: &SignedVote) {
        let place = vote.vote;
        let chosen = self.slots.get(&place.slot).and_then(|state| state.accepted.as_ref()).filter(|accepted| accepted.proposal.is_none());
        let contradicts = chosen.is_some_and(|accepted| accepted.digest != place.digest);
        if place.view != self.view || vote.replica != self.federation.leader(self.view) || self.changing || !contradicts {
            return;
        }
        let Some(new_view) = self.own_new_view.clone().filter(|new_view| new_view.view == place.view) else { return };
        let headers = choose(&new_view).1.into_iter().take_while(|header| header.slot <= place.slot).collect();
        let changes = new_view.view_changes.iter().map(ViewChangeClaim::of).collect();
        let new_view = self.signed_new_view(&new_view);
        self.caught(Evidence::Unfaithful(Box::new(Unfaithful { new_view, changes, headers, vote: vote.clone() })));
    }

    /// A proposal whose header cannot be right anywhere (E7), and so no vote for it either.
    pub(super) fn judge_invalid(&mut self, proposal: &CheckedProposal, root: bool) {
        let leader = self.federation.leader(proposal.view);
        let header = &proposal.header;
        // What its leader repeats tells nothing new; and what no record can hold is not worth the hashing.
        let too_large = root && proposal.body.body.count().saturating_mul(LEAST_UPDATE_BYTES) > MAX_EVIDENCE_BYTES;
        if too_large
            || self.evidence_seen.iter().any(|(member, kind, view, slot)| (*member, *kind, *view, *slot) == (leader, 7, proposal.view, header.slot))
        {
            return;
        }
        let Some(parent) = self.parent_header(header) else { return };
        let growth = self
            .chain_end(header.slot - 1)
            .filter(|_| root)
            .map(|end| Growth { peaks: end.frontier.peaks().to_vec(), body: BodyClaim::of(&proposal.body.body, &proposal.body.digests) });
        let state = self.slots.get(&header.slot);
        let votes = state.into_iter().flat_map(|state| state.prepares.matching(proposal.digest).chain(state.commits.matching(proposal.digest)));
        let guilty: Vec<SignedVote> = std::iter::once(&signed_proposal(proposal, leader)).chain(votes).cloned().collect();
        for vote in guilty {
            let invalid = InvalidVote { vote, header: header.clone(), parent: parent.clone(), growth: growth.clone() };
            self.caught(Evidence::Invalid(Box::new(invalid)));
        }
    }

    /// The header that another names as its parent, if it is still held: nothing before slot 1.
    fn parent_header(&self, header: &Header) -> Option<Option<Header>> {
        if header.slot == 1 {
            return Some(None).filter(|_| header.parent == Digest::ZERO);
        }
        let before = self.slots.get(&(header.slot - 1))?;
        let accepted = before.accepted.as_ref().map(|accepted| &accepted.header);
        let held = accepted.into_iter().chain(before.prepared.as_ref().map(|prepared| &prepared.header));
        held.into_iter().find(|held| held.digest() == header.parent).map(|held| Some(held.clone()))
    }

    /// Holds a checkpoint against its signer's other one of that slot (E9).
    pub(super) fn judge_checkpoint(&mut self, signed: &SignedCheckpoint) {
        let known = self.checkpoints.get(&signed.checkpoint.slot).and_then(|votes| votes.get(&signed.replica));
        if let Some(first) = known.filter(|known| known.checkpoint != signed.checkpoint).cloned() {
            self.caught(Evidence::Checkpoints { first, second: signed.clone() });
        }
    }

    /// The same for everyone who signed a stable one.
    pub(super) fn judge_stable(&mut self, certificate: &CheckpointCertificate) {
        for (replica, signature) in &certificate.signatures.0 {
            self.judge_checkpoint(&SignedCheckpoint { checkpoint: certificate.checkpoint, replica: *replica, signature: *signature });
        }
    }

    fn signed_new_view(&self, new_view: &NewView) -> Signed<NewViewClaim> {
        Signed { statement: NewViewClaim::of(new_view, self.federation.id()), signature: new_view.signature }
    }
}

fn signed_change(change: &ViewChange) -> Signed<ViewChangeClaim> {
    Signed { statement: ViewChangeClaim::of(change), signature: change.signature }
}

/// A proposal's statement, as evidence holds it.
pub(super) fn signed_proposal(proposal: &CheckedProposal, leader: ReplicaIndex) -> SignedVote {
    let vote = crate::types::Vote { phase: Phase::PrePrepare, epoch: 0, view: proposal.view, slot: proposal.header.slot, digest: proposal.digest };
    SignedVote { vote, replica: leader, signature: proposal.signature }
}

/// Why a view is over whose leader is guilty of this, if it is.
fn lied_in_leading(evidence: &Evidence) -> Option<&'static str> {
    match evidence {
        Evidence::NewViews { .. } => Some("the leader began its view in two ways"),
        evidence => match evidence.rule() {
            EvidenceRule::TwoProposals => Some("the leader proposed twice at one place"),
            EvidenceRule::UnfaithfulLeader => Some("the leader did not keep to its new-view"),
            EvidenceRule::InvalidHeader => Some("the leader spoke for an invalid header"),
            _ => None,
        },
    }
}
