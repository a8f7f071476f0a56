#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::crypto::{ReplicaSecret, SigningKey};

#[test]
fn thresholds_are_those_of_the_table() {
    let table = [(4, 3), (5, 4), (6, 4), (7, 5), (8, 6), (9, 6), (10, 7), (11, 8), (12, 8), (13, 9)];
    for (n, quorum) in table {
        assert_eq!(byzantine_threshold(n), quorum, "n = {n}");
        assert!(2 * quorum - n > fault_limit(n), "two quorums share a correct member, n = {n}");
        assert!(quorum <= n - fault_limit(n), "the correct members form a quorum, n = {n}");
    }
}

fn genesis(members: u8) -> Genesis {
    let member = |i: u8| {
        let secret = ReplicaSecret::from_bytes([i + 1; 32]);
        Member {
            peer: PeerId(format!("replica-{i}")),
            consensus_key: secret.consensus_key().public(),
            transport_key: secret.transport_key().public(),
            cosignature_key: secret.cosignature_key().public(),
        }
    };
    let author = Author { name: "author".into(), key: SigningKey::from_seed(&[99; 32]).public() };
    Genesis {
        name: "test".into(),
        members: (0..members).map(member).collect(),
        authors: vec![author],
        readers: vec![],
        parameters: Parameters::default(),
    }
}

#[test]
fn a_genesis_is_checked() {
    assert!(Federation::new(genesis(4)).is_ok());
    assert_eq!(Federation::new(genesis(3)).unwrap_err(), GenesisError::InsufficientPeers { needed: 4, actual: 3 });
    let mut twice = genesis(4);
    twice.members[1].transport_key = twice.members[0].consensus_key;
    assert!(matches!(Federation::new(twice), Err(GenesisError::Duplicate(_))));
    let mut narrow = genesis(4);
    narrow.parameters.checkpoint_slots = narrow.parameters.window_slots;
    assert!(matches!(Federation::new(narrow), Err(GenesisError::Parameter { key: "checkpoint_slots", .. })));
}

#[test]
fn every_field_of_a_genesis_changes_the_id() {
    let id = |g: Genesis| Federation::new(g).unwrap().id();
    let base = id(genesis(4));
    let changes: [fn(&mut Genesis); 6] = [
        |g| g.name = "other".into(),
        |g| g.members.swap(0, 1),
        |g| g.authors[0].name = "other".into(),
        |g| g.parameters.max_drift_ms += 1,
        |g| g.parameters.max_live_ids += 1,
        |g| g.readers.push(Reader { name: "r".into(), key: SigningKey::from_seed(&[98; 32]).public() }),
    ];
    for change in changes {
        let mut g = genesis(4);
        change(&mut g);
        assert_ne!(id(g), base);
    }
}

#[test]
fn the_encoded_size_of_a_body_is_known_without_encoding() {
    let key = SigningKey::from_seed(&[1; 32]);
    let update = |i: usize| StateUpdate { update_id: UpdateId(format!("u{i}")), data: vec![7; i * 13], timestamp: 5 };
    let submission = Submission::sign(FederationId(crate::crypto::Digest::ZERO), &key, 9, (0..5).map(update).collect());
    let body = Body { submissions: vec![Arc::new(submission.clone()), Arc::new(submission)] };
    assert_eq!(encode(&body).unwrap().len() as u64, body.encoded_bytes());
}

#[test]
fn the_codec_refuses_what_is_not_exact() {
    let bytes = encode(&vec![1u64, 2, 3]).unwrap();
    assert_eq!(decode::<Vec<u64>>(&bytes).unwrap(), vec![1, 2, 3]);
    assert!(decode::<Vec<u64>>(&bytes[..bytes.len() - 1]).is_err());
    assert!(matches!(decode::<Vec<u64>>(&[bytes.as_slice(), &[0]].concat()), Err(CodecError::TrailingBytes { .. })));
    // A nine-byte message that claims 2^62 elements.
    let bomb = [&(1u64 << 62).to_le_bytes()[..], &[0]].concat();
    assert!(matches!(decode::<Vec<u64>>(&bomb), Err(CodecError::Malformed(_))));
}

#[test]
fn a_cosignature_binds_every_field_and_its_member() {
    let federation = Federation::new(genesis(4)).unwrap();
    let key = |member: u8| ReplicaSecret::from_bytes([member + 1; 32]).cosignature_key();
    let root = crate::crypto::sha256(b"root");
    let good = Cosignature::sign(federation.id(), &key(2), 2, (64, root), 1_700_000_000);
    good.verify(&federation).unwrap();
    assert_eq!(
        String::from_utf8(good.signed_bytes(federation.id())).unwrap(),
        format!("cosignature/v1\ntime 1700000000\nexo-federation/{}\n64\n{}\n", federation.id(), data_encoding::BASE64.encode(&root.0))
    );
    let changes: [fn(&mut Cosignature); 5] =
        [|c| c.replica = 1, |c| c.size += 1, |c| c.root.0[31] ^= 1, |c| c.timestamp += 1, |c| c.signature.0[0] ^= 1];
    for change in changes {
        let mut changed = good;
        change(&mut changed);
        assert!(matches!(changed.verify(&federation), Err(CosignatureError::BadSignature { .. })), "{changed:?}");
    }
    let nobody = Cosignature { replica: 4, ..good };
    assert_eq!(nobody.verify(&federation), Err(CosignatureError::UnknownMember { index: 4, members: 4 }));
    let late = Cosignature { timestamp: 1 << 63, ..good };
    assert!(matches!(late.verify(&federation), Err(CosignatureError::Timestamp { .. })));
    let consensus = Cosignature::sign(federation.id(), &ReplicaSecret::from_bytes([3; 32]).consensus_key(), 2, (64, root), 1_700_000_000);
    assert!(consensus.verify(&federation).is_err(), "the key for votes is not the one for cosignatures");
}

#[test]
fn a_verifier_key_has_the_form_of_signed_note() {
    let federation = Federation::new(genesis(4)).unwrap();
    let (log, cosigner) = (NoteKeyKind::Log, NoteKeyKind::Cosigner);
    let keys: Vec<NoteKey> = [log, cosigner].into_iter().map(|kind| NoteKey::of_member(&federation, 0, kind).unwrap()).collect();
    assert_eq!(keys[0].name, format!("exo-federation/{}", federation.id()));
    assert_eq!(keys[1].name, format!("exo-federation/{}/replica-0", federation.id()));
    assert_ne!(keys[0].id(), keys[1].id());
    assert!(NoteKey::of_member(&federation, 4, log).is_none());
    // Known answer: `PeterNeumann` of golang.org/x/mod/sumdb/note.
    let text = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let material = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
    let known = NoteKey { name: "PeterNeumann".into(), kind: log, key: crate::crypto::PublicKey(material[1..].try_into().unwrap()) };
    assert_eq!(known.vkey(), format!("PeterNeumann+c74f20a3+{text}"));
}
