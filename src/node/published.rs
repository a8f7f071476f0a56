//! What this replica cosigned, and the newest checkpoint that a quorum cosigned: in memory, and in two small files of the data directory.
//!
//! Nothing about votes depends on these files. A cosignature is durable before anybody is given it, so that no restart makes a second statement
//! about one size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::crypto::{Digest, SigningKey};
use crate::recovery::{DataDir, read_note};
use crate::types::{Checkpoint, Cosignature, Federation, PublishedCheckpoint, ReplicaIndex};

/// So many of its own cosignatures a replica keeps for peers that are behind.
const KEPT: usize = 64;

/// A replica's cosignatures. Shared by the task that makes them and whoever answers for the replica.
pub(super) struct Published {
    federation: Arc<Federation>,
    me: ReplicaIndex,
    key: SigningKey,
    dir: DataDir,
    held: Mutex<Held>,
    /// The newest size cosigned, for whoever waits for it.
    cosigned: watch::Sender<u64>,
}

struct Held {
    own: BTreeMap<u64, Cosignature>,
    /// Nothing of this size or below is cosigned any more.
    signed_up_to: u64,
    /// No cosignature is dated earlier than the one before.
    latest: u64,
    newest: Option<Arc<PublishedCheckpoint>>,
}

impl Published {
    /// Reads what an earlier run left. `stable` is the end of the log that was stable before this start: a replica that does not know what it cosigned
    /// begins behind it.
    pub(super) fn open(federation: Arc<Federation>, me: ReplicaIndex, key: SigningKey, dir: DataDir, stable: u64) -> Self {
        for path in [dir.cosignature(), dir.checkpoint()] {
            // What an earlier run did not finish; it may not be there.
            let _ = fs::remove_file(path.with_added_extension("new"));
        }
        let own = read(&dir.cosignature(), &federation).and_then(|note| note.cosignatures.into_iter().find(|c| c.replica == me));
        let own = own.filter(|own| own.verify(&federation).is_ok());
        let newest = read(&dir.checkpoint(), &federation).filter(|note| note.verify(&federation).is_ok());
        let signed_up_to = own.map_or(stable, |own| own.size);
        let held = Held {
            own: own.into_iter().map(|own| (own.size, own)).collect(),
            signed_up_to,
            latest: own.map_or(0, |own| own.timestamp),
            newest: newest.map(Arc::new),
        };
        Self { federation, me, key, dir, held: Mutex::new(held), cosigned: watch::Sender::new(own.map_or(0, |own| own.size)) }
    }

    /// Cosigns a stable checkpoint of this replica's own log, once; durable when it returns. `now` is in seconds.
    pub(super) fn cosign(&self, checkpoint: &Checkpoint, now: u64) -> io::Result<()> {
        let (size, root) = (checkpoint.sequence, checkpoint.log_root);
        let timestamp = {
            let mut held = self.held.lock();
            if size <= held.signed_up_to {
                return Ok(());
            }
            // Whatever becomes of the write, this size is never signed again.
            held.signed_up_to = size;
            held.latest = held.latest.max(now);
            held.latest
        };
        let own = Cosignature::sign(self.federation.id(), &self.key, self.me, (size, root), timestamp);
        let note = PublishedCheckpoint { size, root, publishers: vec![], cosignatures: vec![own] };
        replace(&self.dir.cosignature(), note.to_note(&self.federation).as_bytes())?;
        let mut held = self.held.lock();
        held.own.insert(size, own);
        while held.own.len() > KEPT {
            held.own.pop_first();
        }
        drop(held);
        self.cosigned.send_replace(size);
        Ok(())
    }

    /// Keeps a checkpoint that a quorum cosigned, if it is newer than the one held.
    pub(super) fn keep(&self, (size, root): (u64, Digest), cosignatures: Vec<Cosignature>) -> io::Result<()> {
        let checkpoint = PublishedCheckpoint::publish(self.federation.id(), &self.key, self.me, (size, root), cosignatures);
        if self.newest().is_some_and(|held| held.size >= checkpoint.size) {
            return Ok(());
        }
        replace(&self.dir.checkpoint(), checkpoint.to_note(&self.federation).as_bytes())?;
        self.held.lock().newest = Some(Arc::new(checkpoint));
        Ok(())
    }

    /// The newest checkpoint that a quorum cosigned.
    pub(super) fn newest(&self) -> Option<Arc<PublishedCheckpoint>> {
        self.held.lock().newest.clone()
    }

    /// This replica's newest cosignature.
    pub(super) fn newest_own(&self) -> Option<Cosignature> {
        self.held.lock().own.last_key_value().map(|(_, own)| *own)
    }

    /// Is told of every size that is cosigned.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.cosigned.subscribe()
    }

    /// This replica's cosignature of one size, waited for if it has not come that far.
    pub(super) async fn own(&self, size: u64, wait: Duration) -> Option<Cosignature> {
        let mut cosigned = self.subscribe();
        let _ = tokio::time::timeout(wait, cosigned.wait_for(|reached| *reached >= size)).await;
        self.held.lock().own.get(&size).copied()
    }
}

/// A note that was left; damage is said aloud, and costs no more than the note.
fn read(path: &Path, federation: &Federation) -> Option<PublishedCheckpoint> {
    let problem = match read_note(path) {
        Ok(bytes) => match PublishedCheckpoint::from_note(&bytes, federation) {
            Ok(note) => return Some(note),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
    };
    tracing::warn!(path = %path.display(), problem, "a published checkpoint cannot be used; the next one replaces it");
    None
}

/// Replaces a small file by rename; the new content is durable when it returns.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let building = path.with_added_extension("new");
    let write = || {
        let mut file = File::create(&building)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&building, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(named)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::{ReplicaSecret, sha256};
    use crate::types::{Author, Genesis, Member, Parameters, PeerId};

    fn secret(i: u8) -> ReplicaSecret {
        ReplicaSecret::from_bytes([i + 1; 32])
    }

    fn federation() -> Arc<Federation> {
        let member = |i: u8| Member {
            peer: PeerId(format!("replica-{i}")),
            consensus_key: secret(i).consensus_key().public(),
            transport_key: secret(i).transport_key().public(),
            cosignature_key: secret(i).cosignature_key().public(),
        };
        let (members, parameters) = ((0..4).map(member).collect(), Parameters::default());
        let authors = vec![Author { name: "author".into(), key: SigningKey::from_seed(&[99; 32]).public() }];
        Arc::new(Federation::new(Genesis { name: "test".into(), members, authors, readers: vec![], parameters }).unwrap())
    }

    fn checkpoint(size: u64) -> Checkpoint {
        Checkpoint { epoch: 0, slot: size, sequence: size, digest: sha256(b"header"), log_root: sha256(&size.to_le_bytes()) }
    }

    fn open(dir: &Path, stable: u64) -> Published {
        Published::open(federation(), 1, secret(1).cosignature_key(), DataDir(dir.to_owned()), stable)
    }

    #[test]
    fn one_size_is_cosigned_once_over_restarts_a_clock_that_goes_back_and_a_lost_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), 0);
        first.cosign(&checkpoint(10), 1_000).unwrap();
        let own = first.newest_own().unwrap();
        own.verify(&federation()).unwrap();
        first.cosign(&checkpoint(10), 2_000).unwrap();
        first.cosign(&checkpoint(9), 2_000).unwrap();
        assert_eq!(first.newest_own(), Some(own));

        let again = open(dir.path(), 10);
        assert_eq!(again.newest_own(), Some(own), "a restart gives the same statement out");
        again.cosign(&checkpoint(10), 3_000).unwrap();
        assert_eq!(again.newest_own(), Some(own));
        again.cosign(&checkpoint(20), 5).unwrap();
        let next = again.newest_own().unwrap();
        assert_eq!((next.size, next.timestamp), (20, 1_000), "never dated before an earlier one");

        fs::write(DataDir(dir.path().to_owned()).cosignature(), b"damaged").unwrap();
        let forgetful = open(dir.path(), 20);
        forgetful.cosign(&checkpoint(20), 6_000).unwrap();
        assert_eq!(forgetful.newest_own(), None, "what it may have cosigned, it does not cosign");
        forgetful.cosign(&checkpoint(30), 6_000).unwrap();
        assert_eq!(forgetful.newest_own().map(|own| own.size), Some(30));
    }

    #[test]
    fn the_newest_note_is_kept_and_what_is_held_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let published = open(dir.path(), 0);
        for size in 1..200 {
            published.cosign(&checkpoint(size), size).unwrap();
        }
        assert_eq!(published.held.lock().own.len(), KEPT);
        let federation = federation();
        let note = |size: u64| {
            let log = (size, checkpoint(size).log_root);
            let sign = |i: u8| Cosignature::sign(federation.id(), &secret(i).cosignature_key(), i.into(), log, 7);
            (log, [3, 0, 1].map(sign).to_vec())
        };
        let (log, cosignatures) = note(150);
        published.keep(log, cosignatures).unwrap();
        let (older, cosignatures) = note(149);
        published.keep(older, cosignatures).unwrap();
        assert_eq!(published.newest().unwrap().size, 150);
        fs::write(dir.path().join("checkpoint.new"), b"half").unwrap();
        let again = open(dir.path(), 0);
        assert_eq!(again.newest(), published.newest(), "a restart has it still");
        again.newest().unwrap().verify(&federation).unwrap();
        assert!(!dir.path().join("checkpoint.new").exists());
    }
}
