//! What an audit is asked to check.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::OldProofs;
use crate::types::{Header, Sequence, TimestampMs};

/// How much of a history is checked; each level adds to the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Every page and record, header fields, counts, limits, lifetimes, admitted authors; that no slot is missing.
    Structure,
    /// Each header continues the one before: parent digest, sequence number, time.
    Chain,
    /// Every payload is hashed: body digests, leaves, the log root after each batch.
    Merkle,
    /// The signatures of each certificate's quorum.
    Quorum,
    /// The signature of each submission's author.
    #[default]
    Content,
}

impl Level {
    /// All, from the least to everything.
    pub const ALL: [Self; 5] = [Self::Structure, Self::Chain, Self::Merkle, Self::Quorum, Self::Content];

    /// The level that adds to this one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|level| *level > self)
    }

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Chain => "chain",
            Self::Merkle => "merkle",
            Self::Quorum => "quorum",
            Self::Content => "content",
        }
    }

    /// What this level adds, for the list of what was not checked.
    #[must_use]
    pub const fn adds(self) -> &'static str {
        match self {
            Self::Structure => "pages, records and limits",
            Self::Chain => "that headers continue each other (parent, sequence number, time)",
            Self::Merkle => "payloads against their digests, and log roots",
            Self::Quorum => "the quorums' signatures: whether the federation committed any of it",
            Self::Content => "the authors' signatures",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|level| level.name() == text).ok_or_else(|| format!("no level {text:?}; there are {}", names()))
    }
}

/// Which part of the history is checked at the full level. What comes before it is still linked and hashed, because roots build on it; what
/// comes behind it is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Range {
    /// The first sequence number.
    pub from: Option<Sequence>,
    /// The last sequence number.
    pub to: Option<Sequence>,
    /// The earliest batch time, ms since the Unix epoch.
    pub since: Option<TimestampMs>,
    /// The latest batch time.
    pub until: Option<TimestampMs>,
}

impl Range {
    /// Whether a batch lies wholly before the range.
    #[must_use]
    pub fn is_before(&self, header: &Header) -> bool {
        self.from.is_some_and(|from| header.last_sequence() < from) || self.since.is_some_and(|since| header.timestamp < since)
    }

    /// Whether a batch, and with it all that follow, lies wholly behind the range.
    #[must_use]
    pub fn is_behind(&self, header: &Header) -> bool {
        self.to.is_some_and(|to| header.first_sequence > to) || self.until.is_some_and(|until| header.timestamp > until)
    }

    /// Whether anything is left out.
    #[must_use]
    pub fn is_part(&self) -> bool {
        *self != Self::default()
    }
}

/// What an audit is asked to check; everything unless said.
#[derive(Debug, Clone, Default)]
pub struct AuditOptions {
    /// How deep.
    pub level: Level,
    /// Which part.
    pub range: Range,
    /// Proofs handed out earlier.
    pub old_proofs: OldProofs,
    /// Where the audit's state is kept; it goes on from there if the file exists. For a single target.
    pub resume: Option<PathBuf>,
}
