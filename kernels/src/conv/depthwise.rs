//! Depthwise convolution: each channel by itself, a panel of channels of a few neighbouring pixels at a time.
#![allow(unsafe_code)]

use std::ops::Range;

use super::frame::{Frame, Scratch};
use super::lanes::{Lanes, WIDTH, dispatch};
use super::map::Map;
use super::micro::{Finish, LANES, ROWS, row_tiles};
use super::panels::Depthwise;
use super::step::{Ending, Place, Window};
use super::team::share;

/// Floats of input and weights that rows share; they stay in the first level cache meanwhile.
const CHANNEL_BLOCK: usize = 6 << 10;

/// Most rows of a piece of work.
const ROW_BLOCK: usize = 16;

/// A depthwise convolution.
#[derive(Debug)]
pub(super) struct DepthwiseConv {
    weights: Depthwise,
    window: Window,
    /// Input columns that the windows of a row cover, those outside the picture included.
    columns: usize,
    /// Panels of channels of one piece of work.
    panels: usize,
}

/// A piece of work: these rows of an image's output, these panels of channels.
struct Piece {
    image: usize,
    rows: Range<usize>,
    panels: Range<usize>,
}

/// One row of output, some panels of channels wide.
struct Row<'a> {
    /// A pointer for each input pixel, row by row of taps: to the pixel, or to zeros.
    pixels: &'a [*const f32],
    /// Pointers from one row of taps and from one window to the next.
    columns: usize,
    stride: usize,
    kernel: usize,
    channels: Range<usize>,
    /// Weights of the first tap, and floats from one tap to the next.
    weights: *const f32,
    tap: usize,
    /// Output pixels.
    count: usize,
    out: *mut f32,
    /// Floats from one output pixel to the next.
    pixel: usize,
    finish: Finish,
}

impl DepthwiseConv {
    pub(super) fn new(weights: Depthwise, window: Window, target: &Map) -> Self {
        let columns = (target.width() - 1) * window.stride + window.kernel;
        let panel = window.kernel * (columns + window.kernel) * LANES;
        let panels = (CHANNEL_BLOCK / panel).max(1);
        Self { weights, window, columns, panels }
    }

    pub(super) fn weights(&self) -> &Depthwise {
        &self.weights
    }

    pub(super) fn window(&self) -> Window {
        self.window
    }

    /// Pointers of scratch that a piece needs.
    pub(super) fn pointers(&self) -> usize {
        self.window.kernel * self.columns
    }

    /// # Safety
    /// As [`super::step::Step::run`]; `scratch` has [`Self::pointers`] pointers.
    pub(super) unsafe fn run(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        source: Place,
        target: Place,
        end: &Ending,
    ) {
        let (height, panels) = (target.map.height(), self.weights.channels.div_ceil(LANES));
        let (row_blocks, panel_blocks) = (height.div_ceil(ROW_BLOCK), panels.div_ceil(self.panels));
        frame.member.for_each(frame.batch * row_blocks * panel_blocks, |at| {
            let (rows, block) = (at / panel_blocks, at % panel_blocks);
            let piece = Piece {
                image: rows / row_blocks,
                rows: share(height, row_blocks, rows % row_blocks),
                panels: share(panels, panel_blocks, block),
            };
            // SAFETY: pieces are disjoint and lie in the batch; the rest is the caller's promise.
            unsafe { self.piece(frame, scratch, source, target, end, &piece) };
        });
    }

    /// Computes some rows of the first image's target.
    ///
    /// # Safety
    /// As [`super::step::Step::run_rows`]; `scratch` has [`Self::pointers`] pointers.
    pub(super) unsafe fn run_rows(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        source: Place,
        target: Place,
        end: &Ending,
        rows: Range<usize>,
    ) {
        let panels = self.weights.channels.div_ceil(LANES);
        let blocks = panels.div_ceil(self.panels);
        for block in 0..blocks {
            let piece = Piece { image: 0, rows: rows.clone(), panels: share(panels, blocks, block) };
            // SAFETY: the rows lie in the first image and are the caller's alone; the rest is its promise.
            unsafe { self.piece(frame, scratch, source, target, end, &piece) };
        }
    }

    /// # Safety
    /// As [`Self::run`]; nobody else computes these rows of these panels.
    unsafe fn piece(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        source: Place,
        target: Place,
        end: &Ending,
        piece: &Piece,
    ) {
        for y in piece.rows.clone() {
            // SAFETY: the row is the piece's; the rest is the caller's promise.
            unsafe { self.row(frame, scratch, source, target, end, piece, y) };
        }
    }

    /// # Safety
    /// As [`Self::run`]; nobody else computes these panels of row `y`.
    #[allow(clippy::too_many_arguments, reason = "the operands of a step and the part of it that is meant")]
    unsafe fn row(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        source: Place,
        target: Place,
        end: &Ending,
        piece: &Piece,
        y: usize,
    ) {
        let kernel = self.window.kernel;
        let rows = self.window.within(y, source.map.height());
        let first = rows.start + self.window.pad - y * self.window.stride;
        let tap = self.weights.channels.next_multiple_of(LANES);
        let pixels = &mut scratch.pointers[..rows.len() * self.columns];
        // SAFETY: the rows are in the picture.
        unsafe { self.point(frame, pixels, source, piece.image, rows) };
        let channels = piece.panels.start * LANES..piece.panels.end * LANES;
        let out = piece.image * target.map.floats() + target.map.offset(y as isize, 0);
        let row = Row {
            pixels,
            columns: self.columns,
            stride: self.window.stride,
            kernel,
            channels,
            weights: self.weights.weight.floats()[first * kernel * tap..].as_ptr(),
            tap,
            count: target.map.width(),
            // SAFETY: the row lies in the target.
            out: unsafe { frame.at(target, out) },
            pixel: target.map.stride(),
            finish: end.finish(frame, self.weights.bias.floats().as_ptr(), out),
        };
        // SAFETY: `point` has set a pointer for each column of each row of taps in the picture; pixels of both maps,
        // weights and bias have room for whole panels, and this row's panels are this piece's alone.
        unsafe { dispatch!(frame.isa, along, &row, &Row<'_>) };
    }

    /// Fills `pixels`, `[rows, columns]`.
    ///
    /// # Safety
    /// The rows lie in the picture, and the image in the batch.
    unsafe fn point(
        &self,
        frame: &Frame<'_>,
        pixels: &mut [*const f32],
        source: Place,
        image: usize,
        rows: Range<usize>,
    ) {
        let pad = self.window.pad;
        let inside = pad.min(self.columns)..(pad + source.map.width()).min(self.columns);
        for (pixels, y) in pixels.chunks_exact_mut(self.columns).zip(rows) {
            // SAFETY: the row lies in the picture.
            let row = unsafe {
                frame.at(source, image * source.map.floats() + source.map.offset(y as isize, 0)).cast_const()
            };
            pixels[..inside.start].fill(frame.zeros.as_ptr());
            pixels[inside.end..].fill(frame.zeros.as_ptr());
            for (x, pixel) in pixels[inside.clone()].iter_mut().enumerate() {
                // SAFETY: as many columns as the picture has, at most.
                *pixel = unsafe { row.add(x * source.map.stride()) };
            }
        }
    }
}

/// # Safety
/// The CPU has the instructions of `L`, and the pointers are good for what [`Row`] says, `channels` included.
#[inline(always)]
unsafe fn along<L: Lanes>(row: &Row<'_>) {
    for (start, count) in row_tiles(row.count) {
        // SAFETY: the caller's promise.
        unsafe {
            match count {
                1 => neighbours::<L, 1>(row, start),
                2 => neighbours::<L, 2>(row, start),
                3 => neighbours::<L, 3>(row, start),
                4 => neighbours::<L, 4>(row, start),
                5 => neighbours::<L, 5>(row, start),
                _ => neighbours::<L, ROWS>(row, start),
            }
        }
    }
}

/// `N` pixels of a row from `start` on.
///
/// # Safety
/// As [`along`], for a row that has these pixels.
#[inline(always)]
unsafe fn neighbours<L: Lanes, const N: usize>(row: &Row<'_>, start: usize) {
    let (low, high) = (L::splat(row.finish.low), L::splat(row.finish.high));
    let rows = row.pixels.len() / row.columns;
    for channel in row.channels.clone().step_by(2 * WIDTH) {
        // SAFETY: there is a bias for each channel.
        let bias = unsafe { pair::<L>(row.finish.bias.add(channel)) };
        let mut sums = [bias; N];
        let mut weights = row.weights.wrapping_add(channel);
        for y in 0..rows {
            let pixels = &row.pixels[y * row.columns + start * row.stride..];
            for x in 0..row.kernel {
                // SAFETY: the tap exists.
                let weight = unsafe { pair::<L>(weights) };
                weights = weights.wrapping_add(row.tap);
                for (n, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the window's column exists, and what it points to has the channel.
                    let value = unsafe { pair::<L>(pixels.get_unchecked(n * row.stride + x).add(channel)) };
                    *sum = [value[0].mul_add(weight[0], sum[0]), value[1].mul_add(weight[1], sum[1])];
                }
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            let out = row.out.wrapping_add((start + n) * row.pixel + channel);
            for (half, sum) in sum.into_iter().enumerate() {
                // SAFETY: the pixel exists and has the channel.
                unsafe { sum.at_least(low).at_most(high).store(out.add(half * WIDTH)) };
            }
        }
    }
}

/// # Safety
/// `from` is good for twice [`WIDTH`] floats.
#[inline(always)]
unsafe fn pair<L: Lanes>(from: *const f32) -> [L; 2] {
    // SAFETY: the caller's promise.
    unsafe { [L::load(from), L::load(from.add(WIDTH))] }
}
