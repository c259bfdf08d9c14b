//! The targets, for libFuzzer's programs.

#![allow(clippy::unwrap_used, reason = "without its seeds a run is worth little")]

#[path = "targets/mod.rs"]
mod targets;

pub use targets::*;

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Puts a target's seeds into the folder that `CONVOY_FUZZ_SEEDS` names, before libFuzzer reads it.
pub fn write_seeds(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("CONVOY_FUZZ_SEEDS") else { return };
    for (at, seed) in seeds().iter().enumerate() {
        std::fs::write(std::path::Path::new(&folder).join(format!("seed-{at}")), seed).unwrap();
    }
}
