//! Submissions that wait to be committed, and the clients that wait for them. Bounded in bytes and per author.

use std::collections::{BTreeMap, VecDeque};

use super::duplicates::DuplicateTable;
use super::verify::CheckedSubmission;
use crate::crypto::{Digest, PublicKey};
use crate::types::{Slot, TimestampMs};

/// Who waits for a submission's fate; the driver knows whom it means.
pub type Ticket = u64;

/// Why the pool takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFull {
    /// The pool's bytes are used up.
    Pool,
    /// The author's share is used up.
    Author,
}

/// A client that waits, and until when (monotonic ms).
#[derive(Debug, Clone, Copy)]
pub struct Waiter {
    /// Whom to answer.
    pub ticket: Ticket,
    /// When to stop waiting.
    pub deadline: u64,
}

/// One pending submission.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Pending {
    /// The submission.
    pub checked: CheckedSubmission,
    /// Its encoded size.
    pub bytes: u64,
    /// When it was first seen (monotonic ms).
    pub since: u64,
    /// The slot it was proposed at, if it is in flight.
    pub slot: Option<Slot>,
    /// When it was last sent to all because the leader was late (monotonic ms).
    pub spread: Option<u64>,
    /// Who waits.
    pub waiters: Vec<Waiter>,
}

/// The pool: per author a queue in order of arrival.
#[cfg_attr(test, derive(Clone))]
pub struct Pool {
    entries: BTreeMap<Digest, Pending>,
    queues: BTreeMap<PublicKey, VecDeque<Digest>>,
    by_pair: BTreeMap<[u8; 16], Digest>,
    bytes: u64,
    author_bytes: BTreeMap<PublicKey, u64>,
    unproposed_bytes: u64,
    max_bytes: u64,
    max_author_bytes: u64,
    turn: Option<PublicKey>,
}

impl Pool {
    /// An empty pool of so many bytes in all and per author.
    #[must_use]
    pub fn new(max_bytes: u64, max_author_bytes: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            queues: BTreeMap::new(),
            by_pair: BTreeMap::new(),
            bytes: 0,
            author_bytes: BTreeMap::new(),
            unproposed_bytes: 0,
            max_bytes,
            max_author_bytes,
            turn: None,
        }
    }

    /// How many submissions are pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The bytes that wait to be proposed.
    #[must_use]
    pub fn unproposed_bytes(&self) -> u64 {
        self.unproposed_bytes
    }

    /// A pending submission by its digest.
    pub fn get_mut(&mut self, digest: &Digest) -> Option<&mut Pending> {
        self.entries.get_mut(digest)
    }

    /// The pending submission that holds one of these ids, if any.
    #[must_use]
    pub fn overlapping(&self, checked: &CheckedSubmission) -> Option<Digest> {
        if self.by_pair.is_empty() {
            return None;
        }
        let author = &checked.submission.author;
        checked.submission.ids().find_map(|id| self.by_pair.get(&DuplicateTable::pair(author, id)).copied())
    }

    /// Takes a submission that overlaps none.
    ///
    /// # Errors
    /// [`PoolFull`].
    pub fn insert(&mut self, checked: CheckedSubmission, now: u64) -> Result<(), PoolFull> {
        let (author, digest, bytes) = (checked.submission.author, checked.digests.submission, checked.submission.encoded_bytes());
        let of_author = self.author_bytes.get(&author).copied().unwrap_or(0);
        if self.bytes + bytes > self.max_bytes {
            return Err(PoolFull::Pool);
        }
        if of_author + bytes > self.max_author_bytes {
            return Err(PoolFull::Author);
        }
        for id in checked.submission.ids() {
            self.by_pair.insert(DuplicateTable::pair(&author, id), digest);
        }
        self.bytes += bytes;
        self.unproposed_bytes += bytes;
        self.author_bytes.insert(author, of_author + bytes);
        self.queues.entry(author).or_default().push_back(digest);
        self.entries.insert(digest, Pending { checked, bytes, since: now, slot: None, spread: None, waiters: Vec::new() });
        Ok(())
    }

    /// Removes a submission whose fate is known.
    pub fn remove(&mut self, digest: &Digest) -> Option<Pending> {
        let pending = self.entries.remove(digest)?;
        let author = pending.checked.submission.author;
        for id in pending.checked.submission.ids() {
            self.by_pair.remove(&DuplicateTable::pair(&author, id));
        }
        self.bytes -= pending.bytes;
        if pending.slot.is_none() {
            self.unproposed_bytes -= pending.bytes;
        }
        let left = self.author_bytes.get(&author).map_or(0, |bytes| bytes - pending.bytes);
        if left == 0 {
            self.author_bytes.remove(&author);
        } else {
            self.author_bytes.insert(author, left);
        }
        if let Some(queue) = self.queues.get_mut(&author) {
            // Mostly the front: submissions leave in the order they came.
            if let Some(at) = queue.iter().position(|d| d == digest) {
                queue.remove(at);
            }
            if queue.is_empty() {
                self.queues.remove(&author);
            }
        }
        Some(pending)
    }

    /// Marks a submission as in flight at a slot.
    pub fn mark(&mut self, digest: &Digest, slot: Slot) {
        if let Some(pending) = self.entries.get_mut(digest) {
            if pending.slot.is_none() {
                self.unproposed_bytes -= pending.bytes;
            }
            pending.slot = Some(slot);
        }
    }

    /// Nothing is in flight any more: a view ended.
    pub fn unmark_all(&mut self) {
        for pending in self.entries.values_mut() {
            pending.slot = None;
        }
        self.unproposed_bytes = self.bytes;
    }

    /// The submissions to propose next, author by author in turn, oldest first, while `take` accepts them. `take` says whether it took the
    /// submission, skipped it, or has no room left.
    pub fn select(&mut self, mut take: impl FnMut(&CheckedSubmission, u64) -> Take) {
        let Some(first) = self.turn.and_then(|turn| self.queues.range(turn..).nth(1)).or_else(|| self.queues.first_key_value()) else {
            return;
        };
        let start = *first.0;
        let mut cursors: Vec<(PublicKey, usize)> = self.queues.range(start..).chain(self.queues.range(..start)).map(|(k, _)| (*k, 0)).collect();
        while !cursors.is_empty() {
            let mut at = 0;
            while at < cursors.len() {
                let (author, position) = cursors[at];
                let queue = self.queues.get(&author);
                let next =
                    queue.and_then(|q| q.iter().enumerate().skip(position).find(|(_, d)| self.entries.get(d).is_some_and(|p| p.slot.is_none())));
                let Some((found, pending)) = next.and_then(|(found, d)| self.entries.get(d).map(|p| (found, p))) else {
                    cursors.remove(at);
                    continue;
                };
                match take(&pending.checked, pending.bytes) {
                    Take::Taken => self.turn = Some(author),
                    Take::Skipped => {}
                    Take::Full => return,
                }
                cursors[at].1 = found + 1;
                at += 1;
            }
        }
    }

    /// All pending submissions.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &Pending)> {
        self.entries.iter()
    }

    /// When the oldest submission that lasts beyond a time was first seen, over all authors (monotonic ms).
    #[must_use]
    pub fn oldest(&self, beyond: TimestampMs) -> Option<u64> {
        let lasting = |queue: &VecDeque<Digest>| {
            queue.iter().filter_map(|d| self.entries.get(d)).find(|p| p.checked.submission.not_after > beyond).map(|p| p.since)
        };
        self.queues.values().filter_map(lasting).min()
    }

    /// Takes out what can never be committed: `not_after` has passed by the chain's own time, or by the clock with the drift allowed.
    pub fn expire(&mut self, chain_time: TimestampMs, clock: TimestampMs) -> Vec<Pending> {
        let gone = |p: &Pending| p.checked.submission.not_after <= chain_time || p.checked.submission.not_after < clock;
        let digests: Vec<Digest> = self.entries.iter().filter(|(_, p)| gone(p)).map(|(d, _)| *d).collect();
        digests.iter().filter_map(|d| self.remove(d)).collect()
    }
}

/// What became of one submission offered to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It is in the batch.
    Taken,
    /// It does not belong in this batch.
    Skipped,
    /// The batch is full.
    Full,
}
