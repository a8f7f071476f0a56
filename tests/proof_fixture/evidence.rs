//! Evidence of every rule, and what comes near it and convicts nobody.

use exo_federation::crypto::{Digest, SigningKey, merkle::Frontier};
use exo_federation::types::{
    BodyClaim, Checkpoint, CommittedBatch, Cosignature, Evidence, EvidenceRule, Federation, Growth, Header, InvalidVote, NewViewClaim, Phase,
    PreparedClaim, Signed, SignedCheckpoint, SignedVote, StableClaim, Unfaithful, ViewChangeClaim, Vote,
};

use super::{Chain, secret};

/// Whom every record accuses: the leader of view 2 of four members.
pub(crate) const LIAR: u16 = 2;

/// What the members of a federation of four signed.
pub(crate) struct World {
    pub(crate) federation: Federation,
    /// Three batches, and the tree before each of them.
    pub(crate) batches: Vec<CommittedBatch>,
    pub(crate) trees: Vec<Frontier>,
}

pub(crate) fn key(member: u16) -> SigningKey {
    secret(u8::try_from(member).unwrap()).consensus_key()
}

pub(crate) fn stable(header: &Header) -> StableClaim {
    StableClaim { slot: header.slot, sequence: header.last_sequence(), digest: header.digest(), log_root: header.log_root }
}

pub(crate) fn prepared(header: &Header, view: u64) -> PreparedClaim {
    PreparedClaim { view, slot: header.slot, digest: header.digest() }
}

impl World {
    pub(crate) fn new() -> Self {
        let mut chain = Chain::new(4);
        let (mut batches, mut trees) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            trees.push(chain.frontier.clone());
            batches.push(chain.commit_some(2, 3));
        }
        Self { federation: chain.federation, batches, trees }
    }

    pub(crate) fn header(&self, slot: usize) -> &Header {
        &self.batches[slot - 1].header
    }

    pub(crate) fn vote(&self, member: u16, phase: Phase, view: u64, slot: u64, digest: Digest) -> SignedVote {
        let vote = Vote { phase, epoch: 0, view, slot, digest };
        SignedVote { vote, replica: member, signature: key(member).sign(&vote.signed_bytes(self.federation.id())) }
    }

    pub(crate) fn change(&self, replica: u16, new_view: u64, stable: StableClaim, prepared: Vec<PreparedClaim>) -> Signed<ViewChangeClaim> {
        let statement = ViewChangeClaim { epoch: 0, new_view, replica, stable, prepared };
        Signed { signature: key(replica).sign(&statement.signed_bytes(self.federation.id())), statement }
    }

    pub(crate) fn new_view(&self, view: u64, changes: &[ViewChangeClaim]) -> Signed<NewViewClaim> {
        let id = self.federation.id();
        let statement = NewViewClaim { epoch: 0, view, view_changes: changes.iter().map(|change| (change.replica, change.digest(id))).collect() };
        Signed { signature: key(self.federation.leader(view)).sign(&statement.signed_bytes(id)), statement }
    }

    pub(crate) fn checkpoint(&self, slot: u64, sequence: u64, root: u8) -> SignedCheckpoint {
        let checkpoint = Checkpoint { epoch: 0, slot, sequence, digest: Digest([7; 32]), log_root: Digest([root; 32]) };
        SignedCheckpoint { checkpoint, replica: LIAR, signature: key(LIAR).sign(&checkpoint.signed_bytes(self.federation.id())) }
    }

    /// The leader of view 2 began it from slot 1, where slots 2 and 3 follow from its view-changes, and then spoke of another header at `slot`.
    pub(crate) fn unfaithful(&self, slot: usize, digest: Digest) -> Unfaithful {
        let (base, second, third) = (stable(self.header(1)), prepared(self.header(2), 1), prepared(self.header(3), 0));
        let changes = vec![
            self.change(0, 2, StableClaim::default(), vec![prepared(self.header(1), 0)]).statement,
            self.change(1, 2, base, vec![second]).statement,
            // A certificate of a lower view loses.
            self.change(3, 2, base, vec![PreparedClaim { view: 0, digest: Digest([9; 32]), ..second }, third]).statement,
        ];
        let headers = (2..=slot).map(|slot| self.header(slot).clone()).collect();
        let vote = self.vote(LIAR, Phase::Prepare, 2, slot as u64, digest);
        Unfaithful { new_view: self.new_view(2, &changes), changes, headers, vote }
    }

    /// A vote for slot 2 with a changed header.
    pub(crate) fn invalid(&self, growth: bool, change: impl Fn(&mut Header)) -> InvalidVote {
        let batch = &self.batches[1];
        let mut header = batch.header.clone();
        change(&mut header);
        let body = BodyClaim::of(&batch.body, &batch.body.digests(self.federation.id()));
        let growth = growth.then(|| Growth { peaks: self.trees[1].peaks().to_vec(), body });
        let vote = self.vote(LIAR, Phase::Prepare, 1, 2, header.digest());
        InvalidVote { vote, header, parent: Some(self.header(1).clone()), growth }
    }

    /// Records of each kind and rule.
    pub(crate) fn guilty(&self) -> Vec<(&'static str, EvidenceRule, Evidence)> {
        let [first, second] = [Digest([1; 32]), Digest([2; 32])];
        let votes = |phase| Evidence::Votes { first: self.vote(LIAR, phase, 2, 5, first), second: self.vote(LIAR, phase, 2, 5, second) };
        let changes = [self.change(LIAR, 4, StableClaim::default(), vec![]), self.change(LIAR, 4, stable(self.header(1)), vec![])];
        let base = self.change(0, 2, StableClaim::default(), vec![]).statement;
        let [one, other] = [vec![base.clone()], vec![base.clone(), base]].map(|changes| self.new_view(2, &changes));
        vec![
            ("two proposals", EvidenceRule::TwoProposals, votes(Phase::PrePrepare)),
            ("two Prepares", EvidenceRule::TwoPrepares, votes(Phase::Prepare)),
            ("two Commits", EvidenceRule::TwoCommits, votes(Phase::Commit)),
            ("a Commit left out", EvidenceRule::ForgotCommit, self.forgot(3, 1, vec![])),
            (
                "a Commit named at a lower view",
                EvidenceRule::ForgotCommit,
                self.forgot(3, 1, vec![PreparedClaim { view: 1, ..prepared(self.header(3), 1) }]),
            ),
            ("another header right above the checkpoint", EvidenceRule::UnfaithfulLeader, Evidence::Unfaithful(self.unfaithful(2, first).into())),
            ("another header at a later slot", EvidenceRule::UnfaithfulLeader, Evidence::Unfaithful(self.unfaithful(3, first).into())),
            ("two view-changes", EvidenceRule::TwoViewChanges, Evidence::ViewChanges { first: changes[0].clone(), second: changes[1].clone() }),
            ("two new-views", EvidenceRule::TwoViewChanges, Evidence::NewViews { first: one, second: other }),
            ("a gap in the sequence numbers", EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(false, |h| h.first_sequence += 1).into())),
            ("not later than the parent", EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(false, |h| h.timestamp = 1_010).into())),
            ("another slot than the vote", EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(false, |h| h.slot = 3).into())),
            ("a false root", EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(true, |h| h.log_root = Digest([4; 32])).into())),
            ("a false count", EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(true, |h| h.count += 1).into())),
            (
                "two checkpoints of one slot",
                EvidenceRule::TwoCheckpoints,
                Evidence::Checkpoints { first: self.checkpoint(8, 80, 1), second: self.checkpoint(8, 80, 2) },
            ),
            (
                "two checkpoints of one size",
                EvidenceRule::TwoCheckpoints,
                Evidence::Checkpoints { first: self.checkpoint(8, 80, 1), second: self.checkpoint(9, 80, 2) },
            ),
        ]
    }

    /// A Commit of slot 3 in view 2, and a view-change to view 3 on a checkpoint at `base`.
    pub(crate) fn forgot(&self, new_view: u64, base: usize, prepared: Vec<PreparedClaim>) -> Evidence {
        let commit = self.vote(LIAR, Phase::Commit, 2, 3, self.header(3).digest());
        Evidence::Forgot { commit, change: self.change(LIAR, new_view, stable(self.header(base)), prepared) }
    }

    /// What comes near evidence and convicts nobody.
    pub(crate) fn innocent(&self) -> Vec<(&'static str, Evidence)> {
        [self.compatible(), self.faithful(), self.valid()].concat()
    }

    /// Statements that a correct replica makes, or that are of two.
    fn compatible(&self) -> Vec<(&'static str, Evidence)> {
        let world = self;
        let mut out = Vec::new();
        let [first, second] = [Digest([1; 32]), Digest([2; 32])];
        let vote = |member, phase, view, slot, digest| world.vote(member, phase, view, slot, digest);
        let base = vote(LIAR, Phase::Commit, 2, 5, first);
        for (what, other) in [
            ("the same twice", base.clone()),
            ("another phase", vote(LIAR, Phase::Prepare, 2, 5, second)),
            ("another view", vote(LIAR, Phase::Commit, 3, 5, second)),
            ("another slot", vote(LIAR, Phase::Commit, 2, 6, second)),
            ("another member", vote(1, Phase::Commit, 2, 5, second)),
        ] {
            out.push((what, Evidence::Votes { first: base.clone(), second: other }));
        }
        let third = world.header(3).clone();
        out.push(("the certificate is named", world.forgot(3, 1, vec![prepared(&third, 2)])));
        out.push(("one of a later view is named", world.forgot(4, 1, vec![PreparedClaim { digest: first, ..prepared(&third, 3) }])));
        out.push(("the checkpoint covers it", world.forgot(3, 3, vec![])));
        out.push(("the Commit came after", world.forgot(2, 1, vec![])));
        let of_prepare =
            Evidence::Forgot { commit: vote(LIAR, Phase::Prepare, 2, 3, first), change: world.change(LIAR, 3, StableClaim::default(), vec![]) };
        out.push(("a Prepare may be left out", of_prepare));

        let told =
            |change: Signed<ViewChangeClaim>| Evidence::ViewChanges { first: world.change(LIAR, 4, StableClaim::default(), vec![]), second: change };
        out.push(("to another view", told(world.change(LIAR, 5, stable(world.header(1)), vec![]))));
        out.push(("by another member", told(world.change(1, 4, stable(world.header(1)), vec![]))));
        out.push(("the same view-change", told(world.change(LIAR, 4, StableClaim::default(), vec![]))));
        let began = |view: u64, member: u16| world.new_view(view, &[world.change(member, view, StableClaim::default(), vec![]).statement]);
        out.push(("the same new-view", Evidence::NewViews { first: began(2, 0), second: began(2, 0) }));
        out.push(("another view's", Evidence::NewViews { first: began(2, 0), second: began(6, 0) }));
        let checkpoint = |slot, sequence, root| world.checkpoint(slot, sequence, root);
        out.push(("two checkpoints", Evidence::Checkpoints { first: checkpoint(8, 80, 1), second: checkpoint(9, 90, 2) }));
        out.push(("one checkpoint", Evidence::Checkpoints { first: checkpoint(8, 80, 1), second: checkpoint(8, 80, 1) }));
        out
    }

    /// What a leader says within its new-view, and new-views and headers that do not belong together.
    fn faithful(&self) -> Vec<(&'static str, Evidence)> {
        let world = self;
        let mut out = Vec::new();
        let unfaithful = |change: &dyn Fn(&mut Unfaithful)| {
            let mut found = world.unfaithful(3, Digest([1; 32]));
            change(&mut found);
            Evidence::Unfaithful(found.into())
        };
        let vote = |slot, digest| world.vote(LIAR, Phase::PrePrepare, 2, slot, digest);
        out.push(("what was chosen", unfaithful(&|u| u.vote = vote(3, world.header(3).digest()))));
        out.push(("behind what was chosen", unfaithful(&|u| u.vote = vote(4, Digest([1; 32])))));
        out.push(("at the checkpoint", unfaithful(&|u| (u.vote, u.headers) = (vote(1, Digest([1; 32])), vec![]))));
        out.push(("a header missing", unfaithful(&|u| u.headers = u.headers.split_off(1))));
        out.push(("another header", unfaithful(&|u| u.headers[1].timestamp += 1)));
        out.push(("a header too many", unfaithful(&|u| u.vote = vote(2, Digest([1; 32])))));
        out.push(("a view-change that is not named", unfaithful(&|u| drop(u.changes.pop()))));
        out.push(("in another view", unfaithful(&|u| u.vote = world.vote(LIAR, Phase::Prepare, 6, 3, Digest([1; 32])))));
        out.push(("who does not lead", unfaithful(&|u| u.vote = world.vote(1, Phase::Prepare, 2, 3, Digest([1; 32])))));
        // The chain breaks behind slot 2, so slot 3 is free.
        let broken = |u: &mut Unfaithful| {
            u.changes[1].prepared[0] = PreparedClaim { digest: Digest([8; 32]), ..prepared(world.header(2), 1) };
            u.new_view = world.new_view(2, &u.changes);
        };
        out.push(("the chain breaks before", unfaithful(&broken)));
        // Numbers at the end of what a field holds are nobody's statement, and no overflow.
        for slot in [u64::MAX - 1, u64::MAX] {
            let last = |u: &mut Unfaithful| {
                u.changes[1].stable.slot = slot;
                (u.new_view, u.vote, u.headers) = (world.new_view(2, &u.changes), vote(slot, Digest([1; 32])), vec![]);
            };
            out.push(("no slot behind the last", unfaithful(&last)));
        }
        out
    }

    /// Votes for valid headers, and headers, trees and bodies that do not belong together.
    fn valid(&self) -> Vec<(&'static str, Evidence)> {
        let world = self;
        let mut out = Vec::new();
        let invalid = |found: InvalidVote| Evidence::Invalid(found.into());
        out.push(("valid", invalid(world.invalid(false, |_| {}))));
        out.push(("valid, with its tree", invalid(world.invalid(true, |_| {}))));
        out.push(("a root that nothing is held against", invalid(world.invalid(false, |h| h.log_root = Digest([4; 32])))));
        out.push(("a tree beside what is wrong", invalid(world.invalid(true, |h| h.first_sequence += 1))));
        let changed = |change: &dyn Fn(&mut InvalidVote)| {
            let mut found = world.invalid(true, |h| h.log_root = Digest([4; 32]));
            change(&mut found);
            invalid(found)
        };
        out.push(("another header", changed(&|f| f.header.timestamp += 1)));
        out.push(("another parent", changed(&|f| f.parent = Some(world.header(3).clone()))));
        out.push(("no parent", changed(&|f| f.parent = None)));
        let growth = |f: &mut InvalidVote, change: &dyn Fn(&mut Growth)| f.growth.iter_mut().for_each(change);
        out.push(("another tree", changed(&|f| growth(f, &|g| g.peaks[0] = Digest([1; 32])))));
        out.push(("a shorter tree", changed(&|f| growth(f, &|g| g.peaks.truncate(1)))));
        out.push(("another body", changed(&|f| growth(f, &|g| drop(g.body.submissions.pop())))));
        // Numbers at the end of what a field holds are nobody's statement, and no overflow.
        let mut last = world.invalid(true, |h| h.log_root = Digest([4; 32]));
        let mut parent = world.header(1).clone();
        (parent.first_sequence, parent.slot, parent.timestamp) = (u64::MAX, u64::MAX, 0);
        last.growth = last.growth.map(|growth| Growth { peaks: vec![Digest([3; 32]); 64], ..growth });
        last.parent = Some(parent.clone());
        (last.header.parent, last.header.slot, last.header.first_sequence) = (parent.digest(), u64::MAX, u64::MAX);
        last.vote = world.vote(LIAR, Phase::Prepare, 1, u64::MAX, last.header.digest());
        out.push(("numbers without end", invalid(last)));
        out
    }
}

/// The record with one signature replaced by another of nobody's, for each signature.
pub(crate) fn forgeries(evidence: Evidence) -> Vec<Evidence> {
    let forged = key(0).sign(b"something else");
    match evidence {
        Evidence::Votes { first, second } => vec![
            Evidence::Votes { first: SignedVote { signature: forged, ..first.clone() }, second: second.clone() },
            Evidence::Votes { first, second: SignedVote { signature: forged, ..second } },
        ],
        Evidence::Forgot { commit, change } => vec![
            Evidence::Forgot { commit: SignedVote { signature: forged, ..commit.clone() }, change: change.clone() },
            Evidence::Forgot { commit, change: Signed { signature: forged, ..change } },
        ],
        Evidence::Unfaithful(found) => {
            let (mut a, mut b) = (found.clone(), found);
            (a.new_view.signature, b.vote.signature) = (forged, forged);
            vec![Evidence::Unfaithful(a), Evidence::Unfaithful(b)]
        }
        Evidence::ViewChanges { first, second } => vec![Evidence::ViewChanges { first, second: Signed { signature: forged, ..second } }],
        Evidence::NewViews { first, second } => vec![Evidence::NewViews { first: Signed { signature: forged, ..first }, second }],
        Evidence::Invalid(mut found) => {
            found.vote.signature = forged;
            vec![Evidence::Invalid(found)]
        }
        Evidence::Cosignatures { first, second } => {
            vec![Evidence::Cosignatures { first, second: Cosignature { signature: forged, ..second } }]
        }
        Evidence::Checkpoints { first, second } => {
            vec![Evidence::Checkpoints { first, second: SignedCheckpoint { signature: forged, ..second } }]
        }
    }
}
