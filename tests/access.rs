//! Who gets what on real sockets: keys and their scopes, their end, rotation and rates, other origins, the port for operators;
//! and that nothing secret comes into logs or metrics. Tokens of an issuer are in `access/tokens.rs`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;
#[path = "access/tokens.rs"]
mod tokens;

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use convoy::{
    access::key::Key,
    config::{Config, IngressConfig},
    grpc::proto::{
        ModelInferRequest, ModelReadyRequest, ModelStreamInferResponse, RepositoryModelLoadRequest,
        ServerLiveRequest,
    },
    http::{Ended, Shutdown},
};
use futures_util::stream;
use prost::Message;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header};
use serde_json::{Value, json};
use support::{Server, config, metric};
use tempfile::TempDir;

/// Everything that is logged in this process from the first call on, whatever the level and wherever it comes from.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    LOG.get_or_init(|| {
        let sink = Sink(Arc::default());
        let log = sink.0.clone();
        let make = move || sink.clone();
        let filter = "trace";
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(make).init();
        log
    })
    .clone()
}

/// A file of keys beside a server that looks at it every few milliseconds.
struct Keys {
    _folder: TempDir,
    path: PathBuf,
}

impl Keys {
    fn new(entries: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = Self { path: folder.path().join("keys.toml"), _folder: folder };
        keys.replace(entries);
        keys
    }

    fn replace(&self, entries: &[String]) {
        self.write(&format!(
            "# keys\n{}",
            if entries.is_empty() { "key = []".to_owned() } else { entries.concat() }
        ));
    }

    fn write(&self, text: &str) {
        let fresh = self.path.with_extension("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, &self.path).unwrap();
    }
}

fn entry(name: &str, key: &Key, more: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n", key.digest().hex())
}

/// Questions only, with gRPC and a port for operators; whoever asks needs a key of the file.
fn guarded(keys: Option<&Path>) -> Config {
    let ingress = IngressConfig {
        keys: keys.map(Path::to_owned),
        ops_bind: Some("127.0.0.1:0".parse().unwrap()),
        reload_interval: Duration::from_millis(20),
        ..IngressConfig::default()
    };
    Config { photos: None, grpc_bind: Some("127.0.0.1:0".parse().unwrap()), ingress, ..config() }
}

fn asked(server: &Server) -> RequestBuilder {
    Client::new().post(server.url("/faq")).json(&json!({"question": "how do I sort an array"}))
}

async fn told(response: Response) -> (u16, String, Value) {
    let challenge = response.headers().get(header::WWW_AUTHENTICATE);
    let challenge = challenge.map_or("", |value| value.to_str().unwrap()).to_owned();
    (response.status().as_u16(), challenge, response.json().await.unwrap())
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// Asks with `key` until the answer has this status: the server has looked at the file.
async fn until(server: &Server, key: &Key, wanted: u16) {
    let end = Instant::now() + Duration::from_secs(20);
    while status(asked(server).bearer_auth(key.secret())).await != wanted {
        assert!(Instant::now() < end, "not {wanted} in 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn metrics(server: &Server) -> String {
    let url = format!("http://{}/metrics", server.ops.unwrap());
    Client::new().get(url).send().await.unwrap().text().await.unwrap()
}

/// The status of a call, and when to come back, in milliseconds.
async fn call(server: &Server, path: &str, message: &impl Message, key: Option<&str>) -> (i32, Option<u64>) {
    let message = message.encode_to_vec();
    let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let request = client.post(format!("http://{}/{path}", server.grpc.unwrap()));
    let request = request.header("content-type", "application/grpc").header("te", "trailers").body(frame);
    let request = key.into_iter().fold(request, |request, key| request.header("x-api-key", key));
    let answer = request.send().await.unwrap();
    let number =
        |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().parse().unwrap());
    (number("grpc-status").unwrap_or(0) as i32, number("grpc-retry-pushback-ms"))
}

#[tokio::test]
async fn a_key_is_wanted_and_which_one_is_not_told() {
    let log = log();
    let (web, gone) = (Key::random(), Key::random());
    let expired = "expires = 2026-01-01T00:00:00Z";
    let keys = Keys::new(&[entry("web", &web, ""), entry("gone", &gone, expired)]);
    let server = Server::start(&guarded(Some(&keys.path)));
    let (code, challenge, body) = told(asked(&server).send().await.unwrap()).await;
    assert_eq!(
        (code, challenge.as_str(), &body["error"]["code"]),
        (401, "Bearer", &json!("unauthenticated"))
    );
    assert!(body["error"]["message"].as_str().unwrap().contains("Authorization: Bearer"), "{body}");
    let wrong = Key::random();
    let mut refusals = Vec::new();
    for key in [&wrong, &gone] {
        refusals.push(told(asked(&server).bearer_auth(key.secret()).send().await.unwrap()).await);
        refusals.push(told(asked(&server).header("x-api-key", key.secret()).send().await.unwrap()).await);
    }
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    let (code, challenge, body) = &refusals[0];
    assert_eq!((*code, challenge.as_str()), (401, "Bearer error=\"invalid_token\""));
    assert_eq!(body["error"]["code"], "unauthenticated");
    assert_eq!(status(asked(&server).basic_auth("web", Some(web.secret()))).await, 401);
    assert_eq!(status(asked(&server).bearer_auth(web.secret())).await, 200);
    assert_eq!(status(asked(&server).header("x-api-key", web.secret())).await, 200);
    let v2 = Client::new().get(server.url("/v2/models/faq")).send().await.unwrap();
    let (code, challenge, body) = told(v2).await;
    assert_eq!((code, challenge.as_str(), body["error"].is_string()), (401, "Bearer", true), "{body}");

    let metrics = metrics(&server).await;
    let outcome = |outcome: &str| metric(&metrics, &format!("convoy_access_total{{outcome=\"{outcome}\"}}"));
    let outcomes = ["allowed", "missing", "unknown", "expired", "forbidden", "rate_limited"].map(outcome);
    assert_eq!(outcomes, [2.0, 3.0, 2.0, 2.0, 0.0, 0.0], "{metrics}");
    server.end();
    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    assert!(log.contains("refused: expired") && log.contains("name=gone"), "whose key has expired is logged");
    for key in [&web, &gone, &wrong] {
        for secret in [key.secret(), &key.digest().hex()] {
            assert!(!metrics.contains(secret) && !log.contains(secret), "a secret in logs or metrics");
        }
    }
}

#[tokio::test]
async fn keys_are_revoked_and_rotated_by_their_file() {
    let (old, new) = (Key::random(), Key::random());
    let keys = Keys::new(&[entry("web", &old, "")]);
    let server = Server::start(&guarded(Some(&keys.path)));
    assert_eq!(status(asked(&server).bearer_auth(old.secret())).await, 200);
    keys.replace(&[entry("web", &old, ""), entry("web", &new, "")]);
    until(&server, &new, 200).await;
    assert_eq!(status(asked(&server).bearer_auth(old.secret())).await, 200, "both while clients change over");
    keys.replace(&[entry("web", &new, "")]);
    until(&server, &old, 401).await;
    assert_eq!(status(asked(&server).bearer_auth(new.secret())).await, 200);

    let failed = async || metric(&metrics(&server).await, "convoy_reload_failures_total{what=\"keys\"}");
    assert_eq!(failed().await, 0.0);
    keys.write(&entry("web", &old, "scopes = 7"));
    while failed().await != 1.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status(asked(&server).bearer_auth(new.secret())).await, 200, "a broken file changes nothing");
    assert_eq!(status(asked(&server).bearer_auth(old.secret())).await, 401);
    keys.replace(&[]);
    until(&server, &new, 401).await;
}

#[tokio::test]
async fn every_operation_wants_the_scope_that_the_document_says() {
    let of = |scope: &str| (Key::random(), format!("scopes = [\"{scope}\"]"));
    let scopes = ["score", "admin", "metrics"].map(|scope| (scope, of(scope)));
    let entries: Vec<_> = scopes.iter().map(|(name, (key, more))| entry(name, key, more)).collect();
    let keys = Keys::new(&entries);
    let server = Server::start(&guarded(Some(&keys.path)));
    let document: Value =
        Client::new().get(server.url("/openapi.json")).send().await.unwrap().json().await.unwrap();
    let mut guarded = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let path = path.replace("{model}", "faq").replace("{version}", "1");
            let method: Method = method.to_uppercase().parse().unwrap();
            let ask = |key: Option<&Key>| {
                let request = Client::new().request(method.clone(), server.url(&path)).body("{}");
                key.into_iter().fold(request, |request, key| request.bearer_auth(key.secret()))
            };
            let wanted = operation["security"][1]["bearer"][0].as_str();
            let without = status(ask(None)).await;
            assert_eq!(without == 401, wanted.is_some(), "{method} {path}: {without}");
            guarded += usize::from(wanted.is_some());
            for (scope, (key, _)) in &scopes {
                let told = told_or_empty(ask(Some(key)).send().await.unwrap()).await;
                let refused = wanted.is_some_and(|wanted| wanted != *scope);
                assert_eq!(told.0 == 403, refused, "{method} {path} with {scope}: {told:?}");
                if let Some(wanted) = wanted.filter(|_| refused) {
                    let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{wanted}\"");
                    assert!(told.1 == challenge && told.2.contains(wanted), "{told:?}");
                }
            }
        }
    }
    assert!(guarded > 15, "{guarded}");
}

async fn told_or_empty(response: Response) -> (u16, String, String) {
    let challenge = response.headers().get(header::WWW_AUTHENTICATE);
    let challenge = challenge.map_or("", |value| value.to_str().unwrap()).to_owned();
    (response.status().as_u16(), challenge, response.text().await.unwrap())
}

#[tokio::test]
async fn the_scope_admin_is_enough_to_administrate_and_the_flag_is_not() {
    let (web, ops) = (Key::random(), Key::random());
    let keys = Keys::new(&[entry("web", &web, ""), entry("ops", &ops, "scopes = [\"admin\"]")]);
    let mut settings = guarded(Some(&keys.path));
    settings.http.admin = true;
    let server = Server::start(&settings);
    let reload = |key: &Key| Client::new().post(server.url("/admin/faq/reload")).bearer_auth(key.secret());
    assert_eq!(status(reload(&web)).await, 403);
    assert_eq!(status(reload(&ops)).await, 200);
    assert_eq!(
        status(asked(&server).bearer_auth(ops.secret())).await,
        403,
        "one scope does not hold another"
    );
    drop(server);
    settings.http.admin = false;
    let server = Server::start(&settings);
    let load = |key: &Key| {
        Client::new().post(server.url("/v2/repository/models/faq/load")).bearer_auth(key.secret())
    };
    assert_eq!((status(load(&web)).await, status(load(&ops)).await), (403, 200));
}

#[tokio::test]
async fn a_rate_is_kept_and_told_and_touches_nobody_else() {
    let (slow, other) = (Key::random(), Key::random());
    let keys = Keys::new(&[entry("slow", &slow, "rate = 0.1\nburst = 3"), entry("other", &other, "")]);
    let server = Server::start(&guarded(Some(&keys.path)));
    for _ in 0..3 {
        assert_eq!(status(asked(&server).bearer_auth(slow.secret())).await, 200);
    }
    let refused = asked(&server).bearer_auth(slow.secret()).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((8..=10).contains(&seconds), "{seconds}");
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["code"], "rate_limited");
    assert!(body["error"]["retry_after_ms"].as_u64().unwrap() > 7_000, "{body}");
    assert_eq!(status(asked(&server).bearer_auth(other.secret())).await, 200);
    let model = ModelReadyRequest { name: "faq".to_owned(), version: String::new() };
    let ready = "inference.GRPCInferenceService/ModelReady";
    let (code, pushback) = call(&server, ready, &model, Some(slow.secret())).await;
    assert!(
        code == 8 && pushback.is_some_and(|wait| wait > 7_000),
        "{code} {pushback:?}: one budget for both ports"
    );
    keys.write(&fs::read_to_string(&keys.path).unwrap().replace("# keys", "# the same keys"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(status(asked(&server).bearer_auth(slow.secret())).await, 429, "a reload gives nothing back");
}

#[tokio::test]
async fn calls_are_guarded_as_requests_are() {
    let (web, ops, gone) = (Key::random(), Key::random(), Key::random());
    let keys = Keys::new(&[
        entry("web", &web, ""),
        entry("ops", &ops, "scopes = [\"admin\"]"),
        entry("gone", &gone, "expires = 2026-01-01T00:00:00Z"),
    ]);
    let server = Server::start(&guarded(Some(&keys.path)));
    let service = "inference.GRPCInferenceService";
    let model = ModelReadyRequest { name: "faq".to_owned(), version: String::new() };
    let load = RepositoryModelLoadRequest { model_name: "faq".to_owned(), ..Default::default() };
    let (ready, load_path) = (format!("{service}/ModelReady"), format!("{service}/RepositoryModelLoad"));
    let (web, ops, gone) = (Some(web.secret()), Some(ops.secret()), Some(gone.secret()));
    for (key, code) in [(None, 16), (Some("cvy_wrong"), 16), (gone, 16), (web, 0), (ops, 7)] {
        assert_eq!(call(&server, &ready, &model, key).await.0, code, "ModelReady with {key:?}");
    }
    for (key, code) in [(None, 16), (web, 7), (ops, 0)] {
        assert_eq!(call(&server, &load_path, &load, key).await.0, code, "RepositoryModelLoad with {key:?}");
    }
    let infer = format!("{service}/ModelInfer");
    assert_eq!(call(&server, &infer, &model, None).await.0, 16, "before the message is looked at");
    for open in ["ServerLive", "ServerReady"] {
        assert_eq!(call(&server, &format!("{service}/{open}"), &ServerLiveRequest {}, None).await.0, 0);
    }
    assert_eq!(call(&server, "grpc.health.v1.Health/Check", &ServerLiveRequest {}, None).await.0, 0);
    let reflection = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    assert_eq!(call(&server, reflection, &ServerLiveRequest {}, None).await.0, 16);
}

#[tokio::test]
async fn a_stream_neither_outlives_its_key_nor_its_rate() {
    let (web, slow) = (Key::random(), Key::random());
    let keys = Keys::new(&[entry("web", &web, ""), entry("slow", &slow, "rate = 0.001\nburst = 3")]);
    let server = Server::start(&guarded(Some(&keys.path)));
    let url = format!("http://{}", server.grpc.unwrap());
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let open = async |key: &Key| {
        let (sender, messages) = tokio::sync::mpsc::unbounded_channel::<ModelInferRequest>();
        let messages =
            stream::unfold(messages, |mut messages| async { Some((messages.recv().await?, messages)) });
        let mut request = tonic::Request::new(messages);
        request.metadata_mut().insert("x-api-key", key.secret().parse().unwrap());
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let path = "/inference.GRPCInferenceService/ModelStreamInfer".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
        (sender, client.streaming(request, path, codec).await.unwrap().into_inner())
    };
    let question = || ModelInferRequest { model_name: "faq".to_owned(), ..Default::default() };
    let refusals = ["used up", "unknown, expired or revoked"];
    let refused = |answer: ModelStreamInferResponse| {
        refusals.into_iter().find(|text| answer.error_message.contains(text))
    };
    // The call itself counts, then each message.
    let (sender, mut answers) = open(&slow).await;
    let mut told = Vec::new();
    for _ in 0..4 {
        sender.send(question()).unwrap();
        told.push(refused(answers.message().await.unwrap().unwrap()));
    }
    assert_eq!(told, [None, None, Some(refusals[0]), Some(refusals[0])]);
    let (sender, mut answers) = open(&web).await;
    sender.send(question()).unwrap();
    assert_eq!(refused(answers.message().await.unwrap().unwrap()), None);
    keys.replace(&[entry("slow", &slow, "")]);
    until(&server, &web, 401).await;
    sender.send(question()).unwrap();
    assert_eq!(refused(answers.message().await.unwrap().unwrap()), Some(refusals[1]));
}

/// What the server answers on a connection of its own, up to the end of the head.
fn by_hand(server: &Server, head: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(head).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_refusal_waits_for_no_body_and_heads_have_an_end() {
    let keys = Keys::new(&[entry("web", &Key::random(), "")]);
    let server = Server::start(&guarded(Some(&keys.path)));
    let started = Instant::now();
    let head =
        b"POST /faq HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 7000000\r\n\r\n";
    let answer = by_hand(&server, head);
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("connection: close"), "{answer}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    let long =
        format!("GET /faq HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", "a".repeat(300 << 10));
    let answer = by_hand(&server, long.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET /faq HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    let answer = by_hand(&server, many.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let fitting =
        format!("GET /faq HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", "a".repeat(30 << 10));
    assert!(by_hand(&server, fitting.as_bytes()).starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn http2_bounds_heads_too() {
    let keys = Keys::new(&[entry("web", &Key::random(), "")]);
    let server = Server::start(&guarded(Some(&keys.path)));
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let ask = |length: usize| client.get(server.url("/version")).bearer_auth("a".repeat(length)).send();
    assert_eq!(ask(30 << 10).await.unwrap().status(), 401);
    let answer = ask(80 << 10).await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status() == 431), "{answer:?}");
}

#[tokio::test]
async fn pages_of_other_origins_may_ask_where_they_are_named() {
    let keys = Keys::new(&[entry("web", &Key::random(), "")]);
    let mut settings = guarded(Some(&keys.path));
    let preflight = |server: &Server, origin: &'static str| {
        Client::new()
            .request(Method::OPTIONS, server.url("/faq"))
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization, content-type")
            .send()
    };
    let allowed = |response: &Response| {
        let value = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        value.map(|value| value.to_str().unwrap().to_owned())
    };
    let app = "https://app.example";
    {
        let server = Server::start(&settings);
        let answer = preflight(&server, app).await.unwrap();
        assert_eq!((answer.status().as_u16(), allowed(&answer)), (401, None), "off unless named");
        assert!(!answer.headers().contains_key(header::VARY));
    }
    settings.ingress.cors_origins = vec![app.to_owned(), "http://localhost:3000".to_owned()];
    {
        let server = Server::start(&settings);
        let answer = preflight(&server, app).await.unwrap();
        assert_eq!((answer.status().as_u16(), allowed(&answer).as_deref()), (204, Some(app)));
        let headers = answer.headers();
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_METHODS], "POST");
        let names = headers[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap();
        assert!(names.contains("authorization") && names.contains("x-convoy-deadline-ms"), "{names}");
        assert!(headers[header::ACCESS_CONTROL_MAX_AGE].to_str().unwrap().parse::<u32>().unwrap() > 60);
        assert_eq!(headers[header::VARY], "origin");
        let other = preflight(&server, "https://evil.example").await.unwrap();
        assert_eq!((other.status().as_u16(), allowed(&other)), (401, None));
        assert_eq!(other.headers()[header::VARY], "origin");
        let refused = asked(&server).header(header::ORIGIN, app).send().await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), allowed(&refused).as_deref()),
            (401, Some(app)),
            "the page may read why"
        );
        let exposed = refused.headers()[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        assert!(exposed.contains("server-timing") && exposed.contains("retry-after"), "{exposed}");
        let root = Client::new().get(server.url("/")).header(header::ORIGIN, app).send().await.unwrap();
        let vary: Vec<_> = root.headers().get_all(header::VARY).iter().collect();
        assert_eq!(vary, ["accept", "origin"]);
    }
    settings.ingress = IngressConfig { cors_origins: vec!["*".to_owned()], ..IngressConfig::default() };
    let server = Server::start(&settings);
    let answer = asked(&server).header(header::ORIGIN, "https://any.example").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), allowed(&answer).as_deref()), (200, Some("*")));
    assert!(!answer.headers().contains_key(header::VARY));
}

#[tokio::test]
async fn operators_have_a_port_that_stays_to_the_end() {
    let keys = Keys::new(&[entry("web", &Key::random(), "")]);
    let mut settings = guarded(Some(&keys.path));
    (settings.http.lame_duck, settings.http.grace) = (Duration::from_secs(1), Duration::from_secs(60));
    let mut server = Server::start(&settings);
    let ops = server.ops.unwrap();
    let get = async |path: &str| {
        let response = Client::new().get(format!("http://{ops}{path}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get("/livez").await, (200, r#"{"live":true}"#.to_owned()));
    assert_eq!(get("/readyz").await.0, 200);
    assert!(get("/metrics").await.1.contains("convoy_ready 1"));
    for path in
        ["/", "/version", "/faq", "/v2", "/v2/health/live", "/docs", "/openapi.json", "/admin/faq/reload"]
    {
        let (status, body) = get(path).await;
        assert!(status == 404 && body.contains("/livez"), "{path}: {status} {body}");
    }
    let post = Client::new().post(format!("http://{ops}/faq")).json(&json!({"question": "x"}));
    assert_eq!(status(post).await, 404);
    // A head that does not come to its end keeps the drain going until its client hangs up.
    let mut held = TcpStream::connect(server.address).unwrap();
    held.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n").unwrap();
    server.ask_to_stop(Shutdown::Orchestrated);
    let (mut draining, end) = (0, Instant::now() + Duration::from_secs(20));
    loop {
        assert!(Instant::now() < end, "the main port is still open");
        let (status, _) = get("/readyz").await;
        draining += usize::from(status == 503);
        if TcpStream::connect(server.address).is_err() {
            break;
        }
    }
    assert!(draining > 0, "readiness is off while the main port is still open");
    assert_eq!(get("/livez").await.0, 200, "and this port outlives the others");
    assert_eq!(get("/readyz").await.0, 503);
    drop(held);
    assert_eq!(server.join(), Some(Ended::Drained));
}
