//! The schema version, and the way from an older one to this one.
//!
//! A migration reads the frozen types of its version and writes a copy of the whole log, which replaces the original by rename, version and data
//! together; what was signed is never encoded anew. The files under `migrations/` are these steps, one a version.

use bincode::{Decode, Encode};

use super::database::Database;
use super::error::{Damage, StoreError};
use crate::types::FederationId;

#[path = "../../migrations/v0001_initial.rs"]
mod v0001_initial;

/// The schema that this program writes.
pub const SCHEMA_VERSION: u32 = 1;

/// The row `schema` of the tree `meta`; its form is the same in every schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Schema {
    pub(super) version: u32,
    pub(super) federation: FederationId,
}

const KEY: &[u8] = b"schema";

/// Writes the initial schema into an empty database.
pub(super) fn initialise(database: &Database, federation: FederationId) -> Result<(), StoreError> {
    v0001_initial::initialise(database, federation)
}

/// Checks that a database is of this schema and federation.
pub(super) fn check(database: &Database, federation: FederationId) -> Result<(), StoreError> {
    let found: Schema = database.meta.get(KEY)?.ok_or(StoreError::Damaged(Damage::Meta))?;
    if found.federation != federation {
        return Err(StoreError::OtherFederation { expected: federation, found: found.federation });
    }
    if found.version > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { known: SCHEMA_VERSION, found: found.version });
    }
    if found.version != SCHEMA_VERSION {
        return Err(StoreError::Damaged(Damage::Meta));
    }
    Ok(())
}
