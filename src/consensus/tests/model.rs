//! The core walked through every order of events, as far as the bounds go: four members, some of them liars, two views, one or two slots.
//!
//! The transition function is [`Replica::handle`] behind the real gate; nothing of the protocol is written down a second time. Because a replica
//! is a deterministic function of its events, the state of the whole is one number per correct replica: each replica state that was ever reached
//! is kept once, with what it has said so far, and each step from it is computed once.
//!
//! *The network* never loses what was said and may deliver it to anyone, at any time, again and again or never: so it loses, delays, reorders and
//! repeats as it likes.
//!
//! *A liar* has said, from the start, everything that it can sign by itself about the four batches there are: both proposals of a slot where it
//! leads, votes for every batch in every view, complaints, evidence against itself, an empty view-change. As correct replicas speak, it adds
//! what follows: view-changes with every set of prepared certificates that it could assemble, new-views from every quorum of view-changes. It
//! serves every body.
//!
//! *Left out*: clocks that disagree, checkpoints (the log is never durable), catch-up, gossip (which says again what was said), views above 1 and
//! slots above the bound.
//!
//! *[`Arrivals::WhenTheyCount`]* lets messages arrive when they have an effect: votes when they make a quorum, a proposal when its slot is next, all
//! when their receiver is in their view, a complaint when it makes the receiver leave. What came earlier would only be counted or buffered, and
//! nobody could tell. [`Arrivals::OneByOne`] assumes nothing of that kind, and so gets less far.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;

use stateright::{Checker, Model, Property};

use super::*;
use crate::crypto::merkle::Frontier;
use crate::types::{
    BatchKind, Body, Complaint, Evidence, Header, NewView, PreparedCertificate, ReplicaIndex, SignatureSet, SignedComplaint, SignedVote, ViewChange,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrivals {
    OneByOne,
    WhenTheyCount,
}

/// A rule that is broken, to see that the model finds what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Prepared certificates are not kept, so that view-changes lack them.
    PreparedForgotten,
    /// A restart finds an empty journal, and nobody notices.
    JournalLost,
}

/// The view that a view change leads to.
const SECOND: u64 = 1;

/// What is explored.
#[derive(Debug, Clone)]
struct Bounds {
    liars: Vec<ReplicaIndex>,
    views: u64,
    slots: u64,
    arrivals: Arrivals,
    /// Restarts in all.
    crashes: usize,
    broken: Broken,
}

/// The number of a message.
type Said = u16;

/// What happens to one replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Happening {
    /// Messages arrive, one after the other.
    Arrive(Vec<Said>),
    /// Nothing was committed for too long; a liar complains too.
    Timeout(Option<Said>),
    /// It crashes and restarts; the records that no effect waited for are lost, or not.
    Crash { unsynced_lost: bool },
    /// A message arrives, and it crashes before the step's records are durable: only what waited for nothing has left.
    CrashDuring(Said),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Action {
    replica: ReplicaIndex,
    what: Happening,
}

/// One number per correct replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State(Vec<u32>);

/// One replica, and all that outlives it.
#[derive(Clone)]
struct Local {
    core: Replica,
    journal: Vec<Record>,
    said: BTreeSet<Said>,
    /// Every statement that it let out, by place.
    signed: BTreeMap<(Phase, u64, u64), Digest>,
    delivered: BTreeMap<u64, Digest>,
    time: u64,
    crashes: usize,
    broken: Option<String>,
}

#[derive(Clone)]
struct Message {
    from: ReplicaIndex,
    content: ConsensusMessage,
    label: String,
}

#[derive(Default)]
struct Shared {
    messages: Vec<Message>,
    by_label: HashMap<String, Said>,
    locals: Vec<Arc<Local>>,
    by_essence: HashMap<String, u32>,
    steps: HashMap<(u32, Happening), Option<u32>>,
    /// What liars add once others have said this.
    consequences: HashMap<Vec<Said>, Vec<Said>>,
}

struct Small {
    bounds: Bounds,
    federation: Arc<Federation>,
    correct: Vec<ReplicaIndex>,
    batches: Vec<(Header, Arc<Body>)>,
    submissions: Vec<Arc<Submission>>,
    lies: Vec<Said>,
    shared: Mutex<Shared>,
}

fn key(i: u16) -> SigningKey {
    SigningKey::simulated(&[u8::try_from(i).unwrap() + 1; 32])
}

fn four() -> Arc<Federation> {
    let public = |i: u16| key(i).public();
    let member = |i: u16| Member {
        peer: PeerId(format!("replica-{i}")),
        consensus_key: public(i),
        transport_key: public(i + 50),
        cosignature_key: public(i + 100),
    };
    let parameters = Parameters { window_slots: 8, checkpoint_slots: 4, max_batch_updates: 1, max_submission_updates: 1, ..Parameters::default() };
    let authors = vec![Author { name: "author".into(), key: public(200) }];
    Arc::new(Federation::simulated(Genesis { name: "small".into(), members: (0..4).map(member).collect(), authors, readers: vec![], parameters }).unwrap())
}

fn submission(federation: &Federation, id: &str, byte: u8) -> Arc<Submission> {
    let update = StateUpdate { update_id: UpdateId(id.into()), data: vec![byte], timestamp: 1 };
    Arc::new(Submission::sign(federation.id(), &key(200), START + 60_000, vec![update]))
}

/// A batch behind others, as a leader with the same clock makes it.
fn batch(federation: &Federation, before: &[&(Header, Arc<Body>)], submission: &Arc<Submission>) -> (Header, Arc<Body>) {
    let mut frontier = Frontier::default();
    let leaves = |(header, body): &(Header, Arc<Body>)| CheckedBody::compute(federation, body.clone(), header.first_sequence).leaf_hashes;
    before.iter().for_each(|b| leaves(b).iter().for_each(|leaf| frontier.append(*leaf)));
    let slot = before.len() as u64 + 1;
    let body = Arc::new(Body { submissions: vec![submission.clone()] });
    let checked = CheckedBody::compute(federation, body.clone(), slot);
    checked.leaf_hashes.iter().for_each(|leaf| frontier.append(*leaf));
    let header = Header {
        kind: BatchKind::Normal,
        federation_id: federation.id(),
        epoch: 0,
        slot,
        first_sequence: slot,
        count: 1,
        parent: before.last().map_or(Digest::ZERO, |(header, _)| header.digest()),
        body_digest: checked.digests.body,
        log_root: frontier.root(),
        timestamp: START + slot - 1,
        membership_digest: federation.membership_digest(),
    };
    (header, body)
}

fn options() -> CoreOptions {
    const NEVER: u64 = 1 << 40;
    CoreOptions { stall_timeout_ms: 500, max_timeout_ms: NEVER, gossip_ms: NEVER, catch_up_after_ms: NEVER, ..CoreOptions::default() }
}

impl Small {
    fn new(bounds: Bounds) -> Self {
        let federation = four();
        // Of one slot, two that exclude each other, so that one commit leaves nothing to propose.
        let ids = if bounds.slots > 1 { ["a", "b"] } else { ["same", "same"] };
        let [a, b] = [0, 1].map(|i| submission(&federation, ids[i], i as u8));
        let (a1, b1) = (batch(&federation, &[], &a), batch(&federation, &[], &b));
        let mut batches = vec![a1.clone(), b1.clone()];
        if bounds.slots > 1 {
            batches.extend([batch(&federation, &[&a1], &b), batch(&federation, &[&b1], &a)]);
        }
        let correct = (0..4).filter(|i| !bounds.liars.contains(i)).collect();
        let mut model = Self { bounds, federation, correct, batches, submissions: vec![b, a], lies: vec![], shared: Mutex::default() };
        let mut shared = Shared::default();
        model.lies = model.bounds.liars.clone().into_iter().flat_map(|liar| model.own_lies(liar, &mut shared)).collect();
        model.shared = Mutex::new(shared);
        model
    }

    // --- what liars say ---

    fn vote(&self, by: ReplicaIndex, phase: Phase, view: u64, header: &Header) -> SignedVote {
        let vote = Vote { phase, epoch: 0, view, slot: header.slot, digest: header.digest() };
        SignedVote { vote, replica: by, signature: key(by).sign(&vote.signed_bytes(self.federation.id())) }
    }

    fn view_change(&self, by: ReplicaIndex, prepared: Vec<PreparedCertificate>) -> ConsensusMessage {
        let signature = crate::crypto::Signature([0; 64]);
        let mut change = ViewChange { epoch: 0, new_view: SECOND, stable: None, prepared, replica: by, signature };
        change.signature = key(by).sign(&change.signed_bytes(self.federation.id()));
        ConsensusMessage::ViewChange(Arc::new(change))
    }

    fn own_lies(&self, liar: ReplicaIndex, shared: &mut Shared) -> Vec<Said> {
        let id = self.federation.id();
        let mut lies = Vec::new();
        for view in 0..self.bounds.views {
            let proposal = |header: &Header| self.vote(liar, Phase::PrePrepare, view, header);
            for (header, body) in &self.batches {
                for phase in [Phase::Prepare, Phase::Commit] {
                    lies.push(ConsensusMessage::Vote(self.vote(liar, phase, view, header)));
                }
                if self.federation.leader(view) == liar {
                    let (header, body, signature) = (header.clone(), body.clone(), proposal(header).signature);
                    lies.push(ConsensusMessage::PrePrepare(SignedProposal { view, header, body, signature }));
                }
            }
            if self.federation.leader(view) == liar && self.bounds.views > SECOND {
                let (first, second) = (proposal(&self.batches[0].0), proposal(&self.batches[1].0));
                lies.push(ConsensusMessage::Evidence(Evidence { first, second }));
            }
        }
        lies.extend(self.batches.iter().map(|(header, body)| ConsensusMessage::Body(header.clone(), body.clone())));
        if self.bounds.views > SECOND {
            let complaint = Complaint { epoch: 0, view: 0 };
            let signature = key(liar).sign(&complaint.signed_bytes(id));
            lies.push(ConsensusMessage::Complaint(SignedComplaint { complaint, replica: liar, signature }));
            lies.push(self.view_change(liar, vec![]));
        }
        lies.into_iter().map(|lie| self.number(liar, lie, shared)).collect()
    }

    /// What liars can make of what others said: view-changes with certificates, and new-views.
    fn consequences(&self, said: &BTreeSet<Said>, shared: &mut Shared) -> Vec<Said> {
        let matters = |s: &Said| match &shared.messages[usize::from(*s)].content {
            ConsensusMessage::Vote(vote) => vote.vote.phase == Phase::Prepare && vote.vote.view < SECOND && self.bounds.views > SECOND,
            ConsensusMessage::ViewChange(_) => true,
            _ => false,
        };
        let said: Vec<Said> = said.iter().copied().filter(matters).collect();
        if self.bounds.views <= SECOND {
            return vec![];
        }
        if let Some(known) = shared.consequences.get(&said) {
            return known.clone();
        }
        let mut follows = Vec::new();
        let certificates = self.certificates(&said, shared);
        for liar in &self.bounds.liars {
            // Every choice of at most one certificate a slot.
            let mut choices: Vec<Vec<PreparedCertificate>> = vec![vec![]];
            for slot in 1..=self.bounds.slots {
                let of_slot: Vec<_> = certificates.iter().filter(|c| c.header.slot == slot).collect();
                let longer: Vec<_> = choices.iter().flat_map(|c| of_slot.iter().map(move |o| [&c[..], &[(*o).clone()]].concat())).collect();
                choices.extend(longer);
            }
            follows.extend(choices.into_iter().skip(1).map(|prepared| self.number(*liar, self.view_change(*liar, prepared), shared)));
        }
        let changes: Vec<Said> = said.iter().chain(&self.lies).chain(&follows).copied().collect();
        follows.extend(self.new_views(&changes, shared));
        shared.consequences.insert(said, follows.clone());
        follows
    }

    fn certificates(&self, said: &[Said], shared: &Shared) -> Vec<PreparedCertificate> {
        let mut certificates = Vec::new();
        for (header, _) in &self.batches {
            let prepares = said.iter().chain(&self.lies).filter_map(|s| match &shared.messages[usize::from(*s)].content {
                ConsensusMessage::Vote(v) if (v.vote.phase, v.vote.view, v.vote.digest) == (Phase::Prepare, 0, header.digest()) => {
                    Some((v.replica, v.signature))
                }
                _ => None,
            });
            let signatures: BTreeMap<_, _> = prepares.collect();
            if signatures.len() >= self.federation.quorum() {
                let signatures = SignatureSet(signatures.into_iter().take(self.federation.quorum()).collect());
                certificates.push(PreparedCertificate { view: 0, header: header.clone(), signatures });
            }
        }
        certificates
    }

    /// Every new-view that a liar who leads can begin.
    fn new_views(&self, said: &[Said], shared: &mut Shared) -> Vec<Said> {
        let leader = self.federation.leader(SECOND);
        if !self.bounds.liars.contains(&leader) {
            return vec![];
        }
        // Every choice of at most one view-change a member.
        let mut choices: Vec<Vec<ViewChange>> = vec![vec![]];
        for member in 0..4 {
            let of_member: Vec<ViewChange> = said
                .iter()
                .filter_map(|s| match &shared.messages[usize::from(*s)].content {
                    ConsensusMessage::ViewChange(change) if change.replica == member => Some(ViewChange::clone(change)),
                    _ => None,
                })
                .collect();
            let longer: Vec<_> = choices.iter().flat_map(|c| of_member.iter().map(move |o| [&c[..], &[o.clone()]].concat())).collect();
            choices.extend(longer);
        }
        let quorums = choices.into_iter().filter(|changes| changes.len() >= self.federation.quorum());
        quorums
            .map(|view_changes| {
                let mut new_view = NewView { epoch: 0, view: SECOND, view_changes, signature: crate::crypto::Signature([0; 64]) };
                new_view.signature = key(leader).sign(&new_view.signed_bytes(self.federation.id()));
                self.number(leader, ConsensusMessage::NewView(Arc::new(new_view)), shared)
            })
            .collect()
    }

    // --- messages ---

    fn name(&self, digest: Digest) -> String {
        let at = self.batches.iter().position(|(header, _)| header.digest() == digest);
        at.map_or_else(|| format!("{digest:?}"), |at| ["a1", "b1", "a1b2", "b1a2"][at].to_owned())
    }

    /// A message's number. Which quorum signed a certificate makes no difference to anyone, so it makes none here.
    fn number(&self, from: ReplicaIndex, content: ConsensusMessage, shared: &mut Shared) -> Said {
        let label = format!("{from}: {}", self.label(&content));
        if let Some(known) = shared.by_label.get(&label) {
            return *known;
        }
        let number = Said::try_from(shared.messages.len()).unwrap();
        shared.messages.push(Message { from, content, label: label.clone() });
        shared.by_label.insert(label, number);
        number
    }

    fn label(&self, content: &ConsensusMessage) -> String {
        match content {
            ConsensusMessage::PrePrepare(p) => format!("propose {} in view {}", self.name(p.header.digest()), p.view),
            ConsensusMessage::Vote(v) => format!("{:?} {} in view {}", v.vote.phase, self.name(v.vote.digest), v.vote.view),
            ConsensusMessage::ViewChange(change) => self.label_change(change),
            ConsensusMessage::NewView(new_view) => {
                let changes: Vec<String> = new_view.view_changes.iter().map(|change| self.label_change(change)).collect();
                format!("begin view {} with {changes:?}", new_view.view)
            }
            ConsensusMessage::Body(header, _) => format!("body of {}", self.name(header.digest())),
            ConsensusMessage::Evidence(e) => format!("evidence against {} in view {}", e.first.replica, e.first.vote.view),
            ConsensusMessage::Complaint(c) => format!("complaint of {} about view {}", c.replica, c.complaint.view),
            other => format!("{other:?}"),
        }
    }

    fn label_change(&self, change: &ViewChange) -> String {
        let prepared: Vec<String> = change.prepared.iter().map(|c| format!("{} in {}", self.name(c.header.digest()), c.view)).collect();
        format!("{} leaves for view {} with {prepared:?}", change.replica, change.new_view)
    }

    // --- replicas ---

    fn restarted(&self, me: ReplicaIndex, mut journal: Vec<Record>, time: u64) -> (Replica, Vec<Record>, super::super::Step) {
        let run = journal.iter().filter(|record| matches!(record, Record::Started { .. })).count() as u64 + 1;
        journal.push(Record::Started { run });
        let (tip, duplicates, _) = log_of(&self.federation, &journal);
        let mut core = Replica::new(self.federation.clone(), me, key(me), options(), tip, duplicates, Suspicion::default());
        journal.iter().for_each(|record| core.replay(record));
        let step = core.resume(Now { wall: START, mono: time }, &[]);
        (core, journal, step)
    }

    fn first(&self, me: ReplicaIndex, shared: &mut Shared) -> Local {
        let (core, journal, _) = self.restarted(me, vec![], 0);
        let (said, signed, delivered) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        let mut local = Local { core, journal, said, signed, delivered, time: 0, crashes: 0, broken: None };
        for submission in &self.submissions {
            let forward = ConsensusMessage::Forward(submission.clone());
            self.hear(&mut local, me, 9, forward, false, shared);
        }
        local
    }

    /// A message passes the gate and the core; only what waits for nothing leaves if it is to crash.
    fn hear(&self, local: &mut Local, me: ReplicaIndex, from: ReplicaIndex, message: ConsensusMessage, crash: bool, shared: &mut Shared) {
        let place = local.core.place();
        let gate = Verifier::new(self.federation.clone());
        gate.set_window(place.view, place.floor, place.stable);
        let Ok(message) = gate.message(from, message) else { return };
        self.event(local, me, Event::Message { from, message }, crash, shared);
    }

    fn event(&self, local: &mut Local, me: ReplicaIndex, event: Event, crash: bool, shared: &mut Shared) {
        if self.bounds.broken == Broken::PreparedForgotten {
            local.core.slots.values_mut().for_each(|slot| slot.prepared = None);
        }
        let step = local.core.handle(Now { wall: START, mono: local.time }, event);
        self.take(local, me, step, crash, shared);
    }

    fn take(&self, local: &mut Local, me: ReplicaIndex, step: super::super::Step, crash: bool, shared: &mut Shared) {
        let (records, effects) = if crash { (vec![], vec![]) } else { (step.records, step.effects) };
        local.journal.extend(records);
        for effect in step.immediate.into_iter().chain(effects) {
            match effect {
                Effect::Broadcast(message) | Effect::Send { message, .. } => self.say(local, me, message, shared),
                Effect::Deliver(delivery) => {
                    let (slot, digest) = (delivery.header.slot, delivery.certificate.digest);
                    if *local.delivered.entry(slot).or_insert(digest) != digest {
                        local.broken = Some(format!("replica {me} delivered two batches at slot {slot}"));
                    }
                }
                Effect::Halt(halt) => local.broken = Some(format!("replica {me} halts: {halt}")),
                _ => {}
            }
        }
    }

    fn say(&self, local: &mut Local, me: ReplicaIndex, message: ConsensusMessage, shared: &mut Shared) {
        let statement = match &message {
            ConsensusMessage::PrePrepare(proposal) => Some(proposal.vote()),
            ConsensusMessage::Vote(signed) => Some(signed.vote),
            _ => None,
        };
        if let Some(vote) = statement {
            let signed = *local.signed.entry((vote.phase, vote.view, vote.slot)).or_insert(vote.digest);
            if signed != vote.digest {
                let names = [signed, vote.digest].map(|digest| self.name(digest));
                local.broken = Some(format!("replica {me} signed {names:?} at view {} slot {}", vote.view, vote.slot));
            }
        }
        let one_by_one = self.bounds.arrivals == Arrivals::OneByOne;
        let within = match &message {
            ConsensusMessage::PrePrepare(_) | ConsensusMessage::Vote(_) => {
                statement.is_some_and(|vote| vote.slot <= self.bounds.slots && vote.view < self.bounds.views)
            }
            ConsensusMessage::ViewChange(change) => change.new_view < self.bounds.views,
            ConsensusMessage::NewView(new_view) => new_view.view < self.bounds.views,
            // A liar's complaint does the same as another's.
            ConsensusMessage::Complaint(signed) => one_by_one && signed.complaint.view + 1 < self.bounds.views,
            // Liars serve the bodies and the evidence.
            _ => false,
        };
        if within {
            local.said.insert(self.number(me, message, shared));
        }
    }

    /// Everything that decides what a replica will do, and nothing else.
    fn essence(&self, local: &Local) -> String {
        let core = &local.core;
        let change = |change: &Arc<ViewChange>| self.label_change(change);
        let slots: Vec<_> = core.slots.iter().map(|(slot, state)| {
            let accepted = state.accepted.as_ref().map(|a| (a.digest, a.proposal.is_some(), a.frontier.is_some()));
            let prepared = state.prepared.as_ref().map(|p| (p.view, p.header.digest()));
            // Votes that have done what they can are not looked at again in this view.
            let prepares = (!state.commit_sent).then_some(&state.prepares.current);
            let commits = (*slot > core.tip.slot).then_some(&state.commits.current);
            let ahead = (&state.prepares.ahead, &state.commits.ahead);
            (slot, accepted, prepared, state.committed, state.prepare_sent, state.commit_sent, prepares, commits, ahead)
        }).collect();
        let buffered = |p: &Arc<CheckedProposal>| (p.view, p.digest);
        let proposals: Vec<_> = core.proposals.values().chain(core.proposals_ahead.values()).map(buffered).collect();
        // Complaints stay fresh here, and a replica is timed out only where it has not complained: no time matters.
        let complaints: Vec<_> = core.complaints.iter().map(|(member, heard)| (member, heard.view)).collect();
        let changes: Vec<String> = core.view_changes.values().map(change).collect();
        let pool: Vec<_> = core.pool.iter().map(|(digest, pending)| (digest, pending.slot)).collect();
        let own = (core.own_view_change.as_ref().map(change), core.own_new_view.is_some());
        let view = (core.view, core.changing, core.complained, core.barred_view, core.run, core.vote_cursor);
        let tables = (core.bodies.keys().collect::<Vec<_>>(), core.safety.remembered(), proposals, complaints, changes, pool);
        let past = (&local.said, &local.delivered, local.crashes, &local.broken);
        let voted = (self.bounds.crashes > local.crashes && core.leads()).then_some(&core.voted_with_us);
        format!("{view:?} {own:?} {:?} {slots:?} {tables:?} {past:?} {voted:?}", core.tip)
    }

    /// The number of a replica's state. What a crash would leave is part of it as long as there may be one.
    fn keep(&self, me: ReplicaIndex, local: Local, shared: &mut Shared) -> u32 {
        let mut essence = format!("{me} {}", self.essence(&local));
        if local.crashes < self.bounds.crashes {
            for unsynced_lost in [false, true] {
                let after = self.crashed(me, &local, unsynced_lost, shared);
                essence.push_str(&self.essence(&after));
            }
        }
        if let Some(known) = shared.by_essence.get(&essence) {
            return *known;
        }
        let number = u32::try_from(shared.locals.len()).unwrap();
        shared.locals.push(Arc::new(local));
        shared.by_essence.insert(essence, number);
        number
    }

    fn crashed(&self, me: ReplicaIndex, before: &Local, unsynced_lost: bool, shared: &mut Shared) -> Local {
        let mut journal = before.journal.clone();
        while unsynced_lost && journal.last().is_some_and(|record| !record.must_sync()) {
            journal.pop();
        }
        if self.bounds.broken == Broken::JournalLost {
            journal.clear();
        }
        let (core, journal, step) = self.restarted(me, journal, before.time);
        let mut local = Local { core, journal, crashes: before.crashes + 1, ..before.clone() };
        self.take(&mut local, me, step, false, shared);
        // Clients ask again.
        for submission in &self.submissions {
            self.hear(&mut local, me, 9, ConsensusMessage::Forward(submission.clone()), false, shared);
        }
        local
    }

    /// Where a replica's state goes; `None` if nothing changes.
    fn step(&self, from: u32, me: ReplicaIndex, what: &Happening) -> Option<u32> {
        let mut shared = self.shared.lock().unwrap();
        if let Some(known) = shared.steps.get(&(from, what.clone())) {
            return *known;
        }
        let shared = &mut *shared;
        let before = shared.locals[from as usize].clone();
        let mut local = Local::clone(&before);
        match what {
            Happening::Arrive(messages) => {
                for message in messages {
                    let Message { from, content, .. } = shared.messages[usize::from(*message)].clone();
                    self.hear(&mut local, me, from, content, false, shared);
                }
            }
            Happening::Timeout(complaint) => {
                self.event(&mut local, me, Event::Tick, false, shared);
                local.time += 10_000;
                self.event(&mut local, me, Event::Tick, false, shared);
                if let Some(complaint) = complaint {
                    let Message { from, content, .. } = shared.messages[usize::from(*complaint)].clone();
                    self.hear(&mut local, me, from, content, false, shared);
                }
            }
            Happening::Crash { unsynced_lost } => local = self.crashed(me, &before, *unsynced_lost, shared),
            Happening::CrashDuring(message) => {
                let Message { from, content, .. } = shared.messages[usize::from(*message)].clone();
                self.hear(&mut local, me, from, content, true, shared);
                // Nothing has left: the crash might as well have come before.
                if local.said != before.said {
                    local = self.crashed(me, &Local { journal: before.journal.clone(), ..local }, false, shared);
                } else {
                    local = Local::clone(&before);
                }
            }
        }
        let to = Some(self.keep(me, local, shared)).filter(|to| *to != from);
        shared.steps.insert((from, what.clone()), to);
        to
    }

    /// Votes of others for what the replica accepted that make a quorum with its own, or without it, and are still of use.
    fn quorums(&self, me: ReplicaIndex, local: &Local, known: &[Said], shared: &Shared) -> Vec<Happening> {
        let core = &local.core;
        let mut by_statement: BTreeMap<(Phase, u64), Vec<(bool, Said)>> = BTreeMap::new();
        for said in known {
            let message = &shared.messages[usize::from(*said)];
            let ConsensusMessage::Vote(SignedVote { vote, .. }) = &message.content else { continue };
            let Some(slot) = core.slots.get(&vote.slot).filter(|slot| slot.accepted.as_ref().is_some_and(|a| a.digest == vote.digest)) else { continue };
            let held = vote.slot <= core.tip.slot || core.bodies.contains_key(&(vote.slot, vote.digest));
            let of_use = if vote.phase == Phase::Prepare { !slot.commit_sent } else { vote.slot == core.tip.slot + 1 };
            if vote.view == core.view && !core.changing && held && of_use && message.from != me {
                let correct = !self.bounds.liars.contains(&message.from);
                by_statement.entry((vote.phase, vote.slot)).or_default().push((correct, *said));
            }
        }
        let mut quorums = Vec::new();
        for ((phase, slot), mut votes) in by_statement {
            let others = self.federation.quorum() - usize::from(local.signed.contains_key(&(phase, core.view, slot)));
            votes.sort_unstable();
            if votes.len() >= others {
                quorums.push(Happening::Arrive(votes.into_iter().take(others).map(|(_, said)| said).collect()));
            }
        }
        quorums
    }

    /// View-changes of others that make the replica leave, or begin the view that it leads.
    fn departures(&self, me: ReplicaIndex, local: &Local, changes: &[(ReplicaIndex, Said)]) -> Vec<Happening> {
        let place = local.core.place();
        let leads = self.federation.leader(SECOND) == me;
        let needed = match (place.view, place.changing) {
            (0, _) => self.federation.weak_quorum(),
            (SECOND, true) if leads => self.federation.quorum() - 1,
            _ => return vec![],
        };
        let mut choices: Vec<Vec<(ReplicaIndex, Said)>> = vec![vec![]];
        for change in changes {
            let longer: Vec<_> = choices.iter().filter(|c| c.iter().all(|known| known.0 != change.0)).map(|c| [&c[..], &[*change]].concat()).collect();
            choices.extend(longer);
        }
        let whole = choices.into_iter().filter(|choice| choice.len() == needed);
        // Who does not lead only counts them.
        whole.take(if leads { usize::MAX } else { 1 }).map(|choice| Happening::Arrive(choice.into_iter().map(|(_, said)| said).collect())).collect()
    }

    /// Whether a message can have an effect by itself, now.
    fn counts(&self, core: &Replica, content: &ConsensusMessage) -> bool {
        let in_view = |view: u64| view == core.view && !core.changing;
        match content {
            ConsensusMessage::PrePrepare(proposal) => in_view(proposal.view) && proposal.header.slot == core.head() + 1,
            ConsensusMessage::Evidence(evidence) => in_view(evidence.first.vote.view),
            ConsensusMessage::Body(header, _) => core.slots.get(&header.slot).is_some_and(|slot| slot.accepted.is_some()),
            ConsensusMessage::NewView(_) => true,
            // In quorums; with a timeout.
            _ => false,
        }
    }

    /// What may happen to one replica, given everything that was said.
    fn happenings(&self, me: ReplicaIndex, local: &Local, known: &[Said], shared: &Shared) -> Vec<Happening> {
        let place = local.core.place();
        let one_by_one = self.bounds.arrivals == Arrivals::OneByOne;
        let mut happenings = Vec::new();
        let (mut changes, mut complaint) = (Vec::new(), None);
        for said in known.iter().filter(|said| shared.messages[usize::from(**said)].from != me) {
            let message = &shared.messages[usize::from(*said)];
            match &message.content {
                ConsensusMessage::ViewChange(_) => changes.push((message.from, *said)),
                ConsensusMessage::Complaint(_) => complaint = Some(*said),
                _ => {}
            }
            if one_by_one || self.counts(&local.core, &message.content) {
                happenings.push(Happening::Arrive(vec![*said]));
                if local.crashes < self.bounds.crashes && local.core.leads() {
                    happenings.push(Happening::CrashDuring(*said));
                }
            }
        }
        if !one_by_one {
            happenings.extend(self.quorums(me, local, known, shared));
            happenings.extend(self.departures(me, local, &changes));
        }
        if place.view == 0 && !place.changing && local.core.complained.is_none() && self.bounds.views > SECOND {
            happenings.push(Happening::Timeout(complaint.filter(|_| !one_by_one)));
        }
        happenings
    }

    fn locals(&self, state: &State) -> Vec<Arc<Local>> {
        let shared = self.shared.lock().unwrap();
        state.0.iter().map(|number| shared.locals[*number as usize].clone()).collect()
    }
}

impl Model for Small {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut shared = self.shared.lock().unwrap();
        let first = |me: &ReplicaIndex| {
            let local = self.first(*me, &mut shared);
            self.keep(*me, local, &mut shared)
        };
        vec![State(self.correct.iter().map(first).collect())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let locals = self.locals(state);
        let mut shared = self.shared.lock().unwrap();
        let said: BTreeSet<Said> = locals.iter().flat_map(|local| local.said.iter().copied()).collect();
        let follows = self.consequences(&said, &mut shared);
        let known: Vec<Said> = said.into_iter().chain(self.lies.iter().copied()).chain(follows).collect();
        let crashes: usize = locals.iter().map(|local| local.crashes).sum();
        for (me, local) in self.correct.iter().zip(&locals) {
            let mut happenings = self.happenings(*me, local, &known, &shared);
            if crashes < self.bounds.crashes {
                happenings.extend([false, true].map(|unsynced_lost| Happening::Crash { unsynced_lost }));
            } else {
                happenings.retain(|what| !matches!(what, Happening::CrashDuring(_)));
            }
            actions.extend(happenings.into_iter().map(|what| Action { replica: *me, what }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let at = self.correct.iter().position(|me| *me == action.replica)?;
        let to = self.step(state.0[at], action.replica, &action.what)?;
        let mut next = state.clone();
        next.0[at] = to;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let agree = |model: &Self, state: &State| {
            let locals = model.locals(state);
            let mut committed = BTreeMap::new();
            locals.iter().flat_map(|local| &local.delivered).all(|(slot, digest)| *committed.entry(*slot).or_insert(*digest) == *digest)
        };
        let all = |model: &Self, state: &State| {
            let all = |local: &Arc<Local>| local.delivered.len() as u64 >= model.bounds.slots && local.core.view + 1 == model.bounds.views;
            model.locals(state).iter().all(all)
        };
        vec![
            Property::<Self>::always("no two batches are committed at one slot", agree),
            Property::always("nobody contradicts itself", |model, state| model.locals(state).iter().all(|local| local.broken.is_none())),
            Property::sometimes("everything is committed in the last view", all),
            Property::sometimes("the last view works on what an earlier one prepared", |model, state| {
                let chosen = |local: &Arc<Local>| local.core.slots.values().any(|slot| slot.accepted.as_ref().is_some_and(|a| a.proposal.is_none()));
                model.bounds.views == 1 || model.locals(state).iter().any(chosen)
            }),
        ]
    }

    fn format_action(&self, action: &Action) -> String {
        let shared = self.shared.lock().unwrap();
        let labels = |said: &[Said]| said.iter().map(|s| shared.messages[usize::from(*s)].label.clone()).collect::<Vec<_>>();
        match &action.what {
            Happening::Arrive(said) => format!("{} hears {:?}", action.replica, labels(said)),
            Happening::CrashDuring(said) => format!("{} hears {:?} and crashes", action.replica, labels(&[*said])),
            other => format!("{}: {other:?}", action.replica),
        }
    }
}

fn bounds(liars: &[ReplicaIndex], views: u64, slots: u64, arrivals: Arrivals, crashes: usize) -> Bounds {
    Bounds { liars: liars.to_vec(), views, slots, arrivals, crashes, broken: Broken::Nothing }
}

fn explore(bounds: Bounds) {
    let name = format!("{bounds:?}");
    let start = std::time::Instant::now();
    let checker = Small::new(bounds).checker().timeout(std::time::Duration::from_secs(std::env::var("SECS").map_or(30, |s| s.parse().unwrap()))).spawn_bfs().join();
    let shared = checker.model().shared.lock().unwrap();
    let (locals, messages) = (shared.locals.len(), shared.messages.len());
    drop(shared);
    println!(
        "{name}: {} states, depth {}, {locals} replica states, {messages} messages, {:.1?}",
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed()
    );
    checker.assert_properties();
}

/// The steps to a state that breaks a property.
fn counterexample(bounds: Bounds, property: &'static str) -> Vec<String> {
    let checker = Small::new(bounds).checker().spawn_bfs().join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{property}: no counterexample in {} states", checker.unique_state_count()));
    path.into_actions().iter().map(|action| checker.model().format_action(action)).collect()
}

#[test]
fn probe() {
    let text = std::env::var("PROBE").unwrap();
    let mut at = text.split(',').map(|n| n.parse::<u64>().unwrap());
    let mut next = || at.next().unwrap();
    let (liar, views, slots, crashes, one) = (next(), next(), next(), next(), next());
    let arrivals = if one == 1 { Arrivals::OneByOne } else { Arrivals::WhenTheyCount };
    explore(bounds(&[liar as u16], views, slots, arrivals, crashes as usize));
}
