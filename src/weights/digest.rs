//! SHA-256 as an operator meets it: whole, or the first eight digits that torchvision puts into file names.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Bytes read at once when a file is hashed.
const CHUNK: usize = 1 << 20;

/// What the SHA-256 of a file must be, or begin with, in lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Expected(String);

/// The text is not 8 to 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no SHA-256: give 64 hex digits, or at least the first 8")]
pub struct NotADigest(String);

/// The SHA-256 of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha([u8; 32]);

impl Expected {
    /// Whether `found` is that digest or begins with it.
    pub fn fits(&self, found: Sha) -> bool {
        found.to_string().starts_with(&self.0)
    }
}

impl FromStr for Expected {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit()) && (8..=64).contains(&text.len());
        if digits { Ok(Self(text.to_ascii_lowercase())) } else { Err(NotADigest(text.into())) }
    }
}

impl TryFrom<String> for Expected {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        self.0.iter().try_for_each(|byte| write!(text, "{byte:02x}"))?;
        f.pad(&text)
    }
}

/// A SHA-256 in the making.
#[derive(Debug, Clone, Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Hashes the rest of `reader`; the number of bytes.
    pub(super) fn update_from(&mut self, mut reader: impl Read) -> io::Result<u64> {
        let mut chunk = vec![0; CHUNK];
        let mut total = 0;
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(total),
                Ok(length) => {
                    self.update(&chunk[..length]);
                    total += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn finish(self) -> Sha {
        Sha(self.0.finalize().into())
    }
}

/// The digest of a file.
///
/// # Errors
/// What the file system says.
pub fn of_file(path: &Path) -> io::Result<Sha> {
    let mut hasher = Hasher::default();
    hasher.update_from(File::open(path)?)?;
    Ok(hasher.finish())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_whole_digests_are_compared() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut hasher = Hasher::default();
        hasher.update_from(&b"abc"[..]).unwrap();
        let found = hasher.finish();
        assert_eq!(found.to_string(), abc);
        for (text, fits) in [(abc, true), ("ba7816bf", true), ("BA7816BF8F", true), ("ba7816be", false)] {
            assert_eq!(text.parse::<Expected>().unwrap().fits(found), fits, "{text}");
        }
    }

    #[test]
    fn other_text_is_no_digest() {
        for text in ["", "ba7816b", "ba7816bg", &"0".repeat(65)] {
            assert!(text.parse::<Expected>().is_err(), "{text}");
        }
    }
}
