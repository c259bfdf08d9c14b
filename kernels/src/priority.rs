//! How threads that compute for long and threads that somebody waits for share the processors.
//!
//! Niceness alone is not enough. Linux (EEVDF, 6.6 and later) lets a running thread finish a turn of milliseconds, and
//! what is not due at the moment it wakes is looked at again only at the next tick, up to 4 ms later. So brief threads ask
//! for short turns, which may interrupt a longer one, and background threads offer their processor now and then. What is
//! computed is not known here.
#![allow(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

/// Lowest niceness of a background thread. Its weight is a fifth of a normal thread's: beside a busy one on the same
/// processor it still gets a sixth of the time, so other load slows it down and does not stop it.
const NICENESS: i32 = 7;

/// A brief thread's turn, the shortest there is: `sched_runtime` of sched_setattr(2), Linux 6.12 and later; before, all
/// turns are alike.
const BRIEF: Duration = Duration::from_micros(100);

/// A background thread's turn. It ends with an offer of the processor, which costs half a microsecond and, where somebody
/// takes it, the rest of the turn.
const LONG: Duration = Duration::from_micros(200);

/// What a thread is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// It works for tens of microseconds at a time, and somebody waits for it.
    Brief,
    /// It computes for milliseconds and longer.
    Background,
}

impl Priority {
    /// Tells the system that the calling thread, and those it starts from now on, are such threads. A niceness that is
    /// higher already stays; a thread that somebody gave a policy other than the normal ones is left as it is. Does
    /// nothing where the system is not Linux, or is Miri, which knows no such calls.
    ///
    /// # Errors
    /// The system refused.
    pub fn enter(self) -> io::Result<()> {
        match self {
            Self::Brief => system::enter(0, BRIEF),
            Self::Background => system::enter(NICENESS, LONG),
        }
    }
}

/// The calling thread's niceness; zero where the system is not Linux.
///
/// # Errors
/// The system refused to say.
pub fn niceness() -> io::Result<i32> {
    system::niceness()
}

/// The turns of a background thread.
#[derive(Debug)]
pub struct Turns {
    began: Instant,
}

impl Turns {
    /// A turn begins.
    #[expect(clippy::new_without_default, reason = "it reads the clock")]
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }

    /// Offers the processor if the turn is over. Call this between pieces of work that take less than a turn.
    pub fn offer(&mut self) {
        if self.began.elapsed() >= LONG {
            std::thread::yield_now();
            self.began = Instant::now();
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod system {
    use std::{io, mem, time::Duration};

    pub(super) fn enter(niceness: i32, turn: Duration) -> io::Result<()> {
        let mut wanted = attributes()?;
        if ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&wanted.sched_policy.cast_signed()) {
            return Ok(());
        }
        wanted.sched_nice = wanted.sched_nice.max(niceness);
        wanted.sched_runtime = turn.as_nanos() as u64;
        // SAFETY: the call reads the structure, whose size it finds inside; 0 is the calling thread.
        let outcome = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn niceness() -> io::Result<i32> {
        Ok(attributes()?.sched_nice)
    }

    fn attributes() -> io::Result<libc::sched_attr> {
        let size = mem::size_of::<libc::sched_attr>();
        // SAFETY: numbers may all be zero.
        let mut current: libc::sched_attr = unsafe { mem::zeroed() };
        // SAFETY: the call writes `size` bytes at most into a structure of that size; 0 is the calling thread.
        let outcome = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut current, size, 0) };
        if outcome == 0 { Ok(current) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod system {
    use std::{io, time::Duration};

    pub(super) fn enter(_niceness: i32, _turn: Duration) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn niceness() -> io::Result<i32> {
        Ok(0)
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn only_the_thread_itself_and_those_it_starts_stand_back() {
        let before = niceness().unwrap();
        let inside = thread::spawn(|| {
            Priority::Background.enter().unwrap();
            Priority::Brief.enter().unwrap();
            (niceness().unwrap(), thread::spawn(|| niceness().unwrap()).join().unwrap())
        });
        assert_eq!(inside.join().unwrap(), (NICENESS.max(before), NICENESS.max(before)));
        assert_eq!(niceness().unwrap(), before);
    }
}
