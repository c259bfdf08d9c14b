//! Flags of when a server that does not get on says so.

use std::time::Duration;

use clap::Args;

use super::Checks;
use crate::batch::dispatcher::STUCK_AFTER;

/// Flags of when a server that does not get on says so.
#[derive(Debug, Clone, Args)]
pub struct HealthArgs {
    /// Milliseconds that a batch runs at least before it counts as stuck, beside eight times what it should take: /readyz
    /// then fails and requests that need it are refused. Twice what the slowest batch may take when all else is busy too.
    #[arg(long, env = "CONVOY_STUCK_MS", default_value_t = STUCK_AFTER.as_millis() as u64)]
    pub stuck_ms: u64,
    /// Milliseconds that a batch may be stuck, or an executor fail on everything, before /livez fails, so that an
    /// orchestrator starts the process anew. Longer than a device takes to reset or a host to be moved.
    #[arg(long, env = "CONVOY_DEAD_MS", default_value_t = 60_000)]
    pub dead_ms: u64,
}

/// When a server that does not get on says so.
#[derive(Debug, Clone, Copy)]
pub struct HealthConfig {
    /// How long a batch runs at least before it counts as stuck.
    pub stuck_after: Duration,
    /// How long something may be wrong before the process is given up.
    pub dead_after: Duration,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { stuck_after: STUCK_AFTER, dead_after: Duration::from_secs(60) }
    }
}

impl HealthArgs {
    pub(super) fn check(&self, checks: &mut Checks) -> HealthConfig {
        checks.range("--stuck-ms", self.stuck_ms, 1, 3_600_000);
        checks.range("--dead-ms", self.dead_ms, self.stuck_ms, 86_400_000);
        HealthConfig {
            stuck_after: Duration::from_millis(self.stuck_ms),
            dead_after: Duration::from_millis(self.dead_ms),
        }
    }
}
