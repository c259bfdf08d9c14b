//! The threads that run what the dispatcher hands out: answer every job, contain a panic, find the one that is to blame,
//! and find out whether that is the executor itself.
//!
//! Which jobs form a batch is decided in [`super::dispatcher`]; what a pool of such threads is made of, in [`super::pool`].

use std::{
    panic,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, at, never, select};

use super::{
    Before, Executor,
    dispatcher::Turn,
    queue::{Answer, Arrival, Job, JobError, Route, Shared, Timing, take_in},
};

/// Executions in a row that brought no job an answer, after which the executor is shown its sample. Fewer would spend a
/// batch on every other bad job, and more say no more: the sample decides.
const SUSPECT_AFTER: u32 = 3;

/// How soon an executor that fails on its sample is shown it again.
const EXAMINE_EVERY: Duration = Duration::from_secs(1);

/// One executor, which has a thread for itself.
pub(super) struct Worker<E: Executor> {
    pub(super) name: &'static str,
    pub(super) index: usize,
    pub(super) executor: E,
    pub(super) shared: Arc<Shared<E>>,
    pub(super) arrivals: Receiver<Arrival<E>>,
    /// Where there are several threads, one that leaves jobs in the line wakes another.
    pub(super) nudges: Option<(Sender<()>, Receiver<()>)>,
    pub(super) before: Option<Before<E>>,
    pub(super) doubt: Doubt,
}

/// What speaks against an executor.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Executions in a row that brought no job an answer.
    fruitless: u32,
    /// When to show it its sample again, because it failed on it.
    examine_at: Option<Instant>,
}

/// Jobs of one batch apart from each other: what the executor reads, and the ways back.
struct Batch<E: Executor> {
    inputs: Vec<E::Input>,
    routes: Vec<Route<E>>,
}

impl<E: Executor> Batch<E> {
    fn of(jobs: Vec<Job<E>>) -> Self {
        let (inputs, routes) = jobs.into_iter().map(|job| (job.input, job.route)).unzip();
        Self { inputs, routes }
    }

    /// The second half, which leaves the first.
    fn split(&mut self) -> Self {
        let middle = self.routes.len() / 2;
        Self { inputs: self.inputs.split_off(middle), routes: self.routes.split_off(middle) }
    }
}

impl<E: Executor> Worker<E> {
    /// Until every queue is gone and what was queued has been answered.
    pub(super) fn work(mut self) {
        if let Err(error) = self.executor.priority().enter() {
            tracing::warn!(queue = self.name, %error, "no priority for this thread: questions may wait for photos");
        }
        let (mut open, mut ran, mut arrived) = (true, None, None);
        loop {
            let turn = self.turn(open, ran.take(), arrived.take());
            let wake = turn.wake;
            self.shed(turn.expired, turn.late);
            if !turn.batch.is_empty() {
                ran = Some(self.execute(turn.batch, turn.held_since));
            } else if !open {
                return;
            } else {
                (arrived, open) = self.sleep(earlier(wake, self.doubt.examine_at));
            }
            // What has just arrived takes its place first, where others find it.
            if arrived.is_none() {
                self.examine_if_due();
            }
        }
    }

    /// Shows the executor a batch that it must be able to answer, where jobs in a row got no answer or where it failed on the
    /// last such batch: jobs that are to blame themselves do not make a bad executor, however many there are.
    fn examine_if_due(&mut self) {
        let now = Instant::now();
        match self.doubt.examine_at {
            Some(_) if self.doubt.fruitless == 0 => self.conclude(true),
            Some(at) if at > now => {}
            None if self.doubt.fruitless < SUSPECT_AFTER => {}
            _ => {
                let sample = self.executor.sample();
                self.shared.dispatcher.lock().occupy(now, self.index, sample.len().max(1));
                let sound = self.attempt(&sample).is_ok_and(|answers| answers.iter().all(Result::is_ok));
                self.conclude(sound);
            }
        }
    }

    fn conclude(&mut self, sound: bool) {
        let now = Instant::now();
        let mut dispatcher = self.shared.dispatcher.lock();
        dispatcher.finish(now, self.index, None);
        dispatcher.examined(now, self.index, !sound);
        drop(dispatcher);
        match (sound, self.doubt.examine_at) {
            (false, None) => {
                tracing::error!(queue = self.name, "the executor fails on what it must be able to answer");
            }
            (true, Some(_)) => tracing::info!(queue = self.name, "the executor answers again"),
            _ => {}
        }
        if sound {
            self.doubt.fruitless = 0;
        }
        self.doubt.examine_at = (!sound).then(|| now + EXAMINE_EVERY);
    }

    /// Reports the batch that ran, if any, lets in what has arrived, and asks for what is next.
    fn turn(&self, open: bool, ran: Option<Option<usize>>, arrived: Option<Arrival<E>>) -> Turn<Job<E>> {
        let mut dispatcher = self.shared.dispatcher.lock();
        let now = Instant::now();
        if let Some(size) = ran {
            dispatcher.finish(now, self.index, size);
        }
        take_in(&mut dispatcher, arrived.into_iter().chain(self.arrivals.try_iter()));
        let turn = dispatcher.next(now, self.index, open);
        let more = dispatcher.ready() > 0 && !turn.batch.is_empty();
        drop(dispatcher);
        if let Some((nudge, _)) = self.nudges.as_ref().filter(|_| more) {
            // A full channel means that every thread will look at the line anyway.
            let _all_awake = nudge.try_send(());
        }
        turn
    }

    /// Sleeps until something arrives or `wake`; what arrived, and whether anything can still come.
    fn sleep(&self, wake: Option<Instant>) -> (Option<Arrival<E>>, bool) {
        let received = match (wake, &self.nudges) {
            (Some(at), None) => self.arrivals.recv_deadline(at),
            (None, None) => self.arrivals.recv().map_err(|_closed| RecvTimeoutError::Disconnected),
            (wake, Some((_, nudges))) => {
                let timer = wake.map_or_else(never, at);
                select! {
                    recv(self.arrivals) -> arrival => arrival.map_err(|_closed| RecvTimeoutError::Disconnected),
                    recv(nudges) -> _ => Err(RecvTimeoutError::Timeout),
                    recv(timer) -> _ => Err(RecvTimeoutError::Timeout),
                }
            }
        };
        match received {
            Ok(arrival) => (Some(arrival), true),
            Err(RecvTimeoutError::Timeout) => (None, true),
            Err(RecvTimeoutError::Disconnected) => (None, false),
        }
    }

    fn shed(&self, expired: Vec<Job<E>>, late: Vec<Job<E>>) {
        for job in expired {
            self.shared.metrics.expired.increment(1);
            job.route.answer(Err(JobError::Expired), Timing::default());
        }
        if late.is_empty() {
            return;
        }
        let wait = self.shared.dispatcher.lock().drain_seconds(Instant::now());
        for job in late {
            self.shared.metrics.late.increment(1);
            let retry_after = Duration::from_secs_f64(wait);
            job.route.answer(Err(JobError::Late { retry_after }), Timing::default());
        }
    }

    /// Runs a batch and answers its jobs. Returns its size if it went through at once and any job got what it is for: only
    /// then does its time say what such a batch costs.
    fn execute(&mut self, jobs: Vec<Job<E>>, held_since: Option<Instant>) -> Option<usize> {
        let started = Instant::now();
        let mut batch = Batch::of(jobs);
        let size = batch.routes.len();
        let timings = self.timings(&batch, started, held_since);
        let outcome = self.attempt(&batch.inputs);
        let took = started.elapsed();
        self.shared.metrics.execute.record(took.as_secs_f64());
        match outcome {
            Ok(results) => {
                self.release();
                let well = results.iter().any(Result::is_ok);
                self.answer(batch.routes, results, |index| Timing { execute: took, ..timings[index] });
                well.then_some(size)
            }
            Err(failure) if size == 1 => {
                self.release();
                self.fail(batch, failure);
                None
            }
            Err(_) => {
                tracing::warn!(queue = self.name, jobs = size, "a batch failed; halving it to find out why");
                let second = batch.split();
                self.bisect(vec![second, batch]);
                self.release();
                None
            }
        }
    }

    /// Gives the seats of the batch back.
    fn release(&self) {
        self.shared.dispatcher.lock().release(self.index);
    }

    fn timings(&self, batch: &Batch<E>, started: Instant, held_since: Option<Instant>) -> Vec<Timing> {
        let metrics = &self.shared.metrics;
        let size = batch.routes.len();
        metrics.batch_size.record(size as f64);
        let timing = |route: &Route<E>| {
            let waited = started.saturating_duration_since(route.submitted);
            let held = held_since.map_or(Duration::ZERO, |since| started.saturating_duration_since(since));
            let batch_wait = held.min(waited);
            let queue = waited - batch_wait;
            metrics.queue.record(queue.as_secs_f64());
            metrics.batch_wait.record(batch_wait.as_secs_f64());
            Timing { queue, batch_wait, execute: Duration::ZERO, executed: Some(started), batch: size }
        };
        batch.routes.iter().map(timing).collect()
    }

    /// Runs batches that are known to hold a bad job, halving those that fail, until each bad one stands alone. Jobs whose
    /// owner has left or whose deadline has passed meanwhile are not run again.
    fn bisect(&mut self, mut batches: Vec<Batch<E>>) {
        while let Some(batch) = batches.pop() {
            let mut batch = self.still_wanted(batch);
            let started = Instant::now();
            match self.attempt(&batch.inputs) {
                Ok(results) => {
                    let timing = Timing {
                        execute: started.elapsed(),
                        executed: Some(started),
                        batch: results.len(),
                        ..Timing::default()
                    };
                    self.answer(batch.routes, results, |_| timing);
                }
                Err(failure) if batch.routes.len() == 1 => self.fail(batch, failure),
                Err(_) => {
                    let second = batch.split();
                    batches.extend([second, batch]);
                }
            }
        }
    }

    fn still_wanted(&self, batch: Batch<E>) -> Batch<E> {
        let now = Instant::now();
        let mut wanted = Batch { inputs: Vec::new(), routes: Vec::new() };
        for (input, route) in batch.inputs.into_iter().zip(batch.routes) {
            if route.abandoned() {
                self.shared.metrics.abandoned.increment(1);
            } else if route.deadline <= now {
                self.shared.metrics.expired.increment(1);
                route.answer(Err(JobError::Expired), Timing::default());
            } else {
                wanted.inputs.push(input);
                wanted.routes.push(route);
            }
        }
        wanted
    }

    /// Runs the executor; its failure as a whole is one error for all.
    fn attempt(&mut self, inputs: &[E::Input]) -> Result<Vec<Answer<E>>, JobError<E::Error>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let (executor, before) = (&mut self.executor, &self.before);
        let run = || {
            before.as_ref().map_or(Ok(()), |before| before(inputs))?;
            executor.run(inputs)
        };
        let ran = panic::catch_unwind(panic::AssertUnwindSafe(run));
        let fruitful = matches!(&ran, Ok(Ok(results)) if results.iter().any(Result::is_ok));
        self.doubt.fruitless = if fruitful { 0 } else { self.doubt.fruitless.saturating_add(1) };
        match ran {
            Ok(Ok(results)) if results.len() == inputs.len() => {
                Ok(results.into_iter().map(|result| result.map_err(JobError::Failed)).collect())
            }
            Ok(Ok(results)) => Err(self.broken(&format!("{} results for {}", results.len(), inputs.len()))),
            Ok(Err(error)) => Err(JobError::Failed(error)),
            Err(_told_by_the_panic_hook) => Err(self.broken("it panicked")),
        }
    }

    fn broken(&self, reason: &str) -> JobError<E::Error> {
        tracing::error!(queue = self.name, reason, "executor broke on a batch");
        JobError::Panicked
    }

    fn answer(&self, routes: Vec<Route<E>>, results: Vec<Answer<E>>, timing: impl Fn(usize) -> Timing) {
        for (index, (route, result)) in routes.into_iter().zip(results).enumerate() {
            let counter = if result.is_ok() { &self.shared.metrics.ok } else { &self.shared.metrics.failed };
            counter.increment(1);
            route.answer(result, timing(index));
        }
    }

    /// Answers the one job of `batch`.
    fn fail(&self, batch: Batch<E>, failure: JobError<E::Error>) {
        let metrics = &self.shared.metrics;
        for route in batch.routes {
            let panicked = matches!(failure, JobError::Panicked);
            if panicked { &metrics.panicked } else { &metrics.failed }.increment(1);
            route.answer(Err(failure.clone()), Timing::default());
        }
    }
}

/// The earlier of two moments, where there are any.
fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
