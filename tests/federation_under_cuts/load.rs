//! Clients that note when they were told what, and check later that it is so.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use exo_federation::client::{Client, Outcome};
use exo_federation::config::ClientFile;
use exo_federation::crypto::Digest;
use exo_federation::node::LogEntry;
use exo_federation::types::{ProofQuery, StateUpdate, UpdateId};
use tokio::runtime::Runtime;

use crate::powercut::monotonic;

/// Submissions in flight.
const IN_FLIGHT: u64 = 12;

/// One acknowledged update, and when its client had verified the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) at: u64,
    pub(crate) sequence: u64,
    pub(crate) slot: u64,
    pub(crate) digest: Digest,
    pub(crate) update_id: String,
}

impl Ack {
    pub(crate) fn write(acks: &[Self]) -> String {
        acks.iter().map(|a| format!("{} {} {} {} {}\n", a.at, a.sequence, a.slot, data_encoding::HEXLOWER.encode(&a.digest.0), a.update_id)).collect()
    }

    pub(crate) fn read(text: &str) -> Vec<Self> {
        let ack = |line: &str| {
            let mut words = line.split(' ');
            let mut number = || words.next().unwrap().parse().unwrap();
            let (at, sequence, slot) = (number(), number(), number());
            let digest = data_encoding::HEXLOWER.decode(words.next().unwrap().as_bytes()).unwrap();
            Self { at, sequence, slot, digest: Digest(digest.try_into().unwrap()), update_id: words.next().unwrap().to_owned() }
        };
        text.lines().map(ack).collect()
    }
}

fn client(config: &Path) -> Client {
    Client::new(ClientFile::load(config).unwrap())
}

/// Clients at work.
pub(crate) struct Load {
    runtime: Runtime,
    acks: Arc<Mutex<Vec<Ack>>>,
    ended: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn begin(config: &Path, recording: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (acks, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (client, next) = (Arc::new(client(config)), Arc::new(AtomicU64::new(0)));
        for _ in 0..IN_FLIGHT {
            let (client, next, acks, ended) = (client.clone(), next.clone(), acks.clone(), ended.clone());
            runtime.spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let update = |part: u64| StateUpdate {
                        update_id: UpdateId(format!("r{recording}-{number}-{part}")),
                        // Some lie in their row, some in a segment only, some over several pages.
                        data: vec![b'a' + (number % 26) as u8; [10, 300, 1_500, 9_000][(number % 4) as usize]],
                        timestamp: number,
                    };
                    let outcome = client.submit(client.sign((0..=number % 3).map(update).collect())).await;
                    let at = monotonic();
                    let Outcome::Committed(proofs) = outcome else { continue };
                    let ack = |p: &exo_federation::proof::CommitProof| Ack {
                        at,
                        sequence: p.leaf.sequence,
                        slot: p.header.slot,
                        digest: p.header.digest(),
                        update_id: p.leaf.update_id.0.clone(),
                    };
                    acks.lock().unwrap().extend(proofs.iter().map(ack));
                }
            });
        }
        Self { runtime, acks, ended }
    }

    /// Waits for so many more acknowledgements.
    pub(crate) fn run_until(&self, more: usize, limit: Duration) {
        let (wanted, until) = (self.acks.lock().unwrap().len() + more, Instant::now() + limit);
        while self.acks.lock().unwrap().len() < wanted {
            assert!(Instant::now() < until, "updates are not committed any more: {} of {wanted}", self.acks.lock().unwrap().len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops; gives every acknowledgement.
    pub(crate) fn end(self) -> Vec<Ack> {
        self.ended.store(true, Ordering::Relaxed);
        self.runtime.shutdown_timeout(Duration::from_millis(200));
        let acks = self.acks.lock().unwrap();
        acks.clone()
    }
}

/// Reads the whole log, and a proof for every acknowledgement, from a running federation.
pub(crate) fn check_all(config: &Path, acks: &[Ack]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = client(config);
        let last = acks.iter().map(|a| a.sequence).max().unwrap_or(0);
        let mut entries: Vec<LogEntry> = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        while (entries.len() as u64) < last {
            assert!(Instant::now() < until, "the log ends at {} of {last} acknowledged", entries.len());
            let next = entries.len() as u64 + 1;
            let Ok(range) = client.read(next, 4 << 20, Duration::from_millis(500)).await else { continue };
            entries.extend(range.batches.iter().flat_map(LogEntry::of_batch).filter(|entry| entry.sequence >= next));
        }
        super::check::holds_once(&entries, acks.iter());
        let seen: BTreeSet<_> = entries.iter().map(|entry| &entry.update.update_id).collect();
        assert_eq!(seen.len(), entries.len(), "an update stands twice in the log");
        for ack in acks {
            let proof = client.proof(&ProofQuery::Sequence(ack.sequence)).await.unwrap().unwrap_or_else(|| panic!("no proof of {ack:?}"));
            assert_eq!((&proof.leaf.update_id.0, proof.header.digest()), (&ack.update_id, ack.digest), "{ack:?}");
        }
    });
}
