//! The checkpoints that a replica published, against the history beside them.

use std::io::ErrorKind;
use std::path::Path;

use super::report::AuditReport;
use crate::crypto::Digest;
use crate::recovery::{DataDir, read_note};
use crate::types::{Cosignature, Federation, Header, PublishedCheckpoint};

/// What one note says of the log.
struct Note {
    file: &'static str,
    size: u64,
    root: Digest,
}

/// The notes of one data directory.
#[derive(Default)]
pub(super) struct PublishedNotes {
    /// Those that the history has not come to.
    ahead: Vec<Note>,
    /// Who cosigned them.
    pub(super) cosignatures: Vec<Cosignature>,
}

impl PublishedNotes {
    /// Reads and verifies the notes of a data directory: the newest published checkpoint, and the replica's own newest cosignature.
    pub(super) fn read(data: &Path, federation: &Federation, report: &mut AuditReport) -> Self {
        let dir = DataDir(data.to_owned());
        let mut notes = Self::default();
        for (file, path, whole) in [("checkpoint", dir.checkpoint(), true), ("cosignature", dir.cosignature(), false)] {
            match read(&path, whole, federation) {
                Ok(Some(PublishedCheckpoint { size, root, cosignatures, .. })) => {
                    notes.ahead.push(Note { file, size, root });
                    notes.cosignatures.extend(cosignatures);
                }
                Ok(None) => {}
                Err(problem) => report.bad(file, "published", "a note whose signatures hold", &problem),
            }
        }
        notes
    }

    /// The history comes to the end of a batch. What a gap, or an earlier run, went past cannot be compared.
    pub(super) fn compare(&mut self, header: &Header, report: &mut AuditReport) {
        let (first, last) = (header.first_sequence, header.last_sequence());
        self.ahead.retain(|note| {
            if note.size > last {
                return true;
            }
            let found = if note.size < last { "no batch that ends there".to_owned() } else { format!("root {}", header.log_root) };
            if note.size >= first && (note.size, note.root) != (last, header.log_root) {
                report.bad_at(note.file, header.slot, (first, last), "published", &note.says(), &found);
            }
            false
        });
    }

    /// An earlier run went past the end of this batch: what is published of it is held against its header, what is older was compared then.
    pub(super) fn resume(&mut self, header: &Header, report: &mut AuditReport) {
        self.ahead.retain(|note| note.size >= header.first_sequence);
        self.compare(header, report);
    }

    /// The history is at its end.
    pub(super) fn miss(&mut self, report: &mut AuditReport) {
        for note in self.ahead.drain(..) {
            let found = format!("the history ends at {} entries", report.head);
            report.bad_at(note.file, report.slot, (report.head, note.size), "published", &note.says(), &found);
        }
    }
}

impl Note {
    fn says(&self) -> String {
        format!("{} entries with root {}, as published", self.size, self.root)
    }
}

/// A note: a quorum's if it is to be `whole`, else one member's cosignature.
fn read(path: &Path, whole: bool, federation: &Federation) -> Result<Option<PublishedCheckpoint>, String> {
    let bytes = match read_note(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let note = PublishedCheckpoint::from_note(&bytes, federation).map_err(|e| e.to_string())?;
    match note.cosignatures.as_slice() {
        _ if whole => note.verify(federation).map_err(|e| e.to_string())?,
        [own] => own.verify(federation).map_err(|e| e.to_string())?,
        all => return Err(format!("{} cosignatures, expected the replica's own", all.len())),
    }
    Ok(Some(note))
}
