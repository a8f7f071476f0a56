//! The duplicate table: which (author, update id) pairs are committed or in flight, until their `not_after` has passed in header time.
//!
//! Every replica must decide alike, so the answer is a function of the chain alone: a committed pair counts while its `not_after` has not
//! passed, measured by the timestamp of the header in question; the table's fullness counts whole generations, which are dropped whole.

use std::collections::{BTreeMap, HashMap};

use super::verify::CheckedBody;
use crate::crypto::{Canonical, Digest, PublicKey};
use crate::planted::{Bug, on};
use crate::types::{Sequence, Slot, Submission, SubmissionDigests, TimestampMs, UpdateId};

/// Half a digest names a pair: only the author could make two of its own ids collide.
type Key = [u8; 16];

fn key(author: &PublicKey, id: &UpdateId) -> Key {
    half(&Canonical::hash("exo-federation/v1/pair\0").fixed(&author.0).fixed(id.0.as_bytes()).digest())
}

fn half(digest: &Digest) -> Key {
    let mut out = [0; 16];
    out.copy_from_slice(&digest.0[..16]);
    out
}

#[derive(Clone, Copy)]
struct Committed {
    sequence: Sequence,
    not_after: TimestampMs,
    data: Key,
}

/// How an update stands against the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Never seen, or long expired.
    New,
    /// Committed with the same payload.
    Committed(Sequence),
    /// In a batch not yet committed, with the same payload.
    InFlight,
    /// Committed or in flight with another payload.
    Conflict,
}

/// The table. Hash maps are looked up, counted and dropped, never iterated: their order decides nothing.
#[cfg_attr(test, derive(Clone))]
pub struct DuplicateTable {
    /// The width of a generation in ms of `not_after`.
    width: u64,
    generations: BTreeMap<u64, HashMap<Key, Committed>>,
    in_flight: HashMap<Key, (Slot, Key)>,
    committed_count: u64,
    limit: u64,
}

impl DuplicateTable {
    /// An empty table for a federation's `max_lifetime_ms` and `max_live_ids`.
    #[must_use]
    pub fn new(max_lifetime_ms: u64, limit: u64) -> Self {
        Self { width: generation_width(max_lifetime_ms), generations: BTreeMap::new(), in_flight: HashMap::new(), committed_count: 0, limit }
    }

    /// How far back in header time batches may still count: rebuild from batches whose timestamp is not more than this before the last.
    #[must_use]
    pub fn horizon_ms(max_lifetime_ms: u64) -> u64 {
        max_lifetime_ms + generation_width(max_lifetime_ms)
    }

    /// Notes a committed body; its pairs leave the in-flight part, and generations wholly before `timestamp` are dropped.
    pub fn commit(&mut self, body: &CheckedBody, slot: Slot, first_sequence: Sequence, timestamp: TimestampMs) {
        let mut sequence = first_sequence;
        for (submission, digests) in body.body.submissions.iter().zip(&body.digests.submissions) {
            let generation = self.generations.entry(submission.not_after / self.width).or_default();
            for (id, data) in submission.ids().zip(&digests.data) {
                let key = key(&submission.author, id);
                // A later slot in flight may use the id again, once it has expired.
                if self.in_flight.get(&key).is_some_and(|(its, _)| *its <= slot) {
                    self.in_flight.remove(&key);
                }
                let entry = Committed { sequence, not_after: submission.not_after, data: half(data) };
                if generation.insert(key, entry).is_none() {
                    self.committed_count += 1;
                }
                sequence += 1;
            }
        }
        let live = timestamp / self.width + if on(Bug::DuplicatesDroppedEarly) { 8 } else { 0 };
        while let Some(oldest) = self.generations.first_entry().filter(|oldest| *oldest.key() < live) {
            self.committed_count -= oldest.remove().len() as u64;
        }
    }

    /// Notes the pairs of an accepted batch. Duplicates were refused before.
    pub fn take_in_flight(&mut self, body: &CheckedBody, slot: Slot) {
        for (submission, digests) in body.body.submissions.iter().zip(&body.digests.submissions) {
            for (id, data) in submission.ids().zip(&digests.data) {
                self.in_flight.insert(key(&submission.author, id), (slot, half(data)));
            }
        }
    }

    /// Forgets everything in flight: a new view chooses anew.
    pub fn clear_in_flight(&mut self) {
        self.in_flight.clear();
    }

    /// Whether a batch of so many updates still fits.
    #[must_use]
    pub fn has_room(&self, updates: u64) -> bool {
        self.committed_count + self.in_flight.len() as u64 + updates <= self.limit
    }

    /// How one update stands, for a header of this timestamp.
    #[must_use]
    pub fn standing(&self, author: &PublicKey, id: &UpdateId, data: &Digest, timestamp: TimestampMs) -> Standing {
        let (key, data) = (key(author, id), half(data));
        let live = self.generations.range(timestamp / self.width..).rev();
        for entry in live.filter_map(|(_, generation)| generation.get(&key)) {
            if entry.not_after >= timestamp {
                return if entry.data == data { Standing::Committed(entry.sequence) } else { Standing::Conflict };
            }
        }
        match self.in_flight.get(&key) {
            Some((_, in_flight)) if *in_flight == data => Standing::InFlight,
            Some(_) => Standing::Conflict,
            None => Standing::New,
        }
    }

    /// Whether every update of a submission is new, for a header of this timestamp.
    #[must_use]
    pub fn all_new(&self, submission: &Submission, digests: &SubmissionDigests, timestamp: TimestampMs) -> bool {
        let mut updates = submission.ids().zip(&digests.data);
        updates.all(|(id, data)| self.standing(&submission.author, id, data, timestamp) == Standing::New)
    }

    /// The pair's key, for sets of pairs within one batch.
    #[must_use]
    pub(super) fn pair(author: &PublicKey, id: &UpdateId) -> [u8; 16] {
        key(author, id)
    }
}

fn generation_width(max_lifetime_ms: u64) -> u64 {
    (max_lifetime_ms / 8).max(1)
}
