//! A Byzantine-fault-tolerant, durable, replicated log.
//!
//! The members of a federation, who do not fully trust each other, run one replica each. They agree by PBFT on the order of
//! [`types::StateUpdate`]s, and each appends every committed update to its log with the proof that a Byzantine quorum signed.
//! `ARCHITECTURE.md` is the map of the modules and says what must never be.

pub mod api;
pub mod audit;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod consensus;
mod crash_test;
pub mod crypto;
mod error;
pub mod export;
mod failpoint;
pub mod journal;
pub mod net;
pub mod node;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod process;
pub mod proof;
pub mod recovery;
pub mod sim;
pub mod store;
pub mod types;

pub use error::FederationError;
