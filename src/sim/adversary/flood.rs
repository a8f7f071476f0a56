//! Floods: with complaints and view-changes, and with requests.

use std::sync::Arc;

use super::{Liar, Means, unsigned};
use crate::crypto::sha256;
use crate::types::{Complaint, ConsensusMessage, FetchBody, Rejoin, ReplicaIndex, SignedComplaint, Status, ViewChange};

pub(super) struct ViewChangeSpam;

impl Liar for ViewChangeSpam {
    fn tick(&mut self, means: &mut Means<'_>) -> Vec<(ReplicaIndex, ConsensusMessage)> {
        let id = means.federation.id();
        let view = means.view + means.rng.below(3);
        let message = if means.rng.chance(500) {
            let complaint = Complaint { epoch: 0, view };
            ConsensusMessage::Complaint(SignedComplaint { complaint, replica: means.me, signature: means.key.sign(&complaint.signed_bytes(id)) })
        } else {
            let new_view = view + 1;
            let mut change = ViewChange { epoch: 0, new_view, stable: None, prepared: vec![], replica: means.me, signature: unsigned() };
            change.signature = means.key.sign(&change.signed_bytes(id));
            ConsensusMessage::ViewChange(Arc::new(change))
        };
        means.everyone().map(|to| (to, message.clone())).collect()
    }
}

pub(super) struct Flood;

impl Liar for Flood {
    fn tick(&mut self, means: &mut Means<'_>) -> Vec<(ReplicaIndex, ConsensusMessage)> {
        let stuck = Status { epoch: 0, view: 0, changing: false, committed: means.stable, accepted: means.stable, stable: 0 };
        let fetch = FetchBody { slot: means.tip + 1, digest: sha256(&means.tip.to_le_bytes()) };
        let rejoin = Rejoin { epoch: 0, nonce: means.now.mono, view: means.view + 1 };
        let messages = [ConsensusMessage::Status(stuck), ConsensusMessage::FetchBody(fetch), ConsensusMessage::Rejoin(rejoin)];
        means.everyone().flat_map(|to| messages.clone().map(|message| (to, message))).collect()
    }
}
