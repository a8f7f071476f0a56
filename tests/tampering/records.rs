//! Records of evidence written out from `docs/proofs.md`, whether they convict or not.

use exo_federation::crypto::{Digest, merkle::Frontier};
use exo_federation::types::{
    BodyClaim, Evidence, EvidenceRule, Growth, Header, InvalidVote, Phase, PreparedClaim, SignedCheckpoint, SignedVote, StableClaim, SubmissionClaim,
    Unfaithful, UpdateClaim, UpdateId, ViewChangeClaim,
};
use serde_json::{Value, json};

use super::signed::headers;
use crate::proof_fixture::evidence::{LIAR, World, forgeries, key, prepared, stable};

fn vote(signed: &SignedVote) -> Value {
    let vote = signed.vote;
    json!({
        "kind": "vote", "phase": vote.phase, "epoch": vote.epoch, "view": vote.view, "slot": vote.slot, "digest": vote.digest,
        "signature": signed.signature,
    })
}

fn claim(claim: &ViewChangeClaim) -> Value {
    json!({ "epoch": claim.epoch, "new_view": claim.new_view, "stable": claim.stable, "prepared": claim.prepared })
}

fn with(mut object: Value, field: &str, value: impl serde::Serialize) -> Value {
    object[field] = json!(value);
    object
}

fn change(signed: &exo_federation::types::Signed<ViewChangeClaim>) -> Value {
    with(with(claim(&signed.statement), "kind", "view_change"), "signature", signed.signature)
}

fn new_view(signed: &exo_federation::types::Signed<exo_federation::types::NewViewClaim>) -> Value {
    let claim = &signed.statement;
    json!({ "kind": "new_view", "epoch": claim.epoch, "view": claim.view, "view_changes": claim.view_changes, "signature": signed.signature })
}

fn checkpoint(signed: &SignedCheckpoint) -> Value {
    with(with(json!(signed.checkpoint), "kind", "checkpoint"), "signature", signed.signature)
}

/// The statements in the order given, and what they are held against.
fn parts(evidence: &Evidence) -> (Vec<Value>, Option<Value>) {
    match evidence {
        Evidence::Votes { first, second } => (vec![vote(first), vote(second)], None),
        Evidence::Forgot { commit, change: left } => (vec![vote(commit), change(left)], None),
        Evidence::Unfaithful(found) => {
            let changes: Vec<Value> = found.changes.iter().map(|c| with(claim(c), "replica", c.replica)).collect();
            (vec![new_view(&found.new_view), vote(&found.vote)], Some(json!({ "view_changes": changes, "headers": found.headers })))
        }
        Evidence::ViewChanges { first, second } => (vec![change(first), change(second)], None),
        Evidence::NewViews { first, second } => (vec![new_view(first), new_view(second)], None),
        Evidence::Invalid(found) => {
            let InvalidVote { vote: said, header, parent, growth } = found.as_ref();
            (vec![vote(said)], Some(json!({ "header": header, "parent": parent, "growth": growth })))
        }
        Evidence::Checkpoints { first, second } => (vec![checkpoint(first), checkpoint(second)], None),
        // The fixture has none; their format is C2SP's, and C2SP's readers check it (tests/checkpoints.rs).
        Evidence::Cosignatures { .. } => unreachable!("no cosignatures among these records"),
    }
}

fn document(world: &World, rule: &Value, member: u16, statements: &[Value], against: Option<&Value>) -> Vec<u8> {
    let (id, member) = (world.federation.id(), world.federation.peer(member).unwrap());
    let file = json!({ "format": "exo-federation/evidence/2", "federation_id": id, "rule": rule, "member": member, "statements": statements });
    let file = match against {
        Some(against) => with(file, "against", against),
        None => file,
    };
    file.to_string().into_bytes()
}

/// A record, and the same with its statements exchanged, repeated, left out, of another member and under another rule.
fn variants(world: &World, what: &str, evidence: &Evidence) -> Vec<(String, Vec<u8>)> {
    let (said, against) = parts(evidence);
    let rule = json!(evidence.rule());
    let mut out = vec![];
    let mut put = |how: &str, rule: &Value, member, said: &[Value], against: Option<&Value>| {
        out.push((format!("{what}: {how}"), document(world, rule, member, said, against)));
    };
    put("as it is", &rule, LIAR, &said, against.as_ref());
    put("exchanged", &rule, LIAR, &said.iter().rev().cloned().collect::<Vec<_>>(), against.as_ref());
    put("one more", &rule, LIAR, &[said.as_slice(), &said[..1]].concat(), against.as_ref());
    put("one less", &rule, LIAR, &said[1..], against.as_ref());
    put("nothing to hold it against", &rule, LIAR, &said, None);
    put("null to hold it against", &rule, LIAR, &said, Some(&Value::Null));
    put("a tree to hold it against", &rule, LIAR, &said, Some(&json!({ "header": world.header(1), "parent": null, "growth": null })));
    put("a choice to hold it against", &rule, LIAR, &said, Some(&json!({ "view_changes": [], "headers": [] })));
    (0..4).filter(|member| *member != LIAR).for_each(|member| put("another member", &rule, member, &said, against.as_ref()));
    for other in ["E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8", "E9", "E10", "e1"] {
        put("by rule", &json!(other), LIAR, &said, against.as_ref());
    }
    out
}

/// Statements of the liar, each with the rule that two of its kind would break.
fn statements(world: &World) -> Vec<(Option<Phase>, Value)> {
    let [one, two, third] = [Digest([1; 32]), Digest([2; 32]), world.header(3).digest()];
    let mut out = vec![];
    for phase in [Phase::PrePrepare, Phase::Prepare, Phase::Commit] {
        for (view, slot, digest) in [(2, 3, third), (2, 3, one), (2, 5, one), (2, 5, two), (3, 5, two), (0, 0, one), (u64::MAX, u64::MAX, two)] {
            out.push((Some(phase), vote(&world.vote(LIAR, phase, view, slot, digest))));
        }
    }
    let named = |view, slot, digest| PreparedClaim { view, slot, digest };
    let [none, base, covers] = [StableClaim::default(), stable(world.header(1)), stable(world.header(3))];
    for (view, stable, prepared) in [
        (0, none, vec![]),
        (2, none, vec![]),
        (3, none, vec![]),
        (3, base, vec![]),
        (3, base, vec![named(2, 3, third)]),
        (3, base, vec![named(2, 3, one)]),
        (3, base, vec![named(1, 3, third)]),
        (3, base, vec![named(3, 3, two)]),
        (3, base, vec![named(2, 4, third), named(2, 3, two)]),
        (3, base, vec![named(2, 3, two), named(2, 3, third)]),
        (3, covers, vec![]),
        (4, base, vec![named(u64::MAX, 5, one)]),
        (u64::MAX, StableClaim { slot: u64::MAX, sequence: u64::MAX, ..none }, vec![]),
    ] {
        out.push((None, change(&world.change(LIAR, view, stable, prepared))));
    }
    let changes: Vec<ViewChangeClaim> = [0, 1, 3].map(|member| world.change(member, 2, none, vec![]).statement).into();
    for (view, named) in [(2, &changes[..]), (2, &changes[1..]), (2, &[]), (6, &changes[..]), (6, &changes[..1]), (3, &changes[..]), (3, &[])] {
        out.push((None, new_view(&world.new_view(view, named))));
    }
    for (slot, sequence, root) in [(8, 80, 1), (8, 80, 2), (8, 81, 1), (9, 80, 1), (9, 90, 3), (0, 0, 1), (u64::MAX, u64::MAX, 9)] {
        out.push((None, checkpoint(&world.checkpoint(slot, sequence, root))));
    }
    out
}

/// Every two of these statements, under the rule that they would break if they broke one.
fn pairs(world: &World) -> Vec<(String, Vec<u8>)> {
    let all = statements(world);
    let rule = |phase: &Option<Phase>, first: &Value, second: &Value| match (phase, first["kind"].as_str().unwrap(), second["kind"].as_str().unwrap())
    {
        (Some(Phase::PrePrepare), _, "vote") => "E1",
        (Some(Phase::Prepare), _, "vote") => "E2",
        (Some(Phase::Commit), _, "vote") => "E3",
        (_, "vote", _) => "E4",
        (_, "checkpoint", _) => "E9",
        _ => "E6",
    };
    let mut out = vec![];
    for (phase, first) in &all {
        for (_, second) in &all {
            let said = [first.clone(), second.clone()];
            out.push((format!("{first} and {second}"), document(world, &json!(rule(phase, first, second)), LIAR, &said, None)));
        }
    }
    out
}

/// New-views, what they choose, and what their leader then said.
fn choices(world: &World) -> Vec<Evidence> {
    let sound = world.unfaithful(3, Digest([1; 32]));
    let [second, third] = [2, 3].map(|slot| prepared(world.header(slot), 2));
    let nine = Digest([9; 32]);
    let base = stable(world.header(1));
    let header = |slot: usize| world.header(slot).clone();
    let mut moved = header(3);
    moved.slot = 4;
    let change = |at: usize, f: &dyn Fn(&mut ViewChangeClaim)| {
        let mut changes = sound.changes.clone();
        f(&mut changes[at]);
        changes
    };
    let sets = vec![
        sound.changes.clone(),
        vec![],
        sound.changes[1..].to_vec(),
        [&sound.changes[..], &sound.changes[..1]].concat(),
        sound.changes.iter().rev().cloned().collect(),
        change(1, &|c| c.stable.digest = nine),
        change(2, &|c| c.stable.digest = nine),
        change(0, &|c| c.stable = StableClaim { digest: nine, ..base }),
        change(2, &|c| c.prepared.insert(0, PreparedClaim { view: 1, digest: nine, ..second })),
        change(1, &|c| c.prepared.push(PreparedClaim { view: 1, digest: nine, ..second })),
        change(1, &|c| c.prepared.push(PreparedClaim { view: 2, digest: nine, ..third })),
        change(2, &|c| c.prepared.push(PreparedClaim { view: 0, digest: nine, ..third })),
        change(2, &|c| c.prepared.clear()),
        change(2, &|c| c.prepared.push(PreparedClaim { view: 5, digest: moved.digest(), ..third })),
        change(2, &|c| c.epoch = 7),
        change(2, &|c| c.new_view = 9),
        change(2, &|c| c.replica = 77),
        change(2, &|c| c.stable.slot = 2),
        change(2, &|c| c.stable = stable(world.header(2))),
        change(2, &|c| c.stable.slot = u64::MAX - 1),
        change(2, &|c| c.stable.slot = u64::MAX),
    ];
    let headers = [
        vec![],
        vec![header(2)],
        vec![header(2), header(3)],
        vec![header(3)],
        vec![header(3), header(2)],
        vec![header(1), header(2)],
        vec![header(2), moved],
    ];
    let said = [(2, Digest([1; 32])), (3, Digest([1; 32])), (2, header(2).digest()), (3, header(3).digest()), (4, nine), (0, nine), (u64::MAX, nine)];
    let mut out = vec![];
    for changes in sets {
        for headers in &headers {
            for (slot, digest) in said {
                let vote = world.vote(LIAR, Phase::Prepare, 2, slot, digest);
                let (new_view, changes, headers) = (world.new_view(2, &changes), changes.clone(), headers.clone());
                out.push(Evidence::Unfaithful(Box::new(Unfaithful { new_view, changes, headers, vote })));
            }
        }
    }
    for view in [0, 1, 3, 6, u64::MAX - 1] {
        let vote = world.vote(LIAR, Phase::Commit, view, 3, nine);
        out.push(Evidence::Unfaithful(Box::new(Unfaithful { vote: vote.clone(), ..sound.clone() })));
        out.push(Evidence::Unfaithful(Box::new(Unfaithful { vote, new_view: world.new_view(view, &sound.changes), ..sound.clone() })));
    }
    out
}

/// Headers and parents and trees and bodies that belong together or do not, and a vote for each.
fn invalid_headers(world: &World) -> Vec<Evidence> {
    let sound = world.invalid(true, |_| {});
    let growth = sound.growth.clone().unwrap();
    let mut last = world.header(1).clone();
    (last.first_sequence, last.slot, last.timestamp) = (u64::MAX, u64::MAX, 0);
    let parents: Vec<Option<Header>> = [world.header(1).clone(), last, world.header(2).clone()].into_iter().map(Some).chain([None]).collect();
    let with_body = |submissions: Vec<SubmissionClaim>| Growth { body: BodyClaim { submissions }, ..growth.clone() };
    let named = |id: String| {
        let mut submissions = growth.body.submissions.clone();
        submissions[0].updates[0] = UpdateClaim { update_id: UpdateId(id), ..submissions[0].updates[0].clone() };
        with_body(submissions)
    };
    let growths = vec![
        None,
        Some(growth.clone()),
        Some(Growth { peaks: vec![], ..growth.clone() }),
        Some(Growth { peaks: vec![Digest([3; 32]); 64], ..growth.clone() }),
        Some(Growth { peaks: growth.peaks.iter().rev().copied().collect(), ..growth.clone() }),
        Some(with_body(vec![])),
        Some(with_body(growth.body.submissions[1..].to_vec())),
        Some(with_body(vec![SubmissionClaim { updates: vec![], ..growth.body.submissions[0].clone() }])),
        Some(named(String::new())),
        Some(named("x".repeat(300))),
        Some(named("\u{0}\"\\\u{1f389}\u{2028}".into())),
    ];
    let mut out = vec![];
    for (_, mut header) in headers(&sound.header).into_iter().chain([(String::new(), sound.header.clone())]) {
        for parent in &parents {
            // Once with the parent that the header names anyway, once named for it.
            for renamed in [false, true] {
                for growth in &growths {
                    if renamed {
                        header.parent = parent.as_ref().map_or(Digest::ZERO, Header::digest);
                    }
                    // The body is the header's where that is what is tried.
                    let mut header = header.clone();
                    if let (true, Some(growth)) = (renamed, growth) {
                        header.body_digest = growth.body.digest(world.federation.id());
                    }
                    let vote = world.vote(LIAR, Phase::Prepare, 1, 2, header.digest());
                    out.push(Evidence::Invalid(Box::new(InvalidVote { vote, header, parent: parent.clone(), growth: growth.clone() })));
                }
            }
        }
    }
    // Numbers at the end of what a field holds, and a tree larger than any.
    for (slot, size) in [(u64::MAX, u64::MAX), (1, 1 << 56), (1, (1 << 56) + 1), (1, 1 << 57)] {
        let peaks = vec![Digest([3; 32]); size.count_ones() as usize];
        let log_root = Frontier::from_peaks(size, peaks.clone()).unwrap().root();
        let parent = Header { slot, first_sequence: size, count: 1, log_root, timestamp: 0, ..world.header(1).clone() };
        let (slot, first_sequence) = (slot.saturating_add(1), size.saturating_add(1));
        let header = Header { slot, first_sequence, parent: parent.digest(), log_root: Digest([4; 32]), ..sound.header.clone() };
        let vote = world.vote(LIAR, Phase::Prepare, 1, slot, header.digest());
        for growth in [None, Some(Growth { peaks, ..growth.clone() })] {
            let (vote, header, parent) = (vote.clone(), header.clone(), Some(parent.clone()));
            out.push(Evidence::Invalid(Box::new(InvalidVote { vote, header, parent, growth })));
        }
    }
    for (phase, epoch, slot) in [(Phase::Commit, 0, 2), (Phase::PrePrepare, 0, 3), (Phase::Commit, 1, 2)] {
        let mut found = world.invalid(false, |h| h.timestamp = 0);
        found.vote = world.vote(LIAR, phase, 1, slot, found.header.digest());
        found.vote.vote.epoch = epoch;
        found.vote.signature = key(LIAR).sign(&found.vote.vote.signed_bytes(world.federation.id()));
        out.push(Evidence::Invalid(found.into()));
    }
    out
}

/// All of these.
pub(crate) fn records(world: &World) -> Vec<(String, Vec<u8>)> {
    let guilty = world.guilty().into_iter().map(|(what, _, evidence)| (what.to_owned(), evidence));
    let forged =
        world.guilty().into_iter().flat_map(|(what, _, evidence)| forgeries(evidence).into_iter().map(move |e| (format!("{what}, forged"), e)));
    let innocent = world.innocent().into_iter().map(|(what, evidence)| (what.to_owned(), evidence));
    let known = guilty.chain(forged).chain(innocent).flat_map(|(what, evidence)| variants(world, &what, &evidence));
    let told = choices(world).into_iter().chain(invalid_headers(world)).map(|evidence| {
        let (said, against) = parts(&evidence);
        let rule = match evidence.rule() {
            EvidenceRule::UnfaithfulLeader => "E5",
            _ => "E7",
        };
        (format!("{evidence:?}"), document(world, &json!(rule), LIAR, &said, against.as_ref()))
    });
    known.chain(pairs(world)).chain(told).collect()
}
