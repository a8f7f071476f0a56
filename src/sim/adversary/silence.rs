//! Says nothing: to anybody, or to some.

use super::{Liar, Means};
use crate::types::{ConsensusMessage, ReplicaIndex};

pub(super) struct Silence {
    pub(super) all: bool,
}

impl Liar for Silence {
    fn send(&mut self, to: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        let silent = self.all || (to + means.me).is_multiple_of(2) || means.rng.chance(200);
        if silent { vec![] } else { vec![message] }
    }
}
