//! Recomputes every frozen layout of `tests/vectors/` from the inputs in the files. A difference here breaks every proof in the world.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod proof_fixture;

use std::path::PathBuf;

use data_encoding::{BASE64, HEXLOWER};
use exo_federation::crypto::{Digest, PublicKey, ReplicaSecret, Signature, SigningKey, merkle};
use exo_federation::proof::{CommitProof, ConsistencyProof, TlogProof, policy_text};
use exo_federation::types::{
    Body, Checkpoint, CheckpointCertificate, Complaint, Cosignature, Evidence, Federation, FederationId, Genesis, Header, Leaf, NewView, Phase,
    PreparedCertificate, PublishedCheckpoint, SignatureSet, StateUpdate, Submission, UpdateId, ViewChange, Vote, checkpoint_origin, data_digest,
};
use proof_fixture::evidence::World;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const KINDS: [&str; 18] = [
    "data-digest",
    "leaf",
    "submission",
    "body",
    "header",
    "vote",
    "checkpoint",
    "complaint",
    "view-change",
    "new-view",
    "genesis",
    "replica-keys",
    "salt",
    "merkle",
    "commit-proof",
    "published-checkpoint",
    "consistency-proof",
    "evidence",
];

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn parse<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn id(value: &Value) -> UpdateId {
    parse(value)
}

fn submission(input: &Value) -> (SigningKey, Submission) {
    let key = SigningKey::from_seed(&array(&input["author_seed"]));
    let update = |u: &Value| StateUpdate { update_id: id(&u["update_id"]), data: bytes(&u["data"]), timestamp: number(&u["timestamp"]) };
    let updates = input["updates"].as_array().unwrap().iter().map(update).collect();
    let submission = Submission::sign(parse(&input["federation_id"]), &key, number(&input["not_after"]), updates);
    (key, submission)
}

fn submission_output(input: &Value) -> Value {
    let federation: FederationId = parse(&input["federation_id"]);
    let (key, submission) = submission(input);
    let digests = submission.digests(federation);
    json!({
        "author": key.public(),
        "salts": submission.updates.iter().map(|u| hex(&u.salt)).collect::<Vec<_>>(),
        "data_digests": digests.data,
        "submission_digest": digests.submission,
        "signed_bytes": hex(&Submission::signed_bytes(federation, &digests.submission)),
        "signature": submission.signature,
    })
}

fn body_output(input: &Value) -> Value {
    let federation: FederationId = parse(&input["federation_id"]);
    let body = Body { submissions: input["submissions"].as_array().unwrap().iter().map(|s| submission(s).1.into()).collect() };
    let digests = body.digests(federation);
    let leaves = body.leaves(&digests, number(&input["first_sequence"]));
    json!({ "body_digest": digests.body, "leaf_hashes": leaves.iter().map(Leaf::hash).collect::<Vec<_>>() })
}

fn vote_output(input: &Value) -> Value {
    let phase: Phase = parse(&input["phase"]);
    let (epoch, view, slot) = (number(&input["epoch"]), number(&input["view"]), number(&input["slot"]));
    let signed = Vote { phase, epoch, view, slot, digest: parse(&input["digest"]) }.signed_bytes(parse(&input["federation_id"]));
    let key = ReplicaSecret::from_bytes(array(&input["replica_secret"])).consensus_key();
    json!({ "signed_bytes": hex(&signed), "public_key": key.public(), "signature": key.sign(&signed) })
}

fn view_change(input: &Value) -> ViewChange {
    let checkpoint: Option<Checkpoint> = parse(&input["stable"]);
    let prepared = |p: &Value| PreparedCertificate { view: number(&p["view"]), header: parse(&p["header"]), signatures: SignatureSet::default() };
    ViewChange {
        epoch: number(&input["epoch"]),
        new_view: number(&input["new_view"]),
        stable: checkpoint.map(|checkpoint| CheckpointCertificate { checkpoint, signatures: SignatureSet::default() }),
        prepared: input["prepared"].as_array().unwrap().iter().map(prepared).collect(),
        replica: parse(&input["replica"]),
        signature: Signature([0; 64]),
    }
}

fn new_view_output(input: &Value) -> Value {
    let view_changes = input["view_changes"].as_array().unwrap().iter().map(view_change).collect();
    let (epoch, view) = (number(&input["epoch"]), number(&input["view"]));
    let new_view = NewView { epoch, view, view_changes, signature: Signature([0; 64]) };
    json!({ "signed_bytes": hex(&new_view.signed_bytes(parse(&input["federation_id"]))) })
}

fn genesis_output(input: &Value) -> Value {
    let genesis: Genesis = parse(&input["genesis"]);
    let canonical = genesis.canonical_bytes();
    let federation = Federation::new(genesis).unwrap();
    json!({
        "canonical_bytes": hex(&canonical),
        "federation_id": federation.id(),
        "membership_digest": federation.membership_digest(),
        "quorum": federation.quorum(),
    })
}

fn merkle_output(input: &Value) -> Value {
    let leaves: Vec<Digest> = input["leaves"].as_array().unwrap().iter().map(|l| merkle::leaf_hash(&bytes(l))).collect();
    let mut frontier = merkle::Frontier::default();
    leaves.iter().for_each(|leaf| frontier.append(*leaf));
    let empty = merkle::Frontier::default();
    let tail = merkle::Tail { before: &empty, leaves: &leaves };
    let size = leaves.len() as u64;
    let paths: Vec<_> = (0..size).map(|index| merkle::inclusion_path(&tail, index, size).unwrap()).collect();
    json!({ "leaf_hashes": leaves, "root": frontier.root(), "paths": paths })
}

/// The proof of one update of the second batch of a federation, both made from the seeds.
fn proof_output(input: &Value) -> Value {
    let (federation, mut proof) = proof_fixture::proven(parse(&input["members"]));
    assert_eq!(serde_json::to_value(federation.genesis()).unwrap(), input["genesis"], "the fixture's seeds have changed");
    if !input["opening"].as_bool().unwrap() {
        proof.opening = None;
    }
    let verified = proof.verify(&federation).unwrap();
    let text = proof.to_json(&federation).unwrap();
    assert_eq!(CommitProof::from_json(&text, &federation).unwrap(), proof);
    json!({
        "sequence": verified.sequence,
        "update_id": verified.update_id,
        "signers": verified.signers,
        "header_digest": proof.header.digest(),
        "json": String::from_utf8(text).unwrap(),
        "binary": hex(&proof.to_bytes().unwrap()),
    })
}

/// A checkpoint of that federation's log, and the update's proof in it, in the forms of C2SP.
fn published_output(input: &Value) -> Value {
    let (federation, proof) = proof_fixture::proven(parse(&input["members"]));
    assert_eq!(serde_json::to_value(federation.genesis()).unwrap(), input["genesis"], "the fixture's seeds have changed");
    let log = (proof.header.last_sequence(), proof.header.log_root);
    let sign = |cosigner: &Value| {
        let member: u8 = parse(&cosigner["member"]);
        Cosignature::sign(federation.id(), &proof_fixture::secret(member).cosignature_key(), member.into(), log, number(&cosigner["timestamp"]))
    };
    let cosignatures: Vec<Cosignature> = input["cosigners"].as_array().unwrap().iter().map(sign).collect();
    let messages: Vec<Value> = cosignatures.iter().map(|c| String::from_utf8(c.signed_bytes(federation.id())).unwrap().into()).collect();
    let signatures: Vec<Value> = cosignatures.iter().map(|c| hex(&c.signature.0).into()).collect();
    let publisher: u8 = parse(&input["publisher"]);
    let key = proof_fixture::secret(publisher).cosignature_key();
    let checkpoint = PublishedCheckpoint::publish(federation.id(), &key, publisher.into(), log, cosignatures);
    checkpoint.verify(&federation).unwrap();
    let note = checkpoint.to_note(&federation);
    let tlog_proof = TlogProof { leaf: proof.leaf, path: proof.path, checkpoint };
    tlog_proof.verify(&federation).unwrap();
    json!({
        "origin": checkpoint_origin(federation.id()), "size": log.0, "root": log.1, "messages": messages, "signatures": signatures, "note": note,
        "tlog_proof": tlog_proof.to_text(&federation), "policy": policy_text(&federation),
    })
}

/// The proof that one log of the fixture's history is the beginning of another.
fn consistency_output(input: &Value) -> Value {
    let (members, older, newer): (u8, usize, usize) = (parse(&input["members"]), parse(&input["older"]), parse(&input["newer"]));
    let (federation, proof) = proof_fixture::consistent(members, older, newer);
    assert_eq!(serde_json::to_value(federation.genesis()).unwrap(), input["genesis"], "the fixture's seeds have changed");
    proof.verify(&federation).unwrap();
    let text = proof.to_json(&federation).unwrap();
    assert_eq!(ConsistencyProof::from_json(&text, &federation).unwrap(), proof);
    json!({
        "old_size": proof.old_size,
        "old_root": proof.old_root,
        "new_size": proof.header.last_sequence(),
        "new_root": proof.header.log_root,
        "json": String::from_utf8(text).unwrap(),
    })
}

/// The record that the fixture calls by this name.
fn evidence_output(input: &Value) -> Value {
    let world = World::new();
    assert_eq!(serde_json::to_value(world.federation.genesis()).unwrap(), input["genesis"], "the fixture's seeds have changed");
    let (_, rule, evidence) = world.guilty().into_iter().find(|(name, ..)| input["record"] == *name).unwrap();
    let conviction = evidence.verify(&world.federation).unwrap();
    assert_eq!(conviction.rule, rule);
    let text = evidence.to_json(&world.federation).unwrap();
    assert_eq!(Evidence::from_json(&text, &world.federation).unwrap().verify(&world.federation).unwrap(), conviction);
    json!({
        "id": conviction.id,
        "rule": rule,
        "member": conviction.member,
        "view": conviction.view,
        "slot": conviction.slot,
        "digests": conviction.digests,
        "json": String::from_utf8(text).unwrap(),
    })
}

fn keys_output(input: &Value) -> Value {
    let secret = ReplicaSecret::from_bytes(array(&input["secret"]));
    let of = |key: SigningKey| -> PublicKey { key.public() };
    json!({
        "consensus_seed": hex(&secret.consensus_key().seed()),
        "consensus_key": of(secret.consensus_key()),
        "transport_seed": hex(&secret.transport_key().seed()),
        "transport_key": of(secret.transport_key()),
        "cosignature_seed": hex(&secret.cosignature_key().seed()),
        "cosignature_key": of(secret.cosignature_key()),
    })
}

fn output(kind: &str, input: &Value) -> Value {
    let federation = || -> FederationId { parse(&input["federation_id"]) };
    match kind {
        "data-digest" => json!({ "data_digest": data_digest(&array(&input["salt"]), &id(&input["update_id"]), &bytes(&input["data"])) }),
        "leaf" => {
            let leaf: Leaf = parse(input);
            json!({ "bytes": hex(&leaf.canonical_bytes()), "leaf_hash": leaf.hash() })
        }
        "submission" => submission_output(input),
        "body" => body_output(input),
        "header" => json!({ "digest": parse::<Header>(input).digest() }),
        "vote" => vote_output(input),
        "checkpoint" => json!({ "signed_bytes": hex(&parse::<Checkpoint>(&input["checkpoint"]).signed_bytes(federation())) }),
        "complaint" => {
            let complaint = Complaint { epoch: number(&input["epoch"]), view: number(&input["view"]) };
            json!({ "signed_bytes": hex(&complaint.signed_bytes(federation())) })
        }
        "view-change" => {
            let statement = view_change(input);
            json!({ "signed_bytes": hex(&statement.signed_bytes(federation())), "digest": statement.digest(federation()) })
        }
        "new-view" => new_view_output(input),
        "genesis" => genesis_output(input),
        "replica-keys" => keys_output(input),
        "salt" => json!({ "salt": hex(&SigningKey::from_seed(&array(&input["author_seed"])).salt_for(id(&input["update_id"]).0.as_bytes())) }),
        "merkle" => merkle_output(input),
        "commit-proof" => proof_output(input),
        "published-checkpoint" => published_output(input),
        "consistency-proof" => consistency_output(input),
        "evidence" => evidence_output(input),
        other => panic!("no such kind of vector: {other}"),
    }
}

fn path(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{kind}.json"))
}

#[test]
fn every_frozen_layout_is_recomputed() {
    for kind in KINDS {
        let file: Value = serde_json::from_slice(&std::fs::read(path(kind)).unwrap()).unwrap();
        assert_eq!(file["kind"], kind);
        let cases = file["cases"].as_array().unwrap();
        assert_eq!(cases.len(), inputs(kind).len(), "{kind}: cases are missing");
        for (case, input) in cases.iter().zip(inputs(kind)) {
            assert_eq!(case["input"], input, "{kind}: the file no longer holds the agreed inputs");
            assert_eq!(output(kind, &case["input"]), case["output"], "{kind}: {}", case["input"]);
        }
    }
}

/// Writes a layout as `docs/proofs.md` spells it, without the writer that the library uses.
struct Layout(Vec<u8>);

impl Layout {
    fn tag(name: &str) -> Self {
        Self(format!("exo-federation/v1/{name}\0").into_bytes())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u64(self, value: &Value) -> Self {
        self.raw(&number(value).to_le_bytes())
    }

    fn u32(self, value: usize) -> Self {
        self.raw(&u32::try_from(value).unwrap().to_le_bytes())
    }

    fn hash(self) -> String {
        use sha2::Digest as _;
        hex(&sha2::Sha256::digest(&self.0))
    }
}

fn cases(kind: &str) -> Vec<(Value, Value)> {
    let file: Value = serde_json::from_slice(&std::fs::read(path(kind)).unwrap()).unwrap();
    file["cases"].as_array().unwrap().iter().map(|case| (case["input"].clone(), case["output"].clone())).collect()
}

/// The submission digest as documented, from the author's key and the data digests.
fn documented_submission(input: &Value, author: &Value, data_digests: &Value) -> String {
    let updates = input["updates"].as_array().unwrap();
    let head = Layout::tag("submission").raw(&bytes(&input["federation_id"])).raw(&bytes(author)).u64(&input["not_after"]).u32(updates.len());
    let all = updates.iter().zip(data_digests.as_array().unwrap()).fold(head, |out, (update, digest)| {
        let (id, data) = (update["update_id"].as_str().unwrap(), bytes(&update["data"]));
        out.u32(id.len()).raw(id.as_bytes()).u64(&update["timestamp"]).raw(&(data.len() as u64).to_le_bytes()).raw(&bytes(digest))
    });
    all.hash()
}

fn documented_view_change(input: &Value) -> Vec<u8> {
    let replica = u16::try_from(number(&input["replica"])).unwrap();
    let out =
        Layout::tag("view-change").raw(&bytes(&input["federation_id"])).u64(&input["epoch"]).u64(&input["new_view"]).raw(&replica.to_le_bytes());
    let stable = &input["stable"];
    let out = match stable {
        Value::Null => out.raw(&[0; 80]),
        stable => out.u64(&stable["slot"]).u64(&stable["sequence"]).raw(&bytes(&stable["digest"])).raw(&bytes(&stable["log_root"])),
    };
    let prepared = input["prepared"].as_array().unwrap();
    let write = |out: Layout, p: &Value| {
        let digest = parse::<Header>(&p["header"]).digest();
        out.u64(&p["view"]).u64(&p["header"]["slot"]).raw(&digest.0)
    };
    prepared.iter().fold(out.u32(prepared.len()), write).0
}

#[test]
fn the_documented_submissions_and_bodies_are_those_of_the_vectors() {
    for (input, output) in cases("submission") {
        let digest = documented_submission(&input, &output["author"], &output["data_digests"]);
        assert_eq!(output["submission_digest"], digest);
        let signed = Layout::tag("submission-signature").raw(&bytes(&input["federation_id"])).raw(&bytes(&json!(digest)));
        assert_eq!(output["signed_bytes"], hex(&signed.0));
    }
    for (input, output) in cases("body") {
        let submissions = input["submissions"].as_array().unwrap();
        let body = submissions.iter().fold(Layout::tag("body").u32(submissions.len()), |out, submission| {
            let parts = submission_output(submission);
            let digest = documented_submission(submission, &parts["author"], &parts["data_digests"]);
            out.raw(&bytes(&json!(digest))).raw(&bytes(&parts["signature"]))
        });
        assert_eq!(output["body_digest"], body.hash());
    }
}

#[test]
fn the_documented_statements_are_those_of_the_vectors() {
    for (input, output) in cases("checkpoint") {
        let c = &input["checkpoint"];
        let out = Layout::tag("checkpoint").raw(&bytes(&input["federation_id"])).u64(&c["epoch"]).u64(&c["slot"]).u64(&c["sequence"]);
        assert_eq!(output["signed_bytes"], hex(&out.raw(&bytes(&c["digest"])).raw(&bytes(&c["log_root"])).0));
    }
    for (input, output) in cases("complaint") {
        let out = Layout::tag("complaint").raw(&bytes(&input["federation_id"])).u64(&input["epoch"]).u64(&input["view"]);
        assert_eq!(output["signed_bytes"], hex(&out.0));
    }
    let digest = |input: &Value| {
        let signed = documented_view_change(input);
        Layout::tag("view-change-digest").u32(signed.len()).raw(&signed).hash()
    };
    for (input, output) in cases("view-change") {
        assert_eq!(output["signed_bytes"], hex(&documented_view_change(&input)));
        assert_eq!(output["digest"], digest(&input));
    }
    for (input, output) in cases("new-view") {
        let list = input["view_changes"].as_array().unwrap();
        let out = Layout::tag("new-view").raw(&bytes(&input["federation_id"])).u64(&input["epoch"]).u64(&input["view"]).u32(list.len());
        let out = list.iter().fold(out, |out, vc| {
            let replica = u16::try_from(number(&vc["replica"])).unwrap();
            out.raw(&replica.to_le_bytes()).raw(&bytes(&json!(digest(vc))))
        });
        assert_eq!(output["signed_bytes"], hex(&out.0));
    }
}

/// The texts as C2SP writes them, without the library's writer.
#[test]
fn the_published_texts_are_those_of_c2sp() {
    for (input, output) in cases("published-checkpoint") {
        let text = |field: &str| output[field].as_str().unwrap().to_owned();
        let body = format!("{}\n{}\n{}\n", text("origin"), output["size"], BASE64.encode(&bytes(&output["root"])));
        assert_eq!(
            text("origin"),
            format!("exo-federation/{}", cases("genesis")[usize::from(input["members"] == 7)].1["federation_id"].as_str().unwrap())
        );
        let line = |name: &str, kind: u8, member: &Value, signature: &[u8]| {
            use sha2::Digest as _;
            let key = &input["genesis"]["members"][usize::try_from(number(member)).unwrap()]["cosignature_key"];
            let id = sha2::Sha256::digest([name.as_bytes(), b"\n", &[kind], &bytes(key)].concat());
            format!("\u{2014} {name} {}\n", BASE64.encode(&[&id[..4], signature].concat()))
        };
        let signed =
            |member: &Value, message: &[u8]| proof_fixture::secret(u8::try_from(number(member)).unwrap()).cosignature_key().sign(message).0.to_vec();
        let mut note = format!("{body}\n{}", line(&text("origin"), 1, &input["publisher"], &signed(&input["publisher"], body.as_bytes())));
        for (at, cosigner) in input["cosigners"].as_array().unwrap().iter().enumerate() {
            let (member, time) = (&cosigner["member"], number(&cosigner["timestamp"]));
            let message = format!("cosignature/v1\ntime {time}\n{body}");
            assert_eq!(output["messages"][at], message);
            let signature = signed(member, message.as_bytes());
            assert_eq!(output["signatures"][at], hex(&signature));
            let name = format!("{}/replica-{member}", text("origin"));
            note += &line(&name, 4, member, &[&time.to_be_bytes()[..], &signature].concat());
        }
        assert_eq!(text("note"), note);
        assert!(text("tlog_proof").starts_with("c2sp.org/tlog-proof@v1\nextra ") && text("tlog_proof").ends_with(&format!("\n\n{note}")));
    }
}

#[test]
fn the_documented_derivations_are_those_of_the_vectors() {
    for (input, output) in cases("replica-keys") {
        for name in ["consensus", "transport", "cosignature"] {
            let seed = Layout::tag(&format!("key/{name}")).raw(&bytes(&input["secret"])).hash();
            assert_eq!(output[format!("{name}_seed")], seed);
            assert_eq!(output[format!("{name}_key")], json!(SigningKey::from_seed(&array(&json!(seed))).public()));
        }
    }
    for (input, output) in cases("salt") {
        let id = input["update_id"].as_str().unwrap();
        let hash = Layout::tag("salt").raw(&bytes(&input["author_seed"])).u32(id.len()).raw(id.as_bytes()).hash();
        assert_eq!(output["salt"], hash[..32]);
    }
}

#[test]
#[ignore = "regenerates the frozen vectors"]
fn regenerate() {
    assert_eq!(std::env::var("EXOFED_REGENERATE_VECTORS").as_deref(), Ok("1"), "set EXOFED_REGENERATE_VECTORS=1 to overwrite the vectors");
    for kind in KINDS {
        let cases: Vec<Value> = inputs(kind).into_iter().map(|input| json!({ "output": output(kind, &input), "input": input })).collect();
        let mut text = serde_json::to_vec_pretty(&json!({ "kind": kind, "cases": cases })).unwrap();
        text.push(b'\n');
        std::fs::write(path(kind), text).unwrap();
    }
}

fn repeated(byte: u8) -> String {
    hex(&[byte; 32])
}

fn header_input(slot: u64) -> Value {
    json!({
        "kind": if slot == 9 { "epoch_end" } else { "normal" }, "federation_id": repeated(0x11), "epoch": 0, "slot": slot, "first_sequence": 100 + slot,
        "count": 1, "parent": repeated(0x22), "body_digest": repeated(0x33), "log_root": repeated(0x44), "timestamp": 1_700_000_000_000_u64 + slot,
        "membership_digest": repeated(0x55),
    })
}

fn submission_input(start: u64, count: u64) -> Value {
    let update = |i| json!({ "update_id": format!("update-{i}"), "data": hex(format!("payload {i}").as_bytes()), "timestamp": 1_000 + i });
    json!({
        "federation_id": repeated(0x11), "author_seed": repeated(0x61), "not_after": 1_700_000_060_000_u64,
        "updates": (start..start + count).map(update).collect::<Vec<_>>(),
    })
}

fn leaf_input(update_id: &str, sequence: u64) -> Value {
    json!({
        "sequence": sequence, "author": repeated(0x61), "update_id": update_id, "timestamp": 1_700_000_000_000_u64, "data_length": 9,
        "data_digest": repeated(0x66),
    })
}

fn view_change_input(replica: u16, stable: bool) -> Value {
    let checkpoint = checkpoint_input();
    let prepared =
        if stable { vec![json!({ "view": 2, "header": header_input(65) }), json!({ "view": 1, "header": header_input(66) })] } else { vec![] };
    json!({
        "federation_id": repeated(0x11), "epoch": 0, "new_view": 3, "replica": replica, "stable": if stable { checkpoint } else { Value::Null },
        "prepared": prepared,
    })
}

fn checkpoint_input() -> Value {
    json!({ "epoch": 0, "slot": 64, "sequence": 164, "digest": repeated(0x77), "log_root": repeated(0x44) })
}

fn proof_input(members: u8, opening: bool) -> Value {
    json!({ "members": members, "opening": opening, "genesis": proof_fixture::federation(members).genesis() })
}

fn published_input(members: u8, cosigners: &[u8]) -> Value {
    let cosigners: Vec<Value> = cosigners.iter().map(|member| json!({ "member": member, "timestamp": 1_700_000_000 + u64::from(*member) })).collect();
    json!({ "members": members, "genesis": proof_fixture::federation(members).genesis(), "publisher": 1, "cosigners": cosigners })
}

/// The log after `older` of the fixture's batches, 0 for the empty one, and the log after `newer`.
fn consistency_input(members: u8, older: usize, newer: usize) -> Value {
    json!({ "members": members, "older": older, "newer": newer, "genesis": proof_fixture::federation(members).genesis() })
}

fn evidence_inputs() -> Vec<Value> {
    let world = World::new();
    world.guilty().iter().map(|(name, ..)| json!({ "record": name, "genesis": world.federation.genesis() })).collect()
}

fn inputs(kind: &str) -> Vec<Value> {
    let federation_id = repeated(0x11);
    let salt = hex(&[0x5a; 16]);
    match kind {
        "data-digest" => ["", "00", "68656c6c6f"].iter().map(|data| json!({ "salt": salt, "update_id": "update-1", "data": data })).collect(),
        "leaf" => vec![leaf_input("update-1", 1), leaf_input("\u{e4}\u{2603}", u64::MAX), leaf_input(&"x".repeat(256), 7)],
        "submission" => vec![submission_input(1, 1), submission_input(2, 3)],
        "body" => vec![json!({ "federation_id": federation_id, "first_sequence": 5, "submissions": [submission_input(1, 1), submission_input(2, 3)] })],
        "header" => vec![header_input(1), header_input(9)],
        "vote" => ["pre_prepare", "prepare", "commit"]
            .iter()
            .map(|phase| json!({ "federation_id": federation_id, "phase": phase, "epoch": 0, "view": 2, "slot": 7, "digest": repeated(0x77), "replica_secret": repeated(1) }))
            .collect(),
        "checkpoint" => vec![json!({ "federation_id": federation_id, "checkpoint": checkpoint_input() })],
        "complaint" => vec![json!({ "federation_id": federation_id, "epoch": 0, "view": 2 })],
        "view-change" => vec![view_change_input(0, false), view_change_input(2, true)],
        "new-view" => vec![json!({
            "federation_id": federation_id, "epoch": 0, "view": 3,
            "view_changes": [view_change_input(0, false), view_change_input(1, true), view_change_input(2, true)],
        })],
        "genesis" => [4, 7].iter().map(|n| json!({ "genesis": proof_fixture::federation(*n).genesis() })).collect(),
        "replica-keys" => vec![json!({ "secret": repeated(1) }), json!({ "secret": repeated(0xfe) })],
        "salt" => vec![json!({ "author_seed": repeated(0x61), "update_id": "update-1" })],
        "merkle" => [1, 2, 3, 4, 5, 7, 8, 11, 16]
            .iter()
            .map(|size: &u64| json!({ "leaves": (0..*size).map(|i| hex(&i.to_le_bytes())).collect::<Vec<_>>() }))
            .collect(),
        "commit-proof" => vec![proof_input(4, true), proof_input(4, false), proof_input(7, true)],
        "published-checkpoint" => vec![published_input(4, &[0, 1, 3]), published_input(4, &[0, 1, 2, 3]), published_input(7, &[1, 2, 4, 5, 6])],
        "consistency-proof" => [(4, 0, 3), (4, 1, 6), (4, 3, 6), (4, 4, 4), (7, 4, 6)].map(|(n, older, newer)| consistency_input(n, older, newer)).into(),
        "evidence" => evidence_inputs(),
        other => panic!("no such kind of vector: {other}"),
    }
}
