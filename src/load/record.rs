//! What became of every request: latencies, statuses, failures, bytes, and the run over time. Pure bookkeeping on times
//! that it is given; a request counts when its due time lies in the window, that is after the warm-up.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::timeline::{Timeline, micros};

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No connection could be opened.
    Connect,
    /// The connection ended before the whole answer was there.
    Closed,
    /// What came was not HTTP.
    Protocol,
    /// The whole answer was not there in time.
    Timeout,
    /// Due, and never sent: no connection was free until long after the last due time.
    Unsent,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "no connection",
            Self::Closed => "connection closed",
            Self::Protocol => "not HTTP",
            Self::Timeout => "timed out",
            Self::Unsent => "never sent",
        })
    }
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Of its body.
    pub(super) bytes: u64,
    /// The beginning of its body where the status is no success.
    pub(super) excerpt: String,
}

/// One request from its due time to its end.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) due: Instant,
    /// When its first byte was handed to a connection, if it was.
    pub(super) sent: Option<Instant>,
    pub(super) done: Instant,
    /// Bytes of its body.
    pub(super) size: u64,
    pub(super) result: Result<Answer, (Failure, String)>,
}

/// How often something happened, and what was said the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Times.
    pub count: u64,
    /// The first one's message or the beginning of its body; may be empty.
    pub first: String,
}

/// What became of a run's requests.
#[derive(Debug, Clone)]
pub struct Recording {
    begin: Instant,
    length: Option<Duration>,
    last: Duration,
    requests: u64,
    answered: u64,
    answered_in_window: u64,
    pub(super) latency: Histogram<u64>,
    pub(super) service: Histogram<u64>,
    pub(super) refusals: Histogram<u64>,
    pub(super) statuses: BTreeMap<u16, Tally>,
    pub(super) failures: BTreeMap<Failure, Tally>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) connections: u64,
    pub(super) timeline: Timeline,
}

impl Recording {
    /// The window begins at `begin`; it ends `length` later, or with the last answer.
    pub(super) fn new(begin: Instant, length: Option<Duration>) -> Self {
        let histogram = || Histogram::new(3).expect("bug: three digits are allowed");
        Self {
            begin,
            length,
            last: Duration::ZERO,
            requests: 0,
            answered: 0,
            answered_in_window: 0,
            latency: histogram(),
            service: histogram(),
            refusals: histogram(),
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            bytes_sent: 0,
            bytes_received: 0,
            connections: 0,
            timeline: Timeline::new(),
        }
    }

    /// Takes in the end of a request.
    pub(super) fn record(&mut self, exchange: &Exchange) {
        let Some(done) = exchange.done.checked_duration_since(self.begin) else { return };
        let well = matches!(&exchange.result, Ok(answer) if is_success(answer.status));
        if well && self.length.is_none_or(|length| done < length) {
            self.answered_in_window += 1;
        }
        let Some(due) = exchange.due.checked_duration_since(self.begin) else {
            return self.timeline.end(done, well);
        };
        self.requests += 1;
        self.last = self.last.max(done);
        self.timeline.record(due, done, well);
        if exchange.sent.is_some() {
            self.bytes_sent += exchange.size;
        }
        match &exchange.result {
            Ok(answer) => self.take_answer(answer, exchange),
            Err((failure, message)) => count(self.failures.entry(*failure).or_default(), message),
        }
    }

    fn take_answer(&mut self, answer: &Answer, exchange: &Exchange) {
        self.bytes_received += answer.bytes;
        count(self.statuses.entry(answer.status).or_default(), &answer.excerpt);
        let latency = micros(exchange.done - exchange.due);
        if !is_success(answer.status) {
            return keep(&mut self.refusals, latency);
        }
        self.answered += 1;
        keep(&mut self.latency, latency);
        if let Some(sent) = exchange.sent {
            keep(&mut self.service, micros(exchange.done - sent));
        }
    }

    /// Ends the window at the last answer where the run's number of requests was reached before its time was over.
    pub(super) fn finish(&mut self, requests: Option<u64>) {
        if requests == Some(self.requests) {
            self.length = Some(self.length.map_or(self.last, |length| length.min(self.last)));
        }
    }

    /// Length of the window, in seconds; above zero.
    pub fn seconds(&self) -> f64 {
        self.length.unwrap_or(self.last).as_secs_f64().max(1e-6)
    }

    /// Requests due in the window.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Requests answered with a status of 200 to 299.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Requests whose end was anything else.
    pub fn failed(&self) -> u64 {
        self.requests - self.answered
    }

    /// Requests due per second.
    pub fn asked(&self) -> f64 {
        self.requests as f64 / self.seconds()
    }

    /// Requests answered well per second while the window lasted, those included that were due before it.
    pub fn achieved(&self) -> f64 {
        self.answered_in_window as f64 / self.seconds()
    }

    /// A quantile of the latency from due to answer of requests answered well, in milliseconds; `None` where there are none.
    pub fn latency_ms(&self, quantile: f64) -> Option<f64> {
        (!self.latency.is_empty()).then(|| self.latency.value_at_quantile(quantile) as f64 / 1e3)
    }
}

fn keep(histogram: &mut Histogram<u64>, micros: u64) {
    histogram.record(micros).expect("bug: the histogram grows as needed");
}

pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn count(tally: &mut Tally, message: &str) {
    if tally.count == 0 {
        message.clone_into(&mut tally.first);
    }
    tally.count += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(begin: Instant, ms: [u64; 3], result: Result<u16, Failure>) -> Exchange {
        let [due, sent, done] = ms.map(|ms| begin + Duration::from_millis(ms));
        let result = match result {
            Ok(status) => Ok(Answer { status, bytes: 10, excerpt: format!("status {status}") }),
            Err(failure) => Err((failure, "cause".to_owned())),
        };
        Exchange { due, sent: Some(sent), done, size: 5, result }
    }

    #[test]
    fn latency_counts_from_due_and_service_from_sent() {
        let start = Instant::now();
        let mut recording = Recording::new(start, Some(Duration::from_secs(1)));
        recording.record(&exchange(start, [100, 400, 450], Ok(200)));
        assert_eq!((recording.latency.max() / 1000, recording.service.max() / 1000), (350, 50));
        assert_eq!((recording.bytes_sent, recording.bytes_received), (5, 10));
    }

    #[test]
    fn everything_due_in_the_window_has_its_place() {
        let start = Instant::now();
        let begin = start + Duration::from_millis(500);
        let mut recording = Recording::new(begin, Some(Duration::from_secs(1)));
        recording.record(&exchange(start, [100, 100, 200], Ok(200)));
        recording.record(&exchange(start, [400, 400, 600], Ok(200)));
        recording.record(&exchange(start, [700, 700, 800], Ok(201)));
        recording.record(&exchange(start, [800, 800, 900], Ok(429)));
        recording.record(&exchange(start, [900, 900, 950], Err(Failure::Timeout)));
        recording.record(&exchange(start, [1400, 1400, 1700], Ok(200)));
        assert_eq!((recording.requests(), recording.answered(), recording.failed()), (4, 2, 2));
        assert_eq!((recording.asked(), recording.achieved()), (4.0, 2.0));
        assert_eq!((recording.latency.len(), recording.refusals.len()), (2, 1));
        assert_eq!(recording.statuses[&429], Tally { count: 1, first: "status 429".to_owned() });
        assert_eq!(recording.failures[&Failure::Timeout], Tally { count: 1, first: "cause".to_owned() });
    }

    #[test]
    fn a_run_that_ends_by_number_lasts_until_its_last_answer() {
        let start = Instant::now();
        let mut recording = Recording::new(start, Some(Duration::from_secs(60)));
        recording.record(&exchange(start, [0, 0, 500], Ok(200)));
        recording.record(&exchange(start, [500, 500, 2000], Ok(200)));
        recording.finish(Some(3));
        assert!((recording.seconds() - 60.0).abs() < 1e-9);
        recording.finish(Some(2));
        assert!((recording.seconds() - 2.0).abs() < 1e-9);
    }
}
