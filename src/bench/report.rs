//! What a load run tells.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::limits::Limits;
use super::{Checked, LatencyMs, LoadPlan};

/// A load run: what was asked, whether its result is right, and only then what it reached.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// Replicas.
    pub replicas: u16,
    /// What was offered.
    #[serde(flatten)]
    pub plan: LoadPlan,
    /// How durable a vote is before it leaves: always `fsync`, there is no switch for less.
    pub durability: &'static str,
    /// What the files of all replicas say.
    #[serde(flatten)]
    pub checked: Checked,
    /// The figures; none if the result is wrong.
    #[serde(flatten)]
    pub figures: Option<Figures>,
    /// The directory that was kept.
    pub kept: Option<PathBuf>,
}

/// What was reached. Of the measured time alone, unless said; resources are of one replica each, or the mean over replicas.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Updates acknowledged with a verified receipt, a second.
    pub committed_per_second: f64,
    /// Their payload, 10^6 bytes a second.
    pub mb_per_second: f64,
    /// From when a submission was due to its verified answer; of unanswered ones how long they were waited for. Absent if none was due.
    pub latency_ms: Option<LatencyMs>,
    /// CPU time of each replica, s.
    pub cpu_seconds_per_replica: Vec<f64>,
    /// CPU time of the load generator, s.
    pub cpu_seconds_load: f64,
    /// Resident memory of each replica at the end, MiB.
    pub rss_mb_per_replica: Vec<f64>,
    /// How much the data directory of a replica grew for each update in the log, over the whole run: reserved space included.
    pub disk_bytes_per_update: f64,
    /// What a replica had written to the medium for each update that it committed meanwhile. Absent where the system does not count it.
    pub written_bytes_per_update: Option<f64>,
    /// Groups that a replica's journal wrote and synced, a second.
    pub syncs_per_second: f64,
    /// Updates in a batch. Absent if no batch was committed.
    pub batch_updates_mean: Option<f64>,
    /// View changes, of the replica that saw most, over the whole run.
    pub view_changes: u64,
    /// Updates not acknowledged, over the whole run: refused, of unknown fate, or due and not sent in time.
    pub errors: u64,
    /// Why they were not.
    pub error_reasons: BTreeMap<String, u64>,
    /// Updates that were due and still waited for a place in flight at the end.
    pub not_sent: u64,
    /// Updates due over the whole run.
    pub offered: u64,
    /// Updates acknowledged over the whole run, warm-up included.
    pub acknowledged: u64,
    /// How long was measured, s.
    pub measured_seconds: f64,
    /// What this machine allows, measured before the load in the same directory.
    pub limits: Limits,
    /// `committed_per_second` as a part of the ceiling.
    pub share_of_ceiling: f64,
}
