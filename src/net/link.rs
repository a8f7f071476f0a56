//! The connection that we dial to one other replica: our messages to it, and our requests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::Notify;

use super::error::code;
use super::frame::{within, write_frames};
use super::hello::{Claim, Hello};
use super::options::count;
use super::outbox::{Dropped, Outbox};
use super::{NetError, NetOptions, PerClass, Shared, endpoint, tls};
use crate::types::{MessageClass, PeerId, ReplicaIndex};

/// The byte that opens a stream of messages.
pub(super) fn class_byte(class: MessageClass) -> u8 {
    match class {
        MessageClass::Votes => 1,
        MessageClass::Control => 2,
        MessageClass::Bulk => 3,
    }
}

/// Votes leave first whatever else is ready to leave; requests share the lowest rank with bulk.
fn priority(class: MessageClass) -> i32 {
    match class {
        MessageClass::Votes => 2,
        MessageClass::Control => 1,
        MessageClass::Bulk => 0,
    }
}

/// One other replica, as we reach it.
pub(super) struct Link {
    pub(super) index: ReplicaIndex,
    pub(super) peer: PeerId,
    address: String,
    config: quinn::ClientConfig,
    outboxes: PerClass<Outbox>,
    connection: Mutex<Option<Connection>>,
    /// The other side came up: there is no need to wait any longer.
    pub(super) awake: Notify,
}

impl Link {
    pub(super) fn new(index: ReplicaIndex, peer: PeerId, address: String, config: quinn::ClientConfig, options: &NetOptions) -> Self {
        let outboxes = PerClass::from_fn(|class| Outbox::new(count(*options.queue_bytes.get(class))));
        Self { index, peer, address, config, outboxes, connection: Mutex::new(None), awake: Notify::new() }
    }

    pub(super) fn connection(&self) -> Result<Connection, NetError> {
        self.connection.lock().clone().ok_or(NetError::NotConnected { index: self.index })
    }

    /// Queues a message or counts why not.
    pub(super) fn send(&self, shared: &Shared, class: MessageClass, frame: Bytes) {
        if frame.len() > class.max_frame_bytes() {
            shared.counters.oversized_out.one();
            tracing::error!(peer = %self.peer, ?class, bytes = frame.len(), limit = class.max_frame_bytes(), "a message is too long to send");
            return;
        }
        match self.outboxes.get(class).push(frame) {
            Ok(()) => {}
            Err(Dropped::Full) => shared.counters.dropped_full.get(class).one(),
            Err(Dropped::Down) => shared.counters.dropped_down.get(class).one(),
        }
    }

    /// Dials, carries messages while the connection lasts, and dials again, until the transport stops.
    pub(super) async fn run(&self, shared: &Shared) {
        let options = &shared.options;
        let longest = Duration::from_millis(options.backoff_max_ms);
        let shortest = Duration::from_millis(options.backoff_min_ms);
        let (mut wait, mut attempt) = (shortest, 0_usize);
        loop {
            match within("dialling", options.handshake_timeout(), self.dial(shared, attempt)).await {
                Ok(connection) => {
                    let since = Instant::now();
                    self.carry(shared, connection).await;
                    // A connection that broke at once is a failure like any other: two processes with one key must not spin.
                    if since.elapsed() >= longest {
                        wait = shortest;
                    }
                }
                Err(error) => {
                    shared.counters.dials_failed.one();
                    tracing::debug!(peer = %self.peer, address = %self.address, %error, "cannot reach a replica");
                }
            }
            attempt = attempt.wrapping_add(1);
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = wait.saturating_mul(2).min(longest),
                () = self.awake.notified() => wait = shortest,
            }
        }
    }

    async fn dial(&self, shared: &Shared, attempt: usize) -> Result<Connection, NetError> {
        let addresses = endpoint::resolve(&self.address, Some(shared.local)).await?;
        let turn = attempt.checked_rem(addresses.len()).unwrap_or(0);
        let address = addresses.get(turn).ok_or_else(|| NetError::NoAddress { address: self.address.clone() })?;
        let connection = shared.endpoint.connect_with(self.config.clone(), *address, tls::SERVER_NAME)?.await?;
        let claim = Claim::Replica { index: shared.index, peer: shared.peer.clone() };
        Hello::new(&shared.federation, claim).say(&connection, &self.peer, &shared.options).await?;
        Ok(connection)
    }

    async fn carry(&self, shared: &Shared, connection: Connection) {
        shared.counters.dialled.one();
        // Dropped on the way out too when the task is cut off.
        let up = Up::new(self, shared, connection.clone());
        let reason = tokio::select! {
            reason = connection.closed() => reason.to_string(),
            ended = self.write(shared, &connection, MessageClass::Votes) => describe(ended),
            ended = self.write(shared, &connection, MessageClass::Control) => describe(ended),
            ended = self.write(shared, &connection, MessageClass::Bulk) => describe(ended),
        };
        drop(up);
        connection.close(code::BYE, b"");
        tracing::info!(peer = %self.peer, reason, "lost a replica");
    }

    async fn write(&self, shared: &Shared, connection: &Connection, class: MessageClass) -> Result<(), NetError> {
        let mut stream = connection.open_uni().await?;
        // It fails only on a closed stream, and then writing fails too.
        let _ = stream.set_priority(priority(class));
        stream.write_all(&[class_byte(class)]).await?;
        loop {
            let frames = self.outboxes.get(class).pop().await;
            write_frames(&mut stream, &frames).await?;
            shared.counters.frames_out.add(frames.len());
            shared.counters.bytes_out.add(frames.iter().map(Bytes::len).sum());
        }
    }
}

fn describe(ended: Result<(), NetError>) -> String {
    ended.err().map_or_else(String::new, |error| error.to_string())
}

/// The time in which a link is up.
struct Up<'a> {
    link: &'a Link,
    shared: &'a Shared,
}

impl<'a> Up<'a> {
    fn new(link: &'a Link, shared: &'a Shared, connection: Connection) -> Self {
        tracing::info!(peer = %link.peer, address = %connection.remote_address(), "reached a replica");
        *link.connection.lock() = Some(connection);
        MessageClass::ALL.into_iter().for_each(|class| link.outboxes.get(class).open());
        shared.connected.send_modify(|up| {
            up.insert(link.index);
        });
        Self { link, shared }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        *self.link.connection.lock() = None;
        MessageClass::ALL.into_iter().for_each(|class| self.link.outboxes.get(class).close());
        self.shared.connected.send_modify(|up| {
            up.remove(&self.link.index);
        });
    }
}
