//! The threads that run what the dispatcher hands out: answer every job, contain a panic, find the one that is to blame.
//!
//! One executor gets one thread and owns it. A pool is several executors behind one line. Which jobs form a batch is
//! decided in [`super::dispatcher`].

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, at, bounded, never, select};

use super::{
    CostTable, Executor,
    dispatcher::Turn,
    queue::{Answer, Arrival, Job, JobError, Queue, Route, Shared, Timing, take_in},
};
use crate::metrics::QueueMetrics;

/// The threads of one pool. They end when every [`Queue`] clone is gone and what was queued has been answered.
pub struct Workers {
    name: &'static str,
    threads: Vec<JoinHandle<()>>,
    running: Liveness,
}

/// Tells, from anywhere, whether every thread of a pool is still running.
#[derive(Clone)]
pub struct Liveness {
    expected: usize,
    running: Arc<AtomicUsize>,
}

impl Liveness {
    /// Whether no thread of the pool has ended.
    pub fn all_running(&self) -> bool {
        self.running.load(Ordering::Acquire) == self.expected
    }
}

impl Workers {
    /// The pool's name, as in its metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A handle for readiness checks.
    pub fn liveness(&self) -> Liveness {
        self.running.clone()
    }

    /// Waits for the threads; drop every queue clone first.
    pub fn join(self) {
        for thread in self.threads {
            // A worker contains its executor's panics, so a panicked join is a bug that the hook has logged already.
            let _logged_by_the_panic_hook = thread.join();
        }
    }
}

/// Starts one thread per executor behind one line of `capacity` seats; `costs` is what their batches cost.
///
/// # Errors
/// When the operating system refuses a thread.
pub fn start<E: Executor>(
    name: &'static str,
    executors: Vec<E>,
    capacity: usize,
    costs: CostTable,
    metrics: QueueMetrics,
) -> std::io::Result<(Queue<E>, Workers)> {
    let expected = executors.len();
    let (queue, shared, arrivals) = Queue::new(capacity, expected, costs, metrics);
    let running = Liveness { expected, running: Arc::new(AtomicUsize::new(expected)) };
    let mut threads = Vec::with_capacity(expected);
    let nudges = (expected > 1).then(|| bounded(expected));
    for (index, executor) in executors.into_iter().enumerate() {
        let worker = Worker {
            name,
            index,
            executor,
            shared: shared.clone(),
            arrivals: arrivals.clone(),
            nudges: nudges.clone(),
        };
        let alive = Alive(running.running.clone());
        let thread = thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
            let _alive = alive;
            worker.work();
        })?;
        threads.push(thread);
    }
    Ok((queue, Workers { name, threads, running }))
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

struct Worker<E: Executor> {
    name: &'static str,
    index: usize,
    executor: E,
    shared: Arc<Shared<E>>,
    arrivals: Receiver<Arrival<E>>,
    /// Where there are several threads, one that leaves jobs in the line wakes another.
    nudges: Option<(Sender<()>, Receiver<()>)>,
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
    fn work(mut self) {
        if let Err(error) = E::PRIORITY.enter() {
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
                (arrived, open) = self.sleep(wake);
            }
        }
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

    /// Runs a batch and answers its jobs. Returns its size if it went through at once: only then does its time say what
    /// such a batch costs.
    fn execute(&mut self, jobs: Vec<Job<E>>, held_since: Option<Instant>) -> Option<usize> {
        let started = Instant::now();
        let mut batch = Batch::of(jobs);
        let size = batch.routes.len();
        let timings = self.timings(&batch, started, held_since);
        let outcome = self.attempt(&batch.inputs);
        let took = started.elapsed();
        self.shared.metrics.execute.record(took.as_secs_f64());
        self.shared.dispatcher.lock().release(size);
        match outcome {
            Ok(results) => {
                self.answer(batch.routes, results, |index| Timing { execute: took, ..timings[index] });
                Some(size)
            }
            Err(failure) if size == 1 => {
                self.fail(batch, failure);
                None
            }
            Err(_) => {
                tracing::warn!(queue = self.name, jobs = size, "a batch failed; halving it to find out why");
                let second = batch.split();
                self.bisect(vec![second, batch]);
                None
            }
        }
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
        let executor = &mut self.executor;
        match panic::catch_unwind(panic::AssertUnwindSafe(|| executor.run(inputs))) {
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

#[cfg(test)]
mod tests;
