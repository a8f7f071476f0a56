//! Frames on a stream: a u32 length, little-endian, and so many bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};

use super::{NetError, NetOptions};

/// How much is taken off a stream at a time; also the most that is allocated before bytes have come to fill it.
const CHUNK_BYTES: usize = 64 << 10;
/// Frames up to this length are copied together before they are written.
const SMALL_BYTES: usize = 1 << 10;

/// Reads frames off a stream.
pub(super) struct FrameReader {
    stream: RecvStream,
    rest: Bytes,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, rest: Bytes::new() }
    }

    /// Waits until a byte is there; false when the stream has ended.
    async fn fill(&mut self) -> Result<bool, NetError> {
        while self.rest.is_empty() {
            match self.stream.read_chunk(CHUNK_BYTES, true).await? {
                Some(chunk) => self.rest = chunk.bytes,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Exactly so many bytes. Memory grows with what has come, never with what was claimed; nothing of the stream's buffers is kept.
    async fn exact(&mut self, length: usize) -> Result<Bytes, NetError> {
        let mut bytes = BytesMut::with_capacity(length.min(CHUNK_BYTES));
        while bytes.len() < length {
            if !self.fill().await? {
                return Err(NetError::Ended { expected: length, actual: bytes.len() });
            }
            let wanted = length.saturating_sub(bytes.len()).min(self.rest.len());
            bytes.extend_from_slice(&self.rest.split_to(wanted));
        }
        Ok(bytes.freeze())
    }

    /// The next byte, or `None` at the end.
    pub(super) async fn byte(&mut self) -> Result<Option<u8>, NetError> {
        Ok(if self.fill().await? { self.exact(1).await?.first().copied() } else { None })
    }

    /// The length of the next frame, or `None` if the stream ends before it. Waits without limit for the frame to begin, not for the rest.
    pub(super) async fn length(&mut self, limit: usize, options: &NetOptions) -> Result<Option<usize>, NetError> {
        if !self.fill().await? {
            return Ok(None);
        }
        let prefix = within("a frame's length", options.frame_timeout(4), self.exact(4)).await?;
        let actual = prefix.iter().rev().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
        if actual > limit { Err(NetError::TooLong { actual, limit }) } else { Ok(Some(actual)) }
    }

    /// The bytes of a frame whose length was read and allowed.
    pub(super) async fn body(&mut self, length: usize, options: &NetOptions) -> Result<Bytes, NetError> {
        within("a frame", options.frame_timeout(length), self.exact(length)).await
    }

    /// One whole frame; the end of the stream is an error.
    pub(super) async fn frame(&mut self, limit: usize, options: &NetOptions) -> Result<Bytes, NetError> {
        let length = self.length(limit, options).await?.ok_or(NetError::Ended { expected: 4, actual: 0 })?;
        self.body(length, options).await
    }
}

/// Gives up after a time.
pub(super) async fn within<T>(what: &'static str, limit: Duration, work: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(NetError::Timeout { what, limit }))
}

fn prefix(frame: &Bytes) -> Result<[u8; 4], NetError> {
    let length = u32::try_from(frame.len()).map_err(|_| NetError::TooLong { actual: frame.len(), limit: u32::MAX as usize })?;
    Ok(length.to_le_bytes())
}

/// Writes frames in order: small ones copied together, long ones shared.
pub(super) async fn write_frames(stream: &mut SendStream, frames: &[Bytes]) -> Result<(), NetError> {
    let mut chunks = Vec::new();
    let mut small = BytesMut::new();
    for frame in frames {
        small.extend_from_slice(&prefix(frame)?);
        if frame.len() <= SMALL_BYTES {
            small.extend_from_slice(frame);
        } else {
            chunks.push(small.split().freeze());
            chunks.push(frame.clone());
        }
    }
    chunks.push(small.freeze());
    Ok(stream.write_all_chunks(&mut chunks).await?)
}
