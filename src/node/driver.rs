//! The core's thread: events in, steps out, time by the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::outbox::Outbox;
use super::pipeline::PipelineInput;
use super::shared::Shared;
use crate::consensus::{Event, Now, Record, Replica, Step, Verifier};
use crate::net::InboundPermit;
use crate::types::Checkpoint;

/// What the core's thread is given.
pub(super) enum Input {
    /// An event. A peer's permit returns its share of the budget once the event was handled.
    Event(Box<Event>, Option<InboundPermit>),
    /// Go.
    Stop,
}

/// The core and what it speaks to.
pub(super) struct Driver {
    pub(super) core: Replica,
    /// Checkpoints that recovery found durable.
    pub(super) durable: Vec<Checkpoint>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Outbox,
    pub(super) writer: Sender<PipelineInput>,
    /// Set by the writer when the voting record needs a new beginning.
    pub(super) rotate: Arc<AtomicBool>,
    /// The beginning of the monotonic clock.
    pub(super) started: Instant,
    /// How often the core is told that time passed.
    pub(super) tick: Duration,
}

impl Driver {
    /// Runs until told to stop, or until the writer is gone.
    pub(super) fn run(mut self, inputs: &Receiver<Input>) {
        let started = self.started;
        let step = self.core.resume(now(started), &std::mem::take(&mut self.durable));
        let mut alive = self.pass_on(step);
        let mut next_tick = Instant::now() + self.tick;
        while alive {
            match inputs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(Input::Event(event, permit)) => {
                    let step = self.core.handle(now(started), *event);
                    drop(permit);
                    alive = self.pass_on(step);
                }
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_tick {
                let step = self.core.handle(now(started), Event::Tick);
                alive = self.pass_on(step);
                next_tick = Instant::now() + self.tick;
            }
        }
    }

    /// Sends what may leave at once, and hands the rest to the writer; says whether it is still there.
    fn pass_on(&mut self, mut step: Step) -> bool {
        for effect in std::mem::take(&mut step.immediate) {
            self.outbox.send(effect);
        }
        let status = self.core.status();
        self.verifier.set_window(status.view, status.floor, status.stable_slot);
        *self.shared.status.lock() = status;
        if !step.is_empty() && self.writer.send(PipelineInput::Step(step)).is_err() {
            return false;
        }
        if self.rotate.swap(false, Ordering::AcqRel) {
            let snapshot: Vec<Record> = self.core.voting_snapshot();
            return self.writer.send(PipelineInput::Rotate(snapshot)).is_ok();
        }
        true
    }
}

/// Both clocks.
fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Now { wall: ms(wall), mono: ms(started.elapsed()) }
}
