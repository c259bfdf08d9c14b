//! Panics as log lines: what broke and where, and nothing of the data that it broke on.

use std::panic::PanicHookInfo;

/// Most bytes of a panic's message.
const MAX_REASON: usize = 200;

/// A panic is a log line like any other.
pub(super) fn log(info: &PanicHookInfo<'_>) {
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
    use std::panic;

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
}
