//! Axes of a plot: which part of the numbers is shown, where a value lies on it, and where its ticks are. Pure numbers.

/// How values become positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Equal distances for equal differences; begins at zero.
    Linear,
    /// Equal distances for equal ratios.
    Log,
    /// Shares of requests from 0 to below 1, where each 9 takes as much room as the one before.
    Nines,
}

/// An axis over a range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    /// Covers all `values`.
    pub(super) fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        let (low, high) = match scale {
            Scale::Linear => (0.0, if high > 0.0 { high } else { 1.0 }),
            Scale::Log => {
                let low = low.max(1e-3);
                (low / 1.1, high.max(low * 3.0) * 1.1)
            }
            Scale::Nines => (0.0, nines(high).max(1.0)),
        };
        Self { scale, low, high }
    }

    /// Where `value` lies: 0 at the beginning of the axis, 1 at its end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
            Scale::Nines => nines(value) / self.high,
        };
        place.clamp(0.0, 1.0)
    }

    /// Values worth a label, with the label.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => self.linear_ticks(),
            Scale::Log => self.log_ticks(),
            Scale::Nines => {
                let shares = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999];
                let seen = shares.into_iter().filter(|share| nines(*share) <= self.high + 1e-9);
                seen.map(|share| (share, format!("{}", (share * 1e8).round() / 1e6))).collect()
            }
        }
    }

    /// Four to eight round values.
    fn linear_ticks(&self) -> Vec<(f64, String)> {
        let rough = self.high / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [5.0, 2.0, 1.0].map(|factor| factor * power).into_iter().find(|step| *step <= rough);
        let step = step.unwrap_or(power);
        let count = (self.high / step + 1e-9).floor() as u32;
        (0..=count).map(|index| f64::from(index) * step).map(|value| (value, label(value))).collect()
    }

    /// Powers of ten, and multiples of them where there are few.
    fn log_ticks(&self) -> Vec<(f64, String)> {
        let decades = (self.high / self.low).log10();
        let factors: &[f64] = match decades {
            wide if wide > 3.0 => &[1.0],
            narrow if narrow < 0.9 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
            _ => &[1.0, 2.0, 5.0],
        };
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let powers = (first..=last).map(|power| 10_f64.powi(power));
        let values = powers.flat_map(|power| factors.iter().map(move |factor| factor * power));
        let seen = values.filter(|value| (self.low..=self.high).contains(value));
        seen.map(|value| (value, label(value))).collect()
    }
}

/// Nines of a share: 1 for 0.9, 2 for 0.99; the whole counts as six of them.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-6).log10()
}

fn label(value: f64) -> String {
    if value >= 10_000.0 {
        return format!("{}k", (value / 100.0).round() / 10.0);
    }
    let rounded = (value * 1e6).round() / 1e6;
    format!("{rounded}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Axis::over(Scale::Linear, [0.0, 9.7].into_iter())), ["0", "2", "4", "6", "8"]);
        assert_eq!(labels(&Axis::over(Scale::Log, [0.3, 7.0].into_iter())), ["0.5", "1", "2", "5"]);
        assert_eq!(
            labels(&Axis::over(Scale::Log, [0.2, 30_000.0].into_iter())),
            ["1", "10", "100", "1000", "10k"]
        );
        assert_eq!(
            labels(&Axis::over(Scale::Nines, [0.0, 0.999].into_iter())),
            ["0", "50", "90", "99", "99.9"]
        );
    }

    #[test]
    fn every_nine_takes_the_same_room() {
        let axis = Axis::over(Scale::Nines, [0.0, 0.9999].into_iter());
        for (share, place) in [(0.0, 0.0), (0.9, 0.25), (0.99, 0.5), (0.9999, 1.0), (1.0, 1.0)] {
            assert!((axis.place(share) - place).abs() < 1e-9, "{share}");
        }
    }

    proptest! {
        #[test]
        fn places_keep_the_order_and_ticks_lie_on_the_axis(mut values in prop::collection::vec(0.001..1e7_f64, 1..50)) {
            values.sort_by(f64::total_cmp);
            for scale in [Scale::Linear, Scale::Log] {
                let axis = Axis::over(scale, values.iter().copied());
                prop_assert!(values.iter().map(|value| axis.place(*value)).is_sorted());
                let ticks = axis.ticks();
                prop_assert!((1..=12).contains(&ticks.len()), "{:?} {:?}", scale, ticks);
                prop_assert!(ticks.iter().map(|(value, _)| axis.place(*value)).is_sorted());
            }
        }
    }
}
