//! JPEG to RGB8 in one buffer, the very samples that libjpeg-turbo's accurate settings yield. Strict: entropy-coded data
//! that ends early or does not decode is an error and not a grey patch; bytes after the picture are ignored. The file's
//! structure is looked at in [`layout`], what the C decoder may report and how that is contained in [`strict`].

mod layout;
mod strict;

use std::io::{self, Read};
use std::sync::Arc;

use ::image::metadata::Orientation;
use kernels::priority::Turns;
use mozjpeg::decompress::DecompressStarted;
use mozjpeg::{ColorSpace, Decompress};

use self::layout::{Layout, LayoutError};
use self::strict::DecoderError;
use super::{
    CHANNELS, DecodeError, DecodeOptions, Format, Rgb8,
    working::{Working, zeros},
};

/// End of image, for files that lack it.
const END_MARKER: &[u8] = &[0xff, layout::EOI];

/// Memory of libjpeg for the rows it is at: of each component a few rows of blocks, as samples and with their surroundings.
const BYTES_PER_COLUMN: u64 = 256;

/// And for its tables, its input, and the code that runs.
const DECODER_BYTES: u64 = 4 << 20;

/// Decodes `bytes`; the orientation is reported, not applied.
pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<(Rgb8, Orientation), DecodeError> {
    let layout = Layout::of(bytes).map_err(refusal)?;
    let (width, height) = (u32::from(layout.width), u32::from(layout.height));
    options.check(Format::Jpeg, width, height)?;
    let orientation = layout.exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let count = u64::from(width) * u64::from(height);
    let working = Working {
        pixels: count,
        side: u64::from(width.max(height)),
        samples: count * CHANNELS as u64,
        decoder: layout.coefficients + u64::from(width) * BYTES_PER_COLUMN + DECODER_BYTES,
        spread: false,
        turned: options.apply_orientation && orientation != Orientation::NoTransforms,
    };
    working.check(Format::Jpeg, options)?;
    let pixels = strict::contain(|| pixels(&layout)).map_err(failure)?;
    Ok((Rgb8 { width, height, pixels }, orientation))
}

fn failure(error: DecoderError) -> DecodeError {
    match error {
        DecoderError::Binding(error) if error.kind() == io::ErrorKind::OutOfMemory => DecodeError::NoMemory,
        error => DecodeError::corrupt(Format::Jpeg, error),
    }
}

fn refusal(error: LayoutError) -> DecodeError {
    match error {
        LayoutError::Unsupported { .. } => {
            DecodeError::Unsupported { format: Format::Jpeg, source: Arc::new(error) }
        }
        _ => DecodeError::corrupt(Format::Jpeg, error),
    }
}

/// `[height, width, 3]` of a picture whose size has been allowed.
fn pixels(layout: &Layout<'_>) -> io::Result<Vec<u8>> {
    let source = layout.picture.chain(END_MARKER);
    let mut decoder = Decompress::builder().with_err(strict::error_manager()).from_reader(source)?;
    if decoder.size() != (usize::from(layout.width), usize::from(layout.height)) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "two readings of the size"));
    }
    // Guesses what scans left out; a picture that is whole has no use for it.
    decoder.do_block_smoothing(false);
    match decoder.color_space() {
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
            from_cmyk(decoder.to_colorspace(ColorSpace::JCS_CMYK)?)
        }
        _ => from_rgb(decoder.rgb()?),
    }
}

fn from_rgb<R>(mut decoder: DecompressStarted<R>) -> io::Result<Vec<u8>> {
    let row = decoder.width() * CHANNELS;
    let mut pixels = zeros(row * decoder.height()).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut turns = Turns::new();
    for row in pixels.chunks_exact_mut(row) {
        decoder.read_scanlines_into(row)?;
        turns.offer();
    }
    Ok(pixels)
}

fn from_cmyk<R>(mut decoder: DecompressStarted<R>) -> io::Result<Vec<u8>> {
    const INKS: usize = 4;
    let mut pixels = Vec::new();
    let length = decoder.width() * decoder.height() * CHANNELS;
    pixels.try_reserve_exact(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut row = vec![0; decoder.width() * INKS];
    let mut turns = Turns::new();
    for _ in 0..decoder.height() {
        decoder.read_scanlines_into(&mut row)?;
        turns.offer();
        pixels.extend(row.as_chunks::<INKS>().0.iter().flat_map(|&inks| naive_rgb(inks)));
    }
    Ok(pixels)
}

/// Pillow's conversion (`cmyk2rgb` in its `Convert.c`). The inks are taken to be stored inverted, as Adobe does, whether
/// or not the file says so.
fn naive_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; CHANNELS] {
    [cyan, magenta, yellow].map(|ink| black - nearest_255th(255 - ink, black))
}

/// `a * b / 255`, rounded; at most `b`.
fn nearest_255th(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_rounded_and_never_exceed_a_factor() {
        for (a, b) in (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b))) {
            let nearest = (f64::from(a) * f64::from(b) / 255.0).round() as u8;
            assert_eq!(nearest_255th(a, b), nearest, "{a} * {b}");
            assert!(nearest <= a.min(b));
        }
    }

    #[test]
    fn inverted_inks_become_light() {
        assert_eq!(naive_rgb([255, 255, 255, 255]), [255, 255, 255]);
        assert_eq!(naive_rgb([0, 255, 255, 255]), [0, 255, 255]);
        assert_eq!(naive_rgb([255, 128, 0, 128]), [128, 64, 0]);
        assert_eq!(naive_rgb([255, 255, 255, 0]), [0, 0, 0]);
    }
}
