//! Depthwise convolution: each channel by itself, a panel of channels of a few neighbouring pixels at a time.
#![allow(unsafe_code)]

use std::ops::Range;

use super::frame::{Frame, Scratch};
use super::lanes::{Lanes, dispatch};
use super::map::Map;
use super::micro::{Finish, LANES};
use super::panels::Depthwise;
use super::step::{Ending, Place, Window};
use super::team::share;

/// Floats of input and weights that rows share; they stay in the first level cache meanwhile.
const CHANNEL_BLOCK: usize = 6 << 10;

/// Most rows of a piece of work.
const ROW_BLOCK: usize = 16;

/// Most neighbouring pixels of a tile: as many sums keep two FMA units of latency 4 busy, and with the taps of a row
/// and a pixel they fit AVX2's 16 registers.
const NEIGHBOURS: usize = 8;

/// Unrolled here, because sums left to a loop may end up in memory.
macro_rules! each_column {
    ($column:ident in 0..$count:expr => $body:block) => {
        each_column!(@ $column, $count, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18)
    };
    (@ $column:ident, $count:expr, $body:block, $($at:literal)*) => {
        $(if $at < $count {
            let $column: usize = $at;
            $body
        })*
    };
}

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
    /// Weights of the first tap in the picture, of the first of all panels.
    weights: *const f32,
    /// Output pixels.
    count: usize,
    out: *mut f32,
    /// Floats from one output pixel to the next.
    pixel: usize,
    finish: Finish,
}

impl Row<'_> {
    /// Weights of the first tap for the channels from this one on.
    #[inline(always)]
    fn weights_of(&self, channel: usize) -> *const f32 {
        let panel = self.kernel * self.kernel * LANES;
        self.weights.wrapping_add(channel / LANES * panel + channel % LANES)
    }
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
            weights: self.weights.weight.floats()[first * kernel * LANES..].as_ptr(),
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
    let tiles = row.count.div_ceil(NEIGHBOURS);
    for tile in 0..tiles {
        let pixels = share(row.count, tiles, tile);
        // SAFETY: the caller's promise; the window is the row's.
        unsafe {
            match (row.kernel, row.stride) {
                (3, 1) => windows::<L, 3, 1>(row, pixels),
                (3, 2) => windows::<L, 3, 2>(row, pixels),
                (5, 1) => windows::<L, 5, 1>(row, pixels),
                (5, 2) => windows::<L, 5, 2>(row, pixels),
                _ => pixels.for_each(|pixel| any_window::<L>(row, pixel)),
            }
        }
    }
}

/// # Safety
/// As [`along`], for a row that has these `1..=NEIGHBOURS` pixels and windows of `K` taps, `S` apart.
#[inline(always)]
unsafe fn windows<L: Lanes, const K: usize, const S: usize>(row: &Row<'_>, pixels: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match pixels.len() {
            1 => neighbours::<L, K, S, 1>(row, pixels.start),
            2 => neighbours::<L, K, S, 2>(row, pixels.start),
            3 => neighbours::<L, K, S, 3>(row, pixels.start),
            4 => neighbours::<L, K, S, 4>(row, pixels.start),
            5 => neighbours::<L, K, S, 5>(row, pixels.start),
            6 => neighbours::<L, K, S, 6>(row, pixels.start),
            7 => neighbours::<L, K, S, 7>(row, pixels.start),
            _ => neighbours::<L, K, S, NEIGHBOURS>(row, pixels.start),
        }
    }
}

/// `N` pixels of a row from `start` on: a row of taps stays in registers, and each input pixel is loaded once for all
/// windows that it lies in.
///
/// # Safety
/// As [`windows`].
#[inline(always)]
unsafe fn neighbours<L: Lanes, const K: usize, const S: usize, const N: usize>(row: &Row<'_>, start: usize) {
    let (low, high) = (L::splat(row.finish.low), L::splat(row.finish.high));
    let rows = row.pixels.len() / row.columns;
    for channel in row.channels.clone().step_by(L::WIDTH) {
        // SAFETY: there is a bias for each channel.
        let bias = unsafe { L::load(row.finish.bias.add(channel)) };
        let mut sums = [bias; N];
        let mut weights = row.weights_of(channel);
        for y in 0..rows {
            let pixels = &row.pixels[y * row.columns + start * S..];
            // SAFETY: the taps exist.
            let taps: [L; K] = std::array::from_fn(|x| unsafe { L::load(weights.add(x * LANES)) });
            weights = weights.wrapping_add(K * LANES);
            each_column!(column in 0..(N - 1) * S + K => {
                // SAFETY: the windows' column exists, and what it points to has the channel.
                let value = unsafe { L::load(pixels.get_unchecked(column).add(channel)) };
                for (x, &tap) in taps.iter().enumerate() {
                    if column >= x && (column - x).is_multiple_of(S) && (column - x) / S < N {
                        let sum = &mut sums[(column - x) / S];
                        *sum = value.mul_add(tap, *sum);
                    }
                }
            });
        }
        for (n, sum) in sums.into_iter().enumerate() {
            let out = row.out.wrapping_add((start + n) * row.pixel + channel);
            // SAFETY: the pixel exists and has the channel.
            unsafe { sum.at_least(low).at_most(high).store(out) };
        }
    }
}

/// One pixel of a row, whatever its window.
///
/// # Safety
/// As [`along`], for a row that has the pixel.
#[inline(always)]
unsafe fn any_window<L: Lanes>(row: &Row<'_>, pixel: usize) {
    let (low, high) = (L::splat(row.finish.low), L::splat(row.finish.high));
    let rows = row.pixels.len() / row.columns;
    for channel in row.channels.clone().step_by(L::WIDTH) {
        // SAFETY: there is a bias for each channel.
        let mut sum = unsafe { L::load(row.finish.bias.add(channel)) };
        let mut weights = row.weights_of(channel);
        for y in 0..rows {
            for pixel in &row.pixels[y * row.columns + pixel * row.stride..][..row.kernel] {
                // SAFETY: the tap exists, and what the pointer points to has the channel.
                sum = unsafe { L::load(pixel.add(channel)).mul_add(L::load(weights), sum) };
                weights = weights.wrapping_add(LANES);
            }
        }
        // SAFETY: the pixel exists and has the channel.
        unsafe { sum.at_least(low).at_most(high).store(row.out.wrapping_add(pixel * row.pixel + channel)) };
    }
}
