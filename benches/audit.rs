//! How fast an audit is, as a share of what the hashing and the strict signature checks of the same history would take by themselves.
//!
//! `EXOFED_AUDIT_UPDATES=10000000 cargo bench --bench audit`; 256 B an update, batches of 256, four members. Both are measured in turns within one
//! run, because only their ratio means anything on a shared machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/faults/history.rs"]
mod history;
#[path = "../tests/stage/mod.rs"]
mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use exo_federation::audit::audit;
use exo_federation::consensus::{batch_of_frame, kind};
use exo_federation::crypto::merkle::Frontier;
use exo_federation::journal::{JournalOptions, JournalReader};
use exo_federation::proof::chain::{check_author_signatures, check_certificate, check_hashes};
use exo_federation::types::{Body, CommitCertificate, CommittedBatch, Federation, Header, decode};
use history::{History, Shape};
use rayon::prelude::*;
use stage::Stage;

const ROUNDS: usize = 3;
/// How many batches the work by itself is measured on; they fit in memory.
const SAMPLE: usize = 1_000;

/// The first batches of a journal, in memory.
fn sample(history: &History, federation: &Federation) -> Vec<CommittedBatch> {
    let journal = history.config().data.journal();
    let reader = JournalReader::open(&journal, Some(federation.id().0.0), &JournalOptions::default()).unwrap();
    let (mut bodies, mut batches): (BTreeMap<_, (Header, Arc<Body>)>, _) = (BTreeMap::new(), Vec::new());
    for frame in reader.segments_from(None).map(Result::unwrap) {
        if frame.kind == kind::COMMITTED {
            let certificate: CommitCertificate = decode(&frame.payload).unwrap();
            let (header, body) = bodies.remove(&certificate.digest).unwrap();
            batches.push(CommittedBatch { header, body, certificate });
        } else if let Ok((header, body)) = batch_of_frame(&frame.payload) {
            bodies.insert(header.digest(), (header, body));
        }
        if batches.len() == SAMPLE {
            break;
        }
    }
    batches
}

/// Hashes and signatures and nothing else, on all cores; entries a second.
fn by_itself(federation: &Federation, batches: &[CommittedBatch]) -> f64 {
    let began = Instant::now();
    let hashed: Vec<_> = batches
        .par_iter()
        .map(|batch| {
            let hashed = check_hashes(federation, batch).unwrap();
            check_certificate(federation, batch).unwrap();
            check_author_signatures(federation, batch, &hashed.digests).unwrap();
            hashed.leaf_hashes
        })
        .collect();
    let mut frontier = Frontier::default();
    hashed.iter().flatten().for_each(|leaf| frontier.append(*leaf));
    assert_eq!(frontier.root(), batches.last().unwrap().header.log_root);
    frontier.size() as f64 / began.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The most memory that this process ever held, MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_024
}

fn main() {
    let updates: u64 = std::env::var("EXOFED_AUDIT_UPDATES").map_or(200_000, |n| n.parse().unwrap());
    let stage = Stage::init();
    let shape = Shape { updates_per_batch: 256, data_bytes: 256, batch_ms: 16, segment_bytes: 64 << 20 };
    let history = History::write(&stage, 0, updates, shape);
    let config = history.config();
    let mut audits = Vec::new();
    for _ in 0..ROUNDS {
        let report = audit(&config.data.0, &config.federation, |_| {}).unwrap();
        assert_eq!(report.entries, updates / 256 * 256);
        audits.push(report.entries_per_second as f64);
    }
    let peak = peak_mib();
    let batches = sample(&history, &config.federation);
    let alone: Vec<f64> = (0..ROUNDS).map(|_| by_itself(&config.federation, &batches)).collect();
    let (audits, alone) = (median(audits), median(alone));
    println!("{updates} updates: audit {audits:.0} entries/s, hashing and signatures by themselves {alone:.0}: {:.0} %", audits / alone * 100.0);
    println!("peak memory of the audit, with writing the history: {peak} MiB");
}
