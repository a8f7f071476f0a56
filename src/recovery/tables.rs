//! What is rebuilt from the log's rows and their bodies: the lookup index and the duplicate table.

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use super::{BodyProblem, RecoveryError, RecoveryReport};
use crate::consensus::{CheckedBody, DuplicateTable, batch_of_frame};
use crate::journal::{JournalReader, Locator};
use crate::planted::{Bug, on};
use crate::store::{BodyLocator, Head, Log, LogReader, StoredBatch, StoredBody};
use crate::types::{Body, Federation};

/// The same place in the log's terms.
#[must_use]
pub fn body_locator(place: Locator) -> BodyLocator {
    BodyLocator { segment: place.segment, page: place.page, offset: place.offset, len: place.len }
}

/// Reads a batch's body from its row, or from the segment that the row names.
///
/// # Errors
/// [`BodyProblem`].
pub fn body_of(reader: &JournalReader, row: &StoredBatch) -> Result<Arc<Body>, BodyProblem> {
    match &row.body {
        StoredBody::Inline(body) => Ok(body.clone()),
        StoredBody::Segment(place) => {
            let locator = Locator { segment: place.segment, page: place.page, offset: place.offset, len: place.len };
            let (header, body) = batch_of_frame(&reader.read(locator)?)?;
            if header == row.header { Ok(body) } else { Err(BodyProblem::Other) }
        }
    }
}

/// Gives the lookup index what it lags behind. A body that cannot be read leaves it lagging.
pub(super) fn refill_index(store: &mut impl Log, reader: &JournalReader, report: &mut RecoveryReport) -> Result<(), RecoveryError> {
    let Some(gap) = store.index_gap() else { return Ok(()) };
    let failed = |error| RecoveryError::Store { dir: PathBuf::from("log"), error };
    for row in store.reader().rows_from_sequence(*gap.start()) {
        let row = row.map_err(failed)?;
        let body = match body_of(reader, &row) {
            Ok(body) => body,
            // The index takes what continues it only: it ends here until the body is there again.
            Err(problem) => {
                report.lacks_body(row.header.slot, &problem);
                continue;
            }
        };
        let ids = body.submissions.iter().flat_map(|s| s.ids().cloned()).zip(row.header.first_sequence..);
        store.index_add(&ids.collect::<Vec<_>>());
    }
    Ok(())
}

/// Rebuilds the duplicate table from the batches that may still count. A replica that lacks one of their bodies could not tell a duplicate, and
/// must not vote until header time has passed that batch by; that is no lasting suspicion, because its votes are whole.
pub(super) fn duplicate_table(
    federation: &Federation,
    rows: &impl LogReader,
    reader: &JournalReader,
    head: &Head,
    report: &mut RecoveryReport,
) -> Result<DuplicateTable, RecoveryError> {
    const AT_A_TIME: usize = 64;
    let parameters = federation.parameters();
    let mut table = DuplicateTable::new(parameters.max_lifetime_ms, parameters.max_live_ids);
    let oldest = head.timestamp.saturating_sub(DuplicateTable::horizon_ms(parameters.max_lifetime_ms));
    let mut recent = Vec::new();
    for row in rows.rows_backwards().filter(|_| !on(Bug::DuplicatesForgotten)) {
        let row = row.map_err(|error| RecoveryError::Store { dir: PathBuf::from("log"), error })?;
        if row.header.timestamp < oldest {
            break;
        }
        recent.push(row);
    }
    // Hashed side by side, taken in order.
    let whole = |row: &StoredBatch| -> Result<CheckedBody, BodyProblem> {
        let checked = CheckedBody::compute(federation, body_of(reader, row)?, row.header.first_sequence);
        if checked.digests.body == row.header.body_digest { Ok(checked) } else { Err(BodyProblem::Other) }
    };
    recent.reverse();
    for rows in recent.chunks(AT_A_TIME) {
        let checked: Vec<_> = if rows.len() == AT_A_TIME { rows.par_iter().map(whole).collect() } else { rows.iter().map(whole).collect() };
        for (row, checked) in rows.iter().zip(checked) {
            take_committed(&mut table, row, checked, parameters.max_lifetime_ms, report);
        }
    }
    Ok(table)
}

/// Notes one batch in the duplicate table.
fn take_committed(
    table: &mut DuplicateTable,
    row: &StoredBatch,
    checked: Result<CheckedBody, BodyProblem>,
    max_lifetime_ms: u64,
    report: &mut RecoveryReport,
) {
    let slot = row.header.slot;
    match checked {
        Ok(checked) => table.commit(&checked, slot, row.header.first_sequence, row.header.timestamp),
        Err(problem) => {
            report.lacks_body(slot, &problem);
            // No later header can be of a time at which this batch still counts.
            report.blind_until = row.header.timestamp.saturating_add(DuplicateTable::horizon_ms(max_lifetime_ms));
            report.suspect_because(format!(
                "the body of slot {slot}, needed to tell duplicates: {problem}; it votes again at a start that can fetch it from a peer, or once the \
                 log's time has passed {}",
                report.blind_until
            ));
        }
    }
}
