//! What embedders use of a running replica.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::service::Service;
use super::state_machine::LogEntry;
use crate::crypto::SigningKey;
use crate::error::FederationError;
use crate::proof::{CommitProof, ConsistencyProof, verify_receipt};
use crate::types::{
    CommittedBatch, ConsistencyQuery, Evidence, Federation, LogQuery, ProofQuery, PublishedCheckpoint, ReplicaStatus, Sequence, StateUpdate,
    Submission, SubmitOutcome, TimestampMs,
};

/// The outcome of [`Handle::byzantine_commit`]. The two Insufficient results mean that the outcome is unknown: ask by update id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitResult {
    /// Committed, and here is the proof.
    Success(Box<CommitProof>),
    /// Not prepared while the replica waited.
    InsufficientPrepares {
        /// Prepares seen.
        had: usize,
        /// The quorum.
        needed: usize,
    },
    /// Prepared, but not committed while the replica waited.
    InsufficientCommits {
        /// Commits seen.
        had: usize,
        /// The quorum.
        needed: usize,
    },
}

/// A running replica, for the process that runs it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) service: Arc<Service>,
}

impl Handle {
    /// Orders a submission that its author signed, and waits for its fate.
    pub async fn submit(&self, submission: Submission) -> SubmitOutcome {
        self.service.submit(Arc::new(submission)).await
    }

    /// Signs one update as its author, has it ordered, and gives the proof that a quorum committed it.
    ///
    /// # Errors
    /// [`FederationError::Answer`] for everything but success and an unknown outcome: a conflict, an expired or refused update, a busy replica.
    pub async fn byzantine_commit(&self, author: &SigningKey, update: StateUpdate) -> Result<CommitResult, FederationError> {
        let federation = &self.service.federation;
        let not_after = wall_clock().saturating_add(federation.parameters().max_lifetime_ms / 2);
        let submission = Submission::sign(federation.id(), author, not_after, vec![update]);
        let refused = |problem: String| Err(FederationError::Answer { replica: self.service.peer.to_string(), problem });
        match self.service.submit(Arc::new(submission.clone())).await {
            SubmitOutcome::Committed(receipt) => match verify_receipt(&receipt, &submission, federation)?.into_iter().next() {
                Some(proof) => Ok(CommitResult::Success(Box::new(proof))),
                None => refused("the receipt proves no update".into()),
            },
            SubmitOutcome::AlreadyCommitted(places) => match places.first() {
                Some(sequence) => match self.proof(ProofQuery::Sequence(*sequence)).await? {
                    Some(proof) => Ok(CommitResult::Success(Box::new(proof))),
                    None => refused(format!("committed at {sequence}, but the log does not hold it yet")),
                },
                None => refused("no place was given".into()),
            },
            SubmitOutcome::Unknown { prepares, needed, .. } if prepares < needed => {
                Ok(CommitResult::InsufficientPrepares { had: prepares as usize, needed: needed as usize })
            }
            SubmitOutcome::Unknown { commits, needed, .. } => {
                Ok(CommitResult::InsufficientCommits { had: commits as usize, needed: needed as usize })
            }
            other => refused(format!("{other:?}")),
        }
    }

    /// The proof of a committed update, checked; `None` if the log holds no such update.
    ///
    /// # Errors
    /// What reading the log or checking the proof says.
    pub async fn proof(&self, query: ProofQuery) -> Result<Option<CommitProof>, FederationError> {
        let service = self.service.clone();
        let work = move || match service.archive.proof(&query) {
            Ok(Some(answer)) => {
                let proof = CommitProof::from(answer);
                proof.verify(&service.federation)?;
                Ok(Some(proof))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(service.problem(&error)),
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| FederationError::Stopped(e.to_string()))?
    }

    /// The proof, checked, that an older log is the beginning of a newer one; `None` if this log does not hold both.
    ///
    /// # Errors
    /// What reading the log or checking the proof says.
    pub async fn consistency(&self, query: ConsistencyQuery) -> Result<Option<ConsistencyProof>, FederationError> {
        let service = self.service.clone();
        let work = move || match service.archive.consistency(query) {
            Ok(Some(answer)) => {
                let proof = ConsistencyProof::from(answer);
                proof.verify(&service.federation)?;
                Ok(Some(proof))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(service.problem(&error)),
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| FederationError::Stopped(e.to_string()))?
    }

    /// Committed batches from the one that holds `from` on, about `max_bytes` of them.
    ///
    /// # Errors
    /// What reading the log says.
    pub async fn read(&self, from: Sequence, max_bytes: u64) -> Result<Vec<CommittedBatch>, FederationError> {
        let query = LogQuery::FromSequence { sequence: from, max_bytes, wait_ms: 0 };
        Ok(self.service.log(query).await.map_err(|e| self.problem(&e))?.batches)
    }

    /// The newest checkpoint that a quorum cosigned, if this replica holds one.
    #[must_use]
    pub fn checkpoint(&self) -> Option<PublishedCheckpoint> {
        self.service.published.newest().map(|newest| PublishedCheckpoint::clone(&newest))
    }

    /// The evidence that this replica holds against members that contradicted themselves; it is kept over restarts.
    ///
    /// # Errors
    /// What reading the log says.
    pub async fn evidence(&self) -> Result<Vec<Evidence>, FederationError> {
        let archive = self.service.archive.clone();
        let found = tokio::task::spawn_blocking(move || archive.evidence()).await.map_err(|e| FederationError::Stopped(e.to_string()))?;
        found.map_err(|e| self.problem(&e))
    }

    /// Every committed update from `from` on, in order, without gaps, for as long as it is asked.
    #[must_use]
    pub fn subscribe(&self, from: Sequence) -> Subscription {
        Subscription { service: self.service.clone(), next: from.max(1), ready: std::collections::VecDeque::new(), read_bytes: 4 << 20 }
    }

    /// The federation.
    #[must_use]
    pub fn federation(&self) -> &Arc<Federation> {
        &self.service.federation
    }

    /// The last sequence number that the log holds: what may be read.
    #[must_use]
    pub fn head(&self) -> Sequence {
        self.service.archive.head()
    }

    /// Tells who asks for the status where the HTTP interface is. The first call counts.
    pub fn announce_http(&self, url: String) {
        let _ = self.service.http.set(url);
    }

    /// Waits until the replica stops, for whatever reason.
    pub async fn stopped(&self) {
        let _ = self.service.shared.stopped().wait_for(Option::is_some).await;
    }

    /// Where the replica stands.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        self.service.status()
    }

    fn problem(&self, error: &impl ToString) -> FederationError {
        self.service.problem(error)
    }
}

/// The log as a stream of updates.
pub struct Subscription {
    service: Arc<Service>,
    next: Sequence,
    ready: std::collections::VecDeque<LogEntry>,
    read_bytes: u64,
}

impl Subscription {
    /// Bounds what is read ahead to about so many bytes, and a batch at least: for a process with many subscriptions.
    #[must_use]
    pub fn reading(mut self, bytes: u64) -> Self {
        self.read_bytes = bytes;
        self
    }

    /// The next update; waits until there is one.
    ///
    /// # Errors
    /// What reading the log says; the place is kept, so it may be asked again. [`FederationError::Stopped`] once the replica stops.
    pub async fn next(&mut self) -> Result<LogEntry, FederationError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.next = entry.sequence + 1;
                return Ok(entry);
            }
            let mut stopped = self.service.shared.stopped();
            let query = LogQuery::FromSequence { sequence: self.next, max_bytes: self.read_bytes, wait_ms: 5_000 };
            let range = tokio::select! {
                range = self.service.log(query) => range,
                _ = stopped.wait_for(Option::is_some) => return Err(FederationError::Stopped("no more updates come".into())),
            };
            let problem =
                |e: super::archive::ArchiveError| FederationError::Answer { replica: self.service.peer.to_string(), problem: e.to_string() };
            let next = self.next;
            let batches = range.map_err(problem)?.batches;
            self.ready.extend(batches.iter().flat_map(LogEntry::of_batch).filter(|entry| entry.sequence >= next));
        }
    }
}

pub(super) fn wall_clock() -> TimestampMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
