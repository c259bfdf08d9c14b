//! A fully connected layer in 8 bits over any number of rows, on the calling thread. It owns the packed weights and the
//! walk over them; rounding rows is `rows`' and multiplying `micro`'s.

use super::isa::Isa;
use super::micro::{LANES, Line, MOST_ROWS, MicroKernels, OFFSET, Panel, QUAD, Tile};
use super::rows::{LARGEST, Rows};

/// Numbers of rounded input that stay in the second level cache while all weights pass by.
const INPUT_BLOCK: usize = 256 << 10;

/// Most inputs: more products of 8 bits need not fit a sum of 32.
const MOST_INPUTS: usize = 1 << 16;

/// Weights that are not those of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("weights and bias are not those of a layer with 1 to {MOST_INPUTS} inputs")]
pub struct WeightsError;

/// `y = W x + b` for rows `x`, both sides of the product rounded to 8 bits.
#[derive(Debug, Clone)]
pub struct Dense {
    inputs: usize,
    /// `[ceil(outputs / 16), ceil(inputs / 4)]`.
    lines: Vec<Line>,
    panels: Vec<Panel>,
    isa: Isa,
}

impl Dense {
    /// Rounds and packs `weight`, `[outputs, inputs]` row-major, and packs `bias`, `[outputs]`. All are finite.
    ///
    /// # Errors
    /// [`WeightsError`] when lengths do not agree or a row is too long.
    pub fn pack(weight: &[f32], bias: &[f32], inputs: usize) -> Result<Self, WeightsError> {
        let fits = (1..=MOST_INPUTS).contains(&inputs) && !bias.is_empty();
        if !fits || bias.len().checked_mul(inputs) != Some(weight.len()) {
            return Err(WeightsError);
        }
        let groups = inputs.div_ceil(QUAD);
        let panels = bias.len().div_ceil(LANES);
        let mut packed = Self {
            inputs,
            lines: vec![Line::ZEROS; panels * groups],
            panels: vec![Panel::default(); panels],
            isa: Isa::best(),
        };
        for (output, (weights, bias)) in weight.chunks_exact(inputs).zip(bias).enumerate() {
            let (panel, lane) = (output / LANES, output % LANES);
            let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            let unit = if largest > 0.0 { largest / LARGEST } else { 1.0 };
            packed.panels[panel].units[lane] = unit;
            packed.panels[panel].bias[lane] = *bias;
            let lines = &mut packed.lines[panel * groups..][..groups];
            for (line, weights) in lines.iter_mut().zip(weights.chunks(QUAD)) {
                let places = line.0[lane * QUAD..].iter_mut().zip(weights);
                places.for_each(|(place, weight)| *place = ((weight / unit).round() + OFFSET as f32) as u8);
            }
        }
        Ok(packed)
    }

    /// The same with the instructions of `isa`.
    #[must_use]
    pub fn with(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// Numbers of a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers of a result: the outputs packed, filled up with zeros to a multiple of 16.
    pub fn outputs(&self) -> usize {
        self.panels.len() * LANES
    }

    /// Multiplies `rows`, `[n, inputs]`, into `out`, `[n, outputs]`. A row's result does not depend on its company; if the
    /// row holds something that is not finite, no result of it is a number.
    ///
    /// # Panics
    /// The lengths are not those of as many rows.
    pub fn apply(&self, rows: &[f32], space: &mut Rows, out: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let count = rows.len() / inputs;
        assert_eq!(rows.len(), count * inputs, "whole rows");
        assert_eq!(out.len(), count * outputs, "room for as many results");
        let block = (INPUT_BLOCK / inputs).max(MOST_ROWS);
        for (rows, out) in rows.chunks(block * inputs).zip(out.chunks_mut(block * outputs)) {
            self.block(rows, space, out);
        }
    }

    /// Panel by panel.
    fn block(&self, rows: &[f32], space: &mut Rows, out: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let kernels = MicroKernels::of(self.isa);
        let tiles = kernels.cut(rows.len() / inputs);
        space.round(rows, inputs, tiles.clone(), self.isa);
        let lines = self.lines.chunks_exact(inputs.div_ceil(QUAD));
        for (at, (panel, lines)) in self.panels.iter().zip(lines).enumerate() {
            for (first, length) in tiles.clone() {
                let rows = space.tile(first, length, inputs);
                let out = &mut out[first * outputs + at * LANES..];
                kernels.run(Tile { rows, panel, lines, out, out_step: outputs });
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn apply(layer: &Dense, rows: &[f32]) -> Vec<f32> {
        let mut out = vec![7.0; rows.len() / layer.inputs() * layer.outputs()];
        layer.apply(rows, &mut Rows::default(), &mut out);
        out
    }

    fn bits(numbers: &[f32]) -> Vec<u32> {
        numbers.iter().map(|number| number.to_bits()).collect()
    }

    /// The product as its definition has it, in whole numbers that cannot overflow.
    fn definition(weight: &[f32], bias: &[f32], rows: &[f32], inputs: usize) -> Vec<f32> {
        let round = |row: &[f32]| -> (Vec<i64>, f32) {
            let largest = row.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
            let numbers = row.iter().map(|number| (number * (127.0 / largest)).round_ties_even() as i64);
            (numbers.collect(), largest / 127.0)
        };
        let weights: Vec<_> = weight
            .chunks_exact(inputs)
            .map(|row| {
                let unit = row.iter().fold(0.0_f32, |largest, number| largest.max(number.abs())) / 127.0;
                (row.iter().map(|number| (number / unit).round() as i64).collect::<Vec<_>>(), unit)
            })
            .collect();
        let products = |row: &[f32]| {
            let (row, row_unit) = round(row);
            let one = |((weights, unit), bias): (&(Vec<i64>, f32), &f32)| {
                let sum: i64 = weights.iter().zip(&row).map(|(weight, number)| weight * number).sum();
                sum as f32 * (row_unit * unit) + bias
            };
            let mut results: Vec<f32> = weights.iter().zip(bias).map(one).collect();
            results.resize(results.len().next_multiple_of(LANES), 0.0);
            results
        };
        rows.chunks_exact(inputs).flat_map(products).collect()
    }

    proptest! {
        #[test]
        fn every_instruction_set_computes_the_definition_to_the_last_bit(
            inputs in 1..200_usize, outputs in 1..50_usize, count in 0..40_usize, seed: u32,
        ) {
            let (weight, bias) = (numbers(outputs * inputs, seed), numbers(outputs, seed ^ 1));
            let rows = numbers(count * inputs, seed ^ 2);
            let expected = bits(&definition(&weight, &bias, &rows, inputs));
            let layer = Dense::pack(&weight, &bias, inputs).unwrap();
            for isa in Isa::available() {
                let layer = layer.clone().with(isa);
                let found = bits(&apply(&layer, &rows));
                prop_assert_eq!(&found, &expected, "{}", isa.name());
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_result_it_has_in_company() {
        let (inputs, outputs, count) = (3000, 33, 200);
        assert!(count * inputs > 2 * INPUT_BLOCK, "several blocks");
        let layer = Dense::pack(&numbers(outputs * inputs, 3), &numbers(outputs, 4), inputs).unwrap();
        let rows = numbers(count * inputs, 5);
        let together = bits(&apply(&layer, &rows));
        for (row, together) in rows.chunks_exact(inputs).zip(together.chunks_exact(layer.outputs())) {
            assert_eq!(bits(&apply(&layer, row)), together);
        }
    }

    #[test]
    fn the_largest_sums_fit() {
        let weight = vec![-1.0; MOST_INPUTS];
        let rows: Vec<f32> = [1.0, -1.0].iter().flat_map(|number| vec![*number; MOST_INPUTS]).collect();
        for isa in Isa::available() {
            let layer = Dense::pack(&weight, &[0.0], MOST_INPUTS).unwrap().with(isa);
            let out = apply(&layer, &rows);
            let apart = |found: f32, expected: f32| (found - expected).abs() / MOST_INPUTS as f32;
            assert!(apart(out[0], -65_536.0) < 1e-6 && apart(out[LANES], 65_536.0) < 1e-6, "{}", isa.name());
        }
    }

    #[test]
    fn rounding_costs_a_percent() {
        let (inputs, outputs, count) = (384, 64, 30);
        let (weight, bias, rows) =
            (numbers(outputs * inputs, 1), vec![0.0; outputs], numbers(count * inputs, 2));
        let exact = crate::conv::Dense::pack(&weight, &bias, inputs).unwrap();
        let mut expected = vec![0.0; count * outputs];
        exact.apply(&rows, &mut expected);
        let found = apply(&Dense::pack(&weight, &bias, inputs).unwrap(), &rows);
        let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|n| n * n).sum::<f32>();
        let error = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        let relative = (error / square(&mut expected.iter().copied())).sqrt();
        assert!((0.001..0.01).contains(&relative), "{relative}");
    }

    #[test]
    fn what_is_not_finite_stays_in_its_row() {
        let layer = Dense::pack(&[1.0, 2.0, 0.0, 0.0], &[0.5, 0.25], 2).unwrap();
        for isa in Isa::available() {
            let out = apply(&layer.clone().with(isa), &[1.0, f32::NAN, 0.0, 0.0, 2.0, 1.0]);
            assert!(out[..2].iter().all(|number| number.is_nan()), "{}", isa.name());
            assert_eq!(out[LANES..][..2], [0.5, 0.25]);
            assert!((out[2 * LANES] - 4.5).abs() < 0.05 && out[2 * LANES + 1] == 0.25);
        }
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        assert!(Dense::pack(&[0.0; 6], &[0.0; 2], 3).is_ok());
        for (weights, outputs, inputs) in
            [(5, 2, 3), (6, 3, 3), (0, 0, 1), (0, 1, 0), (1, 1, usize::MAX), (1 << 17, 1, 1 << 17)]
        {
            let refused = Dense::pack(&vec![0.0; weights], &vec![0.0; outputs], inputs);
            assert_eq!(refused.unwrap_err(), WeightsError);
        }
    }
}
