//! The arithmetic of a resize-and-crop as plain tables: for every surviving output row and column, which source
//! pixels it reads and with which fixed-point weights. Every implementation, on any device, executes these tables;
//! none of them computes a weight itself.
//!
//! Formulas and their order follow Pillow's `Resample.c` (`precompute_coeffs`, `normalize_coeffs_8bpc`), so the
//! weights agree bit for bit; sizes and offsets follow torchvision's `Resize` and `CenterCrop`. Which pass comes
//! first is [`Order`]'s rule.

use std::ops::Range;

use crate::transform::{Filter, Transform};

/// Fraction bits of a weight: 32, less 8 for the pixel, less 2 for overshoot and sign of a cubic filter.
pub const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// The longest side of a source, of a square and of `short_side`: JPEG's own limit. It bounds every table and
/// buffer (an axis holds at most about four weights a source pixel).
pub const MAX_SIDE: u32 = 65_535;

/// Rows of the weight table are padded with zeros to a multiple of this, for SIMD.
const TAPS_MULTIPLE: usize = 4;

/// Why a transform cannot be applied to a source of this size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A side is zero or longer than [`MAX_SIDE`].
    #[error("cannot resize {width}x{height} to a square of {size}: sides must be 1 to {MAX_SIDE}")]
    Side {
        /// Source width in pixels.
        width: u32,
        /// Source height in pixels.
        height: u32,
        /// Side of the square in pixels.
        size: u32,
    },
    /// The crop would reach outside the resized picture.
    #[error("short side {short_side} must be {size} (the side of the crop) to {MAX_SIDE}")]
    ShortSide {
        /// The short side asked for.
        short_side: u32,
        /// Side of the square in pixels.
        size: u32,
    },
}

/// The run of source pixels that one output pixel reads along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First source index.
    pub first: u32,
    /// How many source pixels; at least one.
    pub len: u32,
}

impl Span {
    /// One past the last source index.
    #[must_use]
    pub fn end(self) -> u32 {
        self.first + self.len
    }
}

/// One axis of a resize: spans and weights of the surviving outputs, in order. Spans never move backwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    spans: Vec<Span>,
    weights: Vec<i32>,
    taps: usize,
}

impl Axis {
    /// The tables for outputs `outputs` of an axis that shrinks or grows from `source` to `target` pixels.
    /// An axis whose length does not change gets weights of exactly one, so it needs no special case.
    fn new(filter: Filter, source: u32, target: u64, outputs: Range<u64>) -> Self {
        let scale = f64::from(source) / target as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let taps = (support.ceil() as usize * 2 + 1).next_multiple_of(TAPS_MULTIPLE);
        let count = (outputs.end - outputs.start) as usize;
        let mut axis = Self { spans: Vec::with_capacity(count), weights: vec![0; count * taps], taps };
        let mut exact = Vec::with_capacity(taps);
        for (output, row) in outputs.zip(axis.weights.chunks_exact_mut(taps)) {
            let center = (output as f64 + 0.5) * scale;
            let span = span(center, support, source);
            exact.clear();
            exact.extend((0..span.len).map(|tap| {
                filter.at((f64::from(tap) + f64::from(span.first) - center + 0.5) * (1.0 / stretch))
            }));
            quantize(&exact, row);
            axis.spans.push(span);
        }
        axis
    }

    /// The source run of every output.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// `[outputs, taps]`, row-major: weight `t` of output `o` multiplies source `spans[o].first + t`, in units of
    /// 2^-[`WEIGHT_BITS`]; zero from `spans[o].len` on.
    #[must_use]
    pub fn weights(&self) -> &[i32] {
        &self.weights
    }

    /// Length of a row of the weight table; a multiple of four.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// The source indices that any output reads.
    #[must_use]
    pub fn source(&self) -> Range<u32> {
        match (self.spans.first(), self.spans.last()) {
            (Some(first), Some(last)) => first.first..last.end(),
            _ => 0..0,
        }
    }

    /// Span and weights of every output, in order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Span, &[i32])> {
        self.spans.iter().copied().zip(self.weights.chunks_exact(self.taps))
    }
}

/// Truncation after adding one half, clamped to the source: Pillow's bounds.
fn span(center: f64, support: f64, source: u32) -> Span {
    let first = ((center - support + 0.5) as i64).max(0);
    let end = ((center + support + 0.5) as i64).min(i64::from(source));
    Span { first: first as u32, len: (end - first) as u32 }
}

/// Scales `exact` to sum to one and rounds half away from zero to fixed point.
fn quantize(exact: &[f64], weights: &mut [i32]) {
    let sum: f64 = exact.iter().sum();
    for (&value, weight) in exact.iter().zip(weights) {
        let unit = if sum == 0.0 { value } else { value / sum };
        let scaled = unit * f64::from(1 << WEIGHT_BITS);
        *weight = if unit < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 };
    }
}

/// Which pass runs first. It matters to the last bits, because the first pass rounds to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Columns, then rows: Pillow's only order before version 13.
    HorizontalFirst,
    /// Rows, then columns.
    VerticalFirst,
}

impl Order {
    /// Pillow 13's choice: rows first when the height shrinks, and by more than twice what the width does. Found by
    /// comparing 1500 sizes, 165 of them on the boundary, with Pillow 13.0.0; no other rule is documented.
    fn choose(source: (u32, u32), target: (u64, u64)) -> Self {
        let shrinks = |from: u32, to: u64| i64::from(from) - to as i64;
        let (width, height) = (shrinks(source.0, target.0), shrinks(source.1, target.1));
        if height > 0 && height > 2 * width { Self::VerticalFirst } else { Self::HorizontalFirst }
    }
}

/// Everything needed to turn a `width` x `height` picture into a square, and nothing that does not survive the crop.
///
/// Each pass is `clip(sum of weight * value)` with `clip(s) = clamp((s + 2^21) >> 22, 0, 255)`. The first covers
/// only what the second reads: the source rows of [`Plan::rows`] when columns come first, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    width: u32,
    height: u32,
    size: u32,
    order: Order,
    columns: Axis,
    rows: Axis,
}

impl Plan {
    /// Plans `transform` from `width` x `height` to `size` x `size`.
    ///
    /// # Errors
    /// When a side is zero or beyond [`MAX_SIDE`], or the crop would be larger than the resized picture.
    pub fn new(width: u32, height: u32, transform: Transform, size: u32) -> Result<Self, PlanError> {
        if [width, height, size].iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            return Err(PlanError::Side { width, height, size });
        }
        let (target_width, target_height) = match transform {
            Transform::Stretch { .. } => (u64::from(size), u64::from(size)),
            Transform::ResizeCrop { short_side, .. } if (size..=MAX_SIDE).contains(&short_side) => {
                resized(width, height, short_side)
            }
            Transform::ResizeCrop { short_side, .. } => {
                return Err(PlanError::ShortSide { short_side, size });
            }
        };
        let axis = |source, target| Axis::new(transform.filter(), source, target, centred(target, size));
        let order = Order::choose((width, height), (target_width, target_height));
        let (columns, rows) = (axis(width, target_width), axis(height, target_height));
        Ok(Self { width, height, size, order, columns, rows })
    }

    /// Source width in pixels.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Source height in pixels.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Side of the square in pixels.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The horizontal pass: source columns to output columns.
    #[must_use]
    pub fn columns(&self) -> &Axis {
        &self.columns
    }

    /// The vertical pass: source rows to output rows.
    #[must_use]
    pub fn rows(&self) -> &Axis {
        &self.rows
    }

    /// Which pass runs first.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }
}

/// Size after the resize. Integer division equals torchvision's `int(short_side * long / short)`: below
/// [`MAX_SIDE`] a quotient that is not whole is further from a whole number than a double can round away.
fn resized(width: u32, height: u32, short_side: u32) -> (u64, u64) {
    let short = u64::from(short_side);
    let long = short * u64::from(width.max(height)) / u64::from(width.min(height));
    if width <= height { (short, long) } else { (long, short) }
}

/// The `size` middle pixels of `target`; half a pixel of margin goes to the even side.
fn centred(target: u64, size: u32) -> Range<u64> {
    let margin = target - u64::from(size);
    let half = margin / 2;
    let offset = if margin % 2 == 1 && half % 2 == 1 { half + 1 } else { half };
    offset..offset + u64::from(size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn offsets_round_half_to_even() {
        for (side, offset) in
            [(224, 0), (225, 0), (226, 1), (227, 2), (228, 2), (229, 2), (231, 4), (341, 58)]
        {
            assert_eq!(centred(side, 224), offset..offset + 224, "side {side}");
        }
    }

    #[test]
    fn long_side_is_truncated() {
        assert_eq!(resized(500, 375, 256), (341, 256));
        assert_eq!(resized(37, 1200, 256), (256, 8302));
        assert_eq!(resized(MAX_SIDE, 1, 256), (256 * u64::from(MAX_SIDE), 256));
    }

    #[test]
    fn rows_come_first_when_they_shrink_most() {
        for (source, target, order) in [
            ((300, 800), (64, 250), Order::VerticalFirst),
            ((800, 300), (250, 64), Order::HorizontalFirst),
            ((100, 101), (100, 100), Order::VerticalFirst),
            ((110, 120), (100, 100), Order::HorizontalFirst),
            ((110, 121), (100, 100), Order::VerticalFirst),
            ((5, 100), (224, 224), Order::HorizontalFirst),
        ] {
            assert_eq!(Order::choose(source, target), order, "{source:?} to {target:?}");
        }
    }

    #[test]
    fn unchanged_length_is_the_identity() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let axis = Axis::new(filter, 300, 300, 10..290);
            for (output, (span, weights)) in (10..).zip(axis.rows()) {
                for (source, &weight) in (span.first..span.end()).zip(weights) {
                    assert_eq!(weight, if source == output { 1 << WEIGHT_BITS } else { 0 });
                }
            }
        }
    }

    #[test]
    fn hopeless_sizes_are_refused() {
        let side = |width, height, size| PlanError::Side { width, height, size };
        assert_eq!(Plan::new(0, 5, Transform::STRETCH, 224), Err(side(0, 5, 224)));
        assert_eq!(Plan::new(5, 65_536, Transform::STRETCH, 224), Err(side(5, 65_536, 224)));
        assert_eq!(Plan::new(5, 5, Transform::STRETCH, 0), Err(side(5, 5, 0)));
        let short = PlanError::ShortSide { short_side: 256, size: 257 };
        assert_eq!(Plan::new(5, 5, Transform::RESIZE_CROP, 257), Err(short));
    }

    proptest! {
        #[test]
        fn spans_stay_inside_and_weights_sum_to_one(
            source in prop_oneof![1..2000_u32, 1..=MAX_SIDE],
            target in 224..5000_u64,
            cubic in any::<bool>(),
        ) {
            let filter = if cubic { Filter::Bicubic } else { Filter::Bilinear };
            let axis = Axis::new(filter, source, target, centred(target, 224));
            let mut previous = 0;
            for (span, weights) in axis.rows() {
                prop_assert!(span.len >= 1 && span.end() <= source && span.first >= previous);
                prop_assert!(weights[span.len as usize..].iter().all(|&weight| weight == 0));
                let sum: i64 = weights.iter().copied().map(i64::from).sum();
                prop_assert!((sum - (1 << WEIGHT_BITS)).abs() <= i64::from(span.len));
                previous = span.first;
            }
        }
    }
}
