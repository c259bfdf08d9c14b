//! Every metric the server exports: name, help, unit and buckets, in one place.
//!
//! Handles are made here and passed to the code that counts; there is no global recorder. What a value means for a
//! request (status codes, routes) is decided by the caller.

mod process;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::{Mutex, RwLock};

use process::Process;

/// Requests answered, by `route` and `status`.
pub const HTTP_REQUESTS: &str = "convoy_http_requests_total";
/// Seconds from a request's head to its answer, by `route`.
pub const HTTP_SECONDS: &str = "convoy_http_request_seconds";
/// gRPC calls ended, by `method` and `status`.
pub const GRPC_REQUESTS: &str = "convoy_grpc_requests_total";
/// Seconds from a gRPC call's head to its end, by `method`.
pub const GRPC_SECONDS: &str = "convoy_grpc_request_seconds";
/// Connections open now.
pub const HTTP_CONNECTIONS: &str = "convoy_http_connections";
/// Connections that the server ended or turned away, by `reason`.
pub const CONNECTIONS_ENDED: &str = "convoy_connections_ended_total";
/// Connections that the system refused to accept.
pub const ACCEPT_FAILURES: &str = "convoy_accept_failures_total";
/// 1 while the server wants traffic, 0 while it drains or a worker is gone.
pub const READY: &str = "convoy_ready";
/// Always 1; its labels name the version and the models.
pub const INFO: &str = "convoy_info";
/// Requests to which a scope is needed, by `outcome`.
pub const ACCESS: &str = "convoy_access_total";
/// TLS handshakes that came to nothing, by `reason`.
pub const TLS_FAILURES: &str = "convoy_tls_handshake_failures_total";
/// Until when the TLS certificate is valid, in seconds since 1970.
pub const TLS_EXPIRY: &str = "convoy_tls_certificate_expiry_seconds";
/// Files that changed and could not be used, by `what`.
pub const RELOAD_FAILURES: &str = "convoy_reload_failures_total";
/// The values of its `what`: the certificate, the file of keys, and the issuer's keys.
const RELOADED: [&str; 3] = ["tls", "keys", "issuer"];
/// Jobs ended, by `queue` and `outcome`.
pub const JOBS: &str = "convoy_jobs_total";
/// Seats taken: jobs on their way, waiting and running, by `queue`.
pub const QUEUE_DEPTH: &str = "convoy_queue_depth";
/// Jobs waiting for an executor, by `queue`.
pub const QUEUE_WAITING: &str = "convoy_queue_waiting";
/// Seconds until everything admitted would be done, as the cost table predicts, by `queue`.
pub const DRAIN_SECONDS: &str = "convoy_predicted_drain_seconds";
/// Share of the time since the last look that executors were at work, by `queue`.
pub const BUSY: &str = "convoy_busy_fraction";
/// Seconds that the batch that has run longest has been in its executor, 0 when none runs, by `queue`.
pub const BATCH_AGE: &str = "convoy_batch_age_seconds";
/// Executors whose batch has run for far longer than it should, by `queue`.
pub const STUCK: &str = "convoy_stuck_executors";
/// Seconds one batch is expected to take, by `queue` and `size`.
pub const COST_SECONDS: &str = "convoy_batch_cost_seconds";
/// Seconds from a request's head to the end of its body, by `route`.
pub const READ_SECONDS: &str = "convoy_read_seconds";
/// Seconds from an answer to the last byte handed to the connection, by `route`.
pub const WRITE_SECONDS: &str = "convoy_write_seconds";
/// Photos that shared the execution of an identical one in flight.
pub const SHARED_PHOTOS: &str = "convoy_shared_photos_total";
/// Seconds a job waited because every executor was busy, by `queue`.
pub const QUEUE_SECONDS: &str = "convoy_queue_seconds";
/// Seconds a job waited because an idle executor was waiting for company, by `queue`.
pub const BATCH_WAIT_SECONDS: &str = "convoy_batch_wait_seconds";
/// Seconds one batch took in its executor, by `queue`.
pub const EXECUTE_SECONDS: &str = "convoy_execute_seconds";
/// Jobs per executed batch, by `queue`.
pub const BATCH_SIZE: &str = "convoy_batch_size";

/// Requests whose spans were recorded, by `outcome`.
pub const TRACES: &str = "convoy_traces_total";
/// Log lines that were dropped because standard error was not read in time.
pub const LOG_LINES_DROPPED: &str = "convoy_log_lines_dropped_total";
/// Bytes of memory that the process's control group may have, 0 where there is no limit.
pub const MEMORY_LIMIT: &str = "convoy_memory_limit_bytes";

/// Bytes of requests and answers in memory now.
pub const MEMORY_HELD: &str = "convoy_body_memory_bytes";
/// Requests refused because too many bytes of others were in memory.
pub const MEMORY_REFUSED: &str = "convoy_body_memory_refused_total";
/// Bytes of memory that the process may come to at worst, by `part`; the sum of all parts is the bound.
pub const MEMORY_BOUND: &str = "convoy_memory_bound_bytes";

/// Histogram buckets for durations, in seconds: 50 µs to 60 s, about two per factor of three.
const SECONDS: [f64; 18] = [
    0.00005, 0.0001, 0.0003, 0.001, 0.003, 0.005, 0.01, 0.03, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
    60.0,
];

/// Histogram buckets for batch sizes, in jobs.
const SIZES: [f64; 11] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0];

const METADATA: Metadata<'static> = Metadata::new("convoy", Level::INFO, None);

/// How often samples are moved into their buckets when nobody scrapes.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder, its renderer, and the handles of the protocols.
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    answers: RwLock<HashMap<(&'static str, u16), Answers>>,
    calls: RwLock<HashMap<(&'static str, &'static str), Answers>>,
    stages: RwLock<HashMap<&'static str, Stages>>,
    process: Process,
    /// Connections open now.
    pub connections: Gauge,
    /// Connections that the system refused to accept.
    pub accept_failures: Counter,
    /// 1 while ready.
    pub ready: Gauge,
    /// Photos that shared another's execution.
    pub shared_photos: Counter,
    /// Log lines that nobody will read.
    pub log_lines_dropped: Counter,
}

/// Handles of one route or method and one status.
#[derive(Clone)]
struct Answers {
    count: Counter,
    seconds: Histogram,
}

/// Handles of one route's ends: reading the request, writing the answer.
#[derive(Clone)]
pub struct Stages {
    /// Seconds from the head to the end of the body.
    pub read: Histogram,
    /// Seconds from the answer to its last byte handed to the connection.
    pub write: Histogram,
}

/// Handles of what becomes of requests whose spans were recorded.
#[derive(Clone)]
pub struct TraceMetrics {
    /// The collector has them.
    pub exported: Counter,
    /// The collector did not take them.
    pub failed: Counter,
    /// They found the queue full.
    pub full: Counter,
}

/// Handles of the budget of requests' and answers' bytes.
#[derive(Clone)]
pub struct MemoryMetrics {
    /// Bytes held now.
    pub held: Gauge,
    /// Refusals.
    pub refused: Counter,
}

/// Handles of one queue and its scheduler.
#[derive(Clone)]
pub struct QueueMetrics {
    /// Seats taken.
    pub depth: Gauge,
    /// Jobs waiting for an executor.
    pub waiting: Gauge,
    /// Predicted seconds until everything admitted is done.
    pub drain: Gauge,
    /// Seconds that the oldest running batch has run.
    pub batch_age: Gauge,
    /// Executors whose batch has run for far too long.
    pub stuck: Gauge,
    /// Seconds from submission to the batch while every executor was busy.
    pub queue: Histogram,
    /// Seconds from submission to the batch while an executor waited for company.
    pub batch_wait: Histogram,
    /// Seconds in the executor, one sample a batch.
    pub execute: Histogram,
    /// Jobs in a batch, one sample a batch.
    pub batch_size: Histogram,
    /// Jobs the executor answered.
    pub ok: Counter,
    /// Jobs the executor refused with an error.
    pub failed: Counter,
    /// Jobs whose deadline passed before they ran.
    pub expired: Counter,
    /// Jobs that were accepted and then dropped because they could only be late.
    pub late: Counter,
    /// Jobs whose client had gone before they ran.
    pub abandoned: Counter,
    /// Jobs answered because the executor panicked.
    pub panicked: Counter,
    /// Jobs refused because every seat was taken.
    pub refused_full: Counter,
    /// Jobs refused because they would have been late.
    pub refused_late: Counter,
    /// Jobs refused because no executor could take them.
    pub refused_down: Counter,
    name: &'static str,
    recorder: Arc<PrometheusRecorder>,
    usage: Arc<Mutex<Usage>>,
}

/// What the busy fraction is measured from.
struct Usage {
    at: Instant,
    busy_seconds: f64,
    fraction: Gauge,
}

impl QueueMetrics {
    /// Tells that executors have worked `busy_seconds` each in all by `now`.
    pub fn busy(&self, now: Instant, busy_seconds: f64) {
        let mut usage = self.usage.lock();
        let passed = now.saturating_duration_since(usage.at).as_secs_f64();
        if passed > 0.0 {
            usage.fraction.set(((busy_seconds - usage.busy_seconds) / passed).clamp(0.0, 1.0));
            (usage.at, usage.busy_seconds) = (now, busy_seconds);
        }
    }

    /// Tells what batches cost: `(size, seconds)`. Sizes that are no power of two are left out, save the largest, so that
    /// the number of series stays small.
    pub fn costs(&self, rows: &[(usize, f64)]) {
        let largest = rows.last().map_or(0, |row| row.0);
        for (size, seconds) in rows.iter().filter(|(size, _)| size.is_power_of_two() || *size == largest) {
            let labels = vec![Label::new("queue", self.name), Label::new("size", size.to_string())];
            self.recorder.register_gauge(&Key::from_parts(COST_SECONDS, labels), &METADATA).set(*seconds);
        }
    }
}

impl Metrics {
    /// A recorder of its own with every metric described.
    pub fn new() -> Self {
        let full = |name: &str| Matcher::Full(name.to_owned());
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(full(BATCH_SIZE), &SIZES)
            .and_then(|builder| builder.set_buckets(&SECONDS))
            .expect("bug: bucket lists are not empty");
        let recorder = builder.build_recorder();
        describe(&recorder);
        let connections = recorder.register_gauge(&Key::from_name(HTTP_CONNECTIONS), &METADATA);
        let accept_failures = recorder.register_counter(&Key::from_name(ACCEPT_FAILURES), &METADATA);
        let ready = recorder.register_gauge(&Key::from_name(READY), &METADATA);
        let shared_photos = recorder.register_counter(&Key::from_name(SHARED_PHOTOS), &METADATA);
        let log_lines_dropped = recorder.register_counter(&Key::from_name(LOG_LINES_DROPPED), &METADATA);
        let (handle, recorder) = (recorder.handle(), Arc::new(recorder));
        let metrics = Self {
            handle,
            process: Process::new(recorder.clone()),
            recorder,
            answers: RwLock::default(),
            calls: RwLock::default(),
            stages: RwLock::default(),
            connections,
            accept_failures,
            ready,
            shared_photos,
            log_lines_dropped,
        };
        // What alerts look at is there whatever is configured.
        metrics.certificate_expiry().set(0.0);
        for what in RELOADED {
            let _registered = metrics.reload_failures(what);
        }
        metrics
    }

    /// Handles for the queue called `queue`.
    pub fn queue(&self, queue: &'static str) -> QueueMetrics {
        let labels = || vec![Label::new("queue", queue)];
        let histogram = |name: &'static str| {
            self.recorder.register_histogram(&Key::from_parts(name, labels()), &METADATA)
        };
        let outcome = |outcome: &'static str| {
            let labels = vec![Label::new("queue", queue), Label::new("outcome", outcome)];
            self.recorder.register_counter(&Key::from_parts(JOBS, labels), &METADATA)
        };
        let gauge =
            |name: &'static str| self.recorder.register_gauge(&Key::from_parts(name, labels()), &METADATA);
        QueueMetrics {
            depth: gauge(QUEUE_DEPTH),
            waiting: gauge(QUEUE_WAITING),
            drain: gauge(DRAIN_SECONDS),
            batch_age: gauge(BATCH_AGE),
            stuck: gauge(STUCK),
            queue: histogram(QUEUE_SECONDS),
            batch_wait: histogram(BATCH_WAIT_SECONDS),
            execute: histogram(EXECUTE_SECONDS),
            batch_size: histogram(BATCH_SIZE),
            ok: outcome("ok"),
            failed: outcome("failed"),
            expired: outcome("expired"),
            abandoned: outcome("abandoned"),
            panicked: outcome("panicked"),
            late: outcome("late"),
            refused_full: outcome("refused_full"),
            refused_late: outcome("refused_late"),
            refused_down: outcome("refused_down"),
            name: queue,
            recorder: self.recorder.clone(),
            usage: Arc::new(Mutex::new(Usage {
                at: Instant::now(),
                busy_seconds: 0.0,
                fraction: gauge(BUSY),
            })),
        }
    }

    /// Handles for traces.
    pub fn traces(&self) -> TraceMetrics {
        let outcome = |outcome: &'static str| {
            let labels = vec![Label::new("outcome", outcome)];
            self.recorder.register_counter(&Key::from_parts(TRACES, labels), &METADATA)
        };
        TraceMetrics { exported: outcome("exported"), failed: outcome("failed"), full: outcome("queue_full") }
    }

    /// Handles for the budget of requests' and answers' bytes.
    pub fn memory(&self) -> MemoryMetrics {
        let held = self.recorder.register_gauge(&Key::from_name(MEMORY_HELD), &METADATA);
        let refused = self.recorder.register_counter(&Key::from_name(MEMORY_REFUSED), &METADATA);
        refused.increment(0);
        MemoryMetrics { held, refused }
    }

    /// States what the process may come to at worst: bytes by part.
    pub fn memory_bound(&self, parts: impl IntoIterator<Item = (&'static str, u64)>) {
        for (part, bytes) in parts {
            let key = Key::from_parts(MEMORY_BOUND, vec![Label::new("part", part)]);
            self.recorder.register_gauge(&key, &METADATA).set(bytes as f64);
        }
    }

    /// Handles for reading and writing on `route`.
    pub fn stages(&self, route: &'static str) -> Stages {
        if let Some(known) = self.stages.read().get(route) {
            return known.clone();
        }
        let histogram = |name: &'static str| {
            let labels = vec![Label::new("route", route)];
            self.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
        };
        let made = Stages { read: histogram(READ_SECONDS), write: histogram(WRITE_SECONDS) };
        self.stages.write().entry(route).or_insert(made).clone()
    }

    /// Counts one answered request.
    pub fn answered(&self, route: &'static str, status: u16, took: Duration) {
        let known = self.answers.read().get(&(route, status)).cloned();
        let answers = known.unwrap_or_else(|| {
            let made = self.answers(route, status);
            self.answers.write().entry((route, status)).or_insert(made).clone()
        });
        answers.count.increment(1);
        answers.seconds.record(took.as_secs_f64());
    }

    fn answers(&self, route: &'static str, status: u16) -> Answers {
        let route = Label::new("route", route);
        let labels = vec![route.clone(), Label::new("status", SharedString::from(status.to_string()))];
        Answers {
            count: self.recorder.register_counter(&Key::from_parts(HTTP_REQUESTS, labels), &METADATA),
            seconds: self.recorder.register_histogram(&Key::from_parts(HTTP_SECONDS, vec![route]), &METADATA),
        }
    }

    /// Counts one gRPC call that ended.
    pub fn called(&self, method: &'static str, status: &'static str, took: Duration) {
        let known = self.calls.read().get(&(method, status)).cloned();
        let calls = known.unwrap_or_else(|| {
            let made = self.calls(method, status);
            self.calls.write().entry((method, status)).or_insert(made).clone()
        });
        calls.count.increment(1);
        calls.seconds.record(took.as_secs_f64());
    }

    fn calls(&self, method: &'static str, status: &'static str) -> Answers {
        let method = Label::new("method", method);
        let labels = vec![method.clone(), Label::new("status", status)];
        Answers {
            count: self.recorder.register_counter(&Key::from_parts(GRPC_REQUESTS, labels), &METADATA),
            seconds: self
                .recorder
                .register_histogram(&Key::from_parts(GRPC_SECONDS, vec![method]), &METADATA),
        }
    }

    /// Counts requests to which a scope is needed and that end in `outcome`. Names of callers are not in metrics: who may
    /// read those need not know who calls, and names come and go.
    pub fn access(&self, outcome: &'static str) -> Counter {
        self.labelled(ACCESS, "outcome", outcome)
    }

    /// Counts handshakes that come to nothing because of `reason`.
    pub fn handshake_failures(&self, reason: &'static str) -> Counter {
        self.labelled(TLS_FAILURES, "reason", reason)
    }

    /// Counts connections that the server ends or turns away because of `reason`.
    pub fn connections_ended(&self, reason: &'static str) -> Counter {
        self.labelled(CONNECTIONS_ENDED, "reason", reason)
    }

    /// Counts how often `what` changed and could not be used.
    pub fn reload_failures(&self, what: &'static str) -> Counter {
        self.labelled(RELOAD_FAILURES, "what", what)
    }

    /// Until when the certificate is valid, in seconds since 1970; 0 without one.
    pub fn certificate_expiry(&self) -> Gauge {
        self.recorder.register_gauge(&Key::from_name(TLS_EXPIRY), &METADATA)
    }

    fn labelled(&self, name: &'static str, label: &'static str, value: &'static str) -> Counter {
        let key = Key::from_parts(name, vec![Label::new(label, value)]);
        let counter = self.recorder.register_counter(&key, &METADATA);
        // It is there from the start: a rate over a series that appears with its first increment misses that one.
        counter.increment(0);
        counter
    }

    /// States what this process serves, as labels of a constant gauge.
    pub fn info(&self, labels: &[(&'static str, String)]) {
        let labels: Vec<Label> =
            labels.iter().map(|(name, value)| Label::new(*name, value.clone())).collect();
        self.recorder.register_gauge(&Key::from_parts(INFO, labels), &METADATA).set(1.0);
    }

    /// The exposition text of every metric.
    pub fn render(&self) -> String {
        self.process.sample();
        self.handle.render()
    }

    /// Moves recorded samples into their buckets, so that memory stays flat between scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn describe(recorder: &PrometheusRecorder) {
    let counter = |name: &'static str, help: &'static str| {
        recorder.describe_counter(name.into(), Some(Unit::Count), help.into());
    };
    let gauge =
        |name: &'static str, help: &'static str| recorder.describe_gauge(name.into(), None, help.into());
    let histogram = |name: &'static str, unit: Option<Unit>, help: &'static str| {
        recorder.describe_histogram(name.into(), unit, help.into());
    };
    counter(HTTP_REQUESTS, "Requests answered, by route and status.");
    counter(GRPC_REQUESTS, "gRPC calls ended, by method and status.");
    counter(ACCESS, "Requests to which a scope is needed, by outcome.");
    counter(TLS_FAILURES, "TLS handshakes that came to nothing, by reason.");
    counter(RELOAD_FAILURES, "Files that changed and could not be used, by what they hold.");
    gauge(TLS_EXPIRY, "Until when the TLS certificate is valid, in seconds since 1970.");
    counter(JOBS, "Jobs ended, by queue and outcome.");
    gauge(HTTP_CONNECTIONS, "Connections open now.");
    counter(CONNECTIONS_ENDED, "Connections that the server ended or turned away, by reason.");
    counter(ACCEPT_FAILURES, "Connections that the system refused to accept.");
    gauge(READY, "1 while the server wants traffic, 0 while it drains or a worker is gone.");
    gauge(INFO, "Always 1; the labels name the version and the models.");
    counter(SHARED_PHOTOS, "Photos that shared the execution of an identical one in flight.");
    gauge(QUEUE_DEPTH, "Seats taken: jobs on their way, waiting and running, by queue.");
    gauge(QUEUE_WAITING, "Jobs waiting for an executor, by queue.");
    gauge(DRAIN_SECONDS, "Seconds until everything admitted would be done, as predicted, by queue.");
    gauge(BUSY, "Share of the time since the last look that executors were at work, by queue.");
    gauge(BATCH_AGE, "Seconds that the batch that has run longest has run, 0 when none runs, by queue.");
    gauge(STUCK, "Executors whose batch has run for far longer than it should, by queue.");
    counter(TRACES, "Requests whose spans were recorded, by outcome.");
    counter(LOG_LINES_DROPPED, "Log lines dropped because standard error was not read in time.");
    gauge(MEMORY_LIMIT, "Bytes of memory that the process may have, 0 where there is no limit.");
    gauge(MEMORY_HELD, "Bytes of requests and answers in memory now.");
    counter(MEMORY_REFUSED, "Requests refused because too many bytes of others were in memory.");
    gauge(MEMORY_BOUND, "Bytes of memory that the process may come to at worst, by part.");
    gauge(COST_SECONDS, "Seconds one batch is expected to take, by queue and size.");
    let seconds = Some(Unit::Seconds);
    histogram(HTTP_SECONDS, seconds, "Seconds from a request's head to its answer, by route.");
    histogram(GRPC_SECONDS, seconds, "Seconds from a gRPC call's head to its end, by method.");
    histogram(READ_SECONDS, seconds, "Seconds from a request's head to the end of its body, by route.");
    histogram(WRITE_SECONDS, seconds, "Seconds from an answer to its last byte handed on, by route.");
    histogram(QUEUE_SECONDS, seconds, "Seconds a job waited because executors were busy, by queue.");
    histogram(
        BATCH_WAIT_SECONDS,
        seconds,
        "Seconds a job waited because an executor waited for company, by queue.",
    );
    histogram(EXECUTE_SECONDS, seconds, "Seconds one batch took in its executor, by queue.");
    histogram(BATCH_SIZE, None, "Jobs per executed batch, by queue.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_text_carries_names_labels_and_buckets() {
        let metrics = Metrics::new();
        let queue = metrics.queue("classify");
        queue.batch_size.record(4.0);
        queue.queue.record(0.002);
        queue.ok.increment(4);
        metrics.answered("classify", 200, Duration::from_millis(7));
        let text = metrics.render();
        for line in [
            r#"convoy_jobs_total{queue="classify",outcome="ok"} 4"#,
            r#"convoy_batch_size_bucket{queue="classify",le="3"} 0"#,
            r#"convoy_batch_size_bucket{queue="classify",le="4"} 1"#,
            r#"convoy_queue_seconds_bucket{queue="classify",le="0.003"} 1"#,
            r#"convoy_http_requests_total{route="classify",status="200"} 1"#,
            "# HELP convoy_batch_size Jobs per executed batch, by queue.",
        ] {
            assert!(text.contains(line), "{line} missing from\n{text}");
        }
    }
}
