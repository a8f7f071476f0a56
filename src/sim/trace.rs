//! What a run did, as a hash to compare two runs by, and its last events as text.

use std::collections::VecDeque;

use crate::types::{ConsensusMessage, Phase};

const KEPT: usize = 40;

#[derive(Clone, Copy)]
struct Noted {
    time: u64,
    what: &'static str,
    at: usize,
    a: u64,
    b: u64,
}

/// The trace of one run.
pub(super) struct Trace {
    hash: u64,
    last: VecDeque<Noted>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, last: VecDeque::with_capacity(KEPT) }
    }
}

impl Trace {
    /// FNV-1a over words: a trace needs no secrecy.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    pub(super) fn note(&mut self, time: u64, what: &'static str, at: usize, a: u64, b: u64) {
        for word in [time, what.len() as u64 ^ u64::from(what.as_bytes().first().copied().unwrap_or(0)) << 8, at as u64, a, b] {
            self.mix(word);
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Noted { time, what, at, a, b });
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn last(&self) -> Vec<String> {
        self.last.iter().map(|n| format!("{:>7} ms  {:<12} at {:<3} {} {}", n.time, n.what, n.at, n.a, n.b)).collect()
    }
}

/// The name of a message.
pub(super) fn label(message: &ConsensusMessage) -> &'static str {
    match message {
        ConsensusMessage::PrePrepare(_) => "pre-prepare",
        ConsensusMessage::Vote(signed) if signed.vote.phase == Phase::Prepare => "prepare",
        ConsensusMessage::Vote(_) => "commit",
        ConsensusMessage::Checkpoint(_) => "checkpoint",
        ConsensusMessage::Stable(_) => "stable",
        ConsensusMessage::Complaint(_) => "complaint",
        ConsensusMessage::ViewChange(_) => "view-change",
        ConsensusMessage::NewView(_) => "new-view",
        ConsensusMessage::Status(_) => "status",
        ConsensusMessage::Forward(_) => "forward",
        ConsensusMessage::FetchBody(_) => "fetch-body",
        ConsensusMessage::Body(..) => "body",
        ConsensusMessage::Evidence(_) => "evidence",
        ConsensusMessage::Rejoin(_) => "rejoin",
        ConsensusMessage::RejoinAnswer(_) => "rejoin-answer",
    }
}
