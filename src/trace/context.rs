//! A request's place in a trace: what its caller says in `traceparent` and `tracestate`, and ids of its own.
//!
//! <https://www.w3.org/TR/trace-context-2/> has the form of both headers. Pure but for the randomness of ids; whether a
//! trace is recorded is decided in [`super::Tracer`].

use std::fmt;

use http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00: version, trace id, parent id and flags in hex with dashes between.
const LENGTH: usize = 55;

/// Longest `tracestate` that is carried on, the least that the specification asks for; a longer one is left out whole.
const MAX_STATE: usize = 512;

/// Bits of a trace id that are random: the low 56.
const RANDOM_BITS: u32 = 56;

/// Identifies a trace; never zero. Shown as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// Identifies a span within a trace; never zero. Shown as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

impl TraceId {
    /// A random one.
    pub fn random() -> Self {
        Self(fastrand::u128(1..))
    }

    /// As OTLP has it.
    pub fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Whether this trace is among the share `ratio` of all traces. Everybody who decides by the random bits of the
    /// id, as OpenTelemetry's consistent sampling does, comes to the same result.
    pub fn is_among(self, ratio: f64) -> bool {
        let space = (1_u128 << RANDOM_BITS) as f64;
        let random = self.0 & ((1 << RANDOM_BITS) - 1);
        random as f64 >= (1.0 - ratio) * space
    }
}

impl SpanId {
    /// A random one.
    pub fn random() -> Self {
        Self(fastrand::u64(1..))
    }

    /// As OTLP has it.
    pub fn bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The caller's span, which a request belongs under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The caller's span.
    pub span: SpanId,
    /// Whether the caller records the trace.
    pub sampled: bool,
    /// What other tracing systems say of it, carried on unread.
    pub state: Option<Box<str>>,
}

impl Parent {
    /// The caller's span as `headers` tell of it. Headers that break the rules count as none, as the specification
    /// asks.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(&TRACEPARENT).iter();
        let (one, more) = (all.next()?, all.next());
        let parent = Self::parse(one.to_str().ok().filter(|_| more.is_none())?)?;
        Some(Self { state: state(headers), ..parent })
    }

    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = head.split('-');
        let mut part = |digits: usize| parts.next().filter(|part| part.len() == digits).and_then(hex);
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let span = u64::try_from(span).ok()?;
        (fits && trace != 0 && span != 0).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            sampled: flags & 1 == 1,
            state: None,
        })
    }
}

/// The value of lower-case hex digits.
fn hex(digits: &str) -> Option<u128> {
    let lower = digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
    u128::from_str_radix(digits, 16).ok().filter(|_| lower)
}

/// `tracestate`, whose lines are one list.
fn state(headers: &HeaderMap) -> Option<Box<str>> {
    let lines: Vec<&str> =
        headers.get_all(&TRACESTATE).iter().map(|line| line.to_str().ok()).collect::<Option<_>>()?;
    let list = lines.join(",");
    (!list.is_empty() && list.len() <= MAX_STATE).then(|| list.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn of(lines: &[(HeaderName, &str)]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Parent::of(&headers)
    }

    #[test]
    fn a_callers_span_is_read_and_shown_again() {
        let parent = of(&[(TRACEPARENT, &format!("00-{TRACE}-{SPAN}-01"))]).unwrap();
        assert_eq!((parent.trace.to_string(), parent.span.to_string()), (TRACE.into(), SPAN.into()));
        assert!(parent.sampled && parent.state.is_none());
        let parent = of(&[(TRACEPARENT, &format!("00-{TRACE}-{SPAN}-02"))]).unwrap();
        assert!(!parent.sampled, "the random flag says nothing of recording");
    }

    #[test]
    fn later_versions_may_say_more() {
        assert!(of(&[(TRACEPARENT, &format!("cc-{TRACE}-{SPAN}-01"))]).is_some());
        assert!(of(&[(TRACEPARENT, &format!("cc-{TRACE}-{SPAN}-01-what-the-future"))]).is_some());
        assert!(of(&[(TRACEPARENT, &format!("cc-{TRACE}-{SPAN}-01.what"))]).is_none());
    }

    #[test]
    fn what_breaks_the_rules_counts_as_none() {
        for bad in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}"),
            format!("0-{TRACE}0-{SPAN}-01"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            "é".repeat(40),
            String::new(),
        ] {
            let bytes = HeaderValue::from_bytes(bad.as_bytes()).unwrap();
            assert_eq!(Parent::of(&HeaderMap::from_iter([(TRACEPARENT, bytes)])), None, "{bad}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(of(&[(TRACEPARENT, &good), (TRACEPARENT, &good)]), None, "two parents are none");
    }

    #[test]
    fn states_of_several_lines_are_one_within_a_bound() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let state = |lines: &[&str]| {
            let lines = lines.iter().map(|line| (TRACESTATE, *line));
            of(&[(TRACEPARENT, good.as_str())].into_iter().chain(lines).collect::<Vec<_>>()).unwrap().state
        };
        assert_eq!(state(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(state(&[]), None);
        assert_eq!(state(&[&"a".repeat(MAX_STATE + 1)]), None);
        assert_eq!(of(&[(TRACESTATE, "a=1")]), None, "a state without a parent is nobody's");
    }

    #[test]
    fn about_as_many_traces_are_kept_as_asked() {
        let ids: Vec<_> = (0..20_000).map(|_| TraceId::random()).collect();
        let kept = |ratio| ids.iter().filter(|id| id.is_among(ratio)).count();
        assert_eq!((kept(0.0), kept(1.0)), (0, ids.len()));
        // Six standard deviations of a binomial.
        assert!((kept(0.25) as f64 - 5000.0).abs() < 6.0 * 61.3, "{}", kept(0.25));
    }
}
