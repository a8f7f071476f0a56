//! Leaders that propose what they must not: two batches at one place, batches that break a rule, batches with updates nobody else knows.

use std::collections::BTreeMap;

use super::{Liar, Means, unsigned};
use crate::crypto::{Digest, sha256};
use crate::types::{Body, ConsensusMessage, Phase, ReplicaIndex, SignedVote, StateUpdate, Submission, UpdateId};

pub(super) struct Equivocate {
    pub(super) to_one: bool,
}

impl Liar for Equivocate {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        let ConsensusMessage::PrePrepare(proposal) = &message else { return vec![message] };
        let other_half = if self.to_one { to == (means.me + 1) % 2 } else { to.is_multiple_of(2) };
        if !other_half {
            return vec![message];
        }
        // Another time makes another header that is just as good: the hardest equivocation to tell.
        let mut header = proposal.header.clone();
        header.timestamp += 1;
        vec![ConsensusMessage::PrePrepare(means.proposal(proposal.view, header, proposal.body.clone()))]
    }
}

#[derive(Default)]
pub(super) struct BadProposal {
    /// What stands for what its replica proposed, by digest.
    bad: BTreeMap<Digest, Digest>,
}

impl Liar for BadProposal {
    fn send(&mut self, _: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        let proposal = match &message {
            ConsensusMessage::PrePrepare(proposal) => proposal,
            ConsensusMessage::Vote(SignedVote { vote, .. }) => {
                let Some(bad) = self.bad.get(&vote.digest) else { return vec![message] };
                // Its replica will see no quorum for what it proposed.
                return [Phase::Prepare, Phase::Commit].map(|phase| ConsensusMessage::Vote(means.vote(phase, vote.view, vote.slot, *bad))).into();
            }
            _ => return vec![message],
        };
        // One lie per slot, the same to everybody, or nothing is tested but equivocation; which, is another matter in each federation.
        let salt = means.federation.id().0.0.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let lie = proposal.header.slot.wrapping_mul(7).wrapping_add(proposal.view).wrapping_add(salt) % 8;
        let mut header = proposal.header.clone();
        let bad = match lie {
            0 => {
                let mut body = Body { submissions: proposal.body.submissions.clone() };
                if let Some(first) = body.submissions.first_mut() {
                    let mut changed = Submission::clone(first);
                    changed.signature = unsigned();
                    *first = changed.into();
                }
                means.with_body(proposal, body)
            }
            1 => {
                header.parent = sha256(&header.parent.0);
                means.proposal(proposal.view, header, proposal.body.clone())
            }
            2 => {
                let mut submissions = proposal.body.submissions.clone();
                submissions.extend(submissions.first().cloned());
                means.with_body(proposal, Body { submissions })
            }
            3 => {
                header.log_root = sha256(&header.log_root.0);
                means.proposal(proposal.view, header, proposal.body.clone())
            }
            4 => {
                header.timestamp = header.timestamp.saturating_sub(if header.slot.is_multiple_of(2) { 1 << 20 } else { 3_000 }).max(1);
                means.proposal(proposal.view, header, proposal.body.clone())
            }
            5 => {
                header.first_sequence += 1;
                means.proposal(proposal.view, header, proposal.body.clone())
            }
            6 => {
                header.body_digest = sha256(&header.body_digest.0);
                means.proposal(proposal.view, header, proposal.body.clone())
            }
            _ => return vec![message],
        };
        self.bad.insert(proposal.header.digest(), bad.header.digest());
        vec![ConsensusMessage::PrePrepare(bad)]
    }
}

pub(super) struct Collude;

impl Liar for Collude {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        let ConsensusMessage::PrePrepare(proposal) = &message else { return vec![message] };
        let header = &proposal.header;
        // The same id at every second slot, with another payload to every second member: duplicates, conflicts and equivocation in one.
        let update = StateUpdate {
            update_id: UpdateId(format!("collusion-{}", header.slot / 2)),
            data: vec![u8::try_from(to % 2).unwrap_or(0)],
            timestamp: header.timestamp,
        };
        let submission = Submission::sign(means.federation.id(), means.author, header.timestamp + 500, vec![update]);
        let mut submissions = proposal.body.submissions.clone();
        submissions.push(submission.into());
        vec![ConsensusMessage::PrePrepare(means.with_body(proposal, Body { submissions }))]
    }
}
