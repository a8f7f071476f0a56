//! From an HTTP request to the federation: signs where it may, submits, waits as long as the client does, and remembers the fate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::fates::Fate;
use super::problem::{Kind, Problem};
use super::state::Api;
use crate::crypto::SigningKey;
use crate::types::{StateUpdate, Submission, SubmitOutcome};

/// How long a busy replica is asked again on behalf of a client that waits, and of one that does not.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(20)];

/// Updates that are submitted together.
enum Group {
    /// To be signed by the replica's author key.
    Unsigned(SigningKey, Vec<StateUpdate>),
    /// Signed by their author, and passed on as they are.
    Signed(Submission),
}

/// The fates of a request's updates, as far as they are known, in the order of the request.
pub(super) struct Sent {
    fates: Arc<Mutex<Vec<Fate>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Sent {
    /// Waits until every fate is known, or so long; gives what is known by then. What is not known yet goes on all the same.
    pub(super) async fn wait(self, wait: Duration) -> Vec<Fate> {
        let all = futures_util::future::join_all(self.tasks);
        let _ = tokio::time::timeout(wait, all).await;
        self.fates.lock().clone()
    }
}

/// Signs updates with the replica's author key and has them ordered.
pub(super) fn sign_and_submit(api: &Arc<Api>, updates: Vec<StateUpdate>, waits: bool) -> Result<Sent, Problem> {
    let Some(key) = &api.author else {
        return Err(Problem::new(
            Kind::NoAuthor,
            "this replica's configuration names no author_key under [http]: submit to one that has one, or sign the updates yourself and POST them \
             to /v1/submissions",
        ));
    };
    check(api, &updates)?;
    let parameters = api.handle.federation().parameters();
    let groups = groups(updates, parameters.max_submission_updates, parameters.max_batch_bytes / 4);
    send(api, groups.into_iter().map(|group| Group::Unsigned(key.clone(), group)).collect(), waits)
}

/// Has a submission ordered that its author signed.
pub(super) fn pass_on(api: &Arc<Api>, submission: Submission, waits: bool) -> Result<Sent, Problem> {
    send(api, vec![Group::Signed(submission)], waits)
}

/// What the federation would refuse in any case is refused before anything is submitted.
fn check(api: &Api, updates: &[StateUpdate]) -> Result<(), Problem> {
    let limit = api.handle.federation().parameters().max_data_bytes;
    let mut ids = BTreeSet::new();
    for (at, update) in updates.iter().enumerate() {
        let refused = |detail: String| Err(Problem::new(Kind::Rejected, detail).with("index", at).with("update_id", update.update_id.0.clone()));
        if update.data.len() as u64 > limit {
            return refused(format!("the payload has {} bytes, the federation allows {limit}", update.data.len()));
        }
        if !ids.insert(&update.update_id) {
            return refused("this request holds the id twice".into());
        }
    }
    Ok(())
}

/// Splits updates into submissions within the federation's limits.
fn groups(updates: Vec<StateUpdate>, max_updates: u64, max_bytes: u64) -> Vec<Vec<StateUpdate>> {
    let (mut groups, mut current, mut bytes) = (Vec::new(), Vec::new(), 0);
    for update in updates {
        let size = update.data.len() as u64 + 512;
        if !current.is_empty() && (current.len() as u64 >= max_updates || bytes + size > max_bytes) {
            groups.push(std::mem::take(&mut current));
            bytes = 0;
        }
        bytes += size;
        current.push(update);
    }
    groups.push(current);
    groups
}

/// Starts one task for each group. They outlive the request: a client that goes away changes nothing about what it submitted.
fn send(api: &Arc<Api>, groups: Vec<Group>, waits: bool) -> Result<Sent, Problem> {
    if api.stop.is_cancelled() {
        return Err(Problem::new(Kind::Stopping, "submit to another replica").retry_after(Duration::from_secs(5)));
    }
    let count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
    let permits = api.limits.submissions.clone().try_acquire_many_owned(count);
    let mut permits =
        permits.map_err(|_| Problem::busy("as many submissions as allowed wait for their fate; nothing of this request was submitted"))?;
    let not_after = wall_clock().saturating_add(lifetime(api));
    let fates = Arc::new(Mutex::new(Vec::new()));
    let [short, long] = PATIENCE;
    let patience = if waits { short } else { long };
    let mut tasks = Vec::new();
    for group in groups {
        let begin = {
            let mut known = fates.lock();
            let begin = known.len();
            known.extend(group.pending(not_after));
            known.iter().skip(begin).for_each(|fate| api.fates.keep(fate.clone()));
            begin
        };
        let permit = permits.split(1);
        let work = Work { api: api.clone(), patience, not_after, fates: fates.clone(), begin };
        tasks.push(api.waiting.spawn(work.run(group, permit)));
    }
    Ok(Sent { fates, tasks })
}

/// How long an update signed here stays valid.
fn lifetime(api: &Api) -> u64 {
    api.options.lifetime_ms.min(api.handle.federation().parameters().max_lifetime_ms * 9 / 10)
}

impl Group {
    fn pending(&self, until: u64) -> Vec<Fate> {
        match self {
            Self::Unsigned(key, updates) => updates.iter().map(|update| Fate::pending(&update.update_id, key.public(), until)).collect(),
            Self::Signed(submission) => submission.ids().map(|id| Fate::pending(id, submission.author, submission.not_after)).collect(),
        }
    }
}

/// The way of one group.
struct Work {
    api: Arc<Api>,
    patience: Duration,
    not_after: u64,
    fates: Arc<Mutex<Vec<Fate>>>,
    /// The place of the group's first update among the request's.
    begin: usize,
}

impl Work {
    async fn run(self, group: Group, permit: Option<OwnedSemaphorePermit>) {
        match group {
            Group::Signed(submission) => {
                let outcome = self.order(&submission).await;
                self.settle(&submission, 0, &outcome);
            }
            Group::Unsigned(key, updates) => {
                let Some(submission) = self.sign(&key, updates.clone()).await else { return };
                let outcome = self.order(&submission).await;
                let refused = matches!(outcome, SubmitOutcome::Conflict(_) | SubmitOutcome::Rejected(_));
                if !refused || updates.len() == 1 {
                    self.settle(&submission, 0, &outcome);
                    return;
                }
                // One bad update costs the others nothing: each is tried alone. Those committed before say so.
                for (place, update) in updates.into_iter().enumerate() {
                    let Some(alone) = self.sign(&key, vec![update]).await else { return };
                    let outcome = self.order(&alone).await;
                    self.settle(&alone, place, &outcome);
                }
            }
        }
        drop(permit);
    }

    async fn sign(&self, key: &SigningKey, updates: Vec<StateUpdate>) -> Option<Submission> {
        let (federation, key, not_after) = (self.api.handle.federation().id(), key.clone(), self.not_after);
        tokio::task::spawn_blocking(move || Submission::sign(federation, &key, not_after, updates)).await.ok()
    }

    /// Has a submission ordered; a replica that is busy is asked again for a while. An id that is on its way under an earlier signature counts as that.
    async fn order(&self, submission: &Submission) -> SubmitOutcome {
        let began = Instant::now();
        loop {
            match self.api.handle.submit(submission.clone()).await {
                SubmitOutcome::Busy { retry_after_ms } if began.elapsed() < self.patience && !self.api.stop.is_cancelled() => {
                    tokio::time::sleep(Duration::from_millis(retry_after_ms.clamp(10, 1_000))).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn settle(&self, submission: &Submission, place: usize, outcome: &SubmitOutcome) {
        let mut fates = self.fates.lock();
        for (at, id) in submission.ids().enumerate() {
            let fate = Fate::after(id, submission.author, submission.not_after, at, outcome);
            self.api.metrics.settled(fate.status);
            self.api.fates.keep(fate.clone());
            if let Some(known) = fates.get_mut(self.begin + place + at) {
                *known = fate;
            }
        }
    }
}

pub(super) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::UpdateId;

    #[test]
    fn groups_keep_order_and_limits() {
        let update = |n: usize, bytes: usize| StateUpdate { update_id: UpdateId(n.to_string()), data: vec![0; bytes], timestamp: 0 };
        let made = groups((0..7).map(|n| update(n, if n == 3 { 5_000 } else { 10 })).collect(), 3, 4_096);
        let ids: Vec<Vec<&str>> = made.iter().map(|group| group.iter().map(|u| u.update_id.0.as_str()).collect()).collect();
        assert_eq!(ids, [vec!["0", "1", "2"], vec!["3"], vec!["4", "5", "6"]]);
    }
}
