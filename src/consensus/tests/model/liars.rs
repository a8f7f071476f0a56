//! What liars say.

use super::*;

impl Small {
    pub(super) fn vote(&self, by: ReplicaIndex, phase: Phase, view: u64, header: &Header) -> SignedVote {
        let vote = Vote { phase, epoch: 0, view, slot: header.slot, digest: header.digest() };
        SignedVote { vote, replica: by, signature: key(by).sign(&vote.signed_bytes(self.federation.id())) }
    }

    pub(super) fn view_change(&self, by: ReplicaIndex, prepared: Vec<PreparedCertificate>) -> ConsensusMessage {
        let signature = crate::crypto::Signature([0; 64]);
        let mut change = ViewChange { epoch: 0, new_view: SECOND, stable: None, prepared, replica: by, signature };
        change.signature = key(by).sign(&change.signed_bytes(self.federation.id()));
        ConsensusMessage::ViewChange(Arc::new(change))
    }

    pub(super) fn own_lies(&self, liar: ReplicaIndex, shared: &mut Shared) -> Vec<Said> {
        let id = self.federation.id();
        let mut lies = Vec::new();
        for view in 0..self.bounds.views {
            let proposal = |header: &Header| self.vote(liar, Phase::PrePrepare, view, header);
            for (header, body) in &self.batches {
                for phase in [Phase::Prepare, Phase::Commit] {
                    lies.push(ConsensusMessage::Vote(self.vote(liar, phase, view, header)));
                }
                if self.federation.leader(view) == liar {
                    let (header, body, signature) = (header.clone(), body.clone(), proposal(header).signature);
                    lies.push(ConsensusMessage::PrePrepare(SignedProposal { view, header, body, signature }));
                }
            }
            if self.federation.leader(view) == liar && self.bounds.views > SECOND {
                let (first, second) = (proposal(&self.batches[0].0), proposal(&self.batches[1].0));
                lies.push(ConsensusMessage::Evidence(Box::new(Evidence::Votes { first, second })));
            }
        }
        lies.extend(self.batches.iter().map(|(header, body)| ConsensusMessage::Body(header.clone(), body.clone())));
        if self.bounds.views > SECOND {
            let complaint = Complaint { epoch: 0, view: 0 };
            let signature = key(liar).sign(&complaint.signed_bytes(id));
            lies.push(ConsensusMessage::Complaint(SignedComplaint { complaint, replica: liar, signature }));
            lies.push(self.view_change(liar, vec![]));
        }
        lies.into_iter().map(|lie| self.number(liar, lie, shared)).collect()
    }

    /// What liars can make of what others said: view-changes with certificates, and new-views.
    pub(super) fn consequences(&self, said: &BTreeSet<Said>, shared: &mut Shared) -> Vec<Said> {
        let matters = |s: &Said| match &shared.messages[usize::from(*s)].content {
            ConsensusMessage::Vote(vote) => vote.vote.phase == Phase::Prepare && vote.vote.view < SECOND && self.bounds.views > SECOND,
            ConsensusMessage::ViewChange(_) => true,
            _ => false,
        };
        let said: Vec<Said> = said.iter().copied().filter(matters).collect();
        if self.bounds.views <= SECOND {
            return vec![];
        }
        if let Some(known) = shared.consequences.get(&said) {
            return known.clone();
        }
        let mut follows = Vec::new();
        let certificates = self.certificates(&said, shared);
        for liar in &self.bounds.liars {
            // Every choice of at most one certificate a slot.
            let mut choices: Vec<Vec<PreparedCertificate>> = vec![vec![]];
            for slot in 1..=self.bounds.slots {
                let of_slot: Vec<_> = certificates.iter().filter(|c| c.header.slot == slot).collect();
                let longer: Vec<_> = choices.iter().flat_map(|c| of_slot.iter().map(move |o| [&c[..], &[(*o).clone()]].concat())).collect();
                choices.extend(longer);
            }
            follows.extend(choices.into_iter().skip(1).map(|prepared| self.number(*liar, self.view_change(*liar, prepared), shared)));
        }
        let changes: Vec<Said> = said.iter().chain(&self.lies).chain(&follows).copied().collect();
        follows.extend(self.new_views(&changes, shared));
        shared.consequences.insert(said, follows.clone());
        follows
    }

    pub(super) fn certificates(&self, said: &[Said], shared: &Shared) -> Vec<PreparedCertificate> {
        let mut certificates = Vec::new();
        for (header, _) in &self.batches {
            let prepares = said.iter().chain(&self.lies).filter_map(|s| match &shared.messages[usize::from(*s)].content {
                ConsensusMessage::Vote(v) if (v.vote.phase, v.vote.view, v.vote.digest) == (Phase::Prepare, 0, header.digest()) => {
                    Some((v.replica, v.signature))
                }
                _ => None,
            });
            let signatures: BTreeMap<_, _> = prepares.collect();
            if signatures.len() >= self.federation.quorum() {
                let signatures = SignatureSet(signatures.into_iter().take(self.federation.quorum()).collect());
                certificates.push(PreparedCertificate { view: 0, header: header.clone(), signatures });
            }
        }
        certificates
    }

    /// Every new-view that a liar who leads can begin.
    pub(super) fn new_views(&self, said: &[Said], shared: &mut Shared) -> Vec<Said> {
        let leader = self.federation.leader(SECOND);
        if !self.bounds.liars.contains(&leader) {
            return vec![];
        }
        // Every choice of at most one view-change a member.
        let mut choices: Vec<Vec<ViewChange>> = vec![vec![]];
        for member in 0..4 {
            let of_member: Vec<ViewChange> = said
                .iter()
                .filter_map(|s| match &shared.messages[usize::from(*s)].content {
                    ConsensusMessage::ViewChange(change) if change.replica == member => Some(ViewChange::clone(change)),
                    _ => None,
                })
                .collect();
            let longer: Vec<_> = choices.iter().flat_map(|c| of_member.iter().map(move |o| [&c[..], std::slice::from_ref(o)].concat())).collect();
            choices.extend(longer);
        }
        let quorums = choices.into_iter().filter(|changes| changes.len() >= self.federation.quorum());
        quorums
            .map(|view_changes| {
                let mut new_view = NewView { epoch: 0, view: SECOND, view_changes, signature: crate::crypto::Signature([0; 64]) };
                new_view.signature = key(leader).sign(&new_view.signed_bytes(self.federation.id()));
                self.number(leader, ConsensusMessage::NewView(Arc::new(new_view)), shared)
            })
            .collect()
    }
}
