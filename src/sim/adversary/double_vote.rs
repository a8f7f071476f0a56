//! Votes for two digests at one place, each to half of the members, and commits what nobody prepared.

use super::{Liar, Means};
use crate::crypto::{Digest, sha256};
use crate::types::{ConsensusMessage, Phase, ReplicaIndex};

pub(super) struct DoubleVote;

impl Liar for DoubleVote {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        let ConsensusMessage::Vote(signed) = &message else { return vec![message] };
        let vote = signed.vote;
        let other: Digest = sha256(&vote.digest.0);
        match means.rng.below(4) {
            0 => vec![ConsensusMessage::Vote(means.vote(vote.phase, vote.view, vote.slot, other))],
            1 => vec![message, ConsensusMessage::Vote(means.vote(vote.phase, vote.view, vote.slot, other))],
            // A commit before its time, in this view and the next.
            2 => {
                let early = means.vote(Phase::Commit, vote.view, vote.slot, vote.digest);
                let next = means.vote(Phase::Commit, vote.view + 1, vote.slot, vote.digest);
                vec![message, ConsensusMessage::Vote(early), ConsensusMessage::Vote(next)]
            }
            _ if to.is_multiple_of(2) => vec![],
            _ => vec![message],
        }
    }
}
