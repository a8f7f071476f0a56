//! The `[http]` table of `replica.toml`: where the HTTP interface listens, who may use it, and what it may cost.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, FederationFile, ReplicaFile, read_secret, read_toml, resolve, value, within};
use crate::crypto::SigningKey;

/// Who may read without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnonymousReads {
    /// Whoever reaches a server that listens on loopback by a name of loopback, and through no proxy.
    Loopback,
    /// Everyone.
    Always,
    /// Nobody.
    Never,
}

/// What an operator may set of the HTTP interface. Times in ms, sizes in bytes; an empty text stands for "none".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpOptions {
    /// "host:port" to listen at (TCP); empty for no HTTP interface. Beyond loopback it needs TLS, or `insecure`.
    pub listen: String,
    /// The certificate chain for HTTPS (PEM), with `tls_key`.
    pub tls_certificate: PathBuf,
    /// Its private key (PEM), mode 0600.
    pub tls_key: PathBuf,
    /// Listen beyond loopback without TLS: tokens and payloads are readable on the way.
    pub insecure: bool,
    /// The file of tokens' hashes, which `exofed token` writes; read again whenever it changes.
    pub tokens: PathBuf,
    /// The key file of an admitted author, with which updates of callers with scope submit are signed; empty for none.
    pub author_key: PathBuf,
    /// Who may read without a token.
    pub anonymous_reads: AnonymousReads,
    /// How long a caller waits for the commit unless it says otherwise.
    pub submit_wait_ms: u64,
    /// How long an update signed here stays valid.
    pub lifetime_ms: u64,
    /// How many submissions may wait for their fate at a time; more are told 503.
    pub max_submissions: u64,
    /// How many fates of submissions are remembered for those who ask later.
    pub max_fates: u64,
    /// How many updates one request may hold.
    pub max_updates: u64,
    /// The longest request body.
    pub max_body_bytes: u64,
    /// The bytes of bodies that all requests together may have under way; more are told 503.
    pub max_bodies_bytes: u64,
    /// About how many bytes of payloads one answer may hold.
    pub max_answer_bytes: u64,
    /// The longest headers; a URI may have half of it.
    pub max_header_bytes: u64,
    /// How many connections may be open; more are told 503 and closed.
    pub max_connections: u64,
    /// How many requests may be under way; more are told 503. Streams, health and metrics do not count.
    pub max_requests: u64,
    /// How many of them one token, or all without a token together, may have; more are told 429.
    pub max_requests_per_caller: u64,
    /// How many streams of the log may be open; more are told 503.
    pub max_streams: u64,
    /// How long the TLS handshake may take, and how long a connection may be without a complete request head, idle or not.
    pub header_timeout_ms: u64,
    /// How long a request body may take.
    pub body_timeout_ms: u64,
    /// How long a client may take no byte of an answer.
    pub write_timeout_ms: u64,
    /// How long a request may take in all until its answer begins.
    pub request_timeout_ms: u64,
    /// How often a silent stream says that it lives.
    pub keep_alive_ms: u64,
    /// How long requests under way may take to end when the replica stops.
    pub drain_timeout_ms: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            listen: String::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            insecure: false,
            tokens: "tokens.toml".into(),
            author_key: PathBuf::new(),
            anonymous_reads: AnonymousReads::Loopback,
            submit_wait_ms: 10_000,
            lifetime_ms: 120_000,
            max_submissions: 256,
            max_fates: 16_384,
            max_updates: 1_024,
            max_body_bytes: 8 << 20,
            max_bodies_bytes: 64 << 20,
            max_answer_bytes: 4 << 20,
            max_header_bytes: 16 << 10,
            max_connections: 512,
            max_requests: 64,
            max_requests_per_caller: 48,
            max_streams: 64,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            write_timeout_ms: 10_000,
            request_timeout_ms: 90_000,
            keep_alive_ms: 10_000,
            drain_timeout_ms: 5_000,
        }
    }
}

impl HttpOptions {
    pub(super) fn validate(&self) -> Result<(), String> {
        within("request_timeout_ms", self.request_timeout_ms, 100, 600_000)?;
        within("submit_wait_ms", self.submit_wait_ms, 0, self.request_timeout_ms)?;
        within("lifetime_ms", self.lifetime_ms, 1_000, 30 * 24 * 3_600_000)?;
        within("max_submissions", self.max_submissions, 1, 65_536)?;
        within("max_fates", self.max_fates, self.max_submissions, 10_000_000)?;
        within("max_updates", self.max_updates, 1, 65_536)?;
        within("max_body_bytes", self.max_body_bytes, 1 << 10, 64 << 20)?;
        within("max_bodies_bytes", self.max_bodies_bytes, self.max_body_bytes, 16 << 30)?;
        within("max_answer_bytes", self.max_answer_bytes, 64 << 10, 32 << 20)?;
        within("max_header_bytes", self.max_header_bytes, 1 << 10, 32 << 10)?;
        within("max_connections", self.max_connections, 1, 65_536)?;
        within("max_requests", self.max_requests, 1, 65_536)?;
        within("max_requests_per_caller", self.max_requests_per_caller, 1, self.max_requests)?;
        within("max_streams", self.max_streams, 1, 65_536)?;
        within("header_timeout_ms", self.header_timeout_ms, 10, 600_000)?;
        within("body_timeout_ms", self.body_timeout_ms, 10, 600_000)?;
        within("write_timeout_ms", self.write_timeout_ms, 10, 600_000)?;
        within("keep_alive_ms", self.keep_alive_ms, 10, 600_000)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 0, 600_000)?;
        match (empty(&self.tls_certificate), empty(&self.tls_key)) {
            (true, false) => Err("tls_key is given without tls_certificate".into()),
            (false, true) => Err("tls_certificate is given without tls_key".into()),
            _ => Ok(()),
        }
    }
}

fn empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// The `[http]` table with everything it names, for a server.
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate chain's file and the key's, for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The tokens' file; it need not exist.
    pub tokens: PathBuf,
    /// The author that callers with scope submit may have their updates signed by.
    pub author: Option<SigningKey>,
    /// The options.
    pub options: HttpOptions,
}

impl HttpConfig {
    /// Reads what a replica's configuration says of HTTP; `None` if it has no HTTP interface.
    ///
    /// # Errors
    /// [`ConfigError`]; among them an address beyond loopback with neither TLS nor `insecure`, and an author whom the genesis does not admit.
    pub fn load(path: &Path) -> Result<Option<Self>, ConfigError> {
        let file: ReplicaFile = read_toml(path)?;
        file.validate(path)?;
        let options = file.http;
        if options.listen.is_empty() {
            return Ok(None);
        }
        let near = |relative: &Path| path.parent().unwrap_or(Path::new(".")).join(relative);
        let refused = |message: String| value(path, "http", message);
        let listen = resolve(&options.listen).ok_or_else(|| refused(format!("listen: {:?} is no address to listen at", options.listen)))?;
        let tls = (!empty(&options.tls_certificate)).then(|| (near(&options.tls_certificate), near(&options.tls_key)));
        if !listen.ip().is_loopback() && tls.is_none() && !options.insecure {
            return Err(refused(format!(
                "listen: {:?} is beyond loopback, where tokens and payloads could be read on the way: give tls_certificate and tls_key, \
                 or say insecure = true",
                options.listen
            )));
        }
        let author = if empty(&options.author_key) { None } else { Some(SigningKey::from_seed(&read_secret(&near(&options.author_key))?)) };
        if let Some(author) = &author {
            let federation = FederationFile::read_genesis(&near(&file.genesis))?;
            if federation.author_key(&author.public()).is_none() {
                let named = options.author_key.display();
                return Err(refused(format!("author_key: {named} is the key {}, which the genesis admits as no author", author.public())));
            }
        }
        Ok(Some(Self { listen, tls, tokens: near(&options.tokens), author, options }))
    }

    /// Where a replica's tokens are kept, whether or not it has an HTTP interface.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn tokens_file(path: &Path) -> Result<PathBuf, ConfigError> {
        let file: ReplicaFile = read_toml(path)?;
        Ok(path.parent().unwrap_or(Path::new(".")).join(file.http.tokens))
    }
}
