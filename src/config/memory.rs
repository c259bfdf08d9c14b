//! Flags of how much memory requests and answers may hold, and of how long a body may keep others waiting.

use std::time::Duration;

use clap::Args;

use super::Checks;

/// A budget holds this many of the largest bodies: one that is being parsed takes five times its size, and a client alone
/// gets seven tenths of the budget.
const BODIES: u64 = 8;

/// How long a request without its whole body keeps its place in the line: photos over a fast network come within
/// milliseconds, and a line full of requests that are still being sent would refuse those that are there.
const SEAT_WAIT: Duration = Duration::from_millis(250);

/// Flags about the memory of requests and answers.
#[derive(Debug, Clone, Args)]
pub struct MemoryArgs {
    /// Most bytes of request bodies and their answers in memory, of all clients together, in MiB; what does not fit is
    /// refused with 429.
    // 16 of the largest bodies, or some 3,000 photos as people take them for 224 pixels, which is more than the queues hold.
    #[arg(long, env = "CONVOY_BODY_MEMORY_MIB", default_value_t = 512)]
    pub body_memory_mib: usize,
    /// Milliseconds without a byte of a body that has begun after which its client is given up.
    // A lost packet comes again within three seconds (RFC 6298, twice); who is silent for longer is gone or means harm.
    #[arg(long, env = "CONVOY_BODY_STALL_MS", default_value_t = 5_000)]
    pub body_stall_ms: u64,
}

/// How much memory requests and answers may hold, and how long a body may keep others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes of requests and answers together.
    pub bodies: usize,
    /// Longest silence within a body.
    pub stall: Duration,
    /// How long a request without its whole body keeps its seats.
    pub seat_wait: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { bodies: 512 << 20, stall: Duration::from_secs(5), seat_wait: SEAT_WAIT }
    }
}

impl MemoryArgs {
    /// `max_body` is the largest body, in MiB.
    pub(super) fn check(&self, max_body: usize, checks: &mut Checks) -> MemoryConfig {
        checks.range("--body-stall-ms", self.body_stall_ms, 1, 3_600_000);
        let least = BODIES.saturating_mul(max_body as u64);
        if (self.body_memory_mib as u64) < least || self.body_memory_mib > 1 << 20 {
            checks.problems.push(format!(
                "--body-memory-mib is {}; it must be at least {least}, which is {BODIES} times --max-body-mib, and at most {}",
                self.body_memory_mib,
                1 << 20
            ));
        }
        MemoryConfig {
            bodies: self.body_memory_mib.saturating_mul(1 << 20),
            stall: Duration::from_millis(self.body_stall_ms),
            seat_wait: SEAT_WAIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(body_memory_mib: usize, max_body: usize) -> Vec<String> {
        let mut checks = Checks::default();
        MemoryArgs { body_memory_mib, body_stall_ms: 1 }.check(max_body, &mut checks);
        checks.problems
    }

    #[test]
    fn a_budget_holds_the_largest_body_whatever_is_done_with_it() {
        assert_eq!(problems(512, 32), [""; 0]);
        assert_eq!(problems(256, 32), [""; 0]);
        let refused = problems(255, 32);
        assert!(refused.len() == 1 && refused[0].contains("at least 256"), "{refused:?}");
    }
}
