//! Executes a [`Plan`] on the CPU: the first pass into an intermediate that holds only the rows and columns the
//! second needs, rounding to 8 bits after each, as Pillow's `Image.resize` does. Chooses the implementation once per
//! call; every implementation yields the same bytes.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

use crate::geometry::{Axis, Order, Plan, PlanError, WEIGHT_BITS};
use crate::transform::Transform;

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// One half in the fixed-point format: turns the truncating shift into rounding.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Why a picture could not be resized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResizeError {
    /// The size cannot be transformed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The pixels are not `width * height * 3` bytes.
    #[error("{actual} bytes of pixels where {expected} were announced")]
    Length {
        /// Bytes that width and height ask for.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
}

/// Resizes `src`, RGB8 in HWC order, to `size` x `size` pixels in the same layout.
///
/// # Errors
/// When the plan cannot be made ([`Plan::new`]) or `src` is not `width * height * 3` bytes.
pub fn resize(
    src: &[u8],
    width: u32,
    height: u32,
    transform: Transform,
    size: u32,
) -> Result<Vec<u8>, ResizeError> {
    Plan::new(width, height, transform, size)?.execute(src)
}

impl Plan {
    /// Resizes one picture of the planned size with the fastest implementation this CPU runs.
    ///
    /// # Errors
    /// When `src` is not `width * height * 3` bytes.
    pub fn execute(&self, src: &[u8]) -> Result<Vec<u8>, ResizeError> {
        self.run(src, Passes::detect())
    }

    /// As [`Plan::execute`], without SIMD: what other implementations are compared with.
    ///
    /// # Errors
    /// When `src` is not `width * height * 3` bytes.
    pub fn execute_portable(&self, src: &[u8]) -> Result<Vec<u8>, ResizeError> {
        self.run(src, Passes::PORTABLE)
    }

    fn run(&self, src: &[u8], passes: Passes) -> Result<Vec<u8>, ResizeError> {
        let src_row = self.width() as usize * CHANNELS;
        let expected = src_row as u64 * u64::from(self.height());
        if src.len() as u64 != expected {
            return Err(ResizeError::Length { expected, actual: src.len() as u64 });
        }
        let (columns, rows) = (self.columns(), self.rows());
        let (needed_columns, needed_rows) = (columns.source(), rows.source());
        let from = needed_rows.start as usize * src_row + needed_columns.start as usize * CHANNELS;
        let src = Rows { bytes: &src[from..], stride: src_row };
        let out_row = self.size() as usize * CHANNELS;
        let mut out = vec![0; self.size() as usize * out_row];
        match self.order() {
            Order::HorizontalFirst => {
                let mut mid = vec![0; needed_rows.len() * out_row];
                (passes.horizontal)(columns, src, &mut mid);
                (passes.vertical)(rows, Rows { bytes: &mid, stride: out_row }, out_row, &mut out);
            }
            Order::VerticalFirst => {
                let mid_row = needed_columns.len() * CHANNELS;
                let mut mid = vec![0; rows.spans().len() * mid_row];
                (passes.vertical)(rows, src, mid_row, &mut mid);
                (passes.horizontal)(columns, Rows { bytes: &mid, stride: mid_row }, &mut out);
            }
        }
        Ok(out)
    }
}

/// What a pass reads: rows of RGB8, from the first pixel (column and row) that its axis needs to the end of the
/// picture. The last row may be shorter than the stride.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    /// Bytes from one row to the next.
    stride: usize,
}

impl<'a> Rows<'a> {
    fn from(self, row: usize) -> Self {
        Self { bytes: &self.bytes[row * self.stride..], stride: self.stride }
    }
}

/// The two passes of one implementation.
///
/// Horizontal: `(columns, input, out)`; row after row of the input becomes a row of `out`, until that is full.
/// Vertical: `(rows, input, bytes of an output row, out)`; as many bytes are read of every input row.
struct Passes {
    horizontal: fn(&Axis, Rows, &mut [u8]),
    vertical: fn(&Axis, Rows, usize, &mut [u8]),
}

impl Passes {
    const PORTABLE: Self = Self { horizontal: portable::horizontal, vertical: portable::vertical };

    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(passes) = avx2::passes() {
            return passes;
        }
        Self::PORTABLE
    }
}

/// Rounds a fixed-point sum that already holds [`HALF`] to a byte.
fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transform::Filter;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Saturated values provoke the overshoot that clipping is for.
                match state >> 61 {
                    0..=2 => 0,
                    3..=5 => 255,
                    _ => (state >> 40) as u8,
                }
            })
            .collect()
    }

    fn compare(width: u32, height: u32, transform: Transform, size: u32) {
        let src = noise(width as usize * height as usize * CHANNELS, u64::from(width * 31 + height));
        let plan = Plan::new(width, height, transform, size).unwrap();
        let (fast, slow) = (plan.execute(&src).unwrap(), plan.execute_portable(&src).unwrap());
        assert_eq!(fast.len(), (size * size) as usize * CHANNELS);
        assert!(fast == slow, "{width}x{height} by {transform} to {size}");
    }

    const TRANSFORMS: [Transform; 4] = [
        Transform::RESIZE_CROP,
        Transform::STRETCH,
        Transform::ResizeCrop { short_side: 232, filter: Filter::Bicubic },
        Transform::Stretch { filter: Filter::Bilinear },
    ];

    #[test]
    fn extreme_shapes_agree() {
        for (width, height) in [
            (1, 1),
            (2, 1),
            (1, 3),
            (5000, 40),
            (37, 1200),
            (1, 65_535),
            (65_535, 1),
            (3, 9000),
            (2999, 3001),
        ] {
            for transform in TRANSFORMS {
                compare(width, height, transform, 224);
            }
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        for transform in TRANSFORMS {
            for value in [0, 1, 128, 255] {
                let out = resize(&vec![value; 517 * 311 * 3], 517, 311, transform, 224).unwrap();
                assert!(out.iter().all(|&byte| byte == value));
            }
        }
    }

    #[test]
    fn wrong_length_is_refused() {
        let error = ResizeError::Length { expected: 12, actual: 11 };
        assert_eq!(resize(&[0; 11], 2, 2, Transform::STRETCH, 224), Err(error));
    }

    proptest! {
        #[test]
        fn implementations_agree(
            width in 1..700_u32,
            height in 1..700_u32,
            transform in proptest::sample::select(&TRANSFORMS),
            size in prop_oneof![Just(224_u32), 1..=232_u32],
        ) {
            compare(width, height, transform, size);
        }
    }
}
