//! One replica of a simulated federation: the real core, pipeline, keeper and recovery on a simulated disk and log.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use super::adversary::Liar;
use super::checker::{Fact, facts_of, facts_of_recovered};
use super::disk::{Image, Mounted, SimDisk};
use super::log::{SimLog, SimMedium, SimStore};
use super::plan::Plan;
use crate::consensus::{CoreOptions, Place, Replica, Verifier};
use crate::crypto::{PublicKey, SigningKey};
use crate::journal::JournalOptions;
use crate::node::Archive;
use crate::node::keeper::{Keeper, LogInput};
use crate::node::pipeline::{Pipeline, PipelineError, PipelineInput, Released};
use crate::recovery::{DataDir, Inputs, RecoveryError, RecoveryReport, Suspicion, recover_on};
use crate::store::StoreOptions;
use crate::types::{Checkpoint, Federation};

/// Whether a member that does not lie still counts as correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taint {
    /// It does.
    None,
    /// Its disk was tampered with; until it is seen to remember all, or has rejoined.
    Damaged,
    /// It may have forgotten what it said, and nobody can tell.
    Forever,
}

/// A replica that runs.
pub(super) struct Live {
    pub(super) core: Replica,
    pub(super) verifier: Verifier,
    pub(super) pipeline: Pipeline,
    pub(super) keeper: Keeper<SimLog>,
    pub(super) archive: Archive<SimStore>,
    pub(super) inbox: VecDeque<PipelineInput>,
    pub(super) log_inbox: VecDeque<LogInput>,
    pub(super) journal_busy: bool,
    pub(super) log_busy: bool,
    pub(super) last_sync: u64,
    pub(super) facts: BTreeSet<Fact>,
    pending_facts: Vec<Fact>,
    pub(super) place: Place,
    /// It was suspect when it started.
    pub(super) began_suspect: bool,
    pub(super) report: RecoveryReport,
    pub(super) durable: Vec<Checkpoint>,
}

/// A member's machine.
pub(super) struct Instance {
    pub(super) member: u16,
    pub(super) disk: Arc<SimDisk>,
    pub(super) store: SimStore,
    pub(super) live: Option<Box<Live>>,
    /// Counts starts: what was meant for an earlier life does not reach this one.
    pub(super) life: u64,
    pub(super) skew: i64,
    pub(super) slow_ms: u64,
    pub(super) taint: Taint,
    /// Its disk was tampered with once, and what was hit may come to light later.
    pub(super) scarred: bool,
    /// It was suspect at its last start, and has not rejoined since.
    pub(super) forgot: bool,
    pub(super) liars: Vec<Box<dyn Liar>>,
    /// Older copies of the whole disk.
    pub(super) copies: Vec<(Image, SimStore)>,
}

/// What all instances are made with.
pub(super) struct Setup {
    pub(super) federation: Arc<Federation>,
    pub(super) keys: Vec<SigningKey>,
    pub(super) core: CoreOptions,
    pub(super) journal: JournalOptions,
    pub(super) inline_body_bytes: u64,
    pub(super) group_steps: usize,
}

impl Setup {
    pub(super) fn new(plan: &Plan, federation: Arc<Federation>, keys: Vec<SigningKey>) -> Self {
        let (protocol, storage) = (&plan.protocol, &plan.storage);
        let core = CoreOptions {
            pipeline_slots: protocol.pipeline_slots,
            eager_slots: protocol.eager_slots,
            stall_timeout_ms: protocol.stall_timeout_ms,
            request_timeout_ms: protocol.request_timeout_ms,
            max_timeout_ms: protocol.max_timeout_ms,
            gossip_ms: protocol.gossip_ms,
            catch_up_after_ms: protocol.catch_up_after_ms,
            buffered_proposal_slots: 16,
            ..CoreOptions::default()
        };
        let journal = JournalOptions { segment_bytes: storage.segment_kib << 10, votes_bytes: storage.votes_kib << 10, max_frame_bytes: 8 << 20 };
        let group_steps = usize::try_from(storage.group_steps).unwrap_or(1);
        Self { federation, keys, core, journal, inline_body_bytes: storage.inline_body_bytes, group_steps }
    }
}

pub(super) fn data_dir() -> DataDir {
    DataDir(PathBuf::from("data"))
}

impl Instance {
    pub(super) fn new(member: u16, seed: u64) -> Self {
        Self {
            member,
            disk: SimDisk::new(seed),
            store: SimStore::default(),
            live: None,
            life: 0,
            skew: 0,
            slow_ms: 0,
            taint: Taint::None,
            scarred: false,
            forgot: false,
            liars: Vec::new(),
            copies: Vec::new(),
        }
    }

    /// An empty data directory, as `init` makes it; or one for a replica that lost its disk.
    pub(super) fn prepare(&self, setup: &Setup, suspect: Option<&str>) -> Result<(), RecoveryError> {
        let disk = Arc::new(Mounted(self.disk.clone()));
        if let Some(reason) = suspect {
            Suspicion::new(disk.clone(), &data_dir()).note(reason)?;
        }
        let owner = setup.keys.get(usize::from(self.member)).map_or(PublicKey([0; 32]), SigningKey::public);
        data_dir().create_on(disk, &setup.federation, owner, &setup.journal)
    }

    /// Recovers from the disk.
    pub(super) fn recover(&mut self, setup: &Setup, nonce: u64, mono: u64) -> Result<Box<Live>, RecoveryError> {
        let medium = SimMedium { disk: self.disk.clone(), store: self.store.clone(), inline_body_bytes: setup.inline_body_bytes };
        let key = setup.keys.get(usize::from(self.member)).cloned().unwrap_or_else(|| SigningKey::simulated(&[0; 32]));
        let inputs = Inputs {
            federation: setup.federation.clone(),
            me: self.member,
            key,
            core: setup.core.clone(),
            journal: setup.journal,
            store: StoreOptions::default(),
            nonce,
        };
        let recovered = recover_on(&medium, &data_dir(), inputs)?;
        let suspicion = Suspicion::new(Arc::new(Mounted(self.disk.clone())), &data_dir());
        let archive = Archive::new(setup.federation.clone(), self.store.clone(), recovered.journal.reader(), 1 << 20);
        let facts = facts_of_recovered(&recovered.core);
        let place = recovered.core.place();
        let mut live = Live {
            core: recovered.core,
            verifier: Verifier::new(setup.federation.clone()),
            pipeline: Pipeline::new(recovered.journal, recovered.places, recovered.votes_lost, suspicion),
            keeper: Keeper::new(recovered.store),
            archive,
            inbox: VecDeque::new(),
            log_inbox: VecDeque::new(),
            journal_busy: false,
            log_busy: false,
            last_sync: mono,
            facts: BTreeSet::new(),
            pending_facts: facts,
            place,
            began_suspect: place.suspect,
            report: recovered.report,
            durable: recovered.durable,
        };
        live.settle_facts(&self.disk);
        Ok(Box::new(live))
    }
}

impl Instance {
    /// It votes again: the new voting record is durable, and it lacks nothing else that it needs.
    pub(super) fn consider_trusted(&mut self) {
        let trusted = |live: &Live| live.began_suspect && !live.place.suspect && !live.pipeline.is_suspect();
        if self.taint == Taint::Damaged && self.live.as_deref().is_some_and(trusted) {
            self.taint = Taint::None;
        }
    }
}

impl Live {
    /// What was written becomes fact once the disk says that it is durable.
    fn settle_facts(&mut self, disk: &SimDisk) {
        if self.pipeline.is_settled() && disk.is_clean() {
            self.facts.extend(self.pending_facts.drain(..));
        }
    }

    /// Lets the journal write and sync what waits.
    pub(super) fn run_journal(&mut self, disk: &SimDisk, steps: usize, due: bool) -> Result<Vec<Released>, PipelineError> {
        let count = self.inbox.len().min(steps);
        let inputs: Vec<PipelineInput> = self.inbox.drain(..count).collect();
        for input in &inputs {
            match input {
                PipelineInput::Step(step) => step.records.iter().for_each(|record| facts_of(record, &mut self.pending_facts)),
                PipelineInput::Rotate(_) => {}
            }
        }
        let released = self.pipeline.group(inputs.into_iter(), due)?;
        self.settle_facts(disk);
        Ok(released)
    }

    /// Forgets facts about slots that nobody votes on any more.
    pub(super) fn prune_facts(&mut self) {
        // What the core has left behind may still be on its way through the journal.
        let floor = self.place.floor.saturating_sub(64);
        self.facts.retain(|fact| match fact {
            Fact::Accepted(_, slot, _) | Fact::Body(slot, _) | Fact::Prepared(_, slot, _) => *slot > floor,
            Fact::Left(_) | Fact::Entered(_) => true,
        });
    }
}
