//! Shrinks a failing plan: what the failure does not need is left out, one thing after another, for as long as the same invariant breaks.

use super::{Plan, Signatures, simulate};

/// The smallest plan found that breaks the same invariant. `progress` is told of the actions left and the runs made.
#[must_use]
pub fn minimise(plan: &Plan, progress: &dyn Fn(usize, u64)) -> Plan {
    let Some(broken) = simulate(plan).violation else { return plan.clone() };
    let mut search = Search { invariant: broken.invariant, best: plan.clone(), runs: 0 };
    loop {
        let before = search.best.clone();
        search.fewer_actions(progress);
        search.simpler();
        if search.best == before {
            return search.best;
        }
    }
}

struct Search {
    invariant: &'static str,
    best: Plan,
    runs: u64,
}

impl Search {
    fn try_plan(&mut self, plan: Plan) -> bool {
        self.runs += 1;
        let same = simulate(&plan).violation.is_some_and(|violation| violation.invariant == self.invariant);
        if same {
            self.best = plan;
        }
        same
    }

    /// Leaves out runs of actions, long ones first (Zeller and Hildebrandt, TSE 2002).
    fn fewer_actions(&mut self, progress: &dyn Fn(usize, u64)) {
        let mut chunk = self.best.actions.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            while at < self.best.actions.len() {
                let mut plan = self.best.clone();
                plan.actions.drain(at..(at + chunk).min(plan.actions.len()));
                if !self.try_plan(plan) {
                    at += chunk;
                }
            }
            progress(self.best.actions.len(), self.runs);
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
    }

    /// Takes everything else back to what is plain.
    fn simpler(&mut self) {
        for member in self.best.byzantine.keys().cloned().collect::<Vec<_>>() {
            let mut plan = self.best.clone();
            plan.byzantine.remove(&member);
            self.try_plan(plan);
        }
        let changes: [fn(&mut Plan); 10] = [
            |p| p.network.loss = 0,
            |p| p.network.duplicates = 0,
            |p| p.network.spikes = 0,
            |p| p.network.delay_max = p.network.delay_min,
            |p| p.storage.sync_max = p.storage.sync_min,
            |p| p.load.conflicts = 0,
            |p| p.load.broadcasts = 0,
            |p| p.load.hurried = 0,
            |p| p.load.submissions = p.load.submissions.div_ceil(2),
            |p| (p.signatures, p.wire) = (Signatures::Cheap, false),
        ];
        for change in changes {
            let mut plan = self.best.clone();
            change(&mut plan);
            if plan != self.best {
                self.try_plan(plan);
            }
        }
    }
}
