//! The gate before the core: stateless checks, run in parallel outside the core's thread.
//!
//! [`Verified`] can only be made here, so nothing unchecked reaches the core. Cheap checks (place, sender, window) come before signatures.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::crypto::{Digest, Signature};
use crate::planted::{Bug, on};
use crate::types::{
    BatchKind, Body, BodyDigests, CertificateError, CheckpointCertificate, CommitCertificate, CommittedBatch, ConsensusMessage, Convicted, Epoch,
    Evidence, EvidenceError, Federation, FetchBody, Header, MAX_EVIDENCE_BYTES, NewView, PreparedCertificate, Rejoin, RejoinAnswer, ReplicaIndex,
    Sequence, SignedCheckpoint, SignedComplaint, SignedProposal, SignedVote, Slot, Status, Submission, SubmissionDigests, UpdateIdError, View,
    ViewChange, encode,
};

/// A value whose signatures and digests were checked.
#[derive(Debug, Clone)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// A submission with its digests, its author's signature checked.
#[derive(Debug, Clone)]
pub struct CheckedSubmission {
    /// The submission.
    pub submission: Arc<Submission>,
    /// Its digests.
    pub digests: Arc<SubmissionDigests>,
}

/// A body with its digests and leaf hashes, which follow from the header's first sequence number.
#[derive(Debug, Clone)]
pub struct CheckedBody {
    /// The body.
    pub body: Arc<Body>,
    /// Its digests.
    pub digests: Arc<BodyDigests>,
    /// The leaf hash of each update.
    pub leaf_hashes: Arc<Vec<Digest>>,
}

impl CheckedBody {
    /// Computes what belongs to a body; checks nothing.
    #[must_use]
    pub fn compute(federation: &Federation, body: Arc<Body>, first_sequence: Sequence) -> Self {
        let digests = body.digests(federation.id());
        Self::with_digests(body, digests, first_sequence)
    }

    /// The same with the payloads already hashed.
    #[must_use]
    pub fn with_digests(body: Arc<Body>, digests: BodyDigests, first_sequence: Sequence) -> Self {
        let leaf_hashes = body.leaves(&digests, first_sequence).iter().map(crate::types::Leaf::hash).collect();
        Self { body, digests: Arc::new(digests), leaf_hashes: Arc::new(leaf_hashes) }
    }
}

/// A proposal whose leader's signature, body digest, authors and limits were checked.
#[derive(Debug, Clone)]
pub struct CheckedProposal {
    /// The view it is proposed in.
    pub view: View,
    /// The header.
    pub header: Header,
    /// The header's digest.
    pub digest: Digest,
    /// The leader's signature.
    pub signature: Signature,
    /// The body.
    pub body: CheckedBody,
}

/// A committed batch whose certificate and body digest were checked.
#[derive(Debug, Clone)]
pub struct CheckedBatch {
    /// The header.
    pub header: Header,
    /// The body.
    pub body: CheckedBody,
    /// The quorum's commits.
    pub certificate: CommitCertificate,
}

/// A checked message.
#[derive(Debug, Clone)]
pub enum Checked {
    /// From the leader of the view it names.
    Proposal(Arc<CheckedProposal>),
    /// A Prepare or Commit of its sender.
    Vote(SignedVote),
    /// A checkpoint of its sender.
    Checkpoint(SignedCheckpoint),
    /// A stable checkpoint.
    Stable(CheckpointCertificate),
    /// A complaint of its sender.
    Complaint(SignedComplaint),
    /// A view-change of its signer.
    ViewChange(Arc<ViewChange>),
    /// A new-view of its view's leader.
    NewView(Arc<NewView>),
    /// Where the sender says it stands.
    Status(Status),
    /// A forwarded submission.
    Forward(CheckedSubmission),
    /// A body is wanted.
    FetchBody(FetchBody),
    /// A body that fits its header.
    Body(Header, CheckedBody),
    /// Statements that convict a member.
    Evidence(Box<Convicted>),
    /// The sender forgot its votes.
    Rejoin(Rejoin),
    /// Where the sender stands.
    RejoinAnswer(RejoinAnswer),
}

/// Why a message did not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It names an epoch, federation or membership that is not ours.
    #[error("a statement of another epoch, federation or membership")]
    Foreign,
    /// It is outside the window of slots or views in progress.
    #[error("slot {slot} is outside {low}..={high}")]
    OutsideWindow {
        /// The slot named.
        slot: Slot,
        /// The lowest slot in progress.
        low: Slot,
        /// The highest.
        high: Slot,
    },
    /// Signed by someone else than who sent it, or not by the leader of its view.
    #[error("signed by member {signer}, expected member {expected}")]
    WrongSender {
        /// Whose signature it should carry.
        expected: ReplicaIndex,
        /// Whose it carries.
        signer: ReplicaIndex,
    },
    /// A signature does not verify.
    #[error("a signature of member {0} does not verify")]
    BadSignature(ReplicaIndex),
    /// A certificate is no quorum.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The submission's author is not admitted.
    #[error("the author is not admitted by the genesis")]
    UnknownAuthor,
    /// The author's signature does not verify.
    #[error("the author's signature does not verify")]
    BadAuthorSignature,
    /// An update id out of bounds.
    #[error(transparent)]
    UpdateId(#[from] UpdateIdError),
    /// More of something than the parameters allow.
    #[error("{what} is {actual}, allowed is 1 to {limit}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The most allowed.
        limit: u64,
        /// What was found.
        actual: u64,
    },
    /// One update id twice in a submission.
    #[error("update id {0:?} stands twice in one submission")]
    RepeatedId(crate::types::UpdateId),
    /// The header's fields contradict the body.
    #[error("the header does not describe its body")]
    BodyMismatch,
    /// A submission may not stand in a batch of this timestamp.
    #[error("not_after {not_after} is outside the batch's {timestamp} to {latest}")]
    Lifetime {
        /// The submission's `not_after`.
        not_after: u64,
        /// The header's timestamp.
        timestamp: u64,
        /// The latest `not_after` a batch of that time may hold.
        latest: u64,
    },
    /// A view-change or new-view that contradicts itself.
    #[error("a view change that contradicts itself")]
    BadViewChange,
    /// Evidence that proves nothing.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
}

/// The highest slot, sequence number, view or timestamp that is believed: out of reach for any real history, and far from overflow.
const MAX_NUMBER: u64 = 1 << 56;

/// Submissions whose signature was checked lately, in two generations: each is checked once, whether it comes by client, forward or proposal.
#[derive(Default)]
struct Seen {
    young: HashSet<(Digest, Signature)>,
    old: HashSet<(Digest, Signature)>,
}

impl Seen {
    const GENERATION: usize = 32_768;

    fn contains(&self, key: &(Digest, Signature)) -> bool {
        self.young.contains(key) || self.old.contains(key)
    }

    fn insert(&mut self, key: (Digest, Signature)) {
        if self.young.len() >= Self::GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

/// The stateless checks of one federation, and the little state that spares work: the window in progress and submissions seen.
pub struct Verifier {
    federation: Arc<Federation>,
    view: AtomicU64,
    floor: AtomicU64,
    stable: AtomicU64,
    seen: Mutex<Seen>,
    /// The last view-change of each member that verified: they are repeated with every gossip, and come again inside new-views.
    changes: Mutex<BTreeMap<ReplicaIndex, ViewChange>>,
}

impl Verifier {
    /// A verifier for a federation.
    #[must_use]
    pub fn new(federation: Arc<Federation>) -> Self {
        Self {
            federation,
            view: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            stable: AtomicU64::new(0),
            seen: Mutex::default(),
            changes: Mutex::default(),
        }
    }

    /// Tells it what is in progress, so that stale messages are dropped before their signature is checked.
    pub fn set_window(&self, view: View, floor: Slot, stable: Slot) {
        self.view.store(view, Ordering::Relaxed);
        self.floor.store(floor, Ordering::Relaxed);
        self.stable.store(stable, Ordering::Relaxed);
    }

    /// Checks a message that came from a member.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn message(&self, from: ReplicaIndex, message: ConsensusMessage) -> Result<Verified<Checked>, Refusal> {
        let checked = match message {
            ConsensusMessage::PrePrepare(proposal) => Checked::Proposal(Arc::new(self.proposal(proposal)?)),
            ConsensusMessage::Vote(vote) => Checked::Vote(self.vote(from, vote)?),
            ConsensusMessage::Checkpoint(checkpoint) => Checked::Checkpoint(self.checkpoint(from, checkpoint)?),
            ConsensusMessage::Stable(certificate) => {
                if certificate.checkpoint.slot <= self.stable.load(Ordering::Relaxed) {
                    return Err(self.outside(certificate.checkpoint.slot));
                }
                certificate.verify(&self.federation).or_else(unless(Bug::StableUnchecked))?;
                Checked::Stable(certificate)
            }
            ConsensusMessage::Complaint(complaint) => Checked::Complaint(self.complaint(from, complaint)?),
            ConsensusMessage::ViewChange(change) => {
                self.view_change(&change)?;
                Checked::ViewChange(change)
            }
            ConsensusMessage::NewView(new_view) => {
                self.new_view(&new_view)?;
                Checked::NewView(new_view)
            }
            ConsensusMessage::Status(status) => {
                Self::believable(status.epoch, &[status.view, status.committed, status.accepted, status.stable])?;
                Checked::Status(status)
            }
            ConsensusMessage::Forward(submission) => Checked::Forward(self.submission(submission)?.into_inner()),
            ConsensusMessage::FetchBody(fetch) => Checked::FetchBody(fetch),
            ConsensusMessage::Body(header, body) => {
                self.header_fields(&header)?;
                Checked::Body(header.clone(), self.body_of(&header, body)?)
            }
            ConsensusMessage::Evidence(evidence) => Checked::Evidence(Box::new(self.evidence(*evidence)?)),
            ConsensusMessage::Rejoin(rejoin) => {
                Self::believable(rejoin.epoch, &[rejoin.view])?;
                Checked::Rejoin(rejoin)
            }
            ConsensusMessage::RejoinAnswer(answer) => {
                Self::believable(answer.epoch, &[answer.view, answer.committed])?;
                Checked::RejoinAnswer(answer)
            }
        };
        Ok(Verified(checked))
    }

    /// Checks a submission: limits, author, signature.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn submission(&self, submission: Arc<Submission>) -> Result<Verified<CheckedSubmission>, Refusal> {
        self.submission_limits(&submission)?;
        let digests = Arc::new(submission.digests(self.federation.id()));
        self.author(&submission, &digests)?;
        Ok(Verified(CheckedSubmission { submission, digests }))
    }

    /// Checks a committed batch by itself: certificate, body digest and count. The quorum vouches for the rest.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn batch(&self, batch: CommittedBatch) -> Result<Verified<CheckedBatch>, Refusal> {
        self.header_fields(&batch.header)?;
        batch.certificate.verify(&self.federation, &batch.header).or_else(unless(Bug::CatchUpUnchecked))?;
        let body = self.body_of(&batch.header, batch.body)?;
        Ok(Verified(CheckedBatch { header: batch.header, body, certificate: batch.certificate }))
    }

    /// What is unsigned is at least of this epoch, and its numbers cannot overflow anything.
    fn believable(epoch: Epoch, numbers: &[u64]) -> Result<(), Refusal> {
        if epoch == 0 && numbers.iter().all(|n| *n <= MAX_NUMBER) { Ok(()) } else { Err(Refusal::Foreign) }
    }

    fn outside(&self, slot: Slot) -> Refusal {
        let high = self.stable.load(Ordering::Relaxed).saturating_add(self.federation.parameters().window_slots);
        Refusal::OutsideWindow { slot, low: self.floor.load(Ordering::Relaxed) + 1, high }
    }

    /// A replica that lags may still need what others call far ahead, so the upper bound is generous; the core has the exact one.
    fn check_window(&self, slot: Slot) -> Result<(), Refusal> {
        let refusal = self.outside(slot);
        let Refusal::OutsideWindow { low, high, .. } = refusal else { return Ok(()) };
        if slot < low || slot > high && !on(Bug::WindowIgnored) { Err(refusal) } else { Ok(()) }
    }

    fn check_signature(&self, index: ReplicaIndex, bytes: &[u8], signature: &Signature) -> Result<(), Refusal> {
        let key = self.federation.consensus_key(index).ok_or(Refusal::BadSignature(index))?;
        key.verify(bytes, signature).map_err(|_| Refusal::BadSignature(index))
    }

    fn check_sender(expected: ReplicaIndex, signer: ReplicaIndex) -> Result<(), Refusal> {
        if expected == signer { Ok(()) } else { Err(Refusal::WrongSender { expected, signer }) }
    }

    fn header_fields(&self, header: &Header) -> Result<(), Refusal> {
        let federation = &self.federation;
        let ours = header.federation_id == federation.id()
            && header.epoch == 0
            && header.kind == BatchKind::Normal
            && header.membership_digest == federation.membership_digest()
            && [header.slot, header.first_sequence, header.timestamp].iter().all(|n| (1..=MAX_NUMBER).contains(n));
        if ours { Ok(()) } else { Err(Refusal::Foreign) }
    }

    fn vote(&self, from: ReplicaIndex, vote: SignedVote) -> Result<SignedVote, Refusal> {
        Self::check_sender(from, vote.replica).or_else(unless(Bug::VoteUnchecked))?;
        if vote.vote.epoch != 0 || vote.vote.view > MAX_NUMBER || vote.vote.view < self.view.load(Ordering::Relaxed) {
            return Err(Refusal::Foreign);
        }
        self.check_window(vote.vote.slot)?;
        self.check_signature(vote.replica, &vote.vote.signed_bytes(self.federation.id()), &vote.signature).or_else(unless(Bug::VoteUnchecked))?;
        Ok(vote)
    }

    fn checkpoint(&self, from: ReplicaIndex, signed: SignedCheckpoint) -> Result<SignedCheckpoint, Refusal> {
        Self::check_sender(from, signed.replica)?;
        if signed.checkpoint.epoch != 0 {
            return Err(Refusal::Foreign);
        }
        self.check_signature(signed.replica, &signed.checkpoint.signed_bytes(self.federation.id()), &signed.signature)?;
        Ok(signed)
    }

    fn complaint(&self, from: ReplicaIndex, signed: SignedComplaint) -> Result<SignedComplaint, Refusal> {
        Self::check_sender(from, signed.replica)?;
        if signed.complaint.epoch != 0 || signed.complaint.view > MAX_NUMBER || signed.complaint.view < self.view.load(Ordering::Relaxed) {
            return Err(Refusal::Foreign);
        }
        self.check_signature(signed.replica, &signed.complaint.signed_bytes(self.federation.id()), &signed.signature)?;
        Ok(signed)
    }

    fn proposal(&self, proposal: SignedProposal) -> Result<CheckedProposal, Refusal> {
        self.header_fields(&proposal.header)?;
        if proposal.view > MAX_NUMBER || proposal.view < self.view.load(Ordering::Relaxed) {
            return Err(Refusal::Foreign);
        }
        self.check_window(proposal.header.slot)?;
        let leader = self.federation.leader(proposal.view);
        self.check_signature(leader, &proposal.signed_bytes(self.federation.id()), &proposal.signature)?;
        let (view, digest) = (proposal.view, proposal.header.digest());
        let body = self.fresh_body(&proposal.header, proposal.body)?;
        Ok(CheckedProposal { view, header: proposal.header, digest, signature: proposal.signature, body })
    }

    /// The body of a fresh proposal: everything that can be said of it without the log.
    fn fresh_body(&self, header: &Header, body: Arc<Body>) -> Result<CheckedBody, Refusal> {
        let parameters = self.federation.parameters();
        let limit = |what, actual, limit| if (1..=limit).contains(&actual) { Ok(()) } else { Err(Refusal::Limit { what, limit, actual }) };
        limit("updates in the batch", body.count() as u64, parameters.max_batch_updates)?;
        limit("bytes of the batch", body.encoded_bytes(), parameters.max_batch_bytes)?;
        let latest = header.timestamp.saturating_add(parameters.max_lifetime_ms);
        for submission in &body.submissions {
            self.submission_limits(submission)?;
            let not_after = submission.not_after;
            if not_after < header.timestamp || not_after > latest {
                return Err(Refusal::Lifetime { not_after, timestamp: header.timestamp, latest });
            }
        }
        let checked = self.body_of(header, body)?;
        for (submission, digests) in checked.body.submissions.iter().zip(&checked.digests.submissions) {
            self.author(submission, digests)?;
        }
        Ok(checked)
    }

    /// A body that is the one its header names.
    fn body_of(&self, header: &Header, body: Arc<Body>) -> Result<CheckedBody, Refusal> {
        if header.count == 0 || body.count() as u64 != u64::from(header.count) {
            return Err(Refusal::BodyMismatch);
        }
        let checked = CheckedBody::compute(&self.federation, body, header.first_sequence);
        if checked.digests.body == header.body_digest || on(Bug::BodyUnchecked) { Ok(checked) } else { Err(Refusal::BodyMismatch) }
    }

    fn submission_limits(&self, submission: &Submission) -> Result<(), Refusal> {
        let parameters = self.federation.parameters();
        let actual = submission.updates.len() as u64;
        if !(1..=parameters.max_submission_updates).contains(&actual) {
            return Err(Refusal::Limit { what: "updates in the submission", limit: parameters.max_submission_updates, actual });
        }
        let mut ids = HashSet::with_capacity(submission.updates.len());
        for submitted in &submission.updates {
            let update = &submitted.update;
            update.update_id.check()?;
            let actual = update.data.len() as u64;
            if actual > parameters.max_data_bytes {
                return Err(Refusal::Limit { what: "payload bytes", limit: parameters.max_data_bytes, actual });
            }
            if !ids.insert(&update.update_id) {
                return Err(Refusal::RepeatedId(update.update_id.clone()));
            }
        }
        let (limit, actual) = (parameters.max_batch_bytes - 8, submission.encoded_bytes());
        if actual > limit { Err(Refusal::Limit { what: "bytes of the submission", limit, actual }) } else { Ok(()) }
    }

    fn author(&self, submission: &Submission, digests: &SubmissionDigests) -> Result<(), Refusal> {
        let key = self.federation.author_key(&submission.author).ok_or(Refusal::UnknownAuthor)?;
        let seen = (digests.submission, submission.signature);
        if self.seen.lock().contains(&seen) {
            return Ok(());
        }
        let bytes = Submission::signed_bytes(self.federation.id(), &digests.submission);
        key.verify(&bytes, &submission.signature).map_err(|_| Refusal::BadAuthorSignature).or_else(unless(Bug::AuthorUnchecked))?;
        self.seen.lock().insert(seen);
        Ok(())
    }

    fn evidence(&self, evidence: Evidence) -> Result<Convicted, Refusal> {
        let (limit, actual) = (MAX_EVIDENCE_BYTES as u64, encode(&evidence).map_or(u64::MAX, |bytes| bytes.len() as u64));
        if actual > limit {
            return Err(Refusal::Limit { what: "bytes of evidence", limit, actual });
        }
        Ok(evidence.convict(&self.federation)?)
    }

    fn view_change(&self, change: &ViewChange) -> Result<(), Refusal> {
        if change.epoch != 0 || change.new_view > MAX_NUMBER || change.new_view < self.view.load(Ordering::Relaxed) {
            return Err(Refusal::Foreign);
        }
        self.known_change(change)
    }

    fn known_change(&self, change: &ViewChange) -> Result<(), Refusal> {
        if self.changes.lock().get(&change.replica) == Some(change) {
            return Ok(());
        }
        check_view_change(&self.federation, change)?;
        self.changes.lock().insert(change.replica, change.clone());
        Ok(())
    }

    fn new_view(&self, new_view: &NewView) -> Result<(), Refusal> {
        if new_view.epoch != 0 || new_view.view > MAX_NUMBER || new_view.view < self.view.load(Ordering::Relaxed) {
            return Err(Refusal::Foreign);
        }
        let leader = self.federation.leader(new_view.view);
        let quorum = self.federation.quorum();
        let changes = &new_view.view_changes;
        if changes.len() < quorum && !on(Bug::NewViewUnchecked) || changes.len() > self.federation.size() {
            return Err(CertificateError::NoQuorum { needed: quorum, actual: changes.len() }.into());
        }
        let ascending = changes.windows(2).all(|pair| pair[0].replica < pair[1].replica);
        if !ascending || changes.iter().any(|vc| vc.new_view != new_view.view || vc.epoch != 0) {
            return Err(Refusal::BadViewChange);
        }
        self.check_signature(leader, &new_view.signed_bytes(self.federation.id()), &new_view.signature)?;
        changes.iter().try_for_each(|vc| self.known_change(vc)).or_else(unless(Bug::NewViewUnchecked))
    }
}

/// Lets an error pass if a bug is planted.
fn unless<E>(bug: Bug) -> impl FnOnce(E) -> Result<(), E> {
    move |error| if on(bug) { Ok(()) } else { Err(error) }
}

/// A view-change whose every part verifies: its signature, its checkpoint, each certificate (before any of them replaces another).
fn check_view_change(federation: &Federation, change: &ViewChange) -> Result<(), Refusal> {
    let key = federation.consensus_key(change.replica).ok_or(Refusal::BadSignature(change.replica))?;
    let (low, window) = (change.stable_slot(), federation.parameters().window_slots);
    let place = |certificate: &PreparedCertificate| {
        certificate.header.slot > low && certificate.header.slot - low <= window && certificate.view < change.new_view
    };
    let ascending = change.prepared.windows(2).all(|pair| pair[0].header.slot < pair[1].header.slot);
    if !ascending || !change.prepared.iter().all(place) {
        return Err(Refusal::BadViewChange);
    }
    key.verify(&change.signed_bytes(federation.id()), &change.signature).map_err(|_| Refusal::BadSignature(change.replica))?;
    if let Some(stable) = &change.stable {
        stable.verify(federation)?;
    }
    change.prepared.iter().try_for_each(|certificate| certificate.verify(federation)).map_err(Refusal::from)
}
