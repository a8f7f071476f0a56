//! What the journal's thread does, without the thread: append the records of many steps, sync once, release their effects in order.
//!
//! The simulator runs this very code on a simulated disk.

use std::collections::BTreeMap;

use crate::consensus::{Effect, Part, Record, Step};
use crate::crypto::Digest;
use crate::journal::{Journal, JournalError, Locator};
use crate::planted::{Bug, on};
use crate::recovery::{RecoveryError, Suspicion, body_locator};
use crate::types::{CodecError, Slot};

use super::keeper::LogInput;

/// What the pipeline is given, in the core's order.
pub(crate) enum PipelineInput {
    /// One step; its immediate effects have run.
    Step(Step),
    /// The voting record begins anew with these.
    Rotate(Vec<Record>),
}

/// What may happen now that everything before it is durable, in order.
pub(crate) enum Released {
    /// To another thread, or to the network: everything but deliveries, views and evidence.
    Effect(Box<Effect>),
    /// To the log.
    Log(LogInput),
}

/// Why a replica cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    /// The journal.
    #[error("the journal failed, and a failed write is never retried: {0}")]
    Journal(#[from] JournalError),
    /// A record has no stored form.
    #[error("a record cannot be encoded: {0}")]
    Codec(#[from] CodecError),
    /// The note of suspicion cannot be removed.
    #[error("the replica has rejoined, and its note of suspicion cannot be removed: {0}")]
    Suspicion(#[from] RecoveryError),
}

/// The journal, and what must be known to write it.
pub(crate) struct Pipeline {
    journal: Journal,
    /// Where the bodies of batches not yet in the log lie.
    places: BTreeMap<(Slot, Digest), Locator>,
    /// The replica's voting record cannot be trusted: it stays as it was found until the replica has rejoined.
    suspect: bool,
    suspicion: Suspicion,
    /// Certificates of the last group. Each may hold this replica's own Commit: in the segments before its prepared certificate is in the voting
    /// record, that would be a vote which a crash between the two syncs makes it forget.
    committed: Vec<Record>,
}

impl Pipeline {
    pub(crate) fn new(journal: Journal, places: BTreeMap<(Slot, Digest), Locator>, suspect: bool, suspicion: Suspicion) -> Self {
        Self { journal, places, suspect, suspicion, committed: Vec::new() }
    }

    /// Syncs whatever is buffered; nothing if nothing is.
    pub(crate) fn sync(&mut self) -> Result<(), PipelineError> {
        self.journal.sync()?;
        if self.committed.is_empty() {
            return Ok(());
        }
        for record in std::mem::take(&mut self.committed) {
            self.append(record, &mut Vec::new())?;
        }
        Ok(self.journal.sync()?)
    }

    /// Whether everything that a message may rest on is synced.
    pub(crate) fn is_settled(&self) -> bool {
        !self.journal.has_unsynced()
    }

    /// Groups written and synced since the journal was opened.
    pub(crate) fn syncs(&self) -> u64 {
        self.journal.stats().syncs
    }

    /// Whether the replica has yet to rejoin.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Whether the core should hand over a new beginning of the voting record.
    pub(crate) fn wants_rotation(&self) -> bool {
        !self.suspect && self.journal.votes_need_rotation()
    }

    /// Appends a group of steps and syncs it, unless nothing in it has to be synced now (`due` says that a sync is due anyway).
    pub(crate) fn group(&mut self, inputs: impl Iterator<Item = PipelineInput>, due: bool) -> Result<Vec<Released>, PipelineError> {
        let (mut released, mut effects, mut must_sync) = (Vec::new(), Vec::new(), due);
        let (earlier, mut checkpoint) = (std::mem::take(&mut self.committed), false);
        for record in earlier {
            self.append(record, &mut released)?;
        }
        for input in inputs {
            match input {
                PipelineInput::Step(Step { records, effects: of_step, rejoin, .. }) => {
                    if let Some(snapshot) = rejoin {
                        self.rejoin(&snapshot)?;
                    }
                    for record in records {
                        must_sync |= record.must_sync();
                        match record {
                            Record::Committed(_) => self.committed.push(record),
                            record => self.append(record, &mut released)?,
                        }
                    }
                    checkpoint |= of_step.iter().any(|e| matches!(e, Effect::Deliver(d) if d.checkpoint));
                    effects.extend(of_step);
                }
                PipelineInput::Rotate(snapshot) => {
                    // The new beginning leaves out what is committed: the certificates must be there.
                    self.sync()?;
                    self.journal.rotate_votes(&frames(&snapshot)?)?;
                }
            }
        }
        if (must_sync || checkpoint) && (due || !on(Bug::VoteBeforeRecord)) {
            self.journal.sync()?;
        }
        if checkpoint {
            self.sync()?;
        }
        effects.into_iter().for_each(|effect| released.push(self.release(effect)));
        Ok(released)
    }

    /// The new voting record is durable before the note of suspicion goes: a crash in between leaves a suspect replica.
    fn rejoin(&mut self, snapshot: &[Record]) -> Result<(), PipelineError> {
        self.sync()?;
        self.journal.rotate_votes(&frames(snapshot)?)?;
        self.suspicion.lift()?;
        self.suspect = false;
        tracing::warn!("the replica has rejoined: it votes again");
        Ok(())
    }

    fn append(&mut self, record: Record, released: &mut Vec<Released>) -> Result<(), PipelineError> {
        let (kind, payload) = record.to_frame()?;
        if record.part() == Part::Segments {
            let place = self.journal.append_segment(kind, record.slot(), &payload)?;
            if let Record::Proposal { header, .. } | Record::Body { header, .. } = &record {
                self.places.insert((header.slot, header.digest()), place);
            }
        } else if !self.suspect {
            self.journal.append_vote(kind, &payload)?;
        }
        if let Record::Stable(certificate) = record {
            released.push(Released::Log(LogInput::Stable(Box::new(certificate))));
        }
        Ok(())
    }

    fn release(&mut self, effect: Effect) -> Released {
        match effect {
            Effect::Deliver(delivery) => {
                let key = (delivery.header.slot, delivery.certificate.digest);
                let place = self.places.get(&key).copied().map(body_locator);
                self.places = self.places.split_off(&(key.0 + 1, Digest::ZERO));
                Released::Log(LogInput::Append(delivery, place))
            }
            Effect::Evidence(evidence) => Released::Log(LogInput::Evidence(evidence)),
            Effect::ViewEntered { view, reason } => Released::Log(LogInput::View { view, reason }),
            other => Released::Effect(Box::new(other)),
        }
    }
}

fn frames(records: &[Record]) -> Result<Vec<(u8, Vec<u8>)>, CodecError> {
    records.iter().map(Record::to_frame).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::consensus::kind;
    use crate::journal::{JournalOptions, JournalReader, RealDisk};
    use crate::recovery::DataDir;
    use crate::types::{BatchKind, CommitCertificate, FederationId, Header, PreparedCertificate, SignatureSet};

    /// One step prepares and, with its own Commit, commits: what a replica does whose Commit is the last that a quorum lacked.
    fn step() -> Step {
        let digest = Digest([3; 32]);
        let header = Header {
            kind: BatchKind::Normal,
            federation_id: FederationId(digest),
            epoch: 0,
            slot: 1,
            first_sequence: 1,
            count: 1,
            parent: Digest::ZERO,
            body_digest: digest,
            log_root: digest,
            timestamp: 1,
            membership_digest: digest,
        };
        let signatures = SignatureSet::default();
        let certificate = CommitCertificate { epoch: 0, view: 0, slot: 1, digest: header.digest(), signatures: signatures.clone() };
        let prepared = PreparedCertificate { view: 0, header, signatures };
        Step { records: vec![Record::Prepared(prepared), Record::Committed(certificate)], ..Step::default() }
    }

    #[test]
    fn a_commit_certificate_is_written_behind_the_sync_of_its_prepared_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let options = JournalOptions { segment_bytes: 64 << 10, votes_bytes: 16 << 10, ..JournalOptions::default() };
        Journal::create(&path, [7; 32], &options, &[]).unwrap();
        let (journal, _) = Journal::open(&path, [7; 32], &options).unwrap();
        let suspicion = Suspicion::new(RealDisk::shared(), &DataDir(dir.path().to_owned()));
        let mut pipeline = Pipeline::new(journal, BTreeMap::new(), false, suspicion);
        let written = || {
            let reader = JournalReader::open(&path, Some([7; 32]), &options).unwrap();
            let votes = reader.votes().frames.iter().filter(|frame| frame.kind == kind::PREPARED).count();
            let segments = reader.segments_from(None).flatten().filter(|frame| frame.kind == kind::COMMITTED).count();
            (votes, segments)
        };
        pipeline.group(std::iter::once(PipelineInput::Step(step())), false).unwrap();
        assert_eq!(written(), (1, 0), "a crash before the votes' sync would otherwise keep the Commit and forget what it rests on");
        pipeline.sync().unwrap();
        assert_eq!(written(), (1, 1), "an idle moment later it is there");
        // Or with the next group, whatever that holds.
        pipeline.group(std::iter::once(PipelineInput::Step(step())), false).unwrap();
        pipeline.group(std::iter::once(PipelineInput::Step(step())), false).unwrap();
        assert_eq!(written(), (3, 2));
    }
}
