//! The proof of one update, its checks and its binary form.

use bincode::{Decode, Encode};

use super::{MAX_PROOF_BYTES, ProofError, check_header};
use crate::crypto::{Digest, PublicKey, merkle};
use crate::types::{
    CertificateError, CommitCertificate, Federation, Header, Leaf, PeerId, ProofAnswer, Sequence, SignatureSet, Slot, TimestampMs, UpdateId, View,
    data_digest, decode, encode,
};

/// What a binary proof begins with: a name and the version.
pub const PROOF_MAGIC: [u8; 8] = *b"EXOFPRF\x01";

/// What opens a leaf's data digest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Opening {
    /// The salt.
    pub salt: [u8; 16],
    /// The payload.
    pub data: Vec<u8>,
}

/// The portable proof that one update stands in the log at its sequence number.
///
/// The fields are open, because a proof says nothing until [`CommitProof::verify`] accepted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitProof {
    /// What stands for the update in the tree.
    pub leaf: Leaf,
    /// Sibling hashes from the leaf up, in the tree whose size is the header's last sequence number.
    pub path: Vec<Digest>,
    /// The header of the update's batch.
    pub header: Header,
    /// The quorum that committed the batch.
    pub certificate: CommitCertificate,
    /// The salt and payload; `None` once they are erased, or where they are not to be told.
    pub opening: Option<Opening>,
}

/// What a proof proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedProof {
    /// The update's id.
    pub update_id: UpdateId,
    /// Its place in the log.
    pub sequence: Sequence,
    /// Its author's key.
    pub author: PublicKey,
    /// The author's own time, ms: signed, not checked by anyone.
    pub timestamp: TimestampMs,
    /// The slot of its batch.
    pub slot: Slot,
    /// The view in which the quorum committed.
    pub view: View,
    /// The header's time, ms.
    pub committed_at: TimestampMs,
    /// The root of the log, and with it every update up to `log_size`.
    pub log_root: Digest,
    /// The log's size after the batch.
    pub log_size: u64,
    /// The members that signed, in the genesis's order.
    pub signers: Vec<PeerId>,
    /// Whether the payload was there and matched.
    pub opened: bool,
}

/// The binary form's fields. What the certificate repeats of the header (epoch, slot, digest) is left out and rebuilt.
#[derive(Encode, Decode)]
struct Compact {
    leaf: Leaf,
    path: Vec<Digest>,
    header: Header,
    view: View,
    signatures: SignatureSet,
    opening: Option<Opening>,
}

impl From<ProofAnswer> for CommitProof {
    fn from(answer: ProofAnswer) -> Self {
        let ProofAnswer { leaf, path, header, certificate, opening } = answer;
        Self { leaf, path, header, certificate, opening: opening.map(|(salt, data)| Opening { salt, data }) }
    }
}

impl CommitProof {
    /// The id of the update it is about.
    #[must_use]
    pub fn update_id(&self) -> &UpdateId {
        &self.leaf.update_id
    }

    /// Checks everything, cheap checks first. Needs nothing but the federation's genesis.
    ///
    /// # Errors
    /// [`ProofError`]: the first rule broken.
    pub fn verify(&self, federation: &Federation) -> Result<VerifiedProof, ProofError> {
        check_header(federation, &self.header)?;
        self.verify_place(federation)?;
        if let Some(opening) = &self.opening {
            self.verify_opening(opening, &opening.data)?;
        }
        self.certificate.verify(federation, &self.header)?;
        Ok(VerifiedProof {
            update_id: self.leaf.update_id.clone(),
            sequence: self.leaf.sequence,
            author: self.leaf.author,
            timestamp: self.leaf.timestamp,
            slot: self.header.slot,
            view: self.certificate.view,
            committed_at: self.header.timestamp,
            log_root: self.header.log_root,
            log_size: self.header.last_sequence(),
            signers: self.certificate.signatures.signers().filter_map(|index| federation.peer(index).cloned()).collect(),
            opened: self.opening.is_some(),
        })
    }

    /// Checks that this is the payload proved; the proof's own opening gives the salt. It does not check the proof: [`CommitProof::verify`] does.
    ///
    /// # Errors
    /// [`ProofError::NoOpening`] without a salt, [`ProofError::DataLength`] and [`ProofError::DataDigest`] for another payload.
    pub fn verify_data(&self, data: &[u8]) -> Result<(), ProofError> {
        let opening = self.opening.as_ref().ok_or(ProofError::NoOpening { sequence: self.leaf.sequence })?;
        self.verify_opening(opening, data)
    }

    /// The binary form: [`PROOF_MAGIC`], then the fields (`docs/proofs.md`, "Binary form").
    ///
    /// # Errors
    /// A certificate that is not for the header has no binary form; nor has a proof over [`MAX_PROOF_BYTES`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ProofError> {
        let (certificate, header) = (&self.certificate, &self.header);
        if certificate.epoch != header.epoch {
            return Err(CertificateError::WrongEpoch { expected: header.epoch, found: certificate.epoch }.into());
        }
        if certificate.slot != header.slot || certificate.digest != header.digest() {
            return Err(CertificateError::WrongPlace { expected: header.slot, found: certificate.slot }.into());
        }
        let compact = Compact {
            leaf: self.leaf.clone(),
            path: self.path.clone(),
            header: header.clone(),
            view: certificate.view,
            signatures: certificate.signatures.clone(),
            opening: self.opening.clone(),
        };
        let bytes = [PROOF_MAGIC.as_slice(), &encode(&compact)?].concat();
        within_limit(bytes.len())?;
        Ok(bytes)
    }

    /// Reads the binary form; says nothing of what it proves.
    ///
    /// # Errors
    /// Bytes that are too long, of another magic, malformed, or not the canonical form of what they mean.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProofError> {
        within_limit(bytes.len())?;
        let Some(fields) = bytes.strip_prefix(PROOF_MAGIC.as_slice()) else {
            return Err(ProofError::Magic { expected: PROOF_MAGIC, found: bytes.iter().take(8).copied().collect() });
        };
        let Compact { leaf, path, header, view, signatures, opening } = decode(fields)?;
        let certificate = CommitCertificate { epoch: header.epoch, view, slot: header.slot, digest: header.digest(), signatures };
        let proof = Self { leaf, path, header, certificate, opening };
        same_bytes(bytes, &proof.to_bytes()?)?;
        Ok(proof)
    }

    /// The leaf's own rules, its author, and its path to the header's root.
    fn verify_place(&self, federation: &Federation) -> Result<(), ProofError> {
        self.leaf.update_id.check()?;
        let (first, last) = (self.header.first_sequence, self.header.last_sequence());
        let sequence = self.leaf.sequence;
        if !(first..=last).contains(&sequence) {
            return Err(ProofError::Sequence { first, last, found: sequence });
        }
        if federation.author_key(&self.leaf.author).is_none() {
            return Err(ProofError::UnknownAuthor { found: self.leaf.author });
        }
        let index = sequence.saturating_sub(1);
        let found = merkle::root_from_path(self.leaf.hash(), index, last, &self.path);
        let found = found.ok_or(ProofError::Path { index, size: last, hashes: self.path.len() })?;
        if found == self.header.log_root { Ok(()) } else { Err(ProofError::Root { expected: self.header.log_root, found }) }
    }

    fn verify_opening(&self, opening: &Opening, data: &[u8]) -> Result<(), ProofError> {
        let length = data.len() as u64;
        if length != self.leaf.data_length {
            return Err(ProofError::DataLength { expected: self.leaf.data_length, found: length });
        }
        let found = data_digest(&opening.salt, &self.leaf.update_id, data);
        if found == self.leaf.data_digest { Ok(()) } else { Err(ProofError::DataDigest { expected: self.leaf.data_digest, found }) }
    }
}

pub(super) fn within_limit(actual: usize) -> Result<(), ProofError> {
    if actual > MAX_PROOF_BYTES { Err(ProofError::TooLong { limit: MAX_PROOF_BYTES, actual }) } else { Ok(()) }
}

/// One proof has one form: whatever was read must be what would be written.
pub(super) fn same_bytes(given: &[u8], canonical: &[u8]) -> Result<(), ProofError> {
    if given == canonical {
        return Ok(());
    }
    let shorter = given.len().min(canonical.len());
    let at = given.iter().zip(canonical).position(|(a, b)| a != b).unwrap_or(shorter);
    Err(ProofError::NotCanonical { at })
}
