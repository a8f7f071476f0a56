//! Whose key is whose.

use std::collections::BTreeMap;

use crate::crypto::PublicKey;
use crate::types::{Federation, ReplicaIndex};

/// Who asks, as the TLS key proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A member's replica.
    Replica(ReplicaIndex),
    /// An admitted author or reader.
    Client {
        /// The key.
        key: PublicKey,
        /// Whether it is an author's.
        can_submit: bool,
    },
}

/// The two protocols, told apart in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Replica,
    Client,
}

impl Caller {
    /// The one protocol that this caller may speak.
    pub(super) fn speaks(&self) -> Speaks {
        match self {
            Self::Replica(_) => Speaks::Replica,
            Self::Client { .. } => Speaks::Client,
        }
    }
}

/// The keys that the genesis admits to the transport.
#[derive(Debug)]
pub(super) struct Directory(BTreeMap<PublicKey, Caller>);

impl Directory {
    pub(super) fn new(federation: &Federation) -> Self {
        let genesis = federation.genesis();
        let replicas = genesis.members.iter().zip(0..).map(|(member, index)| (member.transport_key, Caller::Replica(index)));
        let authors = genesis.authors.iter().map(|author| (author.key, true));
        let readers = genesis.readers.iter().map(|reader| (reader.key, false));
        let clients = authors.chain(readers).map(|(key, can_submit)| (key, Caller::Client { key, can_submit }));
        Self(replicas.chain(clients).collect())
    }

    pub(super) fn caller(&self, key: &PublicKey) -> Option<Caller> {
        self.0.get(key).copied()
    }
}
