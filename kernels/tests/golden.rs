//! Holds every CPU implementation of the resize against Pillow, byte for byte: golden pictures made by
//! `generate_golden.py`, and the reference's own preparation of lossless fixtures where those are at hand.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use kernels::{Plan, Transform};

struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

fn read(path: &Path) -> Picture {
    let file = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let image = image::load_from_memory(&file).unwrap().into_rgb8();
    Picture { width: image.width(), height: image.height(), pixels: image.into_raw() }
}

/// What both implementations make of it; they must agree.
fn resize(source: &Picture, transform: Transform, size: u32) -> Vec<u8> {
    let plan = Plan::new(source.width, source.height, transform, size).unwrap();
    let out = plan.execute(&source.pixels).unwrap();
    assert!(out == plan.execute_portable(&source.pixels).unwrap(), "SIMD and portable differ");
    out
}

fn assert_same(actual: &[u8], expected: &[u8], case: &str) {
    assert_eq!(actual.len(), expected.len(), "{case}");
    let wrong = actual.iter().zip(expected).filter(|(a, b)| a != b).count();
    assert_eq!(wrong, 0, "{case}: {wrong} of {} bytes differ", expected.len());
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn small_squares_equal_pillow() {
    let mut cases = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let Some((source, transform)) = stem.split_once("__") else { continue };
        let transform = transform.replace('_', ":").parse().unwrap();
        let source = read(&golden().join(format!("{source}.png")));
        assert_same(&resize(&source, transform, 32), &read(&path).pixels, stem);
        cases += 1;
    }
    assert_eq!(cases, 64);
}

#[test]
fn network_sized_squares_equal_pillow() {
    let digests = fs::read_to_string(golden().join("digests.txt")).unwrap();
    let mut cases = 0;
    for line in digests.lines() {
        let [source, transform, digest] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let source = read(&golden().join(format!("{source}.png")));
        let out = resize(&source, transform.parse().unwrap(), 224);
        assert_eq!(format!("{:016x}", fnv1a(&out)), digest, "{line}");
        cases += 1;
    }
    assert_eq!(cases, 48);
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Of the odd fixtures, those that a plain PNG decoder reads as the reference did.
#[test]
fn reference_squares_of_lossless_fixtures_are_equal() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    if !shared.exists() {
        return;
    }
    for name in ["bilevel", "gray_alpha", "one_pixel", "palette", "palette_trns", "rgba", "tall"] {
        let source = read(&shared.join(format!("odd/{name}.png")));
        for (mode, transform) in [("A", Transform::RESIZE_CROP), ("B", Transform::STRETCH)] {
            let expected = read(&shared.join(format!("prep/{mode}/{name}.png.png")));
            assert_same(&resize(&source, transform, 224), &expected.pixels, &format!("{name} {mode}"));
        }
    }
}
