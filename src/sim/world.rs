//! A federation on one simulated clock: events in order of time, everything else drawn from the seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::adversary::{Behaviour, Means};
use super::checker::{Checker, Violation};
use super::clients::{Clients, Settled};
use super::disk::Trap;
use super::instance::{Instance, Live, Setup, Taint};
use super::plan::{DiskError, Load, Plan, Signatures, StoredPart, What};
use super::rng::Rng;
use super::trace::{Trace, label};
use crate::consensus::{CheckedBody, Event, Now, Step, Waiter};
use crate::crypto::SigningKey;
use crate::node::keeper::LogInput;
use crate::node::pipeline::{PipelineInput, Released};
use crate::types::{
    Author, CommittedBatch, ConsensusMessage, Federation, Genesis, LogQuery, Member, Parameters, PeerId, ReplicaIndex, Slot, decode, encode,
    fault_limit,
};

/// When the simulated time begins, ms since the Unix epoch.
const START: u64 = 1_700_000_000_000;
/// View changes that one member may begin in the healed phase: more is a storm.
const STORM: u64 = 60;

/// What happens at a time.
enum Item {
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
    plan: Plan,
    setup: Setup,
    federation: Arc<Federation>,
    authors: Vec<SigningKey>,
    instances: Vec<Instance>,
    queue: BTreeMap<(u64, u64), Item>,
    order: u64,
    time: u64,
    rng: Rng,
    disk_rng: Rng,
    loss: u64,
    partition: Option<u16>,
    one_way: Vec<(u16, u16)>,
    twin_side: u16,
    healed: bool,
    checker: Checker,
    clients: Clients,
    trace: Trace,
    reached: BTreeMap<&'static str, u64>,
    violation: Option<Violation>,
    events: u64,
    invoked: u64,
    next_probe: u64,
    view_changes: BTreeMap<usize, u64>,
    done: bool,
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

    fn outcome(mut self) -> Outcome {
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

    fn schedule(&mut self, at: u64, item: Item) {
        self.order += 1;
        self.queue.insert((at.max(self.time), self.order), item);
    }

    fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    fn fail(&mut self, invariant: &'static str, detail: String) {
        self.hold(Err(Violation { invariant, detail, at: 0 }));
    }

    fn hold(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violation.get_or_insert(Violation { at: self.time, ..violation });
        }
    }

    fn lies(&self, at: usize) -> bool {
        self.instances.get(at).is_some_and(|i| !i.liars.is_empty())
    }

    /// Whether what an instance says is held against the ledgers.
    fn honest(&self, at: usize) -> bool {
        self.instances.get(at).is_some_and(|i| i.liars.is_empty() && i.taint != Taint::Forever)
    }

    /// Members that count against f now.
    fn faulty(&self) -> usize {
        let n = usize::from(self.plan.replicas);
        self.instances.iter().take(n).filter(|i| !i.liars.is_empty() || i.taint != Taint::None).count()
    }

    /// Whether so many more may be broken without breaking the promise.
    fn budget(&self, more: usize) -> bool {
        self.plan.over_budget || self.faulty() + more <= fault_limit(usize::from(self.plan.replicas))
    }

    fn process(&mut self, item: Item) {
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

    // --- replicas ---

    fn now(&self, at: usize) -> Now {
        let skew = self.instances.get(at).map_or(0, |i| i.skew);
        Now { wall: (START + self.time).saturating_add_signed(skew), mono: self.time }
    }

    fn alive(&mut self, at: usize, life: u64) -> Option<&mut Live> {
        self.instances.get_mut(at).filter(|i| i.life == life)?.live.as_deref_mut()
    }

    fn start(&mut self, at: usize) {
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
    fn appended_by_recovery(&mut self, at: usize) {
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
    fn recovered(&mut self, at: usize) {
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
    fn refused(&mut self, at: usize, error: &str) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        if instance.taint == Taint::None && instance.liars.is_empty() {
            let member = instance.member;
            return self.fail("20 damage is never seen where there is none", format!("replica {member} does not start: {error}"));
        }
        self.reach("refused-to-start");
        self.new_disk(at, "its data could not be opened");
        self.schedule(self.time + 100, Item::Start { to: at });
    }

    fn new_disk(&mut self, at: usize, reason: &str) {
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
    fn kill(&mut self, at: usize, down: u64) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        instance.live = None;
        instance.disk.end_process();
        self.trace.note(self.time, "kill", at, 0, 0);
        self.schedule(self.time + down, Item::Start { to: at });
    }

    fn power_cut(&mut self, at: usize, down: u64) {
        let Some(instance) = self.instances.get_mut(at) else { return };
        instance.live = None;
        if instance.disk.is_lying() {
            // What it said that it would remember may be gone.
            instance.disk.set_lying(false);
            instance.taint = Taint::Forever;
        }
        instance.disk.lose_power(&mut self.disk_rng);
        instance.store.lose_power(&mut self.disk_rng);
        self.trace.note(self.time, "power-cut", at, 0, 0);
        self.schedule(self.time + down, Item::Start { to: at });
    }

    fn tick(&mut self, at: usize, life: u64) {
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

    fn event(&mut self, at: usize, event: Event) {
        let now = self.now(at);
        let Some(live) = self.instances.get_mut(at).and_then(|i| i.live.as_deref_mut()) else { return };
        let step = live.core.handle(now, event);
        self.take(at, step);
    }

    /// What the core's thread does with a step.
    fn take(&mut self, at: usize, mut step: Step) {
        for effect in std::mem::take(&mut step.immediate) {
            self.release(at, Released::Effect(effect));
        }
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
            self.moved(at, member, before, place);
        }
    }

    /// Holds a replica's new place against its old one.
    fn moved(&mut self, at: usize, member: u16, before: crate::consensus::Place, place: crate::consensus::Place) {
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

    fn journal(&mut self, at: usize, life: u64) {
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

    fn run_journal(&mut self, at: usize, due: bool) {
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
                    instance.taint = if instance.taint == Taint::Damaged { Taint::None } else { instance.taint };
                    instance.forgot = false;
                    self.reach("rejoined");
                }
                released.into_iter().for_each(|released| self.release(at, released));
            }
            Err(error) => self.stopped(at, &error.to_string()),
        }
    }

    /// A replica stopped because its disk failed, or because its power went in the middle of something.
    fn stopped(&mut self, at: usize, error: &str) {
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

    fn log(&mut self, at: usize, life: u64) {
        let wall = self.now(at).wall;
        let honest = self.honest(at);
        for _ in 0..8 {
            let Some(live) = self.alive(at, life) else { return };
            live.log_busy = false;
            let Some(input) = live.log_inbox.pop_front() else { return };
            let appended = match &input {
                LogInput::Append(delivery, _) => Some((delivery.header.clone(), delivery.certificate.clone(), delivery.body.clone())),
                LogInput::Evidence(evidence) => {
                    self.accused(evidence.first.replica);
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

    fn accused(&mut self, member: u16) {
        self.reach("evidence");
        if self.honest(usize::from(member)) {
            self.fail("21 a correct replica is never accused", format!("evidence against replica {member}"));
        }
    }

    fn release(&mut self, at: usize, released: Released) {
        use crate::consensus::Effect;
        match released {
            Released::Effect(Effect::Send { to, message }) => self.send(at, to, message),
            Released::Effect(Effect::Broadcast(message)) => {
                let me = self.instances.get(at).map_or(0, |i| i.member);
                (0..self.plan.replicas).filter(|to| *to != me).for_each(|to| self.send(at, to, message.clone()));
            }
            Released::Effect(Effect::Answer { ticket, outcome }) => self.answer(at, ticket, &outcome),
            Released::Effect(Effect::CatchUp { peer, from_slot }) => self.ask_for_batches(at, peer, from_slot),
            Released::Effect(Effect::Halt(halt)) => {
                if self.honest(at) {
                    self.fail("1 agreement", format!("replica {at} halts: {halt}"));
                }
                self.kill(at, 1_000);
            }
            Released::Effect(_) => {}
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

    // --- the network ---

    fn send(&mut self, at: usize, to: ReplicaIndex, message: ConsensusMessage) {
        let Some(instance) = self.instances.get(at) else { return };
        let (member, honest) = (instance.member, self.honest(at));
        if honest {
            let synced = instance.store.synced_slot();
            if let Some(live) = &instance.live {
                let held = self.checker.sent(member, &message, live.place.tip, synced, |fact| live.facts.contains(fact));
                let suspect = live.place.suspect;
                self.hold(held);
                if suspect && matches!(message, ConsensusMessage::Vote(_)) {
                    self.fail("16 a suspect replica casts no vote", format!("replica {member}"));
                }
            }
            self.count(&message);
            return self.transmit(at, to, message);
        }
        let messages = self.with_liars(at, vec![message], |liar, message, means| liar.send(to, message, means));
        messages.into_iter().for_each(|message| self.transmit(at, to, message));
    }

    fn count(&mut self, message: &ConsensusMessage) {
        match message {
            ConsensusMessage::Body(..) => self.reach("body-fetched-by-digest"),
            ConsensusMessage::ViewChange(change) if !change.prepared.is_empty() => self.reach("view-change-with-prepared"),
            ConsensusMessage::ViewChange(change) if change.stable.is_some() => self.reach("view-change-with-stable"),
            ConsensusMessage::NewView(new_view) => {
                let chosen = crate::consensus::choose(new_view).1;
                let highest = new_view.view_changes.iter().flat_map(|vc| &vc.prepared).map(|c| c.header.slot).max().unwrap_or(0);
                if !chosen.is_empty() {
                    self.reach("new-view-with-chosen");
                }
                if chosen.last().map_or(0, |header| header.slot) < highest {
                    self.reach("new-view-truncates-chain");
                }
            }
            ConsensusMessage::RejoinAnswer(_) => self.reach("rejoin-answered"),
            _ => {}
        }
    }

    fn with_liars<T>(
        &mut self,
        at: usize,
        start: Vec<T>,
        mut each: impl FnMut(&mut Box<dyn super::adversary::Liar>, T, &mut Means<'_>) -> Vec<T>,
    ) -> Vec<T> {
        let now = self.now(at);
        let Some(instance) = self.instances.get_mut(at) else { return start };
        let mut liars = std::mem::take(&mut instance.liars);
        let (member, place) = (instance.member, instance.live.as_ref().map(|live| live.place));
        let core = self.instances.get(at).and_then(|i| i.live.as_deref()).map(|live| &live.core);
        let out = match (self.setup.keys.get(usize::from(member)), self.authors.last()) {
            (Some(key), Some(author)) => {
                let (view, tip, stable) = place.map_or((0, 0, 0), |p| (p.view, p.tip, p.stable));
                let mut means = Means { me: member, federation: &self.federation, key, author, rng: &mut self.rng, now, view, tip, stable, core };
                liars.iter_mut().fold(start, |items, liar| items.into_iter().flat_map(|item| each(liar, item, &mut means)).collect())
            }
            _ => start,
        };
        if let Some(instance) = self.instances.get_mut(at) {
            instance.liars = liars;
        }
        out
    }

    fn lie(&mut self, at: usize) {
        if !self.rng.chance(250) {
            return;
        }
        let mut said = Vec::new();
        self.with_liars(at, vec![()], |liar, (), means| {
            said.extend(liar.tick(means));
            vec![()]
        });
        said.into_iter().for_each(|(to, message)| self.transmit(at, to, message));
    }

    fn cut(&self, from: u16, to: u16) -> bool {
        let across = |side: u16| (side >> from) & 1 != (side >> to) & 1;
        self.partition.is_some_and(across) || self.one_way.contains(&(from, to))
    }

    /// The instances that a message to a member reaches: of twins, the one that the sender sees.
    fn reaches(&self, at: usize, to: u16) -> Vec<usize> {
        let n = usize::from(self.plan.replicas);
        let from = self.instances.get(at).map_or(0, |i| i.member);
        let sees_second = |member: u16| (self.twin_side >> member) & 1 == 1;
        // The second instance speaks only to those who see it.
        if at >= n && !sees_second(to) || at < n && self.instances.len() > n && self.is_twin(from) && sees_second(to) {
            return vec![];
        }
        let second = (n..self.instances.len()).find(|i| self.instances.get(*i).is_some_and(|i| i.member == to));
        match second {
            Some(second) if sees_second(from) => vec![second],
            _ => vec![usize::from(to)],
        }
    }

    fn is_twin(&self, member: u16) -> bool {
        self.instances.iter().skip(usize::from(self.plan.replicas)).any(|i| i.member == member)
    }

    fn transmit(&mut self, at: usize, to: u16, message: ConsensusMessage) {
        let from = self.instances.get(at).map_or(0, |i| i.member);
        if from == to || self.cut(from, to) {
            return;
        }
        if self.rng.chance(self.loss) {
            return self.reach("message-lost");
        }
        let message = Arc::new(message);
        let network = self.plan.network.clone();
        let copies = 1 + u64::from(!self.healed && self.rng.chance(network.duplicates));
        for to in self.reaches(at, to) {
            for _ in 0..copies {
                let mut delay = self.rng.between(network.delay_min, network.delay_max);
                if !self.healed && self.rng.chance(network.spikes) {
                    delay += self.rng.below(network.spike_ms);
                }
                self.schedule(self.time + delay, Item::Message { from, to, message: message.clone() });
            }
        }
    }

    fn receive(&mut self, from: u16, to: usize, message: &Arc<ConsensusMessage>) {
        self.trace.note(self.time, label(message), to, u64::from(from), 0);
        if self.instances.get(to).is_none_or(|i| i.live.is_none()) {
            return;
        }
        if self.lies(to) {
            let heard = self.with_liars(to, vec![()], |liar, (), means| if liar.hears(from, message, means) { vec![()] } else { vec![] });
            if heard.is_empty() {
                return;
            }
        }
        let mut message = ConsensusMessage::clone(message);
        if self.plan.wire {
            let Ok(bytes) = encode(&message) else { return };
            let fits = bytes.len() <= message.class().max_frame_bytes();
            match decode::<ConsensusMessage>(&bytes) {
                Ok(read) if fits => message = read,
                _ => return,
            }
        }
        let Some(live) = self.instances.get(to).and_then(|i| i.live.as_deref()) else { return };
        match live.verifier.message(from, message) {
            Ok(message) => self.event(to, Event::Message { from, message }),
            Err(_) => self.reach("message-refused"),
        }
    }

    fn ask_for_batches(&mut self, at: usize, peer: ReplicaIndex, from_slot: Slot) {
        self.reach("catch-up");
        let Some(instance) = self.instances.get(at) else { return };
        let (member, life) = (instance.member, instance.life);
        let delay = 2 * self.rng.between(self.plan.network.delay_min, self.plan.network.delay_max) + 1;
        let from = self.reaches(at, peer).first().copied().filter(|_| !self.cut(member, peer) && !self.cut(peer, member));
        let served = from.and_then(|from| self.serve(from, from_slot));
        let honest = from.is_some_and(|from| self.honest(from));
        if let Some(batches) = served.as_ref().filter(|_| honest) {
            for batch in batches {
                let at = usize::try_from(batch.header.slot.saturating_sub(1)).unwrap_or(usize::MAX);
                if self.checker.committed().get(at) != Some(&batch.header.digest()) {
                    self.fail("20 damage is never served", format!("replica {peer} serves another batch at slot {}", batch.header.slot));
                    return;
                }
            }
        }
        self.schedule(self.time + delay, Item::CaughtUp { to: at, life, from: peer, batches: served });
    }

    fn serve(&mut self, from: usize, slot: Slot) -> Option<Vec<CommittedBatch>> {
        let live = self.instances.get(from)?.live.as_ref()?;
        let batches = live.archive.batches(LogQuery::FromSlot { slot, max_bytes: 60_000 }).ok()?.batches;
        if !self.lies(from) {
            return Some(batches);
        }
        let served = self.with_liars(from, vec![batches], |liar, batches, means| vec![liar.serve(batches, means)]);
        served.into_iter().next()
    }

    fn caught_up(&mut self, at: usize, life: u64, from: ReplicaIndex, batches: Option<Vec<CommittedBatch>>) {
        let Some(live) = self.alive(at, life) else { return };
        let verified = batches.and_then(|batches| batches.into_iter().map(|b| live.verifier.batch(b)).collect::<Result<Vec<_>, _>>().ok());
        match verified {
            Some(batches) => self.event(at, Event::CaughtUp { from, batches }),
            None => self.event(at, Event::CatchUpFailed { from }),
        }
    }

    // --- clients ---

    fn load(&mut self) {
        let load = self.plan.load.clone();
        if self.healed || self.invoked >= load.submissions {
            return;
        }
        self.invoked += 1;
        let operation = self.clients.invoke(&load, START + self.time, self.time, &mut self.rng);
        let targets = if self.rng.chance(load.broadcasts) { 3 } else { 1 };
        for _ in 0..targets {
            let to = usize::from(self.rng.member(self.plan.replicas));
            self.submit(operation, to);
        }
        let pause = self.rng.below(2 * self.plan.faulty_ms / load.submissions.max(1) + 1);
        self.schedule(self.time + pause, Item::Load);
    }

    /// Whether something expired is certain only once the chain's own time has passed it, and that moves with batches.
    fn keep_time_moving(&mut self) {
        if self.time < self.next_probe || self.clients.unsettled() == 0 {
            return;
        }
        // In some runs others are served all the time: whoever is left out must not be helped by their silence.
        self.next_probe = self.time + if self.plan.seed.is_multiple_of(3) { 100 } else { 1_000 };
        let plain = Load { hurried: 0, conflicts: 0, ..self.plan.load.clone() };
        let operation = self.clients.invoke(&plain, START + self.time, self.time, &mut self.rng);
        self.clients.awaits_nothing(operation);
        let to = usize::from(self.rng.member(self.plan.replicas));
        self.submit(operation, to);
    }

    fn submit(&mut self, operation: usize, to: usize) {
        let time = self.time;
        let Some(known) = self.clients.operations.get_mut(operation) else { return };
        known.asked_at = time;
        let submission = known.submission.clone();
        if self.instances.get(to).is_some_and(|i| i.liars.iter().any(|liar| !liar.takes(&self.federation, &submission))) {
            return;
        }
        let Some(live) = self.instances.get(to).and_then(|i| i.live.as_deref()) else { return };
        let Ok(submission) = live.verifier.submission(submission) else { return };
        let waiter = Waiter { ticket: operation as u64, deadline: time + 1_400 };
        self.event(to, Event::Submit { submission, waiter });
    }

    fn answer(&mut self, at: usize, ticket: u64, outcome: &crate::types::SubmitOutcome) {
        let honest = self.honest(at);
        let now = self.now(at).wall;
        let held = self.clients.answered(ticket, outcome, honest, &self.checker, now);
        self.hold(held);
    }

    fn ask_again(&mut self) {
        for operation in self.clients.due(self.time) {
            self.reach("submission-retried");
            let to = usize::from(self.rng.member(self.plan.replicas));
            self.submit(operation, to);
        }
        if self.healed {
            self.finished();
            self.keep_time_moving();
        }
        self.schedule(self.time + 100, Item::Clients);
    }

    // --- the end ---

    fn heal(&mut self) {
        self.healed = true;
        (self.loss, self.partition) = (0, None);
        self.one_way.clear();
        self.view_changes.clear();
        for at in 0..self.instances.len() {
            let Some(instance) = self.instances.get_mut(at) else { continue };
            (instance.skew, instance.slow_ms) = (0, 0);
            if instance.live.is_none() {
                self.schedule(self.time + 1, Item::Start { to: at });
            }
        }
        if std::mem::take(&mut self.plan.network.spike_ms) > 0 {
            self.plan.network.delay_max = self.plan.network.delay_max.min(20);
        }
    }

    /// Whether everything pending is committed and all logs end alike.
    fn finished(&mut self) {
        if self.clients.unsettled() > 0 || self.violation.is_some() || self.clients.check_claims(&self.checker).is_err() {
            return;
        }
        let slots = self.checker.committed().len() as u64;
        let honest: Vec<usize> = (0..self.instances.len()).filter(|at| self.honest(*at)).collect();
        let settled = honest.iter().filter_map(|at| self.instances.get(*at)).all(|instance| {
            let together = |live: &Live| live.place.tip == slots && (live.place.suspect || live.core.pending() == 0);
            instance.live.as_deref().is_some_and(together) && instance.store.digests().len() as u64 == slots
        });
        if !settled {
            return;
        }
        for at in honest {
            let Some(instance) = self.instances.get(at) else { continue };
            let digests = instance.store.digests();
            let held = self.checker.log(instance.member, &digests);
            let (member, bytes) = (instance.member, instance.disk.bytes());
            self.hold(held);
            if bytes > (64 << 20) {
                self.fail("19 bounded disk", format!("replica {member}'s disk holds {bytes} bytes"));
            }
        }
        self.check_proofs();
        self.done = true;
    }

    /// The last update's proof verifies from the genesis alone, at every replica.
    fn check_proofs(&mut self) {
        let last = self.checker.last_sequence();
        if last == 0 {
            return;
        }
        let sequence = 1 + self.rng.below(last);
        for at in (0..self.instances.len()).filter(|at| self.honest(*at)).collect::<Vec<_>>() {
            let Some(live) = self.instances.get(at).and_then(|i| i.live.as_deref()) else { continue };
            let answer = match live.archive.proof(&crate::types::ProofQuery::Sequence(sequence)) {
                Ok(Some(answer)) => answer,
                // A row that was damaged is refused, not served.
                Err(_) => continue,
                Ok(None) => return self.fail("8 proofs verify", format!("replica {at} has no proof of sequence {sequence}")),
            };
            let proof = crate::proof::CommitProof {
                leaf: answer.leaf,
                path: answer.path,
                header: answer.header,
                certificate: answer.certificate,
                opening: None,
            };
            if let Err(error) = proof.verify(&self.federation) {
                return self.fail("8 proofs verify", format!("replica {at}, sequence {sequence}: {error}"));
            }
        }
    }

    fn overdue(&mut self) {
        let slots = self.checker.committed().len();
        let claims = self.clients.check_claims(&self.checker);
        let mut detail = format!("{} submissions pending, {slots} slots committed; claims {claims:?};", self.clients.unsettled());
        for (at, instance) in self.instances.iter().enumerate() {
            let stands = instance.live.as_ref().map(|live| (live.place, live.core.pending(), live.log_inbox.len()));
            detail.push_str(&format!(" {at}: {} {:?} {stands:?}", if instance.liars.is_empty() { "" } else { "lies" }, instance.taint));
        }
        detail.push_str(&self.clients.pending());
        self.fail("17 everything pending commits once faults are healed", detail);
    }

    // --- what the plan does ---

    fn correct(&self, replica: u16) -> Option<usize> {
        Some(usize::from(replica)).filter(|at| *at < self.instances.len())
    }

    fn act(&mut self, what: What) {
        self.trace.note(self.time, "act", 0, self.events, 0);
        match what {
            What::Kill { replica, down } => {
                self.reach("kill");
                self.kill(usize::from(replica), down);
            }
            What::PowerCut { replica, down } => {
                if self.may_lose_power(usize::from(replica)) {
                    self.reach("power-cut");
                    self.power_cut(usize::from(replica), down);
                }
            }
            What::CrashAt { replica, operations, .. } => {
                if let Some(instance) = self.instances.get(usize::from(replica)).filter(|i| !i.disk.is_lying()) {
                    instance.disk.set_trap(Trap::Crash, operations);
                }
            }
            What::AllPowerCut { down } => {
                self.reach("all-power-cut");
                for at in 0..self.instances.len() {
                    let after = self.rng.below(down + 1);
                    if self.may_lose_power(at) {
                        self.power_cut(at, after);
                    }
                }
            }
            What::Partition { side } => {
                self.reach("partition");
                self.partition = Some(side);
            }
            What::OneWay { from, to } => {
                self.reach("one-way");
                self.one_way.push((from, to));
            }
            What::Mend => {
                self.partition = None;
                self.one_way.clear();
            }
            What::Loss { per_mille } => self.loss = per_mille,
            What::Clock { replica, skew } => {
                self.reach("clock-jump");
                if let Some(instance) = self.instances.get_mut(usize::from(replica)) {
                    instance.skew = skew;
                }
            }
            What::SlowDisk { replica, ms } => {
                self.reach("slow-disk");
                if let Some(instance) = self.instances.get_mut(usize::from(replica)) {
                    instance.slow_ms = ms;
                }
            }
            What::DiskError { replica, error, operations, .. } => {
                let trap = match error {
                    DiskError::NoSpace => Trap::NoSpace,
                    DiskError::Write => Trap::WriteError,
                    DiskError::Sync => Trap::SyncError,
                };
                if let Some(instance) = self.instances.get(usize::from(replica)) {
                    instance.disk.set_trap(trap, operations);
                }
            }
            What::TwinSides { side } => {
                self.reach("twin-sides");
                self.twin_side = side;
            }
            tampering => self.tamper(tampering),
        }
    }

    /// A machine whose disk lies forgets when its power goes: that is tampering, and counted when the lying began.
    fn may_lose_power(&self, at: usize) -> bool {
        self.instances.get(at).is_some_and(|i| !i.disk.is_lying())
    }

    /// Whether a member may be tampered with now; it counts against f from then on.
    fn taint(&mut self, replica: u16, taint: Taint) -> Option<usize> {
        let at = self.correct(replica)?;
        let instance = self.instances.get(at)?;
        let more = usize::from(instance.liars.is_empty() && instance.taint == Taint::None);
        if !instance.liars.is_empty() || !self.budget(more) || instance.disk.is_lying() {
            return None;
        }
        let instance = self.instances.get_mut(at)?;
        instance.scarred = true;
        if instance.taint != Taint::Forever {
            instance.taint = taint;
        }
        Some(at)
    }

    fn tamper(&mut self, what: What) {
        match what {
            What::Damage { replica, damage, part, down } => {
                let Some(at) = self.taint(replica, Taint::Damaged) else { return };
                self.reach(match part {
                    StoredPart::Votes => "damaged-votes",
                    StoredPart::Segments => "damaged-segments",
                    StoredPart::Row => "damaged-row",
                    StoredPart::Log => "damaged-log",
                });
                let Some(instance) = self.instances.get(at) else { return };
                match part {
                    StoredPart::Votes => drop(instance.disk.damage(damage, "votes.", &mut self.disk_rng)),
                    StoredPart::Segments => drop(instance.disk.damage(damage, ".seg", &mut self.disk_rng)),
                    StoredPart::Row => instance.store.damage(false, &mut self.disk_rng),
                    StoredPart::Log => instance.store.damage(true, &mut self.disk_rng),
                }
                let writes = matches!(damage, super::disk::Damage::Misdirected | super::disk::Damage::LostWrite);
                if writes && matches!(part, StoredPart::Votes | StoredPart::Segments) {
                    // The write must happen first.
                    self.schedule(self.time + 60, Item::Die { to: at });
                } else {
                    self.kill(at, down);
                }
            }
            What::LyingDisk { replica, after } => {
                let Some(at) = self.taint(replica, Taint::Forever) else { return };
                self.reach("lying-disk");
                if let Some(instance) = self.instances.get(at) {
                    instance.disk.set_lying(true);
                }
                self.schedule(self.time + after, Item::Die { to: at });
            }
            What::DiskLost { replica, down } => {
                let Some(at) = self.taint(replica, Taint::Damaged) else { return };
                self.reach("disk-lost");
                self.new_disk(at, "its disk was replaced");
                self.schedule(self.time + down, Item::Start { to: at });
            }
            What::Rollback { replica } => self.put_back(replica, Taint::Forever, "rollback"),
            What::Restore { replica } => self.put_back(replica, Taint::Damaged, "restore"),
            What::SwapDisks { replica, other } => {
                if replica == other || !self.budget(2) {
                    return;
                }
                let (Some(one), Some(two)) = (self.taint(replica, Taint::Forever), self.taint(other, Taint::Forever)) else { return };
                self.reach("disks-swapped");
                for at in [one, two] {
                    self.kill(at, 50);
                }
                if let Ok([one, two]) = self.instances.get_disjoint_mut([one, two]) {
                    std::mem::swap(&mut one.disk, &mut two.disk);
                    std::mem::swap(&mut one.store, &mut two.store);
                }
            }
            _ => {}
        }
    }

    /// Puts an older copy of a disk back, or takes one if there is none yet.
    fn put_back(&mut self, replica: u16, taint: Taint, name: &'static str) {
        let at = usize::from(replica);
        let pick = self.rng.next();
        let Some(instance) = self.instances.get_mut(at).filter(|i| i.liars.is_empty()) else { return };
        if instance.copies.len() < 2 {
            let copy = (instance.disk.image(), instance.store.snapshot());
            instance.copies.push(copy);
            if instance.copies.len() == 1 {
                return;
            }
        }
        let Some(at) = self.taint(replica, taint) else { return };
        self.reach(name);
        let Some(instance) = self.instances.get_mut(at) else { return };
        instance.live = None;
        let older = usize::try_from(pick % instance.copies.len() as u64).unwrap_or(0);
        if let Some((image, store)) = instance.copies.get(older) {
            instance.disk.restore(image);
            instance.store.restore(store);
        }
        if taint == Taint::Damaged {
            // As `exofed restore` does.
            let note = crate::recovery::Suspicion::new(Arc::new(super::disk::Mounted(instance.disk.clone())), &super::instance::data_dir());
            if let Err(error) = note.note("restored from an older copy") {
                return self.fail("a data directory is restored", error.to_string());
            }
        }
        self.schedule(self.time + 50, Item::Start { to: at });
    }
}
