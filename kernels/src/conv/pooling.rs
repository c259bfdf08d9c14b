//! Max and average pooling over padded pixels. Maxima ignore what lies outside the picture; means are over all of it.
#![allow(unsafe_code)]

use std::ops::Range;

use super::frame::Frame;
use super::lanes::{Lanes, dispatch};
use super::step::{Place, Window};

/// The largest value of each window.
#[derive(Debug)]
pub(super) struct MaxPool {
    window: Window,
}

/// The mean over the picture.
#[derive(Debug)]
pub(super) struct AveragePool;

/// A rectangle of pixels, at least one, to make one pixel of.
struct Rectangle {
    first: *const f32,
    rows: usize,
    columns: usize,
    /// Floats from one row to the next.
    row: usize,
    /// Floats from one pixel to the next; all are read.
    pixel: usize,
    out: *mut f32,
}

impl MaxPool {
    pub(super) fn new(window: Window) -> Self {
        Self { window }
    }

    /// # Safety
    /// As [`super::step::Step::run`].
    pub(super) unsafe fn run(&self, frame: &Frame<'_>, source: Place, target: Place) {
        let height = target.map.height();
        frame.member.for_each(frame.batch * height, |at| {
            let (image, y) = (at / height, at % height);
            let rows = self.window.within(y, source.map.height());
            for x in 0..target.map.width() {
                let columns = self.window.within(x, source.map.width());
                // SAFETY: rows and columns are in the picture; `at` is in the batch and nobody else's.
                unsafe {
                    let window = rectangle(frame, source, image, rows.clone(), columns);
                    let out = image * target.map.floats() + target.map.offset(y as isize, x as isize);
                    let window = Rectangle { out: frame.at(target, out), ..window };
                    dispatch!(frame.isa, largest, &window, &Rectangle);
                }
            }
        });
    }
}

impl AveragePool {
    /// # Safety
    /// As [`super::step::Step::run`].
    pub(super) unsafe fn run(&self, frame: &Frame<'_>, source: Place, target: Place) {
        frame.member.for_each(frame.batch, |image| {
            let (rows, columns) = (0..source.map.height(), 0..source.map.width());
            // SAFETY: the whole picture, of an image in the batch that is nobody else's.
            unsafe {
                let picture = rectangle(frame, source, image, rows, columns);
                let picture = Rectangle { out: frame.at(target, image * target.map.floats()), ..picture };
                dispatch!(frame.isa, mean, &picture, &Rectangle);
            }
        });
    }
}

impl Window {
    /// The part of the `at`th window that lies in a picture of this extent.
    pub(super) fn within(self, at: usize, extent: usize) -> Range<usize> {
        let start = at * self.stride;
        start.saturating_sub(self.pad)..(start + self.kernel).saturating_sub(self.pad).min(extent)
    }
}

/// The rectangle, its output still to be set.
///
/// # Safety
/// Rows and columns are not empty and lie in the picture, the image in the batch.
unsafe fn rectangle(
    frame: &Frame<'_>,
    source: Place,
    image: usize,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Rectangle {
    let first = image * source.map.floats() + source.map.offset(rows.start as isize, columns.start as isize);
    Rectangle {
        // SAFETY: the caller's promise.
        first: unsafe { frame.at(source, first) },
        rows: rows.len(),
        columns: columns.len(),
        row: source.map.row(),
        pixel: source.map.stride(),
        out: std::ptr::null_mut(),
    }
}

/// # Safety
/// The CPU has the instructions of `L`; the rectangle's pixels and its output are good for `pixel` floats.
#[inline(always)]
unsafe fn largest<L: Lanes>(window: &Rectangle) {
    for channel in (0..window.pixel).step_by(L::WIDTH) {
        // SAFETY: the caller's promise, here and below.
        let mut most = unsafe { L::load(window.first.add(channel)) };
        for y in 0..window.rows {
            for x in 0..window.columns {
                // SAFETY: as above.
                let value = unsafe { L::load(window.first.add(y * window.row + x * window.pixel + channel)) };
                most = most.max(value);
            }
        }
        // SAFETY: as above.
        unsafe { most.store(window.out.add(channel)) };
    }
}

/// # Safety
/// As [`largest`].
#[inline(always)]
unsafe fn mean<L: Lanes>(picture: &Rectangle) {
    let count = (picture.rows * picture.columns) as f32;
    for channel in (0..picture.pixel).step_by(L::WIDTH) {
        let mut sum = L::splat(0.0);
        for y in 0..picture.rows {
            for x in 0..picture.columns {
                // SAFETY: the caller's promise.
                let value =
                    unsafe { L::load(picture.first.add(y * picture.row + x * picture.pixel + channel)) };
                sum = sum.add(value);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { sum.mul(L::splat(1.0 / count)).store(picture.out.add(channel)) };
    }
}
