//! What the queue and the scheduler thread cost a job when the executor costs nothing: one job there and back, many in
//! flight, and a million in a row with the memory they leave behind.

use std::{
    convert::Infallible,
    hint::black_box,
    time::{Duration, Instant},
};

use convoy::{
    batch::{self, CostTable, Executor, Queue, Results, Terms, Ticket},
    metrics::Metrics,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Returns what it was given.
struct Null;

impl Executor for Null {
    type Input = u64;
    type Output = u64;
    type Error = Infallible;

    fn max_batch(&self) -> usize {
        32
    }

    fn run(&mut self, batch: &[u64]) -> Result<Results<Self>, Infallible> {
        Ok(batch.iter().copied().map(Ok).collect())
    }
}

/// Jobs in flight at once in the throughput measurements.
const IN_FLIGHT: u64 = 256;

/// Jobs of the long run.
const MILLION: u64 = 1_000_000;

fn submit(queue: &Queue<Null>, n: u64) -> Ticket<Null> {
    let terms = Terms::by(Instant::now() + Duration::from_secs(60));
    queue.admit(&terms).expect("seats for everything in flight").submit(n)
}

fn round(queue: &Queue<Null>) {
    let tickets: Vec<_> = (0..IN_FLIGHT).map(|n| submit(queue, n)).collect();
    for (n, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.wait(), Ok(n as u64));
    }
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn million(queue: &Queue<Null>, metrics: &Metrics) {
    let before = resident();
    let started = Instant::now();
    for _ in 0..MILLION / IN_FLIGHT {
        round(queue);
        metrics.upkeep();
    }
    let nanos = started.elapsed().as_nanos() as u64 / (MILLION / IN_FLIGHT * IN_FLIGHT);
    let after = resident();
    let text = metrics.render();
    let count = text.lines().find_map(|line| line.strip_prefix(r#"convoy_batch_size_count{queue="null"} "#));
    let batches: u64 = count.and_then(|count| count.parse().ok()).unwrap_or(1);
    println!("mean batch {:.1}", (MILLION / IN_FLIGHT * IN_FLIGHT) as f64 / batches as f64);
    println!("a million jobs: {nanos} ns a job; resident {before} KiB before, {after} KiB after");
}

fn overhead(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let (queue, workers) = batch::start(
        "null",
        vec![Null],
        IN_FLIGHT as usize,
        CostTable::unmeasured(32),
        metrics.queue("null"),
    )
    .expect("threads");
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one job there and back", |bencher| {
        bencher.iter(|| assert_eq!(submit(&queue, black_box(7)).wait(), Ok(7)));
    });
    group.throughput(Throughput::Elements(IN_FLIGHT));
    group.bench_function("256 jobs in flight", |bencher| bencher.iter(|| round(&queue)));
    group.finish();
    if !std::env::args().any(|argument| argument == "--test") {
        million(&queue, &metrics);
    }
    drop(queue);
    workers.join();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
