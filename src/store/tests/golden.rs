//! The golden fixtures, one a schema: the same log as text, which every later program must read.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;

use super::chain::{Chain, Made, RawLog};
use super::*;
use crate::crypto::Signature;
use crate::types::{Evidence, Phase, SignedVote, Vote};

/// The fixture of a schema.
pub(super) fn fixture(schema: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/store-v{schema}.txt"))
}

const TREES: [&str; 5] = ["batches", "meta", "checkpoints", "views", "evidence"];

/// What the fixture's log was given.
pub(super) struct Contents {
    pub(super) model: Vec<Made>,
    pub(super) checkpoints: Vec<CheckpointCertificate>,
    pub(super) views: Vec<(View, ViewRecord)>,
    evidence: Evidence,
}

pub(super) fn contents() -> Contents {
    let mut chain = Chain::default();
    let (mut model, mut checkpoints) = (Vec::new(), Vec::new());
    // Inline bodies, one in a segment, one that completes a tile.
    let shapes: [&[usize]; 6] = [&[5], &[0, 300, 17], &[6_000, 1], &[2; 255], &[40, 50], &[1; 7]];
    for (slot, sizes) in (1u64..).zip(shapes) {
        model.push(chain.next(sizes));
        if slot.is_multiple_of(2) {
            checkpoints.push(chain.checkpoint());
        }
    }
    let views = vec![
        (1, ViewRecord { at: 1_700_000_000_000, reason: "the leader is late".into() }),
        (4, ViewRecord { at: 1_700_000_060_000, reason: String::new() }),
    ];
    let signed = |byte| SignedVote {
        vote: Vote { phase: Phase::Prepare, epoch: 0, view: 1, slot: 9, digest: Digest([byte; 32]) },
        replica: 2,
        signature: Signature([byte; 64]),
    };
    Contents { model, checkpoints, views, evidence: Evidence::Votes { first: signed(1), second: signed(2) } }
}

/// Writes the fixture's log with the current program.
fn write(dir: &Path) {
    let Contents { model, checkpoints, views, evidence } = contents();
    let mut store = create(dir);
    store.index = Index::open(&store.dir.join("index"), 100, 0, &mut Vec::new()).unwrap();
    for made in &model {
        made.append(&mut store).unwrap();
        store.sync().unwrap();
    }
    checkpoints.iter().for_each(|c| store.put_checkpoint(c).unwrap());
    views.iter().for_each(|(view, record)| store.put_view(*view, record).unwrap());
    store.put_evidence(&Digest([5; 32]), &evidence).unwrap();
    store.sync().unwrap();
}

/// A closed log as text: `tree key value` for each row, `file name bytes` for each file beside the database, all in hex.
fn export(dir: &Path) -> String {
    let mut text = String::new();
    let raw = RawLog::open(dir);
    for name in TREES {
        for row in &raw.tree(name) {
            let (key, value) = row.unwrap();
            writeln!(text, "{name} {} {}", HEXLOWER.encode(&key), HEXLOWER.encode(&value)).unwrap();
        }
    }
    drop(raw);
    let log = dir.join("log");
    for (path, bytes) in chain::files(&log) {
        let name = path.strip_prefix(&log).unwrap();
        if !name.starts_with("sled") {
            writeln!(text, "file {} {}", name.display(), HEXLOWER.encode(&bytes)).unwrap();
        }
    }
    text
}

/// The log that a text describes.
pub(super) fn import(text: &str, dir: &Path) {
    for part in ["log/sled", "log/merkle", "log/index"] {
        fs::create_dir_all(dir.join(part)).unwrap();
    }
    let raw = RawLog::open(dir);
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [kind, key, value] = fields[..] else { panic!("a line of {} fields", fields.len()) };
        let value = HEXLOWER.decode(value.as_bytes()).unwrap();
        if kind == "file" {
            fs::write(dir.join("log").join(key), value).unwrap();
        } else {
            assert!(TREES.contains(&kind), "{kind}");
            raw.tree(kind).insert(HEXLOWER.decode(key.as_bytes()).unwrap(), value).unwrap();
        }
    }
}

#[test]
#[ignore = "writes the golden fixture; run once per schema"]
fn write_the_golden_fixture() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    fs::write(fixture(SCHEMA_VERSION), export(dir.path())).unwrap();
}

#[test]
fn the_log_of_every_schema_is_read() {
    (1..=SCHEMA_VERSION).for_each(read);
}

fn read(schema: u32) {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture(schema)).unwrap();
    assert!(text.len() < 200_000);
    import(&text, dir.path());
    let (store, report) = open(dir.path());
    assert_eq!(report.migrated.len() as u32, SCHEMA_VERSION - schema, "{:?}", report.migrated);
    assert_eq!(StoreReport { migrated: vec![], ..report }, StoreReport::default());
    let Contents { model, checkpoints, views, evidence } = contents();
    assert!(store.index_gap().is_some_and(|gap| *gap.start() > 255), "the run is used, and what it lacks is known");
    refill(&store, &model);
    assert_holds(&store, &model);
    assert_eq!(store.reader().stable().unwrap().as_ref(), checkpoints.last());
    for certificate in &checkpoints {
        let slot = certificate.checkpoint.slot;
        assert_eq!(store.database.checkpoints.get(&slot.to_be_bytes()).unwrap().as_ref(), Some(certificate));
    }
    assert_eq!(store.reader().views_from(0).unwrap(), views);
    assert_eq!(store.database.evidence.get(&[5; 32]).unwrap(), Some(evidence));
}

#[test]
fn this_program_still_writes_its_schema_byte_by_byte() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let (written, fixture) = (export(dir.path()), fs::read_to_string(fixture(SCHEMA_VERSION)).unwrap());
    for (line, (now, then)) in (1..).zip(written.lines().zip(fixture.lines())) {
        assert_eq!(now, then, "line {line}: another form needs another schema version, a migration and a fixture of its own");
    }
    assert_eq!(written.lines().count(), fixture.lines().count());
}
