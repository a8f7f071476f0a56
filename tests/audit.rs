//! `exofed audit` against a real history that was tampered with in every way, each named at its first place, and no false alarm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use exo_federation::audit::{Audit, AuditOptions, Level, OldProofs, Range, Summary};
use exo_federation::config::{FederationFile, ReplicaFile, read_secret};
use exo_federation::consensus::{CheckedBody, Part, Record, batch_of_frame, kind};
use exo_federation::crypto::merkle::{Frontier, Tail, inclusion_path};
use exo_federation::crypto::{Digest, Signature, SigningKey};
use exo_federation::journal::{Journal, JournalOptions, JournalReader};
use exo_federation::proof::CommitProof;
use exo_federation::recovery::DataDir;
use exo_federation::types::{
    Body, Checkpoint, CheckpointCertificate, CommitCertificate, CommittedBatch, Cosignature, EvidenceRule, Federation, FederationId, Header, NewView,
    Phase, PreparedCertificate, PublishedCheckpoint, SignatureSet, Submission, ViewChange, Vote, checkpoint_text, decode,
};
use serde_json::Value;
use stage::{Stage, documents, exofed, stderr};

/// A real history of four replicas, in two views, and the keys of everybody: who holds them can forge anything.
struct History {
    stage: Stage,
    federation: Federation,
    keys: Vec<SigningKey>,
    author: SigningKey,
    batches: Vec<CommittedBatch>,
}

fn lines(numbers: std::ops::Range<u32>) -> Vec<u8> {
    let line = |i| format!("{{\"update_id\":\"update-{i}\",\"data\":\"payload {i}\",\"timestamp\":{i}}}\n");
    numbers.map(line).collect::<String>().into_bytes()
}

/// Made once: what follows changes copies of it.
fn history() -> &'static History {
    static HISTORY: OnceLock<History> = OnceLock::new();
    HISTORY.get_or_init(|| {
        let mut stage = Stage::init();
        let client = stage.path("client.toml");
        fs::write(&client, fs::read_to_string(&client).unwrap() + "\n[client]\nupdates_per_submission = 2\nin_flight = 1\n").unwrap();
        stage.start();
        assert!(stage.submit(&lines(0..12)).status.success());
        stage.kill(0);
        assert!(stage.submit(&lines(12..24)).status.success());
        stage.restart(0);
        stage.settle(24);
        stage.stop();
        let federation = FederationFile::read_genesis(&stage.path("federation.toml")).unwrap();
        let config = |index: usize| ReplicaFile::load(&stage.path(&format!("replica-{index}/replica.toml"))).unwrap();
        let keys = (0..4).map(|index| config(index).secret.consensus_key()).collect();
        let author = SigningKey::from_seed(&read_secret(&stage.path("author.key")).unwrap());
        let batches = batches_of(&stage.path("replica-1/data"), &federation);
        assert!(batches.iter().map(|b| b.header.count).sum::<u32>() == 24 && batches.len() >= 8, "{} batches", batches.len());
        assert!(batches.last().unwrap().certificate.view > 0, "the leader was killed");
        History { stage, federation, keys, author, batches }
    })
}

/// Every committed batch of a data directory's journal.
fn batches_of(data: &Path, federation: &Federation) -> Vec<CommittedBatch> {
    let reader = JournalReader::open(&data.join("journal"), Some(federation.id().0.0), &JournalOptions::default()).unwrap();
    let mut bodies: BTreeMap<Digest, (Header, Arc<Body>)> = BTreeMap::new();
    let mut batches = BTreeMap::new();
    for frame in reader.segments_from(None).map(Result::unwrap) {
        if frame.kind == kind::COMMITTED {
            let certificate: CommitCertificate = decode(&frame.payload).unwrap();
            let (header, body) = bodies[&certificate.digest].clone();
            batches.insert(certificate.slot, CommittedBatch { header, body, certificate });
        } else if let Ok((header, body)) = batch_of_frame(&frame.payload) {
            bodies.insert(header.digest(), (header, body));
        }
    }
    batches.into_values().collect()
}

impl History {
    /// Writes batches as a backup holds them: a journal, and no log beside it.
    fn write(&self, dir: &Path, batches: &[CommittedBatch]) -> PathBuf {
        self.write_with(dir, batches, &[])
    }

    /// The same, with what the replica recorded beside them.
    fn write_with(&self, dir: &Path, batches: &[CommittedBatch], records: &[Record]) -> PathBuf {
        let options = JournalOptions { segment_bytes: 256 << 10, votes_bytes: 64 << 10, ..JournalOptions::default() };
        DataDir(dir.to_owned()).create(&self.federation, self.keys[0].public(), &options).unwrap();
        fs::write(dir.join("backup"), "").unwrap();
        let (mut journal, _) = Journal::open(&dir.join("journal"), self.federation.id().0.0, &options).unwrap();
        for record in records {
            let (kind, payload) = record.to_frame().unwrap();
            match record.part() {
                Part::Segments => drop(journal.append_segment(kind, record.slot(), &payload).unwrap()),
                Part::Votes => journal.append_vote(kind, &payload).unwrap(),
            }
        }
        for CommittedBatch { header, body, certificate } in batches {
            let body = CheckedBody::compute(&self.federation, body.clone(), header.first_sequence);
            for record in [Record::Body { header: header.clone(), body }, Record::Committed(certificate.clone())] {
                let (kind, payload) = record.to_frame().unwrap();
                journal.append_segment(kind, header.slot, &payload).unwrap();
            }
        }
        journal.sync().unwrap();
        dir.to_owned()
    }

    fn commits(&self, header: &Header, view: u64, signers: &[usize]) -> SignatureSet {
        let vote = Vote { phase: Phase::Commit, epoch: header.epoch, view, slot: header.slot, digest: header.digest() };
        let bytes = vote.signed_bytes(self.federation.id());
        SignatureSet(signers.iter().map(|i| (*i as u16, self.keys[*i].sign(&bytes))).collect())
    }

    /// Has stolen keys commit what a batch now says.
    fn commit(&self, batch: &mut CommittedBatch) {
        let view = batch.certificate.view;
        let (header, digest) = (&batch.header, batch.header.digest());
        batch.certificate =
            CommitCertificate { epoch: header.epoch, view, slot: header.slot, digest, signatures: self.commits(header, view, &[0, 1, 2]) };
    }

    fn before(&self, at: usize) -> Frontier {
        let mut frontier = Frontier::default();
        for batch in &self.batches[..at] {
            self.leaves(batch).into_iter().for_each(|leaf| frontier.append(leaf));
        }
        frontier
    }

    fn leaves(&self, batch: &CommittedBatch) -> Vec<Digest> {
        CheckedBody::compute(&self.federation, batch.body.clone(), batch.header.first_sequence).leaf_hashes.to_vec()
    }

    /// Gives a batch another body, with everything that follows from it, and has stolen keys commit it.
    fn replace_body(&self, batches: &mut [CommittedBatch], at: usize, change: impl FnOnce(&mut Vec<Arc<Submission>>)) {
        let batch = &mut batches[at];
        let mut submissions = batch.body.submissions.clone();
        change(&mut submissions);
        batch.body = Arc::new(Body { submissions });
        batch.header.count = batch.body.count() as u32;
        batch.header.body_digest = batch.body.digests(self.federation.id()).body;
        let mut frontier = self.before(at);
        self.leaves(batch).into_iter().for_each(|leaf| frontier.append(leaf));
        batch.header.log_root = frontier.root();
        self.commit(batch);
    }

    /// The portable proof of a batch's first update.
    fn proof(&self, batches: &[CommittedBatch], at: usize) -> CommitProof {
        let batch = &batches[at];
        let (before, hashes) = (self.before(at), self.leaves(batch));
        let leaf = batch.body.leaves(&batch.body.digests(self.federation.id()), batch.header.first_sequence).remove(0);
        let tail = Tail { before: &before, leaves: &hashes };
        let path = inclusion_path(&tail, leaf.sequence - 1, batch.header.last_sequence()).unwrap();
        let (header, certificate) = (batch.header.clone(), batch.certificate.clone());
        CommitProof { leaf, path, header, certificate, opening: None }
    }

    fn audit(&self, targets: &[&Path], options: AuditOptions) -> Summary {
        let mut audit = Audit::new(&self.federation, options);
        for target in targets {
            audit.directory(target.file_name().unwrap().to_str().unwrap(), target, &mut |_| {}).unwrap();
        }
        audit.finish()
    }
}

fn flip(digest: &mut Digest) {
    digest.0[7] ^= 1;
}

fn changed(submission: &mut Arc<Submission>, change: impl FnOnce(&mut Submission)) {
    change(Arc::make_mut(submission));
}

type Tamper = fn(&History, &mut Vec<CommittedBatch>, usize);

/// What is done to a batch, the rule that the audit must name, and the least level that sees it. Where nothing says otherwise the quorum's keys
/// are stolen, so that only the rule itself stands in the way.
const TAMPERINGS: [(&str, &str, Level, Tamper); 32] = [
    // Without any key.
    ("a payload is changed", "body", Level::Merkle, |_, b, at| {
        let mut body = Body::clone(&b[at].body);
        changed(&mut body.submissions[0], |s| s.updates[0].update.data[0] ^= 1);
        b[at].body = Arc::new(body);
    }),
    ("a salt is changed", "body", Level::Merkle, |_, b, at| {
        let mut body = Body::clone(&b[at].body);
        changed(&mut body.submissions[0], |s| s.updates[0].salt[3] ^= 1);
        b[at].body = Arc::new(body);
    }),
    ("an author's signature is changed", "body", Level::Merkle, |_, b, at| {
        let mut body = Body::clone(&b[at].body);
        changed(&mut body.submissions[0], |s| s.signature.0[9] ^= 1);
        b[at].body = Arc::new(body);
    }),
    ("an update is left out", "count", Level::Structure, |_, b, at| {
        let mut body = Body::clone(&b[at].body);
        changed(&mut body.submissions[0], |s| drop(s.updates.pop()));
        b[at].body = Arc::new(body);
    }),
    ("a header field is changed", "body", Level::Structure, |_, b, at| b[at].header.timestamp += 1),
    ("a commit is changed", "quorum", Level::Quorum, |_, b, at| b[at].certificate.signatures.0[1].1.0[40] ^= 1),
    ("a commit is removed", "quorum", Level::Quorum, |_, b, at| b[at].certificate.signatures.0.truncate(2)),
    ("a commit stands twice", "quorum", Level::Quorum, |_, b, at| {
        let first = b[at].certificate.signatures.0[0];
        b[at].certificate.signatures.0[1] = first;
    }),
    ("a commit under another name", "quorum", Level::Quorum, |_, b, at| {
        let signatures = &mut b[at].certificate.signatures.0;
        let spare = (0..4).find(|i| signatures.iter().all(|(j, _)| i != j)).unwrap();
        signatures[2].0 = spare;
        signatures.sort_by_key(|(index, _)| *index);
    }),
    ("a commit by nobody", "quorum", Level::Quorum, |_, b, at| b[at].certificate.signatures.0[2].0 = 9),
    ("a commit by a stranger's key", "quorum", Level::Quorum, |h, b, at| {
        let bytes = b[at].certificate.vote().signed_bytes(h.federation.id());
        b[at].certificate.signatures.0[0].1 = SigningKey::from_seed(&[5; 32]).sign(&bytes);
    }),
    ("commits of two views", "quorum", Level::Quorum, |h, b, at| {
        let signer = b[at].certificate.signatures.0[2].0;
        let mixed = h.commits(&b[at].header, b[at].certificate.view + 1, &[usize::from(signer)]).0[0];
        b[at].certificate.signatures.0[2] = mixed;
    }),
    ("another view in the certificate", "quorum", Level::Quorum, |_, b, at| b[at].certificate.view += 1),
    ("prepares for commits", "quorum", Level::Quorum, |h, b, at| {
        let vote = Vote { phase: Phase::Prepare, ..b[at].certificate.vote() };
        let bytes = vote.signed_bytes(h.federation.id());
        b[at].certificate.signatures.0.iter_mut().for_each(|(index, s)| *s = h.keys[usize::from(*index)].sign(&bytes));
    }),
    ("the certificate of another batch", "body", Level::Structure, |_, b, at| {
        let slot = b[at].header.slot;
        b[at].certificate = CommitCertificate { slot, ..b[at - 1].certificate.clone() };
    }),
    // Records moved about.
    ("a batch is dropped", "gap", Level::Structure, |_, b, at| drop(b.remove(at))),
    ("an older batch stands in its place", "gap", Level::Structure, |_, b, at| b[at] = b[at - 1].clone()),
    // With the quorum's keys stolen.
    ("another parent", "parent", Level::Chain, |h, b, at| {
        flip(&mut b[at].header.parent);
        h.commit(&mut b[at]);
    }),
    ("a sequence number too many", "sequence", Level::Chain, |h, b, at| {
        b[at].header.first_sequence += 1;
        h.commit(&mut b[at]);
    }),
    ("time stands still", "timestamp", Level::Chain, |h, b, at| {
        b[at].header.timestamp = b[at - 1].header.timestamp;
        h.commit(&mut b[at]);
    }),
    ("another log root", "root", Level::Merkle, |h, b, at| {
        flip(&mut b[at].header.log_root);
        h.commit(&mut b[at]);
    }),
    ("another body digest", "body", Level::Merkle, |h, b, at| {
        flip(&mut b[at].header.body_digest);
        h.commit(&mut b[at]);
    }),
    ("another membership", "membership", Level::Structure, |h, b, at| {
        flip(&mut b[at].header.membership_digest);
        h.commit(&mut b[at]);
    }),
    ("another federation", "federation", Level::Structure, |h, b, at| {
        b[at].header.federation_id = FederationId(Digest([7; 32]));
        h.commit(&mut b[at]);
    }),
    ("another epoch", "epoch", Level::Structure, |h, b, at| {
        b[at].header.epoch = 1;
        h.commit(&mut b[at]);
    }),
    ("a count too many", "count", Level::Structure, |h, b, at| {
        b[at].header.count += 1;
        h.commit(&mut b[at]);
    }),
    ("a payload the author never signed", "signature", Level::Content, |h, b, at| {
        h.replace_body(b, at, |s| changed(&mut s[0], |s| s.updates[0].update.data[0] ^= 1));
    }),
    ("an author's signature of zeros", "signature", Level::Content, |h, b, at| {
        h.replace_body(b, at, |s| changed(&mut s[0], |s| s.signature = Signature([0; 64])));
    }),
    ("a stranger's submission", "author", Level::Structure, |h, b, at| {
        let not_after = b[at].body.submissions[0].not_after;
        let updates = b[at].body.submissions[0].updates.iter().map(|u| u.update.clone()).collect();
        let strange = Submission::sign(h.federation.id(), &SigningKey::from_seed(&[6; 32]), not_after, updates);
        h.replace_body(b, at, |s| s[0] = Arc::new(strange));
    }),
    ("a submission that had expired", "lifetime", Level::Structure, |h, b, at| {
        let not_after = b[at].header.timestamp - 1;
        let updates = b[at].body.submissions[0].updates.iter().map(|u| u.update.clone()).collect();
        let late = Submission::sign(h.federation.id(), &h.author, not_after, updates);
        h.replace_body(b, at, |s| s[0] = Arc::new(late));
    }),
    ("an update stands twice", "duplicate", Level::Structure, |h, b, at| h.replace_body(b, at, |s| s.push(s[0].clone()))),
    ("an empty submission", "limit", Level::Structure, |h, b, at| {
        let not_after = b[at].body.submissions[0].not_after;
        let empty = Submission::sign(h.federation.id(), &h.author, not_after, vec![]);
        h.replace_body(b, at, |s| s.push(Arc::new(empty)));
    }),
];

#[test]
fn every_tampering_is_named_at_its_first_place() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    let clean = history.audit(&[&history.write(&room.path().join("untouched"), &history.batches)], AuditOptions::default());
    assert_eq!((clean.exit_code, clean.bad, clean.entries), (0, 0, 24), "no false alarm: {:?}", clean.findings);
    let mut tried = 0;
    for (what, rule, least, tamper) in &TAMPERINGS {
        for at in 1..history.batches.len() - 1 {
            let mut batches = history.batches.clone();
            tamper(history, &mut batches, at);
            let dir = history.write(&room.path().join(format!("{tried}")), &batches);
            let slot = history.batches[at].header.slot;
            // Everything, the least level that must see it, and the one below.
            for level in Level::ALL.into_iter().filter(|level| *level == Level::Content || level == least || level.next() == Some(*least)) {
                let summary = history.audit(&[&dir], AuditOptions { level, ..AuditOptions::default() });
                if level < *least {
                    let found = summary.first_bad.as_ref().map(|bad| (bad.slot, bad.rule.clone()));
                    assert_ne!(found, Some((slot, (*rule).to_owned())), "{what}, slot {slot}: {level} sees more than is said of it");
                    continue;
                }
                let first = summary.first_bad.clone().unwrap_or_else(|| panic!("{what}, slot {slot}: not found at {level}"));
                assert_eq!((first.rule.as_str(), first.slot), (*rule, slot), "{what} at {level}: {first:?}");
                assert_eq!((summary.exit_code, summary.clean), (1, false), "{what}");
                let (from, to) = (summary.bad_ranges[0].from, summary.bad_ranges[0].to);
                let header = &history.batches[at].header;
                assert!(from >= header.first_sequence && from <= to, "{what}: {from} to {to}");
                assert!(!first.meaning.is_empty() && !first.remedy.is_empty() && first.expected != first.found, "{first:?}");
            }
            fs::remove_dir_all(&dir).unwrap();
            tried += 1;
        }
    }
    println!("{tried} tamperings");
    assert!(tried > 190, "{tried}");
}

#[test]
fn what_repeats_or_ends_early_is_no_damage_by_itself() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    let mut twice = history.batches.clone();
    twice.insert(3, twice[2].clone());
    assert_eq!(history.audit(&[&history.write(&room.path().join("twice"), &twice)], AuditOptions::default()).exit_code, 0);
    // A repair writes batches behind later ones.
    let mut swapped = history.batches.clone();
    swapped.swap(3, 4);
    let swapped = history.audit(&[&history.write(&room.path().join("swapped"), &swapped)], AuditOptions::default());
    assert_eq!((swapped.exit_code, swapped.entries), (0, 24), "{:?}", swapped.findings);
    // A copy that lags is clean, beside one that does not too; and a proof handed out earlier convicts it.
    let short = history.write(&room.path().join("short"), &history.batches[..5]);
    let whole = history.write(&room.path().join("whole"), &history.batches);
    let both = history.audit(&[&whole, &short], AuditOptions::default());
    assert_eq!((both.exit_code, both.head), (0, history.batches[4].header.last_sequence()));
    let proofs = room.path().join("proofs");
    fs::create_dir(&proofs).unwrap();
    fs::write(proofs.join("old.json"), history.proof(&history.batches, 6).to_json(&history.federation).unwrap()).unwrap();
    fs::write(proofs.join("note.txt"), "no proof").unwrap();
    let with_proofs = || AuditOptions { old_proofs: OldProofs::read(&proofs, &history.federation).unwrap(), ..AuditOptions::default() };
    let held = history.audit(&[&whole], with_proofs());
    assert_eq!((held.exit_code, held.targets[0].old_proofs_held), (0, 1));
    assert!(held.not_checked.iter().any(|what| what.contains("note.txt")), "{:?}", held.not_checked);
    let cut = history.audit(&[&short], with_proofs());
    let first = cut.first_bad.unwrap();
    assert_eq!((cut.exit_code, first.rule.as_str(), first.slot), (2, "old-proof", history.batches[6].header.slot));
}

#[test]
fn two_histories_convict_who_signed_both() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    let at = 4;
    let mut other = history.batches[..=at].to_vec();
    other[at].header.timestamp += 1;
    history.commit(&mut other[at]);
    let (ours, theirs) = (history.write(&room.path().join("ours"), &history.batches), history.write(&room.path().join("theirs"), &other));
    let slot = other[at].header.slot;
    let signed = |batch: &CommittedBatch| batch.certificate.signatures.0.iter().map(|(i, _)| *i).collect::<Vec<_>>();
    let guilty: Vec<u16> = signed(&history.batches[at]).into_iter().filter(|i| signed(&other[at]).contains(i)).collect();
    let convicted = |summary: &Summary| {
        let mut members: Vec<u16> = summary.convictions().iter().map(|c| c.conviction.replica).collect();
        members.sort_unstable();
        members
    };
    // Each alone is clean. Together they are a fork, and everyone in both quorums is convicted, nobody else.
    assert_eq!(history.audit(&[&theirs], AuditOptions::default()).exit_code, 0);
    let fork = history.audit(&[&ours, &theirs], AuditOptions::default());
    let first = fork.first_bad.clone().unwrap();
    assert_eq!((fork.exit_code, first.rule.as_str(), first.slot), (2, "fork", slot));
    assert_eq!(convicted(&fork), guilty);
    assert!(guilty.len() >= 2, "two quorums of four share two members");
    // So does a proof of the one with the other.
    let proofs = room.path().join("proofs");
    fs::create_dir(&proofs).unwrap();
    fs::write(proofs.join("proof"), history.proof(&other, at).to_bytes().unwrap()).unwrap();
    let options = AuditOptions { old_proofs: OldProofs::read(&proofs, &history.federation).unwrap(), ..AuditOptions::default() };
    let proved = history.audit(&[&ours], options);
    assert_eq!((proved.exit_code, proved.first_bad.as_ref().unwrap().rule.as_str()), (2, "old-proof"));
    assert_eq!(convicted(&proved), guilty);
    // The records stand alone, and the report names everybody.
    let page = proved.to_html(&history.federation);
    for (at, found) in proved.evidence.iter().enumerate() {
        let path = room.path().join(format!("record-{at}.json"));
        fs::write(&path, serde_json::to_string_pretty(&found["record"]).unwrap() + "\n").unwrap();
        let verified = exofed(&["evidence", "verify", path.to_str().unwrap(), "--genesis", &history.stage.text("federation.toml")]);
        assert!(verified.status.success(), "{}", stderr(&verified));
        assert!(page.contains(found["conviction"]["member"].as_str().unwrap()));
    }
    // In different views two quorums alone convict nobody: somebody changed views with a lie, and only the view-changes tell who.
    other[at].certificate.view += 1;
    history.commit(&mut other[at]);
    let later = history.write(&room.path().join("later"), &other);
    let fork = history.audit(&[&ours, &later], AuditOptions::default());
    assert_eq!((fork.exit_code, fork.first_bad.as_ref().unwrap().rule.as_str(), convicted(&fork)), (2, "fork", vec![]));
}

/// What liars may have signed beside the batches: two statements each, which two honest replicas recorded.
fn lies(history: &History) -> Vec<(&'static str, Record, Record, Vec<u16>)> {
    let id = history.federation.id();
    let batch = &history.batches[4];
    let mut other = batch.header.clone();
    other.timestamp += 1;
    let sign = |members: &[u16], bytes: &[u8]| SignatureSet(members.iter().map(|i| (*i, history.keys[usize::from(*i)].sign(bytes))).collect());
    let prepared = |header: &Header, members: &[u16]| {
        let mut certificate = PreparedCertificate { view: 1, header: header.clone(), signatures: SignatureSet::default() };
        certificate.signatures = sign(members, &certificate.vote().signed_bytes(id));
        certificate
    };
    let stable = |header: &Header, members: &[u16]| {
        let (slot, sequence, digest, log_root) = (header.slot, header.last_sequence(), header.digest(), header.log_root);
        let checkpoint = Checkpoint { epoch: 0, slot, sequence, digest, log_root };
        CheckpointCertificate { checkpoint, signatures: sign(members, &checkpoint.signed_bytes(id)) }
    };
    let change = |replica: u16, new_view, stable, prepared| {
        let mut change = ViewChange { epoch: 0, new_view, stable, prepared, replica, signature: Signature([0; 64]) };
        change.signature = history.keys[usize::from(replica)].sign(&change.signed_bytes(id));
        change
    };
    let new_view = |view: u64, view_changes| {
        let mut new_view = NewView { epoch: 0, view, view_changes, signature: Signature([0; 64]) };
        new_view.signature = history.keys[usize::from(history.federation.leader(view))].sign(&new_view.signed_bytes(id));
        Record::NewView(Arc::new(new_view))
    };
    let proposal = |view: u64, header: &Header| {
        let leader = history.federation.leader(view);
        let vote = Vote { phase: Phase::PrePrepare, epoch: 0, view, slot: header.slot, digest: header.digest() };
        let body = CheckedBody::compute(&history.federation, batch.body.clone(), header.first_sequence);
        let signature = history.keys[usize::from(leader)].sign(&vote.signed_bytes(id));
        Record::Proposal { view, header: header.clone(), signature, body }
    };
    let left = |change| Record::ViewChange(Arc::new(change));
    let at_end = |replica, view| change(replica, view, Some(stable(&batch.header, &[0, 1, 2])), vec![]);
    let chosen =
        [0, 1, 3].map(|replica| change(replica, 6, Some(stable(&history.batches[3].header, &[0, 1, 2])), vec![prepared(&batch.header, &[0, 1, 2])]));
    vec![
        ("E1", proposal(0, &batch.header), proposal(0, &other), vec![0]),
        ("E2", Record::Prepared(prepared(&batch.header, &[0, 1, 2])), Record::Prepared(prepared(&other, &[1, 2, 3])), vec![1, 2]),
        // Its view-change is held against what it committed in the other copy, and in its own.
        ("E4", left(change(1, 9, None, vec![])), Record::Stable(stable(&batch.header, &[0, 1, 2])), vec![1]),
        ("E5", new_view(6, chosen.into()), proposal(6, &other), vec![2]),
        ("E6", left(at_end(3, 9)), left(change(3, 9, Some(stable(&history.batches[2].header, &[0, 1, 2])), vec![])), vec![3]),
        ("E6", new_view(6, [0, 1, 2].map(|i| at_end(i, 6)).into()), new_view(6, [1, 2, 3].map(|i| at_end(i, 6)).into()), vec![2]),
        ("E9", Record::Stable(stable(&batch.header, &[0, 1, 2])), Record::Stable(stable(&other, &[1, 2, 3])), vec![1, 2]),
    ]
}

#[test]
fn what_replicas_recorded_of_others_convicts_across_targets() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    for (number, (rule, first, second, guilty)) in lies(history).into_iter().enumerate() {
        let write = |name: &str, record: &Record| {
            history.write_with(&room.path().join(format!("{name}-{number}")), &history.batches[..=4], std::slice::from_ref(record))
        };
        let (a, b) = (write("a", &first), write("b", &second));
        for targets in [[&a, &b], [&b, &a]] {
            let summary = history.audit(&targets.map(PathBuf::as_path), AuditOptions::default());
            let convicted: BTreeSet<u16> = summary.convictions().iter().map(|c| c.conviction.replica).collect();
            let wanted = summary.convictions().iter().any(|c| c.conviction.rule.to_string().starts_with(rule));
            assert!(wanted && convicted == guilty.iter().copied().collect() && summary.exit_code == 2, "{rule}: {:?}", summary.convictions());
            assert!(summary.findings.is_empty(), "{rule}: {:?}", summary.findings);
        }
        // One who heard but one story cannot tell, unless it is held against the batches.
        let alone = history.audit(&[&b], AuditOptions::default());
        assert!(alone.convictions().is_empty() && alone.exit_code == 0 || number == 4, "{rule}: {:?}", alone.convictions());
    }
}

/// Writes a published checkpoint beside a history.
fn publish(history: &History, data: &Path, size: u64, root: Digest, signers: &[u16]) {
    let config = |index: u16| ReplicaFile::load(&history.stage.path(&format!("replica-{index}/replica.toml"))).unwrap();
    let sign = |index: &u16| {
        let key = config(*index).secret.cosignature_key();
        let cosignature = Cosignature::sign(history.federation.id(), &key, *index, (size, root), 1_700_000_000);
        let text = checkpoint_text(history.federation.id(), size, &root);
        ((*index, key.sign(text.as_bytes())), cosignature)
    };
    let (publishers, cosignatures) = signers.iter().map(sign).unzip();
    let note = PublishedCheckpoint { size, root, publishers, cosignatures };
    fs::write(DataDir(data.to_owned()).checkpoint(), note.to_note(&history.federation)).unwrap();
}

#[test]
fn two_published_checkpoints_of_one_size_convict_who_cosigned_both() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    let (ours, theirs) = (history.write(&room.path().join("ours"), &history.batches), history.write(&room.path().join("theirs"), &history.batches));
    let header = &history.batches.last().unwrap().header;
    publish(history, &ours, header.last_sequence(), header.log_root, &[0, 1, 2]);
    assert_eq!(history.audit(&[&ours], AuditOptions::default()).exit_code, 0);
    publish(history, &theirs, header.last_sequence(), Digest([6; 32]), &[1, 2, 3]);
    let alone = history.audit(&[&theirs], AuditOptions::default());
    assert_eq!((alone.first_bad.as_ref().unwrap().rule.as_str(), alone.convictions().len()), ("published", 0), "no statement is like it");
    for targets in [[&ours, &theirs], [&theirs, &ours]] {
        let summary = history.audit(&targets.map(PathBuf::as_path), AuditOptions::default());
        let convicted: Vec<(EvidenceRule, u16)> = summary.convictions().iter().map(|c| (c.conviction.rule, c.conviction.replica)).collect();
        assert_eq!((summary.exit_code, convicted), (2, vec![(EvidenceRule::TwoCheckpoints, 1), (EvidenceRule::TwoCheckpoints, 2)]));
    }
}

#[test]
fn a_part_is_checked_and_the_rest_is_said_to_be_left_out() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    let dir = history.write(&room.path().join("whole"), &history.batches);
    let header = |at: usize| history.batches[at].header.clone();
    let (from, to) = (header(3).first_sequence, header(5).last_sequence());
    let by_number = Range { from: Some(from), to: Some(to), ..Range::default() };
    let by_time = Range { since: Some(header(3).timestamp), until: Some(header(5).timestamp), ..Range::default() };
    for range in [by_number, by_time] {
        let part = history.audit(&[&dir], AuditOptions { range, ..AuditOptions::default() });
        assert_eq!((part.exit_code, part.batches, part.entries, part.head), (0, 3, to - from + 1, to));
        for what in ["a backup holds none", "before the range", "outside the range"] {
            assert!(part.not_checked.iter().any(|left_out| left_out.contains(what)), "{:?}", part.not_checked);
        }
    }
    // A signature before the range is not looked at, a payload is.
    let options = || AuditOptions { range: by_number, ..AuditOptions::default() };
    let mut batches = history.batches.clone();
    batches[1].certificate.signatures.0[0].1.0[1] ^= 1;
    assert_eq!(history.audit(&[&history.write(&room.path().join("signature"), &batches)], options()).exit_code, 0);
    let mut batches = history.batches.clone();
    TAMPERINGS[0].3(history, &mut batches, 1);
    assert_eq!(history.audit(&[&history.write(&room.path().join("payload"), &batches)], options()).exit_code, 1);
}

#[test]
fn an_audit_goes_on_where_it_was_and_sees_a_rollback() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    let short = history.write(&room.path().join("short"), &history.batches[..5]);
    let whole = history.write(&room.path().join("whole"), &history.batches);
    let state = room.path().join("state.json");
    let options = || AuditOptions { resume: Some(state.clone()), ..AuditOptions::default() };
    let first = history.audit(&[&short], options());
    let second = history.audit(&[&whole], options());
    assert_eq!((first.exit_code, second.exit_code, second.entries, second.head), (0, 0, 24, 24));
    let everything = history.audit(&[&whole], AuditOptions::default());
    assert_eq!((second.signatures, second.log_root), (everything.signatures, everything.log_root), "nothing twice, nothing left out");
    // With nothing new, what was published earlier is no finding, and of the end of what was verified the root must be right.
    let header = &history.batches[3].header;
    publish(history, &whole, header.last_sequence(), header.log_root, &[0, 1, 2]);
    assert_eq!(history.audit(&[&whole], options()).exit_code, 0);
    publish(history, &whole, 24, Digest([6; 32]), &[0, 1, 2]);
    let published = history.audit(&[&whole], options());
    assert_eq!((published.exit_code, published.first_bad.unwrap().rule.as_str()), (1, "published"));
    fs::remove_file(DataDir(whole.clone()).checkpoint()).unwrap();
    fs::remove_file(&state).unwrap();
    assert_eq!(history.audit(&[&whole], options()).exit_code, 0);
    // The same file, and a copy that ends before what was verified.
    let rolled_back = history.audit(&[&short], options());
    assert_eq!((rolled_back.exit_code, rolled_back.first_bad.unwrap().rule.as_str()), (2, "rollback"));
    // A state of another level, or that somebody changed, is refused.
    let mut audit = Audit::new(&history.federation, AuditOptions { level: Level::Chain, ..options() });
    assert!(audit.directory("whole", &whole, &mut |_| {}).unwrap_err().to_string().contains("--level content"));
    let text = fs::read_to_string(&state).unwrap();
    let peak = serde_json::from_str::<Value>(&text).unwrap()["peaks"][0].as_str().unwrap().to_owned();
    fs::write(&state, text.replace(&peak, &"00".repeat(32))).unwrap();
    let mut audit = Audit::new(&history.federation, options());
    assert!(audit.directory("whole", &whole, &mut |_| {}).unwrap_err().to_string().contains("log root"));
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["header"]["count"] = 0.into();
    fs::write(&state, value.to_string()).unwrap();
    assert!(audit.directory("whole", &whole, &mut |_| {}).unwrap_err().to_string().contains("at least 1"));
    // A slot at the end of u64, without a tree, is taken up without an overflow.
    value = serde_json::from_str(&text).unwrap();
    (value["header"]["slot"], value["peaks"]) = (u64::MAX.into(), Value::Null);
    fs::write(&state, value.to_string()).unwrap();
    assert!(audit.directory("whole", &whole, &mut |_| {}).is_ok());
}

#[test]
fn numbers_at_the_end_of_u64_are_findings_like_any_other() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    for (name, slot, sequence, timestamp) in
        [("slot", u64::MAX, 1, 5), ("sequence", 2, u64::MAX, 5), ("time", 2, 1, u64::MAX), ("all", u64::MAX, u64::MAX, u64::MAX)]
    {
        let mut batches = history.batches[..2].to_vec();
        let header = &mut batches[1].header;
        (header.slot, header.first_sequence, header.timestamp) = (slot, sequence, timestamp);
        history.commit(&mut batches[1]);
        let dir = history.write(&room.path().join(name), &batches);
        for level in Level::ALL {
            let summary = history.audit(&[&dir, &dir], AuditOptions { level, ..AuditOptions::default() });
            assert!(summary.exit_code > 0, "{name} at {level}");
            assert!(summary.to_html(&history.federation).contains("</html>"));
        }
    }
}

#[test]
fn an_audit_that_is_stopped_says_so() {
    let history = history();
    let room = tempfile::tempdir().unwrap();
    let dir = history.write(&room.path().join("whole"), &history.batches);
    let mut audit = Audit::new(&history.federation, AuditOptions::default());
    audit.stop_switch().store(true, Ordering::Relaxed);
    audit.directory("whole", &dir, &mut |_| {}).unwrap();
    let summary = audit.finish();
    assert_eq!((summary.exit_code, summary.complete, summary.clean), (3, false, true));
}

#[test]
fn real_replicas_are_audited_together_stopped_and_live() {
    // Its own federation: the shared history's is stopped.
    let mut stage = Stage::init();
    stage.start();
    assert!(stage.submit(&lines(0..10)).status.success());
    stage.settle(10);
    let genesis = stage.text("federation.toml");
    let (config, state) = (stage.text("client.toml"), stage.text("state.json"));
    let live = |more: &[&str]| exofed(&[&["audit", "--json", &config, "--genesis", &genesis][..], more].concat());
    let first = documents(&live(&["--resume", &state])).remove(0);
    assert_eq!((&first["clean"], &first["entries"], &first["not_checked"]), (&true.into(), &10.into(), &Value::Array(vec![])), "{first:#}");
    assert!(stage.submit(&lines(10..20)).status.success());
    stage.settle(20);
    let output = live(&["--resume", &state]);
    let second = documents(&output).remove(0);
    assert_eq!((output.status.code(), &second["entries"], &second["head"]), (Some(0), &20.into(), &20.into()), "{second:#}");
    // An old log is shown to be the beginning of the new one, and an old proof's log is that old one.
    let (old, path) = (stage.text("old.json"), stage.text("consistency.json"));
    assert!(exofed(&["proof", "--sequence", "3", "--config", &config, "-o", &old]).status.success());
    assert!(exofed(&["proof", "--consistency", "3", "--config", &config, "-o", &path]).status.success());
    let verified = exofed(&["verify", &path, "--genesis", &genesis, "--since", &old, "--json"]);
    let verdict = documents(&verified).remove(0);
    assert_eq!((verified.status.code(), &verdict["valid"], &verdict["new_size"]), (Some(0), &true.into(), &20.into()), "{verdict:#}");
    assert!(exofed(&["proof", "--sequence", "20", "--config", &config, "-o", &old]).status.success());
    assert_eq!(exofed(&["verify", &path, "--genesis", &genesis, "--since", &old]).status.code(), Some(1), "another log than the old one");
    assert_eq!(exofed(&["proof", "--consistency", "20", "3", "--config", &config]).status.code(), Some(3));
    let running = |label: &str| format!("{config}@{label}");
    let same = exofed(&["diff", &running("replica-0"), &running("replica-3"), "--genesis", &genesis, "--json"]);
    assert_eq!((same.status.code(), &documents(&same)[0]["difference"]["verdict"]), (Some(0), &"same".into()));
    // A replica that is down is said to be; the others' word is enough.
    stage.kill(2);
    assert_eq!(exofed(&["diff", &running("replica-0"), &running("replica-2"), "--genesis", &genesis]).status.code(), Some(3));
    let third = documents(&live(&[])).remove(0);
    assert_eq!((&third["clean"], &third["entries"]), (&true.into(), &20.into()));
    assert!(third["not_checked"][0].as_str().unwrap().contains("replica-2"), "{third:#}");
    stage.restart(2);
    stage.stop();
    let targets: Vec<String> = (0..4).map(|k| stage.text(&format!("replica-{k}"))).collect();
    let report = stage.text("report.html");
    let mut arguments = vec!["audit", "--genesis", &genesis, "--report", &report];
    arguments.extend(targets.iter().map(String::as_str));
    let all = exofed(&arguments);
    assert_eq!(all.status.code(), Some(0), "{}", stderr(&all));
    let page = fs::read_to_string(&report).unwrap();
    assert!(page.contains("Clean") && targets.iter().all(|target| page.contains(target.as_str())));
    for foreign in ["<script", "http:", "https:", "url("] {
        assert!(!page.contains(foreign), "the page is self-contained, and holds {foreign}");
    }
}

#[test]
fn two_copies_differ_first_where_they_do() {
    let history = history();
    let genesis = history.stage.text("federation.toml");
    // Directories of their own, with the log that a recovery builds from a journal.
    let directory = |name: &str, batches: &[CommittedBatch]| {
        let dir = history.stage.path(name);
        fs::create_dir(&dir).unwrap();
        for file in ["replica.toml", "secret.key"] {
            fs::copy(history.stage.path("replica-0").join(file), dir.join(file)).unwrap();
        }
        history.write(&dir.join("data"), batches);
        fs::remove_file(dir.join("data/backup")).unwrap();
        let built = exofed(&["recover", dir.to_str().unwrap()]);
        assert!(dir.join("data/log").is_dir(), "{}", stderr(&built));
        dir.to_str().unwrap().to_owned()
    };
    let compare = |a: &str, b: &str| {
        let output = exofed(&["diff", a, b, "--genesis", &genesis, "--json"]);
        let report = documents(&output).into_iter().next().unwrap_or_else(|| panic!("{}", stderr(&output)));
        (output.status.code(), report)
    };
    let whole = directory("diff-whole", &history.batches);
    let short = directory("diff-short", &history.batches[..5]);
    let (code, same) = compare(&whole, &history.stage.text("replica-1"));
    assert_eq!((code, &same["difference"]["verdict"]), (Some(0), &"same".into()), "{same:#}");
    let (code, lags) = compare(&short, &whole);
    let behind = (history.batches.len() - 5) as u64;
    let difference = &lags["difference"];
    assert_eq!((code, &difference["verdict"], &difference["side"], &difference["slots"]), (Some(0), &"lags".into(), &"a".into(), &behind.into()));
    // Each slot in turn is the first that differs.
    for at in 1..5 {
        let mut other = history.batches[..5].to_vec();
        for i in at..5 {
            other[i].header.timestamp += 1;
            if i > at {
                other[i].header.parent = other[i - 1].header.digest();
            }
            history.commit(&mut other[i]);
        }
        let (code, fork) = compare(&directory(&format!("diff-fork-{at}"), &other), &whole);
        assert_eq!(
            (code, &fork["difference"]["verdict"], &fork["difference"]["slot"]),
            (Some(2), &"fork".into(), &other[at].header.slot.into()),
            "{fork:#}"
        );
        assert!(fork["evidence"].as_array().unwrap().len() >= 2 && fork["probes"].as_u64().unwrap() <= 5, "{fork:#}");
    }
    assert_eq!(exofed(&["diff", &whole, "nowhere", "--genesis", &genesis]).status.code(), Some(3));
}

/// Lines of a process that follows, until one fits.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let event = serde_json::from_str(&lines.next().expect("it goes on").unwrap()).unwrap();
        if fits(&event) {
            return event;
        }
    }
}

#[test]
fn a_federation_is_followed_through_a_stall_and_a_rollback_is_seen() {
    let mut stage = Stage::init();
    stage.start();
    let (genesis, config, state) = (stage.text("federation.toml"), stage.text("client.toml"), stage.text("state.json"));
    let arguments = ["audit", "--json", &config, "--genesis", &genesis, "--resume", &state];
    let mut follower = Command::new(stage::EXOFED)
        .args(arguments)
        .args(["--follow", "--stall-after", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(stage.submit(&lines(0..10)).status.success());
    let verified = until(&mut events, |event| event["event"] == "verified" && event["sequence"] == 10);
    assert_eq!(verified["log_root"], stage.agree()[0]["log_root"]);
    // Two of four are no quorum: what is submitted now waits.
    stage.kill(2);
    stage.kill(3);
    let mut waiting = Command::new(stage::EXOFED).args(["submit", "--config", &config]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    waiting.stdin.take().unwrap().write_all(&lines(10..12)).unwrap();
    until(&mut events, |event| event["event"] == "stalled" && event["pending"].as_u64().unwrap() > 0);
    stage.restart(2);
    stage.restart(3);
    until(&mut events, |event| event["event"] == "verified" && event["sequence"] == 12);
    assert!(waiting.wait().unwrap().success());
    rustix::process::kill_process(rustix::process::Pid::from_child(&follower), rustix::process::Signal::INT).unwrap();
    let summary = until(&mut events, |line| line["event"].is_null());
    assert_eq!((follower.wait().unwrap().code(), &summary["clean"], &summary["entries"]), (Some(0), &true.into(), &12.into()), "{summary:#}");
    // Everybody loses everything and begins anew. Only who kept what was verified can tell.
    stage.stop();
    let federation = FederationFile::read_genesis(&stage.path("federation.toml")).unwrap();
    for (k, member) in federation.members().iter().enumerate() {
        let data = DataDir(stage.path(&format!("replica-{k}/data")));
        fs::remove_dir_all(&data.0).unwrap();
        fs::create_dir(&data.0).unwrap();
        data.create(&federation, member.consensus_key, &JournalOptions::default()).unwrap();
    }
    stage.start();
    assert_eq!(exofed(&["audit", &config, "--genesis", &genesis]).status.code(), Some(0));
    let rolled_back = exofed(&arguments);
    let summary = documents(&rolled_back).remove(0);
    assert_eq!((rolled_back.status.code(), &summary["first_bad"]["rule"]), (Some(2), &"rollback".into()), "{summary:#}");
    stage.stop();
}
