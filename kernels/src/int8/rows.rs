//! Rows of floats rounded to 8 bits, as the inner loop reads them: tile by tile, in a tile four numbers of each row after the
//! other, so that a tile is one stream whatever the rows' length. It owns the rounding and that layout.
#![allow(unsafe_code)]

use super::isa::{Isa, Set};
use super::micro::{Cut, QUAD, Wide};

/// Largest whole number that stands for a float.
pub(super) const LARGEST: f32 = 127.0;

/// Rows whose largest magnitude is smaller count as zero: the reciprocal of their unit would be no finite number.
const TINY: f32 = 1e-30;

/// Adding 1.5 * 2^23 rounds to a whole number, halves to even, which then stands in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;

/// Rounded rows: working memory of one thread.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Tile by tile `[inputs / 4, rows]` of four numbers each, the last four of a row filled up with zeros.
    quads: Vec<i32>,
    /// The same in 16 bits; this or `quads` is empty.
    wide: Vec<Wide>,
    /// What one is worth in each row.
    units: Vec<f32>,
    /// The sum of each row's whole numbers.
    sums: Vec<i32>,
    /// One row before it is laid out.
    row: Vec<i8>,
}

/// What the rows of a tile are.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileRows<'a> {
    /// `[inputs / 4, rows]`; empty where the instruction set wants them wide.
    pub(super) quads: &'a [i32],
    /// The same for an instruction set that does.
    pub(super) wide: &'a [Wide],
    pub(super) units: &'a [f32],
    pub(super) sums: &'a [i32],
}

impl Rows {
    /// Rounds `rows`, `[n, inputs]`, and lays them out for `cut`.
    pub(super) fn round(&mut self, rows: &[f32], inputs: usize, cut: Cut, isa: Isa) {
        let groups = inputs.div_ceil(QUAD);
        let count = rows.len() / inputs;
        let wide = isa.wants_wide();
        self.quads.resize(if wide { 0 } else { count * groups }, 0);
        self.wide.resize(if wide { count * groups } else { 0 }, Wide::default());
        self.units.resize(count, 0.0);
        self.sums.resize(count, 0);
        self.row.clear();
        self.row.resize(groups * QUAD, 0);
        for (first, length) in cut {
            for at in 0..length {
                let row = &rows[(first + at) * inputs..][..inputs];
                (self.units[first + at], self.sums[first + at]) =
                    round_row(isa, row, &mut self.row[..inputs]);
                let quads = self.row.as_chunks().0;
                if wide {
                    lay(&mut self.wide[first * groups + at..], length, quads, widen);
                } else {
                    lay(&mut self.quads[first * groups + at..], length, quads, pack);
                }
            }
        }
    }

    /// Those from `first` on that make a tile of `length`.
    pub(super) fn tile(&self, first: usize, length: usize, inputs: usize) -> TileRows<'_> {
        let groups = inputs.div_ceil(QUAD);
        let range = first * groups..(first + length) * groups;
        let (quads, wide): (&[i32], &[Wide]) =
            if self.wide.is_empty() { (&self.quads[range], &[]) } else { (&[], &self.wide[range]) };
        TileRows { quads, wide, units: &self.units[first..][..length], sums: &self.sums[first..][..length] }
    }
}

/// Writes each of `quads`, in the form that `form` gives it, `step` places after the one before.
fn lay<T>(places: &mut [T], step: usize, quads: &[[i8; QUAD]], form: impl Fn([i8; QUAD]) -> T) {
    places.iter_mut().step_by(step).zip(quads).for_each(|(place, quad)| *place = form(*quad));
}

/// Two pairs of 16 bits: the first and the third number, the second and the fourth.
fn widen([a, b, c, d]: [i8; QUAD]) -> Wide {
    let pair = |low: i8, high: i8| i32::from(high) << 16 | i32::from(low) & 0xffff;
    [pair(a, c), pair(b, d)]
}

/// Four numbers in the order of memory.
fn pack(quad: [i8; QUAD]) -> i32 {
    i32::from_ne_bytes(quad.map(|number| number.cast_unsigned()))
}

/// What [`pack`] packed.
pub(super) fn unpack(quad: i32) -> [i8; QUAD] {
    quad.to_ne_bytes().map(u8::cast_signed)
}

/// Rounds a row with the instructions of `isa`: what one is worth, and the sum of the whole numbers.
fn round_row(isa: Isa, row: &[f32], out: &mut [i8]) -> (f32, i32) {
    match isa.0 {
        Set::Portable => round_numbers(row, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these exists only where the CPU has AVX2.
        Set::Avx2 | Set::AvxVnni => unsafe { round_numbers_avx2(row, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of these exists only where the CPU has AVX-512.
        Set::Avx512Vnni => unsafe { round_numbers_avx512(row, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn round_numbers_avx2(row: &[f32], out: &mut [i8]) -> (f32, i32) {
    round_numbers(row, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn round_numbers_avx512(row: &[f32], out: &mut [i8]) -> (f32, i32) {
    round_numbers(row, out)
}

/// Written so that it vectorises. A row that holds something not finite has a unit that is no number, and so have all its
/// results.
#[inline(always)]
fn round_numbers(row: &[f32], out: &mut [i8]) -> (f32, i32) {
    // Magnitudes are in the order of their bits, and what is not finite comes last.
    let largest = row.iter().fold(0, |largest, number| number.abs().to_bits().max(largest));
    let largest = f32::from_bits(largest);
    if largest < TINY {
        out.fill(0);
        return (0.0, 0);
    }
    if !largest.is_finite() {
        out.fill(0);
        return (f32::NAN, 0);
    }
    let scale = LARGEST / largest;
    let mut sum = 0;
    for (out, number) in out.iter_mut().zip(row) {
        *out = (number * scale + ROUNDER).to_bits() as i8;
        sum += i32::from(*out);
    }
    (largest / LARGEST, sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::micro::MicroKernels;

    #[test]
    fn numbers_are_rounded_to_the_nearest_of_their_row() {
        let row = [127.0, -127.0, 0.5, 1.5, -0.5, -2.5, 63.4, -63.6, 0.0];
        for isa in Isa::available() {
            let mut out = [1; 9];
            assert_eq!(round_row(isa, &row, &mut out), (1.0, -1), "{}", isa.name());
            assert_eq!(out, [127, -127, 0, 2, 0, -2, 63, -64, 0]);
            let half: Vec<f32> = row.iter().map(|number| number / 254.0).collect();
            assert_eq!(round_row(isa, &half, &mut out).0, 0.5 / 127.0);
            assert_eq!(out[..2], [127, -127]);
        }
    }

    #[test]
    fn rows_without_a_unit_are_zero_or_no_number() {
        for isa in Isa::available() {
            let mut out = [1; 3];
            assert_eq!(round_row(isa, &[0.0, -1e-38, f32::MIN_POSITIVE], &mut out), (0.0, 0));
            assert_eq!(out, [0; 3]);
            for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(round_row(isa, &[1.0, odd, 2.0], &mut out).0.is_nan());
            }
            assert!(round_row(isa, &[f32::MAX, f32::MIN, 1e-29], &mut out).0.is_finite());
            assert_eq!(out, [127, -127, 0]);
        }
    }

    #[test]
    fn a_tile_has_its_rows_side_by_side() {
        Isa::available().for_each(side_by_side);
    }

    /// A quad as four numbers, from either form.
    fn numbers(tile: TileRows<'_>, at: usize) -> [i8; QUAD] {
        match tile.wide.get(at) {
            Some([even, odd]) => [*even, *odd, even >> 16, odd >> 16].map(|number| number as i8),
            None => unpack(tile.quads[at]),
        }
    }

    fn side_by_side(isa: Isa) {
        let (count, inputs, groups) = (15, 9, 3);
        let number = |row: usize, at: usize| ((row * 31 + at * 17) % 255) as f32 - 127.0;
        // The last number of each row makes its unit one.
        let value = |row, at| if at == inputs - 1 { 127.0 } else { number(row, at) };
        let floats: Vec<f32> = (0..count).flat_map(|row| (0..inputs).map(move |at| value(row, at))).collect();
        let mut rows = Rows::default();
        let cut = MicroKernels::of(isa).cut(count);
        rows.round(&floats, inputs, cut.clone(), isa);
        let mut seen = 0;
        for (first, length) in cut {
            let tile = rows.tile(first, length, inputs);
            for at in 0..length {
                let found: Vec<i8> =
                    (0..groups).flat_map(|group| numbers(tile, group * length + at)).collect();
                let mut expected: Vec<i8> = (0..inputs).map(|i| value(first + at, i) as i8).collect();
                assert_eq!(tile.sums[at], expected.iter().map(|number| i32::from(*number)).sum::<i32>());
                expected.resize(groups * QUAD, 0);
                assert_eq!((found, tile.units[at]), (expected, 1.0));
                seen += 1;
            }
        }
        assert_eq!(seen, count);
    }
}
