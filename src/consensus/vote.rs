//! Prepares and Commits: from accepted to prepared to committed.

use super::Effect;
use super::record::Record;
use super::state::Replica;
use crate::planted::{Bug, on};
use crate::types::{CommitCertificate, ConsensusMessage, Evidence, Phase, PreparedCertificate, SignatureSet, SignedVote, Slot, Status};

impl Replica {
    pub(super) fn on_vote(&mut self, vote: SignedVote) {
        let slot = vote.vote.slot;
        if !self.in_progress(slot) || vote.replica == self.me {
            return;
        }
        let view = self.view;
        if vote.vote.view == view && !self.changing {
            self.voted_with_us.insert(vote.replica);
        }
        if vote.vote.phase == Phase::Commit {
            self.remember_commit(&vote);
        }
        self.judge_leader(&vote);
        // That may have ended the view.
        let view = self.view;
        let state = self.slots.entry(slot).or_default();
        let contradicted = match vote.vote.phase {
            Phase::PrePrepare => return,
            Phase::Prepare => state.prepares.insert(view, vote.clone()),
            Phase::Commit => state.commits.insert(view, vote.clone()),
        };
        if let Some(first) = contradicted {
            self.caught(Evidence::Votes { first, second: vote });
        }
    }

    /// Votes and commits whatever can be, in slot order. A Commit waits for the Commit of the slot before it.
    pub(super) fn drive_votes(&mut self) {
        let head = self.head();
        let mut slot = self.vote_cursor.max(self.floor() + 1);
        let mut previous_sent = slot == self.vote_cursor || slot - 1 <= self.tip.slot;
        while slot <= head {
            self.send_prepare(slot);
            if previous_sent || slot - 1 <= self.tip.slot || on(Bug::CommitOutOfOrder) {
                self.send_commit(slot);
            }
            if slot == self.tip.slot + 1 {
                self.decide(slot);
            }
            let Some(state) = self.slots.get(&slot) else {
                // Committed and below the floor by now.
                slot += 1;
                continue;
            };
            previous_sent = state.commit_sent;
            // Below the tip nothing is accepted any more in this view, so an unaccepted slot is done with too.
            let done = state.commit_sent || self.suspect || state.accepted.is_none();
            if done && slot <= self.tip.slot && slot == self.vote_cursor {
                self.vote_cursor = slot + 1;
            }
            slot += 1;
        }
    }

    /// Sends the Prepare once the body is held. The proposal's, new-view's or body's record goes before it.
    fn send_prepare(&mut self, slot: Slot) {
        let Some(state) = self.slots.get(&slot) else { return };
        let Some(accepted) = state.accepted.as_ref().filter(|_| !state.prepare_sent) else { return };
        let digest = accepted.digest;
        if slot > self.tip.slot && !self.bodies.contains_key(&(slot, digest)) {
            return;
        }
        let Ok(vote) = self.safety.vote(Phase::Prepare, self.view, slot, digest) else { return };
        let view = self.view;
        if let Some(state) = self.slots.get_mut(&slot) {
            state.prepare_sent = true;
            state.prepares.insert(view, vote.clone());
        }
        self.broadcast(ConsensusMessage::Vote(vote));
    }

    fn send_commit(&mut self, slot: Slot) {
        let Some(state) = self.slots.get(&slot).filter(|s| s.prepare_sent && !s.commit_sent) else { return };
        let Some(accepted) = &state.accepted else { return };
        let signatures = signatures(state.prepares.matching(accepted.digest));
        if signatures.0.len() + usize::from(on(Bug::ProposalCountsAsPrepare)) < self.federation.quorum() {
            return;
        }
        let certificate = PreparedCertificate { view: self.view, header: accepted.header.clone(), signatures };
        let digest = accepted.digest;
        let Ok(vote) = self.safety.vote(Phase::Commit, self.view, slot, digest) else { return };
        self.record(Record::Prepared(certificate));
        let view = self.view;
        if let Some(state) = self.slots.get_mut(&slot) {
            state.commit_sent = true;
            state.commits.insert(view, vote.clone());
        }
        self.broadcast(ConsensusMessage::Vote(vote));
    }

    /// Commits the slot behind the tip when a quorum has: all its Commits are of this view.
    fn decide(&mut self, slot: Slot) {
        let Some(state) = self.slots.get(&slot) else { return };
        let Some(accepted) = &state.accepted else { return };
        let signatures = signatures(state.commits.matching(accepted.digest));
        let needed = if on(Bug::CommittedByFew) { self.federation.weak_quorum() } else { self.federation.quorum() };
        // The frontier is the check that the root follows from the log before it.
        if signatures.0.len() < needed || accepted.frontier.is_none() {
            return;
        }
        let Some((header, body)) = self.bodies.get(&(slot, accepted.digest)).cloned() else { return };
        let certificate = CommitCertificate { epoch: 0, view: self.view, slot, digest: accepted.digest, signatures };
        self.commit(certificate, header, body);
    }

    /// Sends again what a peer in the same view may have missed: votes above its tip, and the leader's proposals.
    pub(super) fn resend_to(&mut self, peer: u16, status: &Status, bodies: bool) {
        const VOTES: u64 = 32;
        const PROPOSALS: u64 = 4;
        let (committed, accepted) = (status.committed, status.accepted);
        let mut messages = Vec::new();
        for (slot, state) in self.slots.range(committed + 1..=committed.saturating_add(VOTES)) {
            let Some(chosen) = &state.accepted else { break };
            let own = |votes: &super::state::VoteBox| votes.matching(chosen.digest).find(|v| v.replica == self.me).cloned();
            if bodies && *slot > accepted && *slot <= accepted.saturating_add(PROPOSALS) && self.leads() {
                let body = self.bodies.get(&(*slot, chosen.digest));
                if let (Some(proposal), Some((_, body))) = (&chosen.proposal, body) {
                    messages.push(ConsensusMessage::PrePrepare(crate::types::SignedProposal {
                        view: self.view,
                        header: chosen.header.clone(),
                        body: body.body.clone(),
                        signature: proposal.signature,
                    }));
                }
            }
            messages.extend(own(&state.prepares).filter(|_| state.prepare_sent).map(ConsensusMessage::Vote));
            messages.extend(own(&state.commits).filter(|_| state.commit_sent).map(ConsensusMessage::Vote));
        }
        self.out.effects.extend(messages.into_iter().map(|message| Effect::Send { to: peer, message }));
    }
}

/// The signatures of votes, by ascending member (the votes' order).
fn signatures<'a>(votes: impl Iterator<Item = &'a SignedVote>) -> SignatureSet {
    SignatureSet(votes.map(|v| (v.replica, v.signature)).collect())
}
