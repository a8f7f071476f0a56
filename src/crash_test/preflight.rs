//! A look at the machine before it is tested: what the data lies on, and whether a sync plausibly reaches it.
//!
//! It warns and never forbids. It may not know what is tested afterwards.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::error::CrashTestError;
use super::stats::Spread;

const PAGE: usize = 4096;
/// Samples of the latency of a sync.
const SYNCS: u64 = 200;
/// File systems without a device of their own that a sync could reach.
const MEMORY: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];
/// File systems where a sync is another program's or another machine's promise.
const REMOTE: [&str; 10] = ["9p", "nfs", "nfs4", "cifs", "smb3", "fuse", "fuseblk", "virtiofs", "overlay", "ceph"];
/// Below this, a sync costs no more than a system call: no device was asked.
const SYSCALL_US: u64 = 8;
/// No disk that rotates ends a write sooner.
const ROTATION_US: u64 = 1_000;

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Preflight {
    /// The file system's type, as the kernel calls it.
    pub(crate) file_system: String,
    pub(crate) mount_point: PathBuf,
    pub(crate) mount_options: String,
    /// What is mounted there.
    pub(crate) device: String,
    /// The device's write cache by sysfs: "write back" needs flushes, "write through" does not. `None` where sysfs does not say.
    pub(crate) write_cache: Option<String>,
    pub(crate) rotational: Option<bool>,
    /// Whether the processor says that this is a virtual machine.
    pub(crate) virtual_machine: bool,
    /// A write of one page and its `fdatasync`, microseconds.
    pub(crate) sync_us: Spread,
    /// The same write without a sync.
    pub(crate) write_us: Spread,
    /// Bytes free for the data.
    pub(crate) free_bytes: u64,
    /// What a reader of the report must know.
    pub(crate) warnings: Vec<String>,
}

/// Looks at the medium under a directory that exists.
pub(crate) fn look(dir: &Path) -> Result<Preflight, CrashTestError> {
    let io = |error| CrashTestError::io(dir)(error);
    let real = fs::canonicalize(dir).map_err(io)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CrashTestError::io("/proc/self/mountinfo"))?;
    let mount = mount_of(&mounts, &real).unwrap_or_default();
    let number = fs::metadata(&real).map_err(io)?.dev();
    let queue = |name| queue_file(number, name);
    let (write_us, sync_us) = latencies(&real).map_err(io)?;
    let space = rustix::fs::statvfs(&real).map_err(|errno| io(errno.into()))?;
    let mut preflight = Preflight {
        file_system: mount.file_system,
        mount_point: mount.point,
        mount_options: mount.options,
        device: mount.device,
        write_cache: queue("write_cache"),
        rotational: queue("rotational").map(|value| value == "1"),
        virtual_machine: fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| is_virtual(&text)),
        sync_us,
        write_us,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        warnings: Vec::new(),
    };
    preflight.warnings = warnings(&preflight);
    Ok(preflight)
}

fn warnings(found: &Preflight) -> Vec<String> {
    let mut warnings = Vec::new();
    let Preflight { file_system, mount_options, sync_us, write_us, .. } = found;
    if MEMORY.contains(&file_system.as_str()) {
        warnings.push(format!("{file_system} lives in memory: a sync reaches no device, and a power cut loses everything"));
    } else if REMOTE.contains(&file_system.split('.').next().unwrap_or_default()) {
        warnings.push(format!("{file_system}: whether a sync reaches a disk is decided by what lies under it, not by this kernel"));
    }
    let unsafe_options = ["nobarrier", "barrier=0", "data=writeback", "nointegrity"];
    for option in mount_options.split(',').filter(|option| unsafe_options.contains(option)) {
        warnings.push(format!("mounted with {option}: a sync does not wait for the device, or not for the order of writes"));
    }
    let cost = sync_us.p50.saturating_sub(write_us.p50);
    if cost < SYSCALL_US {
        let how = format!("a sync costs {cost} us more than a write without one");
        warnings.push(format!("{how}: far too fast for any medium, so syncs do not reach the device. A power cut will lose what was acknowledged"));
    } else if found.rotational == Some(true) && !found.virtual_machine && cost < ROTATION_US {
        let how = format!("a sync takes {cost} us on a device that calls itself rotational");
        warnings.push(format!("{how}: a cache answers for it. Only with a battery behind that cache does a sync survive a power cut"));
    }
    if found.write_cache.as_deref() == Some("write through") && cost < ROTATION_US {
        warnings.push("the device says it has no volatile write cache, so the kernel sends it no flushes: the whole test rests on that claim".into());
    }
    if found.virtual_machine {
        warnings.push("this is a virtual machine: whether a flush reaches the host's disk is the hypervisor's setting".into());
    }
    warnings
}

fn is_virtual(cpuinfo: &str) -> bool {
    cpuinfo.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor"))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    options: String,
    file_system: String,
    device: String,
}

/// The mount that a path lies on, by /proc/self/mountinfo: the longest mount point that begins it, the last of equals.
fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse_mount).filter(|mount| path.starts_with(&mount.point));
    mounts.max_by_key(|mount| mount.point.as_os_str().len())
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS`
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let mut right = right.split(' ');
    let (file_system, device) = (right.next()?.to_owned(), right.next()?.to_owned());
    let options = [*left.get(5)?, right.next().unwrap_or_default()].join(",");
    // The kernel writes blanks as octal escapes.
    let point = left.get(4)?.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    Some(Mount { point: point.into(), options, file_system, device })
}

/// A value of the block device's queue; a partition's is its disk's.
fn queue_file(device: u64, name: &str) -> Option<String> {
    let sysfs = PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device)));
    let real = fs::canonicalize(sysfs).ok()?;
    let found = [real.join("queue").join(name), real.parent()?.join("queue").join(name)];
    found.iter().find_map(|path| fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
}

/// Times writes of a page into a file whose space is allocated: first alone, then each with its sync.
fn latencies(dir: &Path) -> io::Result<(Spread, Spread)> {
    let path = dir.join("preflight.tmp");
    let measured = measure(&path);
    let removed = fs::remove_file(&path);
    let measured = measured?;
    removed.map(|()| measured)
}

fn measure(path: &Path) -> io::Result<(Spread, Spread)> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&vec![0; PAGE * SYNCS as usize], 0)?;
    file.sync_all()?;
    let timed = |sync: bool| (0..SYNCS).map(|at| timed_write(&file, at, sync)).collect::<io::Result<Vec<u64>>>();
    let (writes, syncs) = (timed(false)?, timed(true)?);
    Ok((Spread::of(&writes).unwrap_or_default(), Spread::of(&syncs).unwrap_or_default()))
}

fn timed_write(file: &File, at: u64, sync: bool) -> io::Result<u64> {
    let began = Instant::now();
    file.write_all_at(&[at.to_le_bytes()[0] | 1; PAGE], at * PAGE as u64)?;
    if sync {
        file.sync_data()?;
    }
    Ok(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MOUNTS: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro\n\
        30 22 0:26 / /srv/with\\040blank rw,nosuid - tmpfs tmpfs rw,size=1024k\n\
        31 22 8:1 / /srv rw - xfs /dev/sda1 rw,nobarrier\n";

    #[test]
    fn the_longest_mount_point_counts_and_blanks_are_read() {
        let at = |path: &str| mount_of(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(at("/home/x").file_system, "ext4");
        assert_eq!((at("/srv/data").device, at("/srv/data").options), ("/dev/sda1".into(), "rw,rw,nobarrier".into()));
        assert_eq!(at("/srv/with blank/data").file_system, "tmpfs");
        assert_eq!(at("/srvx").file_system, "ext4", "a name is no prefix of another");
        assert_eq!(mount_of("nonsense", Path::new("/")), None);
    }

    fn found(file_system: &str, options: &str, write: u64, sync: u64, rotational: Option<bool>) -> Vec<String> {
        warnings(&Preflight {
            file_system: file_system.into(),
            mount_options: options.into(),
            write_us: Spread { p50: write, p99: write },
            sync_us: Spread { p50: sync, p99: sync },
            rotational,
            ..Preflight::default()
        })
    }

    #[test]
    fn syncs_that_reach_nothing_are_called_so() {
        assert_eq!(found("ext4", "rw,relatime", 2, 900, Some(false)), Vec::<String>::new());
        assert!(found("tmpfs", "rw", 1, 1, None)[0].contains("lives in memory"));
        assert!(found("ext4", "rw", 2, 4, Some(false))[0].contains("do not reach the device"));
        assert!(found("ext4", "rw", 2, 300, Some(true))[0].contains("rotational"));
        assert!(found("xfs", "rw,nobarrier", 2, 900, None)[0].contains("nobarrier"));
        assert!(found("fuse.sshfs", "rw", 2, 900, None)[0].contains("fuse.sshfs"));
    }

    #[test]
    fn a_real_directory_is_looked_at_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let found = look(dir.path()).unwrap();
        assert!(!found.file_system.is_empty() && found.free_bytes > 0 && found.sync_us.p99 >= found.sync_us.p50);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
