//! The genesis: who the members, authors and readers are, and what they agreed on. Everything public, everything hashed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{FederationId, Parameters, PeerId, ReplicaIndex, View};
use crate::crypto::{Canonical, Digest, KeyError, PublicKey, Sink, VerifyingKey};
use crate::planted::{Bug, on};

/// The quorum of `n` members: `(2n+2)/3` rounded down, which is `2n/3` rounded up. Any two quorums share a correct member for every n >= 4, and the correct members
/// alone form one (Castro and Liskov, OSDI 1999, generalised from n = 3f+1; `2f+1` is unsafe for n = 5, 6, 8, 9).
#[must_use]
pub const fn byzantine_threshold(n: usize) -> usize {
    (2 * n).div_ceil(3)
}

/// f: how many of `n` members may be faulty.
#[must_use]
pub const fn fault_limit(n: usize) -> usize {
    n.saturating_sub(1) / 3
}

/// f + 1: so many members include a correct one.
#[must_use]
pub const fn weak_quorum(n: usize) -> usize {
    fault_limit(n) + 1
}

/// Why a genesis is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Fewer members than Byzantine agreement needs.
    #[error("a federation needs at least {needed} members, this genesis names {actual}")]
    InsufficientPeers {
        /// Always 4.
        needed: usize,
        /// Members named.
        actual: usize,
    },
    /// More members than the formats hold.
    #[error("a federation has at most {limit} members, this genesis names {actual}")]
    TooManyPeers {
        /// The most allowed.
        limit: usize,
        /// Members named.
        actual: usize,
    },
    /// A label that breaks the rule of [`PeerId`], or a federation, author or reader name that is empty or over 64 bytes.
    #[error("{0:?} is no valid label: 1 to 64 ASCII letters, digits, '-', '_' or '.'")]
    Label(String),
    /// A label or key that stands twice.
    #[error("{0} stands twice: every label and key must be different")]
    Duplicate(String),
    /// A key that is not admitted.
    #[error("the {role} key of {label}: {error}")]
    Key {
        /// Which key.
        role: &'static str,
        /// Whose.
        label: String,
        /// Why.
        error: KeyError,
    },
    /// A parameter out of bounds.
    #[error("parameter {key} is {value}, allowed is {low} to {high}")]
    Parameter {
        /// The key in the genesis file.
        key: &'static str,
        /// The value found.
        value: u64,
        /// The least allowed.
        low: u64,
        /// The most allowed.
        high: u64,
    },
}

/// A member: a replica's label and its three public keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The label.
    pub peer: PeerId,
    /// Signs protocol statements.
    pub consensus_key: PublicKey,
    /// Is the replica's TLS identity.
    pub transport_key: PublicKey,
    /// Cosigns published checkpoints.
    pub cosignature_key: PublicKey,
}

/// A key that may submit updates and read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Author {
    /// A name for people.
    pub name: String,
    /// Signs submissions, and is the client's TLS identity.
    pub key: PublicKey,
}

/// A key that may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    /// A name for people.
    pub name: String,
    /// The client's TLS identity.
    pub key: PublicKey,
}

/// The genesis as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The federation's name for people.
    pub name: String,
    /// The members, in the order that decides who leads which view.
    pub members: Vec<Member>,
    /// Who may submit.
    pub authors: Vec<Author>,
    /// Who may only read.
    #[serde(default)]
    pub readers: Vec<Reader>,
    /// What all replicas agree on.
    #[serde(default)]
    pub parameters: Parameters,
}

const MAX_MEMBERS: usize = 1_024;

impl Genesis {
    fn write<S: Sink>(&self, out: Canonical<S>) -> Canonical<S> {
        let out = out.u16(1).var(self.name.as_bytes());
        let out = write_members(&self.members, out);
        let out = out.each(self.authors.iter(), |out, a| out.var(a.name.as_bytes()).fixed(&a.key.0));
        let out = out.each(self.readers.iter(), |out, r| out.var(r.name.as_bytes()).fixed(&r.key.0));
        self.parameters.write(out)
    }

    /// The canonical bytes that the federation's id is the hash of.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        self.write(Canonical::bytes("exo-federation/v1/genesis\0")).finish()
    }

    fn check_labels(&self) -> Result<(), GenesisError> {
        let mut seen = BTreeSet::new();
        let names = self.authors.iter().map(|a| &a.name).chain(self.readers.iter().map(|r| &r.name));
        for label in self.members.iter().map(|m| &m.peer.0).chain(names).chain([&self.name]) {
            if !PeerId(label.clone()).is_valid() {
                return Err(GenesisError::Label(label.clone()));
            }
        }
        for label in self.members.iter().map(|m| &m.peer.0) {
            if !seen.insert(label) {
                return Err(GenesisError::Duplicate(label.clone()));
            }
        }
        Ok(())
    }
}

fn write_members<S: Sink>(members: &[Member], out: Canonical<S>) -> Canonical<S> {
    out.each(members.iter(), |out, m| out.var(m.peer.0.as_bytes()).fixed(&m.consensus_key.0).fixed(&m.transport_key.0).fixed(&m.cosignature_key.0))
}

/// A new-view carries a quorum's view-changes, each with a window of prepared certificates of a quorum's signatures: it must fit its frame, or no
/// view could ever begin.
fn check_new_view(members: usize, window_slots: u64) -> Result<(), GenesisError> {
    const HEADER_BYTES: u64 = 256;
    const SIGNATURE_BYTES: u64 = 66;
    let quorum = byzantine_threshold(members) as u64;
    let frame = super::MessageClass::Control.max_frame_bytes() as u64;
    let high = (frame - frame / 8) / (quorum * (HEADER_BYTES + SIGNATURE_BYTES * quorum));
    let (key, value) = ("window_slots", window_slots);
    if value <= high { Ok(()) } else { Err(GenesisError::Parameter { key, value, low: 2, high }) }
}

/// A genesis that was checked, with its keys ready to verify: all that anyone needs to check a proof.
#[derive(Debug, Clone)]
pub struct Federation {
    genesis: Genesis,
    id: FederationId,
    membership_digest: Digest,
    consensus: Vec<VerifyingKey>,
    cosignature: Vec<VerifyingKey>,
    authors: BTreeMap<PublicKey, VerifyingKey>,
}

impl Federation {
    /// Checks a genesis wholly.
    ///
    /// # Errors
    /// [`GenesisError`], among them `InsufficientPeers` below four members.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        Self::admit(genesis, VerifyingKey::new)
    }

    /// A federation whose keys are of the simulator's cheap scheme.
    pub(crate) fn simulated(genesis: Genesis) -> Result<Self, GenesisError> {
        Self::admit(genesis, |key| Ok(VerifyingKey::simulated(key)))
    }

    fn admit(genesis: Genesis, checked: impl Fn(PublicKey) -> Result<VerifyingKey, KeyError>) -> Result<Self, GenesisError> {
        let actual = genesis.members.len();
        if actual < 4 {
            return Err(GenesisError::InsufficientPeers { needed: 4, actual });
        }
        if actual > MAX_MEMBERS {
            return Err(GenesisError::TooManyPeers { limit: MAX_MEMBERS, actual });
        }
        genesis.parameters.validate()?;
        check_new_view(actual, genesis.parameters.window_slots)?;
        genesis.check_labels()?;
        let mut seen = BTreeSet::new();
        let mut admit = |role: &'static str, label: &str, key: PublicKey| {
            let verifying = checked(key).map_err(|error| GenesisError::Key { role, label: label.to_owned(), error })?;
            if seen.insert(key) { Ok(verifying) } else { Err(GenesisError::Duplicate(format!("key {key}"))) }
        };
        let (mut consensus, mut cosignature) = (Vec::with_capacity(actual), Vec::with_capacity(actual));
        for member in &genesis.members {
            consensus.push(admit("consensus", &member.peer.0, member.consensus_key)?);
            admit("transport", &member.peer.0, member.transport_key)?;
            cosignature.push(admit("cosignature", &member.peer.0, member.cosignature_key)?);
        }
        let mut authors = BTreeMap::new();
        for author in &genesis.authors {
            authors.insert(author.key, admit("author", &author.name, author.key)?);
        }
        for reader in &genesis.readers {
            admit("reader", &reader.name, reader.key)?;
        }
        let id = FederationId(genesis.write(Canonical::hash("exo-federation/v1/genesis\0")).digest());
        let membership_digest = write_members(&genesis.members, Canonical::hash("exo-federation/v1/membership\0").u64(0)).digest();
        Ok(Self { genesis, id, membership_digest, consensus, cosignature, authors })
    }

    /// The federation's id: H(tag, canonical genesis).
    #[must_use]
    pub fn id(&self) -> FederationId {
        self.id
    }

    /// The genesis as written down.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The agreed parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.genesis.parameters
    }

    /// H(tag, epoch 0, canonical members): stands in every header.
    #[must_use]
    pub fn membership_digest(&self) -> Digest {
        self.membership_digest
    }

    /// The members, in order.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.genesis.members
    }

    /// n.
    #[must_use]
    pub fn size(&self) -> usize {
        self.genesis.members.len()
    }

    /// The quorum, [`byzantine_threshold`] of n.
    #[must_use]
    pub fn quorum(&self) -> usize {
        match fault_limit(self.size()) {
            f if on(Bug::QuorumTwoF) => 2 * f,
            f if on(Bug::QuorumTwoFPlusOne) => 2 * f + 1,
            _ => byzantine_threshold(self.size()),
        }
    }

    /// f + 1.
    #[must_use]
    pub fn weak_quorum(&self) -> usize {
        weak_quorum(self.size())
    }

    /// leader(view) = members[view mod n].
    #[must_use]
    pub fn leader(&self, view: View) -> ReplicaIndex {
        // n is at most MAX_MEMBERS, so the remainder fits.
        ReplicaIndex::try_from(view % self.size() as u64).unwrap_or(0)
    }

    /// A member's label; `None` beyond the membership.
    #[must_use]
    pub fn peer(&self, index: ReplicaIndex) -> Option<&PeerId> {
        self.genesis.members.get(usize::from(index)).map(|m| &m.peer)
    }

    /// A member's place by its label.
    #[must_use]
    pub fn index_of(&self, peer: &PeerId) -> Option<ReplicaIndex> {
        self.genesis.members.iter().position(|m| &m.peer == peer).and_then(|at| ReplicaIndex::try_from(at).ok())
    }

    /// The key that checks a member's protocol statements.
    #[must_use]
    pub fn consensus_key(&self, index: ReplicaIndex) -> Option<&VerifyingKey> {
        self.consensus.get(usize::from(index))
    }

    /// The key that checks a member's cosignatures of published checkpoints.
    #[must_use]
    pub fn cosignature_key(&self, index: ReplicaIndex) -> Option<&VerifyingKey> {
        self.cosignature.get(usize::from(index))
    }

    /// An admitted author's key; `None` for anyone else.
    #[must_use]
    pub fn author_key(&self, key: &PublicKey) -> Option<&VerifyingKey> {
        self.authors.get(key)
    }
}
