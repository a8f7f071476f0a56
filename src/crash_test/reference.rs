//! What the federation's log is, by what its replicas served and proved: the first to serve a slot says what it holds, all others must agree.

use std::collections::HashMap;

use super::acks::Ack;
use super::finding::{Findings, Wrong};
use crate::crypto::Digest;
use crate::types::{Header, Leaf, Sequence, Slot, UpdateId};

/// The log, as far as any replica has shown it.
#[derive(Default)]
pub(crate) struct Reference {
    /// Header digests by slot, from slot 1.
    headers: Vec<Digest>,
    /// Leaf hashes by sequence number, from 1.
    leaves: Vec<Digest>,
    places: HashMap<UpdateId, Sequence>,
}

impl Reference {
    /// The header digest of a slot.
    pub(crate) fn header(&self, slot: Slot) -> Option<Digest> {
        self.headers.get(usize::try_from(slot).ok()?.checked_sub(1)?).copied()
    }

    /// The leaf hash at a place.
    pub(crate) fn leaf(&self, sequence: Sequence) -> Option<Digest> {
        self.leaves.get(usize::try_from(sequence).ok()?.checked_sub(1)?).copied()
    }

    /// The last sequence number.
    pub(crate) fn last(&self) -> Sequence {
        self.leaves.len() as u64
    }

    /// Takes a batch that verified and continues `whose` log: it must be the known one of its slot, or the next.
    pub(crate) fn take(&mut self, header: &Header, leaves: &[Leaf], hashes: &[Digest], whose: &str, findings: &mut Findings) {
        let digest = header.digest();
        match self.header(header.slot) {
            Some(known) if known == digest => {}
            Some(known) => {
                let what = format!("{whose} holds {digest} at slot {}, another replica holds {known}", header.slot);
                findings.fork(header.slot, what);
            }
            None => {
                self.headers.push(digest);
                self.leaves.extend_from_slice(hashes);
                for leaf in leaves {
                    if let Some(earlier) = self.places.insert(leaf.update_id.clone(), leaf.sequence) {
                        let what = format!("update {} stands at {earlier} and at {}, by the log of {whose}", leaf.update_id, leaf.sequence);
                        findings.add(Wrong::Duplicated, what);
                    }
                }
            }
        }
    }

    /// Whether an acknowledged update is where its proof says.
    pub(crate) fn agrees(&self, ack: &Ack) -> bool {
        self.leaf(ack.sequence) == Some(ack.leaf) && self.header(ack.slot) == Some(ack.header)
    }

    /// Whether an acknowledged update is where its proof says, under the header that its quorum signed. Every replica's log was compared with
    /// this one, so what holds here holds for each that agrees.
    pub(crate) fn holds(&self, ack: &Ack, findings: &mut Findings) -> bool {
        let Ack { sequence, update_id, .. } = ack;
        if self.agrees(ack) {
            return true;
        }
        if let Some(header) = self.header(ack.slot).filter(|header| *header != ack.header) {
            let what = format!("the proof of {update_id} names {} at slot {}, the logs hold {header}", ack.header, ack.slot);
            findings.fork(ack.slot, what);
        }
        let found = match (self.places.get(update_id), self.leaf(*sequence)) {
            (Some(place), _) if place != sequence => format!("it stands at {place}"),
            (Some(_), _) => "another update than the acknowledged one stands there".to_owned(),
            (None, Some(_)) => "another update stands there".to_owned(),
            (None, None) => format!("the logs end at {}", self.last()),
        };
        findings.add(Wrong::Lost, format!("update {update_id}, acknowledged at sequence {sequence}: {found}"));
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::PublicKey;
    use crate::types::{BatchKind, FederationId, TimestampMs};

    fn header(slot: Slot, first_sequence: Sequence, count: u32, timestamp: TimestampMs) -> Header {
        let zero = Digest::ZERO;
        Header {
            kind: BatchKind::Normal,
            federation_id: FederationId(zero),
            epoch: 0,
            slot,
            first_sequence,
            count,
            parent: zero,
            body_digest: zero,
            log_root: zero,
            timestamp,
            membership_digest: zero,
        }
    }

    fn leaf(sequence: Sequence, id: &str) -> Leaf {
        Leaf { sequence, author: PublicKey([1; 32]), update_id: UpdateId(id.into()), timestamp: 1, data_length: 0, data_digest: Digest::ZERO }
    }

    fn ack(header: &Header, leaf: &Leaf) -> Ack {
        let (sequence, update_id) = (leaf.sequence, leaf.update_id.clone());
        Ack { sequence, update_id, leaf: leaf.hash(), slot: header.slot, header: header.digest() }
    }

    fn taken(batches: &[(&Header, &[Leaf])]) -> (Reference, Findings) {
        let (mut reference, mut findings) = (Reference::default(), Findings::default());
        for (header, leaves) in batches {
            let hashes: Vec<_> = leaves.iter().map(Leaf::hash).collect();
            reference.take(header, leaves, &hashes, "replica-0", &mut findings);
        }
        (reference, findings)
    }

    #[test]
    fn what_is_there_holds_and_what_is_gone_moved_or_changed_is_lost() {
        let (first, second) = (header(1, 1, 2, 5), header(2, 3, 1, 6));
        let leaves = [leaf(1, "a"), leaf(2, "b"), leaf(3, "c")];
        let (reference, mut findings) = taken(&[(&first, &leaves[..2]), (&second, &leaves[2..])]);
        assert!(reference.holds(&ack(&first, &leaves[1]), &mut findings) && reference.holds(&ack(&second, &leaves[2]), &mut findings));
        assert!(findings.is_empty());
        let gone = ack(&header(3, 4, 1, 7), &leaf(4, "d"));
        let moved = ack(&first, &leaf(1, "b"));
        let changed = ack(&first, &Leaf { timestamp: 2, ..leaf(2, "b") });
        for (at, lost) in [gone, moved, changed].iter().enumerate() {
            assert!(!reference.holds(lost, &mut findings));
            assert_eq!(findings.count(Wrong::Lost), at as u64 + 1, "{:?}", findings.kept);
        }
        assert_eq!(findings.count(Wrong::Forked), 0);
    }

    #[test]
    fn a_proof_of_another_header_and_a_log_with_another_header_are_forks() {
        let (ours, theirs) = (header(1, 1, 1, 5), header(1, 1, 1, 6));
        let only = leaf(1, "a");
        let (reference, mut findings) = taken(&[(&ours, std::slice::from_ref(&only))]);
        assert!(!reference.holds(&ack(&theirs, &only), &mut findings) && !reference.holds(&ack(&theirs, &only), &mut findings));
        assert_eq!((findings.count(Wrong::Forked), findings.count(Wrong::Lost)), (1, 2), "one slot is forked once");
        let (mut reference, mut findings) = taken(&[(&ours, std::slice::from_ref(&only))]);
        reference.take(&theirs, std::slice::from_ref(&only), &[only.hash()], "replica-3", &mut findings);
        assert_eq!(findings.count(Wrong::Forked), 1);
        assert!(findings.kept[0].what.contains("replica-3"), "{:?}", findings.kept);
    }

    #[test]
    fn an_update_that_stands_twice_is_found() {
        let (_, findings) = taken(&[(&header(1, 1, 1, 5), &[leaf(1, "a")]), (&header(2, 2, 1, 6), &[leaf(2, "a")])]);
        assert_eq!(findings.count(Wrong::Duplicated), 1);
    }
}
