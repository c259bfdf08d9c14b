//! A crowd at the door: what batching gains with 64 clients, what a question waits while photos flood the server, and how
//! many questions a second are answered over connections that stay open.
//!
//! `cargo bench --bench crowd [-- throughput | isolation | questions]` prints medians over interleaved rounds. Not criterion:
//! the figure is a rate over many clients, and a distribution.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use convoy::vision::Arch;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use kernels::priority::Priority;
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use support::{Server, config, faq_corpus, photo, random_weights};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
};

const CLIENTS: usize = 64;
const ROUNDS: usize = 5;
const QUESTIONS: usize = 1500;

async fn fetch(request: RequestBuilder) {
    let response = request.send().await.expect("an answer");
    assert!(response.status().is_success(), "{}", response.status());
    response.bytes().await.expect("the whole answer");
}

fn server(max_batch: usize, weights: &std::path::Path) -> Server {
    let mut settings = config();
    let photos = settings.photos.as_mut().expect("photos are served");
    photos.max_batch = max_batch;
    photos.classifier.weights = weights.to_owned();
    Server::start(&settings)
}

/// Photos per second: `CLIENTS` at once, or one after another.
fn rate(runtime: &Runtime, client: &Client, server: &Server, photo: &[u8], at_once: bool) -> f64 {
    let ask = || fetch(client.post(server.url("/classify")).body(photo.to_vec()));
    let count = if at_once { CLIENTS } else { CLIENTS / 4 };
    let started = Instant::now();
    runtime.block_on(async {
        if at_once {
            join_all((0..count).map(|_| ask())).await;
        } else {
            for _ in 0..count {
                ask().await;
            }
        }
    });
    count as f64 / started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn throughput(runtime: &Runtime, weights: &std::path::Path) {
    let (singles, batches) = (server(1, weights), server(8, weights));
    let (client, photo) = (Client::new(), photo(1));
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rates[0].push(rate(runtime, &client, &singles, &photo, false));
        rates[1].push(rate(runtime, &client, &singles, &photo, true));
        rates[2].push(rate(runtime, &client, &batches, &photo, true));
    }
    let [alone, one, eight] = rates.map(median);
    println!("one client, batch 1          {alone:7.2} photos/s");
    println!("{CLIENTS} clients, batch 1         {one:7.2} photos/s");
    println!("{CLIENTS} clients, batch up to 8   {eight:7.2} photos/s  ({:.2}x batch 1)", eight / one);
}

/// Milliseconds of each question, one after another: as its client saw it, and as the server did.
async fn questions(client: &Client, server: &Server) -> [Vec<f64>; 2] {
    let mut times = [Vec::with_capacity(QUESTIONS), Vec::with_capacity(QUESTIONS)];
    for index in 0..QUESTIONS {
        let asked = json!({"question": format!("how do i sort an array of {index} numbers")});
        let started = Instant::now();
        let response = client.post(server.url("/faq")).json(&asked).send().await.expect("an answer");
        assert!(response.status().is_success(), "{}", response.status());
        let timing = response.headers()["server-timing"].to_str().expect("text").to_owned();
        response.bytes().await.expect("the whole answer");
        times[0].push(started.elapsed().as_secs_f64() * 1e3);
        let total = timing.rsplit_once("total;dur=").and_then(|(_, ms)| ms.parse().ok());
        times[1].push(total.expect("the server tells its time"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for times in &mut times {
        times.sort_by(f64::total_cmp);
    }
    times
}

fn lines(name: &str, times: &[Vec<f64>; 2]) {
    line(&format!("{name}, at the client"), &times[0]);
    line(&format!("{name}, in the server"), &times[1]);
}

fn line(name: &str, times: &[f64]) {
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{name:42} p50 {:6.2}  p90 {:6.2}  p99 {:6.2}  max {:6.2} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

fn isolation(runtime: &Runtime, weights: &std::path::Path) {
    let server = server(8, weights);
    let (client, photo) = (Client::new(), photo(1));
    lines("questions alone", &runtime.block_on(questions(&client, &server)));
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    // Clients are elsewhere in real life; here they stand back, so that no question waits for a processor that they use.
    let elsewhere = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(|| Priority::Background.enter().expect("the system lets a thread stand back"))
        .build()
        .expect("a runtime");
    let flooding = Client::new();
    let flood = (0..CLIENTS * 2).map(|_| {
        let (client, url, photo) = (flooding.clone(), server.url("/classify"), photo.clone());
        let (stop, answered) = (stop.clone(), answered.clone());
        elsewhere.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                fetch(client.post(&url).body(photo.clone())).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    runtime.block_on(async { tokio::time::sleep(Duration::from_secs(1)).await });
    let (before, started) = (answered.load(Ordering::Relaxed), Instant::now());
    lines("questions in a photo flood", &runtime.block_on(questions(&client, &server)));
    let photos = answered.load(Ordering::Relaxed) - before;
    println!("photos meanwhile {:.2}/s", photos as f64 / started.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    elsewhere.block_on(join_all(flood));
}

/// Closed loops of questions over connections that stay open: the answers' rate and how long each took. The clients are as
/// thin as can be, because they share the processors with the server.
fn keep_asking() {
    let mut settings = config();
    settings.photos = None;
    let server = Server::start(&settings);
    let asked = |text: &str| Bytes::from(json!({"question": text}).to_string());
    let questions: Vec<Bytes> =
        faq_corpus().duplicates.iter().map(|duplicate| asked(&duplicate.text)).collect();
    let clients = Builder::new_current_thread().enable_all().build().expect("a runtime");
    for connections in [1, 16, 32] {
        let mut rates = Vec::new();
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let loops = (0..connections).map(|index| {
                let first = index * questions.len() / connections;
                keep_open(&server, questions.iter().cycle().skip(first), started)
            });
            let round = clients.block_on(join_all(loops));
            let answers: usize = round.iter().map(Vec::len).sum();
            rates.push(answers as f64 / started.elapsed().as_secs_f64());
            times.extend(round.into_iter().flatten());
        }
        times.sort_by(f64::total_cmp);
        println!("{connections:2} connections {:8.0} questions/s", median(rates));
        line("  at the client", &times);
    }
}

/// Milliseconds of the answers on one connection for two seconds from `started`.
async fn keep_open<'a>(
    server: &Server,
    questions: impl Iterator<Item = &'a Bytes>,
    started: Instant,
) -> Vec<f64> {
    let stream = TcpStream::connect(server.address).await.expect("a connection");
    stream.set_nodelay(true).expect("a live socket");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let mut times = Vec::new();
    for question in questions {
        let sent = Instant::now();
        if sent - started > Duration::from_secs(2) {
            break;
        }
        let request =
            Request::post("/faq").header("host", "bench").header("content-type", "application/json");
        let request = request.body(Full::new(question.clone())).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert!(response.status().is_success(), "{}", response.status());
        response.into_body().collect().await.expect("the whole answer");
        sender.ready().await.expect("the connection stays open");
        times.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    times
}

fn main() {
    // `cargo test --benches` only wants to see that it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let parts = ["throughput", "isolation", "questions"];
    let only = std::env::args().find(|argument| parts.contains(&argument.as_str()));
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wanted("questions") {
        keep_asking();
    }
    if !wanted("throughput") && !wanted("isolation") {
        return;
    }
    let (_folder, weights) = random_weights(Arch::ResNet50);
    let runtime = Runtime::new().expect("a runtime");
    if wanted("throughput") {
        throughput(&runtime, &weights);
    }
    if wanted("isolation") {
        isolation(&runtime, &weights);
    }
}
