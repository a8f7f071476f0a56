//! The JSON forms of updates, on their way in and out.

use data_encoding::{BASE64, HEXLOWER};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::extract::MAX_INTEGER;
use crate::crypto::{PublicKey, Signature};
use crate::node::LogEntry;
use crate::types::{FederationId, StateUpdate, Submission, SubmittedUpdate, UpdateId};

/// Why a form is no update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Neither payload, or both.
    #[error("give either \"data\" (text) or \"data_base64\"")]
    Payload,
    /// No canonical base64.
    #[error("data_base64: {0}")]
    Base64(String),
    /// An id that is too short or too long.
    #[error("update_id: {0}")]
    UpdateId(#[from] crate::types::UpdateIdError),
    /// More than every JSON reader keeps exactly.
    #[error("timestamp: {0} is beyond 2^53 - 1")]
    Timestamp(u64),
    /// No canonical hex.
    #[error("salt: expected 32 lower-case hex digits")]
    Salt,
    /// Another federation's.
    #[error("federation_id: the submission is for federation {found}, this one is {expected}")]
    Federation {
        /// This one.
        expected: FederationId,
        /// The form's.
        found: FederationId,
    },
}

/// An update to be signed by the replica's author key. Exactly one of `data` and `data_base64` is given.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Update)]
pub(super) struct UpdateForm {
    /// 1 to 256 bytes of UTF-8, unique per author. Give one, so that a retry cannot append twice; a random one is made if there is none.
    #[schema(min_length = 1, max_length = 256, example = "order-1")]
    update_id: Option<String>,
    /// The payload as text.
    #[schema(example = "two apples")]
    data: Option<String>,
    /// The payload in padded base64.
    data_base64: Option<String>,
    /// The author's time, ms since the Unix epoch; the replica's clock if left out.
    #[serde(default, deserialize_with = "maybe_integer")]
    #[schema(minimum = 0, maximum = 9007199254740991_u64)]
    timestamp: Option<u64>,
}

impl UpdateForm {
    /// The update; `new_id` and `now` stand in for what was left out.
    pub(super) fn update(self, new_id: impl FnOnce() -> String, now: u64) -> Result<StateUpdate, FormError> {
        let data = payload(self.data, self.data_base64)?;
        let update_id = UpdateId(self.update_id.unwrap_or_else(new_id));
        update_id.check()?;
        Ok(StateUpdate { update_id, data, timestamp: self.timestamp.map_or(Ok(now), bounded)? })
    }
}

fn bounded(timestamp: u64) -> Result<u64, FormError> {
    if timestamp <= MAX_INTEGER { Ok(timestamp) } else { Err(FormError::Timestamp(timestamp)) }
}

fn payload(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, FormError> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64.decode(base64.as_bytes()).map_err(|e| FormError::Base64(e.to_string())),
        _ => Err(FormError::Payload),
    }
}

/// An integer as JSON Schema means it: 5.0 is one.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let whole = |float: f64| (float.fract() == 0.0 && (0.0..=MAX_INTEGER as f64).contains(&float)).then_some(float as u64);
    let found = number.as_u64().or_else(|| number.as_f64().filter(|_| number.is_f64()).and_then(whole));
    found.ok_or_else(|| D::Error::custom(format!("{number} is no integer from 0 on")))
}

/// The same, where it may be left out or null.
fn maybe_integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Integer(#[serde(deserialize_with = "integer")] u64);
    Ok(Option::<Integer>::deserialize(deserializer)?.map(|Integer(number)| number))
}

/// What `POST /v1/updates` takes as JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Updates)]
#[allow(dead_code)]
pub(super) enum UpdatesForm {
    /// One update.
    #[schema(title = "One")]
    One(UpdateForm),
    /// Several, each with a fate of its own.
    #[schema(title = "Many")]
    Many(Vec<UpdateForm>),
}

/// A submission that its author signed: all of its updates are committed, in one batch, or none. `exofed submit --sign-only` writes it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedSubmission {
    /// The federation that it is for.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub federation_id: FederationId,
    /// The author's public key, admitted by the genesis.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub author: PublicKey,
    /// The last federation time, ms, at which it may be committed.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0)]
    pub not_after: u64,
    /// The updates, in the order they will have in the log.
    #[schema(min_items = 1)]
    pub updates: Vec<SignedUpdate>,
    /// The author's Ed25519 signature (docs/proofs.md, "Submission").
    #[schema(value_type = String, pattern = "^[0-9a-f]{128}$")]
    pub signature: Signature,
}

/// One update of a signed submission. Exactly one of `data` and `data_base64` is given.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedUpdate {
    /// 1 to 256 bytes of UTF-8.
    #[schema(min_length = 1, max_length = 256)]
    pub update_id: String,
    /// The author's time, ms.
    #[serde(deserialize_with = "integer")]
    #[schema(minimum = 0)]
    pub timestamp: u64,
    /// 16 bytes that hide the payload in its digest, as hex.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub salt: String,
    /// The payload as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The payload in padded base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

impl SignedSubmission {
    /// The form of a submission.
    #[must_use]
    pub fn new(federation_id: FederationId, submission: &Submission) -> Self {
        let update = |submitted: &SubmittedUpdate| SignedUpdate {
            update_id: submitted.update.update_id.0.clone(),
            timestamp: submitted.update.timestamp,
            salt: HEXLOWER.encode(&submitted.salt),
            data: None,
            data_base64: Some(BASE64.encode(&submitted.update.data)),
        };
        Self {
            federation_id,
            author: submission.author,
            not_after: submission.not_after,
            updates: submission.updates.iter().map(update).collect(),
            signature: submission.signature,
        }
    }

    /// The submission. Whether its signature holds is not checked here: the replica does.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn submission(self, federation: FederationId) -> Result<Submission, FormError> {
        if self.federation_id != federation {
            return Err(FormError::Federation { expected: federation, found: self.federation_id });
        }
        let update = |form: SignedUpdate| {
            let salt = HEXLOWER.decode(form.salt.as_bytes()).ok().and_then(|salt| salt.try_into().ok()).ok_or(FormError::Salt)?;
            let update_id = UpdateId(form.update_id);
            update_id.check()?;
            let update = StateUpdate { update_id, data: payload(form.data, form.data_base64)?, timestamp: form.timestamp };
            Ok(SubmittedUpdate { update, salt })
        };
        let updates = self.updates.into_iter().map(update).collect::<Result<_, FormError>>()?;
        Ok(Submission { author: self.author, not_after: self.not_after, updates, signature: self.signature })
    }
}

/// A committed update.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Entry)]
pub(super) struct EntryForm {
    /// Its place in the log: 1, 2, 3 ... without gaps.
    sequence: u64,
    /// The slot of its batch.
    slot: u64,
    /// Its id.
    update_id: String,
    /// Who signed it.
    #[schema(value_type = String)]
    author: PublicKey,
    /// The author's time, ms: signed, not checked.
    timestamp: u64,
    /// The federation's time, ms.
    committed_at: u64,
    /// The payload as text, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    data: Option<String>,
    /// The payload in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    data_base64: Option<String>,
    /// Where its proof is.
    proof: String,
}

impl From<LogEntry> for EntryForm {
    fn from(entry: LogEntry) -> Self {
        let LogEntry { sequence, slot, author, committed_at, update } = entry;
        let (data, data_base64) = match String::from_utf8(update.data) {
            Ok(text) => (Some(text), None),
            Err(bytes) => (None, Some(BASE64.encode(bytes.as_bytes()))),
        };
        let (update_id, timestamp) = (update.update_id.0, update.timestamp);
        Self { sequence, slot, update_id, author, timestamp, committed_at, data, data_base64, proof: proof_path(sequence) }
    }
}

/// Where an update's proof is.
pub(super) fn proof_path(sequence: u64) -> String {
    format!("/v1/proofs/{sequence}")
}

/// Where to ask for an update's fate: every byte of the id that a path does not hold as it is, escaped.
pub(super) fn update_path(id: &UpdateId) -> String {
    use std::fmt::Write as _;
    let mut path = String::from("/v1/updates/");
    for byte in id.0.bytes() {
        // A dot by itself would be resolved away.
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && id.0.bytes().any(|b| b != b'.')) {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// Parses JSON; the message says where it breaks.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Whether JSON text is an array: what a body that holds several updates begins with.
pub(super) fn is_array(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// A value for a problem's member.
pub(super) fn member(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
