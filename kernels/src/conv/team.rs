//! A fixed set of threads that go through one job together, phase by phase.
//!
//! Every member runs the same closure; [`Member::for_each`] shares out the indices of a phase and ends
//! with a barrier. Helpers are background threads, and every member offers its processor between indices. What the
//! indices mean is the callers' business.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::{fmt, io};

use super::barrier::Barrier;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::thread::JoinHandle;
use super::sync::{Arc, Condvar, Mutex, MutexGuard, thread};
use crate::priority::{Priority, Turns};

/// What every member runs.
type Job<'a> = dyn Fn(&Member<'_>) + Sync + 'a;

/// Threads that work together; dropping the team ends them.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// One thread's part in a job.
#[derive(Debug)]
pub struct Member<'a> {
    shared: &'a Shared,
    index: usize,
    turns: RefCell<Turns>,
}

#[derive(Debug)]
struct Shared {
    members: usize,
    inbox: Mutex<Inbox>,
    /// A job was posted, or the team ends.
    posted: Condvar,
    /// How many of each member's share of the current phase are taken.
    taken: Vec<Line<AtomicUsize>>,
    /// Ends a phase; broken once a member panicked.
    phase: Barrier,
    /// Ends a job; every member comes here, whatever became of it.
    exit: Barrier,
}

/// Something with a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line<T>(T);

/// What the helpers are to do.
#[derive(Default)]
struct Inbox {
    /// Jobs posted so far.
    jobs: usize,
    /// The last one; cleared before it ends.
    job: Option<Posted>,
    ended: bool,
}

/// A job whose lifetime is erased. A pointer and no reference: a helper that has left the job may still be on its way out of
/// the functions that were given it when its owner ends it, and a reference would have to stay valid until they return.
#[derive(Clone, Copy)]
struct Posted(*const Job<'static>);

// SAFETY: the job behind it is `Sync`.
unsafe impl Send for Posted {}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("jobs", &self.jobs).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Team {
    /// A team of `members` threads, at least one; the caller of [`Team::run`] is the first.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new(members: usize) -> io::Result<Self> {
        let members = members.max(1);
        let shared = Arc::new(Shared {
            members,
            inbox: Mutex::default(),
            posted: Condvar::new(),
            taken: (0..members).map(|_| Line::default()).collect(),
            phase: Barrier::new(members),
            exit: Barrier::new(members),
        });
        let mut team = Self { shared, threads: Vec::new() };
        for index in 1..members {
            let shared = Arc::clone(&team.shared);
            let name = format!("conv-{index}");
            team.threads.push(thread::Builder::new().name(name).spawn(move || help(&shared, index))?);
        }
        Ok(team)
    }

    /// Threads of the team, the caller's included.
    pub fn members(&self) -> usize {
        self.shared.members
    }

    /// Runs `job` once on every member and returns when all have finished.
    ///
    /// # Panics
    /// When a member panicked in this job or an earlier one.
    pub fn run(&mut self, job: &Job<'_>) {
        // SAFETY: only the lifetime changes, and of a pointer.
        let posted = Posted(unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) });
        if self.members() > 1 {
            let mut inbox = lock(&self.shared.inbox);
            inbox.jobs += 1;
            inbox.job = Some(posted);
            drop(inbox);
            self.shared.posted.notify_all();
        }
        // SAFETY: the job outlives this call, which ends after every member's `attend` is past the job; helpers find no other
        // job than one that was posted here.
        let outcome = unsafe { self.shared.attend(0, posted) };
        lock(&self.shared.inbox).job = None;
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
        assert!(!self.shared.phase.is_broken(), "a member of the team panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        lock(&self.shared.inbox).ended = true;
        self.shared.posted.notify_all();
        for thread in self.threads.drain(..) {
            // Helpers catch what their jobs throw, so there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

/// The life of a helper thread.
fn help(shared: &Shared, index: usize) {
    // Where the system will not have it, the team works all the same and others wait longer.
    let _ = Priority::Background.enter();
    let mut seen = 0;
    loop {
        let mut inbox = lock(&shared.inbox);
        while inbox.jobs == seen && !inbox.ended {
            inbox = shared.posted.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        if inbox.ended {
            return;
        }
        seen = inbox.jobs;
        let job = inbox.job.expect("bug: a job stays posted until every member has left it");
        drop(inbox);
        // SAFETY: whoever posted it waits in its own `attend` until this one is past the job. It reports a panic, too.
        let _ = unsafe { shared.attend(index, job) };
    }
}

impl Shared {
    /// One member's way through a job. Returns when all members are through, whatever became of them.
    ///
    /// # Safety
    /// The job lives until all members of the team have called it and come back.
    unsafe fn attend(&self, index: usize, job: Posted) -> std::thread::Result<()> {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the caller's promise; this member is in the job until the call returns.
            let job = unsafe { &*{ job }.0 };
            job(&Member { shared: self, index, turns: RefCell::new(Turns::new()) })
        }));
        if outcome.is_err() {
            self.phase.shatter();
        }
        self.exit.wait(|| ()).expect("bug: nothing breaks the exit");
        outcome
    }
}

impl Member<'_> {
    /// Which member this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many members share the work.
    pub fn members(&self) -> usize {
        self.shared.members
    }

    /// Calls `work` for every index below `count` exactly once and returns when all calls of all members are done: what
    /// they wrote is then visible here. Each member begins with a share of its own, the same in every phase of this
    /// count, so that what it wrote in one phase is in its caches in the next; who has finished helps the others. Every
    /// member must call this equally often and with the same counts.
    ///
    /// # Panics
    /// When another member panicked.
    pub fn for_each(&self, count: usize, mut work: impl FnMut(usize)) {
        let members = self.shared.members;
        let mut turns = self.turns.borrow_mut();
        let mut work = |at| {
            work(at);
            turns.offer();
        };
        if members == 1 {
            return (0..count).for_each(work);
        }
        for owner in (self.index..members).chain(0..self.index) {
            let share = share(count, members, owner);
            let taken = &self.shared.taken[owner].0;
            loop {
                let at = share.start + taken.fetch_add(1, Ordering::Relaxed);
                if at >= share.end {
                    break;
                }
                work(at);
            }
        }
        let reset = || self.shared.taken.iter().for_each(|taken| taken.0.store(0, Ordering::Relaxed));
        assert!(self.shared.phase.wait(reset).is_ok(), "another member of the team panicked");
    }
}

/// The `at`th of `parts` nearly equal shares of `0..total`.
pub(super) fn share(total: usize, parts: usize, at: usize) -> Range<usize> {
    at * total / parts..(at + 1) * total / parts
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    #[cfg(all(target_os = "linux", not(miri)))]
    use crate::priority::niceness;

    #[test]
    fn every_index_of_every_phase_is_visited_once_and_phases_do_not_overlap() {
        for members in 1..=4 {
            let mut team = Team::new(members).unwrap();
            for _ in 0..50 {
                let visits: Vec<AtomicUsize> = (0..33).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|member| {
                    for phase in 0..20 {
                        member.for_each(visits.len(), |at| {
                            assert_eq!(visits[at].fetch_add(1, Ordering::Relaxed), phase);
                        });
                        assert!(visits.iter().all(|v| v.load(Ordering::Relaxed) > phase));
                    }
                });
                assert!(visits.iter().all(|v| v.load(Ordering::Relaxed) == 20));
            }
        }
    }

    #[test]
    fn a_panic_on_any_member_reaches_the_caller_and_hangs_nobody() {
        for culprit in 0..3 {
            let mut team = Team::new(3).unwrap();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|member| {
                    assert_ne!(member.index(), culprit);
                    member.for_each(10, |_| thread::yield_now());
                });
            }));
            assert!(outcome.is_err(), "{culprit}");
            let again = catch_unwind(AssertUnwindSafe(|| team.run(&|member| member.for_each(3, |_| ()))));
            assert!(again.is_err(), "{culprit}");
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn helpers_stand_back_and_the_caller_does_not() {
        let own = niceness().unwrap();
        let inside = Mutex::new(Vec::new());
        Team::new(3).unwrap().run(&|_| inside.lock().unwrap().push(niceness().unwrap()));
        let mut inside = inside.into_inner().unwrap();
        inside.sort_unstable();
        let background = || Priority::Background.enter().and_then(|()| niceness());
        let helper = thread::spawn(background).join().unwrap().unwrap();
        assert_eq!(inside, [own, helper, helper]);
        assert_eq!(niceness().unwrap(), own);
    }

    #[test]
    fn threads_end_with_their_team() {
        let shared = Arc::downgrade(&Team::new(3).unwrap().shared);
        assert_eq!(shared.strong_count(), 0);
    }
}

#[cfg(all(test, loom))]
mod model {
    use std::panic;
    use std::sync::atomic::AtomicUsize as Counter;

    use super::*;

    const MEMBERS: usize = 2;

    /// Runs `check` in every interleaving with at most so many preemptions.
    fn explore(preemptions: usize, check: fn()) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model.max_branches = 10_000;
        let count = std::sync::Arc::new(Counter::new(0));
        let counted = count.clone();
        model.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            check();
        });
        println!(
            "{MEMBERS} members, {preemptions} preemptions: {} interleavings",
            count.load(Ordering::Relaxed)
        );
    }

    #[test]
    fn phases_do_not_overlap_and_no_member_is_in_a_job_that_has_ended() {
        explore(3, || {
            let mut team = Team::new(MEMBERS).unwrap();
            for _ in 0..2 {
                let cells: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
                let ended = AtomicUsize::new(0);
                team.run(&|member| {
                    for phase in 0..2 {
                        member.for_each(cells.len(), |at| {
                            assert_eq!(cells[at].load(Ordering::Relaxed), phase);
                            cells[at].store(phase + 1, Ordering::Relaxed);
                        });
                    }
                    assert_eq!(ended.load(Ordering::Relaxed), 0);
                });
                ended.store(1, Ordering::Relaxed);
                assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 2));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_ends() {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| ()));
        for culprit in [|| run_with_culprit(0), || run_with_culprit(1)] {
            explore(3, culprit);
        }
        panic::set_hook(hook);
    }

    fn run_with_culprit(culprit: usize) {
        let mut team = Team::new(MEMBERS).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            team.run(&|member| {
                assert_ne!(member.index(), culprit);
                member.for_each(2, |_| ());
            });
        }));
        assert!(outcome.is_err());
    }
}
