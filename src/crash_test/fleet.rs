//! The processes under test: a federation's replicas on this machine, and what their starts said.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::CrashTestError;
use super::finding::{Findings, Wrong};
use crate::client::Client;
use crate::config::{ClientFile, ReplicaFile, read_toml};
use crate::failpoint::CrashAt;
use crate::process::{self, Replica};
use crate::recovery::DataDir;
use crate::types::{Federation, Parameters};

/// What the crash test sets in each replica's configuration: files so small that segments roll and votes rotate within a few cycles, and a leader
/// that is missed soon. Nothing here weakens a sync.
const OPTIONS: &str = "\n[consensus]\nstall_timeout_ms = 300\nrequest_timeout_ms = 1500\n\n\
    [journal]\nsegment_bytes = 1048576\nvotes_bytes = 262144\n";

/// A client of the crash test gives a dead replica this long.
const ATTEMPT_MS: u64 = 400;
/// And a submission this long, over all restarts.
pub(crate) const LIFETIME_MS: u64 = 60_000;

/// What a federation under test agrees on: retries end soon, so that a start has few recent updates to remember, however long the test is.
pub(crate) fn parameters() -> Parameters {
    Parameters { max_lifetime_ms: LIFETIME_MS + LIFETIME_MS / 2, ..Parameters::default() }
}

/// Sets a new federation's replicas up for the test. Journal files never shrink, so the empty ones are made anew.
pub(crate) fn prepare(dir: &Path, federation: &Federation) -> Result<(), CrashTestError> {
    for replica in 0..federation.size() {
        let peer = process::name(replica);
        let path = dir.join(&peer).join("replica.toml");
        let file = OpenOptions::new().append(true).open(&path);
        file.and_then(|mut file| file.write_all(OPTIONS.as_bytes()).and_then(|()| file.sync_all())).map_err(CrashTestError::io(&path))?;
        let options = read_toml::<ReplicaFile>(&path)?.journal;
        let data = DataDir(dir.join(&peer).join("data"));
        std::fs::remove_dir_all(data.journal()).map_err(CrashTestError::io(data.journal()))?;
        let Some(member) = federation.members().get(replica) else { break };
        data.create(federation, member.consensus_key, &options).map_err(|error| CrashTestError::Prepare { peer, error })?;
    }
    Ok(())
}

/// Consecutive UDP ports that are free and that the kernel gives to nobody by itself: while a replica is dead, no client may happen upon its port.
pub(crate) fn quiet_base_port(replicas: u16, random: u64) -> Option<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_given: u16 = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
    let starts = (10_240..first_given).step_by(usize::from(replicas.max(1)));
    let starts: Vec<u16> = starts.filter(|start| start.checked_add(replicas).is_some_and(|end| end <= first_given)).collect();
    let skip = usize::try_from(random % starts.len().max(1) as u64).ok()?;
    let free = |start: &u16| (*start..*start + replicas).map(|port| UdpSocket::bind(("127.0.0.1", port))).all(|bound| bound.is_ok());
    starts.iter().cycle().skip(skip).take(starts.len()).copied().find(free)
}

/// A client with connections of its own.
pub(crate) fn client(dir: &Path) -> Result<Arc<Client>, CrashTestError> {
    let mut loaded = ClientFile::load(&dir.join("client.toml"))?;
    loaded.options.attempt_timeout_ms = ATTEMPT_MS;
    loaded.options.lifetime_ms = LIFETIME_MS;
    Ok(Arc::new(Client::new(loaded)))
}

/// What all starts so far said.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// From the beginning of the process to ready, ms.
    pub(crate) ready_ms: Vec<u64>,
    /// Pages and rows cut: torn writes that nothing was sent for.
    pub(crate) torn_tails_cut: u64,
    pub(crate) damage_found: u64,
    pub(crate) damage_repaired: u64,
}

/// The replicas' processes.
pub(crate) struct Fleet {
    dir: PathBuf,
    running: Vec<Option<Replica>>,
    pub(crate) starts: Starts,
    pub(crate) kills: u64,
}

impl Fleet {
    /// Nothing runs yet.
    pub(crate) fn new(dir: &Path, replicas: usize) -> Self {
        Self { dir: dir.to_path_buf(), running: (0..replicas).map(|_| None).collect(), starts: Starts::default(), kills: 0 }
    }

    /// How many replicas there are.
    pub(crate) fn size(&self) -> usize {
        self.running.len()
    }

    /// Starts these replicas side by side and waits until all are ready.
    pub(crate) async fn start(&mut self, replicas: &[usize], findings: &mut Findings) -> Result<(), CrashTestError> {
        let mut starting = tokio::task::JoinSet::new();
        for replica in replicas.iter().copied() {
            let dir = self.dir.clone();
            starting.spawn(async move { (replica, Replica::start(&dir, replica).await) });
        }
        while let Some(Ok((replica, started))) = starting.join_next().await {
            self.take(replica, started?, findings);
        }
        Ok(())
    }

    /// Starts replicas that will kill themselves; those that do so before they are ready are counted already.
    pub(crate) async fn start_armed(&mut self, armed: &[(usize, CrashAt)], findings: &mut Findings) -> Result<Vec<usize>, CrashTestError> {
        let mut starting = tokio::task::JoinSet::new();
        for (replica, crash_at) in armed.iter().copied() {
            let dir = self.dir.clone();
            starting.spawn(async move { (replica, Replica::start_armed(&dir, replica, crash_at).await) });
        }
        let mut crashed = Vec::new();
        while let Some(Ok((replica, started))) = starting.join_next().await {
            match started? {
                Some(running) => self.take(replica, running, findings),
                None => {
                    self.kills += 1;
                    crashed.push(replica);
                }
            }
        }
        Ok(crashed)
    }

    fn take(&mut self, replica: usize, started: Replica, findings: &mut Findings) {
        let recovery = &started.ready.recovery;
        let starts = &mut self.starts;
        starts.ready_ms.push(u64::try_from(started.ready_after.as_millis()).unwrap_or(u64::MAX));
        starts.torn_tails_cut += recovery.cut;
        let (damaged, repaired) = (recovery.damaged.len() as u64, recovery.repaired.len() as u64);
        starts.damage_found += damaged + repaired;
        starts.damage_repaired += repaired;
        match &recovery.suspect {
            // What was damaged was set aside and made anew, and the replica goes on.
            None => starts.damage_repaired += damaged,
            Some(reason) => findings.add(Wrong::Damaged, format!("{} does not vote any more: {reason}", started.peer)),
        }
        if let Some(place) = self.running.get_mut(replica) {
            *place = Some(started);
        }
    }

    /// SIGKILL to all of these in one moment; returns once they are gone.
    pub(crate) async fn kill(&mut self, replicas: &[usize]) -> Result<(), CrashTestError> {
        for replica in replicas {
            if let Some(Some(running)) = self.running.get_mut(*replica) {
                running.send_kill()?;
            }
        }
        for replica in replicas {
            if let Some(mut running) = self.running.get_mut(*replica).and_then(Option::take) {
                self.kills += 1;
                if !running.died().await {
                    return Err(self.ended(*replica));
                }
            }
        }
        Ok(())
    }

    /// Whether a replica is gone; if so it must have been killed, and is counted.
    pub(crate) async fn is_gone(&mut self, replica: usize) -> Result<bool, CrashTestError> {
        let Some(place) = self.running.get_mut(replica) else { return Ok(true) };
        if !place.as_mut().is_some_and(Replica::has_ended) {
            return Ok(place.is_none());
        }
        let Some(mut ended) = place.take() else { return Ok(true) };
        self.kills += 1;
        if ended.died().await { Ok(true) } else { Err(self.ended(replica)) }
    }

    fn ended(&self, replica: usize) -> CrashTestError {
        let log = process::log_of(&self.dir, replica);
        CrashTestError::Ended { peer: process::name(replica), said: last_line(&log).unwrap_or_default(), log }
    }

    /// Fails if a replica ended that nobody killed.
    pub(crate) fn all_run(&mut self) -> Result<(), CrashTestError> {
        let gone = self.running.iter_mut().position(|running| running.as_mut().is_none_or(Replica::has_ended));
        gone.map_or(Ok(()), |replica| Err(self.ended(replica)))
    }

    /// Stops all in order.
    pub(crate) async fn stop(&mut self) -> Result<(), CrashTestError> {
        self.running.iter_mut().flatten().for_each(Replica::ask_to_stop);
        for replica in 0..self.running.len() {
            let running = self.running.get_mut(replica).and_then(Option::take);
            if let Some(mut running) = running
                && !running.stopped().await
            {
                return Err(self.ended(replica));
            }
        }
        Ok(())
    }
}

/// The last line of a log, or the end of it if that is long.
fn last_line(path: &Path) -> Option<String> {
    const LONGEST: u64 = 600;
    let mut file = File::open(path).ok()?;
    let from = file.metadata().ok()?.len().saturating_sub(LONGEST);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).ok()?;
    let text = String::from_utf8_lossy(&end).into_owned();
    text.lines().last().map(str::to_owned)
}
