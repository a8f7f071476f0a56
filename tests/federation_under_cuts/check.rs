//! What must hold of a state.
//!
//! 1. Each replica recovers, finds no damage, and may vote.
//! 2. Of every slot with an acknowledged update, at least a quorum holds the digest that was acknowledged: committed in its log, or as a prepared
//!    certificate with the body. That is what was on disk before each of the quorum's Commits left, and the acknowledgement contains those
//!    Commits. It suffices: a view change hears a quorum, which shares more than f replicas with this one, so one at least whose word is true
//!    reports the slot; and rule 3.
//! 3. Nobody holds another digest of that slot committed, or prepared in the same or a later view than the newest of rule 2: of the reported
//!    certificates that of the highest view is chosen.
//! 4. All logs agree where they overlap, slot by slot, without a gap.

use std::collections::BTreeMap;
use std::path::Path;

use exo_federation::config::ReplicaFile;
use exo_federation::consensus::{Record, batch_of_frame};
use exo_federation::crypto::Digest;
use exo_federation::node::{LogEntry, NodeConfig};
use exo_federation::recovery::{DataDir, Inputs, Recovered, recover};
use exo_federation::store::LogReader as _;
use exo_federation::types::{Slot, View};

use super::load::Ack;
use super::{REPLICAS, Tally};
use crate::powercut::disk::Cut;

/// Every acknowledged update stands at its place.
pub(crate) fn holds_once<'a>(entries: &[LogEntry], acks: impl Iterator<Item = &'a Ack>) {
    for (entry, sequence) in entries.iter().zip(1u64..) {
        assert_eq!(entry.sequence, sequence, "the log has a gap");
    }
    for ack in acks {
        let entry = usize::try_from(ack.sequence - 1).ok().and_then(|at| entries.get(at)).unwrap_or_else(|| panic!("{ack:?} is lost"));
        assert_eq!(entry.update.update_id.0, ack.update_id, "another update stands where {ack:?} was acknowledged");
    }
    let ids: std::collections::BTreeSet<_> = entries.iter().map(|entry| &entry.update.update_id).collect();
    assert_eq!(ids.len(), entries.len(), "an update stands twice in the log");
}

/// Checks states of one recording.
pub(crate) struct Checker {
    configs: Vec<NodeConfig>,
    acks: Vec<Ack>,
}

/// What one replica holds of its slots.
struct Holdings {
    committed: BTreeMap<Slot, Digest>,
    /// With the view, if the body is there too.
    prepared: BTreeMap<Slot, (View, Digest, bool)>,
}

impl Checker {
    pub(crate) fn new(configurations: &Path, acks: Vec<Ack>) -> Self {
        let load = |k| ReplicaFile::load(&configurations.join(format!("replica-{k}/replica.toml"))).unwrap();
        Self { configs: (0..REPLICAS).map(load).collect(), acks }
    }

    /// Recovers the four directories below `dir`, as a cut at `at` left them.
    pub(crate) fn check(&self, dir: &Path, at: u64, cut: Cut) -> Result<Tally, String> {
        let mut tally = Tally { states: 1, torn_states: u64::from(cut.torn), ..Tally::default() };
        let mut all = Vec::new();
        for (k, config) in self.configs.iter().enumerate() {
            let named = |problem: String| format!("replica-{k}: {problem}");
            let recovered = self.recover(config, &dir.join(k.to_string())).map_err(named)?;
            let report = &recovered.report;
            let sound = report.suspect.is_none() && report.damaged.is_empty();
            // Torn inside a page is damage to the journal: it says so, and the replica does not vote.
            let expected = sound || (cut.torn && report.suspect.is_some());
            if !expected {
                return Err(named(format!("damage after a mere cut: {report:?}")));
            }
            tally.suspects += u64::from(report.suspect.is_some());
            (tally.cut, tally.appended) = (tally.cut + report.cut, tally.appended + report.appended);
            all.push(holdings(&recovered).map_err(named)?);
        }
        agree(&all)?;
        let mut slots = BTreeMap::new();
        for ack in self.acks.iter().filter(|ack| ack.at <= at) {
            tally.acks_checked += 1;
            let known = slots.insert(ack.slot, ack.digest);
            if known.is_some_and(|digest| digest != ack.digest) {
                return Err(format!("two digests were acknowledged in slot {}", ack.slot));
            }
        }
        for (slot, digest) in slots {
            tally.prepared_only += u64::from(self.is_held(&all, slot, digest)?);
        }
        Ok(tally)
    }

    fn recover(&self, config: &NodeConfig, data: &Path) -> Result<Recovered, String> {
        let inputs = Inputs {
            federation: config.federation.clone(),
            me: config.me,
            key: config.secret.consensus_key(),
            core: config.core.clone(),
            journal: config.journal,
            store: config.store,
            nonce: 0,
        };
        recover(&DataDir(data.to_path_buf()), inputs).map_err(|error| format!("does not start: {error}"))
    }

    /// Rules 2 and 3; gives whether any replica holds the slot as prepared only.
    fn is_held(&self, all: &[Holdings], slot: Slot, digest: Digest) -> Result<bool, String> {
        let quorum = self.configs[0].federation.quorum();
        let committed = all.iter().filter(|h| h.committed.get(&slot) == Some(&digest)).count();
        let prepared: Vec<View> = all
            .iter()
            .filter(|h| !h.committed.contains_key(&slot))
            .filter_map(|h| h.prepared.get(&slot).filter(|(_, d, body)| *d == digest && *body))
            .map(|(view, ..)| *view)
            .collect();
        if committed + prepared.len() < quorum {
            let views: Vec<_> = all.iter().map(|h| (h.committed.last_key_value().map(|(slot, _)| *slot), h.prepared.get(&slot))).collect();
            return Err(format!(
                "slot {slot} was acknowledged; {committed} hold it committed, {} prepared, a quorum is {quorum}: {views:?}",
                prepared.len()
            ));
        }
        let newest = prepared.iter().max().copied();
        for other in all.iter().filter_map(|h| h.prepared.get(&slot)).filter(|(_, d, _)| *d != digest) {
            if committed == 0 && newest.is_none_or(|newest| other.0 >= newest) {
                return Err(format!("slot {slot} was acknowledged with {digest:?}, and {other:?} is prepared in a later view"));
            }
        }
        Ok(!prepared.is_empty())
    }
}

fn holdings(recovered: &Recovered) -> Result<Holdings, String> {
    let (mut committed, mut parent) = (BTreeMap::new(), Digest::ZERO);
    for row in recovered.store.reader().rows_from_sequence(1) {
        let header = row.map_err(|error| error.to_string())?.header;
        if header.slot != committed.len() as u64 + 1 || header.parent != parent {
            return Err(format!("the log has a gap at slot {}", header.slot));
        }
        parent = header.digest();
        committed.insert(header.slot, parent);
    }
    let reader = recovered.journal.reader();
    let mut prepared = BTreeMap::new();
    for record in recovered.core.voting_snapshot() {
        let Record::Prepared(certificate) = record else { continue };
        let digest = certificate.header.digest();
        let place = recovered.places.get(&(certificate.header.slot, digest));
        let body =
            place.is_some_and(|place| reader.read(*place).ok().and_then(|b| batch_of_frame(&b).ok()).is_some_and(|(h, _)| h.digest() == digest));
        prepared.insert(certificate.header.slot, (certificate.view, digest, body));
    }
    Ok(Holdings { committed, prepared })
}

fn agree(all: &[Holdings]) -> Result<(), String> {
    let mut chosen: BTreeMap<Slot, Digest> = BTreeMap::new();
    for (slot, digest) in all.iter().flat_map(|h| &h.committed) {
        if *chosen.entry(*slot).or_insert(*digest) != *digest {
            return Err(format!("the logs differ at slot {slot}"));
        }
    }
    Ok(())
}
