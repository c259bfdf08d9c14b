//! Heads of requests: paths, and the headers that every protocol reads.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use convoy::{
    access::credential,
    config::{ClientsConfig, ConnectionsConfig, HttpConfig},
    http::{routes::Route, v2::infer::Framing},
    server::{
        gate::Who,
        terms::{self, Clients},
    },
    trace::Parent,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const LIMITS: HttpConfig = HttpConfig {
    admin: false,
    max_body: 1 << 20,
    max_images: 16,
    deadline: Duration::from_secs(30),
    max_deadline: Duration::from_secs(300),
    read_timeout: Duration::from_secs(15),
    connections: ConnectionsConfig {
        max: 16,
        max_per_address: None,
        idle_timeout: Duration::from_secs(75),
        write_timeout: Duration::from_secs(15),
    },
    lame_duck: Duration::ZERO,
    grace: Duration::ZERO,
};

/// Most bytes of a `tracestate` that is carried on.
const MAX_STATE: usize = 512;

/// A path, then a header a line.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default());
    assert!(Route::of(&path).name().len() < 20);
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    check_terms(&headers);
    if let Some(parent) = Parent::of(&headers) {
        check_parent(&parent);
    }
    if let Some(secret) = credential::of(&headers) {
        assert!(!secret.is_empty() && secret.trim_ascii() == secret);
    }
    if let Err(failure) = Framing::of(&headers) {
        super::bounded_text(&failure.message);
    }
}

fn check_terms(headers: &HeaderMap) {
    let clients =
        Clients::new(ClientsConfig { header: Some("x-client".to_owned()), ..ClientsConfig::default() });
    let (who, arrived) = (Who::at(IpAddr::V4(Ipv4Addr::LOCALHOST)), Instant::now());
    match terms::of(headers, &who, arrived, &LIMITS, &clients) {
        Ok(terms) => {
            let wait = terms.deadline - arrived;
            assert!(!wait.is_zero() && wait <= LIMITS.max_deadline, "{wait:?}");
        }
        Err(error) => super::bounded(&error),
    }
}

/// What is sent on is what came.
fn check_parent(parent: &Parent) {
    assert!(parent.state.as_ref().is_none_or(|state| (1..=MAX_STATE).contains(&state.len())));
    let line = format!("00-{}-{}-{:02x}", parent.trace, parent.span, u8::from(parent.sampled));
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::try_from(line).unwrap());
    if let Some(state) = &parent.state {
        headers.insert("tracestate", HeaderValue::try_from(&**state).unwrap());
    }
    assert_eq!(Parent::of(&headers).as_ref(), Some(parent));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let heads = [
        "/v2/models/m/versions/1/infer\ninference-header-content-length: 17\ncontent-encoding: gzip\naccept-encoding: gzip;q=0.5, zstd",
        "/score\nx-convoy-deadline-ms: 250\ngrpc-timeout: 5S\nx-convoy-priority:batch\nx-client: a",
        "/faq\ntraceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\ntracestate:a=1\ntracestate:b=2",
        "/admin/faq/reload\nauthorization: Bearer abc\nx-api-key: d",
        "/v2/repository/models/m/unload\naccept:text/html;q=0.9,*/*",
    ];
    heads.map(|head| head.as_bytes().to_vec()).into()
}
