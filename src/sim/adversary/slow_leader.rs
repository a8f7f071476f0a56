//! Leads as slowly as the others let it: proposals leave one by one, late.

use super::{Liar, Means};
use crate::types::{ConsensusMessage, ReplicaIndex};

#[derive(Default)]
pub(super) struct SlowLeader {
    held: Vec<(u64, ReplicaIndex, ConsensusMessage)>,
}

impl Liar for SlowLeader {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        if !matches!(message, ConsensusMessage::PrePrepare(_)) {
            return vec![message];
        }
        self.held.push((means.now.mono + 100 + means.rng.below(100), to, message));
        vec![]
    }

    fn tick(&mut self, means: &mut Means<'_>) -> Vec<(ReplicaIndex, ConsensusMessage)> {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(|(at, _, _)| *at <= means.now.mono);
        self.held = later;
        due.into_iter().map(|(_, to, message)| (to, message)).collect()
    }
}
