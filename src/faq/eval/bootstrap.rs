//! How sure the figures are: percentile bootstrap (Efron 1979) over the questions, alone and of two models in pairs.
//! Seeded, so that the same evaluation reports the same intervals.

use super::super::rng::Rng;
use super::Report;

/// Times the questions are drawn anew.
const RESAMPLES: usize = 2000;

/// Seed of the draws.
const SEED: u64 = 1;

/// The middle 95 % of what resampling gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// Two models on the same questions; differences are the first's figure less the second's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Difference of the shares whose original came first.
    pub accuracy: f64,
    /// Its 95 % interval, the questions drawn in pairs.
    pub accuracy_interval: Interval,
    /// Difference of the mean ranks.
    pub mean_rank: f64,
    /// Its 95 % interval.
    pub rank_interval: Interval,
    /// Questions that only the first model answered right.
    pub only_first: usize,
    /// Questions that only the second model answered right.
    pub only_second: usize,
}

/// Compares two reports on the same questions in the same order; `None` where they are not.
pub fn compare(first: &Report, second: &Report) -> Option<Comparison> {
    if first.ranks.len() != second.ranks.len() {
        return None;
    }
    let pairs: Vec<(usize, usize)> = first.ranks.iter().copied().zip(second.ranks.iter().copied()).collect();
    let right = |rank| f64::from(u8::from(rank == 1));
    let accuracy = |pair: (usize, usize)| right(pair.0) - right(pair.1);
    let rank = |pair: (usize, usize)| pair.0 as f64 - pair.1 as f64;
    let mean = |value: &dyn Fn((usize, usize)) -> f64| {
        pairs.iter().map(|pair| value(*pair)).sum::<f64>() / pairs.len() as f64
    };
    Some(Comparison {
        accuracy: mean(&accuracy),
        accuracy_interval: mean_interval(&pairs, accuracy),
        mean_rank: mean(&rank),
        rank_interval: mean_interval(&pairs, rank),
        only_first: pairs.iter().filter(|pair| pair.0 == 1 && pair.1 != 1).count(),
        only_second: pairs.iter().filter(|pair| pair.0 != 1 && pair.1 == 1).count(),
    })
}

/// The interval of the mean of `value` over `items`, of which there is at least one.
pub(super) fn mean_interval<T: Copy>(items: &[T], value: impl Fn(T) -> f64) -> Interval {
    let values: Vec<f64> = items.iter().map(|item| value(*item)).collect();
    let mut rng = Rng::new(SEED);
    let mut draw =
        || (0..values.len()).map(|_| values[rng.below(values.len())]).sum::<f64>() / values.len() as f64;
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
    means.sort_unstable_by(f64::total_cmp);
    Interval { low: means[RESAMPLES / 40], high: means[RESAMPLES - 1 - RESAMPLES / 40] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_share_is_the_binomial_one() {
        // 800 of 1000: a standard error of 0.01265.
        let items: Vec<bool> = (0..1000).map(|at| at % 5 != 0).collect();
        let interval = mean_interval(&items, |right| f64::from(u8::from(right)));
        assert!((interval.low - (0.8 - 1.96 * 0.012_65)).abs() < 0.003, "{interval:?}");
        assert!((interval.high - (0.8 + 1.96 * 0.012_65)).abs() < 0.003, "{interval:?}");
    }

    #[test]
    fn a_constant_has_no_width() {
        assert_eq!(mean_interval(&[3, 3], f64::from), Interval { low: 3.0, high: 3.0 });
    }
}
