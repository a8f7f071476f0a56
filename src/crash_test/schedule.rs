//! What is killed when: a function of the seed and the cycle's number, so that the same seed gives the same schedule.

use std::time::Duration;

use crate::failpoint::{CrashAt, Point};

/// How replicas die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KillMode {
    /// One replica or several, at random moments, up to three times a cycle.
    Random,
    /// Replicas kill themselves at named points around writes, syncs and renames.
    Failpoint,
    /// All replicas in one moment.
    AllAtOnce,
}

/// How long updates flow in a cycle.
pub(crate) const LOAD: Duration = Duration::from_millis(600);

/// A seeded generator (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub(crate) const fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let at = self.below(of.len().max(1) as u64);
        of.get(usize::try_from(at).ok()?).copied()
    }

    /// `count` different numbers below `n`, ascending.
    fn some_below(&mut self, count: usize, n: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..n).collect();
        while left.len() > count.max(1) {
            let at = self.below(left.len() as u64);
            left.swap_remove(usize::try_from(at).unwrap_or(0));
        }
        left.sort_unstable();
        left
    }
}

/// Some replicas die.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    /// When, after the cycle's load began.
    pub(crate) at: Duration,
    pub(crate) victims: Vec<usize>,
    /// How long they stay dead.
    pub(crate) down: Duration,
}

/// What happens in one cycle while updates flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// SIGKILL from outside, in this order.
    Kills(Vec<Kill>),
    /// These replicas start anew and kill themselves.
    Failpoints(Vec<(usize, CrashAt)>),
}

/// The plan of a cycle of `n` replicas.
pub(crate) fn plan(mode: KillMode, seed: u64, cycle: u64, n: usize) -> Plan {
    let mut dice = Dice::new(seed ^ cycle.wrapping_mul(0xd6e8_feb8_6659_fd93));
    match mode {
        KillMode::Random => {
            let kills = 1 + dice.below(3);
            let part = u64::try_from(LOAD.as_millis()).unwrap_or(u64::MAX) / kills;
            Plan::Kills((0..kills).map(|k| random_kill(&mut dice, k * part, part, n)).collect())
        }
        KillMode::AllAtOnce => {
            let at = Duration::from_millis(50 + dice.below(450));
            Plan::Kills(vec![Kill { at, victims: (0..n).collect(), down: Duration::ZERO }])
        }
        KillMode::Failpoint => {
            let count = victims(&mut dice, n);
            let replicas = dice.some_below(count, n);
            Plan::Failpoints(replicas.into_iter().filter_map(|replica| Some((replica, crash_at(&mut dice)?))).collect())
        }
    }
}

fn random_kill(dice: &mut Dice, from: u64, within: u64, n: usize) -> Kill {
    let count = victims(dice, n);
    Kill { at: Duration::from_millis(from + dice.below(within)), victims: dice.some_below(count, n), down: Duration::from_millis(dice.below(120)) }
}

/// Mostly one; sometimes any number up to all.
fn victims(dice: &mut Dice, n: usize) -> usize {
    if dice.below(5) < 3 { 1 } else { 1 + usize::try_from(dice.below(n.max(1) as u64)).unwrap_or(0) }
}

fn crash_at(dice: &mut Dice) -> Option<CrashAt> {
    let point = dice.pick(Point::ALL)?;
    let count = if point.is_frequent() { 1 + dice.below(30) } else { 1 };
    Some(CrashAt { point, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_schedule_and_another_has_another() {
        for mode in [KillMode::Random, KillMode::Failpoint, KillMode::AllAtOnce] {
            let plans = |seed| (1..50).map(|cycle| plan(mode, seed, cycle, 4)).collect::<Vec<_>>();
            assert_eq!(plans(7), plans(7), "{mode:?}");
            assert_ne!(plans(7), plans(8), "{mode:?}");
        }
    }

    #[test]
    fn kills_lie_within_the_load_in_order_and_hit_every_replica_and_every_number_of_them() {
        let mut numbers = [0; 5];
        for cycle in 0..400 {
            let Plan::Kills(kills) = plan(KillMode::Random, 1, cycle, 4) else { continue };
            assert!(kills.iter().all(|kill| kill.at < LOAD) && kills.windows(2).all(|pair| pair[0].at <= pair[1].at));
            for kill in kills {
                assert!(kill.victims.windows(2).all(|pair| pair[0] < pair[1]) && kill.victims.iter().all(|v| *v < 4));
                numbers[kill.victims.len()] += 1;
            }
        }
        assert!(numbers[1] > numbers[2] && numbers[1..].iter().all(|count| *count > 0), "{numbers:?}");
    }

    #[test]
    fn every_failpoint_is_reached_by_some_cycle() {
        let mut points = std::collections::BTreeSet::new();
        for cycle in 0..400 {
            if let Plan::Failpoints(armed) = plan(KillMode::Failpoint, 1, cycle, 4) {
                points.extend(armed.iter().map(|(_, at)| at.point));
            }
        }
        assert_eq!(points.len(), Point::ALL.len());
    }
}
