//! Messages from peers: decoded and verified on threads of their own, then to the core.
//!
//! Votes have a thread to themselves, so that they never wait behind a body that is being checked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use super::driver::Input;
use super::shared::Shared;
use crate::consensus::{Event, Verifier};
use crate::net::Inbound;
use crate::types::{ConsensusMessage, decode};

/// One verifying thread.
pub(super) struct Gate {
    pub(super) verifier: Arc<Verifier>,
    pub(super) shared: Arc<Shared>,
    pub(super) core: Sender<Input>,
}

impl Gate {
    /// Runs until the transport is gone.
    pub(super) fn run(self, frames: &Receiver<Inbound>) {
        while let Ok(Inbound { from, class, frame, permit }) = frames.recv() {
            let refused = match decode::<ConsensusMessage>(&frame) {
                Ok(message) if message.class() != class => "on the wrong stream".to_owned(),
                Ok(message) => match self.verifier.message(from, message) {
                    Ok(message) => {
                        if self.core.send(Input::Event(Box::new(Event::Message { from, message }), Some(permit))).is_err() {
                            return;
                        }
                        continue;
                    }
                    Err(refusal) => refusal.to_string(),
                },
                Err(error) => error.to_string(),
            };
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(from, ?class, refused, "message refused");
        }
    }
}
