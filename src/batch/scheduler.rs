//! The threads between a queue and its executors: take a batch, run it, answer every job, contain a panic.
//!
//! One executor gets one thread and owns it. A pool is several executors pulling from the same queue. Which jobs
//! form a batch is decided in [`super::policy`].

use std::{
    any::Any,
    iter, panic,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use crossbeam_channel::Receiver;

use super::{
    Executor,
    policy::{self, Shed},
    queue::{Job, JobError, Pace, Queue, Route},
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

/// Starts one thread per executor, all fed from one queue of `capacity` seats.
///
/// # Errors
/// When the operating system refuses a thread.
pub fn start<E: Executor>(
    name: &'static str,
    executors: Vec<E>,
    capacity: usize,
    metrics: QueueMetrics,
) -> std::io::Result<(Queue<E>, Workers)> {
    let (queue, jobs, pace) = Queue::new(capacity, metrics.clone());
    let expected = executors.len();
    let running = Liveness { expected, running: Arc::new(AtomicUsize::new(expected)) };
    let mut threads = Vec::with_capacity(expected);
    for (index, executor) in executors.into_iter().enumerate() {
        let worker = Worker {
            name,
            executor,
            jobs: jobs.clone(),
            pace: pace.clone(),
            workers: expected,
            metrics: metrics.clone(),
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
    executor: E,
    jobs: Receiver<Job<E>>,
    pace: Arc<Pace>,
    workers: usize,
    metrics: QueueMetrics,
}

impl<E: Executor> Worker<E> {
    fn work(mut self) {
        while let Ok(first) = self.jobs.recv() {
            let waiting = iter::once(first).chain(self.jobs.try_iter());
            let formed = policy::form_batch(Instant::now(), self.executor.max_batch(), waiting);
            for (job, reason) in formed.shed {
                self.shed(job, reason);
            }
            if !formed.batch.is_empty() {
                self.execute(formed.batch);
            }
        }
    }

    fn shed(&self, job: Job<E>, reason: Shed) {
        match reason {
            Shed::Expired => {
                self.metrics.expired.increment(1);
                job.route.answer(Err(JobError::Expired));
            }
            Shed::Abandoned => self.metrics.abandoned.increment(1),
        }
    }

    fn execute(&mut self, batch: Vec<Job<E>>) {
        let started = Instant::now();
        let (inputs, routes): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.input, job.route)).unzip();
        self.metrics.batch_size.record(routes.len() as f64);
        for route in &routes {
            self.metrics.wait.record(started.duration_since(route.submitted).as_secs_f64());
        }
        let executor = &mut self.executor;
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| executor.run(inputs)));
        let took = started.elapsed();
        self.metrics.execute.record(took.as_secs_f64());
        self.pace.record(took, routes.len(), self.workers);
        match outcome {
            Ok(results) if results.len() == routes.len() => self.answer(routes, results),
            Ok(results) => self.fail(routes, &format!("{} results came back", results.len())),
            Err(payload) => self.fail(routes, panic_text(payload.as_ref())),
        }
    }

    fn answer(&self, routes: Vec<Route<E>>, results: Vec<Result<E::Output, E::Error>>) {
        for (route, result) in routes.into_iter().zip(results) {
            let counter = if result.is_ok() { &self.metrics.ok } else { &self.metrics.failed };
            counter.increment(1);
            route.answer(result.map_err(JobError::Failed));
        }
    }

    fn fail(&self, routes: Vec<Route<E>>, reason: &str) {
        tracing::error!(queue = self.name, jobs = routes.len(), reason, "executor broke on a batch");
        for route in routes {
            self.metrics.panicked.increment(1);
            route.answer(Err(JobError::Panicked));
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panic without a message")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{batch::Ticket, metrics::Metrics};

    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[error("odd input {0}")]
    struct Odd(u32);

    /// Doubles even numbers, refuses odd ones, panics on 666, and returns too few results on 777. Tells each batch
    /// on `batches` and then waits for a turn on `turns`.
    struct Scripted {
        max: usize,
        batches: crossbeam_channel::Sender<Vec<u32>>,
        turns: Receiver<()>,
    }

    impl Executor for Scripted {
        type Input = u32;
        type Output = u32;
        type Error = Odd;

        fn max_batch(&self) -> usize {
            self.max
        }

        fn run(&mut self, batch: Vec<u32>) -> Vec<Result<u32, Odd>> {
            self.batches.send(batch.clone()).unwrap();
            self.turns.recv().unwrap();
            assert!(!batch.contains(&666), "scripted panic");
            let short = usize::from(batch.contains(&777));
            batch.iter().skip(short).map(|&n| if n % 2 == 0 { Ok(2 * n) } else { Err(Odd(n)) }).collect()
        }
    }

    struct Stage {
        queue: Queue<Scripted>,
        workers: Workers,
        batches: Receiver<Vec<u32>>,
        turns: crossbeam_channel::Sender<()>,
        metrics: Metrics,
    }

    impl Stage {
        fn new(max: usize, capacity: usize) -> Self {
            let (batches, seen) = crossbeam_channel::unbounded();
            let (turns, granted) = crossbeam_channel::unbounded();
            let metrics = Metrics::new();
            let executor = Scripted { max, batches, turns: granted };
            let (queue, workers) = start("test", vec![executor], capacity, metrics.queue("test")).unwrap();
            Self { queue, workers, batches: seen, turns, metrics }
        }

        fn submit(&self, input: u32) -> Ticket<Scripted> {
            self.submit_until(input, Instant::now() + Duration::from_secs(60))
        }

        fn submit_until(&self, input: u32, deadline: Instant) -> Ticket<Scripted> {
            self.queue.submit(self.queue.admit(1).unwrap(), input, deadline)
        }

        fn batch(&self) -> Vec<u32> {
            self.batches.recv_timeout(Duration::from_secs(20)).unwrap()
        }

        fn turn(&self) {
            self.turns.send(()).unwrap();
        }
    }

    #[test]
    fn jobs_gather_behind_a_running_batch_and_get_their_own_answers() {
        let stage = Stage::new(4, 16);
        let first = stage.submit(2);
        assert_eq!(stage.batch(), [2]);
        let rest: Vec<_> = [4, 5, 6, 8, 10].into_iter().map(|n| stage.submit(n)).collect();
        stage.turn();
        assert_eq!(stage.batch(), [4, 5, 6, 8]);
        stage.turn();
        assert_eq!(stage.batch(), [10]);
        stage.turn();
        assert_eq!(first.wait(), Ok(4));
        let answers: Vec<_> = rest.into_iter().map(Ticket::wait).collect();
        assert_eq!(answers, [Ok(8), Err(JobError::Failed(Odd(5))), Ok(12), Ok(16), Ok(20)]);
    }

    #[test]
    fn a_panic_answers_its_batch_and_the_thread_lives_on() {
        let stage = Stage::new(4, 16);
        for poison in [666, 777] {
            let bad = stage.submit(poison);
            stage.batch();
            stage.turn();
            assert_eq!(bad.wait(), Err(JobError::Panicked));
        }
        let good = stage.submit(8);
        stage.batch();
        stage.turn();
        assert_eq!(good.wait(), Ok(16));
        assert!(stage.workers.liveness().all_running());
    }

    #[test]
    fn expired_and_abandoned_jobs_never_reach_the_executor() {
        let stage = Stage::new(4, 16);
        let running = stage.submit(2);
        stage.batch();
        let expired = stage.submit_until(4, Instant::now());
        drop(stage.submit(6));
        let live = stage.submit(8);
        stage.turn();
        assert_eq!(stage.batch(), [8]);
        stage.turn();
        assert_eq!((running.wait(), expired.wait(), live.wait()), (Ok(4), Err(JobError::Expired), Ok(16)));
        let text = stage.metrics.render();
        assert!(text.contains(r#"convoy_jobs_total{queue="test",outcome="expired"} 1"#), "{text}");
        assert!(text.contains(r#"convoy_jobs_total{queue="test",outcome="abandoned"} 1"#), "{text}");
    }

    #[test]
    fn dropping_the_queue_drains_and_ends_the_thread() {
        let stage = Stage::new(2, 16);
        let tickets: Vec<_> = (0..5).map(|n| stage.submit(2 * n)).collect();
        (0..5).for_each(|_| stage.turn());
        let liveness = stage.workers.liveness();
        drop(stage.queue);
        stage.workers.join();
        assert!(!liveness.all_running());
        let answers: Vec<_> = tickets.into_iter().map(Ticket::wait).collect();
        assert_eq!(answers, (0..5).map(|n| Ok(4 * n)).collect::<Vec<_>>());
    }

    /// Answers at once; panics on multiples of 13, errs on multiples of 7.
    struct Moody;

    impl Executor for Moody {
        type Input = u32;
        type Output = u32;
        type Error = Odd;

        fn max_batch(&self) -> usize {
            5
        }

        fn run(&mut self, batch: Vec<u32>) -> Vec<Result<u32, Odd>> {
            assert!(batch.len() <= 5);
            assert!(!batch.iter().any(|n| n % 13 == 0), "moody panic");
            batch.into_iter().map(|n| if n % 7 == 0 { Err(Odd(n)) } else { Ok(n + 1) }).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever mix of good, failing, panicking, expired and abandoned jobs arrives on several threads, every
        /// ticket that is kept is answered exactly once, with its own answer or its batch's fate.
        #[test]
        fn every_kept_ticket_is_answered(
            jobs in prop::collection::vec((1u32..200, 0u8..10), 1..80),
            workers in 1usize..4,
        ) {
            let executors = (0..workers).map(|_| Moody).collect();
            let (queue, pool) = start("moody", executors, 128, Metrics::new().queue("moody")).unwrap();
            let now = Instant::now();
            let far = now + Duration::from_secs(60);
            let mut kept = Vec::new();
            for &(n, mood) in &jobs {
                let deadline = if mood == 1 { now } else { far };
                let ticket = queue.submit(queue.admit(1).unwrap(), n, deadline);
                if mood != 0 { kept.push((n, mood, ticket)); }
            }
            let seats = queue.clone();
            drop(queue);
            for (n, mood, ticket) in kept {
                match ticket.wait() {
                    Ok(answer) => prop_assert!(answer == n + 1 && n % 7 != 0 && n % 13 != 0 && mood != 1),
                    Err(JobError::Failed(Odd(odd))) => prop_assert!(odd == n && n % 7 == 0),
                    Err(JobError::Expired) => prop_assert_eq!(mood, 1),
                    Err(JobError::Panicked) => prop_assert!(mood != 1),
                    Err(JobError::Stopped) => prop_assert!(false, "a live pool stopped"),
                }
            }
            prop_assert!(pool.liveness().all_running());
            drop(seats);
            pool.join();
        }
    }
}
