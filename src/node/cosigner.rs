//! Publishing checkpoints: cosign each stable checkpoint of the own log, ask the peers for theirs, keep the newest that a quorum cosigned.
//!
//! Peers are asked, not told: an answer that was lost is asked for again, whoever lags answers when it gets there, and a newer checkpoint takes
//! the place of one that nobody completes. The core knows nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, error::TrySendError};
use tokio::task::{JoinSet, spawn_blocking};

use super::published::Published;
use super::shared::Shared;
use crate::net::{Net, NetError};
use crate::store::{LogReader, StoreError};
use crate::types::{Checkpoint, Cosignature, CosignatureQuery, Federation, ReplicaIndex, Request, Response, Role, Slot, decode, encode};

/// How many checkpoints may wait to be cosigned; what does not fit is superseded by the next.
pub(super) const QUEUE: usize = 64;
/// How long a peer may take to come as far as this replica.
const PEER_WAIT: Duration = Duration::from_secs(5);
/// How long an answer may take beyond that.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How long until the peers are asked again when no quorum answered.
const PAUSE: Duration = Duration::from_secs(1);
/// An answer holds one cosignature.
const ANSWER_BYTES: usize = 4 << 10;

/// Which checkpoints are stable by a quorum's word, and durable in this replica's own log: both, and the same.
#[derive(Default)]
pub(super) struct Agreed {
    /// The newest stable one that the own log has not reached.
    stable: Option<Checkpoint>,
    /// Durable ones that are not known to be stable.
    durable: BTreeMap<Slot, Checkpoint>,
}

impl Agreed {
    /// A quorum signed it. Yields it if the own log holds the same.
    pub(super) fn stable(&mut self, stable: Checkpoint) -> Option<Checkpoint> {
        let own = self.durable.remove(&stable.slot);
        self.durable = self.durable.split_off(&stable.slot);
        match own {
            Some(own) if own == stable => Some(own),
            Some(own) => {
                tracing::error!(slot = own.slot, own = %own.log_root, stable = %stable.log_root, "a quorum signed another checkpoint than this log's");
                None
            }
            None => {
                self.stable = Some(stable);
                None
            }
        }
    }

    /// The own log is durable up to it. Yields it if a quorum signed the same.
    pub(super) fn durable(&mut self, own: Checkpoint) -> Option<Checkpoint> {
        if self.stable == Some(own) {
            return self.stable.take();
        }
        self.durable.insert(own.slot, own);
        None
    }

    /// What a start begins with: the checkpoints that recovery found durable, and the newest that was stable. Yields that if the own log holds it.
    pub(super) fn at_start(rows: &impl LogReader, durable: &[Checkpoint]) -> Result<(Self, Option<Checkpoint>), StoreError> {
        let mut agreed = Self { stable: None, durable: durable.iter().map(|own| (own.slot, *own)).collect() };
        let Some(stable) = rows.stable()?.map(|certificate| certificate.checkpoint) else { return Ok((agreed, None)) };
        if let Some(row) = rows.row_at_slot(stable.slot)? {
            let (header, digest) = (row.header, row.certificate.digest);
            let (epoch, slot, sequence, log_root) = (header.epoch, header.slot, header.last_sequence(), header.log_root);
            agreed.durable.insert(slot, Checkpoint { epoch, slot, sequence, digest, log_root });
        }
        let reached = agreed.stable(stable);
        Ok((agreed, reached))
    }
}

/// Hands a checkpoint to the task; never waits.
pub(super) fn announce(to: &Sender<Checkpoint>, checkpoint: Checkpoint) {
    if let Err(TrySendError::Full(_)) = to.try_send(checkpoint) {
        tracing::debug!(slot = checkpoint.slot, "not cosigned: too many wait already");
    }
}

/// The task.
pub(super) struct Cosigner {
    pub(super) federation: Arc<Federation>,
    pub(super) published: Arc<Published>,
    pub(super) net: Arc<Net>,
    pub(super) shared: Arc<Shared>,
}

impl Cosigner {
    /// Runs until the replica stops.
    pub(super) async fn run(self, mut agreed: Receiver<Checkpoint>) {
        let mut stopped = self.shared.stopped();
        tokio::select! {
            _ = stopped.wait_for(Option::is_some) => {}
            () = self.sign(&mut agreed) => {}
            () = self.collect() => {}
        }
    }

    /// Cosigns what is stable and durable. A suspect replica signs nothing at all, and need not: without it the others are a quorum still.
    async fn sign(&self, agreed: &mut Receiver<Checkpoint>) {
        while let Some(checkpoint) = agreed.recv().await {
            if self.shared.status.lock().role == Role::Suspect {
                continue;
            }
            let published = self.published.clone();
            if let Ok(Err(error)) = spawn_blocking(move || published.cosign(&checkpoint, seconds())).await {
                tracing::warn!(%error, slot = checkpoint.slot, "this checkpoint is not cosigned: its cosignature could not be kept");
            }
        }
    }

    /// Completes the newest checkpoint that this replica cosigned.
    async fn collect(&self) {
        let mut cosigned = self.published.subscribe();
        loop {
            cosigned.mark_unchanged();
            let complete = self.published.newest().map_or(0, |newest| newest.size);
            let Some(own) = self.published.newest_own().filter(|own| own.size > complete) else {
                if cosigned.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.gather(own).await {
                Some(cosignatures) => self.keep(own, cosignatures).await,
                None => drop(tokio::time::timeout(PAUSE, cosigned.changed()).await),
            }
        }
    }

    async fn keep(&self, own: Cosignature, cosignatures: Vec<Cosignature>) {
        let published = self.published.clone();
        if let Ok(Err(error)) = spawn_blocking(move || published.keep((own.size, own.root), cosignatures)).await {
            tracing::warn!(%error, size = own.size, "a published checkpoint could not be kept");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A quorum's cosignatures of what this replica cosigned, its own among them.
    async fn gather(&self, own: Cosignature) -> Option<Vec<Cosignature>> {
        let wait_ms = u64::try_from(PEER_WAIT.as_millis()).unwrap_or(u64::MAX);
        let request = Bytes::from(encode(&Request::Cosignature(CosignatureQuery { size: own.size, wait_ms })).ok()?);
        let mut asked = JoinSet::new();
        for peer in self.net.connected() {
            let (net, request) = (self.net.clone(), request.clone());
            asked.spawn(async move { (peer, net.request(peer, request, PEER_WAIT + ANSWER_TIME, ANSWER_BYTES).await) });
        }
        let mut cosignatures = vec![own];
        while cosignatures.len() < self.federation.quorum() {
            let Ok((peer, answer)) = asked.join_next().await? else { continue };
            match self.judge(&own, peer, answer) {
                Ok(cosignature) => cosignatures.extend(cosignature),
                Err(problem) => tracing::warn!(peer, size = own.size, problem, "a peer's cosignature is refused"),
            }
        }
        Some(cosignatures)
    }

    /// A peer's cosignature counts if it is of this replica's own size and root, and verifies.
    fn judge(&self, own: &Cosignature, peer: ReplicaIndex, answer: Result<Bytes, NetError>) -> Result<Option<Cosignature>, String> {
        let Ok(answer) = answer else { return Ok(None) };
        match decode::<Response>(&answer) {
            Ok(Response::Cosignature(None) | Response::Refused(_)) => Ok(None),
            Ok(Response::Cosignature(Some(cosignature))) => {
                cosignature.verify(&self.federation).map_err(|e| e.to_string())?;
                if cosignature.replica != peer || cosignature.size != own.size {
                    return Err(format!("of member {} and {} entries, not what was asked for", cosignature.replica, cosignature.size));
                }
                if cosignature.root != own.root {
                    return Err(format!("root {}, this log has {}", cosignature.root, own.root));
                }
                Ok(Some(cosignature))
            }
            _ => Err("another answer than a cosignature".to_owned()),
        }
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;

    fn checkpoint(slot: Slot) -> Checkpoint {
        Checkpoint { epoch: 0, slot, sequence: 10 * slot, digest: sha256(b"header"), log_root: sha256(&slot.to_le_bytes()) }
    }

    #[test]
    fn only_what_is_stable_and_durable_alike_is_cosigned_in_whichever_order_it_comes() {
        let mut agreed = Agreed::default();
        assert_eq!(agreed.durable(checkpoint(1)), None);
        assert_eq!(agreed.stable(checkpoint(1)), Some(checkpoint(1)));
        assert_eq!(agreed.stable(checkpoint(2)), None, "the log is not there yet");
        assert_eq!(agreed.durable(checkpoint(2)), Some(checkpoint(2)));
        let other = Checkpoint { log_root: sha256(b"other"), ..checkpoint(3) };
        assert_eq!(agreed.durable(checkpoint(3)), None);
        assert_eq!(agreed.stable(other), None, "another root is never cosigned");
        assert_eq!(agreed.stable(Checkpoint { log_root: sha256(b"other"), ..checkpoint(4) }), None);
        assert_eq!(agreed.durable(checkpoint(4)), None);
        for slot in 5..9 {
            assert_eq!(agreed.durable(checkpoint(slot)), None);
        }
        assert_eq!(agreed.stable(checkpoint(7)), Some(checkpoint(7)));
        assert_eq!(agreed.durable.keys().copied().collect::<Vec<_>>(), [8], "what a stable checkpoint covers is forgotten");
    }
}
