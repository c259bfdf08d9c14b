//! The values of tensors, as JSON and as bytes: what a client sent as elements of a datatype, and what is sent back.
//!
//! Counts are checked before memory is taken for them. What elements mean is not known here.

use std::fmt;

use bytes::{Buf, Bytes};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{
    super::reply::Failure,
    wire::{Input, short},
};

/// Most elements of a BYTES tensor, and so most photos or questions of a request; an answer's size grows with them.
pub(super) const MAX_ELEMENTS: usize = 4096;

/// What a client sent for one tensor.
#[derive(Debug)]
pub(super) enum Data {
    /// A JSON array, flattened.
    Json(Flat),
    /// Bytes in the binary extension's layout.
    Binary(Bytes),
    /// The only element of a BYTES tensor.
    Element(Bytes),
}

/// The leaves of a JSON array, row-major.
#[derive(Debug, Default)]
pub(super) struct Flat {
    texts: Vec<String>,
    /// Whole numbers from 0 to 255.
    bytes: Vec<u8>,
    /// How many leaves are neither.
    others: usize,
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = Flat::default();
        deserializer.deserialize_seq(Flatten(&mut flat))?;
        Ok(Self::Json(flat))
    }
}

/// Adds the leaves of one array, or one leaf.
struct Flatten<'a>(&'a mut Flat);

impl<'de> serde::de::DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of strings or numbers, nested or flat")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Flatten(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<(), E> {
        if self.0.texts.len() == MAX_ELEMENTS {
            return Err(E::custom(format!("more than {MAX_ELEMENTS} strings")));
        }
        self.0.texts.push(text);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        match u8::try_from(number) {
            Ok(byte) => self.0.bytes.push(byte),
            Err(_) => self.0.others += 1,
        }
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.others += 1;
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.others += 1;
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.others += 1;
        Ok(())
    }
}

impl Input {
    /// The size of the batch, where the shape is `[n]` followed by `dims`, and a last dimension of 1 may be left out.
    ///
    /// # Errors
    /// 400 when the datatype or the shape is another, or there is nothing or too much in the batch.
    pub(super) fn batch(&self, datatype: &str, dims: &[u64]) -> Result<usize, Failure> {
        let name = short(&self.name);
        if self.datatype != datatype {
            let message = format!("input `{name}` is {datatype}, not {}", short(&self.datatype));
            return Err(Failure::invalid(message));
        }
        let bad = |why: String| {
            Failure::invalid(format!("input `{name}` has shape {:.80}: {why}", format!("{:?}", self.shape)))
        };
        let expected = || {
            let dims: String = dims.iter().map(|side| format!(", {side}")).collect();
            bad(format!("expected [n{dims}]"))
        };
        let (count, rest) = self.shape.split_first().ok_or_else(expected)?;
        if rest != dims && !(rest.is_empty() && dims == [1]) {
            return Err(expected());
        }
        match usize::try_from(*count) {
            Ok(0) => Err(bad("the batch is empty".to_owned())),
            Ok(count) if count <= MAX_ELEMENTS => Ok(count),
            _ => Err(bad(format!("at most {MAX_ELEMENTS} in one request"))),
        }
    }

    /// The `count` elements of a BYTES tensor; `from_text` makes one of a JSON string.
    ///
    /// # Errors
    /// 400 when there are more or fewer, or a length leads past the end.
    pub(super) fn into_elements(
        self,
        count: usize,
        from_text: impl Fn(String) -> Result<Bytes, Failure>,
    ) -> Result<Vec<Bytes>, Failure> {
        let Self { name, data, .. } = self;
        let elements = match data {
            Data::Element(element) => vec![element],
            Data::Binary(bytes) => split(bytes, count).map_err(|why| {
                Failure::invalid(format!("input `{}`, {count} elements: {why}", short(&name)))
            })?,
            Data::Json(flat) => {
                if flat.others + flat.bytes.len() > 0 {
                    return Err(Failure::invalid(format!(
                        "input `{}`: BYTES are JSON strings",
                        short(&name)
                    )));
                }
                flat.texts.into_iter().map(from_text).collect::<Result<_, _>>()?
            }
        };
        match elements.len() {
            found if found == count => Ok(elements),
            found => Err(miscounted(&name, count, found)),
        }
    }

    /// The `count` elements of a UINT8 tensor, row-major.
    ///
    /// # Errors
    /// 400 when there are more or fewer, or JSON holds anything but whole numbers from 0 to 255.
    pub(super) fn into_uint8(self, count: usize) -> Result<Bytes, Failure> {
        let Self { name, data, .. } = self;
        let bytes = match data {
            Data::Binary(bytes) | Data::Element(bytes) => bytes,
            Data::Json(flat) if flat.others + flat.texts.len() == 0 => flat.bytes.into(),
            Data::Json(_) => {
                let message = format!("input `{}`: UINT8 are whole numbers from 0 to 255", short(&name));
                return Err(Failure::invalid(message));
            }
        };
        match bytes.len() {
            found if found == count => Ok(bytes),
            found => Err(miscounted(&name, count, found)),
        }
    }
}

fn miscounted(name: &str, expected: usize, found: usize) -> Failure {
    Failure::invalid(format!("input `{}` has {found} elements, its shape says {expected}", short(name)))
}

/// Elements of a length of four bytes, little-endian, followed by as many bytes.
fn split(mut bytes: Bytes, count: usize) -> Result<Vec<Bytes>, String> {
    let mut elements = Vec::with_capacity(count.min(MAX_ELEMENTS));
    for index in 0..count {
        let cut_short = || format!("the bytes end within element {index}");
        let length = bytes.try_get_u32_le().map_err(|_| cut_short())? as usize;
        if length > bytes.len() {
            return Err(cut_short());
        }
        elements.push(bytes.split_to(length));
    }
    match bytes.len() {
        0 => Ok(elements),
        rest => Err(format!("{rest} bytes follow the last element")),
    }
}

/// The values of an output tensor, row-major.
#[derive(Debug, PartialEq)]
pub(super) enum Values {
    Fp32(Vec<f32>),
    Int64(Vec<i64>),
    Bytes(Vec<String>),
}

/// One class of a classification: its value, its index and its label.
pub(super) fn ranked(value: f32, index: usize, label: &str) -> String {
    format!("{value}:{index}:{label}")
}

impl Values {
    /// Rows of one type after each other.
    ///
    /// # Panics
    /// When their types differ, or there is none.
    pub(super) fn concat(rows: Vec<Self>) -> Self {
        let joined = rows.into_iter().reduce(|all, row| match (all, row) {
            (Self::Fp32(mut all), Self::Fp32(row)) => {
                all.extend(row);
                Self::Fp32(all)
            }
            (Self::Int64(mut all), Self::Int64(row)) => {
                all.extend(row);
                Self::Int64(all)
            }
            (Self::Bytes(mut all), Self::Bytes(row)) => {
                all.extend(row);
                Self::Bytes(all)
            }
            _ => unreachable!("bug: rows of two types"),
        });
        joined.expect("bug: a batch is not empty")
    }

    pub(super) fn datatype(&self) -> &'static str {
        match self {
            Self::Fp32(_) => "FP32",
            Self::Int64(_) => "INT64",
            Self::Bytes(_) => "BYTES",
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Fp32(values) => values.len(),
            Self::Int64(values) => values.len(),
            Self::Bytes(texts) => texts.len(),
        }
    }

    /// Bytes in the binary extension's layout.
    pub(super) fn binary_size(&self) -> usize {
        match self {
            Self::Fp32(values) => values.len() * 4,
            Self::Int64(values) => values.len() * 8,
            Self::Bytes(texts) => texts.iter().map(|text| 4 + text.len()).sum(),
        }
    }

    /// Appends them in that layout.
    pub(super) fn append_binary(&self, out: &mut Vec<u8>) {
        out.reserve(self.binary_size());
        match self {
            Self::Fp32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::Int64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::Bytes(texts) => {
                for text in texts {
                    out.extend((text.len() as u32).to_le_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fp32(values) => values.serialize(serializer),
            Self::Int64(values) => values.serialize(serializer),
            Self::Bytes(texts) => texts.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(datatype: &str, shape: &[u64], data: Data) -> Input {
        Input { name: "x".to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec(), data }
    }

    fn json(text: &str) -> Data {
        serde_json::from_str(text).unwrap()
    }

    fn texts(data: Data, count: usize) -> Result<Vec<Bytes>, Failure> {
        input("BYTES", &[], data).into_elements(count, |text| Ok(text.into()))
    }

    #[test]
    fn nested_and_flat_arrays_are_the_same() {
        for text in [r#"["a", "b"]"#, r#"[["a"], ["b"]]"#, r#"[[["a", "b"]]]"#] {
            assert_eq!(texts(json(text), 2).unwrap(), ["a", "b"], "{text}");
        }
        let numbers = input("UINT8", &[], json("[[1, 2], [3, 255]]")).into_uint8(4).unwrap();
        assert_eq!(numbers, [1, 2, 3, 255][..]);
    }

    #[test]
    fn leaves_of_another_type_and_other_counts_are_refused() {
        for (text, count) in [(r#"["a"]"#, 2), (r#"["a", 1]"#, 1), ("[1.5]", 1), (r#"["a", true]"#, 1)] {
            assert_eq!(texts(json(text), count).unwrap_err().status, 400, "{text}");
        }
        for text in ["[256]", "[-1]", "[0.5]", "[\"1\"]", "[1, 2]", "[]", "[true]"] {
            assert_eq!(input("UINT8", &[], json(text)).into_uint8(1).unwrap_err().status, 400, "{text}");
        }
        for text in ["3", r#""a""#, "{}", r#"[{"a": 1}]"#, "[null]"] {
            assert!(serde_json::from_str::<Data>(text).is_err(), "{text}");
        }
        let many = format!("[{}\"\"]", "\"\",".repeat(MAX_ELEMENTS));
        assert!(serde_json::from_str::<Data>(&many).unwrap_err().to_string().contains("4096"));
        let deep = "[".repeat(100_000);
        assert!(serde_json::from_str::<Data>(&deep).is_err());
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let binary = |bytes: &'static [u8]| Data::Binary(Bytes::from_static(bytes));
        assert_eq!(texts(binary(b"\x01\0\0\0a\0\0\0\0"), 2).unwrap(), ["a", ""]);
        for (bytes, count) in [
            (&b""[..], 1),
            (b"\x01\0\0", 1),
            (b"\x02\0\0\0a", 1),
            (b"\xff\xff\xff\xffa", 1),
            (b"\x01\0\0\0ab", 1),
            (b"\x01\0\0\0a", 2),
        ] {
            assert_eq!(texts(binary(bytes), count).unwrap_err().status, 400, "{bytes:?}");
        }
    }

    #[test]
    fn shapes_are_checked_against_the_model() {
        let batch = |shape: &[u64]| input("BYTES", shape, json("[]")).batch("BYTES", &[1]);
        assert_eq!((batch(&[3]).unwrap(), batch(&[3, 1]).unwrap()), (3, 3));
        for shape in [&[][..], &[0], &[2, 2], &[1, 1, 1], &[u64::MAX], &[MAX_ELEMENTS as u64 + 1]] {
            assert_eq!(batch(shape).unwrap_err().status, 400, "{shape:?}");
        }
        let pixels = |shape: &[u64]| input("UINT8", shape, json("[]")).batch("UINT8", &[2, 2, 3]);
        assert_eq!(pixels(&[5, 2, 2, 3]).unwrap(), 5);
        assert!(pixels(&[5]).is_err() && pixels(&[5, 3, 2, 2]).is_err());
        assert!(input("FP32", &[1], json("[]")).batch("BYTES", &[1]).unwrap_err().message.contains("FP32"));
    }

    #[test]
    fn outputs_are_written_in_the_binary_layout() {
        let mut out = Vec::new();
        Values::Bytes(vec!["ab".into(), String::new()]).append_binary(&mut out);
        Values::Int64(vec![-2]).append_binary(&mut out);
        assert_eq!(out, b"\x02\0\0\0ab\0\0\0\0\xfe\xff\xff\xff\xff\xff\xff\xff");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(texts in prop::collection::vec(".*", 0..9)) {
            let values = Values::Bytes(texts.clone());
            let mut out = Vec::new();
            values.append_binary(&mut out);
            prop_assert_eq!(out.len(), values.binary_size());
            prop_assert_eq!(split(out.into(), texts.len()).unwrap(), texts);
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, count in 0..10usize) {
            let _ = split(bytes.into(), count);
        }
    }
}
