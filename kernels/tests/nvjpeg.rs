//! nvJPEG as it is installed: found, or missed in so many words, and on a GPU with a JPEG engine the image decoders' golden
//! files, near what libjpeg-turbo makes of them.
#![allow(unsafe_code, reason = "raw device memory")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(not(miri))]

use std::fs;

use cudarc::driver::{CudaContext, DevicePtrMut};
use kernels::cuda::nvjpeg::{Backend, Decoder, Library, NvjpegError, Settings, Target, scan};

#[test]
fn the_library_is_there_or_its_error_says_what_to_do() {
    match Library::open() {
        Ok(library) => assert!(library.version().major >= 12, "{} {}", library.name(), library.version()),
        Err(error @ NvjpegError::Missing { .. }) => assert!(error.to_string().contains("libnvjpeg.so.13")),
        Err(error) => panic!("{error}"),
    }
}

/// Of each file the mean and the largest difference of a sample.
fn differences(backend: Backend, names: &[&str]) -> Vec<(f64, u8)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/images");
    let read = |name: &str| fs::read(format!("{folder}/{name}")).unwrap();
    let files: Vec<_> = names.iter().map(|name| read(&format!("{name}.jpg"))).collect();
    let jpegs: Vec<_> = files.iter().map(Vec::as_slice).collect();

    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let settings = Settings { backend, batch: names.len(), threads: 1, strict: false };
    // SAFETY: the stream is of the context that is current, the primary one; both outlive the decoder, which is of this block.
    let mut decoder =
        unsafe { Decoder::new(&Library::open().unwrap(), stream.cu_stream(), settings) }.unwrap();
    let mut memory = Vec::new();
    let mut targets = Vec::new();
    for jpeg in &jpegs {
        let traits = scan(jpeg).unwrap();
        assert!(decoder.supported(jpeg).unwrap());
        let (width, height) = (u32::from(traits.width), u32::from(traits.height));
        assert_eq!(decoder.size(jpeg), Ok((width, height)));
        let mut buffer = stream.alloc_zeros::<u8>(width as usize * height as usize * 3).unwrap();
        let pointer = buffer.device_ptr_mut(&stream).0;
        // SAFETY: the buffer has as many bytes, and is not used before the pictures are there.
        targets.push(unsafe { Target::new(pointer, width as usize * 3, width, height) });
        memory.push(buffer);
    }
    for _ in 0..2 {
        decoder.decode(&jpegs, &targets).unwrap();
    }
    drop(decoder);
    let difference = |(buffer, name): (&_, &&str)| {
        let decoded: Vec<u8> = stream.clone_dtoh(buffer).unwrap();
        let stored = read(&format!("{name}.jpg.rgb"));
        let apart: Vec<_> = decoded.iter().zip(&stored).map(|(a, b)| a.abs_diff(*b)).collect();
        assert_eq!(decoded.len(), stored.len(), "{name}");
        let mean = apart.iter().map(|&apart| f64::from(apart)).sum::<f64>() / apart.len() as f64;
        (mean, apart.into_iter().max().unwrap())
    };
    memory.iter().zip(names).map(difference).collect()
}

const PLAIN: [&str; 6] = ["gray", "yuv444", "yuv422", "yuv440", "yuv420", "restarts"];

#[test]
#[ignore = "needs a GPU with a JPEG engine"]
fn the_engine_decodes_what_the_headers_promise() {
    let differences = differences(Backend::Hardware, &PLAIN);
    assert!(differences.iter().all(|&(mean, _)| mean < 2.0), "{PLAIN:?}: mean, largest {differences:?}");
}

#[test]
#[ignore = "needs a GPU"]
fn the_cores_decode_the_same() {
    let differences = differences(Backend::Cuda, &PLAIN);
    assert!(differences.iter().all(|&(mean, _)| mean < 2.0), "{PLAIN:?}: mean, largest {differences:?}");
}
