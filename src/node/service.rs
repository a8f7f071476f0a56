//! What a replica answers: clients' submissions and questions, and peers that catch up.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::archive::{Archive, ArchiveError};
use super::driver::Input;
use super::published::Published;
use super::shared::Shared;
use crate::consensus::{Event, Verifier, Waiter};
use crate::error::FederationError;
use crate::net::{Caller, Net, RequestHandler};
use crate::recovery::RecoveryReport;
use crate::types::{
    BatchRange, Federation, LogQuery, PeerId, PublishedCheckpoint, ReplicaStatus, Request, Response, Role, Submission, SubmitOutcome, decode, encode,
};

/// The longest that a log query may wait for something new.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Answers questions about one replica. Cheap to share.
pub(super) struct Service {
    pub(super) federation: Arc<Federation>,
    pub(super) peer: PeerId,
    pub(super) archive: Archive,
    pub(super) published: Arc<Published>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) shared: Arc<Shared>,
    pub(super) core: Sender<Input>,
    pub(super) started: Instant,
    pub(super) submit_timeout: Duration,
    pub(super) report: RecoveryReport,
    /// Set once the transport is up; weak, because the transport holds this service.
    pub(super) net: OnceLock<Weak<Net>>,
    /// The URL of the HTTP interface, once there is one.
    pub(super) http: OnceLock<String>,
}

impl Service {
    /// Orders a submission and waits for its fate.
    pub(super) async fn submit(&self, submission: Arc<Submission>) -> SubmitOutcome {
        let verifier = self.verifier.clone();
        let given = submission.clone();
        let verified = match tokio::task::spawn_blocking(move || verifier.submission(given)).await {
            Ok(Ok(verified)) => verified,
            Ok(Err(refusal)) => return SubmitOutcome::Rejected(refusal.to_string()),
            Err(_) => return SubmitOutcome::Rejected("the replica is stopping".into()),
        };
        let (ticket, wait) = self.shared.tickets.issue();
        // The deadline is on the driver's clock, which began with the replica.
        let deadline = self.started.elapsed() + self.submit_timeout;
        let waiter = Waiter { ticket, deadline: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX) };
        let event = Event::Submit { submission: verified, waiter };
        if self.core.send(Input::Event(Box::new(event), None)).is_err() {
            return SubmitOutcome::Busy { retry_after_ms: 1_000 };
        }
        let forget = Forget { shared: &self.shared, ticket };
        let outcome = wait.await.unwrap_or(SubmitOutcome::Unknown {
            prepares: 0,
            commits: 0,
            needed: u32::try_from(self.federation.quorum()).unwrap_or(u32::MAX),
        });
        drop(forget);
        match outcome {
            SubmitOutcome::Expired { .. } => self.late_retry(submission).await.unwrap_or(outcome),
            outcome => outcome,
        }
    }

    /// What has expired may have been committed before: the index remembers longer than the duplicate table.
    async fn late_retry(&self, submission: Arc<Submission>) -> Option<SubmitOutcome> {
        let archive = self.archive.clone();
        let found = tokio::task::spawn_blocking(move || archive.committed_before(&submission)).await.ok()?;
        found.ok().flatten().map(SubmitOutcome::AlreadyCommitted)
    }

    /// Committed batches; waits for the first one that is not there yet.
    pub(super) async fn log(&self, query: LogQuery) -> Result<BatchRange, ArchiveError> {
        if let LogQuery::FromSequence { sequence, wait_ms, .. } = query {
            let mut head = self.shared.head.subscribe();
            let wait = Duration::from_millis(wait_ms).min(MAX_WAIT);
            let _ = tokio::time::timeout(wait, head.wait_for(|head| *head >= sequence)).await;
        }
        let archive = self.archive.clone();
        tokio::task::spawn_blocking(move || archive.batches(query)).await.unwrap_or(Ok(BatchRange { batches: vec![], head: 0 }))
    }

    /// Where the replica stands.
    pub(super) fn status(&self) -> ReplicaStatus {
        let core = self.shared.status.lock().clone();
        let net = self.net.get().and_then(Weak::upgrade);
        ReplicaStatus {
            peer: self.peer.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            federation_id: self.federation.id(),
            epoch: 0,
            view: core.view,
            role: core.role,
            slot: core.slot,
            sequence: core.sequence,
            stable_slot: core.stable_slot,
            log_root: core.log_root,
            suspect: self.report.suspect.clone().filter(|_| core.role == Role::Suspect),
            pending: core.pending,
            connected: net.map_or(0, |net| u32::try_from(net.connected().len()).unwrap_or(u32::MAX)),
            view_changes: core.view_changes,
            // What was found a moment ago may not be in the log yet.
            evidence: self.archive.count_evidence().unwrap_or(0).max(core.evidence),
            refused: core.refused + self.shared.counters.refused.load(Ordering::Relaxed),
            replayed: self.report.replayed,
            recovery_millis: self.report.millis,
            http: self.http.get().cloned(),
            journal_syncs: self.shared.counters.journal_syncs.load(Ordering::Relaxed),
        }
    }

    pub(super) fn problem(&self, error: &impl ToString) -> FederationError {
        FederationError::Answer { replica: self.peer.to_string(), problem: error.to_string() }
    }

    async fn answer(&self, caller: Caller, request: Request) -> Response {
        match request {
            Request::Submit(submission) => match caller {
                Caller::Client { can_submit: true, .. } => Response::Submitted(self.submit(submission).await),
                _ => Response::Refused("this key may read, not submit: the genesis names it as no author".into()),
            },
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Log(query) => match self.log(query).await {
                Ok(range) => Response::Log(range),
                Err(error) => refused(&error),
            },
            Request::Evidence => self.read(|archive| archive.evidence().map(Response::Evidence)).await,
            Request::Consistency(query) => self.read(move |archive| Ok(Response::Consistency(archive.consistency(query)?.map(Box::new)))).await,
            Request::Proof(query) => self.read(move |archive| Ok(Response::Proof(archive.proof(&query)?.map(Box::new)))).await,
            Request::Cosignature(query) => {
                Response::Cosignature(self.published.own(query.size, Duration::from_millis(query.wait_ms).min(MAX_WAIT)).await)
            }
            Request::Checkpoint => Response::Checkpoint(self.published.newest().map(|newest| Box::new(PublishedCheckpoint::clone(&newest)))),
            Request::PublishedProof(query) => match self.published.newest() {
                Some(newest) => self.read(move |archive| archive.published_proof(&query, &newest)).await,
                None => Response::Refused(format!("no checkpoint was published yet: one is every {} slots", self.checkpoint_slots())),
            },
        }
    }

    fn checkpoint_slots(&self) -> u64 {
        self.federation.parameters().checkpoint_slots
    }

    /// Reads what is committed, on a thread that may wait for the disk.
    async fn read(&self, read: impl FnOnce(&Archive) -> Result<Response, ArchiveError> + Send + 'static) -> Response {
        let archive = self.archive.clone();
        match tokio::task::spawn_blocking(move || read(&archive)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => refused(&error),
            Err(_) => Response::Refused("the replica is stopping".into()),
        }
    }
}

/// Damage is never served, and never silent.
fn refused(error: &ArchiveError) -> Response {
    tracing::error!(%error, "a request met damage");
    Response::Refused(format!("this replica cannot serve that: {error}; ask another one"))
}

/// Forgets a ticket when its client goes away.
struct Forget<'a> {
    shared: &'a Shared,
    ticket: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.tickets.forget(self.ticket);
    }
}

/// The service as the transport sees it.
pub(super) struct Answering(pub(super) Arc<Service>);

impl RequestHandler for Answering {
    fn handle(&self, caller: Caller, request: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        let service = self.0.clone();
        Box::pin(async move {
            let response = match decode::<Request>(&request) {
                Ok(request) => service.answer(caller, request).await,
                Err(error) => Response::Refused(format!("not a request: {error}")),
            };
            let encoded = encode(&response).or_else(|e| encode(&Response::Refused(e.to_string())));
            encoded.map(Bytes::from).unwrap_or_default()
        })
    }
}
