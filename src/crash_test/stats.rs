//! The few numbers that a report rests on.

use serde::Serialize;

/// The p-th percentile (0 to 100) of samples, by nearest rank: a value that was really measured. `None` of none.
pub(crate) fn percentile(samples: &[u64], p: u64) -> Option<u64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() as u64 * p.min(100)).div_ceil(100).max(1);
    sorted.get(usize::try_from(rank - 1).ok()?).copied()
}

/// Median and 99th percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

impl Spread {
    /// Of samples; `None` of none.
    pub(crate) fn of(samples: &[u64]) -> Option<Self> {
        Some(Self { p50: percentile(samples, 50)?, p99: percentile(samples, 99)? })
    }
}

/// What N cycles without a loss say of the next one, at 95 % (the rule of three): its chance of a loss is below this. 1 if they say nothing.
pub(crate) fn loss_below(clean_cycles: u64) -> f64 {
    // Counts of cycles are far below 2^53.
    #[allow(clippy::cast_precision_loss, reason = "see above")]
    let n = clean_cycles as f64;
    if clean_cycles == 0 { 1.0 } else { (3.0 / n).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values_by_nearest_rank() {
        let samples: Vec<u64> = (1..=100).rev().collect();
        assert_eq!((percentile(&samples, 50), percentile(&samples, 99), percentile(&samples, 100)), (Some(50), Some(99), Some(100)));
        assert_eq!((percentile(&[7], 0), percentile(&[7], 50), percentile(&[7], 99)), (Some(7), Some(7), Some(7)));
        assert_eq!(percentile(&[1, 9], 50), Some(1));
        assert_eq!(percentile(&[1, 9], 51), Some(9));
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(Spread::of(&[3, 1, 2]), Some(Spread { p50: 2, p99: 3 }));
    }

    #[test]
    fn the_rule_of_three_never_promises_more_than_it_can() {
        assert!((loss_below(1_000) - 0.003).abs() < 1e-12);
        // The exact bound, 1 - 0.05^(1/N), is a little smaller: the rule errs to the safe side.
        for n in [10u32, 100, 1_000, 100_000] {
            let exact = 1.0 - 0.05f64.powf(1.0 / f64::from(n));
            let rule = loss_below(u64::from(n));
            assert!(rule >= exact && rule < exact * 1.2, "{n}: {rule} against {exact}");
        }
        assert!((loss_below(0) - 1.0).abs() < 1e-12 && (loss_below(2) - 1.0).abs() < 1e-12);
    }
}
