//! Who took part, and when: counted along the way, in bounded memory.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::crypto::PublicKey;
use crate::types::{CommittedBatch, Federation, PeerId, Slot, TimestampMs, View};

/// Bars of the timeline.
const BARS: usize = 240;
/// How many of the longest pauses are kept.
const PAUSES: usize = 5;
/// How many views are listed one by one.
const VIEWS: usize = 1_000;

/// A replica's part.
#[derive(Debug, Clone, Serialize)]
pub struct ReplicaShare {
    /// Its label.
    pub peer: PeerId,
    /// In how many certificates its Commit stands. A certificate holds a quorum, not everyone who voted: absence is no accusation.
    pub signed: u64,
}

/// An author's part.
#[derive(Debug, Clone, Serialize)]
pub struct AuthorShare {
    /// The name in the genesis.
    pub name: String,
    /// Submissions.
    pub submissions: u64,
    /// Updates.
    pub updates: u64,
    /// Payload bytes.
    pub bytes: u64,
}

/// Consecutive batches that were committed in one view.
#[derive(Debug, Clone, Serialize)]
pub struct ViewSpan {
    /// The view.
    pub view: View,
    /// Its leader.
    pub leader: Option<PeerId>,
    /// The first slot committed in it.
    pub first_slot: Slot,
    /// The last.
    pub last_slot: Slot,
    /// Why the view before was left, as this target's own log noted it: its word, not a proof.
    pub reason: Option<String>,
}

/// A time without commits.
#[derive(Debug, Clone, Serialize)]
pub struct Pause {
    /// The slot behind which it lies.
    pub after_slot: Slot,
    /// When it began, ms.
    pub from: TimestampMs,
    /// How long it took, ms.
    pub millis: u64,
}

/// Updates over time, in bars of equal width.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timeline {
    /// When the first bar begins, ms.
    pub from: TimestampMs,
    /// How wide a bar is, ms; 0 before the first batch.
    pub step_millis: u64,
    /// Updates per bar.
    pub updates: Vec<u64>,
}

impl Timeline {
    fn add(&mut self, at: TimestampMs, updates: u64) {
        if self.step_millis == 0 {
            (self.from, self.step_millis) = (at, 1);
        }
        let place = |from: u64, step: u64| usize::try_from(at.saturating_sub(from) / step).unwrap_or(usize::MAX);
        while place(self.from, self.step_millis) >= BARS {
            // Bars twice as wide; doubling ends, because a u64 has 64 bits.
            self.updates = self.updates.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.step_millis = self.step_millis.saturating_mul(2);
        }
        let bar = place(self.from, self.step_millis);
        if self.updates.len() <= bar {
            self.updates.resize(bar + 1, 0);
        }
        if let Some(count) = self.updates.get_mut(bar) {
            *count += updates;
        }
    }
}

/// Who took part, and when.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Statistics {
    /// Per replica, in the genesis's order.
    pub replicas: Vec<ReplicaShare>,
    /// Per author, in the genesis's order.
    pub authors: Vec<AuthorShare>,
    /// Batches by how many members signed them.
    pub signers: BTreeMap<usize, u64>,
    /// The views, oldest first; at most a thousand.
    pub views: Vec<ViewSpan>,
    /// View changes in all.
    pub view_changes: u64,
    /// The time of the first batch: the leader's claim, which a quorum found fresh.
    pub first_timestamp: Option<TimestampMs>,
    /// The time of the last one.
    pub last_timestamp: Option<TimestampMs>,
    /// Updates over time.
    pub timeline: Timeline,
    /// The longest times without a commit, longest first.
    pub pauses: Vec<Pause>,
    #[serde(skip)]
    author_places: BTreeMap<PublicKey, usize>,
}

impl Statistics {
    pub(super) fn new(federation: &Federation) -> Self {
        let genesis = federation.genesis();
        Self {
            replicas: genesis.members.iter().map(|m| ReplicaShare { peer: m.peer.clone(), signed: 0 }).collect(),
            authors: genesis.authors.iter().map(|a| AuthorShare { name: a.name.clone(), submissions: 0, updates: 0, bytes: 0 }).collect(),
            author_places: genesis.authors.iter().map(|author| author.key).zip(0..).collect(),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, federation: &Federation, batch: &CommittedBatch) {
        let CommittedBatch { header, body, certificate } = batch;
        for (signer, _) in &certificate.signatures.0 {
            if let Some(share) = self.replicas.get_mut(usize::from(*signer)) {
                share.signed += 1;
            }
        }
        *self.signers.entry(certificate.signatures.0.len()).or_default() += 1;
        for submission in &body.submissions {
            let Some(share) = self.author_places.get(&submission.author).and_then(|at| self.authors.get_mut(*at)) else { continue };
            share.submissions += 1;
            share.updates += submission.updates.len() as u64;
            share.bytes += submission.updates.iter().map(|u| u.update.data.len() as u64).sum::<u64>();
        }
        self.add_view(federation, certificate.view, header.slot);
        self.add_time(header.slot, header.timestamp, u64::from(header.count));
    }

    fn add_view(&mut self, federation: &Federation, view: View, slot: Slot) {
        if let Some(last) = self.views.last_mut().filter(|last| last.view == view) {
            last.last_slot = slot;
            return;
        }
        self.view_changes += u64::from(!self.views.is_empty());
        if self.views.len() < VIEWS {
            let leader = federation.peer(federation.leader(view)).cloned();
            self.views.push(ViewSpan { view, leader, first_slot: slot, last_slot: slot, reason: None });
        }
    }

    fn add_time(&mut self, slot: Slot, at: TimestampMs, updates: u64) {
        self.first_timestamp.get_or_insert(at);
        if let Some(before) = self.last_timestamp.filter(|before| *before < at) {
            let pause = Pause { after_slot: slot.saturating_sub(1), from: before, millis: at - before };
            let place = self.pauses.partition_point(|longer| longer.millis >= pause.millis);
            if place < PAUSES {
                self.pauses.insert(place, pause);
                self.pauses.truncate(PAUSES);
            }
        }
        self.last_timestamp = Some(self.last_timestamp.map_or(at, |last| last.max(at)));
        self.timeline.add(at, updates);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_keeps_every_update_in_few_bars() {
        let mut timeline = Timeline::default();
        let times = [5, 6, 250, 251, 10_000, 10_001, 5 + (1 << 40)];
        times.iter().for_each(|at| timeline.add(*at, 2));
        assert!(timeline.updates.len() <= BARS && timeline.step_millis.is_power_of_two());
        assert_eq!(timeline.updates.iter().sum::<u64>(), 2 * times.len() as u64);
        timeline.add(u64::MAX, 1);
        assert_eq!(timeline.updates.iter().sum::<u64>(), 2 * times.len() as u64 + 1);
    }
}
