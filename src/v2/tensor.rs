//! The values of tensors: what a client sent as elements of a datatype, and what is sent back.
//!
//! Counts are checked before memory is taken for them. What elements mean is not known here.

use bytes::{Buf, Bytes};

use super::{Error, Input, request::short};

/// Most elements of a BYTES tensor, and so most photos or questions of a request; an answer's size grows with them.
pub const MAX_ELEMENTS: usize = 4096;

/// What a client sent for one tensor.
#[derive(Debug)]
pub enum Data {
    /// One by one, row-major.
    Leaves(Leaves),
    /// The elements of a BYTES tensor.
    Elements(Vec<Bytes>),
    /// All in one, in the binary layout.
    Binary(Bytes),
}

/// Values that came one by one.
#[derive(Debug, Default)]
pub struct Leaves {
    /// Strings.
    pub texts: Vec<String>,
    /// Whole numbers from 0 to 255.
    pub bytes: Vec<u8>,
    /// How many are neither.
    pub others: usize,
}

impl Input {
    /// The size of the batch, where the shape is `[n]` followed by `dims`, and a last dimension of 1 may be left out.
    ///
    /// # Errors
    /// The datatype or the shape is another, or there is nothing or too much in the batch.
    pub(super) fn batch(&self, datatype: &str, dims: &[u64]) -> Result<usize, Error> {
        let name = short(&self.name);
        if self.datatype != datatype {
            let message = format!("input `{name}` is {datatype}, not {}", short(&self.datatype));
            return Err(Error::invalid(message));
        }
        let bad = |why: String| {
            Error::invalid(format!("input `{name}` has shape {:.80}: {why}", format!("{:?}", self.shape)))
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

    /// The `count` elements of a BYTES tensor; `from_text` makes one of a string.
    ///
    /// # Errors
    /// There are more or fewer, or a length leads past the end.
    pub(super) fn into_elements(
        self,
        count: usize,
        from_text: impl Fn(String) -> Result<Bytes, Error>,
    ) -> Result<Vec<Bytes>, Error> {
        let Self { name, data, .. } = self;
        let elements = match data {
            Data::Elements(elements) => elements,
            Data::Binary(bytes) => split(bytes, count).map_err(|why| {
                Error::invalid(format!("input `{}`, {count} elements: {why}", short(&name)))
            })?,
            Data::Leaves(leaves) => {
                if leaves.others + leaves.bytes.len() > 0 {
                    return Err(Error::invalid(format!(
                        "input `{}`: BYTES are strings, and not all of these are",
                        short(&name)
                    )));
                }
                leaves.texts.into_iter().map(from_text).collect::<Result<_, _>>()?
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
    /// There are more or fewer, or any is not a whole number from 0 to 255.
    pub(super) fn into_uint8(self, count: usize) -> Result<Bytes, Error> {
        let Self { name, data, .. } = self;
        let bytes = match data {
            Data::Binary(bytes) => bytes,
            Data::Leaves(leaves) if leaves.others + leaves.texts.len() == 0 => leaves.bytes.into(),
            Data::Leaves(_) | Data::Elements(_) => {
                let message = format!("input `{}`: UINT8 are whole numbers from 0 to 255", short(&name));
                return Err(Error::invalid(message));
            }
        };
        match bytes.len() {
            found if found == count => Ok(bytes),
            found => Err(miscounted(&name, count, found)),
        }
    }
}

fn miscounted(name: &str, expected: usize, found: usize) -> Error {
    Error::invalid(format!("input `{}` has {found} elements, its shape says {expected}", short(name)))
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
pub enum Values {
    /// FP32.
    Fp32(Vec<f32>),
    /// INT64.
    Int64(Vec<i64>),
    /// BYTES of UTF-8.
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

    /// Its name in requests and answers.
    pub fn datatype(&self) -> &'static str {
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
    pub fn binary_size(&self) -> usize {
        match self {
            Self::Fp32(values) => values.len() * 4,
            Self::Int64(values) => values.len() * 8,
            Self::Bytes(texts) => texts.iter().map(|text| 4 + text.len()).sum(),
        }
    }

    /// Appends them in that layout.
    pub fn append_binary(&self, out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Kind, *};

    fn input(datatype: &str, shape: &[u64], data: Data) -> Input {
        Input { name: "x".to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec(), data }
    }

    fn texts(data: Data, count: usize) -> Result<Vec<Bytes>, Error> {
        input("BYTES", &[], data).into_elements(count, |text| Ok(text.into()))
    }

    fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> bool {
        outcome.unwrap_err().kind() == Some(Kind::Invalid)
    }

    #[test]
    fn values_of_another_type_and_other_counts_are_refused() {
        let leaves = |texts: &[&str], bytes: &[u8], others| {
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            Data::Leaves(Leaves { texts, bytes: bytes.to_vec(), others })
        };
        assert_eq!(texts(leaves(&["a", "b"], &[], 0), 2).unwrap(), ["a", "b"]);
        for (data, count) in [
            (leaves(&["a"], &[], 0), 2),
            (leaves(&["a"], &[1], 0), 1),
            (leaves(&[], &[], 1), 1),
            (Data::Elements(vec![Bytes::new(); 3]), 2),
        ] {
            assert!(refused(texts(data, count)));
        }
        let pixels = |data| input("UINT8", &[], data).into_uint8(1);
        assert_eq!(pixels(leaves(&[], &[255], 0)).unwrap(), [255][..]);
        for data in [
            leaves(&[], &[], 1),
            leaves(&["1"], &[], 0),
            leaves(&[], &[1, 2], 0),
            leaves(&[], &[], 0),
            Data::Elements(vec![Bytes::from_static(b"x")]),
        ] {
            assert!(refused(pixels(data)));
        }
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
            assert!(refused(texts(binary(bytes), count)), "{bytes:?}");
        }
    }

    #[test]
    fn shapes_are_checked_against_the_model() {
        let none = || Data::Leaves(Leaves::default());
        let batch = |shape: &[u64]| input("BYTES", shape, none()).batch("BYTES", &[1]);
        assert_eq!((batch(&[3]).unwrap(), batch(&[3, 1]).unwrap()), (3, 3));
        for shape in [&[][..], &[0], &[2, 2], &[1, 1, 1], &[u64::MAX], &[MAX_ELEMENTS as u64 + 1]] {
            assert!(refused(batch(shape)), "{shape:?}");
        }
        let pixels = |shape: &[u64]| input("UINT8", shape, none()).batch("UINT8", &[2, 2, 3]);
        assert_eq!(pixels(&[5, 2, 2, 3]).unwrap(), 5);
        assert!(pixels(&[5]).is_err() && pixels(&[5, 3, 2, 2]).is_err());
        let other = input("FP32", &[1], none()).batch("BYTES", &[1]).unwrap_err();
        assert!(other.to_string().contains("FP32"));
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
