//! The ledger of signed statements: whether one member signed two different things at one place, in anything that any replica stored or served.

use std::collections::HashMap;

use super::finding::{Findings, Wrong};
use crate::consensus::Record;
use crate::crypto::{Digest, Signature, sha256};
use crate::types::{
    CheckpointCertificate, CommitCertificate, Federation, Phase, PreparedCertificate, ReplicaIndex, SignatureSet, Slot, View, ViewChange, Vote,
};

/// What a signature is about; one member says one thing at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Vote(Phase, View, Slot),
    Checkpoint(Slot),
}

/// Who signed which digest, by place. Only signatures that verify are in it.
#[derive(Default)]
pub(crate) struct SignedLedger {
    places: HashMap<Place, Vec<(Digest, Vec<ReplicaIndex>)>>,
}

impl SignedLedger {
    /// A replica's journal record.
    pub(crate) fn note_record(&mut self, federation: &Federation, record: &Record, whose: &str, findings: &mut Findings) {
        match record {
            Record::Proposal { view, header, signature, .. } => {
                let vote = Vote { phase: Phase::PrePrepare, epoch: header.epoch, view: *view, slot: header.slot, digest: header.digest() };
                let signed = SignatureSet(vec![(federation.leader(*view), *signature)]);
                self.note_vote(federation, &vote, &signed, whose, findings);
            }
            Record::Committed(certificate) => self.note_commit(federation, certificate, whose, findings),
            Record::Prepared(certificate) => self.note_prepared(federation, certificate, whose, findings),
            Record::ViewChange(change) => self.note_view_change(federation, change, whose, findings),
            Record::NewView(new_view) => new_view.view_changes.iter().for_each(|c| self.note_view_change(federation, c, whose, findings)),
            Record::Stable(certificate) => self.note_checkpoint(federation, certificate, whose, findings),
            Record::Body { .. } | Record::Started { .. } | Record::Owner(_) => {}
        }
    }

    /// The commits of a certificate.
    pub(crate) fn note_commit(&mut self, federation: &Federation, certificate: &CommitCertificate, whose: &str, findings: &mut Findings) {
        self.note_vote(federation, &certificate.vote(), &certificate.signatures, whose, findings);
    }

    fn note_prepared(&mut self, federation: &Federation, certificate: &PreparedCertificate, whose: &str, findings: &mut Findings) {
        self.note_vote(federation, &certificate.vote(), &certificate.signatures, whose, findings);
    }

    /// A view-change repeats other members' statements; its own is about the whole of what it lists and may be made anew.
    fn note_view_change(&mut self, federation: &Federation, change: &ViewChange, whose: &str, findings: &mut Findings) {
        change.prepared.iter().for_each(|prepared| self.note_prepared(federation, prepared, whose, findings));
        change.stable.iter().for_each(|stable| self.note_checkpoint(federation, stable, whose, findings));
    }

    fn note_checkpoint(&mut self, federation: &Federation, certificate: &CheckpointCertificate, whose: &str, findings: &mut Findings) {
        let bytes = certificate.checkpoint.signed_bytes(federation.id());
        self.note(federation, Place::Checkpoint(certificate.checkpoint.slot), sha256(&bytes), &bytes, &certificate.signatures, whose, findings);
    }

    fn note_vote(&mut self, federation: &Federation, vote: &Vote, signed: &SignatureSet, whose: &str, findings: &mut Findings) {
        let bytes = vote.signed_bytes(federation.id());
        self.note(federation, Place::Vote(vote.phase, vote.view, vote.slot), vote.digest, &bytes, signed, whose, findings);
    }

    fn note(
        &mut self,
        federation: &Federation,
        place: Place,
        digest: Digest,
        bytes: &[u8],
        signed: &SignatureSet,
        whose: &str,
        findings: &mut Findings,
    ) {
        let said = self.places.entry(place).or_default();
        for (signer, signature) in &signed.0 {
            if said.iter().any(|(known, signers)| *known == digest && signers.contains(signer)) {
                continue;
            }
            if !verifies(federation, *signer, bytes, signature) {
                findings.add(Wrong::Damaged, format!("{whose} stores a signature of member {signer} for {place:?} that does not verify"));
                continue;
            }
            if let Some((other, _)) = said.iter().find(|(_, signers)| signers.contains(signer)) {
                let what = format!("member {signer} signed {digest} and {other} for {place:?}; the former is stored by {whose}");
                findings.add(Wrong::SignedTwice, what);
            }
            match said.iter_mut().find(|(known, _)| *known == digest) {
                Some((_, signers)) => signers.push(*signer),
                None => said.push((digest, vec![*signer])),
            }
        }
    }
}

fn verifies(federation: &Federation, signer: ReplicaIndex, bytes: &[u8], signature: &Signature) -> bool {
    federation.consensus_key(signer).is_some_and(|key| key.verify(bytes, signature).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::{ReplicaSecret, SigningKey};
    use crate::types::{Author, Genesis, Member, Parameters, PeerId};

    fn federation() -> (Federation, Vec<SigningKey>) {
        let secrets: Vec<_> = (1..=4).map(|k| ReplicaSecret::from_bytes([k; 32])).collect();
        let member = |(k, s): (usize, &ReplicaSecret)| Member {
            peer: PeerId(format!("replica-{k}")),
            consensus_key: s.consensus_key().public(),
            transport_key: s.transport_key().public(),
            cosignature_key: s.cosignature_key().public(),
        };
        let author = Author { name: "author".into(), key: SigningKey::from_seed(&[9; 32]).public() };
        let members = secrets.iter().enumerate().map(member).collect();
        let genesis = Genesis { name: "f".into(), members, authors: vec![author], readers: vec![], parameters: Parameters::default() };
        (Federation::new(genesis).unwrap(), secrets.iter().map(ReplicaSecret::consensus_key).collect())
    }

    fn certificate(federation: &Federation, keys: &[SigningKey], signers: &[u16], view: View, digest: u8) -> CommitCertificate {
        let mut made = CommitCertificate { epoch: 0, view, slot: 5, digest: Digest([digest; 32]), signatures: SignatureSet::default() };
        let bytes = made.vote().signed_bytes(federation.id());
        made.signatures = SignatureSet(signers.iter().map(|s| (*s, keys[usize::from(*s)].sign(&bytes))).collect());
        made
    }

    #[test]
    fn one_member_with_two_digests_at_one_place_is_found_and_named() {
        let (federation, keys) = federation();
        let (mut ledger, mut findings) = (SignedLedger::default(), Findings::default());
        let mut note = |certificate: &CommitCertificate| ledger.note_commit(&federation, certificate, "replica-1", &mut findings);
        note(&certificate(&federation, &keys, &[0, 1, 2], 3, 7));
        note(&certificate(&federation, &keys, &[1, 2, 3], 3, 7));
        // The same slot in another view is another place.
        note(&certificate(&federation, &keys, &[0, 1, 2], 4, 8));
        // Member 2 contradicts itself, member 3 with it.
        note(&certificate(&federation, &keys, &[2, 3], 3, 8));
        assert_eq!(findings.count(Wrong::SignedTwice), 2);
        assert!(findings.kept[0].what.contains("member 2"), "{:?}", findings.kept);
        assert_eq!(findings.count(Wrong::Damaged), 0);
    }

    #[test]
    fn a_forged_statement_accuses_nobody() {
        let (federation, keys) = federation();
        let (mut ledger, mut findings) = (SignedLedger::default(), Findings::default());
        ledger.note_commit(&federation, &certificate(&federation, &keys, &[0, 1, 2], 3, 7), "replica-1", &mut findings);
        let mut forged = certificate(&federation, &keys, &[2], 3, 8);
        forged.signatures.0[0].1.0[0] ^= 1;
        ledger.note_commit(&federation, &forged, "replica-1", &mut findings);
        assert_eq!((findings.count(Wrong::SignedTwice), findings.count(Wrong::Damaged)), (0, 1));
    }
}
