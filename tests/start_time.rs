//! How long a start takes does not grow with the log: it reads the tail since the stable checkpoint, and what may still be a duplicate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "faults/history.rs"]
mod history;
mod stage;

use std::time::Instant;

use exo_federation::audit::audit;
use exo_federation::crypto::SigningKey;
use exo_federation::recovery::{Inputs, RecoveryReport, recover};
use history::{History, Shape};
use stage::Stage;

/// Starts a replica whose journal is given and whose log, after the first time, is there; gives the report and how long it took.
fn start(history: &History) -> (RecoveryReport, f64) {
    let config = history.config();
    let inputs = Inputs {
        key: SigningKey::from_seed(&config.secret.consensus_key().seed()),
        federation: config.federation,
        me: config.me,
        core: config.core,
        journal: config.journal,
        store: config.store,
        nonce: 0,
    };
    let began = Instant::now();
    let mut recovered = recover(&config.data, inputs).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    recovered.store.sync().unwrap();
    (recovered.report, seconds)
}

#[test]
fn a_start_reads_the_tail_and_not_the_log() {
    let stage = Stage::init();
    // An hour of history at the least: a tenth of it may still hold duplicates.
    let shape = Shape { updates_per_batch: 4, data_bytes: 256, batch_ms: 30_000, segment_bytes: 64 << 10 };
    let mut read = Vec::new();
    for (replica, updates) in [(0, 1_000), (1, 4_000)] {
        let history = History::write(&stage, replica, updates, shape);
        let (first, _) = start(&history);
        assert_eq!((first.appended * 4, first.log_head), (updates, updates), "the first start builds the log from the journal");
        let (report, _) = start(&history);
        assert_eq!((report.log_head, report.appended, &report.suspect), (updates, 0, &None));
        read.push(report.journal_records);
    }
    assert!(read[1] < 400 && read[1] < read[0] * 2, "four times the log, and {read:?} records read");
}

/// `EXOFED_START_UPDATES=50000,500000 cargo test --release --test start_time -- --ignored --nocapture`
#[test]
#[ignore = "measures; takes minutes"]
fn measure() {
    let sizes = std::env::var("EXOFED_START_UPDATES").unwrap_or_else(|_| "50000,500000".into());
    for updates in sizes.split(',').map(|n| n.parse::<u64>().unwrap()) {
        for batch_ms in [16, 4_000] {
            let stage = Stage::init();
            let shape = Shape { updates_per_batch: 400, data_bytes: 256, batch_ms, segment_bytes: 64 << 20 };
            let history = History::write(&stage, 0, updates, shape);
            let (built, seconds) = start(&history);
            println!(
                "{updates} updates, a batch every {batch_ms} ms: built from the journal in {seconds:.2} s, {:.0} entries/s",
                updates as f64 / seconds
            );
            assert_eq!(built.log_head, updates);
            let times: Vec<f64> = (0..5).map(|_| start(&history).1).collect();
            let (report, _) = start(&history);
            println!("  start: {times:.3?} s, {} records read", report.journal_records);
            let began = Instant::now();
            let audited = audit(&history.config().data.0, &history.config().federation, |_| {}).unwrap();
            assert!(audited.clean, "{:?}", audited.findings);
            println!("  audit: {:.0} entries/s", updates as f64 / began.elapsed().as_secs_f64());
        }
    }
}
