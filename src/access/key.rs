//! Keys and their digests: what callers hold, and what the file holds of it.
//!
//! A key is 256 random bits, so SHA-256 without salt or stretching is enough: those slow down guessing, and nobody guesses
//! 256 bits. NIST SP 800-63B, section 5.1.2.2, asks for salt and a slow hash below 112 bits of entropy, and from there on for
//! an approved one-way function alone.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What every key begins with, so that scanners for leaked secrets can tell one.
pub const PREFIX: &str = "cvy_";

/// A key in the clear; it is shown once and never stored.
pub struct Key(String);

impl Key {
    /// Of 256 bits from the system.
    ///
    /// # Panics
    /// The system has no random bits, which Linux does not let happen once it has booted.
    pub fn random() -> Self {
        let mut bits = [0; 32];
        SystemRandom::new().fill(&mut bits).expect("bug: the system has random bits");
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits)))
    }

    /// As callers send it.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// As the file holds it.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.0.as_bytes())
    }
}

/// The SHA-256 of a key. It does not print itself, so that it does not come into logs by accident.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of what a caller sent.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Of 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
        let bytes: Vec<u8> = digits?.chunks(2).map(|pair| pair[0] << 4 | pair[pair.len() - 1]).collect();
        (text.len() == 64).then(|| bytes.try_into().ok().map(Self)).flatten()
    }

    /// As 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl ConstantTimeEq for KeyDigest {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha256_in_hexadecimal() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyDigest::of(b"abc").hex(), abc);
        let read = |text: &str| KeyDigest::from_hex(text).map(|digest| digest.hex());
        assert_eq!(read(abc).as_deref(), Some(abc));
        assert_eq!(read(&abc.to_uppercase()).as_deref(), Some(abc));
        for other in ["", "ab", &abc[1..], &format!("{abc}0"), &abc.replace('b', "x"), &"ä".repeat(32)] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn keys_differ_and_show_what_they_are() {
        let (a, b) = (Key::random(), Key::random());
        assert_ne!(a.secret(), b.secret());
        assert!(a.secret().starts_with(PREFIX) && a.secret().len() == PREFIX.len() + 43, "{}", a.secret());
        assert_eq!(format!("{:?}", a.digest()), "KeyDigest(..)");
    }
}
