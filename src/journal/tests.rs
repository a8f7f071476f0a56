//! The journal against a model, against every torn write and every flipped byte, and against a disk that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damaged;
mod power;
mod watched;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::disk::{Access, Disk, DiskFile, RealDisk, Root};
use super::page::PAGE;
use super::*;
use watched::{Watch, Watched};

fn root(dir: &Path) -> Root {
    Root::new(RealDisk::shared(), dir)
}

const FEDERATION: [u8; 32] = [7; 32];
const SMALL: JournalOptions = JournalOptions { segment_bytes: 8 * 4096, votes_bytes: 8 * 4096, max_frame_bytes: 1 << 20 };

type Record = (StreamKind, u8, u64, Vec<u8>);

fn fresh() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("journal");
    Journal::create(&dir, FEDERATION, &SMALL, &[(1, b"first snapshot".to_vec())]).unwrap();
    (root, dir)
}

fn open(dir: &Path) -> (Journal, JournalReport) {
    Journal::open(dir, FEDERATION, &SMALL).unwrap()
}

fn reader(dir: &Path) -> JournalReader {
    JournalReader::open(dir, Some(FEDERATION), &SMALL).unwrap()
}

fn check(dir: &Path) -> JournalReport {
    reader(dir).check().unwrap()
}

fn tail(journal: &mut Journal) -> Vec<Record> {
    journal.tail(None).map(|frame| frame.map(|frame| (frame.stream, frame.kind, frame.tag, frame.payload)).unwrap()).collect()
}

fn segment(kind: u8, tag: u64, payload: Vec<u8>) -> Record {
    (StreamKind::Segments, kind, tag, payload)
}

fn vote(kind: u8, payload: Vec<u8>) -> Record {
    (StreamKind::Votes, kind, 0, payload)
}

fn append(journal: &mut Journal, record: &Record) {
    match record.0 {
        StreamKind::Segments => drop(journal.append_segment(record.1, record.2, &record.3).unwrap()),
        StreamKind::Votes => journal.append_vote(record.1, &record.3).unwrap(),
    }
}

/// Every file of a directory with its bytes, in order of name.
fn snapshot_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for directory in [dir.to_path_buf(), segments_dir(dir)] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn copy_of(dir: &Path) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let copy = root.path().join("journal");
    fs::create_dir_all(segments_dir(&copy)).unwrap();
    for (path, bytes) in snapshot_of(dir) {
        fs::write(copy.join(path.strip_prefix(dir).unwrap()), bytes).unwrap();
    }
    (root, copy)
}

fn overwrite(path: &Path, at: usize, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at as u64).unwrap();
}

fn zero(path: &Path, page: usize) {
    overwrite(path, page * PAGE, &[0; PAGE]);
}

/// One segment of three groups (pages 0, 1..4, 4..7) and two votes groups after the snapshot's (pages 1, 2..4).
fn three_groups() -> (TempDir, PathBuf, Vec<Record>) {
    let (root, dir) = fresh();
    let records = vec![
        vote(1, b"first snapshot".to_vec()),
        segment(2, 1, vec![1; 100]),
        segment(2, 2, vec![2; 9000]),
        vote(3, vec![3; 50]),
        segment(2, 3, vec![4; 9000]),
        vote(3, vec![5; 5000]),
    ];
    let (mut journal, _) = open(&dir);
    append(&mut journal, &records[1]);
    journal.sync().unwrap();
    for pair in records[2..].chunks(2) {
        pair.iter().for_each(|record| append(&mut journal, record));
        journal.sync().unwrap();
    }
    (root, dir, records)
}

#[test]
fn what_is_appended_is_read_back_in_order_and_by_locator() {
    let (_root, dir) = fresh();
    let (mut journal, report) = open(&dir);
    assert_eq!((report.damage, report.votes_generation, report.highest_lsn), (vec![], 1, 1));
    let big: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    let first = journal.append_segment(9, 4, &big).unwrap();
    journal.append_vote(8, b"vote").unwrap();
    let empty = journal.append_segment(10, 5, b"").unwrap();
    assert!(journal.has_unsynced());
    journal.sync().unwrap();
    assert!(!journal.has_unsynced());
    let stats = journal.stats();
    journal.sync().unwrap();
    assert_eq!(journal.stats(), stats, "nothing buffered, nothing written");
    assert_eq!((stats.groups, stats.syncs, stats.segment, stats.votes_generation), (2, 2, 1, 1));
    assert_eq!(journal.reader().read(first).unwrap(), big);
    assert_eq!(journal.reader().read(empty).unwrap(), b"");
    drop(journal);
    let (mut journal, report) = open(&dir);
    assert_eq!((report.segment_frames, report.votes_frames, report.highest_lsn), (2, 2, 4));
    let frames: Vec<Frame> = journal.tail(None).map(Result::unwrap).collect();
    assert_eq!(frames.iter().map(|frame| (frame.lsn, frame.kind)).collect::<Vec<_>>(), [(1, 1), (2, 9), (3, 8), (4, 10)]);
    assert_eq!(frames[1].locator, Some(first));
    assert_eq!(frames[2].locator, None);
    assert_eq!(check(&dir).damage, []);
}

#[test]
fn a_wrong_locator_is_refused() {
    let (_root, dir, _) = three_groups();
    let good = reader(&dir).segments_from(None).nth(1).unwrap().unwrap().locator.unwrap();
    assert_eq!(reader(&dir).read(good).unwrap(), vec![2; 9000]);
    for bad in [
        Locator { page: good.page + 1, ..good },
        Locator { offset: good.offset + 1, ..good },
        Locator { offset: 0, ..good },
        Locator { len: good.len - 1, ..good },
        Locator { len: SMALL.max_frame_bytes, ..good },
        Locator { len: u32::MAX, ..good },
        Locator { offset: u32::MAX, ..good },
        Locator { page: u32::MAX, ..good },
        Locator { segment: 2, ..good },
    ] {
        reader(&dir).read(bad).unwrap_err();
    }
}

/// Zeroes every subset of the pages of `file`'s last group and opens: the group is cut, all before it survives.
fn tear_every_subset(file: &Path, dir: &Path, pages: std::ops::Range<usize>, survivors: &[Record]) {
    let count = pages.len();
    for subset in 1..1u32 << count {
        let (_root, copy) = copy_of(dir);
        let path = copy.join(file);
        for (bit, page) in pages.clone().enumerate() {
            if subset & (1 << bit) != 0 {
                zero(&path, page);
            }
        }
        let before = snapshot_of(&copy);
        let left = count as u32 - subset.count_ones();
        let seen = check(&copy);
        assert_eq!((seen.damage, seen.segment_pages_cut + seen.votes_pages_cut), (vec![], left), "{subset:b}");
        assert_eq!(snapshot_of(&copy), before, "a check changes nothing");
        let (mut journal, report) = open(&copy);
        assert_eq!((report.damage, report.segment_pages_cut + report.votes_pages_cut), (vec![], left), "{subset:b}");
        assert_eq!(tail(&mut journal), survivors);
        append(&mut journal, &segment(4, 9, vec![9; 5000]));
        append(&mut journal, &vote(4, vec![9; 50]));
        journal.sync().unwrap();
        drop(journal);
        let mut expected = survivors.to_vec();
        expected.extend([segment(4, 9, vec![9; 5000]), vote(4, vec![9; 50])]);
        let (mut journal, report) = open(&copy);
        assert_eq!((report.damage, report.segment_pages_cut), (vec![], 0));
        assert_eq!(tail(&mut journal), expected);
    }
}

#[test]
fn every_torn_last_votes_group_is_cut() {
    let (_root, dir, records) = three_groups();
    tear_every_subset(Path::new("votes.1"), &dir, 2..4, &records[..5]);
}

#[test]
fn every_torn_last_segment_group_is_cut() {
    let (_root, dir) = fresh();
    let records = [vote(1, b"first snapshot".to_vec()), segment(2, 1, vec![1; 100]), segment(2, 2, vec![2; 13_000])];
    let (mut journal, _) = open(&dir);
    for record in &records[1..] {
        append(&mut journal, record);
        journal.sync().unwrap();
    }
    drop(journal);
    tear_every_subset(Path::new("segments/00000000000000000001.seg"), &dir, 1..5, &records[..2]);
}

#[test]
fn a_vanished_group_that_was_acknowledged_is_damage() {
    let (_root, dir, _) = three_groups();
    for page in 4..7 {
        zero(&segment_path(&dir, 1), page);
    }
    let lost = |damage: &[Damage]| matches!(damage, [Damage { kind: DamageKind::LostRecords { .. }, .. }]);
    let (journal, report) = open(&dir);
    assert!(lost(&report.damage) && report.segments_damaged && !report.votes_damaged, "{report:?}");
    assert_eq!(journal.stats().segment, 2, "nothing is written over the gap");
    drop(journal);

    let (_root, dir, _) = three_groups();
    let (mut journal, _) = open(&dir);
    append(&mut journal, &segment(2, 4, vec![1]));
    journal.sync().unwrap();
    drop(journal);
    zero(&dir.join("votes.1"), 2);
    zero(&dir.join("votes.1"), 3);
    let report = check(&dir);
    assert!(lost(&report.damage) && report.votes_damaged && !report.segments_damaged, "{report:?}");
    let (journal, report) = open(&dir);
    assert!(report.votes_damaged && journal.votes_need_rotation());
}

/// Flips one bit of every byte of a file, used or not: each time the page is named as damaged.
fn flip_every_byte(dir: &Path, file: &Path, stream: StreamKind, pages: usize) {
    let path = dir.join(file);
    let bytes = fs::read(&path).unwrap();
    for at in 0..pages * PAGE {
        overwrite(&path, at, &[bytes[at] ^ 1 << (at % 8)]);
        let found = damage_of(dir, stream);
        let named = found.iter().any(|damage| damage.page == Some((at / PAGE) as u32) && damage.file == path);
        assert!(named, "byte {at}: {found:?}");
        overwrite(&path, at, &bytes[at..=at]);
    }
    assert_eq!(check(dir).damage, []);
}

/// The damage of one stream as opening for writing sees it (no second looks).
fn damage_of(dir: &Path, stream: StreamKind) -> Vec<Damage> {
    let expected = Expectation { stream, lap: 0, federation_id: Some(FEDERATION), max_frame_bytes: SMALL.max_frame_bytes, live: false };
    match stream {
        StreamKind::Votes => votes::load(&root(dir), expected).damage,
        StreamKind::Segments => {
            let mut walk = SegmentWalk::new(&root(dir), list(&root(dir)).unwrap(), expected);
            std::iter::from_fn(|| walk.step()).filter_map(Result::err).collect()
        }
    }
}

/// A full segment of two groups (pages 0 and 1..3); votes groups in pages 0 and 1..3 of four.
fn tiny() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("journal");
    let options = JournalOptions { segment_bytes: 3 * 4096, votes_bytes: 4 * 4096, ..SMALL };
    Journal::create(&dir, FEDERATION, &options, &[(1, vec![1; 40])]).unwrap();
    let (mut journal, _) = Journal::open(&dir, FEDERATION, &options).unwrap();
    for len in [100, 5000] {
        append(&mut journal, &segment(1, 1, vec![2; len]));
        journal.sync().unwrap();
    }
    append(&mut journal, &vote(1, vec![3; 5000]));
    journal.sync().unwrap();
    (root, dir)
}

#[test]
fn no_flipped_byte_of_a_segment_is_accepted() {
    let (_root, dir) = tiny();
    flip_every_byte(&dir, Path::new("segments/00000000000000000001.seg"), StreamKind::Segments, 3);
}

#[test]
fn no_flipped_byte_of_the_current_votes_is_accepted() {
    let (_root, dir) = tiny();
    flip_every_byte(&dir, Path::new("votes.1"), StreamKind::Votes, 4);
}

#[test]
fn a_page_is_valid_in_its_own_place_only() {
    let (_root, dir, _) = three_groups();
    let bytes = fs::read(segment_path(&dir, 1)).unwrap();
    let page = &bytes[2 * PAGE..3 * PAGE];
    assert!(matches!(page::classify(StreamKind::Segments, 2, page), PageFound::Whole(PagePlace { lap: 1, group: 2, index: 1, count: 3 })));
    assert_eq!(page::classify(StreamKind::Segments, 3, page), PageFound::Invalid);
    assert_eq!(page::classify(StreamKind::Votes, 2, page), PageFound::Invalid);
}

#[test]
fn a_missing_page_in_an_earlier_group_is_damage_and_the_walk_goes_on() {
    let (_root, dir, _) = three_groups();
    let path = segment_path(&dir, 1);
    zero(&path, 2);
    let before = fs::read(&path).unwrap();
    let items: Vec<_> = reader(&dir).segments_from(None).collect();
    assert_eq!(items.len(), 3);
    assert_eq!(items[0].as_ref().unwrap().payload, vec![1; 100]);
    let kind = DamageKind::Page { group: 2, index: 1, found: PageFound::Zero };
    let expected = Damage { stream: StreamKind::Segments, file: path, page: Some(2), kind };
    assert!(matches!(&items[1], Err(JournalError::Damage(damage)) if *damage == expected));
    assert_eq!(items[2].as_ref().unwrap().payload, vec![4; 9000]);
    let (mut journal, report) = open(&dir);
    assert_eq!((report.damage, report.segment_pages_cut), (vec![expected], 0));
    assert_eq!(journal.stats().segment, 2);
    append(&mut journal, &segment(5, 9, vec![6]));
    journal.sync().unwrap();
    drop(journal);
    assert_eq!(fs::read(segment_path(&dir, 1)).unwrap(), before, "damaged segments are left as they are");
    assert_eq!(reader(&dir).segments_from(None).filter_map(Result::ok).count(), 3);
}

#[test]
fn a_missing_page_in_an_earlier_votes_group_is_damage() {
    let (_root, dir, _) = three_groups();
    zero(&dir.join("votes.1"), 1);
    let (mut journal, report) = open(&dir);
    assert!(report.votes_damaged && !report.segments_damaged);
    assert!(matches!(journal.append_vote(1, b"x"), Err(JournalError::VotesDamaged { .. })));
    append(&mut journal, &segment(5, 9, vec![6]));
    journal.rotate_votes(&[(1, b"rejoined".to_vec())]).unwrap();
    journal.append_vote(2, b"after").unwrap();
    journal.sync().unwrap();
    drop(journal);
    let (mut journal, report) = open(&dir);
    assert_eq!((report.damage, report.votes_generation), (vec![], 2));
    let votes: Vec<Record> = tail(&mut journal).into_iter().filter(|record| record.0 == StreamKind::Votes).collect();
    assert_eq!(votes, [vote(1, b"rejoined".to_vec()), vote(2, b"after".to_vec())]);
}

fn rotated(generations: u64) -> (TempDir, PathBuf) {
    let (root, dir) = fresh();
    let (mut journal, _) = open(&dir);
    for generation in 2..=generations {
        journal.append_vote(1, &[generation as u8; 9000]).unwrap();
        journal.sync().unwrap();
        journal.rotate_votes(&[(2, vec![generation as u8; 9000])]).unwrap();
    }
    (root, dir)
}

#[test]
fn a_rotation_torn_anywhere_leaves_the_generation_before() {
    let (_root, dir) = rotated(3);
    let (_root_before, before) = copy_of(&dir);
    let (mut journal, _) = open(&dir);
    journal.rotate_votes(&[(3, vec![4; 9000])]).unwrap();
    drop(journal);
    let (old, new) = (fs::read(before.join("votes.0")).unwrap(), fs::read(dir.join("votes.0")).unwrap());
    for written in 0..8u32 {
        for missing_are_zero in [false, true] {
            let (_root, copy) = copy_of(&before);
            for page in 0..3 {
                let at = page * PAGE..(page + 1) * PAGE;
                if written & (1 << page) != 0 {
                    overwrite(&copy.join("votes.0"), at.start, &new[at]);
                } else if missing_are_zero {
                    zero(&copy.join("votes.0"), page);
                } else {
                    overwrite(&copy.join("votes.0"), at.start, &old[at]);
                }
            }
            let generation = if written == 7 { 4 } else { 3 };
            let seen = check(&copy);
            assert_eq!((seen.damage, seen.votes_generation), (vec![], generation), "{written:b}");
            let (mut journal, report) = open(&copy);
            assert_eq!((report.damage, report.votes_generation), (vec![], generation), "{written:b}");
            let torn = if written == 7 { 0 } else { written.count_ones() };
            assert_eq!(report.votes_pages_cut, torn);
            // The torn generation's number is used again, over its zeroed remains.
            journal.rotate_votes(&[(4, vec![5; 100])]).unwrap();
            journal.append_vote(5, b"on").unwrap();
            journal.sync().unwrap();
            drop(journal);
            let seen = check(&copy);
            assert_eq!((seen.damage, seen.votes_generation, seen.votes_frames), (vec![], generation + 1, 2));
        }
    }
}

#[test]
fn a_rotation_that_cannot_be_proven_torn_is_damage() {
    for (file, page) in [("votes.0", 0), ("votes.0", 2)] {
        let (_root, dir) = rotated(4);
        overwrite(&dir.join(file), page * PAGE + 10, &[0xAA; 3]);
        let report = open(&dir).1;
        assert!(report.votes_damaged, "generation 3 must not be believed: {report:?}");
    }
    let (_root, dir) = rotated(4);
    fs::remove_file(dir.join("votes.0")).unwrap();
    assert!(open(&dir).1.votes_damaged);
    let (_root, dir) = rotated(3);
    fs::remove_file(dir.join("votes.0")).unwrap();
    assert!(open(&dir).1.votes_damaged, "a newer generation could have been there");
    fs::remove_file(dir.join("votes.1")).unwrap();
    let (mut journal, report) = open(&dir);
    assert!(report.votes_damaged && report.damage.iter().any(|damage| damage.kind == DamageKind::NoGeneration));
    journal.rotate_votes(&[]).unwrap();
    drop(journal);
    assert_eq!(check(&dir).damage, []);
}

#[test]
fn pages_of_an_earlier_lap_are_unused_space() {
    let (_root, dir) = rotated(7);
    let (mut journal, _) = open(&dir);
    journal.rotate_votes(&[(9, b"short".to_vec())]).unwrap();
    drop(journal);
    let (mut journal, report) = open(&dir);
    assert_eq!((report.damage, report.votes_generation, report.votes_pages_cut), (vec![], 8, 0));
    assert_eq!(tail(&mut journal), [vote(9, b"short".to_vec())]);
    journal.append_vote(9, b"next").unwrap();
    journal.sync().unwrap();
    assert_eq!(check(&dir).votes_frames, 2);
}

#[test]
fn a_full_votes_file_asks_for_rotation_and_grows() {
    let (_root, dir) = fresh();
    let (mut journal, _) = open(&dir);
    assert!(!journal.votes_need_rotation());
    for round in 0..20u8 {
        journal.append_vote(1, &[round; 6000]).unwrap();
        journal.sync().unwrap();
        assert!(round < 3 || journal.votes_need_rotation() || fs::metadata(dir.join("votes.1")).unwrap().len() > SMALL.votes_bytes);
    }
    journal.rotate_votes(&[(2, vec![1; 100_000])]).unwrap();
    assert!(!journal.votes_need_rotation());
    drop(journal);
    let report = check(&dir);
    assert_eq!((report.damage, report.votes_generation, report.votes_frames), (vec![], 2, 1));
}

fn many_segments() -> (TempDir, PathBuf, Vec<Locator>) {
    let (root, dir) = fresh();
    let (mut journal, _) = open(&dir);
    let mut locators = Vec::new();
    for tag in 1..=20u64 {
        locators.push(journal.append_segment(1, tag, &vec![tag as u8; 10_000]).unwrap());
        if tag % 2 == 0 {
            journal.sync().unwrap();
        }
    }
    journal.append_vote(1, b"end").unwrap();
    journal.sync().unwrap();
    (root, dir, locators)
}

#[test]
fn recovery_starts_at_the_segment_that_holds_the_base() {
    let (_root, dir, locators) = many_segments();
    assert!(locators.last().unwrap().segment > 5);
    for (tag, locator) in (1..=20u64).zip(&locators) {
        assert_eq!(reader(&dir).read(*locator).unwrap(), vec![tag as u8; 10_000]);
    }
    for base in 0..=21u64 {
        let frames: Vec<Frame> = reader(&dir).segments_from(Some(base)).map(Result::unwrap).collect();
        let tags: Vec<u64> = frames.iter().map(|frame| frame.tag).collect();
        assert!((base + 1..=20).all(|tag| tags.contains(&tag)), "{base}: {tags:?}");
        // Two or three records a segment: nothing long before the base is read.
        assert!(tags.iter().all(|tag| tag + 4 > base), "{base}: {tags:?}");
    }
    assert_eq!(reader(&dir).segments_from(None).count(), 20);
    let (journal, report) = open(&dir);
    assert_eq!((report.damage, report.segments_read, report.highest_lsn), (vec![], 1, 22));
    drop(journal);
    assert_eq!(check(&dir).segments_read, locators.last().unwrap().segment);
}

#[test]
fn a_missing_or_shortened_or_foreign_segment_is_damage() {
    let only = |dir: &Path| -> DamageKind {
        let mut damage = check(dir).damage;
        assert_eq!(damage.len(), 1, "{damage:?}");
        damage.remove(0).kind
    };
    let (_root, dir, locators) = many_segments();
    fs::remove_file(segment_path(&dir, 3)).unwrap();
    assert_eq!(only(&dir), DamageKind::MissingFile);

    let (_root, dir, _) = many_segments();
    fs::remove_file(segment_path(&dir, locators.last().unwrap().segment)).unwrap();
    assert!(matches!(only(&dir), DamageKind::LostRecords { expected: 21, .. }));

    let (_root, dir, _) = many_segments();
    let last = locators.iter().rfind(|locator| locator.segment == 2).unwrap();
    for page in last.page..8 {
        zero(&segment_path(&dir, 2), page as usize);
    }
    assert!(matches!(only(&dir), DamageKind::LostRecords { .. }), "the next segment remembers");

    let (_root, dir, _) = many_segments();
    zero(&segment_path(&dir, 2), last.page as usize);
    assert!(check(&dir).segments_damaged);

    let (_root, dir, _) = many_segments();
    File::options().write(true).open(segment_path(&dir, 2)).unwrap().set_len(7 * 4096).unwrap();
    assert!(check(&dir).damage.iter().any(|damage| matches!(damage.kind, DamageKind::Length { expected: 32768, found: 28672 })));

    let (_root, dir, _) = many_segments();
    let (_other_root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap().path().join("other"));
    Journal::create(&other, [8; 32], &SMALL, &[]).unwrap();
    let (mut journal, _) = Journal::open(&other, [8; 32], &SMALL).unwrap();
    append(&mut journal, &segment(1, 1, vec![1]));
    journal.sync().unwrap();
    drop(journal);
    fs::copy(segment_path(&other, 1), segment_path(&dir, 1)).unwrap();
    let kind = DamageKind::OtherFederation { expected: FEDERATION, found: [8; 32] };
    assert!(check(&dir).damage.iter().any(|damage| damage.kind == kind));
    let error = Journal::open(&other, FEDERATION, &SMALL).err().unwrap();
    assert!(matches!(error, JournalError::OtherFederation { expected: FEDERATION, found, .. } if found == [8; 32]));
    assert_eq!(JournalReader::open(&other, None, &SMALL).unwrap().federation_id(), Some([8; 32]));
    fs::remove_dir_all(other.parent().unwrap()).unwrap();
}

#[test]
fn an_unused_last_segment_is_used_or_replaced() {
    let (_root, dir, locators) = many_segments();
    let newest = locators.last().unwrap().segment;
    fs::write(segment_path(&dir, newest + 1), vec![0; 8 * PAGE]).unwrap();
    let (mut journal, report) = open(&dir);
    assert_eq!((report.damage, journal.stats().segment), (vec![], newest + 1));
    let locator = journal.append_segment(1, 21, &vec![9; 200_000]).unwrap();
    assert_eq!((locator.segment, locator.page), (newest + 1, 0), "a record larger than a segment gets a file of its size");
    let next = journal.append_segment(1, 22, &[1; 5000]).unwrap();
    assert_eq!(next.segment, newest + 2);
    journal.sync().unwrap();
    assert_eq!(journal.reader().read(locator).unwrap(), vec![9; 200_000]);
    drop(journal);
    let report = check(&dir);
    assert_eq!((report.damage, report.segment_frames), (vec![], 22));
    let header = segments::peek_header(&root(&dir), newest + 2).unwrap();
    assert_eq!(header.max_tag_before, 21);
}

#[test]
fn what_cannot_be_appended_is_refused_and_changes_nothing() {
    let (_root, dir) = fresh();
    let (mut journal, _) = open(&dir);
    let long = vec![0; SMALL.max_frame_bytes as usize + 1];
    assert!(matches!(journal.append_segment(1, 1, &long), Err(JournalError::FrameTooLong { len: 1_048_577, max: 1_048_576 })));
    assert!(matches!(journal.append_vote(1, &long), Err(JournalError::FrameTooLong { .. })));
    assert!(matches!(journal.rotate_votes(&[(1, long)]), Err(JournalError::FrameTooLong { .. })));
    for kind in [0, 0xFE, 0xFF] {
        assert!(matches!(journal.append_segment(kind, 1, b""), Err(JournalError::ReservedKind { .. })));
        assert!(matches!(journal.append_vote(kind, b""), Err(JournalError::ReservedKind { .. })));
    }
    assert!(!journal.has_unsynced());
    journal.append_vote(1, b"fine").unwrap();
    journal.sync().unwrap();
    let bad = JournalOptions { segment_bytes: 5000, ..SMALL };
    assert!(matches!(bad.validate(), Err(JournalError::Option { name: "segment_bytes", found: 5000, .. })));
    JournalOptions::default().validate().unwrap();
}

#[test]
fn longer_frames_than_the_limit_are_damage_when_read() {
    let (_root, dir, _) = three_groups();
    let options = JournalOptions { max_frame_bytes: 6000, ..SMALL };
    let report = JournalReader::open(&dir, Some(FEDERATION), &options).unwrap().check().unwrap();
    let long = |damage: &&Damage| matches!(damage.kind, DamageKind::Frame { problem: FrameProblem::TooLong { len: 9000, max: 6000 }, .. });
    assert_eq!(report.damage.iter().filter(long).count(), 2);
}

#[test]
fn a_journal_is_created_once_and_opened_once() {
    let (root, dir) = fresh();
    assert!(matches!(Journal::create(&dir, FEDERATION, &SMALL, &[]), Err(JournalError::Exists { .. })));
    assert!(matches!(open(&dir).0.tail(None).count(), 1));
    let empty = root.path().join("empty");
    let opened = |dir: &Path| Journal::open(dir, FEDERATION, &SMALL).err().unwrap();
    assert!(matches!(opened(&empty), JournalError::NotFound { .. }));
    fs::create_dir(&empty).unwrap();
    assert!(matches!(opened(&empty), JournalError::NotFound { .. }));
    assert!(matches!(JournalReader::open(&empty, None, &SMALL), Err(JournalError::NotFound { .. })));
    Journal::create(&empty, FEDERATION, &SMALL, &[]).unwrap();
    let _held = open(&dir);
    assert!(matches!(opened(&dir), JournalError::InUse { .. }));
}

/// A disk whose `left`-th next operation fails, and every one after it succeeds again.
struct FailingDisk {
    left: AtomicU32,
    sync: bool,
}

impl FailingDisk {
    fn strikes(&self) -> io::Result<()> {
        let strikes = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1);
        if strikes { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

impl Watch for FailingDisk {
    fn write(&self) -> io::Result<()> {
        if self.sync { Ok(()) } else { self.strikes() }
    }

    fn sync(&self, _: &Path) -> io::Result<()> {
        if self.sync { self.strikes() } else { Ok(()) }
    }
}

#[test]
fn one_failed_write_or_sync_stops_the_journal_for_good() {
    for (left, sync) in [(1, false), (2, false), (1, true), (2, true)] {
        let (_root, dir) = fresh();
        let disk = Arc::new(FailingDisk { left: AtomicU32::new(0), sync });
        let (mut journal, _) = Journal::open_on(Arc::new(Watched(disk.clone())), &dir, FEDERATION, &SMALL).unwrap();
        disk.left.store(left, Ordering::SeqCst);
        append(&mut journal, &segment(1, 1, vec![1]));
        append(&mut journal, &vote(1, vec![1]));
        let first = journal.sync().unwrap_err().to_string();
        assert!(first.contains(if sync { "cannot sync" } else { "cannot write" }), "{first}");
        assert!(first.contains(if left == 1 { ".seg" } else { "votes.1" }), "segments first, then votes: {first}");
        assert_eq!(disk.left.load(Ordering::SeqCst), 0, "the disk works again");
        let groups = journal.stats().groups;
        let answers = [
            journal.sync().unwrap_err(),
            journal.append_segment(1, 1, b"x").unwrap_err(),
            journal.append_vote(1, b"x").unwrap_err(),
            journal.rotate_votes(&[]).unwrap_err(),
        ];
        assert!(answers.iter().all(|error| error.to_string() == first));
        assert_eq!(journal.stats().groups, groups);
    }
}

#[test]
fn a_reader_beside_a_writer_sees_what_is_synced_and_changes_nothing() {
    let (_root, dir) = fresh();
    let (mut journal, _) = open(&dir);
    let watching = reader(&dir);
    for round in 1..=30u64 {
        let locator = journal.append_segment(1, round, &vec![round as u8; 3000]).unwrap();
        journal.append_vote(1, &[round as u8; 900]).unwrap();
        let before = watching.segments_from(None).map(Result::unwrap).count() as u64;
        assert!(before < round, "nothing is seen before it is written");
        journal.sync().unwrap();
        if journal.votes_need_rotation() {
            journal.rotate_votes(&[(2, vec![1])]).unwrap();
        }
        assert_eq!(watching.segments_from(None).map(Result::unwrap).count() as u64, round);
        assert_eq!(watching.read(locator).unwrap(), vec![round as u8; 3000]);
        assert_eq!(watching.votes().damage, []);
        assert_eq!(watching.check().unwrap().damage, []);
    }
    assert!(journal.stats().votes_generation > 2);
}

#[test]
fn readers_on_other_threads_never_see_damage_in_a_sound_journal() {
    let (_root, dir) = fresh();
    let (mut journal, _) = open(&dir);
    let watching = journal.reader();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let finished = Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        let mut rounds = 0;
        while !finished.load(Ordering::SeqCst) || rounds == 0 {
            assert_eq!(watching.check().unwrap().damage, []);
            rounds += 1;
        }
    });
    for round in 0..200u64 {
        journal.append_segment(1, round, &vec![round as u8; 5000]).unwrap();
        journal.append_vote(1, &[round as u8; 3000]).unwrap();
        journal.sync().unwrap();
        if journal.votes_need_rotation() {
            journal.rotate_votes(&[(2, vec![1; 5000])]).unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    thread.join().unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Append(Record),
    Sync,
    Rotate(Vec<u8>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload =
        prop_oneof![8 => 0..600usize, 3 => 4000..4100usize, 1 => 0..40_000usize].prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
    let record = (any::<bool>(), 1..=0xFDu8, 0..50u64, payload);
    let append =
        record.prop_map(|(to_votes, kind, tag, payload)| Step::Append(if to_votes { vote(kind, payload) } else { segment(kind, tag, payload) }));
    let rotate = prop::collection::vec(any::<u8>(), 0..9000).prop_map(Step::Rotate);
    prop::collection::vec(prop_oneof![8 => append, 4 => Just(Step::Sync), 1 => rotate, 1 => Just(Step::Reopen)], 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is appended, rotated and reopened: what was synced is there, in order, and nothing else.
    #[test]
    fn any_history_reads_back_as_the_model_says(steps in steps()) {
        let (_root, dir) = fresh();
        let mut journal = Some(open(&dir).0);
        let mut model = vec![vote(1, b"first snapshot".to_vec())];
        let rejoin = |journal: &mut Option<Journal>, model: &[Record]| {
            journal.as_mut().unwrap().sync().unwrap();
            *journal = None;
            let (mut opened, report) = open(&dir);
            prop_assert_eq!(report.damage, vec![]);
            prop_assert_eq!(tail(&mut opened), model);
            *journal = Some(opened);
            Ok(())
        };
        for step in steps {
            let open = journal.as_mut().unwrap();
            match step {
                Step::Append(record) => {
                    append(open, &record);
                    model.push(record);
                }
                Step::Sync => open.sync().unwrap(),
                Step::Rotate(payload) => {
                    open.rotate_votes(&[(7, payload.clone())]).unwrap();
                    model.retain(|record| record.0 == StreamKind::Segments);
                    model.push(vote(7, payload));
                }
                Step::Reopen => rejoin(&mut journal, &model)?,
            }
        }
        rejoin(&mut journal, &model)?;
        prop_assert_eq!(check(&dir).damage, vec![]);
    }
}

/// The newest voting record may be lost as a whole, to a file emptied or zeroed; the segments say that it was there.
#[test]
fn a_lost_generation_is_damage_even_if_nothing_was_written_after_it() {
    for emptied in [true, false] {
        let (_home, dir) = fresh();
        let (mut journal, _) = open(&dir);
        journal.append_vote(1, b"first").unwrap();
        journal.sync().unwrap();
        journal.rotate_votes(&[(1, b"state".to_vec())]).unwrap();
        drop(journal);
        let current = dir.join("votes.0");
        let length = fs::metadata(&current).unwrap().len();
        fs::write(&current, vec![0; if emptied { 0 } else { usize::try_from(length).unwrap() }]).unwrap();
        let (_, report) = open(&dir);
        assert!(report.votes_damaged, "emptied: {emptied}; {:?}", report.damage);
    }
}
