//! A federation under load whose disks are recorded, and what must hold of every state that a power cut may leave of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod load;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use exo_federation::config::{FederationFile, ReplicaFile, read_toml};
use exo_federation::types::Federation;

use crate::powercut::disk::{Base, Cut, Disk};
use crate::powercut::{Random, Trace, environment, monotonic, seal};
use crate::stage::Stage;
use check::Checker;
use load::{Ack, Load};

pub(crate) const REPLICAS: usize = 4;
/// Kills in a recording that has any. What a killed process wrote and did not sync, the next one finds, and may not rely on.
const KILLS: usize = 3;
/// Threads that recover and check states.
const WORKERS: usize = 2;

/// What was done and reached.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    states: u64,
    torn_states: u64,
    acks_checked: u64,
    cut: u64,
    appended: u64,
    prepared_only: u64,
    suspects: u64,
    restarts: u64,
    seconds_checking: f64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.torn_states += other.torn_states;
        self.acks_checked += other.acks_checked;
        self.cut += other.cut;
        self.appended += other.appended;
        self.prepared_only += other.prepared_only;
        self.suspects += other.suspects;
        self.restarts += other.restarts;
        self.seconds_checking += other.seconds_checking;
    }

    /// A run in which the cuts never hurt proves nothing.
    pub(crate) fn assert_reached(&self) {
        assert!(self.cut > 0, "no state had a torn write to cut");
        assert!(self.appended > 0, "no state had a log behind its journal");
        assert!(self.prepared_only > 0, "in no state was an acknowledged update held as prepared only");
        assert!(self.acks_checked > self.states, "hardly anything was acknowledged");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.states as f64 / self.seconds_checking.max(0.001);
        write!(
            f,
            "{} states ({} with torn pages, {} suspect replicas in them), {rate:.0}/s, {} acknowledgements checked, {} held as prepared only by some, \
             {} pages and rows cut, {} batches appended from the journal, {} starts from a state",
            self.states, self.torn_states, self.suspects, self.acks_checked, self.prepared_only, self.cut, self.appended, self.restarts
        )
    }
}

/// One federation over several recordings, each of which begins with a state that a cut in the one before left.
pub(crate) struct Life {
    stage: Stage,
    federation: Federation,
    acks: Vec<Ack>,
    recordings: u64,
    random: Random,
}

/// A recording on disk: `base-K` is replica K's data when it began, `inodes-K` and `trace-K` what it did, `acks` what clients were told, and
/// `earlier` what they had been told before.
pub(crate) struct Recording {
    dir: PathBuf,
    /// Of replicas and federation.
    configurations: PathBuf,
}

impl Life {
    /// A new federation with small files.
    pub(crate) fn begin(seed: u64) -> Self {
        let stage = Stage::init();
        let path = stage.path("federation.toml");
        let mut file: FederationFile = read_toml(&path).unwrap();
        (file.genesis.parameters.window_slots, file.genesis.parameters.checkpoint_slots) = (32, 8);
        fs::write(&path, toml::to_string(&file).unwrap()).unwrap();
        let federation = FederationFile::read_genesis(&path).unwrap();
        for k in 0..REPLICAS {
            let path = stage.path(&format!("replica-{k}/replica.toml"));
            let mut file: ReplicaFile = read_toml(&path).unwrap();
            (file.journal.segment_bytes, file.journal.votes_bytes) = (256 << 10, 64 << 10);
            (file.store.cache_bytes, file.store.inline_body_bytes) = (4 << 20, 1 << 10);
            fs::write(&path, toml::to_string(&file).unwrap()).unwrap();
            let data = stage.path(&format!("replica-{k}/data"));
            fs::remove_dir_all(&data).unwrap();
            fs::create_dir(&data).unwrap();
            let config = ReplicaFile::load(&path).unwrap();
            config.data.create(&federation, config.secret.consensus_key().public(), &config.journal).unwrap();
        }
        Self { stage, federation, acks: Vec::new(), recordings: 0, random: Random(seed) }
    }

    fn data(&self, replica: usize) -> PathBuf {
        self.stage.path(&format!("replica-{replica}/data"))
    }

    fn start(&mut self, replica: usize, recording: &Path) {
        let mut environment = environment(&self.data(replica), Some(&recording.join(format!("trace-{replica}"))), None);
        if self.recordings.is_multiple_of(2) {
            environment.push(("POWERCUT_SLOW".to_owned(), "20000".to_owned()));
        }
        self.stage.restart_with(replica, &environment);
    }

    /// Kills a replica and ends its record as its files show.
    fn kill(&mut self, replica: usize, recording: &Path) {
        self.stage.kill(replica);
        seal(&recording.join(format!("trace-{replica}")), &fs::canonicalize(self.data(replica)).unwrap());
    }

    /// Runs the federation under load, every other time with kills in between, cuts the power in the recording for each seed, and leaves the data as
    /// the first of these cuts did.
    pub(crate) fn record_and_cut(&mut self, seeds: Range<u64>) -> Tally {
        let dir = self.stage.path(&format!("recording-{}", self.recordings));
        fs::create_dir(&dir).unwrap();
        for k in 0..REPLICAS {
            Recording::write_base(&dir, k, &self.data(k));
        }
        fs::write(dir.join("earlier"), Ack::write(&self.acks)).unwrap();
        (0..REPLICAS).for_each(|k| self.start(k, &dir));
        let mut tally = Tally::default();
        if self.recordings > 0 {
            load::check_all(&self.stage.path("client.toml"), &self.acks);
            tally.restarts = 1;
        }
        let load = Load::begin(&self.stage.path("client.toml"), self.recordings);
        load.run_until(40, Duration::from_secs(30));
        for _ in 0..if self.recordings % 2 == 1 { KILLS } else { 0 } {
            let first = self.random.below(REPLICAS);
            let victims = if self.random.chance(0.3) { 0..REPLICAS } else { first..first + 1 };
            victims.clone().for_each(|k| self.kill(k, &dir));
            victims.for_each(|k| self.start(k, &dir));
            load.run_until(15, Duration::from_secs(30));
        }
        let until = monotonic();
        (0..REPLICAS).for_each(|k| self.kill(k, &dir));
        let acks = load.end();
        fs::write(dir.join("acks"), Ack::write(&acks)).unwrap();
        fs::write(dir.join("until"), until.to_string()).unwrap();
        let recording = Recording { dir: dir.clone(), configurations: self.stage.path("") };
        if self.recordings == 0 {
            (0..REPLICAS).for_each(|k| recording.explains(k, &self.data(k)));
        }
        tally.add(&recording.check(seeds.clone()));
        // Go on from one of the states; not from a torn one, whose damage would stay. If all are torn, from the kills.
        let at = seeds.clone().find(|seed| !is_torn(*seed)).map_or(u64::MAX, |seed| {
            recording.materialise(seed, |k| {
                fs::remove_dir_all(self.data(k)).unwrap();
                self.data(k)
            })
        });
        self.acks.extend(acks.into_iter().filter(|ack| ack.at <= at));
        self.recordings += 1;
        fs::remove_dir_all(&dir).unwrap();
        tally
    }

    /// Starts from the last state, and stops in order: all logs must agree, hold everything once and audit clean.
    pub(crate) fn end(mut self, total: &mut Tally) {
        self.stage.start();
        load::check_all(&self.stage.path("client.toml"), &self.acks);
        let load = Load::begin(&self.stage.path("client.toml"), self.recordings);
        load.run_until(20, Duration::from_secs(30));
        let acks = load.end();
        self.stage.agree();
        self.stage.stop();
        total.restarts += 1;
        for k in 0..REPLICAS {
            let entries = self.stage.entries(k);
            check::holds_once(&entries, self.acks.iter().chain(&acks));
            let audit = exo_federation::audit::audit(&self.data(k), &self.federation, |_| {}).unwrap();
            assert!(audit.clean, "replica-{k}: {:?}", audit.findings);
        }
    }
}

impl Recording {
    fn write_base(dir: &Path, k: usize, data: &Path) {
        let base = Base::read(data);
        fs::write(dir.join(format!("inodes-{k}")), base.inodes()).unwrap();
        let disk = Disk::new(&base, Trace::empty());
        disk.write_live(&dir.join(format!("base-{k}")));
        fs::write(dir.join(format!("watched-{k}")), fs::canonicalize(data).unwrap().to_str().unwrap()).unwrap();
    }

    /// A recording that a failing run kept.
    pub(crate) fn load(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), configurations: dir.parent().unwrap().to_path_buf() }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }

    fn disk(&self, k: usize) -> Disk {
        let base = Base::read_as(&self.dir.join(format!("base-{k}")), &self.text(&format!("inodes-{k}")));
        Disk::new(&base, Trace::read(&self.dir.join(format!("trace-{k}")), Path::new(&self.text(&format!("watched-{k}")))))
    }

    /// The record must account for every byte of the live directory: a call that the layer missed would make its states too good, or too bad.
    fn explains(&self, k: usize, data: &Path) {
        let mut disk = self.disk(k);
        disk.advance(u64::MAX);
        let replayed = self.dir.join(format!("replayed-{k}"));
        disk.write_live(&replayed);
        let names = |dir: &Path| -> Vec<PathBuf> { crate::stage::files_of(dir).iter().map(|f| f.strip_prefix(dir).unwrap().to_path_buf()).collect() };
        assert_eq!(names(&replayed), names(data), "replica-{k}: the record explains other files");
        for name in names(data) {
            assert!(
                fs::read(replayed.join(&name)).unwrap() == fs::read(data.join(&name)).unwrap(),
                "replica-{k}: the record does not explain {name:?}"
            );
        }
        fs::remove_dir_all(&replayed).unwrap();
    }

    /// When the power goes for a seed: at random, right at a recorded call, the moment an acknowledgement arrived, or soon after a restart.
    fn instant(&self, random: &mut Random, instants: &[u64], restarts: &[u64], acks: &[Ack]) -> u64 {
        let until: u64 = self.text("until").parse().unwrap();
        let from = instants[0];
        match random.below(4) {
            0 => from + random.next() % (until - from),
            1 if !acks.is_empty() => acks[random.below(acks.len())].at.min(until),
            2 if !restarts.is_empty() => (restarts[random.below(restarts.len())] + random.next() % 100_000_000).min(until),
            _ => instants[random.below(instants.len())].min(until).saturating_sub(u64::from(random.chance(0.5))),
        }
    }

    fn cuts(&self, seeds: Range<u64>, disks: &[Disk]) -> Vec<(u64, u64, Random)> {
        let mut instants: Vec<u64> = disks.iter().flat_map(|disk| disk.trace().instants()).collect();
        instants.sort_unstable();
        let restarts: Vec<u64> = disks.iter().flat_map(|disk| disk.trace().restarts()).collect();
        let acks = Ack::read(&self.text("acks"));
        let cut = |seed| {
            let mut random = Random(seed);
            (self.instant(&mut random, &instants, &restarts, &acks), seed, random)
        };
        let mut cuts: Vec<_> = seeds.map(cut).collect();
        cuts.sort_by_key(|(at, seed, _)| (*at, *seed));
        cuts
    }

    /// Writes the state of one seed; gives its instant.
    fn materialise(&self, seed: u64, place: impl Fn(usize) -> PathBuf) -> u64 {
        let mut disks: Vec<Disk> = (0..REPLICAS).map(|k| self.disk(k)).collect();
        let (at, seed, mut random) = self.cuts(seed..seed + 1, &disks).remove(0);
        let cut = Cut::draw(&mut random, is_torn(seed));
        for (k, disk) in disks.iter_mut().enumerate() {
            disk.advance(at);
            disk.crash(cut, &mut random, &place(k));
        }
        at
    }

    /// Checks the state of every seed.
    pub(crate) fn check(&self, seeds: Range<u64>) -> Tally {
        let started = Instant::now();
        let mut disks: Vec<Disk> = (0..REPLICAS).map(|k| self.disk(k)).collect();
        let cuts = self.cuts(seeds, &disks);
        let acks = [Ack::read(&self.text("earlier")), Ack::read(&self.text("acks"))].concat();
        let checker = Checker::new(&self.configurations, acks);
        let room = scratch();
        let (work, states) = mpsc::sync_channel::<(u64, u64, Cut, PathBuf)>(WORKERS);
        let (states, tally) = (Mutex::new(states), Mutex::new(Tally::default()));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        let next = states.lock().unwrap().recv();
                        let Ok((at, seed, cut, dir)) = next else { return };
                        match checker.check(&dir, at, cut) {
                            Ok(found) => tally.lock().unwrap().add(&found),
                            Err(problem) => self.failed(seed, at, cut, &problem),
                        }
                        fs::remove_dir_all(&dir).unwrap();
                    }
                });
            }
            for (at, seed, mut random) in cuts {
                let (cut, dir) = (Cut::draw(&mut random, is_torn(seed)), room.path().join(seed.to_string()));
                for (k, disk) in disks.iter_mut().enumerate() {
                    disk.advance(at);
                    disk.crash(cut, &mut random, &dir.join(k.to_string()));
                }
                work.send((at, seed, cut, dir)).unwrap();
            }
            drop(work);
        });
        let mut tally = tally.into_inner().unwrap();
        tally.seconds_checking = started.elapsed().as_secs_f64();
        tally
    }

    /// Keeps what is needed to look again, and fails the test.
    fn failed(&self, seed: u64, at: u64, cut: Cut, problem: &str) {
        let kept = std::env::temp_dir().join(format!("exofed-power-cut-{}-{seed}", std::process::id()));
        let recording = kept.join("recording");
        fs::create_dir_all(kept.join("state")).unwrap();
        crate::stage::copy_tree(&self.dir, &recording);
        for name in ["federation.toml", "client.toml", "author.key"] {
            fs::copy(self.configurations.join(name), kept.join(name)).unwrap();
        }
        for k in 0..REPLICAS {
            fs::create_dir_all(kept.join(format!("replica-{k}"))).unwrap();
            for name in ["replica.toml", "secret.key"] {
                let name = format!("replica-{k}/{name}");
                fs::copy(self.configurations.join(&name), kept.join(&name)).unwrap();
            }
        }
        self.materialise(seed, |k| kept.join(format!("state/{k}")));
        println!("seed {seed}, power lost at {at}, {cut:?}: {problem}");
        let range = format!("EXOFED_POWERCUT_STATES={seed}..{}", seed + 1);
        println!("look again: EXOFED_POWERCUT_RECORDING={} {range} cargo test --test power_cuts nothing_acknowledged", recording.display());
        std::process::exit(101);
    }
}

/// Every fifth state tears pages at sectors, beyond what the journal assumes of its medium.
fn is_torn(seed: u64) -> bool {
    seed % 5 == 4
}

/// Room for states, in memory where there is such a place: they are synced, and it does not matter when.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
