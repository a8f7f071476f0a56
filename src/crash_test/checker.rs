//! The check: every replica's log is read from that replica, verified against the genesis and compared; every acknowledgement is looked up; every
//! journal is searched for statements that contradict each other. Each call looks at what is new; a fresh checker looks at everything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::acks::Ack;
use super::error::CrashTestError;
use super::finding::{Findings, Wrong};
use super::reference::Reference;
use super::schedule::Dice;
use super::signed::SignedLedger;
use crate::client::Client;
use crate::consensus::Record;
use crate::crypto::Digest;
use crate::error::FederationError;
use crate::journal::{JournalError, JournalOptions, JournalReader, StreamKind};
use crate::process;
use crate::proof::CommitProof;
use crate::proof::chain::{AuthorSignatures, ChainVerifier, check_batch};
use crate::types::{BatchRange, CommittedBatch, Federation, LogQuery, ProofQuery, Request, Response, Sequence};

/// How long replicas may take to reach what the federation committed.
pub(crate) const AGREE_LIMIT: Duration = Duration::from_secs(60);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// About how many bytes of batches one answer holds.
const ANSWER_BYTES: u64 = 4 << 20;
/// How many proofs a replica is asked for in each cycle.
const PROOFS: usize = 4;
/// How far back in the journal a slot may be written again after later ones: more than the window of slots.
const REWRITTEN_SLOTS: u64 = 1_024;

/// How far one replica was followed.
struct Follower {
    chain: ChainVerifier,
    /// The last journal records read: of the segments, and of the votes.
    segments_lsn: u64,
    votes_lsn: u64,
    highest_tag: u64,
    /// Its log went another way; nothing more is read from it.
    astray: bool,
}

/// Follows every replica's log and journal.
pub(crate) struct Checker {
    dir: PathBuf,
    federation: Arc<Federation>,
    followers: Vec<Follower>,
    reference: Reference,
    signed: SignedLedger,
}

impl Checker {
    /// Begins before the first slot. `dir` holds the federation.
    pub(crate) fn new(dir: PathBuf, federation: Arc<Federation>) -> Self {
        let follower = |_| Follower { chain: ChainVerifier::genesis(), segments_lsn: 0, votes_lsn: 0, highest_tag: 0, astray: false };
        let followers = (0..federation.size()).map(follower).collect();
        Self { dir, federation, followers, reference: Reference::default(), signed: SignedLedger::default() }
    }

    /// Where the reading of a replica's log ended, and its root there.
    pub(crate) fn end_of(&self, replica: usize) -> Option<(Sequence, Digest)> {
        self.followers.get(replica).map(|follower| (follower.chain.sequence(), follower.chain.log_root()))
    }

    /// Reads every replica's log up to `target`, which the federation has committed; waits for replicas that are behind.
    pub(crate) async fn follow_all(&mut self, client: &Client, target: Sequence, findings: &mut Findings) -> Result<(), CrashTestError> {
        let until = Instant::now() + AGREE_LIMIT;
        for replica in 0..self.followers.len() {
            self.follow(client, replica, target, until, findings).await?;
        }
        for (replica, status) in client.status().await.into_iter().enumerate() {
            let status = status.map_err(|error| CrashTestError::Answer { peer: process::name(replica), error })?;
            if status.evidence > 0 {
                findings.add(Wrong::SignedTwice, format!("{} holds evidence of {} contradictory statements", status.peer, status.evidence));
            }
        }
        Ok(())
    }

    async fn follow(
        &mut self,
        client: &Client,
        replica: usize,
        target: Sequence,
        until: Instant,
        findings: &mut Findings,
    ) -> Result<(), CrashTestError> {
        while let Some(next) = self.next_of(replica).filter(|next| *next <= target) {
            let query = LogQuery::FromSequence { sequence: next, max_bytes: ANSWER_BYTES, wait_ms: 500 };
            let found = match client.ask(replica, &Request::Log(query), ANSWER_LIMIT).await {
                Ok(Response::Log(BatchRange { batches, head })) => {
                    tokio::task::block_in_place(|| self.take(replica, &batches, findings));
                    format!("{} at {head}", process::name(replica))
                }
                Ok(_) => format!("{} gave another answer than batches", process::name(replica)),
                Err(error) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    error.to_string()
                }
            };
            if Instant::now() > until {
                return Err(CrashTestError::NoAgreement { expected: target, seconds: AGREE_LIMIT.as_secs(), found });
            }
        }
        Ok(())
    }

    /// The next sequence number wanted of a replica; `None` once its log went astray.
    fn next_of(&self, replica: usize) -> Option<Sequence> {
        self.followers.get(replica).filter(|follower| !follower.astray).map(|follower| follower.chain.sequence() + 1)
    }

    /// Verifies batches of one replica and compares them with the others'.
    fn take(&mut self, replica: usize, batches: &[CommittedBatch], findings: &mut Findings) {
        let (federation, reference) = (&self.federation, &self.reference);
        let whose = process::name(replica);
        let Some(follower) = self.followers.get_mut(replica) else { return };
        let check = |batch: &CommittedBatch| {
            // Authors' signatures are under the header's digest, so one replica's batch vouches for another's.
            let known = reference.header(batch.header.slot).is_some_and(|known| known == batch.header.digest());
            check_batch(federation, batch, if known { AuthorSignatures::Skip } else { AuthorSignatures::Check })
        };
        let checked: Vec<_> = batches.par_iter().map(check).collect();
        for (batch, checked) in batches.iter().zip(checked) {
            let continued = checked.and_then(|checked| follower.chain.extend(&batch.header, &checked.leaf_hashes).map(|()| checked));
            match continued {
                Ok(checked) => {
                    self.reference.take(&batch.header, &checked.leaves, &checked.leaf_hashes, &whose, findings);
                    self.signed.note_commit(&self.federation, &batch.certificate, &whose, findings);
                }
                Err(error) => {
                    follower.astray = true;
                    findings.add(Wrong::Forked, format!("the log of {whose} does not continue what it showed before: {error}"));
                    return;
                }
            }
        }
    }

    /// Looks acknowledgements up; gives how many hold in every replica's log.
    pub(crate) fn look_up<'a>(&self, acks: impl IntoIterator<Item = &'a Ack>, findings: &mut Findings) -> u64 {
        acks.into_iter().map(|ack| u64::from(self.reference.holds(ack, findings))).sum()
    }

    /// Has every replica prove a few acknowledged updates from its own log and Merkle files.
    pub(crate) async fn prove_some(&self, client: &Client, acks: &[Ack], dice: &mut Dice, findings: &mut Findings) -> Result<(), CrashTestError> {
        for replica in 0..self.followers.len() {
            for _ in 0..PROOFS.min(acks.len()) {
                let at = usize::try_from(dice.below(acks.len() as u64)).unwrap_or(0);
                // What is lost was found already.
                let Some(ack) = acks.get(at).filter(|ack| self.reference.agrees(ack)) else { continue };
                let by_id = ProofQuery::Id { update_id: ack.update_id.clone(), author: None };
                let query = if dice.below(2) == 0 { ProofQuery::Sequence(ack.sequence) } else { by_id };
                let problem = match client.ask(replica, &Request::Proof(query), ANSWER_LIMIT).await {
                    Ok(Response::Proof(Some(answer))) => self.judge_proof(ack, CommitProof::from(*answer)),
                    Ok(Response::Proof(None)) => Some("it says there is none".to_owned()),
                    Ok(_) => Some("it gave another answer than a proof".to_owned()),
                    Err(FederationError::Answer { problem, .. }) => Some(problem),
                    Err(error) => return Err(CrashTestError::Answer { peer: process::name(replica), error }),
                };
                if let Some(problem) = problem {
                    let what = format!("{} cannot prove update {} at sequence {}: {problem}", process::name(replica), ack.update_id, ack.sequence);
                    findings.add(Wrong::Unproven, what);
                }
            }
        }
        Ok(())
    }

    fn judge_proof(&self, ack: &Ack, proof: CommitProof) -> Option<String> {
        match proof.verify(&self.federation) {
            Ok(_) if Ack::of(&proof) == *ack => None,
            Ok(_) => Some("its proof is of another update or batch".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Searches what every journal holds beyond what was read before, of running replicas too.
    pub(crate) fn search_journals(&mut self, findings: &mut Findings) -> Result<(), CrashTestError> {
        for replica in 0..self.followers.len() {
            let peer = process::name(replica);
            self.search_journal(replica, &peer, findings).map_err(|error| CrashTestError::Journal { peer, error })?;
        }
        Ok(())
    }

    fn search_journal(&mut self, replica: usize, whose: &str, findings: &mut Findings) -> Result<(), JournalError> {
        let Self { dir, federation, followers, signed, .. } = self;
        let Some(follower) = followers.get_mut(replica) else { return Ok(()) };
        let journal = dir.join(whose).join("data").join("journal");
        let reader = JournalReader::open(&journal, Some(federation.id().0.0), &JournalOptions::default())?;
        let votes = reader.votes();
        for damage in &votes.damage {
            findings.add(Wrong::Damaged, format!("{whose}: {damage}"));
        }
        let base = follower.highest_tag.checked_sub(REWRITTEN_SLOTS);
        for frame in votes.frames.into_iter().map(Ok).chain(reader.segments_from(base)) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(JournalError::Damage(damage)) => {
                    findings.add(Wrong::Damaged, format!("{whose}: {damage}"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let read = match frame.stream {
                StreamKind::Votes => &mut follower.votes_lsn,
                StreamKind::Segments => &mut follower.segments_lsn,
            };
            if frame.lsn <= *read {
                continue;
            }
            *read = frame.lsn;
            follower.highest_tag = follower.highest_tag.max(frame.tag);
            match Record::from_frame(federation, frame.kind, &frame.payload) {
                Ok(record) => signed.note_record(federation, &record, whose, findings),
                Err(error) => findings.add(Wrong::Damaged, format!("{whose}: journal record {}: {error}", frame.lsn)),
            }
        }
        Ok(())
    }
}
