//! Photos of every format through decoding, orientation and resize.

use convoy::image::{DecodeError, DecodeOptions, Filter, Transform, decode, prepare};

/// Small enough that thousands of pictures are decoded a second.
const FEW_PIXELS: u64 = 1 << 16;

/// Enough for them, and for what a decoder takes however few there are.
const MEMORY: u64 = 24 << 20;

const TRANSFORMS: [Transform; 3] = [
    Transform::ResizeCrop { short_side: 37, filter: Filter::Bilinear },
    Transform::ResizeCrop { short_side: 32, filter: Filter::Bicubic },
    Transform::STRETCH,
];

pub fn run(data: &[u8]) {
    check(data, FEW_PIXELS, MEMORY);
}

pub(super) fn check(data: &[u8], max_pixels: u64, max_memory: u64) {
    let hash = super::hash(data);
    let options = DecodeOptions { max_pixels, max_memory, apply_orientation: hash & 1 == 0 };
    let decoded = decode(data, &options);
    match &decoded {
        Ok(picture) => {
            let pixels = u64::from(picture.width) * u64::from(picture.height);
            assert!((1..=max_pixels).contains(&pixels));
            assert_eq!(picture.pixels.len() as u64, 3 * pixels);
        }
        Err(error) => super::bounded(error),
    }
    match (decoded, prepare(data, &options, TRANSFORMS[hash / 2 % TRANSFORMS.len()], 32)) {
        (Ok(_), Ok(prepared)) => assert_eq!((prepared.size, prepared.pixels.len()), (32, 32 * 32 * 3)),
        (Ok(_), Err(error)) => assert!(matches!(error, DecodeError::Resize(_)), "two readings: {error}"),
        (Err(first), second) => {
            let second = second.expect_err("two readings").to_string();
            assert_eq!(first.to_string(), second);
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    super::files("tests/golden/images", &[".jpg", ".png", ".gif", ".webp", ".bmp", ".tiff"])
}
