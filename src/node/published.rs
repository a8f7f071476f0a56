//! What this replica cosigned, and the newest checkpoint that a quorum cosigned: in memory, and in two small files of the data directory.
//!
//! Nothing about votes depends on these files. A cosignature is durable before anybody is given it, so that no restart makes a second statement
//! about one size.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::crypto::{Digest, SigningKey};
use crate::recovery::DataDir;
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
    let problem = match fs::read(path) {
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
    let building: PathBuf = path.with_added_extension("new");
    let write = || {
        let mut file = File::create(&building)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&building, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(named)
}
