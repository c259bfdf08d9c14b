//! Who asks when: arrival processes and the time that requests spend on their way, from one seed each.

/// How requests come, at a mean rate or from a number of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// Poisson at three times the mean rate for a quarter of the time and at a third of it for the rest; both states last
    /// exponentially long (a Markov-modulated Poisson process).
    Bursty,
    /// Each client asks, waits for its answer, and asks again at once.
    Closed,
}

impl Arrivals {
    pub(crate) const ALL: [Self; 3] = [Self::Poisson, Self::Bursty, Self::Closed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Bursty => "bursty",
            Self::Closed => "closed",
        }
    }
}

/// Random numbers: splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The same `seed` and `stream` bring the same numbers.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// In `0..1`.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// With this mean.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    /// Near 1: `exp` of a nearly normal number (Irwin and Hall's sum of twelve) with this deviation.
    pub(crate) fn noise(&mut self, deviation: f64) -> f64 {
        let normal = (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0;
        (deviation * normal).exp()
    }
}

/// Seconds a request takes on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lead {
    pub(crate) reading: f64,
    pub(crate) decoding: f64,
}

/// A fifth of a millisecond to read on average, one to two to decode.
pub(crate) fn lead(random: &mut Random) -> Lead {
    let reading = 0.1e-3 + random.exponential(0.1e-3);
    Lead { reading, decoding: 1e-3 + 1e-3 * random.uniform() }
}

/// The moments of an open process, in seconds from its start.
#[derive(Debug)]
pub(crate) struct Moments {
    random: Random,
    bursty: bool,
    rate: f64,
    /// Mean seconds of a burst.
    burst: f64,
    now: f64,
    high: bool,
    turns: f64,
}

impl Moments {
    pub(crate) fn new(bursty: bool, rate: f64, burst: f64, seed: u64) -> Self {
        let turns = if bursty { 0.0 } else { f64::INFINITY };
        Self { random: Random::new(seed, 1), bursty, rate, burst, now: 0.0, high: true, turns }
    }

    pub(crate) fn next(&mut self) -> f64 {
        loop {
            let rate = match (self.bursty, self.high) {
                (false, _) => self.rate,
                (true, true) => 3.0 * self.rate,
                (true, false) => self.rate / 3.0,
            };
            let next = self.now + self.random.exponential(rate.recip());
            if next <= self.turns {
                self.now = next;
                return next;
            }
            self.now = self.turns;
            self.high = !self.high;
            let lasts = if self.high { self.burst } else { 3.0 * self.burst };
            self.turns = self.now + self.random.exponential(lasts);
        }
    }
}
