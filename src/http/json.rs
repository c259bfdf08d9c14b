//! JSON bodies: parsed where that holds up nobody, and charged for what parsing takes.
//!
//! A body is dropped as soon as it is parsed. Where its strings go, and what they are charged, is their readers' business;
//! here it is what the parser needs itself, and what it says of a string where none belongs: its own complaint repeats the whole
//! of it, six times as long where it must be escaped, and twice.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

use super::reply::Failure;
use crate::{
    faq::clean::MAX_TEXT_BYTES,
    memory::{Charge, Full},
    v2::infer::off_runtime,
};

/// Bytes that the parser may take for each byte of a body with escapes: it undoes them in a buffer that doubles.
const UNESCAPED: usize = 2;

/// Most bytes of a string in the wrong place, or of a name, that a complaint repeats.
const SHOWN: usize = 100;

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

/// The whole of `json`, which is no string and has none where it should not.
///
/// # Errors
/// It is something else than a `T`.
pub(super) fn whole<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    let mut parser = serde_json::Deserializer::from_slice(json);
    let whole = unquoted(&mut parser)?;
    parser.end()?;
    Ok(whole)
}

/// A value that is no string.
pub(super) fn unquoted<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Unquoted::deserialize(deserializer).map(|Unquoted(value)| value)
}

/// A value that is no string, or `null`.
pub(super) fn unquoted_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Option::<Unquoted<T>>::deserialize(deserializer)?;
    Ok(value.map(|Unquoted(value)| value))
}

/// A `T`, none of which is written as a string, and the names of whose fields are of at most [`SHOWN`] bytes.
pub(super) struct Unquoted<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unquoted<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnquotedVisitor(PhantomData)).map(Self)
    }
}

struct UnquotedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UnquotedVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    /// `T` complains, of a part.
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::deserialize(shown(text).into_deserializer())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        T::deserialize(value.into_deserializer())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        T::deserialize(value.into_deserializer())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        T::deserialize(value.into_deserializer())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        T::deserialize(value.into_deserializer())
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        T::deserialize(().into_deserializer())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        T::deserialize(SeqAccessDeserializer::new(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(ShortNames(map)))
    }
}

/// An object whose names are cut: no field has one that long.
struct ShortNames<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ShortNames<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(ShortName(seed))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

struct ShortName<K>(K);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for ShortName<K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for ShortName<K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<K::Value, E> {
        self.0.deserialize(shown(text).into_deserializer())
    }
}

fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(SHOWN)]
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

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(deserialize_with = "unquoted")]
        list: Vec<u8>,
        #[serde(default, deserialize_with = "unquoted_or_null")]
        number: Option<u64>,
        #[serde(default, deserialize_with = "unquoted")]
        truth: bool,
    }

    #[test]
    fn what_is_no_string_is_read_as_ever() {
        for (json, expected) in [
            (r#"{"list": [1, 2]}"#, Sample { list: vec![1, 2], number: None, truth: false }),
            (r#"{"list": [], "number": null}"#, Sample { list: vec![], number: None, truth: false }),
            (
                r#"{"truth": true, "number": 7, "list": []}"#,
                Sample { list: vec![], number: Some(7), truth: true },
            ),
        ] {
            assert_eq!(whole::<Sample>(json.as_bytes()).unwrap(), expected, "{json}");
        }
        for (json, problem) in [
            (r#"{"list": [], "number": 1.5}"#, "floating point `1.5`, expected u64"),
            (r#"{"list": [], "number": -1}"#, "integer `-1`, expected u64"),
            (r#"{"list": {}}"#, "invalid type: map, expected a sequence"),
            (r#"{"list": null}"#, "expected a sequence"),
            (r#"{"list": [], "number": "7"}"#, r#"invalid type: string "7", expected u64"#),
            (r#"{"list": "no"}"#, r#"invalid type: string "no", expected a sequence"#),
            (r#""no""#, r#"invalid type: string "no", expected struct Sample"#),
            (r#"{"list": [], "more": 1}"#, "unknown field `more`, expected one of"),
            (r#"{"list": []} {}"#, "trailing characters"),
            ("{}", "missing field `list`"),
        ] {
            let said = whole::<Sample>(json.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(problem), "{json}: {said}");
        }
    }

    #[test]
    fn what_is_said_of_a_string_is_short_wherever_it_stands() {
        let long = "\u{7f}".repeat(1 << 16);
        for json in [
            format!(r#""{long}""#),
            format!(r#"{{"list": "{long}"}}"#),
            format!(r#"{{"number": "{long}"}}"#),
            format!(r#"{{"truth": "{long}"}}"#),
            format!(r#"{{"{long}": 1}}"#),
        ] {
            let said = whole::<Sample>(json.as_bytes()).unwrap_err().to_string();
            assert!(said.len() < 1000, "{} bytes: {}", said.len(), &said[..200]);
        }
    }

    #[test]
    fn of_a_long_question_only_what_is_looked_at_is_kept() {
        let read = |text: &str| question(&mut serde_json::Deserializer::from_str(text)).unwrap();
        assert_eq!(read(r#""a\"é""#), "a\"é");
        let long = format!("\"{}é\"", "a".repeat(MAX_TEXT_BYTES - 1));
        assert_eq!(read(&long).len(), MAX_TEXT_BYTES - 1, "no half of a character");
    }
}
