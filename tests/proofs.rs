//! Proofs, receipts and chains: what is accepted, and that everything else is refused by the rule that it breaks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;

use std::sync::Arc;

use exo_federation::crypto::merkle::{Frontier, Range, consistency_path};
use exo_federation::crypto::{Digest, Signature, SigningKey};
use exo_federation::proof::chain::{AuthorSignatures, ChainError, ChainVerifier, check_batch};
use exo_federation::proof::{
    CommitProof, ConsistencyProof, HeaderError, MAX_PROOF_BYTES, PROOF_MAGIC, ProofError, ReceiptMaker, check_header, make_receipt, verify_receipt,
};
use exo_federation::types::{BatchKind, Body, CertificateError, CommittedBatch, Federation, ProofAnswer, SignatureSet, Submission, UpdateId};
use proof_fixture::{Chain, certificate, commit_signatures, federation, proof_of, proven, resign, submission};
use proptest::prelude::*;

#[test]
fn three_commits_are_enough_for_four_members_and_too_few_for_seven() {
    let (four, proof) = proven(4);
    let verified = proof.verify(&four).unwrap();
    assert_eq!((verified.sequence, verified.slot, verified.view, verified.log_size, verified.opened), (9, 2, 1, 11, true));
    assert_eq!(verified.update_id, UpdateId("update-8".into()));
    assert_eq!(verified.signers.iter().map(|p| p.0.as_str()).collect::<Vec<_>>(), ["replica-0", "replica-1", "replica-2"]);
    assert_eq!(proof.update_id(), &verified.update_id);

    let (seven, mut proof) = proven(7);
    assert_eq!(proof.verify(&seven).unwrap().signers.len(), 5);
    for count in 0..5 {
        proof.certificate.signatures.0.truncate(4 - count);
        let actual = 4 - count;
        assert_eq!(proof.verify(&seven), Err(CertificateError::NoQuorum { needed: 5, actual }.into()));
    }
    let (_, of_four) = proven(4);
    assert!(matches!(of_four.verify(&seven), Err(ProofError::Header(HeaderError::Federation { .. }))));
}

#[test]
fn signatures_that_do_not_make_a_quorum_of_one_view_are_refused() {
    let (four, proof) = proven(4);
    let refused = |change: &dyn Fn(&mut SignatureSet)| {
        let mut changed = proof.clone();
        change(&mut changed.certificate.signatures);
        match changed.verify(&four) {
            Err(ProofError::Certificate(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|s| s.0[1] = s.0[0]), CertificateError::DuplicateSigner(0));
    assert_eq!(refused(&|s| s.0.swap(0, 1)), CertificateError::DuplicateSigner(0));
    assert_eq!(refused(&|s| s.0[2].0 = 4), CertificateError::UnknownSigner(4));
    assert_eq!(refused(&|s| s.0[2].0 = 3), CertificateError::BadSignature(3));
    assert_eq!(refused(&|s| s.0[2].1 = s.0[1].1), CertificateError::BadSignature(2));
    assert_eq!(refused(&|s| s.0[2].1 = Signature([0; 64])), CertificateError::BadSignature(2));
    // A valid commit of another view is no commit of this one.
    let other_view = commit_signatures(&four, &proof.header, 2, &[2]).0[0];
    assert_eq!(refused(&|s| s.0[2] = other_view), CertificateError::BadSignature(2));
    // A fourth, bad signature is not outvoted by three good ones.
    assert_eq!(refused(&|s| s.0.push((3, Signature([1; 64])))), CertificateError::BadSignature(3));
    let mut all = proof.clone();
    all.certificate = certificate(&four, &proof.header, 7, &[0, 1, 2, 3]);
    assert_eq!(all.verify(&four).unwrap().view, 7);
}

#[test]
fn both_forms_return_the_proof_and_its_erased_twin() {
    let (four, mut proof) = proven(4);
    for _ in 0..2 {
        assert_eq!(CommitProof::from_json(&proof.to_json(&four).unwrap(), &four).unwrap(), proof);
        assert_eq!(CommitProof::from_bytes(&proof.to_bytes().unwrap()).unwrap(), proof);
        proof.verify(&four).unwrap();
        proof.opening = None;
    }
    let (_, full) = proven(4);
    let opening = full.opening.clone().map(|o| (o.salt, o.data));
    let answer =
        ProofAnswer { leaf: full.leaf.clone(), path: full.path.clone(), header: full.header.clone(), certificate: full.certificate.clone(), opening };
    assert_eq!(CommitProof::from(answer), full);
}

#[test]
fn the_json_form_escapes_as_documented() {
    let (four, mut proof) = proven(4);
    proof.leaf.update_id = UpdateId("\u{e4}\u{2603}/\u{7f}\"\\\n\u{1}\u{1f}".into());
    let text = String::from_utf8(proof.to_json(&four).unwrap()).unwrap();
    assert!(text.contains("\"update_id\": \"\u{e4}\u{2603}/\u{7f}\\\"\\\\\\n\\u0001\\u001f\",\n"), "{text}");
    assert_eq!(CommitProof::from_json(text.as_bytes(), &four).unwrap(), proof);
    proof.path.clear();
    assert!(String::from_utf8(proof.to_json(&four).unwrap()).unwrap().contains("\n  \"path\": [],\n"));
}

#[test]
fn every_flipped_byte_of_the_json_form_is_refused() {
    let (four, proof) = proven(4);
    let good = proof.to_json(&four).unwrap();
    assert!(good.starts_with(b"{\n  \"format\": \"exo-federation/commit-proof/1\",\n  \"federation_id\": \""));
    let accepts = |bytes: &[u8]| CommitProof::from_json(bytes, &four).is_ok_and(|p| p.verify(&four).is_ok());
    assert!(accepts(&good));
    let mut bytes = good.clone();
    for at in 0..good.len() {
        for mask in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
            bytes[at] ^= mask;
            assert!(!accepts(&bytes), "byte {at} with mask {mask:02x}");
            bytes[at] ^= mask;
        }
        assert!(!accepts(&good[..at]), "cut at {at}");
    }
    assert!(!accepts(&[good.as_slice(), b"\n"].concat()));
}

#[test]
fn every_flipped_byte_of_the_binary_form_is_refused() {
    let (four, proof) = proven(4);
    let good = proof.to_bytes().unwrap();
    let accepts = |bytes: &[u8]| CommitProof::from_bytes(bytes).is_ok_and(|p| p.verify(&four).is_ok());
    assert!(accepts(&good));
    let mut bytes = good.clone();
    for at in 0..good.len() {
        for mask in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
            bytes[at] ^= mask;
            assert!(!accepts(&bytes), "byte {at} with mask {mask:02x}");
            bytes[at] ^= mask;
        }
        assert!(!accepts(&good[..at]), "cut at {at}");
    }
    assert!(!accepts(&[good.as_slice(), &[0]].concat()));
}

#[test]
fn another_spelling_of_the_same_proof_is_refused() {
    let (four, proof) = proven(4);
    let text = String::from_utf8(proof.to_json(&four).unwrap()).unwrap();
    let read = |text: &str| CommitProof::from_json(text.as_bytes(), &four).unwrap_err();
    assert!(matches!(read(text.trim_end()), ProofError::NotCanonical { at } if at == text.len() - 1));
    assert!(matches!(read(&text.replacen("  \"format\"", " \"format\"", 1)), ProofError::NotCanonical { at: 3 }));
    assert!(matches!(read(&text.replacen("update-8", "update-\\u0038", 1)), ProofError::NotCanonical { .. }));
    assert!(matches!(read(&text.replacen("{\n", "{\n  \"more\": 1,\n", 1)), ProofError::Json { line: 2, .. }));
    assert!(matches!(read(&text.replacen("\"leaf\": {", "\"leaf\": {\"more\": 1,", 1)), ProofError::Json { .. }));
    assert!(matches!(read(&text.replacen("commit-proof/1", "commit-proof/2", 1)), ProofError::Format { .. }));
    assert!(matches!(read(&text.replacen("replica-2", "replica-9", 1)), ProofError::UnknownPeer { label } if label == "replica-9"));
    assert!(matches!(read(&"[".repeat(1 << 20)), ProofError::Json { .. }));
    let other = federation(7);
    assert!(matches!(CommitProof::from_json(text.as_bytes(), &other), Err(ProofError::Header(HeaderError::Federation { .. }))));
    let mut stranger = proof.clone();
    stranger.certificate.signatures.0[2].0 = 4;
    assert_eq!(stranger.to_json(&four), Err(ProofError::UnknownSigner { index: 4, members: 4 }));
}

#[test]
fn what_is_too_long_is_refused_before_it_is_parsed() {
    let (four, proof) = proven(4);
    let long = vec![b' '; MAX_PROOF_BYTES + 1];
    let expected = ProofError::TooLong { limit: MAX_PROOF_BYTES, actual: MAX_PROOF_BYTES + 1 };
    assert_eq!(CommitProof::from_json(&long, &four), Err(expected.clone()));
    assert_eq!(CommitProof::from_bytes(&long), Err(expected));
    assert_eq!(CommitProof::from_bytes(b"EXO"), Err(ProofError::Magic { expected: PROOF_MAGIC, found: b"EXO".to_vec() }));
    let mut misplaced = proof;
    misplaced.certificate.slot += 1;
    assert!(matches!(misplaced.to_bytes(), Err(ProofError::Certificate(CertificateError::WrongPlace { expected: 2, found: 3 }))));
}

#[test]
fn a_binary_proof_among_100_million_leaves_is_small() {
    let (_, mut proof) = proven(4);
    proof.path = vec![Digest([7; 32]); 27];
    proof.opening = None;
    // The leaf takes 96 bytes and the id; everything else, 1,295 bytes for four members.
    let leaf = 96 + proof.leaf.update_id.0.len();
    assert_eq!(proof.to_bytes().unwrap().len() - leaf, 1_295);
}

#[test]
fn a_payload_is_compared_with_the_leaf() {
    let (four, mut proof) = proven(4);
    proof.verify_data(b"payload 8").unwrap();
    assert_eq!(proof.verify_data(b"payload 88"), Err(ProofError::DataLength { expected: 9, found: 10 }));
    assert!(matches!(proof.verify_data(b"payload 9"), Err(ProofError::DataDigest { expected, .. }) if expected == proof.leaf.data_digest));
    proof.opening.as_mut().unwrap().salt[0] ^= 1;
    assert!(matches!(proof.verify(&four), Err(ProofError::DataDigest { .. })));
    proof.opening = None;
    assert_eq!(proof.verify_data(b"payload 8"), Err(ProofError::NoOpening { sequence: 9 }));
    assert!(!proof.verify(&four).unwrap().opened);
}

/// A change of one field: what it is called, and how it is done with some random bits.
type Mutation = (&'static str, fn(&mut CommitProof, u64));

fn flip(digest: &mut Digest, bits: u64) {
    digest.0[usize::try_from(bits % 32).unwrap()] ^= 1 << (bits / 32 % 8);
}

const MUTATIONS: [Mutation; 29] = [
    ("leaf.sequence", |p, b| p.leaf.sequence ^= 1 << (b % 64)),
    ("leaf.author", |p, b| p.leaf.author.0[usize::try_from(b % 32).unwrap()] ^= 1),
    ("leaf.update_id", |p, b| p.leaf.update_id.0.push(char::from(b'a' + u8::try_from(b % 26).unwrap()))),
    ("leaf.update_id emptied", |p, _| p.leaf.update_id.0.clear()),
    ("leaf.update_id too long", |p, _| p.leaf.update_id.0 = "x".repeat(257)),
    ("leaf.timestamp", |p, b| p.leaf.timestamp ^= 1 << (b % 64)),
    ("leaf.data_length", |p, b| p.leaf.data_length ^= 1 << (b % 64)),
    ("leaf.data_digest", |p, b| flip(&mut p.leaf.data_digest, b)),
    ("path hash", |p, b| {
        let at = usize::try_from(b).unwrap() % p.path.len();
        flip(&mut p.path[at], b);
    }),
    ("path shorter", |p, _| p.path.truncate(p.path.len() - 1)),
    ("path longer", |p, b| p.path.insert(usize::try_from(b).unwrap() % p.path.len(), Digest::ZERO)),
    ("header.kind", |p, _| p.header.kind = BatchKind::EpochEnd),
    ("header.federation_id", |p, b| flip(&mut p.header.federation_id.0, b)),
    ("header.epoch", |p, b| p.header.epoch ^= 1 << (b % 64)),
    ("header.slot", |p, b| p.header.slot ^= 1 << (b % 64)),
    ("header.first_sequence", |p, b| p.header.first_sequence ^= 1 << (b % 64)),
    ("header.first_sequence zero", |p, _| p.header.first_sequence = 0),
    ("header.count", |p, b| p.header.count ^= 1 << (b % 32)),
    ("header.count zero", |p, _| p.header.count = 0),
    ("header.parent", |p, b| flip(&mut p.header.parent, b)),
    ("header.body_digest", |p, b| flip(&mut p.header.body_digest, b)),
    ("header.log_root", |p, b| flip(&mut p.header.log_root, b)),
    ("header.timestamp", |p, b| p.header.timestamp ^= 1 << (b % 64)),
    ("header.membership_digest", |p, b| flip(&mut p.header.membership_digest, b)),
    ("certificate.view", |p, b| p.certificate.view ^= 1 << (b % 64)),
    ("certificate place", |p, b| if b % 2 == 0 { p.certificate.slot ^= 1 } else { p.certificate.epoch ^= 1 }),
    ("certificate.digest", |p, b| flip(&mut p.certificate.digest, b)),
    ("certificate.signature", |p, b| p.certificate.signatures.0[usize::try_from(b % 3).unwrap()].1.0[usize::try_from(b / 3 % 64).unwrap()] ^= 1),
    ("opening.data", |p, b| p.opening.as_mut().unwrap().data[usize::try_from(b % 9).unwrap()] ^= 1),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_change_of_any_field_is_refused(bits in any::<u32>()) {
        let (four, proof) = proven(4);
        prop_assert!(proof.verify(&four).is_ok());
        for (field, mutate) in MUTATIONS {
            let mut changed = proof.clone();
            mutate(&mut changed, u64::from(bits));
            prop_assert_ne!(&changed, &proof, "{} was not changed", field);
            prop_assert!(changed.verify(&four).is_err(), "{} may be changed", field);
        }
    }

    #[test]
    fn bytes_that_are_no_proof_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let four = federation(4);
        prop_assert!(CommitProof::from_json(&bytes, &four).is_err());
        prop_assert!(CommitProof::from_bytes(&[PROOF_MAGIC.as_slice(), &bytes].concat()).is_err());
    }
}

#[test]
fn a_leaf_outside_the_batch_is_refused_even_with_a_path() {
    let (four, mut proof) = proven(4);
    proof.leaf.sequence = 6;
    assert_eq!(proof.verify(&four), Err(ProofError::Sequence { first: 7, last: 11, found: 6 }));
    proof.leaf.sequence = 12;
    assert_eq!(proof.verify(&four), Err(ProofError::Sequence { first: 7, last: 11, found: 12 }));
}

/// A log of seven updates, and a batch of three submissions after it.
fn three_submissions() -> (Federation, Frontier, CommittedBatch, Vec<Digest>) {
    let mut chain = Chain::new(4);
    chain.commit_some(1, 7);
    let before = chain.frontier.clone();
    let batch = chain.commit_some(3, 4);
    let checked = check_batch(&chain.federation, &batch, AuthorSignatures::Check).unwrap();
    (chain.federation, before, batch, checked.leaf_hashes)
}

#[test]
fn a_receipt_yields_the_proof_of_every_update() {
    let (four, before, batch, leaves) = three_submissions();
    let maker = ReceiptMaker::new(&batch.header, &batch.certificate, &before, &leaves).unwrap();
    for (at, submission) in batch.body.submissions.iter().enumerate() {
        let first = 8 + 4 * at as u64;
        let receipt = maker.receipt(first, 4).unwrap();
        assert_eq!(receipt, make_receipt(&batch.header, &batch.certificate, &before, &leaves, first, 4).unwrap());
        let proofs = verify_receipt(&receipt, submission, &four).unwrap();
        assert_eq!(proofs.len(), 4);
        for ((proof, sequence), submitted) in proofs.iter().zip(first..).zip(&submission.updates) {
            let verified = proof.verify(&four).unwrap();
            assert_eq!((verified.sequence, &verified.update_id), (sequence, &submitted.update.update_id));
            proof.verify_data(&submitted.update.data).unwrap();
        }
    }
}

#[test]
fn a_receipt_for_anything_else_is_refused() {
    let (four, before, batch, leaves) = three_submissions();
    let receipt = make_receipt(&batch.header, &batch.certificate, &before, &leaves, 12, 4).unwrap();
    let [first, mine, _] = [0, 1, 2].map(|at: usize| batch.body.submissions[at].as_ref());
    verify_receipt(&receipt, mine, &four).unwrap();
    assert!(matches!(verify_receipt(&receipt, first, &four), Err(ProofError::Root { .. })));
    let refused = |change: &dyn Fn(&mut exo_federation::types::SubmissionReceipt)| {
        let mut changed = receipt.clone();
        change(&mut changed);
        verify_receipt(&changed, mine, &four).unwrap_err()
    };
    assert!(matches!(refused(&|r| r.first_sequence = 8), ProofError::Outside { from: 7, to: 11, .. } | ProofError::Root { .. }));
    assert_eq!(refused(&|r| r.first_sequence = 7), ProofError::Sequence { first: 8, last: 19, found: 7 });
    assert_eq!(refused(&|r| r.first_sequence = 17), ProofError::Sequence { first: 8, last: 19, found: 20 });
    assert_eq!(refused(&|r| r.first_sequence = u64::MAX), ProofError::Sequence { first: 8, last: 19, found: u64::MAX });
    assert!(matches!(refused(&|r| r.outside.truncate(r.outside.len() - 1)), ProofError::Outside { size: 19, .. }));
    assert!(matches!(refused(&|r| r.outside[0] = Digest::ZERO), ProofError::Root { .. }));
    assert!(matches!(refused(&|r| r.header.timestamp += 1), ProofError::Certificate(CertificateError::WrongPlace { .. })));
    assert!(matches!(refused(&|r| r.certificate.view += 1), ProofError::Certificate(CertificateError::BadSignature(0))));
    assert!(matches!(
        refused(&|r| r.certificate.signatures.0.truncate(2)),
        ProofError::Certificate(CertificateError::NoQuorum { needed: 3, actual: 2 })
    ));
    let mut none = mine.clone();
    none.updates.clear();
    assert_eq!(verify_receipt(&receipt, &none, &four), Err(ProofError::Count { expected: 1, found: 0 }));
    let mut other = mine.clone();
    other.updates[2].update.data[0] ^= 1;
    assert!(matches!(verify_receipt(&receipt, &other, &four), Err(ProofError::Root { .. })));
    let stranger = Submission { author: SigningKey::from_seed(&[9; 32]).public(), ..mine.clone() };
    assert!(matches!(verify_receipt(&receipt, &stranger, &four), Err(ProofError::UnknownAuthor { .. })));
}

#[test]
fn a_receipt_is_made_only_from_the_batch_that_the_header_names() {
    let (_, before, batch, leaves) = three_submissions();
    let make = |before: &Frontier, leaves: &[Digest], first, count| make_receipt(&batch.header, &batch.certificate, before, leaves, first, count);
    assert_eq!(make(&Frontier::default(), &leaves, 8, 4), Err(ProofError::Frontier { expected: 7, found: 0 }));
    assert_eq!(make(&before, &leaves[1..], 8, 4), Err(ProofError::Count { expected: 12, found: 11 }));
    let mut changed = leaves.clone();
    changed.swap(0, 1);
    assert!(matches!(make(&before, &changed, 8, 4), Err(ProofError::Root { .. })));
    assert_eq!(make(&before, &leaves, 17, 4), Err(ProofError::Sequence { first: 8, last: 19, found: 20 }));
    assert_eq!(make(&before, &leaves, 8, 0), Err(ProofError::Count { expected: 1, found: 0 }));
}

#[test]
fn a_chain_verifies_and_counts_its_signatures() {
    let mut chain = Chain::new(7);
    let batches: Vec<_> = (1..5).map(|n| chain.commit_some(n, n)).collect();
    let mut verifier = ChainVerifier::genesis();
    for (batch, submissions) in batches.iter().zip(1u64..) {
        let checked = check_batch(&chain.federation, batch, AuthorSignatures::Check).unwrap();
        assert_eq!(checked.signatures, 5 + submissions);
        assert_eq!(check_batch(&chain.federation, batch, AuthorSignatures::Skip).unwrap().signatures, 5);
        assert_eq!((checked.digest, checked.digests.body), (batch.header.digest(), batch.header.body_digest));
        assert_eq!(checked.leaves.first().unwrap().sequence, batch.header.first_sequence);
        verifier.extend(&batch.header, &checked.leaf_hashes).unwrap();
        assert_eq!(Some(&verifier), ChainVerifier::after(&batch.header, verifier.frontier().unwrap().clone()).as_ref());
    }
    assert_eq!((verifier.slot(), verifier.sequence(), verifier.digest(), verifier.timestamp()), (4, 30, chain.parent, chain.timestamp));
    assert_eq!(ChainVerifier::after(&batches[0].header, verifier.frontier().unwrap().clone()), None);
    let last = chain.commit_some(1, 2);
    let proof = proof_of(&chain.federation, verifier.frontier().unwrap(), &last, 1);
    assert_eq!(proof.verify(&chain.federation).unwrap().sequence, 32);
}

/// Changes a good batch, has its header signed again, and returns the error.
fn broken(change: impl Fn(&Federation, &mut CommittedBatch)) -> ChainError {
    let (four, _, mut batch, _) = three_submissions();
    change(&four, &mut batch);
    resign(&four, &mut batch);
    check_batch(&four, &batch, AuthorSignatures::Check).unwrap_err()
}

/// Replaces the body, and lets the header count and name it.
fn with_body(federation: &Federation, batch: &mut CommittedBatch, submissions: Vec<Submission>) {
    let body = Body { submissions: submissions.into_iter().map(Arc::new).collect() };
    batch.header.body_digest = body.digests(federation.id()).body;
    batch.header.count = u32::try_from(body.count()).unwrap();
    batch.body = Arc::new(body);
}

#[test]
fn each_rule_of_a_header_is_broken_alone() {
    let rules = [
        ("federation", broken(|_, b| flip(&mut b.header.federation_id.0, 1))),
        ("epoch", broken(|_, b| b.header.epoch = 1)),
        ("membership", broken(|_, b| flip(&mut b.header.membership_digest, 1))),
        ("count", broken(|_, b| b.header.count = 0)),
        ("count", broken(|_, b| b.header.count += 1)),
        ("sequence", broken(|_, b| b.header.first_sequence = 0)),
        ("sequence", broken(|_, b| b.header.first_sequence = u64::MAX)),
        ("kind", broken(|_, b| b.header.kind = BatchKind::EpochEnd)),
        ("body", broken(|_, b| flip(&mut b.header.body_digest, 1))),
    ];
    for (rule, error) in rules {
        assert_eq!(error.rule(), rule, "{error}");
        assert_eq!(error.slot, 2);
        assert_ne!(error.expected(), error.found());
        assert!(error.to_string().contains(&format!("rule {rule}:")));
    }
    let error = broken(|_, b| b.header.count += 1);
    assert_eq!((error.expected(), error.found(), error.sequence), ("13".into(), "12".into(), 8));
}

#[test]
fn each_rule_of_a_submission_is_broken_alone() {
    let signed = |f: &Federation, change: &dyn Fn(&mut Submission)| {
        let mut list = vec![submission(f, 61_000, 0, 2), submission(f, 61_000, 2, 2)];
        change(&mut list[1]);
        let key = if list[1].author == proof_fixture::author().public() { proof_fixture::author() } else { SigningKey::from_seed(&[9; 32]) };
        list[1].signature = key.sign(&Submission::signed_bytes(f.id(), &list[1].digests(f.id()).submission));
        list
    };
    let with = |change: &dyn Fn(&mut Submission)| broken(|f, b| with_body(f, b, signed(f, change)));
    let (_, _, good, _) = three_submissions();
    let now = good.header.timestamp;
    let latest = now + 600_000;
    let rules = [
        ("limit", with(&|s| s.updates.clear())),
        ("limit", with(&|s| s.updates[0].update.data = vec![0; 513])),
        ("limit", broken(|f, b| with_body(f, b, vec![submission(f, 61_000, 0, 1), submission(f, 61_000, 1, 17)]))),
        ("lifetime", with(&|s| s.not_after = now - 1)),
        ("lifetime", with(&|s| s.not_after = latest + 1)),
        ("author", with(&|s| s.author = SigningKey::from_seed(&[9; 32]).public())),
        ("update-id", with(&|s| s.updates[0].update.update_id.0.clear())),
        ("update-id", with(&|s| s.updates[0].update.update_id.0 = "x".repeat(257))),
        ("duplicate", with(&|s| s.updates[1].update.update_id = UpdateId("update-0".into()))),
        (
            "signature",
            broken(|f, b| with_body(f, b, vec![submission(f, 61_000, 0, 2), Submission { not_after: 61_001, ..submission(f, 61_000, 2, 2) }])),
        ),
    ];
    for (rule, error) in rules {
        assert_eq!(error.rule(), rule, "{error}");
        assert!((9..=10).contains(&error.sequence), "{error} names the submission's first update");
        assert_ne!(error.expected(), error.found());
    }
    for not_after in [now, latest] {
        let (four, _, mut batch, _) = three_submissions();
        with_body(&four, &mut batch, signed(&four, &|s| s.not_after = not_after));
        resign(&four, &mut batch);
        check_batch(&four, &batch, AuthorSignatures::Check).unwrap();
    }
}

#[test]
fn limits_of_the_whole_batch_hold() {
    let many = broken(|f, b| with_body(f, b, (0..5).map(|i| submission(f, 61_000, i * 13, 13)).collect()));
    assert_eq!((many.rule(), many.expected().as_str(), many.found().as_str()), ("limit", "max_batch_updates 64", "65"));
    let large = broken(|f, b| {
        let list = (0..17).map(|i| {
            let mut one = submission(f, 61_000, i, 1);
            one.updates[0].update.data = vec![1; 512];
            one
        });
        with_body(f, b, list.collect());
    });
    assert_eq!((large.rule(), large.expected().as_str()), ("limit", "max_batch_bytes 8192"));
}

#[test]
fn a_forged_author_passes_only_where_signatures_are_skipped() {
    let (four, _, mut batch, _) = three_submissions();
    let mut forged = submission(&four, 61_000, 0, 1);
    forged.signature = Signature([3; 64]);
    with_body(&four, &mut batch, vec![forged]);
    resign(&four, &mut batch);
    assert_eq!(check_batch(&four, &batch, AuthorSignatures::Check).unwrap_err().rule(), "signature");
    assert_eq!(check_batch(&four, &batch, AuthorSignatures::Skip).unwrap().signatures, 3);
    batch.certificate.signatures.0.pop();
    assert_eq!(check_batch(&four, &batch, AuthorSignatures::Skip).unwrap_err().rule(), "quorum");
}

#[test]
fn each_rule_of_the_chain_is_broken_alone() {
    let mut chain = Chain::new(4);
    let mut verifier = ChainVerifier::genesis();
    let first = chain.commit_some(1, 3);
    verifier.extend(&first.header, &check_batch(&chain.federation, &first, AuthorSignatures::Check).unwrap().leaf_hashes).unwrap();
    let second = chain.commit_some(2, 2);
    let leaves = check_batch(&chain.federation, &second, AuthorSignatures::Check).unwrap().leaf_hashes;
    let before = verifier.clone();
    type Change = fn(&mut exo_federation::types::Header);
    let rules: [(&str, Change); 9] = [
        ("slot", |h| h.slot += 1),
        ("slot", |h| h.slot -= 1),
        ("parent", |h| flip(&mut h.parent, 9)),
        ("sequence", |h| h.first_sequence += 1),
        ("sequence", |h| h.first_sequence -= 1),
        ("timestamp", |h| h.timestamp = 1_010),
        ("count", |h| h.count += 1),
        ("count", |h| h.count = 0),
        ("root", |h| flip(&mut h.log_root, 9)),
    ];
    for (rule, change) in rules {
        let mut header = second.header.clone();
        change(&mut header);
        let error = verifier.extend(&header, &leaves).unwrap_err();
        assert_eq!((error.rule(), error.slot, error.sequence), (rule, header.slot, header.first_sequence));
        assert_ne!(error.expected(), error.found());
        assert_eq!(verifier, before, "a refused header changes nothing");
    }
    let mut swapped = leaves.clone();
    swapped.swap(1, 2);
    assert_eq!(verifier.extend(&second.header, &swapped).unwrap_err().rule(), "root");
    assert_eq!(verifier.extend(&second.header, &leaves[1..]).unwrap_err().rule(), "count");
    verifier.extend(&second.header, &leaves).unwrap();
    assert_eq!(verifier.extend(&second.header, &leaves).unwrap_err().rule(), "slot");
}

#[test]
fn consistency_proofs_hold_and_nothing_in_one_can_be_changed() {
    let mut chain = Chain::new(4);
    let batches: Vec<CommittedBatch> = [1, 2, 3, 5, 1, 8].into_iter().map(|count| chain.commit_some(1, count)).collect();
    let federation = chain.federation;
    let leaves: Vec<Digest> = batches.iter().flat_map(|b| check_batch(&federation, b, AuthorSignatures::Check).unwrap().leaf_hashes).collect();
    let proof = |old: usize, new: usize| {
        let (before, CommittedBatch { header, certificate, .. }) = (&batches[old].header, batches[new].clone());
        let size = header.last_sequence();
        let nodes = Range::new(0, &leaves[..size as usize], size, &[]).unwrap();
        let path = consistency_path(&nodes, before.last_sequence(), size).unwrap();
        ConsistencyProof { old_size: before.last_sequence(), old_root: before.log_root, path, header, certificate }
    };
    for (new, newer) in batches.iter().enumerate() {
        for old in 0..=new {
            let sound = proof(old, new);
            sound.verify(&federation).unwrap();
            let json = sound.to_json(&federation).unwrap();
            assert_eq!(ConsistencyProof::from_json(&json, &federation).unwrap(), sound);
            if old < new {
                assert!(ConsistencyProof { old_root: newer.header.log_root, ..sound.clone() }.verify(&federation).is_err());
                assert!(ConsistencyProof { old_size: sound.old_size + 1, ..sound.clone() }.verify(&federation).is_err());
            }
        }
    }
    let json = proof(2, 5).to_json(&federation).unwrap();
    for at in 0..json.len() {
        for mask in [0x01, 0x02, 0x20, 0x80] {
            let mut changed = json.clone();
            changed[at] ^= mask;
            let verdict = ConsistencyProof::from_json(&changed, &federation).and_then(|proof| proof.verify(&federation));
            assert!(verdict.is_err(), "byte {at} ^ {mask:#x}");
        }
    }
}

#[test]
fn sequence_numbers_end_at_the_last_u64() {
    let mut chain = Chain::new(4);
    let mut header = chain.commit_some(1, 1).header;
    for (first, count, fits) in [(u64::MAX, 1, true), (u64::MAX, 2, false), (u64::MAX - 6, 7, true), (u64::MAX - 6, 8, false), (0, 1, false)] {
        (header.first_sequence, header.count) = (first, count);
        assert_eq!(check_header(&chain.federation, &header).is_ok(), fits, "{count} updates from {first} on");
        assert!(!fits || header.last_sequence() == first + (u64::from(count) - 1), "{count} updates from {first} on");
    }
}

#[test]
fn a_chain_goes_on_only_behind_the_tree_of_its_header() {
    let mut chain = Chain::new(4);
    let batch = chain.commit_some(1, 3);
    let mut verifier = ChainVerifier::genesis();
    let leaves = check_batch(&chain.federation, &batch, AuthorSignatures::Check).unwrap().leaf_hashes;
    verifier.extend(&batch.header, &leaves).unwrap();
    assert_eq!(verifier.log_root(), batch.header.log_root);
    assert!(ChainVerifier::after(&batch.header, verifier.frontier().unwrap().clone()).is_some());
    let mut other = Frontier::default();
    leaves.iter().rev().for_each(|leaf| other.append(*leaf));
    assert_eq!(ChainVerifier::after(&batch.header, other), None, "the same size, another root");
}

#[test]
fn a_batch_may_be_as_large_as_the_limits_say() {
    let mut chain = Chain::new(4);
    let limits = chain.federation.parameters().clone();
    let each = limits.max_submission_updates as usize;
    let full = chain.commit_some(limits.max_batch_updates as usize / each, each);
    check_batch(&chain.federation, &full, AuthorSignatures::Check).unwrap();
    let over = chain.commit_some(1, each + 1);
    assert_eq!(check_batch(&chain.federation, &over, AuthorSignatures::Check).unwrap_err().rule(), "limit");
}
