//! Fuzz targets: every decoder, the proof verifier, what people write, the files of a replica, and bytes into the core.
//!
//! Each runs for `EXOFED_FUZZ_SECONDS` (2 unless said) on changed copies of real values. A failure prints `BOLERO_RANDOM_SEED=...`, which repeats it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fuzzing;
mod proof_fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bolero::{TypeGenerator, check, produce};
use exo_federation::config::{ClientFile, FederationFile, ReplicaFile, read_secret, write_secret};
use exo_federation::consensus::{Checked, Effect, Event, Record, Step, Verified, Verifier};
use exo_federation::crypto::merkle::Frontier;
use exo_federation::journal::{Journal, JournalError, JournalOptions, JournalReader};
use exo_federation::proof::{CommitProof, TlogProof, make_receipt, verify_receipt};
use exo_federation::store::{AppendBatch, LogReader as _, Store, StoreOptions};
use exo_federation::types::{
    BatchRange, CommitCertificate, ConsensusMessage, ConsistencyQuery, Cosignature, CosignatureQuery, Federation, Header, LogQuery, PeerId,
    ProofAnswer, ProofQuery, PublishedCheckpoint, PublishedProof, ReplicaStatus, Request, Response, Role, SubmissionReceipt, SubmitOutcome, UpdateId,
    decode, encode,
};

use fuzzing::federation::{core, federation, now, run};
use fuzzing::{Counts, FilePlan, Original, Plan, decode_strictly, plans, scratch, time};
use proof_fixture::{Chain, proof_of, secret};

#[test]
fn consensus_messages() {
    static COUNTS: Counts = Counts::of("consensus_messages");
    let run = run(&federation());
    let mut kinds: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    for (.., message) in &run.messages {
        let bytes = encode(message).unwrap();
        kinds.entry(bytes[0]).or_default().push(bytes);
    }
    // Stable and Body travel only to whoever lags.
    assert!(kinds.len() >= 10, "only these kinds were said: {:?}", kinds.keys());
    let corpus: Vec<Vec<u8>> = kinds.into_values().flat_map(|mut all| all.split_off(all.len().saturating_sub(20))).collect();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        decode_strictly::<ConsensusMessage>(&plan.apply(&corpus)).into_iter().for_each(|_| COUNTS.accepted());
    });
    COUNTS.report();
}

/// A chain with a receipt, a proof and what a replica would answer.
struct Committed {
    federation: Federation,
    proofs: Vec<CommitProof>,
    receipt: SubmissionReceipt,
    submission: Arc<exo_federation::types::Submission>,
    range: BatchRange,
}

fn committed() -> Committed {
    let mut chain = Chain::new(4);
    let first = chain.commit_some(2, 3);
    let before = chain.frontier.clone();
    let second = chain.commit_some(2, 4);
    let federation = chain.federation;
    let proofs = vec![proof_of(&federation, &Frontier::default(), &first, 1), proof_of(&federation, &before, &second, 2)];
    let digests = second.body.digests(federation.id());
    let hashes: Vec<_> = second.body.leaves(&digests, second.header.first_sequence).iter().map(|leaf| leaf.hash()).collect();
    let submission = second.body.submissions[0].clone();
    let receipt =
        make_receipt(&second.header, &second.certificate, &before, &hashes, second.header.first_sequence, submission.updates.len()).unwrap();
    Committed { federation, proofs, receipt, submission, range: BatchRange { head: 14, batches: vec![first, second] } }
}

#[test]
fn requests() {
    static COUNTS: Counts = Counts::of("requests");
    let Committed { submission, .. } = committed();
    let author = submission.author;
    let log = |query| encode(&Request::Log(query)).unwrap();
    let proof = |query| encode(&Request::Proof(query)).unwrap();
    let corpus = vec![
        encode(&Request::Submit(submission)).unwrap(),
        encode(&Request::Status).unwrap(),
        log(LogQuery::FromSequence { sequence: 3, max_bytes: 1 << 20, wait_ms: 10 }),
        log(LogQuery::FromSlot { slot: 3, max_bytes: 1 << 20 }),
        proof(ProofQuery::Sequence(4)),
        encode(&Request::Consistency(ConsistencyQuery { old: 3, new: Some(9) })).unwrap(),
        encode(&Request::Cosignature(CosignatureQuery { size: 9, wait_ms: 10 })).unwrap(),
        encode(&Request::Checkpoint).unwrap(),
        encode(&Request::PublishedProof(ProofQuery::Sequence(4))).unwrap(),
        proof(ProofQuery::Id { update_id: UpdateId("update-3".into()), author: Some(author) }),
    ];
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        decode_strictly::<Request>(&plan.apply(&corpus)).into_iter().for_each(|_| COUNTS.accepted());
    });
    COUNTS.report();
}

#[test]
fn responses() {
    static COUNTS: Counts = Counts::of("responses");
    let Committed { federation, proofs, receipt, range, .. } = committed();
    let published = published(&federation, &proofs[0]);
    let proof = proofs[0].clone();
    let opening = proof.opening.map(|opening| (opening.salt, opening.data));
    let answer = ProofAnswer { leaf: proof.leaf, path: proof.path, header: proof.header, certificate: proof.certificate, opening };
    let status = ReplicaStatus {
        peer: PeerId("replica-1".into()),
        version: "0.1.0".into(),
        federation_id: federation.id(),
        epoch: 0,
        view: 3,
        role: Role::Follower,
        slot: 9,
        sequence: 40,
        stable_slot: 8,
        log_root: receipt.header.log_root,
        suspect: Some("no reason".into()),
        pending: 2,
        connected: 3,
        view_changes: 1,
        evidence: 0,
        refused: 7,
        replayed: 12,
        recovery_millis: 80,
        http: Some("http://127.0.0.1:7480".into()),
        journal_syncs: 77,
    };
    let outcomes = [
        SubmitOutcome::Committed(Box::new(receipt)),
        SubmitOutcome::AlreadyCommitted(vec![3, 4, 5]),
        SubmitOutcome::Conflict(vec![UpdateId("a".into())]),
        SubmitOutcome::Expired { not_after: 5, now: 6 },
        SubmitOutcome::Rejected("why".into()),
        SubmitOutcome::Busy { retry_after_ms: 50 },
        SubmitOutcome::Unknown { prepares: 2, commits: 1, needed: 3 },
    ];
    let mut responses: Vec<Response> = outcomes.into_iter().map(Response::Submitted).collect();
    responses.extend([
        Response::Status(Box::new(status)),
        Response::Log(range),
        Response::Proof(Some(Box::new(answer))),
        Response::Refused("no".into()),
        Response::Cosignature(published.checkpoint.cosignatures.first().copied()),
        Response::Checkpoint(Some(Box::new(published.checkpoint.clone()))),
        Response::PublishedProof(Some(Box::new(PublishedProof { leaf: published.leaf, path: published.path, checkpoint: published.checkpoint }))),
    ]);
    let corpus: Vec<Vec<u8>> = responses.iter().map(|response| encode(response).unwrap()).collect();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        decode_strictly::<Response>(&plan.apply(&corpus)).into_iter().for_each(|_| COUNTS.accepted());
    });
    COUNTS.report();
}

/// A checkpoint cosigned by a quorum, and a proof in it.
fn published(federation: &Federation, proof: &CommitProof) -> TlogProof {
    let (size, root) = (proof.header.last_sequence(), proof.header.log_root);
    let sign = |i: u8| Cosignature::sign(federation.id(), &secret(i).cosignature_key(), i.into(), (size, root), 1_700_000_000 + u64::from(i));
    let cosignatures = [0, 2, 3].map(sign).to_vec();
    let checkpoint = PublishedCheckpoint::publish(federation.id(), &secret(2).cosignature_key(), 2, (size, root), cosignatures);
    TlogProof { leaf: proof.leaf.clone(), path: proof.path.clone(), checkpoint }
}

/// Notes and tlog-proofs: whatever verifies says what a real one says.
#[test]
fn published_texts() {
    static COUNTS: Counts = Counts::of("published_texts");
    let Committed { federation, proofs, .. } = committed();
    let real: Vec<TlogProof> = proofs.iter().map(|proof| published(&federation, proof)).collect();
    let notes = real.iter().map(|proof| proof.checkpoint.to_note(&federation).into_bytes());
    let corpus: Vec<Vec<u8>> = real.iter().map(|proof| proof.to_text(&federation).into_bytes()).chain(notes).collect();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let bytes = plan.apply(&corpus);
        if let Ok(note) = PublishedCheckpoint::from_note(&bytes, &federation) {
            COUNTS.accepted();
            if note.verify(&federation).is_ok() {
                assert_eq!(PublishedCheckpoint::from_note(note.to_note(&federation).as_bytes(), &federation).as_ref(), Ok(&note));
                let known = |real: &TlogProof| (real.checkpoint.size, real.checkpoint.root) == (note.size, note.root);
                assert!(real.iter().any(known), "a changed note verifies: {note:?}");
            }
        }
        if let Ok(proof) = TlogProof::from_text(&bytes, &federation) {
            COUNTS.accepted();
            if proof.verify(&federation).is_ok() {
                assert_eq!(TlogProof::from_text(proof.to_text(&federation).as_bytes(), &federation).as_ref(), Ok(&proof));
                let known = |real: &TlogProof| (&real.leaf, real.checkpoint.root) == (&proof.leaf, proof.checkpoint.root);
                assert!(real.iter().any(known), "a changed proof verifies: {proof:?}");
            }
        }
    });
    COUNTS.report();
}

#[test]
fn receipts() {
    static COUNTS: Counts = Counts::of("receipts");
    let Committed { federation, receipt, submission, .. } = committed();
    let sound: Vec<_> = verify_receipt(&receipt, &submission, &federation).unwrap().into_iter().map(|proof| proof.leaf).collect();
    let corpus = vec![encode(&receipt).unwrap()];
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let Some(receipt) = decode_strictly::<SubmissionReceipt>(&plan.apply(&corpus)) else { return };
        COUNTS.accepted();
        if let Ok(proofs) = verify_receipt(&receipt, &submission, &federation) {
            proofs.iter().for_each(|proof| drop(proof.verify(&federation).expect("a receipt gave a proof that does not verify")));
            let leaves: Vec<_> = proofs.into_iter().map(|proof| proof.leaf).collect();
            assert_eq!(leaves, sound, "a changed receipt proves something else");
        }
    });
    COUNTS.report();
}

/// A proof that verifies says what one of the real ones says; gives whether it does.
fn proves_nothing_else(proof: &CommitProof, federation: &Federation, sound: &[CommitProof]) -> bool {
    let Ok(verified) = proof.verify(federation) else { return false };
    let same = |real: &&CommitProof| (&real.leaf, &real.header) == (&proof.leaf, &proof.header);
    let real = sound.iter().find(same).unwrap_or_else(|| panic!("a changed proof verifies: {proof:?}"));
    assert!(!verified.opened || proof.opening == real.opening, "another payload is proved: {proof:?}");
    true
}

#[test]
fn binary_proofs() {
    static COUNTS: Counts = Counts::of("binary_proofs");
    let Committed { federation, proofs, .. } = committed();
    let corpus: Vec<Vec<u8>> = proofs.iter().map(|proof| proof.to_bytes().unwrap()).collect();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let bytes = plan.apply(&corpus);
        let Ok(proof) = CommitProof::from_bytes(&bytes) else { return };
        COUNTS.accepted();
        assert_eq!(proof.to_bytes().unwrap(), bytes, "two binary forms of one proof");
        proves_nothing_else(&proof, &federation, &proofs);
    });
    COUNTS.report();
}

#[test]
fn json_proofs() {
    static COUNTS: Counts = Counts::of("json_proofs");
    let Committed { federation, proofs, .. } = committed();
    let corpus: Vec<Vec<u8>> = proofs.iter().map(|proof| proof.to_json(&federation).unwrap()).collect();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let bytes = plan.apply(&corpus);
        let Ok(proof) = CommitProof::from_json(&bytes, &federation) else { return };
        COUNTS.accepted();
        assert_eq!(proof.to_json(&federation).unwrap(), bytes, "two JSON forms of one proof");
        proves_nothing_else(&proof, &federation, &proofs);
    });
    COUNTS.report();
}

/// Fields of a proof changed one by one, so that what is checked last is reached too.
#[test]
fn proof_fields() {
    static COUNTS: Counts = Counts::of("proof_fields");
    #[derive(Debug, Clone, TypeGenerator)]
    enum Change {
        Leaf(Plan),
        Path(u16, Plan),
        Header(Plan),
        Signatures(Plan),
        Data(Plan),
        Swap,
    }
    let Committed { federation, proofs, .. } = committed();
    fn changed<T: bincode::Encode + bincode::Decode<()>>(value: &T, plan: &Plan) -> Option<T> {
        decode(&plan.apply(&[encode(value).unwrap()])).ok()
    }
    let generator = (produce::<u16>(), produce::<Vec<Change>>().with().len(1..4usize));
    check!().with_test_time(time()).with_generator(generator).for_each(|(which, changes): &(u16, Vec<Change>)| {
        COUNTS.input();
        let mut proof = proofs[usize::from(*which) % proofs.len()].clone();
        let other = &proofs[(usize::from(*which) + 1) % proofs.len()];
        for change in changes {
            match change {
                Change::Leaf(plan) => proof.leaf = changed(&proof.leaf, plan).unwrap_or(proof.leaf),
                Change::Header(plan) => proof.header = changed(&proof.header, plan).unwrap_or(proof.header),
                Change::Signatures(plan) => proof.certificate = changed(&proof.certificate, plan).unwrap_or(proof.certificate),
                Change::Path(at, plan) if !proof.path.is_empty() => {
                    let at = usize::from(*at) % proof.path.len();
                    proof.path[at] = changed(&proof.path[at], plan).unwrap_or(proof.path[at]);
                }
                Change::Data(plan) => {
                    if let Some(opening) = &mut proof.opening {
                        opening.data = plan.apply(std::slice::from_ref(&opening.data));
                    }
                }
                Change::Path(..) | Change::Swap => proof.leaf = other.leaf.clone(),
            }
        }
        if proves_nothing_else(&proof, &federation, &proofs) {
            COUNTS.accepted();
        }
    });
    COUNTS.report();
}

#[test]
fn journal_records() {
    static COUNTS: Counts = Counts::of("journal_records");
    let federation = federation();
    let frames: Vec<(u8, Vec<u8>)> = run(&federation).records.iter().map(|record| record.to_frame().unwrap()).collect();
    let kinds: BTreeSet<u8> = frames.iter().map(|(kind, _)| *kind).collect();
    assert!(kinds.len() >= 6, "only these kinds were recorded: {kinds:?}");
    for (kind, payload) in &frames {
        let under_others = (0..=u8::MAX).filter(|other| other != kind && Record::from_frame(&federation, *other, payload).is_ok());
        assert_eq!(under_others.count(), 0, "a record of kind {kind} is read as another");
    }
    let corpus: Vec<Vec<u8>> = frames.iter().map(|(kind, payload)| [&[*kind], payload.as_slice()].concat()).collect();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let bytes = plan.apply(&corpus);
        let Some((kind, payload)) = bytes.split_first() else { return };
        if let Ok(record) = Record::from_frame(&federation, *kind, payload) {
            COUNTS.accepted();
            assert_eq!(record.to_frame().unwrap(), (*kind, payload.to_vec()), "two forms of one record");
        }
    });
    COUNTS.report();
}

const JOURNAL: JournalOptions = JournalOptions { segment_bytes: 48 << 10, votes_bytes: 32 << 10, max_frame_bytes: 1 << 20 };

#[test]
fn journal_files() {
    static COUNTS: Counts = Counts::of("journal_files");
    let (room, id) = (scratch(), [7; 32]);
    let dir = room.path().join("journal");
    Journal::create(&dir, id, &JOURNAL, &[(20, vec![0; 8])]).unwrap();
    let (mut journal, _) = Journal::open(&dir, id, &JOURNAL).unwrap();
    for number in 0..30u64 {
        journal.append_segment(1, number, &vec![number as u8; 700 + 90 * number as usize]).unwrap();
        journal.append_vote(16, &vec![number as u8; 300]).unwrap();
        journal.sync().unwrap();
    }
    drop(journal);
    let segment = |number: u64| format!("segments/{number:020}.seg");
    let (first, second) = (segment(1), segment(2));
    let files = ["votes.0", "votes.1", &first, &second].map(|name| Original::read(&dir, name));
    let reader = JournalReader::open(&dir, Some(id), &JOURNAL).unwrap();
    let known: BTreeSet<(u64, Vec<u8>)> =
        reader.segments_from(None).map(Result::unwrap).chain(reader.votes().frames).map(|frame| (frame.lsn, frame.payload)).collect();
    let copy = room.path().join("copy");
    let generator = produce::<Vec<FilePlan>>().with().len(1..3usize);
    check!().with_test_time(time()).with_generator(generator).for_each(|plans: &Vec<FilePlan>| {
        COUNTS.input();
        let _ = fs::remove_dir_all(&copy);
        files.iter().for_each(|file| file.write(&copy));
        plans.iter().for_each(|plan| plan.apply(&copy, &files));
        let checked = |frame: exo_federation::journal::Frame| assert!(known.contains(&(frame.lsn, frame.payload)), "a record that was never written");
        let Ok(reader) = JournalReader::open(&copy, Some(id), &JOURNAL) else { return };
        reader.segments_from(None).filter_map(Result::ok).chain(reader.votes().frames).for_each(checked);
        let report = reader.check().unwrap();
        let (mut journal, opened) = Journal::open(&copy, id, &JOURNAL).unwrap();
        journal.tail(None).filter_map(Result::ok).for_each(checked);
        // What is written behind damage is read back, or refused.
        journal.append_segment(2, 99, b"more").unwrap();
        match journal.append_vote(17, b"more") {
            Ok(()) => {
                COUNTS.accepted();
                assert!(!opened.votes_damaged);
            }
            Err(JournalError::VotesDamaged { .. }) => assert!(opened.votes_damaged, "{report:?}"),
            Err(error) => panic!("{error}"),
        }
        journal.sync().unwrap();
        drop(journal);
        let (mut journal, _) = Journal::open(&copy, id, &JOURNAL).unwrap();
        assert!(journal.tail(None).filter_map(Result::ok).any(|frame| frame.payload == b"more"), "what was synced is gone");
    });
    COUNTS.report();
}

#[test]
fn log_files() {
    static COUNTS: Counts = Counts::of("log_files");
    let room = scratch();
    let (mut chain, options) = (Chain::new(4), StoreOptions::default());
    let id = chain.federation.id();
    let mut store = Store::create(room.path(), id, &options).unwrap();
    let mut known = Vec::new();
    for round in 0..6 {
        let batch = chain.commit_some(2, 5);
        store.append(AppendBatch { batch: &batch, digests: &batch.body.digests(id), place: None }).unwrap();
        known.push((batch.header, batch.certificate));
        if round == 3 {
            store.sync().unwrap();
        }
    }
    // Not every row is behind the last note of a sync.
    drop(store);
    let sled = room.path().join("log/sled");
    let names = fs::read_dir(&sled).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let snapshots = names.filter(|name| name.starts_with("snap")).map(|name| format!("log/sled/{name}"));
    let names: Vec<String> =
        ["log/head", "log/merkle/level-0", "log/sled/conf", "log/sled/db"].map(str::to_owned).into_iter().chain(snapshots).collect();
    let files: Vec<Original> = names.iter().map(|name| Original::read(room.path(), name)).collect();
    let copy = room.path().join("copy");
    let generator = produce::<Vec<FilePlan>>().with().len(1..3usize);
    check!().with_test_time(time()).with_shrink_time(time()).with_generator(generator).for_each(|plans: &Vec<FilePlan>| {
        COUNTS.input();
        let _ = fs::remove_dir_all(&copy);
        files.iter().for_each(|file| file.write(&copy));
        plans.iter().for_each(|plan| plan.apply(&copy, &files));
        let Ok((store, _)) = Store::open(&copy, id, &options) else { return };
        COUNTS.accepted();
        let head = store.head();
        let root = |(header, _): &(Header, CommitCertificate)| header.slot == head.slot && header.log_root == head.frontier.root();
        assert!(head.slot == 0 || known.iter().any(root), "the tree is not that of slot {}", head.slot);
        let rows = store.reader().rows_from_sequence(1).take_while(Result::is_ok).map(Result::unwrap);
        let rows: Vec<_> = rows.map(|row| (row.header, row.certificate)).collect();
        assert_eq!(rows, known[..rows.len().min(known.len())], "a row that was never written");
    });
    COUNTS.report();
}

#[test]
fn genesis() {
    static COUNTS: Counts = Counts::of("genesis");
    let file = |members| FederationFile {
        genesis: proof_fixture::federation(members).genesis().clone(),
        addresses: (0..members).map(|i| (format!("replica-{i}"), format!("127.0.0.1:74{i:02}"))).collect(),
    };
    let corpus: Vec<String> = [4, 7].map(|members| toml::to_string_pretty(&file(members)).unwrap()).into();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let Ok(file) = toml::from_str::<FederationFile>(&plan.apply_to_text(&corpus)) else { return };
        COUNTS.accepted();
        let written = toml::to_string_pretty(&file).unwrap();
        let again: FederationFile = toml::from_str(&written).unwrap();
        match Federation::new(file.genesis) {
            Ok(federation) => assert_eq!(Federation::new(again.genesis).unwrap().id(), federation.id(), "one file, two federations"),
            Err(error) => assert_eq!(Federation::new(again.genesis).err().map(|e| e.to_string()), Some(error.to_string())),
        }
    });
    COUNTS.report();
}

#[test]
fn configurations() {
    static COUNTS: Counts = Counts::of("configurations");
    let texts = ["config/default.toml", "config/local.toml", "config/production.toml", "config/client.toml"];
    let corpus: Vec<String> = texts.iter().map(|name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()).collect();
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let text = plan.apply_to_text(&corpus);
        if let Ok(file) = toml::from_str::<ReplicaFile>(&text) {
            COUNTS.accepted();
            let again: ReplicaFile = toml::from_str(&toml::to_string_pretty(&file).unwrap()).unwrap();
            let verdict = |file: &ReplicaFile| file.validate(Path::new("replica.toml")).map_err(|error| error.to_string());
            assert_eq!(verdict(&file), verdict(&again), "what is written back is judged otherwise");
        }
        let _ = toml::from_str::<ClientFile>(&text);
    });
    COUNTS.report();
}

#[test]
fn secrets() {
    static COUNTS: Counts = Counts::of("secrets");
    let room = scratch();
    let (path, key) = (room.path().join("secret.key"), [9; 32]);
    write_secret(&path, &key).unwrap();
    let corpus = vec![fs::read(&path).unwrap()];
    check!().with_test_time(time()).with_generator(plans()).for_each(|plan: &Plan| {
        COUNTS.input();
        let bytes = plan.apply(&corpus);
        fs::write(&path, &bytes).unwrap();
        if let Ok(read) = read_secret(&path) {
            COUNTS.accepted();
            assert_eq!((read, bytes), (key, corpus[0].clone()), "a damaged secret is taken for one");
        }
    });
    COUNTS.report();
}

/// One event at the core under test: a message of the run as it was, or changed and signed by the one Byzantine member.
#[derive(Debug, Clone, TypeGenerator)]
struct Delivery {
    forged: bool,
    kind: u8,
    plan: Plan,
    twist: Twist,
    wait: u8,
}

/// A change to what a message says, where its bytes are hard to hit.
#[derive(Debug, Clone, Copy, TypeGenerator)]
enum Twist {
    None,
    View(i8),
    Slot(i8),
    Content(u8),
}

impl Twist {
    fn apply(self, message: &mut ConsensusMessage) {
        let moved = |number: &mut u64, by: i8| *number = number.saturating_add_signed(i64::from(by % 4));
        match (self, message) {
            (Self::View(by), ConsensusMessage::PrePrepare(proposal)) => moved(&mut proposal.view, by),
            (Self::View(by), ConsensusMessage::Vote(vote)) => moved(&mut vote.vote.view, by),
            (Self::View(by), ConsensusMessage::Complaint(complaint)) => moved(&mut complaint.complaint.view, by),
            (Self::View(by), ConsensusMessage::ViewChange(change)) => moved(&mut Arc::make_mut(change).new_view, by),
            (Self::Slot(by), ConsensusMessage::PrePrepare(proposal)) => moved(&mut proposal.header.slot, by),
            (Self::Slot(by), ConsensusMessage::Vote(vote)) => moved(&mut vote.vote.slot, by),
            (Self::Slot(by), ConsensusMessage::Checkpoint(checkpoint)) => moved(&mut checkpoint.checkpoint.slot, by),
            (Self::Content(by), ConsensusMessage::PrePrepare(proposal)) => {
                proposal.header.timestamp = proposal.header.timestamp.wrapping_add(u64::from(by))
            }
            (Self::Content(by), ConsensusMessage::Vote(vote)) => vote.vote.digest.0[0] ^= by,
            (Self::Content(by), ConsensusMessage::Checkpoint(checkpoint)) => checkpoint.checkpoint.log_root.0[0] ^= by,
            (Self::Content(_), ConsensusMessage::ViewChange(change)) => drop(Arc::make_mut(change).prepared.pop()),
            _ => {}
        }
    }
}

/// Signs a message anew as `member`, wherever it bears a signature of its own.
fn signed_by(member: u16, mut message: ConsensusMessage, federation: &Federation) -> ConsensusMessage {
    let key = secret(u8::try_from(member).unwrap()).consensus_key();
    let id = federation.id();
    match &mut message {
        ConsensusMessage::PrePrepare(proposal) => proposal.signature = key.sign(&proposal.signed_bytes(id)),
        ConsensusMessage::Vote(vote) => (vote.replica, vote.signature) = (member, key.sign(&vote.vote.signed_bytes(id))),
        ConsensusMessage::Checkpoint(c) => (c.replica, c.signature) = (member, key.sign(&c.checkpoint.signed_bytes(id))),
        ConsensusMessage::Complaint(c) => (c.replica, c.signature) = (member, key.sign(&c.complaint.signed_bytes(id))),
        ConsensusMessage::ViewChange(change) => {
            let change = Arc::make_mut(change);
            change.replica = member;
            change.signature = key.sign(&change.signed_bytes(id));
        }
        ConsensusMessage::NewView(new_view) => {
            let new_view = Arc::make_mut(new_view);
            new_view.signature = key.sign(&new_view.signed_bytes(id));
        }
        _ => {}
    }
    message
}

/// What a correct replica says and does, whatever it hears from others, of whom one is Byzantine.
#[derive(Default)]
struct Behaviour {
    signed: BTreeMap<(u8, u64, u64), exo_federation::crypto::Digest>,
    delivered: u64,
}

impl Behaviour {
    fn holds(&mut self, step: &Step, federation: &Federation) {
        for record in &step.records {
            let (kind, payload) = record.to_frame().unwrap();
            Record::from_frame(federation, kind, &payload).unwrap();
        }
        for effect in step.immediate.iter().chain(&step.effects) {
            match effect {
                Effect::Send { message: ConsensusMessage::Vote(vote), .. } | Effect::Broadcast(ConsensusMessage::Vote(vote)) => {
                    let place = (vote.vote.phase as u8, vote.vote.view, vote.vote.slot);
                    let earlier = *self.signed.entry(place).or_insert(vote.vote.digest);
                    assert_eq!(earlier, vote.vote.digest, "two digests signed at {place:?}");
                }
                Effect::Deliver(delivery) => {
                    self.delivered += 1;
                    assert_eq!(delivery.header.slot, self.delivered, "delivered out of order");
                    delivery.certificate.verify(federation, &delivery.header).unwrap();
                }
                Effect::Halt(halt) => panic!("one Byzantine member made a correct replica halt: {halt}"),
                _ => {}
            }
        }
    }
}

#[test]
fn bytes_into_the_core() {
    static COUNTS: Counts = Counts::of("bytes_into_the_core");
    // It leads the view in which the run begins.
    const BYZANTINE: u16 = 0;
    let federation = federation();
    let run = run(&federation);
    let genuine: Vec<(u16, u64, ConsensusMessage)> =
        run.messages.into_iter().filter(|m| m.1 == 1).map(|(from, _, at, message)| (from, at, message)).collect();
    let mut kinds: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    for (.., message) in &genuine {
        let bytes = encode(message).unwrap();
        kinds.entry(bytes[0]).or_default().push(bytes);
    }
    let kinds: Vec<Vec<Vec<u8>>> = kinds.into_values().collect();
    // Whatever the window was; the core has its own.
    let (early, late) = (Verifier::new(federation.clone()), Verifier::new(federation.clone()));
    late.set_window(0, 0, 100);
    let checked = |(from, _, message): &(u16, u64, ConsensusMessage)| {
        late.message(*from, message.clone()).or_else(|_| early.message(*from, message.clone())).ok()
    };
    let checked: Vec<Option<Verified<Checked>>> = genuine.iter().map(checked).collect();
    let generator = (produce::<u16>(), produce::<Vec<Delivery>>().with().len(1..24usize));
    check!().with_test_time(time()).with_generator(generator).for_each(|(prefix, deliveries): &(u16, Vec<Delivery>)| {
        let (mut core, verifier, mut behaviour) = (core(&federation, 1), Verifier::new(federation.clone()), Behaviour::default());
        let (mut time, mut steps) = (0, vec![core.resume(now(0), &[])]);
        let hear = |core: &mut exo_federation::consensus::Replica, time: u64, from: u16, message: ConsensusMessage| {
            let status = core.status();
            verifier.set_window(status.view, status.floor, status.stable_slot);
            verifier.message(from, message).ok().map(|message| core.handle(now(time), Event::Message { from, message }))
        };
        // Into the run, up to some point ...
        for ((from, at, _), message) in genuine.iter().zip(&checked).take(usize::from(*prefix) % genuine.len()) {
            time = *at;
            let event = message.clone().map(|message| Event::Message { from: *from, message });
            steps.push(core.handle(now(time), event.unwrap_or(Event::Tick)));
        }
        // ... and then astray.
        for Delivery { forged, kind, plan, twist, wait } in deliveries {
            time += u64::from(*wait) * 10;
            let from = &genuine[usize::from(plan.value) % genuine.len()].0;
            if *forged {
                let corpus = &kinds[usize::from(*kind) % kinds.len()];
                let Some(mut message) = decode_strictly::<ConsensusMessage>(&plan.apply(corpus)) else { continue };
                twist.apply(&mut message);
                let step = hear(&mut core, time, BYZANTINE, signed_by(BYZANTINE, message, &federation));
                COUNTS.input();
                step.iter().for_each(|_| COUNTS.accepted());
                steps.extend(step);
            } else {
                let message = checked[usize::from(plan.value) % genuine.len()].clone();
                steps.extend(message.map(|message| core.handle(now(time), Event::Message { from: *from, message })));
            }
            steps.push(core.handle(now(time), Event::Tick));
        }
        steps.iter().for_each(|step| behaviour.holds(step, &federation));
    });
    COUNTS.report();
}
