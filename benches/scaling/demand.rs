//! How many ask when: load curves, and the moments of single requests along them.

use super::load::Random;

/// The noise of the rate keeps for so long, in seconds.
const BLOCK: f64 = 300.0;

/// What a load does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    /// A weekday: a fifth of the peak at four in the morning, the peak at four in the afternoon.
    Day,
    /// Twenty minutes of a tenth, up within 60 s, fifteen minutes of ten times as much, back within 60 s, half an hour after.
    Spike,
    /// Nobody from eight in the evening to seven in the morning.
    Office,
}

impl Curve {
    pub(crate) const ALL: [Self; 3] = [Self::Day, Self::Spike, Self::Office];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Spike => "spike",
            Self::Office => "office",
        }
    }

    /// Seconds.
    pub(crate) fn lasts(self) -> f64 {
        match self {
            Self::Day | Self::Office => 86_400.0,
            Self::Spike => 4_020.0,
        }
    }

    /// The rate at `seconds` as a share of the peak, without noise.
    pub(crate) fn share(self, seconds: f64) -> f64 {
        let hour = seconds / 3600.0;
        match self {
            Self::Day => 0.2 + 0.8 * hump((hour - 4.0) / 24.0),
            Self::Spike => {
                let up = ((seconds - 1200.0) / 60.0).clamp(0.0, 1.0);
                let down = ((seconds - 2160.0) / 60.0).clamp(0.0, 1.0);
                0.1 + 0.9 * (up - down)
            }
            Self::Office if (7.0..20.0).contains(&hour) => 0.05 + 0.95 * hump((hour - 7.0) / 13.0),
            Self::Office => 0.0,
        }
    }
}

/// From 0 at 0 over 1 at a half to 0 at 1.
fn hump(turn: f64) -> f64 {
    (0.5 - 0.5 * (std::f64::consts::TAU * turn).cos()).powf(1.5)
}

/// The moments of requests: a Poisson process along a curve times a noise that wanders by about a tenth.
#[derive(Debug)]
pub(crate) struct Demand {
    curve: Curve,
    peak: f64,
    noise: Vec<f64>,
    highest: f64,
    random: Random,
}

impl Demand {
    pub(crate) fn new(curve: Curve, peak: f64, seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        let blocks = (curve.lasts() / BLOCK).ceil() as usize;
        let mut wander = 0.0;
        let mut noise = Vec::with_capacity(blocks);
        for _ in 0..blocks {
            wander = 0.8 * wander + random.noise(0.06).ln();
            noise.push(wander.exp());
        }
        let highest = noise.iter().copied().fold(1.0, f64::max);
        Self { curve, peak, noise, highest, random }
    }

    /// Requests a second.
    pub(crate) fn rate(&self, seconds: f64) -> f64 {
        let block = ((seconds / BLOCK) as usize).min(self.noise.len() - 1);
        self.peak * self.curve.share(seconds) * self.noise[block]
    }

    /// The first request after `seconds`, by thinning (Lewis and Shedler, 1979); `None` after the last.
    pub(crate) fn after(&mut self, mut seconds: f64) -> Option<f64> {
        let most = self.peak * self.highest;
        loop {
            seconds += self.random.exponential(most.recip());
            if seconds >= self.curve.lasts() {
                return None;
            }
            if self.random.uniform() * most < self.rate(seconds) {
                return Some(seconds);
            }
        }
    }
}
