//! Where an audit stands, kept in a file: an interrupted one goes on there, and a later one checks what is new.
//!
//! The file is the auditor's own and is believed: who can change it can hide what lies before its header.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::report::{BadRange, Finding};
use super::{AuditError, Level};
use crate::crypto::Digest;
use crate::crypto::merkle::Frontier;
use crate::proof::chain::ChainVerifier;
use crate::proof::check_header;
use crate::types::{Federation, FederationId, Header};

/// The first field of a state file.
pub const STATE_FORMAT: &str = "exo-federation/audit-state/1";

/// The last header verified, the tree there, and what was found up to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditState {
    pub(super) format: String,
    pub(super) federation_id: FederationId,
    pub(super) level: Level,
    pub(super) header: Header,
    /// The tree's right edge after that header; none if it is not known.
    pub(super) peaks: Option<Vec<Digest>>,
    pub(super) entries: u64,
    pub(super) batches: u64,
    pub(super) signatures: u64,
    pub(super) bad: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) bad_ranges: Vec<BadRange>,
}

impl AuditState {
    /// Reads a state; `None` if there is no such file yet.
    ///
    /// # Errors
    /// [`AuditError::State`]: a file that is no state of this federation at this level, or whose tree does not fit its header.
    pub fn read(path: &Path, federation: &Federation, level: Level) -> Result<Option<Self>, AuditError> {
        let refuse = |problem: String| AuditError::State { path: path.to_owned(), problem };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(error.to_string())),
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
        if state.format != STATE_FORMAT {
            return Err(refuse(format!("its format is not {STATE_FORMAT}")));
        }
        if state.federation_id != federation.id() {
            return Err(refuse(format!("it is of federation {}", state.federation_id)));
        }
        if state.level != level {
            return Err(refuse(format!("it is of an audit at level {}; give --level {} or another file", state.level, state.level)));
        }
        check_header(federation, &state.header).map_err(|e| refuse(e.to_string()))?;
        let fits = |peaks: &Vec<Digest>| {
            let frontier = Frontier::from_peaks(state.header.last_sequence(), peaks.clone());
            frontier.is_some_and(|frontier| frontier.root() == state.header.log_root)
        };
        if !state.peaks.as_ref().is_none_or(fits) {
            return Err(refuse("its tree does not give its header's log root".to_owned()));
        }
        Ok(Some(state))
    }

    /// Writes the state, whole or not at all.
    ///
    /// # Errors
    /// [`AuditError::State`].
    pub fn write(&self, path: &Path) -> Result<(), AuditError> {
        let refuse = |problem: String| AuditError::State { path: path.to_owned(), problem };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|e| refuse(e.to_string()))?;
        serde_json::to_writer_pretty(&mut file, self).map_err(|e| refuse(e.to_string()))?;
        file.write_all(b"\n").and_then(|()| file.as_file().sync_all()).map_err(|e| refuse(e.to_string()))?;
        file.persist(path).map(drop).map_err(|e| refuse(e.to_string()))
    }

    pub(super) fn chain(&self) -> ChainVerifier {
        let frontier = self.peaks.clone().and_then(|peaks| Frontier::from_peaks(self.header.last_sequence(), peaks));
        frontier.and_then(|frontier| ChainVerifier::after(&self.header, frontier)).unwrap_or_else(|| ChainVerifier::behind(&self.header))
    }
}
