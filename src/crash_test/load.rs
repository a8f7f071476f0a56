//! Updates that flow while replicas die, and the acknowledgements that come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::acks::Ack;
use super::schedule::Dice;
use crate::client::{Client, Outcome};
use crate::types::{StateUpdate, UpdateId};

/// Submissions in flight. Enough to keep every replica writing, few enough that a thousand cycles fit a disk.
const WORKERS: u64 = 8;
/// The longest pause of a worker between two submissions.
const PAUSE_MS: u64 = 120;

/// What came of one submission.
pub(crate) enum Fate {
    /// Acknowledged, each update with its place.
    Acked(Vec<Ack>),
    /// Nobody could tell in time; it may have been committed.
    Unknown(String),
    /// Ids never used before were refused: a federation that forgets nothing and invents nothing does not do that.
    Refused(String),
}

/// A load that is running. It is stopped and drained by [`Load::finish`]; dropping it aborts what is in flight.
pub(crate) struct Load {
    running: Arc<AtomicBool>,
    workers: JoinSet<()>,
}

/// Makes updates with ids that never repeat within a run.
pub(crate) struct Source {
    run: String,
    next: AtomicU64,
}

impl Source {
    /// `run` tells the ids of one run from those of another in the same log.
    pub(crate) fn new(run: String) -> Self {
        Self { run, next: AtomicU64::new(1) }
    }

    /// A few updates, now and then one that is too large to stand inline in the log.
    fn updates(&self, dice: &mut Dice) -> Vec<StateUpdate> {
        let count = 1 + dice.below(8);
        let large = dice.below(40) == 0;
        (0..count)
            .map(|_| {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let bytes = if large { 2_000 + dice.below(6_000) } else { dice.below(200) };
                let data = (0..bytes).map(|_| dice.roll().to_le_bytes()[0]).collect();
                StateUpdate { update_id: UpdateId(format!("{}-{number}", self.run)), data, timestamp: number }
            })
            .collect()
    }
}

impl Load {
    /// Lets updates flow; their fates go to `fates`.
    pub(crate) fn start(client: &Arc<Client>, source: &Arc<Source>, seed: u64, fates: &mpsc::UnboundedSender<Fate>) -> Self {
        let running = Arc::new(AtomicBool::new(true));
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (client, source, running, fates) = (client.clone(), source.clone(), running.clone(), fates.clone());
            let mut dice = Dice::new(seed.wrapping_add(worker << 32));
            workers.spawn(async move {
                while running.load(Ordering::Relaxed) {
                    let fate = submit(&client, source.updates(&mut dice)).await;
                    if fates.send(fate).is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(dice.below(PAUSE_MS))).await;
                }
            });
        }
        Self { running, workers }
    }

    /// Begins nothing new and waits until the fate of everything in flight is known.
    pub(crate) async fn finish(mut self) {
        self.running.store(false, Ordering::Relaxed);
        while self.workers.join_next().await.is_some() {}
    }
}

/// Submits one update and waits for its fate.
pub(crate) async fn probe(client: &Client, source: &Source, dice: &mut Dice) -> Fate {
    let mut updates = source.updates(dice);
    updates.truncate(1);
    submit(client, updates).await
}

async fn submit(client: &Client, updates: Vec<StateUpdate>) -> Fate {
    match client.submit(client.sign(updates)).await {
        Outcome::Committed(proofs) => Fate::Acked(proofs.iter().map(Ack::of).collect()),
        Outcome::Conflict(ids) => Fate::Refused(format!("conflict: {}", ids.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join(", "))),
        Outcome::Rejected(reason) => Fate::Refused(format!("rejected: {reason}")),
        Outcome::Expired => Fate::Unknown("expired".into()),
        Outcome::Unknown(why) => Fate::Unknown(why),
    }
}
