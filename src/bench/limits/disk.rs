//! The disk as journals use it: one writer for each replica, all at once, each with a file of its own whose space is reserved, every group synced.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::BenchError;
use crate::bench::latency::{Latencies, LatencyMs};
use crate::journal::{Access, Disk, DiskFile, RealDisk};

/// Bytes between two syncs: a vote's page, and groups of growing load.
const GROUPS: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// What is reserved at a time for all writers together. A writer that fills its part ends before its time.
const RESERVED: u64 = 1 << 30;

/// Synced writes of all replicas at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiskLimits {
    /// Writers at once.
    pub writers: usize,
    /// By bytes between two syncs.
    pub groups: Vec<GroupLimits>,
}

/// Synced writes of one size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GroupLimits {
    /// Bytes between two syncs.
    pub group_bytes: u64,
    /// Of all writers together, 10^6 bytes a second.
    pub mb_per_second: f64,
    /// Of all writers together.
    pub syncs_per_second: f64,
    /// A write with its sync.
    pub latency_ms: LatencyMs,
}

impl DiskLimits {
    /// The group size with the highest throughput.
    pub(super) fn best(&self) -> Option<&GroupLimits> {
        self.groups.iter().max_by(|a, b| a.mb_per_second.total_cmp(&b.mb_per_second))
    }
}

pub(super) fn measure(dir: &Path, writers: usize, slice: Duration) -> Result<DiskLimits, BenchError> {
    let writers = writers.max(1);
    let measured = GROUPS.iter().map(|group| of_group(dir, writers, *group, slice)).collect::<Result<_, _>>();
    // Whatever went wrong, nothing stays behind; an error of the measurement itself comes first.
    let removed = (0..writers).map(|writer| path(dir, writer)).filter(|path| path.exists());
    let removed = removed.map(|path| RealDisk.remove(&path).map_err(BenchError::io(&path))).collect::<Result<Vec<()>, _>>();
    let groups = measured?;
    removed.map(|_| DiskLimits { writers, groups })
}

fn path(dir: &Path, writer: usize) -> PathBuf {
    dir.join(format!("limits-{writer}.tmp"))
}

/// What one writer did.
struct Written {
    bytes: u64,
    took: Duration,
    latencies: Latencies,
}

fn of_group(dir: &Path, writers: usize, group: usize, slice: Duration) -> Result<GroupLimits, BenchError> {
    let reserved = RESERVED / writers as u64;
    let files = (0..writers).map(|writer| reserve(&path(dir, writer), reserved)).collect::<Result<Vec<_>, _>>()?;
    let start = Barrier::new(writers);
    let written: Vec<Written> = std::thread::scope(|scope| {
        let handles: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(writer, file)| {
                let (start, path) = (&start, path(dir, writer));
                scope.spawn(move || {
                    start.wait();
                    write_synced(&**file, group, reserved, slice).map_err(BenchError::io(&path))
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or(Err(BenchError::Thread("the disk")))).collect::<Result<_, _>>()
    })?;
    let mut latencies = Latencies::new().ok_or(BenchError::Thread("the disk"))?;
    let (mut bytes_per_second, mut syncs_per_second) = (0.0, 0.0);
    for writer in &written {
        let seconds = writer.took.as_secs_f64().max(1e-9);
        bytes_per_second += writer.bytes as f64 / seconds;
        syncs_per_second += writer.latencies.count() as f64 / seconds;
        latencies.add(&writer.latencies);
    }
    let latency_ms = latencies.summary().ok_or(BenchError::Thread("the disk"))?;
    Ok(GroupLimits { group_bytes: group as u64, mb_per_second: bytes_per_second / 1e6, syncs_per_second, latency_ms })
}

/// A new file whose space is reserved and not yet written, as a journal's segment.
fn reserve(path: &Path, bytes: u64) -> Result<Box<dyn DiskFile>, BenchError> {
    let file = RealDisk.open(path, Access::Create).map_err(BenchError::io(path))?;
    file.allocate(bytes).and_then(|()| file.sync_all()).map_err(BenchError::io(path))?;
    Ok(file)
}

fn write_synced(file: &dyn DiskFile, group: usize, reserved: u64, slice: Duration) -> std::io::Result<Written> {
    let bytes: Vec<u8> = (0..group).map(|at| at.to_le_bytes()[0] | 1).collect();
    let mut latencies = Latencies::new().ok_or_else(|| std::io::Error::other("no histogram"))?;
    let (began, mut at) = (Instant::now(), 0);
    while (at == 0 || began.elapsed() < slice) && at + group as u64 <= reserved {
        let each = Instant::now();
        file.write(&bytes, at)?;
        file.sync()?;
        latencies.record(each.elapsed());
        at += group as u64;
    }
    Ok(Written { bytes: at, took: began.elapsed(), latencies })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_group_size_is_measured_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let found = measure(dir.path(), 3, Duration::from_millis(20)).unwrap();
        assert_eq!(found.groups.len(), GROUPS.len());
        for (group, expected) in found.groups.iter().zip(GROUPS) {
            assert_eq!(group.group_bytes, expected as u64);
            let product = group.syncs_per_second * group.group_bytes as f64 / 1e6;
            assert!(group.mb_per_second > 0.0 && (product / group.mb_per_second - 1.0).abs() < 1e-6, "{group:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(measure(&dir.path().join("nowhere"), 1, Duration::ZERO).is_err());
    }
}
