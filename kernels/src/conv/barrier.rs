//! A barrier that may be used again and again, and that breaks when one of its members will not come.

use std::sync::PoisonError;

use super::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::sync::{Condvar, Mutex, hint, thread};

/// Looks at the barrier before a member offers its processor to others: some microseconds.
const SPINS: usize = if cfg!(loom) { 1 } else { 200 };

/// Offers of the processor before a member sleeps. When nobody wants it this takes some hundred microseconds, about what
/// sleeping and waking costs.
const YIELDS: usize = if cfg!(loom) { 1 } else { 400 };

/// Lets members pass when all have arrived.
#[derive(Debug)]
pub(super) struct Barrier {
    members: usize,
    arrived: AtomicUsize,
    /// How often the barrier opened.
    opened: AtomicUsize,
    broken: AtomicBool,
    /// Held while `opened` or `broken` changes, so that no sleeper misses it.
    sleep: Mutex<()>,
    wake: Condvar,
}

/// A member will never arrive.
#[derive(Debug)]
pub(super) struct Broken;

impl Barrier {
    pub(super) fn new(members: usize) -> Self {
        Self {
            members,
            arrived: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            sleep: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Waits for all members; the last to come calls `last` before any of them goes on. What members wrote before is
    /// visible to all after.
    pub(super) fn wait(&self, last: impl FnOnce()) -> Result<(), Broken> {
        let opened = self.opened.load(Ordering::Acquire);
        // Acquire and release: the last to come has seen all the others' writes, and passes them on by opening.
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.members {
            self.arrived.store(0, Ordering::Relaxed);
            last();
            self.change(|| self.opened.store(opened + 1, Ordering::Release));
        } else {
            self.await_opening(opened);
        }
        if self.is_broken() { Err(Broken) } else { Ok(()) }
    }

    /// Lets everybody who waits or will ever wait pass with [`Broken`].
    pub(super) fn shatter(&self) {
        self.change(|| self.broken.store(true, Ordering::Release));
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce()) {
        let guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        change();
        drop(guard);
        self.wake.notify_all();
    }

    fn await_opening(&self, opened: usize) {
        let closed = || self.opened.load(Ordering::Acquire) == opened && !self.is_broken();
        for at in 0..SPINS + YIELDS {
            if !closed() {
                return;
            }
            if at < SPINS { hint::spin_loop() } else { thread::yield_now() }
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while closed() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use std::sync::atomic::AtomicUsize as Counter;

    use super::*;
    use crate::conv::sync::Arc;

    /// Runs `member` on so many threads in every interleaving with at most so many preemptions, where that is bounded.
    fn explore(members: usize, preemptions: Option<usize>, member: fn(&Barrier, &[AtomicUsize], usize)) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions;
        let count = std::sync::Arc::new(Counter::new(0));
        let counted = count.clone();
        model.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let cells: Vec<AtomicUsize> = (0..members).map(|_| AtomicUsize::new(0)).collect();
            let shared = Arc::new((Barrier::new(members), cells));
            let others = (1..members).map(|index| {
                let shared = shared.clone();
                thread::spawn(move || member(&shared.0, &shared.1, index))
            });
            let others: Vec<_> = others.collect();
            member(&shared.0, &shared.1, 0);
            others.into_iter().for_each(|other| other.join().unwrap());
        });
        println!("{members} members: {} interleavings", count.load(Ordering::Relaxed));
    }

    /// Two phases, told apart by what stands in the cells. Everything is relaxed: only the barrier orders it.
    fn writes_are_seen(barrier: &Barrier, cells: &[AtomicUsize], index: usize) {
        let next = &cells[(index + 1) % cells.len()];
        cells[index].store(1, Ordering::Relaxed);
        let all_are = |value| cells.iter().all(|cell| cell.load(Ordering::Relaxed) == value);
        barrier.wait(|| assert!(all_are(1), "the last has seen what all wrote")).unwrap();
        next.store(2, Ordering::Relaxed);
        barrier.wait(|| cells[0].store(3, Ordering::Relaxed)).unwrap();
        assert_eq!(cells[0].load(Ordering::Relaxed), 3, "what the last did comes before anybody goes on");
        assert!(cells[1..].iter().all(|cell| cell.load(Ordering::Relaxed) == 2));
    }

    #[test]
    fn what_two_wrote_before_is_visible_after() {
        explore(2, None, writes_are_seen);
    }

    #[test]
    fn what_three_wrote_before_is_visible_after() {
        explore(3, Some(2), writes_are_seen);
    }

    #[test]
    fn nobody_waits_for_a_member_that_will_not_come() {
        explore(2, None, |barrier, _, index| match index {
            0 => assert!(barrier.wait(|| unreachable!("one has not come")).is_err()),
            _ => barrier.shatter(),
        });
        explore(3, Some(2), |barrier, _, index| match index {
            2 => barrier.shatter(),
            _ => assert!(barrier.wait(|| unreachable!("one has not come")).is_err()),
        });
    }
}
