//! The strict wrapper around bincode: fixed-width little-endian integers, a byte limit both ways, trailing bytes refused.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// The largest frame that any stream, file or row of this project may hold: 64 MiB.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than the limit.
    #[error("{actual} bytes are over the limit of {limit}")]
    TooLong {
        /// The bytes given.
        actual: usize,
        /// The bytes allowed.
        limit: usize,
    },
    /// Bytes were left over behind the value.
    #[error("the value ends at byte {used} of {actual}")]
    TrailingBytes {
        /// The bytes the value takes.
        used: usize,
        /// The bytes given.
        actual: usize,
    },
    /// The bytes are no such value.
    #[error("not a valid encoding: {0}")]
    Malformed(String),
    /// The value cannot be encoded.
    #[error("cannot be encoded: {0}")]
    Unencodable(String),
}

type Limited<const N: usize> = Configuration<LittleEndian, Fixint, Limit<N>>;

fn config<const N: usize>() -> Limited<N> {
    bincode::config::legacy().with_limit::<N>()
}

/// Encodes a value.
///
/// # Errors
/// [`CodecError::TooLong`] over [`MAX_FRAME_BYTES`] (bincode's limit does not hold when encoding, so the length is checked here).
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::encode_to_vec(value, bincode::config::legacy()).map_err(|e| CodecError::Unencodable(e.to_string()))?;
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(CodecError::TooLong { actual: bytes.len(), limit: MAX_FRAME_BYTES });
    }
    Ok(bytes)
}

/// Decodes a value that takes the bytes wholly.
///
/// What a claimed length may allocate grows with the bytes really given (in steps, because bincode's limit is a constant): a short
/// message cannot claim a long vector. Sixteen times covers the widest element in memory against its encoding.
///
/// # Errors
/// [`CodecError`]; never panics, whatever the bytes.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = decode_front(bytes)?;
    if used != bytes.len() {
        return Err(CodecError::TrailingBytes { used, actual: bytes.len() });
    }
    Ok(value)
}

/// Decodes the value that bytes begin with, and says how many it took. Nothing is known of the rest: who believes the value decodes the whole.
///
/// # Errors
/// As [`decode`].
pub fn decode_front<T: Decode<()>>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    let result = match bytes.len() {
        0..=0x400 => bincode::decode_from_slice(bytes, config::<0x4000>()),
        0x401..=0x8000 => bincode::decode_from_slice(bytes, config::<0x8_0000>()),
        0x8001..=0x10_0000 => bincode::decode_from_slice(bytes, config::<0x100_0000>()),
        0x10_0001..=MAX_FRAME_BYTES => bincode::decode_from_slice(bytes, config::<{ MAX_FRAME_BYTES * 16 }>()),
        actual => return Err(CodecError::TooLong { actual, limit: MAX_FRAME_BYTES }),
    };
    result.map_err(|e| CodecError::Malformed(e.to_string()))
}
