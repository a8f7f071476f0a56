//! What the rest of the program needs of a log: the seam at which a simulated one takes the place of sled's. `tests/contract.rs` beside this
//! module holds both to it.

use std::ops::RangeInclusive;

use super::error::{OrderProblem, StoreError};
use super::{AppendBatch, BodyLocator, Head, Store, StoreReader, StoredBatch, ViewRecord};
use crate::crypto::Digest;
use crate::types::{CheckpointCertificate, Evidence, Header, Sequence, Slot, UpdateId, View};

/// A log open for writing. It appends what continues it and nothing else.
pub trait Log: Send {
    /// What reads it beside the writer.
    type Reader: LogReader;

    /// The end of the log.
    fn head(&self) -> Head;

    /// Appends a batch that continues the log; gives its leaf hashes. Durable after [`Log::sync`].
    ///
    /// # Errors
    /// [`StoreError::Order`] if it does not continue the log (nothing changes then); any other error stops the log.
    fn append(&mut self, append: AppendBatch<'_>) -> Result<Vec<Digest>, StoreError>;

    /// Must not return before everything appended would survive a power cut.
    ///
    /// # Errors
    /// Any error stops the log: a failed sync is never retried.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Points a row to another place of its body: the journal holds it there now.
    ///
    /// # Errors
    /// [`StoreError`]; `Damage::Row` if there is no such row.
    fn move_body(&mut self, first_sequence: Sequence, place: BodyLocator) -> Result<(), StoreError>;

    /// Keeps a stable checkpoint.
    ///
    /// # Errors
    /// As [`Log::append`].
    fn put_checkpoint(&mut self, certificate: &CheckpointCertificate) -> Result<(), StoreError>;

    /// Keeps when and why a view began.
    ///
    /// # Errors
    /// As above.
    fn put_view(&mut self, view: View, record: &ViewRecord) -> Result<(), StoreError>;

    /// Keeps evidence under its digest.
    ///
    /// # Errors
    /// As above.
    fn put_evidence(&mut self, digest: &Digest, evidence: &Evidence) -> Result<(), StoreError>;

    /// The sequence numbers that the lookup index lacks, if any.
    fn index_gap(&self) -> Option<RangeInclusive<Sequence>>;

    /// Gives the index ids that continue it.
    fn index_add(&mut self, entries: &[(UpdateId, Sequence)]);

    /// A reader of this log.
    fn reader(&self) -> Self::Reader;
}

/// Reading a log while it grows.
pub trait LogReader: Clone + Send + Sync + 'static {
    /// The end of the log.
    fn head(&self) -> Head;

    /// The batch that holds an update; `None` beyond the log.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: damage is never served.
    fn row_at_sequence(&self, sequence: Sequence) -> Result<Option<StoredBatch>, StoreError>;

    /// The batch of a slot; `None` beyond the log.
    ///
    /// # Errors
    /// As above.
    fn row_at_slot(&self, slot: Slot) -> Result<Option<StoredBatch>, StoreError>;

    /// The inclusion path of an update in the tree of its own batch, checked against the root that the quorum signed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the stored tree does not give that root.
    fn prove(&self, sequence: Sequence, leaf: Digest, header: &Header) -> Result<Vec<Digest>, StoreError>;

    /// The path that shows that the log after one header is the beginning of the log after a later one, checked against both roots.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the stored tree does not give those roots.
    fn prove_consistency(&self, old: &Header, new: &Header) -> Result<Vec<Digest>, StoreError>;

    /// The sequence numbers that an id may stand at, newest first; the batch decides.
    ///
    /// # Errors
    /// [`StoreError`] if the index is damaged or lags: a miss would tell nothing.
    fn lookup(&self, id: &UpdateId) -> Result<Vec<Sequence>, StoreError>;

    /// The evidence kept.
    ///
    /// # Errors
    /// As above.
    fn evidence(&self) -> Result<Vec<Evidence>, StoreError>;

    /// How many records of evidence are kept.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_evidence(&self) -> Result<u64, StoreError>;

    /// The newest stable checkpoint kept.
    ///
    /// # Errors
    /// As above.
    fn stable(&self) -> Result<Option<CheckpointCertificate>, StoreError>;

    /// The last sequence number.
    fn head_sequence(&self) -> Sequence {
        self.head().sequence
    }

    /// The batches from the one that holds `sequence` on, up to the head as it is at each step.
    fn rows_from_sequence(&self, sequence: Sequence) -> impl Iterator<Item = Result<StoredBatch, StoreError>> + use<Self> {
        let (reader, mut next) = (self.clone(), Some(sequence.max(1)));
        std::iter::from_fn(move || {
            let row = reader.row_at_sequence(next?).transpose()?;
            next = row.as_ref().ok().map(|r| r.header.last_sequence() + 1);
            Some(row)
        })
    }

    /// The batches from the head back.
    fn rows_backwards(&self) -> impl Iterator<Item = Result<StoredBatch, StoreError>> + use<Self> {
        let (reader, mut next) = (self.clone(), Some(self.head_sequence()));
        std::iter::from_fn(move || {
            let row = reader.row_at_sequence(next?).transpose()?;
            next = row.as_ref().ok().map(|r| r.header.first_sequence - 1);
            Some(row)
        })
    }
}

impl Head {
    /// The end behind a batch with these leaf hashes, if it continues this one.
    ///
    /// # Errors
    /// [`StoreError::Order`].
    pub fn extended(&self, header: &Header, leaves: &[Digest]) -> Result<Self, StoreError> {
        let order = |problem| Err(StoreError::Order { slot: header.slot, problem });
        if header.slot != self.slot + 1 {
            return order(OrderProblem::Slot { expected: self.slot + 1 });
        }
        if header.first_sequence != self.sequence + 1 {
            return order(OrderProblem::Sequence { expected: self.sequence + 1, found: header.first_sequence });
        }
        if header.parent != self.digest {
            return order(OrderProblem::Parent);
        }
        if u64::from(header.count) != leaves.len() as u64 || leaves.is_empty() {
            return order(OrderProblem::Count { expected: u64::from(header.count), found: leaves.len() as u64 });
        }
        let mut frontier = self.frontier.clone();
        leaves.iter().for_each(|leaf| frontier.append(*leaf));
        if frontier.root() != header.log_root {
            return order(OrderProblem::Root);
        }
        Ok(Self { slot: header.slot, sequence: header.last_sequence(), digest: header.digest(), timestamp: header.timestamp, frontier })
    }
}

impl Log for Store {
    type Reader = StoreReader;

    fn head(&self) -> Head {
        self.head()
    }

    fn append(&mut self, append: AppendBatch<'_>) -> Result<Vec<Digest>, StoreError> {
        self.append(append)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.sync()
    }

    fn move_body(&mut self, first_sequence: Sequence, place: BodyLocator) -> Result<(), StoreError> {
        (*self).move_body(first_sequence, place)
    }

    fn put_checkpoint(&mut self, certificate: &CheckpointCertificate) -> Result<(), StoreError> {
        (*self).put_checkpoint(certificate)
    }

    fn put_view(&mut self, view: View, record: &ViewRecord) -> Result<(), StoreError> {
        (*self).put_view(view, record)
    }

    fn put_evidence(&mut self, digest: &Digest, evidence: &Evidence) -> Result<(), StoreError> {
        (*self).put_evidence(digest, evidence)
    }

    fn index_gap(&self) -> Option<RangeInclusive<Sequence>> {
        self.index_gap()
    }

    fn index_add(&mut self, entries: &[(UpdateId, Sequence)]) {
        (*self).index_add(entries);
    }

    fn reader(&self) -> StoreReader {
        self.reader()
    }
}

impl LogReader for StoreReader {
    fn head(&self) -> Head {
        self.head()
    }

    fn row_at_sequence(&self, sequence: Sequence) -> Result<Option<StoredBatch>, StoreError> {
        self.row_at_sequence(sequence)
    }

    fn row_at_slot(&self, slot: Slot) -> Result<Option<StoredBatch>, StoreError> {
        self.row_at_slot(slot)
    }

    fn prove(&self, sequence: Sequence, leaf: Digest, header: &Header) -> Result<Vec<Digest>, StoreError> {
        self.prove(sequence, leaf, header)
    }

    fn prove_consistency(&self, old: &Header, new: &Header) -> Result<Vec<Digest>, StoreError> {
        self.prove_consistency(old, new)
    }

    fn lookup(&self, id: &UpdateId) -> Result<Vec<Sequence>, StoreError> {
        self.lookup(id)
    }

    fn evidence(&self) -> Result<Vec<Evidence>, StoreError> {
        self.evidence()
    }

    fn count_evidence(&self) -> Result<u64, StoreError> {
        self.count_evidence()
    }

    fn stable(&self) -> Result<Option<CheckpointCertificate>, StoreError> {
        self.stable()
    }

    fn head_sequence(&self) -> Sequence {
        self.head_sequence()
    }
}
