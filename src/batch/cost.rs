//! What a batch costs: measured at start at the sizes an executor may run, refreshed from every batch that runs.
//!
//! The table is data and arithmetic; who measures and who decides from it is [`super::scheduler`] and
//! [`super::policy`].

use std::time::{Duration, Instant};

use super::Executor;

/// Weight of a new batch in the estimate of its size: one part in this many.
const MEMORY: f64 = 8.0;

/// Batches after which an estimate that was not refreshed is no longer held against its size. One bad moment at start
/// would otherwise keep a size from ever being tried again. A size that proves what was thought of it is left alone for
/// twice as long each time, up to [`STALE_AT_MOST`].
const STALE_AFTER: u64 = 256;
const STALE_AT_MOST: u64 = 1 << 14;

/// An estimate is proved by a batch that differs from it by less than this share.
const PROVED: f64 = 0.25;

/// A batch counts for at most this many times what was expected of it. One that was interrupted says nothing of its size;
/// one that is slow for good is believed after a few more.
const SURPRISE: f64 = 2.0;

/// Sizes whose cost per job is this close to the best are as good; the smallest of them answers soonest.
const AS_GOOD: f64 = 1.02;

/// Most repetitions of one size in [`CostTable::measure`].
const REPETITIONS: usize = 3;

/// Measured seconds per batch size. Nothing is assumed of their shape: a larger batch may take less time than a smaller
/// one where that was measured.
#[derive(Debug, Clone)]
pub struct CostTable {
    /// By size, from 1; `None` where no batch of that size was timed.
    points: Vec<Option<Point>>,
    /// By size, from 1: the points, and straight lines between them.
    curve: Vec<f64>,
    /// By size, from 1: the lowest seconds a job at this size or any smaller one.
    best: Vec<f64>,
    efficient: usize,
    batches: u64,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    seconds: f64,
    /// The count of batches when it was last refreshed.
    at: u64,
    /// Batches after which it is too old to speak against its size.
    stale_after: u64,
}

impl CostTable {
    /// A table that knows nothing yet: every cost is zero until batches were recorded, so nothing is refused or held back
    /// on its account.
    pub fn unmeasured(max_batch: usize) -> Self {
        let size = max_batch.max(1);
        let (curve, best) = (vec![0.0; size], vec![0.0; size]);
        Self { points: vec![None; size], curve, best, efficient: 1, batches: 0 }
    }

    /// A table of `(size, time)` pairs; sizes outside `1..=max_batch` are left out.
    pub fn from_points(max_batch: usize, points: impl IntoIterator<Item = (usize, Duration)>) -> Self {
        let mut table = Self::unmeasured(max_batch);
        for (size, took) in points {
            if let Some(point) = size.checked_sub(1).and_then(|index| table.points.get_mut(index)) {
                *point = Some(Point { seconds: took.as_secs_f64(), at: 0, stale_after: STALE_AFTER });
            }
        }
        table.redraw();
        table
    }

    /// Times `executor` at every size of [`Executor::batch_sizes`] on batches that `sample` makes: the fastest of up to three
    /// runs each, of one run once `budget` is spent.
    ///
    /// # Errors
    /// The first error of a batch or of a job in it.
    pub fn measure<E: Executor>(
        executor: &mut E,
        sample: impl Fn(usize) -> Vec<E::Input>,
        budget: Duration,
    ) -> Result<Self, E::Error> {
        let started = Instant::now();
        let max_batch = executor.max_batch();
        let mut points = Vec::new();
        for size in executor.batch_sizes() {
            let mut fastest = time(executor, &sample(size))?;
            for _ in 1..REPETITIONS {
                if started.elapsed() > budget {
                    break;
                }
                fastest = fastest.min(time(executor, &sample(size))?);
            }
            points.push((size, fastest));
        }
        Ok(Self::from_points(max_batch, points))
    }

    /// Learns that a batch of `size` jobs took `took`.
    pub fn record(&mut self, size: usize, took: Duration) {
        self.batches += 1;
        let now = self.batches;
        if !(1..=self.max_batch()).contains(&size) {
            return;
        }
        let (known, unknown) = (self.points[size - 1], self.is_unknown(size));
        let expected = self.curve[size - 1];
        let bound = if expected > 0.0 { SURPRISE * expected } else { f64::INFINITY };
        let newest = took.as_secs_f64().min(bound);
        let blended = expected + (newest - expected) / MEMORY;
        let point = match known {
            Some(known) if self.is_stale(size) => {
                let proved = (newest / expected - 1.0).abs() < PROVED;
                let stale_after =
                    if proved { (2 * known.stale_after).min(STALE_AT_MOST) } else { STALE_AFTER };
                Point { seconds: newest, at: now, stale_after }
            }
            Some(known) => Point { seconds: blended, at: now, ..known },
            None if unknown => Point { seconds: newest, at: now, stale_after: STALE_AFTER },
            None => Point { seconds: blended, at: now, stale_after: STALE_AFTER },
        };
        self.points[size - 1] = Some(point);
        self.redraw();
    }

    /// The most jobs a batch may hold.
    pub fn max_batch(&self) -> usize {
        self.curve.len()
    }

    /// Expected seconds of one batch of `size` jobs, `1..=max_batch`; zero for none.
    pub fn seconds(&self, size: usize) -> f64 {
        size.checked_sub(1).map_or(0.0, |index| self.curve[index])
    }

    /// Expected seconds per job at `size`.
    pub fn per_job(&self, size: usize) -> f64 {
        self.seconds(size) / size as f64
    }

    /// The lowest seconds per job of any size up to `size`.
    pub fn best_per_job(&self, size: usize) -> f64 {
        self.best[size - 1]
    }

    /// The smallest size that is as efficient as any.
    pub fn efficient(&self) -> usize {
        self.efficient
    }

    /// Whether the estimate of `size` is too old to speak against it.
    pub fn is_stale(&self, size: usize) -> bool {
        self.points[size - 1].is_some_and(|point| self.batches - point.at > point.stale_after)
    }

    /// Whether neither `size` nor any larger one was ever timed.
    pub fn is_unknown(&self, size: usize) -> bool {
        self.points[size - 1..].iter().all(Option::is_none)
    }

    /// The sizes that were timed, with their seconds, rising.
    pub fn rows(&self) -> impl Iterator<Item = (usize, f64)> {
        self.points.iter().enumerate().filter_map(|(index, point)| Some((index + 1, (*point)?.seconds)))
    }

    /// Draws lines between the points. Below the first point a batch costs what that one does; above the last, what a job
    /// costs there.
    fn redraw(&mut self) {
        let rows: Vec<(usize, f64)> = self.rows().collect();
        let (Some(&first), Some(&last)) = (rows.first(), rows.last()) else { return };
        self.curve[..first.0].fill(first.1);
        for pair in rows.windows(2) {
            let ((from, low), (to, high)) = (pair[0], pair[1]);
            for size in from + 1..=to {
                self.curve[size - 1] = low + (high - low) * (size - from) as f64 / (to - from) as f64;
            }
        }
        for size in last.0 + 1..=self.curve.len() {
            self.curve[size - 1] = last.1 * size as f64 / last.0 as f64;
        }
        let mut lowest = f64::INFINITY;
        for (index, (best, seconds)) in self.best.iter_mut().zip(&self.curve).enumerate() {
            lowest = lowest.min(seconds / (index + 1) as f64);
            *best = lowest;
        }
        let good = AS_GOOD * lowest;
        self.efficient =
            (1..self.curve.len()).find(|&size| self.per_job(size) <= good).unwrap_or(self.curve.len());
    }
}

fn time<E: Executor>(executor: &mut E, batch: &[E::Input]) -> Result<Duration, E::Error> {
    let started = Instant::now();
    let results = executor.run(batch)?;
    let took = started.elapsed();
    results.into_iter().try_for_each(|result| result.map(drop))?;
    Ok(took)
}

/// 1, 2, 4, 8 and so on below `max_batch`, and `max_batch` itself.
pub(super) fn powers_of_two(max_batch: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1usize), |size| size.checked_mul(2));
    powers.take_while(|&size| size < max_batch).chain([max_batch]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: f64) -> Duration {
        Duration::from_secs_f64(millis / 1e3)
    }

    #[test]
    fn lines_are_drawn_between_points_and_nothing_is_made_monotone() {
        let table = CostTable::from_points(12, [(2, ms(4.0)), (4, ms(8.0)), (8, ms(6.0)), (99, ms(1.0))]);
        let drawn: Vec<f64> = (1..=12).map(|size| (table.seconds(size) * 1e4).round() / 10.0).collect();
        assert_eq!(drawn, [4.0, 4.0, 6.0, 8.0, 7.5, 7.0, 6.5, 6.0, 6.8, 7.5, 8.3, 9.0]);
        assert_eq!(table.seconds(0), 0.0);
        assert!((table.best_per_job(4) - 0.002).abs() < 1e-12);
        assert!((table.best_per_job(12) - 0.000_75).abs() < 1e-12);
        assert_eq!(table.rows().map(|(size, _)| size).collect::<Vec<_>>(), [2, 4, 8]);
    }

    #[test]
    fn live_batches_move_the_estimate_and_old_ones_lose_their_say() {
        let mut table = CostTable::from_points(2, [(1, ms(8.0)), (2, ms(100.0))]);
        table.record(1, ms(16.0));
        assert!((table.seconds(1) - 0.009).abs() < 1e-9, "an eighth of the way");
        assert!(!table.is_stale(2));
        for _ in 0..STALE_AFTER {
            table.record(1, ms(8.0));
        }
        assert!(table.is_stale(2) && !table.is_stale(1));
        table.record(2, ms(10.0));
        assert!((table.seconds(2) - 0.010).abs() < 1e-9, "a stale estimate is replaced, not averaged");
        table.record(2, ms(5_000.0));
        assert!((table.seconds(2) - 0.011_25).abs() < 1e-9, "an interrupted batch counts for twice as long");
    }

    #[test]
    fn a_size_that_proves_what_was_thought_of_it_is_left_alone_for_longer() {
        let mut table = CostTable::from_points(2, [(1, ms(8.0)), (2, ms(100.0))]);
        let pause = |table: &mut CostTable| {
            (1..).find(|_| {
                table.record(1, ms(8.0));
                table.is_stale(2)
            })
        };
        let mut pauses = Vec::new();
        for took in [100.0, 90.0, 20.0, 20.0] {
            pauses.push(pause(&mut table).unwrap());
            table.record(2, ms(took));
        }
        assert_eq!(pauses, [257, 513, 1025, 257]);
    }

    #[test]
    fn a_table_without_measurements_promises_nothing() {
        let mut table = CostTable::unmeasured(4);
        assert_eq!((table.seconds(4), table.per_job(4), table.rows().count()), (0.0, 0.0, 0));
        table.record(2, ms(6.0));
        assert!((table.seconds(4) - 0.012).abs() < 1e-12);
        assert!(table.is_unknown(3) && !table.is_unknown(1));
        table.record(9, ms(6.0));
    }

    #[test]
    fn sizes_to_measure_end_with_the_largest() {
        assert_eq!(powers_of_two(1), [1]);
        assert_eq!(powers_of_two(8), [1, 2, 4, 8]);
        assert_eq!(powers_of_two(33), [1, 2, 4, 8, 16, 32, 33]);
    }
}
