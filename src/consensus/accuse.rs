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

/// Pieces of evidence against one member that a run keeps.
const EVIDENCE_PER_MEMBER: usize = 64;

/// Where a member broke which rule: one record a place convicts.
pub(super) type Offence = (ReplicaIndex, EvidenceRule, View, Slot);

impl Replica {
    /// This replica saw what convicts a member: all others learn of it.
    pub(super) fn caught(&mut self, evidence: Evidence) {
        let (_, view, slot) = evidence.place();
        let known = self.evidence_seen.contains(&(evidence.accused(&self.federation), evidence.rule(), view, slot));
        if known || encode(&evidence).map_or(usize::MAX, |bytes| bytes.len()) > MAX_EVIDENCE_BYTES {
            return;
        }
        // Verified anew, because an accusation that does not hold up everywhere would accuse its author.
        let Ok(found) = evidence.convict(&self.federation) else { return };
        if self.on_evidence(Box::new(found.clone())) {
            self.broadcast(ConsensusMessage::Evidence(Box::new(found.record)));
        }
    }

    /// A member is convicted; says whether that is news. If it leads this view and lied in leading it, the view is over.
    pub(super) fn on_evidence(&mut self, found: Box<Convicted>) -> bool {
        let conviction = &found.conviction;
        let (member, rule, view) = (conviction.replica, conviction.rule, conviction.view);
        // A flood of more tells nothing new, and must not crowd out what another member did.
        let known = self.evidence_seen.iter().filter(|offence| offence.0 == member).count();
        let new = known < EVIDENCE_PER_MEMBER && self.evidence_seen.insert((member, rule, view, conviction.slot));
        let lied_in_leading = match rule {
            EvidenceRule::TwoProposals => Some("the leader proposed twice at one place"),
            EvidenceRule::UnfaithfulLeader => Some("the leader did not keep to its new-view"),
            EvidenceRule::InvalidHeader => Some("the leader spoke for an invalid header"),
            EvidenceRule::TwoViewChanges if matches!(found.record, Evidence::NewViews { .. }) => Some("the leader began its view in two ways"),
            _ => None,
        };
        if new {
            self.count_evidence += 1;
            self.out.effects.push(Effect::Evidence(found));
        }
        if let Some(reason) = lied_in_leading
            && view == self.view
            && !self.changing
            && member == self.federation.leader(self.view)
        {
            self.start_view_change(self.view + 1, reason);
        }
        new
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

    /// A proposal that was refused although its parent is known: perhaps its header cannot be right anywhere (E7), and so no vote for it either.
    pub(super) fn judge_refused(&mut self, proposal: &CheckedProposal, signed: SignedVote) {
        let Some(parent) = self.parent_header(&proposal.header) else { return };
        let growth = self
            .chain_end(proposal.header.slot - 1)
            .filter(|end| end.digest == proposal.header.parent)
            .map(|end| Growth { peaks: end.frontier.peaks().to_vec(), body: BodyClaim::of(&proposal.body.body, &proposal.body.digests) });
        let header = proposal.header.clone();
        let invalid =
            [None, growth].into_iter().map(|growth| InvalidVote { vote: signed.clone(), header: header.clone(), parent: parent.clone(), growth });
        let Some(found) = invalid.map(Box::new).find(|invalid| Evidence::Invalid(invalid.clone()).verify(&self.federation).is_ok()) else { return };
        let state = self.slots.get(&header.slot);
        let votes = state.into_iter().flat_map(|state| state.prepares.matching(proposal.digest).chain(state.commits.matching(proposal.digest)));
        for vote in std::iter::once(&signed).chain(votes).cloned().collect::<Vec<_>>() {
            self.caught(Evidence::Invalid(Box::new(InvalidVote { vote, ..InvalidVote::clone(&found) })));
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
