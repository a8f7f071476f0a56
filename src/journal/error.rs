//! What can go wrong: errors stop a call, damage is reported beside what could still be read.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use super::frame::StreamKind;
use super::page::PageFound;

/// Why a call failed. Cloneable, because a journal that failed once answers every later call with the same error.
#[derive(Clone, Debug, Error)]
pub enum JournalError {
    /// An option is outside its bounds or not a multiple of 4096 where it has to be.
    #[error("journal option {name} is {found}, must be {min} to {max}{}", if *.paged { " and a multiple of 4096" } else { "" })]
    Option {
        /// The option's name.
        name: &'static str,
        /// Least allowed value.
        min: u64,
        /// Greatest allowed value.
        max: u64,
        /// Whether it must be a multiple of the page size.
        paged: bool,
        /// The value given.
        found: u64,
    },
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: Operation,
        /// On which file or directory.
        path: PathBuf,
        /// Its answer.
        source: Arc<io::Error>,
    },
    /// There is no journal here: the directory is missing or empty.
    #[error("no journal in {}", .dir.display())]
    NotFound {
        /// The directory.
        dir: PathBuf,
    },
    /// A journal was to be created where something already is.
    #[error("{} is not empty; a journal is never created over another", .dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// Another process, or another part of this one, has the journal open for writing.
    #[error("the journal in {} is open for writing elsewhere", .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The voting record names another federation.
    #[error("{} belongs to federation {}, expected {}", .file.display(), Hex(.found), Hex(.expected))]
    OtherFederation {
        /// The file whose header was read.
        file: PathBuf,
        /// The federation asked for.
        expected: [u8; 32],
        /// The federation found.
        found: [u8; 32],
    },
    /// The voting record was written by a program with another format.
    #[error("{} has journal format {found}, this program knows {supported}", .file.display())]
    Version {
        /// The file whose header was read.
        file: PathBuf,
        /// The version this program writes and reads.
        supported: u32,
        /// The version found.
        found: u32,
    },
    /// A record is longer than `max_frame_bytes`.
    #[error("a record of {len} bytes is longer than the limit of {max}")]
    FrameTooLong {
        /// Bytes of the record.
        len: usize,
        /// The limit.
        max: u32,
    },
    /// A record kind that the journal keeps for itself: 0, 0xFE or 0xFF.
    #[error("record kind {kind:#04x} is reserved")]
    ReservedKind {
        /// The kind given.
        kind: u8,
    },
    /// Votes cannot be appended to a damaged voting record before `rotate_votes` has replaced it.
    #[error("the voting record in {} is damaged; it must be replaced before votes are appended", .dir.display())]
    VotesDamaged {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// A snapshot does not fit the largest votes file.
    #[error("a votes group needs a file of {needed} bytes, the largest is {actual}")]
    VotesTooLarge {
        /// Bytes needed.
        needed: u64,
        /// Greatest size of a votes file.
        actual: u64,
    },
    /// The journal's numbers (records, groups, segments or generations) ran out.
    #[error("the journal has run out of {what} numbers")]
    Exhausted {
        /// Which.
        what: &'static str,
    },
    /// The thread that prepares the next segment panicked.
    #[error("preparing {} failed", .path.display())]
    Preparation {
        /// The file it was preparing.
        path: PathBuf,
    },
    /// What was asked for is damaged.
    #[error(transparent)]
    Damage(#[from] Damage),
}

/// What was being done when the operating system refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Opening or creating.
    Open,
    /// Reading.
    Read,
    /// Writing a group or zeros.
    Write,
    /// Reserving space.
    Allocate,
    /// Making durable.
    Sync,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Listing a directory.
    List,
    /// Taking the writer's lock.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Allocate => "allocate",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::List => "list",
            Self::Lock => "lock",
        })
    }
}

/// One damaged place.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("damage in {}{}: {kind}", .file.display(), Page(.page))]
pub struct Damage {
    /// The stream whose record is affected.
    pub stream: StreamKind,
    /// The damaged or missing file.
    pub file: PathBuf,
    /// The page in the file, where one can be named.
    pub page: Option<u32>,
    /// What was expected and what was found.
    pub kind: DamageKind,
}

/// What is wrong at a damaged place.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DamageKind {
    /// A page is not the one that belongs there.
    #[error("expected page {index} of group {group}, found {found}")]
    Page {
        /// Group expected.
        group: u32,
        /// Position in the group expected (counted from the group's first page).
        index: u32,
        /// What is there.
        found: PageFound,
    },
    /// A group whose pages are whole does not hold well-formed frames.
    #[error("group {group} is malformed at payload byte {offset}: {problem}")]
    Frame {
        /// The group.
        group: u32,
        /// Offset in its payload.
        offset: usize,
        /// What is wrong.
        problem: FrameProblem,
    },
    /// The last group of a segment is torn although a later segment exists, so it had been acknowledged.
    #[error("group {group} is torn although a later segment follows")]
    TornInside {
        /// The group.
        group: u32,
    },
    /// A file that must exist does not.
    #[error("the file is missing")]
    MissingFile,
    /// A file that cannot be opened or measured.
    #[error("the file cannot be read: {0}")]
    Unreadable(io::ErrorKind),
    /// A file is shorter than its header says, or not a whole number of pages.
    #[error("the file has {found} bytes, expected {expected}")]
    Length {
        /// Bytes expected: what the header says, or the nearest number of whole pages.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The first group does not start with a well-formed header.
    #[error("the file's header is missing")]
    NoHeader,
    /// The header, or the pages, name another segment or generation than the file's place demands.
    #[error("expected number {expected}, found {found}")]
    Number {
        /// Segment number or generation expected.
        expected: u64,
        /// The one found.
        found: u64,
    },
    /// The header names another federation.
    #[error("expected federation {}, found {}", Hex(.expected), Hex(.found))]
    OtherFederation {
        /// The federation expected.
        expected: [u8; 32],
        /// The one found.
        found: [u8; 32],
    },
    /// The header names a format this program does not know.
    #[error("expected format version {expected}, found {found}")]
    Version {
        /// The version expected.
        expected: u32,
        /// The one found.
        found: u32,
    },
    /// Records that were durable (the other stream or a later segment says so) are not there.
    #[error("records up to {expected} were durable, the last one found is {found}")]
    LostRecords {
        /// The last record known to have been durable in this stream.
        expected: u64,
        /// The last record found in it.
        found: u64,
    },
    /// Neither votes file holds a generation whose first group is whole.
    #[error("no generation of the voting record is whole")]
    NoGeneration,
}

/// What is wrong with a frame in a group whose pages are whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameProblem {
    /// Longer than `max_frame_bytes`.
    #[error("a frame of {len} bytes, the limit is {max}")]
    TooLong {
        /// Its length.
        len: u32,
        /// The limit.
        max: u32,
    },
    /// Longer than what is left of the group.
    #[error("a frame of {len} bytes where {left} are left")]
    PastEnd {
        /// Its length.
        len: u32,
        /// Bytes left.
        left: usize,
    },
    /// What follows the mark is not less than a page of zeros.
    #[error("{bytes} bytes of bad padding")]
    Padding {
        /// Bytes after the mark.
        bytes: usize,
    },
    /// The group ends without its mark.
    #[error("the group has no closing mark")]
    NoMark,
    /// A header where none belongs.
    #[error("a header inside the file")]
    StrayHeader,
    /// Record numbers must increase.
    #[error("record {found} after record {previous}")]
    Order {
        /// The record before.
        previous: u64,
        /// The record found.
        found: u64,
    },
    /// A locator does not point at a frame of that length.
    #[error("a frame of {found} bytes where the locator says {expected}")]
    Locator {
        /// Length in the locator.
        expected: u32,
        /// Length in the frame.
        found: u32,
    },
}

struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

struct Page<'a>(&'a Option<u32>);

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |page| write!(f, " at page {page}"))
    }
}

/// Adds to an IO error what was tried, and on what.
pub(super) trait IoContext<T> {
    fn during(self, operation: Operation, path: impl Into<PathBuf>) -> Result<T, JournalError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, operation: Operation, path: impl Into<PathBuf>) -> Result<T, JournalError> {
        self.map_err(|source| JournalError::Io { operation, path: path.into(), source: Arc::new(source) })
    }
}
