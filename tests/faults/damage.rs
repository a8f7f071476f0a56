//! One replica's files: where in them a fault strikes, and the faults.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use exo_federation::config::{FederationFile, ReplicaFile};
use exo_federation::consensus::kind;
use exo_federation::journal::{Journal, JournalOptions, JournalReader};
use exo_federation::recovery::DataDir;
use exo_federation::store::{LogReader as _, Store, StoreOptions, StoredBody};
use exo_federation::types::Federation;

use crate::stage::{Stage, copy_tree, files_of};

const PAGE: u64 = 4096;

/// Small files and short windows, so that a short history has all there is: several segments, checkpoints, index runs.
pub(crate) fn shrink(stage: &Stage) {
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let path = stage.path(name);
        fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    };
    edit("federation.toml", &|text| text.replace("checkpoint_slots = 64", "checkpoint_slots = 4").replace("window_slots = 256", "window_slots = 8"));
    edit("client.toml", &|text| text + "\n[client]\nupdates_per_submission = 30\n");
    let federation = FederationFile::read_genesis(&stage.path("federation.toml")).unwrap();
    let journal = JournalOptions { segment_bytes: 1 << 20, votes_bytes: 64 << 10, ..JournalOptions::default() };
    for index in 0..4 {
        let options = "\n[journal]\nsegment_bytes = 1048576\nvotes_bytes = 65536\n\n[store]\nindex_run_entries = 1024\n";
        edit(&format!("replica-{index}/replica.toml"), &|text| text + options);
        let data = DataDir(stage.path(&format!("replica-{index}/data")));
        fs::remove_dir_all(data.journal()).unwrap();
        data.create(&federation, federation.members()[index].consensus_key, &journal).unwrap();
    }
}

/// Where a fault strikes: a file, a byte of it that matters, and how many bytes of it are in use.
#[derive(Debug)]
pub(crate) struct Spot {
    pub(crate) path: PathBuf,
    pub(crate) at: u64,
    pub(crate) used: u64,
    /// What the paths of the files have in common that fail with it.
    pub(crate) failing: String,
    /// What a refusal must name.
    pub(crate) name: String,
    /// The row of the log, if it is one.
    row: Option<u64>,
}

/// The replica whose files are damaged: its directory as it is, as it was, and as it was long before.
pub(crate) struct Victim {
    home: PathBuf,
    genesis: PathBuf,
    kept: PathBuf,
    older: PathBuf,
    strangers: Stage,
}

impl Victim {
    pub(crate) fn new(stage: &Stage, index: usize) -> Self {
        let path = |name: &str| stage.path(name);
        let home = path(&format!("replica-{index}"));
        Self { home, genesis: path("federation.toml"), kept: path("kept"), older: path("older"), strangers: Stage::init() }
    }

    pub(crate) fn keep_older(&self) {
        copy_tree(&self.home, &self.older.join("replica-3"));
    }

    pub(crate) fn keep(&self) {
        copy_tree(&self.home, &self.kept.join("replica-3"));
        fs::copy(&self.genesis, self.kept.join("federation.toml")).unwrap();
    }

    /// Everything as it was kept.
    pub(crate) fn restore(&self) {
        fs::remove_dir_all(&self.home).unwrap();
        copy_tree(&self.kept.join("replica-3"), &self.home);
        fs::copy(self.kept.join("federation.toml"), &self.genesis).unwrap();
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub(crate) fn federation(&self) -> Federation {
        FederationFile::read_genesis(&self.genesis).unwrap()
    }

    fn options(&self) -> JournalOptions {
        ReplicaFile::load(&self.home.join("replica.toml")).unwrap().journal
    }

    /// The place in a file that a fault strikes.
    pub(crate) fn spot(&self, file: &str) -> Spot {
        let data = self.home.join("data");
        let (path, at) = match file {
            "journal votes" => {
                let reader = JournalReader::open(&data.join("journal"), None, &self.options()).unwrap();
                (data.join("journal").join(format!("votes.{}", reader.votes().generation % 2)), 100)
            }
            "journal segments" => {
                // The last proposal: what a Prepare was sent for.
                let reader = JournalReader::open(&data.join("journal"), None, &self.options()).unwrap();
                let last = reader.segments_from(None).map(Result::unwrap).filter(|f| f.kind == kind::PROPOSAL).last().unwrap();
                let place = last.locator.unwrap();
                (segment(&data, place.segment), u64::from(place.page) * PAGE + 100)
            }
            "body segment" => self.large_body(),
            "sled row" | "sled file" => (data.join("log/sled/db"), 1_000),
            "sled conf" => (data.join("log/sled/conf"), 2),
            "log/head" => (data.join("log/head"), 10),
            "Merkle files" => {
                let path = data.join("log/merkle/level-0");
                let len = fs::metadata(&path).unwrap().len();
                (path, len - 10)
            }
            "index runs" => (files_of(&data.join("log/index")).swap_remove(0), 100),
            "secret" => (self.home.join("secret.key"), 40),
            "genesis" => {
                let text = fs::read_to_string(&self.genesis).unwrap();
                (self.genesis.clone(), text.find("consensus_key").unwrap() as u64 + 30)
            }
            "replica.toml" => {
                let path = self.home.join("replica.toml");
                let text = fs::read_to_string(&path).unwrap();
                (path, text.find("\"replica-3\"").unwrap() as u64 + 3)
            }
            other => panic!("no file is called {other}"),
        };
        let row = (file == "sled row").then(|| self.recent_row());
        let (failing, name) = match file {
            "journal votes" => ("/journal/votes.", "/journal/votes."),
            "journal segments" => ("/journal/segments/", "/journal/segments/"),
            "sled row" | "sled file" => ("/log/sled/db", "log/sled/db"),
            "log/head" => ("/log/head", "/log/head"),
            "Merkle files" => ("/log/merkle/level-", "/log/merkle"),
            "index runs" => ("/log/index/run-", "/log/index"),
            _ => (path.to_str().unwrap(), path.file_name().unwrap().to_str().unwrap()),
        };
        let (failing, name) = (failing.to_owned(), name.to_owned());
        Spot { used: used(&path), path, at, failing, name, row }
    }

    /// The middle of the first large body that lies in the oldest segment behind its older copy.
    fn large_body(&self) -> (PathBuf, u64) {
        let copied = used(&segment(&self.older.join("replica-3/data"), 1));
        let (_copy, store, _) = Store::open_copy(&self.home.join("data"), self.federation().id(), &StoreOptions::default()).unwrap();
        let rows = store.reader().rows_from_sequence(1).map(Result::unwrap);
        let mut places = rows.filter_map(|row| match row.body {
            StoredBody::Segment(place) if place.segment == 1 && u64::from(place.page) * PAGE > copied => Some(place),
            _ => None,
        });
        let place = places.next().expect("a large body in the first segment");
        (segment(&self.home.join("data"), 1), (u64::from(place.page) + 1) * PAGE + 100)
    }

    /// The first sequence number of a batch well inside the log.
    fn recent_row(&self) -> u64 {
        let (_copy, store, _) = Store::open_copy(&self.home.join("data"), self.federation().id(), &StoreOptions::default()).unwrap();
        let row = store.reader().rows_backwards().nth(3).unwrap().unwrap();
        row.header.first_sequence
    }

    /// Damages a spot.
    pub(crate) fn apply(&self, fault: &str, spot: &Spot) {
        if let Some(row) = spot.row {
            return self.damage_row(fault, row);
        }
        let Spot { path, at, used, .. } = spot;
        let small = *used < PAGE;
        match fault {
            "bit flip" => {
                let file = open(path);
                let mut byte = [0];
                file.read_exact_at(&mut byte, *at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], *at).unwrap();
            }
            "torn tail" if path.to_str().unwrap().contains("/journal/votes") => self.tear(path, false),
            "torn tail" if path.ends_with(newest_segment(&self.home.join("data")).file_name().unwrap()) => self.tear(path, true),
            "torn tail" if small => zero(path, used.saturating_sub(8), *used),
            "torn tail" if path.ends_with("db") => zero(path, used * 3 / 4, *used),
            "torn tail" => zero(path, at - at % PAGE, *used),
            "hole" if small => zero(path, used / 3, used * 2 / 3),
            "hole" => zero(path, at - at % PAGE, (at - at % PAGE + 3 * PAGE).min(*used)),
            "zeroed page" => zero(path, at - at % PAGE, (at - at % PAGE + PAGE).min(*used)),
            "truncated" => open(path).set_len(if small { used / 2 } else { at - at % PAGE }).unwrap(),
            "deleted" => fs::remove_file(path).unwrap(),
            "older copy" => drop(fs::copy(self.older_copy(path), path).unwrap()),
            other => panic!("no fault is called {other}"),
        }
    }

    /// The same file as it was; of what never changes, that of another federation.
    fn older_copy(&self, path: &Path) -> PathBuf {
        if *path == self.genesis {
            return self.strangers.path("federation.toml");
        }
        let below = path.strip_prefix(&self.home).unwrap();
        match below.to_str().unwrap() {
            "secret.key" => self.strangers.path("replica-3/secret.key"),
            "replica.toml" => self.strangers.path("replica-2/replica.toml"),
            name if name.starts_with("data/log/index") => files_of(&self.older.join("replica-3/data/log/index")).swap_remove(0),
            name if name.ends_with(".seg") && !self.older.join("replica-3").join(name).exists() => segment(&self.older.join("replica-3/data"), 1),
            name => self.older.join("replica-3").join(name),
        }
    }

    /// A write of several pages that nothing acknowledged, of which the last page is missing.
    fn tear(&self, path: &Path, segments: bool) {
        let federation = self.federation();
        let (mut journal, _) = Journal::open(&self.home.join("data/journal"), federation.id().0.0, &self.options()).unwrap();
        let last = JournalReader::open(&self.home.join("data/journal"), Some(federation.id().0.0), &self.options()).unwrap();
        if segments {
            let certificate = last.segments_from(None).map(Result::unwrap).filter(|f| f.kind == kind::COMMITTED).last().unwrap();
            let before = newest_segment(&self.home.join("data"));
            let write = |journal: &mut Journal| {
                (0..40).for_each(|_| assert!(journal.append_segment(certificate.kind, certificate.tag, &certificate.payload).is_ok()));
            };
            write(&mut journal);
            journal.sync().unwrap();
            // The write may have begun the next segment; what is torn is one write of several pages in one file.
            if newest_segment(&self.home.join("data")) != before {
                write(&mut journal);
            }
        } else {
            let frames = last.votes().frames;
            let stable = frames.iter().rfind(|f| f.kind == kind::STABLE).unwrap();
            (0..40).for_each(|_| journal.append_vote(stable.kind, &stable.payload).unwrap());
        }
        journal.sync().unwrap();
        drop(journal);
        let path = if segments { newest_segment(&self.home.join("data")) } else { path.to_path_buf() };
        let end = last_lap_end(&path);
        zero(&path, end - PAGE, end);
    }

    /// Damages one row through sled itself.
    fn damage_row(&self, fault: &str, row: u64) {
        let log = sled::Config::new().path(self.home.join("data/log/sled")).segment_size(16 << 20).open().unwrap();
        let rows = log.open_tree("batches").unwrap();
        let key = row.to_be_bytes();
        let mut value = rows.get(key).unwrap().unwrap().to_vec();
        let len = value.len();
        match fault {
            "bit flip" => value[len / 2] ^= 1,
            "torn tail" => value[len - 16..].fill(0),
            "hole" => value[len / 3..len / 2].fill(0),
            "zeroed page" => value.fill(0),
            "truncated" => value.truncate(len / 2),
            "deleted" => return drop(rows.remove(key).unwrap()),
            // A whole row, at the wrong place.
            "older copy" => value = rows.get(1u64.to_be_bytes()).unwrap().unwrap().to_vec(),
            other => panic!("no fault is called {other}"),
        }
        rows.insert(key, value).unwrap();
        rows.flush().unwrap();
    }
}

fn open(path: &Path) -> fs::File {
    fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn zero(path: &Path, from: u64, to: u64) {
    open(path).write_all_at(&vec![0; usize::try_from(to - from).unwrap()], from).unwrap();
}

/// The bytes of a file up to its last page, or byte in a small one, that is not zero.
fn used(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last as u64 + 1);
    if bytes.len() as u64 >= PAGE && (bytes.len() as u64).is_multiple_of(PAGE) { used.next_multiple_of(PAGE) } else { used }
}

/// The end of the last page of the newest lap: behind it a votes file holds pages of earlier generations.
fn last_lap_end(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let laps: Vec<u64> = bytes.chunks_exact(4096).map(|page| u64::from_le_bytes(page[4072..4080].try_into().unwrap())).collect();
    let newest = laps.iter().max().unwrap();
    (laps.iter().rposition(|lap| lap == newest).unwrap() as u64 + 1) * PAGE
}

fn segment(data: &Path, number: u64) -> PathBuf {
    data.join(format!("journal/segments/{number:020}.seg"))
}

fn newest_segment(data: &Path) -> PathBuf {
    let mut segments = files_of(&data.join("journal/segments"));
    segments.retain(|path| path.extension().is_some_and(|e| e == "seg") && used(path) > 0);
    segments.pop().unwrap()
}
