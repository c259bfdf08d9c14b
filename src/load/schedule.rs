//! When requests are due: evenly spaced or as a Poisson process, and until when. Pure: offsets from the start, no clock.

use std::time::Duration;

use clap::ValueEnum;

/// How due times are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    Constant,
    /// Independently of each other, as many strangers would come.
    Poisson,
}

/// Due times without end, as offsets from the start, never decreasing.
#[derive(Debug)]
pub(super) struct Schedule {
    rate: f64,
    arrivals: Arrivals,
    random: fastrand::Rng,
    index: u64,
    /// Seconds.
    at: f64,
}

impl Schedule {
    /// `rate` requests per second, above zero.
    pub(super) fn new(rate: f64, arrivals: Arrivals, seed: u64) -> Self {
        Self { rate, arrivals, random: fastrand::Rng::with_seed(seed), index: 0, at: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at = match self.arrivals {
            // A product, so that no error adds up.
            Arrivals::Constant => self.index as f64 / self.rate,
            // 1 - f64() is above zero, so the logarithm is finite.
            Arrivals::Poisson => self.at - (1.0 - self.random.f64()).ln() / self.rate,
        };
        self.index += 1;
        Duration::try_from_secs_f64(self.at).ok()
    }
}

/// Until when requests are sent: by time, by number, or whichever comes first. Those of the warm-up are not numbered.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    warm_up: Duration,
    end: Option<Duration>,
    left: Option<u64>,
}

impl Limit {
    pub(super) fn new(warm_up: Duration, duration: Option<Duration>, requests: Option<u64>) -> Self {
        Self { warm_up, end: duration.map(|duration| warm_up + duration), left: requests }
    }

    /// Whether a request may be sent that is due at this offset from the start; a yes takes one from the number.
    pub(super) fn admits(&mut self, at: Duration) -> bool {
        if at < self.warm_up {
            return true;
        }
        if self.end.is_some_and(|end| at >= end) || self.left == Some(0) {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due(rate: f64, arrivals: Arrivals, seconds: u64) -> Vec<f64> {
        let mut limit = Limit::new(Duration::ZERO, Some(Duration::from_secs(seconds)), None);
        let times = Schedule::new(rate, arrivals, 7).take_while(|at| limit.admits(*at));
        times.map(|at| at.as_secs_f64()).collect()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_do_not_drift() {
        let times = due(3000.0, Arrivals::Constant, 100);
        assert_eq!(times.len(), 300_000);
        assert!((times[299_999] - 299_999.0 / 3000.0).abs() < 1e-8);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_spread_of_an_exponential() {
        let times = due(200.0, Arrivals::Poisson, 500);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 200.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{variance}");
        let short = gaps.iter().filter(|gap| **gap < mean).count() as f64 / gaps.len() as f64;
        assert!((short - (1.0 - (-1.0_f64).exp())).abs() < 0.01, "{short}");
    }

    #[test]
    fn the_seed_decides_the_times() {
        let times = |seed| Schedule::new(10.0, Arrivals::Poisson, seed).take(50).collect::<Vec<_>>();
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }

    proptest! {
        #[test]
        fn due_times_never_decrease(rate in 0.01..1e6_f64, seed: u64, poisson: bool) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let times: Vec<_> = Schedule::new(rate, arrivals, seed).take(500).collect();
            prop_assert!(times.is_sorted());
        }

        #[test]
        fn the_limit_numbers_only_what_comes_after_the_warm_up(
            warm_up in 0_u64..50, length in prop::option::of(1_u64..100), requests in prop::option::of(0_u64..100),
        ) {
            let mut limit = Limit::new(
                Duration::from_millis(warm_up), length.map(Duration::from_millis), requests,
            );
            let sent = (0..200).take_while(|at| limit.admits(Duration::from_millis(*at))).count() as u64;
            let expected = warm_up + length.unwrap_or(u64::MAX).min(requests.unwrap_or(u64::MAX)).min(200 - warm_up);
            prop_assert_eq!(sent, expected);
        }
    }
}
