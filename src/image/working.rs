//! The memory that decoding takes, told from a picture's header before any of it is taken.
//!
//! What is counted per pixel are the buffers that exist at one time; `cargo bench --bench decode_memory` holds the figures
//! against what the system says of a process that decodes.

use super::{CHANNELS, DecodeError, DecodeOptions, Format};

/// Bytes of a row or column that is resized to the side of a network's square, 256 pixels at most.
const RESIZED: u64 = 256 * CHANNELS as u64;

/// Whatever the picture: code that is read in from the binary, and small buffers.
const FIXED: u64 = 2 << 20;

/// The stages of decoding one picture. Each begins with what the one before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Working {
    /// Width times height.
    pub(super) pixels: u64,
    /// The longer of both.
    pub(super) side: u64,
    /// Bytes of samples as the decoder yields them.
    pub(super) samples: u64,
    /// Bytes that the decoder takes beside the samples.
    pub(super) decoder: u64,
    /// Whether the samples become RGB in a buffer of their own.
    pub(super) spread: bool,
    /// Whether the picture is turned, in a buffer of its own.
    pub(super) turned: bool,
}

impl Working {
    /// The most bytes that exist at one time.
    pub(super) fn peak(self) -> u64 {
        let rgb = self.pixels.saturating_mul(CHANNELS as u64);
        let extra = |wanted: bool| if wanted { rgb } else { 0 };
        let decoding = self.samples.saturating_add(self.decoder);
        let spreading = self.samples.saturating_add(extra(self.spread));
        let turning = rgb.saturating_add(extra(self.turned));
        let resizing = rgb.saturating_add(self.side.saturating_mul(RESIZED));
        decoding.max(spreading).max(turning).max(resizing).saturating_add(FIXED)
    }

    /// Refuses what takes more than allowed.
    pub(super) fn check(self, format: Format, options: &DecodeOptions) -> Result<(), DecodeError> {
        let (bytes, limit) = (self.peak(), options.max_memory);
        if bytes <= limit { Ok(()) } else { Err(DecodeError::TooMuchMemory { format, bytes, limit }) }
    }
}

/// `count` zeros, or none where the system has no memory for them.
pub(super) fn zeros(count: usize) -> Result<Vec<u8>, DecodeError> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(count).map_err(|_no_memory| DecodeError::NoMemory)?;
    zeros.resize(count, 0);
    Ok(zeros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stage_counts() {
        let rgb = Working { pixels: 100, side: 0, samples: 300, decoder: 50, spread: false, turned: false };
        let peak = |working: Working| working.peak() - FIXED;
        assert_eq!(peak(rgb), 350);
        assert_eq!(peak(Working { turned: true, ..rgb }), 600);
        let gray = Working { samples: 100, spread: true, ..rgb };
        assert_eq!((peak(gray), peak(Working { decoder: 500, ..gray })), (400, 600));
        assert_eq!(peak(Working { side: 2, ..rgb }), 300 + 2 * RESIZED);
        assert_eq!(Working { pixels: u64::MAX, turned: true, ..rgb }.peak(), u64::MAX);
    }

    #[test]
    fn memory_is_refused_and_not_a_reason_to_abort() {
        assert!(matches!(zeros(isize::MAX as usize), Err(DecodeError::NoMemory)));
        assert_eq!(zeros(3).unwrap(), [0, 0, 0]);
    }
}
