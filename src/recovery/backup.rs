//! Backups: a copy of a replica's segments, from which the log is rebuilt, and suspect replicas made from a backup or from nothing.
//!
//! A backup holds no votes: whoever comes back with an older voting record could contradict what it signed since. So what is restored is suspect
//! before its first byte is in place, and rejoins like any suspect replica.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{DataDir, RecoveryError, record_of};
use crate::consensus::Record;
use crate::journal::{Damage, Journal, JournalError, JournalOptions, JournalReader, JournalReport};
use crate::types::{CheckpointCertificate, CodecError, Federation, Slot};

const PAGE: usize = 4096;
/// How often the segment that a running replica writes is copied again before the backup is given up.
const LOOKS: u32 = 5;

/// Why a backup, or what is made from one, is refused.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Nothing is ever overwritten.
    #[error("{} is not empty; nothing is overwritten, choose another directory or move it away", .path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A backup of damage would be none.
    #[error("{damage}; repair it first: exofed recover")]
    Damaged {
        /// The first damaged place.
        damage: Damage,
    },
    /// The copy is not what was copied.
    #[error("the copy does not hold: {damage}")]
    Copy {
        /// The first place that differs.
        damage: Damage,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecoveryError),
    /// A record cannot be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The operating system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_path_buf();
    move |error| BackupError::Io { path, error }
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Segments.
    pub segments: u64,
    /// Their bytes in use.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
}

/// Copies a replica's journal to a new directory, of a running replica too, and checks the copy page by page. The copy gets a voting record of
/// its own that remembers only that the replica ran, and the last stable checkpoint.
///
/// # Errors
/// [`BackupError`].
pub fn backup(
    federation: &Federation,
    options: &JournalOptions,
    from: &DataDir,
    to: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Copied, BackupError> {
    vacant(to)?;
    let reader = JournalReader::open(&from.journal(), Some(federation.id().0.0), options)?;
    sound(&reader.check()?, |damage| BackupError::Damaged { damage })?;
    let building = to.with_added_extension("new");
    if building.exists() {
        fs::remove_dir_all(&building).map_err(at(&building))?;
    }
    let copy = DataDir(building.clone());
    let mut copied = Copied::default();
    let stable = stable(federation, &reader)?;
    copy_segments(&from.journal(), &copy.journal(), |bytes| {
        copied.segments += 1;
        copied.bytes += bytes;
        progress(copied.bytes);
    })?;
    let mut looks = 1;
    loop {
        begin_votes(federation, options, &copy, stable.clone())?;
        let report = JournalReader::open(&copy.journal(), Some(federation.id().0.0), options)?.check()?;
        copied.records = report.segment_frames;
        match sound(&report, |damage| BackupError::Copy { damage }) {
            Ok(()) => break,
            Err(error) if looks == LOOKS => return Err(error),
            // A page was read while it was written.
            Err(_) => {
                looks += 1;
                fs::remove_dir_all(copy.journal()).map_err(at(&building))?;
                copy_segments(&from.journal(), &copy.journal(), |_| ())?;
            }
        }
    }
    note(&building.join("backup"), "a copy of a replica's journal, without its votes; exofed restore makes a suspect replica of it\n")?;
    sync_tree(&building)?;
    fs::rename(&building, to).map_err(at(to))?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))?;
    Ok(copied)
}

/// Makes a suspect replica's data directory from a backup.
///
/// # Errors
/// [`BackupError`].
pub fn restore(federation: &Federation, options: &JournalOptions, from: &Path, to: &DataDir, progress: impl FnMut(u64)) -> Result<(), BackupError> {
    let source = DataDir(from.to_path_buf());
    let reader = JournalReader::open(&source.journal(), Some(federation.id().0.0), options)?;
    sound(&reader.check()?, |damage| BackupError::Copy { damage })?;
    suspect_first(to, &format!("restored from the backup {}: what it signed since is not known here", from.display()))?;
    let building = to.0.join("journal.new");
    copy_segments(&source.journal(), &building, progress)?;
    for votes in ["votes.0", "votes.1"] {
        fs::copy(source.journal().join(votes), building.join(votes)).map_err(at(&building))?;
    }
    sync_tree(&building)?;
    fs::rename(&building, to.journal()).map_err(at(&building))?;
    sync_dir(&to.0)
}

/// Makes a suspect replica's data directory from nothing: its disk was lost.
///
/// # Errors
/// [`BackupError`].
pub fn new_disk(federation: &Federation, options: &JournalOptions, dir: &DataDir) -> Result<(), BackupError> {
    suspect_first(dir, "its disk was lost: what it signed is not known here")?;
    let (kind, payload) = Record::Started { run: 1 }.to_frame()?;
    Ok(Journal::create(&dir.journal(), federation.id().0.0, options, &[(kind, payload)])?)
}

/// The note goes first: without it, a crash in between would leave a replica that votes.
fn suspect_first(dir: &DataDir, reason: &str) -> Result<(), BackupError> {
    vacant(&dir.0)?;
    fs::create_dir_all(&dir.0).map_err(at(&dir.0))?;
    note(&dir.suspect(), &format!("{reason}\n"))?;
    sync_dir(&dir.0)
}

/// Fails unless a directory is missing or empty; an empty one is removed.
fn vacant(path: &Path) -> Result<(), BackupError> {
    let first = match fs::read_dir(path) {
        Ok(mut entries) => entries.next(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(path)(error)),
    };
    if first.is_some() {
        return Err(BackupError::Exists { path: path.to_path_buf() });
    }
    fs::remove_dir(path).map_err(at(path))
}

/// Fails at the first damage in the segments; the votes of a backup's source do not matter.
fn sound(report: &JournalReport, error: impl FnOnce(Damage) -> BackupError) -> Result<(), BackupError> {
    let first = report.damage.iter().find(|damage| damage.stream == crate::journal::StreamKind::Segments);
    first.cloned().map_or(Ok(()), |damage| Err(error(damage)))
}

/// The last stable checkpoint that the voting record names: from there a restored replica replays.
fn stable(federation: &Federation, reader: &JournalReader) -> Result<Option<CheckpointCertificate>, BackupError> {
    let mut stable: Option<CheckpointCertificate> = None;
    let slot = |certificate: &CheckpointCertificate| -> Slot { certificate.checkpoint.slot };
    for frame in reader.votes().frames {
        if let Record::Stable(certificate) = record_of(federation, &frame)?
            && stable.as_ref().is_none_or(|known| slot(known) < slot(&certificate))
        {
            stable = Some(certificate);
        }
    }
    Ok(stable)
}

/// Gives a journal without votes its voting record.
fn begin_votes(federation: &Federation, options: &JournalOptions, dir: &DataDir, stable: Option<CheckpointCertificate>) -> Result<(), BackupError> {
    let records = [Record::Started { run: 1 }].into_iter().chain(stable.map(Record::Stable));
    let snapshot = records.map(|record| record.to_frame()).collect::<Result<Vec<_>, _>>()?;
    let (mut journal, _) = Journal::open(&dir.journal(), federation.id().0.0, options)?;
    journal.rotate_votes(&snapshot)?;
    drop(journal);
    for name in segment_names(&dir.journal(), ".seg.tmp")? {
        let path = dir.journal().join("segments").join(name);
        fs::remove_file(&path).map_err(at(&path))?;
    }
    Ok(())
}

/// The files of the segments with this ending, in order.
fn segment_names(journal: &Path, ending: &str) -> Result<Vec<String>, BackupError> {
    let dir = journal.join("segments");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(at(&dir))? {
        names.extend(entry.map_err(at(&dir))?.file_name().into_string().ok().filter(|name| name.ends_with(ending)));
    }
    names.sort_unstable();
    Ok(names)
}

/// Copies every segment that is listed at the beginning: older ones before newer ones, so that what one says of those before it was copied.
fn copy_segments(from: &Path, to: &Path, mut copied: impl FnMut(u64)) -> Result<(), BackupError> {
    let segments = to.join("segments");
    fs::create_dir_all(&segments).map_err(at(&segments))?;
    for name in segment_names(from, ".seg")? {
        let (source, target) = (from.join("segments").join(&name), segments.join(&name));
        copied(copy_used(&source, &target).map_err(at(&source))?);
    }
    Ok(())
}

/// Copies a segment's pages up to the first that was not written yet, and keeps its length. Groups are appended in order, so whatever a running
/// writer adds meanwhile is a torn end at most.
fn copy_used(from: &Path, to: &Path) -> io::Result<u64> {
    let source = File::open(from)?;
    let length = source.metadata()?.len();
    let (mut source, mut target) = (io::BufReader::with_capacity(1 << 20, source), io::BufWriter::with_capacity(1 << 20, File::create(to)?));
    let (mut page, mut bytes) = ([0; PAGE], 0);
    while bytes < length {
        let part = usize::try_from(length - bytes).unwrap_or(PAGE).min(PAGE);
        source.read_exact(&mut page[..part])?;
        if page[..part].iter().all(|byte| *byte == 0) {
            break;
        }
        target.write_all(&page[..part])?;
        bytes += part as u64;
    }
    target.into_inner().map_err(io::IntoInnerError::into_error)?.set_len(length)?;
    Ok(bytes)
}

fn note(path: &Path, text: &str) -> Result<(), BackupError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(at(path))
}

fn sync_dir(path: &Path) -> Result<(), BackupError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

fn sync_tree(dir: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync_dir(&path)? }
    }
    sync_dir(dir)
}
