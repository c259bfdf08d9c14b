//! Depthwise convolution: each channel by itself, eight channels at a time.
#![allow(unsafe_code)]

use super::frame::Frame;
use super::lanes::{Lanes, WIDTH, dispatch};
use super::micro::{Finish, LANES};
use super::panels::Depthwise;
use super::step::{Ending, Place, Window};

/// Output pixels that share the loads of weights.
const RUN: usize = 4;

/// A depthwise convolution.
#[derive(Debug)]
pub(super) struct DepthwiseConv {
    weights: Depthwise,
    window: Window,
}

/// Which output pixels: `count` from column `x` on.
struct Span {
    image: usize,
    y: usize,
    x: usize,
    count: usize,
}

/// Neighbouring output pixels whose windows begin at the same tap.
struct Pixels {
    /// The first window's first pixel inside the picture.
    first: *const f32,
    /// Weights of the tap that falls on it.
    weights: *const f32,
    /// Floats from one row of taps and from one tap to the next.
    weight_row: usize,
    weight: usize,
    /// Rows and columns of taps that lie in the picture.
    rows: usize,
    columns: usize,
    /// Floats from one input row, one input pixel and one window to the next.
    row: usize,
    pixel: usize,
    window: usize,
    out: *mut f32,
    /// Floats from one output pixel to the next, of output and addend.
    out_pixel: usize,
    finish: Finish,
}

impl DepthwiseConv {
    pub(super) fn new(weights: Depthwise, window: Window) -> Self {
        Self { weights, window }
    }

    /// # Safety
    /// As [`super::step::Step::run`].
    pub(super) unsafe fn run(&self, frame: &Frame<'_>, source: Place, target: Place, end: &Ending) {
        let height = target.map.height();
        frame.member.for_each(frame.batch * height, |at| {
            let (image, y) = (at / height, at % height);
            let mut x = 0;
            while x < target.map.width() {
                let whole = |x: usize| self.window.within(x, source.map.width()).len() == self.window.kernel;
                // Windows whole in the picture from left to right go together; others alone.
                let together = x + RUN <= target.map.width() && (x..x + RUN).all(whole);
                let span = Span { image, y, x, count: if together { RUN } else { 1 } };
                // SAFETY: the span lies in the batch and is nobody else's.
                unsafe { self.span(frame, source, target, end, &span) };
                x += span.count;
            }
        });
    }

    /// # Safety
    /// As [`Self::run`]; where the span has several pixels, their windows lie in the picture from left to right.
    unsafe fn span(&self, frame: &Frame<'_>, source: Place, target: Place, end: &Ending, span: &Span) {
        let (kernel, stride) = (self.window.kernel, self.window.stride);
        let rows = self.window.within(span.y, source.map.height());
        let columns = self.window.within(span.x, source.map.width());
        let tap = |at: usize, first: usize| first + self.window.pad - at * stride;
        let tap = tap(span.y, rows.start) * kernel + tap(span.x, columns.start);
        let weight = self.weights.channels.next_multiple_of(LANES);
        let first = source.map.offset(rows.start as isize, columns.start as isize);
        let out = span.image * target.map.floats() + target.map.offset(span.y as isize, span.x as isize);
        let pixels = Pixels {
            // SAFETY: `within` gives pixels of the picture, and at least one, as `Step::new` has checked.
            first: unsafe { frame.at(source, span.image * source.map.floats() + first) },
            weights: self.weights.weight.floats()[tap * weight..].as_ptr(),
            weight_row: kernel * weight,
            weight,
            rows: rows.len(),
            columns: columns.len(),
            row: source.map.row(),
            pixel: source.map.stride(),
            window: stride * source.map.stride(),
            // SAFETY: a pixel of the target.
            out: unsafe { frame.at(target, out) },
            out_pixel: target.map.stride(),
            finish: end.finish(frame, self.weights.bias.floats().as_ptr(), out),
        };
        // SAFETY: rows and columns are cut to the picture for one pixel and whole for several; pixels have room for
        // `weight` channels.
        unsafe {
            match span.count {
                RUN => dispatch!(frame.isa, several, &pixels, &Pixels),
                _ => dispatch!(frame.isa, one, &pixels, &Pixels),
            }
        }
    }
}

/// # Safety
/// As [`neighbours`].
#[inline(always)]
unsafe fn several<L: Lanes>(pixels: &Pixels) {
    // SAFETY: the caller's promise.
    unsafe { neighbours::<L, RUN>(pixels) }
}

/// # Safety
/// As [`neighbours`].
#[inline(always)]
unsafe fn one<L: Lanes>(pixels: &Pixels) {
    // SAFETY: the caller's promise.
    unsafe { neighbours::<L, 1>(pixels) }
}

/// # Safety
/// The CPU has the instructions of `L`, and the pointers are good for what [`Pixels`] says, for `N` pixels of `weight`
/// channels.
#[inline(always)]
unsafe fn neighbours<L: Lanes, const N: usize>(pixels: &Pixels) {
    let (low, high) = (L::splat(pixels.finish.low), L::splat(pixels.finish.high));
    for channel in (0..pixels.weight).step_by(WIDTH) {
        // SAFETY: there is a bias for each channel.
        let mut sums = [unsafe { L::load(pixels.finish.bias.add(channel)) }; N];
        for y in 0..pixels.rows {
            for x in 0..pixels.columns {
                let weight = y * pixels.weight_row + x * pixels.weight + channel;
                let input = y * pixels.row + x * pixels.pixel + channel;
                // SAFETY: tap and pixel exist.
                let weight = unsafe { L::load(pixels.weights.add(weight)) };
                for (at, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: as above, for each of `N` windows.
                    let value = unsafe { L::load(pixels.first.add(input + at * pixels.window)) };
                    *sum = value.mul_add(weight, *sum);
                }
            }
        }
        for (at, sum) in sums.into_iter().enumerate() {
            // SAFETY: the pixel exists.
            unsafe { sum.at_least(low).at_most(high).store(pixels.out.add(at * pixels.out_pixel + channel)) };
        }
    }
}
