//! A lone request: what a photo waits beside its own decoding and the engine's batch of one when nobody else asks, once a
//! second, when processors and caches have gone cold.
//!
//! `cargo bench --bench lone [-- resnet152]` prints the distribution of one request's latency at the client, where it went
//! as the server tells it, and what a probe takes in the same rhythm, which is HTTP and nothing else. Not criterion: it must
//! rest between requests.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use convoy::vision::Arch;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
    http::{request::Builder, response::Parts},
};
use hyper_util::rt::TokioIo;
use support::{Server, config, photo, random_weights};
use tokio::{net::TcpStream, runtime, time::MissedTickBehavior};

const REQUESTS: usize = 40;

/// From a photo to a probe and on to the next photo: one a second of each.
const INTERVAL: Duration = Duration::from_millis(500);

/// Milliseconds of one request.
struct Sample {
    /// At the client, from the first byte sent to the last received.
    client: f64,
    /// The same of a probe.
    probe: f64,
    /// Stages as in `Server-Timing`.
    stages: Vec<(String, f64)>,
}

impl Sample {
    fn stage(&self, name: &str) -> f64 {
        self.stages.iter().find(|(stage, _)| stage == name).map_or(0.0, |(_, took)| *took)
    }

    /// What is neither decoding nor execution.
    fn beside(&self, whole: f64) -> f64 {
        whole - self.stage("decode") - self.stage("execute")
    }
}

fn stages(header: &str) -> Vec<(String, f64)> {
    let stages = header.split(", ").filter_map(|stage| stage.split_once(";dur="));
    stages.map(|(name, took)| (name.to_owned(), took.parse().expect("milliseconds"))).collect()
}

/// Sends a request and awaits the whole answer: its head, and milliseconds.
async fn send(sender: &mut SendRequest<Full<Bytes>>, request: Builder, body: Bytes) -> (Parts, f64) {
    let request = request.header("host", "bench").body(Full::new(body)).expect("a request");
    let sent = Instant::now();
    let response = sender.send_request(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    body.collect().await.expect("the whole answer");
    let took = sent.elapsed().as_secs_f64() * 1e3;
    assert!(head.status.is_success(), "{}", head.status);
    (head, took)
}

async fn ask(server: &Server, photo: Bytes) -> Vec<Sample> {
    let stream = TcpStream::connect(server.address).await.expect("a connection");
    stream.set_nodelay(true).expect("a live socket");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        ticks.tick().await;
        let (head, client) = send(&mut sender, Request::post("/classify"), photo.clone()).await;
        let timing = head.headers["server-timing"].to_str().expect("text");
        ticks.tick().await;
        let (_, probe) = send(&mut sender, Request::get("/livez"), Bytes::new()).await;
        samples.push(Sample { client, probe, stages: stages(timing) });
    }
    samples
}

fn line(name: &str, samples: &[Sample], value: impl Fn(&Sample) -> f64) {
    let mut times: Vec<f64> = samples.iter().map(value).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{name:44} p10 {:7.3}  p50 {:7.3}  p90 {:7.3} ms", at(0.1), at(0.5), at(0.9));
}

fn main() {
    // `cargo test --benches` only wants to see that it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let arch = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(Arch::ResNet50);
    let (_folder, weights) = random_weights(arch);
    let mut settings = config();
    settings.photos.as_mut().expect("photos are served").classifier.weights = weights;
    let server = Server::start(&settings);
    let client = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let samples = client.block_on(ask(&server, photo(1).into()));
    line("at the client", &samples, |sample| sample.client);
    for stage in ["read", "decode", "queue", "batch-wait", "execute", "total"] {
        line(&format!("  {stage}, in the server"), &samples, |sample| sample.stage(stage));
    }
    line("beside decoding and execution, at the client", &samples, |sample| sample.beside(sample.client));
    line("  less the probe after it", &samples, |sample| sample.beside(sample.client) - sample.probe);
    line("beside decoding and execution, in the server", &samples, |sample| {
        sample.beside(sample.stage("total"))
    });
    line("a probe, at the client", &samples, |sample| sample.probe);
}
