//! A proof as one self-contained HTML page that verifies itself in the reader's browser.

use data_encoding::BASE64;

use super::{CommitProof, ProofError};
use crate::crypto::sha256;
use crate::types::{Federation, Parameters};

const TEMPLATE: &str = include_str!("page.html");
/// The verifier, apart from the page around it.
pub const VERIFIER_SCRIPT: &str = include_str!("verify.js");
const PAGE_SCRIPT: &str = include_str!("page.js");

impl CommitProof {
    /// The page: the proof's JSON form, the genesis, and a verifier (WebCrypto's SHA-256 and Ed25519). It asks no network; a reader compares the
    /// federation's id, or pastes a genesis of their own.
    ///
    /// # Errors
    /// As [`CommitProof::to_json`].
    pub fn to_html(&self, federation: &Federation) -> Result<String, ProofError> {
        let json = |value: serde_json::Result<String>| value.map_err(|e| super::json::json_error(&e));
        let genesis = json(serde_json::to_string(federation.genesis()))?;
        let defaults = json(serde_json::to_string(&Parameters::default()))?;
        let script = format!("{VERIFIER_SCRIPT}\n{PAGE_SCRIPT}");
        let title: String = self.leaf.update_id.to_string().chars().flat_map(escaped).collect();
        let parts = [
            ("@TITLE@", title),
            ("@SCRIPT_DIGEST@", BASE64.encode(&sha256(script.as_bytes()).0)),
            ("@PROOF@", BASE64.encode(&self.to_json(federation)?)),
            ("@GENESIS@", BASE64.encode(genesis.as_bytes())),
            ("@DEFAULTS@", BASE64.encode(defaults.as_bytes())),
            ("@SCRIPT@", script),
        ];
        Ok(fill(&parts))
    }
}

/// Puts parts into the template; what a part holds is not looked at again.
fn fill(parts: &[(&str, String)]) -> String {
    let mut page = String::new();
    let mut rest = TEMPLATE;
    while let Some((at, (name, part))) = parts.iter().filter_map(|part| Some((rest.find(part.0)?, part))).min_by_key(|(at, _)| *at) {
        page.push_str(rest.get(..at).unwrap_or_default());
        page.push_str(part);
        rest = rest.get(at + name.len()..).unwrap_or_default();
    }
    page + rest
}

/// A character as HTML text.
fn escaped(c: char) -> Vec<char> {
    match c {
        '&' => "&amp;".chars().collect(),
        '<' => "&lt;".chars().collect(),
        '>' => "&gt;".chars().collect(),
        c => vec![c],
    }
}
