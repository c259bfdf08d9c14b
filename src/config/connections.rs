//! Flags of how many connections there may be, and how long each may keep the server waiting.

use std::{num::NonZeroUsize, time::Duration};

use clap::Args;

use super::Checks;

/// Flags of connections.
#[derive(Debug, Clone, Args)]
pub struct ConnectionArgs {
    /// Connections open at once on each port. When all are taken, one that has no request in hand makes room for the next;
    /// when all have one, further ones wait in the kernel's backlog.
    #[arg(long, env = "CONVOY_MAX_CONNECTIONS", default_value_t = 4096)]
    pub max_connections: usize,
    /// Of these, connections from one IPv4 address or one IPv6 /64; more are closed at once. Off when not given, because
    /// everybody behind a proxy shares its address.
    #[arg(long, env = "CONVOY_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    pub max_connections_per_address: Option<NonZeroUsize>,
    // Longer than the 60 s after which common proxies give an idle connection up, so that it is never the server that closes
    // one while they send on it; shorter than the 4 min after which Azure's load balancers forget it without a word.
    /// Milliseconds without a request after which a connection is closed.
    #[arg(long, env = "CONVOY_IDLE_TIMEOUT_MS", default_value_t = 75_000)]
    pub idle_timeout_ms: u64,
    /// Milliseconds without a byte taken of an answer after which its connection is cut; four times as long where some are.
    #[arg(long, env = "CONVOY_WRITE_TIMEOUT_MS", default_value_t = 15_000)]
    pub write_timeout_ms: u64,
}

/// How many connections there may be, and how long each may keep the server waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionsConfig {
    /// Open at once on each port.
    pub max: usize,
    /// Of these, from one IPv4 address or one IPv6 /64.
    pub max_per_address: Option<usize>,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Without a byte taken of an answer.
    pub write_timeout: Duration,
}

impl Default for ConnectionsConfig {
    /// As the flags have it.
    fn default() -> Self {
        Self {
            max: 4096,
            max_per_address: None,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(15),
        }
    }
}

impl ConnectionArgs {
    pub(super) fn check(&self, checks: &mut Checks) -> ConnectionsConfig {
        checks.range("--max-connections", self.max_connections as u64, 1, 1 << 20);
        checks.range("--idle-timeout-ms", self.idle_timeout_ms, 1, 3_600_000);
        checks.range("--write-timeout-ms", self.write_timeout_ms, 1, 3_600_000);
        ConnectionsConfig {
            max: self.max_connections,
            max_per_address: self.max_connections_per_address.map(NonZeroUsize::get),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            write_timeout: Duration::from_millis(self.write_timeout_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ConnectionArgs,
    }

    #[test]
    fn the_default_is_what_the_flags_say() {
        let mut checks = Checks::default();
        let config = Line::parse_from(["serve"]).args.check(&mut checks);
        assert_eq!((config, checks.problems.len()), (ConnectionsConfig::default(), 0));
        let args = Line::parse_from(["serve", "--idle-timeout-ms", "0", "--max-connections", "0"]).args;
        args.check(&mut checks);
        assert_eq!(checks.problems.len(), 2, "{:?}", checks.problems);
        assert!(Line::try_parse_from(["serve", "--max-connections-per-address", "0"]).is_err());
    }
}
