//! The crash test: whether this machine keeps what a federation acknowledged, while real processes with real files die.
//!
//! Acknowledgements are kept outside the processes under test: in this process (`local`), or by a witness on another machine (`power`). After
//! every crash `checker` reads each replica's log from that replica, verifies it against the genesis, and looks every acknowledgement up; `signed`
//! is the ledger of who signed what. `schedule` is a function of the seed, `fleet` the processes, `load` the updates, `preflight` a look at the
//! medium, `report` what is told. It uses the program as its users do, and may not know the command line.

mod acks;
mod checker;
mod error;
mod finding;
mod fleet;
mod load;
mod local;
mod power;
mod preflight;
mod reference;
mod report;
mod schedule;
mod signed;
mod stats;
mod whole;
mod wire;
mod witness;

pub(crate) use fleet::{parameters, prepare, quiet_base_port};
pub(crate) use local::{LocalOptions, LocalTest};
pub(crate) use power::{PowerCheck, PowerLoad, holds_federation};
pub(crate) use preflight::{Preflight, look};
pub(crate) use report::{CrashReport, Verdict};
pub(crate) use schedule::KillMode;
pub(crate) use witness::Witness;
