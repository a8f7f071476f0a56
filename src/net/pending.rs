//! The handshakes under way: how many there are, and of which proven address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::NetOptions;
use super::options::count;

/// What to do with a connection attempt.
pub(super) enum Verdict {
    /// Let it begin; it is counted until this is dropped.
    Begin(Ticket),
    /// It must prove its address first.
    Prove,
    /// There are too many.
    Refuse,
}

/// Counts handshakes. Addresses that were not proven are held against nobody, because anyone can forge them; they are asked for proof
/// instead as soon as there are many.
pub(super) struct Pending {
    all: usize,
    of_address: usize,
    unproven: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    of_address: BTreeMap<IpAddr, usize>,
}

/// One handshake under way.
pub(super) struct Ticket {
    pending: Arc<Pending>,
    proven: Option<IpAddr>,
}

impl Pending {
    pub(super) fn new(options: &NetOptions) -> Arc<Self> {
        Arc::new(Self {
            all: count(options.max_pending_handshakes),
            of_address: count(options.max_pending_per_address),
            unproven: count(options.retry_above),
            counts: Mutex::default(),
        })
    }

    pub(super) fn judge(self: &Arc<Self>, address: IpAddr, proven: bool) -> Verdict {
        let mut counts = self.counts.lock();
        if !proven && counts.all >= self.unproven {
            return Verdict::Prove;
        }
        let of_address = counts.of_address.get(&address).copied().unwrap_or(0);
        if counts.all >= self.all || (proven && of_address >= self.of_address) {
            return Verdict::Refuse;
        }
        counts.all = counts.all.saturating_add(1);
        if proven {
            counts.of_address.insert(address, of_address.saturating_add(1));
        }
        Verdict::Begin(Ticket { pending: self.clone(), proven: proven.then_some(address) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = self.pending.counts.lock();
        counts.all = counts.all.saturating_sub(1);
        let Some(address) = self.proven else { return };
        if let Some(left) = counts.of_address.get_mut(&address) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                counts.of_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_address_cannot_take_every_place_and_a_forged_one_takes_nobodys() {
        let options = NetOptions { max_pending_handshakes: 4, max_pending_per_address: 2, retry_above: 1, ..NetOptions::default() };
        let pending = Pending::new(&options);
        let address = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let begin = |last, proven| match pending.judge(address(last), proven) {
            Verdict::Begin(ticket) => ticket,
            Verdict::Prove | Verdict::Refuse => panic!("refused"),
        };
        let forged = begin(1, false);
        assert!(matches!(pending.judge(address(2), false), Verdict::Prove));
        let first = begin(1, true);
        let _second = begin(1, true);
        assert!(matches!(pending.judge(address(1), true), Verdict::Refuse));
        let _other = begin(2, true);
        assert!(matches!(pending.judge(address(3), true), Verdict::Refuse), "four in all");
        drop(forged);
        assert!(matches!(pending.judge(address(1), true), Verdict::Refuse), "the forged attempt was never its own");
        drop(first);
        let _third = begin(1, true);
    }
}
