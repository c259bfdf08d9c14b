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
use super::micro::{Finish, LANES, MOST_ROWS, Tile};
use super::panels::Panels;
use super::points::{
    self, POINTS, SHORT_TILE, SIDE, Short, TILE, transform_input, transform_output, transform_weights,
};
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
    tiling: Tiling,
    pad: isize,
}

/// How an image is cut into tiles: full ones, and a short row or column where at most [`SHORT_TILE`] pixels are left.
///
/// The tiles of a batch are numbered kind by kind: short columns, full tiles, short rows, short in both. So those that
/// have any given point follow each other.
#[derive(Debug)]
struct Tiling {
    /// Full tiles across and down.
    columns: usize,
    rows: usize,
    /// Whether a short column and a short row follow.
    short: Short,
}

/// A tile: first row and column of its output, and which of its sides are short.
struct Corner {
    image: usize,
    y: usize,
    x: usize,
    short: Short,
}

impl Tiling {
    fn of(target: &Map) -> Self {
        let cut = |side: usize| match side % TILE {
            left @ 1.. if left <= SHORT_TILE => (side / TILE, true),
            _ => (side.div_ceil(TILE), false),
        };
        let ((columns, short_column), (rows, short_row)) = (cut(target.width()), cut(target.height()));
        Self { columns, rows, short: Short { rows: short_row, columns: short_column } }
    }

    /// Tiles of an image of each kind: the kind, how many across, how many down.
    fn kinds(&self) -> [(Short, usize, usize); 4] {
        let (column, row) = (usize::from(self.short.columns), usize::from(self.short.rows));
        let kind = |rows, columns| Short { rows, columns };
        [
            (kind(false, true), column, self.rows),
            (kind(false, false), self.columns, self.rows),
            (kind(true, false), self.columns, row),
            (kind(true, true), column, row),
        ]
    }

    /// Tiles of an image.
    fn count(&self) -> usize {
        self.kinds().iter().map(|(_, across, down)| across * down).sum()
    }

    /// Where a tile of a batch lies.
    fn locate(&self, batch: usize, tile: usize) -> Corner {
        let mut rest = tile;
        for (short, across, down) in self.kinds() {
            let count = across * down;
            if rest < batch * count {
                let (image, at) = (rest / count, rest % count);
                let y = if short.rows { self.rows } else { at / across };
                let x = if short.columns { self.columns } else { at % across };
                return Corner { image, y: y * TILE, x: x * TILE, short };
            }
            rest -= batch * count;
        }
        unreachable!("bug: tile {tile} of a batch of {batch}")
    }

    /// The tiles of a batch that have a point.
    fn with(&self, batch: usize, point: usize) -> Range<usize> {
        let [a, b, c, d] = self.kinds().map(|(_, across, down)| batch * across * down);
        let (long_row, long_column) = (points::is_long(point / SIDE), points::is_long(point % SIDE));
        let start = if long_column { a } else { 0 };
        let end = match (long_row, long_column) {
            (true, _) => a + b,
            (false, true) => a + b + c,
            (false, false) => a + b + c + d,
        };
        start..end
    }
}

/// The product at one point: `inputs` times `weights`, `[depth, LANES]`, into `sums`, `[tiles, LANES]`.
struct Product<'a> {
    inputs: *const f32,
    weights: &'a [f32],
    sums: &'a mut [f32],
    /// Weights that are needed soon. They are fetched ahead during the last tile, and before it each tile's inputs during the
    /// one before: of a large batch they lie in the last level cache.
    ahead: &'a [f32],
}

impl Product<'_> {
    /// # Safety
    /// `inputs` is good for `[tiles, depth]`, and nobody writes there.
    unsafe fn run(self, frame: &Frame<'_>) {
        let depth = self.weights.len() / LANES;
        let tiles = frame.kernels.cut(self.sums.len() / LANES);
        let mut following = tiles.clone().skip(1);
        for (start, rows) in tiles {
            let ahead = match following.next() {
                Some((next, rows)) => {
                    let first = self.inputs.wrapping_add(next * depth);
                    first..first.wrapping_add(rows * depth)
                }
                None => self.ahead.as_ptr_range(),
            };
            // Wrapping, because rows that the tile does not have may lie outside; they are not read.
            let inputs: [*const f32; MOST_ROWS] =
                std::array::from_fn(|r| self.inputs.wrapping_add((start + r) * depth));
            let tile = Tile {
                rows: inputs.as_ptr(),
                row_step: 0,
                taps: 1,
                depth,
                panel: self.weights.as_ptr(),
                ahead,
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
        Self { panels, tiling: Tiling::of(target), pad: pad as isize }
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }

    /// Tiles that are transformed before any of them is used.
    fn round(&self, batch: usize) -> usize {
        let most = (INPUT_BLOCK / (POINTS * self.panels.inputs)).max(1);
        let total = batch * self.tiling.count();
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
        let total = frame.batch * self.tiling.count();
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

    /// Transforms the `at`th of `tiles` over all channels.
    ///
    /// # Safety
    /// As [`Self::run`]; `at` lies in the tiles.
    unsafe fn transform_input(&self, frame: &Frame<'_>, source: Place, tiles: &Range<usize>, at: usize) {
        let Corner { image, y, x, short } = self.tiling.locate(frame.batch, tiles.start + at);
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
            short,
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
        let mut ahead = self.panels.portions(panel + 1, POINTS);
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
                let ahead = ahead.next().unwrap_or_default();
                let point = rows[at / SIDE] * SIDE + at % SIDE;
                let with = self.tiling.with(frame.batch, point);
                let first = with.start.saturating_sub(tiles.start).max(block.start);
                let end = with.end.saturating_sub(tiles.start).min(block.end);
                if first >= end {
                    continue;
                }
                let product = Product {
                    // SAFETY: point and tile lie in the transformed input.
                    inputs: unsafe {
                        frame.shared.0.add(point * self.point_step(tiles.len()) + first * depth)
                    },
                    weights: &weights[at * self.weight_step()..][..depth * LANES],
                    sums: &mut sums[point * sum_step..]
                        [(first - block.start) * LANES..(end - block.start) * LANES],
                    ahead,
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
            let Corner { image, y, x, short } = self.tiling.locate(frame.batch, tiles.start + tile);
            let offset =
                image * target.map.floats() + target.map.offset(y as isize, x as isize) + panel * LANES;
            let output = points::Output {
                sums: sums[at * LANES..].as_ptr(),
                step,
                rows: TILE.min(target.map.height() - y),
                columns: TILE.min(target.map.width() - x),
                short,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_pixel_once_and_those_with_a_point_follow_each_other() {
        for (height, width, batch) in (1..=13).flat_map(|h| (1..=13).map(move |w| (h, w, 1 + (h + w) % 3))) {
            let tiling = Tiling::of(&Map::new(height, width, 1));
            let total = batch * tiling.count();
            let tiles: Vec<Corner> = (0..total).map(|tile| tiling.locate(batch, tile)).collect();
            let mut covered = vec![0; batch * height * width];
            for tile in &tiles {
                let side = |short: bool| if short { SHORT_TILE } else { TILE };
                for y in tile.y..height.min(tile.y + side(tile.short.rows)) {
                    for x in tile.x..width.min(tile.x + side(tile.short.columns)) {
                        covered[(tile.image * height + y) * width + x] += 1;
                    }
                }
            }
            assert!(covered.iter().all(|&times| times == 1), "{height}x{width}");
            for point in 0..POINTS {
                let lacks = |tile: &Corner| {
                    (tile.short.rows && points::is_long(point / SIDE))
                        || (tile.short.columns && points::is_long(point % SIDE))
                };
                let with: Vec<usize> = (0..total).filter(|&tile| !lacks(&tiles[tile])).collect();
                assert_eq!(tiling.with(batch, point).collect::<Vec<_>>(), with, "{height}x{width} {point}");
            }
        }
    }
}
