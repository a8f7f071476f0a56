//! A small HTTP client for tests: whole answers, raw sockets, and streams of events.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use ureq::http;

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// A replica's HTTP interface, and the token to use there.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    agent: ureq::Agent,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a whole problem document of a kind, and gives it.
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:exo-federation:problem:{kind}"), "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(problem["title"].is_string() && !problem["detail"].as_str().unwrap().is_empty(), "{problem}");
        problem
    }
}

impl Http {
    pub(crate) fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(LIMIT)).build();
        Self { url: url.to_owned(), token: None, agent: config.into() }
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// "host:port".
    pub(crate) fn authority(&self) -> &str {
        self.url.split("//").nth(1).unwrap()
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = if body.is_empty() { self.agent.run(request.body(()).unwrap()) } else { self.agent.run(request.body(body).unwrap()) };
        let mut response = response.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let body = response.body_mut().with_config().limit(256 << 20).read_to_vec().unwrap();
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, &[("content-type", "application/json")], body.as_bytes())
    }

    /// Sends these very bytes; gives the socket.
    pub(crate) fn raw(&self, bytes: &[u8]) -> TcpStream {
        let mut socket = TcpStream::connect(self.authority()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        socket.write_all(bytes).unwrap();
        socket
    }

    /// Opens a stream of events.
    pub(crate) fn events(&self, path: &str, last_id: Option<u64>) -> Events {
        let token = self.token.as_ref().map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let last = last_id.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
        let socket = self.raw(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n{token}{last}\r\n", self.authority()).as_bytes());
        Events::new(socket)
    }
}

/// Server-sent events from a chunked answer.
pub(crate) struct Events {
    lines: BufReader<Chunks>,
    pub(crate) status: String,
}

/// One event: its id and its data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<u64>,
    pub(crate) data: Option<Value>,
}

impl Events {
    fn new(socket: TcpStream) -> Self {
        let mut input = BufReader::new(socket);
        let mut status = String::new();
        input.read_line(&mut status).unwrap();
        loop {
            let mut line = String::new();
            input.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
        }
        Self { lines: BufReader::new(Chunks { input, left: 0, ended: None }), status }
    }

    /// The next event, with data or only with an id; `None` once the stream has ended.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: None, data: None };
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            // A line that breaks off is none.
            let line = line.strip_suffix('\n')?;
            if line.is_empty() {
                if event.id.is_some() || event.data.is_some() {
                    return Some(event);
                }
            } else if let Some(id) = line.strip_prefix("id: ") {
                event.id = Some(id.parse().unwrap());
            } else if let Some(data) = line.strip_prefix("data: ") {
                event.data = Some(serde_json::from_str(data).unwrap());
            }
        }
    }

    /// The next entry.
    pub(crate) fn entry(&mut self) -> Option<Value> {
        loop {
            let event = self.next()?;
            if let Some(data) = event.data {
                assert_eq!(data["sequence"].as_u64(), event.id, "an event's id is its entry's place");
                return Some(data);
            }
        }
    }

    /// Whether the answer ended as HTTP says: with its last chunk.
    pub(crate) fn ended_in_order(&self) -> bool {
        self.lines.get_ref().ended == Some(true)
    }
}

struct Chunks {
    input: BufReader<TcpStream>,
    left: usize,
    /// Whether the end was the last chunk, or the connection's.
    ended: Option<bool>,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.ended.is_some() {
            return Ok(0);
        }
        while self.left == 0 {
            let mut size = String::new();
            if self.input.read_line(&mut size)? == 0 {
                self.ended = Some(false);
                return Ok(0);
            }
            if size.trim().is_empty() {
                continue;
            }
            self.left = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|e| panic!("{e}: {size:?}"));
            if self.left == 0 {
                self.ended = Some(true);
                return Ok(0);
            }
        }
        let wanted = out.len().min(self.left);
        let read = self.input.read(&mut out[..wanted])?;
        if read == 0 {
            self.ended = Some(false);
        }
        self.left -= read;
        Ok(read)
    }
}
