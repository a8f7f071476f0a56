//! Sends old messages again, its own and those of others.

use super::{Liar, Means};
use crate::types::{ConsensusMessage, ReplicaIndex};

#[derive(Default)]
pub(super) struct Replay {
    heard: Vec<ConsensusMessage>,
}

const KEPT: usize = 200;

impl Replay {
    fn keep(&mut self, message: &ConsensusMessage, means: &mut Means<'_>) {
        if self.heard.len() < KEPT {
            self.heard.push(message.clone());
        } else if means.rng.chance(100)
            && let Some(old) = self.heard.get_mut(usize::try_from(means.rng.below(KEPT as u64)).unwrap_or(0))
        {
            *old = message.clone();
        }
    }
}

impl Liar for Replay {
    fn send(&mut self, _: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        self.keep(&message, means);
        vec![message]
    }

    fn hears(&mut self, _: ReplicaIndex, message: &ConsensusMessage, means: &mut Means<'_>) -> bool {
        self.keep(message, means);
        true
    }

    fn tick(&mut self, means: &mut Means<'_>) -> Vec<(ReplicaIndex, ConsensusMessage)> {
        let mut out = Vec::new();
        for to in means.everyone() {
            if means.rng.chance(300) {
                out.extend(means.rng.pick(&self.heard).map(|message| (to, message.clone())));
            }
        }
        out
    }
}
