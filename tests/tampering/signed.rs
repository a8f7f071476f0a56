//! Proofs that a quorum, or one member with its key, signed anew, so that nothing but the change is wrong with them.

use std::ops::RangeInclusive;

use curve25519_dalek::scalar::{Scalar, clamp_integer};
use exo_federation::crypto::{Digest, PublicKey, Signature, merkle};
use exo_federation::proof::{CommitProof, ConsistencyProof, Opening};
use exo_federation::types::{BatchKind, CommitCertificate, Federation, FederationId, Header, Phase, SignatureSet, UpdateId, Vote, data_digest};
use sha2::{Digest as _, Sha512};

use crate::proof_fixture::{certificate, consistent, federation, proven, secret};

/// L, the order of the group, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// A signature whose R is the neutral element, which only the key's holder can make; without the rule against it, it verifies.
fn of_small_order(member: u8, message: &[u8]) -> Signature {
    let key = secret(member).consensus_key();
    let mut half = [0; 32];
    half.copy_from_slice(&Sha512::digest(key.seed())[..32]);
    let mut signature = [0; 64];
    signature[0] = 1;
    let hash = Sha512::new().chain_update(&signature[..32]).chain_update(key.public().0).chain_update(message).finalize();
    let challenge = Scalar::from_bytes_mod_order_wide(&hash.into());
    let s = challenge * Scalar::from_bytes_mod_order(clamp_integer(half));
    signature[32..].copy_from_slice(s.as_bytes());
    Signature(signature)
}

/// The same with L added to S.
fn malleated(signature: Signature) -> Signature {
    let mut out = signature.0;
    let mut carry = 0;
    for (byte, order) in out[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        [*byte, _] = sum.to_le_bytes();
        carry = sum >> 8;
    }
    Signature(out)
}

fn signed(federation: FederationId, vote: &Vote, signers: impl IntoIterator<Item = u8>) -> SignatureSet {
    let bytes = vote.signed_bytes(federation);
    SignatureSet(signers.into_iter().map(|member| (member.into(), secret(member).consensus_key().sign(&bytes))).collect())
}

/// Certificates for a header, most of which prove nothing.
fn certificates(federation: &Federation, header: &Header) -> Vec<(String, CommitCertificate)> {
    let (id, members) = (federation.id(), u8::try_from(federation.size()).unwrap());
    let quorum = u8::try_from(federation.quorum()).unwrap();
    let sound = certificate(federation, header, 1, &(0..quorum).collect::<Vec<_>>());
    let mut out = vec![];
    let mut put = |what: &str, certificate: CommitCertificate| out.push((what.to_owned(), certificate));
    let with = |signatures| CommitCertificate { signatures, ..sound.clone() };
    let sets: [(&str, RangeInclusive<u8>); 5] = [
        ("all", 0..=members - 1),
        ("the last", members - quorum..=members - 1),
        ("one short", 0..=quorum - 2),
        ("one", 0..=0),
        ("f + 1", 0..=quorum / 2),
    ];
    sets.into_iter().for_each(|(what, signers)| put(what, with(signed(id, &sound.vote(), signers))));
    put("nobody", with(SignatureSet::default()));
    for view in [0, 2, u64::MAX] {
        put("signed in another view", with(signed(id, &Vote { view, ..sound.vote() }, 0..quorum)));
        put("another view", CommitCertificate { view, ..with(signed(id, &Vote { view, ..sound.vote() }, 0..quorum)) });
        let mut mixed = sound.signatures.clone();
        mixed.0[1] = signed(id, &Vote { view, ..sound.vote() }, [1]).0[0];
        put("mixed views", with(mixed));
    }
    for phase in [Phase::PrePrepare, Phase::Prepare] {
        put("another statement", with(signed(id, &Vote { phase, ..sound.vote() }, 0..quorum)));
        put(
            "one another statement",
            with(SignatureSet([signed(id, &Vote { phase, ..sound.vote() }, [0]).0, sound.signatures.0[1..].to_vec()].concat())),
        );
    }
    for vote in [Vote { epoch: 1, ..sound.vote() }, Vote { slot: sound.slot + 1, ..sound.vote() }, Vote { digest: Digest([7; 32]), ..sound.vote() }] {
        let Vote { epoch, slot, digest, .. } = vote;
        put("another place", CommitCertificate { epoch, slot, digest, ..with(signed(id, &vote, 0..quorum)) });
        put("another place signed", with(signed(id, &vote, 0..quorum)));
    }
    put("another federation", with(signed(FederationId(Digest([9; 32])), &sound.vote(), 0..quorum)));
    let changed = |change: &dyn Fn(&mut SignatureSet)| {
        let mut signatures = sound.signatures.clone();
        change(&mut signatures);
        with(signatures)
    };
    put("reversed", changed(&|s| s.0.reverse()));
    put("two exchanged", changed(&|s| s.0.swap(0, 1)));
    put("one twice", changed(&|s| s.0.insert(1, s.0[0])));
    put("one twice for a missing one", changed(&|s| s.0[1] = s.0[0]));
    put("one under two names", changed(&|s| s.0[1].1 = s.0[0].1));
    put("names exchanged", changed(&|s| (s.0[0].1, s.0[1].1) = (s.0[1].1, s.0[0].1)));
    put("another name", changed(&|s| s.0.last_mut().unwrap().0 = u16::from(members - 1)));
    put("one bad beside a quorum", changed(&|s| s.0.push((u16::from(members - 1), s.0[0].1))));
    put("S not reduced", changed(&|s| s.0[0].1 = malleated(s.0[0].1)));
    put("R of small order", changed(&|s| s.0[0].1 = of_small_order(0, &sound.vote().signed_bytes(id))));
    put("no signature", changed(&|s| s.0[0].1 = Signature([0; 64])));
    out
}

type Change<'a> = &'a dyn Fn(&mut Header);

/// Headers that say something else.
pub(crate) fn headers(sound: &Header) -> Vec<(String, Header)> {
    let changes: [(&str, Change); 24] = [
        ("kind", &|h| h.kind = BatchKind::EpochEnd),
        ("federation", &|h| h.federation_id = FederationId(Digest([9; 32]))),
        ("epoch", &|h| h.epoch = 1),
        ("slot", &|h| h.slot += 1),
        ("slot 0", &|h| h.slot = 0),
        ("last slot", &|h| h.slot = u64::MAX),
        ("a later first", &|h| h.first_sequence += 1),
        ("an earlier first", &|h| h.first_sequence -= 1),
        ("first 0", &|h| h.first_sequence = 0),
        ("last first", &|h| h.first_sequence = u64::MAX),
        ("last first alone", &|h| (h.first_sequence, h.count) = (u64::MAX, 1)),
        ("first shifted", &|h| (h.first_sequence, h.count) = (h.first_sequence + 1, h.count.wrapping_sub(1))),
        ("all in one batch", &|h| (h.first_sequence, h.count) = (1, u32::try_from(h.last_sequence()).unwrap())),
        ("one more", &|h| h.count += 1),
        ("one less", &|h| h.count -= 1),
        ("none", &|h| h.count = 0),
        ("count without end", &|h| h.count = u32::MAX),
        ("no parent", &|h| h.parent = Digest([0; 32])),
        ("body", &|h| h.body_digest = Digest([8; 32])),
        ("root", &|h| h.log_root = Digest([8; 32])),
        ("later", &|h| h.timestamp += 1),
        ("earlier", &|h| h.timestamp = 0),
        ("membership", &|h| h.membership_digest = Digest([8; 32])),
        ("the last moment", &|h| h.timestamp = u64::MAX),
    ];
    let changed = |(what, change): (&str, Change)| {
        let mut header = sound.clone();
        change(&mut header);
        (format!("header: {what}"), header)
    };
    changes.map(changed).into()
}

/// A header and certificate, changed in each way and signed anew.
fn batches(federation: &Federation, header: &Header) -> Vec<(String, Header, CommitCertificate)> {
    let signers: Vec<u8> = (0..u8::try_from(federation.quorum()).unwrap()).collect();
    let other = headers(header).into_iter().map(|(what, header)| {
        let certificate = certificate(federation, &header, 1, &signers);
        (what, header, certificate)
    });
    other.chain(certificates(federation, header).into_iter().map(|(what, certificate)| (what, header.clone(), certificate))).collect()
}

fn paths(path: &[Digest]) -> Vec<Vec<Digest>> {
    let mut out = vec![vec![], path.iter().rev().copied().collect(), [path, &[Digest([0; 32])]].concat(), vec![Digest([1; 32]); 64]];
    for at in 0..path.len() {
        out.push([&path[..at], &path[at + 1..]].concat());
        out.push([&path[..at], &path[at..=at], &path[at..]].concat());
        let mut swapped = path.to_vec();
        swapped.swap(at, (at + 1) % path.len());
        out.push(swapped);
    }
    out
}

/// Proofs of an update for a federation of `members`.
pub(crate) fn commit_proofs(members: u8) -> Vec<(String, CommitProof)> {
    let (federation, sound) = proven(members);
    let mut out = vec![("sound".to_owned(), sound.clone()), ("without its opening".to_owned(), CommitProof { opening: None, ..sound.clone() })];
    let batches = batches(&federation, &sound.header).into_iter();
    out.extend(batches.map(|(what, header, certificate)| (what, CommitProof { header, certificate, ..sound.clone() })));
    out.extend(paths(&sound.path).into_iter().map(|path| ("path".to_owned(), CommitProof { path, ..sound.clone() })));
    for sequence in [0, 1, 6, 7, 8, 10, 11, 12, u64::MAX] {
        let mut proof = sound.clone();
        proof.leaf.sequence = sequence;
        out.push(("sequence".to_owned(), proof));
    }
    let opening = sound.opening.as_ref().unwrap();
    for (salt, data) in [([0; 16], opening.data.clone()), (opening.salt, vec![]), (opening.salt, b"payload 9".to_vec())] {
        out.push(("opening".to_owned(), CommitProof { opening: Some(Opening { salt, data }), ..sound.clone() }));
    }
    let ids = ["", "x", "\"\\/\u{8}\u{c}\n\r\t\u{0}\u{1f}\u{7f}\u{80}\u{a0}\u{2028}\u{feff}\u{ffff}\u{1f389}", "<&>'"].map(str::to_owned);
    for id in ids.into_iter().chain(["x".repeat(256), "x".repeat(257), "\u{e4}".repeat(128), "\u{e4}".repeat(129)]) {
        out.push(("update id".to_owned(), of_leaf(&federation, &sound, |proof| proof.leaf.update_id = UpdateId(id))));
    }
    out.push(("author".to_owned(), of_leaf(&federation, &sound, |proof| proof.leaf.author = PublicKey(secret(0).consensus_key().public().0))));
    out.push(("time".to_owned(), of_leaf(&federation, &sound, |proof| proof.leaf.timestamp = u64::MAX)));
    out.push(("length".to_owned(), of_leaf(&federation, &sound, |proof| proof.leaf.data_length += 1)));
    let emptied = |proof: &mut CommitProof| proof.opening.iter_mut().for_each(|opening| opening.data.clear());
    out.push(("no data".to_owned(), of_leaf(&federation, &sound, emptied)));
    out.push(("the last sequence number".to_owned(), of_leaf(&federation, &sound, at_the_end)));
    out
}

/// The proof that the same log with another leaf there would have. The opening is made to fit the leaf, but for its length.
fn of_leaf(federation: &Federation, sound: &CommitProof, change: impl FnOnce(&mut CommitProof)) -> CommitProof {
    let mut proof = sound.clone();
    change(&mut proof);
    let opening = proof.opening.as_ref().unwrap();
    proof.leaf.data_digest = data_digest(&opening.salt, &proof.leaf.update_id, &opening.data);
    if opening.data.is_empty() {
        proof.leaf.data_length = 0;
    }
    let size = proof.header.first_sequence + u64::from(proof.header.count - 1);
    proof.header.log_root = merkle::root_from_path(proof.leaf.hash(), proof.leaf.sequence - 1, size, &proof.path).unwrap();
    let signers: Vec<u8> = (0..u8::try_from(federation.quorum()).unwrap()).collect();
    proof.certificate = certificate(federation, &proof.header, 1, &signers);
    proof
}

/// A batch of one update at the last sequence number there is.
fn at_the_end(proof: &mut CommitProof) {
    (proof.leaf.sequence, proof.header.first_sequence, proof.header.count) = (u64::MAX, u64::MAX, 1);
    let fits = |path: &Vec<Digest>| merkle::root_from_path(Digest::ZERO, u64::MAX - 1, u64::MAX, path).is_some();
    proof.path = (0..=64).map(|length| vec![Digest([5; 32]); length]).find(fits).unwrap();
}

/// Proofs between all logs of the fixture's history.
pub(crate) fn consistency_proofs(members: u8) -> Vec<(String, ConsistencyProof)> {
    let federation = federation(members);
    let mut out = vec![];
    for (older, newer) in (0..=6).flat_map(|older| (older.max(1)..=6).map(move |newer| (older, newer))) {
        let (_, sound) = consistent(members, older, newer);
        let mut put = |what: &str, proof| out.push((format!("{older} to {newer}: {what}"), proof));
        put("sound", sound.clone());
        let new = (sound.header.last_sequence(), sound.header.log_root);
        for old_size in [0, 1, sound.old_size + 1, sound.old_size.wrapping_sub(1), new.0, new.0 + 1, u64::MAX] {
            put("older size", ConsistencyProof { old_size, ..sound.clone() });
        }
        for old_root in [Digest([0; 32]), new.1, sound.path.first().copied().unwrap_or(new.1), merkle::empty_root()] {
            put("older root", ConsistencyProof { old_root, ..sound.clone() });
        }
        paths(&sound.path).into_iter().for_each(|path| put("path", ConsistencyProof { path, ..sound.clone() }));
        if older % 3 == 1 {
            let batches = batches(&federation, &sound.header).into_iter();
            batches.for_each(|(what, header, certificate)| put(&what, ConsistencyProof { header, certificate, ..sound.clone() }));
        }
    }
    out
}
