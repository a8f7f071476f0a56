//! One replica: what it hears, what it lets out, what a crash leaves of it.

use super::*;

impl Small {
    pub(super) fn name(&self, digest: Digest) -> String {
        let at = self.batches.iter().position(|(header, _)| header.digest() == digest);
        at.map_or_else(|| format!("{digest:?}"), |at| ["a1", "b1", "a1b2", "b1a2"][at].to_owned())
    }

    /// A message's number. Which quorum signed a certificate makes no difference to anyone, so it makes none here.
    pub(super) fn number(&self, from: ReplicaIndex, content: ConsensusMessage, shared: &mut Shared) -> Said {
        let label = format!("{from}: {}", self.label(&content));
        if let Some(known) = shared.by_label.get(&label) {
            return *known;
        }
        let number = Said::try_from(shared.messages.len()).unwrap();
        shared.messages.push(Message { from, content, label: label.clone() });
        shared.by_label.insert(label, number);
        number
    }

    pub(super) fn label(&self, content: &ConsensusMessage) -> String {
        match content {
            ConsensusMessage::PrePrepare(p) => format!("propose {} in view {}", self.name(p.header.digest()), p.view),
            ConsensusMessage::Vote(v) => format!("{:?} {} in view {}", v.vote.phase, self.name(v.vote.digest), v.vote.view),
            ConsensusMessage::ViewChange(change) => self.label_change(change),
            ConsensusMessage::NewView(new_view) => {
                let changes: Vec<String> = new_view.view_changes.iter().map(|change| self.label_change(change)).collect();
                format!("begin view {} with {changes:?}", new_view.view)
            }
            ConsensusMessage::Body(header, _) => format!("body of {}", self.name(header.digest())),
            ConsensusMessage::Evidence(e) => format!("evidence against {} in view {}", e.accused(&self.federation), e.place().1),
            ConsensusMessage::Complaint(c) => format!("complaint of {} about view {}", c.replica, c.complaint.view),
            other => format!("{other:?}"),
        }
    }

    pub(super) fn label_change(&self, change: &ViewChange) -> String {
        let prepared: Vec<String> = change.prepared.iter().map(|c| format!("{} in {}", self.name(c.header.digest()), c.view)).collect();
        format!("{} leaves for view {} with {prepared:?}", change.replica, change.new_view)
    }

    pub(super) fn restarted(&self, me: ReplicaIndex, mut journal: Vec<Record>, time: u64) -> (Replica, Vec<Record>, super::super::Step) {
        let run = journal.iter().filter(|record| matches!(record, Record::Started { .. })).count() as u64 + 1;
        journal.push(Record::Started { run });
        let (tip, duplicates, _) = log_of(&self.federation, &journal);
        let mut core = Replica::new(self.federation.clone(), me, key(me), options(), tip, duplicates, Suspicion::default());
        journal.iter().for_each(|record| core.replay(record));
        let step = core.resume(Now { wall: START, mono: time }, &[]);
        (core, journal, step)
    }

    pub(super) fn first(&self, me: ReplicaIndex, shared: &mut Shared) -> Local {
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
    pub(super) fn hear(&self, local: &mut Local, me: ReplicaIndex, from: ReplicaIndex, message: ConsensusMessage, crash: bool, shared: &mut Shared) {
        let place = local.core.place();
        let gate = Verifier::new(self.federation.clone());
        gate.set_window(place.view, place.floor, place.stable);
        let Ok(message) = gate.message(from, message) else { return };
        self.event(local, me, Event::Message { from, message }, crash, shared);
    }

    pub(super) fn event(&self, local: &mut Local, me: ReplicaIndex, event: Event, crash: bool, shared: &mut Shared) {
        if self.bounds.broken == Broken::PreparedForgotten {
            local.core.slots.values_mut().for_each(|slot| slot.prepared = None);
        }
        let step = local.core.handle(Now { wall: START, mono: local.time }, event);
        self.take(local, me, step, crash, shared);
    }

    pub(super) fn take(&self, local: &mut Local, me: ReplicaIndex, step: super::super::Step, crash: bool, shared: &mut Shared) {
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

    pub(super) fn say(&self, local: &mut Local, me: ReplicaIndex, message: ConsensusMessage, shared: &mut Shared) {
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
    pub(super) fn essence(&self, local: &Local) -> String {
        let core = &local.core;
        let change = |change: &Arc<ViewChange>| self.label_change(change);
        let slots: Vec<_> = core
            .slots
            .iter()
            .map(|(slot, state)| {
                let accepted = state.accepted.as_ref().map(|a| (a.digest, a.proposal.is_some(), a.frontier.is_some()));
                let prepared = state.prepared.as_ref().map(|p| (p.view, p.header.digest()));
                // Votes that have done what they can are not looked at again in this view.
                let prepares = (!state.commit_sent).then_some(&state.prepares.current);
                let commits = (*slot > core.tip.slot).then_some(&state.commits.current);
                let ahead = (&state.prepares.ahead, &state.commits.ahead);
                (slot, accepted, prepared, state.committed, state.prepare_sent, state.commit_sent, prepares, commits, ahead)
            })
            .collect();
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
    pub(super) fn keep(&self, me: ReplicaIndex, local: Local, shared: &mut Shared) -> u32 {
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
        let spoken = u32::try_from(shared.by_spoken.len()).unwrap();
        shared.spoken.push(*shared.by_spoken.entry(local.said.clone()).or_insert(spoken));
        shared.locals.push(Arc::new(local));
        shared.by_essence.insert(essence, number);
        number
    }

    pub(super) fn crashed(&self, me: ReplicaIndex, before: &Local, unsynced_lost: bool, shared: &mut Shared) -> Local {
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

    /// What happens to a replica, and where that leads; `None` if nothing changes.
    pub(super) fn step(&self, from: u32, me: ReplicaIndex, what: &Happening, shared: &mut Shared) -> Option<u32> {
        if let Some(known) = shared.steps.get(&(from, what.clone())) {
            return *known;
        }
        let before = shared.locals[from as usize].clone();
        let after = self.after(&before, me, what, shared);
        let to = self.keep(me, after, shared);
        let step = (to != from).then(|| {
            shared.taken.push(Taken { replica: me, what: what.clone(), to });
            u32::try_from(shared.taken.len() - 1).unwrap()
        });
        shared.steps.insert((from, what.clone()), step);
        step
    }

    pub(super) fn after(&self, before: &Local, me: ReplicaIndex, what: &Happening, shared: &mut Shared) -> Local {
        let mut local = before.clone();
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
            Happening::Crash { unsynced_lost } => local = self.crashed(me, before, *unsynced_lost, shared),
            Happening::CrashDuring(message) => {
                let Message { from, content, .. } = shared.messages[usize::from(*message)].clone();
                self.hear(&mut local, me, from, content, true, shared);
                // Nothing has left: the crash might as well have come before.
                if local.said != before.said {
                    local = self.crashed(me, &Local { journal: before.journal.clone(), ..local }, false, shared);
                } else {
                    local = before.clone();
                }
            }
        }
        local
    }
}
