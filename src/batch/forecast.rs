//! When work will be done: from what batches cost, how many executors share them, and how much longer than that batches
//! take at the moment.
//!
//! Times are seconds. Costs are [`super::cost`]'s; what follows from a forecast is decided in [`super::dispatcher`].

use super::{CostTable, policy::WASTE};

/// Batches are foreseen to take at most this many times what they cost.
const SLOWEST: f64 = 8.0;

/// Weight of a new batch in the trend, one part in this many.
const TREND_MEMORY: f64 = 8.0;

/// How many times as long as the table says batches take where something else has the processor as well.
///
/// A table learns slowly, because one batch says little of its size. That others have taken the processor shows in batches
/// of every size at once, and jobs that were accepted by costs of a calmer moment would all be late.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    last: f64,
    previous: f64,
    trend: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { last: 1.0, previous: 1.0, trend: 1.0 }
    }
}

impl Pace {
    /// A batch took `ratio` times what it costs.
    pub fn record(&mut self, ratio: f64) {
        let trend = self.trend + (ratio.min(SLOWEST) - self.trend) / TREND_MEMORY;
        *self = Self { last: ratio, previous: self.last, trend };
    }

    /// The factor for a batch that runs or starts now, at least 1, where one runs that has taken `running` times what it
    /// costs so far: the median of the last two batches and that one. One that was interrupted changes nothing, two that are
    /// slow do at once, and so does the first that is fast again.
    pub fn now(&self, running: f64) -> f64 {
        let (low, high) = (self.last.min(self.previous), self.last.max(self.previous));
        running.clamp(low, high).clamp(1.0, SLOWEST)
    }

    /// The factor for many batches to come, at least 1: a mean, since what is true of two need not be of a hundred.
    pub fn trend(&self) -> f64 {
        self.trend.max(1.0)
    }
}

/// See the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Forecast<'a> {
    /// What batches cost.
    pub costs: &'a CostTable,
    /// Executors side by side, at least 1.
    pub workers: usize,
    /// How many times as long they take, see [`Pace`].
    pub stretch: f64,
}

impl<'a> Forecast<'a> {
    /// Of a line, whose batches will take what those before them did.
    pub fn of_line(costs: &'a CostTable, workers: usize, pace: &Pace) -> Self {
        Self { costs, workers, stretch: pace.trend() }
    }

    /// Seconds that a batch of `size` takes.
    pub fn batch(&self, size: usize) -> f64 {
        self.stretch * self.costs.seconds(size)
    }

    /// The length of queue, in seconds of work, that an executor needs under full load: an efficient batch, so that a full one
    /// is ready when it is done, and two standard deviations of the arrivals meanwhile, which are Poisson's. A longer queue
    /// makes no batch any better.
    pub fn brisk(&self) -> f64 {
        let size = self.costs.efficient();
        self.batch(size) * (1.0 + 2.0 / (size as f64).sqrt())
    }

    /// Seconds until `jobs` jobs are done, in the most efficient batches.
    pub fn drain(&self, jobs: usize) -> f64 {
        let size = self.costs.efficient();
        (jobs / size) as f64 * self.batch(size) / self.workers as f64 + self.batch(jobs % size)
    }

    /// Seconds until a job is done that has `ahead` jobs before it and `behind` after it: the full batches ahead, and then its
    /// own, which those behind fill up unless it is too urgent for that, with `slack` seconds until its deadline.
    pub fn finish(&self, ahead: usize, behind: usize, slack: f64) -> f64 {
        let size = self.costs.efficient();
        let start = (ahead / size) as f64 * self.batch(size) / self.workers as f64;
        let own = ahead % size + 1;
        let filled = size.min(own + behind);
        if start + self.batch(filled) <= slack {
            return start + self.batch(filled);
        }
        let floor = WASTE * self.costs.best_per_job(size);
        let shrunk = (own..filled).find(|&size| self.costs.per_job(size) <= floor).unwrap_or(filled);
        start + self.batch(shrunk)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Batches of up to four that take `base + slope * size` milliseconds.
    fn affine(base: f64, slope: f64) -> CostTable {
        let cost = |size: usize| Duration::from_secs_f64((base + slope * size as f64) / 1e3);
        CostTable::from_points(4, (1..=4).map(|size| (size, cost(size))))
    }

    fn near(seconds: f64, millis: f64) {
        assert!((seconds * 1e3 - millis).abs() < 1e-6, "{seconds} s, expected {millis} ms");
    }

    #[test]
    fn finish_times_follow_the_batches() {
        let costs = affine(8.0, 1.0);
        let gpu = Forecast { costs: &costs, workers: 1, stretch: 1.0 };
        near(gpu.drain(9), 12.0 * 2.0 + 9.0);
        near(Forecast { workers: 2, ..gpu }.drain(8), 12.0);
        near(gpu.finish(0, 0, 9.0), 9.0);
        near(gpu.finish(5, 9, 9.0), 24.0);
        near(gpu.finish(5, 0, 9.0), 22.0);
        near(gpu.brisk(), 24.0);
        let costs = affine(0.0, 100.0);
        let cpu = Forecast { costs: &costs, ..gpu };
        // One runs, and two to be sure that one is there next.
        near(cpu.brisk(), 300.0);
        // The urgent go in smaller batches.
        near(cpu.finish(0, 9, 0.15), 100.0);
    }

    #[test]
    fn what_takes_twice_as_long_is_done_twice_as_late() {
        let costs = affine(8.0, 1.0);
        let calm = Forecast { costs: &costs, workers: 2, stretch: 1.0 };
        let busy = Forecast { stretch: 2.0, ..calm };
        near(busy.brisk(), 2e3 * calm.brisk());
        near(busy.drain(11), 2e3 * calm.drain(11));
        near(busy.finish(5, 3, 0.030), 2e3 * calm.finish(5, 3, 0.015));
    }

    #[test]
    fn one_slow_batch_changes_nothing_and_two_do() {
        let mut pace = Pace::default();
        assert_eq!(pace.now(0.5), 1.0);
        pace.record(5.0);
        assert_eq!(pace.now(0.0), 1.0, "it may have been interrupted");
        assert_eq!(pace.now(3.0), 3.0, "the one that runs is slow as well");
        assert_eq!(pace.now(7.0), 5.0);
        pace.record(4.0);
        assert_eq!(pace.now(0.0), 4.0);
        pace.record(0.9);
        assert_eq!(pace.now(0.0), 1.0, "the processor is free again");
        pace.record(1e9);
        pace.record(1e9);
        assert_eq!(pace.now(0.0), SLOWEST);
        assert!((2.0..4.0).contains(&pace.trend()), "{} of a few slow batches", pace.trend());
        (0..100).for_each(|_| pace.record(0.5));
        assert_eq!((pace.now(0.0), pace.trend()), (1.0, 1.0));
    }
}
