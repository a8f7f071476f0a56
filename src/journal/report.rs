//! Options, the report of a recovery or a check, and counters.

use super::error::{Damage, JournalError};
use super::frame::StreamKind;
use super::page::PAGE;

/// Greatest size of any file and any record of the journal.
const MAX_BYTES: u64 = 1 << 30;

/// Sizes. They may change between openings; only `max_frame_bytes` also limits what is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalOptions {
    /// Bytes of a segment file; 64 MiB unless said. A multiple of 4096, 8 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Least bytes of a votes file; 8 MiB unless said. A multiple of 4096, 16 KiB to 1 GiB. Votes files grow at need.
    pub votes_bytes: u64,
    /// Longest record in bytes; 64 MiB unless said, 1 byte to 512 MiB.
    pub max_frame_bytes: u32,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, votes_bytes: 8 << 20, max_frame_bytes: 64 << 20 }
    }
}

impl JournalOptions {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`JournalError::Option`] names the first option that is out of bounds.
    pub fn validate(&self) -> Result<(), JournalError> {
        let check = |name, found: u64, min, max, paged: bool| {
            let good = (min..=max).contains(&found) && (!paged || found.is_multiple_of(PAGE as u64));
            if good { Ok(()) } else { Err(JournalError::Option { name, min, max, paged, found }) }
        };
        check("segment_bytes", self.segment_bytes, 2 * PAGE as u64, MAX_BYTES, true)?;
        check("votes_bytes", self.votes_bytes, 4 * PAGE as u64, MAX_BYTES, true)?;
        check("max_frame_bytes", u64::from(self.max_frame_bytes), 1, MAX_BYTES / 2, false)
    }

    pub(super) const fn segment_pages(&self) -> u32 {
        (self.segment_bytes / PAGE as u64) as u32
    }

    pub(super) const fn votes_pages(&self) -> u32 {
        (self.votes_bytes / PAGE as u64) as u32
    }
}

/// Most pages a votes file may grow to.
pub(super) const MAX_PAGES: u32 = (MAX_BYTES / PAGE as u64) as u32;

/// What opening or checking found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JournalReport {
    /// Number of the oldest segment in the directory, 0 if there is none.
    pub first_segment: u64,
    /// Number of the newest.
    pub last_segment: u64,
    /// Segments that were read. Opening reads the newest that holds a group and what follows it; a check reads all.
    pub segments_read: u64,
    /// Records in the segments that were read.
    pub segment_frames: u64,
    /// The generation of the voting record, 0 if none is whole.
    pub votes_generation: u64,
    /// Records in that generation.
    pub votes_frames: u64,
    /// Pages of a torn last group of the segments that were there; cut by opening, only counted by a check.
    pub segment_pages_cut: u32,
    /// The same for the votes, a torn rotation included.
    pub votes_pages_cut: u32,
    /// The highest record number known to either stream.
    pub highest_lsn: u64,
    /// Every damaged place.
    pub damage: Vec<Damage>,
    /// Whether any of it touches the segments that were read.
    pub segments_damaged: bool,
    /// Whether any of it touches the voting record: the replica cannot prove that it remembers its votes.
    pub votes_damaged: bool,
}

impl JournalReport {
    pub(super) fn add(&mut self, damage: Damage) {
        match damage.stream {
            StreamKind::Segments => self.segments_damaged = true,
            StreamKind::Votes => self.votes_damaged = true,
        }
        self.damage.push(damage);
    }
}

/// Counters of an open journal since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JournalStats {
    /// Acknowledged calls of `fdatasync` for groups.
    pub syncs: u64,
    /// Groups written.
    pub groups: u64,
    /// Bytes of those groups, padding and trailers included.
    pub bytes_written: u64,
    /// Number of the segment being written.
    pub segment: u64,
    /// Segments begun since opening.
    pub segments_begun: u64,
    /// Generation of the voting record.
    pub votes_generation: u64,
}
