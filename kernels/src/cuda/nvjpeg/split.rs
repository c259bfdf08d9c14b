//! How many pictures of a batch the GPU decodes and how many the processors do, by how fast both have been. What is decoded
//! and what the time is, the callers know.
//!
//! Both work at once, so a batch is done when the slower part is: each side gets what it does in the same time as the other.

use std::time::Duration;

/// Pictures after which a measurement counts half.
const HALF_LIFE: f64 = 512.0;

/// How much of what was known is left after any measurement, at most: also one that is far off is forgotten in time, by a
/// side that now gets single pictures.
const KEPT: f64 = 0.875;

/// A side that could have had pictures goes without for at most this many batches, less one.
const PATIENCE: u32 = 32;

/// Who decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The GPU's JPEG engine.
    Hardware,
    /// The processors.
    Cpu,
}

/// A batch, shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Pictures for the GPU, all of them such that it takes.
    pub hardware: usize,
    /// Pictures for the processors.
    pub cpu: usize,
}

/// Decides shares by rates that it is told.
#[derive(Debug, Clone)]
pub struct Split {
    hardware: Rate,
    cpu: Rate,
    /// Batches in a row of which a side had nothing, though it could have.
    without_hardware: u32,
    without_cpu: u32,
}

impl Split {
    /// Begins with rates of `hardware` and `cpu` in pictures a second, which soon give way to measured ones. What is no
    /// positive number counts as 1.
    pub fn new(hardware: f64, cpu: f64) -> Self {
        Self {
            hardware: Rate::guessed(hardware),
            cpu: Rate::guessed(cpu),
            without_hardware: 0,
            without_cpu: 0,
        }
    }

    /// Shares out a batch of which the GPU takes `able` pictures and does not take `unable`.
    pub fn share(&mut self, able: usize, unable: usize) -> Shares {
        let total = able + unable;
        let mut hardware = self.fastest(able, total);
        if able > 0 && hardware == 0 && self.without_hardware + 1 >= PATIENCE {
            hardware = 1;
        }
        if total > 0 && hardware == total && self.without_cpu + 1 >= PATIENCE {
            hardware -= 1;
        }
        let shares = Shares { hardware, cpu: total - hardware };
        if total > 0 {
            self.without_cpu = if shares.cpu > 0 { 0 } else { self.without_cpu + 1 };
        }
        if able > 0 {
            self.without_hardware = if shares.hardware > 0 { 0 } else { self.without_hardware + 1 };
        }
        shares
    }

    /// Takes down that `side` decoded `pictures` in `took`, from the start of its share to the end. Time in which nothing
    /// was decoded, because it failed, counts against the side.
    pub fn record(&mut self, side: Side, pictures: usize, took: Duration) {
        match side {
            Side::Hardware => self.hardware.record(pictures, took),
            Side::Cpu => self.cpu.record(pictures, took),
        }
    }

    /// What `side` is taken to decode, in pictures a second.
    pub fn rate(&self, side: Side) -> f64 {
        match side {
            Side::Hardware => self.hardware.per_second(),
            Side::Cpu => self.cpu.per_second(),
        }
    }

    /// How many of `able` the GPU gets for all of `total` to be done soonest.
    fn fastest(&self, able: usize, total: usize) -> usize {
        let (hardware, cpu) = (self.hardware.per_second(), self.cpu.per_second());
        let even = (total as f64 * (hardware / (hardware + cpu))) as usize;
        let done = |share: usize| (share as f64 / hardware).max((total - share) as f64 / cpu);
        let (fewer, more) = (even.min(able), (even + 1).min(able));
        if done(more) < done(fewer) { more } else { fewer }
    }
}

/// Pictures and the time they took, older ones counting less.
#[derive(Debug, Clone)]
struct Rate {
    pictures: f64,
    seconds: f64,
}

impl Rate {
    const SLOWEST: f64 = 1e-6;
    const FASTEST: f64 = 1e9;

    fn guessed(per_second: f64) -> Self {
        let per_second = if per_second.is_finite() && per_second > 0.0 { per_second } else { 1.0 };
        Self { pictures: 1.0, seconds: per_second.clamp(Self::SLOWEST, Self::FASTEST).recip() }
    }

    fn record(&mut self, pictures: usize, took: Duration) {
        if pictures == 0 && took.is_zero() {
            return;
        }
        let pictures = pictures as f64;
        let kept = (-pictures / HALF_LIFE).exp2().min(KEPT);
        self.pictures = self.pictures * kept + pictures;
        self.seconds = self.seconds * kept + took.as_secs_f64();
    }

    fn per_second(&self) -> f64 {
        (self.pictures / self.seconds.max(Self::FASTEST.recip())).clamp(Self::SLOWEST, Self::FASTEST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn both_sides_are_done_at_once() {
        let mut split = Split::new(3000.0, 1000.0);
        assert_eq!(split.share(128, 0), Shares { hardware: 96, cpu: 32 });
        assert_eq!(split.share(100, 28), Shares { hardware: 96, cpu: 32 });
        assert_eq!(split.share(50, 78), Shares { hardware: 50, cpu: 78 });
        assert_eq!(split.share(1, 0), Shares { hardware: 1, cpu: 0 });
        assert_eq!(split.share(0, 5), Shares { hardware: 0, cpu: 5 });
        assert_eq!(split.share(0, 0), Shares { hardware: 0, cpu: 0 });
    }

    #[test]
    fn measured_rates_replace_the_guess() {
        let mut split = Split::new(1.0, 1.0);
        for _ in 0..100 {
            split.record(Side::Hardware, 64, seconds(0.064));
            split.record(Side::Cpu, 64, seconds(0.032));
        }
        assert!((split.rate(Side::Hardware) - 1000.0).abs() < 1.0, "{split:?}");
        assert!((split.rate(Side::Cpu) - 2000.0).abs() < 1.0, "{split:?}");
        assert_eq!(split.share(30, 0), Shares { hardware: 10, cpu: 20 });
    }

    #[test]
    fn an_outlier_is_forgotten_by_single_pictures() {
        let mut split = Split::new(1000.0, 1000.0);
        split.record(Side::Hardware, 1, seconds(100.0));
        assert_eq!(split.share(8, 0).hardware, 0);
        let probes = (1..).find(|_| {
            split.record(Side::Hardware, 1, seconds(0.001));
            split.share(8, 0).hardware > 1
        });
        assert!(probes.unwrap() < 100, "{probes:?}");
    }

    #[test]
    fn nothing_in_no_time_says_nothing() {
        let mut split = Split::new(500.0, 1000.0);
        for _ in 0..100_000 {
            split.record(Side::Hardware, 0, Duration::ZERO);
        }
        assert_eq!(split.rate(Side::Hardware), 500.0);
    }

    #[test]
    fn failures_count_against_a_side() {
        let mut split = Split::new(1000.0, 1000.0);
        split.record(Side::Hardware, 0, seconds(1.0));
        assert!(split.rate(Side::Hardware) < 1.0);
    }

    #[test]
    fn no_guess_and_no_measurement_is_too_strange() {
        for guess in [f64::NAN, f64::INFINITY, -1.0, 0.0, f64::MAX, f64::MIN_POSITIVE] {
            let mut split = Split::new(guess, 1.0);
            split.record(Side::Hardware, 0, Duration::ZERO);
            split.record(Side::Cpu, usize::MAX, Duration::ZERO);
            split.record(Side::Cpu, 0, Duration::MAX);
            let Shares { hardware, cpu } = split.share(7, 3);
            assert_eq!(hardware + cpu, 10);
        }
    }

    proptest! {
        #[test]
        fn every_picture_is_decoded_once_and_where_it_can_be(
            batches in prop::collection::vec((0..300_usize, 0..300_usize, 0..400_u32, 0..400_u32), 1..200),
            guesses in (0.001..1e6, 0.001..1e6),
        ) {
            let mut split = Split::new(guesses.0, guesses.1);
            let (mut without_hardware, mut without_cpu) = (0, 0);
            for (able, unable, hardware_ms, cpu_ms) in batches {
                let Shares { hardware, cpu } = split.share(able, unable);
                prop_assert_eq!(hardware + cpu, able + unable);
                prop_assert!(hardware <= able);
                if able > 0 {
                    without_hardware = if hardware > 0 { 0 } else { without_hardware + 1 };
                }
                if able + unable > 0 {
                    without_cpu = if cpu > 0 { 0 } else { without_cpu + 1 };
                }
                prop_assert!(without_hardware < PATIENCE && without_cpu < PATIENCE);
                split.record(Side::Hardware, hardware, Duration::from_millis(hardware_ms.into()));
                split.record(Side::Cpu, cpu, Duration::from_millis(cpu_ms.into()));
                for side in [Side::Hardware, Side::Cpu] {
                    prop_assert!(split.rate(side).is_finite() && split.rate(side) > 0.0);
                }
            }
        }

        #[test]
        fn no_other_share_is_done_sooner(
            able in 0..200_usize, unable in 0..200_usize, hardware in 1.0..1e5_f64, cpu in 1.0..1e5_f64,
        ) {
            let total = able + unable;
            let done = |share: usize| (share as f64 / hardware).max((total - share) as f64 / cpu);
            let chosen = done(Split::new(hardware, cpu).share(able, unable).hardware);
            for share in 0..=able {
                prop_assert!(chosen <= done(share) * (1.0 + 1e-9), "{share}");
            }
        }

        #[test]
        fn shares_follow_steady_rates(hardware in 100.0..20_000.0_f64, cpu in 100.0..20_000.0_f64) {
            let mut split = Split::new(1000.0, 1000.0);
            for _ in 0..400 {
                let shares = split.share(128, 0);
                split.record(Side::Hardware, shares.hardware, seconds(shares.hardware as f64 / hardware));
                split.record(Side::Cpu, shares.cpu, seconds(shares.cpu as f64 / cpu));
            }
            let even = 128.0 * hardware / (hardware + cpu);
            let given = split.share(128, 0).hardware;
            prop_assert!((given as f64 - even).abs() < 1.5, "{given} for {even}");
        }
    }
}
