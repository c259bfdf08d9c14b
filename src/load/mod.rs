//! Load on an HTTP server: requests sent at their due times or as fast as answers come, what became of each, and reports.
//!
//! The open loop is free of coordinated omission: due times are fixed beforehand, latency counts from them, and a request
//! that finds every connection busy waits in line here, its waiting counted. What is sent is a [`Payload`]; nothing here
//! knows the models, the services or the server behind the address.

mod client;
mod drive;
mod open;
mod payload;
mod record;
pub mod report;
mod schedule;
mod search;
mod target;
mod timeline;

use std::time::Duration;

pub use drive::{LoadError, Progress};
pub use payload::Payload;
pub use record::{Failure, Recording, Tally};
pub use schedule::Arrivals;
pub use search::{Goal, Search, Step};
pub use target::{Target, TargetError};
pub use timeline::{Slot, Timeline};

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Every connection sends its next request when it has its answer.
    Closed,
    /// Requests are due at their own times, however the server fares.
    Open {
        /// Requests per second, above zero.
        rate: f64,
        /// How due times are spaced.
        arrivals: Arrivals,
        /// The same seed makes the same due times.
        seed: u64,
    },
}

/// What to send where, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub target: Target,
    /// What is sent, taken in turn; at least one.
    pub payloads: Vec<Payload>,
    /// When it is sent.
    pub pace: Pace,
    /// Connections of a closed loop; the most that an open loop opens. At least one.
    pub connections: usize,
    /// Time at the start whose requests do not count.
    pub warm_up: Duration,
    /// Time after the warm-up during which requests are sent.
    pub duration: Option<Duration>,
    /// Requests sent after the warm-up. Without this and without `duration` a run never ends.
    pub requests: Option<u64>,
    /// From when a request is taken up, connecting included, to its whole answer; after the last due time also how long
    /// requests may still wait for a connection.
    pub timeout: Duration,
}

/// Runs the plan on this thread and one that keeps time, and tells of its progress several times a second.
///
/// # Errors
/// The server cannot be reached at all, or the system refuses a thread.
pub fn run(plan: &Plan, progress: impl FnMut(&Progress)) -> Result<Recording, LoadError> {
    drive::run(plan, progress)
}

/// Runs the plan at rates that `search` asks for until it has an answer, and tells of every step.
///
/// # Errors
/// As [`run`].
pub fn find_rate(
    plan: &Plan,
    goal: &Goal,
    search: &mut Search,
    mut progress: impl FnMut(&Progress),
    mut told: impl FnMut(&Step),
) -> Result<Vec<(Step, Recording)>, LoadError> {
    let (arrivals, seed) = match plan.pace {
        Pace::Open { arrivals, seed, .. } => (arrivals, seed),
        Pace::Closed => (Arrivals::Poisson, 0),
    };
    let mut steps = Vec::new();
    while let Some(rate) = search.next_rate() {
        let plan = Plan { pace: Pace::Open { rate, arrivals, seed }, ..plan.clone() };
        let recording = run(&plan, &mut progress)?;
        let step = goal.judge(rate, &recording);
        search.tell(step.kept());
        told(&step);
        steps.push((step, recording));
    }
    Ok(steps)
}
