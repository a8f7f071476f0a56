//! No verdict on a signature depends on the signatures around it. A dishonest signer can add a point of small order to its R: one equation over many
//! signatures at once then holds or not by the luck of its random factors and of its neighbours. Strict verification decides each alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use curve25519_dalek::traits::IsIdentity as _;
use exo_federation::audit::{Audit, AuditOptions, Range};
use exo_federation::consensus::{CheckedBody, Record};
use exo_federation::crypto::{PublicKey, Signature, SigningKey};
use exo_federation::journal::{Journal, JournalOptions};
use exo_federation::recovery::DataDir;
use exo_federation::types::{CertificateError, CommittedBatch, Federation};
use proof_fixture::{Chain, secret};
use sha2::{Digest as _, Sha256, Sha512};

/// Member 0's key as the number that it is.
struct Liar {
    scalar: Scalar,
    public: PublicKey,
}

impl Liar {
    fn new() -> Self {
        // docs/proofs.md, "Keys": the seed of member 0's consensus key.
        let seed: [u8; 32] = Sha256::new().chain_update(b"exo-federation/v1/key/consensus\0").chain_update([1; 32]).finalize().into();
        let public = SigningKey::from_seed(&seed).public();
        assert_eq!(public, secret(0).consensus_key().public());
        let half: [u8; 32] = Sha512::digest(seed)[..32].try_into().unwrap();
        Self { scalar: Scalar::from_bytes_mod_order(clamp_integer(half)), public }
    }

    /// A signature that only the point of small order spoils; with the point number 0 it is a good one.
    fn sign(&self, message: &[u8], point: usize) -> Signature {
        let nonce = Scalar::from_bytes_mod_order_wide(&Sha512::new().chain_update(b"nonce").chain_update(message).finalize().into());
        let commitment = (EdwardsPoint::mul_base(&nonce) + EIGHT_TORSION[point]).compress();
        let response = nonce + challenge(&commitment, &self.public, message) * self.scalar;
        Signature([commitment.to_bytes(), response.to_bytes()].concat().try_into().unwrap())
    }
}

fn challenge(commitment: &CompressedEdwardsY, key: &PublicKey, message: &[u8]) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&Sha512::new().chain_update(commitment.0).chain_update(key.0).chain_update(message).finalize().into())
}

/// The equation over many signatures at once (Bernstein et al., "High-speed high-security signatures", section 5), with random factors drawn from `seed`.
fn all_at_once(signatures: &[(PublicKey, Vec<u8>, Signature)], seed: u64) -> bool {
    let sum: EdwardsPoint = signatures
        .iter()
        .zip(0u64..)
        .map(|((key, message, signature), number)| {
            let (r, s) = signature.0.split_at(32);
            let (r, s) = (CompressedEdwardsY(r.try_into().unwrap()), Scalar::from_bytes_mod_order(s.try_into().unwrap()));
            let drawn: [u8; 32] = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(number.to_le_bytes()).finalize().into();
            let mut factor = [0; 32];
            factor[..16].copy_from_slice(&drawn[..16]);
            let point = CompressedEdwardsY(key.0).decompress().unwrap();
            let rest = EdwardsPoint::mul_base(&s) - point * challenge(&r, key, message) - r.decompress().unwrap();
            rest * Scalar::from_bytes_mod_order(factor)
        })
        .sum();
    sum.is_identity()
}

#[test]
fn one_equation_over_many_signatures_depends_on_luck_and_neighbours_and_strict_verification_does_not() {
    let liar = Liar::new();
    let honest = secret(1).consensus_key();
    let message = |number: u32| number.to_le_bytes().to_vec();
    let neighbours: Vec<_> = (0..4).map(|n| (honest.public(), message(n), honest.sign(&message(n)))).collect();
    let crafted = |number, point| (liar.public, message(number), liar.sign(&message(number), point));
    assert!((0..64).all(|seed| all_at_once(&neighbours, seed)), "honest ones hold whatever the factors");
    assert!((0..64).all(|seed| all_at_once(&[crafted(7, 0)], seed)), "and so does this signer's, without the point");
    let accepted = |signatures: &[_]| (0..64).filter(|seed| all_at_once(signatures, *seed)).collect::<Vec<u64>>();
    let alone = accepted(&[crafted(7, 1)]);
    let among = accepted(&[&neighbours[..], &[crafted(7, 1)]].concat());
    let paired = accepted(&[crafted(8, 3), crafted(7, 1)]);
    for (what, accepted) in [("alone", &alone), ("among honest ones", &among), ("beside another crafted one", &paired)] {
        assert!(!accepted.is_empty() && accepted.len() < 32, "{what}: {accepted:?}");
    }
    assert!(alone != among && alone != paired, "the neighbours change the verdict");

    let key = exo_federation::crypto::VerifyingKey::new(liar.public).unwrap();
    for point in 1..8 {
        let (_, message, signature) = crafted(7, point);
        assert!(key.verify(&message, &signature).is_err(), "point {point}");
    }
    assert!(key.verify(&message(7), &liar.sign(&message(7), 0)).is_ok());
}

/// The slots of member 0's crafted signatures, and the point in each: alone, as pairs and eights that cancel each other out, and at both sides of a chunk's end.
fn crafted() -> Vec<(usize, usize)> {
    let eight = (0..8).map(|n| (300 + n, n)).filter(|(_, point)| *point > 0);
    [(1, 1), (100, 3), (101, 5), (256, 2), (257, 6), (600, 4)].into_iter().chain(eight).collect()
}

fn history() -> (Federation, Vec<CommittedBatch>) {
    let mut chain = Chain::new(4);
    let mut batches: Vec<CommittedBatch> = (0..600).map(|_| chain.commit_some(1, 1)).collect();
    let liar = Liar::new();
    for (slot, point) in crafted() {
        let certificate = &mut batches[slot - 1].certificate;
        let signature = liar.sign(&certificate.vote().signed_bytes(chain.federation.id()), point);
        certificate.signatures.0[0].1 = signature;
        let header = &batches[slot - 1].header;
        assert_eq!(batches[slot - 1].certificate.verify(&chain.federation, header), Err(CertificateError::BadSignature(0)));
    }
    (chain.federation, batches)
}

fn write(federation: &Federation, batches: &[CommittedBatch], dir: &Path) -> PathBuf {
    let options = JournalOptions { segment_bytes: 1 << 20, votes_bytes: 64 << 10, ..JournalOptions::default() };
    DataDir(dir.to_owned()).create(federation, secret(0).consensus_key().public(), &options).unwrap();
    fs::write(dir.join("backup"), "").unwrap();
    let (mut journal, _) = Journal::open(&dir.join("journal"), federation.id().0.0, &options).unwrap();
    for CommittedBatch { header, body, certificate } in batches {
        let body = CheckedBody::compute(federation, body.clone(), header.first_sequence);
        for record in [Record::Body { header: header.clone(), body }, Record::Committed(certificate.clone())] {
            let (kind, payload) = record.to_frame().unwrap();
            journal.append_segment(kind, header.slot, &payload).unwrap();
        }
    }
    journal.sync().unwrap();
    dir.to_owned()
}

/// The slots that an audit names, and the rules.
fn named(federation: &Federation, data: &Path, range: Range, threads: usize) -> BTreeSet<(u64, String)> {
    let options = AuditOptions { range, ..AuditOptions::default() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let summary = pool.install(|| {
        let mut audit = Audit::new(federation, options);
        audit.directory("crafted", data, &mut |_| {}).unwrap();
        audit.finish()
    });
    summary.findings.into_iter().map(|finding| (finding.slot, finding.rule)).collect()
}

#[test]
fn an_audit_names_each_crafted_signature_however_the_batches_are_grouped() {
    let (federation, batches) = history();
    let room = tempfile::tempdir().unwrap();
    let data = write(&federation, &batches, &room.path().join("data"));
    let expected = |from: u64, to: u64| -> BTreeSet<(u64, String)> {
        let slots = crafted().into_iter().map(|(slot, _)| slot as u64);
        slots.filter(|slot| (from..=to).contains(slot)).map(|slot| (slot, "quorum".to_owned())).collect()
    };
    for threads in [1, 2, 8] {
        assert_eq!(named(&federation, &data, Range::default(), threads), expected(1, 600), "{threads} threads");
    }
    // One update a batch: sequence numbers are slots. Each range cuts the history into other chunks.
    for (from, to) in
        [(1, 1), (100, 100), (101, 101), (100, 101), (2, 599), (256, 256), (257, 257), (256, 257), (301, 301), (303, 307), (301, 307), (600, 600)]
    {
        let range = Range { from: Some(from), to: Some(to), ..Range::default() };
        assert_eq!(named(&federation, &data, range, 2), expected(from, to), "{from} to {to}");
    }
    for shift in [1, 57, 255] {
        let (federation, mut batches) = history();
        batches.truncate(600 - shift);
        let data = write(&federation, &batches, &room.path().join(format!("short-{shift}")));
        assert_eq!(named(&federation, &data, Range::default(), 2), expected(1, 600 - shift as u64), "without the last {shift}");
    }
}
