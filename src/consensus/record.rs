//! What a replica must remember: the records of a step, and their form in the journal.

use std::sync::Arc;

use bincode::{Decode, Encode};

use super::verify::CheckedBody;
use crate::crypto::{PublicKey, Signature};
use crate::types::{
    Body, CheckpointCertificate, CodecError, CommitCertificate, Federation, Header, NewView, PreparedCertificate, View, ViewChange, decode,
    decode_front, encode,
};

/// One fact to be made durable; protocol state changes only by applying one, live and in recovery alike.
#[derive(Debug, Clone)]
pub enum Record {
    /// A proposal was accepted in a view. Before a Prepare.
    Proposal {
        /// The view.
        view: View,
        /// The header.
        header: Header,
        /// The leader's signature.
        signature: Signature,
        /// The body.
        body: CheckedBody,
    },
    /// A body came apart from its proposal: fetched by digest, or caught up.
    Body {
        /// The header.
        header: Header,
        /// The body.
        body: CheckedBody,
    },
    /// A batch is committed.
    Committed(CommitCertificate),
    /// A quorum prepared. Before a Commit.
    Prepared(PreparedCertificate),
    /// The replica left for a view. Before the view-change.
    ViewChange(Arc<ViewChange>),
    /// A view began. Before any vote in it.
    NewView(Arc<NewView>),
    /// A checkpoint became stable.
    Stable(CheckpointCertificate),
    /// Whose data this is, by consensus key. First of all records.
    Owner(PublicKey),
    /// The replica started for the `run`-th time. Before its network opens.
    Started {
        /// 1 for the first start of a new replica.
        run: u64,
    },
}

/// Which part of the journal a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Proposals, bodies and commit certificates: all that an audit needs, kept.
    Segments,
    /// Voting records: small, recycled.
    Votes,
}

/// A batch as the segments hold it: header and body, and who proposed it when, unless it came apart from its proposal.
#[derive(Encode, Decode)]
struct StoredBatch {
    proposed: Option<(View, Signature)>,
    header: Header,
    body: Arc<Body>,
}

/// The kinds of journal frames; stable numbers, never reused.
pub mod kind {
    /// `Record::Proposal`, in segments.
    pub const PROPOSAL: u8 = 1;
    /// `Record::Body`, in segments.
    pub const BODY: u8 = 2;
    /// `Record::Committed`, in segments.
    pub const COMMITTED: u8 = 3;
    /// `Record::Prepared`, in votes.
    pub const PREPARED: u8 = 16;
    /// `Record::ViewChange`, in votes.
    pub const VIEW_CHANGE: u8 = 17;
    /// `Record::NewView`, in votes.
    pub const NEW_VIEW: u8 = 18;
    /// `Record::Stable`, in votes.
    pub const STABLE: u8 = 19;
    /// `Record::Started`, in votes.
    pub const STARTED: u8 = 20;
    /// `Record::Owner`, in votes.
    pub const OWNER: u8 = 21;
}

/// Why a journal frame is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A kind this program does not know.
    #[error("journal frame kind {0} is unknown")]
    UnknownKind(u8),
    /// A proposal in a body's frame, or the other way round.
    #[error("journal frame of kind {0} holds a record of another kind")]
    OtherKind(u8),
    /// The payload is no such record.
    #[error("journal frame of kind {kind}: {error}")]
    Codec {
        /// The frame's kind.
        kind: u8,
        /// What is wrong.
        error: CodecError,
    },
}

impl Record {
    /// Where it is kept.
    #[must_use]
    pub fn part(&self) -> Part {
        match self {
            Self::Proposal { .. } | Self::Body { .. } | Self::Committed(_) => Part::Segments,
            _ => Part::Votes,
        }
    }

    /// Whether the effects of its step wait until it is synced. The others are written with the next group: a commit certificate can be had
    /// again from any peer, and a stable checkpoint only frees memory.
    #[must_use]
    pub fn must_sync(&self) -> bool {
        !matches!(self, Self::Committed(_) | Self::Stable(_))
    }

    /// The slot it is about; 0 for those about a view.
    #[must_use]
    pub fn slot(&self) -> u64 {
        match self {
            Self::Proposal { header, .. } | Self::Body { header, .. } => header.slot,
            Self::Committed(certificate) => certificate.slot,
            Self::Prepared(certificate) => certificate.header.slot,
            _ => 0,
        }
    }

    /// Its journal frame: kind and payload.
    ///
    /// # Errors
    /// [`CodecError::TooLong`].
    pub fn to_frame(&self) -> Result<(u8, Vec<u8>), CodecError> {
        Ok(match self {
            Self::Proposal { view, header, signature, body } => {
                (kind::PROPOSAL, encode(&StoredBatch { proposed: Some((*view, *signature)), header: header.clone(), body: body.body.clone() })?)
            }
            Self::Body { header, body } => (kind::BODY, encode(&StoredBatch { proposed: None, header: header.clone(), body: body.body.clone() })?),
            Self::Committed(certificate) => (kind::COMMITTED, encode(certificate)?),
            Self::Prepared(certificate) => (kind::PREPARED, encode(certificate)?),
            Self::ViewChange(change) => (kind::VIEW_CHANGE, encode(change)?),
            Self::NewView(new_view) => (kind::NEW_VIEW, encode(new_view)?),
            Self::Stable(certificate) => (kind::STABLE, encode(certificate)?),
            Self::Owner(key) => (kind::OWNER, encode(key)?),
            Self::Started { run } => (kind::STARTED, encode(run)?),
        })
    }

    /// Reads a journal frame back; digests and leaf hashes are computed anew.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn from_frame(federation: &Federation, kind: u8, payload: &[u8]) -> Result<Self, RecordError> {
        let codec = |error| RecordError::Codec { kind, error };
        Ok(match kind {
            kind::PROPOSAL | kind::BODY => {
                let StoredBatch { proposed, header, body } = decode(payload).map_err(codec)?;
                if proposed.is_some() != (kind == kind::PROPOSAL) {
                    return Err(RecordError::OtherKind(kind));
                }
                let body = CheckedBody::compute(federation, body, header.first_sequence);
                match proposed {
                    Some((view, signature)) => Self::Proposal { view, header, signature, body },
                    None => Self::Body { header, body },
                }
            }
            kind::COMMITTED => Self::Committed(decode(payload).map_err(codec)?),
            kind::PREPARED => Self::Prepared(decode(payload).map_err(codec)?),
            kind::VIEW_CHANGE => Self::ViewChange(Arc::new(decode(payload).map_err(codec)?)),
            kind::NEW_VIEW => Self::NewView(Arc::new(decode(payload).map_err(codec)?)),
            kind::STABLE => Self::Stable(decode(payload).map_err(codec)?),
            kind::OWNER => Self::Owner(decode(payload).map_err(codec)?),
            kind::STARTED => Self::Started { run: decode(payload).map_err(codec)? },
            unknown => return Err(RecordError::UnknownKind(unknown)),
        })
    }
}

/// Reads only the header of a proposal or body frame, to know what it is about; [`batch_of_frame`] decides whether it is one.
///
/// # Errors
/// [`CodecError`].
pub fn header_of_frame(payload: &[u8]) -> Result<Header, CodecError> {
    decode_front::<(Option<(View, Signature)>, Header)>(payload).map(|((_, header), _)| header)
}

/// Reads view, leader's signature and header of a proposal frame without its body; `None` for a body frame.
///
/// # Errors
/// [`CodecError`].
pub fn proposal_of_frame(payload: &[u8]) -> Result<Option<(View, Signature, Header)>, CodecError> {
    let ((proposed, header), _) = decode_front::<(Option<(View, Signature)>, Header)>(payload)?;
    Ok(proposed.map(|(view, signature)| (view, signature, header)))
}

/// Reads header and body of a proposal or body frame without hashing anything: for whoever serves a body by its place.
///
/// # Errors
/// [`CodecError`].
pub fn batch_of_frame(payload: &[u8]) -> Result<(Header, Arc<Body>), CodecError> {
    decode::<StoredBatch>(payload).map(|stored| (stored.header, stored.body))
}
