//! SIGTERM at random moments under load: whatever the server had taken up gets its whole and right answer.
//!
//! `DRAINS=100 cargo test --test drains -- --nocapture` does it a hundred times and prints what became of every request.
//! Taken up is a request that the server's own log names, any on an open connection that was not told to close, and any on a
//! connection that the server says it has closed, if it was sent at once; one that waited in the kernel's backlog when the
//! port closed was never the server's.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "what is seen beside what is asserted")]

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use support::{config, infer_question, photo};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncReader},
    net::TcpStream,
};

/// In `make test`; a hundred by hand.
const ROUNDS: usize = 8;

/// Longer than a busy machine lets a client stand still between an answer that does not tell it to close and its next request.
const LAME_DUCK: Duration = Duration::from_millis(600);

/// From connecting to a request's first bytes: half of what the server gives those who are there when it closes the port.
const AT_ONCE: Duration = Duration::from_millis(50);

/// The latest moment of SIGTERM after clients began.
const LATEST: Duration = Duration::from_millis(500);

/// What became of a request, as its client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// 200 and the right content.
    Right,
    /// The port was closed.
    Refused,
    /// It could not be sent whole.
    Unsent,
    /// Sent whole on a connection that had not answered anything before; nothing came back.
    Fresh,
    /// As `Fresh`, but not sent at once: the server need not have waited for it.
    Late,
    /// Sent whole on a connection that had answered before and was open; nothing came back.
    Open,
    /// Sent on HTTP/2, and the server said that it had not taken it up.
    Declined,
    /// Anything else, such as half an answer.
    Broken,
}

/// One request that was begun.
#[derive(Debug, Clone)]
struct Sent {
    client: &'static str,
    trace: String,
    fate: Fate,
    /// The client's side of the connection, where the server may know it only by that.
    from: Option<SocketAddr>,
}

/// A request of HTTP/1 whose right answer is known.
#[derive(Clone)]
struct Ask {
    path: &'static str,
    kind: &'static str,
    body: Bytes,
    right: Arc<Mutex<Option<Value>>>,
}

impl Ask {
    fn photo(index: u32) -> Self {
        let kind = "application/octet-stream";
        Self { path: "/classify?top=3", kind, body: photo(index).into(), right: Arc::default() }
    }

    fn question(text: &str) -> Self {
        let body = json!({"question": text, "top": 3}).to_string().into();
        Self { path: "/faq", kind: "application/json", body, right: Arc::default() }
    }

    /// Whether this is the answer that the first one was.
    fn is_right(&self, status: u16, body: &[u8]) -> bool {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else { return false };
        let essence = json!([answer["predictions"], answer["matches"], answer["scope"]]);
        status == 200 && *self.right.lock().unwrap().get_or_insert_with(|| essence.clone()) == essence
    }
}

/// What the clients of one round share.
#[derive(Clone)]
struct Round {
    http: SocketAddr,
    grpc: SocketAddr,
    number: usize,
    next: Arc<AtomicU64>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Round {
    fn trace(&self) -> String {
        format!("{:016x}{:016x}", self.number + 1, self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn note(&self, client: &'static str, trace: String, fate: Fate) {
        self.note_from(client, trace, fate, None);
    }

    fn note_from(&self, client: &'static str, trace: String, fate: Fate, from: Option<SocketAddr>) {
        self.sent.lock().unwrap().push(Sent { client, trace, fate, from });
    }

    /// Asks over HTTP/1 until the port is closed; on one connection as long as it may be used, or each time on a new one.
    async fn http1(self, client: &'static str, ask: Ask, keep: bool) {
        let mut kept: Option<AsyncReader<TcpStream>> = None;
        loop {
            let trace = self.trace();
            let fresh = kept.is_none();
            let connecting = Instant::now();
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => match TcpStream::connect(self.http).await {
                    Ok(stream) => AsyncReader::new(stream),
                    Err(_closed) => return self.note(client, trace, Fate::Refused),
                },
            };
            let from = stream.get_ref().local_addr().ok();
            let head = format!(
                "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\ncontent-length: {}\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n",
                ask.path,
                ask.kind,
                ask.body.len()
            );
            let request = [head.as_bytes(), &ask.body].concat();
            let first = stream.get_mut().write(&request).await;
            // The rest may have to wait for the server.
            let late = connecting.elapsed() > AT_ONCE;
            let sent = match first {
                Ok(count) => stream.get_mut().write_all(&request[count..]).await,
                Err(error) => Err(error),
            };
            if sent.is_err() {
                self.note(client, trace, Fate::Unsent);
                continue;
            }
            match answer(&mut stream).await {
                Ok(Some((status, body, close))) => {
                    let right = ask.is_right(status, &body);
                    self.note(client, trace, if right { Fate::Right } else { Fate::Broken });
                    kept = Some(stream).filter(|_| keep && !close);
                }
                Ok(None) => {
                    let fate = match (fresh, late) {
                        (true, false) => Fate::Fresh,
                        (true, true) => Fate::Late,
                        (false, _) => Fate::Open,
                    };
                    self.note_from(client, trace, fate, from);
                }
                Err(_cut_short) => self.note(client, trace, Fate::Broken),
            }
        }
    }

    /// Asks over HTTP/2, several at once on one connection, until the port is closed.
    async fn http2(self, client: &'static str, ask: Ask) {
        let request = |trace: &str| {
            hyper::Request::post(format!("http://x{}", ask.path))
                .header("content-type", ask.kind)
                .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
                .body(Full::new(ask.body.clone()))
                .unwrap()
        };
        self.streams(client, self.http, request, |status, body, _| ask.is_right(status, body)).await;
    }

    async fn grpc(self, client: &'static str, text: &str, right: Arc<Mutex<Option<Bytes>>>) {
        let message = infer_question(text).encode_to_vec();
        let framed = Bytes::from([&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat());
        let request = |trace: &str| {
            hyper::Request::post("http://x/inference.GRPCInferenceService/ModelInfer")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
                .body(Full::new(framed.clone()))
                .unwrap()
        };
        let is_right = |status: u16, body: &Bytes, code: Option<&str>| {
            let first = right.lock().unwrap().get_or_insert_with(|| body.clone()).clone();
            status == 200 && code == Some("0") && !body.is_empty() && first == *body
        };
        self.streams(client, self.grpc, request, is_right).await;
    }

    async fn streams(
        &self,
        client: &'static str,
        address: SocketAddr,
        request: impl Fn(&str) -> hyper::Request<Full<Bytes>>,
        is_right: impl Fn(u16, &Bytes, Option<&str>) -> bool,
    ) {
        loop {
            let Ok(stream) = TcpStream::connect(address).await else {
                return self.note(client, self.trace(), Fate::Refused);
            };
            let shaken =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let Ok((sender, connection)) = shaken else { continue };
            let driver = tokio::spawn(connection);
            let ask = async || {
                let mut sender = sender.clone();
                while sender.ready().await.is_ok() {
                    let trace = self.trace();
                    let fate = match sender.send_request(request(&trace)).await {
                        Err(_not_taken_up) => Fate::Declined,
                        Ok(response) => {
                            let status = response.status().as_u16();
                            match response.into_body().collect().await {
                                Err(_cut_short) => Fate::Broken,
                                Ok(body) => {
                                    let code =
                                        body.trailers().and_then(|all| all.get("grpc-status")).cloned();
                                    let code = code.as_ref().and_then(|code| code.to_str().ok());
                                    let right = is_right(status, &body.to_bytes(), code);
                                    if right { Fate::Right } else { Fate::Broken }
                                }
                            }
                        }
                    };
                    self.note(client, trace, fate);
                }
            };
            tokio::join!(ask(), ask(), ask(), ask());
            driver.abort();
        }
    }
}

/// Status, body, and whether the connection is to be closed; `None` where nothing came before its end.
async fn answer(stream: &mut AsyncReader<TcpStream>) -> std::io::Result<Option<(u16, Vec<u8>, bool)>> {
    let (mut line, mut first) = (String::new(), true);
    let (mut status, mut length, mut close) = (0, 0, false);
    loop {
        line.clear();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) if first && line.is_empty() => return Ok(None),
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        if first {
            status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            first = false;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
        close |= lower.trim() == "connection: close";
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((status, body, close)))
}

/// A serving process, and a thread that reads its log to the end.
struct Process {
    child: Child,
    log: JoinHandle<Vec<Value>>,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl Process {
    fn start() -> Self {
        let settings = config();
        let mut child = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .args(["serve", "--bind", "127.0.0.1:0", "--grpc-bind", "127.0.0.1:0", "--grace-ms", "20000"])
            .args(["--lame-duck-ms", &LAME_DUCK.as_millis().to_string(), "--max-batch", "4", "--weights"])
            .arg(settings.photos.unwrap().classifier.weights)
            .arg("--faq-model")
            .arg(settings.faq.unwrap().model)
            .env("CONVOY_LOG", "info,access=info,convoy::server=debug,convoy::http=debug")
            .env("CONVOY_LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut serving = || {
            let event = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line).unwrap());
            let mut event = event.filter(|event| event["address"].is_string());
            event.next().expect("it serves")["address"].as_str().unwrap().parse().unwrap()
        };
        let (http, grpc) = (serving(), serving());
        let parse = |line: String| serde_json::from_str(&line).unwrap_or_else(|_| json!({"message": line}));
        let log = std::thread::spawn(move || lines.map(parse).collect());
        Self { child, log, http, grpc }
    }
}

/// What one drain came to.
struct Drain {
    sent: Vec<Sent>,
    /// Traces of what the server says it has answered or given up.
    known: HashSet<String>,
    /// Client's sides of connections that it says it has closed before a request.
    closed: HashSet<String>,
    took: Duration,
}

async fn drain(number: usize, asks: &[Ask], right: &Arc<Mutex<Option<Bytes>>>, after: Duration) -> Drain {
    let mut process = Process::start();
    let round =
        Round { http: process.http, grpc: process.grpc, number, next: Arc::default(), sent: Arc::default() };
    let mut clients = Vec::new();
    for (at, ask) in asks.iter().enumerate() {
        let (keep, name) = match (at % 2 == 0, ask.path == "/faq") {
            (true, true) => (true, "HTTP/1 kept, question"),
            (true, false) => (true, "HTTP/1 kept, photo"),
            (false, true) => (false, "HTTP/1 new, question"),
            (false, false) => (false, "HTTP/1 new, photo"),
        };
        clients.push(tokio::spawn(round.clone().http1(name, ask.clone(), keep)));
    }
    for (name, ask) in [("HTTP/2, photos", &asks[0]), ("HTTP/2, questions", &asks[4])] {
        clients.push(tokio::spawn(round.clone().http2(name, ask.clone())));
    }
    clients.push(tokio::spawn(round.clone().grpc(
        "gRPC, questions",
        "how to make a deep copy",
        right.clone(),
    )));
    tokio::time::sleep(after).await;
    let (asked, id) = (Instant::now(), process.child.id().to_string());
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    for client in clients {
        client.await.unwrap();
    }
    let status =
        tokio::task::spawn_blocking(move || (process.child.wait().unwrap(), process.log)).await.unwrap();
    let took = asked.elapsed();
    let (status, log) = (status.0, status.1.join().unwrap());
    assert!(status.success(), "{status}: {:?}", log.last());
    let ended =
        |event: &&Value| event["message"].as_str().is_some_and(|said| said.starts_with("connection ended"));
    let closed = log.iter().filter(ended);
    let closed = closed.filter_map(|event| event["peer"].as_str().map(str::to_owned)).collect();
    let known = log.iter().filter(|event| event["target"] == "access");
    let known = known.filter_map(|event| event["trace_id"].as_str().map(str::to_owned)).collect();
    let sent = std::mem::take(&mut *round.sent.lock().unwrap());
    Drain { sent, known, closed, took }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_that_was_taken_up_is_lost_in_a_drain() {
    let rounds = std::env::var("DRAINS").map_or(ROUNDS, |count| count.parse().unwrap());
    let seed = std::env::var("DRAINS_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("{rounds} drains, DRAINS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut asks: Vec<_> = (0..4).map(Ask::photo).collect();
    asks.extend(
        ["how do I sort an array", "how to make a deep copy", "remove one item", "merge two objects"]
            .map(Ask::question),
    );
    let right = Arc::default();
    let (mut fates, mut lost, mut times) = (BTreeMap::new(), Vec::new(), Vec::new());
    for number in 0..rounds {
        let after = LATEST.mul_f64(random.f64());
        let Drain { sent, known, closed, took } = drain(number, &asks, &right, after).await;
        times.push(took);
        for Sent { client, trace, fate, from } in sent {
            *fates.entry((client, fate)).or_insert(0_usize) += 1;
            let accepted = fate == Fate::Fresh && from.is_some_and(|from| closed.contains(&from.to_string()));
            let taken_up = accepted || known.contains(&trace) || matches!(fate, Fate::Open | Fate::Broken);
            if fate != Fate::Right && taken_up {
                lost.push(format!("round {number}, SIGTERM after {after:?}: {client} {fate:?} {trace}"));
            }
        }
    }
    times.sort_unstable();
    eprintln!(
        "SIGTERM to exit: median {:.2?}, longest {:.2?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    for ((client, fate), count) in &fates {
        eprintln!("| {client} | {fate:?} | {count} |");
    }
    let answered: usize =
        fates.iter().filter(|((_, fate), _)| *fate == Fate::Right).map(|(_, count)| count).sum();
    assert!(answered > 10 * rounds, "there was load");
    assert_eq!(lost, [""; 0]);
}
