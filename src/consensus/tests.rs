//! The core under a seeded network that loses, delays and reorders, with crashes that lose what was not yet durable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod model;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::*;
use crate::crypto::{Digest, ReplicaSecret, Signature, SigningKey};
use crate::types::{
    Author, CommittedBatch, Evidence, Federation, Genesis, Member, NewView, Parameters, PeerId, Phase, Signed, SignedProposal, SignedVote,
    StableClaim, StateUpdate, Submission, UpdateId, ViewChange, ViewChangeClaim, Vote,
};

/// SplitMix64: enough randomness for a schedule, and the same on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }
}

fn secret(i: u16) -> ReplicaSecret {
    ReplicaSecret::from_bytes([u8::try_from(i).unwrap() + 1; 32])
}

fn author() -> SigningKey {
    SigningKey::from_seed(&[200; 32])
}

fn federation(n: u16, parameters: Parameters) -> Arc<Federation> {
    let members = (0..n)
        .map(|i| Member {
            peer: PeerId(format!("replica-{i}")),
            consensus_key: secret(i).consensus_key().public(),
            transport_key: secret(i).transport_key().public(),
            cosignature_key: secret(i).cosignature_key().public(),
        })
        .collect();
    let authors = vec![Author { name: "author".into(), key: author().public() }];
    Arc::new(Federation::new(Genesis { name: "test".into(), members, authors, readers: vec![], parameters }).unwrap())
}

/// A replica with its disk: what was synced survives a crash, what waits for the sync does not.
struct Node {
    core: Option<Replica>,
    journal: Vec<Record>,
    waiting: VecDeque<(Vec<Record>, Vec<Effect>)>,
    log: Vec<CommittedBatch>,
    run: u64,
}

enum Item {
    Message(u16, u16, ConsensusMessage),
    LogDurable(u16, crate::types::Checkpoint),
    CatchUp(u16, u16, u64),
}

struct Cluster {
    federation: Arc<Federation>,
    verifier: Vec<Verifier>,
    nodes: Vec<Node>,
    queue: BTreeMap<(u64, u64), Item>,
    counter: u64,
    time: u64,
    rng: Rng,
    loss: u64,
    delay: u64,
    cut: BTreeSet<u16>,
    /// Every vote that a replica let out, by place.
    ledger: BTreeMap<(u16, Phase, u64, u64), Digest>,
    committed: BTreeMap<u64, Digest>,
    acknowledged: BTreeMap<Ticket, SubmitOutcome>,
    receipts: BTreeMap<Ticket, u64>,
    views_entered: u64,
    evidence: u64,
    clock_skew: Vec<i64>,
    /// What the network, or a Byzantine sender or receiver, swallows.
    swallow: fn(u16, u16, &ConsensusMessage) -> bool,
}

const START: u64 = 1_700_000_000_000;

fn options() -> CoreOptions {
    CoreOptions {
        stall_timeout_ms: 300,
        request_timeout_ms: 1_500,
        max_timeout_ms: 5_000,
        gossip_ms: 50,
        catch_up_after_ms: 100,
        ..CoreOptions::default()
    }
}

/// The log that a journal's records make, its end, and its duplicate table.
fn log_of(federation: &Federation, records: &[Record]) -> (Tip, DuplicateTable, Vec<CommittedBatch>) {
    let (mut bodies, mut tip, mut log) = (BTreeMap::new(), Tip::genesis(), Vec::new());
    let mut duplicates = DuplicateTable::new(federation.parameters().max_lifetime_ms, federation.parameters().max_live_ids);
    for record in records {
        match record {
            Record::Proposal { header, body, .. } | Record::Body { header, body, .. } => {
                bodies.insert(header.digest(), (header.clone(), body.clone()));
            }
            Record::Committed(certificate) if certificate.slot == tip.slot + 1 => {
                let (header, body) = bodies[&certificate.digest].clone();
                body.leaf_hashes.iter().for_each(|leaf| tip.frontier.append(*leaf));
                assert_eq!(tip.frontier.root(), header.log_root);
                duplicates.commit(&body, header.slot, header.first_sequence, header.timestamp);
                let (sequence, timestamp) = (header.last_sequence(), header.timestamp);
                tip = Tip { slot: header.slot, sequence, digest: certificate.digest, timestamp, frontier: tip.frontier };
                log.push(CommittedBatch { header, body: body.body.clone(), certificate: certificate.clone() });
            }
            _ => {}
        }
    }
    (tip, duplicates, log)
}

impl Cluster {
    fn new(n: u16, seed: u64, parameters: Parameters) -> Self {
        let federation = federation(n, parameters);
        let node = |_| Node { core: None, journal: vec![], waiting: VecDeque::new(), log: vec![], run: 0 };
        let mut cluster = Self {
            verifier: (0..n).map(|_| Verifier::new(federation.clone())).collect(),
            nodes: (0..n).map(node).collect(),
            federation,
            queue: BTreeMap::new(),
            counter: 0,
            time: 0,
            rng: Rng(seed),
            loss: 0,
            delay: 5,
            cut: BTreeSet::new(),
            ledger: BTreeMap::new(),
            committed: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            receipts: BTreeMap::new(),
            views_entered: 0,
            evidence: 0,
            clock_skew: vec![0; usize::from(n)],
            swallow: |_, _, _| false,
        };
        (0..n).for_each(|i| cluster.start(i));
        cluster
    }

    fn now(&self, i: u16) -> Now {
        Now { wall: (START + self.time).saturating_add_signed(self.clock_skew[usize::from(i)]), mono: self.time }
    }

    /// Starts a replica from its disk alone.
    fn start(&mut self, i: u16) {
        let federation = self.federation.clone();
        let node = &mut self.nodes[usize::from(i)];
        node.run += 1;
        node.journal.push(Record::Started { run: node.run });
        // Through the stored form, as a real journal would.
        let records: Vec<Record> = node
            .journal
            .iter()
            .map(|r| {
                let (kind, payload) = r.to_frame().unwrap();
                Record::from_frame(&federation, kind, &payload).unwrap()
            })
            .collect();
        let (tip, duplicates, log) = log_of(&federation, &records);
        node.log = log;
        let mut core = Replica::new(federation, i, secret(i).consensus_key(), options(), tip, duplicates, Suspicion::default());
        records.iter().for_each(|r| core.replay(r));
        let step = core.resume(Now { wall: START + self.time, mono: self.time }, &[]);
        node.core = Some(core);
        self.take_step(i, step);
    }

    fn crash(&mut self, i: u16) {
        let node = &mut self.nodes[usize::from(i)];
        node.core = None;
        node.waiting.clear();
        self.queue.retain(|_, item| !matches!(item, Item::LogDurable(to, _) | Item::CatchUp(to, _, _) if *to == i));
    }

    fn push(&mut self, delay: u64, item: Item) {
        self.counter += 1;
        self.queue.insert((self.time + delay, self.counter), item);
    }

    fn take_step(&mut self, i: u16, step: Step) {
        let Step { records, immediate, effects, .. } = step;
        for effect in immediate {
            self.run_effect(i, effect);
        }
        self.nodes[usize::from(i)].waiting.push_back((records, effects));
        if !self.rng.chance(300) {
            self.sync(i);
        }
    }

    /// Everything waiting becomes durable, and its effects run.
    fn sync(&mut self, i: u16) {
        while let Some((records, effects)) = self.nodes[usize::from(i)].waiting.pop_front() {
            self.nodes[usize::from(i)].journal.extend(records);
            for effect in effects {
                self.run_effect(i, effect);
            }
        }
    }

    fn run_effect(&mut self, i: u16, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.transmit(i, to, message),
            Effect::Broadcast(message) => {
                let n = u16::try_from(self.nodes.len()).unwrap();
                (0..n).filter(|to| *to != i).for_each(|to| self.transmit(i, to, message.clone()));
            }
            Effect::Deliver(delivery) => self.deliver(i, *delivery),
            Effect::Answer { ticket, outcome } => {
                self.acknowledged.insert(ticket, outcome);
            }
            Effect::CatchUp { peer, from_slot } => {
                let delay = 1 + self.rng.below(self.delay * 2);
                self.push(delay, Item::CatchUp(i, peer, from_slot));
            }
            Effect::Evidence(_) => self.evidence += 1,
            Effect::ViewEntered { .. } => self.views_entered += 1,
            Effect::Halt(halt) => panic!("replica {i} halts: {halt}"),
        }
    }

    fn transmit(&mut self, from: u16, to: u16, message: ConsensusMessage) {
        if let ConsensusMessage::Vote(v) = &message {
            let place = (from, v.vote.phase, v.vote.view, v.vote.slot);
            let signed = *self.ledger.entry(place).or_insert(v.vote.digest);
            assert_eq!(signed, v.vote.digest, "replica {from} signed twice at {place:?}");
        }
        if self.cut.contains(&from) || self.cut.contains(&to) || self.rng.chance(self.loss) || (self.swallow)(from, to, &message) {
            return;
        }
        let delay = 1 + self.rng.below(self.delay * 2);
        self.push(delay, Item::Message(from, to, message));
    }

    fn deliver(&mut self, i: u16, delivery: Delivery) {
        let Delivery { header, certificate, body, answers, checkpoint, .. } = delivery;
        let agreed = *self.committed.entry(header.slot).or_insert(certificate.digest);
        assert_eq!(agreed, certificate.digest, "two digests committed at slot {}", header.slot);
        certificate.verify(&self.federation, &header).unwrap();
        let log = &mut self.nodes[usize::from(i)].log;
        assert_eq!(log.len() as u64 + 1, header.slot, "replica {i} delivers in order");
        log.push(CommittedBatch { header: header.clone(), body: body.body, certificate });
        for answer in answers {
            self.receipts.insert(answer.ticket, header.first_sequence + answer.offset);
        }
        if checkpoint {
            let checkpoint = crate::types::Checkpoint {
                epoch: 0,
                slot: header.slot,
                sequence: header.last_sequence(),
                digest: header.digest(),
                log_root: header.log_root,
            };
            let delay = 1 + self.rng.below(30);
            self.push(delay, Item::LogDurable(i, checkpoint));
        }
    }

    fn event(&mut self, i: u16, event: Event) {
        let now = self.now(i);
        let Some(core) = &mut self.nodes[usize::from(i)].core else { return };
        let step = core.handle(now, event);
        let status = core.status();
        self.verifier[usize::from(i)].set_window(status.view, status.floor, status.stable_slot);
        self.take_step(i, step);
    }

    fn process(&mut self, item: Item) {
        match item {
            Item::Message(from, to, message) => {
                if let Ok(message) = self.verifier[usize::from(to)].message(from, message) {
                    self.event(to, Event::Message { from, message });
                }
            }
            Item::LogDurable(i, checkpoint) => self.event(i, Event::LogDurable(checkpoint)),
            Item::CatchUp(i, peer, from_slot) => {
                let alive = self.nodes[usize::from(peer)].core.is_some() && !self.cut.contains(&peer) && !self.cut.contains(&i);
                if !alive {
                    return self.event(i, Event::CatchUpFailed { from: peer });
                }
                let log = &self.nodes[usize::from(peer)].log;
                let batches: Vec<_> = log.iter().skip(usize::try_from(from_slot - 1).unwrap()).take(20).cloned().collect();
                let batches = batches.into_iter().map(|b| self.verifier[usize::from(i)].batch(b).unwrap()).collect();
                self.event(i, Event::CaughtUp { from: peer, batches });
            }
        }
    }

    fn run_for(&mut self, ms: u64) {
        let end = self.time + ms;
        while self.time < end {
            self.time += 10;
            while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= self.time) {
                let item = entry.remove();
                self.process(item);
            }
            for i in 0..u16::try_from(self.nodes.len()).unwrap() {
                self.event(i, Event::Tick);
                self.sync(i);
            }
        }
    }

    fn submit(&mut self, to: u16, ticket: Ticket) {
        let update = StateUpdate { update_id: UpdateId(format!("u{ticket}")), data: vec![1; 20], timestamp: 1 };
        let submission = Submission::sign(self.federation.id(), &author(), START + self.time + 60_000, vec![update]);
        let submission = self.verifier[usize::from(to)].submission(Arc::new(submission)).unwrap();
        let waiter = Waiter { ticket, deadline: self.time + 50_000 };
        self.event(to, Event::Submit { submission, waiter });
    }

    fn check_logs(&self) {
        let mut ids = BTreeSet::new();
        for (i, node) in self.nodes.iter().enumerate() {
            for (batch, slot) in node.log.iter().zip(1u64..) {
                assert_eq!(batch.header.slot, slot);
                assert_eq!(batch.header.digest(), self.committed[&slot], "replica {i} slot {slot}");
            }
        }
        let longest = self.nodes.iter().map(|n| &n.log).max_by_key(|l| l.len()).unwrap();
        for id in longest.iter().flat_map(|b| &b.body.submissions).flat_map(|s| s.ids()) {
            assert!(ids.insert(id.clone()), "{id} is in the log twice");
        }
    }

    fn tips(&self) -> Vec<u64> {
        self.nodes.iter().map(|n| n.core.as_ref().map_or(0, |c| c.status().slot)).collect()
    }
}

#[test]
fn four_replicas_commit_what_is_submitted() {
    let mut cluster = Cluster::new(4, 1, Parameters::default());
    for ticket in 0..100 {
        cluster.submit(u16::try_from(ticket % 4).unwrap(), ticket);
        cluster.run_for(10);
    }
    cluster.run_for(500);
    assert_eq!(cluster.receipts.len(), 100);
    assert_eq!(cluster.views_entered, 0, "a healthy leader stays");
    cluster.check_logs();
    let tips = cluster.tips();
    assert!(tips.iter().all(|t| *t == tips[0]));
    let stable = cluster.nodes[0].core.as_ref().unwrap().status().stable_slot;
    assert!(stable > 0 || tips[0] < 64, "checkpoints become stable");
}

#[test]
fn a_silent_leader_is_replaced() {
    let mut cluster = Cluster::new(4, 2, Parameters::default());
    cluster.crash(0);
    cluster.submit(1, 1);
    cluster.run_for(3_000);
    assert_eq!(cluster.receipts.len(), 1);
    assert!(cluster.nodes[1].core.as_ref().unwrap().status().view >= 1);
}

#[test]
fn a_restarted_leader_resigns_and_never_proposes_in_its_old_view() {
    let mut cluster = Cluster::new(4, 3, Parameters::default());
    cluster.submit(1, 1);
    cluster.run_for(500);
    cluster.crash(0);
    cluster.start(0);
    cluster.run_for(1_000);
    cluster.submit(2, 2);
    cluster.run_for(1_000);
    assert_eq!(cluster.receipts.len(), 2);
    assert!(cluster.nodes.iter().all(|n| n.core.as_ref().unwrap().status().view >= 1));
}

#[test]
fn a_replica_far_behind_catches_up_from_its_peers() {
    let parameters = Parameters { window_slots: 16, checkpoint_slots: 4, ..Parameters::default() };
    let mut cluster = Cluster::new(4, 4, parameters);
    cluster.cut.insert(3);
    for ticket in 0..400 {
        cluster.submit(1, ticket);
        cluster.run_for(20);
    }
    let before = cluster.tips();
    assert!(before[0] > 64 && before[3] == 0, "{before:?}");
    cluster.cut.clear();
    cluster.run_for(3_000);
    let tips = cluster.tips();
    assert!(tips.iter().all(|t| *t == tips[0]), "{tips:?}");
    cluster.check_logs();
}

/// A proposal that passes the gate, signed by the leader of its view.
fn forged_proposal(cluster: &Cluster, leader: u16, view: u64, slot: u64, id: &str) -> ConsensusMessage {
    let update = StateUpdate { update_id: UpdateId(id.into()), data: vec![], timestamp: 1 };
    let submission = Submission::sign(cluster.federation.id(), &author(), START + 60_000, vec![update]);
    let body = Arc::new(crate::types::Body { submissions: vec![Arc::new(submission)] });
    let checked = CheckedBody::compute(&cluster.federation, body.clone(), slot);
    let mut frontier = crate::crypto::merkle::Frontier::default();
    checked.leaf_hashes.iter().for_each(|l| frontier.append(*l));
    let header = crate::types::Header {
        kind: crate::types::BatchKind::Normal,
        federation_id: cluster.federation.id(),
        epoch: 0,
        slot,
        first_sequence: slot,
        count: 1,
        parent: Digest::ZERO,
        body_digest: checked.digests.body,
        log_root: frontier.root(),
        timestamp: START + 10,
        membership_digest: cluster.federation.membership_digest(),
    };
    let vote = Vote { phase: Phase::PrePrepare, epoch: 0, view, slot, digest: header.digest() };
    let signature = secret(leader).consensus_key().sign(&vote.signed_bytes(cluster.federation.id()));
    ConsensusMessage::PrePrepare(SignedProposal { view, header, body, signature })
}

#[test]
fn the_leader_of_a_far_view_cannot_silence_the_current_one() {
    let mut cluster = Cluster::new(4, 11, Parameters::default());
    for slot in 1..100 {
        let forged = forged_proposal(&cluster, 3, 403, slot, "forged");
        (0..3).for_each(|to| cluster.process(Item::Message(3, to, forged.clone())));
    }
    for ticket in 0..20 {
        cluster.submit(1, ticket);
        cluster.run_for(20);
    }
    cluster.run_for(500);
    assert_eq!(cluster.receipts.len(), 20);
    assert_eq!(cluster.views_entered, 0);
}

#[test]
fn numbers_out_of_reach_are_refused_and_nothing_overflows() {
    let mut cluster = Cluster::new(4, 12, Parameters::default());
    let status = crate::types::Status { epoch: 0, view: 0, changing: false, committed: u64::MAX, accepted: u64::MAX, stable: u64::MAX };
    let far = forged_proposal(&cluster, 0, 0, u64::MAX, "far");
    let body = match forged_proposal(&cluster, 0, 0, u64::MAX, "far") {
        ConsensusMessage::PrePrepare(p) => ConsensusMessage::Body(p.header, p.body),
        _ => unreachable!(),
    };
    let fetch = ConsensusMessage::FetchBody(crate::types::FetchBody { slot: u64::MAX, digest: Digest::ZERO });
    for message in [ConsensusMessage::Status(status), far, body, fetch] {
        for _ in 0..3 {
            cluster.process(Item::Message(0, 1, message.clone()));
        }
    }
    cluster.submit(2, 1);
    cluster.run_for(500);
    assert_eq!(cluster.receipts.len(), 1);
}

#[test]
fn a_leader_that_proposes_twice_is_replaced_and_convicted() {
    let mut cluster = Cluster::new(4, 5, Parameters::default());
    cluster.crash(0);
    let (a, b) = (forged_proposal(&cluster, 0, 0, 1, "a"), forged_proposal(&cluster, 0, 0, 1, "b"));
    cluster.process(Item::Message(0, 1, a.clone()));
    cluster.process(Item::Message(0, 2, b.clone()));
    cluster.process(Item::Message(0, 1, b));
    cluster.process(Item::Message(0, 3, a));
    cluster.run_for(2_000);
    assert!(cluster.evidence >= 3, "every replica learns of it");
    assert!((1..4).all(|i: usize| cluster.nodes[i].core.as_ref().unwrap().status().view >= 1));
    cluster.submit(2, 1);
    cluster.run_for(2_000);
    assert_eq!(cluster.receipts.len(), 1);
}

fn views(cluster: &Cluster) -> Vec<View> {
    (0..4).map(|i: usize| cluster.nodes[i].core.as_ref().unwrap().status().view).collect()
}

#[test]
fn evidence_against_the_leader_that_one_replica_hears_moves_all() {
    let mut cluster = Cluster::new(4, 9, Parameters::default());
    cluster.submit(0, 1);
    cluster.run_for(100);
    let signed = |id| match forged_proposal(&cluster, 0, 0, 7, id) {
        ConsensusMessage::PrePrepare(p) => SignedVote { vote: p.vote(), replica: 0, signature: p.signature },
        _ => unreachable!(),
    };
    let evidence = Evidence::Votes { first: signed("a"), second: signed("b") };
    cluster.process(Item::Message(3, 1, ConsensusMessage::Evidence(evidence.into())));
    // Far less than any timeout: whoever left alone would stay outside until then.
    cluster.run_for(60);
    assert_eq!(views(&cluster), [1; 4]);
    cluster.submit(2, 2);
    cluster.run_for(200);
    assert_eq!(cluster.receipts.len(), 2);
}

#[test]
fn a_second_new_view_ends_its_view_although_its_leader_was_convicted_of_two_view_changes() {
    let mut cluster = Cluster::new(4, 10, Parameters::default());
    cluster.crash(0);
    cluster.submit(2, 1);
    cluster.run_for(2_000);
    cluster.start(0);
    cluster.run_for(200);
    assert_eq!(views(&cluster), [1; 4]);
    let id = cluster.federation.id();
    let change = |replica: u16, new_view: View| {
        let mut change = ViewChange { epoch: 0, new_view, stable: None, prepared: vec![], replica, signature: Signature([0; 64]) };
        change.signature = secret(replica).consensus_key().sign(&change.signed_bytes(id));
        change
    };
    let claim = |stable_slot| {
        let stable = StableClaim { slot: stable_slot, ..StableClaim::default() };
        let statement = ViewChangeClaim { epoch: 0, new_view: 1, replica: 1, stable, prepared: vec![] };
        Signed { signature: secret(1).consensus_key().sign(&statement.signed_bytes(id)), statement }
    };
    let evidence = Evidence::ViewChanges { first: claim(0), second: claim(1) };
    (0..4).for_each(|to| cluster.process(Item::Message(3, to, ConsensusMessage::Evidence(evidence.clone().into()))));
    assert_eq!(views(&cluster), [1; 4], "that is no reason to leave a view that has begun");
    let mut second = NewView { epoch: 0, view: 1, view_changes: [0, 1, 2].map(|replica| change(replica, 1)).into(), signature: Signature([0; 64]) };
    second.signature = secret(1).consensus_key().sign(&second.signed_bytes(id));
    cluster.process(Item::Message(1, 3, ConsensusMessage::NewView(second.into())));
    cluster.run_for(60);
    assert_eq!(views(&cluster), [2; 4]);
}

#[test]
fn a_leader_that_censors_one_submission_is_replaced() {
    let mut cluster = Cluster::new(4, 8, Parameters::default());
    // The leader of view 0 never sees this one, whoever shows it; it serves everything else.
    cluster.swallow = |_, to, message| to == 0 && matches!(message, ConsensusMessage::Forward(s) if s.ids().any(|id| id.0 == "u999"));
    cluster.submit(2, 999);
    for ticket in 0..150 {
        cluster.submit(0, ticket);
        cluster.run_for(20);
    }
    cluster.run_for(2_000);
    assert!(cluster.receipts.contains_key(&999), "the censored submission is committed under another leader");
    assert_eq!(cluster.receipts.len(), 151, "and everything else too");
    assert!(cluster.nodes.iter().all(|n| n.core.as_ref().unwrap().status().view >= 1));
}

#[test]
fn a_new_leader_that_lacks_a_body_fetches_it() {
    let mut cluster = Cluster::new(4, 9, Parameters::default());
    // Replica 1, the next leader, gets no proposal, and nobody gets a commit: the batch is prepared at 0, 2 and 3 and goes no further.
    cluster.swallow = |from, to, message| match message {
        ConsensusMessage::PrePrepare(_) => to == 1,
        ConsensusMessage::Vote(v) => v.vote.view == 0 && v.vote.phase == Phase::Commit,
        ConsensusMessage::Forward(_) => from == 0 || to == 1,
        _ => false,
    };
    cluster.submit(2, 1);
    cluster.run_for(150);
    assert!(cluster.committed.is_empty());
    cluster.crash(0);
    cluster.run_for(4_000);
    assert_eq!(cluster.receipts.len(), 1, "the batch survived the view change");
    let one = cluster.nodes[1].core.as_ref().unwrap().status();
    assert!(one.view >= 1 && one.slot == 1, "{one:?}");
    let fetched = cluster.nodes[1].journal.iter().any(|r| matches!(r, Record::Body { .. }));
    assert!(fetched, "replica 1 had to fetch the body");
}

#[test]
fn what_is_recovered_is_what_was_live_after_every_rotation_of_the_voting_record() {
    let mut cluster = Cluster::new(4, 10, Parameters::default());
    cluster.crash(0);
    cluster.submit(1, 1);
    cluster.run_for(3_000);
    let snapshot = cluster.nodes[2].core.as_ref().unwrap().voting_snapshot();
    let kinds: Vec<&str> = snapshot
        .iter()
        .map(|r| match r {
            Record::Owner(_) => "owner",
            Record::Started { .. } => "started",
            Record::NewView(_) => "new-view",
            Record::Prepared(_) => "prepared",
            Record::Stable(_) => "stable",
            Record::ViewChange(_) => "view-change",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["owner", "started", "new-view", "prepared"]);
    // The journal as a rotation leaves it: the snapshot in place of every voting record, before the segments' records.
    let live = cluster.nodes[2].core.as_ref().unwrap().status();
    let journal = &mut cluster.nodes[2].journal;
    journal.retain(|r| r.part() == Part::Segments);
    journal.splice(0..0, snapshot);
    cluster.crash(2);
    cluster.start(2);
    let recovered = cluster.nodes[2].core.as_ref().unwrap();
    assert_eq!((recovered.status().view, recovered.status().slot, recovered.status().log_root), (live.view, live.slot, live.log_root));
    assert!(recovered.slots.values().any(|s| s.prepared.is_some()), "prepared certificates survive");
}

#[test]
fn a_replica_whose_clock_jumps_neither_blocks_nor_loses() {
    let mut cluster = Cluster::new(4, 6, Parameters::default());
    cluster.clock_skew[2] = 3_600_000;
    cluster.submit(1, 1);
    cluster.run_for(500);
    assert_eq!(cluster.receipts.len(), 1, "one wrong clock of four does not block");
    cluster.clock_skew[2] = 0;
    cluster.clock_skew[0] = -7_200_000;
    cluster.submit(1, 2);
    cluster.run_for(5_000);
    assert_eq!(cluster.receipts.len(), 2);
    let tips = cluster.tips();
    assert!(tips.iter().all(|t| *t == tips[0]), "{tips:?}");
}

#[test]
fn retries_conflicts_and_expiry() {
    let mut cluster = Cluster::new(4, 7, Parameters::default());
    cluster.submit(1, 1);
    cluster.run_for(300);
    let again = |data: u8, ticket: Ticket, cluster: &mut Cluster, to: u16| {
        let update = StateUpdate { update_id: UpdateId("u1".into()), data: vec![data; 20], timestamp: 99 };
        let submission = Submission::sign(cluster.federation.id(), &author(), START + 50_000, vec![update]);
        let submission = cluster.verifier[0].submission(Arc::new(submission)).unwrap();
        cluster.event(to, Event::Submit { submission, waiter: Waiter { ticket, deadline: u64::MAX } });
        cluster.run_for(50);
    };
    again(1, 10, &mut cluster, 3);
    assert_eq!(cluster.acknowledged[&10], SubmitOutcome::AlreadyCommitted(vec![1]));
    again(2, 11, &mut cluster, 2);
    assert_eq!(cluster.acknowledged[&11], SubmitOutcome::Conflict(vec![UpdateId("u1".into())]));
    let update = StateUpdate { update_id: UpdateId("old".into()), data: vec![], timestamp: 1 };
    let late = Submission::sign(cluster.federation.id(), &author(), START, vec![update]);
    let late = cluster.verifier[0].submission(Arc::new(late)).unwrap();
    cluster.event(1, Event::Submit { submission: late, waiter: Waiter { ticket: 12, deadline: u64::MAX } });
    cluster.run_for(50);
    assert!(matches!(cluster.acknowledged[&12], SubmitOutcome::Expired { .. }));
    assert_eq!(cluster.committed.len(), 1, "nothing more was appended");
}
