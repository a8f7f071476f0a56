//! Proof that a member's key was misused: two signed statements that no correct replica makes both.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{CommitCertificate, Federation, PeerId, Phase, ReplicaIndex, SignedVote, Slot, View};
use crate::crypto::{Canonical, Digest};

/// Two statements of one member, in one phase and place, for different headers (rules E1 to E3).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Evidence {
    /// The statement seen first.
    pub first: SignedVote,
    /// The one that contradicts it.
    pub second: SignedVote,
}

/// Which rule two statements break.
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
}

impl fmt::Display for EvidenceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoProposals => "E1 (two proposals at one place)",
            Self::TwoPrepares => "E2 (two Prepares at one place)",
            Self::TwoCommits => "E3 (two Commits at one place)",
        })
    }
}

/// What evidence proves, once it is verified: this key signed both statements. It proves misuse of a key, not intent.
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
    /// The view of both statements.
    pub view: View,
    /// The slot of both.
    pub slot: Slot,
    /// The two header digests, the lower one first.
    pub digests: [Digest; 2],
}

/// Why evidence proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// The statements are compatible.
    #[error("the two statements do not contradict each other: only two digests for one member, phase, epoch, view and slot do")]
    NoContradiction,
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
            Some(Self { first: signed(a.vote(), *first), second: signed(b.vote(), *second) })
        });
        both.filter(Self::contradicts).collect()
    }

    /// Whether the statements contradict each other; their signatures are checked apart.
    #[must_use]
    pub fn contradicts(&self) -> bool {
        let (a, b) = (&self.first, &self.second);
        let place = |v: &SignedVote| (v.replica, v.vote.phase, v.vote.epoch, v.vote.view, v.vote.slot);
        place(a) == place(b) && a.vote.digest != b.vote.digest
    }

    /// The rule that two contradicting statements break.
    #[must_use]
    pub const fn rule(&self) -> EvidenceRule {
        match self.first.vote.phase {
            Phase::PrePrepare => EvidenceRule::TwoProposals,
            Phase::Prepare => EvidenceRule::TwoPrepares,
            Phase::Commit => EvidenceRule::TwoCommits,
        }
    }

    /// The header digests, the lower one first.
    #[must_use]
    pub fn digests(&self) -> [Digest; 2] {
        let mut digests = [self.first.vote.digest, self.second.vote.digest];
        digests.sort_unstable();
        digests
    }

    /// Names the contradiction, not its record: the same for whoever saw the statements in whichever order. Tag, phase u8, member u16, epoch u64,
    /// view u64, slot u64, the two digests, the lower one first.
    #[must_use]
    pub fn id(&self) -> Digest {
        let vote = self.first.vote;
        let [low, high] = self.digests();
        Canonical::hash("exo-federation/v1/evidence\0")
            .u8(vote.phase.code())
            .u16(self.first.replica)
            .u64(vote.epoch)
            .u64(vote.view)
            .u64(vote.slot)
            .digest_field(&low)
            .digest_field(&high)
            .digest()
    }

    /// Checks the evidence with the membership alone.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn verify(&self, federation: &Federation) -> Result<Conviction, EvidenceError> {
        if !self.contradicts() {
            return Err(EvidenceError::NoContradiction);
        }
        let replica = self.first.replica;
        let unknown = || EvidenceError::UnknownMember { index: replica, members: federation.size() };
        let member = federation.peer(replica).ok_or_else(unknown)?;
        let key = federation.consensus_key(replica).ok_or_else(unknown)?;
        for (which, signed) in [("first", &self.first), ("second", &self.second)] {
            let bad = |_| EvidenceError::BadSignature { which, member: member.clone() };
            key.verify(&signed.vote.signed_bytes(federation.id()), &signed.signature).map_err(bad)?;
        }
        let vote = self.first.vote;
        let (rule, view, slot) = (self.rule(), vote.view, vote.slot);
        Ok(Conviction { id: self.id(), rule, member: member.clone(), replica, view, slot, digests: self.digests() })
    }
}
