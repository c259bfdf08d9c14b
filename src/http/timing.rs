//! Tells where a request's time went: `Server-Timing` on every answer, and how long its bytes took to leave.

use std::{
    fmt::Write,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    body::{Body, Frame, SizeHint},
    header::{HeaderName, HeaderValue},
};
use metrics::Histogram;

use super::reply::Reply;
use crate::service::Timeline;

/// <https://www.w3.org/TR/server-timing/>, durations in milliseconds.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// `reply`, which took `timeline`.
pub(super) fn with(mut reply: Reply, timeline: Timeline) -> Reply {
    reply.extensions_mut().insert(timeline);
    reply
}

/// The timelines of each photo or question of a request that has several.
#[derive(Clone)]
struct Each(Vec<Timeline>);

/// `reply`, whose parts took `timelines`.
pub(super) fn with_each(mut reply: Reply, timelines: Vec<Timeline>) -> Reply {
    if timelines.len() > 1 {
        reply.extensions_mut().insert(Each(timelines));
    }
    reply
}

/// What the handler told of.
pub(super) fn timelines(reply: &Reply) -> Vec<Timeline> {
    let each = reply.extensions().get::<Each>().map(|each| each.0.clone());
    each.unwrap_or_else(|| reply.extensions().get::<Timeline>().copied().into_iter().collect())
}

/// Puts the header on: what reading took, the stages that the handler told of, and all together.
pub(super) fn announce(reply: &mut Reply, read: Option<Duration>, total: Duration) {
    let mut text = String::with_capacity(128);
    let mut stage = |name: &str, took: Duration| {
        let _never_fails = write!(text, "{name};dur={:.3}, ", took.as_secs_f64() * 1e3);
    };
    if let Some(read) = read {
        stage("read", read);
    }
    if let Some(timeline) = reply.extensions().get::<Timeline>() {
        if !timeline.decode.is_zero() {
            stage("decode", timeline.decode);
        }
        stage("queue", timeline.queue);
        stage("batch-wait", timeline.batch_wait);
        stage("execute", timeline.execute);
        let shared = if timeline.shared { "; shared" } else { "" };
        let _never_fails = write!(text, "batch;desc=\"{}{shared}\", ", timeline.batch);
    }
    let _never_fails = write!(text, "total;dur={:.3}", total.as_secs_f64() * 1e3);
    let value = HeaderValue::from_str(&text).expect("bug: digits and names are visible ASCII");
    reply.headers_mut().insert(SERVER_TIMING, value);
}

/// An answer's body that records, when it has been handed to the connection or given up, how long that took.
pub(super) struct Written {
    body: Full<Bytes>,
    since: Instant,
    seconds: Histogram,
}

impl Written {
    pub(super) fn new(body: Full<Bytes>, seconds: Histogram) -> Self {
        Self { body, since: Instant::now(), seconds }
    }
}

impl Body for Written {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.seconds.record(self.since.elapsed().as_secs_f64());
    }
}
