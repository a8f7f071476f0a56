//! What the simulator asks a replica, to hold it against what it said and did.

use super::state::{Replica, Tip};
use crate::crypto::Digest;
use crate::types::{Phase, Slot, View};

/// Where a replica stands, cheaply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The view it is in, or leaves for.
    pub view: View,
    /// Whether it left for that view and does not yet take part in it.
    pub changing: bool,
    /// Nothing at or below it is in progress.
    pub floor: Slot,
    /// The last committed slot.
    pub tip: Slot,
    /// The stable checkpoint's slot.
    pub stable: Slot,
    /// Whether it signs nothing.
    pub suspect: bool,
}

impl Replica {
    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { view: self.view, changing: self.changing, floor: self.floor(), tip: self.tip.slot, stable: self.stable_slot(), suspect: self.suspect }
    }

    /// Whether it knows that it ran before, and so proposes nothing in the view that it comes back to.
    pub(crate) fn ran_before(&self) -> bool {
        self.run > 1
    }

    /// What it would not contradict: per slot and phase, the highest view it signed in, or may have, and what.
    pub(crate) fn remembered(&self) -> Vec<(Phase, View, Slot, Digest)> {
        self.safety.remembered()
    }

    /// The view of the prepared certificate it holds for a slot.
    pub(crate) fn prepared_view(&self, slot: Slot) -> Option<View> {
        self.slots.get(&slot).and_then(|state| state.prepared.as_ref()).map(|certificate| certificate.view)
    }

    /// The chain's end behind a slot that is the tip or accepted in this view.
    pub(crate) fn chain_end_at(&self, slot: Slot) -> Option<Tip> {
        self.chain_end(slot)
    }

    /// The slots that it keeps anything of.
    pub(crate) fn slots_kept(&self) -> usize {
        self.slots.len()
    }

    /// The bodies it holds.
    pub(crate) fn held_bodies(&self) -> impl Iterator<Item = (Slot, Digest)> {
        self.bodies.keys().copied()
    }

    /// Submissions pending.
    pub(crate) fn pending(&self) -> usize {
        self.pool.len()
    }

    /// The largest of its tables: slots, bodies, proposals ahead, checkpoints being collected.
    pub(crate) fn footprint(&self) -> usize {
        [self.slots.len(), self.bodies.len(), self.proposals.len() + self.proposals_ahead.len(), self.checkpoints.len()]
            .into_iter()
            .max()
            .unwrap_or(0)
    }
}
