//! The control: a program that acknowledges behind sled's own `flush`, which syncs nothing, under the same layer and the same cuts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::powercut::disk::{Base, Cut, Disk};
use crate::powercut::{Random, Trace, environment, monotonic, seal};

/// What the writer does before it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// `flush`.
    Flush,
    /// `flush`, then `sync_data` on sled's file, as the log does it.
    FlushAndSync,
}

/// Names the writer's directory in its environment.
const DIR: &str = "EXOFED_SLED_DIR";
const SYNC: &str = "EXOFED_SLED_SYNC";
const ACKS: usize = 300;

fn open(dir: &Path) -> sled::Result<sled::Db> {
    sled::Config::new().path(dir).segment_size(16 << 20).flush_every_ms(Some(500)).open()
}

/// A value that does not compress, and says whose it is.
fn value(key: u64) -> Vec<u8> {
    let mut random = Random(key);
    (0..32).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// The writer's process: acknowledges keys on stdout until it is killed.
pub(crate) fn write() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = Path::new(&dir).join("sled");
    let sync = std::env::var(SYNC).is_ok();
    let db = open(&dir).unwrap();
    if sync {
        for path in [dir.join("conf"), dir.clone(), dir.parent().unwrap().to_path_buf()] {
            File::open(path).unwrap().sync_all().unwrap();
        }
    }
    for key in 0u64.. {
        db.insert(key.to_be_bytes(), value(key)).unwrap();
        db.flush().unwrap();
        if sync {
            File::open(dir.join("db")).unwrap().sync_data().unwrap();
        }
        println!("ack {key}");
    }
}

/// Runs the writer under the layer; gives in how many of `states` states something acknowledged is missing, or the database does not open.
pub(crate) fn states_that_lost(before: Before, states: u64) -> u64 {
    let room = tempfile::tempdir().unwrap();
    let (data, trace) = (room.path().join("data"), room.path().join("trace"));
    fs::create_dir(&data).unwrap();
    let base = Base::read(&data);
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.args(["--exact", "the_writer_of_the_control", "--ignored", "--nocapture"]).env(DIR, &data).envs(environment(&data, Some(&trace), None));
    if before == Before::FlushAndSync {
        writer.env(SYNC, "1");
    }
    let mut writer = writer.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let told = |line: Result<String, _>| line.unwrap().strip_prefix("ack ").map(|key| (monotonic(), key.parse::<u64>().unwrap()));
    let acks: Vec<(u64, u64)> = lines.filter_map(told).take(ACKS).collect();
    let until = monotonic();
    writer.kill().unwrap();
    writer.wait().unwrap();
    let watched = fs::canonicalize(&data).unwrap();
    seal(&trace, &watched);
    let mut cuts: Vec<_> = (0..states).map(|seed| (Random(seed), acks[Random(seed).below(acks.len())].0.min(until))).collect();
    cuts.sort_by_key(|(_, at)| *at);
    let mut disk = Disk::new(&base, Trace::read(&trace, &watched));
    let mut lost = 0;
    for (number, (mut random, at)) in cuts.into_iter().enumerate() {
        let cut = Cut::draw(&mut random, false);
        let dir = room.path().join(format!("state-{number}"));
        disk.advance(at);
        disk.crash(cut, &mut random, &dir);
        let told = acks.iter().filter(|(when, _)| *when <= at).map(|(_, key)| *key);
        let holds = catch_unwind(AssertUnwindSafe(|| {
            let db = open(&dir.join("sled"))?;
            let all: sled::Result<Vec<bool>> = told.map(|key| Ok(db.get(key.to_be_bytes())?.is_some_and(|found| found == value(key)))).collect();
            all.map(|all| all.into_iter().all(|there| there))
        }));
        lost += u64::from(!matches!(holds, Ok(Ok(true))));
        fs::remove_dir_all(&dir).unwrap();
    }
    lost
}
