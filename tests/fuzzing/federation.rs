//! Four cores that talk to each other in memory: where real messages come from.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use exo_federation::consensus::{CoreOptions, DuplicateTable, Effect, Event, Now, Record, Replica, Step, Suspicion, Tip, Verifier, Waiter};
use exo_federation::crypto::Digest;
use exo_federation::types::{
    Checkpoint, CommittedBatch, ConsensusMessage, Evidence, Federation, FetchBody, Genesis, Parameters, Phase, SignedVote, StateUpdate, Submission,
    UpdateId, Vote,
};

use crate::proof_fixture::{author, federation as members, secret};

const START: u64 = 1_700_000_000_000;

/// A federation whose checkpoints come soon.
pub(crate) fn federation() -> Arc<Federation> {
    let genesis = members(4).genesis().clone();
    let parameters = Parameters { window_slots: 16, checkpoint_slots: 4, ..genesis.parameters };
    Arc::new(Federation::new(Genesis { parameters, ..genesis }).unwrap())
}

/// A core that never ran.
pub(crate) fn core(federation: &Arc<Federation>, me: u16) -> Replica {
    let parameters = federation.parameters();
    let table = DuplicateTable::new(parameters.max_lifetime_ms, parameters.max_live_ids);
    let key = secret(u8::try_from(me).unwrap()).consensus_key();
    let mut core = Replica::new(federation.clone(), me, key, CoreOptions::default(), Tip::genesis(), table, Suspicion::default());
    core.replay(&Record::Started { run: 1 });
    core
}

pub(crate) fn now(mono: u64) -> Now {
    Now { wall: START + mono, mono }
}

/// What a run of four replicas gave.
#[derive(Default)]
pub(crate) struct Run {
    /// Every message: sender, receiver, time.
    pub(crate) messages: Vec<(u16, u16, u64, ConsensusMessage)>,
    /// Every record of replica 1.
    pub(crate) records: Vec<Record>,
    /// What replica 1 committed.
    pub(crate) batches: Vec<CommittedBatch>,
    pub(crate) submissions: Vec<Arc<Submission>>,
}

struct Cluster {
    federation: Arc<Federation>,
    cores: Vec<Replica>,
    verifiers: Vec<Verifier>,
    queue: VecDeque<(u16, u16, ConsensusMessage)>,
    silent: BTreeSet<u16>,
    time: u64,
    run: Run,
}

/// Submits under the first leader, silences it, and goes on under the next, so that every kind of message is said.
pub(crate) fn run(federation: &Arc<Federation>) -> Run {
    let cores = (0..4).map(|me| core(federation, me)).collect();
    let verifiers = (0..4).map(|_| Verifier::new(federation.clone())).collect();
    let (queue, silent) = (VecDeque::new(), BTreeSet::new());
    let mut cluster = Cluster { federation: federation.clone(), cores, verifiers, queue, silent, time: 0, run: Run::default() };
    for me in 0..4 {
        let step = cluster.cores[usize::from(me)].resume(now(0), &[]);
        cluster.take(me, step);
    }
    for number in 0..10 {
        cluster.submit(number);
        cluster.pass(20);
    }
    cluster.silent.insert(0);
    for number in 10..16 {
        cluster.submit(number);
        cluster.pass(1_000);
    }
    cluster.run.messages.extend(rarely_said(federation).into_iter().map(|message| (3, 1, cluster.time, message)));
    cluster.run
}

/// What no replica says in such a run.
fn rarely_said(federation: &Federation) -> [ConsensusMessage; 2] {
    let vote = |digest| {
        let vote = Vote { phase: Phase::Prepare, epoch: 0, view: 1, slot: 12, digest };
        SignedVote { vote, replica: 3, signature: secret(3).consensus_key().sign(&vote.signed_bytes(federation.id())) }
    };
    let evidence = Evidence::Votes { first: vote(Digest([1; 32])), second: vote(Digest([2; 32])) };
    [ConsensusMessage::Evidence(Box::new(evidence)), ConsensusMessage::FetchBody(FetchBody { slot: 3, digest: Digest([3; 32]) })]
}

impl Cluster {
    fn submit(&mut self, number: u64) {
        let update =
            |part| StateUpdate { update_id: UpdateId(format!("update-{number}-{part}")), data: vec![7; 30 * part], timestamp: START + self.time };
        let submission = Arc::new(Submission::sign(self.federation.id(), &author(), START + self.time + 300_000, (1..4usize).map(update).collect()));
        self.run.submissions.push(submission.clone());
        let submission = self.verifiers[1].submission(submission).unwrap();
        self.event(1, Event::Submit { submission, waiter: Waiter { ticket: number, deadline: self.time + 50_000 } });
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.time += 10;
            (0..4).for_each(|me| self.event(me, Event::Tick));
            while let Some((from, to, message)) = self.queue.pop_front() {
                if let Ok(message) = self.verifiers[usize::from(to)].message(from, message) {
                    self.event(to, Event::Message { from, message });
                }
            }
        }
    }

    fn event(&mut self, me: u16, event: Event) {
        let core = &mut self.cores[usize::from(me)];
        let step = core.handle(now(self.time), event);
        let status = core.status();
        self.verifiers[usize::from(me)].set_window(status.view, status.floor, status.stable_slot);
        self.take(me, step);
    }

    fn take(&mut self, me: u16, step: Step) {
        if me == 1 {
            self.run.records.extend(step.records);
        }
        for effect in step.immediate.into_iter().chain(step.effects) {
            match effect {
                Effect::Send { to, message } => self.send(me, to, &message),
                Effect::Broadcast(message) => (0..4).filter(|to| *to != me).for_each(|to| self.send(me, to, &message)),
                Effect::Deliver(delivery) => {
                    let header = delivery.header;
                    let (slot, sequence, digest, log_root) = (header.slot, header.last_sequence(), header.digest(), header.log_root);
                    if me == 1 {
                        self.run.batches.push(CommittedBatch { header, body: delivery.body.body, certificate: delivery.certificate });
                    }
                    if delivery.checkpoint {
                        self.event(me, Event::LogDurable(Checkpoint { epoch: 0, slot, sequence, digest, log_root }));
                    }
                }
                Effect::Halt(halt) => panic!("replica {me} halts: {halt}"),
                _ => {}
            }
        }
    }

    fn send(&mut self, from: u16, to: u16, message: &ConsensusMessage) {
        if !self.silent.contains(&from) && !self.silent.contains(&to) {
            self.run.messages.push((from, to, self.time, message.clone()));
            self.queue.push_back((from, to, message.clone()));
        }
    }
}
