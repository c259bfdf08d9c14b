//! The micro-kernel in plain Rust: what any other instruction set is tested against, and what runs where there is none.

use super::{LANES, MicroKernels, Tile};

pub(super) const KERNELS: MicroKernels =
    MicroKernels { tiles: &[tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>] };

/// # Safety
/// As [`super::TileFn`], for `N` rows.
unsafe fn tile<const N: usize>(t: &Tile) {
    let mut sums = [[0.0_f32; LANES]; N];
    for tap in 0..t.taps {
        for k in 0..t.depth {
            // SAFETY: `panel` holds `taps * depth` groups of `LANES` floats.
            let weights = unsafe { &*t.panel.add((tap * t.depth + k) * LANES).cast::<[f32; LANES]>() };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: `rows` has `N` pointers a tap, each good for `depth` floats.
                let x = unsafe { *(*t.rows.add(tap * t.row_step + r)).add(k) };
                sums.iter_mut().zip(weights).for_each(|(sum, w)| *sum += x * w);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (lane, &sum) in sums.iter().enumerate() {
            // SAFETY: bias has `LANES` floats, addend and output `LANES` in each of `N` rows.
            unsafe { *t.out.add(r * t.out_step + lane) = finish(t, sum, r, lane) };
        }
    }
}

/// # Safety
/// As [`super::TileFn`]; `r` and `lane` lie in the tile.
unsafe fn finish(t: &Tile, mut value: f32, r: usize, lane: usize) -> f32 {
    let end = &t.finish;
    if !end.bias.is_null() {
        // SAFETY: not null, so it has `LANES` floats.
        value += unsafe { *end.bias.add(lane) };
    }
    if !end.addend.is_null() {
        // SAFETY: not null, so it has `LANES` floats in each row.
        value += unsafe { *end.addend.add(r * end.addend_step + lane) };
    }
    // Comparisons rather than `f32::max`, so that a NaN passes.
    let value = if value < end.low { end.low } else { value };
    if value > end.high { end.high } else { value }
}
