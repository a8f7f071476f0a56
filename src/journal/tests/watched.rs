//! The real disk with somebody watching its writes and syncs, who may make them fail.

use super::*;

/// Is told of every write and sync before it happens.
pub(super) trait Watch: Send + Sync + 'static {
    fn write(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct Watched<W>(pub(super) Arc<W>);

struct WatchedFile<W>(Box<dyn DiskFile>, PathBuf, Arc<W>);

impl<W: Watch> DiskFile for WatchedFile<W> {
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read(bytes, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.2.write()?;
        self.0.write(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.0.set_length(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.2.sync(&self.1)?;
        self.0.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl<W: Watch> Disk for Watched<W> {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, access)?;
        Ok(Box::new(WatchedFile(file, path.to_path_buf(), self.0.clone())))
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
