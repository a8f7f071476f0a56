//! Leaves one author's submissions out: it neither hears of them nor passes them on.

use super::{Liar, Means};
use crate::types::{ConsensusMessage, ReplicaIndex};

pub(super) struct Censor;

impl Liar for Censor {
    fn send(&mut self, _: ReplicaIndex, message: ConsensusMessage, _: &mut Means<'_>) -> Vec<ConsensusMessage> {
        if matches!(message, ConsensusMessage::Forward(_)) { vec![] } else { vec![message] }
    }

    fn hears(&mut self, _: ReplicaIndex, message: &ConsensusMessage, means: &mut Means<'_>) -> bool {
        let first = means.federation.genesis().authors.first().map(|author| author.key);
        !matches!(message, ConsensusMessage::Forward(submission) if Some(submission.author) == first)
    }
}
