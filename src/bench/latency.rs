//! Latencies: recorded in microseconds, told in milliseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told apart, us: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Many latencies in bounded memory, exact to three digits.
pub(super) struct Latencies(Histogram<u64>);

/// What stands in a report, ms. Each is a value at or below which so many latencies lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyMs {
    /// Half of them.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// All of them.
    pub max: f64,
}

impl Latencies {
    /// None yet. `None` if the histogram refuses its constant bounds, which it does not.
    pub(super) fn new() -> Option<Self> {
        Histogram::new_with_bounds(1, LONGEST_US, 3).ok().map(Self)
    }

    /// One more. Anything longer than ten minutes counts as ten minutes.
    pub(super) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Adds another's.
    pub(super) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so nothing is out of range.
        let _ = self.0.add(&other.0);
    }

    /// The percentiles; `None` of none.
    pub(super) fn summary(&self) -> Option<LatencyMs> {
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1e3;
        (self.count() > 0).then(|| LatencyMs { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: self.0.max() as f64 / 1e3 })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles_are_exact_to_three_digits_and_of_none_there_are_none() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.summary(), None);
        (1..=10_000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let found = latencies.summary().unwrap();
        for (found, expected) in [(found.p50, 5_000.0), (found.p90, 9_000.0), (found.p99, 9_900.0), (found.p999, 9_990.0), (found.max, 10_000.0)] {
            assert!((found / expected - 1.0_f64).abs() < 1e-3, "{found} for {expected}");
        }
        let mut more = Latencies::new().unwrap();
        more.record(Duration::from_secs(3_600));
        latencies.add(&more);
        assert_eq!(latencies.count(), 10_001);
        assert!((latencies.summary().unwrap().max / 600_000.0 - 1.0).abs() < 1e-3);
    }
}
