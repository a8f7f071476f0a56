//! Proposes to a bare quorum only and gives no body to anybody who asks: the next leader may have to find it elsewhere.

use super::{Liar, Means};
use crate::types::{ConsensusMessage, Phase, ReplicaIndex};

pub(super) struct Withhold;

impl Liar for Withhold {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        let n = u16::try_from(means.federation.size()).unwrap_or(u16::MAX);
        let quorum = u16::try_from(means.federation.quorum()).unwrap_or(n);
        // The members right behind it get nothing: they lead next.
        let distance = (to + n - means.me) % n;
        let favoured = distance >= n - (quorum - 1);
        let kept = match &message {
            ConsensusMessage::PrePrepare(_) | ConsensusMessage::Forward(_) => favoured,
            ConsensusMessage::Body(..) => false,
            ConsensusMessage::Vote(signed) => signed.vote.phase != Phase::Commit || means.rng.chance(300),
            _ => true,
        };
        if kept { vec![message] } else { vec![] }
    }
}
