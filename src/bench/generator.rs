//! The load generator, which runs as a process of its own: submissions at their times, and what came of each.
//!
//! In an open loop each submission has a time at which it is due, whatever became of those before it, and its latency counts from that time: a
//! federation that stops for a second is not spared the submissions of that second (no coordinated omission).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::latency::{Latencies, LatencyMs};
use super::plan::client_file;
use super::{BenchError, LoadPlan, Rate};
use crate::client::{Client, Outcome};
use crate::config::ClientFile;
use crate::proof::CommitProof;
use crate::types::{Request, Sequence, Slot, StateUpdate, UpdateId};

/// Where the generator leaves proofs that it was given, for the audit to hold against every log.
pub(super) const PROOFS_DIR: &str = "acknowledged";
/// So many of them at most, of batches spread over the run; and the newest.
const PROOFS_KEPT: usize = 512;
/// What is due at the very end is still sent, if it is no later than this.
const GRACE: Duration = Duration::from_millis(5);
/// Different reasons that are kept apart; the rest are counted together.
const REASONS: usize = 16;

/// What the generator says, one JSON document a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The warm-up is over.
    Measuring,
    /// The measured time is over; what is in flight is waited for.
    Measured,
    /// The fate of every submission is known.
    Done(Box<Generated>),
}

/// What came of all submissions, in updates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Generated {
    /// Due from the beginning to the end.
    pub(crate) offered: u64,
    /// Acknowledged with a receipt that verified.
    pub(crate) acknowledged: u64,
    /// Those of them whose answer came while it was measured.
    pub(crate) measured: u64,
    /// Of unknown fate: they may have been committed.
    pub(crate) unknown: u64,
    /// Refused by f + 1 replicas.
    pub(crate) refused: u64,
    /// Due, but still waiting for a place in flight when the time was over.
    pub(crate) not_sent: u64,
    /// Sequence numbers that two acknowledgements named.
    pub(crate) repeated: u64,
    /// The highest sequence number acknowledged.
    pub(crate) highest: Sequence,
    /// Of the submissions due while it was measured.
    pub(crate) latency_ms: Option<LatencyMs>,
    /// Why updates were not acknowledged, and how many each.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The times of a run.
#[derive(Clone, Copy)]
struct Times {
    begin: Instant,
    measured_from: Instant,
    end: Instant,
}

/// What all submissions share.
struct Generator {
    plan: LoadPlan,
    times: Times,
    tally: Mutex<Tally>,
}

/// Runs the load and says what becomes of it.
pub(crate) async fn generate(dir: &Path, plan: LoadPlan, mut tell: impl FnMut(&Event)) -> Result<(), BenchError> {
    let clients = connect(dir, plan.clients).await?;
    let begin = Instant::now();
    let measured_from = begin + Duration::from_secs(plan.warmup);
    let times = Times { begin, measured_from, end: measured_from + Duration::from_secs(plan.seconds) };
    let tally = Tally::new().ok_or_else(|| BenchError::Generator("no histogram".into()))?;
    let generator = Arc::new(Generator { plan, times, tally: Mutex::new(tally) });
    let mut running = match generator.plan.rate {
        Rate::Max => generator.closed_loop(&clients),
        Rate::PerSecond(rate) => generator.open_loop(&clients, rate)?,
    };
    tokio::time::sleep_until(times.measured_from.into()).await;
    tell(&Event::Measuring);
    tokio::time::sleep_until(times.end.into()).await;
    tell(&Event::Measured);
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| BenchError::Generator(error.to_string()))?;
    }
    let generated = generator.tally.lock().finish();
    generator.tally.lock().proofs.write(&dir.join(PROOFS_DIR))?;
    tell(&Event::Done(Box::new(generated)));
    Ok(())
}

/// One client per author, connected, so that no handshake is measured.
async fn connect(dir: &Path, clients: u16) -> Result<Vec<Arc<Client>>, BenchError> {
    let mut connected = Vec::new();
    for client in 0..clients {
        let client = Arc::new(Client::new(ClientFile::load(&dir.join(client_file(client)))?));
        let timeout = Duration::from_millis(client.options().attempt_timeout_ms);
        client.ask(0, &Request::Status, timeout).await.map_err(|error| BenchError::Generator(error.to_string()))?;
        connected.push(client);
    }
    Ok(connected)
}

impl Generator {
    /// Each client keeps so many submissions in flight; a new one begins when an answer comes.
    fn closed_loop(self: &Arc<Self>, clients: &[Arc<Client>]) -> JoinSet<()> {
        let mut running = JoinSet::new();
        let places = clients.iter().flat_map(|client| (0..self.plan.in_flight).map(move |_| client));
        let step = clients.len() as u64 * u64::from(self.plan.in_flight);
        for (first, client) in places.enumerate() {
            let (generator, client) = (self.clone(), client.clone());
            running.spawn(async move {
                let mut number = first as u64;
                while Instant::now() < generator.times.end {
                    generator.submit(&client, number, Instant::now()).await;
                    number += step;
                }
            });
        }
        running
    }

    /// Every client takes its submissions when they are due, and waits for a place in flight.
    fn open_loop(self: &Arc<Self>, clients: &[Arc<Client>], rate: u64) -> Result<JoinSet<()>, BenchError> {
        let mut running = JoinSet::new();
        let mut queues = Vec::new();
        for client in clients {
            let (queue, due) = mpsc::unbounded_channel();
            queues.push(queue);
            running.spawn(self.clone().take_due(client.clone(), due));
        }
        let (times, interval) = (self.times, self.plan.submission as f64 / rate as f64);
        // A thread sleeps to some 60 us; the runtime's timer would round to a millisecond, which is what is to be measured.
        let pace = move || {
            for number in 0u64.. {
                let due = times.begin + Duration::from_secs_f64(number as f64 * interval);
                if due >= times.end {
                    return;
                }
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let Some(queue) = usize::try_from(number).ok().and_then(|number| queues.get(number % queues.len())) else { return };
                if queue.send((number, due)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("pace".into()).spawn(pace).map_err(|error| BenchError::Generator(error.to_string()))?;
        Ok(running)
    }

    async fn take_due(self: Arc<Self>, client: Arc<Client>, mut due: mpsc::UnboundedReceiver<(u64, Instant)>) {
        let places = Arc::new(Semaphore::new(usize::from(self.plan.in_flight)));
        let mut in_flight = JoinSet::new();
        while let Some((number, at)) = due.recv().await {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while in_flight.try_join_next().is_some() {}
            let now = Instant::now();
            if now >= self.times.end && now.saturating_duration_since(at) > GRACE {
                self.tally.lock().not_sent(&self.plan, self.times, at);
                continue;
            }
            let (generator, client) = (self.clone(), client.clone());
            in_flight.spawn(async move {
                generator.submit(&client, number, at).await;
                drop(place);
            });
        }
        while in_flight.join_next().await.is_some() {}
    }

    async fn submit(&self, client: &Client, number: u64, due: Instant) {
        let submission = client.sign(self.updates(number));
        let outcome = client.submit(submission).await;
        self.tally.lock().take(&self.plan, self.times, due, outcome);
    }

    /// The updates of a submission: ids that never repeat, payloads that do not compress.
    fn updates(&self, number: u64) -> Vec<StateUpdate> {
        let first = number * self.plan.submission;
        (first..first + self.plan.submission)
            .map(|update| StateUpdate {
                update_id: UpdateId(format!("bench-{update:010}")),
                data: payload(update, self.plan.size),
                timestamp: update,
            })
            .collect()
    }
}

/// Bytes that look random and are a function of the update's number (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
fn payload(update: u64, size: u64) -> Vec<u8> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut state = update.wrapping_mul(0xd134_2543_de82_ef95);
    let mut data = Vec::with_capacity(size + 8);
    while data.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        data.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    data.truncate(size);
    data
}

/// What came of the submissions so far.
struct Tally {
    so_far: Generated,
    latencies: Latencies,
    sequences: Vec<Sequence>,
    proofs: Proofs,
}

impl Tally {
    fn new() -> Option<Self> {
        let latencies = Latencies::new()?;
        Some(Self { so_far: Generated::default(), latencies, sequences: Vec::new(), proofs: Proofs::default() })
    }

    fn take(&mut self, plan: &LoadPlan, times: Times, due: Instant, outcome: Outcome) {
        let now = Instant::now();
        self.so_far.offered += plan.submission;
        // What was not acknowledged counts with the time for which it was waited: it would have taken longer.
        self.record(times, due, now);
        let (count, error) = match outcome {
            Outcome::Committed(proofs) => {
                let committed = proofs.len() as u64;
                self.so_far.acknowledged += committed;
                if (times.measured_from..times.end).contains(&now) {
                    self.so_far.measured += committed;
                }
                self.sequences.extend(proofs.iter().map(|proof| proof.leaf.sequence));
                return self.proofs.keep(proofs);
            }
            Outcome::Conflict(ids) => (&mut self.so_far.refused, format!("conflict with {} ids never used before", ids.len())),
            Outcome::Rejected(why) => (&mut self.so_far.refused, why),
            Outcome::Expired => (&mut self.so_far.unknown, "expired".to_owned()),
            Outcome::Unknown(why) => (&mut self.so_far.unknown, why),
        };
        *count += plan.submission;
        self.count_error(error, plan.submission);
    }

    fn not_sent(&mut self, plan: &LoadPlan, times: Times, due: Instant) {
        self.so_far.offered += plan.submission;
        self.so_far.not_sent += plan.submission;
        self.record(times, due, Instant::now());
    }

    fn record(&mut self, times: Times, due: Instant, now: Instant) {
        if (times.measured_from..times.end).contains(&due) {
            self.latencies.record(now.saturating_duration_since(due));
        }
    }

    fn count_error(&mut self, error: String, updates: u64) {
        let errors = &mut self.so_far.errors;
        let error = if errors.len() < REASONS || errors.contains_key(&error) { error } else { "other reasons".to_owned() };
        *errors.entry(error).or_default() += updates;
    }

    fn finish(&mut self) -> Generated {
        self.sequences.sort_unstable();
        self.so_far.repeated = self.sequences.windows(2).filter(|pair| pair.first() == pair.last()).count() as u64;
        self.so_far.highest = self.sequences.last().copied().unwrap_or(0);
        self.so_far.latency_ms = self.latencies.summary();
        self.so_far.clone()
    }
}

/// Proofs of some batches, as far apart as it takes to keep few.
#[derive(Default)]
struct Proofs {
    by_slot: BTreeMap<Slot, CommitProof>,
    /// Slots are kept that two to this power divides.
    sparseness: u32,
    newest: Option<CommitProof>,
}

impl Proofs {
    fn keep(&mut self, mut proofs: Vec<CommitProof>) {
        let Some(last) = proofs.pop() else { return };
        let slot = last.header.slot;
        if slot.trailing_zeros() >= self.sparseness && !self.by_slot.contains_key(&slot) {
            self.by_slot.insert(slot, last.clone());
            if self.by_slot.len() > PROOFS_KEPT {
                self.sparseness += 1;
                self.by_slot.retain(|slot, _| slot.trailing_zeros() >= self.sparseness);
            }
        }
        if self.newest.as_ref().is_none_or(|newest| newest.leaf.sequence < last.leaf.sequence) {
            self.newest = Some(last);
        }
    }

    fn write(&self, dir: &Path) -> Result<(), BenchError> {
        fs::create_dir_all(dir).map_err(BenchError::io(dir))?;
        for proof in self.by_slot.values().chain(&self.newest) {
            let bytes = proof.to_bytes().map_err(|error| BenchError::Generator(error.to_string()))?;
            let path = dir.join(format!("{}.proof", proof.leaf.sequence));
            fs::write(&path, bytes).map_err(BenchError::io(&path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan() -> LoadPlan {
        LoadPlan { size: 100, submission: 4, rate: Rate::Max, clients: 1, in_flight: 1, seconds: 2, warmup: 1 }
    }

    fn times() -> Times {
        let begin = Instant::now().checked_sub(Duration::from_millis(1_500)).unwrap();
        Times { begin, measured_from: begin + Duration::from_secs(1), end: begin + Duration::from_secs(3) }
    }

    #[test]
    fn payloads_have_their_size_and_differ() {
        for size in [0, 1, 7, 8, 9, 512] {
            assert_eq!(payload(1, size).len() as u64, size);
        }
        assert_ne!(payload(1, 64), payload(2, 64));
        assert_eq!(payload(9, 64), payload(9, 64));
    }

    #[test]
    fn what_is_not_acknowledged_counts_with_its_age_from_when_it_was_due() {
        let (mut tally, times) = (Tally::new().unwrap(), times());
        let due = times.measured_from + Duration::from_millis(100);
        tally.take(&plan(), times, due, Outcome::Unknown("nobody answered".into()));
        tally.not_sent(&plan(), times, due);
        // Due in the warm-up: its latency does not count.
        tally.take(&plan(), times, times.begin, Outcome::Rejected("a rule".into()));
        let found = tally.finish();
        assert_eq!((found.offered, found.unknown, found.not_sent, found.refused, found.acknowledged), (12, 4, 4, 4, 0));
        assert_eq!(tally.latencies.count(), 2);
        assert!(found.latency_ms.unwrap().p50 >= 399.0, "{found:?}");
        assert_eq!(found.errors.values().sum::<u64>(), 8);
    }

    #[test]
    fn reasons_are_bounded() {
        let mut tally = Tally::new().unwrap();
        (0..100).for_each(|reason| tally.count_error(reason.to_string(), 1));
        assert_eq!((tally.so_far.errors.len(), tally.so_far.errors["other reasons"]), (REASONS + 1, 100 - REASONS as u64));
    }
}
