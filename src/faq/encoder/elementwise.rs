//! The steps between the products of a network: sums, normalisation, activation. What a network is made of is
//! `network`'s. No unsafe code: `pulp` compiles each step for the widest instructions the processor has, and the loops are
//! written so that they vectorise.

use pulp::NullaryFnOnce;

/// Running sums of a sum that vectorises.
const LANES: usize = 16;

/// How steps are compiled on this processor.
#[derive(Debug, Clone, Copy)]
pub(in crate::faq) struct Simd {
    #[cfg(target_arch = "x86_64")]
    wide: Option<pulp::x86::V3>,
}

impl Simd {
    /// What every processor has.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self {
        #[cfg(target_arch = "x86_64")]
        wide: None,
    };

    /// AVX2 with fused multiplication and addition where the processor has them.
    pub(in crate::faq) fn detect() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            wide: pulp::x86::V3::try_new(),
        }
    }

    /// Runs `step`, compiled for these instructions if it is inlined. A closure that does much is not; something whose
    /// `call` is marked `inline(always)` is.
    #[inline(always)]
    pub(in crate::faq) fn run<R>(self, step: impl NullaryFnOnce<Output = R>) -> R {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = self.wide {
            return wide.vectorize(step);
        }
        step.call()
    }
}

/// Adds `added` and brings each row to mean 0 and variance 1, then scales and shifts it.
pub(in crate::faq) fn add_and_normalise(simd: Simd, rows: &mut [f32], added: &[f32], norm: &Norm) {
    simd.run(AddAndNormalise { rows, added, norm });
}

struct AddAndNormalise<'a> {
    rows: &'a mut [f32],
    added: &'a [f32],
    norm: &'a Norm,
}

impl NullaryFnOnce for AddAndNormalise<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.norm.scale.len();
        for (row, added) in self.rows.chunks_exact_mut(width).zip(self.added.chunks_exact(width)) {
            row.iter_mut().zip(added).for_each(|(value, added)| *value += added);
            normalise(row, self.norm);
        }
    }
}

/// Layer normalisation (Ba, Kiros and Hinton 2016).
#[derive(Debug, Clone)]
pub(in crate::faq) struct Norm {
    pub(in crate::faq) scale: Vec<f32>,
    pub(in crate::faq) shift: Vec<f32>,
    pub(in crate::faq) epsilon: f32,
}

#[inline(always)]
fn normalise(row: &mut [f32], norm: &Norm) {
    let mean = sum(row, |value| value) / row.len() as f32;
    let variance = sum(row, |value| (value - mean) * (value - mean)) / row.len() as f32;
    let unit = 1.0 / (variance + norm.epsilon).sqrt();
    for ((value, scale), shift) in row.iter_mut().zip(&norm.scale).zip(&norm.shift) {
        *value = (*value - mean) * unit * scale + shift;
    }
}

/// The sum of `term` over a row, in [`LANES`] running sums so that it vectorises.
#[inline(always)]
pub(in crate::faq) fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for values in whole {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += term(*value));
    }
    sums.iter().sum::<f32>() + rest.iter().map(|value| term(*value)).sum::<f32>()
}

/// `x Phi(x)`, the Gaussian error linear unit (Hendrycks and Gimpel 2016).
pub(in crate::faq) fn gelu(simd: Simd, values: &mut [f32]) {
    simd.run(Gelu(values));
}

struct Gelu<'a>(&'a mut [f32]);

impl NullaryFnOnce for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for value in self.0 {
            *value *= 0.5 * (1.0 + erf(*value * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// The error function within 5e-7 (Abramowitz and Stegun 1964, 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let polynomial =
        ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_7) * t - 0.284_496_72) * t + 0.254_829_6) * t;
    (1.0 - polynomial * exp(-x * x)).copysign(x)
}

/// `e^x` for `x <= 0` within 2e-7 of its value: `2^k e^r` with `|r| <= ln 2 / 2` and the coefficients of Cephes' `expf`.
/// Below -87, where the result is no normal number, it is `e^-87`.
#[inline(always)]
pub(in crate::faq) fn exp(x: f32) -> f32 {
    let x = x.max(-87.0);
    // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let k = shifted - 12_582_912.0;
    let r = (x - k * 0.693_359_4) + k * 2.121_944_4e-4;
    let polynomial = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
        + 1.666_666_5e-1)
        * r
        + 0.5;
    let mantissa = polynomial * r * r + r + 1.0;
    mantissa * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn exp_and_erf_are_close() {
        for step in 0..=9000_u16 {
            let x = f64::from(-f32::from(step) / 100.0);
            let (found, expected) = (f64::from(exp(x as f32)), x.max(-87.0).exp());
            assert!((found - expected).abs() <= 1e-6 * expected, "e^{x}: {found}");
        }
        // Abramowitz and Stegun 1964, table 7.1.
        for (x, expected) in
            [(0.0, 0.0), (0.1, 0.112_462_9), (0.5, 0.520_5), (1.0, 0.842_700_8), (2.0, 0.995_322_3)]
        {
            assert!((erf(x) - expected).abs() < 1e-6 && (erf(-x) + expected).abs() < 1e-6, "erf {x}");
        }
    }

    #[test]
    fn normalised_rows_have_mean_and_variance_of_the_norm() {
        let norm = Norm { scale: vec![2.0; 40], shift: vec![1.0; 40], epsilon: 1e-12 };
        let mut rows = numbers(80, 5);
        add_and_normalise(Simd::detect(), &mut rows, &numbers(80, 6), &norm);
        for row in rows.chunks_exact(40) {
            let mean = row.iter().sum::<f32>() / 40.0;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 40.0;
            assert!((mean - 1.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4);
        }
    }
}
