//! Proof that a member's key was misused: signed statements that no correct replica makes all.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::claim::implied;
use super::{
    BodyClaim, CommitCertificate, Cosignature, Epoch, Federation, FederationId, Header, NewViewClaim, PeerId, Phase, ReplicaIndex, SignedCheckpoint,
    SignedVote, Slot, StableClaim, View, ViewChangeClaim,
};
use crate::crypto::{Canonical, Digest, Signature, merkle::Frontier};
use crate::planted::{Bug, on};

/// The longest record that is kept or passed on, as encoded: it must fit a row of the log.
pub const MAX_EVIDENCE_BYTES: usize = 160 << 10;

/// A statement with its signature; who signed, it says itself, or its view does.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Signed<T> {
    /// What was said.
    pub statement: T,
    /// The signature on its signed bytes.
    pub signature: Signature,
}

/// Statements of one member that no correct replica makes all.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Evidence {
    /// E1 to E3: two proposals, Prepares or Commits at one view and slot, for different headers.
    Votes {
        /// The statement seen first.
        first: SignedVote,
        /// The one that contradicts it.
        second: SignedVote,
    },
    /// E4: a Commit, and a later view-change that does not name a prepared certificate as high at its slot.
    Forgot {
        /// The Commit.
        commit: SignedVote,
        /// The view-change, of a later view and a checkpoint below the slot.
        change: Signed<ViewChangeClaim>,
    },
    /// E5: a leader began a view, and then proposed or voted for something else than its own new-view implies.
    Unfaithful(Box<Unfaithful>),
    /// E6: two view-changes to one view.
    ViewChanges {
        /// The one seen first.
        first: Signed<ViewChangeClaim>,
        /// The one that contradicts it.
        second: Signed<ViewChangeClaim>,
    },
    /// E6: two new-views of one view.
    NewViews {
        /// The one seen first.
        first: Signed<NewViewClaim>,
        /// The one that contradicts it.
        second: Signed<NewViewClaim>,
    },
    /// E7: a vote or proposal for a header that is invalid in itself.
    Invalid(Box<InvalidVote>),
    /// E9: two checkpoints of one slot, or of one size, that differ.
    Checkpoints {
        /// The one seen first.
        first: SignedCheckpoint,
        /// The one that contradicts it.
        second: SignedCheckpoint,
    },
    /// E9: two cosignatures of published checkpoints, of one size, for different roots.
    Cosignatures {
        /// The one seen first.
        first: Cosignature,
        /// The one that contradicts it.
        second: Cosignature,
    },
}

/// A new-view, what it implies, and its leader's statement for something else.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Unfaithful {
    /// The new-view.
    pub new_view: Signed<NewViewClaim>,
    /// The view-changes that it names, in its order.
    pub changes: Vec<ViewChangeClaim>,
    /// The headers that they imply, from above the checkpoint up to the vote's slot.
    pub headers: Vec<Header>,
    /// The leader's statement at the last of these slots, for another header.
    pub vote: SignedVote,
}

/// A statement for a header that breaks a rule which every replica checks before it votes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InvalidVote {
    /// The statement.
    pub vote: SignedVote,
    /// The header that it names.
    pub header: Header,
    /// The header that this one names as its parent; none at slot 1.
    pub parent: Option<Header>,
    /// For a root that does not follow: the tree before, and the body that the header names.
    pub growth: Option<Growth>,
}

/// What a log root is recomputed from.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// The roots of the complete subtrees of the tree that the parent's root is of, largest first.
    pub peaks: Vec<Digest>,
    /// The body without its payloads.
    pub body: BodyClaim,
}

/// Which rule the statements break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EvidenceRule {
    /// Two proposals for one view and slot.
    #[serde(rename = "E1")]
    TwoProposals,
    /// Two Prepares for one view and slot.
    #[serde(rename = "E2")]
    TwoPrepares,
    /// Two Commits for one view and slot.
    #[serde(rename = "E3")]
    TwoCommits,
    /// A view-change that leaves out what was committed.
    #[serde(rename = "E4")]
    ForgotCommit,
    /// A leader that does not keep to its own new-view.
    #[serde(rename = "E5")]
    UnfaithfulLeader,
    /// Two view-changes to one view, or two new-views of one.
    #[serde(rename = "E6")]
    TwoViewChanges,
    /// A statement for a header that is invalid in itself.
    #[serde(rename = "E7")]
    InvalidHeader,
    /// Two checkpoints of one slot or size, or two cosignatures of one size.
    #[serde(rename = "E9")]
    TwoCheckpoints,
}

impl fmt::Display for EvidenceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoProposals => "E1 (two proposals at one place)",
            Self::TwoPrepares => "E2 (two Prepares at one place)",
            Self::TwoCommits => "E3 (two Commits at one place)",
            Self::ForgotCommit => "E4 (a view-change that leaves out what it committed)",
            Self::UnfaithfulLeader => "E5 (a leader that does not keep to its own new-view)",
            Self::TwoViewChanges => "E6 (two view-changes or new-views for one view)",
            Self::InvalidHeader => "E7 (a vote for an invalid header)",
            Self::TwoCheckpoints => "E9 (two checkpoints of one size)",
        })
    }
}

/// What evidence proves, once it is verified: this key signed these statements. It proves misuse of a key, not intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conviction {
    /// The evidence's id.
    pub id: Digest,
    /// The rule.
    pub rule: EvidenceRule,
    /// Whose key.
    pub member: PeerId,
    /// Its place in the membership.
    pub replica: ReplicaIndex,
    /// The view; of a view-change, the one it moves to; 0 for checkpoints, which have none.
    pub view: View,
    /// The slot; 0 for view-changes, new-views and cosignatures, which have none.
    pub slot: Slot,
    /// What contradicts what: two header digests, digests of view-changes or new-views, or log roots.
    pub digests: [Digest; 2],
    /// The same as a sentence.
    pub says: String,
}

impl fmt::Display for Conviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broke rule {}: it {}", self.member, self.rule, self.says)
    }
}

/// Evidence that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convicted {
    /// Whom, and of what.
    pub conviction: Conviction,
    /// The record, for `exofed evidence verify`.
    pub record: Evidence,
}

/// Why evidence proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// The statements are compatible.
    #[error("the statements do not contradict each other: {0}")]
    NoContradiction(&'static str),
    /// Nobody's.
    #[error("the statements are of member {index}, there are {members}")]
    UnknownMember {
        /// The index named.
        index: ReplicaIndex,
        /// How many there are.
        members: usize,
    },
    /// The member did not say that.
    #[error("the {which} statement is not signed by {member}'s key")]
    BadSignature {
        /// "first" or "second".
        which: &'static str,
        /// Whose it would be.
        member: PeerId,
    },
}

impl Evidence {
    /// What two certificates for one slot prove when they name different digests in the same view (rule E8): everyone who signed both signed
    /// two Commits at one place. Two quorums share at least f + 1 members. Of certificates of different views nothing follows by themselves.
    #[must_use]
    pub fn of_certificates(a: &CommitCertificate, b: &CommitCertificate) -> Vec<Self> {
        let both = a.signatures.0.iter().filter_map(|(replica, first)| {
            let (_, second) = b.signatures.0.iter().find(|(other, _)| other == replica)?;
            let signed = |vote, signature| SignedVote { vote, replica: *replica, signature };
            Some(Self::Votes { first: signed(a.vote(), *first), second: signed(b.vote(), *second) })
        });
        both.filter(Self::contradicts).collect()
    }

    /// Two votes, if they contradict each other.
    #[must_use]
    pub fn of_votes(first: &SignedVote, second: &SignedVote) -> Option<Self> {
        let evidence = Self::Votes { first: first.clone(), second: second.clone() };
        evidence.contradicts().then_some(evidence)
    }

    /// A Commit and a later view-change, if the view-change leaves it out.
    #[must_use]
    pub fn of_commit_and_change(commit: &SignedVote, change: &Signed<ViewChangeClaim>) -> Option<Self> {
        leaves_out(commit, &change.statement).then(|| Self::Forgot { commit: commit.clone(), change: change.clone() })
    }

    /// Whether the statements contradict each other; their signatures are checked apart.
    #[must_use]
    pub fn contradicts(&self) -> bool {
        match self {
            Self::Votes { first: a, second: b } => {
                let view = |v: &SignedVote| if on(Bug::ViewsContradict) { 0 } else { v.vote.view };
                let place = |v: &SignedVote| (v.replica, v.vote.phase, v.vote.epoch, view(v), v.vote.slot);
                place(a) == place(b) && a.vote.digest != b.vote.digest
            }
            Self::Forgot { commit, change } => leaves_out(commit, &change.statement),
            Self::ViewChanges { first: Signed { statement: a, .. }, second: Signed { statement: b, .. } } => {
                (a.replica, a.epoch, a.new_view) == (b.replica, b.epoch, b.new_view) && a != b
            }
            Self::NewViews { first: Signed { statement: a, .. }, second: Signed { statement: b, .. } } => {
                (a.epoch, a.view) == (b.epoch, b.view) && a != b
            }
            Self::Checkpoints { first: a, second: b } => {
                let (x, y) = (a.checkpoint, b.checkpoint);
                a.replica == b.replica && x.epoch == y.epoch && (x.slot == y.slot || x.sequence == y.sequence) && x != y
            }
            Self::Cosignatures { first: a, second: b } => a.replica == b.replica && a.size == b.size && a.root != b.root,
            // What these say takes the federation to tell.
            Self::Unfaithful(_) | Self::Invalid(_) => true,
        }
    }

    /// The rule that the statements break.
    #[must_use]
    pub const fn rule(&self) -> EvidenceRule {
        match self {
            Self::Votes { first, .. } => match first.vote.phase {
                Phase::PrePrepare => EvidenceRule::TwoProposals,
                Phase::Prepare => EvidenceRule::TwoPrepares,
                Phase::Commit => EvidenceRule::TwoCommits,
            },
            Self::Forgot { .. } => EvidenceRule::ForgotCommit,
            Self::Unfaithful(_) => EvidenceRule::UnfaithfulLeader,
            Self::ViewChanges { .. } | Self::NewViews { .. } => EvidenceRule::TwoViewChanges,
            Self::Invalid(_) => EvidenceRule::InvalidHeader,
            Self::Checkpoints { .. } | Self::Cosignatures { .. } => EvidenceRule::TwoCheckpoints,
        }
    }

    /// Whose statements they are.
    #[must_use]
    pub fn accused(&self, federation: &Federation) -> ReplicaIndex {
        match self {
            Self::Votes { first, .. } => first.replica,
            Self::Forgot { commit, .. } => commit.replica,
            Self::Unfaithful(unfaithful) => federation.leader(unfaithful.new_view.statement.view),
            Self::ViewChanges { first, .. } => first.statement.replica,
            Self::NewViews { first, .. } => federation.leader(first.statement.view),
            Self::Invalid(invalid) => invalid.vote.replica,
            Self::Checkpoints { first, .. } => first.replica,
            Self::Cosignatures { first, .. } => first.replica,
        }
    }

    /// Under which membership, in which view and at which slot; 0 where there is none.
    #[must_use]
    pub fn place(&self) -> (Epoch, View, Slot) {
        let of = |vote: &super::Vote| (vote.epoch, vote.view, vote.slot);
        match self {
            Self::Votes { first, .. } => of(&first.vote),
            Self::Forgot { commit, .. } => of(&commit.vote),
            Self::Unfaithful(unfaithful) => of(&unfaithful.vote.vote),
            Self::ViewChanges { first, .. } => (first.statement.epoch, first.statement.new_view, 0),
            Self::NewViews { first, .. } => (first.statement.epoch, first.statement.view, 0),
            Self::Invalid(invalid) => of(&invalid.vote.vote),
            Self::Checkpoints { first, second } => (first.checkpoint.epoch, 0, first.checkpoint.slot.min(second.checkpoint.slot)),
            Self::Cosignatures { .. } => (0, 0, 0),
        }
    }

    /// What contradicts what. Where the statements are of one kind, the lower digest comes first.
    #[must_use]
    pub fn digests(&self, federation: FederationId) -> [Digest; 2] {
        let sorted = |mut digests: [Digest; 2]| {
            digests.sort_unstable();
            digests
        };
        match self {
            Self::Votes { first, second } => sorted([first.vote.digest, second.vote.digest]),
            Self::Forgot { commit, change } => [commit.vote.digest, change.statement.digest(federation)],
            Self::Unfaithful(u) => [u.headers.last().map_or(Digest::ZERO, Header::digest), u.vote.vote.digest],
            Self::ViewChanges { first, second } => sorted([first.statement.digest(federation), second.statement.digest(federation)]),
            Self::NewViews { first, second } => sorted([first, second].map(|s| new_view_digest(&s.statement, federation))),
            Self::Invalid(invalid) => [invalid.header.parent, invalid.vote.vote.digest],
            Self::Checkpoints { first, second } => sorted([first.checkpoint.log_root, second.checkpoint.log_root]),
            Self::Cosignatures { first, second } => sorted([first.root, second.root]),
        }
    }

    /// The kind of record, as ids and rows count them: the phase for E1 to E3.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Votes { first, .. } => first.vote.phase.code(),
            Self::Forgot { .. } => 4,
            Self::Unfaithful(_) => 5,
            Self::ViewChanges { .. } => 6,
            Self::NewViews { .. } => 16,
            Self::Invalid(_) => 7,
            Self::Checkpoints { .. } => 9,
            Self::Cosignatures { .. } => 19,
        }
    }

    /// Names the contradiction, not its record: the same for whoever saw the statements in whichever order. Tag, kind u8 (the phase for E1 to E3;
    /// 4, 5, 7 and 9 for these rules, 6 for two view-changes, 16 for two new-views and 19 for two cosignatures), member u16, epoch u64, view u64, slot u64, the two digests.
    #[must_use]
    pub fn id(&self, federation: &Federation) -> Digest {
        let (epoch, view, slot) = self.place();
        let [first, second] = self.digests(federation.id());
        Canonical::hash("exo-federation/v1/evidence\0")
            .u8(self.kind())
            .u16(self.accused(federation))
            .u64(epoch)
            .u64(view)
            .u64(slot)
            .digest_field(&first)
            .digest_field(&second)
            .digest()
    }

    /// Checks the evidence with the membership alone.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn verify(&self, federation: &Federation) -> Result<Conviction, EvidenceError> {
        let says = self.judge(federation)?;
        let replica = self.accused(federation);
        let unknown = || EvidenceError::UnknownMember { index: replica, members: federation.size() };
        let member = federation.peer(replica).ok_or_else(unknown)?;
        let key = match self {
            Self::Cosignatures { .. } => federation.cosignature_key(replica),
            _ => federation.consensus_key(replica),
        };
        let key = key.ok_or_else(unknown)?;
        for ((bytes, signature), which) in self.signed(federation.id()).into_iter().zip(["first", "second"]) {
            key.verify(&bytes, signature).map_err(|_| EvidenceError::BadSignature { which, member: member.clone() })?;
        }
        let (_, view, slot) = self.place();
        let (id, rule, digests) = (self.id(federation), self.rule(), self.digests(federation.id()));
        Ok(Conviction { id, rule, member: member.clone(), replica, view, slot, digests, says })
    }

    /// The same, with what it proves.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn convict(self, federation: &Federation) -> Result<Convicted, EvidenceError> {
        Ok(Convicted { conviction: self.verify(federation)?, record: self })
    }

    /// The bytes that the accused signed, and the signatures.
    fn signed(&self, federation: FederationId) -> Vec<(Vec<u8>, &Signature)> {
        let vote = |signed: &SignedVote| signed.vote.signed_bytes(federation);
        match self {
            Self::Votes { first, second } => vec![(vote(first), &first.signature), (vote(second), &second.signature)],
            Self::Forgot { commit, change } => {
                vec![(vote(commit), &commit.signature), (change.statement.signed_bytes(federation), &change.signature)]
            }
            Self::Unfaithful(u) => {
                vec![(u.new_view.statement.signed_bytes(federation), &u.new_view.signature), (vote(&u.vote), &u.vote.signature)]
            }
            Self::ViewChanges { first, second } => [first, second].map(|s| (s.statement.signed_bytes(federation), &s.signature)).into(),
            Self::NewViews { first, second } => [first, second].map(|s| (s.statement.signed_bytes(federation), &s.signature)).into(),
            Self::Invalid(invalid) => vec![(vote(&invalid.vote), &invalid.vote.signature)],
            Self::Checkpoints { first, second } => [first, second].map(|s| (s.checkpoint.signed_bytes(federation), &s.signature)).into(),
            Self::Cosignatures { first, second } => [first, second].map(|s| (s.signed_bytes(federation), &s.signature)).into(),
        }
    }

    /// What the statements, taken as signed, are guilty of.
    fn judge(&self, federation: &Federation) -> Result<String, EvidenceError> {
        let none = |why| Err(EvidenceError::NoContradiction(why));
        if self.place().0 != 0 {
            return none("the genesis's membership is that of epoch 0");
        }
        let (_, view, slot) = self.place();
        match self {
            Self::Unfaithful(unfaithful) => return unfaithful.judge(federation),
            Self::Invalid(invalid) => return invalid.judge(federation),
            _ if self.contradicts() => {}
            Self::Votes { .. } => return none("only two digests for one member, phase, epoch, view and slot do"),
            Self::Forgot { .. } => return none("only a view-change that follows the Commit, and neither covers nor names its slot, does"),
            Self::ViewChanges { .. } | Self::NewViews { .. } => return none("only different ones of one signer for one view do"),
            Self::Checkpoints { .. } => return none("only different ones of one signer for one slot or size do"),
            Self::Cosignatures { .. } => return none("only those of one signer for one size with different roots do"),
        }
        Ok(match self {
            Self::Votes { first, .. } => {
                let what = match first.vote.phase {
                    Phase::PrePrepare => "proposed two headers",
                    Phase::Prepare => "prepared two headers",
                    Phase::Commit => "committed two headers",
                };
                format!("{what} at slot {slot} in view {view}")
            }
            Self::Forgot { change, .. } => {
                format!("committed slot {slot} in view {view}, and left for view {} without it", change.statement.new_view)
            }
            Self::ViewChanges { .. } => format!("told two stories when it left for view {view}"),
            Self::NewViews { .. } => format!("began view {view} in two ways"),
            Self::Cosignatures { first, .. } => format!("cosigned two logs of {} entries", first.size),
            _ => format!("signed two checkpoints at slot {slot} or of one size"),
        })
    }
}

/// Whether a view-change leaves out a Commit that its signer must remember: of an earlier view, above the checkpoint it names, at a slot for which it
/// names no prepared certificate as high.
fn leaves_out(commit: &SignedVote, change: &ViewChangeClaim) -> bool {
    let vote = &commit.vote;
    let same = commit.replica == change.replica && vote.epoch == change.epoch && vote.phase == Phase::Commit;
    let covers = |p: &super::PreparedClaim| p.slot == vote.slot && (p.view > vote.view || (p.view == vote.view && p.digest == vote.digest));
    same && vote.view < change.new_view && vote.slot > change.stable.slot && !change.prepared.iter().any(covers)
}

fn new_view_digest(claim: &NewViewClaim, federation: FederationId) -> Digest {
    Canonical::hash("exo-federation/v1/new-view-digest\0").var(&claim.signed_bytes(federation)).digest()
}

impl Unfaithful {
    fn judge(&self, federation: &Federation) -> Result<String, EvidenceError> {
        let none = |why| Err(EvidenceError::NoContradiction(why));
        let (new_view, vote) = (&self.new_view.statement, &self.vote.vote);
        if (vote.epoch, vote.view) != (new_view.epoch, new_view.view) || self.vote.replica != federation.leader(new_view.view) {
            return none("the statement is not of the new-view's leader in that view");
        }
        let named = self.changes.iter().map(|change| (change.replica, change.digest(federation.id())));
        if !named.eq(new_view.view_changes.iter().copied()) {
            return none("the view-changes are not those that the new-view names");
        }
        let base = self.changes.iter().map(|change| change.stable).max_by_key(|stable| stable.slot).unwrap_or_else(StableClaim::default);
        let chosen = implied(&self.changes, &self.headers);
        // The headers end at the slot in question, so that a record holds nothing that could be changed unnoticed.
        let last = chosen.last().filter(|header| header.slot == vote.slot && chosen.len() == self.headers.len());
        match last {
            Some(header) if header.digest() != vote.digest => Ok(format!(
                "began view {} from slot {}, and spoke there for another header at slot {} than that implies",
                vote.view, base.slot, vote.slot
            )),
            Some(_) => none("the statement is for the header that the new-view implies"),
            None => none("the new-view implies nothing at that slot, or the headers are not those it implies"),
        }
    }
}

impl InvalidVote {
    fn judge(&self, federation: &Federation) -> Result<String, EvidenceError> {
        let none = |why| Err(EvidenceError::NoContradiction(why));
        let (vote, header) = (&self.vote.vote, &self.header);
        if header.digest() != vote.digest {
            return none("the header is not the one that the statement names");
        }
        let parent = self.parent.as_ref();
        if parent.map_or(Digest::ZERO, Header::digest) != header.parent {
            return none("the parent is not the one that the header names");
        }
        let (slot, sequence, timestamp) = parent.map_or((0, 0, 0), |p| (p.slot, p.last_sequence(), p.timestamp));
        let broken = if header.federation_id != federation.id() || header.membership_digest != federation.membership_digest() {
            "is of another federation or membership"
        } else if header.epoch != vote.epoch || header.slot != vote.slot {
            "names another epoch or slot than the statement"
        } else if header.count == 0 {
            "holds no update"
        } else if header.slot != slot.saturating_add(1) || header.first_sequence != sequence.saturating_add(1) {
            "does not follow its parent's slot and sequence numbers"
        } else if header.timestamp <= timestamp {
            "is not later than its parent"
        } else {
            return self.judge_root(federation, sequence);
        };
        if self.growth.is_some() {
            return none("the tree has nothing to do with what is wrong");
        }
        Ok(format!("spoke for a header at slot {} in view {} that {broken}", vote.slot, vote.view))
    }

    fn judge_root(&self, federation: &Federation, size: u64) -> Result<String, EvidenceError> {
        let none = |why| Err(EvidenceError::NoContradiction(why));
        let Some(Growth { peaks, body }) = &self.growth else { return none("the header breaks no rule that it can be held against alone") };
        // The parent is nobody's statement: its numbers may be anything.
        let before = Frontier::from_peaks(size, peaks.clone()).filter(|_| size <= 1 << 56);
        let Some(mut frontier) = before.filter(|f| self.parent.as_ref().map_or(size == 0, |parent| f.root() == parent.log_root)) else {
            return none("the tree is not the one of the parent's root");
        };
        if body.digest(federation.id()) != self.header.body_digest {
            return none("the body is not the one that the header names");
        }
        body.leaf_hashes(self.header.first_sequence).for_each(|leaf| frontier.append(leaf));
        if frontier.root() == self.header.log_root && frontier.size() == self.header.last_sequence() {
            return none("the root follows from the parent's and the body");
        }
        let vote = &self.vote.vote;
        Ok(format!("spoke for a header at slot {} in view {} whose log root does not follow from its parent's and its body", vote.slot, vote.view))
    }
}
