//! The leader's part: a batch closes when it is full, or when the pipeline is idle.

use std::sync::Arc;

use super::Effect;
use super::pool::Take;
use super::record::Record;
use super::state::{Replica, Tip};
use super::verify::CheckedBody;
use crate::crypto::merkle::Frontier;
use crate::planted::{Bug, on};
use crate::types::{BatchKind, Body, ConsensusMessage, Header, Leaf, Phase, SignedProposal};

impl Replica {
    /// Proposes one batch if there is reason to; says whether it did.
    pub(super) fn propose(&mut self) -> bool {
        // Slots that a stable checkpoint covers are committed, though this log has yet to reach it.
        let behind = self.tip.slot < self.stable_slot();
        if behind || self.changing || self.suspect || !self.leads() || self.barred_view == Some(self.view) || self.pool.unproposed_bytes() == 0 {
            return false;
        }
        let head = self.head();
        let in_flight = head - self.tip.slot;
        let parameters = self.federation.parameters();
        let full = self.pool.unproposed_bytes() >= parameters.max_batch_bytes / 2;
        if in_flight >= self.options.pipeline_slots || head + 1 > self.window_end() || (in_flight >= self.options.eager_slots && !full) {
            return false;
        }
        let Some(parent) = self.chain_end(head) else { return false };
        let timestamp = self.now.wall.max(parent.timestamp + 1);
        if timestamp > self.now.wall.saturating_add(parameters.max_drift_ms) {
            return false;
        }
        let Some(body) = self.fill_batch(timestamp, parent.sequence + 1) else { return false };
        let (header, body) = self.make_header(&parent, timestamp, body);
        let digest = header.digest();
        let Ok(signed) = self.safety.vote(Phase::PrePrepare, self.view, header.slot, digest) else { return false };
        let proposal = SignedProposal { view: self.view, header: header.clone(), body: body.body.clone(), signature: signed.signature };
        let message = Effect::Broadcast(ConsensusMessage::PrePrepare(proposal));
        // A leader that crashes must not come back to this view and propose otherwise: its new-view must be durable, or this must wait for it.
        if (self.view == 0 && self.run <= 1) || on(Bug::ProposesTooSoon) || self.voted_with_us.len() >= self.federation.weak_quorum() {
            self.out.immediate.push(message);
        } else {
            self.out.effects.push(message);
        }
        self.record(Record::Proposal { view: self.view, header, signature: signed.signature, body });
        true
    }

    /// The chain's end at `slot`, which is the tip or accepted in this view, if everything up to it is held.
    pub(super) fn chain_end(&self, slot: u64) -> Option<Tip> {
        if slot == self.tip.slot {
            return Some(self.tip.clone());
        }
        let accepted = self.slots.get(&slot)?.accepted.as_ref()?;
        let header = &accepted.header;
        let frontier = accepted.frontier.clone()?;
        Some(Tip { slot, sequence: header.last_sequence(), digest: accepted.digest, timestamp: header.timestamp, frontier })
    }

    /// Fills a batch from the pool, within the limits that every replica checks.
    fn fill_batch(&mut self, timestamp: u64, first_sequence: u64) -> Option<CheckedBody> {
        let parameters = self.federation.parameters();
        let (mut bytes, mut updates) = (8, 0);
        let (mut submissions, mut digests) = (Vec::new(), Vec::new());
        let duplicates = &self.duplicates;
        let latest = timestamp.saturating_add(parameters.max_lifetime_ms);
        self.pool.select(|checked, size| {
            let count = checked.submission.updates.len() as u64;
            if bytes + size > parameters.max_batch_bytes || updates + count > parameters.max_batch_updates {
                return Take::Full;
            }
            let timely = (timestamp..=latest).contains(&checked.submission.not_after);
            let fits = duplicates.has_room(updates + count);
            if !timely || !fits || !duplicates.all_new(&checked.submission, &checked.digests, timestamp) {
                return Take::Skipped;
            }
            bytes += size;
            updates += count;
            submissions.push(checked.submission.clone());
            digests.push(checked.digests.clone());
            Take::Taken
        });
        if submissions.is_empty() {
            return None;
        }
        let body = Body { submissions };
        let digests = body.digests_with(digests);
        Some(CheckedBody::with_digests(Arc::new(body), digests, first_sequence))
    }

    fn make_header(&self, parent: &Tip, timestamp: u64, body: CheckedBody) -> (Header, CheckedBody) {
        let mut frontier: Frontier = parent.frontier.clone();
        body.leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
        let header = Header {
            kind: BatchKind::Normal,
            federation_id: self.federation.id(),
            epoch: 0,
            slot: parent.slot + 1,
            first_sequence: parent.sequence + 1,
            // The batch limit of the parameters is below 2^32.
            count: u32::try_from(body.leaf_hashes.len()).unwrap_or(u32::MAX),
            parent: parent.digest,
            body_digest: body.digests.body,
            log_root: frontier.root(),
            timestamp,
            membership_digest: self.federation.membership_digest(),
        };
        debug_assert!(body.body.leaves(&body.digests, header.first_sequence).iter().map(Leaf::hash).eq(body.leaf_hashes.iter().copied()));
        (header, body)
    }
}
