//! What waits to be sent to one peer on one stream.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::options::FRAME_OVERHEAD_BYTES;

/// The most bytes that leave the queue at once.
const BATCH_BYTES: usize = 256 << 10;

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// There is no room for it.
    Full,
    /// The peer is not connected.
    Down,
}

/// A bounded queue with many senders and one writer. It is open while the peer is connected: what could not be sent on a lost
/// connection is stale on the next one, and the protocol sends again what still matters.
pub(super) struct Outbox {
    limit: usize,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    open: bool,
    frames: VecDeque<Bytes>,
    charged: usize,
}

fn charge(frame: &Bytes) -> usize {
    frame.len().saturating_add(FRAME_OVERHEAD_BYTES)
}

impl Outbox {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), ready: Notify::new() }
    }

    pub(super) fn open(&self) {
        self.state.lock().open = true;
    }

    /// Drops what is queued and takes no more.
    pub(super) fn close(&self) {
        *self.state.lock() = State::default();
    }

    pub(super) fn push(&self, frame: Bytes) -> Result<(), Dropped> {
        let mut state = self.state.lock();
        if !state.open {
            return Err(Dropped::Down);
        }
        let charged = state.charged.saturating_add(charge(&frame));
        if charged > self.limit {
            return Err(Dropped::Full);
        }
        state.charged = charged;
        state.frames.push_back(frame);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// The oldest frames, at least one; waits for it.
    pub(super) async fn pop(&self) -> Vec<Bytes> {
        loop {
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
            self.ready.notified().await;
        }
    }

    fn take(&self) -> Vec<Bytes> {
        let mut state = self.state.lock();
        let (mut batch, mut taken) = (Vec::new(), 0_usize);
        while taken < BATCH_BYTES
            && let Some(frame) = state.frames.pop_front()
        {
            taken = taken.saturating_add(charge(&frame));
            batch.push(frame);
        }
        state.charged = state.charged.saturating_sub(taken);
        batch
    }
}
