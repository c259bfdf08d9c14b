//! Decoding as an [`Executor`], so that a pool of CPU workers runs on the scheduler that also runs the engines.

use bytes::Bytes;
use kernels::priority::Priority;

use super::{DecodeError, DecodeOptions, Prepared, Transform, prepare};
use crate::batch::{Executor, Results};

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
    const PRIORITY: Priority = Priority::Background;

    /// One: pictures gain nothing from each other's company, and workers take the next as soon as they are free.
    fn max_batch(&self) -> usize {
        1
    }

    fn run(&mut self, batch: &[DecodeJob]) -> Result<Results<Self>, DecodeError> {
        Ok(batch.iter().map(|job| prepare(&job.bytes, &self.options, job.transform, self.size)).collect())
    }
}
