//! A federation on one simulated clock: events in order of time, everything else drawn from the seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::adversary::Behaviour;
use super::checker::{Checker, Violation};
use super::clients::{Clients, Settled};
use super::instance::{Instance, Live, Setup, Taint};
use super::plan::{Plan, Signatures};
use super::rng::Rng;
use super::trace::Trace;
use crate::consensus::{CheckedBody, Effect, Event, Now, Place, Record, Step};
use crate::crypto::SigningKey;
use crate::node::keeper::LogInput;
use crate::node::pipeline::{PipelineInput, Released};
use crate::types::{
    Author, CommittedBatch, ConsensusMessage, Evidence, EvidenceRule, Federation, Genesis, LogQuery, Member, Parameters, PeerId, ReplicaIndex,
    fault_limit,
};

/// When the simulated time begins, ms since the Unix epoch.
pub(super) const START: u64 = 1_700_000_000_000;
/// View changes that one member may begin in the healed phase: more is a storm.
const STORM: u64 = 60;

/// What happens at a time.
pub(super) enum Item {
    Message { from: u16, to: usize, message: Arc<ConsensusMessage> },
    Tick { to: usize, life: u64 },
    Journal { to: usize, life: u64 },
    Log { to: usize, life: u64 },
    CaughtUp { to: usize, life: u64, from: ReplicaIndex, batches: Option<Vec<CommittedBatch>> },
    Start { to: usize },
    Die { to: usize },
    Act(usize),
    Load,
    Clients,
    Heal,
    Finish,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Events handled.
    pub events: u64,
    /// The trace's hash.
    pub trace_hash: u64,
    /// The last events before the end, as text.
    pub last_events: Vec<String>,
    /// How often each fault and each state was reached.
    pub reached: BTreeMap<&'static str, u64>,
    /// How long it took in simulated time, ms.
    pub simulated_ms: u64,
}

/// The federation and everything around it.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) setup: Setup,
    pub(super) federation: Arc<Federation>,
    pub(super) authors: Vec<SigningKey>,
    pub(super) instances: Vec<Instance>,
    pub(super) queue: BTreeMap<(u64, u64), Item>,
    pub(super) order: u64,
    pub(super) time: u64,
    pub(super) rng: Rng,
    pub(super) disk_rng: Rng,
    pub(super) loss: u64,
    pub(super) partition: Option<u16>,
    pub(super) one_way: Vec<(u16, u16)>,
    pub(super) twin_side: u16,
    pub(super) healed: bool,
    pub(super) checker: Checker,
    pub(super) clients: Clients,
    pub(super) trace: Trace,
    pub(super) reached: BTreeMap<&'static str, u64>,
    pub(super) violation: Option<Violation>,
    pub(super) events: u64,
    pub(super) invoked: u64,
    pub(super) next_probe: u64,
    pub(super) view_changes: BTreeMap<usize, u64>,
    pub(super) done: bool,
}

fn keys(plan: &Plan, tag: u8, index: u16) -> SigningKey {
    let mut seed = [tag; 32];
    seed[..2].copy_from_slice(&index.to_le_bytes());
    match plan.signatures {
        Signatures::Cheap => SigningKey::simulated(&seed),
        Signatures::Ed25519 => SigningKey::from_seed(&seed),
    }
}

fn genesis(plan: &Plan, authors: &[SigningKey]) -> Option<Federation> {
    let members = (0..plan.replicas).map(|i| Member {
        peer: PeerId(format!("replica-{i}")),
        consensus_key: keys(plan, 1, i).public(),
        transport_key: keys(plan, 2, i).public(),
        cosignature_key: keys(plan, 3, i).public(),
    });
    let named = |(i, key): (usize, &SigningKey)| Author { name: format!("author-{i}"), key: key.public() };
    let protocol = &plan.protocol;
    let parameters = Parameters {
        window_slots: protocol.window_slots,
        checkpoint_slots: protocol.checkpoint_slots,
        max_batch_updates: protocol.max_batch_updates,
        max_submission_updates: protocol.max_batch_updates.min(16),
        max_lifetime_ms: protocol.max_lifetime_ms,
        max_drift_ms: (protocol.max_lifetime_ms / 4).min(10_000),
        ..Parameters::default()
    };
    let genesis = Genesis {
        name: "simulated".into(),
        members: members.collect(),
        authors: authors.iter().enumerate().map(named).collect(),
        readers: vec![],
        parameters,
    };
    match plan.signatures {
        Signatures::Cheap => Federation::simulated(genesis).ok(),
        Signatures::Ed25519 => Federation::new(genesis).ok(),
    }
}

impl World {
    /// The federation of a plan; `None` if the plan describes none.
    pub(super) fn new(plan: &Plan) -> Option<Self> {
        let count = u16::try_from(plan.load.authors.clamp(1, 16)).unwrap_or(1);
        // The last one colludes with liars.
        let authors: Vec<SigningKey> = (0..=count).map(|i| keys(plan, 4, i)).collect();
        let federation = Arc::new(genesis(plan, &authors)?);
        let signing = (0..plan.replicas).map(|i| keys(plan, 1, i)).collect();
        let setup = Setup::new(plan, federation.clone(), signing);
        let mut instances: Vec<Instance> = (0..plan.replicas).map(|i| Instance::new(i, plan.seed ^ u64::from(i))).collect();
        for member in 0..plan.replicas {
            let Some(behaviours) = plan.lies(member) else { continue };
            if let Some(instance) = instances.get_mut(usize::from(member)) {
                instance.liars = behaviours.iter().map(|behaviour| behaviour.liar()).collect();
            }
            if behaviours.contains(&Behaviour::Twins) {
                let mut twin = Instance::new(member, plan.seed ^ 0xffff);
                twin.liars = vec![Behaviour::Twins.liar()];
                instances.push(twin);
            }
        }
        let honest = authors.iter().take(usize::from(count)).cloned().collect();
        Some(Self {
            plan: plan.clone(),
            setup,
            checker: Checker::new(federation.clone()),
            clients: Clients::new(federation.clone(), honest),
            federation,
            authors,
            instances,
            queue: BTreeMap::new(),
            order: 0,
            time: 0,
            rng: Rng::new(plan.seed, 0x3e7),
            disk_rng: Rng::new(plan.seed, 0xd15),
            loss: plan.network.loss,
            partition: None,
            one_way: Vec::new(),
            twin_side: 0,
            healed: false,
            trace: Trace::default(),
            reached: BTreeMap::new(),
            violation: None,
            events: 0,
            invoked: 0,
            next_probe: 0,
            view_changes: BTreeMap::new(),
            done: false,
        })
    }

    /// Runs it to its end, or to the first broken invariant.
    pub(super) fn run(mut self) -> Outcome {
        for at in 0..self.instances.len() {
            let prepared = self.instances.get(at).map(|i| i.prepare(&self.setup, None));
            if let Some(Err(error)) = prepared {
                self.fail("a data directory is made", error.to_string());
            }
            self.schedule(0, Item::Start { to: at });
        }
        for behaviour in self.plan.byzantine.values().flatten() {
            *self.reached.entry(behaviour.name()).or_default() += 1;
        }
        for at in 0..self.plan.actions.len() {
            let when = self.plan.actions.get(at).map_or(0, |action| action.at);
            self.schedule(when, Item::Act(at));
        }
        self.schedule(5, Item::Load);
        self.schedule(50, Item::Clients);
        self.schedule(self.plan.faulty_ms, Item::Heal);
        self.schedule(self.plan.faulty_ms + self.plan.healed_ms, Item::Finish);
        while let Some(((at, _), item)) = self.queue.pop_first() {
            self.time = at;
            self.events += 1;
            self.process(item);
            if self.violation.is_some() || self.done {
                break;
            }
        }
        self.outcome()
    }

    pub(super) fn outcome(mut self) -> Outcome {
        for instance in &self.instances {
            let counts = instance.disk.counts();
            let seen = [
                ("page-lost", counts.pages_lost),
                ("write-torn", counts.files_torn),
                ("name-lost", counts.names_lost),
                ("lying-sync", counts.lies),
                ("misdirected-write", counts.misdirected),
                ("lost-write", counts.lost_writes),
                ("disk-error", counts.errors),
                ("log-rebuilt", instance.store.set_aside()),
            ];
            for (name, count) in seen {
                *self.reached.entry(name).or_default() += count;
            }
        }
        let operations = &self.clients.operations;
        let settled = |how: Settled| operations.iter().filter(|o| o.settled == Some(how)).count() as u64;
        self.reached.insert("submission-committed", settled(Settled::Committed));
        self.reached.insert("submission-conflict", settled(Settled::Conflict));
        self.reached.insert("submission-expired", settled(Settled::Expired));
        self.reached.insert("receipt-verified", self.clients.receipts);
        self.reached.insert("slot-committed", self.checker.committed().len() as u64);
        Outcome {
            violation: self.violation,
            events: self.events,
            trace_hash: self.trace.hash(),
            last_events: self.trace.last(),
            reached: self.reached,
            simulated_ms: self.time,
        }
    }

    pub(super) fn schedule(&mut self, at: u64, item: Item) {
        self.order += 1;
        self.queue.insert((at.max(self.time), self.order), item);
    }

    pub(super) fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    pub(super) fn fail(&mut self, invariant: &'static str, detail: String) {
        self.hold(Err(Violation { invariant, detail, at: 0 }));
    }

    pub(super) fn hold(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violation.get_or_insert(Violation { at: self.time, ..violation });
        }
    }

    pub(super) fn lies(&self, at: usize) -> bool {
        self.instances.get(at).is_some_and(|i| !i.liars.is_empty())
    }

    /// Whether what an instance says is held against the ledgers.
    pub(super) fn honest(&self, at: usize) -> bool {
        self.instances.get(at).is_some_and(|i| i.liars.is_empty() && i.taint != Taint::Forever)
    }

    /// Members that count against f now.
    pub(super) fn faulty(&self) -> usize {
        let n = usize::from(self.plan.replicas);
        self.instances.iter().take(n).filter(|i| !i.liars.is_empty() || i.taint != Taint::None).count()
    }

    /// Whether so many more may be broken without breaking the promise.
    pub(super) fn budget(&self, more: usize) -> bool {
        self.plan.over_budget || self.faulty() + more <= fault_limit(usize::from(self.plan.replicas))
    }

    pub(super) fn process(&mut self, item: Item) {
        match item {
            Item::Message { from, to, message } => self.receive(from, to, &message),
            Item::Tick { to, life } => self.tick(to, life),
            Item::Journal { to, life } => self.journal(to, life),
            Item::Log { to, life } => self.log(to, life),
            Item::CaughtUp { to, life, from, batches } => self.caught_up(to, life, from, batches),
            Item::Start { to } => self.start(to),
            Item::Die { to } => self.power_cut(to, 10),
            Item::Act(at) => {
                if let Some(action) = self.plan.actions.get(at).filter(|_| !self.healed).cloned() {
                    self.act(action.what);
                }
            }
            Item::Load => self.load(),
            Item::Clients => self.ask_again(),
            Item::Heal => self.heal(),
            Item::Finish => self.overdue(),
        }
    }

    pub(super) fn now(&self, at: usize) -> Now {
        let skew = self.instances.get(at).map_or(0, |i| i.skew);
        Now { wall: (START + self.time).saturating_add_signed(skew), mono: self.time }
    }

    pub(super) fn alive(&mut self, at: usize, life: u64) -> Option<&mut Live> {
        self.instances.get_mut(at).filter(|i| i.life == life)?.live.as_deref_mut()
    }

    pub(super) fn start(&mut self, at: usize) {
        let (nonce, time) = (self.rng.next(), self.time);
        let Some(instance) = self.instances.get_mut(at).filter(|i| i.live.is_none()) else { return };
        instance.life += 1;
        let (life, errors) = (instance.life, instance.disk.counts().errors);
        match instance.recover(&self.setup, nonce, time) {
            Ok(live) => {
                instance.live = Some(live);
                self.trace.note(self.time, "start", at, life, 0);
                self.appended_by_recovery(at);
                self.recovered(at);
                let now = self.now(at);
                let tick = self.rng.below(self.plan.protocol.tick_ms);
                if let Some(live) = self.alive(at, life) {
                    let durable = std::mem::take(&mut live.durable);
                    let step = live.core.resume(now, &durable);
                    self.take(at, step);
                }
                self.schedule(self.time + tick, Item::Tick { to: at, life });
            }
            Err(error) => {
                if instance.disk.is_off() {
                    self.reach("crash-in-recovery");
                    return self.power_cut(at, 20);
                }
                self.trace.note(self.time, "refused", at, life, 0);
                if instance.disk.counts().errors > errors {
                    self.reach("start-stopped-by-disk-error");
                    return self.kill(at, 100);
                }
                self.refused(at, &error.to_string());
            }
        }
    }

    /// Recovery may be the first to append a batch whose certificate was durable when the replica crashed.
    pub(super) fn appended_by_recovery(&mut self, at: usize) {
        if !self.honest(at) {
            return;
        }
        loop {
            let slot = self.checker.committed().len() as u64 + 1;
            let Some(instance) = self.instances.get(at) else { return };
            let Some(live) = &instance.live else { return };
            let Ok(range) = live.archive.batches(LogQuery::FromSlot { slot, max_bytes: 1 }) else { return };
            let Some(batch) = range.batches.into_iter().next() else { return };
            let body = CheckedBody::compute(&self.federation, batch.body, batch.header.first_sequence);
            let held = self.checker.appended(instance.member, &batch.header, &batch.certificate, &body);
            self.hold(held);
            if self.violation.is_some() {
                return;
            }
        }
    }

    /// What a start found is held against what the member said before.
    pub(super) fn recovered(&mut self, at: usize) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        let (member, taint) = (instance.member, instance.taint);
        let Some(live) = &instance.live else { return };
        let (place, report) = (live.place, &live.report);
        let (replayed, appended, cut) = (report.replayed > 1, report.appended > 0, report.cut > 0);
        let suspect = place.suspect;
        instance.forgot |= live.pipeline.is_suspect();
        let remembers = self.checker.remembers(member, &live.core);
        let _ = self.checker.stands(member, place.stable, true);
        match taint {
            // Damage that hit nothing of use at first: bytes of older generations, a row nobody read.
            Taint::None if suspect && instance.scarred => instance.taint = Taint::Damaged,
            Taint::None if suspect => {
                let detail = format!("replica {member} is suspect, and its disk was not tampered with: {:?}", report.suspect);
                self.fail("20 damage is never seen where there is none", detail);
            }
            Taint::None if instance.liars.is_empty() => {
                let held = self.checker.recovered(member, &live.core);
                let digests = self.checker.log(member, &instance.store.digests());
                self.hold(held.and(digests));
            }
            Taint::Damaged if !suspect => {
                // Nothing that matters was hit, or the damage was repaired; or it is silent, and then the member lies without knowing it.
                if std::mem::take(&mut instance.forgot) && !remembers && !live.pipeline.is_suspect() {
                    return self.fail("16 suspect until it has rejoined", format!("replica {member} trusts itself again"));
                }
                let next = if remembers { Taint::None } else { Taint::Forever };
                instance.taint = next;
                self.reach(if remembers { "damage-harmless-or-repaired" } else { "damage-silent" });
            }
            _ => {}
        }
        for (name, seen) in [("suspect", suspect), ("replayed", replayed), ("log-refilled", appended), ("torn-group-cut", cut)] {
            if seen {
                self.reach(name);
            }
        }
    }

    /// A replica that does not start: its operator gives it a new disk, and says so.
    pub(super) fn refused(&mut self, at: usize, error: &str) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        if instance.taint == Taint::None && instance.liars.is_empty() {
            let member = instance.member;
            return self.fail("20 damage is never seen where there is none", format!("replica {member} does not start: {error}"));
        }
        self.reach("refused-to-start");
        self.new_disk(at, "its data could not be opened");
        self.schedule(self.time + 100, Item::Start { to: at });
    }

    pub(super) fn new_disk(&mut self, at: usize, reason: &str) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        instance.live = None;
        instance.disk.restore(&super::disk::Image::default());
        instance.store.lose();
        let prepared = instance.prepare(&self.setup, Some(reason));
        if let Err(error) = prepared {
            self.fail("a data directory is made", error.to_string());
        }
    }

    /// The process ends; the machine goes on.
    pub(super) fn kill(&mut self, at: usize, down: u64) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        instance.live = None;
        instance.disk.end_process();
        self.trace.note(self.time, "kill", at, 0, 0);
        self.schedule(self.time + down, Item::Start { to: at });
    }

    pub(super) fn power_cut(&mut self, at: usize, down: u64) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        instance.live = None;
        if instance.disk.is_lying() {
            // What it said that it would remember may be gone.
            instance.disk.set_lying(false);
            if !self.plan.over_budget {
                instance.taint = Taint::Forever;
            }
        }
        instance.disk.lose_power(&mut self.disk_rng);
        instance.store.lose_power(&mut self.disk_rng);
        self.trace.note(self.time, "power-cut", at, 0, 0);
        self.schedule(self.time + down, Item::Start { to: at });
    }

    pub(super) fn tick(&mut self, at: usize, life: u64) {
        if self.alive(at, life).is_none() {
            return;
        }
        self.schedule(self.time + self.plan.protocol.tick_ms, Item::Tick { to: at, life });
        self.event(at, Event::Tick);
        if self.lies(at) {
            self.lie(at);
        }
        let time = self.time;
        if let Some(live) = self.alive(at, life)
            && live.inbox.is_empty()
            && time >= live.last_sync + 50
        {
            live.last_sync = time;
            self.run_journal(at, true);
        }
    }

    pub(super) fn event(&mut self, at: usize, event: Event) {
        let now = self.now(at);
        let Some(live) = self.instances.get_mut(at).and_then(|i| i.live.as_deref_mut()) else { return };
        let step = live.core.handle(now, event);
        self.take(at, step);
    }

    /// What the core's thread does with a step.
    pub(super) fn take(&mut self, at: usize, mut step: Step) {
        for effect in std::mem::take(&mut step.immediate) {
            self.effect(at, effect);
        }
        self.entering(at, &step);
        let sync = self.rng.between(self.plan.storage.sync_min, self.plan.storage.sync_max);
        let Some(instance) = self.instances.get_mut(at) else { return };
        let (member, life, slow) = (instance.member, instance.life, instance.slow_ms);
        let Some(live) = instance.live.as_deref_mut() else { return };
        let (before, place) = (live.place, live.core.place());
        live.place = place;
        live.verifier.set_window(place.view, place.floor, place.stable);
        if !step.is_empty() {
            live.inbox.push_back(PipelineInput::Step(step));
        }
        if live.pipeline.wants_rotation() && !live.inbox.iter().any(|input| matches!(input, PipelineInput::Rotate(_))) {
            *self.reached.entry("votes-rotated").or_default() += 1;
            live.inbox.push_back(PipelineInput::Rotate(live.core.voting_snapshot()));
        }
        let busy = std::mem::replace(&mut live.journal_busy, true);
        if live.inbox.is_empty() {
            live.journal_busy = busy;
        } else if !busy {
            self.schedule(self.time + sync + slow, Item::Journal { to: at, life });
        }
        if before != place {
            if let Some(instance) = self.instances.get_mut(at) {
                instance.consider_trusted();
            }
            self.moved(at, member, before, place);
        }
    }

    /// Holds a view that a correct replica enters against what earlier ones committed.
    fn entering(&mut self, at: usize, step: &Step) {
        if !self.honest(at) {
            return;
        }
        let member = self.instances.get(at).map_or(0, |i| i.member);
        for record in &step.records {
            if let Record::NewView(new_view) = record {
                let held = self.checker.entered(member, new_view);
                self.hold(held);
            }
        }
    }

    /// Holds a replica's new place against its old one.
    pub(super) fn moved(&mut self, at: usize, member: u16, before: Place, place: Place) {
        self.trace.note(self.time, "place", at, place.view, place.tip);
        if place.view < before.view {
            self.fail("10 views are monotonic", format!("replica {member} went from view {} to {}", before.view, place.view));
        }
        if place.changing && !before.changing {
            *self.view_changes.entry(at).or_default() += 1;
            self.reach("view-left");
            if self.healed && self.honest(at) && self.view_changes.get(&at).is_some_and(|count| *count > STORM) {
                self.fail("18 no view-change storm", format!("replica {member} left more than {STORM} views after all faults were healed"));
            }
        }
        if before.changing && !place.changing {
            self.reach("view-entered");
        }
        if place.stable > before.stable {
            self.reach("stable-checkpoint");
            let stable = self.checker.stands(member, place.stable, false);
            if self.honest(at) {
                self.hold(stable);
            }
            if let Some(live) = self.instances.get_mut(at).and_then(|i| i.live.as_deref_mut()) {
                live.prune_facts();
                let (footprint, window) = (live.core.footprint() as u64, self.plan.protocol.window_slots);
                // Two windows of slots, bodies of several views at each, and what is buffered ahead.
                let bound = (window * 2 + 32) * (2 + u64::from(self.plan.replicas));
                let (kept, room) = (live.core.slots_kept() as u64, place.tip.max(place.stable + window) - place.floor);
                if kept > room {
                    self.fail("19 bounded memory", format!("replica {member} keeps {kept} slots where {room} are in progress"));
                }
                if footprint > bound {
                    self.fail("19 bounded memory", format!("replica {member} keeps {footprint} entries in one table, more than {bound}"));
                }
            }
        }
    }

    pub(super) fn journal(&mut self, at: usize, life: u64) {
        let Some(live) = self.alive(at, life) else { return };
        live.journal_busy = false;
        self.run_journal(at, false);
        let sync = self.rng.between(self.plan.storage.sync_min, self.plan.storage.sync_max);
        let time = self.time;
        let Some(live) = self.alive(at, life) else { return };
        if !live.inbox.is_empty() && !live.journal_busy {
            live.journal_busy = true;
            self.schedule(time + sync.max(1), Item::Journal { to: at, life });
        }
    }

    pub(super) fn run_journal(&mut self, at: usize, due: bool) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        let disk = instance.disk.clone();
        let Some(live) = instance.live.as_deref_mut() else { return };
        let due = due || self.time >= live.last_sync + 50;
        if due {
            live.last_sync = self.time;
        }
        let suspect = live.pipeline.is_suspect();
        match live.run_journal(&disk, self.setup.group_steps, due) {
            Ok(released) => {
                if suspect && !live.pipeline.is_suspect() {
                    instance.forgot = false;
                    instance.consider_trusted();
                    self.reach("rejoined");
                }
                released.into_iter().for_each(|released| self.release(at, released));
            }
            Err(error) => self.stopped(at, &error.to_string()),
        }
    }

    /// A replica stopped because its disk failed, or because its power went in the middle of something.
    pub(super) fn stopped(&mut self, at: usize, error: &str) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        if instance.disk.is_off() {
            self.reach("crash-in-io");
            let down = self.rng.between(10, 400);
            return self.power_cut(at, down);
        }
        let (member, errors, tainted) = (instance.member, instance.disk.counts().errors, instance.taint != Taint::None || !instance.liars.is_empty());
        if errors == 0 && !tainted {
            return self.fail("a replica stops for a reason", format!("replica {member}: {error}"));
        }
        self.reach("stopped-by-disk-error");
        let down = self.rng.between(10, 300);
        self.kill(at, down);
    }

    pub(super) fn log(&mut self, at: usize, life: u64) {
        let wall = self.now(at).wall;
        let honest = self.honest(at);
        for _ in 0..8 {
            let Some(live) = self.alive(at, life) else { return };
            live.log_busy = false;
            let Some(input) = live.log_inbox.pop_front() else { return };
            let appended = match &input {
                LogInput::Append(delivery, _) => Some((delivery.header.clone(), delivery.certificate.clone(), delivery.body.clone())),
                LogInput::Evidence(found) => {
                    self.accused(&found.record.clone());
                    None
                }
                _ => None,
            };
            let Some(live) = self.alive(at, life) else { return };
            match live.keeper.keep(input, wall) {
                Ok(kept) => {
                    let member = self.instances.get(at).map_or(0, |i| i.member);
                    if let Some((header, certificate, body)) = appended.filter(|_| honest) {
                        let held = self.checker.appended(member, &header, &certificate, &body);
                        self.hold(held);
                    }
                    for (ticket, outcome) in kept.answers {
                        self.answer(at, ticket, &outcome);
                    }
                    if let Some(checkpoint) = kept.durable {
                        self.event(at, Event::LogDurable(checkpoint));
                    }
                }
                Err(error) => return self.stopped(at, &error.to_string()),
            }
        }
        let time = self.time;
        if let Some(live) = self.alive(at, life).filter(|live| !live.log_inbox.is_empty()) {
            live.log_busy = true;
            self.schedule(time + 1, Item::Log { to: at, life });
        }
    }

    /// Evidence convicts with the genesis alone, and only who lies.
    fn accused(&mut self, evidence: &Evidence) {
        self.reach(match evidence.rule() {
            EvidenceRule::TwoProposals => "evidence-E1",
            EvidenceRule::TwoPrepares => "evidence-E2",
            EvidenceRule::TwoCommits => "evidence-E3",
            EvidenceRule::ForgotCommit => "evidence-E4",
            EvidenceRule::UnfaithfulLeader => "evidence-E5",
            EvidenceRule::TwoViewChanges => "evidence-E6",
            EvidenceRule::InvalidHeader => "evidence-E7",
            EvidenceRule::TwoCheckpoints => "evidence-E9",
        });
        let member = evidence.accused(&self.federation);
        let verified = evidence.verify(&self.federation);
        if self.honest(usize::from(member)) {
            self.fail("21 a correct replica is never accused", format!("evidence against replica {member}"));
        } else if verified.is_err() {
            self.fail("21 evidence verifies alone", format!("against replica {member}: {verified:?}"));
        }
    }

    pub(super) fn release(&mut self, at: usize, released: Released) {
        match released {
            Released::Effect(effect) => self.effect(at, *effect),
            Released::Log(input) => {
                let delay = self.rng.below(self.plan.storage.log_max + 1);
                let Some(instance) = self.instances.get_mut(at) else { return };
                let life = instance.life;
                let Some(live) = instance.live.as_deref_mut() else { return };
                live.log_inbox.push_back(input);
                if !std::mem::replace(&mut live.log_busy, true) {
                    self.schedule(self.time + delay, Item::Log { to: at, life });
                }
            }
        }
    }

    pub(super) fn effect(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(at, to, message),
            Effect::Broadcast(message) => {
                let me = self.instances.get(at).map_or(0, |i| i.member);
                (0..self.plan.replicas).filter(|to| *to != me).for_each(|to| self.send(at, to, message.clone()));
            }
            Effect::Answer { ticket, outcome } => self.answer(at, ticket, &outcome),
            Effect::CatchUp { peer, from_slot } => self.ask_for_batches(at, peer, from_slot),
            Effect::Halt(halt) => {
                if self.honest(at) {
                    self.fail("1 agreement", format!("replica {at} halts: {halt}"));
                }
                self.kill(at, 1_000);
            }
            _ => {}
        }
    }
}
