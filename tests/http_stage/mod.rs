//! A federation whose replicas speak HTTP, for tests.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::{Duration, Instant};

use crate::http_client::Http;
use crate::stage::{Stage, exofed, stderr, stdout};

/// Makes a federation with these lines added to each replica's `[http]`; nothing runs yet.
pub(crate) fn init(http: &str) -> Stage {
    let stage = Stage::init();
    (0..4).for_each(|k| configure(&stage, k, http));
    stage
}

/// The line that gives a replica the author's key.
pub(crate) const GATEWAY: &str = "author_key = \"../author.key\"\n";

/// Adds lines to a replica's `[http]`, the last table that `init` writes.
pub(crate) fn configure(stage: &Stage, replica: usize, http: &str) {
    let path = stage.path(&format!("replica-{replica}/replica.toml"));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + http).unwrap();
}

/// A replica's HTTP interface, without a token.
pub(crate) fn http(stage: &Stage, replica: usize) -> Http {
    let text = fs::read_to_string(stage.path(&format!("replica-{replica}/replica.toml"))).unwrap();
    let table: toml::Table = text.parse().unwrap();
    Http::new(&format!("http://{}", table["http"]["listen"].as_str().unwrap()))
}

/// Makes a token at a replica.
pub(crate) fn token(stage: &Stage, replica: usize, name: &str, scope: &str) -> String {
    let config = stage.text(&format!("replica-{replica}/replica.toml"));
    let made = exofed(&["token", "add", name, "--scope", scope, "--config", &config]);
    assert!(made.status.success(), "{}", stderr(&made));
    stdout(&made).trim().to_owned()
}

/// A replica's HTTP interface with a token that may read and submit.
pub(crate) fn gateway(stage: &Stage, replica: usize) -> Http {
    http(stage, replica).with_token(&token(stage, replica, "gateway", "read,submit"))
}

/// Waits until something is true.
pub(crate) fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
