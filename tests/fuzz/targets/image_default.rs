//! The same as [`super::image`] at the limits that a server starts with.

/// `--max-pixels`.
const PIXELS: u64 = 50_000_000;

/// `--max-decode-mib`.
const MEMORY: u64 = 320 << 20;

pub fn run(data: &[u8]) {
    super::image::check(data, PIXELS, MEMORY);
}

pub fn seeds() -> Vec<Vec<u8>> {
    super::image::seeds()
}
