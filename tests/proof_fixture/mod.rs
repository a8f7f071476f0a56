//! A small federation with deterministic keys, and a chain of batches that it committed.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod evidence;

use std::sync::Arc;

use exo_federation::crypto::{Digest, ReplicaSecret, SigningKey, merkle};
use exo_federation::proof::{CommitProof, ConsistencyProof};
use exo_federation::types::{
    Author, BatchKind, Body, CommitCertificate, CommittedBatch, Federation, Genesis, Header, Member, Parameters, PeerId, Phase, SignatureSet,
    StateUpdate, Submission, UpdateId, Vote,
};

pub(crate) fn secret(index: u8) -> ReplicaSecret {
    ReplicaSecret::from_bytes([index + 1; 32])
}

pub(crate) fn author() -> SigningKey {
    SigningKey::from_seed(&[200; 32])
}

pub(crate) fn federation(members: u8) -> Federation {
    let member = |i: u8| Member {
        peer: PeerId(format!("replica-{i}")),
        consensus_key: secret(i).consensus_key().public(),
        transport_key: secret(i).transport_key().public(),
        cosignature_key: secret(i).cosignature_key().public(),
    };
    let genesis = Genesis {
        name: format!("test-{members}"),
        members: (0..members).map(member).collect(),
        authors: vec![Author { name: "author".into(), key: author().public() }],
        readers: vec![],
        parameters: Parameters {
            max_batch_updates: 64,
            max_submission_updates: 16,
            max_data_bytes: 512,
            max_batch_bytes: 8192,
            ..Parameters::default()
        },
    };
    Federation::new(genesis).unwrap()
}

/// Updates `first..first + count`, each with its own payload.
pub(crate) fn submission(federation: &Federation, not_after: u64, first: usize, count: usize) -> Submission {
    let update =
        |i: usize| StateUpdate { update_id: UpdateId(format!("update-{i}")), data: format!("payload {i}").into_bytes(), timestamp: 500 + i as u64 };
    Submission::sign(federation.id(), &author(), not_after, (first..first + count).map(update).collect())
}

pub(crate) fn commit_signatures(federation: &Federation, header: &Header, view: u64, signers: &[u8]) -> SignatureSet {
    let vote = Vote { phase: Phase::Commit, epoch: header.epoch, view, slot: header.slot, digest: header.digest() };
    let bytes = vote.signed_bytes(federation.id());
    SignatureSet(signers.iter().map(|i| (u16::from(*i), secret(*i).consensus_key().sign(&bytes))).collect())
}

pub(crate) fn certificate(federation: &Federation, header: &Header, view: u64, signers: &[u8]) -> CommitCertificate {
    let signatures = commit_signatures(federation, header, view, signers);
    CommitCertificate { epoch: header.epoch, view, slot: header.slot, digest: header.digest(), signatures }
}

/// A federation, and what it committed so far.
pub(crate) struct Chain {
    pub(crate) federation: Federation,
    pub(crate) frontier: merkle::Frontier,
    pub(crate) parent: Digest,
    pub(crate) slot: u64,
    pub(crate) timestamp: u64,
}

impl Chain {
    pub(crate) fn new(members: u8) -> Self {
        Self { federation: federation(members), frontier: merkle::Frontier::default(), parent: Digest::ZERO, slot: 0, timestamp: 1_000 }
    }

    pub(crate) fn not_after(&self) -> u64 {
        self.timestamp + 60_000
    }

    /// Commits a batch in view 1, signed by the first `2f + 1`-or-more members that make a quorum.
    pub(crate) fn commit(&mut self, submissions: Vec<Submission>) -> CommittedBatch {
        let body = Body { submissions: submissions.into_iter().map(Arc::new).collect() };
        let digests = body.digests(self.federation.id());
        let first_sequence = self.frontier.size() + 1;
        body.leaves(&digests, first_sequence).iter().for_each(|leaf| self.frontier.append(leaf.hash()));
        self.slot += 1;
        self.timestamp += 10;
        let header = Header {
            kind: BatchKind::Normal,
            federation_id: self.federation.id(),
            epoch: 0,
            slot: self.slot,
            first_sequence,
            count: u32::try_from(body.count()).unwrap(),
            parent: self.parent,
            body_digest: digests.body,
            log_root: self.frontier.root(),
            timestamp: self.timestamp,
            membership_digest: self.federation.membership_digest(),
        };
        self.parent = header.digest();
        let signers: Vec<u8> = (0..u8::try_from(self.federation.quorum()).unwrap()).collect();
        CommittedBatch { certificate: certificate(&self.federation, &header, 1, &signers), header, body: Arc::new(body) }
    }

    /// Commits `submissions` submissions of `each` updates; the update numbers go on from the log's size.
    pub(crate) fn commit_some(&mut self, submissions: usize, each: usize) -> CommittedBatch {
        let start = usize::try_from(self.frontier.size()).unwrap();
        let list = (0..submissions).map(|i| submission(&self.federation, self.not_after(), start + i * each, each)).collect();
        self.commit(list)
    }
}

/// Signs a changed header anew, so that only what was changed is wrong.
pub(crate) fn resign(federation: &Federation, batch: &mut CommittedBatch) {
    let signers: Vec<u8> = batch.certificate.signatures.signers().map(|i| u8::try_from(i).unwrap()).collect();
    batch.certificate = certificate(federation, &batch.header, batch.certificate.view, &signers);
}

/// The proof of the update `at` of the batch's first submission, through its receipt.
pub(crate) fn proof_of(federation: &Federation, before: &merkle::Frontier, batch: &CommittedBatch, at: usize) -> CommitProof {
    let digests = batch.body.digests(federation.id());
    let hashes: Vec<Digest> = batch.body.leaves(&digests, batch.header.first_sequence).iter().map(|l| l.hash()).collect();
    let submission = &batch.body.submissions[0];
    let receipt = exo_federation::proof::make_receipt(
        &batch.header,
        &batch.certificate,
        before,
        &hashes,
        batch.header.first_sequence,
        submission.updates.len(),
    );
    exo_federation::proof::verify_receipt(&receipt.unwrap(), submission, federation).unwrap().swap_remove(at)
}

/// A federation of `members` with a log of eleven updates, and the proof of the ninth.
pub(crate) fn proven(members: u8) -> (Federation, CommitProof) {
    let mut chain = Chain::new(members);
    chain.commit_some(2, 3);
    let before = chain.frontier.clone();
    let batch = chain.commit_some(1, 5);
    let proof = proof_of(&chain.federation, &before, &batch, 2);
    (chain.federation, proof)
}

/// A federation of `members` with a log of six batches and twenty updates, and the proof that its log after the first `older` batches, 0 for the
/// empty one, is the beginning of that after `newer`.
pub(crate) fn consistent(members: u8, older: usize, newer: usize) -> (Federation, ConsistencyProof) {
    let mut chain = Chain::new(members);
    let batches: Vec<CommittedBatch> = [1, 2, 3, 5, 1, 8].into_iter().map(|count| chain.commit_some(1, count)).collect();
    let federation = chain.federation;
    let leaves = batches.iter().flat_map(|b| b.body.leaves(&b.body.digests(federation.id()), b.header.first_sequence));
    let hashes: Vec<Digest> = leaves.map(|leaf| leaf.hash()).collect();
    let CommittedBatch { header, certificate, .. } = batches[newer - 1].clone();
    let empty = merkle::Frontier::default();
    let older = older.checked_sub(1).map(|at| &batches[at].header);
    let (old_size, old_root) = older.map_or((0, empty.root()), |older| (older.last_sequence(), older.log_root));
    let path = merkle::consistency_path(&merkle::Tail { before: &empty, leaves: &hashes }, old_size, header.last_sequence()).unwrap();
    (federation, ConsistencyProof { old_size, old_root, path, header, certificate })
}
