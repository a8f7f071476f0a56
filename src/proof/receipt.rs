//! Receipts: one certificate and a few hashes prove a whole submission to the author who still holds it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{CommitProof, Opening, ProofError, check_header};
use crate::crypto::{
    Digest,
    merkle::{self, Frontier, Nodes, Range, Tail, UnknownRange},
};
use crate::types::{CommitCertificate, Federation, Header, Leaf, Sequence, Submission, SubmissionReceipt};

/// Remembers the subtrees it was asked for: the paths of neighbours share most of theirs.
struct Remembered<N: Nodes> {
    source: N,
    known: RefCell<BTreeMap<(u64, u64), Digest>>,
}

impl<N: Nodes> Remembered<N> {
    fn new(source: N) -> Self {
        Self { source, known: RefCell::default() }
    }
}

impl<N: Nodes> Nodes for Remembered<N> {
    type Error = N::Error;

    fn subtree(&self, from: u64, to: u64) -> Result<Digest, N::Error> {
        if let Some(hash) = self.known.borrow().get(&(from, to)) {
            return Ok(*hash);
        }
        let hash = self.source.subtree(from, to)?;
        self.known.borrow_mut().insert((from, to), hash);
        Ok(hash)
    }
}

/// Makes the receipts of one batch; hashes are computed once for all of them.
pub struct ReceiptMaker<'a> {
    header: &'a Header,
    certificate: &'a CommitCertificate,
    nodes: Remembered<Tail<'a>>,
}

impl<'a> ReceiptMaker<'a> {
    /// Takes a committed batch: the frontier before it and its leaf hashes. The certificate is passed on, not checked.
    ///
    /// # Errors
    /// A frontier that does not end where the batch begins, leaves whose number is not the header's count, and leaves that do not give the
    /// header's root.
    pub fn new(header: &'a Header, certificate: &'a CommitCertificate, before: &'a Frontier, leaves: &'a [Digest]) -> Result<Self, ProofError> {
        let expected = header.first_sequence.saturating_sub(1);
        if before.size() != expected || header.first_sequence == 0 {
            return Err(ProofError::Frontier { expected, found: before.size() });
        }
        if leaves.is_empty() || leaves.len() as u64 != u64::from(header.count) {
            return Err(ProofError::Count { expected: u64::from(header.count).max(1), found: leaves.len() as u64 });
        }
        let mut after = before.clone();
        leaves.iter().for_each(|leaf| after.append(*leaf));
        if after.root() != header.log_root {
            return Err(ProofError::Root { expected: header.log_root, found: after.root() });
        }
        Ok(Self { header, certificate, nodes: Remembered::new(Tail { before, leaves }) })
    }

    /// The receipt of the submission whose `count` updates begin at `first`.
    ///
    /// # Errors
    /// A run that is empty or outside the batch.
    pub fn receipt(&self, first: Sequence, count: usize) -> Result<SubmissionReceipt, ProofError> {
        let (from, to) = run_of(self.header, first, count)?;
        let size = self.header.last_sequence();
        let outside = merkle::range_proof(&self.nodes, from, to, size).map_err(|_| ProofError::Outside { from, to, size, hashes: 0 })?;
        Ok(SubmissionReceipt { header: self.header.clone(), certificate: self.certificate.clone(), first_sequence: first, outside })
    }
}

/// The receipt of one submission of a batch; [`ReceiptMaker`] is the form for many.
///
/// # Errors
/// As [`ReceiptMaker::new`] and [`ReceiptMaker::receipt`].
pub fn make_receipt(
    header: &Header,
    certificate: &CommitCertificate,
    before: &Frontier,
    leaves: &[Digest],
    first: Sequence,
    count: usize,
) -> Result<SubmissionReceipt, ProofError> {
    ReceiptMaker::new(header, certificate, before, leaves)?.receipt(first, count)
}

/// Checks a receipt against the submission its holder sent, and yields the proof of each update, with its opening, in order.
///
/// # Errors
/// [`ProofError`]: the first rule broken. The certificate is checked once.
pub fn verify_receipt(receipt: &SubmissionReceipt, submission: &Submission, federation: &Federation) -> Result<Vec<CommitProof>, ProofError> {
    let header = &receipt.header;
    check_header(federation, header)?;
    if federation.author_key(&submission.author).is_none() {
        return Err(ProofError::UnknownAuthor { found: submission.author });
    }
    submission.ids().try_for_each(|id| id.check())?;
    let (from, to) = run_of(header, receipt.first_sequence, submission.updates.len())?;
    let leaves = leaves_of(submission, federation, receipt.first_sequence);
    let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
    let size = header.last_sequence();
    let misfit = ProofError::Outside { from, to, size, hashes: receipt.outside.len() };
    let range = Range::new(from, &hashes, size, &receipt.outside).ok_or_else(|| misfit.clone())?;
    let found = range.root().map_err(|_| misfit.clone())?;
    if found != header.log_root {
        return Err(ProofError::Root { expected: header.log_root, found });
    }
    receipt.certificate.verify(federation, header)?;
    let nodes = Remembered::new(range);
    leaves
        .into_iter()
        .zip(&submission.updates)
        .map(|(leaf, submitted)| {
            let path = merkle::inclusion_path(&nodes, leaf.sequence.saturating_sub(1), size).map_err(|_: UnknownRange| misfit.clone())?;
            let opening = Some(Opening { salt: submitted.salt, data: submitted.update.data.clone() });
            Ok(CommitProof { leaf, path, header: header.clone(), certificate: receipt.certificate.clone(), opening })
        })
        .collect()
}

/// The leaf indices `[from, to)` of a run of updates within a batch.
fn run_of(header: &Header, first: Sequence, count: usize) -> Result<(u64, u64), ProofError> {
    let (low, high) = (header.first_sequence, header.last_sequence());
    let outside = |found| ProofError::Sequence { first: low, last: high, found };
    if count == 0 {
        return Err(ProofError::Count { expected: 1, found: 0 });
    }
    let from = first.checked_sub(1).filter(|_| (low..=high).contains(&first)).ok_or(outside(first))?;
    let to = from.checked_add(count as u64).ok_or(outside(u64::MAX))?;
    if to > high { Err(outside(to)) } else { Ok((from, to)) }
}

fn leaves_of(submission: &Submission, federation: &Federation, first: Sequence) -> Vec<Leaf> {
    let digests = submission.digests(federation.id());
    let updates = submission.updates.iter().zip(digests.data).zip(first..);
    updates
        .map(|((submitted, data_digest), sequence)| Leaf {
            sequence,
            author: submission.author,
            update_id: submitted.update.update_id.clone(),
            timestamp: submitted.update.timestamp,
            data_length: submitted.update.data.len() as u64,
            data_digest,
        })
        .collect()
}
