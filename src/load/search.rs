//! The highest rate that keeps a goal: which rate to try next, and whether a run kept the goal. Pure: what runs the load
//! tells what came of it.

use std::time::Duration;

use serde::Serialize;

use super::Recording;

/// Rates closer to each other than this, as a ratio, are the same for this purpose.
const PRECISION: f64 = 1.05;

/// Rates below this, in requests per second, are not tried.
const LEAST: f64 = 0.1;

/// Share of the requests due that must be answered while they come; a server that falls behind further cannot hold the rate
/// even if the run ends before its queue is too long.
const KEPT_UP: f64 = 0.95;

/// Requests that may be in flight at either end of a run, whatever its rate.
const AT_THE_EDGES: f64 = 3.0;

/// Doubles the rate until the goal is missed, or halves it until the goal is kept, then cuts the interval at its geometric
/// mean until both ends are within 5 %. A miss is believed when it comes twice in a row, because a busy neighbour makes one
/// too.
#[derive(Debug, Clone)]
pub struct Search {
    kept: Option<f64>,
    missed: Option<f64>,
    next: f64,
    most: f64,
    /// The next rate has been missed once.
    doubted: bool,
}

impl Search {
    /// Begins at `start` requests per second, above zero, and never asks for more than `most`.
    pub fn new(start: f64, most: f64) -> Self {
        Self { kept: None, missed: None, next: start.min(most), most, doubted: false }
    }

    /// The rate to try, in requests per second; `None` when the answer is known.
    pub fn next_rate(&self) -> Option<f64> {
        let known = match (self.kept, self.missed) {
            (Some(kept), Some(missed)) => missed / kept <= PRECISION,
            (Some(kept), None) => kept >= self.most,
            (None, Some(missed)) => missed <= LEAST,
            (None, None) => false,
        };
        (!known).then_some(self.next)
    }

    /// Tells whether the rate that was asked for kept the goal.
    pub fn tell(&mut self, kept: bool) {
        self.doubted = !kept && !self.doubted;
        if self.doubted {
            return;
        }
        match kept {
            true => self.kept = Some(self.next),
            false => self.missed = Some(self.next),
        }
        self.next = match (self.kept, self.missed) {
            (Some(kept), Some(missed)) => (kept * missed).sqrt(),
            (Some(kept), None) => (2.0 * kept).min(self.most),
            (None, Some(missed)) => (missed / 2.0).max(LEAST),
            (None, None) => self.next,
        };
    }

    /// The highest rate that kept the goal so far, in requests per second.
    pub fn best(&self) -> Option<f64> {
        self.kept
    }
}

/// What a rate must keep: every request answered well, the server keeping up, and a latency.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Most that the 99th percentile of latency may be, from due to answer.
    pub p99: Duration,
}

/// One rate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Requests per second that were due on average.
    pub rate: f64,
    /// Requests answered well per second.
    pub achieved: f64,
    /// Latency from due to answer, in milliseconds; `None` where nothing was answered well.
    pub p50_ms: Option<f64>,
    /// The same, 99th percentile.
    pub p99_ms: Option<f64>,
    /// Requests that were not answered well.
    pub failed: u64,
    /// Why the goal was missed; `None` where it was kept.
    pub missed: Option<String>,
}

impl Step {
    /// Whether the goal was kept.
    pub fn kept(&self) -> bool {
        self.missed.is_none()
    }
}

impl Goal {
    /// Judges a run at `rate` requests per second.
    pub fn judge(&self, rate: f64, run: &Recording) -> Step {
        let quantile = |q: f64| run.latency_ms(q);
        let (p50_ms, p99_ms, failed) = (quantile(0.5), quantile(0.99), run.failed());
        let missed = self.missed(p99_ms, failed, run);
        Step { rate, achieved: run.achieved(), p50_ms, p99_ms, failed, missed }
    }

    fn missed(&self, p99_ms: Option<f64>, failed: u64, run: &Recording) -> Option<String> {
        let Some(p99_ms) = p99_ms else { return Some("no request was answered well".to_owned()) };
        if failed > 0 {
            return Some(format!("{failed} of {} requests failed", run.requests()));
        }
        if p99_ms > self.p99.as_secs_f64() * 1e3 {
            return Some("p99 is above the goal".to_owned());
        }
        let behind = run.seconds() * (run.asked() - run.achieved());
        let allowed = (1.0 - KEPT_UP) * run.seconds() * run.asked() + AT_THE_EDGES;
        (behind > allowed).then(|| "the server fell behind".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Different rates that a server was asked for which keeps the goal up to `capacity`, and the answer.
    fn find(start: f64, most: f64, capacity: f64) -> (Vec<f64>, Option<f64>) {
        let mut search = Search::new(start, most);
        let mut tried = Vec::new();
        while let Some(rate) = search.next_rate() {
            if tried.last() != Some(&rate) {
                tried.push(rate);
            }
            search.tell(rate <= capacity);
        }
        (tried, search.best())
    }

    #[test]
    fn doubles_then_cuts_the_interval() {
        let (tried, best) = find(100.0, 1e6, 500.0);
        assert_eq!(&tried[..4], [100.0, 200.0, 400.0, 800.0]);
        assert!((tried[4] - (400.0_f64 * 800.0).sqrt()).abs() < 1e-9);
        assert!(best.unwrap() <= 500.0 && best.unwrap() > 500.0 / PRECISION);
    }

    #[test]
    fn a_first_rate_that_is_too_high_is_halved() {
        let (tried, best) = find(100.0, 1e6, 30.0);
        assert_eq!(&tried[..3], [100.0, 50.0, 25.0]);
        assert!(best.unwrap() <= 30.0 && best.unwrap() > 30.0 / PRECISION);
    }

    #[test]
    fn a_server_that_never_keeps_the_goal_has_no_rate() {
        let (tried, best) = find(100.0, 1e6, 0.0);
        assert_eq!((tried.last(), best), (Some(&LEAST), None));
    }

    #[test]
    fn the_most_is_not_exceeded() {
        let (tried, best) = find(100.0, 1000.0, f64::MAX);
        assert_eq!((tried.last(), best), (Some(&1000.0), Some(1000.0)));
    }

    #[test]
    fn one_miss_is_not_believed() {
        let mut search = Search::new(100.0, 1e6);
        search.tell(false);
        assert_eq!(search.next_rate(), Some(100.0));
        search.tell(true);
        assert_eq!((search.next_rate(), search.best()), (Some(200.0), Some(100.0)));
        search.tell(false);
        search.tell(false);
        assert!(search.next_rate() < Some(200.0));
    }

    proptest! {
        #[test]
        fn finds_what_a_server_can_do_in_few_steps(start in 1.0..1e4_f64, capacity in 0.2..1e5_f64) {
            let (tried, best) = find(start, 1e6, capacity);
            let best = best.unwrap();
            prop_assert!(best <= capacity && best > capacity / PRECISION, "{} of {}", best, capacity);
            prop_assert!(tried.len() <= 24, "{:?}", tried);
        }
    }
}
