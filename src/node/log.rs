//! The log's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::Sender as AsyncSender;

use super::cosigner::{Agreed, announce};
use super::driver::Input;
use super::keeper::{Keeper, Kept, LogInput};
use super::shared::Shared;
use crate::consensus::Event;
use crate::store::Store;
use crate::types::Checkpoint;

/// The log and whom it tells.
pub(super) struct LogWriter {
    pub(super) keeper: Keeper<Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) core: Sender<Input>,
    pub(super) agreed: Agreed,
    /// To whoever cosigns checkpoints.
    pub(super) cosigner: AsyncSender<Checkpoint>,
}

impl LogWriter {
    /// Runs until the journal's thread is gone, then syncs. A failure stops the replica.
    pub(super) fn run(mut self, inputs: &Receiver<LogInput>) {
        while let Ok(input) = inputs.recv() {
            let appends = matches!(input, LogInput::Append(..));
            let stable = if let LogInput::Stable(certificate) = &input { Some(certificate.checkpoint) } else { None };
            let kept = self.keeper.keep(input, wall_clock());
            if appends {
                self.shared.counters.log_backlog.fetch_sub(1, Ordering::Relaxed);
            }
            match kept {
                Ok(kept) => {
                    let agreed = [stable.and_then(|stable| self.agreed.stable(stable)), kept.durable.and_then(|own| self.agreed.durable(own))];
                    agreed.into_iter().flatten().for_each(|checkpoint| announce(&self.cosigner, checkpoint));
                    self.tell(kept);
                }
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
