//! The batching decision, apart from threads and clocks: given what waits and what time it is, which jobs run now
//! and which are dropped.
//!
//! The policy is work-conserving: an idle executor takes what waits, oldest first, up to its largest batch; while it
//! runs, the next batch gathers by itself. `now` is always passed in, so the tests run in virtual time.

use std::time::Instant;

/// What the policy needs to know of a waiting job.
pub trait Candidate {
    /// After this moment the answer is worth nothing to the client.
    fn deadline(&self) -> Instant;
    /// Whether nobody waits for the answer any more.
    fn abandoned(&self) -> bool;
}

/// Why a job is dropped without being run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// Its deadline has passed.
    Expired,
    /// Its client has gone.
    Abandoned,
}

/// A batch to run now and the jobs met on the way that are not worth running.
#[derive(Debug)]
pub struct Formed<J> {
    /// At most `max_batch` jobs, in the order they waited.
    pub batch: Vec<J>,
    /// Jobs to answer (or forget) without running them.
    pub shed: Vec<(J, Shed)>,
}

/// Forms the next batch from `waiting`, oldest first.
///
/// Pulls from `waiting` only until the batch is full, so a lazy iterator over a channel leaves the rest queued.
pub fn form_batch<J: Candidate>(
    now: Instant,
    max_batch: usize,
    waiting: impl IntoIterator<Item = J>,
) -> Formed<J> {
    let mut formed = Formed { batch: Vec::with_capacity(max_batch), shed: Vec::new() };
    let mut waiting = waiting.into_iter();
    while formed.batch.len() < max_batch {
        let Some(job) = waiting.next() else { break };
        match triage(now, &job) {
            None => formed.batch.push(job),
            Some(reason) => formed.shed.push((job, reason)),
        }
    }
    formed
}

fn triage(now: Instant, job: &impl Candidate) -> Option<Shed> {
    if job.abandoned() {
        Some(Shed::Abandoned)
    } else if job.deadline() <= now {
        Some(Shed::Expired)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    struct Virtual {
        id: usize,
        arrival: Instant,
        deadline: Instant,
        abandoned: bool,
    }

    impl Candidate for Virtual {
        fn deadline(&self) -> Instant {
            self.deadline
        }
        fn abandoned(&self) -> bool {
            self.abandoned
        }
    }

    /// Start and jobs of a batch that ran.
    type Run = (Instant, Vec<usize>);

    /// Drives the policy on a virtual clock: one executor, which takes `cost(n)` for a batch of n. Returns each batch
    /// that ran, and every shed job.
    fn simulate(
        jobs: &[Virtual],
        max_batch: usize,
        cost: impl Fn(usize) -> Duration,
    ) -> (Vec<Run>, Vec<(usize, Shed)>) {
        let mut arriving: VecDeque<_> = jobs.iter().cloned().collect();
        let (mut waiting, mut runs, mut shed) = (VecDeque::new(), Vec::new(), Vec::new());
        let Some(mut now) = arriving.front().map(|job| job.arrival) else { return (runs, shed) };
        while !arriving.is_empty() || !waiting.is_empty() {
            if waiting.is_empty() {
                now = now.max(arriving[0].arrival);
            }
            while arriving.front().is_some_and(|job| job.arrival <= now) {
                waiting.extend(arriving.pop_front());
            }
            let formed = form_batch(now, max_batch, std::iter::from_fn(|| waiting.pop_front()));
            shed.extend(formed.shed.iter().map(|(job, why)| (job.id, *why)));
            if !formed.batch.is_empty() {
                runs.push((now, formed.batch.iter().map(|job| job.id).collect()));
                now += cost(formed.batch.len());
            }
        }
        (runs, shed)
    }

    fn at(origin: Instant, id: usize, arrival_ms: u64, slack_ms: u64) -> Virtual {
        let arrival = origin + Duration::from_millis(arrival_ms);
        Virtual { id, arrival, deadline: arrival + Duration::from_millis(slack_ms), abandoned: false }
    }

    #[test]
    fn a_lone_job_starts_at_once() {
        let origin = Instant::now();
        let (runs, _) = simulate(&[at(origin, 0, 5, 100)], 8, |_| Duration::from_millis(10));
        assert_eq!(runs, vec![(origin + Duration::from_millis(5), vec![0])]);
    }

    #[test]
    fn the_next_batch_gathers_while_the_first_runs() {
        let origin = Instant::now();
        let jobs: Vec<_> = (0..6).map(|i| at(origin, i, i as u64, 1000)).collect();
        let (runs, _) = simulate(&jobs, 4, |_| Duration::from_millis(10));
        let batches: Vec<_> = runs.iter().map(|(_, ids)| ids.clone()).collect();
        assert_eq!(batches, vec![vec![0], vec![1, 2, 3, 4], vec![5]]);
    }

    #[test]
    fn expired_and_abandoned_jobs_do_not_take_a_seat() {
        let origin = Instant::now();
        let mut jobs: Vec<_> = (0..5).map(|i| at(origin, i, 0, 1000)).collect();
        jobs[1].deadline = origin;
        jobs[2].abandoned = true;
        let formed = form_batch(origin, 3, jobs);
        assert_eq!(formed.batch.iter().map(|job| job.id).collect::<Vec<_>>(), [0, 3, 4]);
        let shed: Vec<_> = formed.shed.iter().map(|(job, why)| (job.id, *why)).collect();
        assert_eq!(shed, [(1, Shed::Expired), (2, Shed::Abandoned)]);
    }

    #[test]
    fn a_full_batch_leaves_the_rest_unpulled() {
        let origin = Instant::now();
        let mut waiting = (0..10).map(|i| at(origin, i, 0, 1000));
        let formed = form_batch(origin, 4, &mut waiting);
        assert_eq!((formed.batch.len(), waiting.count()), (4, 6));
    }

    proptest! {
        /// Every job runs once or is shed once; batches are bounded and FIFO; nothing runs past its deadline; the
        /// executor never idles while a live job waits.
        #[test]
        fn virtual_runs_keep_the_invariants(
            spec in prop::collection::vec((0u64..50, 1u64..200, prop::bool::weighted(0.1)), 1..120),
            max_batch in 1usize..9,
            base in 1u64..30,
            per_job in 0u64..5,
        ) {
            let origin = Instant::now();
            let mut clock = 0;
            let jobs: Vec<_> = spec.iter().enumerate().map(|(id, &(gap, slack, gone))| {
                clock += gap;
                Virtual { abandoned: gone, ..at(origin, id, clock, slack) }
            }).collect();
            let cost = |n: usize| Duration::from_millis(base + per_job * n as u64);
            let (runs, shed) = simulate(&jobs, max_batch, cost);

            let mut seen: Vec<usize> = runs.iter().flat_map(|(_, ids)| ids.clone()).collect();
            prop_assert!(seen.is_sorted(), "first come, first served");
            seen.extend(shed.iter().map(|(id, _)| *id));
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..jobs.len()).collect::<Vec<_>>());

            let mut free = origin;
            for (start, ids) in &runs {
                prop_assert!(ids.len() <= max_batch);
                for &id in ids {
                    prop_assert!(jobs[id].deadline > *start && jobs[id].arrival <= *start);
                }
                let oldest = ids.iter().map(|&id| jobs[id].arrival).min().unwrap();
                prop_assert_eq!(*start, free.max(oldest), "an idle executor starts at once");
                free = *start + cost(ids.len());
            }
            for (id, why) in shed {
                prop_assert_eq!(jobs[id].abandoned, why == Shed::Abandoned);
            }
        }
    }
}
