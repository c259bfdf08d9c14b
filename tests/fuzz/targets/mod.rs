//! What is fuzzed, as functions: each takes bytes that somebody hostile may send or put into a file, hands them to the
//! code that reads them, and panics where that code breaks a promise. Two programs call them: libFuzzer (`tests/fuzz/entries`,
//! which cargo builds with coverage) and `tests/fuzz.rs`, which replays the corpora in the ordinary test run.
//!
//! A target's seeds are made by its code, so that nobody has to wonder what a file of bytes in the repository is.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "two programs share these functions, nobody else reads them"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a target fails")]

pub mod access;
pub mod config;
pub mod encoder;
pub mod faq_clean;
pub mod faq_corpus;
pub mod faq_model;
pub mod grpc;
pub mod heads;
pub mod http;
pub mod image;
pub mod image_default;
pub mod manifest;
pub mod pth;
pub mod safetensors;
pub mod score;
pub mod v2;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ::safetensors::SafeTensorError;
use convoy::{
    batch::Terms,
    memory::{Budget, Charge},
    metrics::Metrics,
};

/// One target.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Expands `$with` with the names of all targets.
macro_rules! each_target {
    ($with:ident) => {
        $with! {
            access,
            config,
            encoder,
            faq_clean,
            faq_corpus,
            faq_model,
            grpc,
            heads,
            http,
            image,
            image_default,
            manifest,
            pth,
            safetensors,
            score,
            v2
        }
    };
}

macro_rules! targets {
    ($($name:ident),*) => {
        [$(Target { name: stringify!($name), run: $name::run, seeds: $name::seeds }),*]
    };
}

/// Every target.
pub const ALL: [Target; 16] = each_target!(targets);

/// No message is longer, whatever the bytes were: names of what is known, and a little of what was sent.
const MAX_MESSAGE: usize = 1500;

/// Checks that an error, with all that it was caused by, says something and does not repeat its input at length. Only what
/// other crates say of a file that an operator gave may.
fn bounded(error: &(dyn Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        if !error.is::<serde_json::Error>() && !error.is::<SafeTensorError>() {
            bounded_text(&error.to_string());
        }
        next = error.source();
    }
}

fn bounded_text(message: &str) {
    assert!(!message.is_empty(), "an error says nothing");
    assert!(message.len() <= MAX_MESSAGE, "a message of {} bytes: {message:.200}", message.len());
}

/// Bytes of memory that one request may hold (`--body-memory-mib` in a server).
const MEMORY: usize = 64 << 20;

/// An account of memory that nobody else uses.
fn charge() -> Charge {
    thread_local! {
        static METRICS: Metrics = Metrics::new();
    }
    let metrics = METRICS.with(Metrics::memory);
    Budget::new(MEMORY, metrics).open(Terms::by(Instant::now()).client)
}

/// A number that depends on all bytes, to vary what they do not say: the same bytes always get the same.
fn hash(data: &[u8]) -> usize {
    data.iter()
        .fold(7, |hash: usize, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)) ^ hash >> 7)
}

/// The first byte, which picks a form, and the rest.
fn form(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(form, rest)| (*form, rest))
}

/// Bytes that begin with the byte of their form.
fn formed(form: u8, rest: impl AsRef<[u8]>) -> Vec<u8> {
    [&[form], rest.as_ref()].concat()
}

/// A folder for what is read from files, one a thread; in memory, where the system has such a place.
fn scratch<T>(with: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static FOLDER: tempfile::TempDir = match Path::new("/dev/shm").is_dir() && std::env::var_os("TMPDIR").is_none() {
            true => tempfile::tempdir_in("/dev/shm").unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
    }
    FOLDER.with(|folder| with(folder.path()))
}

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(crate::ROOT).join(path)
}

/// The files under `folder` of the repository whose names end in one of `endings`.
fn files(folder: &str, endings: &[&str]) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(repository(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| endings.iter().any(|end| path.to_string_lossy().ends_with(end))).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
