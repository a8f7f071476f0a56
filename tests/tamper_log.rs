//! The log of a real replica, changed row by row and file by file by somebody who keeps every checksum right: the audit names each change at its place.
//! What it cannot see, because nothing signed says otherwise, is listed too, and stays unseen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exo_federation::audit::{Audit, AuditOptions, Summary};
use exo_federation::config::{FederationFile, ReplicaFile};
use exo_federation::consensus::Record;
use exo_federation::crypto::{Digest, Signature, SigningKey};
use exo_federation::journal::{Journal, JournalOptions};
use exo_federation::recovery::DataDir;
use exo_federation::types::{
    Checkpoint, CheckpointCertificate, CommitCertificate, Evidence, Federation, Header, NewView, Phase, PreparedCertificate, SignatureSet,
    SignedVote, ViewChange, Vote, decode, decode_front, encode,
};
use stage::Stage;

/// A stopped replica, whose log has batches, checkpoints, views and a record of evidence.
struct Replica {
    /// Its files lie below.
    _stage: Stage,
    federation: Federation,
    keys: Vec<SigningKey>,
    data: PathBuf,
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn lines(numbers: std::ops::Range<u32>) -> Vec<u8> {
    let line = |i| format!("{{\"update_id\":\"update-{i}\",\"data\":\"payload {i}\",\"timestamp\":{i}}}\n");
    numbers.map(line).collect::<String>().into_bytes()
}

impl Replica {
    fn new() -> Self {
        let mut stage = Stage::init();
        let genesis = stage.path("federation.toml");
        let text = fs::read_to_string(&genesis).unwrap();
        fs::write(&genesis, text.replace("checkpoint_slots = 64", "checkpoint_slots = 2")).unwrap();
        let federation = FederationFile::read_genesis(&genesis).unwrap();
        assert_eq!(federation.parameters().checkpoint_slots, 2);
        for (k, member) in federation.members().iter().enumerate() {
            let (data, config) = (DataDir(stage.path(&format!("replica-{k}/data"))), stage.path(&format!("replica-{k}/replica.toml")));
            fs::remove_dir_all(&data.0).unwrap();
            fs::create_dir(&data.0).unwrap();
            data.create(&federation, member.consensus_key, &JournalOptions::default()).unwrap();
            fs::write(&config, fs::read_to_string(&config).unwrap() + "\n[journal]\nsegment_bytes = 1048576\n").unwrap();
        }
        let client = stage.path("client.toml");
        fs::write(&client, fs::read_to_string(&client).unwrap() + "\n[client]\nupdates_per_submission = 2\nin_flight = 1\n").unwrap();
        stage.start();
        assert!(stage.submit(&lines(0..10)).status.success());
        stage.kill(0);
        assert!(stage.submit(&lines(10..20)).status.success());
        stage.restart(0);
        stage.settle(20);
        stage.stop();
        let config = |index: usize| ReplicaFile::load(&stage.path(&format!("replica-{index}/replica.toml"))).unwrap();
        let keys = (0..4).map(|index| config(index).secret.consensus_key()).collect();
        let replica = Self { data: stage.path("replica-1/data"), _stage: stage, federation, keys };
        let record = replica.evidence(9);
        replica.put("evidence", [(record.id(&replica.federation).0.to_vec(), encode(&record).unwrap())].into());
        replica
    }

    /// Two Commits of member 3.
    fn evidence(&self, slot: u64) -> Evidence {
        let signed = |byte| {
            let vote = Vote { phase: Phase::Commit, epoch: 0, view: 0, slot, digest: Digest([byte; 32]) };
            SignedVote { vote, replica: 3, signature: self.keys[3].sign(&vote.signed_bytes(self.federation.id())) }
        };
        Evidence::Votes { first: signed(1), second: signed(2) }
    }

    fn open(&self) -> sled::Db {
        let sled = self.data.join("log/sled");
        // A database that was just dropped lets go of its lock a moment later.
        fs::File::open(sled.join("db")).unwrap().lock().unwrap();
        sled::Config::new().path(sled).segment_size(16 << 20).open().unwrap()
    }

    /// A tree's rows without their checksums.
    fn rows(&self, tree: &str) -> Rows {
        let rows = self.open().open_tree(tree).unwrap();
        rows.iter().map(Result::unwrap).map(|(key, row)| (key.to_vec(), row[4..].to_vec())).collect()
    }

    /// Writes a tree's rows, and right checksums.
    fn put(&self, tree: &str, rows: Rows) {
        let database = self.open();
        let tree = database.open_tree(tree).unwrap();
        tree.clear().unwrap();
        for (key, value) in rows {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&key), &value);
            tree.insert(key, [&crc.to_le_bytes()[..], &value].concat()).unwrap();
        }
        database.flush().unwrap();
    }

    fn audit(&self) -> Summary {
        let mut audit = Audit::new(&self.federation, AuditOptions::default());
        audit.directory("replica", &self.data, &mut |_| {}).unwrap();
        audit.finish()
    }

    /// What the audit says while a tree is changed; the tree is as before then.
    fn with_rows(&self, tree: &str, change: impl FnOnce(&mut Rows)) -> Summary {
        let whole = self.rows(tree);
        let mut changed = whole.clone();
        change(&mut changed);
        assert_ne!(changed, whole, "nothing is changed in {tree}");
        self.put(tree, changed);
        let summary = self.audit();
        self.put(tree, whole);
        summary
    }
}

/// Changes a row's value as what it means.
fn edit<T: bincode::Decode<()> + bincode::Encode>(row: &mut Vec<u8>, change: impl FnOnce(&mut T)) {
    let (mut value, used) = decode_front::<T>(row).unwrap();
    change(&mut value);
    *row = [encode(&value).unwrap(), row[used..].to_vec()].concat();
}

/// Every so many cases: all of them where `EXOFED_TAMPER=all` says so.
fn every(some: usize) -> usize {
    if std::env::var("EXOFED_TAMPER").is_ok_and(|all| all == "all") { 1 } else { some }
}

fn found(summary: &Summary) -> Vec<(u64, String, String)> {
    let place = |place: &str| place.rsplit(": ").next().unwrap().to_owned();
    summary.findings.iter().map(|f| (f.slot, f.rule.clone(), place(&f.place))).collect()
}

type Change = fn(&Replica, &mut Rows, &[u8]);

/// What is done to the row of a batch.
const BATCH_CHANGES: [(&str, Change); 12] = [
    ("a header field flipped", |_, rows, key| edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |b| b.0.timestamp ^= 1)),
    ("a log root flipped", |_, rows, key| edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |b| b.0.log_root.0[5] ^= 1)),
    ("a commit flipped", |_, rows, key| edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |b| b.1.signatures.0[1].1.0[9] ^= 1)),
    ("a commit removed", |_, rows, key| edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |b| b.1.signatures.0.truncate(2))),
    ("two commits swapped", |_, rows, key| edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |b| b.1.signatures.0.swap(0, 1))),
    ("a commit of another view", |replica, rows, key| {
        edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |(_, certificate)| {
            let vote = Vote { view: certificate.view + 1, ..certificate.vote() };
            let (signer, signature) = certificate.signatures.0.last_mut().unwrap();
            *signature = replica.keys[usize::from(*signer)].sign(&vote.signed_bytes(replica.federation.id()));
        });
    }),
    ("a commit by a wrong key", |replica, rows, key| {
        edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |(_, certificate)| {
            let bytes = certificate.vote().signed_bytes(replica.federation.id());
            certificate.signatures.0[0].1 = SigningKey::from_seed(&[5; 32]).sign(&bytes);
        });
    }),
    ("another header, signed with stolen keys", |replica, rows, key| {
        edit::<(Header, CommitCertificate)>(rows.get_mut(key).unwrap(), |(header, certificate)| {
            header.timestamp += 1;
            certificate.digest = header.digest();
            let bytes = certificate.vote().signed_bytes(replica.federation.id());
            certificate.signatures.0.iter_mut().for_each(|(signer, s)| *s = replica.keys[usize::from(*signer)].sign(&bytes));
        });
    }),
    ("a payload flipped", |_, rows, key| *rows.get_mut(key).unwrap().last_mut().unwrap() ^= 1),
    ("the row cut", |_, rows, key| rows.get_mut(key).unwrap().truncate(300)),
    ("the row dropped", |_, rows, key| drop(rows.remove(key))),
    ("an older row in its place", |_, rows, key| {
        let older = rows.range(..key.to_vec()).next_back().unwrap().1.clone();
        rows.insert(key.to_vec(), older);
    }),
];

#[test]
fn every_change_is_named_at_its_place() {
    let replica = Replica::new();
    let clean = replica.audit();
    assert!(clean.findings.is_empty() && clean.entries == 20, "{:?}", clean.findings);
    let batches: Vec<(Vec<u8>, u64)> =
        replica.rows("batches").into_iter().map(|(key, row)| (key, decode_front::<(Header, CommitCertificate)>(&row).unwrap().0.0.slot)).collect();
    for (key, slot) in batches[1..batches.len() - 1].iter().step_by(every(5)) {
        for (what, change) in BATCH_CHANGES {
            let summary = replica.with_rows("batches", |rows| change(&replica, rows, key));
            let findings = found(&summary);
            let named = findings
                .iter()
                .any(|(at, rule, place)| rule.starts_with("log") && (at == slot && place == "batches tree" || *at == 0 && place == "log"));
            assert!(named, "{what}, slot {slot}: {findings:?}");
        }
        let next = (u64::from_be_bytes(key.as_slice().try_into().unwrap()) + 1).to_be_bytes().to_vec();
        let again = replica.with_rows("batches", |rows| drop(rows.insert(next, rows[key].clone())));
        assert!(!found(&again).is_empty(), "the row of slot {slot} stands twice");
    }
    let (first, last) = (&batches[2].0, &batches[3].0);
    let swapped = replica.with_rows("batches", |rows| {
        let pair = [rows[first].clone(), rows[last].clone()];
        rows.insert(first.clone(), pair[1].clone());
        rows.insert(last.clone(), pair[0].clone());
    });
    assert!(!found(&swapped).is_empty(), "two rows swapped");
    every_change_beside_the_batches_is_named(&replica);
    every_change_of_a_file_beside_the_database_is_named(&replica);
    every_false_voting_record_is_named(&replica);
    assert!(replica.audit().findings.is_empty(), "everything was put back");
}

/// Records that a replica would trust at its next start, written behind its own with right checksums.
fn every_false_voting_record_is_named(replica: &Replica) {
    let id = replica.federation.id();
    let header = decode_front::<(Header, CommitCertificate)>(replica.rows("batches").values().next().unwrap()).unwrap().0.0;
    let sign = |members: &[u16], bytes: &[u8]| SignatureSet(members.iter().map(|i| (*i, replica.keys[usize::from(*i)].sign(bytes))).collect());
    let vote = |view: u64| Vote { phase: Phase::Prepare, epoch: 0, view, slot: header.slot, digest: header.digest() };
    let prepared = |signatures| Record::Prepared(PreparedCertificate { view: 7, header: header.clone(), signatures });
    let checkpoint = Checkpoint { epoch: 0, slot: 2, sequence: 4, digest: header.digest(), log_root: header.log_root };
    let stable = |signatures| Record::Stable(CheckpointCertificate { checkpoint, signatures });
    let change = |replica_index: u16, key: u16| {
        let mut change = ViewChange { epoch: 0, new_view: 40, stable: None, prepared: vec![], replica: replica_index, signature: Signature([0; 64]) };
        change.signature = replica.keys[usize::from(key)].sign(&change.signed_bytes(id));
        change
    };
    let new_view = |view_changes: Vec<ViewChange>| {
        let mut new_view = NewView { epoch: 0, view: 40, view_changes, signature: Signature([0; 64]) };
        new_view.signature = replica.keys[0].sign(&new_view.signed_bytes(id));
        Record::NewView(Arc::new(new_view))
    };
    let bytes = vote(7).signed_bytes(id);
    let flipped = |mut set: SignatureSet| {
        set.0[1].1.0[7] ^= 1;
        set
    };
    let records = [
        ("a Prepare flipped", prepared(flipped(sign(&[0, 1, 2], &bytes)))),
        ("a Prepare short", prepared(sign(&[0, 1], &bytes))),
        ("a Prepare twice", prepared(sign(&[0, 1, 1], &bytes))),
        ("Prepares out of order", prepared(sign(&[1, 0, 2], &bytes))),
        ("a Prepare of another view", prepared(SignatureSet([sign(&[0, 1], &bytes).0, sign(&[2], &vote(8).signed_bytes(id)).0].concat()))),
        ("Commits for Prepares", prepared(sign(&[0, 1, 2], &Vote { phase: Phase::Commit, ..vote(7) }.signed_bytes(id)))),
        ("a checkpoint short", stable(sign(&[0, 1], &checkpoint.signed_bytes(id)))),
        ("a checkpoint flipped", stable(flipped(sign(&[0, 1, 2], &checkpoint.signed_bytes(id))))),
        ("a view-change by a wrong key", Record::ViewChange(Arc::new(change(1, 2)))),
        ("a new-view short", new_view(vec![change(1, 1), change(2, 2)])),
        ("a new-view with a forged view-change", new_view(vec![change(1, 1), change(2, 2), change(3, 2)])),
        ("a new-view out of order", new_view(vec![change(2, 2), change(1, 1), change(3, 3)])),
    ];
    let journal = replica.data.join("journal");
    let files: Vec<(PathBuf, Vec<u8>)> =
        stage::files_of(&journal).into_iter().map(|file| (journal.join(&file), fs::read(journal.join(file)).unwrap())).collect();
    let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::default() };
    for (what, record) in records {
        let (kind, payload) = record.to_frame().unwrap();
        let (mut opened, _) = Journal::open(&journal, id.0.0, &options).unwrap();
        opened.append_vote(kind, &payload).unwrap();
        opened.sync().unwrap();
        drop(opened);
        let findings = found(&replica.audit());
        assert!(findings.iter().any(|(_, rule, place)| rule == "vote" && place == "voting record"), "{what}: {findings:?}");
        for (path, bytes) in &files {
            fs::write(path, bytes).unwrap();
        }
    }
}

fn every_change_beside_the_batches_is_named(replica: &Replica) {
    let checkpoints: Vec<Vec<u8>> = replica.rows("checkpoints").into_keys().collect();
    assert!(checkpoints.len() >= 3, "{} checkpoints", checkpoints.len());
    type Stable = CheckpointCertificate;
    let changes: [(&str, Change); 9] = [
        ("a root flipped", |_, rows, key| edit::<Stable>(rows.get_mut(key).unwrap(), |c| c.checkpoint.log_root.0[3] ^= 1)),
        ("a slot too many", |_, rows, key| edit::<Stable>(rows.get_mut(key).unwrap(), |c| c.checkpoint.slot += 1)),
        ("a sequence number too many", |_, rows, key| edit::<Stable>(rows.get_mut(key).unwrap(), |c| c.checkpoint.sequence += 1)),
        ("a signature flipped", |_, rows, key| edit::<Stable>(rows.get_mut(key).unwrap(), |c| c.signatures.0[0].1.0[2] ^= 1)),
        ("a signature removed", |_, rows, key| edit::<Stable>(rows.get_mut(key).unwrap(), |c| c.signatures.0.truncate(2))),
        ("a signature twice", |_, rows, key| edit::<Stable>(rows.get_mut(key).unwrap(), |c| c.signatures.0[1] = c.signatures.0[0])),
        ("another root, signed with stolen keys", |replica, rows, key| {
            edit::<Stable>(rows.get_mut(key).unwrap(), |c| {
                c.checkpoint.log_root.0[3] ^= 1;
                let bytes = c.checkpoint.signed_bytes(replica.federation.id());
                c.signatures.0.iter_mut().for_each(|(signer, s)| *s = replica.keys[usize::from(*signer)].sign(&bytes));
            });
        }),
        ("another checkpoint's row", |_, rows, key| {
            let other = rows.iter().find(|(other, _)| *other != key).unwrap().1.clone();
            rows.insert(key.to_vec(), other);
        }),
        ("the row cut", |_, rows, key| rows.get_mut(key).unwrap().truncate(100)),
    ];
    for key in checkpoints.iter().step_by(every(3)) {
        for (what, change) in changes {
            let findings = found(&replica.with_rows("checkpoints", |rows| change(replica, rows, key)));
            assert!(findings.iter().any(|(_, _, place)| place == "checkpoints tree"), "{what}, {key:?}: {findings:?}");
        }
    }
    let held = replica.rows("evidence").into_keys().next().unwrap();
    let changes: [(&str, Change); 4] = [
        ("a signature flipped", |_, rows, key| {
            edit::<Evidence>(rows.get_mut(key).unwrap(), |e| {
                if let Evidence::Votes { first, .. } = e {
                    first.signature = Signature([1; 64]);
                }
            });
        }),
        ("no contradiction", |_, rows, key| {
            edit::<Evidence>(rows.get_mut(key).unwrap(), |e| {
                if let Evidence::Votes { first, second } = e {
                    *second = first.clone();
                }
            });
        }),
        ("another's id", |_, rows, key| {
            let row = rows.remove(key).unwrap();
            rows.insert(vec![9; 32], row);
        }),
        ("the row cut", |_, rows, key| rows.get_mut(key).unwrap().truncate(50)),
    ];
    for (what, change) in changes {
        let findings = found(&replica.with_rows("evidence", |rows| change(replica, rows, &held)));
        assert!(findings.iter().any(|(_, rule, place)| rule == "log row" && place == "evidence tree"), "{what}: {findings:?}");
    }
    let findings = found(&replica.with_rows("views", |rows| rows.values_mut().next().unwrap().truncate(3)));
    assert!(findings.iter().any(|(_, _, place)| place == "views tree"), "{findings:?}");
    assert_ne!(decode::<Evidence>(&replica.rows("evidence")[&held]).ok(), None);
    // What a replica keeps for itself and nobody signed can be taken away unseen: it says less, and nothing false.
    for tree in ["evidence", "checkpoints", "views"] {
        let summary = replica.with_rows(tree, |rows| rows.retain(|_, _| false));
        assert!(summary.findings.is_empty(), "no {tree}: {:?}", summary.findings);
    }
}

fn every_change_of_a_file_beside_the_database_is_named(replica: &Replica) {
    let log = replica.data.join("log");
    let with = |file: &Path, bytes: &[u8], what: &str| {
        let whole = fs::read(file).unwrap();
        fs::write(file, bytes).unwrap();
        let summary = replica.audit();
        fs::write(file, whole).unwrap();
        assert!(!summary.findings.is_empty(), "{}: {what}", file.display());
    };
    let leaves = log.join("merkle/level-0");
    let whole = fs::read(&leaves).unwrap();
    assert_eq!(whole.len(), 20 * 32);
    for at in (0..whole.len()).step_by(every(80)) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        with(&leaves, &changed, &format!("byte {at} flipped"));
    }
    with(&leaves, &whole[32..], "the first hash dropped");
    with(&leaves, &whole[..whole.len() - 32], "the last hash dropped");
    with(&leaves, &[&whole[32..64], &whole[..32], &whole[64..]].concat(), "two hashes swapped");
    let head = fs::read(log.join("head")).unwrap();
    for at in (0..head.len()).step_by(every(7)) {
        let mut changed = head.clone();
        changed[at] ^= 1;
        with(&log.join("head"), &changed, &format!("byte {at} flipped"));
    }
    with(&log.join("head"), &head[..head.len() - 1], "cut");
}
