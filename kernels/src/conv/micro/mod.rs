//! The innermost loop of every convolution that is a matrix product: a few rows (output pixels) times one panel of
//! [`LANES`] output channels, accumulated in registers over the whole depth, then bias, addend and clamp.
//!
//! One implementation per instruction set behind one function table; the portable one is the oracle. Where rows and
//! panels come from is the callers' business.
#![allow(unsafe_code)]

use std::ops::Range;

use super::lanes::{Isa, Set};

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Output channels of a panel: two AVX2 registers, or one of AVX-512.
pub(super) const LANES: usize = 16;

/// Most rows of a tile of any instruction set.
pub(super) const MOST_ROWS: usize = 12;

/// What one call multiplies and where the result goes.
///
/// Row `r` of the tile is, for each tap `t`, the `depth` floats at `rows[t * row_step + r]`.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    /// Pointers to the rows' inputs.
    pub(super) rows: *const *const f32,
    /// Pointers between one tap and the next.
    pub(super) row_step: usize,
    /// Taps of the convolution, at least one.
    pub(super) taps: usize,
    /// Floats read at each pointer.
    pub(super) depth: usize,
    /// Weights, `[taps, depth, LANES]`.
    pub(super) panel: *const f32,
    /// Memory that is needed soon: fetched into the second level cache, spread over the depth. Never read.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "stable Rust has no prefetch there"))]
    pub(super) ahead: Range<*const f32>,
    /// First row's result; `LANES` floats a row.
    pub(super) out: *mut f32,
    /// Floats between the results of two rows.
    pub(super) out_step: usize,
    /// What becomes of the sums.
    pub(super) finish: Finish,
}

/// `clamp(sum + bias + addend, low, high)`; a NaN passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finish {
    /// `LANES` floats, or null.
    pub(super) bias: *const f32,
    /// Added row by row, or null; may be the output itself.
    pub(super) addend: *const f32,
    /// Floats between the addends of two rows.
    pub(super) addend_step: usize,
    /// Results below are raised to this.
    pub(super) low: f32,
    /// Results above are lowered to this.
    pub(super) high: f32,
}

impl Finish {
    /// The same end for the rows from `rows` on.
    pub(super) fn skip(self, rows: usize) -> Self {
        // Wrapping, so that null stays unused and nothing is promised of a pointer before it is read.
        Self {
            addend: if self.addend.is_null() {
                self.addend
            } else {
                self.addend.wrapping_add(rows * self.addend_step)
            },
            ..self
        }
    }

    /// The bare sums.
    pub(super) const PLAIN: Finish = Finish {
        bias: std::ptr::null(),
        addend: std::ptr::null(),
        addend_step: 0,
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
    };
}

/// Computes one tile of as many rows as the function's place in [`MicroKernels`] says.
///
/// # Safety
/// Every pointer of the tile is valid for what its documentation says is read or written there, and nothing else
/// writes there during the call.
pub(super) type TileFn = unsafe fn(&Tile);

/// The micro-kernels of one instruction set.
#[derive(Debug, Clone, Copy)]
pub(super) struct MicroKernels {
    /// `tiles[n - 1]` computes `n` rows; at most [`MOST_ROWS`].
    tiles: &'static [TileFn],
}

impl MicroKernels {
    /// Those of an instruction set.
    pub(super) fn of(isa: Isa) -> Self {
        match isa.0 {
            Set::Portable => portable::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86::AVX2,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => x86::AVX512,
        }
    }

    /// Cuts `total` rows into tiles of nearly equal size, start and length of each: tiles of a few rows cannot keep two FMA
    /// units of latency 4 busy.
    pub(super) fn cut(&self, total: usize) -> impl Iterator<Item = (usize, usize)> + Clone + use<> {
        let count = total.div_ceil(self.tiles.len()).max(1);
        let (rows, longer) = (total / count, total % count);
        (0..count).map(move |at| (at * rows + at.min(longer), rows + usize::from(at < longer)))
    }

    /// Computes `tile` with so many rows, one of the lengths that [`MicroKernels::cut`] gives.
    ///
    /// # Safety
    /// As [`TileFn`].
    #[inline]
    pub(super) unsafe fn run(&self, rows: usize, tile: &Tile) {
        // SAFETY: the caller's promise is the one `TileFn` asks for.
        unsafe { self.tiles[rows - 1](tile) }
    }
}
