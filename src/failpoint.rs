//! Named points at which a replica can be told to kill itself, so that a crash test hits the moments that matter and not only those that last.
//!
//! One atomic comparison a call while nothing is armed. A point is armed by `exofed serve --crash-at POINT:COUNT` alone, once per process, before
//! the replica starts. This module may not know what a point means to the code around it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// No point is armed.
const NONE: u8 = u8::MAX;

static ARMED: AtomicU8 = AtomicU8::new(NONE);
static LEFT: AtomicU64 = AtomicU64::new(0);

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident $name:literal $frequent:literal,)*) => {
        /// A point of durability.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub(crate) enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// Every point, in the order in which a record meets them.
            pub(crate) const ALL: &[Self] = &[$(Self::$point,)*];

            /// Its name on the command line and in reports.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }

            /// Whether a replica under load passes it many times a second.
            pub(crate) const fn is_frequent(self) -> bool {
                match self {
                    $(Self::$point => $frequent,)*
                }
            }
        }
    };
}

points! {
    /// Before a group of segment records is written.
    SegmentWrite "segment-write" true,
    /// A group of either stream is written and not yet synced.
    JournalWritten "journal-written" true,
    /// The segments are synced; the votes of the same step are not written yet.
    SegmentSynced "segment-synced" true,
    /// Before a group of voting records is written.
    VotesWrite "votes-write" true,
    /// The voting records are synced; nothing that waits for them is sent.
    VotesSynced "votes-synced" true,
    /// Before the next generation of the voting record is written.
    VotesRotate "votes-rotate" false,
    /// The next generation is durable; the segments do not name it yet.
    VotesRotated "votes-rotated" false,
    /// The next segment is prepared and has no name yet.
    SegmentRoll "segment-roll" false,
    /// The next segment has its name, and nothing in it.
    SegmentRolled "segment-rolled" false,
    /// A group of steps is durable as far as it must be; no message of it has left.
    Effects "effects" true,
    /// The messages of a group of steps are handed to the network.
    EffectsRun "effects-run" true,
    /// Before a committed batch is appended to the log.
    LogAppend "log-append" true,
    /// The batch's Merkle nodes are written, its row is not.
    LogMerkle "log-merkle" true,
    /// The batch's row is written; nobody is answered yet.
    LogAppended "log-appended" true,
    /// Before the log is synced.
    LogSync "log-sync" false,
    /// The Merkle files are synced, the database is not.
    LogTilesSynced "log-tiles-synced" false,
    /// The database is synced; `head` does not say so yet.
    LogFlushed "log-flushed" false,
    /// The new `head` is durable under its temporary name.
    HeadRename "head-rename" false,
    /// `head` is renamed; its directory is not synced.
    HeadRenamed "head-renamed" false,
    /// The log is durable up to a checkpoint that is not signed yet.
    Checkpoint "checkpoint" false,
    /// A checkpoint became stable and is not kept in the log yet.
    CheckpointStable "checkpoint-stable" false,
    /// A start has opened journal and log.
    RecoveryOpened "recovery-opened" false,
    /// A start has replayed the journal into the log.
    RecoveryReplayed "recovery-replayed" false,
    /// A start has noted durably that the replica ran; its network is not open yet.
    RecoveryStarted "recovery-started" false,
}

/// Where a process kills itself: at the `count`-th time it passes a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CrashAt {
    pub(crate) point: Point,
    pub(crate) count: u64,
}

/// Why a text names no such place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CrashAtError {
    #[error("{found:?} is not POINT:COUNT")]
    Form { found: String },
    #[error("the count in {found:?} is not a number from 1 on")]
    Count { found: String },
    #[error("no point is called {found:?}; the points are {}", names())]
    Point { found: String },
}

/// The names of all points, for help and errors.
pub(crate) fn names() -> String {
    Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for CrashAt {
    type Err = CrashAtError;

    fn from_str(text: &str) -> Result<Self, CrashAtError> {
        let found = || text.to_owned();
        let (name, count) = text.split_once(':').ok_or_else(|| CrashAtError::Form { found: found() })?;
        let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(|| CrashAtError::Count { found: found() })?;
        let point = Point::ALL.iter().copied().find(|point| point.name() == name);
        point.map(|point| Self { point, count }).ok_or_else(|| CrashAtError::Point { found: name.to_owned() })
    }
}

impl fmt::Display for CrashAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point.name(), self.count)
    }
}

/// Arms this process.
pub(crate) fn arm(at: CrashAt) {
    LEFT.store(at.count, Ordering::SeqCst);
    ARMED.store(at.point as u8, Ordering::SeqCst);
}

/// Passes a point.
#[inline]
pub(crate) fn hit(point: Point) {
    if ARMED.load(Ordering::Relaxed) == point as u8 {
        strike();
    }
}

#[cold]
fn strike() {
    if LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
        // SIGKILL, not an exit: no destructor runs and no buffer is written, as in any crash.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_point_is_read_back_from_its_name_and_no_name_stands_twice() {
        for (at, point) in Point::ALL.iter().enumerate() {
            let crash_at = CrashAt { point: *point, count: at as u64 + 1 };
            assert_eq!(crash_at.to_string().parse(), Ok(crash_at));
        }
    }

    #[test]
    fn what_names_no_point_is_refused_with_the_points() {
        assert!(matches!("votes-synced".parse::<CrashAt>(), Err(CrashAtError::Form { .. })));
        assert!(matches!("votes-synced:0".parse::<CrashAt>(), Err(CrashAtError::Count { .. })));
        let unknown = "votes-sunk:1".parse::<CrashAt>().unwrap_err();
        assert!(unknown.to_string().contains("votes-synced"), "{unknown}");
    }
}
