//! The device kernels compile without a warning for every GPU that is supported, and none of them spills a register. No GPU
//! is needed: the compiler is a library (`make .venv/ready` fetches it).
#![cfg(all(target_os = "linux", not(any(loom, miri))))]
#![allow(unsafe_code, reason = "the compiler is C")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "registers are for whoever reads the test's output")]

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result, sys};
use kernels::cuda::source::{FATBIN, KERNELS, SOURCE};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Turing, Ampere (two), Ada, Hopper.
const ARCHITECTURES: [&str; 5] = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"];

/// The wheel's folder of libraries in the repository's virtual environment.
fn wheel() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let versions = std::fs::read_dir(root.join(".venv/lib")).ok()?;
    versions
        .filter_map(|version| Some(version.ok()?.path().join("site-packages/nvidia/cu13/lib")))
        .find(|folder| folder.join("libnvrtc.so.13").exists())
}

/// Opens the wheel's compiler for good, and what it opens itself: both are then found by their names alone.
fn load() {
    if let Some(folder) = wheel() {
        let mut libraries: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                name == "libnvrtc.so.13" || name.starts_with("libnvrtc-builtins.so.")
            })
            .collect();
        libraries.sort();
        for path in libraries {
            // SAFETY: NVIDIA's compiler may be loaded at any time; it stays.
            std::mem::forget(unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }.unwrap());
        }
    }
    // SAFETY: as above.
    let found = unsafe { sys::is_culib_present() };
    assert!(found, "libnvrtc.so.13 is neither in .venv nor where the loader looks: run `make .venv/ready`");
}

/// Machine code for one architecture and what the compiler said.
fn compile(architecture: &str) -> (Vec<u8>, String) {
    let source = CString::new(SOURCE).unwrap();
    let program = result::create_program(&source, Some(c"kernels.cu")).unwrap();
    let options = [format!("--gpu-architecture={architecture}"), "--ptxas-options=-v".to_owned()];
    // SAFETY: the program was just created, and `source` outlives it.
    let compiled = unsafe { result::compile_program(program, &options) };
    // SAFETY: as above.
    let log = unsafe { result::get_program_log(program) }.unwrap();
    // SAFETY: the log ends with a zero.
    let log = unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned();
    assert!(compiled.is_ok(), "{architecture}: {compiled:?}\n{log}");
    let mut size = 0;
    // SAFETY: the program is compiled.
    unsafe { sys::nvrtcGetCUBINSize(program, &raw mut size) }.result().unwrap();
    let mut code = vec![0_u8; size];
    // SAFETY: `code` has the size that was asked for.
    unsafe { sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()) }.result().unwrap();
    // SAFETY: nobody uses the program after this.
    unsafe { result::destroy_program(program) }.unwrap();
    (code, log)
}

#[test]
fn every_kernel_compiles_for_every_gpu() {
    load();
    for architecture in ARCHITECTURES {
        let (code, log) = compile(architecture);
        assert!(code.starts_with(b"\x7fELF"), "{architecture}: no machine code");
        assert!(!log.contains("warning"), "{architecture}:\n{log}");
        let mut seen = Vec::new();
        for function in log.split("Compiling entry function '").skip(1) {
            let name = function.split('\'').next().unwrap();
            let line = |what: &str| function.lines().find(|line| line.contains(what)).unwrap_or_default();
            let (spills, registers) = (line("spill stores"), line("registers"));
            println!("{architecture} {name}: {}", registers.trim_start_matches("ptxas info    : "));
            assert!(spills.contains(" 0 bytes spill stores"), "{architecture} {name}: {spills}");
            seen.push(name);
        }
        seen.sort_unstable();
        let mut expected = KERNELS;
        expected.sort_unstable();
        assert_eq!(seen, expected, "{architecture}:\n{log}");
    }
}

/// Where NVIDIA's compiler was there at build time. The layout is what `nvcc` 13.0 writes: a header of magic number, version,
/// its own length (u16) and what follows (u64), then for each architecture a header (kind, version, length, bytes after it; the
/// architecture's number at 28) and its machine code.
#[test]
fn what_was_compiled_beforehand_is_for_every_gpu() {
    let Some(image) = FATBIN else {
        println!("built without nvcc: kernels are compiled at each start");
        return;
    };
    let number = |at: usize, bytes: usize| {
        image[at..at + bytes].iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
    };
    assert_eq!(number(0, 4), 0xba55_ed50, "no fatbin");
    assert_eq!(number(6, 2) + number(8, 8), image.len());
    let (mut at, mut found) = (number(6, 2), Vec::new());
    while at < image.len() {
        let (kind, head, bytes) = (number(at, 2), number(at + 4, 4), number(at + 8, 8));
        assert_eq!(kind, 2, "no machine code");
        found.push(format!("sm_{}", number(at + 28, 4)));
        at += head + bytes;
    }
    assert_eq!(found, ARCHITECTURES);
}
