//! Reading what is committed: the log's rows, and the bodies that lie in segments.

use std::sync::Arc;

use crate::consensus::CheckedBody;
use crate::journal::JournalReader;
use crate::recovery::{BodyProblem, body_of};
use crate::store::{Damage, LogReader, StoreError, StoreReader, StoredBatch};
use crate::types::{
    BatchRange, CommittedBatch, ConsistencyAnswer, ConsistencyQuery, Evidence, Federation, LogQuery, ProofAnswer, ProofQuery, PublishedCheckpoint,
    PublishedProof, Response, Sequence, Submission,
};

/// Why something committed could not be read. Damage is named and never served.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The log.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A body.
    #[error("the body of slot {slot}: {problem}")]
    Body {
        /// Which.
        slot: u64,
        /// What is wrong.
        problem: BodyProblem,
    },
}

/// The committed history of one replica, for reading beside the writer.
#[derive(Clone)]
pub struct Archive<R = StoreReader> {
    federation: Arc<Federation>,
    rows: R,
    bodies: JournalReader,
    max_bytes: u64,
}

impl<R: LogReader> Archive<R> {
    /// A reader of a log and its journal. One answer holds about `max_bytes`.
    #[must_use]
    pub fn new(federation: Arc<Federation>, rows: R, bodies: JournalReader, max_bytes: u64) -> Self {
        Self { federation, rows, bodies, max_bytes }
    }

    /// The last sequence number.
    #[must_use]
    pub fn head(&self) -> Sequence {
        self.rows.head_sequence()
    }

    fn batch(&self, row: StoredBatch) -> Result<CommittedBatch, ArchiveError> {
        let body = body_of(&self.bodies, &row).map_err(|problem| ArchiveError::Body { slot: row.header.slot, problem })?;
        Ok(CommittedBatch { header: row.header, body, certificate: row.certificate })
    }

    /// The batches that a query asks for, from its start up to about its bytes; at least one if there is one.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn batches(&self, query: LogQuery) -> Result<BatchRange, ArchiveError> {
        let (first, max_bytes) = match query {
            LogQuery::FromSequence { sequence, max_bytes, .. } => (Some(sequence), max_bytes),
            LogQuery::FromSlot { slot, max_bytes } => (self.rows.row_at_slot(slot)?.map(|row| row.header.first_sequence), max_bytes),
        };
        let max_bytes = max_bytes.min(self.max_bytes);
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for row in first.into_iter().flat_map(|first| self.rows.rows_from_sequence(first)) {
            let batch = self.batch(row?)?;
            bytes += batch.body.encoded_bytes() + 1_024;
            if bytes > max_bytes && !batches.is_empty() {
                break;
            }
            batches.push(batch);
        }
        Ok(BatchRange { batches, head: self.head() })
    }

    /// The proof that a query asks for; `None` if the log holds no such update.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn proof(&self, query: &ProofQuery) -> Result<Option<ProofAnswer>, ArchiveError> {
        match query {
            ProofQuery::Sequence(sequence) => self.proof_at(*sequence, |_| true),
            ProofQuery::Id { update_id, author } => {
                for sequence in self.rows.lookup(update_id)? {
                    let found = self.proof_at(sequence, |leaf| leaf.update_id == *update_id && author.is_none_or(|a| a == leaf.author))?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            }
        }
    }

    /// That the log after the batch that holds one sequence number is the beginning of the log after a later one; `None` if this log does not hold both.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn consistency(&self, query: ConsistencyQuery) -> Result<Option<ConsistencyAnswer>, ArchiveError> {
        let new = query.new.unwrap_or_else(|| self.head());
        let (Some(old), Some(new)) = (self.rows.row_at_sequence(query.old)?, self.rows.row_at_sequence(new)?) else { return Ok(None) };
        if old.header.slot > new.header.slot {
            return Ok(None);
        }
        let path = self.rows.prove_consistency(&old.header, &new.header)?;
        let (old_size, old_root) = (old.header.last_sequence(), old.header.log_root);
        Ok(Some(ConsistencyAnswer { old_size, old_root, path, header: new.header, certificate: new.certificate }))
    }

    /// The proof that a query asks for, in a published checkpoint.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn published_proof(&self, query: &ProofQuery, checkpoint: &PublishedCheckpoint) -> Result<Response, ArchiveError> {
        let Some(ProofAnswer { leaf, .. }) = self.proof(query)? else { return Ok(Response::PublishedProof(None)) };
        let (sequence, size) = (leaf.sequence, checkpoint.size);
        if sequence > size {
            let every = self.federation.parameters().checkpoint_slots;
            let refusal = format!("entry {sequence} is not yet in a published checkpoint: the newest has {size} entries, one is every {every} slots");
            return Ok(Response::Refused(refusal));
        }
        let damaged = || StoreError::Damaged(Damage::Merkle { sequence: size });
        let end = self.rows.row_at_sequence(size)?.map(|row| row.header).filter(|header| header.last_sequence() == size);
        let end = end.filter(|header| header.log_root == checkpoint.root).ok_or_else(damaged)?;
        let path = self.rows.prove(sequence, leaf.hash(), &end)?;
        Ok(Response::PublishedProof(Some(Box::new(PublishedProof { leaf, path, checkpoint: checkpoint.clone() }))))
    }

    /// How many records of evidence there are; those of earlier runs too.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn count_evidence(&self) -> Result<u64, ArchiveError> {
        Ok(self.rows.count_evidence()?)
    }

    /// The evidence against members that contradicted themselves.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn evidence(&self) -> Result<Vec<Evidence>, ArchiveError> {
        Ok(self.rows.evidence()?)
    }

    fn proof_at(&self, sequence: Sequence, wanted: impl Fn(&crate::types::Leaf) -> bool) -> Result<Option<ProofAnswer>, ArchiveError> {
        let Some(row) = self.rows.row_at_sequence(sequence)? else { return Ok(None) };
        let batch = self.batch(row)?;
        let checked = CheckedBody::compute(&self.federation, batch.body.clone(), batch.header.first_sequence);
        let leaves = batch.body.leaves(&checked.digests, batch.header.first_sequence);
        let at = usize::try_from(sequence - batch.header.first_sequence).unwrap_or(usize::MAX);
        let update = batch.body.submissions.iter().flat_map(|s| &s.updates).nth(at);
        let (Some(leaf), Some(update)) = (leaves.into_iter().nth(at).filter(wanted), update) else { return Ok(None) };
        let path = self.rows.prove(sequence, leaf.hash(), &batch.header)?;
        let opening = Some((update.salt, update.update.data.clone()));
        Ok(Some(ProofAnswer { leaf, path, header: batch.header, certificate: batch.certificate, opening }))
    }

    /// Where every update of a submission was committed with the same payload, however long ago; `None` if one was not.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn committed_before(&self, submission: &Submission) -> Result<Option<Vec<Sequence>>, ArchiveError> {
        let mut places = Vec::new();
        for submitted in &submission.updates {
            let query = ProofQuery::Id { update_id: submitted.update.update_id.clone(), author: Some(submission.author) };
            match self.proof(&query)? {
                Some(answer) if answer.leaf.data_digest == submitted.data_digest() => places.push(answer.leaf.sequence),
                _ => return Ok(None),
            }
        }
        Ok(Some(places))
    }
}
