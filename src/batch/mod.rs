//! Moves jobs from bounded queues through executors and brings every job exactly one answer.
//!
//! | module | what it owns |
//! |---|---|
//! | [`cost`] | what a batch of each size costs |
//! | [`forecast`] | when a newcomer, or everybody, would be done |
//! | [`policy`] | how many jobs run now, or until when to wait |
//! | [`lineup`] | who is next: fair between flows, earliest deadline first within one |
//! | [`dispatcher`] | the five above and the state between them, with `now` passed in |
//! | [`health`] | what can be wrong with a pool |
//! | [`queue`] | seats, jobs, tickets: the dispatcher behind a lock |
//! | [`scheduler`] | what a thread does: run what the dispatcher hands out |
//! | [`pool`] | executors and their threads, from start to end |
//!
//! Nothing here knows of HTTP, images, text or candle: an [`Executor`] does the work, whatever it is. Everything up to
//! `dispatcher` is pure and runs in virtual time, in tests and in `benches/simulate`.

pub mod cost;
pub mod dispatcher;
pub mod forecast;
pub mod health;
pub mod lineup;
pub mod policy;
pub mod pool;
pub mod queue;
pub mod scheduler;
pub mod terms;

use kernels::priority::Priority;

pub use cost::CostTable;
pub use dispatcher::Refusal;
pub use health::{Health, Trouble};
pub use pool::{Before, Pool, Workers, start};
pub use queue::{Answer, JobError, Queue, Seat, Ticket, Timing};
pub use terms::{Class, Client, Terms};

/// Runs one batch at a time on a thread of its own.
///
/// It may block and may panic: the scheduler contains the panic and answers the jobs of that batch.
pub trait Executor: Send + 'static {
    /// What one job carries in.
    type Input: Send + 'static;
    /// What one job gets back.
    type Output: Send + 'static;
    /// Why one job failed; cloned when one failure answers several jobs.
    type Error: std::error::Error + Clone + Send + Sync + 'static;

    /// What its thread is there for.
    fn priority(&self) -> Priority {
        Priority::Brief
    }

    /// The most inputs `run` may be given at once, at least 1.
    fn max_batch(&self) -> usize;

    /// Sizes worth timing before the first job: where the cost changes course. The largest is `max_batch`.
    fn batch_sizes(&self) -> Vec<usize> {
        cost::powers_of_two(self.max_batch())
    }

    /// A batch that it must be able to answer, so that it can be told whether it is to blame or its jobs are; empty where
    /// none is known.
    fn sample(&self) -> Vec<Self::Input> {
        Vec::new()
    }

    /// Executes one batch: one result per input, in order.
    ///
    /// # Errors
    /// The batch failed as a whole and no input is known to be at fault. The scheduler halves it and tries again until
    /// the one that is to blame stands alone.
    fn run(&mut self, batch: &[Self::Input]) -> Result<Results<Self>, Self::Error>;
}

/// One result per input of a batch, in order.
pub type Results<E> = Vec<Result<<E as Executor>::Output, <E as Executor>::Error>>;
