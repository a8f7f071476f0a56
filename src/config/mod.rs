//! Files that people write: a federation's public genesis with addresses, a replica's and a client's configuration, secret keys.
//!
//! Unknown keys are errors with file, line and column; every limit of the program is a key here.

mod http;
mod secret;

pub use http::{AnonymousReads, HttpConfig, HttpOptions};
pub use secret::{SecretError, read_secret, write_secret};

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::consensus::CoreOptions;
use crate::crypto::{ReplicaSecret, SigningKey};
use crate::journal::JournalOptions;
use crate::net::NetOptions;
use crate::node::{NodeConfig, NodeOptions};
use crate::recovery::DataDir;
use crate::store::StoreOptions;
use crate::types::{Federation, Genesis, GenesisError, PeerId, ReplicaIndex};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is no such configuration: the message has line and column.
    #[error("{}: {message}", .path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong where.
        message: String,
    },
    /// The genesis is refused.
    #[error("{}: the genesis: {error}", .path.display())]
    Genesis {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: GenesisError,
    },
    /// A key's value is out of bounds.
    #[error("{}: [{section}] {message}", .path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which table.
        section: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A member without an address, or an address without a member.
    #[error("{}: [addresses] {problem} {peer:?}", .path.display())]
    Address {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
        /// Of whom.
        peer: String,
    },
    /// The configuration names a replica that the genesis does not.
    #[error("{}: peer {peer:?} is no member of the federation in {}", .path.display(), .genesis.display())]
    NoMember {
        /// Which file.
        path: PathBuf,
        /// Whom it names.
        peer: PeerId,
        /// The genesis file.
        genesis: PathBuf,
    },
    /// The secret yields other keys than the genesis names for this replica.
    #[error("{}: the secret is not that of {peer}, whom {} names: it yields other keys than the genesis names, {}",
        .path.display(), .config.display(), .genesis.display())]
    WrongSecret {
        /// The secret's file.
        path: PathBuf,
        /// The configuration.
        config: PathBuf,
        /// The genesis file.
        genesis: PathBuf,
        /// The replica.
        peer: PeerId,
    },
    /// A secret file is refused.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Reads a TOML file; errors carry line and column.
///
/// # Errors
/// [`ConfigError::Io`], [`ConfigError::Parse`].
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Io { path: path.to_path_buf(), error })?;
    toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.to_path_buf(), message: e.to_string() })
}

/// `federation.toml`: the genesis, which is hashed into the federation's id, and the members' addresses, which are not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederationFile {
    /// The genesis.
    pub genesis: Genesis,
    /// Where each member listens: label to "host:port".
    #[serde(default)]
    pub addresses: BTreeMap<String, String>,
}

/// A federation with its members' addresses, in member order.
pub struct LoadedFederation {
    /// The federation.
    pub federation: Arc<Federation>,
    /// "host:port" by member.
    pub addresses: Vec<String>,
}

impl FederationFile {
    /// Reads and checks the genesis alone: all that verifying needs.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read_genesis(path: &Path) -> Result<Federation, ConfigError> {
        let file: Self = read_toml(path)?;
        Federation::new(file.genesis).map_err(|error| ConfigError::Genesis { path: path.to_path_buf(), error })
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<LoadedFederation, ConfigError> {
        let file: Self = read_toml(path)?;
        let federation = Federation::new(file.genesis).map_err(|error| ConfigError::Genesis { path: path.to_path_buf(), error })?;
        let fault = |problem, peer: &str| ConfigError::Address { path: path.to_path_buf(), problem, peer: peer.to_owned() };
        if let Some(stranger) = file.addresses.keys().find(|peer| federation.index_of(&PeerId((*peer).clone())).is_none()) {
            return Err(fault("names a stranger:", stranger));
        }
        let address = |m: &crate::types::Member| file.addresses.get(&m.peer.0).cloned().ok_or_else(|| fault("has no entry for", &m.peer.0));
        let addresses = federation.members().iter().map(address).collect::<Result<_, _>>()?;
        Ok(LoadedFederation { federation: Arc::new(federation), addresses })
    }
}

/// `replica.toml`. Paths are relative to the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaFile {
    /// The federation's file.
    pub genesis: PathBuf,
    /// Which member this is.
    pub peer: PeerId,
    /// The secret's file.
    pub secret: PathBuf,
    /// The data directory.
    pub data: PathBuf,
    /// "host:port" to listen at.
    pub listen: String,
    /// The node's options.
    #[serde(default)]
    pub node: NodeOptions,
    /// The core's.
    #[serde(default)]
    pub consensus: CoreOptions,
    /// The journal's.
    #[serde(default)]
    pub journal: JournalOptions,
    /// The log's.
    #[serde(default)]
    pub store: StoreOptions,
    /// The transport's.
    #[serde(default)]
    pub net: NetOptions,
    /// The HTTP interface's.
    #[serde(default)]
    pub http: HttpOptions,
}

impl ReplicaFile {
    /// Reads a replica's configuration with everything it names, and checks that all of it fits together.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<NodeConfig, ConfigError> {
        let file: Self = read_toml(path)?;
        let near = |relative: &Path| path.parent().unwrap_or(Path::new(".")).join(relative);
        file.validate(path)?;
        let LoadedFederation { federation, addresses } = FederationFile::load(&near(&file.genesis))?;
        let no_member = || ConfigError::NoMember { path: path.to_path_buf(), peer: file.peer.clone(), genesis: near(&file.genesis) };
        let me = federation.index_of(&file.peer).ok_or_else(no_member)?;
        let secret = ReplicaSecret::from_bytes(read_secret(&near(&file.secret))?);
        check_secret(&federation, me, &secret).map_err(|peer| ConfigError::WrongSecret {
            path: near(&file.secret),
            config: path.to_path_buf(),
            genesis: near(&file.genesis),
            peer,
        })?;
        let listen = resolve(&file.listen).ok_or_else(|| value(path, "listen", format!("{:?} is no address to listen at", file.listen)))?;
        Ok(NodeConfig {
            federation,
            me,
            secret,
            data: DataDir(near(&file.data)),
            listen,
            addresses,
            node: file.node,
            core: file.consensus,
            journal: file.journal,
            store: file.store,
            net: file.net,
        })
    }

    /// Checks every option's bounds.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn validate(&self, path: &Path) -> Result<(), ConfigError> {
        self.journal.validate().map_err(|e| value(path, "journal", e.to_string()))?;
        self.store.validate().map_err(|e| value(path, "store", e.to_string()))?;
        self.net.validate().map_err(|e| value(path, "net", e.to_string()))?;
        self.consensus.validate().map_err(|message| value(path, "consensus", message))?;
        self.node.validate().map_err(|message| value(path, "node", message))?;
        self.http.validate().map_err(|message| value(path, "http", message))
    }
}

fn value(path: &Path, section: &'static str, message: String) -> ConfigError {
    ConfigError::Value { path: path.to_path_buf(), section, message }
}

fn resolve(address: &str) -> Option<SocketAddr> {
    address.to_socket_addrs().ok()?.next()
}

/// Whether a secret yields a member's three keys; gives the member's label if not.
fn check_secret(federation: &Federation, me: ReplicaIndex, secret: &ReplicaSecret) -> Result<(), PeerId> {
    let Some(member) = federation.members().get(usize::from(me)) else { return Err(PeerId(String::new())) };
    let keys = (secret.consensus_key().public(), secret.transport_key().public(), secret.cosignature_key().public());
    if keys == (member.consensus_key, member.transport_key, member.cosignature_key) { Ok(()) } else { Err(member.peer.clone()) }
}

/// What a client may set. Times in ms.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientOptions {
    /// How long one replica may take before the next is asked.
    pub attempt_timeout_ms: u64,
    /// How long a submission stays valid: until then it is tried again.
    pub lifetime_ms: u64,
    /// How many submissions are in flight at a time.
    pub in_flight: u64,
    /// How many updates are signed together at most.
    pub updates_per_submission: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { attempt_timeout_ms: 3_000, lifetime_ms: 120_000, in_flight: 32, updates_per_submission: 64 }
    }
}

/// `client.toml`. Paths are relative to the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFile {
    /// The federation's file.
    pub genesis: PathBuf,
    /// The author's, or reader's, key file.
    pub key: PathBuf,
    /// The client's options.
    #[serde(default)]
    pub client: ClientOptions,
    /// The transport's.
    #[serde(default)]
    pub net: NetOptions,
}

/// A client's configuration with everything it names.
pub struct LoadedClient {
    /// The federation and its addresses.
    pub federation: LoadedFederation,
    /// The client's key.
    pub key: SigningKey,
    /// The client's options.
    pub options: ClientOptions,
    /// The transport's.
    pub net: NetOptions,
}

impl ClientFile {
    /// Reads a client's configuration.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<LoadedClient, ConfigError> {
        let file: Self = read_toml(path)?;
        let near = |relative: &Path| path.parent().unwrap_or(Path::new(".")).join(relative);
        file.net.validate().map_err(|e| value(path, "net", e.to_string()))?;
        file.client.validate().map_err(|message| value(path, "client", message))?;
        let federation = FederationFile::load(&near(&file.genesis))?;
        let key = SigningKey::from_seed(&read_secret(&near(&file.key))?);
        Ok(LoadedClient { federation, key, options: file.client, net: file.net })
    }
}

/// One line of a bounds check.
fn within(key: &str, value: u64, low: u64, high: u64) -> Result<(), String> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{key} is {value}, allowed is {low} to {high}")) }
}

impl ClientOptions {
    fn validate(&self) -> Result<(), String> {
        within("attempt_timeout_ms", self.attempt_timeout_ms, 100, 600_000)?;
        within("lifetime_ms", self.lifetime_ms, 1_000, 30 * 24 * 3_600_000)?;
        within("in_flight", self.in_flight, 1, 4_096)?;
        within("updates_per_submission", self.updates_per_submission, 1, 65_536)
    }
}

impl NodeOptions {
    fn validate(&self) -> Result<(), String> {
        within("submit_timeout_ms", self.submit_timeout_ms, 100, 600_000)?;
        within("max_answer_bytes", self.max_answer_bytes, 64 << 10, 32 << 20)?;
        within("tick_ms", self.tick_ms, 1, 1_000)?;
        within("group_steps", self.group_steps, 1, 65_536)?;
        within("idle_sync_ms", self.idle_sync_ms, 1, 10_000)?;
        within("log_queue_batches", self.log_queue_batches, 1, 65_536)?;
        within("catch_up_timeout_ms", self.catch_up_timeout_ms, 100, 600_000)?;
        within("catch_up_bytes", self.catch_up_bytes, 64 << 10, 32 << 20)?;
        within("catch_up_backlog_batches", self.catch_up_backlog_batches, 1, 65_536)
    }
}

impl CoreOptions {
    fn validate(&self) -> Result<(), String> {
        within("pipeline_slots", self.pipeline_slots, 1, 4_096)?;
        within("eager_slots", self.eager_slots, 1, self.pipeline_slots)?;
        within("stall_timeout_ms", self.stall_timeout_ms, 50, 600_000)?;
        within("request_timeout_ms", self.request_timeout_ms, self.stall_timeout_ms, 3_600_000)?;
        within("max_timeout_ms", self.max_timeout_ms, self.request_timeout_ms, 24 * 3_600_000)?;
        within("gossip_ms", self.gossip_ms, 10, 60_000)?;
        within("catch_up_after_ms", self.catch_up_after_ms, 10, 600_000)?;
        within("buffered_proposal_slots", self.buffered_proposal_slots, 1, 4_096)?;
        within("buffered_proposal_bytes", self.buffered_proposal_bytes, 1 << 20, 4 << 30)?;
        within("pool_bytes", self.pool_bytes, 1 << 20, 16 << 30)?;
        within("pool_author_bytes", self.pool_author_bytes, 1 << 16, self.pool_bytes)
    }
}
