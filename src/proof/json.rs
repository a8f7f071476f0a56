//! The JSON file form of a [`CommitProof`]: one spelling for each proof, readable by a person.

use data_encoding::{BASE64, HEXLOWER};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::commit::{same_bytes, within_limit};
use super::{CommitProof, HeaderError, Opening, ProofError};
use crate::crypto::{Digest, Signature};
use crate::types::{CommitCertificate, Epoch, Federation, FederationId, Header, Leaf, PeerId, SignatureSet, Slot, View};

/// The first field of a JSON proof.
pub const PROOF_FORMAT: &str = "exo-federation/commit-proof/1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    federation_id: FederationId,
    leaf: Leaf,
    path: Vec<Digest>,
    header: Header,
    certificate: Certificate,
    opening: Option<OpeningForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    epoch: Epoch,
    view: View,
    slot: Slot,
    digest: Digest,
    signatures: Vec<Signed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    peer: PeerId,
    signature: Signature,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpeningForm {
    salt: Salt,
    data: Base64,
}

struct Salt([u8; 16]);

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Salt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|e| D::Error::custom(format!("expected 32 lower-case hex digits: {e}")))?;
        let salt = bytes.try_into().map_err(|_| D::Error::custom(format!("expected 32 hex digits, found {}", text.len())))?;
        Ok(Self(salt))
    }
}

struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(|e| D::Error::custom(format!("expected padded base64: {e}")))
    }
}

impl CommitProof {
    /// The JSON form: two spaces of indentation, fields in fixed order, one newline at the end. The federation gives the signers' labels.
    ///
    /// # Errors
    /// A signer beyond the membership, and a proof over [`super::MAX_PROOF_BYTES`], cannot be written.
    pub fn to_json(&self, federation: &Federation) -> Result<Vec<u8>, ProofError> {
        let label = |(index, signature): &(u16, Signature)| {
            let unknown = ProofError::UnknownSigner { index: *index, members: federation.size() };
            federation.peer(*index).map(|peer| Signed { peer: peer.clone(), signature: *signature }).ok_or(unknown)
        };
        let CommitCertificate { epoch, view, slot, digest, signatures } = &self.certificate;
        let file = File {
            format: PROOF_FORMAT.to_owned(),
            federation_id: federation.id(),
            leaf: self.leaf.clone(),
            path: self.path.clone(),
            header: self.header.clone(),
            certificate: Certificate {
                epoch: *epoch,
                view: *view,
                slot: *slot,
                digest: *digest,
                signatures: signatures.0.iter().map(label).collect::<Result<_, _>>()?,
            },
            opening: self.opening.as_ref().map(|o| OpeningForm { salt: Salt(o.salt), data: Base64(o.data.clone()) }),
        };
        let mut bytes = serde_json::to_vec_pretty(&file).map_err(|e| json_error(&e))?;
        bytes.push(b'\n');
        within_limit(bytes.len())?;
        Ok(bytes)
    }

    /// Reads the JSON form; says nothing of what it proves.
    ///
    /// # Errors
    /// Text that is too long, malformed, of another format or federation, with a signer that is no member, or spelled otherwise than
    /// [`CommitProof::to_json`] would.
    pub fn from_json(bytes: &[u8], federation: &Federation) -> Result<Self, ProofError> {
        within_limit(bytes.len())?;
        let file: File = serde_json::from_slice(bytes).map_err(|e| json_error(&e))?;
        if file.format != PROOF_FORMAT {
            return Err(ProofError::Format { expected: PROOF_FORMAT, found: excerpt(&file.format) });
        }
        if file.federation_id != federation.id() {
            return Err(HeaderError::Federation { expected: federation.id(), found: file.federation_id }.into());
        }
        let place = |signed: &Signed| {
            let unknown = || ProofError::UnknownPeer { label: excerpt(&signed.peer.0) };
            federation.index_of(&signed.peer).map(|index| (index, signed.signature)).ok_or_else(unknown)
        };
        let Certificate { epoch, view, slot, digest, signatures } = file.certificate;
        let signatures = SignatureSet(signatures.iter().map(place).collect::<Result<_, _>>()?);
        let proof = Self {
            leaf: file.leaf,
            path: file.path,
            header: file.header,
            certificate: CommitCertificate { epoch, view, slot, digest, signatures },
            opening: file.opening.map(|o| Opening { salt: o.salt.0, data: o.data.0 }),
        };
        same_bytes(bytes, &proof.to_json(federation)?)?;
        Ok(proof)
    }
}

/// What is quoted in an error may be of any length in the file.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

pub(super) fn json_error(error: &serde_json::Error) -> ProofError {
    ProofError::Json { line: error.line(), column: error.column(), reason: error.to_string().chars().take(256).collect() }
}
