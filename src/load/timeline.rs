//! A run over time in a bounded number of slots: they begin short, and when a run outgrows them neighbours become one.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Most slots; a power of two, so that they fold in pairs.
const SLOTS: usize = 128;

/// Length of a slot at the beginning of a run.
const SHORTEST: Duration = Duration::from_millis(100);

/// What happened in a span of time.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Requests that were due.
    pub due: u64,
    /// Requests that were answered well.
    pub answered: u64,
    /// Requests whose end was anything else.
    pub failed: u64,
    /// Microseconds from due to the answer, of the requests answered well that were due in this slot.
    pub latency: Histogram<u32>,
}

/// Slots of equal length from the beginning of the window.
#[derive(Debug, Clone)]
pub struct Timeline {
    length: Duration,
    slots: Vec<Slot>,
}

impl Slot {
    fn new() -> Self {
        Self {
            due: 0,
            answered: 0,
            failed: 0,
            latency: Histogram::new(2).expect("bug: two digits are allowed"),
        }
    }

    fn absorb(&mut self, other: &Self) {
        self.due += other.due;
        self.answered += other.answered;
        self.failed += other.failed;
        self.latency.add(&other.latency).expect("bug: the histogram grows as needed");
    }
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self { length: SHORTEST, slots: Vec::new() }
    }

    /// Length of a slot.
    pub fn slot_length(&self) -> Duration {
        self.length
    }

    /// The slots, first to last.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// One request of the window: offsets of its due time and of its end, and whether it was answered well.
    pub(super) fn record(&mut self, due: Duration, done: Duration, answered: bool) {
        let slot = self.slot(due);
        slot.due += 1;
        if answered {
            let latency = micros(done.saturating_sub(due));
            slot.latency.record(latency).expect("bug: the histogram grows as needed");
        }
        self.end(done, answered);
    }

    /// The end of a request, whether its due time was in the window or before.
    pub(super) fn end(&mut self, done: Duration, answered: bool) {
        let slot = self.slot(done);
        match answered {
            true => slot.answered += 1,
            false => slot.failed += 1,
        }
    }

    fn slot(&mut self, at: Duration) -> &mut Slot {
        while at.as_nanos() / self.length.as_nanos() >= SLOTS as u128 {
            self.fold();
        }
        let index = (at.as_nanos() / self.length.as_nanos()) as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::new);
        }
        &mut self.slots[index]
    }

    fn fold(&mut self) {
        self.length *= 2;
        let pairs = self.slots.chunks(2).map(|pair| {
            let mut slot = pair[0].clone();
            pair[1..].iter().for_each(|next| slot.absorb(next));
            slot
        });
        self.slots = pairs.collect();
    }
}

/// Whole microseconds, at least one, so that a histogram tells them from nothing.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn folding_loses_nothing(requests in prop::collection::vec((0_u64..400_000, 0_u64..60_000, any::<bool>()), 1..200)) {
            let mut timeline = Timeline::new();
            for (due, took, answered) in &requests {
                let due = Duration::from_millis(*due);
                timeline.record(due, due + Duration::from_millis(*took), *answered);
            }
            let sum = |of: fn(&Slot) -> u64| timeline.slots().iter().map(of).sum::<u64>();
            let good = requests.iter().filter(|request| request.2).count() as u64;
            prop_assert!(timeline.slots().len() <= SLOTS);
            prop_assert_eq!(sum(|slot| slot.due), requests.len() as u64);
            prop_assert_eq!(sum(|slot| slot.answered), good);
            prop_assert_eq!(sum(|slot| slot.latency.len()), good);
            prop_assert_eq!(sum(|slot| slot.failed), requests.len() as u64 - good);
        }

        #[test]
        fn a_request_is_in_the_slot_of_its_time(due in 0_u64..10_000_000) {
            let mut timeline = Timeline::new();
            timeline.record(Duration::from_millis(due), Duration::from_millis(due), true);
            let index = timeline.slots().iter().position(|slot| slot.due == 1).unwrap() as u128;
            let length = timeline.slot_length().as_millis();
            prop_assert!((index * length..(index + 1) * length).contains(&u128::from(due)));
        }
    }
}
