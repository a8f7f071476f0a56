//! Schema 1, the first: the trees `batches`, `meta`, `checkpoints`, `views` and `evidence`, all empty but for the row `schema` of `meta`.

use super::{Database, FederationId, KEY, Schema, StoreError};

/// From nothing to schema 1.
pub(super) fn initialise(database: &Database, federation: FederationId) -> Result<(), StoreError> {
    database.meta.put(KEY, &Schema { version: 1, federation })
}
