//! The log against a model in memory, against damage, and against the golden fixture of its first schema.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chain;
mod contract;
mod damage;
mod golden;
mod migration;

use proptest::prelude::*;

use super::*;
use chain::{Chain, Made, RawLog, federation, locator};

fn open(dir: &Path) -> (Store, StoreReport) {
    Store::open(dir, federation(), &StoreOptions::default()).unwrap()
}

fn create(dir: &Path) -> Store {
    Store::create(dir, federation(), &StoreOptions::default()).unwrap()
}

/// Appends batches of one small update each.
fn append_small(store: &mut Store, chain: &mut Chain, count: usize) -> Vec<Made> {
    let made: Vec<Made> = (0..count).map(|_| chain.next(&[100])).collect();
    made.iter().for_each(|m| drop(m.append(store).unwrap()));
    made
}

/// Gives the index what it lags behind, as recovery does; bodies come from the model.
fn refill(store: &Store, model: &[Made]) {
    let Some(gap) = store.index_gap() else { return };
    let entries: Vec<(UpdateId, Sequence)> = model.iter().flat_map(Made::ids).filter(|(_, sequence)| gap.contains(sequence)).collect();
    store.index_add(&entries);
    assert_eq!(store.index_gap(), None, "the index has caught up");
}

/// Everything that the log says must be what was appended.
fn assert_holds(store: &Store, model: &[Made]) {
    let (head, reader) = (store.head(), store.reader());
    let last = model.last().map(|m| &m.batch.header);
    assert_eq!((head.slot, head.sequence), last.map_or((0, 0), |h| (h.slot, h.last_sequence())));
    assert_eq!((head.digest, head.timestamp), last.map_or((Digest::ZERO, 0), |h| (h.digest(), h.timestamp)));
    assert_eq!(head.frontier, model.last().map_or_else(Frontier::default, |m| m.frontier.clone()));
    for made in model {
        let header = &made.batch.header;
        made.assert_is(&reader.row_at_slot(header.slot).unwrap().unwrap());
        for (at, (id, sequence)) in made.ids().into_iter().enumerate() {
            made.assert_is(&reader.row_at_sequence(sequence).unwrap().unwrap());
            reader.prove(sequence, made.leaves[at], header).unwrap();
            assert!(reader.lookup(&id).unwrap().contains(&sequence), "{id} is indexed");
        }
        assert_eq!(reader.leaf_hashes(header.first_sequence - 1, made.leaves.len()).unwrap(), made.leaves);
    }
    let slots = |rows: Vec<Result<StoredBatch, StoreError>>| rows.into_iter().map(|r| r.unwrap().header.slot).collect::<Vec<_>>();
    let forward: Vec<Slot> = (1..=head.slot).collect();
    assert_eq!(slots(reader.rows_from_sequence(0).collect()), forward);
    assert_eq!(slots(reader.rows_backwards().collect()), forward.into_iter().rev().collect::<Vec<_>>());
    assert!(reader.row_at_sequence(head.sequence + 1).unwrap().is_none());
    assert!(reader.row_at_slot(head.slot + 1).unwrap().is_none());
    assert!(reader.row_at_sequence(0).unwrap().is_none());
}

#[test]
fn what_is_appended_is_read_back_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    let mut model = append_small(&mut store, &mut chain, 3);
    store.sync().unwrap();
    let large = chain.next(&[20_000, 5]);
    large.append(&mut store).unwrap();
    model.push(large);
    assert_holds(&store, &model);
    let certificate = chain.checkpoint();
    store.put_checkpoint(&certificate).unwrap();
    store.put_view(3, &ViewRecord { at: 77, reason: "stall".into() }).unwrap();
    store.sync().unwrap();
    drop(store);
    let (store, report) = open(dir.path());
    assert_eq!(report, StoreReport::default());
    refill(&store, &model);
    assert_holds(&store, &model);
    assert_eq!(store.reader().stable().unwrap(), Some(certificate));
    assert_eq!(store.reader().views_from(1).unwrap(), vec![(3, ViewRecord { at: 77, reason: "stall".into() })]);
    assert_eq!(store.reader().views_from(4).unwrap(), vec![]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    Sync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around the bound between row and segment, the smallest, and more than one tile level's worth of leaves.
    let size = prop_oneof![4 => 0..300usize, 2 => 3_900..4_200usize, 1 => 5_000..30_000usize];
    let sizes = prop_oneof![6 => prop::collection::vec(size, 1..6), 1 => Just(vec![0; 260])];
    prop::collection::vec(prop_oneof![6 => sizes.prop_map(Step::Append), 2 => Just(Step::Sync), 2 => Just(Step::Reopen)], 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_log_is_its_model(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut chain = Chain::default();
        let mut store = create(dir.path());
        let mut model = Vec::new();
        for step in steps {
            match step {
                Step::Append(sizes) => {
                    let made = chain.next(&sizes);
                    prop_assert_eq!(made.append(&mut store).unwrap(), made.leaves.clone());
                    model.push(made);
                }
                Step::Sync => store.sync().unwrap(),
                Step::Reopen => {
                    drop(store);
                    let (again, report) = open(dir.path());
                    prop_assert_eq!(report, StoreReport::default());
                    refill(&again, &model);
                    store = again;
                }
            }
        }
        assert_holds(&store, &model);
    }
}

#[test]
fn a_batch_out_of_order_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    let model = append_small(&mut store, &mut chain, 2);
    let before = store.head();
    let good = chain.next(&[10, 20]);
    let broken = |change: fn(&mut Header)| {
        let mut made = good.clone();
        change(&mut made.batch.header);
        made
    };
    let cases: [(Made, OrderProblem); 7] = [
        (broken(|h| h.slot += 1), OrderProblem::Slot { expected: 3 }),
        (broken(|h| h.slot -= 1), OrderProblem::Slot { expected: 3 }),
        (broken(|h| h.first_sequence += 1), OrderProblem::Sequence { expected: 3, found: 4 }),
        (broken(|h| h.parent = Digest([1; 32])), OrderProblem::Parent),
        (broken(|h| h.count = 3), OrderProblem::Count { expected: 3, found: 2 }),
        (broken(|h| h.log_root = Digest([2; 32])), OrderProblem::Root),
        (chain::empty(&good), OrderProblem::Count { expected: 0, found: 0 }),
    ];
    for (made, expected) in cases {
        match made.append(&mut store) {
            Err(error @ StoreError::Order { .. }) => {
                assert!(error.is_order() && !error.is_damage());
                let StoreError::Order { problem, .. } = error else { unreachable!() };
                assert_eq!(problem, expected);
            }
            other => panic!("expected {expected:?}, found {other:?}"),
        }
        assert_eq!(store.head(), before);
        assert!(store.reader().row_at_slot(3).unwrap().is_none());
    }
    // Nothing was poisoned, and nothing of the refused batches is in the way of the right one.
    good.append(&mut store).unwrap();
    let model: Vec<Made> = model.into_iter().chain([good]).collect();
    assert_holds(&store, &model);
}

#[test]
fn a_log_is_never_created_over_another() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    assert!(matches!(Store::create(dir.path(), federation(), &StoreOptions::default()), Err(StoreError::Exists { .. })));
    let other = tempfile::tempdir().unwrap();
    let missing = Store::open(other.path(), federation(), &StoreOptions::default()).err().unwrap();
    assert!(matches!(missing, StoreError::Missing { .. }) && missing.is_damage());
}

#[test]
fn an_interrupted_creation_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("log.new/sled")).unwrap();
    fs::write(dir.path().join("log.new/sled/db"), b"half of a database").unwrap();
    let store = create(dir.path());
    assert_eq!(store.head(), Head::default());
    assert!(!dir.path().join("log.new").exists());
}

#[test]
fn options_out_of_bounds_are_named() {
    let check = |change: fn(&mut StoreOptions)| {
        let mut options = StoreOptions::default();
        change(&mut options);
        options.validate().map_err(|e| e.to_string())
    };
    assert_eq!(check(|_| {}), Ok(()));
    assert_eq!(check(|o| o.inline_body_bytes = 181 << 10), Err("store option inline_body_bytes is 185344, must be 0 to 184320".into()));
    assert!(check(|o| o.cache_bytes = 0).unwrap_err().contains("cache_bytes"));
    assert!(check(|o| o.flush_timeout_ms = 999).unwrap_err().contains("flush_timeout_ms"));
    assert!(check(|o| o.index_run_entries = 1_023).unwrap_err().contains("index_run_entries"));
}

#[test]
fn another_federation_and_a_newer_schema_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let other = FederationId(Digest([9; 32]));
    let error = Store::open(dir.path(), other, &StoreOptions::default()).err().unwrap();
    assert!(matches!(error, StoreError::OtherFederation { .. }) && !error.is_damage(), "{error}");
    assert!(error.to_string().contains("is this the right genesis for this data directory?"));
    let database = Database::open(&dir.path().join("log/sled"), 1 << 20).unwrap();
    database.meta.put(b"schema", &migrate::Schema { version: SCHEMA_VERSION + 1, federation: federation() }).unwrap();
    drop(database);
    let error = Store::open(dir.path(), federation(), &StoreOptions::default()).err().unwrap();
    assert!(!error.is_damage(), "a newer log must never be set aside");
    assert_eq!(error.to_string(), "the log has schema 3, this program knows up to 2: use the newer program");
}

#[test]
fn a_row_has_a_greatest_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    // Without a place in a segment a body must fit its row.
    let fits = chain.next(&[179 << 10]);
    fits.append_at(&mut store, None).unwrap();
    let before = store.head();
    let too_long = chain.next(&[185 << 10]);
    match too_long.append_at(&mut store, None) {
        Err(StoreError::BodyTooLong { limit, actual }) => assert!(limit == MAX_ROW_BYTES - (12 << 10) && actual > limit),
        other => panic!("expected a refusal, found {other:?}"),
    }
    assert_eq!(store.head(), before);
    too_long.append_at(&mut store, Some(locator(2))).unwrap();
    assert!(matches!(store.reader().row_at_slot(2).unwrap().unwrap().body, StoredBody::Segment(place) if place == locator(2)));
    // Rows of any tree have the same bound.
    let long = ViewRecord { at: 0, reason: "x".repeat(MAX_ROW_BYTES) };
    assert!(matches!(store.put_view(1, &long), Err(StoreError::BodyTooLong { limit: MAX_ROW_BYTES, .. })));
    store.sync().unwrap();
    drop(store);
    let blobs = dir.path().join("log/sled/blobs");
    assert_eq!(fs::read_dir(blobs).map_or(0, Iterator::count), 0, "nothing spilled into files that sled never syncs");
    assert_eq!(open(dir.path()).0.head().slot, 2);
}

#[test]
fn many_of_the_longest_rows_do_not_spill_into_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    for _ in 0..40 {
        chain.next(&[179 << 10]).append_at(&mut store, None).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    assert_eq!(fs::read_dir(dir.path().join("log/sled/blobs")).map_or(0, Iterator::count), 0);
    assert_eq!(open(dir.path()).0.head().slot, 40);
}

#[test]
fn the_index_is_refilled_after_its_runs_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    store.index = Index::open(&store.dir.join("index"), 100, 0, &mut Vec::new()).unwrap();
    let mut model = Vec::new();
    for _ in 0..12 {
        let made = chain.next(&[1; 30]);
        made.append(&mut store).unwrap();
        store.sync().unwrap();
        model.push(made);
    }
    drop(store);
    let index = dir.path().join("log/index");
    let runs = || fs::read_dir(&index).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    assert!(!runs().is_empty(), "runs were written");
    let (store, report) = open(dir.path());
    assert_eq!(report.repaired, Vec::<String>::new());
    let gap = store.index_gap();
    assert!(gap.is_none_or(|g| *g.start() > 100), "the runs are used");
    refill(&store, &model);
    assert_holds(&store, &model);
    drop(store);
    for run in runs() {
        let mut bytes = fs::read(&run).unwrap();
        bytes[40] ^= 4;
        fs::write(&run, bytes).unwrap();
    }
    let (store, report) = open(dir.path());
    assert_eq!(report.repaired.len(), 1, "the first damaged run is named; the others no longer continue anything: {report:?}");
    assert_eq!(store.index_gap(), Some(1..=360), "a damaged run is refilled");
    refill(&store, &model);
    assert_holds(&store, &model);
    // Damage that comes later is never answered from.
    drop(store);
    let mut store = open(dir.path()).0;
    store.index = Index::open(&store.dir.join("index"), 100, 360, &mut Vec::new()).unwrap();
    refill(&store, &model);
    store.index.settle().unwrap();
    for run in runs().iter().filter(|run| run.extension().is_none()) {
        fs::write(run, vec![1; fs::metadata(run).unwrap().len() as usize]).unwrap();
    }
    assert!(model.iter().flat_map(Made::ids).all(|(id, _)| store.reader().lookup(&id).is_err_and(|e| e.is_damage())));
}

#[test]
fn names_of_index_runs_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    let model = append_small(&mut store, &mut chain, 3);
    store.sync().unwrap();
    drop(store);
    let index = dir.path().join("log/index");
    for name in ["run-1-0", "run-2-1", "run-0-0", "run-1-99", "run-1-18446744073709551615", "run-x-3", "run-2-3", "other"] {
        fs::write(index.join(name), [0; 4096]).unwrap();
    }
    let (store, report) = open(dir.path());
    assert_eq!(report.repaired, Vec::<String>::new());
    refill(&store, &model);
    assert_holds(&store, &model);
    assert_eq!(fs::read_dir(&index).unwrap().count(), 0, "what is no run of this log is removed");
}

#[test]
fn a_log_set_aside_gets_a_free_name() {
    let dir = tempfile::tempdir().unwrap();
    let names = [1, 2, 3].map(|n| dir.path().join(format!("log.damaged-{n}")));
    for name in &names {
        drop(create(dir.path()));
        assert_eq!(Store::set_aside(dir.path()).unwrap(), *name);
    }
    assert!(names.iter().all(|n| n.join("sled/db").exists()) && !dir.path().join("log").exists());
    assert_eq!(Store::set_aside(dir.path()).unwrap(), dir.path().join("log"), "nothing to set aside");
}

#[test]
fn a_copy_leaves_the_original_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::default();
    let mut store = create(dir.path());
    let model = append_small(&mut store, &mut chain, 3);
    store.sync().unwrap();
    drop(store);
    // A row behind a gap, which opening cuts: in the copy only.
    RawLog::open(dir.path()).tree("batches").insert(9u64.to_be_bytes(), b"no row").unwrap();
    let before = chain::files(&dir.path().join("log"));
    let (copy, mut store, report) = Store::open_copy(dir.path(), federation(), &StoreOptions::default()).unwrap();
    assert_eq!(report.rows_cut, 1);
    refill(&store, &model);
    assert_holds(&store, &model);
    append_small(&mut store, &mut chain, 2);
    store.sync().unwrap();
    drop((store, copy));
    assert_eq!(chain::files(&dir.path().join("log")), before);
    let nothing = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open_copy(nothing.path(), federation(), &StoreOptions::default()), Err(StoreError::Missing { .. })));
}
