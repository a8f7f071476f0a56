//! What members signed beside the batches that were committed, of all targets together: held against each other, it convicts who contradicted itself
//! (rules E1 to E9 of `docs/proofs.md`).

use std::collections::{BTreeMap, BTreeSet};

use crate::consensus::{Record, choose, kind, proposal_of_frame};
use crate::crypto::Signature;
use crate::journal::JournalReader;
use crate::types::{
    CheckpointCertificate, CommitCertificate, Convicted, Cosignature, Evidence, Federation, Header, NewView, NewViewClaim, Phase,
    PreparedCertificate, ReplicaIndex, Signed, SignedCheckpoint, SignedVote, Slot, Unfaithful, View, ViewChange, ViewChangeClaim, Vote,
};

/// The statements of all targets. Only what verifies is heard: a forgery must not stand in the place of what was really said.
#[derive(Default)]
pub(super) struct Testimony {
    votes: BTreeMap<(ReplicaIndex, Phase, View, Slot), SignedVote>,
    changes: BTreeMap<(ReplicaIndex, View), Signed<ViewChangeClaim>>,
    new_views: BTreeMap<View, NewView>,
    checkpoints: BTreeMap<(ReplicaIndex, Slot), SignedCheckpoint>,
    cosignatures: BTreeMap<(ReplicaIndex, u64), Cosignature>,
    /// Slots at which some target holds a proposal that was not committed.
    contested: BTreeSet<Slot>,
    /// View-changes that were found to leave out a commit: one is enough of each.
    forgetful: BTreeSet<(ReplicaIndex, View)>,
}

/// Slots whose proposals are compared; a history has few, unless leaders lied or fell in great numbers.
const MAX_CONTESTED: usize = 4_096;

impl Testimony {
    /// What a record of a replica's votes, verified, says of others and of itself.
    pub(super) fn hear(&mut self, federation: &Federation, record: &Record) -> Vec<Convicted> {
        let mut found = Vec::new();
        match record {
            Record::Prepared(certificate) => self.hear_prepared(federation, certificate, &mut found),
            Record::ViewChange(change) => self.hear_change(federation, change, &mut found),
            Record::NewView(new_view) => self.hear_new_view(federation, new_view, &mut found),
            Record::Stable(certificate) => self.hear_checkpoint(federation, certificate, &mut found),
            _ => {}
        }
        found
    }

    /// A committed batch's certificate: its signers' view-changes must not leave it out.
    pub(super) fn hear_commits(&mut self, federation: &Federation, certificate: &CommitCertificate) -> Vec<Convicted> {
        let mut found = Vec::new();
        for (replica, signature) in &certificate.signatures.0 {
            let later = self.changes.range((*replica, certificate.view.saturating_add(1))..=(*replica, View::MAX));
            for (key, change) in later.filter(|(key, change)| change.statement.stable.slot < certificate.slot && !self.forgetful.contains(*key)) {
                let commit = SignedVote { vote: certificate.vote(), replica: *replica, signature: *signature };
                let forgot = Evidence::of_commit_and_change(&commit, change);
                if let Some(convicted) = forgot.and_then(|evidence| evidence.convict(federation).ok()) {
                    self.forgetful.insert(*key);
                    found.push(convicted);
                    break;
                }
            }
        }
        found
    }

    /// The cosignatures of published checkpoints.
    pub(super) fn hear_cosignatures(&mut self, federation: &Federation, said: &[Cosignature]) -> Vec<Convicted> {
        let mut found = Vec::new();
        for cosignature in said {
            let contradiction = |known: &Cosignature| {
                let evidence = Evidence::Cosignatures { first: *known, second: *cosignature };
                evidence.contradicts().then_some(evidence)
            };
            let place = (cosignature.replica, cosignature.size);
            hear(federation, &mut self.cosignatures, place, contradiction, cosignature, &mut found);
        }
        found
    }

    /// A frame whose batch was not the one committed at its slot. If its leader signed it, the slot's proposals are looked up at the end; false if there
    /// are too many of them.
    pub(super) fn contest(&mut self, federation: &Federation, frame: &[u8]) -> bool {
        let Ok(Some((view, signature, header))) = proposal_of_frame(frame) else { return true };
        if proposal(federation, view, signature, &header).is_none() || self.contested.contains(&header.slot) {
            return true;
        }
        self.contested.len() < MAX_CONTESTED && self.contested.insert(header.slot)
    }

    /// Whether anything is to be looked up in [`Testimony::hear_proposals`].
    pub(super) fn is_contested(&self) -> bool {
        !self.contested.is_empty()
    }

    /// Every proposal that a target holds for a contested slot.
    pub(super) fn hear_proposals(&mut self, federation: &Federation, reader: &JournalReader) -> Vec<Convicted> {
        let mut found = Vec::new();
        let contested = self.contested.clone();
        for frame in reader.segments_from(None).flatten().filter(|frame| frame.kind == kind::PROPOSAL && contested.contains(&frame.tag)) {
            if let Ok(Some((view, signature, header))) = proposal_of_frame(&frame.payload) {
                self.hear_proposal(federation, view, signature, &header, &mut found);
            }
        }
        found
    }

    fn hear_proposal(&mut self, federation: &Federation, view: View, signature: Signature, header: &Header, found: &mut Vec<Convicted>) {
        if let Some(vote) = proposal(federation, view, signature, header) {
            self.hear_vote(federation, vote, found);
        }
    }

    fn hear_vote(&mut self, federation: &Federation, vote: SignedVote, found: &mut Vec<Convicted>) {
        let place = vote.vote;
        found.extend(self.new_views.get(&place.view).and_then(|new_view| unfaithful(federation, new_view, &vote)));
        let key = (vote.replica, place.phase, place.view, place.slot);
        let contradiction = |known: &SignedVote| Evidence::of_votes(known, &vote);
        hear(federation, &mut self.votes, key, contradiction, &vote, found);
    }

    fn hear_prepared(&mut self, federation: &Federation, certificate: &PreparedCertificate, found: &mut Vec<Convicted>) {
        for (replica, signature) in &certificate.signatures.0 {
            self.hear_vote(federation, SignedVote { vote: certificate.vote(), replica: *replica, signature: *signature }, found);
        }
    }

    fn hear_change(&mut self, federation: &Federation, change: &ViewChange, found: &mut Vec<Convicted>) {
        change.prepared.iter().for_each(|certificate| self.hear_prepared(federation, certificate, found));
        change.stable.iter().for_each(|certificate| self.hear_checkpoint(federation, certificate, found));
        let said = Signed { statement: ViewChangeClaim::of(change), signature: change.signature };
        let contradiction = |known: &Signed<ViewChangeClaim>| {
            let evidence = Evidence::ViewChanges { first: known.clone(), second: said.clone() };
            evidence.contradicts().then_some(evidence)
        };
        hear(federation, &mut self.changes, (change.replica, change.new_view), contradiction, &said, found);
    }

    fn hear_new_view(&mut self, federation: &Federation, new_view: &NewView, found: &mut Vec<Convicted>) {
        new_view.view_changes.iter().for_each(|change| self.hear_change(federation, change, found));
        let claim = |said: &NewView| Signed { statement: NewViewClaim::of(said, federation.id()), signature: said.signature };
        let contradiction = |known: &NewView| {
            let evidence = Evidence::NewViews { first: claim(known), second: claim(new_view) };
            evidence.contradicts().then_some(evidence)
        };
        hear(federation, &mut self.new_views, new_view.view, contradiction, new_view, found);
        let of_leader = self.votes.values().filter(|vote| vote.vote.view == new_view.view && vote.replica == federation.leader(new_view.view));
        found.extend(of_leader.filter_map(|vote| unfaithful(federation, new_view, vote)));
    }

    fn hear_checkpoint(&mut self, federation: &Federation, certificate: &CheckpointCertificate, found: &mut Vec<Convicted>) {
        let checkpoint = certificate.checkpoint;
        for (replica, signature) in &certificate.signatures.0 {
            let said = SignedCheckpoint { checkpoint, replica: *replica, signature: *signature };
            let contradiction = |known: &SignedCheckpoint| {
                let evidence = Evidence::Checkpoints { first: known.clone(), second: said.clone() };
                evidence.contradicts().then_some(evidence)
            };
            hear(federation, &mut self.checkpoints, (*replica, checkpoint.slot), contradiction, &said, found);
        }
    }
}

/// Keeps the first statement of a place; one that contradicts it convicts.
fn hear<K: Ord, S: Clone>(
    federation: &Federation,
    known: &mut BTreeMap<K, S>,
    place: K,
    contradiction: impl Fn(&S) -> Option<Evidence>,
    said: &S,
    found: &mut Vec<Convicted>,
) {
    match known.get(&place).and_then(contradiction) {
        Some(evidence) => found.extend(evidence.convict(federation).ok()),
        None => drop(known.entry(place).or_insert_with(|| said.clone())),
    }
}

/// A proposal as its leader's statement, if the leader made it.
fn proposal(federation: &Federation, view: View, signature: Signature, header: &Header) -> Option<SignedVote> {
    let vote = Vote { phase: Phase::PrePrepare, epoch: header.epoch, view, slot: header.slot, digest: header.digest() };
    let leader = federation.leader(view);
    federation.consensus_key(leader)?.verify(&vote.signed_bytes(federation.id()), &signature).ok()?;
    Some(SignedVote { vote, replica: leader, signature })
}

/// A leader's statement against its own new-view (E5).
fn unfaithful(federation: &Federation, new_view: &NewView, vote: &SignedVote) -> Option<Convicted> {
    let slot = vote.vote.slot;
    if vote.replica != federation.leader(new_view.view) {
        return None;
    }
    let headers: Vec<Header> = choose(new_view).1.into_iter().take_while(|header| header.slot <= slot).collect();
    let chosen = headers.last().filter(|header| header.slot == slot)?;
    if chosen.digest() == vote.vote.digest {
        return None;
    }
    let changes = new_view.view_changes.iter().map(ViewChangeClaim::of).collect();
    let claim = Signed { statement: NewViewClaim::of(new_view, federation.id()), signature: new_view.signature };
    Evidence::Unfaithful(Box::new(Unfaithful { new_view: claim, changes, headers, vote: vote.clone() })).convict(federation).ok()
}
