//! The statistics of the protocol in Prometheus' text format, under the names that Triton gives them: what its dashboards and
//! load generators look for. Only what means the same is there; the server's own metrics are [`crate::metrics`]'s.
//!
//! Names and units: Triton's documentation, `user_guide/metrics.md`; durations are sums in microseconds.

use std::fmt::Write as _;

use super::statistics::{ModelStatistics, Reason, Span};

type Value = fn(&ModelStatistics) -> u64;

fn microseconds(span: Span) -> u64 {
    span.ns / 1000
}

/// Counters of one value a model: name, what it is, how it is read.
const COUNTERS: [(&str, &str, Value); 8] = [
    ("nv_inference_request_success", "Requests that were answered", |m| m.inference_stats.success.count),
    ("nv_inference_count", "Elements of requests that were answered", |m| m.inference_count),
    ("nv_inference_exec_count", "Batches that they were executed in", |m| m.execution_count),
    ("nv_inference_request_duration_us", "Microseconds from head to answer", |m| {
        microseconds(m.inference_stats.success)
    }),
    ("nv_inference_queue_duration_us", "Microseconds waiting for execution", |m| {
        microseconds(m.inference_stats.queue)
    }),
    ("nv_inference_compute_input_duration_us", "Microseconds reading tensors and decoding", |m| {
        microseconds(m.inference_stats.compute_input)
    }),
    ("nv_inference_compute_infer_duration_us", "Microseconds executing", |m| {
        microseconds(m.inference_stats.compute_infer)
    }),
    ("nv_inference_compute_output_duration_us", "Microseconds writing answers", |m| {
        microseconds(m.inference_stats.compute_output)
    }),
];

const FAILURES: (&str, &str) = ("nv_inference_request_failure", "Requests that got an error");

/// The text for these models.
pub fn render(models: &[ModelStatistics]) -> String {
    let mut text = String::new();
    for (name, help, value) in COUNTERS {
        head(&mut text, name, help);
        for model in models {
            line(&mut text, name, model, "", value(model));
        }
    }
    let (name, help) = FAILURES;
    head(&mut text, name, help);
    for model in models {
        for (reason, count) in Reason::ALL.into_iter().zip(model.failures) {
            line(&mut text, name, model, &format!(",reason=\"{}\"", reason.name()), count);
        }
    }
    text
}

fn head(text: &mut String, name: &str, help: &str) {
    let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
}

fn line(text: &mut String, name: &str, model: &ModelStatistics, more: &str, value: u64) {
    let label = model.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let version = model.version;
    let _infallible = writeln!(text, "{name}{{model=\"{label}\",version=\"{version}\"{more}}} {value}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::statistics::{Counts, Measured};
    use super::*;
    use crate::service::Timeline;

    #[test]
    fn counters_carry_the_statistics_in_microseconds() {
        let counts = Counts::default();
        let timeline = Timeline { batch: 2, execute: Duration::from_micros(700), ..Timeline::default() };
        let (parsing, writing) = (Duration::from_micros(30), Duration::from_micros(4));
        let measured = Measured { parsing, writing, timelines: vec![timeline; 2] };
        counts.succeeded(Duration::from_micros(900), &measured);
        counts.failed(Duration::from_micros(5), Reason::Rejected);
        let text = render(&[counts.of("a\"b")]);
        for (name, value) in [
            ("request_success", 1),
            ("count", 2),
            ("exec_count", 1),
            ("request_duration_us", 900),
            ("compute_input_duration_us", 30),
            ("compute_infer_duration_us", 700),
            ("compute_output_duration_us", 4),
        ] {
            let line = format!("nv_inference_{name}{{model=\"a\\\"b\",version=\"1\"}} {value}\n");
            assert!(text.contains(&line), "{line} missing from {text}");
        }
        assert!(text.contains("version=\"1\",reason=\"REJECTED\"} 1\n"), "{text}");
        assert!(text.contains("version=\"1\",reason=\"BACKEND\"} 0\n"), "{text}");
    }
}
