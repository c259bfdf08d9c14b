//! Traces: every request has a place in one, requests that are recorded become OpenTelemetry spans, and a thread of
//! its own sends them to a collector.
//!
//! A [`Span`] is two random numbers and what the caller's `traceparent` says; log lines carry it whether or not
//! anything is recorded. Stages are not timed again: they are read off what `Server-Timing` is made of when the
//! request has ended, in [`record`]. [`context`] has ids and headers, `otlp` the wire format, `export` queue and
//! thread. Protocols bring what they call things along as an [`Outcome`]; nothing here knows them.

pub mod context;
mod export;
mod otlp;
pub mod record;

use std::{io, sync::Arc, time::Duration};

use http::HeaderMap;

use crate::{config::TraceConfig, metrics::TraceMetrics};

pub use context::{Parent, SpanId, TraceId};
use export::Exporter;
pub use record::{Attribute, Ended, Outcome, Stretch, Value};

/// How long the last spans may take to leave when the server ends.
const FLUSH: Duration = Duration::from_secs(2);

/// Where a request belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Its trace.
    pub trace: TraceId,
    /// Its own span.
    pub span: SpanId,
    /// Its caller's span.
    pub parent: Option<SpanId>,
    /// `tracestate`, carried on.
    pub state: Option<Box<str>>,
}

/// A request under way.
#[derive(Debug, Clone)]
pub struct Span {
    /// Where it belongs.
    pub ids: Ids,
    recorded: bool,
}

impl Span {
    /// Whether to tell what became of it with [`Tracer::record`].
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }
}

/// Gives requests their spans and takes them when they have ended. Clones share a thread.
#[derive(Clone)]
pub struct Tracer {
    exporter: Option<Arc<Exporter>>,
    sample: f64,
}

impl Tracer {
    /// Records where `config` names a collector, and nothing where it does not.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(config: &TraceConfig, metrics: TraceMetrics) -> io::Result<Self> {
        let exporter = config.collector.as_ref().map(|collector| {
            tracing::info!(collector = collector.url, sample = config.sample, "traces are sent");
            Exporter::start(collector, metrics).map(Arc::new)
        });
        Ok(Self { exporter: exporter.transpose()?, sample: config.sample })
    }

    /// The span of a request with these headers: under its caller's, recorded if the caller records; else the first of
    /// a trace, recorded by chance.
    pub fn begin(&self, headers: &HeaderMap) -> Span {
        self.span(headers, self.sample)
    }

    /// As [`Tracer::begin`], for what machines ask all the time: recorded only where the caller records.
    pub fn join(&self, headers: &HeaderMap) -> Span {
        self.span(headers, 0.0)
    }

    fn span(&self, headers: &HeaderMap, sample: f64) -> Span {
        let caller = Parent::of(headers);
        let trace = caller.as_ref().map_or_else(TraceId::random, |caller| caller.trace);
        let wanted = || caller.as_ref().map_or_else(|| trace.is_among(sample), |caller| caller.sampled);
        let recorded = self.exporter.is_some() && wanted();
        let (parent, state) = caller.map_or((None, None), |caller| (Some(caller.span), caller.state));
        Span { ids: Ids { trace, span: SpanId::random(), parent, state }, recorded }
    }

    /// Hands over what became of a request whose span is recorded. Never waits: what finds the queue full is counted
    /// and dropped.
    pub fn record(&self, ids: &Ids, ended: Ended) {
        if let Some(exporter) = &self.exporter {
            exporter.take(ids.clone(), ended);
        }
    }

    /// Waits until everything recorded so far has been sent, but not for long.
    pub async fn flush(&self) {
        let Some(exporter) = self.exporter.clone() else { return };
        let flushed = tokio::task::spawn_blocking(move || exporter.flush(FLUSH)).await;
        if !flushed.unwrap_or(false) {
            tracing::warn!(waited_ms = FLUSH.as_millis() as u64, "the last traces were not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::{config::CollectorConfig, metrics::Metrics};

    fn tracer(sample: f64) -> Tracer {
        // Nothing is sent: nobody listens on the discard port, and nothing is recorded.
        let url = "http://127.0.0.1:9/v1/traces".to_owned();
        let collector = CollectorConfig { url, headers: Vec::new(), resource: Vec::new() };
        let config = TraceConfig { collector: Some(collector), sample };
        Tracer::start(&config, Metrics::new().traces()).unwrap()
    }

    fn called(flags: &'static str) -> HeaderMap {
        let value = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        HeaderMap::from_iter([(
            HeaderName::from_static("traceparent"),
            HeaderValue::from_str(&value).unwrap(),
        )])
    }

    #[test]
    fn the_caller_decides_and_else_the_share() {
        let (all, none) = (tracer(1.0), tracer(0.0));
        assert!(none.begin(&called("01")).is_recorded() && !all.begin(&called("00")).is_recorded());
        assert!(all.begin(&HeaderMap::new()).is_recorded() && !none.begin(&HeaderMap::new()).is_recorded());
        assert!(!all.join(&HeaderMap::new()).is_recorded() && all.join(&called("01")).is_recorded());
    }

    #[test]
    fn a_span_continues_its_callers_trace_or_begins_one() {
        let off =
            Tracer::start(&TraceConfig { collector: None, sample: 1.0 }, Metrics::new().traces()).unwrap();
        let span = off.begin(&called("01"));
        assert_eq!(span.ids.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.ids.parent.map(|parent| parent.to_string()).as_deref(), Some("00f067aa0ba902b7"));
        assert!(!span.is_recorded(), "there is nobody to send it to");
        let (one, other) = (off.begin(&HeaderMap::new()).ids, off.begin(&HeaderMap::new()).ids);
        assert!(one.parent.is_none() && one.trace != other.trace && one.span != other.span);
    }
}
