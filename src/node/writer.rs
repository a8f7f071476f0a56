//! The journal's thread: append many steps' records, sync once, then run their effects in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::catch_up::CatchUp;
use super::log::LogInput;
use super::outbox::Outbox;
use super::shared::Shared;
use crate::consensus::{Effect, Part, Record};
use crate::crypto::Digest;
use crate::failpoint::{self, Point};
use crate::journal::{Journal, JournalError, Locator};
use crate::recovery::body_locator;
use crate::types::Slot;

/// What the journal's thread is given, in the core's order.
pub(super) enum WriterInput {
    /// One step.
    Step {
        /// To be made durable.
        records: Vec<Record>,
        /// To be run afterwards.
        effects: Vec<Effect>,
    },
    /// The voting record begins anew with these.
    Rotate(Vec<Record>),
}

/// The journal and what follows its syncs.
pub(super) struct Writer {
    pub(super) journal: Journal,
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Outbox,
    pub(super) catch_up: CatchUp,
    pub(super) log: SyncSender<LogInput>,
    pub(super) rotate: Arc<AtomicBool>,
    /// Where the bodies of batches not yet in the log lie.
    pub(super) places: BTreeMap<(Slot, Digest), Locator>,
    /// A suspect replica casts no vote, so its voting record stays as it was found.
    pub(super) suspect: bool,
    /// How long lazily written records may wait for the next sync.
    pub(super) idle_sync: Duration,
    /// How many steps share one sync at most.
    pub(super) group_steps: usize,
    /// When the last sync began.
    pub(super) last_sync: Instant,
}

impl Writer {
    /// Runs until the core is gone. A failed write or sync stops the replica.
    pub(super) fn run(mut self, inputs: &Receiver<WriterInput>) {
        loop {
            let result = match inputs.recv_timeout(self.idle_sync) {
                Ok(first) => self.group(first, inputs),
                Err(RecvTimeoutError::Timeout) => self.sync(),
                Err(RecvTimeoutError::Disconnected) => {
                    if let Err(error) = self.journal.sync() {
                        tracing::error!(%error, "the last sync of the journal failed");
                    }
                    return;
                }
            };
            if let Err(error) = result {
                self.shared.stop(&format!("the journal failed, and a failed write is never retried: {error}"));
                return;
            }
        }
    }

    /// Syncs whatever is buffered; nothing if nothing is.
    fn sync(&mut self) -> Result<(), JournalError> {
        self.last_sync = Instant::now();
        self.journal.sync()
    }

    fn group(&mut self, first: WriterInput, inputs: &Receiver<WriterInput>) -> Result<(), JournalError> {
        let (mut effects, mut must_sync) = (Vec::new(), false);
        for input in std::iter::once(first).chain(inputs.try_iter().take(self.group_steps)) {
            match input {
                WriterInput::Step { records, effects: of_step } => {
                    for record in records {
                        must_sync |= record.must_sync();
                        self.append(record)?;
                    }
                    must_sync |= of_step.iter().any(|e| matches!(e, Effect::Deliver(d) if d.checkpoint));
                    effects.extend(of_step);
                }
                WriterInput::Rotate(snapshot) => {
                    let frames: Vec<(u8, Vec<u8>)> = snapshot.iter().filter_map(|r| r.to_frame().ok()).collect();
                    self.journal.rotate_votes(&frames)?;
                }
            }
        }
        // Gossip alone keeps inputs coming, so a quiet replica must not wait for a pause in them.
        if must_sync || self.last_sync.elapsed() >= self.idle_sync {
            self.sync()?;
        }
        if !self.suspect && self.journal.votes_need_rotation() {
            self.rotate.store(true, Ordering::Release);
        }
        failpoint::hit(Point::Effects);
        effects.into_iter().for_each(|effect| self.run_effect(effect));
        failpoint::hit(Point::EffectsRun);
        Ok(())
    }

    fn append(&mut self, record: Record) -> Result<(), JournalError> {
        let (kind, payload) = match record.to_frame() {
            Ok(frame) => frame,
            Err(error) => {
                self.shared.stop(&format!("a record cannot be encoded: {error}"));
                return Ok(());
            }
        };
        if record.part() == Part::Segments {
            let place = self.journal.append_segment(kind, record.slot(), &payload)?;
            if let Record::Proposal { header, .. } | Record::Body { header, .. } = &record {
                self.places.insert((header.slot, header.digest()), place);
            }
        } else if !self.suspect {
            self.journal.append_vote(kind, &payload)?;
        }
        if let Record::Stable(certificate) = record {
            self.to_log(LogInput::Stable(Box::new(certificate)));
        }
        Ok(())
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send { .. } | Effect::Broadcast(_) => self.outbox.send(effect),
            Effect::Answer { ticket, outcome } => self.shared.tickets.answer(ticket, outcome),
            Effect::Deliver(delivery) => {
                let key = (delivery.header.slot, delivery.certificate.digest);
                let place = self.places.get(&key).copied().map(body_locator);
                self.places = self.places.split_off(&(key.0 + 1, Digest::ZERO));
                self.shared.counters.log_backlog.fetch_add(1, Ordering::Relaxed);
                self.to_log(LogInput::Append(delivery, place));
            }
            Effect::CatchUp { peer, from_slot } => self.catch_up.fetch(peer, from_slot),
            Effect::Evidence(evidence) => {
                tracing::warn!(member = evidence.first.replica, vote = ?evidence.first.vote, "a member contradicted itself");
                self.to_log(LogInput::Evidence(Box::new(evidence)));
            }
            Effect::ViewEntered { view, reason } => {
                tracing::info!(view, reason, "a view began");
                self.to_log(LogInput::View { view, reason });
            }
            Effect::Halt(halt) => self.shared.stop(&halt.to_string()),
        }
    }

    /// Waits while the log's queue is full: a slow log slows the replica down rather than filling the memory.
    fn to_log(&self, input: LogInput) {
        if self.log.send(input).is_err() {
            self.shared.stop("the log's thread ended");
        }
    }
}
