//! Benchmarks of whole federations, for others to repeat: real replicas and the load generator as processes, and the limits of the machine beside them.
//!
//! `load` runs a plan (`plan`) against a federation: `generator` is the load's process, `usage` what processes and directories take, `check` decides from
//! the stopped replicas' files whether the result is right, and only a right result has figures (`report`). `limits` measures the machine alone. It uses
//! the program as its users do, and may not know the command line.

mod check;
mod error;
mod generator;
mod latency;
mod limits;
mod load;
mod plan;
mod report;
mod usage;

pub(crate) use generator::{Event, generate};

pub use check::{Checked, Verdict};
pub use error::BenchError;
pub use latency::LatencyMs;
pub use limits::{Bound, Ceiling, CryptoLimits, DiskLimits, Effort, GroupLimits, Limits, NetworkLimits, Term, Workload, measure};
pub use load::{Stage, parameters, run};
pub use plan::{LoadPlan, Rate, client_file};
pub use report::{Figures, LoadReport};
