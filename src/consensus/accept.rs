//! A follower's part: which proposals it accepts.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::accuse::signed_proposal;
use super::record::Record;
use super::state::{Accepted, Replica};
use super::verify::{CheckedBody, CheckedProposal};
use crate::crypto::Signature;
use crate::planted::{Bug, on};
use crate::types::{Evidence, Header, Phase, SignedVote, View, Vote};

/// What a replica makes of the next proposal.
enum Verdict {
    Accept,
    /// It breaks a rule here, though perhaps not elsewhere or later.
    Refuse,
    /// Its header contradicts its parent, or its root does not follow: it is right nowhere.
    Invalid {
        root: bool,
    },
    /// Something before it is not held yet.
    Wait,
}

impl Replica {
    pub(super) fn on_proposal(&mut self, proposal: Arc<CheckedProposal>) {
        let slot = proposal.header.slot;
        if proposal.view < self.view || slot <= self.tip.slot || slot > self.window_end() {
            return;
        }
        let leader = self.federation.leader(proposal.view);
        let accepted = self.slots.get(&slot).and_then(|s| s.accepted.as_ref()).and_then(|a| a.proposal.clone());
        let buffered = self.proposals.get(&slot).map(|p| signed_proposal(p, leader));
        let new = signed_proposal(&proposal, leader);
        for known in accepted.into_iter().chain(buffered) {
            let Some(evidence) = Evidence::of_votes(&known, &new) else { continue };
            if !on(Bug::SecondProposalAccepted) {
                return self.caught(evidence);
            }
            self.slots.remove(&slot);
        }
        self.judge_leader(&new);
        if proposal.view < self.view {
            return;
        }
        self.buffer(proposal);
    }

    /// Keeps a proposal until it can be judged. One for a later view never takes the place of the current leader's: whoever leads some view far
    /// ahead could otherwise silence every leader before it. Only so many slots and bytes are kept; the leader sends again what was missed.
    fn buffer(&mut self, proposal: Arc<CheckedProposal>) {
        let (slot, next) = (proposal.header.slot, self.head() + 1);
        let current = proposal.view == self.view;
        let buffer = if current { &mut self.proposals } else { &mut self.proposals_ahead };
        let held: u64 = buffer.values().map(|p| p.body.body.encoded_bytes()).sum();
        let room = slot == next || (slot < next + self.options.buffered_proposal_slots && held < self.options.buffered_proposal_bytes);
        if room && buffer.get(&slot).is_none_or(|known| known.view < proposal.view) {
            buffer.insert(slot, proposal);
        }
    }

    /// Accepts buffered proposals in slot order as far as they go.
    pub(super) fn accept_buffered(&mut self) {
        loop {
            let next = self.head() + 1;
            let Some(proposal) = self.proposals.get(&next).filter(|p| p.view == self.view).cloned() else { return };
            match self.judge(&proposal) {
                Verdict::Wait => return,
                Verdict::Refuse => {
                    self.count_refused += 1;
                    self.proposals.remove(&next);
                    return;
                }
                Verdict::Invalid { root } => {
                    self.count_refused += 1;
                    self.proposals.remove(&next);
                    return self.judge_invalid(&proposal, root);
                }
                Verdict::Accept => {
                    self.proposals.remove(&next);
                    self.record(Record::Proposal {
                        view: proposal.view,
                        header: proposal.header.clone(),
                        signature: proposal.signature,
                        body: proposal.body.clone(),
                    });
                }
            }
        }
    }

    /// The rules of acceptance that need the log; the verifier has checked the others.
    fn judge(&self, proposal: &CheckedProposal) -> Verdict {
        let header = &proposal.header;
        if self.leads() || header.slot > self.window_end() {
            return Verdict::Refuse;
        }
        if header.slot <= self.stable_slot() {
            return Verdict::Wait;
        }
        let Some(parent) = self.chain_end(header.slot - 1) else { return Verdict::Wait };
        let clock = self.now.wall;
        let fresh = header.timestamp.abs_diff(clock) <= self.federation.parameters().max_drift_ms;
        let follows = header.parent == parent.digest && header.first_sequence == parent.sequence + 1;
        if header.parent == parent.digest
            && (!follows || header.timestamp <= parent.timestamp)
            && !on(Bug::ParentUnchecked)
            && !on(Bug::TimeUnchecked)
        {
            return Verdict::Invalid { root: false };
        }
        let extends = follows || on(Bug::ParentUnchecked);
        let timely = fresh && header.timestamp > parent.timestamp || on(Bug::TimeUnchecked);
        if !timely || !extends || !self.duplicates.has_room(u64::from(header.count)) {
            return Verdict::Refuse;
        }
        let mut pairs = BTreeSet::new();
        let body = &proposal.body;
        for (submission, digests) in body.body.submissions.iter().zip(&body.digests.submissions) {
            let unique = submission.ids().all(|id| pairs.insert(super::DuplicateTable::pair(&submission.author, id)));
            let new = unique && self.duplicates.all_new(submission, digests, header.timestamp);
            if !new && !on(Bug::DuplicatesAccepted) {
                return Verdict::Refuse;
            }
        }
        let mut frontier = parent.frontier;
        body.leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
        if frontier.root() == header.log_root || on(Bug::RootUnchecked) { Verdict::Accept } else { Verdict::Invalid { root: true } }
    }

    /// An accepted proposal, live or replayed. In a view that was left, only its body matters.
    pub(super) fn apply_proposal(&mut self, view: View, header: &Header, signature: Signature, body: &CheckedBody) {
        if header.slot <= self.floor() {
            return;
        }
        let digest = header.digest();
        self.safety.remember(Phase::Prepare, view, header.slot, digest);
        if view == self.view && !self.changing {
            let vote = Vote { phase: Phase::PrePrepare, epoch: 0, view, slot: header.slot, digest };
            let proposal = Some(SignedVote { vote, replica: self.federation.leader(view), signature });
            self.slots.entry(header.slot).or_default().accepted = Some(Accepted { header: header.clone(), digest, proposal, frontier: None });
            for digests in &body.digests.submissions {
                self.pool.mark(&digests.submission, header.slot);
            }
        }
        self.apply_body(header, body);
    }
}
