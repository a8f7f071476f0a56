//! A running replica's journal holds what was committed, soon after and without further load, however often the replicas gossip.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::io::Write as _;
use std::time::{Duration, Instant};

use stage::{Stage, documents, exofed};

#[test]
fn a_quiet_replica_writes_its_last_certificates() {
    let mut stage = Stage::init();
    for k in 0..4 {
        let mut file = std::fs::OpenOptions::new().append(true).open(stage.path(&format!("replica-{k}/replica.toml"))).unwrap();
        // Gossip comes oftener than the idle sync.
        file.write_all(b"\n[consensus]\ngossip_ms = 20\n").unwrap();
    }
    stage.start();
    assert!(stage.submit(b"{\"data\":\"the last one\"}\n").status.success());
    stage.settle(1);
    let until = Instant::now() + Duration::from_secs(10);
    for k in 0..4 {
        loop {
            let audit = exofed(&["audit", "--json", &stage.text(&format!("replica-{k}")), "--genesis", &stage.text("federation.toml")]);
            let report = documents(&audit).swap_remove(0);
            assert_eq!(report["clean"], true, "{report:#}");
            if report["entries"] == 1 {
                break;
            }
            assert!(Instant::now() < until, "replica {k} keeps its last certificate to itself: {report:#}");
        }
    }
    stage.stop();
}
