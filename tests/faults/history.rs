//! A replica's journal of any length, made by the library with the federation's own keys: no network, no other replica.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use exo_federation::config::{ReplicaFile, read_secret};
use exo_federation::consensus::{CheckedBody, Record};
use exo_federation::crypto::merkle::Frontier;
use exo_federation::crypto::{Digest, SigningKey};
use exo_federation::journal::Journal;
use exo_federation::node::NodeConfig;
use exo_federation::types::{
    BatchKind, Body, Checkpoint, CheckpointCertificate, CommitCertificate, Federation, Header, Phase, SignatureSet, StateUpdate, Submission,
    UpdateId, Vote,
};

use crate::stage::Stage;

/// What a history looks like.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) updates_per_batch: u64,
    pub(crate) data_bytes: usize,
    /// Header time between batches.
    pub(crate) batch_ms: u64,
    pub(crate) segment_bytes: u64,
}

/// One replica's directory with a history in it.
pub(crate) struct History {
    home: PathBuf,
}

struct Signers {
    federation: Arc<Federation>,
    keys: Vec<SigningKey>,
    author: SigningKey,
}

impl Signers {
    fn of(stage: &Stage) -> Self {
        let config = |index: usize| ReplicaFile::load(&stage.path(&format!("replica-{index}/replica.toml"))).unwrap();
        let federation = config(0).federation;
        let keys = (0..federation.quorum()).map(|index| config(index).secret.consensus_key()).collect();
        Self { federation, keys, author: SigningKey::from_seed(&read_secret(&stage.path("author.key")).unwrap()) }
    }

    fn quorum(&self, bytes: &[u8]) -> SignatureSet {
        SignatureSet((0..).zip(&self.keys).map(|(index, key)| (index, key.sign(bytes))).collect())
    }

    fn body(&self, first: u64, time: u64, shape: Shape) -> CheckedBody {
        let update = |i: u64| StateUpdate {
            update_id: UpdateId(format!("update-{i}")),
            data: (0..shape.data_bytes as u64).map(|k| (i * 131 + k * 7) as u8).collect(),
            timestamp: time,
        };
        let updates: Vec<StateUpdate> = (first..first + shape.updates_per_batch).map(update).collect();
        let submission = Submission::sign(self.federation.id(), &self.author, time + 1_000, updates);
        CheckedBody::compute(&self.federation, Arc::new(Body { submissions: vec![Arc::new(submission)] }), first)
    }
}

impl History {
    /// Writes a journal of so many updates, a checkpoint every 64 batches, as a replica that followed would have.
    pub(crate) fn write(stage: &Stage, replica: usize, updates: u64, shape: Shape) -> Self {
        let home = stage.path(&format!("replica-{replica}"));
        let path = home.join("replica.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}\n[journal]\nsegment_bytes = {}\n", shape.segment_bytes)).unwrap();
        let history = Self { home };
        let (signers, config) = (Signers::of(stage), history.config());
        fs::remove_dir_all(config.data.journal()).unwrap();
        config.data.create(&config.federation, config.secret.consensus_key().public(), &config.journal).unwrap();
        let (mut journal, _) = Journal::open(&config.data.journal(), config.federation.id().0.0, &config.journal).unwrap();
        let (mut parent, mut frontier) = (Digest::ZERO, Frontier::default());
        for slot in 1..=updates / shape.updates_per_batch {
            let (first_sequence, timestamp) = (frontier.size() + 1, 1_700_000_000_000 + slot * shape.batch_ms);
            let body = signers.body(first_sequence, timestamp, shape);
            body.leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
            let header = Header {
                kind: BatchKind::Normal,
                federation_id: config.federation.id(),
                epoch: 0,
                slot,
                first_sequence,
                count: u32::try_from(shape.updates_per_batch).unwrap(),
                parent,
                body_digest: body.digests.body,
                log_root: frontier.root(),
                timestamp,
                membership_digest: config.federation.membership_digest(),
            };
            parent = header.digest();
            let vote = Vote { phase: Phase::Commit, epoch: 0, view: 0, slot, digest: parent };
            let signatures = signers.quorum(&vote.signed_bytes(config.federation.id()));
            let certificate = CommitCertificate { epoch: 0, view: 0, slot, digest: parent, signatures };
            for record in [Record::Body { header: header.clone(), body }, Record::Committed(certificate)] {
                let (kind, payload) = record.to_frame().unwrap();
                journal.append_segment(kind, slot, &payload).unwrap();
            }
            if slot % 64 == 0 {
                let checkpoint = Checkpoint { epoch: 0, slot, sequence: header.last_sequence(), digest: parent, log_root: header.log_root };
                let signatures = signers.quorum(&checkpoint.signed_bytes(config.federation.id()));
                let stable = Record::Stable(CheckpointCertificate { checkpoint, signatures });
                let snapshot: Vec<(u8, Vec<u8>)> = [Record::Started { run: 1 }, stable].iter().map(|r| r.to_frame().unwrap()).collect();
                journal.rotate_votes(&snapshot).unwrap();
            }
        }
        journal.sync().unwrap();
        history
    }

    pub(crate) fn config(&self) -> NodeConfig {
        ReplicaFile::load(&self.home.join("replica.toml")).unwrap()
    }
}
