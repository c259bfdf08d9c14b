//! Decoding as an [`Executor`], so that a pool of CPU workers runs on the scheduler that also runs the engines.

use bytes::Bytes;
use kernels::priority::Priority;

use super::{DecodeError, DecodeOptions, Prepared, Transform, prepare};
use crate::batch::{Executor, Results};

/// A GIF of one white pixel.
const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// One picture to prepare.
#[derive(Debug, Clone)]
pub struct DecodeJob {
    /// The file.
    pub bytes: Bytes,
    /// How it becomes a square.
    pub transform: Transform,
}

/// Prepares one picture at a time.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    options: DecodeOptions,
    size: u32,
}

impl Decoder {
    /// A decoder of squares of `size` pixels.
    #[must_use]
    pub fn new(options: DecodeOptions, size: u32) -> Self {
        Self { options, size }
    }
}

impl Executor for Decoder {
    type Input = DecodeJob;
    type Output = Prepared;
    type Error = DecodeError;

    /// A picture takes milliseconds, a question or the head of a request tens of microseconds.
    fn priority(&self) -> Priority {
        Priority::Background
    }

    /// One: pictures gain nothing from each other's company, and workers take the next as soon as they are free.
    fn max_batch(&self) -> usize {
        1
    }

    fn sample(&self) -> Vec<DecodeJob> {
        vec![DecodeJob { bytes: Bytes::from_static(PIXEL), transform: Transform::STRETCH }]
    }

    fn run(&mut self, batch: &[DecodeJob]) -> Result<Results<Self>, DecodeError> {
        Ok(batch.iter().map(|job| prepare(&job.bytes, &self.options, job.transform, self.size)).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_white_square() {
        let mut decoder =
            Decoder::new(DecodeOptions { max_pixels: 1, max_memory: u64::MAX, apply_orientation: true }, 4);
        let sample = decoder.sample();
        let white = Prepared { pixels: vec![255; 4 * 4 * 3], size: 4 };
        assert_eq!(decoder.run(&sample).unwrap().pop().unwrap().unwrap(), white);
    }
}
