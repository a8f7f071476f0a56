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
pub(super) struct Certificate {
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

impl Certificate {
    /// With the signers' labels.
    pub(super) fn of(certificate: &CommitCertificate, federation: &Federation) -> Result<Self, ProofError> {
        let label = |(index, signature): &(u16, Signature)| {
            let unknown = ProofError::UnknownSigner { index: *index, members: federation.size() };
            federation.peer(*index).map(|peer| Signed { peer: peer.clone(), signature: *signature }).ok_or(unknown)
        };
        let CommitCertificate { epoch, view, slot, digest, signatures } = certificate;
        let signatures = signatures.0.iter().map(label).collect::<Result<_, _>>()?;
        Ok(Self { epoch: *epoch, view: *view, slot: *slot, digest: *digest, signatures })
    }

    pub(super) fn resolve(self, federation: &Federation) -> Result<CommitCertificate, ProofError> {
        let place = |signed: &Signed| {
            let unknown = || ProofError::UnknownPeer { label: excerpt(&signed.peer.0) };
            federation.index_of(&signed.peer).map(|index| (index, signed.signature)).ok_or_else(unknown)
        };
        let Self { epoch, view, slot, digest, signatures } = self;
        let signatures = SignatureSet(signatures.iter().map(place).collect::<Result<_, _>>()?);
        Ok(CommitCertificate { epoch, view, slot, digest, signatures })
    }
}

/// The canonical spelling of a file form.
pub(super) fn spell(file: &impl Serialize) -> Result<Vec<u8>, ProofError> {
    let mut bytes = serde_json::to_vec_pretty(file).map_err(|e| json_error(&e))?;
    bytes.push(b'\n');
    within_limit(bytes.len())?;
    Ok(bytes)
}

/// A file's first two fields are the format and the federation asked about.
pub(super) fn check_head(format: &str, expected: &'static str, found: FederationId, federation: &Federation) -> Result<(), ProofError> {
    if format != expected {
        return Err(ProofError::Format { expected, found: excerpt(format) });
    }
    if found != federation.id() {
        return Err(HeaderError::Federation { expected: federation.id(), found }.into());
    }
    Ok(())
}

impl CommitProof {
    /// The JSON form: two spaces of indentation, fields in fixed order, one newline at the end. The federation gives the signers' labels.
    ///
    /// # Errors
    /// A signer beyond the membership, and a proof over [`super::MAX_PROOF_BYTES`], cannot be written.
    pub fn to_json(&self, federation: &Federation) -> Result<Vec<u8>, ProofError> {
        let file = File {
            format: PROOF_FORMAT.to_owned(),
            federation_id: federation.id(),
            leaf: self.leaf.clone(),
            path: self.path.clone(),
            header: self.header.clone(),
            certificate: Certificate::of(&self.certificate, federation)?,
            opening: self.opening.as_ref().map(|o| OpeningForm { salt: Salt(o.salt), data: Base64(o.data.clone()) }),
        };
        spell(&file)
    }

    /// Reads the JSON form; says nothing of what it proves.
    ///
    /// # Errors
    /// Text that is too long, malformed, of another format or federation, with a signer that is no member, or spelled otherwise than
    /// [`CommitProof::to_json`] would.
    pub fn from_json(bytes: &[u8], federation: &Federation) -> Result<Self, ProofError> {
        within_limit(bytes.len())?;
        let file: File = serde_json::from_slice(bytes).map_err(|e| json_error(&e))?;
        check_head(&file.format, PROOF_FORMAT, file.federation_id, federation)?;
        let proof = Self {
            leaf: file.leaf,
            path: file.path,
            header: file.header,
            certificate: file.certificate.resolve(federation)?,
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
