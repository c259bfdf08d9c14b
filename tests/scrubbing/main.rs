//! What clients send stays out of the log at every level, out of spans, metrics, and what other clients are answered.
//!
//! The real binary runs with keys, tokens and a collector, logging at `trace`. Every place of a request where a client
//! may put something holds a random string of its own; the requests are sent whole and damaged, and then everything the
//! process has said is searched for any piece of any of those strings, in the forms they may have taken on the way.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod canary;
#[path = "../observability/collector.rs"]
#[allow(dead_code, reason = "the tests of traces use the rest")]
mod collector;
mod keys;
mod process;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod wire;

use canary::Canaries;
use collector::Collector;
use keys::Keys;
use process::{Options, Process, exchange, throw};
use requests::{Place, hostile, innocent};
use tokens::Issuer;
use wire::mutated;

/// Damaged requests sent to each port.
const DAMAGED: u64 = 400;

/// What a process has said, by where.
struct Said {
    log: String,
    spans: String,
    metrics: String,
    others: String,
}

/// Sends everything to a process that logs in `format`.
async fn heard(format: &str, canaries: &mut Canaries) -> Said {
    let mut collector = Collector::start().await;
    let url = collector.url();
    let issuer = Issuer::new();
    let keys = Keys::make(canaries, &issuer);
    let options = Options { format, keys: Some(&keys.file), jwks: Some(&issuer.file), collector: Some(&url) };
    let exporters = format!("authorization=Bearer%20{}", canaries.at("the collector's own key"));
    let process = Process::start(&options, &[("OTEL_EXPORTER_OTLP_HEADERS", exporters.as_str())]);

    let requests = hostile(canaries, &keys);
    assert!(requests.len() > 200, "{}", requests.len());
    let mut refused = 0;
    for request in &requests {
        let answer = exchange(process.address(request.place), &request.bytes);
        // A key is a secret to everybody, its sender's own screen included.
        let told = |name: &str| name.starts_with("secret") && request.name != "key in the path";
        canaries.assert_absent(&answer, told, &request.name);
        refused += usize::from(request.place == Place::Http && !answer.starts_with(b"HTTP/1.1 200"));
    }
    assert!(refused > 20, "requests are refused in many ways: {refused}");
    for seed in 0..DAMAGED {
        let request = &requests[seed as usize % requests.len()];
        throw(process.address(request.place), &mutated(&request.bytes, seed));
    }
    let others = innocent(&keys).map(|request| exchange(process.address(request.place), &request.bytes));
    let metrics = exchange(process.ops, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let log = process.stop();
    let mut spans = String::new();
    while !collector.is_empty() {
        let received = collector.next().await;
        spans += &format!("{:?} {:?} {:?}\n", received.path, received.resource, received.spans);
    }
    Said { log, spans, metrics: lossy(&metrics), others: others.iter().map(|bytes| lossy(bytes)).collect() }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Nothing of a client's in what was said, but what is allowed.
fn assert_clean(said: &Said, canaries: &Canaries) {
    for (name, text) in [("metrics", &said.metrics), ("another client's answer", &said.others)] {
        canaries.assert_absent(text.as_bytes(), |_| true, name);
    }
    // The name of a token's owner, once the issuer's signature says that it is theirs. What other tracing systems have
    // to say of a request goes where its spans go.
    canaries.assert_absent(said.log.as_bytes(), |name| name != "token owner", "log");
    canaries.assert_absent(said.spans.as_bytes(), |name| name != "tracestate", "spans");
    assert!(said.others.contains("\"matches\""), "others are answered: {}", said.others);

    // The search would find something: what is allowed is there.
    assert!(canaries.found(said.log.as_bytes(), "token owner"), "{}", said.log);
    assert!(canaries.found(said.spans.as_bytes(), "tracestate"));
    assert!(said.log.contains(requests::TRACE) && said.spans.contains("POST /v2/models/{model}/infer"));
    for line in
        ["refused: no such key", "refused: expired", "the token cannot be read", "connection ended early"]
    {
        assert!(said.log.contains(line), "nothing provoked `{line}`");
    }
}

/// The longest name of a caller in the log.
fn longest_name(log: &str, before: &str, after: &[char]) -> usize {
    log.split(before).skip(1).map(|rest| rest.split(after).next().unwrap().len()).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_clients_send_is_told_in_text() {
    let mut canaries = Canaries::new(1);
    let said = heard("text", &mut canaries).await;
    assert_clean(&said, &canaries);
    for line in said.log.lines() {
        let (time, rest) = line.split_at_checked(27).unwrap_or_else(|| panic!("a forged line: {line}"));
        let stamp: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(stamp, "0000-00-00T00:00:00.000000Z", "a forged line: {line}");
        let level = rest.trim_start().split(' ').next().unwrap();
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "a forged line: {line}");
        assert!(!line.contains(char::is_control), "control characters: {line:?}");
        let target = rest.trim_start()[level.len()..].trim_start().split(':').next().unwrap();
        assert!(["convoy", "access"].contains(&target), "somebody else's line: {line}");
    }
    assert_eq!(longest_name(&said.log, " name=", &[' ', '\n']), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_clients_send_is_told_in_json() {
    let mut canaries = Canaries::new(2);
    let said = heard("json", &mut canaries).await;
    assert_clean(&said, &canaries);
    for line in said.log.lines() {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("a forged line: {line}"));
        for field in ["timestamp", "level", "target"] {
            assert!(event[field].is_string(), "a forged line: {line}");
        }
        assert!(!line.contains(char::is_control), "control characters: {line:?}");
    }
    assert_eq!(longest_name(&said.log, "\"name\":\"", &['"']), 100);
}

#[test]
fn a_server_name_that_a_client_makes_up_is_not_told() {
    let mut canaries = Canaries::new(3);
    let names = [
        format!("-{}", canaries.at("server name")),
        format!("{}\n2026 ERROR forged\u{1b}[2J", canaries.at("server name with a line's end")),
    ];
    let tls = tokens::certificate();
    let options = Options { format: "text", keys: None, jwks: None, collector: None };
    let (cert, key) = (tls.path("tls.crt"), tls.path("tls.key"));
    let process = Process::start(&options, &[("CONVOY_TLS_CERT", &cert), ("CONVOY_TLS_KEY", &key)]);
    for name in names {
        exchange(process.http, &wire::client_hello(name.as_bytes()));
    }
    let log = process.stop();
    assert!(log.contains("no TLS handshake"), "{log}");
    canaries.assert_absent(log.as_bytes(), |_| true, "log");
    assert!(!log.contains("forged"), "{log}");
}
