//! Frames: the records inside a group's payload, and the two reserved kinds the journal writes for itself.
//! Knows bytes only; what a record means is its caller's business.

use bincode::{Decode, Encode};

use super::error::FrameProblem;
use super::page::{GroupBuilder, PAYLOAD, take};

/// The version of the journal's file format, in every file's header.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes before a frame's payload: len u32, kind u8, lsn u64, tag u64.
pub(super) const FRAME_HEADER: usize = 21;
/// Reserved kind: the header of a file, first frame of its first group.
pub(super) const KIND_HEADER: u8 = 0xFF;
/// Reserved kind: the mark that closes every group.
pub(super) const KIND_MARK: u8 = 0xFE;
/// Bytes of a header frame's payload.
const HEADER_PAYLOAD: usize = 4 + 32 + 8 + 4 + 8 + 8 + 8;
/// Bytes a header frame takes in a group.
pub(super) const HEADER_FRAME: usize = FRAME_HEADER + HEADER_PAYLOAD;
/// Bytes a mark takes in a group.
pub(super) const MARK_FRAME: usize = FRAME_HEADER;

/// Which of the journal's two streams a frame or a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// `segments/`: append-only, kept.
    Segments,
    /// `votes.0` and `votes.1`: recycled.
    Votes,
}

impl StreamKind {
    /// What the stream mixes into every page's checksum.
    pub(super) const fn magic(self) -> &'static [u8; 4] {
        match self {
            Self::Segments => b"EXSG",
            Self::Votes => b"EXVT",
        }
    }
}

impl std::fmt::Display for StreamKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Segments => "segments",
            Self::Votes => "votes",
        })
    }
}

/// Where the payload of a segment frame lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Locator {
    /// Number of the segment.
    pub segment: u64,
    /// First page, in the segment, of the group that holds the frame.
    pub page: u32,
    /// Byte offset of the frame's payload within that group's payload.
    pub offset: u32,
    /// Bytes of the frame's payload.
    pub len: u32,
}

/// One record read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The record's number, strictly increasing over both streams in the order of appending.
    pub lsn: u64,
    /// The stream it was appended to.
    pub stream: StreamKind,
    /// The caller's kind, 1 to 0xFD.
    pub kind: u8,
    /// The caller's tag; 0 for votes.
    pub tag: u64,
    /// The caller's bytes.
    pub payload: Vec<u8>,
    /// Where the payload lies, for segment frames.
    pub locator: Option<Locator>,
}

/// A frame's fixed part.
#[derive(Clone, Copy)]
pub(super) struct FrameHead {
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) lsn: u64,
    pub(super) tag: u64,
}

impl FrameHead {
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        Some(Self {
            len: u32::from_le_bytes(take(&mut bytes)?),
            kind: u8::from_le_bytes(take(&mut bytes)?),
            lsn: u64::from_le_bytes(take(&mut bytes)?),
            tag: u64::from_le_bytes(take(&mut bytes)?),
        })
    }
}

/// Appends one frame to a group. The caller has bounded the payload by `max_frame_bytes`, a u32.
pub(super) fn push_frame(group: &mut GroupBuilder, kind: u8, lsn: u64, tag: u64, payload: &[u8]) {
    let mut head = Vec::with_capacity(FRAME_HEADER);
    head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    head.push(kind);
    head.extend_from_slice(&lsn.to_le_bytes());
    head.extend_from_slice(&tag.to_le_bytes());
    group.push(&head);
    group.push(payload);
}

/// Closes a group: the mark's tag is the last record of the other stream that was durable when the group was written.
pub(super) fn push_mark(group: &mut GroupBuilder, other_synced: u64) {
    push_frame(group, KIND_MARK, 0, other_synced, &[]);
}

/// The payload of a file's header frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) federation_id: [u8; 32],
    /// Segment number or generation; equals the lap of the file's pages.
    pub(super) number: u64,
    /// Pages the file had when the header was written; it may grow, never shrink.
    pub(super) pages: u32,
    /// The number of the next record when the header was written.
    pub(super) first_lsn: u64,
    /// The last record of this stream in an earlier segment or generation.
    pub(super) last_lsn_before: u64,
    /// The highest tag in any earlier segment; 0 for votes.
    pub(super) max_tag_before: u64,
}

impl Header {
    pub(super) fn push(&self, group: &mut GroupBuilder) {
        let mut payload = Vec::with_capacity(HEADER_PAYLOAD);
        payload.extend_from_slice(&self.version.to_le_bytes());
        payload.extend_from_slice(&self.federation_id);
        payload.extend_from_slice(&self.number.to_le_bytes());
        payload.extend_from_slice(&self.pages.to_le_bytes());
        payload.extend_from_slice(&self.first_lsn.to_le_bytes());
        payload.extend_from_slice(&self.last_lsn_before.to_le_bytes());
        payload.extend_from_slice(&self.max_tag_before.to_le_bytes());
        push_frame(group, KIND_HEADER, 0, 0, &payload);
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let header = Self {
            version: u32::from_le_bytes(take(&mut bytes)?),
            federation_id: take(&mut bytes)?,
            number: u64::from_le_bytes(take(&mut bytes)?),
            pages: u32::from_le_bytes(take(&mut bytes)?),
            first_lsn: u64::from_le_bytes(take(&mut bytes)?),
            last_lsn_before: u64::from_le_bytes(take(&mut bytes)?),
            max_tag_before: u64::from_le_bytes(take(&mut bytes)?),
        };
        bytes.is_empty().then_some(header)
    }

    /// The header at the start of a file's first page payload, whatever follows it.
    pub(super) fn at_start(payload: &[u8]) -> Option<Self> {
        let head = FrameHead::parse(payload)?;
        let body = payload.get(FRAME_HEADER..HEADER_FRAME)?;
        (head.kind == KIND_HEADER && head.len as usize == HEADER_PAYLOAD).then(|| Self::parse(body)).flatten()
    }
}

/// One frame as it lies in a group.
pub(super) struct RawFrame<'a> {
    pub(super) head: FrameHead,
    pub(super) body: &'a [u8],
    /// Offset of `body` in the group's payload.
    pub(super) start: usize,
}

/// Walks the frames of one group's payload.
pub(super) struct FrameCursor {
    payload: Vec<u8>,
    at: usize,
    closed: bool,
}

impl FrameCursor {
    pub(super) const fn new(payload: Vec<u8>) -> Self {
        Self { payload, at: 0, closed: false }
    }

    /// The next frame; `None` after the mark and clean padding.
    pub(super) fn next(&mut self, max: u32) -> Result<Option<RawFrame<'_>>, FrameProblem> {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        if self.closed {
            let clean = rest.len() < PAYLOAD && rest.iter().all(|byte| *byte == 0);
            return if clean { Ok(None) } else { Err(FrameProblem::Padding { bytes: rest.len() }) };
        }
        let head = FrameHead::parse(rest).filter(|head| head.kind != 0).ok_or(FrameProblem::NoMark)?;
        if head.len > max.max(HEADER_PAYLOAD as u32) {
            return Err(FrameProblem::TooLong { len: head.len, max });
        }
        let start = self.at.saturating_add(FRAME_HEADER);
        let end = start.saturating_add(head.len as usize);
        let left = rest.len().saturating_sub(FRAME_HEADER);
        let body = self.payload.get(start..end).ok_or(FrameProblem::PastEnd { len: head.len, left })?;
        self.at = end;
        self.closed = head.kind == KIND_MARK;
        Ok(Some(RawFrame { head, body, start }))
    }

    /// Whether nothing has been read yet.
    pub(super) const fn at_start(&self) -> bool {
        self.at == 0
    }

    /// Offset of the next frame in the group's payload.
    pub(super) const fn offset(&self) -> usize {
        self.at
    }
}
