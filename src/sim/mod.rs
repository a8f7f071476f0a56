//! The simulator: a whole federation on a seeded clock, network, disk and adversary, in one thread.
//!
//! The core, the pipeline behind it, recovery, the journal and the answers to who catches up are the real ones; the disk, the log's database, the
//! network, the clock and the clients are simulated, and whoever lies is a real replica with a liar in front. A [`Plan`] is drawn from a seed, or read
//! from a file; [`simulate`] runs it and holds every invariant after every event. The same plan always gives the same trace.

mod adversary;
mod campaign;
mod checker;
mod clients;
mod coverage;
mod disk;
mod ending;
mod faults;
mod instance;
mod log;
mod minimise;
mod network;
mod plan;
mod rng;
mod trace;
mod world;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use adversary::Behaviour;
pub use campaign::{Draw, Failure, Tally, campaign};
pub use checker::Violation;
pub use coverage::{EXPECTED, FAULTS};
pub use disk::Damage;
pub use minimise::minimise;
pub use plan::{Action, DiskError, Load, Network, Plan, Protocol, Signatures, Storage, StoredPart, What};
pub use world::Outcome;

/// For the suite that holds the simulated log to the contract of the real one.
#[cfg(test)]
pub(crate) use {
    disk::SimDisk,
    log::{SimMedium, SimStore},
    rng::Rng,
};

/// Runs a plan. A panic breaks an invariant like any other; a plan that describes no federation gives a violation that says so.
#[must_use]
pub fn simulate(plan: &Plan) -> Outcome {
    let failed = |invariant, detail: String| Outcome {
        violation: Some(Violation { invariant, detail, at: 0 }),
        events: 0,
        trace_hash: 0,
        last_events: Vec::new(),
        reached: std::collections::BTreeMap::new(),
        simulated_ms: 0,
    };
    let Some(world) = world::World::new(plan) else {
        return failed("the plan describes a federation", "its parameters are out of bounds".to_owned());
    };
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        failed("23 no panic", said.unwrap_or("a panic without words").to_owned())
    })
}
