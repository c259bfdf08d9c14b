//! What decoding the worst picture of each format takes, as the system says of a process that decodes nothing else, beside
//! what the header makes the server expect. One process a picture: `cargo bench --bench decode_memory [files]`.
//!
//! Pictures are made on the spot, of as many pixels as the given memory allows; files of formats that nothing here encodes
//! (animations, lossy WebP) may be named.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{env, fs, io::Cursor, process::Command};

use convoy::{
    image::{DecodeError, DecodeOptions, decode},
    memory::process::resident,
};
use image::{DynamicImage, ImageEncoder, ImageFormat, codecs::png::PngEncoder};
use kernels::Transform;
use mozjpeg::{ColorSpace, Compress};

/// Says that this process is one that decodes.
const FILE: &str = "DECODE_MEMORY_FILE";

/// Pixels of a side: 12 million in all.
const SIDE: u32 = 3464;

/// Turned by a quarter: an EXIF block with that orientation alone.
const EXIF: [u8; 26] =
    [b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];

fn options(max_memory: u64) -> DecodeOptions {
    DecodeOptions { max_pixels: u64::MAX, max_memory, apply_orientation: true }
}

fn jpeg(space: ColorSpace, bytes: usize, progressive: bool) -> Vec<u8> {
    let side = SIDE as usize;
    let mut compress = Compress::new(space);
    compress.set_size(side, side);
    if progressive {
        compress.set_progressive_mode();
    } else {
        compress.set_optimize_scans(false);
    }
    compress.set_chroma_sampling_pixel_sizes((1, 1), (1, 1));
    let mut started = compress.start_compress(Vec::new()).expect("in memory");
    let row: Vec<u8> = (0..side * bytes).map(|at| (at >> 4) as u8).collect();
    for _ in 0..side {
        started.write_scanlines(&row).expect("in memory");
    }
    started.finish().expect("in memory")
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("in memory");
    bytes.into_inner()
}

fn turned_png(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new(&mut bytes);
    encoder.set_exif_metadata(EXIF.to_vec()).expect("PNG has EXIF");
    let (color, samples) = (image.color().into(), image.as_bytes());
    encoder.write_image(samples, image.width(), image.height(), color).expect("in memory");
    bytes
}

fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    let rgb = DynamicImage::new_rgb8(SIDE, SIDE);
    let rgba = DynamicImage::new_rgba8(SIDE, SIDE);
    let deep = DynamicImage::new_rgba16(SIDE, SIDE);
    let gray = DynamicImage::new_luma16(SIDE, SIDE);
    vec![
        ("JPEG, one scan", jpeg(ColorSpace::JCS_RGB, 3, false)),
        ("JPEG, progressive, full colour", jpeg(ColorSpace::JCS_RGB, 3, true)),
        ("JPEG, progressive, four inks", jpeg(ColorSpace::JCS_CMYK, 4, true)),
        ("PNG, RGB", encoded(&rgb, ImageFormat::Png)),
        ("PNG, RGBA of 16 bits", encoded(&deep, ImageFormat::Png)),
        ("PNG, RGBA of 16 bits, turned", turned_png(&deep)),
        ("PNG, gray of 16 bits", encoded(&gray, ImageFormat::Png)),
        ("GIF", encoded(&rgba, ImageFormat::Gif)),
        ("WebP, lossless, RGB", encoded(&rgb, ImageFormat::WebP)),
        ("WebP, lossless, RGBA", encoded(&rgba, ImageFormat::WebP)),
        ("BMP, RGBA", encoded(&rgba, ImageFormat::Bmp)),
        ("TIFF, RGB", encoded(&rgb, ImageFormat::Tiff)),
        ("TIFF, RGBA of 16 bits", encoded(&deep, ImageFormat::Tiff)),
    ]
}

/// Decodes and prints pixels and bytes: how far the process's peak rose above what it had before.
fn measure(path: &str) {
    let bytes = fs::read(path).expect("the file is there");
    let (before, _) = resident().expect("Linux");
    let picture = decode(&bytes, &options(u64::MAX)).expect("it is a picture");
    kernels::resize(&picture.pixels, picture.width, picture.height, Transform::STRETCH, 224)
        .expect("it can be");
    let (_, peak) = resident().expect("Linux");
    println!("{} {}", u64::from(picture.width) * u64::from(picture.height), peak - before);
}

/// What the header makes the server expect.
fn expected(bytes: &[u8]) -> u64 {
    match decode(bytes, &options(0)) {
        Err(DecodeError::TooMuchMemory { bytes, .. }) => bytes,
        other => panic!("nothing fits into no memory: {other:?}"),
    }
}

fn report(name: &str, path: &str, bytes: &[u8]) {
    let program = env::current_exe().expect("it runs");
    let output = Command::new(program).env(FILE, path).output().expect("it runs again");
    let text = String::from_utf8(output.stdout).expect("numbers");
    let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let [pixels, peak] = numbers[..] else {
        println!("{name:32} {}", String::from_utf8_lossy(&output.stderr).trim());
        return;
    };
    let expected = expected(bytes);
    let per_pixel = |bytes: u64| bytes as f64 / pixels as f64;
    println!(
        "{name:32} {:5.1} Mpx {:7.1} MiB {:5.2} B/px, expected {:7.1} MiB {:5.2} B/px",
        pixels as f64 / 1e6,
        peak as f64 / f64::from(1 << 20),
        per_pixel(peak),
        expected as f64 / f64::from(1 << 20),
        per_pixel(expected),
    );
    assert!(peak <= expected, "{name} takes more than expected");
}

fn main() {
    if let Ok(path) = env::var(FILE) {
        return measure(&path);
    }
    let files: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    for path in &files {
        report(path, path, &fs::read(path).expect("the file is there"));
    }
    if files.is_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in pictures() {
            let path = folder.path().join("picture");
            fs::write(&path, &bytes).expect("written");
            report(name, path.to_str().expect("UTF-8"), &bytes);
        }
    }
}
