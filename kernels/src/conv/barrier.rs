//! A barrier that may be used again and again, and that breaks when one of its members will not come.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::{hint, thread};

/// Looks at the barrier before a member offers its processor to others: some microseconds.
const SPINS: usize = 200;

/// Offers of the processor before a member sleeps. When nobody wants it this takes some hundred microseconds, about what
/// sleeping and waking costs.
const YIELDS: usize = 400;

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
