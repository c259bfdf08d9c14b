//! Untrusted bytes to the pixels a network is fed: format by content, limits of pixels and of working memory checked on the
//! header before any pixel memory exists, decoding to RGB8, orientation, resize. Pure functions; no networks, no HTTP, no threads.
//!
//! Colour semantics are those of Pillow's `Image.open(..).convert("RGB")`: the first frame of an animation, alpha
//! dropped rather than composited, palettes resolved, CMYK converted naively, colour profiles ignored. Two departures:
//! 16-bit samples are scaled to the nearest 8-bit value, and the EXIF orientation is applied unless switched off.

pub mod base64;
mod chunks;
mod decoder;
mod error;
mod jpeg;
mod raster;
mod working;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageFormat, RgbImage};

pub use self::decoder::{DecodeJob, Decoder};
pub use self::error::{DecodeError, Format};
pub use kernels::{Filter, Transform, TransformParseError};

/// Bytes of an RGB8 pixel.
const CHANNELS: usize = 3;

/// What a picture may be and what is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// The most pixels, width times height, that a header may announce.
    pub max_pixels: u64,
    /// Most bytes of working memory, the picture included, by what the header says; how many a pixel takes is the format's.
    pub max_memory: u64,
    /// Turn and mirror the picture as its EXIF orientation says.
    pub apply_orientation: bool,
}

impl DecodeOptions {
    /// Refuses what is larger than allowed, from the header alone.
    fn check(&self, format: Format, width: u32, height: u32) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::NoPixels { format });
        }
        if width.max(height) > kernels::MAX_SIDE {
            return Err(DecodeError::SideTooLong { width, height, limit: kernels::MAX_SIDE });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(DecodeError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        Ok(())
    }
}

/// A decoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[height, width, 3]`, row-major, red first.
    pub pixels: Vec<u8>,
}

/// What an image network is fed, before normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// `[size, size, 3]`, row-major, red first.
    pub pixels: Vec<u8>,
    /// Side of the square in pixels.
    pub size: u32,
}

/// Decodes a JPEG, PNG, GIF, WebP, BMP or TIFF, told apart by content.
///
/// # Errors
/// When the bytes are no such picture, are damaged or cut short, or announce more than `options` allows.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Rgb8, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = ::image::guess_format(bytes).map_err(|_| DecodeError::UnknownFormat)?;
    let (picture, orientation) = match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, options)?,
        ImageFormat::Png => raster::png(bytes, options)?,
        ImageFormat::Gif => raster::gif(bytes, options)?,
        ImageFormat::WebP => raster::webp(bytes, options)?,
        ImageFormat::Bmp => raster::bmp(bytes, options)?,
        ImageFormat::Tiff => raster::tiff(bytes, options)?,
        _ => return Err(DecodeError::UnknownFormat),
    };
    Ok(if options.apply_orientation { orient(picture, orientation) } else { picture })
}

/// Decodes, then resizes to `size` x `size`.
///
/// # Errors
/// As [`decode`]; also when `transform` cannot yield such a square.
pub fn prepare(
    bytes: &[u8],
    options: &DecodeOptions,
    transform: Transform,
    size: u32,
) -> Result<Prepared, DecodeError> {
    let Rgb8 { width, height, pixels } = decode(bytes, options)?;
    let pixels = kernels::resize(&pixels, width, height, transform, size)?;
    Ok(Prepared { pixels, size })
}

fn orient(picture: Rgb8, orientation: Orientation) -> Rgb8 {
    if orientation == Orientation::NoTransforms {
        return picture;
    }
    let Rgb8 { width, height, pixels } = picture;
    let buffer = RgbImage::from_raw(width, height, pixels).expect("bug: pixels do not match the size");
    let mut image = DynamicImage::ImageRgb8(buffer);
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    Rgb8 { width, height, pixels: image.into_rgb8().into_raw() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
