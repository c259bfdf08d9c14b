//! The innermost loop of a layer in 8 bits: a few rows times one panel of [`LANES`] outputs, added up in registers over all
//! inputs, then back to floats.
//!
//! Weights lie as bytes from 1 to 255, [`OFFSET`] more than they are, because the instructions take one side without a sign;
//! what that adds to a sum is a multiple of its row's, and is taken off again. One implementation per instruction set behind
//! one function table; the portable one is the oracle.
#![allow(unsafe_code)]

use super::isa::{Isa, Set};
use super::rows::TileRows;

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Outputs of a panel: one register of AVX-512, or two of AVX2.
pub(super) const LANES: usize = 16;

/// Numbers of a row that one instruction multiplies and adds up.
pub(super) const QUAD: usize = 4;

/// [`QUAD`] numbers of a row in 16 bits each, the first and the third in one word and the others in the next: as they are
/// multiplied where there are no products of 8 bits.
pub(super) type Wide = [i32; 2];

/// What a weight's byte is more than the weight.
pub(super) const OFFSET: i32 = 128;

/// Most rows of a tile of any instruction set.
pub(super) const MOST_ROWS: usize = 12;

/// The weights of a panel for four inputs, `[16, 4]`: a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [u8; LANES * QUAD]);

impl Line {
    /// Weights of nothing.
    pub(super) const ZEROS: Self = Self([OFFSET as u8; LANES * QUAD]);
}

/// What makes a panel's sums results.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Panel {
    /// What one is worth in each output's weights.
    pub(super) units: [f32; LANES],
    pub(super) bias: [f32; LANES],
}

/// What one call multiplies and where the result goes.
#[derive(Debug)]
pub(super) struct Tile<'a> {
    pub(super) rows: TileRows<'a>,
    pub(super) panel: &'a Panel,
    /// The panel's weights, one line for four inputs.
    pub(super) lines: &'a [Line],
    /// From the first row's result on.
    pub(super) out: &'a mut [f32],
    /// Floats from one row's result to the next one's.
    pub(super) out_step: usize,
}

/// Computes one tile of as many rows as the function's place in [`MicroKernels`] says:
/// `(sum - OFFSET * row sum) * (row unit * output unit) + bias`, rounded after each operation.
///
/// # Safety
/// The CPU has the instructions that it was compiled for.
type TileFn = unsafe fn(Tile<'_>);

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
            Set::AvxVnni => x86::AVX_VNNI,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => x86::AVX512_VNNI,
        }
    }

    /// Cuts `total` rows into tiles of nearly equal size: those of a few rows wait for their sums.
    pub(super) fn cut(&self, total: usize) -> Cut {
        let count = total.div_ceil(self.tiles.len());
        Cut { total, count, at: 0 }
    }

    /// Computes `tile`, whose rows are one of the lengths that [`MicroKernels::cut`] gives.
    pub(super) fn run(&self, tile: Tile<'_>) {
        // SAFETY: kernels come from `of` only, whose argument is proof that the CPU has their instructions.
        unsafe { self.tiles[tile.rows.units.len() - 1](tile) }
    }
}

/// Start and length of each tile.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    total: usize,
    count: usize,
    at: usize,
}

impl Iterator for Cut {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let start = |at: usize| at * self.total / self.count;
        let tile = (self.at < self.count).then(|| (start(self.at), start(self.at + 1) - start(self.at)));
        self.at += 1;
        tile
    }
}
