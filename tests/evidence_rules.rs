//! Every rule of evidence: what convicts, that nothing near it does, and that a record convicts of nothing else once a byte of it is changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;

use exo_federation::crypto::Digest;
use exo_federation::types::{Cosignature, Evidence, EvidenceError, EvidenceRule, decode, encode};
use proof_fixture::evidence::{LIAR, World, forgeries};

#[test]
fn each_rule_convicts_the_liar_alone_and_its_record_keeps_in_both_forms() {
    let world = World::new();
    let mut ids = std::collections::BTreeSet::new();
    for (_, rule, evidence) in world.guilty() {
        let conviction = evidence.verify(&world.federation).unwrap_or_else(|e| panic!("{rule}: {e}"));
        assert_eq!((conviction.rule, conviction.replica, conviction.member.0.as_str()), (rule, LIAR, "replica-2"));
        assert!(conviction.to_string().contains(&conviction.says), "{conviction}");
        ids.insert(conviction.id);
        let bytes = encode(&evidence).unwrap();
        assert_eq!(decode::<Evidence>(&bytes).unwrap(), evidence, "{rule}");
        let text = evidence.to_json(&world.federation).unwrap();
        let read = Evidence::from_json(&text, &world.federation).unwrap();
        assert_eq!(read.verify(&world.federation).unwrap(), conviction, "{rule}");
        assert_eq!(read.to_json(&world.federation).unwrap(), text, "{rule}");
    }
    assert_eq!(ids.len(), world.guilty().len() - 1, "the last two are one contradiction");
}

#[test]
fn the_order_of_two_statements_of_a_kind_names_the_same_record() {
    let world = World::new();
    let swapped = |evidence: &Evidence| match evidence.clone() {
        Evidence::Votes { first, second } => Some(Evidence::Votes { first: second, second: first }),
        Evidence::ViewChanges { first, second } => Some(Evidence::ViewChanges { first: second, second: first }),
        Evidence::NewViews { first, second } => Some(Evidence::NewViews { first: second, second: first }),
        Evidence::Checkpoints { first, second } => Some(Evidence::Checkpoints { first: second, second: first }),
        _ => None,
    };
    let mut count = 0;
    for (_, rule, evidence) in world.guilty() {
        if let Some(other) = swapped(&evidence) {
            assert_eq!(other.id(&world.federation), evidence.id(&world.federation), "{rule}");
            assert_eq!(other.to_json(&world.federation).unwrap(), evidence.to_json(&world.federation).unwrap(), "{rule}");
            count += 1;
        }
    }
    assert_eq!(count, 7);
}

#[test]
fn what_comes_near_evidence_convicts_nobody() {
    let world = World::new();
    for (what, evidence) in world.innocent() {
        let verdict = evidence.verify(&world.federation);
        assert!(matches!(verdict, Err(EvidenceError::NoContradiction(_))), "{what}: {verdict:?}");
    }
}

#[test]
fn a_statement_that_the_member_did_not_sign_convicts_nobody() {
    let world = World::new();
    for (what, _, evidence) in world.guilty() {
        for forgery in forgeries(evidence) {
            assert!(matches!(forgery.verify(&world.federation), Err(EvidenceError::BadSignature { .. })), "{what}");
        }
    }
}

#[test]
fn a_changed_byte_of_a_record_convicts_of_nothing_else() {
    let world = World::new();
    let federation = &world.federation;
    for (_, rule, evidence) in world.guilty() {
        let whole = evidence.verify(federation).unwrap();
        let text = evidence.to_json(federation).unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let verdict = Evidence::from_json(&changed, federation).and_then(|evidence| Ok(evidence.verify(federation)?));
            assert!(changed == text || verdict.is_err(), "{rule}, byte {at} of the text: {verdict:?}");
        }
        let bytes = encode(&evidence).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let Ok(read) = decode::<Evidence>(&changed) else { continue };
            let verdict = read.verify(federation);
            assert!(verdict.is_err(), "{rule}, byte {at} of the row: {verdict:?} instead of {whole:?}");
        }
    }
}

#[test]
fn two_cosignatures_of_one_size_convict_and_the_consensus_key_signs_none() {
    let federation = proof_fixture::federation(4);
    let secret = proof_fixture::secret(2);
    let sign = |size, root, time| Cosignature::sign(federation.id(), &secret.cosignature_key(), LIAR, (size, Digest([root; 32])), time);
    let (first, second) = (sign(80, 1, 5), sign(80, 2, 6));
    let evidence = Evidence::Cosignatures { first, second };
    let conviction = evidence.verify(&federation).unwrap();
    assert_eq!((conviction.rule, conviction.replica), (EvidenceRule::TwoCheckpoints, LIAR));
    let text = evidence.to_json(&federation).unwrap();
    assert_eq!(Evidence::from_json(&text, &federation).unwrap().verify(&federation).unwrap(), conviction);
    assert_eq!(Evidence::Cosignatures { first: second, second: first }.to_json(&federation).unwrap(), text);
    let forged = Cosignature { signature: secret.consensus_key().sign(&second.signed_bytes(federation.id())), ..second };
    assert!(matches!(Evidence::Cosignatures { first, second: forged }.verify(&federation), Err(EvidenceError::BadSignature { .. })));
    for (what, other) in [("one root at two times", sign(80, 1, 7)), ("another size", sign(81, 2, 5))] {
        let verdict = Evidence::Cosignatures { first, second: other }.verify(&federation);
        assert!(matches!(verdict, Err(EvidenceError::NoContradiction(_))), "{what}: {verdict:?}");
    }
}
