//! The scheduler on a real server: saturation, and up to ten times more than can be served.
//!
//! ResNet-50 of random weights on this machine's CPU over HTTP. Capacity is what the server does for clients in a closed
//! loop; it is measured anew before every load, and figures are medians over interleaved rounds, because a shared machine
//! is never equally fast for long. Not criterion: the figures are rates and distributions of many clients.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use convoy::vision::Arch;
use futures_util::future::join_all;
use reqwest::{Client, Response};
use support::{Server, config, metric, photo, random_weights};
use tokio::runtime::Runtime;

/// Deadline of the requests in the overload, in milliseconds.
const DEADLINE_MS: f64 = 1000.0;

/// Clients that keep the server saturated.
const CLIENTS: usize = 32;

/// Times that saturation and every load are measured, in turn.
const ROUNDS: usize = 5;

/// Loads, as multiples of capacity.
const FACTORS: [f64; 4] = [0.5, 1.0, 3.0, 10.0];

/// Seconds of load before a queue is as long as it gets, and seconds that count.
const WARM_UP: f64 = 2.0;
const WINDOW: f64 = 6.0;

struct Bench {
    runtime: Runtime,
    client: Client,
    server: Server,
    photo: Vec<u8>,
}

/// One answer: status, milliseconds as the client saw them, and when it was there.
struct Answered {
    status: u16,
    /// Let in, and refused later.
    shed: bool,
    ms: f64,
    at: Instant,
}

/// A load and what became of it, all rounds together.
#[derive(Default)]
struct Load {
    asked: usize,
    /// Photos that the server executed well, in time or not.
    executed: f64,
    /// By round: answers in time, as a share of what the server did just before.
    goodput: Vec<f64>,
    /// Milliseconds of answers, of refusals at the door, and of requests that were let in and then given up.
    served: Vec<f64>,
    refused: Vec<f64>,
    given_up: Vec<f64>,
}

async fn fetch(client: Client, url: String, photo: Vec<u8>, deadline: f64) -> Answered {
    let started = Instant::now();
    let request = client.post(url).header("x-convoy-deadline-ms", format!("{deadline:.0}")).body(photo);
    let response: Response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("the whole answer");
    let at = Instant::now();
    Answered {
        status,
        shed: text.contains("the server fell behind"),
        ms: (at - started).as_secs_f64() * 1e3,
        at,
    }
}

impl Bench {
    fn ask(&self, deadline: f64) -> impl Future<Output = Answered> + Send + 'static {
        fetch(self.client.clone(), self.server.url("/classify?top=5"), self.photo.clone(), deadline)
    }

    fn metrics(&self) -> String {
        let get = async { self.client.get(self.server.url("/metrics")).send().await?.text().await };
        self.runtime.block_on(get).expect("metrics")
    }

    /// Milliseconds of a batch of each size, as the server has measured them so far.
    fn costs(&self) -> Vec<(usize, f64)> {
        let text = self.metrics();
        let cost = |size: &usize| {
            let name = format!(r#"convoy_batch_cost_seconds{{queue="classify",size="{size}"}}"#);
            (*size, metric(&text, &name) * 1e3)
        };
        [1, 2, 4, 8].iter().map(cost).collect()
    }

    fn outcome(&self, outcome: &str) -> f64 {
        metric(&self.metrics(), &format!(r#"convoy_jobs_total{{queue="classify",outcome="{outcome}"}}"#))
    }

    /// Photos per second of `CLIENTS` clients in a closed loop.
    fn saturate(&self, seconds: f64) -> f64 {
        let (before, started) = (self.outcome("ok"), Instant::now());
        let end = started + Duration::from_secs_f64(seconds);
        let clients = (0..CLIENTS).map(|_| async {
            while Instant::now() < end {
                assert_eq!(self.ask(60_000.0).await.status, 200);
            }
        });
        self.runtime.block_on(async { join_all(clients).await });
        (self.outcome("ok") - before) / started.elapsed().as_secs_f64()
    }

    /// Requests at a steady `rate` whatever becomes of them, and when the first was sent.
    fn flood(&self, rate: f64) -> (Instant, Vec<Answered>) {
        let count = (rate * (WARM_UP + WINDOW)) as usize;
        self.runtime.block_on(async {
            let started = Instant::now();
            let mut sent = Vec::with_capacity(count);
            for index in 0..count {
                let at = started + Duration::from_secs_f64(index as f64 / rate);
                tokio::time::sleep_until(at.into()).await;
                sent.push(tokio::spawn(self.ask(DEADLINE_MS)));
            }
            let answers = join_all(sent).await;
            (started, answers.into_iter().map(|answer| answer.expect("a client lives")).collect())
        })
    }

    /// One round of a load of `factor` times `capacity`.
    fn overload(&self, capacity: f64, factor: f64, load: &mut Load) {
        let before = self.outcome("ok");
        let (started, answers) = self.flood(factor * capacity);
        load.executed += self.outcome("ok") - before;
        load.asked += answers.len();
        let window = WARM_UP..WARM_UP + WINDOW;
        let mut in_time = 0;
        for answer in answers {
            let counts = window.contains(&(answer.at - started).as_secs_f64());
            match answer.status {
                200 => {
                    in_time += usize::from(counts && answer.ms <= DEADLINE_MS);
                    load.served.push(answer.ms);
                }
                429 if !answer.shed => load.refused.push(answer.ms),
                _ => load.given_up.push(answer.ms),
            }
        }
        load.goodput.push(in_time as f64 / WINDOW / capacity);
    }
}

/// Photos a second at the best of these batch sizes, each with its milliseconds.
fn best_rate(costs: &[(usize, f64)]) -> f64 {
    costs.iter().map(|&(size, ms)| 1e3 * size as f64 / ms).fold(0.0, f64::max)
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

fn main() {
    // `cargo test --benches` only wants to see that it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (_folder, weights) = random_weights(Arch::ResNet50);
    let mut settings = config();
    let photos = settings.photos.as_mut().expect("photos are served");
    (photos.classifier.weights, photos.max_batch) = (weights, 8);
    let bench = Bench {
        server: Server::start(&settings),
        runtime: Runtime::new().expect("a runtime"),
        client: Client::new(),
        photo: photo(1),
    };
    let costs = bench.costs();
    let best = best_rate(&costs);
    println!("batch costs (size, ms): {costs:.2?}; best fixed size: {best:.2} photos/s");
    let mut saturated = Vec::new();
    let mut loads = FACTORS.map(|_| Load::default());
    for _ in 0..ROUNDS {
        for (factor, load) in FACTORS.into_iter().zip(&mut loads) {
            let rate = bench.saturate(4.0);
            saturated.push(rate / best_rate(&bench.costs()));
            bench.overload(rate, factor, load);
        }
    }
    println!(
        "saturated by {CLIENTS} clients: {:.1} % of the best fixed size by the costs of the moment (median of {})",
        100.0 * quantile(saturated.clone(), 0.5),
        saturated.len()
    );
    for (factor, load) in FACTORS.into_iter().zip(loads) {
        let Load { asked, executed, goodput, served, refused, given_up } = load;
        let shares: Vec<String> = goodput.iter().map(|share| format!("{:.0}", 100.0 * share)).collect();
        println!(
            "{factor}x: {asked} asked, {} served ({executed} executed), {} refused, {} given up; goodput {:.1} % of capacity (rounds: {})",
            served.len(),
            refused.len(),
            given_up.len(),
            100.0 * quantile(goodput, 0.5),
            shares.join(" "),
        );
        println!(
            "  served p50 {:.0} p99 {:.0} ms (deadline {DEADLINE_MS} ms); refused p50 {:.2} p99 {:.2} ms",
            quantile(served.clone(), 0.5),
            quantile(served, 0.99),
            quantile(refused.clone(), 0.5),
            quantile(refused, 0.99),
        );
    }
}
