//! Convolution as a matrix product of output pixels and channels, without an im2col copy: the rows of a tile are
//! pointers into the activations, one a tap.
//!
//! The whole depth is summed in registers; nothing is blocked along it, because panels and rows stream from the second
//! level cache as fast as they are used. Depths and row counts of any size work.
#![allow(unsafe_code)]

use std::ops::Range;

use super::frame::{Frame, Scratch};
use super::kernel::Kernel;
use super::micro::{LANES, Tile};
use super::panels::Panels;
use super::step::{Ending, Place, Window};
use super::team::share;

/// Most rows of one piece of work: those of 7x7 pixels are one piece, so that their many weights pass by once.
const ROW_BLOCK: usize = 56;

/// Floats of input of one piece of work, which stay in the second level cache while panels pass by.
const INPUT_BLOCK: usize = 64 << 10;

/// Floats of weights that pass by in one piece of work: half the second level cache.
const WEIGHT_BLOCK: usize = 64 << 10;

/// Pieces of work a member, where there are panels enough: who is held up leaves at most one of them to wait for.
const PIECES: usize = 16;

/// A convolution over whole channels.
#[derive(Debug)]
pub(super) struct Product {
    panels: Panels,
    window: Window,
    kernel: Kernel,
}

/// A piece of work: these output pixels, counted through the batch, and these panels.
struct Piece {
    rows: Range<usize>,
    panels: Range<usize>,
}

impl Product {
    /// One of the kernels that [`Kernel::of_convolution`] gives.
    pub(super) fn new(panels: Panels, window: Window, kernel: Kernel) -> Self {
        Self { panels, window, kernel }
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }

    pub(super) fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Pointers of a row: one a tap, or a row of taps, whose pixels and channels are then one run of floats.
    fn taps(&self) -> usize {
        match self.kernel {
            Kernel::Rows => self.panels.kernel,
            _ => self.panels.kernel * self.panels.kernel,
        }
    }

    /// Most rows of one piece of work.
    fn row_block(&self) -> usize {
        let input = self.panels.inputs * self.window.stride * self.window.stride;
        (INPUT_BLOCK / input).clamp(ROW_BLOCK / 2, ROW_BLOCK)
    }

    /// Pointers of scratch that a piece needs.
    pub(super) fn pointers(&self) -> usize {
        self.taps() * ROW_BLOCK
    }

    /// Whether each pixel of the target needs the same pixel of the source and no other.
    pub(super) fn is_pixelwise(&self) -> bool {
        self.window == Window { kernel: 1, stride: 1, pad: 0 }
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
        let width = target.map.width();
        let (first, count) = (rows.start * width, rows.len() * width);
        let blocks = count.div_ceil(self.row_block());
        for block in 0..blocks {
            let Range { start, end: stop } = share(count, blocks, block);
            let piece = Piece { rows: first + start..first + stop, panels: 0..self.panels.count() };
            // SAFETY: the rows lie in the first image and are the caller's alone; the rest is its promise.
            unsafe { self.piece(frame, scratch, source, target, end, &piece) }
        }
    }

    /// Computes `target` of the whole batch, pieces shared out among the team.
    ///
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
        let rows = frame.batch * target.map.pixels();
        let row_blocks = rows.div_ceil(self.row_block());
        let most = (WEIGHT_BLOCK / self.panels.panel_floats()).clamp(1, self.panels.count());
        let wanted = (PIECES * frame.member.members()).div_ceil(row_blocks);
        let panel_blocks = self.panels.count().div_ceil(most).max(wanted).min(self.panels.count());
        frame.member.for_each(row_blocks * panel_blocks, |at| {
            let piece = Piece {
                rows: share(rows, row_blocks, at / panel_blocks),
                panels: share(self.panels.count(), panel_blocks, at % panel_blocks),
            };
            // SAFETY: pieces are disjoint and lie in the batch; the rest is the caller's promise.
            unsafe { self.piece(frame, scratch, source, target, end, &piece) }
        });
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
        let count = piece.rows.len();
        let tiles = frame.kernels.cut(count);
        // SAFETY: the rows lie in the batch.
        unsafe { self.point(frame, scratch, source, target, piece.rows.clone()) };
        let pixel = piece.rows.start * target.map.stride();
        for panel in piece.panels.clone() {
            let lane = panel * LANES;
            let finish = end.finish(frame, self.panels.bias(panel).as_ptr(), pixel + lane);
            let mut ahead = self.panels.portions(panel + 1, tiles.clone().count());
            for (first, rows) in tiles.clone() {
                let tile = Tile {
                    rows: scratch.pointers[first..].as_ptr(),
                    row_step: count,
                    taps: self.taps(),
                    depth: self.panels.panel_floats() / LANES / self.taps(),
                    panel: self.panels.panel(panel).as_ptr(),
                    ahead: ahead.next().unwrap_or_default().as_ptr_range(),
                    // SAFETY: row and panel lie in the target.
                    out: unsafe { frame.at(target, pixel + first * target.map.stride() + lane) },
                    out_step: target.map.stride(),
                    finish: finish.skip(first),
                };
                // SAFETY: `point` has set `rows` pointers a tap, good for a tap's depth; target pixels have room for
                // whole panels and are this piece's alone.
                unsafe { frame.kernels.run(rows, &tile) };
            }
        }
    }

    /// Fills `scratch.pointers`, `[taps, rows]`.
    ///
    /// # Safety
    /// The rows lie in the batch.
    unsafe fn point(
        &self,
        frame: &Frame<'_>,
        scratch: &mut Scratch,
        source: Place,
        target: Place,
        rows: Range<usize>,
    ) {
        let count = rows.len();
        let kernel = self.panels.kernel;
        let (down, across) = (kernel, if self.kernel == Kernel::Rows { 1 } else { kernel });
        let (width, pixels) = (target.map.width(), target.map.pixels());
        let first = rows.start % pixels;
        let (mut image, mut y, mut x) = (rows.start / pixels, first / width, first % width);
        for row in 0..count {
            let origin = image * source.map.floats();
            let top = (y * self.window.stride) as isize - self.window.pad as isize;
            let left = (x * self.window.stride) as isize - self.window.pad as isize;
            let mut pointers = scratch.pointers[row..].iter_mut().step_by(count);
            for (dy, dx) in (0..down).flat_map(|dy| (0..across).map(move |dx| (dy, dx))) {
                let (y, x) = (top + dy as isize, left + dx as isize);
                let Some(pointer) = pointers.next() else { break };
                *pointer = match self.kernel == Kernel::Rows || source.map.holds(y, x) {
                    // SAFETY: the pixel is in the picture or, with this kernel, in its border.
                    true => unsafe { frame.at(source, origin + source.map.offset(y, x)) },
                    false => frame.zeros.as_ptr(),
                };
            }
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
            }
            if y == target.map.height() {
                (y, image) = (0, image + 1);
            }
        }
    }
}
