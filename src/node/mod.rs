//! A running replica: threads and timers around the core.
//!
//! One thread each for the core, the journal and the log, two that verify what peers send, and tokio for the network. What the core decides
//! flows one way: core, journal (sync), then peers, clients and the log. Embedders hold a [`Handle`].

mod archive;
mod catch_up;
mod cosigner;
mod driver;
mod handle;
mod inbound;
pub(crate) mod keeper;
mod log;
mod observe;
mod outbox;
pub(crate) mod pipeline;
mod published;
mod repair;
mod service;
mod shared;
mod state_machine;
mod writer;

pub use archive::{Archive, ArchiveError};
pub use handle::{CommitResult, Handle, Subscription};
pub use observe::{Observation, PeerStanding};
pub use state_machine::{LogEntry, StateMachine};

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::consensus::{CoreOptions, Verifier};
use crate::crypto::{ReplicaSecret, random_bytes};
use crate::error::FederationError;
use crate::journal::{JournalOptions, RealDisk};
use crate::net::{Inbound, Net, NetIdentity, NetOptions};
use crate::recovery::{DataDir, Inputs, Recovered, RecoveryReport, Suspicion, recover};
use crate::store::StoreOptions;
use crate::types::{Federation, MessageClass, ReplicaIndex};
use catch_up::CatchUp;
use cosigner::{Agreed, Cosigner};
use driver::{Driver, Input};
use inbound::Gate;
use keeper::Keeper;
use log::LogWriter;
use outbox::Outbox;
use pipeline::Pipeline;
use published::Published;
use service::{Answering, Service};
use shared::Shared;
use writer::Writer;

/// What an operator may set of the node itself. Times in ms, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeOptions {
    /// How long a client may wait for the fate of its submission before it is told "unknown".
    pub submit_timeout_ms: u64,
    /// About how many bytes of batches one answer may hold.
    pub max_answer_bytes: u64,
    /// How often the core is told that time passed.
    pub tick_ms: u64,
    /// How many steps of the core share one sync at most.
    pub group_steps: u64,
    /// How long records that nothing waits for may stay unwritten.
    pub idle_sync_ms: u64,
    /// How many batches may wait for the log before the journal waits for it.
    pub log_queue_batches: u64,
    /// How long a peer may take to answer when this replica catches up.
    pub catch_up_timeout_ms: u64,
    /// About how many bytes one such request asks for.
    pub catch_up_bytes: u64,
    /// No more is fetched while so many batches wait for the log.
    pub catch_up_backlog_batches: u64,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            submit_timeout_ms: 20_000,
            max_answer_bytes: 16 << 20,
            tick_ms: 10,
            group_steps: 512,
            idle_sync_ms: 50,
            log_queue_batches: 1_024,
            catch_up_timeout_ms: 10_000,
            catch_up_bytes: 8 << 20,
            catch_up_backlog_batches: 256,
        }
    }
}

/// Everything a replica needs to run.
pub struct NodeConfig {
    /// The federation.
    pub federation: Arc<Federation>,
    /// Which member this is.
    pub me: ReplicaIndex,
    /// Its secret.
    pub secret: ReplicaSecret,
    /// Where its data lies.
    pub data: DataDir,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where each member listens, "host:port", by member.
    pub addresses: Vec<String>,
    /// The node's options.
    pub node: NodeOptions,
    /// The core's.
    pub core: CoreOptions,
    /// The journal's.
    pub journal: JournalOptions,
    /// The log's.
    pub store: StoreOptions,
    /// The transport's.
    pub net: NetOptions,
}

/// A replica that runs until it is stopped or fails.
pub struct Node {
    handle: Handle,
    net: Arc<Net>,
    shared: Arc<Shared>,
    core: mpsc::Sender<Input>,
    threads: Vec<JoinHandle<()>>,
    report: RecoveryReport,
}

impl Node {
    /// Recovers a replica from its data and starts it. Its network opens last.
    ///
    /// # Errors
    /// [`FederationError`].
    pub async fn start(config: NodeConfig, state_machine: Option<Box<dyn StateMachine>>) -> Result<Self, FederationError> {
        let NodeConfig { federation, me, secret, data, listen, addresses, node, core, journal, store, net } = config;
        let started = Instant::now();
        let suspicion = Suspicion::new(RealDisk::shared(), &data);
        let nonce = u64::from_le_bytes(random_bytes().map_err(|e| FederationError::Stopped(e.to_string()))?);
        let inputs = || Inputs { federation: federation.clone(), me, key: secret.consensus_key(), core: core.clone(), journal, store, nonce };
        let repair = || repair::Repair {
            federation: federation.clone(),
            identity: NetIdentity { index: me, transport_key: secret.transport_key() },
            listen,
            addresses: addresses.clone(),
            net: net.clone(),
            node: node.clone(),
        };
        let recovered = recover_whole(&data, inputs, repair).await?;
        let Recovered { core, journal, store, places, durable, votes_lost, report } = recovered;
        let shared = Arc::new(Shared::new(core.status(), store.head().sequence));
        let verifier = Arc::new(Verifier::new(federation.clone()));
        let (core_in, core_inputs) = mpsc::channel();
        let (agreed, stable) = Agreed::at_start(&store.reader(), &durable)?;
        let before = stable.map_or(0, |stable| stable.sequence);
        let published = Arc::new(Published::open(federation.clone(), me, secret.cosignature_key(), data, before));
        let service = Arc::new(Service {
            peer: federation.peer(me).cloned().ok_or_else(|| FederationError::Stopped("no such member".into()))?,
            archive: Archive::new(federation.clone(), store.reader(), journal.reader(), node.max_answer_bytes),
            federation: federation.clone(),
            published: published.clone(),
            verifier: verifier.clone(),
            shared: shared.clone(),
            core: core_in.clone(),
            started,
            submit_timeout: Duration::from_millis(node.submit_timeout_ms),
            report: report.clone(),
            net: OnceLock::new(),
            http: OnceLock::new(),
        });
        let (frames_in, frames) = tokio::sync::mpsc::unbounded_channel();
        let identity = NetIdentity { index: me, transport_key: secret.transport_key() };
        let answering = Arc::new(Answering(service.clone()));
        let net = Arc::new(Net::start(federation.clone(), identity, listen, addresses, net, frames_in, answering).await?);
        let _ = service.net.set(Arc::downgrade(&net));
        let outbox = Outbox { net: net.clone() };
        let rotate = Arc::new(AtomicBool::new(false));
        let (writer_in, writer_inputs) = mpsc::channel();
        let (log_in, log_inputs) = mpsc::sync_channel(usize::try_from(node.log_queue_batches).unwrap_or(1));
        let runtime = tokio::runtime::Handle::current();
        let catch_up =
            CatchUp { net: net.clone(), runtime, verifier: verifier.clone(), shared: shared.clone(), core: core_in.clone(), options: node.clone() };
        let writer = Writer {
            pipeline: Pipeline::new(journal, places, votes_lost, suspicion),
            shared: shared.clone(),
            outbox: outbox.clone(),
            catch_up,
            log: log_in,
            rotate: rotate.clone(),
            idle_sync: Duration::from_millis(node.idle_sync_ms),
            group_steps: usize::try_from(node.group_steps).unwrap_or(1),
            last_sync: started,
        };
        let (cosigner_in, checkpoints) = tokio::sync::mpsc::channel(cosigner::QUEUE);
        stable.into_iter().for_each(|stable| cosigner::announce(&cosigner_in, stable));
        tokio::spawn(Cosigner { federation, published, net: net.clone(), shared: shared.clone() }.run(checkpoints));
        let log = LogWriter { keeper: Keeper::new(store), shared: shared.clone(), core: core_in.clone(), agreed, cosigner: cosigner_in };
        let tick = Duration::from_millis(node.tick_ms);
        let driver = Driver { core, durable, verifier: verifier.clone(), shared: shared.clone(), outbox, writer: writer_in, rotate, started, tick };
        let mut threads = gates(frames, &verifier, &shared, &core_in)?;
        threads.push(thread("log", &shared, move || log.run(&log_inputs))?);
        threads.push(thread("journal", &shared, move || writer.run(&writer_inputs))?);
        threads.push(thread("core", &shared, move || driver.run(&core_inputs))?);
        let handle = Handle { service };
        if let Some(machine) = state_machine {
            tokio::spawn(fold(handle.clone(), machine));
        }
        Ok(Self { handle, net, shared, core: core_in, threads, report })
    }

    /// The handle that embedders use.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What recovery found.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Where it really listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.net.local_addr()
    }

    /// Waits until the replica fails; gives the reason.
    pub async fn failed(&self) -> String {
        let mut stopped = self.shared.stopped();
        let reason = stopped.wait_for(Option::is_some).await.map(|reason| reason.clone());
        reason.ok().flatten().unwrap_or_else(|| "the replica ended".to_owned())
    }

    /// Stops in order: the network, the core, the journal, the log; each syncs what it holds.
    ///
    /// # Errors
    /// The reason, if the replica had failed.
    pub async fn stop(self) -> Result<(), FederationError> {
        let Self { handle, net, shared, core, threads, .. } = self;
        let failed = shared.stopped().borrow().clone();
        shared.stop("stopped");
        net.shutdown().await;
        let _ = core.send(Input::Stop);
        drop((core, net, handle));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().map(JoinHandle::join).all(|r| r.is_ok())).await;
        match (failed, joined) {
            (Some(reason), _) => Err(FederationError::Stopped(reason)),
            (None, Ok(true)) => Ok(()),
            (None, _) => Err(FederationError::Stopped("a thread of the replica panicked".into())),
        }
    }
}

/// Recovers; if bodies are missing, has them fetched first and begins again with what came.
async fn recover_whole(data: &DataDir, inputs: impl Fn() -> Inputs, repair: impl FnOnce() -> repair::Repair) -> Result<Recovered, FederationError> {
    let recovered = recover_aside(data, inputs()).await?;
    if recovered.report.missing.is_empty() {
        return Ok(recovered);
    }
    let (recovered, fetched) = repair().run(recovered).await?;
    let Some(fetched) = fetched else { return Ok(recovered) };
    let before = recovered.report.clone();
    drop(recovered);
    let mut again = recover_aside(data, inputs()).await?;
    crate::recovery::repair::note_wanted(data, &again.report.missing)?;
    again.report.repairs_before(before, fetched);
    Ok(again)
}

/// Recovers on a blocking thread.
async fn recover_aside(data: &DataDir, inputs: Inputs) -> Result<Recovered, FederationError> {
    let data = data.clone();
    let recovered = tokio::task::spawn_blocking(move || recover(&data, inputs)).await;
    Ok(recovered.map_err(|e| FederationError::Stopped(e.to_string()))??)
}

/// The threads that verify what peers send: one for votes, one for everything heavier.
fn gates(
    mut frames: tokio::sync::mpsc::UnboundedReceiver<Inbound>,
    verifier: &Arc<Verifier>,
    shared: &Arc<Shared>,
    core: &mpsc::Sender<Input>,
) -> Result<Vec<JoinHandle<()>>, FederationError> {
    let (light_in, light) = mpsc::channel();
    let (heavy_in, heavy) = mpsc::channel();
    let gate = || Gate { verifier: verifier.clone(), shared: shared.clone(), core: core.clone() };
    let (first, second) = (gate(), gate());
    let threads = vec![thread("verify-votes", shared, move || first.run(&light))?, thread("verify-bodies", shared, move || second.run(&heavy))?];
    tokio::spawn(async move {
        // Each peer's budget bounds what can wait here.
        while let Some(frame) = frames.recv().await {
            let gate = if frame.class == MessageClass::Votes { &light_in } else { &heavy_in };
            if gate.send(frame).is_err() {
                return;
            }
        }
    });
    Ok(threads)
}

/// A thread of the replica. Should it panic, the replica stops rather than go on without it.
fn thread(name: &str, shared: &Arc<Shared>, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, FederationError> {
    let guard = StopOnPanic { shared: shared.clone(), thread: name.to_owned() };
    let guarded = move || {
        let _guard = guard;
        work();
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
    spawned.map_err(|e| FederationError::Stopped(format!("the thread {name} could not be started: {e}")))
}

struct StopOnPanic {
    shared: Arc<Shared>,
    thread: String,
}

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop(&format!("the thread {} panicked", self.thread));
        }
    }
}

/// Feeds the state machine from the log.
async fn fold(handle: Handle, mut machine: Box<dyn StateMachine>) {
    let mut updates = handle.subscribe(machine.last_applied() + 1);
    loop {
        match updates.next().await {
            Ok(entry) => machine.apply(&entry),
            Err(FederationError::Stopped(_)) => return,
            Err(error) => {
                tracing::error!(%error, "the state machine waits: the log cannot be read");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
