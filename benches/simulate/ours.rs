//! convoy's own dispatcher, the same code that serves, behind the simulator's interface.

use std::time::{Duration, Instant};

use convoy::batch::{CostTable, Refusal, Terms, dispatcher::Dispatcher, lineup::Place};

use super::world::{Nanos, Policy, Turn};

pub(crate) struct Convoy {
    origin: Instant,
    dispatcher: Dispatcher<usize>,
    places: Vec<Option<Place>>,
    deadline: Nanos,
    running: usize,
}

/// Seats: enough that time and not their number is what refuses.
const SEATS: usize = 100_000;

impl Convoy {
    pub(crate) fn new(costs: CostTable, deadline: Nanos) -> Self {
        let dispatcher = Dispatcher::new(SEATS, 1, costs);
        Self { origin: Instant::now(), dispatcher, places: Vec::new(), deadline, running: 0 }
    }

    fn at(&self, now: Nanos) -> Instant {
        self.origin + Duration::from_nanos(now)
    }
}

impl Policy for Convoy {
    fn admit(&mut self, now: Nanos, request: usize) -> Result<(), Nanos> {
        let terms = Terms::by(self.at(now + self.deadline));
        if self.places.len() <= request {
            self.places.resize(request + 1, None);
        }
        match self.dispatcher.admit(self.at(now), &terms, 1) {
            Ok(places) => {
                self.places[request] = places.first().copied();
                Ok(())
            }
            Err(Refusal::Full { retry_after } | Refusal::Late { retry_after }) => {
                Err(retry_after.as_nanos() as Nanos)
            }
            Err(Refusal::Hopeless { .. } | Refusal::Down) => Err(self.deadline),
        }
    }

    fn received(&mut self, now: Nanos, request: usize) {
        let place = self.places[request].expect("admitted");
        self.dispatcher.received(place, self.at(now));
    }

    fn ready(&mut self, now: Nanos, request: usize) {
        let place = self.places[request].take().expect("admitted");
        self.dispatcher.submit(place, self.at(now), request).expect("on its way");
    }

    fn next(&mut self, now: Nanos) -> Turn {
        let turn = self.dispatcher.next(self.at(now), 0, true);
        self.running = turn.batch.len();
        let mut shed = turn.expired;
        shed.extend(turn.late);
        let wake = turn.wake.map(|at| at.saturating_duration_since(self.origin).as_nanos() as Nanos);
        Turn { batch: turn.batch, shed, wake }
    }

    fn done(&mut self, now: Nanos) {
        self.dispatcher.release(0);
        self.dispatcher.finish(self.at(now), 0, Some(self.running));
    }
}
