//! Members that lie: the real code of a replica, with a liar between it and the network. One file each, named after what it does.
//!
//! A liar holds its own key only. Everything else it knows is what it was sent.

mod censor;
mod double_vote;
mod equivocate;
mod far_future;
mod flood;
mod forge;
mod mutate;
mod replay;
mod silence;
mod slow_leader;
mod turncoat;
mod withhold;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::rng::Rng;
use crate::consensus::{CheckedBody, Now, Replica};
use crate::crypto::{Digest, Signature, SigningKey};
use crate::types::{
    Body, CommittedBatch, ConsensusMessage, Federation, Header, Phase, ReplicaIndex, SignedProposal, SignedVote, Slot, Submission, View, Vote,
};

/// How a member lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// Proposes two batches at one place, each to half of the members.
    Equivocate,
    /// Proposes another batch to one member only.
    EquivocateToOne,
    /// Votes for two digests at one place.
    DoubleVote,
    /// Says nothing at all.
    Silent,
    /// Says nothing to some.
    SelectivelySilent,
    /// Leads as slowly as the others let it.
    SlowLeader,
    /// Leaves one author's submissions out.
    Censor,
    /// Sends old messages again.
    Replay,
    /// Speaks of slots and views far ahead.
    FarFuture,
    /// Begins views without a quorum, or leaves certificates out.
    ForgedNewView,
    /// Leaves its prepared certificates out of its view-changes.
    HidesPrepared,
    /// Signs checkpoints of logs that are not.
    FakeCheckpoint,
    /// Serves damaged batches to those who catch up.
    CorruptCatchUp,
    /// Proposes, and gives the body to a bare quorum only.
    Withhold,
    /// Proposes what breaks a rule: an unsigned submission, another parent, a repeated update, a wrong root, a wrong time.
    BadProposal,
    /// Changes fields of what it sends by one.
    Mutate,
    /// Complains and leaves views all the time.
    ViewChangeSpam,
    /// Asks for everything all the time.
    Flood,
    /// Behaves, until a checkpoint; then lies in several ways.
    Turncoat,
    /// Colludes with an author: proposes what only they know.
    Collude,
    /// Runs twice under one key.
    Twins,
}

impl Behaviour {
    /// All of them but twins, which need a schedule of their own.
    pub const ALONE: [Self; 20] = [
        Self::Equivocate,
        Self::EquivocateToOne,
        Self::DoubleVote,
        Self::Silent,
        Self::SelectivelySilent,
        Self::SlowLeader,
        Self::Censor,
        Self::Replay,
        Self::FarFuture,
        Self::ForgedNewView,
        Self::HidesPrepared,
        Self::FakeCheckpoint,
        Self::CorruptCatchUp,
        Self::Withhold,
        Self::BadProposal,
        Self::Mutate,
        Self::ViewChangeSpam,
        Self::Flood,
        Self::Turncoat,
        Self::Collude,
    ];

    pub(super) fn draw(rng: &mut Rng) -> Self {
        rng.pick(&Self::ALONE).copied().unwrap_or(Self::Silent)
    }

    /// The name that reports use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equivocate => "equivocate",
            Self::EquivocateToOne => "equivocate-to-one",
            Self::DoubleVote => "double-vote",
            Self::Silent => "silent",
            Self::SelectivelySilent => "selectively-silent",
            Self::SlowLeader => "slow-leader",
            Self::Censor => "censor",
            Self::Replay => "replay",
            Self::FarFuture => "far-future",
            Self::ForgedNewView => "forged-new-view",
            Self::HidesPrepared => "hides-prepared",
            Self::FakeCheckpoint => "fake-checkpoint",
            Self::CorruptCatchUp => "corrupt-catch-up",
            Self::Withhold => "withhold",
            Self::BadProposal => "bad-proposal",
            Self::Mutate => "mutate",
            Self::ViewChangeSpam => "view-change-spam",
            Self::Flood => "flood",
            Self::Turncoat => "turncoat",
            Self::Collude => "collude",
            Self::Twins => "twins",
        }
    }

    pub(super) fn liar(self) -> Box<dyn Liar> {
        match self {
            Self::Equivocate => Box::new(equivocate::Equivocate { to_one: false }),
            Self::EquivocateToOne => Box::new(equivocate::Equivocate { to_one: true }),
            Self::DoubleVote => Box::new(double_vote::DoubleVote),
            Self::Silent => Box::new(silence::Silence { all: true }),
            Self::SelectivelySilent => Box::new(silence::Silence { all: false }),
            Self::SlowLeader => Box::<slow_leader::SlowLeader>::default(),
            Self::Censor => Box::new(censor::Censor),
            Self::Replay => Box::<replay::Replay>::default(),
            Self::FarFuture => Box::new(far_future::FarFuture),
            Self::ForgedNewView => Box::<forge::ForgedNewView>::default(),
            Self::HidesPrepared => Box::new(forge::HidesPrepared),
            Self::FakeCheckpoint => Box::new(forge::FakeCheckpoint),
            Self::CorruptCatchUp => Box::new(mutate::CorruptCatchUp),
            Self::Withhold => Box::new(withhold::Withhold),
            Self::BadProposal => Box::<equivocate::BadProposal>::default(),
            Self::Mutate => Box::new(mutate::Mutate),
            Self::ViewChangeSpam => Box::new(flood::ViewChangeSpam),
            Self::Flood => Box::new(flood::Flood),
            Self::Turncoat => Box::<turncoat::Turncoat>::default(),
            Self::Collude => Box::new(equivocate::Collude),
            // Both instances run the real code; who sees which is the network's doing.
            Self::Twins => Box::new(Honest),
        }
    }
}

/// What a liar has to work with.
pub(super) struct Means<'a> {
    pub(super) me: ReplicaIndex,
    pub(super) federation: &'a Arc<Federation>,
    pub(super) key: &'a SigningKey,
    /// A key of an author who colludes.
    pub(super) author: &'a SigningKey,
    pub(super) rng: &'a mut Rng,
    pub(super) now: Now,
    pub(super) view: View,
    pub(super) tip: Slot,
    pub(super) stable: Slot,
    /// The replica behind it, for what it knows.
    pub(super) core: Option<&'a Replica>,
}

/// Stands between a replica and the network.
pub(super) trait Liar {
    /// What leaves for one member instead of what the replica sent.
    fn send(&mut self, _to: ReplicaIndex, message: ConsensusMessage, _means: &mut Means<'_>) -> Vec<ConsensusMessage> {
        vec![message]
    }

    /// What it says of its own accord.
    fn tick(&mut self, _means: &mut Means<'_>) -> Vec<(ReplicaIndex, ConsensusMessage)> {
        Vec::new()
    }

    /// Whether the replica hears a message.
    fn hears(&mut self, _from: ReplicaIndex, _message: &ConsensusMessage, _means: &mut Means<'_>) -> bool {
        true
    }

    /// Whether the replica takes a client's submission.
    fn takes(&self, _federation: &Federation, _submission: &Submission) -> bool {
        true
    }

    /// What it serves to who catches up.
    fn serve(&mut self, batches: Vec<CommittedBatch>, _means: &mut Means<'_>) -> Vec<CommittedBatch> {
        batches
    }
}

struct Honest;

impl Liar for Honest {}

impl Means<'_> {
    pub(super) fn everyone(&self) -> impl Iterator<Item = ReplicaIndex> + use<> {
        let (me, n) = (self.me, u16::try_from(self.federation.size()).unwrap_or(u16::MAX));
        (0..n).filter(move |to| *to != me)
    }

    fn leads(&self) -> bool {
        self.federation.leader(self.view) == self.me
    }

    pub(super) fn vote(&self, phase: Phase, view: View, slot: Slot, digest: Digest) -> SignedVote {
        let vote = Vote { phase, epoch: 0, view, slot, digest };
        SignedVote { vote, replica: self.me, signature: self.key.sign(&vote.signed_bytes(self.federation.id())) }
    }

    /// A proposal of this header and body, signed as this member.
    fn proposal(&self, view: View, header: Header, body: Arc<Body>) -> SignedProposal {
        let signature = self.vote(Phase::PrePrepare, view, header.slot, header.digest()).signature;
        SignedProposal { view, header, body, signature }
    }

    /// The same proposal with other contents, and a header that fits them.
    fn with_body(&self, original: &SignedProposal, body: Body) -> SignedProposal {
        let body = Arc::new(body);
        let checked = CheckedBody::compute(self.federation, body.clone(), original.header.first_sequence);
        let mut header = original.header.clone();
        header.count = u32::try_from(body.count()).unwrap_or(u32::MAX);
        header.body_digest = checked.digests.body;
        if let Some(before) = self.core.and_then(|core| core.chain_end_at(header.slot.checked_sub(1)?)) {
            let mut frontier = before.frontier;
            checked.leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
            header.log_root = frontier.root();
        }
        self.proposal(original.view, header, body)
    }
}

fn unsigned() -> Signature {
    Signature([0; 64])
}
