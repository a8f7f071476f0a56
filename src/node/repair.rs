//! Fetching, before the core starts, the bodies that damage took: a replica that lacks one could not tell a duplicate.
//!
//! The transport is up for this alone and answers nothing. Every batch is checked twice: by its own certificate, and against the row of the log.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::NodeOptions;
use crate::consensus::Verifier;
use crate::error::FederationError;
use crate::net::{Caller, Net, NetIdentity, NetOptions, RequestHandler};
use crate::recovery::{Recovered, repair};
use crate::types::{CommittedBatch, Federation, LogQuery, MAX_FRAME_BYTES, ReplicaIndex, Request, Response, Slot, decode, encode};

/// What fetching needs of a replica's configuration.
pub(super) struct Repair {
    pub(super) federation: Arc<Federation>,
    pub(super) identity: NetIdentity,
    pub(super) listen: SocketAddr,
    pub(super) addresses: Vec<String>,
    pub(super) net: NetOptions,
    pub(super) node: NodeOptions,
}

impl Repair {
    /// Asks one peer after another for every missing body, as long as one request may take; gives what was fetched, for people.
    pub(super) async fn run(self, mut recovered: Recovered) -> Result<(Recovered, Option<String>), FederationError> {
        let federation = self.federation.clone();
        let survey = tokio::task::spawn_blocking(move || repair::complete(&federation, &mut recovered, |_| ()).map(|()| recovered));
        let recovered = survey.await.map_err(|e| FederationError::Stopped(e.to_string()))??;
        let (frames, mut ignored) = tokio::sync::mpsc::unbounded_channel();
        let ignoring = tokio::spawn(async move { while ignored.recv().await.is_some() {} });
        let Self { federation, identity, listen, addresses, net, node } = self;
        // Nobody needs to reach this replica yet, and its own port must be free again at once.
        let listen = SocketAddr::new(listen.ip(), 0);
        let net = Net::start(federation.clone(), identity, listen, addresses, net, frames, Arc::new(NotYet)).await?;
        let missing: BTreeSet<Slot> = recovered.report.missing.iter().copied().collect();
        tracing::info!(batches = missing.len(), "fetching the bodies that were damaged");
        let deadline = Instant::now() + Duration::from_millis(node.catch_up_timeout_ms);
        let mut fetching = Fetching { federation, net: &net, deadline, bytes: node.catch_up_bytes, missing, fetched: Vec::new(), recovered };
        let result = fetching.run().await;
        let Fetching { fetched, recovered, .. } = fetching;
        net.shutdown().await;
        ignoring.abort();
        result?;
        let told = (!fetched.is_empty()).then(|| format!("{} whose bodies were damaged: fetched from peers", repair::batches(&fetched)));
        Ok((recovered, told))
    }
}

struct Fetching<'a> {
    federation: Arc<Federation>,
    net: &'a Net,
    deadline: Instant,
    bytes: u64,
    missing: BTreeSet<Slot>,
    fetched: Vec<Slot>,
    recovered: Recovered,
}

impl Fetching<'_> {
    async fn run(&mut self) -> Result<(), FederationError> {
        let mut connected = self.net.watch_connected();
        let mut asked: BTreeSet<ReplicaIndex> = BTreeSet::new();
        while !self.missing.is_empty() {
            let next = self.net.connected().into_iter().find(|peer| !asked.contains(peer));
            let Some(peer) = next else {
                if asked.len() + 1 >= self.federation.size() || timeout_at(self.deadline, connected.changed()).await.is_err() {
                    break;
                }
                continue;
            };
            asked.insert(peer);
            self.ask(peer).await?;
        }
        let rest = self.missing.len();
        if rest > 0 {
            tracing::warn!(batches = rest, "no peer that was reached in time gave these bodies");
        }
        Ok(())
    }

    /// Everything that one peer gives.
    async fn ask(&mut self, peer: ReplicaIndex) -> Result<(), FederationError> {
        let mut from = 0;
        while let Some(slot) = self.missing.range(from..).next().copied() {
            from = slot + 1;
            // One batch beyond the missing ones is wasted at most, if what is missing lies together.
            let together = self.missing.contains(&(slot + 1));
            let query = LogQuery::FromSlot { slot, max_bytes: if together { self.bytes } else { 1 } };
            let request = encode(&Request::Log(query))?;
            let limit = self.deadline.saturating_duration_since(Instant::now());
            let answer = match self.net.request(peer, Bytes::from(request), limit, MAX_FRAME_BYTES).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(peer, %error, "a peer did not give a body");
                    return Ok(());
                }
            };
            match decode::<Response>(&answer) {
                Ok(Response::Log(range)) => range.batches.into_iter().try_for_each(|batch| self.take(batch))?,
                Ok(Response::Refused(reason)) => tracing::debug!(peer, slot, reason, "a peer lacks a body too"),
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Keeps a batch that is missing, if it is what the log's row names.
    fn take(&mut self, batch: CommittedBatch) -> Result<(), FederationError> {
        let slot = batch.header.slot;
        if !self.missing.contains(&slot) || Verifier::new(self.federation.clone()).batch(batch.clone()).is_err() {
            return Ok(());
        }
        let Recovered { journal, store, .. } = &mut self.recovered;
        let Some(row) = store.reader().row_at_slot(slot)?.filter(|row| row.header == batch.header) else { return Ok(()) };
        repair::give_back(&self.federation, journal, store, &row, batch.body)?;
        self.missing.remove(&slot);
        self.fetched.push(slot);
        Ok(())
    }
}

/// The answer to everything while bodies are fetched.
struct NotYet;

impl RequestHandler for NotYet {
    fn handle(&self, _: Caller, _: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        let refusal = Response::Refused("this replica repairs its files; ask another one".to_owned());
        Box::pin(async move { encode(&refusal).map(Bytes::from).unwrap_or_default() })
    }
}
