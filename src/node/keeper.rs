//! What the log's thread does, without the thread: append committed batches, make receipts, sync at checkpoints.
//!
//! The simulator runs this very code on a simulated log.

use crate::consensus::{Answer, Delivery, Ticket};
use crate::failpoint::{self, Point};
use crate::planted::{Bug, on};
use crate::proof::{ProofError, ReceiptMaker};
use crate::store::{AppendBatch, BodyLocator, Log, StoreError, ViewRecord};
use crate::types::{Checkpoint, CheckpointCertificate, CommittedBatch, Convicted, Sequence, SubmitOutcome, TimestampMs, View};

/// What the log is given, in the core's order.
pub(crate) enum LogInput {
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
    Evidence(Box<Convicted>),
}

/// What follows from it.
#[derive(Default)]
pub(crate) struct Kept {
    /// The log's end, if it moved.
    pub(crate) head: Option<Sequence>,
    /// Clients to be answered.
    pub(crate) answers: Vec<(Ticket, SubmitOutcome)>,
    /// The log is durable up to here.
    pub(crate) durable: Option<Checkpoint>,
}

/// Why a replica cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    /// The log.
    #[error("the log failed: {0}")]
    Store(#[from] StoreError),
    /// A committed batch does not prove what the core said of it.
    #[error("a receipt could not be made: {0}")]
    Receipt(#[from] ProofError),
}

/// The log of a running replica.
pub(crate) struct Keeper<L> {
    log: L,
}

impl<L: Log> Keeper<L> {
    pub(crate) fn new(log: L) -> Self {
        Self { log }
    }

    /// Does one thing, at this time of the wall clock.
    pub(crate) fn keep(&mut self, input: LogInput, at: TimestampMs) -> Result<Kept, KeeperError> {
        match input {
            LogInput::Append(delivery, place) => return self.append(*delivery, place),
            LogInput::Stable(certificate) => {
                failpoint::hit(Point::CheckpointStable);
                self.log.put_checkpoint(&certificate)?;
            }
            LogInput::View { view, reason } => self.log.put_view(view, &ViewRecord { at, reason: reason.to_owned() })?,
            LogInput::Evidence(found) => {
                self.log.put_evidence(&found.conviction.id, &found.record)?;
                // Nobody may see the two statements together again.
                self.log.sync()?;
            }
        }
        Ok(Kept::default())
    }

    /// Makes everything durable.
    pub(crate) fn sync(&mut self) -> Result<(), KeeperError> {
        Ok(self.log.sync()?)
    }

    fn append(&mut self, delivery: Delivery, place: Option<BodyLocator>) -> Result<Kept, KeeperError> {
        let Delivery { header, certificate, body, before, answers, checkpoint } = delivery;
        let batch = CommittedBatch { header, body: body.body.clone(), certificate };
        let leaves = self.log.append(AppendBatch { batch: &batch, digests: &body.digests, place })?;
        let header = &batch.header;
        let mut kept = Kept { head: Some(header.last_sequence()), ..Kept::default() };
        if !answers.is_empty() {
            let maker = ReceiptMaker::new(header, &batch.certificate, &before, &leaves)?;
            kept.answers = answers.into_iter().map(|answer| (answer.ticket, receipt(&maker, header.first_sequence, answer))).collect();
        }
        if checkpoint {
            if !on(Bug::CheckpointBeforeSync) {
                self.log.sync()?;
            }
            failpoint::hit(Point::Checkpoint);
            let (slot, sequence) = (header.slot, header.last_sequence());
            kept.durable = Some(Checkpoint { epoch: header.epoch, slot, sequence, digest: batch.certificate.digest, log_root: header.log_root });
        }
        Ok(kept)
    }
}

fn receipt(maker: &ReceiptMaker<'_>, first_sequence: Sequence, answer: Answer) -> SubmitOutcome {
    let receipt = maker.receipt(first_sequence + answer.offset, usize::try_from(answer.count).unwrap_or(usize::MAX));
    receipt.map_or_else(
        |error| SubmitOutcome::Rejected(format!("committed, but the receipt could not be made: {error}")),
        |receipt| SubmitOutcome::Committed(Box::new(receipt)),
    )
}
