//! Following the log over HTTP: nothing is skipped and nothing comes twice, whatever happens to replica and client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod http_client;
mod http_stage;
mod stage;

use http_client::{Events, Http};
use http_stage::{GATEWAY, configure, eventually, gateway, http, init};
use serde_json::{Value, json};

/// Submits so many updates in one request.
fn submit(to: &Http, prefix: &str, count: usize) {
    let updates: Vec<Value> = (0..count).map(|n| json!({ "update_id": format!("{prefix}-{n}"), "data": "x" })).collect();
    let answer = to.post("/v1/updates", &Value::from(updates).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn take(events: &mut Events, count: usize, seen: &mut Vec<u64>) {
    for _ in 0..count {
        seen.push(events.entry().expect("the stream ended early")["sequence"].as_u64().unwrap());
    }
}

#[test]
fn a_stream_goes_on_where_it_ended_across_restarts_kills_and_replicas() {
    let mut stage = init(GATEWAY);
    stage.start();
    let zero = gateway(&stage, 0);
    let one = http(&stage, 1);
    let mut seen = Vec::new();
    submit(&zero, "first", 40);
    let mut events = one.events("/v1/log/stream", None);
    assert!(events.status.contains("200"), "{}", events.status);
    take(&mut events, 40, &mut seen);
    // Live.
    submit(&zero, "second", 10);
    take(&mut events, 5, &mut seen);
    // The replica stops in order while the client lags behind: the stream ends as HTTP says.
    stage.stop_one(1);
    while let Some(entry) = events.entry() {
        seen.push(entry["sequence"].as_u64().unwrap());
    }
    assert!(events.ended_in_order());
    submit(&zero, "third", 20);
    stage.restart(1);
    let mut events = one.events("/v1/log/stream?from=1", seen.last().copied());
    take(&mut events, 70 - seen.len(), &mut seen);
    // Killed in the middle: the client goes on at another replica, which may not have everything yet.
    stage.kill(1);
    while let Some(entry) = events.entry() {
        seen.push(entry["sequence"].as_u64().unwrap());
    }
    assert!(!events.ended_in_order());
    let mut events = http(&stage, 2).events("/v1/log/stream", seen.last().copied());
    submit(&zero, "fourth", 30);
    take(&mut events, 100 - seen.len(), &mut seen);
    assert_eq!(seen, (1..=100).collect::<Vec<u64>>());

    // Only what is new: the id is told before the first entry, so that a client that never saw one still comes back to the right place.
    let mut newest = zero.events("/v1/log/stream?tail=0", None);
    let opening = newest.next().unwrap();
    assert_eq!((opening.id, opening.data), (Some(100), None));
    let mut last = zero.events("/v1/log/stream?tail=3", None);
    assert_eq!(last.entry().unwrap()["sequence"], 98);
    let mut ahead = zero.events("/v1/log/stream?from=103", None);
    submit(&zero, "fifth", 5);
    assert_eq!(newest.entry().unwrap()["sequence"], 101);
    assert_eq!(ahead.entry().unwrap()["sequence"], 103);

    zero.request("GET", "/v1/log/stream", &[("last-event-id", "not a number")], b"").problem(400, "malformed");
    zero.get("/v1/log/stream?from=1&tail=1").problem(400, "malformed");
    zero.get("/v1/log/stream?from=0").problem(400, "malformed");
    stage.restart(1);
    stage.stop();
}

#[test]
fn a_client_that_takes_nothing_is_let_go_and_holds_nobody_else() {
    let mut stage = init(GATEWAY);
    configure(&stage, 1, "write_timeout_ms = 500\nmax_streams = 2\nkeep_alive_ms = 100\n");
    stage.start();
    let zero = gateway(&stage, 0);
    let one = http(&stage, 1);
    // More than sockets buffer.
    for n in 0..24 {
        let body = json!({ "update_id": format!("large-{n}"), "data": "x".repeat(1_000_000) }).to_string();
        assert_eq!(zero.post("/v1/updates", &body).status, 201);
    }
    stage.settle(24);
    let open = |metrics: &Http| metrics.get("/metrics").text().lines().any(|line| line == "exofed_http_streams 0");
    let idle = one.events("/v1/log/stream", None);
    let other = one.events("/v1/log/stream?tail=0", None);
    one.get("/v1/log/stream").problem(503, "busy");
    drop(other);
    // The one who reads gets all of it meanwhile.
    eventually("the dropped stream makes room", || {
        let mut reading = one.events("/v1/log/stream", None);
        reading.status.contains("200") && (1..=24).all(|sequence| reading.entry().is_some_and(|entry| entry["sequence"] == sequence))
    });
    eventually("the idle client is let go", || open(&one));
    let mut idle = idle;
    let got = std::iter::from_fn(|| idle.entry()).count();
    assert!(got < 24 && !idle.ended_in_order(), "{got} entries");
    stage.stop();
}
