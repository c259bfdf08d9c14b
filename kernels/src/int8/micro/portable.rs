//! The inner loop in plain Rust: what any other instruction set is tested against, and what runs where there is none.

use super::{LANES, MicroKernels, OFFSET, QUAD, Tile};
use crate::int8::rows::unpack;

pub(super) const KERNELS: MicroKernels =
    MicroKernels { tiles: &[tile::<1>, tile::<2>, tile::<3>, tile::<4>] };

fn tile<const N: usize>(tile: Tile<'_>) {
    let mut sums = [[0; LANES]; N];
    for (quads, line) in tile.rows.quads.as_chunks::<N>().0.iter().zip(tile.lines) {
        for (sums, quad) in sums.iter_mut().zip(quads) {
            let numbers = unpack(*quad);
            for (sum, weights) in sums.iter_mut().zip(line.0.as_chunks::<QUAD>().0) {
                *sum += (0..QUAD).map(|at| i32::from(numbers[at]) * i32::from(weights[at])).sum::<i32>();
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        let out = &mut tile.out[row * tile.out_step..][..LANES];
        let (offset, unit) = (OFFSET * tile.rows.sums[row], tile.rows.units[row]);
        for (lane, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
            *out = (sum - offset) as f32 * (unit * tile.panel.units[lane]) + tile.panel.bias[lane];
        }
    }
}
