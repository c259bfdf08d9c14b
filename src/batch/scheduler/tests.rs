//! Real threads and a scripted executor: who runs with whom, who is answered what, and that everybody is answered once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crossbeam_channel::{bounded, unbounded};
use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::{
    batch::{CostTable, Pool, Queue, Refusal, Results, Seat, Terms, Ticket, Trouble, Workers, start},
    metrics::Metrics,
};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("odd input {0}")]
struct Odd(u32);

/// Doubles even numbers and refuses odd ones; a batch with 666 panics, one with 777 gets too few results, one with 888
/// fails as a whole. Tells each batch on `batches` and then waits for a turn on `turns`.
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

    fn run(&mut self, batch: &[u32]) -> Result<Results<Self>, Odd> {
        self.batches.send(batch.to_vec()).unwrap();
        self.turns.recv().unwrap();
        assert!(!batch.contains(&666), "scripted panic");
        if batch.contains(&888) {
            return Err(Odd(888));
        }
        let short = usize::from(batch.contains(&777));
        Ok(batch.iter().skip(short).map(|&n| if n % 2 == 0 { Ok(2 * n) } else { Err(Odd(n)) }).collect())
    }
}

struct Stage {
    queue: Queue<Scripted>,
    workers: Workers,
    batches: Receiver<Vec<u32>>,
    turns: crossbeam_channel::Sender<()>,
    metrics: Metrics,
}

fn far() -> Terms {
    Terms::by(Instant::now() + Duration::from_secs(60))
}

impl Stage {
    fn new(max: usize, capacity: usize) -> Self {
        let (batches, seen) = unbounded();
        let (turns, granted) = unbounded();
        let metrics = Metrics::new();
        let executor = Scripted { max, batches, turns: granted };
        // Batches of every size cost the same, so that whatever waits goes together.
        let costs = CostTable::from_points(max, (1..=max).map(|size| (size, Duration::from_micros(1))));
        let (queue, workers) = start("test", vec![executor], capacity, costs, metrics.queue("test")).unwrap();
        Self { queue, workers, batches: seen, turns, metrics }
    }

    fn submit(&self, input: u32) -> Ticket<Scripted> {
        self.queue.admit(&far()).unwrap().submit(input)
    }

    fn batch(&self) -> Vec<u32> {
        self.batches.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn turn(&self) {
        self.turns.send(()).unwrap();
    }

    fn count(&self, outcome: &str) -> f64 {
        let name = format!(r#"convoy_jobs_total{{queue="test",outcome="{outcome}"}} "#);
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        line.parse().unwrap()
    }
}

#[test]
fn jobs_gather_behind_a_running_batch_and_get_their_own_answers() {
    let stage = Stage::new(4, 16);
    let first = stage.submit(2);
    assert_eq!(stage.batch(), [2]);
    let rest: Vec<_> = [4, 5, 6, 8].into_iter().map(|n| stage.submit(n)).collect();
    stage.turn();
    assert_eq!(stage.batch(), [4, 5, 6, 8]);
    stage.turn();
    assert_eq!(first.wait(), Ok(4));
    let answers: Vec<_> = rest.into_iter().map(Ticket::wait).collect();
    assert_eq!(answers, [Ok(8), Err(JobError::Failed(Odd(5))), Ok(12), Ok(16)]);
}

#[test]
fn the_most_urgent_goes_first() {
    let stage = Stage::new(1, 16);
    let first = stage.submit(2);
    assert_eq!(stage.batch(), [2]);
    let patient = stage.submit(4);
    let urgent = Terms::by(Instant::now() + Duration::from_secs(30));
    let urgent = stage.queue.admit(&urgent).unwrap().submit(6);
    (0..3).for_each(|_| stage.turn());
    assert_eq!((stage.batch(), stage.batch()), (vec![6], vec![4]));
    assert_eq!((first.wait(), patient.wait(), urgent.wait()), (Ok(4), Ok(8), Ok(12)));
}

#[test]
fn a_panic_or_a_broken_contract_is_answered_and_the_thread_lives_on() {
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
    assert_eq!(stage.workers.health().trouble(Instant::now()), None);
}

#[test]
fn a_failing_batch_is_halved_until_the_poison_is_alone() {
    for (poison, verdict) in [(666, JobError::Panicked), (888, JobError::Failed(Odd(888)))] {
        let stage = Stage::new(8, 16);
        let first = stage.submit(2);
        stage.batch();
        let inputs = [10, 12, 14, poison, 16, 18, 20, 22];
        let jobs: Vec<_> = inputs.iter().map(|&n| stage.submit(n)).collect();
        (0..8).for_each(|_| stage.turn());
        let tried: Vec<_> = (0..7).map(|_| stage.batch().len()).collect();
        assert_eq!(tried, [8, 4, 2, 2, 1, 1, 4], "{poison}");
        assert_eq!(first.wait(), Ok(4));
        for (input, job) in inputs.into_iter().zip(jobs) {
            assert_eq!(job.wait(), if input == poison { Err(verdict.clone()) } else { Ok(2 * input) });
        }
    }
}

#[test]
fn owners_who_leave_while_a_batch_is_halved_cost_nothing_more() {
    let stage = Stage::new(4, 16);
    let first = stage.submit(2);
    stage.batch();
    let kept = stage.submit(10);
    let poison = stage.submit(666);
    let leaving = [stage.submit(12), stage.submit(14)];
    stage.turn();
    assert_eq!(stage.batch(), [10, 666, 12, 14]);
    drop(leaving);
    (0..4).for_each(|_| stage.turn());
    assert_eq!([stage.batch(), stage.batch(), stage.batch()], [vec![10, 666], vec![10], vec![666]]);
    assert_eq!((kept.wait(), poison.wait(), first.wait()), (Ok(20), Err(JobError::Panicked), Ok(4)));
    drop(stage.queue);
    stage.workers.join();
    assert!(stage.batches.is_empty(), "12 and 14 were not tried again");
}

#[test]
fn expired_and_abandoned_jobs_never_reach_the_executor() {
    let stage = Stage::new(4, 16);
    let running = stage.submit(2);
    stage.batch();
    let deadline = Instant::now() + Duration::from_millis(30);
    let expired = stage.queue.admit(&Terms::by(deadline)).unwrap().submit(4);
    drop(stage.submit(6));
    let live = stage.submit(8);
    while Instant::now() <= deadline {
        thread::yield_now();
    }
    stage.turn();
    assert_eq!(stage.batch(), [8]);
    stage.turn();
    assert_eq!((running.wait(), expired.wait(), live.wait()), (Ok(4), Err(JobError::Expired), Ok(16)));
    assert_eq!((stage.count("expired"), stage.count("abandoned"), stage.count("ok")), (1.0, 1.0, 2.0));
}

#[test]
fn dropping_the_queue_drains_and_ends_the_thread() {
    let stage = Stage::new(2, 16);
    let tickets: Vec<_> = (0..5).map(|n| stage.submit(2 * n)).collect();
    (0..5).for_each(|_| stage.turn());
    let health = stage.workers.health();
    drop(stage.queue);
    stage.workers.join();
    assert!(matches!(health.trouble(Instant::now()), Some(Trouble::Dead { .. })));
    let answers: Vec<_> = tickets.into_iter().map(Ticket::wait).collect();
    assert_eq!(answers, (0..5).map(|n| Ok(4 * n)).collect::<Vec<_>>());
}

/// Answers at once; panics on multiples of 13, fails as a whole on multiples of 11, errs on multiples of 7.
struct Moody;

impl Executor for Moody {
    type Input = u32;
    type Output = u32;
    type Error = Odd;

    fn max_batch(&self) -> usize {
        5
    }

    fn run(&mut self, batch: &[u32]) -> Result<Results<Self>, Odd> {
        assert!((1..=5).contains(&batch.len()));
        assert!(!batch.iter().any(|n| n % 13 == 0), "moody panic");
        if let Some(&bad) = batch.iter().find(|n| *n % 11 == 0) {
            return Err(Odd(bad));
        }
        Ok(batch.iter().map(|&n| if n % 7 == 0 { Err(Odd(n)) } else { Ok(n + 1) }).collect())
    }
}

/// What a job alone would be told.
fn verdict(n: u32) -> Result<u32, JobError<Odd>> {
    match n {
        n if n % 13 == 0 => Err(JobError::Panicked),
        n if n % 11 == 0 || n % 7 == 0 => Err(JobError::Failed(Odd(n))),
        n => Ok(n + 1),
    }
}

/// A panic's payload that panics once more when it is dropped: outside the executor, in the thread's own code.
struct Twice;

impl Drop for Twice {
    fn drop(&mut self) {
        panic!("once more");
    }
}

/// Fails on everything while it is `broken`, on odd inputs always, and takes its thread along on 13. Its sample is 0.
#[derive(Clone)]
struct Fragile {
    broken: Arc<AtomicBool>,
    ran: crossbeam_channel::Sender<u32>,
}

impl Executor for Fragile {
    type Input = u32;
    type Output = u32;
    type Error = Odd;

    fn max_batch(&self) -> usize {
        1
    }

    fn sample(&self) -> Vec<u32> {
        vec![0]
    }

    fn run(&mut self, batch: &[u32]) -> Result<Results<Self>, Odd> {
        let _nobody_looks = self.ran.send(batch[0]);
        if batch[0] == 13 {
            panic::panic_any(Twice);
        }
        let broken = self.broken.load(Ordering::Relaxed);
        if broken || batch[0] % 2 == 1 { Err(Odd(batch[0])) } else { Ok(vec![Ok(batch[0])]) }
    }
}

type Fragiles = (Queue<Fragile>, Workers, Fragile, Receiver<u32>);

fn fragile(threads: usize) -> Fragiles {
    let (ran, seen) = unbounded();
    let executor = Fragile { broken: Arc::default(), ran };
    let (executors, costs) = (vec![executor.clone(); threads], CostTable::unmeasured(1));
    let (queue, workers) = start("test", executors, 16, costs, Metrics::new().queue("test")).unwrap();
    (queue, workers, executor, seen)
}

/// One fragile thread with a fault `before` each execution.
fn rigged(stuck_after: Duration, before: Before<Fragile>) -> (Queue<Fragile>, Workers) {
    let (ran, _seen) = unbounded();
    let pool = Pool {
        name: "test",
        executors: vec![Fragile { broken: Arc::default(), ran }],
        capacity: 16,
        costs: CostTable::unmeasured(1),
        metrics: Metrics::new().queue("test"),
        stuck_after,
        before: Some(before),
    };
    pool.start().unwrap()
}

/// Waits, without an end of its own, until the pool is as `wanted`.
fn until(workers: &Workers, wanted: impl Fn(Option<Trouble>) -> bool) {
    while !wanted(workers.health().trouble(Instant::now())) {
        thread::yield_now();
    }
}

#[test]
fn an_executor_is_shown_its_sample_before_it_is_blamed_for_its_jobs() {
    let (queue, workers, executor, seen) = fragile(1);
    let ask = |n| queue.admit(&far()).unwrap().submit(n).wait();
    for bad in [1, 3, 5] {
        assert_eq!(ask(bad), Err(JobError::Failed(Odd(bad))));
    }
    assert_eq!(ask(2), Ok(2));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [1, 3, 5, 0, 2], "after three it was examined");
    assert_eq!(workers.health().trouble(Instant::now()), None, "and found sound");

    executor.broken.store(true, Ordering::Relaxed);
    for good in [2, 4, 6] {
        assert_eq!(ask(good), Err(JobError::Failed(Odd(good))));
    }
    until(&workers, |trouble| matches!(trouble, Some(Trouble::Failing { .. })));
    executor.broken.store(false, Ordering::Relaxed);
    until(&workers, |trouble| trouble.is_none());
    assert_eq!(seen.try_iter().skip(3).find(|&n| n != 0), None, "it is found well without a job");

    executor.broken.store(true, Ordering::Relaxed);
    for good in [2, 4, 6] {
        assert!(ask(good).is_err());
    }
    until(&workers, |trouble| trouble.is_some());
    executor.broken.store(false, Ordering::Relaxed);
    assert_eq!(ask(8), Ok(8), "it is asked on while it fails");
    until(&workers, |trouble| trouble.is_none());
}

#[test]
fn a_thread_that_ends_leaves_nobody_waiting() {
    let (queue, workers, ..) = fragile(1);
    let seats: Vec<_> = (0..3).map(|_| queue.admit(&far()).unwrap()).collect();
    let tickets: Vec<_> = seats.into_iter().zip([13, 2, 4]).map(|(seat, n)| seat.submit(n)).collect();
    let late = queue.admit(&far());
    for ticket in tickets {
        assert_eq!(ticket.wait(), Err(JobError::Stopped), "at once, though the deadline is a minute away");
    }
    until(&workers, |trouble| matches!(trouble, Some(Trouble::Dead { .. })));
    if let Ok(seat) = late {
        assert_eq!(seat.submit(6).wait(), Err(JobError::Stopped));
    }
    assert_eq!(queue.admit(&far()).unwrap_err(), Refusal::Down);
    assert_eq!(queue.depth(), 0, "every seat came back");
}

#[test]
fn nor_does_it_forget_what_was_sent_meanwhile() {
    let (seats, seat) = bounded::<Seat<Fragile>>(1);
    let (tickets, ticket) = bounded(1);
    let before: Before<Fragile> = Arc::new(move |_| {
        tickets.send(seat.recv().unwrap().submit(4)).unwrap();
        panic::panic_any(Twice)
    });
    let (queue, workers) = rigged(Duration::from_secs(60), before);
    seats.send(queue.admit(&far()).unwrap()).unwrap();
    let held = queue.admit(&far()).unwrap().submit(2);
    let sent = ticket.recv().unwrap();
    workers.join();
    for ticket in [held, sent] {
        let answer = ticket.now_or_never().map(|(answer, _)| answer);
        assert_eq!(answer, Some(Err(JobError::Stopped)), "the thread has ended, and so has the wait for it");
    }
    assert_eq!(queue.depth(), 0);
}

#[test]
fn with_a_thread_less_the_others_go_on() {
    let (queue, workers, ..) = fragile(2);
    assert_eq!(queue.admit(&far()).unwrap().submit(13).wait(), Err(JobError::Stopped));
    until(&workers, |trouble| matches!(trouble, Some(Trouble::Dead { .. })));
    for n in [2, 4, 6, 8] {
        assert_eq!(queue.admit(&far()).unwrap().submit(n).wait(), Ok(n));
    }
    assert_eq!(queue.depth(), 0);
}

#[test]
fn a_stuck_batch_closes_the_door_until_it_ends() {
    let (go, gone) = bounded::<()>(0);
    let before: Before<Fragile> = Arc::new(move |inputs| {
        if inputs[0] == 2 {
            let _let_go = gone.recv();
        }
        Ok(())
    });
    let (queue, workers) = rigged(Duration::from_millis(20), before);
    // Both are let in before the door can close.
    let [stuck, behind] = queue.admit_many(&far(), 2).unwrap().try_into().unwrap();
    let (stuck, behind) = (stuck.submit(2), behind.submit(4));
    until(&workers, |trouble| matches!(trouble, Some(Trouble::Stuck { .. })));
    assert_eq!(queue.admit(&far()).unwrap_err(), Refusal::Down);
    go.send(()).unwrap();
    assert_eq!((stuck.wait(), behind.wait()), (Ok(2), Ok(4)), "who was let in is answered");
    until(&workers, |trouble| trouble.is_none());
    assert_eq!(queue.admit(&far()).unwrap().submit(6).wait(), Ok(6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever mix of good, failing, panicking, expired and abandoned jobs arrives on several threads, every ticket that
    /// is kept is answered exactly once, and with what its job alone deserves whoever it ran with.
    #[test]
    fn every_kept_ticket_gets_its_own_answer(
        jobs in prop::collection::vec((1u32..200, 0u8..10), 1..80),
        workers in 1usize..4,
    ) {
        let executors = (0..workers).map(|_| Moody).collect();
        let costs = CostTable::unmeasured(5);
        let (queue, pool) = start("moody", executors, 128, costs, Metrics::new().queue("moody")).unwrap();
        let mut kept = Vec::new();
        for &(n, mood) in &jobs {
            let seat = if mood == 1 { queue.admit(&Terms::by(Instant::now())) } else { queue.admit(&far()) };
            // The first of the hopeless may be let in to try, later ones are turned away.
            let Ok(seat) = seat else { prop_assert_eq!(mood, 1); continue };
            let ticket = seat.submit(n);
            if mood != 0 { kept.push((n, mood, ticket)); }
        }
        let seats = queue.clone();
        drop(queue);
        for (n, mood, ticket) in kept {
            let answer = ticket.wait();
            match mood {
                1 => prop_assert_eq!(answer, Err(JobError::Expired)),
                _ => prop_assert_eq!(answer, verdict(n)),
            }
        }
        prop_assert_eq!(pool.health().trouble(Instant::now()), None);
        // A job that had been taken when its ticket was dropped runs to its end.
        let waiting = Instant::now();
        while seats.depth() > 0 && waiting.elapsed() < Duration::from_secs(10) {
            thread::yield_now();
        }
        prop_assert_eq!(seats.depth(), 0);
        drop(seats);
        pool.join();
    }
}
