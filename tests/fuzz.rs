//! The fuzz targets in the ordinary build: every seed, every file of the corpora, and mutations of both that are the same on
//! every machine. `make fuzz` lets libFuzzer look further, led by coverage; what it finds becomes a file of a corpus.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[macro_use]
#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::{path::Path, process::Command};

use targets::{ALL, Target};

/// The repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Mutations of each target.
const MUTATIONS: usize = 10_000;

/// Longest input that mutations make.
const MAX_LENGTH: usize = 8 << 10;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(ROOT).join("tests/fuzz/corpus").join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// A few changes of the kinds that libFuzzer makes: bits, bytes, numbers at their edges, pieces doubled, dropped, taken
/// from another input.
fn mutated(rng: &mut fastrand::Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = inputs[rng.usize(..inputs.len())].clone();
    for _ in 0..=rng.usize(..4) {
        if bytes.is_empty() {
            bytes.push(rng.u8(..));
        }
        let at = rng.usize(..bytes.len());
        let end = (at + 1 + rng.usize(..16)).min(bytes.len());
        match rng.usize(..7) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = rng.u8(..),
            2 => bytes[at..end].fill([0, 1, 0x7f, 0x80, 0xff][rng.usize(..5)]),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes[at..end].repeat(1 + rng.usize(..8));
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &inputs[rng.usize(..inputs.len())];
                let from = rng.usize(..=other.len());
                let piece = &other[from..(from + rng.usize(..64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes.truncate(MAX_LENGTH);
    bytes
}

/// Runs `target` on all it has; the input of a failure is printed, so that it can be put into the corpus.
fn exercise(target: &Target) {
    let mut inputs = (target.seeds)();
    inputs.extend(corpus(target.name));
    assert!(!inputs.is_empty(), "{} has no seeds", target.name);
    let mut rng = fastrand::Rng::with_seed(1);
    let mutations: Vec<_> = (0..MUTATIONS).map(|_| mutated(&mut rng, &inputs)).collect();
    for input in inputs.iter().chain(&mutations) {
        let ran = std::panic::catch_unwind(|| (target.run)(input));
        assert!(ran.is_ok(), "{} does not survive {}", target.name, input.escape_ascii());
    }
}

macro_rules! tests {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            exercise(ALL.iter().find(|target| target.name == stringify!($name)).unwrap());
        })*

        #[test]
        fn every_target_is_exercised() {
            let here = [$(stringify!($name)),*];
            assert_eq!(ALL.map(|target| target.name), here);
        }
    };
}

/// Without a lock file that fits, `make fuzz` builds nothing.
#[test]
fn the_lock_file_of_the_programs_fits() {
    let manifest = Path::new(ROOT).join("tests/fuzz/Cargo.toml");
    let asked = ["metadata", "--locked", "--format-version", "1", "--manifest-path"];
    let told = Command::new(env!("CARGO")).args(asked).arg(manifest).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
}

each_target!(tests);
