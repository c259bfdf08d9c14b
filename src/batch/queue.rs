//! A dispatcher behind a lock: seats for requests, jobs with a way back to their owners, tickets to wait on.
//!
//! A [`Seat`] is taken before any work is done for a request. It becomes a job with [`Seat::submit`], or is given back
//! when its owner lets go. Dropping a [`Ticket`] takes the job out of the line at once. What runs when is decided in
//! [`super::dispatcher`].

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::{CostTable, Executor, Refusal, Terms, dispatcher::Dispatcher, lineup::Place};
use crate::metrics::QueueMetrics;

/// Why a job has no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError<X> {
    /// Its deadline passed before it ran.
    #[error("the deadline passed before the job ran")]
    Expired,
    /// It was accepted, then things took longer than expected, and it could only have been late.
    #[error("the queue became too slow for the deadline")]
    Late {
        /// When a job like it is likely to be in time.
        retry_after: Duration,
    },
    /// The executor panicked on it, or broke its contract.
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

/// Where a job's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// In the line because every executor was busy.
    pub queue: Duration,
    /// In the line because the executor was waiting for company.
    pub batch_wait: Duration,
    /// In the executor.
    pub execute: Duration,
    /// When the executor took it. `None` where it did not.
    pub executed: Option<Instant>,
    /// Jobs in its batch.
    pub batch: usize,
}

/// A job on its way: input and the way back to its owner.
pub(super) struct Job<E: Executor> {
    pub(super) input: E::Input,
    pub(super) route: Route<E>,
}

/// Everything of a job but its input.
pub(super) struct Route<E: Executor> {
    pub(super) deadline: Instant,
    pub(super) submitted: Instant,
    reply: oneshot::Sender<(Answer<E>, Timing)>,
}

impl<E: Executor> Route<E> {
    /// Brings the answer home; an owner who has left is no error.
    pub(super) fn answer(self, answer: Answer<E>, timing: Timing) {
        let _owner_left = self.reply.send((answer, timing));
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// What the queue and the scheduler's threads share.
pub(super) struct Shared<E: Executor> {
    pub(super) dispatcher: Mutex<Dispatcher<Job<E>>>,
    pub(super) metrics: QueueMetrics,
    capacity: usize,
    workers: usize,
    /// Threads that have not ended. Held while a job is sent, so that none is sent once the last has ended.
    alive: RwLock<usize>,
}

impl<E: Executor> Shared<E> {
    /// Thread `index`, which received from `arrivals`, has ended. Jobs that it leaves behind without anybody to run them are
    /// answered, be they in the line or on their way to it.
    pub(super) fn lose(&self, index: usize, arrivals: &Receiver<Arrival<E>>) {
        let mut alive = self.alive.write();
        *alive -= 1;
        let deserted = *alive == 0;
        drop(alive);
        let mut dispatcher = self.dispatcher.lock();
        if deserted {
            // The channel would keep them for as long as there is a queue to send on.
            take_in(&mut dispatcher, arrivals.try_iter());
        }
        let orphans = dispatcher.lose(Instant::now(), index);
        drop(dispatcher);
        for job in orphans {
            job.route.answer(Err(JobError::Stopped), Timing::default());
        }
    }

    /// Updates the gauges.
    pub(super) fn sample(&self) {
        let now = Instant::now();
        let dispatcher = self.dispatcher.lock();
        self.metrics.depth.set(dispatcher.depth() as f64);
        self.metrics.waiting.set(dispatcher.ready() as f64);
        self.metrics.drain.set(dispatcher.drain_seconds(now));
        self.metrics.batch_age.set(dispatcher.batch_age(now).as_secs_f64());
        self.metrics.stuck.set(dispatcher.stuck(now) as f64);
        let busy = dispatcher.busy_seconds(now) / self.workers as f64;
        let costs: Vec<_> = dispatcher.costs().rows().collect();
        drop(dispatcher);
        self.metrics.busy(now, busy);
        self.metrics.costs(&costs);
    }
}

/// A job that is ready, on its way to the place it was promised. It does not take the dispatcher's lock, so that owners and
/// threads seldom wait for each other.
pub(super) type Arrival<E> = (Place, Job<E>);

/// Lets what has been sent take its places.
pub(super) fn take_in<E: Executor>(
    dispatcher: &mut Dispatcher<Job<E>>,
    arrivals: impl IntoIterator<Item = Arrival<E>>,
) {
    for (place, job) in arrivals {
        let submitted = job.route.submitted;
        // Its owner may have left meanwhile and given the place back.
        let _owner_left = dispatcher.submit(place, submitted, job);
    }
}

/// The sending side of a pool. Clones share the seats.
pub struct Queue<E: Executor> {
    shared: Arc<Shared<E>>,
    /// The threads end when the last clone is gone.
    intake: Sender<Arrival<E>>,
}

impl<E: Executor> Clone for Queue<E> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), intake: self.intake.clone() }
    }
}

impl<E: Executor> fmt::Debug for Queue<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("depth", &self.depth()).field("capacity", &self.capacity()).finish()
    }
}

impl<E: Executor> Queue<E> {
    pub(super) fn new(
        capacity: usize,
        workers: usize,
        dispatcher: Dispatcher<Job<E>>,
        metrics: QueueMetrics,
    ) -> (Self, Arc<Shared<E>>, Receiver<Arrival<E>>) {
        // Every job has a seat, so there is room for one unless owners have left.
        let (intake, arrivals) = bounded(capacity);
        let dispatcher = Mutex::new(dispatcher);
        let shared = Arc::new(Shared {
            dispatcher,
            metrics,
            capacity,
            workers: workers.max(1),
            alive: RwLock::new(workers),
        });
        (Self { shared: shared.clone(), intake }, shared, arrivals)
    }

    /// Seats in all.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Seats taken now.
    pub fn depth(&self) -> usize {
        self.shared.dispatcher.lock().depth()
    }

    /// What batches cost, as known now.
    pub fn costs(&self) -> CostTable {
        self.shared.dispatcher.lock().costs().clone()
    }

    /// Updates the queue's gauges.
    pub fn sample(&self) {
        self.shared.sample();
    }

    /// Takes one seat, or says why not and when to come back. Never waits.
    ///
    /// # Errors
    /// [`Refusal`], counted as refused.
    pub fn admit(&self, terms: &Terms) -> Result<Seat<E>, Refusal> {
        let mut seats = self.admit_many(terms, 1)?;
        Ok(seats.pop().expect("bug: one seat was asked for"))
    }

    /// Takes `count` seats, all or none.
    ///
    /// # Errors
    /// [`Refusal`], counted as refused.
    pub fn admit_many(&self, terms: &Terms, count: usize) -> Result<Vec<Seat<E>>, Refusal> {
        self.try_admit(terms, count).inspect_err(|refusal| self.count_refused(refusal, count))
    }

    /// Takes `count` seats, all or none; nothing is counted as refused.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn try_admit(&self, terms: &Terms, count: usize) -> Result<Vec<Seat<E>>, Refusal> {
        let places = self.shared.dispatcher.lock().admit(Instant::now(), terms, count)?;
        Ok(places.into_iter().map(|place| Seat { queue: self.clone(), place: Some(place) }).collect())
    }

    /// Sends a job to the threads. One that nobody takes is dropped, and its ticket then says `Stopped`.
    fn send(&self, arrival: Arrival<E>) {
        let alive = self.shared.alive.read();
        if *alive == 0 {
            return;
        }
        if let Err(TrySendError::Full(arrival)) = self.intake.try_send(arrival) {
            // Jobs whose owners have left and given their seats back may still be on their way.
            take_in(&mut self.shared.dispatcher.lock(), [arrival]);
        }
    }

    fn count_refused(&self, refusal: &Refusal, count: usize) {
        let counter = match refusal {
            Refusal::Full { .. } => &self.shared.metrics.refused_full,
            Refusal::Late { .. } | Refusal::Hopeless { .. } => &self.shared.metrics.refused_late,
            Refusal::Down => &self.shared.metrics.refused_down,
        };
        counter.increment(count as u64);
    }
}

/// A place in the line for one job that is on its way. Dropping it gives the place back.
pub struct Seat<E: Executor> {
    queue: Queue<E>,
    /// `None` once it was used.
    place: Option<Place>,
}

impl<E: Executor> Seat<E> {
    /// The request has been received whole; its preparation begins.
    pub fn received(&self) {
        if let Some(place) = self.place {
            self.queue.shared.dispatcher.lock().received(place, Instant::now());
        }
    }

    /// Changes the deadline, when only the body told it.
    pub fn reschedule(&mut self, deadline: Instant) {
        if let Some(place) = self.place {
            let moved = self.queue.shared.dispatcher.lock().reschedule(place, deadline);
            self.place = moved.or(self.place);
        }
    }

    /// Queues the job of this seat.
    pub fn submit(mut self, input: E::Input) -> Ticket<E> {
        let place = self.place.take().expect("bug: a seat is submitted once");
        let (reply, answer) = oneshot::channel();
        let route = Route { deadline: place.deadline(), submitted: Instant::now(), reply };
        self.queue.send((place, Job { input, route }));
        Ticket { answer, shared: self.queue.shared.clone(), place, answered: false }
    }
}

impl<E: Executor> Drop for Seat<E> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.queue.shared.dispatcher.lock().cancel(place);
        }
    }
}

impl<E: Executor> fmt::Debug for Seat<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The owner's end of a job; dropping it takes the job out of the line.
pub struct Ticket<E: Executor> {
    answer: oneshot::Receiver<(Answer<E>, Timing)>,
    shared: Arc<Shared<E>>,
    place: Place,
    answered: bool,
}

impl<E: Executor> Ticket<E> {
    /// Blocks until the answer is there. Not for async code, which awaits the ticket.
    pub fn wait(mut self) -> Answer<E> {
        let (_, gone) = oneshot::channel();
        let answer = std::mem::replace(&mut self.answer, gone).blocking_recv();
        self.answered = answer.is_ok();
        answer.map_or(Err(JobError::Stopped), |(answer, _)| answer)
    }
}

impl<E: Executor> Future for Ticket<E> {
    type Output = (Answer<E>, Timing);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let received = ready!(Pin::new(&mut self.answer).poll(context));
        self.answered = received.is_ok();
        Poll::Ready(received.unwrap_or((Err(JobError::Stopped), Timing::default())))
    }
}

impl<E: Executor> Drop for Ticket<E> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // The reply is closed first, so that a job that has just been taken is known to be abandoned.
        self.answer.close();
        if self.shared.dispatcher.lock().cancel(self.place) {
            let expired = self.place.deadline() <= Instant::now();
            let metrics = &self.shared.metrics;
            if expired { &metrics.expired } else { &metrics.abandoned }.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{
        batch::{Results, dispatcher::Turn},
        metrics::Metrics,
    };

    struct Never;

    impl Executor for Never {
        type Input = u8;
        type Output = u8;
        type Error = std::convert::Infallible;
        fn max_batch(&self) -> usize {
            1
        }
        fn run(&mut self, _: &[u8]) -> Result<Results<Self>, Self::Error> {
            Ok(Vec::new())
        }
    }

    fn queue(capacity: usize) -> (Queue<Never>, Arc<Shared<Never>>, Receiver<Arrival<Never>>) {
        let dispatcher = Dispatcher::new(capacity, 1, CostTable::unmeasured(1));
        Queue::new(capacity, 1, dispatcher, Metrics::new().queue("test"))
    }

    /// The next turn once everything sent has arrived.
    fn turn(shared: &Shared<Never>, arrivals: &Receiver<Arrival<Never>>) -> Turn<Job<Never>> {
        let mut dispatcher = shared.dispatcher.lock();
        take_in(&mut dispatcher, arrivals.try_iter());
        dispatcher.next(Instant::now(), 0, true)
    }

    fn soon() -> Terms {
        Terms::by(Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn seats_are_bounded_and_come_back() {
        let (queue, shared, arrivals) = queue(3);
        let two = queue.admit_many(&soon(), 2).unwrap();
        let one = queue.admit(&soon()).unwrap();
        assert!(matches!(queue.admit(&soon()), Err(Refusal::Full { .. })));
        drop(two);
        assert_eq!(queue.depth(), 1);
        let ticket = one.submit(7);
        assert_eq!(queue.depth(), 1, "a queued job keeps its seat");
        let turn = turn(&shared, &arrivals);
        assert_eq!((turn.batch.len(), queue.depth()), (1, 1), "and so does a running one");
        shared.dispatcher.lock().release(0);
        assert_eq!(queue.depth(), 0);
        drop(turn);
        assert_eq!(ticket.wait(), Err(JobError::Stopped));
    }

    #[test]
    fn dropping_the_ticket_frees_the_seat_at_once() {
        let (queue, shared, arrivals) = queue(1);
        let ticket = queue.admit(&soon()).unwrap().submit(1);
        assert!(queue.admit(&soon()).is_err());
        drop(ticket);
        assert!(queue.admit(&soon()).is_ok());
        assert!(turn(&shared, &arrivals).batch.is_empty());
    }

    #[test]
    fn a_job_gets_into_the_line_although_abandoned_ones_are_still_on_their_way() {
        let (queue, shared, arrivals) = queue(1);
        for abandoned in 1..4 {
            drop(queue.admit(&soon()).unwrap().submit(abandoned));
        }
        let ticket = queue.admit(&soon()).unwrap().submit(4);
        let turn = turn(&shared, &arrivals);
        assert_eq!(turn.batch.iter().map(|job| job.input).collect::<Vec<_>>(), [4]);
        shared.dispatcher.lock().release(0);
        drop(turn);
        assert_eq!(ticket.wait(), Err(JobError::Stopped));
        assert_eq!(queue.depth(), 0);
    }

    #[test]
    fn jobs_that_find_nobody_give_their_seats_back() {
        let (queue, shared, arrivals) = queue(3);
        let [waiting, sent, coming] = queue.admit_many(&soon(), 3).unwrap().try_into().unwrap();
        let waiting = waiting.submit(1);
        take_in(&mut shared.dispatcher.lock(), arrivals.try_iter());
        let sent = sent.submit(2);
        shared.lose(0, &arrivals);
        for ticket in [waiting, sent, coming.submit(3)] {
            let answer = ticket.now_or_never().map(|(answer, _)| answer);
            assert_eq!(answer, Some(Err(JobError::Stopped)), "nobody waits for a thread that has ended");
        }
        assert_eq!(queue.depth(), 0);
    }

    #[test]
    fn a_job_that_was_taken_already_is_known_to_be_abandoned() {
        let (queue, shared, arrivals) = queue(1);
        let ticket = queue.admit(&soon()).unwrap().submit(1);
        let turn = turn(&shared, &arrivals);
        assert!(!turn.batch[0].route.abandoned());
        drop(ticket);
        assert!(turn.batch[0].route.abandoned());
    }

    #[test]
    fn a_deadline_told_late_still_counts() {
        let (queue, shared, arrivals) = queue(2);
        let mut late = queue.admit(&soon()).unwrap();
        let _first = queue.admit(&soon()).unwrap().submit(1);
        late.reschedule(Instant::now() + Duration::from_secs(30));
        let _second = late.submit(2);
        assert_eq!(turn(&shared, &arrivals).batch[0].input, 2);
    }
}
