//! What can go wrong with nvJPEG, and the names of its return codes. Whether a picture is then decoded elsewhere is the
//! callers' to decide.

use std::fmt;

/// Why nvJPEG is of no use, or did not decode a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NvjpegError {
    /// No library of any of the names is installed where the loader looks.
    #[error(
        "nvJPEG is not there ({tried}): install CUDA's libnvjpeg, or name its folder in LD_LIBRARY_PATH; \
         the GPU decodes no JPEGs without it"
    )]
    Missing {
        /// What the loader said about each name.
        tried: String,
    },
    /// A library is there, but not one that has everything.
    #[error("{library} lacks {symbol} ({reason}): install nvJPEG of CUDA 12 or 13")]
    Symbol {
        /// The name that was loaded.
        library: String,
        /// The function that is not in it.
        symbol: &'static str,
        /// What the loader said.
        reason: String,
    },
    /// CUDA's driver library is not installed.
    #[error("CUDA's driver library (libcuda.so.1) is not there: install NVIDIA's driver")]
    NoDriver,
    /// The calling thread has no CUDA context.
    #[error("no CUDA context is current in this thread")]
    NoContext,
    /// The device has no JPEG engine: GPUs before Ampere and consumer ones, and MIG slices without a media engine.
    #[error(
        "this GPU, or this slice of it, has no JPEG engine (NVJPEG_STATUS_ARCH_MISMATCH): \
         use another decoder, or a MIG profile with `+me`"
    )]
    NoEngine,
    /// A call into the driver failed.
    #[error("{call}: {code}")]
    Driver {
        /// The function.
        call: &'static str,
        /// The driver's name of the error.
        code: String,
    },
    /// A call into nvJPEG failed.
    #[error("{call}: {status}")]
    Library {
        /// The function.
        call: &'static str,
        /// What it returned.
        status: Status,
    },
    /// The library said that all is well, and did not give what was asked for.
    #[error("{call} gave nothing")]
    Nothing {
        /// The function.
        call: &'static str,
    },
    /// Batches of no pictures, or of more than the library can count, or no threads.
    #[error("a decoder for batches of {batch} pictures with {threads} threads cannot be")]
    Settings {
        /// Most pictures of a batch.
        batch: usize,
        /// Threads of the processor.
        threads: usize,
    },
    /// More pictures than the decoder was made for.
    #[error("{pictures} pictures for a decoder of at most {limit}")]
    Batch {
        /// How many there are.
        pictures: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Not one place for each picture.
    #[error("{targets} targets for {pictures} pictures")]
    Targets {
        /// How many places there are.
        targets: usize,
        /// How many pictures there are.
        pictures: usize,
    },
    /// A picture does not have the size of its place.
    #[error("picture {index} has {}x{} pixels and its target {}x{}", picture.0, picture.1, target.0, target.1)]
    Size {
        /// Which of the batch.
        index: usize,
        /// Width and height of the picture, in pixels.
        picture: (u32, u32),
        /// Width and height of the target, in pixels.
        target: (u32, u32),
    },
    /// The rows of a target overlap.
    #[error("rows of target {index} are {pitch} bytes apart and have {row}")]
    Pitch {
        /// Which of the batch.
        index: usize,
        /// From row to row.
        pitch: usize,
        /// Of one row.
        row: usize,
    },
    /// nvJPEG does not take a picture of the batch.
    #[error("picture {index}: {source}")]
    Picture {
        /// Which of the batch.
        index: usize,
        /// Why.
        source: Box<NvjpegError>,
    },
}

macro_rules! statuses {
    ($($(#[$attribute:meta])* $variant:ident = $code:literal, $name:literal;)*) => {
        /// A return code of nvJPEG that is not success (`nvjpegStatus_t`); displayed by its name there.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Status {
            $($(#[$attribute])* $variant,)*
            /// One that a later version of the library has.
            Other(i32),
        }

        impl Status {
            /// What `code` says; nothing if it says success.
            pub(super) fn of(code: i32) -> Option<Self> {
                match code {
                    0 => None,
                    $($code => Some(Self::$variant),)*
                    code => Some(Self::Other(code)),
                }
            }
        }

        impl fmt::Display for Status {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => formatter.write_str(concat!("NVJPEG_STATUS_", $name)),)*
                    Self::Other(code) => write!(formatter, "status {code} of nvJPEG"),
                }
            }
        }
    };
}

statuses! {
    /// A handle is not initialised.
    NotInitialized = 1, "NOT_INITIALIZED";
    /// An argument is out of range.
    InvalidParameter = 2, "INVALID_PARAMETER";
    /// The file does not parse.
    BadJpeg = 3, "BAD_JPEG";
    /// The file is a JPEG of a kind that is not decoded.
    JpegNotSupported = 4, "JPEG_NOT_SUPPORTED";
    /// No memory of the host or of the device.
    AllocatorFailure = 5, "ALLOCATOR_FAILURE";
    /// The device did not run what it was given, or there is none.
    ExecutionFailed = 6, "EXECUTION_FAILED";
    /// The device lacks what the backend needs.
    ArchMismatch = 7, "ARCH_MISMATCH";
    /// The library is at fault.
    InternalError = 8, "INTERNAL_ERROR";
    /// The backend does not have the function.
    ImplementationNotSupported = 9, "IMPLEMENTATION_NOT_SUPPORTED";
    /// The file ends early.
    IncompleteBitstream = 10, "INCOMPLETE_BITSTREAM";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_header() {
        assert_eq!(Status::of(0), None);
        let names: Vec<_> = (1..=11).filter_map(Status::of).map(|status| status.to_string()).collect();
        assert_eq!(
            names,
            [
                "NVJPEG_STATUS_NOT_INITIALIZED",
                "NVJPEG_STATUS_INVALID_PARAMETER",
                "NVJPEG_STATUS_BAD_JPEG",
                "NVJPEG_STATUS_JPEG_NOT_SUPPORTED",
                "NVJPEG_STATUS_ALLOCATOR_FAILURE",
                "NVJPEG_STATUS_EXECUTION_FAILED",
                "NVJPEG_STATUS_ARCH_MISMATCH",
                "NVJPEG_STATUS_INTERNAL_ERROR",
                "NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED",
                "NVJPEG_STATUS_INCOMPLETE_BITSTREAM",
                "status 11 of nvJPEG",
            ]
        );
        assert_eq!(Status::of(-1), Some(Status::Other(-1)));
    }
}
