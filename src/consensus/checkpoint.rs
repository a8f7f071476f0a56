//! Checkpoints: signed after the log is durable, stable with a quorum, and then the protocol forgets what lies below.

use super::record::Record;
use super::state::Replica;
use crate::types::{Checkpoint, CheckpointCertificate, ConsensusMessage, SignatureSet, SignedCheckpoint};

impl Replica {
    /// The log is on disk up to here.
    pub(super) fn on_log_durable(&mut self, checkpoint: Checkpoint) {
        if checkpoint.slot <= self.stable_slot() {
            return;
        }
        let Ok(signed) = self.safety.checkpoint(checkpoint) else { return };
        self.broadcast(ConsensusMessage::Checkpoint(signed.clone()));
        self.on_checkpoint(signed);
    }

    pub(super) fn on_checkpoint(&mut self, signed: SignedCheckpoint) {
        let slot = signed.checkpoint.slot;
        let parameters = self.federation.parameters();
        let in_reach = slot > self.stable_slot() && slot <= self.window_end().saturating_add(parameters.window_slots);
        if !in_reach || !slot.is_multiple_of(parameters.checkpoint_slots) {
            return;
        }
        self.judge_checkpoint(&signed);
        let votes = self.checkpoints.entry(slot).or_default();
        votes.entry(signed.replica).or_insert_with(|| signed.clone());
        let matching = votes.values().filter(|v| v.checkpoint == signed.checkpoint);
        let signatures = SignatureSet(matching.map(|v| (v.replica, v.signature)).collect());
        if signatures.0.len() >= self.federation.quorum() {
            self.record(Record::Stable(CheckpointCertificate { checkpoint: signed.checkpoint, signatures }));
        }
    }

    pub(super) fn on_stable(&mut self, certificate: CheckpointCertificate) {
        self.judge_stable(&certificate);
        if certificate.checkpoint.slot > self.stable_slot() {
            self.record(Record::Stable(certificate));
        }
    }

    pub(super) fn apply_stable(&mut self, certificate: &CheckpointCertificate) {
        if certificate.checkpoint.slot <= self.stable_slot() {
            return;
        }
        self.checkpoints = self.checkpoints.split_off(&(certificate.checkpoint.slot + 1));
        self.stable = Some(certificate.clone());
        let floor = self.floor();
        self.commits_heard.retain(|(_, slot), _| *slot > floor);
        self.prune();
    }
}
