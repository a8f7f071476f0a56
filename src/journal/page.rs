//! Pages: the unit of writing and of tearing. Knows the trailer, its checksum and how a group is laid over pages;
//! knows nothing of files, frames or what to do about a bad page.

use std::fmt;
use std::io;

use super::frame::StreamKind;
use crate::planted::{Bug, on};

/// Bytes of a page, the unit in which every file of the journal is read and written.
pub(super) const PAGE: usize = 4096;
/// Bytes of a page's trailer: lap u64, group u32, index u32, count u32, crc32c u32.
const TRAILER: usize = 24;
/// Bytes of a page that carry a group's payload.
pub(super) const PAYLOAD: usize = PAGE - TRAILER;
/// Bytes covered by the checksum: all but the checksum itself.
const COVERED: usize = PAGE - 4;

/// What preallocation leaves: most pages that a start reads.
const EMPTY: [u8; PAGE] = [0; PAGE];

/// A page's place: which life of which file, which group, and where in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagePlace {
    /// Segment number of a segment, generation of a votes file.
    pub lap: u64,
    /// Number of the group in its file, from 1.
    pub group: u32,
    /// Position of the page in its group, from 0.
    pub index: u32,
    /// Pages in the group.
    pub count: u32,
}

/// What was found where a page was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageFound {
    /// 4096 zero bytes.
    Zero,
    /// A page with a good checksum.
    Whole(PagePlace),
    /// Neither zero nor a page with a good checksum for this stream and this position.
    Invalid,
    /// The operating system could not read it.
    Unreadable(io::ErrorKind),
}

impl fmt::Display for PageFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("an empty page"),
            Self::Whole(place) => {
                let PagePlace { lap, group, index, count } = place;
                write!(f, "page {index} of {count} of group {group} in lap {lap}")
            }
            Self::Invalid => f.write_str("a page with a bad checksum"),
            Self::Unreadable(kind) => write!(f, "an unreadable page ({kind})"),
        }
    }
}

/// The checksum of a page at `number` in a file of `stream`: position and stream are mixed in, so a page that turns up
/// at another offset or in a file of the other stream is not valid there.
fn checksum(stream: StreamKind, number: u32, covered: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(stream.magic()), &number.to_le_bytes());
    crc32c::crc32c_append(seed, covered)
}

/// Takes the first `N` bytes off `bytes`.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Says what `page` is, as page `number` of a file of `stream`.
pub(super) fn classify(stream: StreamKind, number: u32, page: &[u8]) -> PageFound {
    whole(stream, number, page).map_or_else(|| if page == EMPTY { PageFound::Zero } else { PageFound::Invalid }, PageFound::Whole)
}

fn whole(stream: StreamKind, number: u32, page: &[u8]) -> Option<PagePlace> {
    let mut trailer = page.get(PAYLOAD..PAGE)?;
    let place = PagePlace {
        lap: u64::from_le_bytes(take(&mut trailer)?),
        group: u32::from_le_bytes(take(&mut trailer)?),
        index: u32::from_le_bytes(take(&mut trailer)?),
        count: u32::from_le_bytes(take(&mut trailer)?),
    };
    // Cheap refusal first: an empty page is the common case and needs no checksum.
    if place.lap == 0 || place.group == 0 || place.index >= place.count {
        return None;
    }
    let stored = u32::from_le_bytes(take(&mut trailer)?);
    (checksum(stream, number, page.get(..COVERED)?) == stored || on(Bug::ChecksumIgnored)).then_some(place)
}

/// A group under construction, already laid out in pages so that its payload is copied once.
#[derive(Default)]
pub(super) struct GroupBuilder {
    bytes: Vec<u8>,
    payload: usize,
}

impl GroupBuilder {
    pub(super) const fn is_empty(&self) -> bool {
        self.payload == 0
    }

    /// Payload bytes so far.
    pub(super) const fn payload(&self) -> usize {
        self.payload
    }

    /// Pages of the group once `more` payload bytes have been pushed.
    pub(super) const fn pages_with(&self, more: usize) -> usize {
        self.payload.saturating_add(more).div_ceil(PAYLOAD)
    }

    pub(super) fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let used = self.payload % PAYLOAD;
            if used == 0 && self.payload > 0 {
                self.bytes.extend_from_slice(&[0; TRAILER]);
            }
            let (now, later) = data.split_at(data.len().min(PAYLOAD - used));
            self.bytes.extend_from_slice(now);
            self.payload += now.len();
            data = later;
        }
    }

    /// Pads the last page, writes every trailer and returns the bytes to write at page `first` of the file.
    pub(super) fn seal(self, stream: StreamKind, lap: u64, group: u32, first: u32) -> Vec<u8> {
        let count = self.pages_with(0);
        let mut bytes = self.bytes;
        bytes.resize(count * PAGE, 0);
        for (index, page) in (0u32..).zip(bytes.chunks_exact_mut(PAGE)) {
            let (body, crc) = page.split_at_mut(COVERED);
            let mut trailer = Vec::with_capacity(TRAILER);
            trailer.extend_from_slice(&lap.to_le_bytes());
            trailer.extend_from_slice(&group.to_le_bytes());
            trailer.extend_from_slice(&index.to_le_bytes());
            trailer.extend_from_slice(&(count as u32).to_le_bytes());
            body[PAYLOAD..].copy_from_slice(&trailer);
            crc.copy_from_slice(&checksum(stream, first.wrapping_add(index), body).to_le_bytes());
        }
        bytes
    }
}
