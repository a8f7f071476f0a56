//! The log's thread: append committed batches, answer who waits for them, sync at checkpoints.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{SystemTime, UNIX_EPOCH};

use super::driver::Input;
use super::shared::Shared;
use crate::consensus::{Delivery, Event};
use crate::crypto::Digest;
use crate::failpoint::{self, Point};
use crate::proof::ReceiptMaker;
use crate::store::{AppendBatch, BodyLocator, Store, StoreError, ViewRecord};
use crate::types::{Checkpoint, CheckpointCertificate, CommittedBatch, Evidence, SubmitOutcome, View, encode};

/// What the log's thread is given, in the core's order.
pub(super) enum LogInput {
    /// A committed batch, and where a segment holds its body.
    Append(Box<Delivery>, Option<BodyLocator>),
    /// A checkpoint became stable.
    Stable(Box<CheckpointCertificate>),
    /// A view began.
    View {
        /// Which.
        view: View,
        /// Why the one before was left.
        reason: &'static str,
    },
    /// A member contradicted itself.
    Evidence(Box<Evidence>),
}

/// The log and whom it tells.
pub(super) struct LogWriter {
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) core: Sender<Input>,
}

impl LogWriter {
    /// Runs until the journal's thread is gone, then syncs. A failure stops the replica.
    pub(super) fn run(mut self, inputs: &Receiver<LogInput>) {
        while let Ok(input) = inputs.recv() {
            let result = match input {
                LogInput::Append(delivery, place) => self.append(*delivery, place),
                LogInput::Stable(certificate) => {
                    failpoint::hit(Point::CheckpointStable);
                    self.store.put_checkpoint(&certificate)
                }
                LogInput::View { view, reason } => self.store.put_view(view, &ViewRecord { at: wall_clock(), reason: reason.to_owned() }),
                LogInput::Evidence(evidence) => {
                    let digest = encode(&*evidence).map_or(Digest::ZERO, |bytes| crate::crypto::sha256(&bytes));
                    self.store.put_evidence(&digest, &evidence)
                }
            };
            if let Err(error) = result {
                self.shared.stop(&format!("the log failed: {error}"));
                return;
            }
        }
        if let Err(error) = self.store.sync() {
            tracing::error!(%error, "the last sync of the log failed");
        }
    }

    fn append(&mut self, delivery: Delivery, place: Option<BodyLocator>) -> Result<(), StoreError> {
        let Delivery { header, certificate, body, before, answers, checkpoint } = delivery;
        let batch = CommittedBatch { header, body: body.body.clone(), certificate };
        let leaves = self.store.append(AppendBatch { batch: &batch, digests: &body.digests, place })?;
        let header = &batch.header;
        self.shared.head.send_replace(header.last_sequence());
        self.shared.counters.log_backlog.fetch_sub(1, Ordering::Relaxed);
        if !answers.is_empty() {
            match ReceiptMaker::new(header, &batch.certificate, &before, &leaves) {
                Ok(maker) => {
                    for answer in answers {
                        let first = header.first_sequence + answer.offset;
                        let receipt = maker.receipt(first, usize::try_from(answer.count).unwrap_or(usize::MAX));
                        let outcome = receipt.map_or_else(
                            |error| SubmitOutcome::Rejected(format!("committed, but the receipt could not be made: {error}")),
                            |receipt| SubmitOutcome::Committed(Box::new(receipt)),
                        );
                        self.shared.tickets.answer(answer.ticket, outcome);
                    }
                }
                Err(error) => self.shared.stop(&format!("a receipt could not be made: {error}")),
            }
        }
        if checkpoint {
            self.store.sync()?;
            failpoint::hit(Point::Checkpoint);
            let checkpoint = Checkpoint {
                epoch: header.epoch,
                slot: header.slot,
                sequence: header.last_sequence(),
                digest: batch.certificate.digest,
                log_root: header.log_root,
            };
            // The core may be gone already when the replica stops; then nobody needs the checkpoint.
            let _ = self.core.send(Input::Event(Box::new(Event::LogDurable(checkpoint)), None));
        }
        Ok(())
    }
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
