//! View changes and checkpoints that are not what they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Liar, Means, unsigned};
use crate::crypto::sha256;
use crate::types::{
    BatchKind, Body, ConsensusMessage, Header, NewView, Phase, ReplicaIndex, SignedCheckpoint, SignedProposal, StateUpdate, Submission, UpdateId,
    View, ViewChange,
};

/// Begins views with view-changes it chose: without a quorum, with one left out, with one of its own that hides everything.
#[derive(Default)]
pub(super) struct ForgedNewView {
    heard: BTreeMap<u64, BTreeMap<ReplicaIndex, Arc<ViewChange>>>,
}

impl ForgedNewView {
    fn keep(&mut self, message: &ConsensusMessage) {
        match message {
            ConsensusMessage::ViewChange(change) => {
                self.heard.entry(change.new_view).or_default().insert(change.replica, change.clone());
            }
            ConsensusMessage::NewView(new_view) => {
                for change in &new_view.view_changes {
                    self.heard.entry(change.new_view).or_default().insert(change.replica, Arc::new(change.clone()));
                }
            }
            _ => {}
        }
        while self.heard.len() > 8 {
            self.heard.pop_first();
        }
    }
}

fn empty_view_change(new_view: u64, means: &Means<'_>) -> ViewChange {
    let mut change = ViewChange { epoch: 0, new_view, stable: None, prepared: vec![], replica: means.me, signature: unsigned() };
    change.signature = means.key.sign(&change.signed_bytes(means.federation.id()));
    change
}

impl Liar for ForgedNewView {
    fn hears(&mut self, _: ReplicaIndex, message: &ConsensusMessage, _: &mut Means<'_>) -> bool {
        self.keep(message);
        true
    }

    fn send(&mut self, _: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        self.keep(&message);
        // Its own view is begun by a forgery, or not at all.
        if matches!(message, ConsensusMessage::NewView(_)) && means.rng.chance(500) { vec![] } else { vec![message] }
    }

    fn tick(&mut self, means: &mut Means<'_>) -> Vec<(ReplicaIndex, ConsensusMessage)> {
        let mine: Vec<u64> = self.heard.keys().copied().filter(|view| means.federation.leader(*view) == means.me).collect();
        let Some(view) = means.rng.pick(&mine).copied() else { return vec![] };
        let mut changes = self.heard.get(&view).cloned().unwrap_or_default();
        changes.insert(means.me, Arc::new(empty_view_change(view, means)));
        let mut view_changes: Vec<ViewChange> = changes.values().map(|c| ViewChange::clone(c)).collect();
        let quorum = means.federation.quorum();
        match means.rng.below(4) {
            // Fewer than a quorum.
            0 => view_changes.truncate(quorum - 1),
            // One of them twice.
            1 => view_changes.extend(view_changes.first().cloned()),
            // Somebody else's, emptied.
            2 => {
                if let Some(other) = view_changes.iter_mut().find(|c| c.replica != means.me) {
                    other.prepared.clear();
                }
            }
            // A quorum of real ones that suits it: the ones with the fewest certificates.
            _ => {
                view_changes.sort_by_key(|c| c.prepared.len());
                view_changes.truncate(quorum);
                view_changes.sort_by_key(|c| c.replica);
            }
        }
        let mut new_view = NewView { epoch: 0, view, view_changes, signature: unsigned() };
        new_view.signature = means.key.sign(&new_view.signed_bytes(means.federation.id()));
        let mut messages = vec![ConsensusMessage::NewView(Arc::new(new_view))];
        messages.extend(lead(view, means));
        means.everyone().flat_map(|to| messages.iter().map(move |message| (to, message.clone()))).collect()
    }
}

/// Goes on to lead the view as if nothing had been prepared: another batch behind the tip, and votes for it.
fn lead(view: View, means: &Means<'_>) -> Vec<ConsensusMessage> {
    let Some(tip) = means.core.and_then(|core| core.chain_end_at(means.tip)) else { return vec![] };
    let (slot, timestamp) = (tip.slot + 1, means.now.wall.max(tip.timestamp + 1));
    let update = StateUpdate { update_id: UpdateId(format!("forged-{view}-{slot}")), data: vec![], timestamp };
    let submission = Submission::sign(means.federation.id(), means.author, timestamp + 500, vec![update]);
    let header = Header {
        kind: BatchKind::Normal,
        federation_id: means.federation.id(),
        epoch: 0,
        slot,
        first_sequence: tip.sequence + 1,
        count: 0,
        parent: tip.digest,
        body_digest: tip.digest,
        log_root: tip.digest,
        timestamp,
        membership_digest: means.federation.membership_digest(),
    };
    let frame = SignedProposal { view, header, body: Arc::new(Body { submissions: vec![] }), signature: unsigned() };
    let proposal = means.with_body(&frame, Body { submissions: vec![submission.into()] });
    let digest = proposal.header.digest();
    let votes = [Phase::Prepare, Phase::Commit].map(|phase| ConsensusMessage::Vote(means.vote(phase, view, slot, digest)));
    std::iter::once(ConsensusMessage::PrePrepare(proposal)).chain(votes).collect()
}

/// Leaves its prepared certificates and its checkpoint out of its view-changes.
pub(super) struct HidesPrepared;

impl Liar for HidesPrepared {
    fn send(&mut self, _: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        let ConsensusMessage::ViewChange(change) = &message else { return vec![message] };
        vec![ConsensusMessage::ViewChange(Arc::new(empty_view_change(change.new_view, means)))]
    }
}

/// Signs checkpoints of another log, to some beside the right ones, and gives false certificates for stable ones.
pub(super) struct FakeCheckpoint;

impl Liar for FakeCheckpoint {
    fn send(&mut self, _: ReplicaIndex, message: ConsensusMessage, means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        match message {
            ConsensusMessage::Checkpoint(signed) => {
                let right = means.rng.chance(300).then(|| ConsensusMessage::Checkpoint(signed.clone()));
                let mut checkpoint = signed.checkpoint;
                checkpoint.log_root = sha256(&checkpoint.log_root.0);
                let signature = means.key.sign(&checkpoint.signed_bytes(means.federation.id()));
                let wrong = ConsensusMessage::Checkpoint(SignedCheckpoint { checkpoint, replica: means.me, signature });
                right.into_iter().chain([wrong]).collect()
            }
            ConsensusMessage::Stable(mut certificate) => {
                certificate.checkpoint.slot += means.federation.parameters().checkpoint_slots;
                vec![ConsensusMessage::Stable(certificate)]
            }
            other => vec![other],
        }
    }
}
