//! Effects that go to other replicas.

use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::Effect;
use crate::net::Net;
use crate::types::{ConsensusMessage, encode};

/// Encodes a message once and queues it for its receivers.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) net: Arc<Net>,
}

impl Outbox {
    /// Sends what is to be sent; other effects are not its business.
    pub(super) fn send(&self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                if let Some(frame) = frame(&message) {
                    self.net.send(to, message.class(), frame);
                }
            }
            Effect::Broadcast(message) => {
                if let Some(frame) = frame(&message) {
                    self.net.broadcast(message.class(), frame);
                }
            }
            _ => {}
        }
    }
}

/// A message that cannot be encoded or is too long for its class is not sent; the limits of batches and windows make that impossible.
fn frame(message: &ConsensusMessage) -> Option<Bytes> {
    match encode(message) {
        Ok(bytes) if bytes.len() <= message.class().max_frame_bytes() => Some(Bytes::from(bytes)),
        Ok(bytes) => {
            tracing::error!(bytes = bytes.len(), class = ?message.class(), "a message is longer than its class allows");
            None
        }
        Err(error) => {
            tracing::error!(%error, "a message cannot be encoded");
            None
        }
    }
}
