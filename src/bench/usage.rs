//! What a process used so far, as Linux counts it, and what a directory holds.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::BenchError;

/// What one process used since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// CPU time, user and system, of all its threads, s.
    pub(super) cpu_seconds: f64,
    /// Memory resident now, bytes.
    pub(super) resident_bytes: u64,
    /// The most that was ever resident, bytes.
    pub(super) peak_bytes: u64,
    /// Bytes that it caused to be written to the medium. `None` where the system does not tell.
    pub(super) written_bytes: Option<u64>,
}

impl Usage {
    /// Of a running process.
    pub(super) fn of(pid: u32) -> Result<Self, BenchError> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let (stat, status) = (dir.join("stat"), dir.join("status"));
        let cpu_seconds = cpu_seconds(&read(&stat)?).ok_or_else(|| unreadable(&stat, "no CPU times"))?;
        let text = read(&status)?;
        let memory = |key| kib(&text, key).ok_or_else(|| unreadable(&status, "no resident memory"));
        // A kernel without IO accounting, or a sandbox, has no such file.
        let written_bytes = fs::read_to_string(dir.join("io")).ok().and_then(|text| number(&text, "write_bytes:"));
        Ok(Self { cpu_seconds, resident_bytes: memory("VmRSS:")?, peak_bytes: memory("VmHWM:")?, written_bytes })
    }
}

fn read(path: &Path) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(BenchError::io(path))
}

fn unreadable(path: &Path, problem: &str) -> BenchError {
    BenchError::Usage { path: path.to_path_buf(), problem: problem.to_owned() }
}

/// User and system time: the 14th and 15th field. The second is the program's name in parentheses, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.split_whitespace().next()?.parse().ok())
}

fn kib(text: &str, key: &str) -> Option<u64> {
    number(text, key).map(|kib| kib * 1024)
}

/// Bytes that the files below a directory occupy on the disk, reserved space included.
pub(super) fn disk_bytes(dir: &Path) -> Result<u64, BenchError> {
    let mut total = 0;
    for entry in fs::read_dir(dir).map_err(BenchError::io(dir))? {
        let path = entry.map_err(BenchError::io(dir))?.path();
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => total += disk_bytes(&path)?,
            Ok(found) => total += found.blocks() * 512,
            // A file that was renamed or removed meanwhile is counted where it went.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(BenchError::Io { path, error }),
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_programs_name_may_look_like_fields() {
        let stat = "7 (a) 1 2 (b) S 1 7 7 0 -1 4194560 90 0 0 0 150 50 0 0 20 0 3 0 100 1000 20 18446744073709551615";
        let tick = rustix::param::clock_ticks_per_second() as f64;
        assert!((cpu_seconds(stat).unwrap() - 200.0 / tick).abs() < 1e-9);
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_something_and_what_it_writes_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let before = Usage::of(std::process::id()).unwrap();
        assert!(before.resident_bytes > 0 && before.peak_bytes >= before.resident_bytes / 2);
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), vec![1; 100_000]).unwrap();
        fs::File::open(dir.path().join("below/file")).unwrap().sync_all().unwrap();
        assert!(disk_bytes(dir.path()).unwrap() >= 100_000);
        assert!(Usage::of(0).is_err(), "no such process");
    }
}
