//! Decoding against pictures made by Pillow (`tests/golden/images`), against the shared fixtures where they are at
//! hand, and against mutilated files.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::batch::Executor;

const OPTIONS: DecodeOptions =
    DecodeOptions { max_pixels: 50_000_000, max_memory: 320 << 20, apply_orientation: true };
const AS_STORED: DecodeOptions = DecodeOptions { apply_orientation: false, ..OPTIONS };

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

fn shared() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    root.exists().then(|| root.join("fixtures"))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn golden_pictures_decode_as_pillow_does() {
    let mut cases = 0;
    for name in names(&golden()).into_iter().filter(|name| name.ends_with(".rgb")) {
        let source = name.strip_suffix(".rgb").unwrap();
        let (file, options) = match source.strip_suffix("#stored") {
            Some(file) => (file, AS_STORED),
            None => (source, OPTIONS),
        };
        let picture =
            decode(&read(&golden().join(file)), &options).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let difference = largest_difference(&picture.pixels, &read(&golden().join(&name)));
        assert_eq!(difference, 0, "{name}");
        cases += 1;
    }
    assert!(cases >= 20, "{cases} cases");
}

#[test]
fn shared_pictures_prepare_as_the_reference_did() {
    let Some(shared) = shared() else { return };
    for (mode, transform) in [("A", Transform::RESIZE_CROP), ("B", Transform::STRETCH)] {
        for name in names(&shared.join("prep").join(mode)) {
            // Pillow clips 16-bit gray; what is wanted is `gray16.png__scaled`.
            if name == "gray16.png.png" {
                continue;
            }
            let (file, options) = match name.strip_suffix(".png").unwrap().split_once("__") {
                Some((file, "exif_applied" | "scaled")) => (file, OPTIONS),
                Some(_) => panic!("{name}: unknown variant"),
                None => (name.strip_suffix(".png").unwrap(), AS_STORED),
            };
            let folder = if file.ends_with(".JPEG") { "images" } else { "odd" };
            let prepared = prepare(&read(&shared.join(folder).join(file)), &options, transform, 224).unwrap();
            let expected = decode(&read(&shared.join("prep").join(mode).join(&name)), &OPTIONS).unwrap();
            let difference = largest_difference(&prepared.pixels, &expected.pixels);
            assert_eq!(difference, 0, "{name} {mode}");
        }
    }
}

#[test]
fn every_shared_picture_decodes_and_every_bad_one_is_refused() {
    let Some(shared) = shared() else { return };
    for folder in ["images", "odd"] {
        for name in names(&shared.join(folder)) {
            decode(&read(&shared.join(folder).join(&name)), &OPTIONS)
                .unwrap_or_else(|e| panic!("{name}: {e:?}"));
        }
    }
    for name in names(&shared.join("bad")) {
        assert!(decode(&read(&shared.join("bad").join(&name)), &OPTIONS).is_err(), "{name}");
    }
}

fn corrupt(result: Result<Rgb8, DecodeError>) -> Format {
    match result {
        Err(DecodeError::Corrupt { format, .. }) => format,
        other => panic!("expected damage, got {other:?}"),
    }
}

#[test]
fn what_is_no_picture_is_told_apart() {
    assert!(matches!(decode(b"", &OPTIONS), Err(DecodeError::Empty)));
    assert!(matches!(decode(b"hello, this is text", &OPTIONS), Err(DecodeError::UnknownFormat)));
    assert_eq!(corrupt(decode(b"\xff\xd8\xff\xe0\0\x10JFIF", &OPTIONS)), Format::Jpeg);
}

/// A file of each format, its width and height fields replaced.
fn announcing(width: u16, height: u16) -> Vec<(&'static str, Vec<u8>)> {
    let png = |file: &mut Vec<u8>| {
        file[16..20].copy_from_slice(&u32::from(width).to_be_bytes());
        file[20..24].copy_from_slice(&u32::from(height).to_be_bytes());
        // Checksum of IHDR: the decoder compares it before it looks at the size.
        let crc = chunks::crc(&chunks::crc_table(), &file[12..29]);
        file[29..33].copy_from_slice(&crc.to_be_bytes());
    };
    let gif = |file: &mut Vec<u8>| {
        file[6..8].copy_from_slice(&width.to_le_bytes());
        file[8..10].copy_from_slice(&height.to_le_bytes());
    };
    let bmp = |file: &mut Vec<u8>| {
        file[18..22].copy_from_slice(&u32::from(width).to_le_bytes());
        file[22..26].copy_from_slice(&u32::from(height).to_le_bytes());
    };
    let jpeg = |file: &mut Vec<u8>| {
        let frame = file.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        file[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
        file[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    };
    let edited = |name, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut file = read(&golden().join(name));
        edit(&mut file);
        (name, file)
    };
    vec![
        edited("rgb.png", &png),
        edited("still.gif", &gif),
        edited("rgb.bmp", &bmp),
        edited("yuv420.jpg", &jpeg),
    ]
}

#[test]
fn size_is_refused_from_the_header() {
    for (name, file) in announcing(60_000, 60_000) {
        let error = decode(&file, &OPTIONS).unwrap_err();
        let expected =
            DecodeError::TooManyPixels { width: 60_000, height: 60_000, limit: OPTIONS.max_pixels };
        assert_eq!(format!("{error:?}"), format!("{expected:?}"), "{name}");
    }
    let limit = DecodeOptions { max_pixels: 37 * 29, ..OPTIONS };
    let below = DecodeOptions { max_pixels: 37 * 29 - 1, ..OPTIONS };
    for name in ["rgb.png", "still.gif", "lossless.webp", "lossy.webp", "rgb.bmp", "rgb.tiff", "yuv420.jpg"] {
        let file = read(&golden().join(name));
        assert!(decode(&file, &limit).is_ok(), "{name}");
        assert!(matches!(decode(&file, &below), Err(DecodeError::TooManyPixels { .. })), "{name}");
    }
}

#[test]
fn working_memory_is_refused_from_the_header() {
    for name in ["rgb.png", "still.gif", "lossless.webp", "lossy.webp", "rgb.bmp", "rgb.tiff", "yuv420.jpg"] {
        let file = read(&golden().join(name));
        let refused = decode(&file, &DecodeOptions { max_memory: 0, ..OPTIONS });
        let Err(DecodeError::TooMuchMemory { bytes, limit: 0, .. }) = refused else {
            panic!("{name}: {refused:?}")
        };
        assert!(decode(&file, &DecodeOptions { max_memory: bytes, ..OPTIONS }).is_ok(), "{name}");
        let below = decode(&file, &DecodeOptions { max_memory: bytes - 1, ..OPTIONS });
        assert!(matches!(below, Err(DecodeError::TooMuchMemory { .. })), "{name}");
    }
}

/// Decoders count what a part of a file comes to against their own limits, and a picture may be one part.
#[test]
fn a_large_picture_in_one_part_is_within_its_decoders_limits() {
    for format in [ImageFormat::Tiff, ImageFormat::Bmp, ImageFormat::Png] {
        let mut file = std::io::Cursor::new(Vec::new());
        DynamicImage::new_rgba8(2600, 2600).write_to(&mut file, format).unwrap();
        let picture = decode(&file.into_inner(), &OPTIONS);
        assert_eq!(picture.unwrap().pixels.len(), 3 * 2600 * 2600, "{format:?}");
    }
}

#[test]
fn a_gif_frame_beyond_its_canvas_stays_within_memory() {
    let mut file = read(&golden().join("still.gif"));
    let frame = file.windows(5).position(|bytes| bytes == [b',', 0, 0, 0, 0]).unwrap();
    file[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert_eq!(corrupt(decode(&file, &DecodeOptions { max_pixels: 10_000, ..OPTIONS })), Format::Gif);
}

#[test]
fn a_cut_file_is_refused_and_bytes_after_the_picture_are_not() {
    for name in names(&golden()).into_iter().filter(|name| !name.ends_with(".rgb") && name != "one_pixel.png")
    {
        let mut file = read(&golden().join(&name));
        let whole = decode(&file, &OPTIONS).unwrap();
        // Its second frame is nobody's concern.
        let kept = if name == "frames.gif" { file.len() / 4 } else { file.len() * 3 / 4 };
        assert!(decode(&file[..kept], &OPTIONS).is_err(), "{name} cut to {kept} bytes");
        file.extend(b"trailing bytes \xff\xd8\xff\xe0");
        assert!(decode(&file, &OPTIONS).unwrap() == whole, "{name} with trailing bytes");
    }
}

#[test]
fn a_jpeg_without_its_end_marker_is_whole() {
    for name in ["yuv444.jpg", "yuv422.jpg", "yuv420.jpg", "gray.jpg", "restarts.jpg"] {
        let file = read(&golden().join(name));
        let unended = decode(&file[..file.len() - 2], &OPTIONS).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(unended == decode(&file, &OPTIONS).unwrap(), "{name}");
    }
}

#[test]
fn a_jpeg_cut_anywhere_is_whole_or_refused() {
    for name in names(&golden()).into_iter().filter(|name| name.ends_with(".jpg")) {
        let file = read(&golden().join(&name));
        let whole = decode(&file, &OPTIONS).unwrap();
        let decoded = |&kept: &usize| decode(&file[..kept], &OPTIONS).is_ok_and(|picture| picture == whole);
        let refused = |&kept: &usize| decode(&file[..kept], &OPTIONS).is_err();
        let first_whole = (0..=file.len()).find(decoded).unwrap();
        assert!((0..first_whole).all(|kept| refused(&kept)), "{name}");
        assert!((first_whole..file.len()).all(|kept| decoded(&kept)), "{name}");
        if name == "progressive.jpg" {
            assert_eq!(first_whole, file.len());
        }
    }
}

#[test]
fn oddities_beside_the_pixels_are_no_damage() {
    let file = read(&golden().join("yuv444.jpg"));
    let whole = decode(&file, &OPTIONS).unwrap();
    let find = |marker: [u8; 2]| file.windows(2).position(|bytes| bytes == marker).unwrap();
    let insert = |at: usize| [&file[..at], b"\0\x01stray", &file[at..]].concat();
    let mut spectrum_unset = file.clone();
    spectrum_unset[find([0xff, 0xda]) + 12] = 0;
    let oddities = [insert(find([0xff, 0xdb])), insert(file.len() - 2), spectrum_unset];
    assert!(oddities.iter().all(|odd| decode(odd, &OPTIONS).unwrap() == whole));
}

#[test]
fn damaged_pixels_are_refused() {
    let file = read(&golden().join("restarts.jpg"));
    let restart = file.windows(2).position(|bytes| bytes == [0xff, 0xd1]).unwrap();
    let mut misnumbered = file.clone();
    misnumbered[restart + 1] = 0xd5;
    let missing = [&file[..restart], &file[restart + 2..]].concat();
    assert_eq!(corrupt(decode(&misnumbered, &OPTIONS)), Format::Jpeg);
    assert_eq!(corrupt(decode(&missing, &OPTIONS)), Format::Jpeg);
}

#[test]
fn the_executor_answers_every_job_in_order() {
    let job =
        |name: &str| DecodeJob { bytes: read(&golden().join(name)).into(), transform: Transform::STRETCH };
    let mut decoder = Decoder::new(OPTIONS, 32);
    assert_eq!(decoder.max_batch(), 1);
    let text = DecodeJob { bytes: b"text".as_slice().into(), transform: Transform::STRETCH };
    let answers = decoder.run(&[job("rgb.png"), text, job("gray.png")]).unwrap();
    let expected = |name| prepare(&job(name).bytes, &OPTIONS, Transform::STRETCH, 32).unwrap();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].as_ref().unwrap(), &expected("rgb.png"));
    assert!(matches!(answers[1], Err(DecodeError::UnknownFormat)));
    assert_eq!(answers[2].as_ref().unwrap(), &expected("gray.png"));
}

fn any_file() -> impl Strategy<Value = Vec<u8>> {
    let files: Vec<_> = names(&golden())
        .into_iter()
        .filter(|name| !name.ends_with(".rgb"))
        .map(|name| read(&golden().join(name)))
        .collect();
    proptest::sample::select(files)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Any answer will do, as long as there is one and it keeps its promise of size.
    #[test]
    fn mutilated_files_never_panic(
        mut file in any_file(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..12),
        keep in prop_oneof![3 => Just(1.0), 1 => 0.0..1.0_f64],
    ) {
        for (at, value) in edits {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate((file.len() as f64 * keep) as usize);
        if let Ok(picture) = decode(&file, &DecodeOptions { max_pixels: 1 << 18, ..OPTIONS }) {
            prop_assert_eq!(picture.pixels.len(), picture.width as usize * picture.height as usize * CHANNELS);
        }
    }
}
