//! Every rule of evidence: what convicts, that nothing near it does, and that a record convicts of nothing else once a byte of it is changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;

use exo_federation::crypto::{Digest, SigningKey, merkle::Frontier};
use exo_federation::types::{
    BodyClaim, Checkpoint, CommittedBatch, Cosignature, Evidence, EvidenceError, EvidenceRule, Federation, Growth, Header, InvalidVote, NewViewClaim,
    Phase, PreparedClaim, Signed, SignedCheckpoint, SignedVote, StableClaim, Unfaithful, ViewChangeClaim, Vote, decode, encode,
};
use proof_fixture::{Chain, secret};

const LIAR: u16 = 2;

/// What the members of a federation of four signed.
struct World {
    federation: Federation,
    /// Three batches, and the tree before each of them.
    batches: Vec<CommittedBatch>,
    trees: Vec<Frontier>,
}

fn key(member: u16) -> SigningKey {
    secret(u8::try_from(member).unwrap()).consensus_key()
}

fn stable(header: &Header) -> StableClaim {
    StableClaim { slot: header.slot, sequence: header.last_sequence(), digest: header.digest(), log_root: header.log_root }
}

fn prepared(header: &Header, view: u64) -> PreparedClaim {
    PreparedClaim { view, slot: header.slot, digest: header.digest() }
}

impl World {
    fn new() -> Self {
        let mut chain = Chain::new(4);
        let (mut batches, mut trees) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            trees.push(chain.frontier.clone());
            batches.push(chain.commit_some(2, 3));
        }
        Self { federation: chain.federation, batches, trees }
    }

    fn header(&self, slot: usize) -> &Header {
        &self.batches[slot - 1].header
    }

    fn vote(&self, member: u16, phase: Phase, view: u64, slot: u64, digest: Digest) -> SignedVote {
        let vote = Vote { phase, epoch: 0, view, slot, digest };
        SignedVote { vote, replica: member, signature: key(member).sign(&vote.signed_bytes(self.federation.id())) }
    }

    fn change(&self, replica: u16, new_view: u64, stable: StableClaim, prepared: Vec<PreparedClaim>) -> Signed<ViewChangeClaim> {
        let statement = ViewChangeClaim { epoch: 0, new_view, replica, stable, prepared };
        Signed { signature: key(replica).sign(&statement.signed_bytes(self.federation.id())), statement }
    }

    fn new_view(&self, view: u64, changes: &[ViewChangeClaim]) -> Signed<NewViewClaim> {
        let id = self.federation.id();
        let statement = NewViewClaim { epoch: 0, view, view_changes: changes.iter().map(|change| (change.replica, change.digest(id))).collect() };
        Signed { signature: key(self.federation.leader(view)).sign(&statement.signed_bytes(id)), statement }
    }

    fn checkpoint(&self, slot: u64, sequence: u64, root: u8) -> SignedCheckpoint {
        let checkpoint = Checkpoint { epoch: 0, slot, sequence, digest: Digest([7; 32]), log_root: Digest([root; 32]) };
        SignedCheckpoint { checkpoint, replica: LIAR, signature: key(LIAR).sign(&checkpoint.signed_bytes(self.federation.id())) }
    }

    fn cosignature(&self, size: u64, root: u8, timestamp: u64) -> Cosignature {
        let key = secret(u8::try_from(LIAR).unwrap()).cosignature_key();
        Cosignature::sign(self.federation.id(), &key, LIAR, (size, Digest([root; 32])), timestamp)
    }

    /// The leader of view 2 began it from slot 1, where slots 2 and 3 follow from its view-changes, and then spoke of another header at `slot`.
    fn unfaithful(&self, slot: usize, digest: Digest) -> Unfaithful {
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
    fn invalid(&self, growth: bool, change: impl Fn(&mut Header)) -> InvalidVote {
        let batch = &self.batches[1];
        let mut header = batch.header.clone();
        change(&mut header);
        let body = BodyClaim::of(&batch.body, &batch.body.digests(self.federation.id()));
        let growth = growth.then(|| Growth { peaks: self.trees[1].peaks().to_vec(), body });
        let vote = self.vote(LIAR, Phase::Prepare, 1, 2, header.digest());
        InvalidVote { vote, header, parent: Some(self.header(1).clone()), growth }
    }

    /// One record of each kind.
    fn guilty(&self) -> Vec<(EvidenceRule, Evidence)> {
        let [first, second] = [Digest([1; 32]), Digest([2; 32])];
        let votes = |phase| Evidence::Votes { first: self.vote(LIAR, phase, 2, 5, first), second: self.vote(LIAR, phase, 2, 5, second) };
        let changes = [self.change(LIAR, 4, StableClaim::default(), vec![]), self.change(LIAR, 4, stable(self.header(1)), vec![])];
        let base = self.change(0, 2, StableClaim::default(), vec![]).statement;
        let [one, other] = [vec![base.clone()], vec![base.clone(), base]].map(|changes| self.new_view(2, &changes));
        vec![
            (EvidenceRule::TwoProposals, votes(Phase::PrePrepare)),
            (EvidenceRule::TwoPrepares, votes(Phase::Prepare)),
            (EvidenceRule::TwoCommits, votes(Phase::Commit)),
            (EvidenceRule::ForgotCommit, self.forgot(3, 1, vec![])),
            (EvidenceRule::ForgotCommit, self.forgot(3, 1, vec![PreparedClaim { view: 1, ..prepared(self.header(3), 1) }])),
            (EvidenceRule::UnfaithfulLeader, Evidence::Unfaithful(self.unfaithful(2, first).into())),
            (EvidenceRule::UnfaithfulLeader, Evidence::Unfaithful(self.unfaithful(3, first).into())),
            (EvidenceRule::TwoViewChanges, Evidence::ViewChanges { first: changes[0].clone(), second: changes[1].clone() }),
            (EvidenceRule::TwoViewChanges, Evidence::NewViews { first: one, second: other }),
            (EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(false, |h| h.first_sequence += 1).into())),
            (EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(false, |h| h.timestamp = 1_010).into())),
            (EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(false, |h| h.slot = 3).into())),
            (EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(true, |h| h.log_root = Digest([4; 32])).into())),
            (EvidenceRule::InvalidHeader, Evidence::Invalid(self.invalid(true, |h| h.count += 1).into())),
            (EvidenceRule::TwoCheckpoints, Evidence::Cosignatures { first: self.cosignature(80, 1, 5), second: self.cosignature(80, 2, 6) }),
            (EvidenceRule::TwoCheckpoints, Evidence::Checkpoints { first: self.checkpoint(8, 80, 1), second: self.checkpoint(8, 80, 2) }),
            (EvidenceRule::TwoCheckpoints, Evidence::Checkpoints { first: self.checkpoint(8, 80, 1), second: self.checkpoint(9, 80, 2) }),
        ]
    }

    /// A Commit of slot 3 in view 2, and a view-change to view 3 on a checkpoint at `base`.
    fn forgot(&self, new_view: u64, base: usize, prepared: Vec<PreparedClaim>) -> Evidence {
        let commit = self.vote(LIAR, Phase::Commit, 2, 3, self.header(3).digest());
        Evidence::Forgot { commit, change: self.change(LIAR, new_view, stable(self.header(base)), prepared) }
    }

    fn innocent(&self, what: &str, evidence: &Evidence) {
        let verdict = evidence.verify(&self.federation);
        assert!(matches!(verdict, Err(EvidenceError::NoContradiction(_))), "{what}: {verdict:?}");
    }
}

#[test]
fn each_rule_convicts_the_liar_alone_and_its_record_keeps_in_both_forms() {
    let world = World::new();
    let mut ids = std::collections::BTreeSet::new();
    for (rule, evidence) in world.guilty() {
        let conviction = evidence.verify(&world.federation).unwrap_or_else(|e| panic!("{rule}: {e}"));
        assert_eq!((conviction.rule, conviction.replica, conviction.member.0.as_str()), (rule, LIAR, "replica-2"));
        assert!(conviction.to_string().contains(&conviction.says), "{conviction}");
        ids.insert(conviction.id);
        let bytes = encode(&evidence).unwrap();
        assert_eq!(decode::<Evidence>(&bytes).unwrap(), evidence, "{rule}");
        let text = evidence.to_json(&world.federation).unwrap();
        let read = Evidence::from_json(&text, &world.federation).unwrap();
        assert_eq!(read.verify(&world.federation).unwrap(), conviction, "{rule}");
        assert_eq!(read.to_json(&world.federation).unwrap(), text, "{rule}");
    }
    assert_eq!(ids.len(), world.guilty().len() - 1, "the last two are one contradiction");
}

#[test]
fn the_order_of_two_statements_of_a_kind_names_the_same_record() {
    let world = World::new();
    let swapped = |evidence: &Evidence| match evidence.clone() {
        Evidence::Votes { first, second } => Some(Evidence::Votes { first: second, second: first }),
        Evidence::ViewChanges { first, second } => Some(Evidence::ViewChanges { first: second, second: first }),
        Evidence::NewViews { first, second } => Some(Evidence::NewViews { first: second, second: first }),
        Evidence::Checkpoints { first, second } => Some(Evidence::Checkpoints { first: second, second: first }),
        Evidence::Cosignatures { first, second } => Some(Evidence::Cosignatures { first: second, second: first }),
        _ => None,
    };
    let mut count = 0;
    for (rule, evidence) in world.guilty() {
        if let Some(other) = swapped(&evidence) {
            assert_eq!(other.id(&world.federation), evidence.id(&world.federation), "{rule}");
            assert_eq!(other.to_json(&world.federation).unwrap(), evidence.to_json(&world.federation).unwrap(), "{rule}");
            count += 1;
        }
    }
    assert_eq!(count, 8);
}

#[test]
fn what_a_correct_replica_signs_convicts_nobody() {
    let world = World::new();
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
        world.innocent(what, &Evidence::Votes { first: base.clone(), second: other });
    }
    let third = world.header(3).clone();
    world.innocent("the certificate is named", &world.forgot(3, 1, vec![prepared(&third, 2)]));
    world.innocent("one of a later view is named", &world.forgot(4, 1, vec![PreparedClaim { digest: first, ..prepared(&third, 3) }]));
    world.innocent("the checkpoint covers it", &world.forgot(3, 3, vec![]));
    world.innocent("the Commit came after", &world.forgot(2, 1, vec![]));
    let of_prepare =
        Evidence::Forgot { commit: vote(LIAR, Phase::Prepare, 2, 3, first), change: world.change(LIAR, 3, StableClaim::default(), vec![]) };
    world.innocent("a Prepare may be left out", &of_prepare);

    let told =
        |change: Signed<ViewChangeClaim>| Evidence::ViewChanges { first: world.change(LIAR, 4, StableClaim::default(), vec![]), second: change };
    world.innocent("to another view", &told(world.change(LIAR, 5, stable(world.header(1)), vec![])));
    world.innocent("by another member", &told(world.change(1, 4, stable(world.header(1)), vec![])));
    world.innocent("the same view-change", &told(world.change(LIAR, 4, StableClaim::default(), vec![])));
    let began = |view: u64, member: u16| world.new_view(view, &[world.change(member, view, StableClaim::default(), vec![]).statement]);
    world.innocent("the same new-view", &Evidence::NewViews { first: began(2, 0), second: began(2, 0) });
    world.innocent("another view's", &Evidence::NewViews { first: began(2, 0), second: began(6, 0) });
    let checkpoint = |slot, sequence, root| world.checkpoint(slot, sequence, root);
    world.innocent("two checkpoints", &Evidence::Checkpoints { first: checkpoint(8, 80, 1), second: checkpoint(9, 90, 2) });
    let cosigned = |size, root, time| world.cosignature(size, root, time);
    world.innocent("one root at two times", &Evidence::Cosignatures { first: cosigned(80, 1, 5), second: cosigned(80, 1, 6) });
    world.innocent("two sizes", &Evidence::Cosignatures { first: cosigned(80, 1, 5), second: cosigned(81, 2, 5) });
    world.innocent("one checkpoint", &Evidence::Checkpoints { first: checkpoint(8, 80, 1), second: checkpoint(8, 80, 1) });
}

#[test]
fn a_leader_that_keeps_to_its_new_view_is_not_convicted() {
    let world = World::new();
    let unfaithful = |change: &dyn Fn(&mut Unfaithful)| {
        let mut found = world.unfaithful(3, Digest([1; 32]));
        change(&mut found);
        Evidence::Unfaithful(found.into())
    };
    let vote = |slot, digest| world.vote(LIAR, Phase::PrePrepare, 2, slot, digest);
    world.innocent("what was chosen", &unfaithful(&|u| u.vote = vote(3, world.header(3).digest())));
    world.innocent("behind what was chosen", &unfaithful(&|u| u.vote = vote(4, Digest([1; 32]))));
    world.innocent("at the checkpoint", &unfaithful(&|u| (u.vote, u.headers) = (vote(1, Digest([1; 32])), vec![])));
    world.innocent("a header missing", &unfaithful(&|u| u.headers = u.headers.split_off(1)));
    world.innocent("another header", &unfaithful(&|u| u.headers[1].timestamp += 1));
    world.innocent("a header too many", &unfaithful(&|u| u.vote = vote(2, Digest([1; 32]))));
    world.innocent("a view-change that is not named", &unfaithful(&|u| drop(u.changes.pop())));
    world.innocent("in another view", &unfaithful(&|u| u.vote = world.vote(LIAR, Phase::Prepare, 6, 3, Digest([1; 32]))));
    world.innocent("who does not lead", &unfaithful(&|u| u.vote = world.vote(1, Phase::Prepare, 2, 3, Digest([1; 32]))));
    // The chain breaks behind slot 2, so slot 3 is free.
    let broken = |u: &mut Unfaithful| {
        u.changes[1].prepared[0] = PreparedClaim { digest: Digest([8; 32]), ..prepared(world.header(2), 1) };
        u.new_view = world.new_view(2, &u.changes);
    };
    world.innocent("the chain breaks before", &unfaithful(&broken));
}

#[test]
fn a_valid_header_convicts_nobody() {
    let world = World::new();
    let invalid = |found: InvalidVote| Evidence::Invalid(found.into());
    world.innocent("valid", &invalid(world.invalid(false, |_| {})));
    world.innocent("valid, with its tree", &invalid(world.invalid(true, |_| {})));
    world.innocent("a root that nothing is held against", &invalid(world.invalid(false, |h| h.log_root = Digest([4; 32]))));
    world.innocent("a tree beside what is wrong", &invalid(world.invalid(true, |h| h.first_sequence += 1)));
    let changed = |change: &dyn Fn(&mut InvalidVote)| {
        let mut found = world.invalid(true, |h| h.log_root = Digest([4; 32]));
        change(&mut found);
        invalid(found)
    };
    world.innocent("another header", &changed(&|f| f.header.timestamp += 1));
    world.innocent("another parent", &changed(&|f| f.parent = Some(world.header(3).clone())));
    world.innocent("no parent", &changed(&|f| f.parent = None));
    let growth = |f: &mut InvalidVote, change: &dyn Fn(&mut Growth)| f.growth.iter_mut().for_each(change);
    world.innocent("another tree", &changed(&|f| growth(f, &|g| g.peaks[0] = Digest([1; 32]))));
    world.innocent("a shorter tree", &changed(&|f| growth(f, &|g| g.peaks.truncate(1))));
    world.innocent("another body", &changed(&|f| growth(f, &|g| drop(g.body.submissions.pop()))));
    // Numbers at the end of what a field holds are nobody's statement, and no overflow.
    let mut last = world.invalid(true, |h| h.log_root = Digest([4; 32]));
    let mut parent = world.header(1).clone();
    (parent.first_sequence, parent.slot, parent.timestamp) = (u64::MAX, u64::MAX, 0);
    last.growth = last.growth.map(|growth| Growth { peaks: vec![Digest([3; 32]); 64], ..growth });
    last.parent = Some(parent.clone());
    (last.header.parent, last.header.slot, last.header.first_sequence) = (parent.digest(), u64::MAX, u64::MAX);
    last.vote = world.vote(LIAR, Phase::Prepare, 1, u64::MAX, last.header.digest());
    world.innocent("numbers without end", &invalid(last));
}

#[test]
fn a_statement_that_the_member_did_not_sign_convicts_nobody() {
    let world = World::new();
    let forged = key(0).sign(b"something else");
    for (rule, evidence) in world.guilty() {
        let forgeries: Vec<Evidence> = match evidence {
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
            Evidence::Cosignatures { first, second } => vec![
                Evidence::Cosignatures { first: Cosignature { signature: forged, ..first }, second },
                // The consensus key signs no published checkpoint.
                Evidence::Cosignatures {
                    first,
                    second: Cosignature { signature: key(LIAR).sign(&second.signed_bytes(world.federation.id())), ..second },
                },
            ],
            Evidence::Checkpoints { first, second } => {
                vec![Evidence::Checkpoints { first, second: SignedCheckpoint { signature: forged, ..second } }]
            }
        };
        for forgery in forgeries {
            assert!(matches!(forgery.verify(&world.federation), Err(EvidenceError::BadSignature { .. })), "{rule}");
        }
    }
}

#[test]
fn a_changed_byte_of_a_record_convicts_of_nothing_else() {
    let world = World::new();
    let federation = &world.federation;
    for (rule, evidence) in world.guilty() {
        let whole = evidence.verify(federation).unwrap();
        let text = evidence.to_json(federation).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let verdict = Evidence::from_json(&changed, federation).and_then(|evidence| Ok(evidence.verify(federation)?));
            assert!(changed == text || verdict.is_err(), "{rule}, byte {at} of the text: {verdict:?}");
        }
        let bytes = encode(&evidence).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let Ok(read) = decode::<Evidence>(&changed) else { continue };
            let verdict = read.verify(federation);
            assert!(verdict.is_err(), "{rule}, byte {at} of the row: {verdict:?} instead of {whole:?}");
        }
    }
}
