//! Floats that start on a cache line, so that panels and padded pixels never straddle one more line than they must.
#![allow(unsafe_code)]

/// One cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A fixed number of floats, zero at first.
#[derive(Debug)]
pub(super) struct Buffer {
    lines: Vec<Line>,
    length: usize,
}

impl Buffer {
    pub(super) fn zeros(length: usize) -> Self {
        Self { lines: vec![Line([0.0; 16]); length.div_ceil(16)], length }
    }

    pub(super) fn floats(&self) -> &[f32] {
        // SAFETY: a `Line` is 16 floats without padding, and there are at least `length / 16` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}
