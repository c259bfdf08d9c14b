//! What the queue and the scheduler thread cost a job when the executor costs nothing.

use std::{
    convert::Infallible,
    hint::black_box,
    time::{Duration, Instant},
};

use convoy::{
    batch::{Executor, Ticket, scheduler},
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

    fn run(&mut self, batch: Vec<u64>) -> Vec<Result<u64, Infallible>> {
        batch.into_iter().map(Ok).collect()
    }
}

/// Jobs in flight at once in the throughput measurement.
const IN_FLIGHT: u64 = 256;

fn overhead(criterion: &mut Criterion) {
    let (queue, workers) =
        scheduler::start("null", vec![Null], IN_FLIGHT as usize, Metrics::new().queue("null"))
            .expect("threads");
    let submit = |n: u64| -> Ticket<Null> {
        let seat = queue.admit(1).expect("seats for everything in flight");
        queue.submit(seat, n, Instant::now() + Duration::from_secs(60))
    };
    let mut group = criterion.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one job there and back", |bencher| {
        bencher.iter(|| assert_eq!(submit(black_box(7)).wait(), Ok(7)));
    });
    group.throughput(Throughput::Elements(IN_FLIGHT));
    group.bench_function("256 jobs in flight", |bencher| {
        bencher.iter(|| {
            let tickets: Vec<_> = (0..IN_FLIGHT).map(submit).collect();
            for (n, ticket) in tickets.into_iter().enumerate() {
                assert_eq!(ticket.wait(), Ok(n as u64));
            }
        });
    });
    group.finish();
    drop(queue);
    workers.join();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
