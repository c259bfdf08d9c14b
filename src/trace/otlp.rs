//! Requests that have ended as OTLP's protobuf: <https://opentelemetry.io/docs/specs/otlp/>.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};

use super::{
    Ids,
    context::SpanId,
    record::{Attribute, Ended, Stage, Stretch, Value},
};

/// Bits of `Span.flags` beside those of the trace: whether it is known that the parent is remote, and whether it is.
const KNOWN_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Clock {
    steady: Instant,
    unix_ns: u128,
}

impl Clock {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { steady: Instant::now(), unix_ns: since.as_nanos() }
    }

    /// Nanoseconds since 1970 at `moment`.
    fn unix_ns(self, moment: Instant) -> u64 {
        let before = self.steady.saturating_duration_since(moment).as_nanos();
        let after = moment.saturating_duration_since(self.steady).as_nanos();
        u64::try_from((self.unix_ns + after).saturating_sub(before)).unwrap_or(u64::MAX)
    }
}

/// Writes spans of one process.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    resource: Resource,
    scope: InstrumentationScope,
}

impl Writer {
    /// `attributes` tell which process.
    pub(super) fn new(attributes: &[(String, String)]) -> Self {
        let attributes = attributes.iter().map(|(key, value)| text(key, value.clone())).collect();
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        Self { resource: Resource { attributes, ..Resource::default() }, scope }
    }

    /// All spans of `requests`.
    pub(super) fn write(&self, requests: &[(Ids, Ended)]) -> ExportTraceServiceRequest {
        let clock = Clock::now();
        let scope_spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: requests.iter().flat_map(|(ids, ended)| spans(clock, ids, ended)).collect(),
            ..ScopeSpans::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
    }
}

/// The request's own span, then its stages'.
fn spans(clock: Clock, ids: &Ids, ended: &Ended) -> Vec<Span> {
    let status = ended.outcome.failed.then(|| Status { code: StatusCode::Error.into(), ..Status::default() });
    let own = Span {
        span_id: ids.span.bytes().to_vec(),
        parent_span_id: ids.parent.map_or_else(Vec::new, |parent| parent.bytes().to_vec()),
        flags: SAMPLED | KNOWN_REMOTE | if ids.parent.is_some() { IS_REMOTE } else { 0 },
        name: ended.outcome.name.clone().into_owned(),
        kind: SpanKind::Server.into(),
        attributes: ended.outcome.attributes.iter().map(attribute).collect(),
        status,
        ..timed(clock, ids, ended.whole)
    };
    let stages = ended.stages().into_iter().map(|stage| child(clock, ids, &stage));
    [own].into_iter().chain(stages).collect()
}

fn child(clock: Clock, ids: &Ids, stage: &Stage) -> Span {
    Span {
        span_id: SpanId::random().bytes().to_vec(),
        parent_span_id: ids.span.bytes().to_vec(),
        flags: SAMPLED | KNOWN_REMOTE,
        name: stage.name.to_owned(),
        kind: SpanKind::Internal.into(),
        attributes: stage.attributes.iter().map(attribute).collect(),
        ..timed(clock, ids, stage.stretch)
    }
}

fn timed(clock: Clock, ids: &Ids, stretch: Stretch) -> Span {
    Span {
        trace_id: ids.trace.bytes().to_vec(),
        trace_state: ids.state.as_deref().unwrap_or_default().to_owned(),
        start_time_unix_nano: clock.unix_ns(stretch.began),
        end_time_unix_nano: clock.unix_ns(stretch.ended()),
        ..Span::default()
    }
}

fn attribute((key, value): &Attribute) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text.clone().into_owned()),
        Value::Number(number) => any_value::Value::IntValue(*number),
        Value::Flag(flag) => any_value::Value::BoolValue(*flag),
    };
    KeyValue { key: (*key).to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: String) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value)) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_before_and_after_now_keep_their_distance() {
        let clock = Clock::now();
        let (before, after) = (clock.steady - Duration::from_secs(3), clock.steady + Duration::from_nanos(7));
        assert_eq!(clock.unix_ns(after) - clock.unix_ns(before), 3_000_000_007);
        let stated = u128::from(clock.unix_ns(clock.steady));
        assert_eq!(stated, clock.unix_ns);
    }
}
