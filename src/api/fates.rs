//! What became of what was submitted here, for those who ask later; bounded, and gone with the process: the log is what lasts.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::forms::{proof_path, update_path};
use crate::crypto::PublicKey;
use crate::types::{SubmitOutcome, UpdateId};

/// How far an update has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = UpdateState)]
pub(super) enum State {
    /// In the log, here and for ever.
    Committed,
    /// On its way; this replica still waits for it.
    Pending,
    /// This replica no longer waits. It may have been committed, or yet be, until `not_after`: ask again, or submit the same again.
    Unknown,
    /// The id is in the log, or on its way, with another payload. Nothing was appended.
    Conflict,
    /// `not_after` passed without a commit.
    Expired,
    /// It breaks a rule. Nothing was appended.
    Rejected,
    /// The replica took no more. Nothing was appended: submit it again.
    Busy,
}

/// What a replica knows of one update's fate.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Fate)]
pub(super) struct Fate {
    /// Its id.
    pub(super) update_id: String,
    /// Whose key signed it.
    #[schema(value_type = String)]
    pub(super) author: PublicKey,
    /// How far it has come.
    pub(super) status: State,
    /// Its place in the log, once committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) sequence: Option<u64>,
    /// Whether it was committed before this submission of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub(super) duplicate: bool,
    /// Of what is pending or unknown: the last federation time, ms, at which it may be committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) not_after: Option<u64>,
    /// Why, of what was refused; how many votes were seen, of what is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) reason: Option<String>,
    /// Where to ask for its fate.
    pub(super) href: String,
    /// Where its proof is, once committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) proof: Option<String>,
}

impl Fate {
    pub(super) fn pending(update_id: &UpdateId, author: PublicKey, not_after: u64) -> Self {
        Self { not_after: Some(not_after), ..Self::of(update_id, author, State::Pending, None) }
    }

    pub(super) fn committed(update_id: &UpdateId, author: PublicKey, sequence: u64, duplicate: bool) -> Self {
        Self { sequence: Some(sequence), duplicate, proof: Some(proof_path(sequence)), ..Self::of(update_id, author, State::Committed, None) }
    }

    fn of(update_id: &UpdateId, author: PublicKey, status: State, reason: Option<String>) -> Self {
        let href = update_path(update_id);
        let update_id = update_id.0.clone();
        Self { update_id, author, status, sequence: None, duplicate: false, not_after: None, reason, href, proof: None }
    }

    /// The fate of the update at a place of a submission, given the submission's.
    pub(super) fn after(update_id: &UpdateId, author: PublicKey, not_after: u64, place: usize, outcome: &SubmitOutcome) -> Self {
        let of = |status, reason: String| Self::of(update_id, author, status, Some(reason));
        match outcome {
            SubmitOutcome::Committed(receipt) => Self::committed(update_id, author, receipt.first_sequence + place as u64, false),
            SubmitOutcome::AlreadyCommitted(places) => match places.get(place) {
                Some(sequence) => Self::committed(update_id, author, *sequence, true),
                None => of(State::Unknown, "committed before, and the replica did not say where".into()),
            },
            SubmitOutcome::Conflict(ids) if ids.contains(update_id) => {
                of(State::Conflict, "this id is in the log or on its way with another payload".into())
            }
            SubmitOutcome::Conflict(_) => of(State::Conflict, "another update of its submission is in conflict".into()),
            SubmitOutcome::Expired { not_after, now } => of(State::Expired, format!("not_after was {not_after}, the federation's time is {now}")),
            SubmitOutcome::Rejected(reason) => of(State::Rejected, reason.clone()),
            SubmitOutcome::Busy { retry_after_ms } => of(State::Busy, format!("submit it again in {retry_after_ms} ms or later")),
            SubmitOutcome::Unknown { prepares, commits, needed } => {
                let seen = format!("not committed while this replica waited: {prepares} prepares and {commits} commits seen, {needed} needed");
                Self { not_after: Some(not_after), ..of(State::Unknown, seen) }
            }
        }
    }
}

/// The newest fates, at most so many.
pub(super) struct Fates {
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    fates: HashMap<(UpdateId, PublicKey), (u64, Fate)>,
    order: VecDeque<(u64, (UpdateId, PublicKey))>,
    /// The author who used an id last.
    authors: HashMap<UpdateId, PublicKey>,
    next: u64,
}

impl Fates {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), kept: Mutex::default() }
    }

    /// Keeps an update's newest fate.
    pub(super) fn keep(&self, fate: Fate) {
        let mut kept = self.kept.lock();
        let key = (UpdateId(fate.update_id.clone()), fate.author);
        let stamp = kept.next;
        kept.next += 1;
        kept.authors.insert(key.0.clone(), key.1);
        kept.fates.insert(key.clone(), (stamp, fate));
        kept.order.push_back((stamp, key));
        // An update whose fate was kept again stands in the queue more than once; only its newest place counts.
        while kept.fates.len() > self.limit || kept.order.len() > 2 * self.limit {
            let Some((stamp, key)) = kept.order.pop_front() else { break };
            if kept.fates.get(&key).is_some_and(|(newest, _)| *newest == stamp) {
                kept.fates.remove(&key);
                if kept.authors.get(&key.0) == Some(&key.1) {
                    kept.authors.remove(&key.0);
                }
            }
        }
    }

    /// The fate of an update, of whoever used the id last if no author is named.
    pub(super) fn find(&self, update_id: &UpdateId, author: Option<PublicKey>) -> Option<Fate> {
        let kept = self.kept.lock();
        let author = author.or_else(|| kept.authors.get(update_id).copied())?;
        kept.fates.get(&(update_id.clone(), author)).map(|(_, fate)| fate.clone())
    }

    /// How many are kept.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.kept.lock().fates.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_fates_go_first_and_a_renewed_one_stays() {
        let fates = Fates::new(3);
        let author = PublicKey([7; 32]);
        let id = |n: u64| UpdateId(format!("update-{n}"));
        for n in 0..3 {
            fates.keep(Fate::pending(&id(n), author, 9));
        }
        fates.keep(Fate::committed(&id(0), author, 5, false));
        fates.keep(Fate::pending(&id(3), author, 9));
        assert_eq!(fates.len(), 3);
        assert!(fates.find(&id(1), None).is_none(), "the oldest is gone");
        assert_eq!(fates.find(&id(0), None).map(|fate| fate.status), Some(State::Committed));
        for n in 0..10_000 {
            fates.keep(Fate::pending(&id(n % 2), author, n));
        }
        let kept = fates.kept.lock();
        assert!(kept.order.len() <= 6 && kept.authors.len() <= 3, "{} {}", kept.order.len(), kept.authors.len());
    }

    #[test]
    fn authors_do_not_share_ids() {
        let fates = Fates::new(8);
        let (a, b) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let id = UpdateId("shared".into());
        fates.keep(Fate::committed(&id, a, 1, false));
        fates.keep(Fate::pending(&id, b, 9));
        assert_eq!(fates.find(&id, Some(a)).map(|fate| fate.status), Some(State::Committed));
        assert_eq!(fates.find(&id, Some(b)).map(|fate| fate.status), Some(State::Pending));
        assert_eq!(fates.find(&id, None).map(|fate| fate.author), Some(b));
    }
}
