//! What power cuts under the whole program found.

use std::sync::Mutex;

use super::*;

#[test]
fn every_torn_first_group_of_a_segment_is_cut() {
    let (_root, dir) = fresh();
    // The last does not fit behind the first, so the next segment begins with it.
    let records = [vote(1, b"first snapshot".to_vec()), segment(2, 1, vec![1; 20_000]), vote(3, vec![2; 50]), segment(2, 2, vec![3; 15_000])];
    let (mut journal, _) = open(&dir);
    for group in [&records[1..3], &records[3..]] {
        group.iter().for_each(|record| append(&mut journal, record));
        journal.sync().unwrap();
    }
    drop(journal);
    tear_every_subset(Path::new("segments/00000000000000000002.seg"), &dir, 0..4, &records[..3]);
}

/// The real disk; it notes which files were synced.
#[derive(Default)]
struct NotingDisk(Arc<Mutex<Vec<PathBuf>>>);

struct NotingFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    synced: Arc<Mutex<Vec<PathBuf>>>,
}

impl DiskFile for NotingFile {
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read(bytes, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.file.set_length(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.synced.lock().unwrap().push(self.path.clone());
        self.file.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Disk for NotingDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let (file, synced) = (RealDisk.open(path, access)?, self.0.clone());
        Ok(Box::new(NotingFile { file, path: path.to_path_buf(), synced }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        RealDisk.lock(dir)
    }
}

/// A killed process may have written a group and not synced it; marks and votes of the next process rely on it.
#[test]
fn opening_makes_durable_what_it_found() {
    let (_root, dir, _) = three_groups();
    let disk = Arc::new(NotingDisk::default());
    drop(Journal::open_on(disk.clone(), &dir, FEDERATION, &SMALL).unwrap());
    assert_eq!(*disk.0.lock().unwrap(), [segment_path(&dir, 1), dir.join("votes.1")]);
}
