//! Why bytes do not become a picture. Says what was found, never what a client is told about it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use ::image::ImageError;

/// A file format that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Baseline and progressive; gray, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// Every colour type and depth.
    Png,
    /// First frame.
    Gif,
    /// Lossy and lossless; first frame.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// First page.
    Tiff,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        })
    }
}

/// Why bytes do not become a picture.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DecodeError {
    /// There are no bytes.
    #[error("the image is empty")]
    Empty,
    /// The first bytes belong to no format that is decoded.
    #[error("not a JPEG, PNG, GIF, WebP, BMP or TIFF image")]
    UnknownFormat,
    /// The header announces a width or a height of zero.
    #[error("the {format} image has no pixels")]
    NoPixels {
        /// What the first bytes said.
        format: Format,
    },
    /// The header announces more pixels than allowed.
    #[error("the image is {width}x{height}, more than {limit} pixels")]
    TooManyPixels {
        /// Announced width.
        width: u32,
        /// Announced height.
        height: u32,
        /// Pixels allowed.
        limit: u64,
    },
    /// The header announces a side longer than can be resized.
    #[error("the image is {width}x{height}, a side is longer than {limit}")]
    SideTooLong {
        /// Announced width.
        width: u32,
        /// Announced height.
        height: u32,
        /// Longest side allowed.
        limit: u32,
    },
    /// Decoding what the header announces takes more memory than allowed.
    #[error(
        "decoding the {format} image takes {bytes} bytes of memory, more than {limit} (--max-decode-mib)"
    )]
    TooMuchMemory {
        /// What the first bytes said.
        format: Format,
        /// What it takes.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The system has not as much memory left.
    #[error("the server has no memory for decoding the image; try again")]
    NoMemory,
    /// Damaged, or cut short.
    #[error("the {format} image is damaged")]
    Corrupt {
        /// What the first bytes said.
        format: Format,
        /// What the decoder said.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Valid perhaps, but of a kind that is not decoded.
    #[error("the {format} image is of an unsupported kind")]
    Unsupported {
        /// What the first bytes said.
        format: Format,
        /// What the decoder said.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The transform cannot be applied.
    #[error("the image cannot be resized")]
    Resize(#[from] kernels::ResizeError),
}

impl DecodeError {
    pub(super) fn corrupt(format: Format, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Corrupt { format, source: Arc::new(source) }
    }

    pub(super) fn raster(format: Format, source: ImageError) -> Self {
        let said = Said::by(&source);
        match source {
            ImageError::Unsupported(_) => Self::Unsupported { format, source: Arc::new(said) },
            _ => Self::corrupt(format, said),
        }
    }
}

/// What a decoder said, cut: a TIFF of 500 bytes may make its decoder list the widths of 65,000 samples.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

impl Said {
    fn by(source: &ImageError) -> Self {
        const MAX_CHARS: usize = 300;
        Self(source.to_string().chars().take(MAX_CHARS).collect())
    }
}
