//! Moves jobs from bounded queues through executors and brings every job exactly one answer.
//!
//! [`policy`] decides, [`queue`] bounds and carries, [`scheduler`] runs threads. Nothing here knows of HTTP, images,
//! text or candle: an [`Executor`] does the work, whatever it is.

pub mod policy;
pub mod queue;
pub mod scheduler;

pub use queue::{Full, JobError, Permit, Queue, Ticket};
pub use scheduler::{Workers, start};

/// Runs one batch at a time on a thread of its own.
///
/// `run` returns exactly one result per input, in order. It may block and may panic: the scheduler contains the
/// panic and answers the jobs of that batch.
pub trait Executor: Send + 'static {
    /// What one job carries in.
    type Input: Send + 'static;
    /// What one job gets back.
    type Output: Send + 'static;
    /// Why one job failed; cloned when one failure answers a whole batch.
    type Error: std::error::Error + Clone + Send + Sync + 'static;

    /// The most inputs `run` may be given at once.
    fn max_batch(&self) -> usize;

    /// Executes one batch: one result per input, in order.
    fn run(&mut self, batch: Vec<Self::Input>) -> Vec<Result<Self::Output, Self::Error>>;
}
