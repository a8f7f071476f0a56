//! The parameters that all replicas of a federation must agree on; part of the genesis, hashed into the federation's id.

use serde::{Deserialize, Serialize};

use super::GenesisError;
use crate::crypto::{Canonical, Sink};

/// Agreed parameters, each with its default. Times are milliseconds, sizes bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// L: how many slots above the stable checkpoint may be in progress.
    pub window_slots: u64,
    /// K: a checkpoint every so many slots. At most half of `window_slots`.
    pub checkpoint_slots: u64,
    /// The most updates in one batch.
    pub max_batch_updates: u64,
    /// The most bytes of one batch, as encoded.
    pub max_batch_bytes: u64,
    /// The most updates in one submission.
    pub max_submission_updates: u64,
    /// The most payload bytes of one update.
    pub max_data_bytes: u64,
    /// How far behind the header's timestamp `not_after` may lie: an author's longest time to retry.
    pub max_lifetime_ms: u64,
    /// How far a fresh proposal's timestamp may be from a replica's clock. At most half of `max_lifetime_ms`: a submission must outlast it.
    pub max_drift_ms: u64,
    /// The most (author, update id) pairs remembered at a time; beyond it the federation answers "busy".
    pub max_live_ids: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            window_slots: 256,
            checkpoint_slots: 64,
            max_batch_updates: 16_384,
            max_batch_bytes: 4 << 20,
            max_submission_updates: 1_024,
            max_data_bytes: 1 << 20,
            max_lifetime_ms: 600_000,
            max_drift_ms: 10_000,
            max_live_ids: 2_000_000,
        }
    }
}

impl Parameters {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`GenesisError::Parameter`] names the first key out of bounds.
    pub fn validate(&self) -> Result<(), GenesisError> {
        let within = |key: &'static str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) { Ok(()) } else { Err(GenesisError::Parameter { key, value, low, high }) }
        };
        within("window_slots", self.window_slots, 2, 4_096)?;
        within("checkpoint_slots", self.checkpoint_slots, 1, self.window_slots / 2)?;
        within("max_batch_updates", self.max_batch_updates, 1, 65_536)?;
        within("max_batch_bytes", self.max_batch_bytes, 4 << 10, 32 << 20)?;
        within("max_submission_updates", self.max_submission_updates, 1, self.max_batch_updates)?;
        within("max_data_bytes", self.max_data_bytes, 1, self.max_batch_bytes / 2)?;
        within("max_lifetime_ms", self.max_lifetime_ms, 1_000, 30 * 24 * 3_600_000)?;
        within("max_drift_ms", self.max_drift_ms, 10, self.max_lifetime_ms / 2)?;
        within("max_live_ids", self.max_live_ids, self.max_batch_updates, 100_000_000)
    }

    pub(super) fn write<S: Sink>(&self, out: Canonical<S>) -> Canonical<S> {
        [
            self.window_slots,
            self.checkpoint_slots,
            self.max_batch_updates,
            self.max_batch_bytes,
            self.max_submission_updates,
            self.max_data_bytes,
            self.max_lifetime_ms,
            self.max_drift_ms,
            self.max_live_ids,
        ]
        .into_iter()
        .fold(out, Canonical::u64)
    }
}
