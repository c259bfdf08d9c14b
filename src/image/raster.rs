//! Every format but JPEG, by way of the `image` crate's decoders: header, limits, samples, and from whatever the file
//! holds to RGB8 without a second buffer where the layout allows.

use std::io::Cursor;

use ::image::codecs::{bmp, gif, png, tiff, webp};
use ::image::metadata::Orientation;
use ::image::{ColorType, ImageDecoder, ImageError, ImageResult, Limits};

use super::{
    CHANNELS, DecodeError, DecodeOptions, Format, Rgb8, chunks,
    working::{Working, zeros},
};

type Source<'a> = Cursor<&'a [u8]>;
type Decoded = Result<(Rgb8, Orientation), DecodeError>;

/// Memory for decoder state and metadata on top of the pixels.
const OVERHEAD_BYTES: u64 = 16 << 20;

/// Bytes of memory that a pixel takes in a format's decoder, beside the samples that come out.
struct Decoding {
    /// Whatever the samples are.
    per_pixel: u64,
    /// Whether the samples exist twice.
    copied: bool,
}

pub(super) fn png(bytes: &[u8], options: &DecodeOptions) -> Decoded {
    chunks::check(bytes)?;
    let open = |source| png::PngDecoder::with_limits(source, limits(0));
    decode(Format::Png, bytes, options, Decoding { per_pixel: 0, copied: false }, open)
}

pub(super) fn gif(bytes: &[u8], options: &DecodeOptions) -> Decoded {
    // A frame that is smaller than the picture is decoded apart.
    decode(Format::Gif, bytes, options, Decoding { per_pixel: 4, copied: false }, gif::GifDecoder::new)
}

pub(super) fn webp(bytes: &[u8], options: &DecodeOptions) -> Decoded {
    let open = |source| webp::WebPDecoder::new(source);
    // A picture as its coding has it, its alpha apart; in an animation also in full and upon a canvas.
    let per_pixel = open(Cursor::new(bytes)).map_or(0, |decoder| match decoder.has_animation() {
        true => 9,
        false if decoder.color_type().has_alpha() => 7,
        false => 5,
    });
    decode(Format::WebP, bytes, options, Decoding { per_pixel, copied: false }, open)
}

pub(super) fn bmp(bytes: &[u8], options: &DecodeOptions) -> Decoded {
    decode(Format::Bmp, bytes, options, Decoding { per_pixel: 0, copied: false }, bmp::BmpDecoder::new)
}

pub(super) fn tiff(bytes: &[u8], options: &DecodeOptions) -> Decoded {
    decode(Format::Tiff, bytes, options, Decoding { per_pixel: 0, copied: true }, tiff::TiffDecoder::new)
}

/// What decoders may allocate: `bytes` for pixels, and some for their state; sides are checked apart, so that the error can
/// name them.
fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes.saturating_add(OVERHEAD_BYTES));
    limits
}

fn decode<'a, D: ImageDecoder>(
    format: Format,
    bytes: &'a [u8],
    options: &DecodeOptions,
    decoding: Decoding,
    open: impl FnOnce(Source<'a>) -> ImageResult<D>,
) -> Decoded {
    let failure = |error: ImageError| DecodeError::raster(format, error);
    let mut decoder = open(Cursor::new(bytes)).map_err(failure)?;
    let (width, height) = decoder.dimensions();
    options.check(format, width, height)?;
    // A broken orientation tag does not make the picture unreadable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (color, samples) = (decoder.color_type(), decoder.total_bytes());
    let pixels = u64::from(width) * u64::from(height);
    // What is copied is read a part of the file at a time, and one part may be all of it.
    let copies = if decoding.copied { samples + bytes.len() as u64 } else { 0 };
    let beside = pixels * decoding.per_pixel + copies;
    let working = Working {
        pixels,
        side: u64::from(width.max(height)),
        samples,
        decoder: beside + OVERHEAD_BYTES,
        spread: color.channel_count() < CHANNELS as u8,
        turned: options.apply_orientation && orientation != Orientation::NoTransforms,
    };
    working.check(format, options)?;
    decoder.set_limits(limits(beside)).map_err(failure)?;
    let mut samples = zeros(samples as usize)?;
    decoder.read_image(&mut samples).map_err(failure)?;
    let mut pixels = to_rgb8(samples, color).ok_or_else(|| unsupported(format, color))?;
    pixels.shrink_to_fit();
    Ok((Rgb8 { width, height, pixels }, orientation))
}

fn unsupported(format: Format, color: ColorType) -> DecodeError {
    let source = std::io::Error::new(std::io::ErrorKind::Unsupported, format!("samples of {color:?}"));
    DecodeError::Unsupported { format, source: std::sync::Arc::new(source) }
}

/// From native-endian samples of `color`; `None` for those that are not 8 or 16 bits wide.
fn to_rgb8(samples: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
    Some(match color {
        ColorType::L8 => spread::<1>(&samples),
        ColorType::La8 => spread::<2>(&samples),
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => drop_alpha(samples),
        ColorType::L16 => spread::<1>(&narrow(samples)),
        ColorType::La16 => spread::<2>(&narrow(samples)),
        ColorType::Rgb16 => narrow(samples),
        ColorType::Rgba16 => drop_alpha(narrow(samples)),
        _ => return None,
    })
}

/// Gray, the first of `N` samples, to three equal ones.
fn spread<const N: usize>(samples: &[u8]) -> Vec<u8> {
    samples.as_chunks::<N>().0.iter().flat_map(|pixel| [pixel[0]; CHANNELS]).collect()
}

/// Moves RGB of RGBA together, in place.
fn drop_alpha(mut samples: Vec<u8>) -> Vec<u8> {
    let pixels = samples.len() / 4;
    for pixel in 1..pixels {
        samples.copy_within(pixel * 4..pixel * 4 + CHANNELS, pixel * CHANNELS);
    }
    samples.truncate(pixels * CHANNELS);
    samples
}

/// 16-bit samples to the nearest 8-bit ones, `(v + 128) / 257`, in place.
fn narrow(mut samples: Vec<u8>) -> Vec<u8> {
    let count = samples.len() / 2;
    for at in 0..count {
        let sample = u32::from(u16::from_ne_bytes([samples[at * 2], samples[at * 2 + 1]]));
        samples[at] = ((sample + 128) / 257) as u8;
    }
    samples.truncate(count);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_round_to_the_nearest_of_eight() {
        for sample in 0..=u16::MAX {
            let nearest = (f64::from(sample) / 257.0).round() as u8;
            assert_eq!(narrow(sample.to_ne_bytes().to_vec()), [nearest]);
        }
    }

    #[test]
    fn layouts_become_rgb() {
        assert_eq!(to_rgb8(vec![7, 9], ColorType::L8), Some(vec![7, 7, 7, 9, 9, 9]));
        assert_eq!(to_rgb8(vec![7, 0, 9, 1], ColorType::La8), Some(vec![7, 7, 7, 9, 9, 9]));
        let rgba = vec![1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0];
        assert_eq!(to_rgb8(rgba, ColorType::Rgba8), Some(vec![1, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert_eq!(to_rgb8(vec![0; 16], ColorType::Rgba32F), None);
    }
}
