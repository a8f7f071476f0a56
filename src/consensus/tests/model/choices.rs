//! What may happen next, and what of it counts.

use super::*;

impl Small {
    /// Votes of others for what the replica accepted that make a quorum with its own, or without it, and are still of use.
    pub(super) fn quorums(&self, me: ReplicaIndex, local: &Local, known: &[Said], shared: &Shared) -> Vec<Happening> {
        let core = &local.core;
        let mut by_statement: BTreeMap<(Phase, u64), Vec<(bool, Said)>> = BTreeMap::new();
        for said in known {
            let message = &shared.messages[usize::from(*said)];
            let ConsensusMessage::Vote(SignedVote { vote, .. }) = &message.content else { continue };
            let Some(slot) = core.slots.get(&vote.slot).filter(|slot| slot.accepted.as_ref().is_some_and(|a| a.digest == vote.digest)) else {
                continue;
            };
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
    pub(super) fn departures(&self, me: ReplicaIndex, local: &Local, changes: &[(ReplicaIndex, Said)]) -> Vec<Happening> {
        let place = local.core.place();
        let leads = self.federation.leader(SECOND) == me;
        let needed = match (place.view, place.changing) {
            (0, _) => self.federation.weak_quorum(),
            (SECOND, true) if leads => self.federation.quorum() - 1,
            _ => return vec![],
        };
        let mut choices: Vec<Vec<(ReplicaIndex, Said)>> = vec![vec![]];
        for change in changes {
            let longer: Vec<_> =
                choices.iter().filter(|c| c.iter().all(|known| known.0 != change.0)).map(|c| [&c[..], &[*change]].concat()).collect();
            choices.extend(longer);
        }
        let whole = choices.into_iter().filter(|choice| choice.len() == needed);
        // Who does not lead only counts them.
        whole.take(if leads { usize::MAX } else { 1 }).map(|choice| Happening::Arrive(choice.into_iter().map(|(_, said)| said).collect())).collect()
    }

    /// Whether a message can have an effect by itself, now.
    pub(super) fn counts(&self, core: &Replica, content: &ConsensusMessage) -> bool {
        let in_view = |view: u64| view == core.view && !core.changing;
        match content {
            ConsensusMessage::PrePrepare(proposal) => in_view(proposal.view) && proposal.header.slot == core.head() + 1,
            ConsensusMessage::Evidence(evidence) => in_view(evidence.place().1),
            ConsensusMessage::Body(header, _) => core.slots.get(&header.slot).is_some_and(|slot| slot.accepted.is_some()),
            ConsensusMessage::NewView(_) => true,
            // In quorums; with a timeout.
            _ => false,
        }
    }

    /// What may happen to one replica, given everything that was said.
    pub(super) fn happenings(&self, me: ReplicaIndex, local: &Local, known: &[Said], shared: &Shared) -> Vec<Happening> {
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

    /// Everything that was said, by number and as a list.
    fn known(&self, state: &State, shared: &mut Shared) -> Arc<Known> {
        let spoken: Vec<u32> = state.0.iter().map(|local| shared.spoken[*local as usize]).collect();
        if let Some(known) = shared.known.get(&spoken) {
            return known.clone();
        }
        let said: BTreeSet<Said> = state.0.iter().flat_map(|local| shared.locals[*local as usize].said.iter().copied()).collect();
        let follows = self.consequences(&said, shared);
        let said: Vec<Said> = said.into_iter().chain(self.lies.iter().copied()).chain(follows).collect();
        let number = shared.by_said.len();
        let number = *shared.by_said.entry(said.clone()).or_insert(number);
        let known = Arc::new(Known { number, said });
        shared.known.insert(spoken, known.clone());
        known
    }

    /// The steps that may be next for one replica, one for each state that they lead to.
    pub(super) fn next(&self, at: u32, me: ReplicaIndex, state: &State, may_crash: bool, shared: &mut Shared) -> Arc<Vec<u32>> {
        let known = self.known(state, shared);
        if let Some(next) = shared.next.get(&(at, known.number, may_crash)) {
            return next.clone();
        }
        let local = shared.locals[at as usize].clone();
        let mut happenings = self.happenings(me, &local, &known.said, shared);
        if may_crash {
            happenings.extend([false, true].map(|unsynced_lost| Happening::Crash { unsynced_lost }));
        } else {
            happenings.retain(|what| !matches!(what, Happening::CrashDuring(_)));
        }
        let mut to = BTreeMap::new();
        for what in happenings {
            if let Some(step) = self.step(at, me, &what, shared) {
                to.entry(shared.taken[step as usize].to).or_insert(step);
            }
        }
        let next = Arc::new(to.into_values().collect::<Vec<_>>());
        shared.next.insert((at, known.number, may_crash), next.clone());
        next
    }
}
