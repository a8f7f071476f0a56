//! From a machine's limits to the most that a load could reach on it, with the arithmetic.
//!
//! The ceiling counts what no implementation of this protocol can leave out and leaves out the rest (votes, codec, Merkle nodes, the log's database,
//! the kernel), so it lies above what can be reached: a share of it is a yardstick, not a grade.

use serde::Serialize;

use super::{CryptoLimits, DiskLimits, NetworkLimits, Workload};
use crate::types::byzantine_threshold;

/// Bytes of an update beside its payload, on the wire and in the journal: id, salt, time and lengths.
const UPDATE_OVERHEAD: u64 = 56;
/// Bytes of a submission beside its updates: author, lifetime, signature.
const SUBMISSION_OVERHEAD: u64 = 112;

/// What stops first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// CPU time of all cores.
    Cpu,
    /// Synced writes of all replicas.
    Disk,
}

/// One thing that an update costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Term {
    /// What.
    pub what: &'static str,
    /// The arithmetic.
    pub arithmetic: String,
    /// CPU time for an update, of all processes together, us.
    pub us_per_update: f64,
}

/// The most that a load could reach.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceiling {
    /// Of which load.
    pub load: Workload,
    /// Updates a second.
    pub updates_per_second: f64,
    /// What stops first.
    pub bound: Bound,
    /// What the cores allow.
    pub cpu_updates_per_second: f64,
    /// What the disk allows.
    pub disk_updates_per_second: f64,
    /// What an update costs of CPU.
    pub terms: Vec<Term>,
    /// How both follow from the measurements.
    pub arithmetic: Vec<String>,
}

impl Ceiling {
    pub(super) fn of(load: Workload, cores: usize, disk: &DiskLimits, network: &NetworkLimits, crypto: &CryptoLimits) -> Self {
        let terms = terms(load, network, crypto);
        let bytes = bytes_per_update(load);
        let cpu_us: f64 = terms.iter().map(|term| term.us_per_update).sum();
        let cpu = cores as f64 * 1e6 / cpu_us.max(1e-9);
        let (best_mb, group) = disk.best().map_or((0.0, 0), |best| (best.mb_per_second, best.group_bytes));
        let on_disk = best_mb * 1e6 / (load.replicas as f64 * bytes);
        let bound = if cpu <= on_disk { Bound::Cpu } else { Bound::Disk };
        let arithmetic = vec![
            format!("bytes of an update: {} payload + {UPDATE_OVERHEAD} + {SUBMISSION_OVERHEAD}/{} = {bytes:.0}", load.size, load.submission),
            format!("cpu: {cores} cores * 10^6 us / {cpu_us:.2} us an update = {cpu:.0}/s"),
            format!("disk: {best_mb:.0} MB/s (groups of {} KiB) / ({} replicas * {bytes:.0} B) = {on_disk:.0}/s", group >> 10, load.replicas),
        ];
        let (cpu_updates_per_second, disk_updates_per_second) = (cpu, on_disk);
        Self { load, updates_per_second: cpu.min(on_disk), bound, cpu_updates_per_second, disk_updates_per_second, terms, arithmetic }
    }
}

fn bytes_per_update(load: Workload) -> f64 {
    load.size as f64 + UPDATE_OVERHEAD as f64 + SUBMISSION_OVERHEAD as f64 / load.submission.max(1) as f64
}

/// Every copy, hash and signature check that an update needs, its client's too.
fn terms(load: Workload, network: &NetworkLimits, crypto: &CryptoLimits) -> Vec<Term> {
    let (n, u, quorum) = (load.replicas, load.submission.max(1), byzantine_threshold(load.replicas));
    let CryptoLimits { sign_us, verify_strict_us, sha256_payload_us, .. } = *crypto;
    let bytes = bytes_per_update(load);
    vec![
        Term { what: "the author signs", arithmetic: format!("{sign_us:.1} us / {u} a submission"), us_per_update: sign_us / u as f64 },
        Term {
            what: "each replica checks the author",
            arithmetic: format!("{n} replicas * {verify_strict_us:.1} us / {u} a submission"),
            us_per_update: n as f64 * verify_strict_us / u as f64,
        },
        Term {
            what: "the client checks its receipt",
            arithmetic: format!("a quorum of {quorum} * {verify_strict_us:.1} us / {u} a submission"),
            us_per_update: quorum as f64 * verify_strict_us / u as f64,
        },
        Term {
            what: "payloads are hashed",
            arithmetic: format!("({n} replicas + the client to sign and to check) * {sha256_payload_us:.2} us"),
            us_per_update: (n + 2) as f64 * sha256_payload_us,
        },
        Term {
            what: "payloads are sent and received",
            arithmetic: format!("{n} copies (one in, {} on) * {bytes:.0} B * {:.0} us/MB", n.saturating_sub(1), network.cpu_us_per_mb),
            us_per_update: n as f64 * bytes * network.cpu_us_per_mb / 1e6,
        },
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::GroupLimits;
    use super::*;
    use crate::bench::latency::LatencyMs;

    const NONE: LatencyMs = LatencyMs { p50: 0.0, p90: 0.0, p99: 0.0, p999: 0.0, max: 0.0 };

    fn ceiling(mb_per_second: f64) -> Ceiling {
        let group = |kib: u64, mb_per_second| GroupLimits { group_bytes: kib << 10, mb_per_second, syncs_per_second: 1.0, latency_ms: NONE };
        let disk = DiskLimits { writers: 4, groups: vec![group(4, 1.0), group(256, mb_per_second), group(1024, mb_per_second / 2.0)] };
        let network = NetworkLimits { round_trip_ms: NONE, stream_mb_per_second: 400.0, cpu_us_per_mb: 5_000.0 };
        let crypto = CryptoLimits { sign_us: 16.0, verify_strict_us: 32.0, sha256_payload_us: 0.5, sha256_mb_per_second: 1_000.0 };
        Ceiling::of(Workload { replicas: 4, size: 444, submission: 16 }, 2, &disk, &network, &crypto)
    }

    #[test]
    fn the_arithmetic_is_as_shown() {
        // 444 + 56 + 112/16 bytes; 1 + 8 + 6 + 3 + 4 * 507 * 0.005 us.
        let found = ceiling(1e6);
        let each: Vec<f64> = found.terms.iter().map(|term| term.us_per_update).collect();
        for (found, expected) in each.iter().zip([1.0, 8.0, 6.0, 3.0, 10.14]) {
            assert!((found - expected).abs() < 1e-9, "{each:?}");
        }
        assert!((found.updates_per_second - 2e6 / 28.14).abs() < 1e-3 && found.bound == Bound::Cpu, "{found:?}");
        assert!(found.arithmetic.iter().any(|line| line.contains("28.14 us")), "{found:?}");
    }

    #[test]
    fn a_slow_disk_bounds_by_its_best_group() {
        let found = ceiling(50.7);
        assert!((found.updates_per_second - 50.7e6 / (4.0 * 507.0)).abs() < 1e-3 && found.bound == Bound::Disk, "{found:?}");
    }
}
