//! An update's proof in a published checkpoint, as text (C2SP `tlog-proof`).

use data_encoding::BASE64;

use super::ProofError;
use super::note::NoteError;
use crate::crypto::{Digest, merkle::root_from_path};
use crate::types::{Federation, Leaf, LeafError, PublishedCheckpoint, PublishedProof};

/// The first line of a proof.
pub const TLOG_PROOF_FORMAT: &str = "c2sp.org/tlog-proof@v1";

/// An update's leaf, its path, and the published checkpoint it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// The leaf: the entry of the log. It travels as the format's extra data.
    pub leaf: Leaf,
    /// Sibling hashes from the leaf up.
    pub path: Vec<Digest>,
    /// The checkpoint.
    pub checkpoint: PublishedCheckpoint,
}

/// Why text is no proof of this federation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// Not the form of such a proof.
    #[error("no {TLOG_PROOF_FORMAT}: {0}")]
    Form(&'static str),
    /// The extra data is no leaf.
    #[error("the entry: {0}")]
    Leaf(#[from] LeafError),
    /// Another entry than the index says.
    #[error("the entry is number {sequence} of the log, the index {index} is that of number {}", index.saturating_add(1))]
    Index {
        /// The leaf's sequence number.
        sequence: u64,
        /// The proof's index.
        index: u64,
    },
    /// The checkpoint's form or signatures.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The path or the author.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl From<PublishedProof> for TlogProof {
    fn from(PublishedProof { leaf, path, checkpoint }: PublishedProof) -> Self {
        Self { leaf, path, checkpoint }
    }
}

impl TlogProof {
    /// Checks everything with the genesis alone.
    ///
    /// # Errors
    /// [`TlogProofError`]: the first rule broken.
    pub fn verify(&self, federation: &Federation) -> Result<(), TlogProofError> {
        self.leaf.update_id.check().map_err(ProofError::from)?;
        if federation.author_key(&self.leaf.author).is_none() {
            return Err(ProofError::UnknownAuthor { found: self.leaf.author }.into());
        }
        let (size, hashes) = (self.checkpoint.size, self.path.len());
        let index = self.leaf.sequence.checked_sub(1).ok_or(TlogProofError::Form("entries are numbered from 1"))?;
        match root_from_path(self.leaf.hash(), index, size, &self.path) {
            None => return Err(ProofError::Path { index, size, hashes }.into()),
            Some(found) if found != self.checkpoint.root => return Err(ProofError::Root { expected: self.checkpoint.root, found }.into()),
            Some(_) => {}
        }
        Ok(self.checkpoint.verify(federation).map_err(NoteError::from)?)
    }

    /// The text form; the extra data is the leaf's canonical bytes, the very entry of the log.
    #[must_use]
    pub fn to_text(&self, federation: &Federation) -> String {
        let (extra, index) = (BASE64.encode(&self.leaf.canonical_bytes()), self.leaf.sequence.saturating_sub(1));
        let path: String = self.path.iter().map(|hash| BASE64.encode(&hash.0) + "\n").collect();
        format!("{TLOG_PROOF_FORMAT}\nextra {extra}\nindex {index}\n{path}\n{}", self.checkpoint.to_note(federation))
    }

    /// Reads the text form; says nothing of what it proves.
    ///
    /// # Errors
    /// [`TlogProofError`].
    pub fn from_text(bytes: &[u8], federation: &Federation) -> Result<Self, TlogProofError> {
        let at = bytes.windows(2).position(|pair| pair == b"\n\n").ok_or(TlogProofError::Form("no empty line stands before the checkpoint"))?;
        let head = std::str::from_utf8(&bytes[..at]).map_err(|_| TlogProofError::Form("it is no UTF-8"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(TLOG_PROOF_FORMAT) {
            return Err(TlogProofError::Form("the first line is another"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra "));
        let extra = extra.ok_or(TlogProofError::Form("the second line must be `extra` with the entry: a federation's proofs carry it"))?;
        let leaf = BASE64.decode(extra.as_bytes()).map_err(|_| TlogProofError::Form("the extra data is no base64"))?;
        let leaf = Leaf::from_canonical_bytes(&leaf)?;
        let number = lines.next().and_then(|line| line.strip_prefix("index "));
        let number = number.and_then(|text| text.parse::<u64>().ok().filter(|index| index.to_string() == text));
        let index = number.ok_or(TlogProofError::Form("the third line must be `index` and a decimal number"))?;
        if leaf.sequence.checked_sub(1) != Some(index) {
            return Err(TlogProofError::Index { sequence: leaf.sequence, index });
        }
        let hash = |line: &str| BASE64.decode(line.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).map(Digest);
        let path: Option<Vec<Digest>> = lines.map(hash).collect();
        let path = path.ok_or(TlogProofError::Form("a line of the path is not the base64 of 32 bytes"))?;
        Ok(Self { leaf, path, checkpoint: PublishedCheckpoint::from_note(&bytes[at + 2..], federation)? })
    }
}
