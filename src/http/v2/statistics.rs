//! What the V2 statistics extension tells: counts and times of the infer requests answered since the start.
//!
//! Only requests of this protocol are counted; every request, whatever its route, is in `/metrics`.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{Model, VERSION};
use crate::service::Timeline;

/// The counts of both models.
#[derive(Debug, Default)]
pub struct Statistics {
    photos: Counts,
    questions: Counts,
}

/// The counts of one model.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<Totals>);

/// Where one answered request's time went.
pub(super) struct Measured {
    /// From body to tensors.
    pub(super) parsing: Duration,
    /// From scores to body.
    pub(super) writing: Duration,
    /// One an element of its batch.
    pub(super) timelines: Vec<Timeline>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Span {
    count: u64,
    ns: u64,
}

impl Span {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(nanoseconds(took));
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

/// Requests: each stage is the longest among the elements of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Requests {
    success: Span,
    fail: Span,
    /// Waiting for an executor, or with it for company.
    queue: Span,
    /// From body to tensors, and decoding.
    compute_input: Span,
    compute_infer: Span,
    /// From scores to body.
    compute_output: Span,
    /// Photos that shared the execution of an identical one in flight; how long that execution took.
    cache_hit: Span,
    /// Photos that were executed for this protocol; how long that took.
    cache_miss: Span,
}

/// Jobs of this protocol that ran in batches of one size, whoever else was in them.
#[derive(Debug, Clone, Copy, Default)]
struct Jobs {
    count: u64,
    /// Of the whole batch, once a job.
    execute: Duration,
    /// Each job's own, with its share of its request's parsing.
    input: Duration,
    /// Each job's share of its request's writing.
    output: Duration,
}

impl Jobs {
    /// Executions of batches of `size` that these jobs made up: a part of one where others were in it.
    fn executions(&self, size: usize) -> f64 {
        self.count as f64 / size as f64
    }
}

#[derive(Debug, Default)]
struct Totals {
    requests: Requests,
    inferences: u64,
    batches: BTreeMap<usize, Jobs>,
    last: Option<SystemTime>,
}

#[derive(Serialize)]
struct WireBatch {
    batch_size: usize,
    compute_input: Span,
    compute_infer: Span,
    compute_output: Span,
}

#[derive(Serialize)]
struct WireModel<'a> {
    name: &'a str,
    version: &'a str,
    /// Milliseconds since 1970; 0 before the first.
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: Requests,
    /// Only models that answer a request several times have any.
    response_stats: BTreeMap<String, Span>,
    batch_stats: Vec<WireBatch>,
}

/// The answer of the statistics endpoints.
#[derive(Serialize)]
pub(super) struct WireStatistics<'a> {
    model_stats: Vec<WireModel<'a>>,
}

impl Totals {
    fn add(&mut self, took: Duration, measured: &Measured) {
        let Measured { parsing, writing, timelines } = measured;
        let longest = timelines.iter().copied().reduce(Timeline::longest).unwrap_or_default();
        self.requests.success.add(took);
        self.requests.queue.add(longest.queue + longest.batch_wait);
        self.requests.compute_input.add(*parsing + longest.decode);
        self.requests.compute_infer.add(longest.execute);
        self.requests.compute_output.add(*writing);
        self.inferences += timelines.len() as u64;
        let elements = timelines.len().max(1) as u32;
        for timeline in timelines {
            if timeline.shared {
                self.requests.cache_hit.add(timeline.execute);
                continue;
            }
            self.requests.cache_miss.add(timeline.execute);
            let jobs = self.batches.entry(timeline.batch.max(1)).or_default();
            jobs.count += 1;
            jobs.execute += timeline.execute;
            jobs.input += timeline.decode + *parsing / elements;
            jobs.output += *writing / elements;
        }
    }

    /// Rounded up: work that ran was executed at least once.
    fn executions(&self) -> u64 {
        self.batches.iter().map(|(size, jobs)| jobs.executions(*size)).sum::<f64>().ceil() as u64
    }

    fn batches(&self) -> Vec<WireBatch> {
        let batch = |(&size, jobs): (&usize, &Jobs)| {
            let count = jobs.executions(size).ceil() as u64;
            let span = |total: Duration| Span { count, ns: nanoseconds(total) };
            WireBatch {
                batch_size: size,
                compute_input: span(jobs.input),
                compute_infer: span(jobs.execute / size as u32),
                compute_output: span(jobs.output),
            }
        };
        self.batches.iter().map(batch).collect()
    }
}

impl Counts {
    /// Counts a request that was answered, `took` after its head.
    pub(super) fn succeeded(&self, took: Duration, measured: &Measured) {
        let mut totals = self.0.lock();
        totals.add(took, measured);
        totals.last = Some(SystemTime::now());
    }

    /// Counts a request that got an error, `took` after its head.
    pub(super) fn failed(&self, took: Duration) {
        self.0.lock().requests.fail.add(took);
    }

    fn wire<'a>(&self, name: &'a str) -> WireModel<'a> {
        let totals = self.0.lock();
        let since_1970 = totals.last.and_then(|last| last.duration_since(UNIX_EPOCH).ok());
        WireModel {
            name,
            version: VERSION,
            last_inference: since_1970.map_or(0, |since| since.as_millis() as u64),
            inference_count: totals.inferences,
            execution_count: totals.executions(),
            inference_stats: totals.requests,
            response_stats: BTreeMap::new(),
            batch_stats: totals.batches(),
        }
    }
}

impl Statistics {
    /// Where requests to `model` are counted.
    pub(super) fn of_model(&self, model: &Model) -> &Counts {
        match model {
            Model::Photos(_) => &self.photos,
            Model::Questions(_) => &self.questions,
        }
    }

    /// The statistics of `models`.
    pub(super) fn of<'a>(&self, models: &'a [Model]) -> WireStatistics<'a> {
        let model_stats = models.iter().map(|model| self.of_model(model).wire(model.name())).collect();
        WireStatistics { model_stats }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(batch: usize, execute: u64) -> Timeline {
        let execute = Duration::from_nanos(execute);
        Timeline { batch, execute, queue: Duration::from_nanos(5), ..Timeline::default() }
    }

    fn measured(timelines: Vec<Timeline>) -> Measured {
        Measured { parsing: Duration::from_nanos(30), writing: Duration::from_nanos(60), timelines }
    }

    #[test]
    fn jobs_of_one_batch_are_one_execution() {
        let counts = Counts::default();
        let three = vec![ran(2, 10), ran(2, 10), ran(1, 7)];
        counts.succeeded(Duration::from_nanos(200), &measured(three));
        counts.failed(Duration::from_nanos(9));
        let wire = counts.wire("m");
        assert_eq!((wire.inference_count, wire.execution_count), (3, 2));
        let stats = wire.inference_stats;
        assert_eq!(stats.success, Span { count: 1, ns: 200 });
        assert_eq!(stats.fail, Span { count: 1, ns: 9 });
        assert_eq!(stats.queue, Span { count: 1, ns: 5 });
        assert_eq!(stats.compute_infer, Span { count: 1, ns: 10 });
        let [one, two] = wire.batch_stats.as_slice() else { panic!("two sizes ran") };
        assert_eq!((one.batch_size, one.compute_infer), (1, Span { count: 1, ns: 7 }));
        assert_eq!((two.batch_size, two.compute_infer), (2, Span { count: 1, ns: 10 }));
        assert_eq!((one.compute_input.ns, two.compute_output.ns), (10, 40));
        assert!(wire.last_inference > 0);
    }

    #[test]
    fn a_shared_execution_is_a_hit_and_not_executed_again() {
        let counts = Counts::default();
        let shared = Timeline { shared: true, ..ran(4, 10) };
        counts.succeeded(Duration::from_nanos(20), &measured(vec![shared]));
        let wire = counts.wire("m");
        assert_eq!((wire.inference_count, wire.execution_count), (1, 0));
        assert_eq!(wire.inference_stats.cache_hit, Span { count: 1, ns: 10 });
        assert_eq!(wire.inference_stats.cache_miss, Span::default());
    }
}
