//! From file bytes to the model's input: decoding, and resizing per transform and photo size.

use std::{hint::black_box, io::Cursor};

use convoy::{
    image::{DecodeOptions, decode},
    vision::{INPUT_SIZE, Preprocessing},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use image::{ImageFormat, RgbImage};
use kernels::Transform;

const SIZES: [(u32, u32); 4] = [(224, 224), (500, 375), (1280, 960), (4000, 3000)];

const OPTIONS: DecodeOptions =
    DecodeOptions { max_pixels: 50_000_000, max_memory: 320 << 20, apply_orientation: true };

/// Smooth shapes with some texture: compresses like a photo, not like noise.
fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let grain = (x.wrapping_mul(2_654_435_761).wrapping_add(y.wrapping_mul(40_503)) >> 27) as f32;
        let tone =
            |phase: f32| (110.0 + 90.0 * (9.0 * u + phase).sin() * (7.0 * v - phase).cos() + grain) as u8;
        image::Rgb([tone(0.0), tone(1.0), tone(2.0)])
    })
}

fn encoded(photo: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photo.write_to(&mut bytes, format).expect("encoding in memory");
    bytes.into_inner()
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (width, height) in SIZES {
        group.throughput(Throughput::Elements(u64::from(width * height)));
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let bytes = encoded(&photo(width, height), format);
            let id = BenchmarkId::new(format!("{format:?}"), format!("{width}x{height}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| decode(black_box(&bytes), &OPTIONS).expect("a valid photo"));
            });
        }
    }
    group.finish();
}

fn resizing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resize");
    for (width, height) in SIZES {
        let photo = photo(width, height);
        group.throughput(Throughput::Elements(u64::from(width * height)));
        for (name, transform) in [("resize-crop", Transform::RESIZE_CROP), ("stretch", Transform::STRETCH)] {
            let id = BenchmarkId::new(name, format!("{width}x{height}"));
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    kernels::resize(black_box(photo.as_raw()), width, height, transform, INPUT_SIZE)
                        .expect("a valid size")
                });
            });
        }
    }
    group.finish();
}

fn normalising(criterion: &mut Criterion) {
    let photo = photo(INPUT_SIZE, INPUT_SIZE);
    let mut out = vec![0.0; photo.as_raw().len()];
    criterion.bench_function("normalize/224x224", |bencher| {
        bencher.iter(|| Preprocessing::TORCHVISION.normalize(black_box(photo.as_raw()), &mut out));
    });
}

criterion_group!(benches, decoding, resizing, normalising);
criterion_main!(benches);
