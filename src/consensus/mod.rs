//! The protocol core: hash-chained PBFT with a stable leader and a window of slots in flight (Castro and Liskov, OSDI 1999).
//!
//! A replica is a deterministic function of its events: [`Replica::handle`] takes one [`Event`] and gives one [`Step`]. A step's records are
//! made durable first, in order; only then do its effects run, and never before those of an earlier step. Only a leader's proposals leave at
//! once. Protocol state changes through [`Replica::replay`]'s records alone, live and in recovery alike.
//!
//! This module knows no clock, thread, file, socket or random source: time comes with each event. `docs/protocol.md` tells the rules as prose;
//! the files follow its chapters:
//!
//! - `verify`: the gate, stateless checks outside the core's thread;
//! - `safety`: the only holder of the key;
//! - `record`: what is durable;
//! - `submit`, `propose`, `accept`, `vote`: the normal case;
//! - `view_change`, `checkpoint`, `catch_up`, `gossip`, `rejoin`: everything else;
//! - `duplicates`, `pool`, `state`: what they work on; `inspect`: for the simulator.

mod accept;
mod accuse;
mod catch_up;
mod checkpoint;
mod duplicates;
mod gossip;
mod inspect;
mod pool;
mod propose;
mod record;
mod rejoin;
mod safety;
mod state;
mod submit;
mod verify;
mod view_change;
mod vote;

#[cfg(test)]
mod tests;

pub use duplicates::DuplicateTable;
pub use inspect::Place;
pub use pool::{Ticket, Waiter};
pub use record::{Part, Record, RecordError, batch_of_frame, header_of_frame, kind, proposal_of_frame};
pub use rejoin::Suspicion;
pub use safety::{Safety, SafetyError};
pub use state::{CoreStatus, Replica, Tip};
pub use verify::{Checked, CheckedBatch, CheckedBody, CheckedProposal, CheckedSubmission, Refusal, Verified, Verifier};
pub use view_change::choose;

use serde::{Deserialize, Serialize};

use crate::crypto::merkle::Frontier;
use crate::types::{Checkpoint, CommitCertificate, ConsensusMessage, Convicted, Header, ReplicaIndex, Slot, SubmitOutcome, TimestampMs, View};

/// Both times of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// The wall clock, ms since the Unix epoch: only for header timestamps. It may jump.
    pub wall: TimestampMs,
    /// A monotonic clock, ms since any start: for every timer.
    pub mono: u64,
}

/// What a replica may decide for itself. Times in ms, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoreOptions {
    /// How many slots the leader keeps uncommitted at most.
    pub pipeline_slots: u64,
    /// Below so many uncommitted slots the leader proposes whatever is waiting; above, only full batches.
    pub eager_slots: u64,
    /// Without any commit for so long while something is pending, the replica complains.
    pub stall_timeout_ms: u64,
    /// A submission pending for so long makes the replica complain, whatever else is committed.
    pub request_timeout_ms: u64,
    /// The longest either timeout grows to; both double with each view change that brings no commit.
    pub max_timeout_ms: u64,
    /// How often the replica tells its peers where it stands.
    pub gossip_ms: u64,
    /// Behind its peers and without a commit for so long, it fetches committed batches.
    pub catch_up_after_ms: u64,
    /// How far ahead of the next slot proposals are kept until they can be judged.
    pub buffered_proposal_slots: u64,
    /// How many bytes of them, for the current view and for later ones each.
    pub buffered_proposal_bytes: u64,
    /// The most bytes of pending submissions.
    pub pool_bytes: u64,
    /// The most bytes of one author's pending submissions.
    pub pool_author_bytes: u64,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self {
            pipeline_slots: 32,
            eager_slots: 2,
            stall_timeout_ms: 700,
            request_timeout_ms: 3_000,
            max_timeout_ms: 30_000,
            gossip_ms: 50,
            catch_up_after_ms: 150,
            buffered_proposal_slots: 64,
            buffered_proposal_bytes: 64 << 20,
            pool_bytes: 64 << 20,
            pool_author_bytes: 32 << 20,
        }
    }
}

/// What happens to a replica.
#[derive(Debug)]
pub enum Event {
    /// A checked message from a member.
    Message {
        /// Who sent it.
        from: ReplicaIndex,
        /// The message.
        message: Verified<Checked>,
    },
    /// A client's submission, and who waits for its fate.
    Submit {
        /// The submission.
        submission: Verified<CheckedSubmission>,
        /// Whom to answer.
        waiter: Waiter,
    },
    /// The log is flushed and synced up to this checkpoint.
    LogDurable(Checkpoint),
    /// Committed batches from one peer, in order.
    CaughtUp {
        /// Who gave them.
        from: ReplicaIndex,
        /// The batches.
        batches: Vec<Verified<CheckedBatch>>,
    },
    /// A peer did not give them.
    CatchUpFailed {
        /// Who was asked.
        from: ReplicaIndex,
    },
    /// Time passed.
    Tick,
}

/// Who waits for a submission in a delivered batch, and where in the batch it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whom to answer.
    pub ticket: Ticket,
    /// How many updates of the batch stand before it.
    pub offset: u64,
    /// How many updates it has.
    pub count: u64,
}

/// A committed batch for the log.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The header.
    pub header: Header,
    /// The quorum's commits.
    pub certificate: CommitCertificate,
    /// The body.
    pub body: CheckedBody,
    /// The tree's frontier before the batch.
    pub before: Frontier,
    /// Who waits for it.
    pub answers: Vec<Answer>,
    /// Whether the log is to be synced behind it, and [`Event::LogDurable`] sent.
    pub checkpoint: bool,
}

/// Why a replica must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// A quorum certified something that contradicts what this replica committed.
    #[error("the federation forked at slot {slot}: more than f members are faulty, or this replica's log is not the federation's")]
    Fork {
        /// Where.
        slot: Slot,
    },
    /// A quorum certified a root that does not follow from the log.
    #[error("the root that a quorum certified at slot {slot} does not follow from the log before it")]
    Root {
        /// Where.
        slot: Slot,
    },
}

/// What a step asks the driver to do.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub enum Effect {
    /// Send to one member.
    Send {
        /// To whom.
        to: ReplicaIndex,
        /// What.
        message: ConsensusMessage,
    },
    /// Send to all other members.
    Broadcast(ConsensusMessage),
    /// Append to the log.
    Deliver(Box<Delivery>),
    /// Answer a client.
    Answer {
        /// Whom.
        ticket: Ticket,
        /// What became of its submission.
        outcome: SubmitOutcome,
    },
    /// Ask a member for committed batches; answer with [`Event::CaughtUp`] or [`Event::CatchUpFailed`].
    CatchUp {
        /// Whom to ask.
        peer: ReplicaIndex,
        /// The first slot wanted.
        from_slot: Slot,
    },
    /// A member contradicted itself, or another rule that convicts.
    Evidence(Box<Convicted>),
    /// A view began.
    ViewEntered {
        /// Which.
        view: View,
        /// Why the one before it was left.
        reason: &'static str,
    },
    /// Stop, and say why.
    Halt(Halt),
}

/// The answer to an event: records, then effects.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Step {
    /// The replica has rejoined: its voting record begins anew with these, and the note of its suspicion goes, before anything else of the step.
    pub rejoin: Option<Vec<Record>>,
    /// To be made durable, in order.
    pub records: Vec<Record>,
    /// A leader's proposals: they wait for nothing.
    pub immediate: Vec<Effect>,
    /// To be run once the records, and those of every earlier step, are durable.
    pub effects: Vec<Effect>,
}

impl Step {
    /// Whether nothing is to be made durable or run afterwards.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rejoin.is_none() && self.records.is_empty() && self.effects.is_empty()
    }
}
