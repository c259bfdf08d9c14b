//! JSON bodies: parsed where that holds up nobody, and charged for what parsing takes.
//!
//! A body is dropped as soon as it is parsed. Where its strings go, and what they are charged, is their readers' business;
//! here it is only what the parser needs itself.

use std::fmt;

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{Error, Visitor},
};

use super::reply::Failure;
use crate::{
    faq::clean::MAX_TEXT_BYTES,
    memory::{Charge, Full},
    v2::infer::off_runtime,
};

/// Bytes that the parser may take for each byte of a body with escapes: it undoes them in a buffer that doubles.
const UNESCAPED: usize = 2;

/// Parses `bytes` with `read`, which gets `charge` to add what it keeps.
///
/// # Errors
/// There is no memory for it.
pub(super) async fn parse<T: Send + 'static>(
    bytes: Bytes,
    mut charge: Charge,
    read: impl FnOnce(&[u8], &mut Charge) -> Result<T, Failure> + Send + 'static,
) -> Result<(T, Charge), Failure> {
    let length = bytes.len();
    let work = move || {
        let _working = working(&bytes, &charge)?;
        let read = read(&bytes, &mut charge)?;
        Ok((read, charge))
    };
    off_runtime(length, work).await
}

/// What parsing takes beside what is kept.
pub(super) fn working(json: &[u8], charge: &Charge) -> Result<Charge, Full> {
    let mut working = charge.another();
    if json.contains(&b'\\') {
        working.add(UNESCAPED * json.len())?;
    }
    Ok(working)
}

/// A question, of which only what is looked at is kept.
pub(super) fn question<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_str(Question)
}

/// The part of a question that is looked at.
pub(super) fn looked_at(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

struct Question;

impl Visitor<'_> for Question {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(looked_at(text).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_question_only_what_is_looked_at_is_kept() {
        let read = |text: &str| question(&mut serde_json::Deserializer::from_str(text)).unwrap();
        assert_eq!(read(r#""a\"é""#), "a\"é");
        let long = format!("\"{}é\"", "a".repeat(MAX_TEXT_BYTES - 1));
        assert_eq!(read(&long).len(), MAX_TEXT_BYTES - 1, "no half of a character");
    }
}
