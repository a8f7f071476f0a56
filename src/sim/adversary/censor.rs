//! Leaves one author's submissions out: it neither hears of them nor passes them on.

use super::{Liar, Means};
use crate::types::{ConsensusMessage, Federation, ReplicaIndex, Submission};

pub(super) struct Censor;

impl Liar for Censor {
    fn send(&mut self, _: ReplicaIndex, message: ConsensusMessage, _: &mut Means<'_>) -> Vec<ConsensusMessage> {
        if matches!(message, ConsensusMessage::Forward(_)) { vec![] } else { vec![message] }
    }

    fn hears(&mut self, _: ReplicaIndex, message: &ConsensusMessage, means: &mut Means<'_>) -> bool {
        !matches!(message, ConsensusMessage::Forward(submission) if !self.takes(means.federation, submission))
    }

    fn takes(&self, federation: &Federation, submission: &Submission) -> bool {
        federation.genesis().authors.first().is_none_or(|author| author.key != submission.author)
    }
}
