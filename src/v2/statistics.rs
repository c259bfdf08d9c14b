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
pub struct Counts(Mutex<Totals>);

/// Where one answered request's time went.
pub struct Measured {
    /// From body to tensors.
    pub parsing: Duration,
    /// From scores to body.
    pub writing: Duration,
    /// One an element of its batch.
    pub timelines: Vec<Timeline>,
}

impl Measured {
    /// The longest of each stage.
    pub fn longest(&self) -> Timeline {
        self.timelines.iter().copied().reduce(Timeline::longest).unwrap_or_default()
    }
}

/// Why a request got an error, as Triton's metrics tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There was no room, or it would have been late.
    Rejected,
    /// The engine failed.
    Backend,
    /// Anything else, such as a request that does not say what is wanted.
    Other,
}

impl Reason {
    /// Every one, in the order of [`ModelStatistics::failures`].
    pub const ALL: [Self; 3] = [Self::Rejected, Self::Backend, Self::Other];

    /// Its value in the `reason` label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Backend => "BACKEND",
            Self::Other => "OTHER",
        }
    }
}

/// How often something happened, and how long it took in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Span {
    /// How often.
    pub count: u64,
    /// Nanoseconds in all.
    pub ns: u64,
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
pub struct Requests {
    /// Answered.
    pub success: Span,
    /// Got an error.
    pub fail: Span,
    /// Waiting for an executor, or with it for company.
    pub queue: Span,
    /// From body to tensors, and decoding.
    pub compute_input: Span,
    /// In the executor.
    pub compute_infer: Span,
    /// From scores to body.
    pub compute_output: Span,
    /// Photos that shared the execution of an identical one in flight; how long that execution took.
    pub cache_hit: Span,
    /// Photos that were executed for this protocol; how long that took.
    pub cache_miss: Span,
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
    failures: [u64; 3],
    inferences: u64,
    batches: BTreeMap<usize, Jobs>,
    last: Option<SystemTime>,
}

/// Executions of one size.
#[derive(Debug, Serialize)]
pub struct Batch {
    /// Jobs in one.
    pub batch_size: usize,
    /// Before the executor.
    pub compute_input: Span,
    /// In it.
    pub compute_infer: Span,
    /// After it.
    pub compute_output: Span,
}

/// What one model has done since the start, under the protocol's names.
#[derive(Debug, Serialize)]
pub struct ModelStatistics {
    /// The model's name.
    pub name: String,
    /// The model's version.
    pub version: &'static str,
    /// Milliseconds since 1970; 0 before the first.
    pub last_inference: u64,
    /// Elements of requests that were answered.
    pub inference_count: u64,
    /// Batches that they were executed in.
    pub execution_count: u64,
    /// Request by request.
    pub inference_stats: Requests,
    /// Only models that answer a request several times have any.
    pub response_stats: BTreeMap<String, Span>,
    /// By size.
    pub batch_stats: Vec<Batch>,
    /// Requests that got an error, by [`Reason::ALL`]; not part of the protocol.
    #[serde(skip)]
    pub failures: [u64; 3],
}

impl Totals {
    fn add(&mut self, took: Duration, measured: &Measured) {
        let Measured { parsing, writing, timelines } = measured;
        let longest = measured.longest();
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

    fn batches(&self) -> Vec<Batch> {
        let batch = |(&size, jobs): (&usize, &Jobs)| {
            let count = jobs.executions(size).ceil() as u64;
            let span = |total: Duration| Span { count, ns: nanoseconds(total) };
            Batch {
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
    pub fn succeeded(&self, took: Duration, measured: &Measured) {
        let mut totals = self.0.lock();
        totals.add(took, measured);
        totals.last = Some(SystemTime::now());
    }

    /// Counts a request that got an error, `took` after its head.
    pub fn failed(&self, took: Duration, reason: Reason) {
        let mut totals = self.0.lock();
        totals.requests.fail.add(took);
        totals.failures[reason as usize] += 1;
    }

    pub(super) fn of(&self, name: &str) -> ModelStatistics {
        let totals = self.0.lock();
        let since_1970 = totals.last.and_then(|last| last.duration_since(UNIX_EPOCH).ok());
        ModelStatistics {
            name: name.to_owned(),
            version: VERSION,
            last_inference: since_1970.map_or(0, |since| since.as_millis() as u64),
            inference_count: totals.inferences,
            execution_count: totals.executions(),
            inference_stats: totals.requests,
            response_stats: BTreeMap::new(),
            batch_stats: totals.batches(),
            failures: totals.failures,
        }
    }
}

impl Statistics {
    /// Where requests to `model` are counted.
    pub fn of_model(&self, model: &Model) -> &Counts {
        match model {
            Model::Photos(_) => &self.photos,
            Model::Questions(_) => &self.questions,
        }
    }

    /// What `models` have done.
    pub fn of(&self, models: &[Model]) -> Vec<ModelStatistics> {
        models.iter().map(|model| self.of_model(model).of(model.name())).collect()
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
        counts.failed(Duration::from_nanos(9), Reason::Other);
        let wire = counts.of("m");
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
        let wire = counts.of("m");
        assert_eq!((wire.inference_count, wire.execution_count), (1, 0));
        assert_eq!(wire.inference_stats.cache_hit, Span { count: 1, ns: 10 });
        assert_eq!(wire.inference_stats.cache_miss, Span::default());
    }
}
