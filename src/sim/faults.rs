//! What a plan does to a simulated federation.

use std::sync::Arc;

use super::disk::Trap;
use super::instance::Taint;
use super::plan::{DiskError, StoredPart, What};
use super::world::{Item, World};

impl World {
    pub(super) fn correct(&self, replica: u16) -> Option<usize> {
        Some(usize::from(replica)).filter(|at| *at < self.instances.len())
    }

    pub(super) fn act(&mut self, what: What) {
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
    pub(super) fn may_lose_power(&self, at: usize) -> bool {
        self.instances.get(at).is_some_and(|i| !i.disk.is_lying())
    }

    /// Whether a member may be tampered with now; it counts against f from then on.
    pub(super) fn taint(&mut self, replica: u16, taint: Taint) -> Option<usize> {
        let at = self.correct(replica)?;
        let instance = self.instances.get(at)?;
        let more = usize::from(instance.liars.is_empty() && instance.taint == Taint::None);
        if !instance.liars.is_empty() || !self.budget(more) || instance.disk.is_lying() {
            return None;
        }
        let instance = self.instances.get_mut(at)?;
        // A run over its budget excuses nobody: it must fail.
        if self.plan.over_budget {
            return Some(at);
        }
        instance.scarred = true;
        // That it rejoined says nothing of what is lost from now on.
        if let Some(live) = instance.live.as_deref_mut() {
            live.began_suspect = false;
        }
        if instance.taint != Taint::Forever {
            instance.taint = taint;
        }
        Some(at)
    }

    pub(super) fn tamper(&mut self, what: What) {
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
    pub(super) fn put_back(&mut self, replica: u16, taint: Taint, name: &'static str) {
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
