//! The log's entries from a journal, beside a running replica too: the segments hold every body and every commit certificate.

use std::collections::BTreeMap;
use std::path::Path;

use super::ExportError;
use crate::audit::given_back;
use crate::consensus::{batch_of_frame, header_of_frame, kind};
use crate::crypto::Digest;
use crate::error::FederationError;
use crate::journal::{Frame, JournalOptions, JournalReader};
use crate::types::{Body, CommitCertificate, CommittedBatch, Federation, Header, Leaf, Slot, decode};

/// Hands over the leaves of the entries `from + 1` to `to`, in order. What they must be, the root decides.
pub(super) fn entries(
    data: &Path,
    federation: &Federation,
    from: u64,
    to: u64,
    take: impl FnMut(Leaf) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    if from >= to {
        return Ok(());
    }
    let reader = JournalReader::open(&data.join("journal"), Some(federation.id().0.0), &JournalOptions::default()).map_err(FederationError::from)?;
    let mut walk = Walk { federation, reader: &reader, from, to, slot: 1, bodies: BTreeMap::new(), given_back: None, damage: None, take };
    for frame in reader.segments_from(None) {
        match frame {
            Ok(frame) => {
                if walk.frame(frame)? {
                    return Ok(());
                }
            }
            Err(damage) => walk.damage = Some(damage.to_string()),
        }
    }
    walk.complete()
}

struct Walk<'a, T> {
    federation: &'a Federation,
    reader: &'a JournalReader,
    from: u64,
    to: u64,
    /// The next slot.
    slot: Slot,
    /// Frames of batches that no certificate has named yet.
    bodies: BTreeMap<(Slot, Digest), Vec<u8>>,
    /// What a repair wrote to the journal again; looked for when something is missed.
    given_back: Option<BTreeMap<Slot, CommittedBatch>>,
    /// The last damage met: why something may be missing.
    damage: Option<String>,
    take: T,
}

impl<T: FnMut(Leaf) -> Result<(), ExportError>> Walk<'_, T> {
    /// Takes one frame; says whether the last entry wanted was reached.
    fn frame(&mut self, frame: Frame) -> Result<bool, ExportError> {
        if frame.kind == kind::PROPOSAL || frame.kind == kind::BODY {
            if let Ok(header) = header_of_frame(&frame.payload)
                && header.slot >= self.slot
            {
                self.bodies.insert((header.slot, header.digest()), frame.payload);
            }
            return Ok(false);
        }
        let Ok(certificate) = decode::<CommitCertificate>(&frame.payload) else { return Ok(false) };
        while certificate.slot > self.slot {
            if self.again(self.slot)? {
                return Ok(true);
            }
        }
        if certificate.slot < self.slot {
            return Ok(false);
        }
        match self.bodies.remove(&(certificate.slot, certificate.digest)).map(|payload| batch_of_frame(&payload)) {
            Some(Ok((header, body))) => self.batch(&header, &body),
            _ => self.again(certificate.slot),
        }
    }

    /// The batch of a slot from what a repair wrote again.
    fn again(&mut self, slot: Slot) -> Result<bool, ExportError> {
        let reader = self.reader;
        let batch = self.given_back.get_or_insert_with(|| given_back(reader)).remove(&slot);
        match batch {
            Some(batch) => self.batch(&batch.header, &batch.body),
            None => Err(self.missing(slot)),
        }
    }

    fn batch(&mut self, header: &Header, body: &Body) -> Result<bool, ExportError> {
        self.slot = header.slot.saturating_add(1);
        self.bodies = self.bodies.split_off(&(self.slot, Digest::ZERO));
        if header.last_sequence() > self.from {
            for leaf in body.leaves(&body.digests(self.federation.id()), header.first_sequence) {
                if (self.from + 1..=self.to).contains(&leaf.sequence) {
                    (self.take)(leaf)?;
                }
            }
        }
        Ok(header.last_sequence() >= self.to)
    }

    /// The segments ended.
    fn complete(mut self) -> Result<(), ExportError> {
        while !self.again(self.slot)? {}
        Ok(())
    }

    fn missing(&self, slot: Slot) -> ExportError {
        ExportError::Missing { slot, found: self.damage.clone().unwrap_or_else(|| "nothing".to_owned()) }
    }
}
