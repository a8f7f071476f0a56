//! Damage below the head is an error by name, and what a power cut may take is cut: never a panic, never a silent loss.

use super::chain::{Chain, Made, RawLog, federation};
use super::*;

/// A log of some batches, all synced, closed.
fn closed(count: usize) -> (tempfile::TempDir, Vec<Made>) {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    let model: Vec<Made> = (0..count).map(|i| chain.next(&[i * 37, 10])).collect();
    model.iter().for_each(|m| drop(m.append(&mut store).unwrap()));
    store.put_view(1, &ViewRecord { at: 1, reason: "stall".into() }).unwrap();
    store.put_checkpoint(&chain.checkpoint()).unwrap();
    store.sync().unwrap();
    drop(store);
    (dir, model)
}

pub(super) fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&dir.join("log"), &copy.path().join("log")).unwrap();
    copy
}

pub(super) fn try_open(dir: &Path) -> Result<(Store, StoreReport), StoreError> {
    Store::open(dir, federation(), &StoreOptions::default())
}

/// What became of a damaged log.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Fate {
    /// Opening named it.
    Refused,
    /// It opened, and reading a row or a path named it.
    Named,
    /// Everything is there.
    Whole,
}

/// Opens a damaged log that was synced up to its last batch; whatever it does not name must be there.
fn fate(dir: &Path, model: &[Made], what: &str) -> Fate {
    let store = match try_open(dir) {
        Ok((store, _)) => store,
        Err(error) => {
            assert!(error.is_damage(), "{what}: a start would be refused instead of rebuilding: {error}");
            return Fate::Refused;
        }
    };
    assert_eq!(store.head().sequence, model.last().unwrap().batch.header.last_sequence(), "{what}: silently lost");
    let reader = store.reader();
    let mut fate = Fate::Whole;
    for made in model {
        let header = &made.batch.header;
        match reader.row_at_sequence(header.first_sequence) {
            Ok(row) => made.assert_is(&row.unwrap_or_else(|| panic!("{what}: slot {} is silently lost", header.slot))),
            Err(_) => fate = Fate::Named,
        }
        if reader.prove(header.first_sequence, made.leaves[0], header).is_err() {
            fate = Fate::Named;
        }
    }
    fate
}

#[test]
fn rows_behind_the_last_sync_are_cut_from_the_first_that_is_not_whole() {
    // Five synced rows of two updates; then four that were not: key 11, 13, 15, 17.
    for (key, damage, head, cut) in
        [(17u64, "remove", 16, 0), (13, "remove", 12, 2), (17, "garbage", 16, 1), (13, "garbage", 12, 3), (11, "flip", 10, 4)]
    {
        let (dir, mut model) = closed(5);
        let (mut store, _) = open(dir.path());
        let mut chain = Chain { slot: 5, parent: model[4].batch.header.digest(), frontier: model[4].frontier.clone() };
        let unsynced: Vec<Made> = (0..4).map(|_| chain.next(&[50, 60])).collect();
        unsynced.iter().for_each(|m| drop(m.append(&mut store).unwrap()));
        drop(store);
        let raw = RawLog::open(dir.path()).tree("batches");
        match damage {
            "remove" => drop(raw.remove(key.to_be_bytes()).unwrap().unwrap()),
            "garbage" => drop(raw.insert(key.to_be_bytes(), b"gar").unwrap().unwrap()),
            _ => {
                let mut row = raw.get(key.to_be_bytes()).unwrap().unwrap().to_vec();
                row[100] ^= 1;
                raw.insert(key.to_be_bytes(), row).unwrap();
            }
        }
        drop(raw);
        let (mut store, report) = open(dir.path());
        assert_eq!((store.head().sequence, report.rows_cut), (head, cut), "{damage} of the row at {key}");
        model.extend(unsynced);
        model.truncate(usize::try_from(head / 2).unwrap());
        refill(&store, &model);
        assert_holds(&store, &model);
        // The log goes on from there.
        let last = model.last().unwrap();
        let mut chain = Chain { slot: last.batch.header.slot, parent: last.batch.header.digest(), frontier: last.frontier.clone() };
        model.extend(append_small(&mut store, &mut chain, 2));
        assert_holds(&store, &model);
        drop(store);
        let (store, report) = open(dir.path());
        assert_eq!(report.rows_cut, 0);
        refill(&store, &model);
        assert_holds(&store, &model);
    }
}

#[test]
fn merkle_files_that_a_power_cut_took_cost_only_what_was_not_synced() {
    // What was synced: 10 leaves. Behind them 290 that were not: the first tile is complete.
    let zeros_in_level_0 = |log: &Path| {
        let path = log.join("merkle/level-0");
        let mut bytes = fs::read(&path).unwrap();
        bytes[20 * 32..200 * 32].fill(0);
        fs::write(path, bytes).unwrap();
    };
    let cut_level_0 = |log: &Path| fs::OpenOptions::new().write(true).open(log.join("merkle/level-0")).unwrap().set_len(15 * 32).unwrap();
    let lost_level_1 = |log: &Path| fs::write(log.join("merkle/level-1"), [0; 32]).unwrap();
    type Take<'a> = &'a dyn Fn(&Path);
    let cases: [(Take<'_>, u64, u64); 3] = [(&zeros_in_level_0, 10, 2), (&cut_level_0, 10, 2), (&lost_level_1, 300, 0)];
    for (take, head, cut) in cases {
        let (dir, mut model) = closed(5);
        let (mut store, _) = open(dir.path());
        let mut chain = Chain { slot: 5, parent: model[4].batch.header.digest(), frontier: model[4].frontier.clone() };
        for sizes in [&[1; 250][..], &[1; 40]] {
            model.push(chain.next(sizes));
            model.last().unwrap().append(&mut store).unwrap();
        }
        drop(store);
        take(&dir.path().join("log"));
        let (store, report) = open(dir.path());
        assert_eq!((store.head().sequence, report.rows_cut), (head, cut));
        model.truncate(if head == 10 { 5 } else { 7 });
        refill(&store, &model);
        assert_holds(&store, &model);
    }
}

#[test]
fn a_log_that_ends_below_its_note_was_rolled_back() {
    let (dir, model) = closed(6);
    let earlier = copy_of(dir.path());
    let raw = RawLog::open(earlier.path()).tree("batches");
    for made in &model[3..] {
        raw.remove(made.batch.header.first_sequence.to_be_bytes()).unwrap().unwrap();
    }
    drop(raw);
    let error = try_open(earlier.path()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged(Damage::Rollback { expected: 6, found: 3 })), "{error}");
    let emptied = copy_of(dir.path());
    RawLog::open(emptied.path()).tree("batches").clear().unwrap();
    let error = try_open(emptied.path()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged(Damage::Rollback { expected: 6, found: 0 })), "{error}");
}

#[test]
fn a_row_lost_below_the_head_is_named_when_it_is_read() {
    let (dir, model) = closed(6);
    let raw = RawLog::open(dir.path()).tree("batches");
    raw.remove(5u64.to_be_bytes()).unwrap().unwrap();
    drop(raw);
    let (store, _) = open(dir.path());
    let reader = store.reader();
    for sequence in [5, 6] {
        let error = reader.row_at_sequence(sequence).err().unwrap();
        assert!(matches!(error, StoreError::Damaged(Damage::Row { tree: "batches", .. })), "{error}");
    }
    assert!(reader.row_at_slot(3).err().unwrap().is_damage());
    assert_eq!(reader.rows_from_sequence(1).filter(Result::is_err).count(), 1, "a walk ends with the error");
    model[3].assert_is(&reader.row_at_sequence(7).unwrap().unwrap());
}

#[test]
fn every_flipped_bit_of_the_note_is_found() {
    let (dir, model) = closed(3);
    let path = dir.path().join("log/head");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        let error = read_synced(&dir.path().join("log")).unwrap_err();
        assert!(matches!(error, StoreError::Damaged(Damage::Meta)), "bit {at}: {error}");
    }
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(read_synced(&dir.path().join("log")).is_err(), "cut to {len} bytes");
    }
    assert_eq!(fate(dir.path(), &model, "a short note"), Fate::Refused);
    fs::remove_file(&path).unwrap();
    assert_eq!(fate(dir.path(), &model, "no note"), Fate::Refused);
    fs::write(&path, whole).unwrap();
    assert_eq!(fate(dir.path(), &model, "the note as it was"), Fate::Whole);
}

#[test]
fn a_damaged_database_file_is_named_or_harmless() {
    let (dir, model) = closed(12);
    let whole = fs::read(dir.path().join("log/sled/db")).unwrap();
    let used = whole.iter().rposition(|b| *b != 0).unwrap() + 1;
    let mut fates = Vec::new();
    let mut attempt = |what: String, bytes: &[u8]| {
        let copy = copy_of(dir.path());
        fs::write(copy.path().join("log/sled/db"), bytes).unwrap();
        fates.push(fate(copy.path(), &model, &what));
    };
    for step in 0..48 {
        let at = step * used / 48 + step % 7;
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (step % 8);
        attempt(format!("byte {at} of db flipped"), &bytes);
    }
    for step in 0..10 {
        let len = step * used / 10;
        attempt(format!("db cut to {len} bytes"), &whole[..len]);
    }
    let refused = fates.iter().filter(|f| **f != Fate::Whole).count();
    assert!(refused > 20, "most damage matters: {refused} of {}", fates.len());
}

#[test]
fn missing_files_are_damage_or_harmless() {
    let (dir, model) = closed(4);
    let without = |what: &str| {
        let copy = copy_of(dir.path());
        let path = copy.path().join("log").join(what);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        fate(copy.path(), &model, what)
    };
    assert_eq!(without("sled/db"), Fate::Refused);
    assert_eq!(without("sled"), Fate::Refused);
    assert_eq!(without("merkle/level-0"), Fate::Refused);
    assert_eq!(without("merkle"), Fate::Refused);
    assert_eq!(without("index"), Fate::Whole);
    without("sled/conf");
    let copy = copy_of(dir.path());
    fs::remove_dir_all(copy.path().join("log")).unwrap();
    fs::create_dir(copy.path().join("log")).unwrap();
    // Only a log that was never made is missing; one that lost its database is set aside, so that a new one can take its place.
    let error = try_open(copy.path()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged(Damage::Database { .. })), "{error}");
}

#[test]
fn sled_may_lose_its_configuration_but_nothing_else() {
    let (dir, model) = closed(4);
    let conf = dir.path().join("log/sled/conf");
    let whole = fs::read(&conf).unwrap();
    for at in 0..whole.len() {
        let copy = copy_of(dir.path());
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(copy.path().join("log/sled/conf"), bytes).unwrap();
        fate(copy.path(), &model, &format!("byte {at} of conf flipped"));
    }
}

#[test]
fn a_damaged_tree_is_named_by_every_path_through_it() {
    let (dir, model) = closed(5);
    let (store, _) = open(dir.path());
    let reader = store.reader();
    let level = dir.path().join("log/merkle/level-0");
    let whole = fs::read(&level).unwrap();
    assert_eq!(whole.len(), 10 * 32);
    // The leaf of sequence number 4 stands in the path of 3, not in its own, which begins with its sibling.
    let mut bytes = whole.clone();
    bytes[3 * 32 + 5] ^= 16;
    fs::write(&level, bytes).unwrap();
    let header = &model[1].batch.header;
    let error = reader.prove(3, model[1].leaves[0], header).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(Damage::Merkle { sequence: 4 })), "{error}");
    assert!(reader.prove(4, model[1].leaves[1], header).is_ok());
    assert_eq!(reader.prove(3, Digest([3; 32]), header).err().unwrap().to_string(), error.to_string());
    assert!(reader.prove(0, model[1].leaves[0], header).is_err() && reader.prove(5, model[1].leaves[0], header).is_err());
    fs::write(&level, &whole[..100]).unwrap();
    assert!(matches!(reader.leaf_hashes(0, 10), Err(StoreError::Damaged(Damage::Merkle { .. }))));
    assert!(matches!(reader.frontier(10), Err(StoreError::Damaged(Damage::Merkle { sequence: 10 }))));
    drop((store, reader));
    let error = try_open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged(Damage::Merkle { sequence: 10 })), "{error}");
    // What is behind the head is nothing.
    fs::write(&level, [&whole[..], &[1; 77]].concat()).unwrap();
    assert_eq!(fate(dir.path(), &model, "a longer level"), Fate::Whole);
}

#[test]
fn rows_of_every_tree_are_checked() {
    let (dir, _) = closed(2);
    for (tree, key) in [("checkpoints", 2u64), ("views", 1)] {
        let raw = RawLog::open(dir.path()).tree(tree);
        let mut row = raw.get(key.to_be_bytes()).unwrap().unwrap().to_vec();
        row[6] ^= 1;
        raw.insert(key.to_be_bytes(), row).unwrap();
    }
    let (store, _) = open(dir.path());
    assert!(matches!(store.reader().stable(), Err(StoreError::Damaged(Damage::Row { tree: "checkpoints", sequence: 2 }))));
    assert!(matches!(store.reader().views_from(0), Err(StoreError::Damaged(Damage::Row { tree: "views", sequence: 1 }))));
    drop(store);
    // A whole row under another key is as wrong as a flipped one.
    let raw = RawLog::open(dir.path()).tree("batches");
    let row = raw.get(1u64.to_be_bytes()).unwrap().unwrap();
    raw.insert(3u64.to_be_bytes(), row).unwrap();
    drop(raw);
    assert!(matches!(try_open(dir.path()).err().unwrap(), StoreError::Damaged(Damage::Row { tree: "batches", sequence: 3 })));
    let raw = RawLog::open(dir.path()).tree("meta");
    raw.remove(b"schema").unwrap().unwrap();
    drop(raw);
    assert!(matches!(try_open(dir.path()).err().unwrap(), StoreError::Damaged(Damage::Meta)));
}

#[test]
fn a_half_written_snapshot_of_sleds_is_no_damage() {
    let (dir, model) = closed(3);
    let sled = dir.path().join("log/sled");
    // What a power cut in the middle of opening leaves, whatever its number.
    std::fs::write(sled.join("snap.00000000FFFFFFFF.generating"), [7; 195]).unwrap();
    assert_eq!(fate(dir.path(), &model, "a snapshot in the making"), Fate::Whole);
}
