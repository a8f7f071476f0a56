//! The schema version, and the way from an older one to this one.
//!
//! A migration reads the frozen types of its version and writes a copy of the whole log, which replaces the original by one exchange of names,
//! version and data together: a crash leaves the old log or the new one, whole. What was signed is never encoded anew. The files under
//! `migrations/` are these steps, one a version.

use std::fs;
use std::path::Path;

use bincode::{Decode, Encode};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::database::{Database, sync_file};
use super::error::{Damage, StoreError};
use super::{StoreOptions, copy_dir};
use crate::types::FederationId;

#[path = "../../migrations/v0001_initial.rs"]
mod v0001_initial;
#[path = "../../migrations/v0002_evidence.rs"]
mod v0002_evidence;

/// The schema that this program writes.
pub const SCHEMA_VERSION: u32 = 2;

/// From the rows of one schema to those of the next.
pub(super) type Step = fn(from: &Database, to: &Database) -> Result<(), StoreError>;

/// The schemas that a program knows: `steps[n]` leads from schema n + 1 to the next.
#[derive(Clone, Copy)]
pub(super) struct Schemas<'a> {
    pub(super) steps: &'a [Step],
}

/// Those of this program.
pub(super) const SCHEMAS: Schemas<'static> = Schemas { steps: &[v0002_evidence::step] };

impl Schemas<'_> {
    /// The newest.
    pub(super) fn known(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// How far a migration is: at each of these a crash is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The files beside the database are copied.
    Copied,
    /// The rows are written.
    Written,
    /// All of it is durable, under another name.
    Durable,
    /// The new log has its name, the old one not yet gone.
    Exchanged,
}

/// The row `schema` of the tree `meta`; its form is the same in every schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Schema {
    pub(super) version: u32,
    pub(super) federation: FederationId,
}

const KEY: &[u8] = b"schema";

/// Writes the schema that this program knows into an empty database.
pub(super) fn initialise(database: &Database, federation: FederationId) -> Result<(), StoreError> {
    database.meta.put(KEY, &Schema { version: SCHEMA_VERSION, federation })
}

/// Checks that a database is of this federation, and of a schema that is known.
pub(super) fn check(database: &Database, federation: FederationId, schemas: &Schemas<'_>) -> Result<u32, StoreError> {
    let found: Schema = database.meta.get(KEY)?.ok_or(StoreError::Damaged(Damage::Meta))?;
    if found.federation != federation {
        return Err(StoreError::OtherFederation { expected: federation, found: found.federation });
    }
    if found.version > schemas.known() {
        return Err(StoreError::NewerSchema { known: schemas.known(), found: found.version });
    }
    if found.version == 0 { Err(StoreError::Damaged(Damage::Meta)) } else { Ok(found.version) }
}

/// Brings the log in a data directory one schema further.
pub(super) fn migrate(
    dir: &Path,
    federation: FederationId,
    options: &StoreOptions,
    found: u32,
    schemas: &Schemas<'_>,
    mut reached: impl FnMut(Stage) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (log, building) = (dir.join("log"), dir.join("log.migrating"));
    let step = usize::try_from(found - 1).ok().and_then(|at| schemas.steps.get(at)).ok_or(StoreError::Damaged(Damage::Meta))?;
    let io = |e: std::io::Error| StoreError::io(&building, &e);
    discard(dir)?;
    fs::create_dir_all(building.join("sled")).map_err(io)?;
    for part in ["merkle", "index"] {
        copy_dir(&log.join(part), &building.join(part)).map_err(io)?;
    }
    fs::copy(log.join("head"), building.join("head")).map_err(io)?;
    reached(Stage::Copied)?;
    {
        let old = Database::open(&log.join("sled"), options.cache_bytes)?;
        let new = Database::open(&building.join("sled"), options.cache_bytes)?;
        step(&old, &new)?;
        new.meta.put(KEY, &Schema { version: found + 1, federation })?;
        reached(Stage::Written)?;
        new.sync(options.flush_timeout_ms)?;
    }
    sync_tree(&building)?;
    reached(Stage::Durable)?;
    renameat_with(CWD, &building, CWD, &log, RenameFlags::EXCHANGE).map_err(|e| io(e.into()))?;
    sync_file(dir)?;
    reached(Stage::Exchanged)?;
    discard(dir)
}

/// Removes what an interrupted migration left: a copy not yet whole, or the log that it replaced. `log` itself is always whole.
pub(super) fn discard(dir: &Path) -> Result<(), StoreError> {
    let left = dir.join("log.migrating");
    if left.exists() { fs::remove_dir_all(&left).map_err(|e| StoreError::io(&left, &e)) } else { Ok(()) }
}

fn sync_tree(dir: &Path) -> Result<(), StoreError> {
    let io = |e: std::io::Error| StoreError::io(dir, &e);
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync_file(&path)? }
    }
    sync_file(dir)
}
