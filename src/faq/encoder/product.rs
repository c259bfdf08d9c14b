//! Products of a few rows with a large weight matrix that was packed once, and the element-wise steps between them. It
//! owns the layout of the weights and the blocking; what a network is made of is `network`'s. No unsafe code: `pulp`
//! compiles each step for the widest instructions the processor has, and the loops are written so that they vectorise.

use pulp::{NullaryFnOnce, f32x8};

/// Outputs of a panel: two registers of eight.
const LANES: usize = 16;

/// Most rows multiplied at once: six rows of two registers, a weight panel and a broadcast fill sixteen registers.
const ROWS: usize = 6;

/// How steps are compiled on this processor.
#[derive(Debug, Clone, Copy)]
pub(in crate::faq) struct Simd {
    #[cfg(target_arch = "x86_64")]
    wide: Option<pulp::x86::V3>,
}

impl Simd {
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

/// Arithmetic on eight numbers at once.
trait Lanes: Copy {
    fn splat(self, value: f32) -> f32x8;
    /// `a b + c`.
    fn multiply_add(self, a: f32x8, b: f32x8, c: f32x8) -> f32x8;
}

#[cfg(target_arch = "x86_64")]
impl Lanes for pulp::x86::V3 {
    #[inline(always)]
    fn splat(self, value: f32) -> f32x8 {
        self.splat_f32x8(value)
    }

    #[inline(always)]
    fn multiply_add(self, a: f32x8, b: f32x8, c: f32x8) -> f32x8 {
        self.mul_add_f32x8(a, b, c)
    }
}

/// Without such instructions: what the compiler makes of loops over eight.
#[derive(Clone, Copy)]
struct Portable;

impl Lanes for Portable {
    #[inline(always)]
    fn splat(self, value: f32) -> f32x8 {
        pulp::cast([value; 8])
    }

    #[inline(always)]
    fn multiply_add(self, a: f32x8, b: f32x8, c: f32x8) -> f32x8 {
        let [a, b, c]: [[f32; 8]; 3] = [a, b, c].map(pulp::cast);
        pulp::cast::<[f32; 8], f32x8>(std::array::from_fn(|lane| a[lane] * b[lane] + c[lane]))
    }
}

/// The weights of one input for the outputs of a panel.
type Panel = [f32x8; 2];

/// `y = W x + b` for many `x`, packed: panels of [`LANES`] outputs, input by input.
#[derive(Debug, Clone)]
pub(in crate::faq) struct Linear {
    panels: Vec<Panel>,
    bias: Vec<Panel>,
    inputs: usize,
}

impl Linear {
    /// Packs `weight`, one row of `inputs` per output; the number of outputs must divide by [`LANES`].
    pub(in crate::faq) fn pack(weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        assert!(
            bias.len().is_multiple_of(LANES) && weight.len() == bias.len() * inputs,
            "bug: checked on loading"
        );
        let panel = |at: &dyn Fn(usize) -> f32| -> Panel {
            [0, 8].map(|first| pulp::cast::<[f32; 8], f32x8>(std::array::from_fn(|lane| at(first + lane))))
        };
        let mut panels = Vec::with_capacity(weight.len() / LANES);
        for outputs in weight.chunks_exact(LANES * inputs) {
            panels.extend((0..inputs).map(|input| panel(&|output| outputs[output * inputs + input])));
        }
        let bias = bias.chunks_exact(LANES).map(|bias| panel(&|output| bias[output])).collect();
        Self { panels, bias, inputs }
    }

    /// Packs any number of rows of `inputs` without bias.
    pub(in crate::faq) fn pack_rows(rows: &[f32], inputs: usize) -> Self {
        let outputs = (rows.len() / inputs).next_multiple_of(LANES);
        let mut padded = rows.to_vec();
        padded.resize(outputs * inputs, 0.0);
        Self::pack(&padded, &vec![0.0; outputs], inputs)
    }

    /// The first `count` rows that were packed.
    pub(in crate::faq) fn unpack_rows(&self, count: usize) -> Vec<f32> {
        let at = |row: usize, input: usize| {
            let panel: [f32; LANES] = pulp::cast(self.panels[row / LANES * self.inputs + input]);
            panel[row % LANES]
        };
        (0..count).flat_map(|row| (0..self.inputs).map(move |input| at(row, input))).collect()
    }

    /// The length of a result.
    pub(in crate::faq) fn outputs(&self) -> usize {
        self.bias.len() * LANES
    }

    /// Multiplies every row of `rows`; `out` is overwritten, row by row. `blocks` is scratch space.
    pub(in crate::faq) fn apply(&self, simd: Simd, rows: &[f32], blocks: &mut Vec<f32>, out: &mut Vec<f32>) {
        let count = rows.len() / self.inputs;
        let heights = heights(count);
        interleave(rows, self.inputs, heights.clone(), blocks);
        out.clear();
        out.resize(count * self.outputs(), 0.0);
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = simd.wide {
            return wide.vectorize(
                #[inline(always)]
                || self.multiply(wide, blocks, heights, out),
            );
        }
        let _ = simd;
        self.multiply(Portable, blocks, heights, out);
    }

    /// Panel by panel, so that each weight comes from memory once.
    #[inline(always)]
    fn multiply(
        &self,
        lanes: impl Lanes,
        blocks: &[f32],
        heights: impl Iterator<Item = usize> + Clone,
        out: &mut [f32],
    ) {
        let outputs = self.outputs();
        for (panel, weights) in self.panels.chunks_exact(self.inputs).enumerate() {
            let bias = self.bias[panel];
            let mut row = 0;
            for height in heights.clone() {
                let block = &blocks[row * self.inputs..][..height * self.inputs];
                let out = &mut out[row * outputs + panel * LANES..];
                match height {
                    1 => multiply_block::<1>(lanes, block, weights, bias, out, outputs),
                    2 => multiply_block::<2>(lanes, block, weights, bias, out, outputs),
                    3 => multiply_block::<3>(lanes, block, weights, bias, out, outputs),
                    4 => multiply_block::<4>(lanes, block, weights, bias, out, outputs),
                    5 => multiply_block::<5>(lanes, block, weights, bias, out, outputs),
                    _ => multiply_block::<ROWS>(lanes, block, weights, bias, out, outputs),
                }
                row += height;
            }
        }
    }
}

/// `R` rows, interleaved input by input, times one panel.
#[inline(always)]
fn multiply_block<const R: usize>(
    lanes: impl Lanes,
    block: &[f32],
    weights: &[Panel],
    bias: Panel,
    out: &mut [f32],
    outputs: usize,
) {
    let mut sums = [bias; R];
    for (inputs, [low, high]) in block.as_chunks::<R>().0.iter().zip(weights) {
        for row in 0..R {
            let input = lanes.splat(inputs[row]);
            sums[row][0] = lanes.multiply_add(input, *low, sums[row][0]);
            sums[row][1] = lanes.multiply_add(input, *high, sums[row][1]);
        }
    }
    for (row, sum) in sums.into_iter().enumerate() {
        let sum: [f32; LANES] = pulp::cast(sum);
        out[row * outputs..][..LANES].copy_from_slice(&sum);
    }
}

/// `count` rows in as few blocks of at most [`ROWS`] as will do, as even as can be.
fn heights(count: usize) -> impl Iterator<Item = usize> + Clone {
    let blocks = count.div_ceil(ROWS).max(1);
    (0..blocks)
        .map(move |block| (block + 1) * count / blocks - block * count / blocks)
        .filter(|height| *height > 0)
}

/// Lays each block of rows out input by input.
fn interleave(rows: &[f32], inputs: usize, heights: impl Iterator<Item = usize>, blocks: &mut Vec<f32>) {
    blocks.clear();
    let mut row = 0;
    for height in heights {
        let block = &rows[row * inputs..][..height * inputs];
        for input in 0..inputs {
            blocks.extend((0..height).map(|row| block[row * inputs + input]));
        }
        row += height;
    }
}

/// Adds `added` and brings each row to mean 0 and variance 1, then scales and shifts it.
pub(in crate::faq) fn add_and_normalise(simd: Simd, rows: &mut [f32], added: &[f32], norm: &Norm) {
    let width = norm.scale.len();
    simd.run(
        #[inline(always)]
        || {
            for (row, added) in rows.chunks_exact_mut(width).zip(added.chunks_exact(width)) {
                row.iter_mut().zip(added).for_each(|(value, added)| *value += added);
                normalise(row, norm);
            }
        },
    );
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
    simd.run(
        #[inline(always)]
        || {
            values
                .iter_mut()
                .for_each(|value| *value *= 0.5 * (1.0 + erf(*value * std::f32::consts::FRAC_1_SQRT_2)))
        },
    );
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
    fn products_are_the_textbook_ones() {
        let (inputs, outputs) = (37, 48);
        let (weight, bias) = (numbers(inputs * outputs, 1), numbers(outputs, 2));
        let linear = Linear::pack(&weight, &bias, inputs);
        let (mut blocks, mut out) = (Vec::new(), Vec::new());
        for rows in 0..20 {
            let x = numbers(rows * inputs, 3);
            linear.apply(Simd::detect(), &x, &mut blocks, &mut out);
            assert_eq!(out.len(), rows * outputs);
            for (at, found) in out.iter().enumerate() {
                let (row, output) = (at / outputs, at % outputs);
                let terms = (0..inputs)
                    .map(|i| f64::from(weight[output * inputs + i]) * f64::from(x[row * inputs + i]));
                let expected = f64::from(bias[output]) + terms.sum::<f64>();
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-5,
                    "{rows} rows, row {row}, output {output}"
                );
            }
        }
    }

    #[test]
    fn rows_come_out_as_they_went_in() {
        let rows = numbers(37 * 5, 4);
        assert_eq!(Linear::pack_rows(&rows, 5).unpack_rows(37), rows);
    }

    #[test]
    fn blocks_are_few_and_even() {
        for count in 0..100 {
            let heights: Vec<usize> = heights(count).collect();
            assert_eq!(heights.iter().sum::<usize>(), count);
            assert_eq!(heights.len(), count.div_ceil(ROWS));
            let (least, most) = (heights.iter().min(), heights.iter().max());
            assert!(count == 0 || most.unwrap() - least.unwrap() <= 1);
        }
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
