//! The only holder of the consensus key. It signs nothing that contradicts what was signed before, whoever asks.
//!
//! What it remembers is rebuilt from the records in recovery ([`Safety::remember`], [`Safety::leave`]), conservatively: an accepted proposal
//! counts as a Prepare sent, a prepared certificate as a Commit sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::crypto::{Digest, PublicKey, Signature, SigningKey};
use crate::planted::{Bug, on};
use crate::types::{
    Checkpoint, Complaint, Federation, NewView, Phase, ReplicaIndex, SignedCheckpoint, SignedComplaint, SignedVote, Slot, View, ViewChange, Vote,
};

/// Why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetyError {
    /// Another digest was signed at this place.
    #[error("{phase:?} at view {view} slot {slot} was signed for {signed}, not for {asked}")]
    Contradiction {
        /// The phase.
        phase: Phase,
        /// The view.
        view: View,
        /// The slot.
        slot: Slot,
        /// The digest signed.
        signed: Digest,
        /// The digest asked for.
        asked: Digest,
    },
    /// The view was left.
    #[error("view {view} was left for view {current}")]
    LeftView {
        /// The view asked about.
        view: View,
        /// The view the replica is in or moving to.
        current: View,
    },
    /// The replica cannot prove that it remembers its votes.
    #[error("a suspect replica signs nothing")]
    Suspect,
}

/// Signs, or refuses.
#[cfg_attr(test, derive(Clone))]
pub struct Safety {
    federation: Arc<Federation>,
    me: ReplicaIndex,
    key: SigningKey,
    suspect: bool,
    /// The view below which nothing more is signed, and whether voting in it has begun.
    view: View,
    changing: bool,
    signed: BTreeMap<(Slot, Phase), (View, Digest)>,
}

impl Safety {
    /// A signer for one replica. A suspect one never signs.
    #[must_use]
    pub fn new(federation: Arc<Federation>, me: ReplicaIndex, key: SigningKey, suspect: bool) -> Self {
        let suspect = suspect && !on(Bug::SuspectVotes);
        Self { federation, me, key, suspect, view: 0, changing: false, signed: BTreeMap::new() }
    }

    /// The key that it signs with.
    #[must_use]
    pub fn owner(&self) -> PublicKey {
        self.key.public()
    }

    /// Notes that a statement was, or may have been, signed.
    pub fn remember(&mut self, phase: Phase, view: View, slot: Slot, digest: Digest) {
        let entry = self.signed.entry((slot, phase)).or_insert((view, digest));
        if view > entry.0 {
            *entry = (view, digest);
        }
    }

    /// Notes that the replica moves to a view: nothing is signed below it, nor in it until [`Safety::enter`].
    pub fn leave(&mut self, view: View) {
        self.view = self.view.max(view);
        self.changing = true;
    }

    /// Everything that may have been signed and forgotten lies behind: signs again, in this view and later ones.
    pub fn trust(&mut self, view: View) {
        self.suspect = false;
        self.view = self.view.max(view);
    }

    /// Notes that a view began.
    pub fn enter(&mut self, view: View) {
        self.view = self.view.max(view);
        self.changing = false;
    }

    /// Forgets places at or below a slot that no vote can be asked for any more.
    pub fn forget_through(&mut self, slot: Slot) {
        self.signed = self.signed.split_off(&(slot + 1, Phase::PrePrepare));
    }

    /// Everything remembered.
    pub(super) fn remembered(&self) -> Vec<(Phase, View, Slot, Digest)> {
        self.signed.iter().map(|((slot, phase), (view, digest))| (*phase, *view, *slot, *digest)).collect()
    }

    /// Signs a proposal or vote.
    ///
    /// # Errors
    /// [`SafetyError`].
    pub fn vote(&mut self, phase: Phase, view: View, slot: Slot, digest: Digest) -> Result<SignedVote, SafetyError> {
        if self.suspect {
            return Err(SafetyError::Suspect);
        }
        if view != self.view || self.changing {
            return Err(SafetyError::LeftView { view, current: self.view });
        }
        if let Some((signed_view, signed)) = self.signed.get(&(slot, phase)) {
            if *signed_view > view {
                return Err(SafetyError::LeftView { view, current: *signed_view });
            }
            if *signed_view == view && *signed != digest && !on(Bug::SecondProposalAccepted) {
                return Err(SafetyError::Contradiction { phase, view, slot, signed: *signed, asked: digest });
            }
        }
        self.remember(phase, view, slot, digest);
        let vote = Vote { phase, epoch: 0, view, slot, digest };
        Ok(SignedVote { vote, replica: self.me, signature: self.sign(&vote.signed_bytes(self.federation.id())) })
    }

    /// Signs a checkpoint of a durable log; the caller vouches for the durability.
    ///
    /// # Errors
    /// [`SafetyError::Suspect`].
    pub fn checkpoint(&self, checkpoint: Checkpoint) -> Result<SignedCheckpoint, SafetyError> {
        self.allowed()?;
        let signature = self.sign(&checkpoint.signed_bytes(self.federation.id()));
        Ok(SignedCheckpoint { checkpoint, replica: self.me, signature })
    }

    /// Signs a complaint about a view.
    ///
    /// # Errors
    /// [`SafetyError::Suspect`].
    pub fn complaint(&self, view: View) -> Result<SignedComplaint, SafetyError> {
        self.allowed()?;
        let complaint = Complaint { epoch: 0, view };
        Ok(SignedComplaint { complaint, replica: self.me, signature: self.sign(&complaint.signed_bytes(self.federation.id())) })
    }

    /// Signs a view-change to a view above the current one.
    ///
    /// # Errors
    /// [`SafetyError`].
    pub fn view_change(&self, mut change: ViewChange) -> Result<ViewChange, SafetyError> {
        self.allowed()?;
        if change.new_view <= self.view {
            return Err(SafetyError::LeftView { view: change.new_view, current: self.view });
        }
        change.replica = self.me;
        change.signature = self.sign(&change.signed_bytes(self.federation.id()));
        Ok(change)
    }

    /// Signs the new-view of the view this replica is moving to and leads.
    ///
    /// # Errors
    /// [`SafetyError`].
    pub fn new_view(&self, mut new_view: NewView) -> Result<NewView, SafetyError> {
        self.allowed()?;
        if new_view.view != self.view || !self.changing {
            return Err(SafetyError::LeftView { view: new_view.view, current: self.view });
        }
        new_view.signature = self.sign(&new_view.signed_bytes(self.federation.id()));
        Ok(new_view)
    }

    fn allowed(&self) -> Result<(), SafetyError> {
        if self.suspect { Err(SafetyError::Suspect) } else { Ok(()) }
    }

    fn sign(&self, bytes: &[u8]) -> Signature {
        self.key.sign(bytes)
    }
}
