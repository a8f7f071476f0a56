//! The HTTP interface of real replicas: submitting, asking, reading, proving, following.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod http_client;
mod http_stage;
mod stage;

use std::fs;

use exo_federation::config::FederationFile;
use exo_federation::proof::CommitProof;
use http_stage::{GATEWAY, eventually, gateway, http, init};
use serde_json::{Value, json};
use stage::{documents, exofed, exofed_with, stdout};

fn escaped(id: &str) -> String {
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn updates_are_submitted_once_and_their_fate_can_be_asked() {
    let mut stage = init(GATEWAY);
    stage.start();
    let (zero, one) = (gateway(&stage, 0), gateway(&stage, 1));

    let created = zero.post("/v1/updates", r#"{"update_id":"order-1","data":"two apples","timestamp":5}"#);
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.header("location"), "/v1/updates/order-1");
    let fate = created.json();
    assert_eq!((&fate["status"], &fate["sequence"], &fate["proof"]), (&json!("committed"), &json!(1), &json!("/v1/proofs/1")));
    // A retry, with another timestamp and through another gateway, appends nothing.
    for again in [&zero, &one] {
        let known = again.post("/v1/updates", r#"{"update_id":"order-1","data":"two apples"}"#);
        assert_eq!(known.status, 200, "{}", known.text());
        assert_eq!((&known.json()["sequence"], &known.json()["duplicate"]), (&json!(1), &json!(true)));
    }
    let conflict = one.post("/v1/updates", r#"{"update_id":"order-1","data":"three apples"}"#).problem(409, "conflict");
    assert_eq!((&conflict["update_id"], &conflict["href"]), (&json!("order-1"), &json!("/v1/updates/order-1")));
    // The refused payload is not what is in the log, and asking says both.
    let asked = one.get("/v1/updates/order-1").json();
    assert_eq!((&asked["status"], &asked["sequence"]), (&json!("committed"), &json!(1)));
    assert!(asked["reason"].as_str().unwrap().contains("another payload"), "{asked}");

    // Several: each has its fate, in the order of the request; one that is refused costs the others nothing.
    let several = zero.post("/v1/updates", r#"[{"update_id":"a","data":"1"},{"update_id":"order-1","data":"else"},{"data_base64":"AP8="}]"#);
    assert_eq!(several.status, 207, "{}", several.text());
    let results = several.json()["results"].as_array().unwrap().clone();
    let states: Vec<&str> = results.iter().map(|r| r["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["committed", "conflict", "committed"]);
    let made_up = results[2]["update_id"].as_str().unwrap();
    assert_eq!(zero.get(&format!("/v1/updates/{made_up}")).json()["sequence"], results[2]["sequence"]);
    // The same request again, as after a lost answer.
    let again = zero.post("/v1/updates", r#"[{"update_id":"a","data":"1"},{"update_id":"b","data":"2"}]"#);
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(again.json()["results"][0]["sequence"], results[0]["sequence"]);
    assert_eq!(again.json()["results"][0]["duplicate"], true);

    let lines = zero.request(
        "POST",
        "/v1/updates",
        &[("content-type", "application/x-ndjson")],
        b"{\"update_id\":\"l1\",\"data\":\"x\"}\n\n{\"update_id\":\"l2\",\"data\":\"y\"}",
    );
    assert_eq!((lines.status, lines.header("content-type")), (200, "application/x-ndjson"));
    let ids: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["update_id"].clone()).collect();
    assert_eq!(ids, ["l1", "l2"]);

    // Not waiting.
    for (path, headers, id) in [("/v1/updates?wait=0", ("x-none", "none"), "async-1"), ("/v1/updates", ("prefer", "respond-async"), "async-2")] {
        let body = json!({ "update_id": id, "data": "later" }).to_string();
        let taken = zero.request("POST", path, &[("content-type", "application/json"), headers], body.as_bytes());
        assert_eq!(taken.status, 202, "{}", taken.text());
        assert_eq!(taken.json()["status"], "pending");
        let asking = taken.header("location").to_owned();
        eventually("the update is committed", || zero.get(&asking).json()["status"] == "committed");
    }

    // Ids that a path does not hold as they are.
    for id in ["a/b?c=d#e", "..", "ä ö%", "x.y"] {
        let made = zero.post("/v1/updates", &json!({ "update_id": id, "data": "odd" }).to_string());
        assert_eq!(made.status, 201, "{}", made.text());
        let sequence = made.json()["sequence"].clone();
        assert_eq!(zero.get(&format!("/v1/updates/{}", escaped(id))).json()["sequence"], sequence, "{id}");
    }
    let author = asked["author"].as_str().unwrap();
    assert_eq!(one.get(&format!("/v1/updates/order-1?author={author}")).status, 200);
    one.get(&format!("/v1/updates/order-1?author={}", "0".repeat(64))).problem(404, "not-found");
    let nothing = one.get("/v1/updates/never-seen").problem(404, "not-found");
    assert!(nothing["detail"].as_str().unwrap().contains("not_after") && nothing["head"].as_u64().unwrap() > 1, "{nothing}");
    stage.stop();
}

#[test]
fn the_log_and_its_proofs_are_read_as_the_commands_read_them() {
    let mut stage = init(GATEWAY);
    stage.start();
    let zero = gateway(&stage, 0);
    let open = http(&stage, 0);
    let body: Vec<Value> = (1..=30).map(|n| json!({ "update_id": format!("u-{n}"), "data": format!("payload {n}") })).collect();
    assert_eq!(zero.post("/v1/updates", &Value::from(body).to_string()).status, 200);
    assert_eq!(zero.post("/v1/updates", r#"{"update_id":"binary","data_base64":"AP9/"}"#).status, 201);

    // Pages, without gaps, as `exofed log` shows the entries.
    let (mut next, mut entries) = (1, Vec::new());
    loop {
        let page = open.get(&format!("/v1/log?from={next}&limit=7")).json();
        let part = page["entries"].as_array().unwrap().clone();
        if part.is_empty() {
            assert_eq!(page["head"], 31);
            break;
        }
        assert!(part.len() <= 7);
        next = page["next"].as_u64().unwrap();
        entries.extend(part);
    }
    let shown = documents(&exofed(&["log", "--json", "--config", &stage.text("client.toml")]));
    assert_eq!(entries.len(), shown.len());
    for (entry, shown) in entries.iter().zip(&shown) {
        for member in ["sequence", "slot", "update_id", "author", "timestamp", "committed_at"] {
            assert_eq!(entry[member], shown[member]);
        }
    }
    assert_eq!((&entries[0]["data"], &entries[30]["data_base64"]), (&json!("payload 1"), &json!("AP9/")));
    assert_eq!(open.get("/v1/log/31").json(), entries[30]);
    assert_eq!(open.get("/v1/log/32").problem(404, "not-found")["head"], 31);
    open.get("/v1/log/0").problem(404, "not-found");
    assert_eq!(open.get("/v1/log?from=32").json()["entries"], json!([]));

    // A proof is the file that `exofed proof` writes, and it verifies offline.
    let over_http = open.get("/v1/proofs/31");
    assert_eq!(over_http.header("content-type"), "application/json");
    fs::write(stage.path("proof.json"), &over_http.body).unwrap();
    let verified = exofed(&["verify", &stage.text("proof.json"), "--genesis", &stage.text("federation.toml"), "--json"]);
    assert!(verified.status.success(), "{}", stdout(&verified));
    assert_eq!(documents(&verified)[0]["update_id"], "binary");
    let federation = FederationFile::read_genesis(&stage.path("federation.toml")).unwrap();
    let proof = CommitProof::from_json(&over_http.body, &federation).unwrap();
    let binary = open.request("GET", "/v1/proofs/31", &[("accept", "application/json;q=0.5, application/octet-stream")], b"");
    assert_eq!(binary.header("content-type"), "application/octet-stream");
    assert_eq!(CommitProof::from_bytes(&binary.body).unwrap(), proof);
    open.request("GET", "/v1/proofs/31", &[("accept", "text/html")], b"").problem(406, "not-acceptable");
    assert_eq!(open.get("/v1/proofs/32").problem(404, "not-found")["head"], 31);

    let consistency = open.get("/v1/proofs/consistency?from=1&to=31");
    fs::write(stage.path("consistency.json"), &consistency.body).unwrap();
    fs::write(stage.path("old.json"), open.get("/v1/proofs/1").body).unwrap();
    let (new, old, genesis) = (stage.text("consistency.json"), stage.text("old.json"), stage.text("federation.toml"));
    assert!(exofed(&["verify", &new, "--since", &old, "--genesis", &genesis]).status.success());
    open.get("/v1/proofs/consistency?from=31&to=1").problem(422, "rejected");
    open.get("/v1/proofs/consistency?from=1&to=99").problem(404, "not-found");
    open.get("/v1/proofs/consistency").problem(400, "malformed");

    let status = open.get("/v1/status").json();
    assert_eq!((&status["peer"], &status["sequence"], &status["quorum"]), (&json!("replica-0"), &json!(31), &json!(3)));
    assert_eq!(status["peers"].as_array().unwrap().len(), 3);
    assert_eq!(open.get("/v1/evidence").json(), json!({ "evidence": [] }));
    let metrics = open.get("/metrics").text();
    for line in ["exofed_commit_sequence 31", "exofed_http_updates_total{status=\"committed\"} 31", "# UNIT exofed_net_sent_bytes bytes", "# EOF"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let plain = open.request("GET", "/metrics", &[("accept", "text/plain")], b"");
    assert!(plain.header("content-type").starts_with("text/plain") && plain.text().contains("# HELP exofed_view "));

    // Whoever asks for the status is told where HTTP is.
    let told = documents(&exofed(&["status", "--json", "--config", &stage.text("client.toml")]));
    assert_eq!(told[0]["replicas"][0]["http"], json!(open.url));
    stage.stop();
}

#[test]
fn what_its_author_signed_passes_through_unaltered_or_not_at_all() {
    let mut stage = init("");
    stage.start();
    let zero = http(&stage, 0);
    // No gateway here has an author's key: it says so, to whoever may submit.
    let token = http_stage::token(&stage, 0, "app", "submit");
    zero.with_token(&token).post("/v1/updates", r#"{"data":"x"}"#).problem(403, "no-author");

    let lines = b"{\"update_id\":\"s-1\",\"data\":\"signed\"}\n{\"update_id\":\"s-2\",\"data\":\"too\"}\n";
    let signed = exofed_with(&["submit", "--sign-only", "--config", &stage.text("client.toml")], lines);
    let signed = documents(&signed).swap_remove(0);
    let post = |body: &Value| zero.post("/v1/submissions", &body.to_string());
    let refused = |change: &dyn Fn(&mut Value), kind: &str| {
        let mut changed = signed.clone();
        change(&mut changed);
        post(&changed).problem(422, kind)
    };
    refused(&|s| s["updates"][0]["data_base64"] = json!("Zm9yZ2Vk"), "rejected");
    refused(&|s| s["updates"][0]["update_id"] = json!("s-3"), "rejected");
    refused(&|s| s["not_after"] = json!(s["not_after"].as_u64().unwrap() + 1), "rejected");
    refused(&|s| s["updates"].as_array_mut().unwrap().truncate(1), "rejected");
    refused(&|s| s["author"] = json!("11".repeat(32)), "rejected");
    refused(&|s| s["updates"] = json!([]), "rejected");
    let other = refused(&|s| s["federation_id"] = json!("22".repeat(32)), "rejected");
    assert!(other["detail"].as_str().unwrap().contains("this one is"), "{other}");

    let committed = post(&signed);
    assert_eq!(committed.status, 200, "{}", committed.text());
    let sequences = |fates: &Value| fates["results"].as_array().unwrap().iter().map(|r| r["sequence"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(sequences(&committed.json()), [1, 2]);
    // The same through another replica, which holds it by then: once in the log, whoever passes it on.
    stage.settle(2);
    let again = http(&stage, 1).post("/v1/submissions", &signed.to_string()).json();
    assert_eq!(sequences(&again), [1, 2]);
    assert_eq!(again["results"][0]["duplicate"], true);
    // One of the ids with another payload: all or nothing, and the update at fault is named.
    let other = exofed_with(
        &["submit", "--sign-only", "--config", &stage.text("client.toml")],
        b"{\"update_id\":\"s-9\",\"data\":\"new\"}\n{\"update_id\":\"s-2\",\"data\":\"else\"}\n",
    );
    let conflict = post(&documents(&other)[0]).problem(409, "conflict");
    assert_eq!(conflict["update_id"], "s-2");
    eventually("the other update of it is refused too", || zero.get("/v1/updates/s-9").json()["status"] == "conflict");
    stage.stop();
}

#[test]
fn an_unknown_fate_is_called_unknown_and_found_out_later() {
    let mut stage = init(GATEWAY);
    stage.start();
    let zero = gateway(&stage, 0);
    eventually("the replica can vote", || zero.get("/readyz").status == 200);
    stage.kill(2);
    stage.kill(3);
    let open = zero.post("/v1/updates?wait=1", r#"{"update_id":"early","data":"no quorum"}"#);
    assert_eq!(open.status, 202, "{}", open.text());
    assert_eq!(open.json()["status"], "pending");
    assert!(open.json()["not_after"].as_u64().unwrap() > 0);
    assert_eq!(zero.get(open.header("location")).json()["status"], "pending");
    eventually("the replica notices that it reaches no quorum", || {
        let ready = zero.get("/readyz");
        ready.status == 503 && ready.problem(503, "not-ready")["obstacles"].to_string().contains("reaches 2 members")
    });
    assert_eq!(zero.get("/healthz").status, 200);
    assert_eq!(zero.get("/v1/status").json()["ready"], false);
    // A retry while the first is on its way is the same update.
    let retry = zero.post("/v1/updates?wait=1", r#"{"update_id":"early","data":"no quorum"}"#);
    assert_eq!(retry.status, 202, "{}", retry.text());
    stage.restart(2);
    stage.restart(3);
    eventually("it is committed", || zero.get("/v1/updates/early").json()["status"] == "committed");
    let known = zero.post("/v1/updates", r#"{"update_id":"early","data":"no quorum"}"#);
    assert_eq!((known.status, &known.json()["duplicate"]), (200, &json!(true)), "{}", known.text());
    eventually("the replica can vote again", || zero.get("/readyz").status == 200);
    stage.stop();
}
