//! The first difference between two copies of a log, in O(log n) probes: headers are chained, so equal headers at a slot mean equal logs up to it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::client::Client;
use crate::crypto::Digest;
use crate::error::FederationError;
use crate::journal::{JournalOptions, JournalReader};
use crate::proof::chain::{AuthorSignatures, check_batch};
use crate::recovery::body_of;
use crate::store::{Store, StoreOptions};
use crate::types::{CommittedBatch, Convicted, Evidence, Federation, LogQuery, Request, Response, Sequence, Slot};

/// A copy of the log.
pub struct Side<'a> {
    name: String,
    source: Source<'a>,
}

enum Source<'a> {
    /// A stopped replica's.
    Directory { _copy: tempfile::TempDir, store: Box<Store>, bodies: JournalReader },
    /// A running replica's.
    Live { client: &'a Client, replica: usize },
}

/// Where a copy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct End {
    /// The last slot.
    pub slot: Slot,
    /// The last sequence number.
    pub sequence: Sequence,
    /// The log root there.
    pub log_root: Digest,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The first.
    A,
    /// The second.
    B,
}

/// What sets two copies apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Difference {
    /// Nothing.
    Same,
    /// One is the other's beginning.
    Lags {
        /// The shorter one.
        side: Which,
        /// By how many batches.
        slots: u64,
        /// By how many entries.
        entries: u64,
    },
    /// One has the batch's header and certificate, and cannot give its payloads.
    LacksPayload {
        /// Which one.
        side: Which,
        /// The batch.
        slot: Slot,
        /// Why.
        reason: String,
    },
    /// One gives what is not what the federation committed.
    Damaged {
        /// Which one.
        side: Which,
        /// The first place that differs, or that cannot be read.
        slot: Slot,
        /// What is wrong there.
        reason: String,
    },
    /// Both are committed, and differ: at least f + 1 members signed what they must not have.
    Fork {
        /// The first slot that differs.
        slot: Slot,
    },
}

/// What comparing two copies tells.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What sets them apart.
    pub difference: Difference,
    /// Where each ends.
    pub ends: [End; 2],
    /// How many batches were looked at in each.
    pub probes: u64,
    /// Who signed both, after a fork in one view.
    pub convicted: Vec<Convicted>,
}

/// Why a batch could not be had.
enum Missing {
    Payload(String),
    Damage(String),
    Silent(FederationError),
}

impl<'a> Side<'a> {
    /// A stopped replica's data directory.
    ///
    /// # Errors
    /// A log or journal that cannot be opened.
    pub fn directory(name: &str, data: &Path, federation: &Federation) -> Result<Self, FederationError> {
        let (copy, store, _) = Store::open_copy(data, federation.id(), &StoreOptions::default())?;
        let bodies = JournalReader::open(&data.join("journal"), Some(federation.id().0.0), &JournalOptions::default())?;
        Ok(Self { name: name.to_owned(), source: Source::Directory { _copy: copy, store: Box::new(store), bodies } })
    }

    /// A running replica.
    #[must_use]
    pub fn live(name: &str, client: &'a Client, replica: usize) -> Self {
        Self { name: name.to_owned(), source: Source::Live { client, replica } }
    }

    /// What it was called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    async fn end(&self) -> Result<End, FederationError> {
        match &self.source {
            Source::Directory { store, .. } => {
                let head = store.head();
                Ok(End { slot: head.slot, sequence: head.sequence, log_root: head.frontier.root() })
            }
            Source::Live { client, replica } => match client.ask(*replica, &Request::Status, timeout(client)).await? {
                Response::Status(status) => Ok(End { slot: status.slot, sequence: status.sequence, log_root: status.log_root }),
                _ => Err(FederationError::Answer { replica: self.name.clone(), problem: "another answer than a status".into() }),
            },
        }
    }

    async fn batch(&self, slot: Slot) -> Result<CommittedBatch, Missing> {
        match &self.source {
            Source::Directory { store, bodies, .. } => {
                let row = store.reader().row_at_slot(slot).map_err(|e| Missing::Damage(e.to_string()))?;
                let row = row.ok_or_else(|| Missing::Damage("no such row".to_owned()))?;
                let body = body_of(bodies, &row).map_err(|e| Missing::Payload(e.to_string()))?;
                Ok(CommittedBatch { header: row.header, body, certificate: row.certificate })
            }
            Source::Live { client, replica } => {
                let request = Request::Log(LogQuery::FromSlot { slot, max_bytes: 1 });
                match client.ask(*replica, &request, timeout(client)).await {
                    Ok(Response::Log(range)) => {
                        let first = range.batches.into_iter().next().filter(|batch| batch.header.slot == slot);
                        first.ok_or_else(|| Missing::Damage("another answer than that batch".to_owned()))
                    }
                    Ok(_) => Err(Missing::Damage("another answer than a batch".to_owned())),
                    // A replica names its own damage instead of serving it.
                    Err(FederationError::Answer { problem, .. }) if problem.contains("body") => Err(Missing::Payload(problem)),
                    Err(FederationError::Answer { problem, .. }) => Err(Missing::Damage(problem)),
                    Err(error) => Err(Missing::Silent(error)),
                }
            }
        }
    }
}

fn timeout(client: &Client) -> Duration {
    Duration::from_millis(client.options().attempt_timeout_ms)
}

/// Finds the first difference, and what it is.
///
/// # Errors
/// A replica that does not answer.
pub async fn diff(federation: &Federation, a: &Side<'_>, b: &Side<'_>) -> Result<Comparison, FederationError> {
    let ends = [a.end().await?, b.end().await?];
    let mut search = Search { federation, sides: [a, b], probes: 0, convicted: vec![] };
    let difference = search.run(ends).await?;
    Ok(Comparison { difference, ends, probes: search.probes, convicted: search.convicted })
}

struct Search<'a> {
    federation: &'a Federation,
    sides: [&'a Side<'a>; 2],
    probes: u64,
    convicted: Vec<Convicted>,
}

impl Search<'_> {
    async fn run(&mut self, [a, b]: [End; 2]) -> Result<Difference, FederationError> {
        let common = a.slot.min(b.slot);
        let lag = || match a.slot.cmp(&b.slot) {
            std::cmp::Ordering::Equal => Difference::Same,
            std::cmp::Ordering::Less => Difference::Lags { side: Which::A, slots: b.slot - a.slot, entries: b.sequence.saturating_sub(a.sequence) },
            std::cmp::Ordering::Greater => {
                Difference::Lags { side: Which::B, slots: a.slot - b.slot, entries: a.sequence.saturating_sub(b.sequence) }
            }
        };
        if common == 0 {
            return Ok(lag());
        }
        // Equal below `low`, different at `high`.
        let (mut low, mut high) = (1, common);
        let mut found = match self.pair(common).await? {
            Ok(pair) if pair[0].header == pair[1].header => return Ok(self.judge(common, &pair).unwrap_or_else(lag)),
            Ok(pair) => pair,
            Err(difference) => return Ok(difference),
        };
        while low < high {
            let middle = low + (high - low) / 2;
            match self.pair(middle).await? {
                Ok(pair) if pair[0].header == pair[1].header => low = middle + 1,
                Ok(pair) => (high, found) = (middle, pair),
                Err(difference) => return Ok(difference),
            }
        }
        if let Some(damage) = self.judge(high, &found) {
            return Ok(damage);
        }
        let evidence = Evidence::of_certificates(&found[0].certificate, &found[1].certificate).into_iter();
        self.convicted.extend(evidence.filter_map(|evidence| evidence.convict(self.federation).ok()));
        Ok(Difference::Fork { slot: high })
    }

    /// Both sides' batch of a slot, or what keeps one from giving it.
    async fn pair(&mut self, slot: Slot) -> Result<Result<[CommittedBatch; 2], Difference>, FederationError> {
        self.probes += 1;
        let [a, b] = self.sides;
        Ok(match (one(a, Which::A, slot).await?, one(b, Which::B, slot).await?) {
            (Ok(a), Ok(b)) => Ok([a, b]),
            (Err(difference), _) | (_, Err(difference)) => Err(difference),
        })
    }

    /// Which of two batches is not what a quorum committed.
    fn judge(&self, slot: Slot, pair: &[CommittedBatch; 2]) -> Option<Difference> {
        let wrong = |batch: &CommittedBatch| check_batch(self.federation, batch, AuthorSignatures::Check).err();
        pair.iter()
            .zip([Which::A, Which::B])
            .find_map(|(batch, side)| wrong(batch).map(|e| Difference::Damaged { side, slot, reason: e.to_string() }))
    }
}

/// One side's batch of a slot, or what keeps it from giving it.
async fn one(from: &Side<'_>, side: Which, slot: Slot) -> Result<Result<CommittedBatch, Difference>, FederationError> {
    match from.batch(slot).await {
        Ok(batch) => Ok(Ok(batch)),
        Err(Missing::Silent(error)) => Err(error),
        Err(Missing::Payload(reason)) => Ok(Err(Difference::LacksPayload { side, slot, reason })),
        Err(Missing::Damage(reason)) => Ok(Err(Difference::Damaged { side, slot, reason })),
    }
}
