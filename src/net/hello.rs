//! The first stream of a connection: who dials says so, and only the answer makes a peer.
//!
//! Under TLS 1.3 a refused dialler may see its handshake succeed; the answer to the hello is what it can trust.

use bincode::{Decode, Encode};
use bytes::Bytes;
use quinn::Connection;

use super::frame::{FrameReader, write_frames};
use super::{Caller, NetError, NetOptions, Refusal};
use crate::types::{Epoch, Federation, FederationId, PeerId, ReplicaIndex, decode, encode};

/// The version of everything that travels between replicas and to clients.
pub const PROTOCOL_VERSION: u16 = 1;
/// A [`Federation`] is the membership of its genesis, epoch 0: its keys authenticate this epoch's connections.
const EPOCH: Epoch = 0;
/// The longest hello or answer, in bytes.
const MAX_HELLO_BYTES: usize = 1 << 10;

/// Who dials, as it says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Claim {
    Replica { index: ReplicaIndex, peer: PeerId },
    Client,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) federation_id: FederationId,
    pub(super) epoch: Epoch,
    pub(super) claim: Claim,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct HelloAck {
    refusal: Option<Refusal>,
    version: u16,
    federation_id: FederationId,
    epoch: Epoch,
    peer: PeerId,
}

impl Hello {
    pub(super) fn new(federation: &Federation, claim: Claim) -> Self {
        Self { version: PROTOCOL_VERSION, federation_id: federation.id(), epoch: EPOCH, claim }
    }

    /// What a listener holds against a hello from this caller.
    pub(super) fn check(&self, federation: &Federation, caller: Caller) -> Result<(), Refusal> {
        if self.version != PROTOCOL_VERSION {
            return Err(Refusal::Version { expected: PROTOCOL_VERSION, actual: self.version });
        }
        if self.federation_id != federation.id() {
            return Err(Refusal::Federation { expected: federation.id(), actual: self.federation_id });
        }
        if self.epoch != EPOCH {
            return Err(Refusal::Epoch { expected: EPOCH, actual: self.epoch });
        }
        let proven = match (&self.claim, caller) {
            (Claim::Replica { index, peer }, Caller::Replica(proven)) => *index == proven && federation.peer(proven) == Some(peer),
            (Claim::Client, Caller::Client { .. }) => true,
            _ => false,
        };
        if proven { Ok(()) } else { Err(Refusal::Identity) }
    }

    /// Says hello, and checks the answer against who was dialled.
    pub(super) async fn say(&self, connection: &Connection, dialled: &PeerId, options: &NetOptions) -> Result<(), NetError> {
        let (mut send, recv) = connection.open_bi().await?;
        write_frames(&mut send, &[Bytes::from(encode(self)?)]).await?;
        // Finishing fails only on a stream that was reset, and then reading fails too.
        let _ = send.finish();
        let ack: HelloAck = decode(&FrameReader::new(recv).frame(MAX_HELLO_BYTES, options).await?)?;
        if let Some(refusal) = ack.refusal {
            return Err(refusal.into());
        }
        if ack.version != self.version {
            return Err(Refusal::Version { expected: ack.version, actual: self.version }.into());
        }
        if ack.federation_id != self.federation_id {
            return Err(Refusal::Federation { expected: ack.federation_id, actual: self.federation_id }.into());
        }
        if ack.epoch != self.epoch {
            return Err(Refusal::Epoch { expected: ack.epoch, actual: self.epoch }.into());
        }
        if ack.peer != *dialled {
            return Err(NetError::WrongPeer { expected: dialled.clone(), actual: ack.peer });
        }
        Ok(())
    }

    /// Reads the hello of a new connection; the answer goes on the stream that is returned.
    pub(super) async fn hear(connection: &Connection, options: &NetOptions) -> Result<(Self, quinn::SendStream), NetError> {
        let (send, recv) = connection.accept_bi().await?;
        let hello = decode(&FrameReader::new(recv).frame(MAX_HELLO_BYTES, options).await?)?;
        Ok((hello, send))
    }
}

impl HelloAck {
    pub(super) fn new(federation: &Federation, peer: &PeerId, refusal: Option<Refusal>) -> Self {
        Self { refusal, version: PROTOCOL_VERSION, federation_id: federation.id(), epoch: EPOCH, peer: peer.clone() }
    }

    /// Answers; a refusal is seen through until it arrived, because the connection is closed behind it.
    pub(super) async fn send(&self, mut stream: quinn::SendStream) -> Result<(), NetError> {
        write_frames(&mut stream, &[Bytes::from(encode(self)?)]).await?;
        let _ = stream.finish();
        if self.refusal.is_some() {
            let _ = stream.stopped().await;
        }
        Ok(())
    }
}
