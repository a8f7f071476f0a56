//! A deterministic chain of batches for the log: right headers and roots, certificates that nobody verifies here.

use std::collections::BTreeMap;

use super::super::*;
use crate::crypto::{Signature, SigningKey};
use crate::types::{BatchKind, Checkpoint, SignatureSet, StateUpdate, Submission};

pub(super) fn federation() -> FederationId {
    FederationId(Digest([7; 32]))
}

/// The place that every body of this slot is said to have.
pub(super) fn locator(slot: Slot) -> BodyLocator {
    BodyLocator { segment: slot, page: 3, offset: 17, len: 4_711 }
}

/// A batch, its digests and leaf hashes, and the tree after it.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) batch: CommittedBatch,
    pub(super) digests: BodyDigests,
    pub(super) leaves: Vec<Digest>,
    pub(super) frontier: Frontier,
}

impl Made {
    /// Appends with a place in a segment, which the log uses if the body is too large for its row.
    pub(super) fn append(&self, store: &mut Store) -> Result<Vec<Digest>, StoreError> {
        self.append_at(store, Some(locator(self.batch.header.slot)))
    }

    pub(super) fn append_at(&self, store: &mut Store, place: Option<BodyLocator>) -> Result<Vec<Digest>, StoreError> {
        store.append(AppendBatch { batch: &self.batch, digests: &self.digests, place })
    }

    pub(super) fn ids(&self) -> Vec<(UpdateId, Sequence)> {
        let ids = self.batch.body.submissions.iter().flat_map(|s| s.ids().cloned());
        ids.zip(self.batch.header.first_sequence..).collect()
    }

    /// Whether a row is this batch; its body lies where its size says.
    pub(super) fn assert_is(&self, row: &StoredBatch) {
        assert_eq!((&row.header, &row.certificate), (&self.batch.header, &self.batch.certificate));
        let inline = self.batch.body.encoded_bytes() <= StoreOptions::default().inline_body_bytes;
        match &row.body {
            StoredBody::Inline(body) => assert!(inline && *body == self.batch.body),
            StoredBody::Segment(place) => assert!(!inline && *place == locator(self.batch.header.slot)),
        }
    }
}

/// A batch without updates in the place of another.
pub(super) fn empty(like: &Made) -> Made {
    let body = Body { submissions: vec![] };
    let digests = body.digests(federation());
    let header = Header { count: 0, ..like.batch.header.clone() };
    Made { batch: CommittedBatch { header, body: Arc::new(body), ..like.batch.clone() }, digests, leaves: vec![], frontier: Frontier::default() }
}

/// What was made so far.
#[derive(Default)]
pub(super) struct Chain {
    pub(super) slot: Slot,
    pub(super) parent: Digest,
    pub(super) frontier: Frontier,
}

impl Chain {
    /// The next batch: two submissions if there are two updates or more, of payloads of these sizes.
    pub(super) fn next(&mut self, sizes: &[usize]) -> Made {
        let first_sequence = self.frontier.size() + 1;
        self.slot += 1;
        let update = |(sequence, size): (Sequence, &usize)| StateUpdate {
            update_id: UpdateId(format!("id-{sequence}")),
            data: (0..*size).map(|i| (i as u64 * 31 + sequence) as u8).collect(),
            timestamp: 1_000 + sequence,
        };
        let updates: Vec<StateUpdate> = (first_sequence..).zip(sizes).map(update).collect();
        let key = SigningKey::from_seed(&[9; 32]);
        let sign = |updates: &[StateUpdate]| Arc::new(Submission::sign(federation(), &key, 50_000 + self.slot, updates.to_vec()));
        let (left, right) = updates.split_at(updates.len() / 2);
        let body = Body { submissions: [left, right].into_iter().filter(|u| !u.is_empty()).map(sign).collect() };
        let digests = body.digests(federation());
        let leaves: Vec<Digest> = body.leaves(&digests, first_sequence).iter().map(Leaf::hash).collect();
        leaves.iter().for_each(|leaf| self.frontier.append(*leaf));
        let header = Header {
            kind: BatchKind::Normal,
            federation_id: federation(),
            epoch: 0,
            slot: self.slot,
            first_sequence,
            count: u32::try_from(sizes.len()).unwrap(),
            parent: self.parent,
            body_digest: digests.body,
            log_root: self.frontier.root(),
            timestamp: 10_000 + 10 * self.slot,
            membership_digest: Digest([8; 32]),
        };
        self.parent = header.digest();
        let certificate = CommitCertificate { epoch: 0, view: 2, slot: self.slot, digest: self.parent, signatures: signatures() };
        Made { batch: CommittedBatch { header, body: Arc::new(body), certificate }, digests, leaves, frontier: self.frontier.clone() }
    }

    /// A checkpoint of all that was made.
    pub(super) fn checkpoint(&self) -> CheckpointCertificate {
        let checkpoint =
            Checkpoint { epoch: 0, slot: self.slot, sequence: self.frontier.size(), digest: self.parent, log_root: self.frontier.root() };
        CheckpointCertificate { checkpoint, signatures: signatures() }
    }
}

fn signatures() -> SignatureSet {
    SignatureSet((0..3).map(|i| (i, Signature([i as u8 + 40; 64]))).collect())
}

/// The log's database without the guard: to write what the program never would.
pub(super) struct RawLog(sled::Db);

impl RawLog {
    pub(super) fn open(dir: &Path) -> Self {
        let sled = dir.join("log/sled");
        // A tree that this test has just dropped may not have let go of the lock yet.
        if sled.join("db").exists() {
            wait_until_closed(&sled).unwrap();
        }
        Self(sled::Config::new().path(sled).segment_size(16 << 20).open().unwrap())
    }

    pub(super) fn tree(&self, name: &str) -> sled::Tree {
        self.0.open_tree(name).unwrap()
    }
}

/// Every file below a directory, by its path, with its bytes.
pub(super) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}
