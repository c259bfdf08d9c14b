//! Log lines on standard error: which are written, how they look, how they leave, and that none shows what a client sent.
//!
//! What the code here logs is its own to keep clean. Dependencies do not know what is confidential: rustls warns with
//! the server name that a client made up, h2 repeats malformed paths at `debug`. Of theirs only errors are written,
//! whatever `--log` asks for.

mod panics;
mod quota;

use std::{
    io::{IsTerminal, Write, stderr},
    panic,
};

use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::filter_fn,
    fmt::{MakeWriter, layer},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{ConfigError, LogArgs, LogFormat};

pub(super) use quota::Quota;

/// Log lines of a server that wait for standard error to be read; further ones are dropped and counted. Some 2 MB.
const WAITING_LINES: usize = 8192;

/// Who reads standard error along with what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Whoever runs the command, and waits for it.
    Caller,
    /// Perhaps nobody: requests do not wait for them.
    Collector,
}

/// The log of this process, to its end.
pub(super) struct Log {
    quota: Quota,
    aside: Option<NonBlocking>,
    /// Waits a moment for the last lines to be read.
    _guard: Option<WorkerGuard>,
}

impl Log {
    /// Writes log lines, panics among them, as `args` want them.
    ///
    /// # Errors
    /// `--log` is no filter, or there is a log already.
    pub(super) fn start(args: &LogArgs, reader: Reader) -> anyhow::Result<Self> {
        let quota = Quota::default();
        let (aside, guard) = (reader == Reader::Collector).then(aside).unzip();
        match &aside {
            Some(aside) => install(args, quota.clone(), aside.clone())?,
            None => install(args, quota.clone(), stderr)?,
        }
        panic::set_hook(Box::new(panics::log));
        Ok(Self { quota, aside, _guard: guard })
    }

    /// What bounds the lines of each place in the code once it is told to.
    pub(super) fn quota(&self) -> Quota {
        self.quota.clone()
    }

    /// Counts the lines that nobody read in time.
    pub(super) fn lost(&self) -> Option<ErrorCounter> {
        self.aside.as_ref().map(NonBlocking::error_counter)
    }

    /// The last word of a failed command, after every line before it.
    pub(super) fn end_with(self, error: &anyhow::Error) {
        match self.aside.clone() {
            Some(aside) => say(error, aside),
            None => say(error, stderr()),
        }
    }
}

/// Writes why a command failed, for people.
pub(super) fn say(error: &anyhow::Error, mut to: impl Write) {
    let _nobody_reads = to.write_all(format!("convoy: {error:#}\n").as_bytes());
}

/// Standard error by way of a thread that may block while others go on.
fn aside() -> (NonBlocking, WorkerGuard) {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).lossy(true);
    builder.thread_name("log").finish(stderr())
}

fn install(
    args: &LogArgs,
    quota: Quota,
    to: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| ConfigError {
        problems: vec![format!("--log {}: {error}; try info or debug", args.log)],
    })?;
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_ours_or_an_error));
    let lines = layer().with_ansi(stderr().is_terminal()).with_writer(to);
    match args.log_format {
        LogFormat::Text => registry.with(lines.with_filter(quota)).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(quota)).try_init()?,
    }
    Ok(())
}

fn is_ours_or_an_error(line: &Metadata<'_>) -> bool {
    *line.level() == Level::ERROR || is_ours(line.target())
}

fn is_ours(target: &str) -> bool {
    matches!(target, "access" | "convoy") || target.starts_with("convoy::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_dependency_is_not_ours_because_it_begins_alike() {
        assert!(["convoy", "convoy::http::routes", "access"].into_iter().all(is_ours));
        assert!(
            !["rustls::msgs::handshake", "h2::server", "convoyage", "access::log"].into_iter().any(is_ours)
        );
    }
}
