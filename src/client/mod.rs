//! A client of a federation: it signs, asks one replica after another, and believes nothing that it has not verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::config::{ClientOptions, LoadedClient};
use crate::crypto::SigningKey;
use crate::error::FederationError;
use crate::net::{ClientConnection, NetOptions};
use crate::proof::chain::{AuthorSignatures, check_batch};
use crate::proof::{CommitProof, ConsistencyProof, TlogProof, verify_receipt};
use crate::types::{
    BatchRange, CommittedBatch, ConsistencyQuery, Evidence, Federation, LogQuery, MAX_FRAME_BYTES, ProofQuery, PublishedCheckpoint, ReplicaStatus,
    Request, Response, Sequence, StateUpdate, Submission, SubmitOutcome, TimestampMs, UpdateId, decode, encode,
};

/// What became of a submission, as far as it could be verified.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Committed: each update's proof, verified.
    Committed(Vec<CommitProof>),
    /// These ids were committed before with other payloads, or apart from the rest. f+1 replicas say so.
    Conflict(Vec<UpdateId>),
    /// `not_after` passed without a commit. f+1 replicas say so.
    Expired,
    /// It breaks a rule. f+1 replicas say so.
    Rejected(String),
    /// Nobody could tell before `not_after` passed. It may have been committed: ask by update id.
    Unknown(String),
}

/// A client of one federation. Cheap to share.
pub struct Client {
    federation: Arc<Federation>,
    addresses: Vec<String>,
    key: SigningKey,
    options: ClientOptions,
    net: NetOptions,
    connections: Vec<tokio::sync::Mutex<Option<Arc<ClientConnection>>>>,
    /// The replica that served last.
    preferred: AtomicUsize,
}

impl Client {
    /// A client with this configuration; it connects when it is asked something.
    #[must_use]
    pub fn new(loaded: LoadedClient) -> Self {
        let LoadedClient { federation, key, options, net } = loaded;
        let connections = federation.addresses.iter().map(|_| tokio::sync::Mutex::new(None)).collect();
        Self { federation: federation.federation, addresses: federation.addresses, key, options, net, connections, preferred: AtomicUsize::new(0) }
    }

    /// The federation.
    #[must_use]
    pub fn federation(&self) -> &Arc<Federation> {
        &self.federation
    }

    /// The client's options.
    #[must_use]
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// A replica's label.
    fn label(&self, replica: usize) -> String {
        self.federation.members().get(replica).map_or_else(|| replica.to_string(), |m| m.peer.to_string())
    }

    async fn connection(&self, replica: usize, timeout: Duration) -> Result<Arc<ClientConnection>, FederationError> {
        let unknown = || FederationError::Stopped(format!("no replica {replica}"));
        let (slot, address) = self.connections.get(replica).zip(self.addresses.get(replica)).ok_or_else(unknown)?;
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(open.clone());
        }
        let index = u16::try_from(replica).map_err(|_| unknown())?;
        let connecting = ClientConnection::connect(&self.federation, &self.key, index, address, &self.net);
        let late = || FederationError::Answer { replica: self.label(replica), problem: "no connection in time".into() };
        let connection = Arc::new(tokio::time::timeout(timeout, connecting).await.map_err(|_| late())??);
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// Asks one replica.
    ///
    /// # Errors
    /// [`FederationError`]; a refusal is [`FederationError::Answer`].
    pub async fn ask(&self, replica: usize, request: &Request, timeout: Duration) -> Result<Response, FederationError> {
        let connection = self.connection(replica, timeout).await?;
        let bytes = connection.request(Bytes::from(encode(request)?), timeout, MAX_FRAME_BYTES).await?;
        match decode::<Response>(&bytes)? {
            Response::Refused(problem) => Err(FederationError::Answer { replica: self.label(replica), problem }),
            response => Ok(response),
        }
    }

    /// Forgets a connection that did not answer in time, so that the next question begins with a new one.
    async fn drop_connection(&self, replica: usize) {
        if let Some(slot) = self.connections.get(replica) {
            *slot.lock().await = None;
        }
    }

    fn wrong(&self, replica: usize, problem: impl Into<String>) -> FederationError {
        FederationError::Answer { replica: self.label(replica), problem: problem.into() }
    }

    /// Where every replica stands, or why it does not say.
    pub async fn status(&self) -> Vec<Result<ReplicaStatus, FederationError>> {
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms);
        let mut all = Vec::new();
        for replica in 0..self.addresses.len() {
            let answer = self.ask(replica, &Request::Status, timeout).await;
            all.push(match answer {
                Ok(Response::Status(status)) => Ok(*status),
                Ok(_) => Err(self.wrong(replica, "another answer than a status")),
                Err(error) => {
                    self.drop_connection(replica).await;
                    Err(error)
                }
            });
        }
        all
    }

    /// Asks replicas in turn, from the one that served last, until `judge` accepts an answer.
    async fn ask_any<T>(
        &self,
        request: &Request,
        timeout: Duration,
        judge: impl Fn(usize, Response) -> Result<T, FederationError>,
    ) -> Result<T, FederationError> {
        let n = self.addresses.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for replica in (0..n).map(|i| (first + i) % n) {
            match self.ask(replica, request, timeout).await.and_then(|response| judge(replica, response)) {
                Ok(accepted) => {
                    self.preferred.store(replica, Ordering::Relaxed);
                    return Ok(accepted);
                }
                Err(error) => {
                    if !matches!(error, FederationError::Answer { .. }) {
                        self.drop_connection(replica).await;
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| FederationError::Stopped("the federation has no addresses".into())))
    }

    /// Committed batches from the one that holds `sequence` on, each verified against the genesis, and where the log ends by that replica's word.
    ///
    /// # Errors
    /// [`FederationError`] if no replica gives batches that verify.
    pub async fn read(&self, sequence: Sequence, max_bytes: u64, wait: Duration) -> Result<BatchRange, FederationError> {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Log(LogQuery::FromSequence { sequence, max_bytes, wait_ms });
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms) + wait;
        self.ask_any(&request, timeout, |replica, response| {
            let Response::Log(range) = response else { return Err(self.wrong(replica, "another answer than batches")) };
            self.check_range(replica, sequence, &range.batches)?;
            Ok(range)
        })
        .await
    }

    fn check_range(&self, replica: usize, sequence: Sequence, batches: &[CommittedBatch]) -> Result<(), FederationError> {
        let mut next = sequence;
        for batch in batches {
            check_batch(&self.federation, batch, AuthorSignatures::Check).map_err(|e| self.wrong(replica, e.to_string()))?;
            let (first, last) = (batch.header.first_sequence, batch.header.last_sequence());
            if first > next || last < next {
                return Err(self.wrong(replica, format!("batches with a gap before {next}")));
            }
            next = last + 1;
        }
        Ok(())
    }

    /// The verified proof of an update; `None` if no replica that answers has it.
    ///
    /// # Errors
    /// [`FederationError`] if no replica answers, or none gives a proof that verifies.
    pub async fn proof(&self, query: &ProofQuery) -> Result<Option<CommitProof>, FederationError> {
        let request = Request::Proof(query.clone());
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms);
        let found = self.ask_any(&request, timeout, |replica, response| {
            let Response::Proof(answer) = response else { return Err(self.wrong(replica, "another answer than a proof")) };
            let answer = answer.ok_or_else(|| self.wrong(replica, NOT_FOUND))?;
            let proof = CommitProof::from(*answer);
            proof.verify(&self.federation)?;
            if query.asks_for(&proof.leaf) { Ok(proof) } else { Err(self.wrong(replica, "the proof of another update")) }
        });
        found_or_none(found.await)
    }

    /// The verified proof that the log after the batch that holds one sequence number is the beginning of the log after a later one, or of the log
    /// as the replica has it; `None` if no replica that answers holds both.
    ///
    /// # Errors
    /// [`FederationError`] if no replica answers, or none gives a proof that verifies.
    pub async fn consistency(&self, query: ConsistencyQuery) -> Result<Option<ConsistencyProof>, FederationError> {
        let request = Request::Consistency(query);
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms);
        let found = self.ask_any(&request, timeout, |replica, response| {
            let Response::Consistency(answer) = response else { return Err(self.wrong(replica, "another answer than a consistency proof")) };
            let proof = ConsistencyProof::from(*answer.ok_or_else(|| self.wrong(replica, NOT_FOUND))?);
            proof.verify(&self.federation)?;
            let new = &proof.header;
            let asked = proof.old_size >= query.old && query.new.is_none_or(|asked| (new.first_sequence..=new.last_sequence()).contains(&asked));
            if asked { Ok(proof) } else { Err(self.wrong(replica, "the proof of other logs")) }
        });
        found_or_none(found.await)
    }

    /// The newest checkpoint that a replica published, verified: of the first replica that answers with one; `None` if none has one.
    ///
    /// # Errors
    /// [`FederationError`] if no replica answers, or none gives a checkpoint that verifies.
    pub async fn checkpoint(&self) -> Result<Option<PublishedCheckpoint>, FederationError> {
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms);
        let found = self.ask_any(&Request::Checkpoint, timeout, |replica, response| {
            let Response::Checkpoint(answer) = response else { return Err(self.wrong(replica, "another answer than a checkpoint")) };
            let checkpoint = *answer.ok_or_else(|| self.wrong(replica, NOT_FOUND))?;
            checkpoint.verify(&self.federation).map_err(|e| self.wrong(replica, e.to_string()))?;
            Ok(checkpoint)
        });
        found_or_none(found.await)
    }

    /// The verified proof of an update in a published checkpoint; `None` if no replica that answers has the update.
    ///
    /// # Errors
    /// [`FederationError`] if no replica answers, none has published a checkpoint that holds the update yet, or none gives a proof that verifies.
    pub async fn published_proof(&self, query: &ProofQuery) -> Result<Option<TlogProof>, FederationError> {
        let request = Request::PublishedProof(query.clone());
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms);
        let found = self.ask_any(&request, timeout, |replica, response| {
            let Response::PublishedProof(answer) = response else { return Err(self.wrong(replica, "another answer than a proof")) };
            let proof = TlogProof::from(*answer.ok_or_else(|| self.wrong(replica, NOT_FOUND))?);
            proof.verify(&self.federation).map_err(|e| self.wrong(replica, e.to_string()))?;
            if query.asks_for(&proof.leaf) { Ok(proof) } else { Err(self.wrong(replica, "the proof of another update")) }
        });
        found_or_none(found.await)
    }

    /// The evidence that each replica holds, verified; or why it does not say. What does not verify is an error of who sent it.
    pub async fn evidence(&self) -> Vec<Result<Vec<Evidence>, FederationError>> {
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms);
        let mut all = Vec::new();
        for replica in 0..self.addresses.len() {
            all.push(match self.ask(replica, &Request::Evidence, timeout).await {
                Ok(Response::Evidence(held)) => {
                    let false_one = held.iter().find_map(|evidence| evidence.verify(&self.federation).err());
                    false_one.map_or(Ok(held), |error| Err(self.wrong(replica, format!("evidence that proves nothing: {error}"))))
                }
                Ok(_) => Err(self.wrong(replica, "another answer than evidence")),
                Err(error) => {
                    self.drop_connection(replica).await;
                    Err(error)
                }
            });
        }
        all
    }

    /// Signs updates as one submission, valid for the configured lifetime.
    #[must_use]
    pub fn sign(&self, updates: Vec<StateUpdate>) -> Submission {
        let lifetime = self.options.lifetime_ms.min(self.federation.parameters().max_lifetime_ms * 9 / 10);
        Submission::sign(self.federation.id(), &self.key, wall_clock().saturating_add(lifetime), updates)
    }

    /// A new update id from the operating system's random source.
    ///
    /// # Errors
    /// [`FederationError::Key`].
    pub fn new_id() -> Result<UpdateId, FederationError> {
        let bytes = crate::crypto::random_bytes::<16>()?;
        Ok(UpdateId(data_encoding::HEXLOWER.encode(&bytes)))
    }

    /// Has a submission ordered: asks replica after replica until one proves the commit, f+1 refuse it alike, or `not_after` has passed.
    pub async fn submit(&self, submission: Submission) -> Outcome {
        let submission = Arc::new(submission);
        let request = Request::Submit(submission.clone());
        let timeout = Duration::from_millis(self.options.attempt_timeout_ms);
        let n = self.addresses.len();
        let mut replica = self.preferred.load(Ordering::Relaxed) % n.max(1);
        let (mut refusals, mut last) = (Refusals::default(), String::from("no replica answered"));
        while wall_clock() <= submission.not_after.saturating_add(self.federation.parameters().max_drift_ms) {
            let mut pause = Duration::from_millis(20);
            match self.ask(replica, &request, timeout).await {
                Ok(Response::Submitted(outcome)) => match self.judge(replica, &submission, outcome, &mut refusals).await {
                    Judged::Final(outcome) => {
                        self.preferred.store(replica, Ordering::Relaxed);
                        return outcome;
                    }
                    Judged::Again { after, why } => (pause, last) = (after, why),
                },
                Ok(_) => last = "another answer than an outcome".into(),
                Err(error) => {
                    if !matches!(error, FederationError::Answer { .. }) {
                        self.drop_connection(replica).await;
                    }
                    last = error.to_string();
                }
            }
            replica = (replica + 1) % n.max(1);
            self.preferred.store(replica, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
        }
        Outcome::Unknown(last)
    }

    async fn judge(&self, replica: usize, submission: &Submission, outcome: SubmitOutcome, refusals: &mut Refusals) -> Judged {
        let again = |after: u64, why: String| Judged::Again { after: Duration::from_millis(after), why };
        let weak = self.federation.weak_quorum();
        match outcome {
            SubmitOutcome::Committed(receipt) => match verify_receipt(&receipt, submission, &self.federation) {
                Ok(proofs) => Judged::Final(Outcome::Committed(proofs)),
                Err(error) => again(0, format!("{}: a receipt that does not verify: {error}", self.label(replica))),
            },
            SubmitOutcome::AlreadyCommitted(places) => match self.prove_places(submission, &places).await {
                Ok(proofs) => Judged::Final(Outcome::Committed(proofs)),
                Err(error) => again(50, error.to_string()),
            },
            SubmitOutcome::Conflict(ids) => match refusals.count(replica, "conflict") >= weak {
                true => Judged::Final(Outcome::Conflict(ids)),
                false => again(0, "a replica sees a conflict".into()),
            },
            SubmitOutcome::Expired { .. } => match refusals.count(replica, "expired") >= weak {
                true => Judged::Final(Outcome::Expired),
                false => again(0, "a replica says it expired".into()),
            },
            SubmitOutcome::Rejected(reason) => match refusals.count(replica, "rejected") >= weak {
                true => Judged::Final(Outcome::Rejected(reason)),
                false => again(0, reason),
            },
            SubmitOutcome::Busy { retry_after_ms } => again(retry_after_ms.min(5_000), "the replica is busy".into()),
            SubmitOutcome::Unknown { prepares, commits, needed } => {
                again(0, format!("not committed in time: {prepares} prepares and {commits} commits seen, {needed} needed"))
            }
        }
    }

    /// The proofs of updates that were committed before, in order; each must be of the same payload.
    async fn prove_places(&self, submission: &Submission, places: &[Sequence]) -> Result<Vec<CommitProof>, FederationError> {
        let mismatch = || FederationError::Answer { replica: "a replica".into(), problem: "says committed, and cannot prove it".into() };
        if places.len() != submission.updates.len() {
            return Err(mismatch());
        }
        let mut proofs = Vec::with_capacity(places.len());
        for (place, submitted) in places.iter().zip(&submission.updates) {
            let proof = self.proof(&ProofQuery::Sequence(*place)).await?.ok_or_else(mismatch)?;
            let leaf = &proof.leaf;
            let same =
                leaf.author == submission.author && leaf.update_id == submitted.update.update_id && leaf.data_digest == submitted.data_digest();
            if !same {
                return Err(mismatch());
            }
            proofs.push(proof);
        }
        Ok(proofs)
    }
}

/// That a replica does not have what was asked for is an answer.
fn found_or_none<T>(found: Result<T, FederationError>) -> Result<Option<T>, FederationError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(FederationError::Answer { problem, .. }) if problem == NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

const NOT_FOUND: &str = "no such update in this replica's log";

enum Judged {
    Final(Outcome),
    Again { after: Duration, why: String },
}

/// Which replicas refused, and how: f+1 alike include a correct one.
#[derive(Default)]
struct Refusals(std::collections::BTreeSet<(&'static str, usize)>);

impl Refusals {
    fn count(&mut self, replica: usize, kind: &'static str) -> usize {
        self.0.insert((kind, replica));
        self.0.iter().filter(|(k, _)| *k == kind).count()
    }
}

fn wall_clock() -> TimestampMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
