//! Where a request's time went, stage by stage.

use std::time::{Duration, Instant};

use crate::batch::Timing;

/// The stages of one request, in order; of several photos, the longest time of each stage. How long reading took is the
/// protocol's to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Decoding and resizing, with the wait for a decoding thread.
    pub decode: Duration,
    /// Waiting because every executor was busy.
    pub queue: Duration,
    /// Waiting because an idle executor waited for company.
    pub batch_wait: Duration,
    /// In the executor, whole batch.
    pub execute: Duration,
    /// When that began; the stages before it end there. `None` where nothing was executed.
    pub executed: Option<Instant>,
    /// Jobs in that batch.
    pub batch: usize,
    /// Whether the execution was that of an identical photo already in flight.
    pub shared: bool,
}

impl Timeline {
    /// A request that needs no decoding.
    pub fn of(timing: Timing) -> Self {
        Self {
            decode: Duration::ZERO,
            queue: timing.queue,
            batch_wait: timing.batch_wait,
            execute: timing.execute,
            executed: timing.executed,
            batch: timing.batch,
            shared: false,
        }
    }

    /// The longer of each stage.
    #[must_use]
    pub fn longest(self, other: Self) -> Self {
        Self {
            decode: self.decode.max(other.decode),
            queue: self.queue.max(other.queue),
            batch_wait: self.batch_wait.max(other.batch_wait),
            execute: self.execute.max(other.execute),
            executed: self.executed.max(other.executed),
            batch: self.batch.max(other.batch),
            shared: self.shared && other.shared,
        }
    }
}
