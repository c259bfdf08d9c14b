//! Log lines on standard error: which are written, how they look, and that none shows what a client sent.
//!
//! What the code here logs is its own to keep clean. Dependencies do not know what is confidential: rustls warns with
//! the server name that a client made up, h2 repeats malformed paths at `debug`. Of theirs only errors are written,
//! whatever `--log` asks for.

use std::{
    io::{IsTerminal, stderr},
    panic,
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    filter::filter_fn,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{ConfigError, LogArgs, LogFormat};

/// Most bytes of a panic's message.
const MAX_REASON: usize = 200;

/// Writes log lines, panics among them, as `args` want them.
///
/// # Errors
/// `--log` is no filter, or there is a log already.
pub(super) fn to_stderr(args: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| ConfigError {
        problems: vec![format!("--log {}: {error}; try info or debug", args.log)],
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr);
    let own = filter_fn(is_ours_or_an_error);
    let installed: Result<(), TryInitError> = match args.log_format {
        LogFormat::Text => lines.finish().with(own).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().with(own).try_init(),
    };
    installed?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn is_ours_or_an_error(line: &Metadata<'_>) -> bool {
    *line.level() == Level::ERROR || is_ours(line.target())
}

fn is_ours(target: &str) -> bool {
    matches!(target, "access" | "convoy") || target.starts_with("convoy::")
}

/// A panic is a log line like any other.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let reason = info.payload_as_str().map_or("panic without a message", without_data);
    let location = info.location().map(ToString::to_string);
    tracing::error!(thread = thread.name(), location, reason, "panic");
}

/// A panic's message up to where it begins to show data: slicing a text in the middle of a character repeats the text,
/// `expect` on a `Result` its error. Those stand in quotes, brackets, or after a line's end.
fn without_data(message: &str) -> &str {
    let shows = |c: char| matches!(c, '`' | '\'' | '"' | '(' | '[' | '{') || c.is_control() || !c.is_ascii();
    let end = message.find(shows).unwrap_or(message.len()).min(MAX_REASON);
    message[..end].trim_end_matches([' ', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged of the panic of `code`.
    fn told(code: impl FnOnce() + panic::UnwindSafe) -> String {
        let payload = panic::catch_unwind(code).unwrap_err();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        without_data(text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap()).to_owned()
    }

    #[test]
    fn a_panic_tells_what_broke_and_not_on_what() {
        let secret = std::hint::black_box("é SECRET question");
        assert!(told(|| assert_eq!(&secret[1..], "")).contains("char boundary"));
        let parsed = || secret.parse::<std::net::IpAddr>().map_err(|_| secret);
        assert_eq!(told(|| assert!(parsed().expect("bug: an address").is_ipv4())), "bug: an address");
        assert_eq!(told(|| assert_eq!(secret, "")), "assertion");
        let numbers = std::hint::black_box([1, 2, 3]);
        let at = std::hint::black_box(5);
        assert_eq!(told(|| assert!(numbers[at] > 0)), "index out of bounds: the len is 3 but the index is 5");
        for message in [told(|| assert_eq!(&secret[1..], "")), told(|| panic!("one\nline {secret}"))] {
            assert!(!message.contains("SECRET") && !message.contains('\n'), "{message}");
        }
        assert_eq!(without_data(&"a".repeat(1000)).len(), MAX_REASON);
    }

    #[test]
    fn the_name_of_a_dependency_is_not_ours_because_it_begins_alike() {
        assert!(["convoy", "convoy::http::routes", "access"].into_iter().all(is_ours));
        assert!(
            !["rustls::msgs::handshake", "h2::server", "convoyage", "access::log"].into_iter().any(is_ours)
        );
    }
}
