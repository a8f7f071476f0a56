//! What one run does: everything that a seed decides beforehand. A plan is a file too; that is how a run that once failed is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::adversary::Behaviour;
use super::disk::Damage;
use super::rng::Rng;
use crate::types::fault_limit;

/// How a run signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signatures {
    /// By a hash: anybody could forge one, and no adversary here does.
    Cheap,
    /// By Ed25519.
    Ed25519,
}

/// How messages travel. Chances in a thousand, times in ms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// A message is lost.
    pub loss: u64,
    /// A message arrives twice.
    pub duplicates: u64,
    /// The least delay.
    pub delay_min: u64,
    /// The greatest, but for spikes.
    pub delay_max: u64,
    /// A message takes much longer.
    pub spikes: u64,
    /// How much longer.
    pub spike_ms: u64,
}

/// How disks work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// The least time a journal's group takes, ms.
    pub sync_min: u64,
    /// The greatest.
    pub sync_max: u64,
    /// The greatest time the log takes for a few batches, ms.
    pub log_max: u64,
    /// Steps that share one sync at most.
    pub group_steps: u64,
    /// KiB of a segment.
    pub segment_kib: u64,
    /// KiB of a votes file.
    pub votes_kib: u64,
    /// Bodies up to this size, in bytes, lie in their row.
    pub inline_body_bytes: u64,
}

/// What clients do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Submissions in the safety phase.
    pub submissions: u64,
    /// Authors.
    pub authors: u64,
    /// Updates in a submission at most.
    pub updates: u64,
    /// Payload bytes of an update at most.
    pub data_bytes: u64,
    /// A submission repeats an earlier one's ids with other payloads (in a thousand).
    pub conflicts: u64,
    /// A submission goes to several replicas at once (in a thousand).
    pub broadcasts: u64,
    /// A submission must be committed soon or never (in a thousand).
    pub hurried: u64,
}

/// The protocol's timers and sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// L.
    pub window_slots: u64,
    /// K.
    pub checkpoint_slots: u64,
    /// The most updates in a batch.
    pub max_batch_updates: u64,
    /// How long an id is remembered, ms.
    pub max_lifetime_ms: u64,
    /// Uncommitted slots of a leader at most.
    pub pipeline_slots: u64,
    /// Uncommitted slots below which a leader proposes whatever waits.
    pub eager_slots: u64,
    /// ms.
    pub stall_timeout_ms: u64,
    /// ms.
    pub request_timeout_ms: u64,
    /// ms.
    pub max_timeout_ms: u64,
    /// ms.
    pub gossip_ms: u64,
    /// ms.
    pub catch_up_after_ms: u64,
    /// ms.
    pub tick_ms: u64,
}

/// One thing that is done to the federation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// When, ms from the start.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// The process dies; the machine does not.
    Kill {
        /// Whose.
        replica: u16,
        /// It starts again after so many ms.
        down: u64,
    },
    /// The machine loses power.
    PowerCut {
        /// Whose.
        replica: u16,
        /// It starts again after so many ms.
        down: u64,
    },
    /// The machine loses power at the n-th thing it does to its disk from now on.
    CrashAt {
        /// Whose.
        replica: u16,
        /// n.
        operations: u64,
        /// It starts again after so many ms.
        down: u64,
    },
    /// All machines lose power at once.
    AllPowerCut {
        /// They start again within so many ms.
        down: u64,
    },
    /// Messages between the two sides are lost.
    Partition {
        /// One side, as bits.
        side: u16,
    },
    /// Messages from one member to another are lost, not those back.
    OneWay {
        /// From.
        from: u16,
        /// To.
        to: u16,
    },
    /// All partitions end.
    Mend,
    /// The share of messages lost, in a thousand, from now on.
    Loss {
        /// In a thousand.
        per_mille: u64,
    },
    /// A wall clock jumps.
    Clock {
        /// Whose.
        replica: u16,
        /// By so many ms from the true time.
        skew: i64,
    },
    /// A disk becomes slow.
    SlowDisk {
        /// Whose.
        replica: u16,
        /// So many ms more a sync.
        ms: u64,
    },
    /// A write or sync fails: the replica stops, and is started again.
    DiskError {
        /// Whose.
        replica: u16,
        /// Which.
        error: DiskError,
        /// At the n-th operation.
        operations: u64,
        /// It starts again after so many ms.
        down: u64,
    },
    /// Stored bytes are damaged, and the replica is killed. Counts against f until it has rejoined, or is seen to remember all.
    Damage {
        /// Whose.
        replica: u16,
        /// How.
        damage: Damage,
        /// Where.
        part: StoredPart,
        /// It starts again after so many ms.
        down: u64,
    },
    /// Syncs do nothing from now on, until the machine loses power. Counts against f for good.
    LyingDisk {
        /// Whose.
        replica: u16,
        /// It loses power after so many ms.
        after: u64,
    },
    /// The whole disk is replaced by an empty one. Counts against f until the replica has rejoined.
    DiskLost {
        /// Whose.
        replica: u16,
        /// It starts again after so many ms.
        down: u64,
    },
    /// An older copy of the whole data directory is put back, unsaid. Counts against f for good.
    Rollback {
        /// Whose.
        replica: u16,
    },
    /// An older copy is put back, and the operator says so. Counts against f until the replica has rejoined.
    Restore {
        /// Whose.
        replica: u16,
    },
    /// Two replicas' disks are exchanged. Counts against f twice, for good.
    SwapDisks {
        /// One.
        replica: u16,
        /// The other.
        other: u16,
    },
    /// The two instances of a twin see other halves of the federation.
    TwinSides {
        /// Who sees the second, as bits.
        side: u16,
    },
}

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskError {
    /// No space left.
    NoSpace,
    /// A write.
    Write,
    /// A sync.
    Sync,
}

/// Where damage hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredPart {
    /// The voting record.
    Votes,
    /// The segments.
    Segments,
    /// A row of the log.
    Row,
    /// The log as a whole.
    Log,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Decides what the plan leaves open: delays, losses, what a power cut keeps.
    pub seed: u64,
    /// n.
    pub replicas: u16,
    /// How it signs.
    pub signatures: Signatures,
    /// Whether messages are encoded and decoded on their way.
    pub wire: bool,
    /// How long faults go on, ms.
    pub faulty_ms: u64,
    /// How long everything pending may take afterwards, ms.
    pub healed_ms: u64,
    /// Whether the run may break more than f members: it proves nothing then, but that the checks can fail.
    #[serde(default)]
    pub over_budget: bool,
    /// The protocol.
    pub protocol: Protocol,
    /// The network.
    pub network: Network,
    /// The disks.
    pub storage: Storage,
    /// The clients.
    pub load: Load,
    /// The members that lie, and how, by member.
    #[serde(default)]
    pub byzantine: BTreeMap<String, Vec<Behaviour>>,
    /// What is done, by time.
    #[serde(default)]
    pub actions: Vec<Action>,
}

impl Plan {
    /// The plan of a seed; `replicas` fixes n.
    #[must_use]
    pub fn draw(seed: u64, replicas: Option<u16>) -> Self {
        let mut rng = Rng::new(seed, 0x91a7);
        let n = replicas.unwrap_or_else(|| match rng.below(10) {
            0..5 => 4,
            5..7 => 5 + rng.member(3),
            _ => 4 + rng.member(10),
        });
        let faulty_ms = rng.between(1_500, 6_000);
        let mut plan = Self {
            seed,
            replicas: n,
            signatures: if rng.chance(8) { Signatures::Ed25519 } else { Signatures::Cheap },
            wire: rng.chance(60),
            faulty_ms,
            healed_ms: 60_000,
            over_budget: false,
            protocol: draw_protocol(&mut rng),
            network: draw_network(&mut rng),
            storage: draw_storage(&mut rng),
            load: draw_load(&mut rng, faulty_ms),
            byzantine: BTreeMap::new(),
            actions: Vec::new(),
        };
        let f = fault_limit(usize::from(n)) as u64;
        // Half of the runs leave the whole budget to disks that forget.
        let liars = if rng.chance(550) { rng.between(1, f.max(1)).min(f) } else { 0 };
        while (plan.byzantine.len() as u64) < liars {
            let count = 1 + rng.below(2);
            let behaviours = (0..count).map(|_| Behaviour::draw(&mut rng)).collect();
            plan.byzantine.insert(rng.member(n).to_string(), behaviours);
        }
        plan.draw_actions(&mut rng);
        plan
    }

    /// A schedule for twins: one member runs twice under one key, and who sees which of the two changes all the time.
    #[must_use]
    pub fn draw_twins(seed: u64, replicas: Option<u16>) -> Self {
        let mut plan = Self::draw(seed, replicas.or(Some(4)));
        let mut rng = Rng::new(seed, 0x7412);
        let twin = rng.member(plan.replicas);
        plan.byzantine = BTreeMap::from([(twin.to_string(), vec![Behaviour::Twins])]);
        plan.actions.retain(|action| matches!(action.what, What::Loss { .. } | What::Clock { .. } | What::Mend));
        let mut at = 0;
        while at < plan.faulty_ms {
            let bits = rng.below(1 << plan.replicas);
            let side = u16::try_from(bits).unwrap_or(0);
            plan.actions.push(Action { at, what: What::TwinSides { side } });
            if rng.chance(500) {
                plan.actions.push(Action { at, what: What::Partition { side } });
            } else {
                plan.actions.push(Action { at, what: What::Mend });
            }
            at += rng.between(50, 900);
        }
        plan.actions.sort_by_key(|action| action.at);
        plan
    }

    fn draw_actions(&mut self, rng: &mut Rng) {
        let n = self.replicas;
        let wild = rng.below(4);
        let gap = [30, 90, 220, 600].get(wild as usize).copied().unwrap_or(300);
        let mut at = rng.below(gap * 2);
        while at < self.faulty_ms {
            let what = draw_what(rng, n);
            self.actions.push(Action { at, what });
            at += rng.between(1, gap * 2);
        }
    }

    /// Whether a member lies.
    #[must_use]
    pub fn lies(&self, member: u16) -> Option<&Vec<Behaviour>> {
        self.byzantine.get(&member.to_string())
    }
}

fn draw_what(rng: &mut Rng, n: u16) -> What {
    let (replica, other) = (rng.member(n), rng.member(n));
    let down = if rng.chance(700) { rng.between(1, 400) } else { rng.between(400, 3_000) };
    match rng.below(100) {
        0..14 => What::Kill { replica, down },
        14..24 => What::PowerCut { replica, down },
        24..40 => What::CrashAt { replica, operations: rng.between(1, 60), down },
        40..46 => What::AllPowerCut { down: down.min(500) },
        46..56 => What::Partition { side: u16::try_from(rng.below(1 << n)).unwrap_or(1) },
        56..59 => What::OneWay { from: replica, to: other },
        59..67 => What::Mend,
        67..70 => What::Loss { per_mille: [0, 20, 100, 300][rng.below(4) as usize] },
        70..74 => What::Clock { replica, skew: [0, 500, -500, 3_000, -9_000, 60_000, -3_600_000][rng.below(7) as usize] },
        74..77 => What::SlowDisk { replica, ms: rng.below(120) },
        77..81 => {
            let error = [DiskError::NoSpace, DiskError::Write, DiskError::Sync][rng.below(3) as usize];
            What::DiskError { replica, error, operations: rng.between(1, 40), down }
        }
        81..90 => {
            let damage = [
                Damage::BitFlip,
                Damage::ZeroedSector,
                Damage::ZeroedPage,
                Damage::TornPage,
                Damage::Truncated,
                Damage::Deleted,
                Damage::Misdirected,
                Damage::LostWrite,
            ][rng.below(8) as usize];
            let part = [StoredPart::Votes, StoredPart::Votes, StoredPart::Segments, StoredPart::Row, StoredPart::Log][rng.below(5) as usize];
            What::Damage { replica, damage, part, down }
        }
        90..92 => What::LyingDisk { replica, after: rng.between(10, 800) },
        92..95 => What::DiskLost { replica, down },
        95..96 => What::Rollback { replica },
        96..99 => What::Restore { replica },
        _ => What::SwapDisks { replica, other },
    }
}

fn draw_protocol(rng: &mut Rng) -> Protocol {
    let window_slots = rng.between(2, 24);
    let stall_timeout_ms = rng.between(150, 500);
    Protocol {
        window_slots,
        checkpoint_slots: rng.between(1, (window_slots / 2).max(1)),
        max_batch_updates: rng.between(4, 64),
        max_lifetime_ms: if rng.chance(150) { rng.between(4_000, 12_000) } else { 600_000 },
        pipeline_slots: rng.between(1, 16),
        eager_slots: rng.between(1, 4),
        stall_timeout_ms,
        request_timeout_ms: stall_timeout_ms * rng.between(2, 5),
        max_timeout_ms: 5_000,
        gossip_ms: rng.between(40, 100),
        catch_up_after_ms: rng.between(50, 200),
        tick_ms: 20,
    }
}

fn draw_network(rng: &mut Rng) -> Network {
    let delay_min = rng.below(5);
    Network {
        loss: if rng.chance(500) { 0 } else { rng.below(200) },
        duplicates: rng.below(60),
        delay_min,
        delay_max: delay_min + [2, 10, 40, 120][rng.below(4) as usize],
        spikes: rng.below(15),
        spike_ms: rng.between(100, 1_500),
    }
}

fn draw_storage(rng: &mut Rng) -> Storage {
    Storage {
        sync_min: 0,
        sync_max: [1, 4, 20, 60][rng.below(4) as usize],
        log_max: [2, 10, 50][rng.below(3) as usize],
        group_steps: [16, 64, 512][rng.below(3) as usize],
        segment_kib: [16, 32, 128][rng.below(3) as usize],
        votes_kib: [16, 32, 64][rng.below(3) as usize],
        inline_body_bytes: [0, 300, 4_096][rng.below(3) as usize],
    }
}

fn draw_load(rng: &mut Rng, faulty_ms: u64) -> Load {
    Load {
        submissions: rng.between(5, 10 + faulty_ms / 60),
        authors: rng.between(1, 3),
        updates: rng.between(1, 4),
        data_bytes: [0, 40, 400, 3_000][rng.below(4) as usize],
        conflicts: rng.below(80),
        broadcasts: rng.below(200),
        hurried: rng.below(120),
    }
}
