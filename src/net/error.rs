//! What can go wrong, and the codes that a closed connection carries.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bincode::{Decode, Encode};
use quinn::VarInt;

use crate::crypto::{KeyError, PublicKey};
use crate::types::{CodecError, Epoch, FederationId, MessageClass, PeerId, ReplicaIndex};

/// Why a hello was refused; sent to the one who dialled.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// Another version of the protocol.
    #[error("it speaks version {expected}, not {actual}")]
    Version {
        /// What the replica speaks.
        expected: u16,
        /// What the hello named.
        actual: u16,
    },
    /// Another federation.
    #[error("it belongs to federation {expected}, not {actual}")]
    Federation {
        /// The replica's.
        expected: FederationId,
        /// The one that the hello named.
        actual: FederationId,
    },
    /// Another epoch.
    #[error("it is in epoch {expected}, not {actual}")]
    Epoch {
        /// The replica's.
        expected: Epoch,
        /// The one that the hello named.
        actual: Epoch,
    },
    /// The hello claims what the TLS key does not prove.
    #[error("the key of this connection does not prove the claimed identity")]
    Identity,
    /// The limit of connections is reached, for this key or for all clients.
    #[error("too many client connections (at most {limit})")]
    Busy {
        /// The limit that was met.
        limit: u64,
    },
}

/// Why the transport, a connection or a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// An option out of bounds.
    #[error("option {key} is {value}, allowed is {low} to {high}")]
    Option {
        /// The key in the configuration.
        key: &'static str,
        /// The value found.
        value: u64,
        /// The least allowed.
        low: u64,
        /// The most allowed.
        high: u64,
    },
    /// No member has this index.
    #[error("there is no replica {index}, the federation has {members}")]
    UnknownReplica {
        /// The index given.
        index: ReplicaIndex,
        /// How many members there are.
        members: usize,
    },
    /// The transport key is not the member's.
    #[error("the genesis names transport key {expected} for replica {index}, the secret yields {actual}")]
    WrongTransportKey {
        /// The member.
        index: ReplicaIndex,
        /// The genesis's.
        expected: PublicKey,
        /// The secret's.
        actual: PublicKey,
    },
    /// Not one address for each member.
    #[error("{expected} addresses are needed, one for each member, but {actual} were given")]
    Addresses {
        /// Members.
        expected: usize,
        /// Addresses.
        actual: usize,
    },
    /// The UDP socket cannot be had.
    #[error("cannot bind {address}: {error}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// A host name does not resolve.
    #[error("cannot resolve {address}: {error}")]
    Resolve {
        /// As given, "host:port".
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// A host name resolves to no address that the socket can reach.
    #[error("{address} has no address that this socket can reach")]
    NoAddress {
        /// As given, "host:port".
        address: String,
    },
    /// No randomness for connection ids.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The TLS provider lacks the cipher suite that QUIC starts with (RFC 9001, section 5.2).
    #[error("the TLS provider lacks TLS13_AES_128_GCM_SHA256")]
    NoInitialCipherSuite,
    /// Dialling failed at once.
    #[error("cannot dial: {0}")]
    Dial(#[from] quinn::ConnectError),
    /// The connection failed or was closed.
    #[error("connection lost: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// Reading a stream failed.
    #[error("cannot read: {0}")]
    Read(#[from] quinn::ReadError),
    /// Writing a stream failed.
    #[error("cannot write: {0}")]
    Write(#[from] quinn::WriteError),
    /// A frame is longer than allowed.
    #[error("a frame of {actual} bytes is over the limit of {limit}")]
    TooLong {
        /// The length claimed.
        actual: usize,
        /// The length allowed.
        limit: usize,
    },
    /// A stream ended within a frame.
    #[error("the stream ended after {actual} of {expected} bytes")]
    Ended {
        /// The bytes awaited.
        expected: usize,
        /// The bytes that came.
        actual: usize,
    },
    /// A time limit passed.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// A hello is not a valid encoding.
    #[error("hello: {0}")]
    Codec(#[from] CodecError),
    /// The other side refused the hello.
    #[error("refused by the replica: {0}")]
    Refused(#[from] Refusal),
    /// The one dialled is not who it should be.
    #[error("dialled {expected:?}, answered {actual:?}")]
    WrongPeer {
        /// Who was dialled.
        expected: PeerId,
        /// Who answered.
        actual: PeerId,
    },
    /// The TLS key may not speak the protocol that was negotiated, or is unknown.
    #[error("the connection's key may not speak its protocol")]
    WrongProtocol,
    /// A stream of messages opened with a byte that names no class.
    #[error("a stream of messages opened with {byte:?}, which names no class")]
    UnknownClass {
        /// The byte; `None` if the stream was empty.
        byte: Option<u8>,
    },
    /// A second stream of one class on one connection.
    #[error("a second stream for {class:?} on one connection")]
    SecondStream {
        /// The class.
        class: MessageClass,
    },
    /// There is no connection to this replica at present.
    #[error("replica {index} is not connected")]
    NotConnected {
        /// The replica.
        index: ReplicaIndex,
    },
}

/// The application codes that connections are closed with (RFC 9000, section 20.2).
pub(super) mod code {
    use super::VarInt;

    /// In order.
    pub(in crate::net) const BYE: VarInt = VarInt::from_u32(0);
    /// The same key connected anew.
    pub(in crate::net) const REPLACED: VarInt = VarInt::from_u32(1);
    /// The key may not speak the negotiated protocol.
    pub(in crate::net) const WRONG_PROTOCOL: VarInt = VarInt::from_u32(2);
    /// The hello was refused; its answer says why.
    pub(in crate::net) const REFUSED: VarInt = VarInt::from_u32(3);
    /// A frame was over its limit.
    pub(in crate::net) const OVERSIZED: VarInt = VarInt::from_u32(4);
    /// A frame did not come in time.
    pub(in crate::net) const SLOW: VarInt = VarInt::from_u32(5);
    /// A stream broke the protocol.
    pub(in crate::net) const VIOLATION: VarInt = VarInt::from_u32(6);
}
