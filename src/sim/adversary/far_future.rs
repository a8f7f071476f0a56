//! Speaks of slots and views far ahead, up to the largest numbers there are.

use super::{Liar, Means};
use crate::crypto::sha256;
use crate::types::{
    Checkpoint, Complaint, ConsensusMessage, FetchBody, Phase, Rejoin, ReplicaIndex, SignedCheckpoint, SignedComplaint, Slot, Status,
};

pub(super) struct FarFuture;

impl Liar for FarFuture {
    fn tick(&mut self, means: &mut Means<'_>) -> Vec<(ReplicaIndex, ConsensusMessage)> {
        let far = [1, 3, 50, 1 << 20, (1 << 56) - 1, u64::MAX];
        let ahead = means.rng.pick(&far).copied().unwrap_or(1);
        let (view, slot) = (means.view.saturating_add(ahead), means.tip.saturating_add(ahead));
        let digest = sha256(&ahead.to_le_bytes());
        let id = means.federation.id();
        let message = match means.rng.below(6) {
            0 => ConsensusMessage::Vote(means.vote(Phase::Prepare, view, means.tip + 1, digest)),
            1 => {
                // Each at another slot: whoever kept them would fill its memory.
                let slots: Vec<Slot> = (0..48).map(|_| means.tip.saturating_add(means.rng.below(1 << 30))).collect();
                let votes = slots.into_iter().map(|slot| ConsensusMessage::Vote(means.vote(Phase::Commit, means.view, slot, digest)));
                let votes: Vec<_> = votes.collect();
                return means.everyone().flat_map(|to| votes.iter().map(move |vote| (to, vote.clone()))).collect();
            }
            2 => {
                let checkpoint = Checkpoint { epoch: 0, slot, sequence: slot, digest, log_root: digest };
                let signature = means.key.sign(&checkpoint.signed_bytes(id));
                ConsensusMessage::Checkpoint(SignedCheckpoint { checkpoint, replica: means.me, signature })
            }
            3 => {
                let complaint = Complaint { epoch: 0, view };
                ConsensusMessage::Complaint(SignedComplaint { complaint, replica: means.me, signature: means.key.sign(&complaint.signed_bytes(id)) })
            }
            4 => ConsensusMessage::Status(Status { epoch: 0, view, changing: false, committed: slot, accepted: slot, stable: slot }),
            _ if means.rng.chance(500) => ConsensusMessage::Rejoin(Rejoin { epoch: 0, nonce: ahead, view }),
            _ => ConsensusMessage::FetchBody(FetchBody { slot, digest }),
        };
        means.everyone().map(|to| (to, message.clone())).collect()
    }
}
