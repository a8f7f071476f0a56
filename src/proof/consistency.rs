//! That an older log is the beginning of a newer one, which a quorum signed.

use serde::{Deserialize, Serialize};

use super::commit::{same_bytes, within_limit};
use super::json::{Certificate, check_head, json_error, spell};
use super::{ProofError, check_header};
use crate::crypto::{Digest, merkle::is_consistent};
use crate::types::{CommitCertificate, ConsistencyAnswer, Federation, FederationId, Header};

/// The first field of a consistency proof's file.
pub const CONSISTENCY_FORMAT: &str = "exo-federation/consistency-proof/1";

/// The log of `old_size` entries with `old_root` is the beginning of the log after `header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The older log's size.
    pub old_size: u64,
    /// The older log's root.
    pub old_root: Digest,
    /// RFC 9162, section 2.1.4.
    pub path: Vec<Digest>,
    /// The header of the newer log's last batch.
    pub header: Header,
    /// The quorum's signatures on it.
    pub certificate: CommitCertificate,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    federation_id: FederationId,
    old_size: u64,
    old_root: Digest,
    path: Vec<Digest>,
    header: Header,
    certificate: Certificate,
}

impl From<ConsistencyAnswer> for ConsistencyProof {
    fn from(answer: ConsistencyAnswer) -> Self {
        let ConsistencyAnswer { old_size, old_root, path, header, certificate } = answer;
        Self { old_size, old_root, path, header, certificate }
    }
}

impl ConsistencyProof {
    /// Checks everything with the genesis alone: the newer log is committed, and the older one is its beginning.
    ///
    /// # Errors
    /// [`ProofError`]: the first rule broken.
    pub fn verify(&self, federation: &Federation) -> Result<(), ProofError> {
        check_header(federation, &self.header)?;
        let new = (self.header.last_sequence(), self.header.log_root);
        if !is_consistent((self.old_size, self.old_root), new, &self.path) {
            return Err(ProofError::Consistency { old_size: self.old_size, old_root: self.old_root, new_size: new.0, new_root: new.1 });
        }
        Ok(self.certificate.verify(federation, &self.header)?)
    }

    /// The JSON form, canonical as a commit proof's is.
    ///
    /// # Errors
    /// As [`super::CommitProof::to_json`].
    pub fn to_json(&self, federation: &Federation) -> Result<Vec<u8>, ProofError> {
        spell(&File {
            format: CONSISTENCY_FORMAT.to_owned(),
            federation_id: federation.id(),
            old_size: self.old_size,
            old_root: self.old_root,
            path: self.path.clone(),
            header: self.header.clone(),
            certificate: Certificate::of(&self.certificate, federation)?,
        })
    }

    /// Reads the JSON form; says nothing of what it proves.
    ///
    /// # Errors
    /// As [`super::CommitProof::from_json`].
    pub fn from_json(bytes: &[u8], federation: &Federation) -> Result<Self, ProofError> {
        within_limit(bytes.len())?;
        let File { format, federation_id, old_size, old_root, path, header, certificate } =
            serde_json::from_slice(bytes).map_err(|e| json_error(&e))?;
        check_head(&format, CONSISTENCY_FORMAT, federation_id, federation)?;
        let proof = Self { old_size, old_root, path, header, certificate: certificate.resolve(federation)? };
        same_bytes(bytes, &proof.to_json(federation)?)?;
        Ok(proof)
    }
}
