//! What can be seen of a running replica from outside its threads: for status pages, readiness and metrics.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use super::handle::Handle;
use crate::net::NetCounters;
use crate::types::{PeerId, ReplicaStatus, Role, Sequence, Slot, Status};

/// A replica at one moment.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Where it stands.
    pub status: ReplicaStatus,
    /// The last sequence number that its log holds.
    pub log_sequence: Sequence,
    /// Committed batches on their way to the log.
    pub log_backlog: u64,
    /// How many slots it is behind what f + 1 members say they have committed: at least one of them is correct.
    pub lag_slots: Slot,
    /// The other members, in the genesis's order.
    pub peers: Vec<PeerStanding>,
    /// What its transport counted.
    pub net: NetCounters,
    /// Why it stops, once it does.
    pub stopping: Option<String>,
}

/// What a replica knows of another: the other's own words.
#[derive(Debug, Clone)]
pub struct PeerStanding {
    /// Who.
    pub peer: PeerId,
    /// Whether messages reach it.
    pub connected: bool,
    /// What it said last; `None` if nothing yet.
    pub said: Option<Status>,
}

impl Handle {
    /// Looks at the replica without disturbing it.
    #[must_use]
    pub fn observe(&self) -> Observation {
        let service = &self.service;
        let net = service.net.get().and_then(Weak::upgrade);
        let connected = net.as_ref().map_or_else(Vec::new, |net| net.connected());
        let said = service.shared.status.lock().peers.clone();
        let status = service.status();
        let members = service.federation.members().iter().zip(said).zip(0u16..);
        let others = members.filter(|((member, _), _)| member.peer != status.peer);
        let peers: Vec<PeerStanding> =
            others.map(|((m, said), index)| PeerStanding { peer: m.peer.clone(), connected: connected.contains(&index), said }).collect();
        Observation {
            lag_slots: believable_slot(&peers, service.federation.weak_quorum()).saturating_sub(status.slot),
            log_sequence: self.head(),
            log_backlog: service.shared.counters.log_backlog.load(Ordering::Relaxed),
            net: net.map(|net| net.counters()).unwrap_or_default(),
            stopping: service.shared.stopped().borrow().clone(),
            peers,
            status,
        }
    }
}

/// The highest slot that so many others say they have committed.
fn believable_slot(peers: &[PeerStanding], weak_quorum: usize) -> Slot {
    let mut slots: Vec<Slot> = peers.iter().filter_map(|peer| peer.said.map(|said| said.committed)).collect();
    slots.sort_unstable_by(|a, b| b.cmp(a));
    slots.get(weak_quorum.saturating_sub(1)).copied().unwrap_or(0)
}

impl Observation {
    /// Why the replica cannot vote at present; empty if it can.
    #[must_use]
    pub fn obstacles(&self, quorum: usize, window_slots: u64) -> Vec<String> {
        let mut obstacles = Vec::new();
        if let Some(reason) = &self.stopping {
            obstacles.push(format!("it stops: {reason}"));
        }
        match self.status.role {
            Role::Suspect => {
                let reason = self.status.suspect.as_deref().unwrap_or("it cannot prove that it remembers its votes");
                obstacles.push(format!("it is suspect: {reason}"));
            }
            Role::Changing => obstacles.push(format!("it is between two views, on its way to view {}", self.status.view)),
            Role::Leader | Role::Follower => {}
        }
        let reached = self.peers.iter().filter(|peer| peer.connected).count() + 1;
        if reached < quorum {
            obstacles.push(format!("it reaches {reached} members with itself, a quorum is {quorum}"));
        }
        if self.lag_slots > window_slots {
            obstacles.push(format!("it is {} slots behind, more than the window of {window_slots}; it catches up", self.lag_slots));
        }
        obstacles
    }
}
