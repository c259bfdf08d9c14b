//! A run's figures: rates, statuses, failures, latencies at the usual percentiles, the latency curve and the run over time.
//! Computed from a recording here; how they are shown is its neighbours' business.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::{Arrivals, Failure, Pace, Plan, Recording, Tally, record::is_success};

/// Shares of requests at which latency is told, beside the curve's finer ones.
const CURVE: [f64; 21] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998,
    0.9999, 0.99999, 1.0,
];

/// Latencies of a kind of request, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Requests.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// A point of the latency curve, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Share of requests, from 0 to 1, that took no longer.
    pub quantile: f64,
    /// From due to answer.
    pub latency: f64,
    /// From sent to answer.
    pub service: f64,
}

/// A span of the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// Where the span begins, in seconds after the warm-up.
    pub second: f64,
    /// Requests due per second.
    pub due_rate: f64,
    /// Requests answered well per second.
    pub answered_rate: f64,
    /// Other ends of requests per second.
    pub failed_rate: f64,
    /// Median latency from due to answer of what was due in the span, in milliseconds.
    pub p50: Option<f64>,
    /// 99th percentile of the same.
    pub p99: Option<f64>,
    /// The longest of the same.
    pub max: Option<f64>,
}

/// A run as figures.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// What was asked, as written.
    pub url: String,
    /// Paths of the payloads, each once.
    pub paths: Vec<String>,
    /// `closed` or `open`.
    pub pace: &'static str,
    /// `constant` or `poisson`, of an open loop.
    pub arrivals: Option<&'static str>,
    /// Requests per second that were asked for, of an open loop.
    pub rate: Option<f64>,
    /// Seconds at the start that do not count.
    pub warm_up_seconds: f64,
    /// Length of the window that counts, in seconds.
    pub seconds: f64,
    /// Requests due in the window.
    pub requests: u64,
    /// Those answered with a status of 200 to 299.
    pub answered: u64,
    /// The others.
    pub failed: u64,
    /// Requests due per second.
    pub due_rate: f64,
    /// Requests answered well per second.
    pub answered_rate: f64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, Tally>,
    /// Requests without an answer, by reason.
    pub failures: BTreeMap<Failure, Tally>,
    /// Most connections that could be open.
    pub connections: usize,
    /// Connections opened, reopened ones included.
    pub opened: u64,
    /// Bytes of request bodies.
    pub body_bytes_sent: u64,
    /// Bytes of answers' bodies.
    pub body_bytes_received: u64,
    /// From due to answer, of requests answered well.
    pub latency_ms: Option<Latency>,
    /// From sent to answer, of the same.
    pub service_ms: Option<Latency>,
    /// From due to answer, of answers with another status.
    pub refusals_ms: Option<Latency>,
    /// Latency by share of requests.
    pub curve: Vec<CurvePoint>,
    /// The run over time.
    pub timeline: Vec<Moment>,
}

impl Summary {
    pub(super) fn new(plan: &Plan, run: &Recording) -> Self {
        let (pace, arrivals, rate) = match plan.pace {
            Pace::Closed => ("closed", None, None),
            Pace::Open { rate, arrivals: Arrivals::Constant, .. } => ("open", Some("constant"), Some(rate)),
            Pace::Open { rate, arrivals: Arrivals::Poisson, .. } => ("open", Some("poisson"), Some(rate)),
        };
        let mut paths: Vec<_> = plan.payloads.iter().map(|payload| payload.path().to_owned()).collect();
        paths.sort_unstable();
        paths.dedup();
        Self {
            url: plan.target.url().to_owned(),
            paths,
            pace,
            arrivals,
            rate,
            warm_up_seconds: plan.warm_up.as_secs_f64(),
            seconds: run.seconds(),
            requests: run.requests(),
            answered: run.answered(),
            failed: run.failed(),
            due_rate: run.asked(),
            answered_rate: run.achieved(),
            statuses: run.statuses.clone(),
            failures: run.failures.clone(),
            connections: plan.connections,
            opened: run.connections,
            body_bytes_sent: run.bytes_sent,
            body_bytes_received: run.bytes_received,
            latency_ms: latency(&run.latency),
            service_ms: latency(&run.service),
            refusals_ms: latency(&run.refusals),
            curve: curve(run),
            timeline: timeline(run),
        }
    }

    /// What did not end well, a line for each kind, with what was said the first time.
    pub fn complaints(&self) -> Vec<String> {
        let refused = self.statuses.iter().filter(|(status, _)| !is_success(**status));
        let refused = refused.map(|(status, tally)| (format!("status {status}"), tally));
        let failures = self.failures.iter().map(|(failure, tally)| (failure.to_string(), tally));
        let line = |(what, tally): (String, &Tally)| match tally.first.as_str() {
            "" => format!("{} x {what}", tally.count),
            first => format!("{} x {what}, the first: {first}", tally.count),
        };
        refused.chain(failures).map(line).collect()
    }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn latency(times: &Histogram<u64>) -> Option<Latency> {
    let at = |quantile| ms(times.value_at_quantile(quantile).min(times.max()));
    (!times.is_empty()).then(|| Latency {
        count: times.len(),
        mean: times.mean() / 1e3,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: ms(times.max()),
    })
}

/// Up to the last share that the number of requests can tell from the longest.
fn curve(run: &Recording) -> Vec<CurvePoint> {
    let (latency, service) = (&run.latency, &run.service);
    let told = |quantile: &f64| *quantile >= 1.0 || (1.0 - quantile) * latency.len() as f64 >= 1.0;
    let at = |quantile| CurvePoint {
        quantile,
        latency: ms(latency.value_at_quantile(quantile).min(latency.max())),
        service: ms(service.value_at_quantile(quantile).min(service.max())),
    };
    if latency.is_empty() { Vec::new() } else { CURVE.into_iter().filter(told).map(at).collect() }
}

fn timeline(run: &Recording) -> Vec<Moment> {
    let length = run.timeline.slot_length().as_secs_f64();
    let slots = run.timeline.slots().iter().enumerate();
    let moments = slots.map(|(index, slot)| {
        let times = &slot.latency;
        let at = |micros: u64| (!times.is_empty()).then(|| ms(micros.min(times.max())));
        Moment {
            second: index as f64 * length,
            due_rate: slot.due as f64 / length,
            answered_rate: slot.answered as f64 / length,
            failed_rate: slot.failed as f64 / length,
            p50: at(times.value_at_quantile(0.5)),
            p99: at(times.value_at_quantile(0.99)),
            max: at(times.max()),
        }
    });
    moments.collect()
}
