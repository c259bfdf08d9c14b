//! The micro-kernel in vector registers, written once over [`Register`] and compiled for each instruction set: up to 6 x 16
//! sums in twelve of AVX2's 16 registers, up to 12 x 16 in twelve of AVX-512's 32.
//!
//! More than twelve rows would leave no general register for a row's pointer. A tile two panels wide fills more of the
//! registers, and measured no faster on a Zen 4: there a panel's loads already hide behind the multiplications.

use std::arch::x86_64::{__m256, __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

use super::{LANES, MicroKernels, Tile, TileFn};
use crate::conv::lanes::Lanes as Register;

/// Floats of a cache line.
const LINE: usize = 16;

/// Depth between two prefetches; the loop over it is unrolled.
const STRETCH: usize = 8;

/// Compiles the kernel for `$features` and `$register`s, of which a panel has `$width`, for each count of rows.
macro_rules! tiles {
    ($features:literal, $register:ty, $width:literal, $($rows:literal)*) => {{
        #[target_feature(enable = $features)]
        unsafe fn compiled<const N: usize>(t: &Tile) {
            // SAFETY: the caller vouches for the pointers.
            unsafe { tile::<$register, N, $width>(t) }
        }
        unsafe fn entry<const N: usize>(t: &Tile) {
            // SAFETY: the caller vouches for the pointers, the table for the CPU.
            unsafe { compiled::<N>(t) }
        }
        const TILES: &[TileFn] = &[$(entry::<$rows>),*];
        TILES
    }};
}

/// Only for CPUs that have AVX2 and FMA.
pub(super) const AVX2: MicroKernels = MicroKernels { tiles: tiles!("avx2,fma", __m256, 2, 1 2 3 4 5 6) };

/// Only for CPUs that have AVX-512 too.
pub(super) const AVX512: MicroKernels =
    MicroKernels { tiles: tiles!("avx2,fma,avx512f,avx512vl", __m512, 1, 1 2 3 4 5 6 7 8 9 10 11 12) };

/// # Safety
/// As [`super::TileFn`], for `N` rows and panels of `W` registers; the CPU has the instructions of `R`.
#[inline(always)]
unsafe fn tile<R: Register, const N: usize, const W: usize>(t: &Tile) {
    const { assert!(W * R::WIDTH == LANES) };
    let mut sums = [[R::splat(0.0); W]; N];
    for r in 0..N {
        // The results' lines come while the sums are made.
        // SAFETY: a prefetch may be of any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(t.out.wrapping_add(r * t.out_step).cast()) };
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
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.cast()) };
                ahead = ahead.wrapping_add(LINE);
            }
            // SAFETY: rows and panel go on for `STRETCH` more.
            unsafe { stretch::<R, N, W, STRETCH>(&mut sums, &mut rows, &mut panel) };
        }
        for _ in 0..t.depth % STRETCH {
            // SAFETY: rows and panel go on for one more.
            unsafe { stretch::<R, N, W, 1>(&mut sums, &mut rows, &mut panel) };
        }
    }
    // SAFETY: the sums are those of `t`.
    unsafe { finish(t, &sums) };
}

/// Adds `LENGTH` products to each sum and moves on.
///
/// # Safety
/// Each row is good for `LENGTH` floats, the panel for as many times `LANES`.
#[inline(always)]
unsafe fn stretch<R: Register, const N: usize, const W: usize, const LENGTH: usize>(
    sums: &mut [[R; W]; N],
    rows: &mut [*const f32; N],
    panel: &mut *const f32,
) {
    for k in 0..LENGTH {
        // SAFETY: `k < LENGTH`.
        let weights: [R; W] =
            std::array::from_fn(|w| unsafe { R::load(panel.add(k * LANES + w * R::WIDTH)) });
        for (row, sums) in rows.iter().zip(&mut *sums) {
            // SAFETY: as above.
            let x = R::splat(unsafe { *row.add(k) });
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = x.mul_add(weight, *sum);
            }
        }
    }
    // Wrapping, because the end may be reached.
    *panel = panel.wrapping_add(LENGTH * LANES);
    rows.iter_mut().for_each(|row| *row = row.wrapping_add(LENGTH));
}

/// # Safety
/// As [`super::TileFn`], for `N` rows.
#[inline(always)]
unsafe fn finish<R: Register, const N: usize, const W: usize>(t: &Tile, sums: &[[R; W]; N]) {
    let end = &t.finish;
    let (low, high) = (R::splat(end.low), R::splat(end.high));
    for part in 0..W {
        let lane = part * R::WIDTH;
        // SAFETY: where not null, bias has `LANES` floats.
        let bias = unsafe { if end.bias.is_null() { R::splat(0.0) } else { R::load(end.bias.add(lane)) } };
        for (r, sums) in sums.iter().enumerate() {
            let mut value = sums[part].add(bias);
            if !end.addend.is_null() {
                // SAFETY: not null, so it has `LANES` floats in each row.
                value = value.add(unsafe { R::load(end.addend.add(r * end.addend_step + lane)) });
            }
            // SAFETY: the output has `LANES` floats in each of `N` rows.
            unsafe { value.at_least(low).at_most(high).store(t.out.add(r * t.out_step + lane)) };
        }
    }
}
