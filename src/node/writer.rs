//! The journal's thread: groups what waits, and passes on what the pipeline releases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::catch_up::CatchUp;
use super::keeper::LogInput;
use super::outbox::Outbox;
use super::pipeline::{Pipeline, PipelineError, PipelineInput, Released};
use super::shared::Shared;
use crate::consensus::Effect;
use crate::failpoint::{self, Point};

/// The pipeline and what follows it.
pub(super) struct Writer {
    pub(super) pipeline: Pipeline,
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Outbox,
    pub(super) catch_up: CatchUp,
    pub(super) log: SyncSender<LogInput>,
    pub(super) rotate: Arc<AtomicBool>,
    /// How long lazily written records may wait for the next sync.
    pub(super) idle_sync: Duration,
    /// How many steps share one sync at most.
    pub(super) group_steps: usize,
    /// When the last sync began.
    pub(super) last_sync: Instant,
}

impl Writer {
    /// Runs until the core is gone. A failed write or sync stops the replica.
    pub(super) fn run(mut self, inputs: &Receiver<PipelineInput>) {
        loop {
            let result = match inputs.recv_timeout(self.idle_sync) {
                Ok(first) => self.group(first, inputs),
                Err(RecvTimeoutError::Timeout) => {
                    self.last_sync = Instant::now();
                    self.pipeline.sync()
                }
                Err(RecvTimeoutError::Disconnected) => {
                    if let Err(error) = self.pipeline.sync() {
                        tracing::error!(%error, "the last sync of the journal failed");
                    }
                    return;
                }
            };
            self.shared.counters.journal_syncs.store(self.pipeline.syncs(), Ordering::Relaxed);
            if let Err(error) = result {
                return self.shared.stop(&error.to_string());
            }
        }
    }

    fn group(&mut self, first: PipelineInput, inputs: &Receiver<PipelineInput>) -> Result<(), PipelineError> {
        // Gossip alone keeps inputs coming, so a quiet replica must not wait for a pause in them.
        let due = self.last_sync.elapsed() >= self.idle_sync;
        if due {
            self.last_sync = Instant::now();
        }
        let released = self.pipeline.group(std::iter::once(first).chain(inputs.try_iter().take(self.group_steps)), due)?;
        if self.pipeline.wants_rotation() {
            self.rotate.store(true, Ordering::Release);
        }
        failpoint::hit(Point::Effects);
        for released in released {
            match released {
                Released::Effect(effect) => self.run_effect(*effect),
                Released::Log(input) => self.to_log(input),
            }
        }
        failpoint::hit(Point::EffectsRun);
        Ok(())
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { ticket, outcome } => self.shared.tickets.answer(ticket, outcome),
            Effect::CatchUp { peer, from_slot } => self.catch_up.fetch(peer, from_slot),
            Effect::Halt(halt) => self.shared.stop(&halt.to_string()),
            sent => self.outbox.send(sent),
        }
    }

    /// Waits while the log's queue is full: a slow log slows the replica down rather than filling the memory.
    fn to_log(&self, input: LogInput) {
        match &input {
            LogInput::Append(..) => {
                self.shared.counters.log_backlog.fetch_add(1, Ordering::Relaxed);
            }
            LogInput::Evidence(found) => {
                let conviction = &found.conviction;
                tracing::warn!(member = %conviction.member, rule = %conviction.rule, says = conviction.says, "a member's key was misused");
            }
            LogInput::View { view, reason } => tracing::info!(view, reason, "a view began"),
            LogInput::Stable(_) => {}
        }
        if self.log.send(input).is_err() {
            self.shared.stop("the log's thread ended");
        }
    }
}
