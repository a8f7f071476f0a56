//! What each target says of each slot, so that several targets are compared: eight bytes a batch.

use crate::crypto::Digest;
use crate::types::Slot;

/// Header digests by slot, of the first target that had the slot.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Slots up to here were checked by an earlier run, and are not kept.
    base: Slot,
    digests: Vec<u64>,
    /// Up to which slot (inclusive) they are of which target.
    owners: Vec<(Slot, usize)>,
}

/// Of a slot whose batch no target showed whole.
const UNKNOWN: u64 = 0;

impl Ledger {
    /// Begins behind a slot that an earlier run checked.
    pub(super) fn begin_behind(&mut self, slot: Slot) {
        self.base = slot;
    }

    /// Notes a batch; yields the target that holds another one at the same slot.
    pub(super) fn note(&mut self, target: usize, slot: Slot, digest: &Digest) -> Option<usize> {
        let short = digest.0.first_chunk::<8>().map_or(UNKNOWN, |bytes| u64::from_le_bytes(*bytes));
        let at = usize::try_from(slot.checked_sub(1)?.checked_sub(self.base)?).ok()?;
        if at < self.digests.len() {
            let known = self.digests.get_mut(at)?;
            if *known == UNKNOWN {
                *known = short;
                return None;
            }
            return (*known != short).then(|| self.owner(slot));
        }
        // A gap is a finding of its own and never wide; a slot number that was made up is not followed.
        if at - self.digests.len() > 1 << 16 {
            return None;
        }
        self.digests.resize(at, UNKNOWN);
        self.digests.push(short);
        match self.owners.last_mut() {
            Some((last, owner)) if *owner == target => *last = slot,
            _ => self.owners.push((slot, target)),
        }
        None
    }

    fn owner(&self, slot: Slot) -> usize {
        self.owners.iter().find(|(last, _)| slot <= *last).map_or(0, |(_, target)| *target)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_fork_names_the_target_that_was_first() {
        let digest = |n: u8| Digest([n; 32]);
        let mut ledger = Ledger::default();
        (1..=3).for_each(|slot| assert_eq!(ledger.note(0, slot, &digest(slot as u8)), None));
        (1..=5).for_each(|slot| assert_eq!(ledger.note(1, slot, &digest(slot as u8)), None));
        assert_eq!(ledger.note(2, 2, &digest(9)), Some(0));
        assert_eq!(ledger.note(2, 5, &digest(9)), Some(1));
        assert_eq!(ledger.note(2, 7, &digest(7)), None, "a gap is left open");
        assert_eq!(ledger.note(3, 6, &digest(6)), None);
        assert_eq!(ledger.note(4, 6, &digest(1)), Some(2), "whoever filled a gap later stands for it no less");
        assert_eq!(ledger.note(4, u64::MAX, &digest(1)), None);
        let mut resumed = Ledger::default();
        resumed.begin_behind(1 << 40);
        assert_eq!(resumed.note(0, (1 << 40) + 1, &digest(1)), None);
        assert_eq!(resumed.note(0, (1 << 40) + 1, &digest(2)), Some(0));
        assert_eq!(resumed.note(0, 1 << 40, &digest(2)), None, "not kept");
    }
}
