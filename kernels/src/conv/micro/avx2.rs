//! The micro-kernel with AVX2 and FMA: up to 6 x 16 sums in twelve registers.

use std::arch::x86_64::*;

use super::{LANES, MicroKernels, ROWS, Tile};

/// Floats of a register.
const WIDTH: usize = 8;

/// Floats of a cache line.
const LINE: usize = 16;

/// Depth between two prefetches; the loop over it is unrolled.
const STRETCH: usize = 8;

/// Only for CPUs that have both extensions, which is what `Isa::Avx2` stands for.
pub(super) const KERNELS: MicroKernels =
    MicroKernels { tiles: [tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<ROWS>] };

/// # Safety
/// As [`super::TileFn`], for `N` rows; only reachable through [`KERNELS`].
unsafe fn tile<const N: usize>(t: &Tile) {
    // SAFETY: the caller vouches for the pointers, `KERNELS` for the CPU.
    unsafe { tile_avx2::<N>(t) }
}

/// # Safety
/// As [`super::TileFn`], for `N` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const N: usize>(t: &Tile) {
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for r in 0..N {
        // The results' lines come while the sums are made. A prefetch may be of any address.
        _mm_prefetch::<_MM_HINT_T0>(t.out.wrapping_add(r * t.out_step).cast());
    }
    let (mut panel, mut ahead) = (t.panel, t.ahead.start);
    let lines = (t.ahead.end as usize - t.ahead.start as usize) / (LINE * size_of::<f32>());
    let stretches = t.taps * (t.depth / STRETCH);
    // A division costs a good part of a small tile.
    let lines_a_stretch = if lines <= stretches { 1 } else { lines / stretches.max(1) + 1 };
    for tap in 0..t.taps {
        // SAFETY: `rows` has `N` pointers a tap.
        let mut rows: [*const f32; N] = std::array::from_fn(|r| unsafe { *t.rows.add(tap * t.row_step + r) });
        for _ in 0..t.depth / STRETCH {
            for _ in 0..lines_a_stretch {
                if ahead >= t.ahead.end {
                    break;
                }
                _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                ahead = ahead.wrapping_add(LINE);
            }
            // SAFETY: rows and panel go on for `STRETCH` more.
            unsafe { stretch::<N, STRETCH>(&mut sums, &mut rows, &mut panel) };
        }
        for _ in 0..t.depth % STRETCH {
            // SAFETY: rows and panel go on for one more.
            unsafe { stretch::<N, 1>(&mut sums, &mut rows, &mut panel) };
        }
    }
    // SAFETY: the sums are those of `t`.
    unsafe { finish(t, &sums) };
}

/// Adds `LENGTH` products to each sum and moves on.
///
/// # Safety
/// Each row is good for `LENGTH` floats, the panel for as many times `LANES`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn stretch<const N: usize, const LENGTH: usize>(
    sums: &mut [[__m256; 2]; N],
    rows: &mut [*const f32; N],
    panel: &mut *const f32,
) {
    for k in 0..LENGTH {
        // SAFETY: `k < LENGTH`.
        let weights = unsafe {
            let at = panel.add(k * LANES);
            [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(WIDTH))]
        };
        for (row, sums) in rows.iter().zip(&mut *sums) {
            // SAFETY: as above.
            let x = unsafe { _mm256_broadcast_ss(&*row.add(k)) };
            sums[0] = _mm256_fmadd_ps(x, weights[0], sums[0]);
            sums[1] = _mm256_fmadd_ps(x, weights[1], sums[1]);
        }
    }
    // SAFETY: at most one past the end of each.
    unsafe {
        *panel = panel.add(LENGTH * LANES);
        rows.iter_mut().for_each(|row| *row = row.add(LENGTH));
    }
}

/// # Safety
/// As [`super::TileFn`], for `N` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn finish<const N: usize>(t: &Tile, sums: &[[__m256; 2]; N]) {
    let end = &t.finish;
    let (low, high) = (_mm256_set1_ps(end.low), _mm256_set1_ps(end.high));
    for half in 0..2 {
        let lane = half * WIDTH;
        // SAFETY: where not null, bias has `LANES` floats.
        let bias = unsafe {
            if end.bias.is_null() { _mm256_setzero_ps() } else { _mm256_loadu_ps(end.bias.add(lane)) }
        };
        for (r, sums) in sums.iter().enumerate() {
            let mut value = _mm256_add_ps(sums[half], bias);
            if !end.addend.is_null() {
                // SAFETY: not null, so it has `LANES` floats in each row.
                let addend = unsafe { _mm256_loadu_ps(end.addend.add(r * end.addend_step + lane)) };
                value = _mm256_add_ps(value, addend);
            }
            // Both return their second operand when one is NaN.
            let value = _mm256_min_ps(high, _mm256_max_ps(low, value));
            // SAFETY: the output has `LANES` floats in each of `N` rows.
            unsafe { _mm256_storeu_ps(t.out.add(r * t.out_step + lane), value) };
        }
    }
}
