//! SHA-256 and the writer of canonical byte layouts.

use std::fmt;

use bincode::{Decode, Encode};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// A SHA-256 value: 32 bytes, shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// All zero bytes: the parent of the first header.
    pub const ZERO: Self = Self([0; 32]);

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hex digits, for logs and tables.
    #[must_use]
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0[..4])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// SHA-256 of one byte string.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Where canonical bytes go: a buffer to be signed, or a hash.
pub trait Sink {
    /// Takes the next bytes of the layout.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for Sha256 {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// Writes one canonical layout: integers little-endian, every variable-length field preceded by its u32 length.
///
/// Every layout begins with a tag, an ASCII string with a trailing zero byte that no other kind uses, so that bytes signed for one
/// purpose never mean anything for another.
pub struct Canonical<S: Sink>(S);

impl Canonical<Vec<u8>> {
    /// Starts a layout that is kept as bytes.
    #[must_use]
    pub fn bytes(tag: &'static str) -> Self {
        Self(Vec::with_capacity(192)).tag(tag)
    }

    /// Starts a layout without a tag; only RFC 6962 leaves have none, their domain is the 0x00 prefix of the leaf hash.
    #[must_use]
    pub fn untagged() -> Self {
        Self(Vec::with_capacity(192))
    }

    /// The finished bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

impl Canonical<Sha256> {
    /// Starts a layout that is hashed as it is written.
    #[must_use]
    pub fn hash(tag: &'static str) -> Self {
        Self(Sha256::new()).tag(tag)
    }

    /// The hash of everything written.
    #[must_use]
    pub fn digest(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl<S: Sink> Canonical<S> {
    fn tag(mut self, tag: &'static str) -> Self {
        debug_assert!(tag.is_ascii() && tag.ends_with('\0'), "a tag is ASCII and ends with a zero byte");
        self.0.put(tag.as_bytes());
        self
    }

    /// One byte.
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.put(&[value]);
        self
    }

    /// Two bytes, little-endian.
    #[must_use]
    pub fn u16(mut self, value: u16) -> Self {
        self.0.put(&value.to_le_bytes());
        self
    }

    /// Four bytes, little-endian.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.put(&value.to_le_bytes());
        self
    }

    /// Eight bytes, little-endian.
    #[must_use]
    pub fn u64(mut self, value: u64) -> Self {
        self.0.put(&value.to_le_bytes());
        self
    }

    /// A field of fixed length.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.put(bytes);
        self
    }

    /// A digest: 32 bytes.
    #[must_use]
    pub fn digest_field(self, digest: &Digest) -> Self {
        self.fixed(&digest.0)
    }

    /// A field of variable length, preceded by its length as u32. Nothing in this project is 4 GiB long; were it, the length saturates and the
    /// bytes differ from every layout that a verifier would rebuild.
    #[must_use]
    pub fn var(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(length).fixed(bytes)
    }

    /// A count of repeated elements, as u32.
    #[must_use]
    pub fn count(self, count: usize) -> Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Writes one layout fragment per element, after their count.
    #[must_use]
    pub fn each<T>(self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(Self, T) -> Self) -> Self {
        let mut out = self.count(items.len());
        for item in items {
            out = write(out, item);
        }
        out
    }
}
