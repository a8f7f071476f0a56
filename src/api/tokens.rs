//! Bearer tokens: random, kept as SHA-256 hashes in a file that `exofed token` writes, and read again whenever that file changes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::BASE64URL_NOPAD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::config::{ConfigError, read_toml};
use crate::crypto::{Digest, random_bytes, sha256};

/// What every token begins with, so that a leaked one is recognised.
const PREFIX: &str = "exofed_";
const ABOUT: &str = "# SHA-256 hashes of the HTTP interface's tokens: exofed token add | list | revoke. A running replica reads changes at once.\n\n";

/// What a token permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Reading the log, proofs, status, evidence and metrics.
    Read,
    /// Submitting: signed by authors themselves, or by the replica's own author key if it has one.
    Submit,
    /// Everything.
    Admin,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
        })
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Read, Self::Submit, Self::Admin];
        all.into_iter().find(|scope| scope.to_string() == text).ok_or_else(|| format!("{text:?} is no scope: read, submit or admin"))
    }
}

/// What is kept of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its name for people.
    pub name: String,
    /// SHA-256 of its text.
    pub sha256: Digest,
    /// What it permits.
    pub scopes: Vec<Scope>,
    /// When it was made, RFC 3339.
    pub created: String,
}

impl Token {
    /// Whether it permits something.
    #[must_use]
    pub fn permits(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// Why the token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not what `exofed token` writes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The name is in use.
    #[error("{}: there is a token {name:?} already; revoke it first, or take another name", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// No such name.
    #[error("{}: there is no token {name:?}", .path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A name that cannot be kept.
    #[error("a token's name has 1 to 64 letters, digits, '-', '_' or '.', not {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// The system gives no random bytes.
    #[error(transparent)]
    Random(#[from] crate::crypto::KeyError),
}

/// The token file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// The tokens, in the order they were added.
    #[serde(default)]
    pub token: Vec<Token>,
}

impl TokenFile {
    /// Reads the file; one that does not exist holds no token.
    ///
    /// # Errors
    /// [`TokenError::Config`].
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        match read_toml(path) {
            Err(ConfigError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            read => Ok(read?),
        }
    }

    /// Makes a new token and keeps its hash; gives its text, which is kept nowhere.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn add(path: &Path, name: &str, scopes: &[Scope]) -> Result<String, TokenError> {
        let valid = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !valid {
            return Err(TokenError::Name { name: name.chars().take(64).collect() });
        }
        let text = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&random_bytes::<32>()?));
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self::change(path, |file| {
            if file.token.iter().any(|token| token.name == name) {
                return Err(TokenError::Exists { path: path.to_path_buf(), name: name.to_owned() });
            }
            file.token.push(Token { name: name.to_owned(), sha256: sha256(text.as_bytes()), scopes: scopes.to_vec(), created });
            Ok(())
        })?;
        Ok(text)
    }

    /// Forgets a token: it is refused from the next request on.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn revoke(path: &Path, name: &str) -> Result<(), TokenError> {
        Self::change(path, |file| {
            let before = file.token.len();
            file.token.retain(|token| token.name != name);
            if file.token.len() < before { Ok(()) } else { Err(TokenError::Unknown { path: path.to_path_buf(), name: name.to_owned() }) }
        })
    }

    /// One change at a time, and the file is at every moment either the old or the new one.
    fn change(path: &Path, change: impl FnOnce(&mut Self) -> Result<(), TokenError>) -> Result<(), TokenError> {
        let io = |error: std::io::Error| TokenError::Io { path: path.to_path_buf(), error };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let alone = File::open(dir).map_err(io)?;
        rustix::fs::flock(&alone, rustix::fs::FlockOperation::LockExclusive).map_err(|e| io(e.into()))?;
        let mut file = Self::load(path)?;
        change(&mut file)?;
        let text = toml::to_string_pretty(&file).map_err(|e| io(std::io::Error::other(e)))?;
        // Made with mode 0600.
        let mut new = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        new.write_all(format!("{ABOUT}{text}").as_bytes()).map_err(io)?;
        new.as_file().sync_all().map_err(io)?;
        new.persist(path).map_err(|e| io(e.error))?;
        alone.sync_all().map_err(io)
    }
}

/// What tells one state of the file from another: a rename changes the inode, a write in place the time or the size.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// The file in one state, or why it cannot be read.
struct Seen {
    stamp: Stamp,
    file: Result<Arc<TokenFile>, String>,
}

/// The file as it is now, read again only when it changed.
pub(super) struct TokenWatch {
    path: PathBuf,
    read: Mutex<Option<Seen>>,
}

impl TokenWatch {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::new(None) }
    }

    /// The tokens; a file that cannot be read admits nobody.
    fn current(&self) -> Result<Arc<TokenFile>, String> {
        let stamp = fs::metadata(&self.path).ok().map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size()));
        let mut read = self.read.lock();
        if let Some(seen) = read.as_ref().filter(|seen| seen.stamp == stamp) {
            return seen.file.clone();
        }
        let file = TokenFile::load(&self.path).map(Arc::new).map_err(|error| {
            tracing::error!(%error, "the token file cannot be read: no token is accepted");
            error.to_string()
        });
        *read = Some(Seen { stamp, file: file.clone() });
        file
    }

    /// The token with this text, if there is one. Every hash is compared, each in constant time.
    pub(super) fn find(&self, text: &str) -> Result<Option<Token>, String> {
        let file = self.current()?;
        let given = sha256(text.as_bytes());
        let mut found = None;
        for token in &file.token {
            if bool::from(token.sha256.0.ct_eq(&given.0)) {
                found = Some(token.clone());
            }
        }
        Ok(found)
    }
}
