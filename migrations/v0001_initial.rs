//! Schema 1, the first: the trees `batches`, `meta`, `checkpoints`, `views` and `evidence`, all empty but for the row `schema` of `meta`. Here are its rows
//! as far as a later schema has others.

use super::{Decode, Encode};

/// A row of the tree `evidence`: two votes of one member, under the id of their contradiction.
#[derive(Encode, Decode)]
pub struct Evidence {
    pub first: SignedVote,
    pub second: SignedVote,
}

#[derive(Encode, Decode)]
pub struct SignedVote {
    pub phase: Phase,
    pub epoch: u64,
    pub view: u64,
    pub slot: u64,
    pub digest: [u8; 32],
    pub replica: u16,
    pub signature: [u8; 64],
}

#[derive(Encode, Decode)]
pub enum Phase {
    PrePrepare,
    Prepare,
    Commit,
}
