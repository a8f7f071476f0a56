//! Schema 2: a row of the tree `evidence` says of which kind it is; schema 1 knew votes only. The ids stay.

use super::v0001_initial as v1;
use super::{Database, StoreError};
use crate::crypto::{Digest, Signature};
use crate::types::{Evidence, Phase, SignedVote, Vote};

pub(super) fn step(from: &Database, to: &Database) -> Result<(), StoreError> {
    from.batches.copy_to(&to.batches)?;
    from.checkpoints.copy_to(&to.checkpoints)?;
    from.views.copy_to(&to.views)?;
    for (key, v1::Evidence { first, second }) in from.evidence.rows()? {
        to.evidence.put(&key, &Evidence::Votes { first: vote(&first), second: vote(&second) })?;
    }
    Ok(())
}

fn vote(old: &v1::SignedVote) -> SignedVote {
    let phase = match old.phase {
        v1::Phase::PrePrepare => Phase::PrePrepare,
        v1::Phase::Prepare => Phase::Prepare,
        v1::Phase::Commit => Phase::Commit,
    };
    let vote = Vote { phase, epoch: old.epoch, view: old.view, slot: old.slot, digest: Digest(old.digest) };
    SignedVote { vote, replica: old.replica, signature: Signature(old.signature) }
}
