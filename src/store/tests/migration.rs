//! Migrations: fixtures of every older schema, an invented later schema on top of the newest, and a crash at every stage.

use super::damage::try_open;
use super::golden::{Contents, contents, fixture, import};
use super::migrate::{SCHEMAS, Schema, Schemas, Stage, Step, check, migrate};
use super::*;

/// The step to the schema after the newest: the reasons in the view history grow, all else stays.
fn step(from: &Database, to: &Database) -> Result<(), StoreError> {
    from.batches.copy_to(&to.batches)?;
    from.checkpoints.copy_to(&to.checkpoints)?;
    from.evidence.copy_to(&to.evidence)?;
    let mut next = 0;
    while let Some((view, record)) = from.views.first::<ViewRecord>(&u64::to_be_bytes(next))? {
        to.views.put(&view.to_be_bytes(), &ViewRecord { reason: format!("{}!", record.reason), ..record })?;
        next = view + 1;
    }
    Ok(())
}

/// Every step of this program, and one more.
fn later() -> Vec<Step> {
    SCHEMAS.steps.iter().copied().chain([step as Step]).collect()
}

/// A log of the first schema, as a data directory.
fn first_schema() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    import(&fs::read_to_string(fixture(1)).unwrap(), dir.path());
    dir
}

fn version(dir: &Path) -> u32 {
    let database = Database::open(&dir.join("log/sled"), 1 << 20).unwrap();
    check(&database, federation(), &Schemas { steps: &later() }).unwrap()
}

/// The log as it must be in the later schema.
fn assert_migrated(store: &Store) {
    let Contents { model, views, checkpoints, .. } = contents();
    refill(store, &model);
    assert_holds(store, &model);
    let grown: Vec<(View, ViewRecord)> = views.into_iter().map(|(v, r)| (v, ViewRecord { reason: format!("{}!", r.reason), ..r })).collect();
    assert_eq!(store.reader().views_from(0).unwrap(), grown);
    assert_eq!(store.reader().stable().unwrap().as_ref(), checkpoints.last());
}

fn open_later(dir: &Path) -> (Store, StoreReport) {
    Store::open_known(dir, federation(), &StoreOptions::default(), &Schemas { steps: &later() }).unwrap()
}

#[test]
fn a_log_of_the_first_schema_is_brought_to_the_newest_and_further() {
    let dir = first_schema();
    let (store, report) = open_later(dir.path());
    assert_eq!(report.migrated.len(), later().len());
    assert_migrated(&store);
    drop(store);
    let (store, report) = open_later(dir.path());
    assert_eq!(report, StoreReport::default(), "once only");
    assert_migrated(&store);
    drop(store);
    let error = try_open(dir.path()).err().unwrap();
    let (known, found) = (SCHEMA_VERSION, SCHEMA_VERSION + 1);
    assert_eq!(error.to_string(), format!("the log has schema {found}, this program knows up to {known}: use the newer program"));
    assert!(!error.is_damage(), "a newer log is not set aside");
}

#[test]
fn a_crash_at_any_stage_of_a_migration_is_harmless() {
    assert_eq!(SCHEMAS.known(), SCHEMA_VERSION);
    for (crash, after) in
        [(Stage::Copied, SCHEMA_VERSION), (Stage::Written, SCHEMA_VERSION), (Stage::Durable, SCHEMA_VERSION), (Stage::Exchanged, SCHEMA_VERSION + 1)]
    {
        let dir = first_schema();
        drop(open(dir.path()));
        let crashed = |stage| if stage == crash { Err(StoreError::Poisoned { message: "crash".into() }) } else { Ok(()) };
        let steps = later();
        let result = migrate(dir.path(), federation(), &StoreOptions::default(), SCHEMA_VERSION, &Schemas { steps: &steps }, crashed);
        assert!(matches!(result, Err(StoreError::Poisoned { .. })), "{crash:?}");
        assert_eq!(version(dir.path()), after, "{crash:?}: the log is whole, the old one or the new one");
        assert!(dir.path().join("log.migrating").exists(), "{crash:?}: something is left to clear away");
        let (store, report) = open_later(dir.path());
        assert_eq!(report.migrated.len() as u32, SCHEMA_VERSION + 1 - after, "{crash:?}");
        assert_migrated(&store);
        assert!(!dir.path().join("log.migrating").exists());
    }
}

#[test]
fn a_schema_row_that_says_nothing_is_damage() {
    let dir = first_schema();
    drop(open(dir.path()));
    let database = Database::open(&dir.path().join("log/sled"), 1 << 20).unwrap();
    database.meta.put(b"schema", &Schema { version: 0, federation: federation() }).unwrap();
    drop(database);
    assert!(matches!(try_open(dir.path()).err().unwrap(), StoreError::Damaged(Damage::Meta)));
}
