//! The thread that sends what is recorded to a collector: OTLP over HTTP, in batches, from a bounded queue.
//!
//! A collector that is away costs requests nothing: the queue fills, what comes then is dropped and counted, and the
//! log says so once a minute. A thread and a blocking client instead of the SDK's processor, because that one tells
//! nobody how much it drops.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use kernels::priority::Priority;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;

use super::{Ids, otlp::Writer, record::Ended};
use crate::{config::CollectorConfig, metrics::TraceMetrics};

/// Requests that may wait to be sent: a few megabytes.
const QUEUE: usize = 4096;

/// Requests sent at once.
const BATCH: usize = 256;

/// How long the first request of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);

/// For a batch to be taken by the collector.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts at a batch when the collector is away or busy, and the wait before the second, which doubles.
const ATTEMPTS: u32 = 3;
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// Longest answer of a collector that is read.
const MAX_ANSWER: u64 = 64 << 10;

/// Least time between two complaints in the log.
const QUIET: Duration = Duration::from_secs(60);

enum Message {
    Ended(Box<(Ids, Ended)>),
    /// Send what there is, and tell this.
    Flush(Sender<()>),
}

/// The sending side of the queue. The thread ends when it is gone.
pub(super) struct Exporter {
    queue: Sender<Message>,
    metrics: TraceMetrics,
    state: Arc<State>,
}

/// What both sides know.
#[derive(Default)]
struct State {
    /// Requests that found the queue full and are not yet in the log.
    turned_away: AtomicU64,
    /// The server ends: nothing is tried again.
    ending: AtomicBool,
}

impl Exporter {
    pub(super) fn start(collector: &CollectorConfig, metrics: TraceMetrics) -> io::Result<Self> {
        let (queue, inbox) = bounded(QUEUE);
        let state = Arc::new(State::default());
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("convoy/", env!("CARGO_PKG_VERSION")))
            .build();
        let courier = Courier {
            inbox,
            agent: agent.into(),
            url: collector.url.clone(),
            headers: collector.headers.clone(),
            writer: Writer::new(&collector.resource),
            metrics: metrics.clone(),
            state: state.clone(),
            lost: 0,
            complained: None,
        };
        thread::Builder::new().name("traces".to_owned()).spawn(move || courier.work())?;
        Ok(Self { queue, metrics, state })
    }

    /// Queues a request, or counts it as dropped.
    pub(super) fn take(&self, ids: Ids, ended: Ended) {
        if self.queue.try_send(Message::Ended(Box::new((ids, ended)))).is_err() {
            self.metrics.full.increment(1);
            self.state.turned_away.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether everything queued was dealt with within `limit`. Blocks.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        self.state.ending.store(true, Ordering::Relaxed);
        let (done, told) = bounded(1);
        let asked = self.queue.send_deadline(Message::Flush(done), end);
        asked.is_ok() && told.recv_deadline(end).is_ok()
    }
}

/// Requests gathered for one message, and who waits for it to be sent.
#[derive(Default)]
struct Batch {
    requests: Vec<(Ids, Ended)>,
    waiting: Option<Sender<()>>,
}

impl Batch {
    fn add(&mut self, message: Message) {
        match message {
            Message::Ended(request) => self.requests.push(*request),
            Message::Flush(done) => self.waiting = Some(done),
        }
    }

    fn is_complete(&self) -> bool {
        self.requests.len() >= BATCH || self.waiting.is_some()
    }
}

/// Why a batch was not taken.
struct Refused {
    why: String,
    /// Whether it may be another time.
    passing: bool,
}

struct Courier {
    inbox: Receiver<Message>,
    agent: ureq::Agent,
    url: String,
    headers: Vec<(String, String)>,
    writer: Writer,
    metrics: TraceMetrics,
    state: Arc<State>,
    /// Requests whose spans were lost since the log said so.
    lost: u64,
    complained: Option<Instant>,
}

impl Courier {
    fn work(mut self) {
        if let Err(error) = Priority::Background.enter() {
            tracing::debug!(%error, "no priority for the thread that sends traces");
        }
        while let Some(batch) = self.gather() {
            if !batch.requests.is_empty() {
                self.deliver(&batch.requests);
            }
            if let Some(done) = batch.waiting {
                let _nobody_waits_any_more = done.send(());
            }
            let turned_away = self.state.turned_away.swap(0, Ordering::Relaxed);
            if turned_away > 0 {
                self.complain(turned_away, "they come faster than the collector takes them");
            }
        }
    }

    /// What is to be sent next; `None` when nothing comes any more.
    fn gather(&self) -> Option<Batch> {
        let mut batch = Batch::default();
        batch.add(self.inbox.recv().ok()?);
        let end = Instant::now() + LINGER;
        while !batch.is_complete() {
            match self.inbox.recv_deadline(end) {
                Ok(message) => batch.add(message),
                Err(_nothing_more) => break,
            }
        }
        Some(batch)
    }

    fn deliver(&mut self, requests: &[(Ids, Ended)]) {
        let body = self.writer.write(requests).encode_to_vec();
        let mut delay = FIRST_DELAY;
        for attempt in 1..=ATTEMPTS {
            match self.post(&body) {
                Ok(()) => return self.metrics.exported.increment(requests.len() as u64),
                Err(refused) => {
                    let again = attempt < ATTEMPTS && !self.state.ending.load(Ordering::Relaxed);
                    if !(refused.passing && again) {
                        self.metrics.failed.increment(requests.len() as u64);
                        return self.complain(requests.len() as u64, &refused.why);
                    }
                }
            }
            thread::sleep(delay);
            delay *= 2;
        }
    }

    fn post(&self, body: &[u8]) -> Result<(), Refused> {
        let mut request = self.agent.post(&self.url).content_type("application/x-protobuf");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = request.send(body).map_err(|error| Refused { why: error.to_string(), passing: true })?;
        let status = answer.status().as_u16();
        if status != 200 {
            // As OTLP has it: these may pass, others say that the request itself is at fault.
            let passing = matches!(status, 429 | 502 | 503 | 504);
            return Err(Refused { why: format!("it answers {status}"), passing });
        }
        let answer = answer.into_body().with_config().limit(MAX_ANSWER).read_to_vec().unwrap_or_default();
        let partial = ExportTraceServiceResponse::decode(answer.as_slice()).unwrap_or_default();
        if let Some(partial) = partial.partial_success.filter(|partial| partial.rejected_spans > 0) {
            tracing::debug!(rejected = partial.rejected_spans, "the collector took not all spans");
        }
        Ok(())
    }

    /// Puts losses into the log, at most once a minute.
    fn complain(&mut self, lost: u64, why: &str) {
        self.lost += lost;
        if self.complained.is_some_and(|at| at.elapsed() < QUIET) {
            return;
        }
        tracing::warn!(
            collector = self.url,
            requests = self.lost,
            why,
            "traces are lost; --otlp-endpoint must be a collector's OTLP port for HTTP, mostly 4318"
        );
        (self.lost, self.complained) = (0, Some(Instant::now()));
    }
}
