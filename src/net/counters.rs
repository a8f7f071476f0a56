//! What the transport counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::PerClass;

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn one(&self) {
        self.add(1);
    }

    pub(super) fn add(&self, by: usize) {
        self.0.fetch_add(by as u64, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live counters.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
            pub(super) dropped_full: PerClass<Counter>,
            pub(super) dropped_down: PerClass<Counter>,
        }

        /// What the transport counted since it started.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct NetCounters {
            $($(#[$doc])* pub $name: u64,)*
            /// Messages dropped because the peer's queue was full.
            pub dropped_full: PerClass<u64>,
            /// Messages dropped because the peer was not connected.
            pub dropped_down: PerClass<u64>,
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> NetCounters {
                let read = |of: &PerClass<Counter>| PerClass::from_fn(|class| of.get(class).get());
                NetCounters {
                    $($name: self.$name.get(),)*
                    dropped_full: read(&self.dropped_full),
                    dropped_down: read(&self.dropped_down),
                }
            }
        }
    };
}

counters! {
    /// Payload bytes of messages received.
    bytes_in,
    /// Payload bytes of messages handed to QUIC.
    bytes_out,
    /// Messages received.
    frames_in,
    /// Messages handed to QUIC.
    frames_out,
    /// Requests answered.
    requests_served,
    /// Our own messages that were longer than their class allows, never sent.
    oversized_out,
    /// Frames whose claimed length was over the limit; each cost its sender the connection.
    oversized_in,
    /// Frames that did not come in time; each cost its sender the connection, or the request its stream.
    slow_in,
    /// Streams that broke the protocol; each cost its sender the connection.
    violations,
    /// Connections that failed in TLS, spoke a protocol their key may not, or sent no valid hello in time.
    refused_handshakes,
    /// Hellos answered with a refusal.
    refused_hellos,
    /// Connection attempts turned away because too many handshakes were under way.
    refused_busy,
    /// Connection attempts asked to prove their address first.
    retries_demanded,
    /// Connections of replicas that a newer one of the same key replaced.
    replaced,
    /// Connections accepted, of replicas and clients.
    accepted,
    /// Connections that we dialled and that came up.
    dialled,
    /// Dials that failed.
    dials_failed,
}
