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

/// The files that were synced.
#[derive(Default)]
struct Noting(Mutex<Vec<PathBuf>>);

impl Watch for Noting {
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().push(path.to_path_buf());
        Ok(())
    }
}

/// A killed process may have written a group and not synced it; marks and votes of the next process rely on it.
#[test]
fn opening_makes_durable_what_it_found() {
    let (_root, dir, _) = three_groups();
    let watch = Arc::new(Noting::default());
    drop(Journal::open_on(Arc::new(Watched(watch.clone())), &dir, FEDERATION, &SMALL).unwrap());
    assert_eq!(*watch.0.lock().unwrap(), [segment_path(&dir, 1), dir.join("votes.1")]);
}
