//! 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) (Lavin and Gray 2016): 36 multiplications where the plain sum
//! takes 144.
//!
//! Weights stay as they are in memory and are transformed in cache, two rows of points at a time, each time they are
//! used: that moves a quarter of the bytes that transformed weights would, which is what counts at small batches, and
//! costs a few percent at large ones. The transforms themselves are in [`super::points`].
#![allow(unsafe_code)]

use std::ops::Range;

use super::frame::{Frame, Scratch};
use super::lanes::dispatch;
use super::map::Map;
use super::micro::{Finish, LANES, ROWS, Tile, row_tiles};
use super::panels::Panels;
use super::points::{self, POINTS, SIDE, TILE, transform_input, transform_output, transform_weights};
use super::step::{Ending, Place};
use super::team::share;

/// Floats of transformed input that are made before they are used; a share of the last level cache.
const INPUT_BLOCK: usize = 3 << 19;

/// Most tiles of one piece of work.
const TILE_BLOCK: usize = 128;

/// A line between points, which lie powers of two apart otherwise, so that they do not compete for one cache set.
const GAP: usize = 16;

/// A 3x3 convolution in the transformed domain.
#[derive(Debug)]
pub(super) struct Winograd {
    panels: Panels,
    /// Tiles across and down.
    columns: usize,
    rows: usize,
    pad: isize,
}

/// The product at one point: `inputs` times `weights`, `[depth, LANES]`, into `sums`, `[tiles, LANES]`.
struct Product<'a> {
    inputs: *const f32,
    weights: &'a [f32],
    sums: &'a mut [f32],
    ahead: &'a [f32],
}

impl Product<'_> {
    /// # Safety
    /// `inputs` is good for `[tiles, depth]`, and nobody writes there.
    unsafe fn run(self, frame: &Frame<'_>) {
        let depth = self.weights.len() / LANES;
        let tiles = row_tiles(self.sums.len() / LANES);
        let parts = tiles.clone().count();
        for (part, (start, rows)) in tiles.enumerate() {
            // Wrapping, because rows that the tile does not have may lie outside; they are not read.
            let inputs: [*const f32; ROWS] =
                std::array::from_fn(|r| self.inputs.wrapping_add((start + r) * depth));
            let tile = Tile {
                rows: inputs.as_ptr(),
                row_step: 0,
                taps: 1,
                depth,
                panel: self.weights.as_ptr(),
                ahead: self.ahead[share(self.ahead.len(), parts, part)].as_ptr_range(),
                out: self.sums[start * LANES..][..rows * LANES].as_mut_ptr(),
                out_step: LANES,
                finish: Finish::PLAIN,
            };
            // SAFETY: `rows` rows of the inputs, the point's weights, and as many rows of the sums.
            unsafe { frame.kernels.run(rows, &tile) };
        }
    }
}

impl Winograd {
    pub(super) fn new(mut panels: Panels, pad: usize, target: &Map) -> Self {
        panels.gather_taps();
        let (columns, rows) = (target.width().div_ceil(TILE), target.height().div_ceil(TILE));
        Self { panels, columns, rows, pad: pad as isize }
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }

    fn tiles(&self) -> usize {
        self.columns * self.rows
    }

    /// Tiles that are transformed before any of them is used.
    fn round(&self, batch: usize) -> usize {
        let most = (INPUT_BLOCK / (POINTS * self.panels.inputs)).max(1);
        let total = batch * self.tiles();
        total.div_ceil(total.div_ceil(most))
    }

    /// Floats from one point of the transformed input to the next, when there are so many tiles.
    fn point_step(&self, tiles: usize) -> usize {
        tiles * self.panels.inputs + GAP
    }

    /// Floats from one point of the transformed weights to the next.
    fn weight_step(&self) -> usize {
        self.panels.inputs * LANES + GAP
    }

    /// Floats of scratch that the team needs.
    pub(super) fn shared(&self, batch: usize) -> usize {
        POINTS * self.point_step(self.round(batch))
    }

    /// Floats of scratch that each member needs: two rows of transformed weights, and the sums.
    pub(super) fn floats(&self) -> usize {
        2 * SIDE * self.weight_step() + POINTS * (TILE_BLOCK * LANES + GAP)
    }

    /// Computes `target` of the whole batch.
    ///
    /// # Safety
    /// As [`super::step::Step::run`].
    pub(super) unsafe fn run(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        source: Place,
        target: Place,
        end: &Ending,
    ) {
        let total = frame.batch * self.tiles();
        let round = self.round(frame.batch);
        for first in (0..total).step_by(round) {
            let tiles = first..total.min(first + round);
            // Some 10 microseconds of work a piece.
            let block = (2048 / self.panels.inputs).max(1);
            frame.member.for_each(tiles.len().div_ceil(block), |at| {
                for tile in (at * block..tiles.len()).take(block) {
                    // SAFETY: the tile is in the batch, and nobody else transforms it.
                    unsafe { self.transform_input(frame, source, &tiles, tile) };
                }
            });
            let blocks = tiles.len().div_ceil(TILE_BLOCK);
            let panels = self.panels.count();
            frame.member.for_each(blocks * panels, |at| {
                let block = share(tiles.len(), blocks, at / panels);
                // SAFETY: the inputs of these tiles are ready, and nobody else computes this panel of them.
                unsafe { self.multiply(frame, scratch, &tiles, block.clone(), at % panels) };
                // SAFETY: as above.
                unsafe { self.transform_output(frame, scratch, target, end, &tiles, block, at % panels) };
            });
        }
    }

    /// Image, first row and first column of the output of a tile.
    fn locate(&self, tile: usize) -> (usize, usize, usize) {
        let (image, tile) = (tile / self.tiles(), tile % self.tiles());
        (image, tile / self.columns * TILE, tile % self.columns * TILE)
    }

    /// Transforms the `at`th of `tiles` over all channels.
    ///
    /// # Safety
    /// As [`Self::run`]; `at` lies in the tiles.
    unsafe fn transform_input(&self, frame: &Frame<'_>, source: Place, tiles: &Range<usize>, at: usize) {
        let (image, y, x) = self.locate(tiles.start + at);
        let pixels = std::array::from_fn(|point| {
            let y = (y + point / SIDE) as isize - self.pad;
            let x = (x + point % SIDE) as isize - self.pad;
            match source.map.holds(y, x) {
                // SAFETY: the pixel is in the picture.
                true => unsafe {
                    frame.at(source, image * source.map.floats() + source.map.offset(y, x)).cast_const()
                },
                false => frame.zeros.as_ptr(),
            }
        });
        let input = points::Input {
            pixels,
            channels: self.panels.inputs,
            // SAFETY: scratch holds `POINTS` steps of all tiles.
            out: unsafe { frame.shared.0.add(at * self.panels.inputs) },
            step: self.point_step(tiles.len()),
        };
        // SAFETY: each pixel has that many channels, a multiple of the lanes' width, and `out` at each point as many.
        unsafe { dispatch!(frame.isa, transform_input, &input, &points::Input) };
    }

    /// Sums of one panel at all points for a block of tiles, into scratch.
    ///
    /// # Safety
    /// As [`Self::run`].
    unsafe fn multiply(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        tiles: &Range<usize>,
        block: Range<usize>,
        panel: usize,
    ) {
        let depth = self.panels.inputs;
        let (weights, sums) = scratch.floats.floats_mut().split_at_mut(2 * SIDE * self.weight_step());
        let sum_step = block.len() * LANES + GAP;
        let next = panel + 1;
        for (pair, rows) in points::PAIRS.into_iter().enumerate() {
            let job = points::Weights {
                pair,
                panel: self.panels.panel(panel),
                out: &mut *weights,
                step: self.weight_step(),
            };
            // SAFETY: the panel holds 9 taps, `out` two rows of points of the same depth.
            unsafe { dispatch!(frame.isa, transform_weights, job, points::Weights<'_>) };
            for at in 0..2 * SIDE {
                let point = rows[at / SIDE] * SIDE + at % SIDE;
                let product = Product {
                    // SAFETY: point and tile lie in the transformed input.
                    inputs: unsafe {
                        frame.shared.0.add(point * self.point_step(tiles.len()) + block.start * depth)
                    },
                    weights: &weights[at * self.weight_step()..][..depth * LANES],
                    sums: &mut sums[point * sum_step..][..block.len() * LANES],
                    // A panel comes a bit at a time, while the one before it is multiplied.
                    ahead: self.panels.portion(next, pair * 2 * SIDE + at, POINTS),
                };
                // SAFETY: the inputs of these tiles are ready.
                unsafe { product.run(frame) };
            }
        }
    }

    /// Writes a block of tiles of one panel to the target.
    ///
    /// # Safety
    /// As [`Self::run`]; scratch holds the sums of [`Self::multiply`].
    #[allow(clippy::too_many_arguments, reason = "the operands of a step and the part of it that is meant")]
    unsafe fn transform_output(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        target: Place,
        end: &Ending,
        tiles: &Range<usize>,
        block: Range<usize>,
        panel: usize,
    ) {
        let sums = &scratch.floats.floats()[2 * SIDE * self.weight_step()..];
        let step = block.len() * LANES + GAP;
        for (at, tile) in block.enumerate() {
            let (image, y, x) = self.locate(tiles.start + tile);
            let offset =
                image * target.map.floats() + target.map.offset(y as isize, x as isize) + panel * LANES;
            let output = points::Output {
                sums: sums[at * LANES..].as_ptr(),
                step,
                rows: TILE.min(target.map.height() - y),
                columns: TILE.min(target.map.width() - x),
                // SAFETY: the tile begins in the target.
                out: unsafe { frame.at(target, offset) },
                row: target.map.row(),
                pixel: target.map.stride(),
                finish: end.finish(frame, self.panels.bias(panel).as_ptr(), offset),
            };
            // SAFETY: the sums hold all points of the tile; the tile's rows and columns are cut to the target.
            unsafe { dispatch!(frame.isa, transform_output, &output, &points::Output) };
        }
    }
}
