//! A bounded queue in front of one executor pool: admission, jobs, and the tickets their owners wait on.
//!
//! A [`Permit`] is a seat. It is taken before any work is done for a request and is given back when its job has been
//! answered or its owner lets go, so the number of requests in the house never exceeds the capacity. The queue does
//! not choose what runs; that is [`super::policy`].

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Executor, policy::Candidate};
use crate::metrics::QueueMetrics;

/// The queue has no seat left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full; it drains in about {} s", .retry_after.as_secs())]
pub struct Full {
    /// When a seat is likely to be free: queued jobs times the measured time per job, at least one second.
    pub retry_after: Duration,
}

/// Why a job has no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError<X> {
    /// Its deadline passed before it ran.
    #[error("the deadline passed before the job ran")]
    Expired,
    /// The executor panicked on its batch, or broke its contract.
    #[error("the executor failed unexpectedly; the log has the details")]
    Panicked,
    /// The executor's threads are gone.
    #[error("the executor has stopped")]
    Stopped,
    /// The executor refused this job.
    #[error("{0}")]
    Failed(#[source] X),
}

/// What a job comes back as.
pub type Answer<E> = Result<<E as Executor>::Output, JobError<<E as Executor>::Error>>;

/// One or more seats in a queue; dropping it frees them.
pub struct Permit {
    seats: OwnedSemaphorePermit,
    metrics: QueueMetrics,
}

impl Permit {
    /// Splits one seat off for one job, or `None` when none is left.
    pub fn take_one(&mut self) -> Option<Permit> {
        let seats = self.seats.split(1)?;
        Some(Permit { seats, metrics: self.metrics.clone() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.metrics.depth.decrement(self.seats.num_permits() as f64);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("seats", &self.seats.num_permits()).finish()
    }
}

/// A job on its way: input, deadline, and the way back to its owner.
pub(super) struct Job<E: Executor> {
    pub(super) input: E::Input,
    pub(super) route: Route<E>,
}

/// Everything of a job but its input.
pub(super) struct Route<E: Executor> {
    deadline: Instant,
    pub(super) submitted: Instant,
    reply: oneshot::Sender<Answer<E>>,
    _seat: Permit,
}

impl<E: Executor> Route<E> {
    /// Brings the answer home; an owner who has left is no error.
    pub(super) fn answer(self, answer: Answer<E>) {
        let _owner_left = self.reply.send(answer);
    }
}

impl<E: Executor> Candidate for Job<E> {
    fn deadline(&self) -> Instant {
        self.route.deadline
    }

    fn abandoned(&self) -> bool {
        self.route.reply.is_closed()
    }
}

/// The owner's end of a job; dropping it abandons the job.
pub struct Ticket<E: Executor>(oneshot::Receiver<Answer<E>>);

impl<E: Executor> Ticket<E> {
    /// Blocks until the answer is there. Not for async code, which awaits the ticket.
    pub fn wait(self) -> Answer<E> {
        self.0.blocking_recv().unwrap_or(Err(JobError::Stopped))
    }
}

impl<E: Executor> Future for Ticket<E> {
    type Output = Answer<E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|received| received.unwrap_or(Err(JobError::Stopped)))
    }
}

/// The measured time per job across the pool, as a moving average.
#[derive(Debug, Default)]
pub(super) struct Pace {
    nanos_per_job: AtomicU64,
}

impl Pace {
    /// Weight of history against the newest batch.
    const MEMORY: u64 = 7;

    /// Learns from a batch of `jobs` that took `took` while `workers` run side by side.
    pub(super) fn record(&self, took: Duration, jobs: usize, workers: usize) {
        let newest = took.as_nanos() as u64 / (jobs * workers).max(1) as u64;
        let before = self.nanos_per_job.load(Ordering::Relaxed);
        let now = if before == 0 { newest } else { (before * Self::MEMORY + newest) / (Self::MEMORY + 1) };
        self.nanos_per_job.store(now, Ordering::Relaxed);
    }

    fn time_for(&self, jobs: usize) -> Duration {
        Duration::from_nanos(self.nanos_per_job.load(Ordering::Relaxed).saturating_mul(jobs as u64))
    }
}

/// The sending side of a bounded queue. Clones share the seats.
pub struct Queue<E: Executor> {
    seats: Arc<Semaphore>,
    capacity: usize,
    sender: Sender<Job<E>>,
    pace: Arc<Pace>,
    metrics: QueueMetrics,
}

impl<E: Executor> Clone for Queue<E> {
    fn clone(&self) -> Self {
        Self {
            seats: self.seats.clone(),
            capacity: self.capacity,
            sender: self.sender.clone(),
            pace: self.pace.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl<E: Executor> Queue<E> {
    pub(super) fn new(capacity: usize, metrics: QueueMetrics) -> (Self, Receiver<Job<E>>, Arc<Pace>) {
        let (sender, receiver) = crossbeam_channel::bounded(capacity);
        let pace = Arc::new(Pace::default());
        let seats = Arc::new(Semaphore::new(capacity));
        (Self { seats, capacity, sender, pace: pace.clone(), metrics }, receiver, pace)
    }

    /// Seats in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Seats taken now.
    pub fn depth(&self) -> usize {
        self.capacity - self.seats.available_permits()
    }

    /// Takes `count` seats at once, or says when to come back. Never waits.
    ///
    /// # Errors
    /// [`Full`] when fewer are free; counted as refused.
    pub fn admit(&self, count: usize) -> Result<Permit, Full> {
        self.try_admit(count).ok_or_else(|| {
            self.metrics.refused.increment(count as u64);
            Full { retry_after: self.retry_after() }
        })
    }

    /// Takes `count` seats at once if they are free; nothing is counted as refused.
    pub fn try_admit(&self, count: usize) -> Option<Permit> {
        let wanted = u32::try_from(count).ok()?;
        let seats = self.seats.clone().try_acquire_many_owned(wanted).ok()?;
        self.metrics.depth.increment(count as f64);
        Some(Permit { seats, metrics: self.metrics.clone() })
    }

    /// Queues one job on one seat.
    ///
    /// # Panics
    /// When `seat` holds more than one seat: the caller splits them with [`Permit::take_one`].
    pub fn submit(&self, seat: Permit, input: E::Input, deadline: Instant) -> Ticket<E> {
        assert_eq!(seat.seats.num_permits(), 1, "bug: a job needs exactly one seat");
        let (reply, ticket) = oneshot::channel();
        let route = Route { deadline, submitted: Instant::now(), reply, _seat: seat };
        // A seat is a place in the channel, so it is never full; a closed one drops the job, and with it `reply`:
        // the ticket then says `Stopped`.
        let _closed = self.sender.try_send(Job { input, route });
        Ticket(ticket)
    }

    fn retry_after(&self) -> Duration {
        let wait = self.pace.time_for(self.depth());
        Duration::from_secs(wait.as_secs_f64().ceil().max(1.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    struct Never;

    impl Executor for Never {
        type Input = u8;
        type Output = u8;
        type Error = std::convert::Infallible;
        fn max_batch(&self) -> usize {
            1
        }
        fn run(&mut self, _: Vec<u8>) -> Vec<Result<u8, Self::Error>> {
            Vec::new()
        }
    }

    #[test]
    fn seats_are_bounded_and_come_back() {
        let (queue, receiver, _) = Queue::<Never>::new(3, Metrics::new().queue("test"));
        let two = queue.admit(2).unwrap();
        let one = queue.admit(1).unwrap();
        assert!(queue.admit(1).is_err());
        drop(two);
        assert_eq!(queue.depth(), 1);
        let ticket = queue.submit(one, 7, Instant::now());
        assert_eq!(queue.depth(), 1, "a queued job keeps its seat");
        drop(receiver.recv().unwrap());
        assert_eq!(queue.depth(), 0);
        assert_eq!(ticket.wait(), Err(JobError::Stopped));
    }

    #[test]
    fn a_permit_splits_into_single_seats() {
        let (queue, _receiver, _) = Queue::<Never>::new(4, Metrics::new().queue("test"));
        let mut permit = queue.admit(2).unwrap();
        let first = permit.take_one().unwrap();
        let second = permit.take_one().unwrap();
        assert!(permit.take_one().is_none());
        drop((first, permit));
        assert_eq!(queue.depth(), 1);
        drop(second);
        assert_eq!(queue.depth(), 0);
    }

    #[test]
    fn dropping_the_ticket_abandons_the_job() {
        let (queue, receiver, _) = Queue::<Never>::new(1, Metrics::new().queue("test"));
        drop(queue.submit(queue.admit(1).unwrap(), 1, Instant::now()));
        assert!(receiver.recv().unwrap().abandoned());
    }

    #[test]
    fn retry_after_follows_the_measured_pace() {
        let (queue, _receiver, pace) = Queue::<Never>::new(8, Metrics::new().queue("test"));
        let _all = queue.admit(8).unwrap();
        assert_eq!(queue.admit(1).unwrap_err().retry_after, Duration::from_secs(1));
        pace.record(Duration::from_millis(2000), 4, 1);
        assert_eq!(queue.admit(1).unwrap_err().retry_after, Duration::from_secs(4));
    }
}
