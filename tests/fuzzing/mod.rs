//! What the fuzz targets share: changed copies of valid encodings, a time limit, and what decoders must hold to.
//!
//! Random bytes hardly ever pass the first field, so an input is a plan: which real value to take, and what to change in its bytes. The plan is
//! generated, shrinks, and can be driven by bolero's other engines as well.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod federation;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bincode::{Decode, Encode};
use bolero::{TypeGenerator, ValueGenerator, produce};
use exo_federation::types::{decode, encode};

/// How long each target runs.
pub(crate) fn time() -> Duration {
    Duration::from_secs_f64(std::env::var("EXOFED_FUZZ_SECONDS").map_or(2.0, |text| text.parse().unwrap()))
}

/// One change; places are taken modulo the length.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) enum Edit {
    /// Bits of one byte.
    Flip { at: u32, mask: u8 },
    /// An integer of 1, 2, 4 or 8 bytes becomes one at an edge, or moves a little.
    Number { at: u32, width: u8, value: Value },
    /// Bytes are put in.
    Insert {
        at: u32,
        #[generator(produce::<Vec<u8>>().with().len(0..24usize))]
        bytes: Vec<u8>,
    },
    /// Bytes are taken out.
    Remove { at: u32, length: u8 },
    /// Bytes are written over others.
    Copy { from: u32, to: u32, length: u8 },
    /// The rest is that of another value.
    Splice { other: u16, at: u32, from: u32 },
    /// The rest is cut off.
    Truncate { at: u32 },
    /// The next number in decimal digits becomes another: for text.
    Decimal { at: u32, value: Value },
    /// The line there is left out: for text.
    DropLine { at: u32 },
}

/// What a number becomes.
#[derive(Debug, Clone, Copy, TypeGenerator)]
pub(crate) enum Value {
    Zero,
    One,
    Max,
    HalfMax,
    Plus(i8),
    Small(u8),
    Any(u64),
}

/// Which value, and what is changed in it.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) struct Plan {
    pub(crate) value: u16,
    #[generator(produce::<Vec<Edit>>().with().len(0..5usize))]
    pub(crate) edits: Vec<Edit>,
}

impl Plan {
    /// The changed bytes.
    pub(crate) fn apply(&self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[usize::from(self.value) % corpus.len()].clone();
        self.edits.iter().for_each(|edit| edit.apply(&mut bytes, corpus));
        bytes
    }

    /// The changed text.
    pub(crate) fn apply_to_text(&self, corpus: &[String]) -> String {
        let corpus: Vec<Vec<u8>> = corpus.iter().map(|text| text.clone().into_bytes()).collect();
        String::from_utf8_lossy(&self.apply(&corpus)).into_owned()
    }
}

impl Edit {
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let place = |at: u32, length: usize| at as usize % length.max(1);
        match self {
            _ if bytes.is_empty() => {}
            Self::Flip { at, mask } => {
                let at = place(*at, bytes.len());
                bytes[at] ^= mask;
            }
            Self::Number { at, width, value } => {
                let width = 1usize << (width % 4);
                let at = place(*at, bytes.len().saturating_sub(width - 1));
                if let Some(field) = bytes.get_mut(at..at + width) {
                    let mut old = [0; 8];
                    old[..width].copy_from_slice(field);
                    field.copy_from_slice(&value.of(u64::from_le_bytes(old)).to_le_bytes()[..width]);
                }
            }
            Self::Insert { at, bytes: new } => {
                let at = place(*at, bytes.len() + 1);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove { at, length } => {
                let at = place(*at, bytes.len());
                bytes.drain(at..(at + usize::from(*length)).min(bytes.len()));
            }
            Self::Copy { from, to, length } => {
                let (from, to) = (place(*from, bytes.len()), place(*to, bytes.len()));
                let length = usize::from(*length).min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + length, to);
            }
            Self::Splice { other, at, from } => {
                let other = &corpus[usize::from(*other) % corpus.len()];
                bytes.truncate(place(*at, bytes.len()));
                bytes.extend(&other[place(*from, other.len())..]);
            }
            Self::Truncate { at } => bytes.truncate(place(*at, bytes.len())),
            Self::Decimal { at, value } => {
                let at = place(*at, bytes.len());
                let Some(first) = bytes[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
                let end = bytes[first..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |found| first + found);
                let old = std::str::from_utf8(&bytes[first..end]).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
                bytes.splice(first..end, value.of(old).to_string().into_bytes());
            }
            Self::DropLine { at } => {
                let at = place(*at, bytes.len());
                let first = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |found| found + 1);
                let end = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |found| at + found + 1);
                bytes.drain(first..end);
            }
        }
    }
}

impl Value {
    fn of(self, old: u64) -> u64 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
            Self::Max => u64::MAX,
            Self::HalfMax => u64::MAX / 2 + 1,
            Self::Plus(by) => old.wrapping_add_signed(i64::from(by)),
            Self::Small(value) => u64::from(value),
            Self::Any(value) => value,
        }
    }
}

/// Room for files that are written thousands of times: in memory where there is such a place.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A file of a replica, without the zeros at its end.
pub(crate) struct Original {
    name: String,
    bytes: Vec<u8>,
    length: u64,
}

impl Original {
    pub(crate) fn read(dir: &Path, name: &str) -> Self {
        let mut bytes = fs::read(dir.join(name)).unwrap();
        let length = bytes.len() as u64;
        bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
        Self { name: name.to_owned(), bytes, length }
    }

    pub(crate) fn write(&self, dir: &Path) {
        self.write_changed(dir, &self.bytes, true);
    }

    fn write_changed(&self, dir: &Path, bytes: &[u8], padded: bool) {
        let path = dir.join(&self.name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        if padded {
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(self.length.max(bytes.len() as u64)).unwrap();
        }
    }
}

/// A change to one of several files.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) struct FilePlan {
    file: u8,
    /// Whether the zeros at its end stay.
    padded: bool,
    #[generator(produce::<Vec<Edit>>().with().len(0..4usize))]
    edits: Vec<Edit>,
}

impl FilePlan {
    pub(crate) fn apply(&self, dir: &Path, files: &[Original]) {
        let corpus: Vec<Vec<u8>> = files.iter().map(|file| file.bytes.clone()).collect();
        let file = &files[usize::from(self.file) % files.len()];
        let mut bytes = file.bytes.clone();
        self.edits.iter().for_each(|edit| edit.apply(&mut bytes, &corpus));
        file.write_changed(dir, &bytes, self.padded);
    }
}

/// How many inputs a target had, and how many of them got past the first checks. A target that never does finds nothing.
pub(crate) struct Counts {
    target: &'static str,
    inputs: AtomicU64,
    accepted: AtomicU64,
}

impl Counts {
    pub(crate) const fn of(target: &'static str) -> Self {
        Self { target, inputs: AtomicU64::new(0), accepted: AtomicU64::new(0) }
    }

    pub(crate) fn input(&self) {
        self.inputs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the target.
    pub(crate) fn report(&self) {
        let (inputs, accepted) = (self.inputs.load(Ordering::Relaxed), self.accepted.load(Ordering::Relaxed));
        println!("{:<20} {inputs:>9} inputs, {accepted:>9} accepted", self.target);
        assert!(accepted * 50 > inputs, "{}: {accepted} of {inputs} inputs were accepted", self.target);
        assert!(accepted < inputs, "{}: nothing is refused", self.target);
    }
}

/// Plans of any kind.
pub(crate) fn plans() -> impl ValueGenerator<Output = Plan> {
    produce::<Plan>()
}

/// What a decoder may allocate for so many bytes: what they claim is counted before it is believed.
fn allowance(length: usize) -> u64 {
    let step = match length {
        0..=0x400 => 0x4000,
        0x401..=0x8000 => 0x8_0000,
        0x8001..=0x10_0000 => 0x100_0000,
        _ => length as u64 * 16,
    };
    // The message of an error comes on top.
    step + 0x1000
}

/// Decodes within the allowance; what decodes has these bytes as its only encoding.
pub(crate) fn decode_strictly<T: Encode + Decode<()>>(bytes: &[u8]) -> Option<T> {
    let mut decoded = None;
    let used = allocation_counter::measure(|| decoded = Some(decode::<T>(bytes)));
    assert!(used.bytes_max <= allowance(bytes.len()), "{} bytes made the decoder hold {}", bytes.len(), used.bytes_max);
    let value = decoded.unwrap().ok()?;
    assert_eq!(encode(&value).unwrap(), bytes, "two encodings of one value");
    Some(value)
}
