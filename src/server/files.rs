//! The open files that the system allows this process: asked for as many as its connections may come to need, and one kept for
//! when there are no others.

use std::fs::File;

use rlimit::Resource;

use crate::config::Config;

/// Open files beside connections: listeners, the runtime's own, weights and keys that are read again.
const OTHERS: u64 = 256;

/// Files that connections as `config` allows them may come to need, one over on each port while it makes room.
fn needed(config: &Config) -> u64 {
    let ports = 1 + u64::from(config.grpc_bind.is_some()) + u64::from(config.ingress.ops_bind.is_some());
    ports * (config.http.connections.max as u64 + 1) + OTHERS
}

/// Raises the soft limit to what `config` needs, as far as the hard one allows, and warns where it does not.
pub fn provide(config: &Config) {
    let needed = needed(config);
    let (soft, hard) = match Resource::NOFILE.get() {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!(%error, "the limit of open files cannot be read"),
    };
    if soft < needed
        && let Err(error) = Resource::NOFILE.set(needed.min(hard), hard)
    {
        tracing::warn!(%error, soft, hard, needed, "the limit of open files cannot be raised");
    }
    if hard < needed {
        tracing::warn!(
            limit = hard,
            needed,
            "fewer open files are allowed than --max-connections may need; raise the hard limit (ulimit -Hn, LimitNOFILE) \
             or lower --max-connections"
        );
    }
}

/// A file that is open for nothing, so that closing it leaves room for another.
#[derive(Default)]
pub(super) struct Spare(Option<File>);

impl Spare {
    /// Opens it, if it is not and if it can be.
    pub(super) fn keep(&mut self) {
        self.0 = self.0.take().or_else(|| File::open("/dev/null").ok());
    }

    /// Closes it; whether it was open.
    pub(super) fn lend(&mut self) -> bool {
        self.0.take().is_some()
    }
}
