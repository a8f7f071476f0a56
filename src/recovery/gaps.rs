//! Damaged places in the segments: which slots a lost record can have been about, and so whether a vote may be forgotten.

use crate::journal::{Damage, Frame, StreamKind};
use crate::types::Slot;

/// The damaged places that a walk over the segments met.
///
/// A proposal is accepted only on top of batches that are held, and each of those has its record. So of `k` records lost behind a highest slot
/// `m`, none was a proposal for a slot above `m + k`. Record numbers are shared with the votes, so the numbers missing are at least the records lost.
#[derive(Default)]
pub(super) struct Gaps {
    highest_slot: Slot,
    last_lsn: u64,
    /// Met since the last whole record.
    open: Vec<Damage>,
    /// With the highest slot that a lost proposal can have been for.
    closed: Vec<(Damage, Slot)>,
}

impl Gaps {
    /// The walk meets a whole record.
    pub(super) fn whole(&mut self, frame: &Frame) {
        if frame.stream != StreamKind::Segments {
            return;
        }
        let lost = frame.lsn.saturating_sub(self.last_lsn).saturating_sub(1);
        let bound = self.highest_slot.saturating_add(lost);
        self.closed.extend(self.open.drain(..).map(|damage| (damage, bound)));
        self.highest_slot = self.highest_slot.max(frame.tag);
        self.last_lsn = frame.lsn;
    }

    /// The walk meets a damaged place.
    pub(super) fn damaged(&mut self, damage: Damage) {
        self.open.push(damage);
    }

    /// Whether the walk met any.
    pub(super) fn any(&self) -> bool {
        !self.open.is_empty() || !self.closed.is_empty()
    }

    /// Whether the walk met this one.
    pub(super) fn met(&self, damage: &Damage) -> bool {
        self.closed.iter().map(|(met, _)| met).chain(&self.open).any(|met| met == damage)
    }

    /// The first place where a vote above `floor` may be forgotten: behind it no record says how much is lost, or too much is.
    pub(super) fn forgetful(&self, floor: Slot) -> Option<&Damage> {
        let above = self.closed.iter().filter(|(_, bound)| *bound > floor).map(|(damage, _)| damage);
        above.chain(&self.open).next()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::journal::DamageKind;

    fn frame(stream: StreamKind, lsn: u64, tag: Slot) -> Frame {
        Frame { lsn, stream, kind: 1, tag, payload: vec![], locator: None }
    }

    fn damage(page: u32) -> Damage {
        Damage { stream: StreamKind::Segments, file: "a.seg".into(), page: Some(page), kind: DamageKind::MissingFile }
    }

    #[test]
    fn a_gap_forgets_no_slot_above_those_before_it_and_the_records_lost() {
        let mut gaps = Gaps::default();
        gaps.whole(&frame(StreamKind::Segments, 10, 7));
        gaps.whole(&frame(StreamKind::Votes, 11, 0));
        gaps.damaged(damage(3));
        assert_eq!(gaps.forgetful(u64::MAX), Some(&damage(3)), "nothing behind it says how much is lost");
        gaps.whole(&frame(StreamKind::Votes, 12, 0));
        assert!(gaps.forgetful(u64::MAX).is_some(), "a vote says nothing of the segments");
        gaps.whole(&frame(StreamKind::Segments, 15, 6));
        assert_eq!(gaps.forgetful(11), None, "four numbers are missing behind slot 7");
        assert_eq!(gaps.forgetful(10), Some(&damage(3)));
        gaps.damaged(damage(9));
        assert!(gaps.met(&damage(9)) && !gaps.met(&damage(4)) && gaps.any());
        assert_eq!(gaps.forgetful(11), Some(&damage(9)));
    }
}
