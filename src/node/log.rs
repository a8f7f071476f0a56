//! The log's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{SystemTime, UNIX_EPOCH};

use super::driver::Input;
use super::keeper::{Keeper, Kept, LogInput};
use super::shared::Shared;
use crate::consensus::Event;
use crate::store::Store;

/// The log and whom it tells.
pub(super) struct LogWriter {
    pub(super) keeper: Keeper<Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) core: Sender<Input>,
}

impl LogWriter {
    /// Runs until the journal's thread is gone, then syncs. A failure stops the replica.
    pub(super) fn run(mut self, inputs: &Receiver<LogInput>) {
        while let Ok(input) = inputs.recv() {
            let appends = matches!(input, LogInput::Append(..));
            let kept = self.keeper.keep(input, wall_clock());
            if appends {
                self.shared.counters.log_backlog.fetch_sub(1, Ordering::Relaxed);
            }
            match kept {
                Ok(kept) => self.tell(kept),
                Err(error) => return self.shared.stop(&error.to_string()),
            }
        }
        if let Err(error) = self.keeper.sync() {
            tracing::error!(%error, "the last sync of the log failed");
        }
    }

    fn tell(&self, kept: Kept) {
        if let Some(head) = kept.head {
            self.shared.head.send_replace(head);
        }
        for (ticket, outcome) in kept.answers {
            self.shared.tickets.answer(ticket, outcome);
        }
        if let Some(checkpoint) = kept.durable {
            // The core may be gone already when the replica stops; then nobody needs the checkpoint.
            let _ = self.core.send(Input::Event(Box::new(Event::LogDurable(checkpoint)), None));
        }
    }
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
