//! One suite for every log that stands behind [`Log`]: sled's, and the simulator's, which takes its place on a simulated clock.
//!
//! The model is what a caller may rely on: everything appended is read back; what does not continue the log changes nothing; behind a crash
//! everything synced is there, and of the rest a prefix.

use std::collections::BTreeSet;

use proptest::sample::Index as Pick;

use super::chain::empty;
use super::*;
use crate::recovery::Medium;
use crate::sim::{Rng, SimDisk, SimMedium, SimStore};
use crate::types::{Evidence, Phase, SignedVote, Vote};

/// A log under test, with what outlives it.
trait Subject: Sized {
    type Log: Log;

    fn create() -> Self;

    fn log(&mut self) -> &mut Self::Log;

    /// Syncs; a crash later leaves at least this.
    fn sync(&mut self);

    /// Closes it in order, and opens it.
    fn reopen(&mut self);

    /// Loses power; `fate` decides what becomes of what was not synced.
    fn crash(&mut self, fate: u64);
}

/// The log in sled. What a power cut leaves is one of three states of its files: as they were right behind the last sync; the same with the Merkle
/// files as they are now; everything as it is now.
struct Real {
    dir: tempfile::TempDir,
    synced: tempfile::TempDir,
    store: Option<Store>,
}

impl Subject for Real {
    type Log = Store;

    fn create() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = super::create(dir.path());
        Self { synced: damage::copy_of(dir.path()), dir, store: Some(store) }
    }

    fn log(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    fn sync(&mut self) {
        self.log().sync().unwrap();
        self.synced = damage::copy_of(self.dir.path());
    }

    fn reopen(&mut self) {
        self.store = None;
        let (store, report) = open(self.dir.path());
        assert_eq!(report, StoreReport::default());
        self.store = Some(store);
    }

    fn crash(&mut self, fate: u64) {
        self.store = None;
        let now = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let rows = if fate.is_multiple_of(3) { now.path() } else { self.synced.path() };
        copy_dir(&rows.join("log"), &self.dir.path().join("log")).unwrap();
        if fate % 3 == 1 {
            fs::remove_dir_all(self.dir.path().join("log/merkle")).unwrap();
            copy_dir(&now.path().join("log/merkle"), &self.dir.path().join("log/merkle")).unwrap();
        }
        self.store = Some(open(self.dir.path()).0);
        // What opening leaves behind the sync is what another crash may leave.
        self.sync();
    }
}

/// The simulated log.
struct Simulated {
    medium: SimMedium,
    log: <SimMedium as Medium>::Log,
}

impl Subject for Simulated {
    type Log = <SimMedium as Medium>::Log;

    fn create() -> Self {
        let inline_body_bytes = StoreOptions::default().inline_body_bytes;
        let medium = SimMedium { disk: SimDisk::new(7), store: SimStore::default(), inline_body_bytes };
        assert!(matches!(medium.open_log().err().unwrap(), StoreError::Missing { .. }));
        Self { log: medium.create_log().unwrap(), medium }
    }

    fn log(&mut self) -> &mut Self::Log {
        &mut self.log
    }

    fn sync(&mut self) {
        self.log.sync().unwrap();
    }

    fn reopen(&mut self) {
        self.medium.disk.end_process();
        self.log = self.medium.open_log().unwrap().0;
    }

    fn crash(&mut self, fate: u64) {
        let mut rng = Rng::new(fate, 0);
        self.medium.store.lose_power(&mut rng);
        self.medium.disk.lose_power(&mut rng);
        self.log = self.medium.open_log().unwrap().0;
        self.sync();
    }
}

/// How a batch fails to continue the log.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Slot,
    Sequence,
    Parent,
    Count,
    Root,
    Empty,
    Again,
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>, bool),
    Refused(Wrong),
    Sync,
    Checkpoint,
    Notes,
    MoveBody(Pick, u32),
    Reopen,
    Crash(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around the bound between row and segment, the smallest, and more than one tile's worth of leaves.
    let size = prop_oneof![4 => 0..300usize, 2 => 3_900..4_200usize, 1 => 5_000..30_000usize];
    let sizes = prop_oneof![12 => prop::collection::vec(size, 1..6), 1 => Just(vec![0; 260])];
    let wrong = prop::sample::select(vec![Wrong::Slot, Wrong::Sequence, Wrong::Parent, Wrong::Count, Wrong::Root, Wrong::Empty, Wrong::Again]);
    let step = prop_oneof![
        8 => (sizes, any::<bool>()).prop_map(|(sizes, placed)| Step::Append(sizes, placed)),
        3 => wrong.prop_map(Step::Refused),
        3 => Just(Step::Sync),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Notes),
        2 => (any::<Pick>(), 1..9u32).prop_map(|(row, page)| Step::MoveBody(row, page)),
        1 => Just(Step::Reopen),
        2 => (0..1_000u64).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..24)
}

/// A batch of the model, and every place where its body may be said to lie: the last one, and after a crash any since the last sync.
struct Row {
    made: Made,
    places: Vec<Option<BodyLocator>>,
}

/// What the log must say.
#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    synced: usize,
    /// As the places of a row: the last one, and those since the last sync.
    stable: Vec<Option<CheckpointCertificate>>,
}

impl Model {
    fn chain(&self) -> Chain {
        self.rows.last().map_or_else(Chain::default, |row| {
            let header = &row.made.batch.header;
            Chain { slot: header.slot, parent: header.digest(), frontier: row.made.frontier.clone() }
        })
    }

    fn head(&self) -> Head {
        self.rows.last().map_or_else(Head::default, |row| {
            let header = &row.made.batch.header;
            let (slot, sequence, timestamp) = (header.slot, header.last_sequence(), header.timestamp);
            Head { slot, sequence, digest: header.digest(), timestamp, frontier: row.made.frontier.clone() }
        })
    }

    fn synced(&mut self) {
        self.synced = self.rows.len();
        let last = |all: &mut Vec<_>| drop(all.drain(..all.len().saturating_sub(1)));
        self.rows.iter_mut().for_each(|row| drop(row.places.drain(..row.places.len() - 1)));
        last(&mut self.stable);
    }

    /// After a crash: all that was synced, of the rest a prefix, of what was replaced since any version.
    fn crashed(&mut self, reader: &impl LogReader) {
        let kept = usize::try_from(reader.head().slot).unwrap();
        assert!((self.synced..=self.rows.len()).contains(&kept), "{} of {} rows were synced, {kept} are there", self.synced, self.rows.len());
        self.rows.truncate(kept);
        for row in &mut self.rows {
            let place = place_of(&reader.row_at_slot(row.made.batch.header.slot).unwrap().unwrap());
            assert!(row.places.contains(&place), "slot {}: {place:?} is none of {:?}", row.made.batch.header.slot, row.places);
            row.places = vec![place];
        }
        let stable = reader.stable().unwrap();
        assert!(stable.is_none() && self.stable.is_empty() || self.stable.contains(&stable), "a checkpoint that was not put, or lost behind a sync");
        self.stable = vec![stable];
        self.synced = kept;
    }

    /// Everything that the reader says is what was appended.
    fn assert_is(&self, log: &impl Log) {
        let (reader, head) = (log.reader(), self.head());
        assert_eq!((log.head(), reader.head(), reader.head_sequence()), (head.clone(), head.clone(), head.sequence));
        assert_eq!(reader.stable().unwrap(), self.stable.last().cloned().flatten());
        for row in &self.rows {
            self.assert_row(&reader, row);
        }
        for beyond in [0, head.slot + 1, u64::MAX] {
            assert!(reader.row_at_slot(beyond).unwrap().is_none(), "slot {beyond}");
        }
        for beyond in [0, head.sequence + 1, u64::MAX] {
            assert!(reader.row_at_sequence(beyond).unwrap().is_none(), "sequence {beyond}");
        }
        assert_eq!(reader.lookup(&UpdateId("nobody's".into())).unwrap(), Vec::<Sequence>::new());
        let slots = |rows: Vec<Result<StoredBatch, StoreError>>| rows.into_iter().map(|r| r.unwrap().header.slot).collect::<Vec<_>>();
        assert_eq!(slots(reader.rows_backwards().collect()), (1..=head.slot).rev().collect::<Vec<_>>());
        for from in [0, 1, head.sequence / 2, head.sequence, head.sequence + 1] {
            let expected = self.rows.iter().map(|row| &row.made.batch.header).filter(|h| h.last_sequence() >= from).map(|h| h.slot);
            assert_eq!(slots(reader.rows_from_sequence(from).collect()), expected.collect::<Vec<_>>(), "from sequence {from}");
        }
    }

    fn assert_row(&self, reader: &impl LogReader, row: &Row) {
        let (made, header) = (&row.made, &row.made.batch.header);
        let mut found = vec![reader.row_at_slot(header.slot).unwrap().unwrap()];
        // Of a long batch some: whoever reads one reads the whole row.
        let some = |at: usize| at < 4 || at.is_multiple_of(64) || at + 1 == made.leaves.len();
        for (leaf, (id, sequence)) in made.leaves.iter().zip(made.ids()).enumerate().filter(|(at, _)| some(*at)).map(|(_, pair)| pair) {
            found.extend(reader.row_at_sequence(sequence).unwrap());
            let candidates = reader.lookup(&id).unwrap();
            assert!(candidates.contains(&sequence) && candidates.is_sorted_by(|a, b| a >= b), "{id} at {sequence}: {candidates:?}");
            let path = reader.prove(sequence, *leaf, header).unwrap();
            let root = crate::crypto::merkle::root_from_path(*leaf, sequence - 1, header.last_sequence(), &path);
            assert_eq!(root, Some(header.log_root));
            assert!(reader.prove(sequence, Digest([3; 32]), header).unwrap_err().is_damage(), "a leaf that is not there");
        }
        assert!(reader.prove(header.last_sequence() + 1, made.leaves[0], header).is_err(), "an update of a later batch");
        assert_eq!(found.len(), 1 + (0..made.leaves.len()).filter(|at| some(*at)).count());
        for stored in found {
            assert_eq!((&stored.header, &stored.certificate), (header, &made.batch.certificate));
            assert_eq!(place_of(&stored), *row.places.last().unwrap(), "where the body of slot {} lies", header.slot);
            if let StoredBody::Inline(body) = stored.body {
                assert_eq!(body, made.batch.body);
            }
        }
    }
}

/// Where a body lies; `None` in its row.
fn place_of(stored: &StoredBatch) -> Option<BodyLocator> {
    if let StoredBody::Segment(place) = stored.body { Some(place) } else { None }
}

fn append(log: &mut impl Log, made: &Made, place: Option<BodyLocator>) -> Result<Vec<Digest>, StoreError> {
    log.append(AppendBatch { batch: &made.batch, digests: &made.digests, place })
}

/// A batch that does not continue the log, and what is said of it.
fn wrong(model: &Model, how: Wrong) -> (Made, OrderProblem) {
    let made = model.chain().next(&[10, 20]);
    let head = model.head();
    let changed = |change: &dyn Fn(&mut Header)| {
        let mut made = made.clone();
        change(&mut made.batch.header);
        made
    };
    match how {
        Wrong::Slot => (changed(&|h| h.slot += 1), OrderProblem::Slot { expected: head.slot + 1 }),
        Wrong::Sequence => (changed(&|h| h.first_sequence += 1), OrderProblem::Sequence { expected: head.sequence + 1, found: head.sequence + 2 }),
        Wrong::Parent => (changed(&|h| h.parent = Digest([1; 32])), OrderProblem::Parent),
        Wrong::Count => (changed(&|h| h.count = 3), OrderProblem::Count { expected: 3, found: 2 }),
        Wrong::Root => (changed(&|h| h.log_root = Digest([2; 32])), OrderProblem::Root),
        Wrong::Empty => (empty(&made), OrderProblem::Count { expected: 0, found: 0 }),
        Wrong::Again => match model.rows.last() {
            Some(row) => (row.made.clone(), OrderProblem::Slot { expected: head.slot + 1 }),
            None => (empty(&made), OrderProblem::Count { expected: 0, found: 0 }),
        },
    }
}

/// Gives the index what it lacks, in two parts, as recovery does.
fn refill(log: &mut impl Log, model: &Model) {
    let Some(gap) = log.index_gap() else { return };
    assert!(*gap.end() == model.head().sequence && gap.start() <= gap.end(), "the gap ends at the head: {gap:?}");
    let entries: Vec<(UpdateId, Sequence)> = model.rows.iter().flat_map(|row| row.made.ids()).filter(|(_, s)| gap.contains(s)).collect();
    let (first, second) = entries.split_at(entries.len() / 2);
    log.index_add(first);
    assert_eq!(log.index_gap(), Some(gap.start() + first.len() as u64..=*gap.end()));
    log.index_add(second);
    assert_eq!(log.index_gap(), None);
}

fn evidence() -> Evidence {
    let signed = |byte| SignedVote {
        vote: Vote { phase: Phase::Prepare, epoch: 0, view: 1, slot: 9, digest: Digest([byte; 32]) },
        replica: 2,
        signature: crate::crypto::Signature([byte; 64]),
    };
    Evidence::Votes { first: signed(1), second: signed(2) }
}

fn take<S: Subject>(subject: &mut S, model: &mut Model, step: Step) {
    match step {
        Step::Append(sizes, placed) => {
            let made = model.chain().next(&sizes);
            let place = placed.then(|| locator(made.batch.header.slot));
            assert_eq!(append(subject.log(), &made, place).unwrap(), made.leaves);
            let inline = made.batch.body.encoded_bytes() <= StoreOptions::default().inline_body_bytes;
            model.rows.push(Row { made, places: vec![place.filter(|_| !inline)] });
        }
        Step::Refused(how) => {
            let (made, expected) = wrong(model, how);
            match append(subject.log(), &made, None) {
                Err(StoreError::Order { problem, .. }) => assert_eq!(problem, expected),
                other => panic!("{how:?}: expected {expected:?}, found {other:?}"),
            }
            model.assert_is(subject.log());
        }
        Step::Sync => {
            subject.sync();
            model.synced();
        }
        Step::Checkpoint if !model.rows.is_empty() => {
            let certificate = model.chain().checkpoint();
            subject.log().put_checkpoint(&certificate).unwrap();
            if model.stable.is_empty() {
                model.stable.push(None);
            }
            model.stable.push(Some(certificate));
        }
        Step::Notes => {
            subject.log().put_view(3, &ViewRecord { at: 77, reason: "stall".into() }).unwrap();
            subject.log().put_evidence(&Digest([5; 32]), &evidence()).unwrap();
        }
        Step::MoveBody(pick, page) => {
            let place = BodyLocator { page, ..locator(1_000) };
            let missing = subject.log().move_body(model.head().sequence + 1, place).unwrap_err();
            assert!(matches!(missing, StoreError::Damaged(Damage::Row { tree: "batches", .. })), "{missing}");
            if !model.rows.is_empty() {
                let at = pick.index(model.rows.len());
                let row = &mut model.rows[at];
                subject.log().move_body(row.made.batch.header.first_sequence, place).unwrap();
                row.places.push(Some(place));
            }
        }
        Step::Reopen => {
            subject.reopen();
            refill(subject.log(), model);
        }
        Step::Crash(fate) => {
            subject.crash(fate);
            model.crashed(&subject.log().reader());
            refill(subject.log(), model);
        }
        Step::Checkpoint => {}
    }
}

fn holds<S: Subject>(steps: Vec<Step>) {
    let (mut subject, mut model) = (S::create(), Model::default());
    for step in steps {
        // A reader sees what the writer appends after it was made; but it holds the database, so none outlives a closing.
        let before = (!matches!(step, Step::Reopen | Step::Crash(_))).then(|| subject.log().reader());
        take(&mut subject, &mut model, step);
        assert!(before.is_none_or(|reader| reader.head() == model.head()));
    }
    model.assert_is(subject.log());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_log_in_sled_keeps_the_contract(steps in steps()) {
        holds::<Real>(steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_simulated_log_keeps_the_contract(steps in steps()) {
        holds::<Simulated>(steps);
    }
}

/// What a crash may leave is more than one thing, or the simulator would be kinder than a disk.
#[test]
fn a_crash_leaves_every_prefix_behind_the_last_sync() {
    let mut left = BTreeSet::new();
    for fate in 0..60 {
        let (mut subject, mut model) = (Simulated::create(), Model::default());
        for step in [Step::Append(vec![1], false), Step::Sync, Step::Append(vec![2], false), Step::Append(vec![3], true)] {
            take(&mut subject, &mut model, step);
        }
        take(&mut subject, &mut model, Step::Crash(fate));
        left.insert(model.rows.len());
    }
    assert_eq!(left, BTreeSet::from([1, 2, 3]));
}
