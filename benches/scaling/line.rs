//! A pod that serves: convoy's own dispatcher, the code that serves, in front of one device on virtual time.

use std::time::{Duration, Instant};

use convoy::batch::{CostTable, Terms, dispatcher::Dispatcher};

/// Seats: enough that time and not their number is what refuses.
const SEATS: usize = 100_000;

pub(crate) struct Line {
    origin: Instant,
    dispatcher: Dispatcher<f64>,
    running: Vec<f64>,
}

/// What became of requests when the device was asked for its next batch.
pub(crate) struct Turn {
    /// Requests in the batch; none: the device is idle.
    pub(crate) size: usize,
    /// Requests that were let in and are told that they cannot be in time.
    pub(crate) shed: usize,
    /// Ask again then.
    pub(crate) wake: Option<f64>,
}

impl Line {
    pub(crate) fn new(costs: CostTable) -> Self {
        Self { origin: Instant::now(), dispatcher: Dispatcher::new(SEATS, 1, costs), running: Vec::new() }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.origin + Duration::from_secs_f64(seconds)
    }

    /// Whether the request was let in. Reading and decoding it take no time here: they are short beside a batch.
    pub(crate) fn offer(&mut self, now: f64, deadline: f64) -> bool {
        let (moment, terms) = (self.at(now), Terms::by(self.at(now + deadline)));
        let Ok(places) = self.dispatcher.admit(moment, &terms, 1) else { return false };
        for place in places {
            self.dispatcher.received(place, moment);
            self.dispatcher.submit(place, moment, now).expect("bug: the place is on its way");
        }
        true
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dispatcher.depth() == 0
    }

    /// Starts the next batch of an idle device.
    pub(crate) fn next(&mut self, now: f64) -> Turn {
        let turn = self.dispatcher.next(self.at(now), 0, true);
        let shed = turn.expired.len() + turn.late.len();
        let wake = turn.wake.map(|at| at.saturating_duration_since(self.origin).as_secs_f64());
        self.running = turn.batch;
        Turn { size: self.running.len(), shed, wake }
    }

    /// Ends the batch; the moments its requests came.
    pub(crate) fn done(&mut self, now: f64) -> Vec<f64> {
        let batch = std::mem::take(&mut self.running);
        self.dispatcher.release(0);
        self.dispatcher.finish(self.at(now), 0, Some(batch.len()));
        batch
    }

    /// `convoy_predicted_drain_seconds`.
    pub(crate) fn drain_seconds(&self, now: f64) -> f64 {
        self.dispatcher.drain_seconds(self.at(now))
    }

    /// Seconds of work so far.
    pub(crate) fn busy_seconds(&self, now: f64) -> f64 {
        self.dispatcher.busy_seconds(self.at(now))
    }
}
