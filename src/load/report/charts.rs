//! The plots of a report: which figures of a run or a search lie on which axes, and what they show in words.

use super::{
    CurvePoint, Found, Moment, Summary,
    axis::Scale,
    plot::{Line, Plot},
    table::{figure, rates},
};
use crate::load::Step;

/// From the fastest to the longest; the longest of n requests stands where half a request would be left above it.
pub(super) fn by_percentile(run: &Summary) -> Plot {
    let last = 1.0 - 0.5 / run.answered.max(1) as f64;
    let line = |name, of: fn(&CurvePoint) -> f64| Line {
        name,
        points: run.curve.iter().map(|point| (point.quantile.min(last), Some(of(point)))).collect(),
    };
    let description = run.latency_ms.as_ref().zip(run.service_ms.as_ref()).map(|(latency, service)| {
        format!(
            "From due to answer p50 {} ms, p99 {} ms, at most {} ms; from sent to answer p99 {} ms.",
            figure(latency.p50),
            figure(latency.p99),
            figure(latency.max),
            figure(service.p99)
        )
    });
    Plot {
        id: "percentiles",
        title: "Latency by percentile",
        description: description.unwrap_or_else(|| "No request was answered well.".to_owned()),
        x: (Scale::Nines, "percentile"),
        y: (Scale::Log, "milliseconds"),
        lines: vec![
            line("due to answer", |point| point.latency),
            line("sent to answer", |point| point.service),
        ],
        marks: false,
    }
}

/// How long requests took by when they were due, so that a stall shows from its first moment.
pub(super) fn latency_over_time(run: &Summary) -> Plot {
    let line = |name, of: fn(&Moment) -> Option<f64>| Line {
        name,
        points: run.timeline.iter().map(|moment| (moment.second, of(moment))).collect(),
    };
    let worst = run.timeline.iter().filter(|moment| moment.max.is_some());
    let worst = worst.max_by(|a, b| a.max.partial_cmp(&b.max).unwrap_or(std::cmp::Ordering::Equal));
    let description = worst.map(|moment| {
        let (second, ms) = (figure(moment.second), figure(moment.max.unwrap_or_default()));
        format!("The longest wait, {ms} ms, was that of a request due at second {second}.")
    });
    Plot {
        id: "latency",
        title: "Latency by the time a request was due",
        description: description.unwrap_or_else(|| "No request was answered well.".to_owned()),
        x: (Scale::Linear, "seconds after the warm-up"),
        y: (Scale::Log, "milliseconds"),
        lines: vec![
            line("p50", |moment| moment.p50),
            line("p99", |moment| moment.p99),
            line("max", |moment| moment.max),
        ],
        marks: false,
    }
}

/// Without the last span, which the end of the run cuts short.
pub(super) fn rate_over_time(run: &Summary) -> Plot {
    let whole = &run.timeline[..run.timeline.len().saturating_sub(1)];
    let line = |name, of: fn(&Moment) -> f64| Line {
        name,
        points: whole.iter().map(|moment| (moment.second, Some(of(moment)))).collect(),
    };
    let mut lines =
        vec![line("answered well", |moment| moment.answered_rate), line("due", |moment| moment.due_rate)];
    if run.failed > 0 {
        lines.push(line("failed", |moment| moment.failed_rate));
    }
    Plot {
        id: "rate",
        title: "Rate over time",
        description: format!("On average {}.", rates(run)),
        x: (Scale::Linear, "seconds after the warm-up"),
        y: (Scale::Linear, "requests/s"),
        lines,
        marks: false,
    }
}

/// Latencies of every rate that was tried.
pub(super) fn against_throughput(found: &Found, verdict: String) -> Plot {
    let mut steps: Vec<_> = found.steps.iter().collect();
    steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let line = |name, of: fn(&Step) -> Option<f64>| Line {
        name,
        points: steps.iter().map(|step| (step.rate, of(step))).collect(),
    };
    let ends = || steps.first().into_iter().chain(steps.last());
    let limit = ends().map(|step| (step.rate, Some(found.goal_p99_ms))).collect();
    Plot {
        id: "search",
        title: "Latency against throughput",
        description: verdict,
        x: (Scale::Log, "requests/s"),
        y: (Scale::Log, "milliseconds"),
        lines: vec![
            line("p50", |step| step.p50_ms),
            line("p99", |step| step.p99_ms),
            Line { name: "goal for p99", points: limit },
        ],
        marks: true,
    }
}
