//! Behaves until a checkpoint is stable; then lies in several ways at once.

use super::double_vote::DoubleVote;
use super::equivocate::Equivocate;
use super::forge::HidesPrepared;
use super::{Liar, Means};
use crate::types::{ConsensusMessage, ReplicaIndex};

#[derive(Default)]
pub(super) struct Turncoat {
    turned: bool,
}

impl Liar for Turncoat {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        self.turned |= means.stable > 0;
        if !self.turned {
            return vec![message];
        }
        let liars: [&mut dyn Liar; 3] = [&mut Equivocate { to_one: means.leads() && means.rng.chance(500) }, &mut DoubleVote, &mut HidesPrepared];
        liars.into_iter().fold(vec![message], |messages, liar| messages.into_iter().flat_map(|m| liar.send(to, m, means)).collect())
    }
}
