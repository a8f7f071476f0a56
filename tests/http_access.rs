//! Who may do what over HTTP, what no client can do to a replica, and the shape of every error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod http_client;
mod http_stage;
mod stage;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_stage::{GATEWAY, configure, eventually, gateway, http, init, token};
use serde_json::json;
use stage::{Stage, exofed, stderr, stdout};

const UPDATE: &str = r#"{"data":"x"}"#;

#[test]
fn a_token_permits_its_scopes_until_it_is_revoked() {
    let mut stage = init(GATEWAY);
    configure(&stage, 1, "anonymous_reads = \"never\"\n");
    stage.start();
    let (zero, one) = (http(&stage, 0), http(&stage, 1));
    // No token file yet: reading is open on loopback, having the replica sign is not.
    assert_eq!(zero.get("/v1/log").status, 200);
    let refused = zero.post("/v1/updates", UPDATE);
    refused.problem(401, "unauthorized");
    assert!(refused.header("www-authenticate").starts_with("Bearer"));
    for path in [
        "/v1/log",
        "/v1/log/1",
        "/v1/log/stream",
        "/v1/status",
        "/v1/evidence",
        "/v1/proofs/1",
        "/v1/proofs/consistency?from=1",
        "/metrics",
        "/v1/updates/x",
    ] {
        one.get(path).problem(401, "unauthorized");
    }
    one.post("/v1/submissions", "{}").problem(401, "unauthorized");
    for path in ["/", "/healthz", "/readyz", "/v1/openapi.json"] {
        assert!(one.get(path).status != 401, "{path}");
    }

    let reader = one.with_token(&token(&stage, 1, "reader", "read"));
    assert_eq!(reader.get("/v1/log").status, 200, "read without a restart");
    reader.post("/v1/updates", UPDATE).problem(403, "forbidden");
    reader.post("/v1/submissions", "{}").problem(403, "forbidden");
    let writer = one.with_token(&token(&stage, 1, "writer", "submit"));
    assert_eq!(writer.post("/v1/updates", r#"{"update_id":"w","data":"x"}"#).status, 201);
    assert_eq!(writer.get("/v1/updates/w").status, 200, "who submits may ask for the fate");
    writer.get("/v1/log").problem(403, "forbidden");
    let admin = one.with_token(&token(&stage, 1, "admin", "admin"));
    assert_eq!((admin.get("/v1/log").status, admin.post("/v1/updates", UPDATE).status), (200, 201));

    // At rest there are hashes alone, for the owner alone.
    let path = stage.path("replica-1/tokens.toml");
    let kept = fs::read_to_string(&path).unwrap();
    assert!(!kept.contains(reader.token.as_ref().unwrap().trim_start_matches("exofed_")));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let config = stage.text("replica-1/replica.toml");
    let listed = exofed(&["token", "list", "--config", &config, "--json"]);
    assert!(stdout(&listed).contains("reader") && !stdout(&listed).contains("sha256"), "{}", stdout(&listed));

    // Rotation: the old one is refused at once, the new one taken at once.
    assert!(exofed(&["token", "revoke", "reader", "--config", &config]).status.success());
    reader.get("/v1/log").problem(401, "unauthorized");
    let renewed = one.with_token(&token(&stage, 1, "reader", "read"));
    assert_eq!(renewed.get("/v1/log").status, 200);
    let twice = exofed(&["token", "add", "reader", "--config", &config]);
    assert!(!twice.status.success() && stderr(&twice).contains("revoke it first"), "{}", stderr(&twice));
    assert!(!exofed(&["token", "revoke", "nobody", "--config", &config]).status.success());
    assert!(!exofed(&["token", "add", "x", "--scope", "root", "--config", &config]).status.success());

    // A file that cannot be read admits nobody, and says so; mended, it is read again.
    let kept = fs::read_to_string(&path).unwrap();
    fs::write(&path, "[[token]]\nname = 5\n").unwrap();
    renewed.get("/v1/log").problem(503, "no-tokens");
    fs::write(&path, kept).unwrap();
    assert_eq!(renewed.get("/v1/log").status, 200);

    // Any token that is not known is refused, even where nothing would be needed.
    zero.with_token("exofed_guess").get("/v1/log").problem(401, "unauthorized");
    zero.request("GET", "/v1/log", &[("authorization", "Basic YTpi")], b"").problem(401, "unauthorized");
    // Open on loopback means: by a name of loopback, and through no proxy.
    for header in [("host", "evil.example"), ("x-forwarded-for", "203.0.113.5"), ("forwarded", "for=203.0.113.5"), ("via", "1.1 proxy")] {
        zero.request("GET", "/v1/log", &[header], b"").problem(401, "unauthorized");
    }
    for host in ["localhost:80", "127.0.0.1", "[::1]:7480"] {
        assert_eq!(zero.request("GET", "/v1/log", &[("host", host)], b"").status, 200, "{host}");
    }
    stage.stop();
}

#[test]
fn every_error_is_a_problem_document() {
    let mut stage = init(GATEWAY);
    configure(&stage, 0, "max_body_bytes = 65_536\nmax_bodies_bytes = 262_144\nmax_updates = 3\n");
    stage.start();
    let zero = gateway(&stage, 0);
    let json = ("content-type", "application/json");

    zero.get("/v2/nothing").problem(404, "not-found");
    let method = zero.request("DELETE", "/v1/log", &[], b"");
    method.problem(405, "method-not-allowed");
    assert_eq!(method.header("allow"), "GET,HEAD");
    for query in ["from=x", "from=-1", "from=0", "limit=0", "limit=1001", "from=9007199254740993", "unknown=1", "from=1&from=2", "limit=5.5"] {
        zero.get(&format!("/v1/log?{query}")).problem(400, "malformed");
    }
    for path in ["/v1/log/x", "/v1/proofs/-1", "/v1/updates/%FF", "/v1/proofs/99999999999999999999"] {
        zero.get(path).problem(400, "malformed");
    }
    zero.get(&format!("/v1/updates/{}", "x".repeat(257))).problem(400, "malformed");
    for body in ["", "{", "nonsense", "[{\"data\":\"a\"}", "5", "{\"data\":5}", "{\"data\":\"a\",\"extra\":1}", "{\"timestamp\":-1,\"data\":\"a\"}"] {
        zero.post("/v1/updates", body).problem(400, "malformed");
    }
    let line = zero.request("POST", "/v1/updates", &[("content-type", "application/x-ndjson")], b"{\"data\":\"a\"}\n{\"data\":}\n");
    assert_eq!(line.problem(400, "malformed")["line"], 2);
    for body in ["{}", "[]", r#"{"data":"a","data_base64":"YQ=="}"#, r#"{"data_base64":"YQ"}"#, r#"{"data":"a","update_id":""}"#] {
        zero.post("/v1/updates", body).problem(422, "rejected");
    }
    zero.post("/v1/updates", &json!({ "data": "a", "update_id": "é".repeat(129) }).to_string()).problem(422, "rejected");
    let twice = zero.post("/v1/updates", r#"[{"data":"a","update_id":"same"},{"data":"b","update_id":"same"}]"#).problem(422, "rejected");
    assert_eq!(twice["index"], 1);
    assert_eq!(zero.post("/v1/updates", &format!("[{}]", [UPDATE; 4].join(","))).problem(413, "too-large")["limit"], 3);
    zero.post("/v1/updates?wait=61", UPDATE).problem(400, "malformed");
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        zero.request("POST", "/v1/updates", &[("content-type", kind)], UPDATE.as_bytes()).problem(415, "unsupported-media-type");
    }

    // Too much, told before it is read: by its length, by its chunks, by its place.
    let large = zero.request("POST", "/v1/updates", &[json], &vec![b' '; 65_537]);
    assert_eq!(large.problem(413, "too-large")["limit"], 65_536);
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(65_536));
    let head = format!("POST /v1/updates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", zero.token.as_ref().unwrap());
    let chunked = [&head, "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n", &chunk, &chunk, "0\r\n\r\n"].concat();
    assert!(answer_to(&mut zero.raw(chunked.as_bytes())).starts_with("HTTP/1.1 413"));
    zero.get(&format!("/v1/log?{}", "x".repeat(9_000))).problem(414, "uri-too-long");
    zero.request("GET", "/v1/log", &[("x-long", &"x".repeat(20_000))], b"").problem(431, "headers-too-large");

    // What is no HTTP gets no document: nobody is there to read it.
    for garbage in ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"] {
        assert!(answer_to(&mut zero.raw(garbage.as_bytes())).starts_with("HTTP/1.1 400"), "{garbage:?}");
    }
    assert_eq!(zero.request("GET", "/healthz", &[("x-request-id", "mine-1")], b"").header("x-request-id"), "mine-1");
    assert_ne!(zero.request("GET", "/healthz", &[("x-request-id", "not mine; really")], b"").header("x-request-id"), "not mine; really");
    assert!(zero.get("/healthz").header("x-request-id") != zero.get("/healthz").header("x-request-id"));
    // The page for people asks nothing of anyone else.
    let page = zero.get("/");
    assert!(page.header("content-type").starts_with("text/html") && page.header("content-security-policy").contains("default-src 'none'"));
    assert!(!page.text().contains("http://") && page.text().contains("replica-0"));
    stage.stop();
}

/// Everything that comes until the connection ends.
fn answer_to(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn slow_and_greedy_clients_are_closed_in_time() {
    let mut stage = init(GATEWAY);
    let limits = "header_timeout_ms = 400\nbody_timeout_ms = 400\nmax_connections = 6\nmax_requests = 4\nmax_requests_per_caller = 2\ndrain_timeout_ms = 1000\n";
    configure(&stage, 0, limits);
    stage.start();
    let zero = gateway(&stage, 0);
    eventually("the replica can vote", || zero.get("/readyz").status == 200);

    // No head, half a head that grows byte by byte, and an idle connection behind a whole request.
    let began = Instant::now();
    let mut silent = zero.raw(b"");
    let mut dripping = zero.raw(b"GET /healthz HTTP/1.1\r\n");
    let mut idle = zero.raw(format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", zero.authority()).as_bytes());
    let mut reset = false;
    while !reset && began.elapsed() < Duration::from_secs(20) {
        reset = dripping.write_all(b"a").is_err();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(reset, "a head that never ends holds a connection");
    assert_eq!(answer_to(&mut silent), "");
    assert!(answer_to(&mut idle).starts_with("HTTP/1.1 200"));
    // A body that never ends.
    let head = format!(
        "POST /v1/updates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        zero.token.as_ref().unwrap()
    );
    let late = answer_to(&mut zero.raw(head.as_bytes()));
    assert!(late.starts_with("HTTP/1.1 408") && late.contains("urn:exo-federation:problem:body-timeout"), "{late}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());

    // More connections than allowed: the one too many is told and closed, and there is room again once the others are gone.
    let held: Vec<TcpStream> = (0..6).map(|_| zero.raw(b"")).collect();
    eventually("a connection too many is told so", || {
        let told = answer_to(&mut zero.raw(b""));
        assert!(told.is_empty() || (told.starts_with("HTTP/1.1 503") && told.contains("retry-after: 1") && told.ends_with('}')), "{told}");
        !told.is_empty()
    });
    drop(held);
    eventually("there is room again", || {
        answer_to(&mut zero.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).starts_with("HTTP/1.1 200")
    });

    // More requests than allowed: without a quorum submissions wait.
    stage.kill(2);
    stage.kill(3);
    let waiting = |id: &str| {
        let (client, body) = (zero.clone(), json!({ "update_id": id, "data": "x" }).to_string());
        std::thread::spawn(move || client.post("/v1/updates?wait=8", &body))
    };
    let first = [waiting("g-1"), waiting("g-2")];
    eventually("one caller has as much under way as it may", || {
        let answer = zero.get("/v1/log");
        answer.status == 429 && {
            answer.problem(429, "too-many-requests");
            answer.header("retry-after") == "1"
        }
    });
    // Others, and those who watch, are still served.
    assert_eq!(http(&stage, 0).get("/v1/log").status, 200);
    assert_eq!(http(&stage, 0).get("/metrics").status, 200);
    first.into_iter().for_each(|waiting| assert_eq!(waiting.join().unwrap().status, 202));

    // It stops in order though a client holds a connection open.
    let _open = zero.raw(b"GET /healthz");
    let began = Instant::now();
    stage.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Starts replica 0 with this `[http]` in place of its own; gives what it says if it refuses.
fn refusal(stage: &Stage, http: &str) -> String {
    let path = stage.path("replica-0/replica.toml");
    let text = fs::read_to_string(&path).unwrap();
    let own = text.split("[http]").next().unwrap();
    fs::write(&path, format!("{own}[http]\n{http}")).unwrap();
    let run = exofed(&["serve", "--until-stdin-ends", "--config", path.to_str().unwrap()]);
    if run.status.success() { String::new() } else { stderr(&run) }
}

#[test]
fn beyond_loopback_it_needs_tls_or_an_explicit_word() {
    let mut stage = init("");
    let certified = rcgen::generate_simple_self_signed(["replica.test".to_owned()]).unwrap();
    fs::write(stage.path("replica-0/chain.pem"), certified.cert.pem()).unwrap();
    fs::write(stage.path("replica-0/tls.pem"), certified.signing_key.serialize_pem()).unwrap();
    let mode = |mode: u32| fs::set_permissions(stage.path("replica-0/tls.pem"), fs::Permissions::from_mode(mode)).unwrap();
    let tls = "tls_certificate = \"chain.pem\"\ntls_key = \"tls.pem\"\n";

    let plain = refusal(&stage, "listen = \"0.0.0.0:0\"\n");
    assert!(plain.contains("[http]") && plain.contains("beyond loopback") && plain.contains("insecure = true"), "{plain}");
    assert_eq!(refusal(&stage, "listen = \"0.0.0.0:0\"\ninsecure = true\n"), "");
    mode(0o644);
    let readable = refusal(&stage, &format!("listen = \"0.0.0.0:0\"\n{tls}"));
    assert!(readable.contains("tls.pem") && readable.contains("chmod 600"), "{readable}");
    mode(0o600);
    assert!(refusal(&stage, "listen = \"127.0.0.1:0\"\ntls_key = \"tls.pem\"\n").contains("without tls_certificate"));
    assert!(refusal(&stage, "listen = \"127.0.0.1:0\"\ntls_key = \"tls.pem\"\ntls_certificate = \"tls.pem\"\n").contains("certificate"));
    assert!(refusal(&stage, "listen = \"nowhere\"\n").contains("no address to listen at"));
    assert!(refusal(&stage, "listen = \"127.0.0.1:0\"\nauthor_key = \"secret.key\"\n").contains("admits as no author"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = refusal(&stage, &format!("listen = \"{}\"\n", taken.local_addr().unwrap()));
    assert!(in_use.contains("cannot listen at") && in_use.contains("[http]"), "{in_use}");
    let port = taken.local_addr().unwrap().port();
    drop(taken);

    // With TLS it runs beyond loopback; reading is open to nobody there.
    assert_eq!(refusal(&stage, &format!("listen = \"0.0.0.0:{port}\"\n{tls}")), "");
    stage.restart(0);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = Arc::new(builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth());
    let ask = |token: &str| {
        let name = "replica.test".try_into().unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut tls = rustls::StreamOwned::new(rustls::ClientConnection::new(config.clone(), name).unwrap(), socket);
        tls.write_all(format!("GET /v1/log HTTP/1.1\r\nhost: localhost\r\n{token}connection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    assert!(ask("").starts_with("HTTP/1.1 401"));
    let token = token(&stage, 0, "reader", "read");
    assert!(ask(&format!("authorization: Bearer {token}\r\n")).starts_with("HTTP/1.1 200"));
    let mut clear = TcpStream::connect(("127.0.0.1", port)).unwrap();
    clear.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(!answer_to(&mut clear).contains("200 OK"), "answered in the clear");
    stage.stop();
}
