//! Changes fields of what it sends by one, under its own signature where it has one to give; serves damaged batches.

use super::{Liar, Means};
use crate::crypto::sha256;
use crate::types::{Body, CommittedBatch, ConsensusMessage, ReplicaIndex};

pub(super) struct Mutate;

fn shifted(value: u64, means: &mut Means<'_>) -> u64 {
    match means.rng.below(3) {
        0 => value.saturating_add(1),
        1 => value.saturating_sub(1),
        _ => value,
    }
}

impl Liar for Mutate {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        if means.rng.chance(500) {
            return vec![message];
        }
        let changed = match message {
            ConsensusMessage::Vote(signed) => {
                let vote = signed.vote;
                let (view, slot) = (shifted(vote.view, means), shifted(vote.slot, means));
                let mut signed = means.vote(vote.phase, view, slot, vote.digest);
                if means.rng.chance(300) {
                    // Somebody else's name under its own signature.
                    signed.replica = (to + 1) % u16::try_from(means.federation.size()).unwrap_or(u16::MAX);
                }
                if means.rng.chance(100) {
                    signed.vote.epoch = 1;
                }
                ConsensusMessage::Vote(signed)
            }
            ConsensusMessage::Status(mut status) => {
                status.view = shifted(status.view, means);
                status.committed = shifted(status.committed, means);
                status.accepted = shifted(status.accepted, means);
                status.stable = shifted(status.stable, means);
                ConsensusMessage::Status(status)
            }
            ConsensusMessage::PrePrepare(mut proposal) => {
                proposal.view = shifted(proposal.view, means);
                proposal.header.slot = shifted(proposal.header.slot, means);
                ConsensusMessage::PrePrepare(means.proposal(proposal.view, proposal.header, proposal.body))
            }
            ConsensusMessage::Body(mut header, body) => {
                header.body_digest = sha256(&header.body_digest.0);
                ConsensusMessage::Body(header, body)
            }
            ConsensusMessage::RejoinAnswer(mut answer) => {
                answer.view = shifted(answer.view, means);
                answer.committed = shifted(answer.committed, means);
                ConsensusMessage::RejoinAnswer(answer)
            }
            other => other,
        };
        vec![changed]
    }
}

pub(super) struct CorruptCatchUp;

impl Liar for CorruptCatchUp {
    fn serve(&mut self, mut batches: Vec<CommittedBatch>, means: &mut Means<'_>) -> Vec<CommittedBatch> {
        let at = usize::try_from(means.rng.below(batches.len() as u64)).unwrap_or(0);
        match (means.rng.below(6), batches.get_mut(at)) {
            (0, _) => return vec![],
            (1, Some(batch)) => batch.certificate.signatures.0.truncate(means.federation.quorum() - 1),
            (2, Some(batch)) => batch.header.log_root = sha256(&batch.header.log_root.0),
            (3, Some(batch)) => batch.body = Body { submissions: vec![] }.into(),
            (4, Some(batch)) => batch.certificate.view += 1,
            (_, Some(_)) => {
                batches.remove(at);
            }
            (_, None) => {}
        }
        batches
    }
}
