//! The values of tensors: what a client sent as elements of a datatype, and what is sent back.
//!
//! Counts are checked before memory is taken for them. What elements mean is not known here.

use bytes::{Buf, Bytes};
use half::f16;

use super::{Error, Input, request::short};

/// Most elements of a BYTES tensor, and so most photos or questions of a request; an answer's size grows with them.
pub const MAX_ELEMENTS: usize = 4096;

/// Bytes beside an element that is kept apart from the body it came in.
const HELD: usize = 96;

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
    /// Numbers.
    pub numbers: Numbers,
    /// How many are neither.
    pub others: usize,
}

/// Numbers in as little memory as they need.
#[derive(Debug, PartialEq)]
pub enum Numbers {
    /// Whole ones from 0 to 255.
    Bytes(Vec<u8>),
    /// Any.
    Floats(Vec<f32>),
}

impl Default for Numbers {
    fn default() -> Self {
        Self::Bytes(Vec::new())
    }
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(numbers) => numbers.len(),
            Self::Floats(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a whole number.
    pub fn push_whole(&mut self, number: u64) {
        match (u8::try_from(number), &mut *self) {
            (Ok(byte), Self::Bytes(bytes)) => bytes.push(byte),
            _ => self.push(number as f32),
        }
    }

    /// Adds a number.
    pub fn push(&mut self, number: f32) {
        if let Self::Bytes(bytes) = self {
            *self = Self::Floats(bytes.iter().map(|byte| f32::from(*byte)).collect());
        }
        if let Self::Floats(numbers) = self {
            numbers.push(number);
        }
    }

    fn into_floats(self) -> Vec<f32> {
        match self {
            Self::Bytes(bytes) => bytes.into_iter().map(f32::from).collect(),
            Self::Floats(mut numbers) => {
                numbers.shrink_to_fit();
                numbers
            }
        }
    }
}

impl Data {
    /// About as many bytes as it takes while elements of `datatype` are made of it, beside a body that it is part of.
    pub fn memory(&self, datatype: &str) -> usize {
        match self {
            Self::Leaves(leaves) => {
                let texts = leaves.texts.iter().map(|text| text.capacity() + size_of::<String>());
                let size = match leaves.numbers {
                    Numbers::Bytes(_) if datatype == "UINT8" => 1,
                    // Copied one by one while those of others are here.
                    Numbers::Bytes(_) | Numbers::Floats(_) => size_of::<f32>(),
                };
                2 * (texts.sum::<usize>() + size * leaves.numbers.len())
            }
            Self::Elements(elements) => elements.len() * (size_of::<Bytes>() + HELD),
            Self::Binary(_) => 0,
        }
    }

    /// Bytes that are not counted yet once each element has been copied out of the body.
    pub(super) fn copied(&self) -> usize {
        match self {
            Self::Leaves(_) | Self::Elements(_) => 0,
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// About as many bytes as it takes time to look through.
    pub fn weight(&self) -> usize {
        match self {
            Self::Leaves(leaves) => {
                leaves.texts.iter().map(String::len).sum::<usize>() + leaves.numbers.len()
            }
            Self::Elements(elements) => elements.iter().map(Bytes::len).sum(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// The elements of an FP32 or FP16 tensor, row-major, as they came.
#[derive(Debug)]
pub enum Floats {
    /// Four bytes each.
    Fp32(Bytes),
    /// Two bytes each.
    Fp16(Bytes),
    /// Numbers.
    Values(std::vec::IntoIter<f32>),
}

impl Floats {
    /// The next `count` of them.
    ///
    /// # Panics
    /// There are not so many left.
    pub(super) fn next(&mut self, count: usize) -> Self {
        match self {
            Self::Fp32(bytes) => Self::Fp32(bytes.split_to(4 * count)),
            Self::Fp16(bytes) => Self::Fp16(bytes.split_to(2 * count)),
            Self::Values(values) => Self::Values(values.take(count).collect::<Vec<_>>().into_iter()),
        }
    }

    /// Whether none is NaN or an infinity.
    pub(super) fn are_finite(&self) -> bool {
        match self {
            Self::Fp32(bytes) => {
                bytes.as_chunks().0.iter().all(|value| f32::from_le_bytes(*value).is_finite())
            }
            Self::Fp16(bytes) => {
                bytes.as_chunks().0.iter().all(|value| f16::from_le_bytes(*value).is_finite())
            }
            Self::Values(values) => values.as_slice().iter().all(|value| value.is_finite()),
        }
    }

    /// As numbers.
    pub(super) fn into_values(self) -> Vec<f32> {
        match self {
            Self::Fp32(bytes) => bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
            Self::Fp16(bytes) => {
                bytes.as_chunks().0.iter().map(|value| f16::from_le_bytes(*value).to_f32()).collect()
            }
            Self::Values(values) => values.collect(),
        }
    }
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
                if leaves.others + leaves.numbers.len() > 0 {
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
            Data::Leaves(Leaves { texts, numbers: Numbers::Bytes(bytes), others: 0 }) if texts.is_empty() => {
                bytes.into()
            }
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

    /// The `count` elements of an FP32 tensor, or of an FP16 one, which has no form but the binary one.
    ///
    /// # Errors
    /// There are more or fewer, or any is not a finite number.
    pub(super) fn into_floats(self, count: usize) -> Result<Floats, Error> {
        let Self { name, datatype, data, .. } = self;
        let size = if datatype == "FP16" { 2 } else { 4 };
        let (found, floats) = match data {
            Data::Binary(bytes) if bytes.len() % size != 0 => {
                let message = format!(
                    "input `{}` has {} bytes, {datatype} take {size} each",
                    short(&name),
                    bytes.len()
                );
                return Err(Error::invalid(message));
            }
            Data::Binary(bytes) if size == 2 => (bytes.len() / size, Floats::Fp16(bytes)),
            Data::Binary(bytes) => (bytes.len() / size, Floats::Fp32(bytes)),
            Data::Leaves(Leaves { texts, numbers, others: 0 }) if size == 4 && texts.is_empty() => {
                (numbers.len(), Floats::Values(numbers.into_floats().into_iter()))
            }
            Data::Leaves(_) | Data::Elements(_) => {
                let what = if size == 2 { "FP16 come in binary only" } else { "FP32 are numbers" };
                return Err(Error::invalid(format!("input `{}`: {what}", short(&name))));
            }
        };
        if found != count {
            return Err(miscounted(&name, count, found));
        }
        match floats.are_finite() {
            true => Ok(floats),
            false => Err(Error::invalid(format!("input `{}` has a NaN or an infinity", short(&name)))),
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
            Data::Leaves(Leaves { texts, numbers: Numbers::Bytes(bytes.to_vec()), others })
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
    fn what_is_made_of_a_tensor_is_counted() {
        let numbers =
            |numbers, datatype| Data::Leaves(Leaves { numbers, ..Leaves::default() }).memory(datatype);
        assert_eq!(numbers(Numbers::Bytes(vec![1; 10]), "UINT8"), 20);
        assert_eq!(numbers(Numbers::Bytes(vec![1; 10]), "FP32"), 80);
        assert_eq!(numbers(Numbers::Floats(vec![1.0; 10]), "FP32"), 80);
        let binary = Data::Binary(Bytes::from_static(b"1234"));
        assert_eq!((binary.memory("BYTES"), binary.copied()), (0, 4));
    }

    #[test]
    fn numbers_stay_bytes_until_one_is_not() {
        let mut numbers = Numbers::default();
        numbers.push_whole(255);
        assert_eq!(numbers, Numbers::Bytes(vec![255]));
        numbers.push_whole(256);
        numbers.push(-0.5);
        numbers.push_whole(3);
        assert_eq!(numbers, Numbers::Floats(vec![255.0, 256.0, -0.5, 3.0]));
    }

    #[test]
    fn floats_come_in_two_sizes_and_as_numbers() {
        let floats =
            |datatype: &str, data| input(datatype, &[], data).into_floats(2).map(Floats::into_values);
        let bytes = |bytes: Vec<u8>| Data::Binary(bytes.into());
        let leaves = |numbers| Data::Leaves(Leaves { numbers, ..Leaves::default() });
        let wide: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let narrow: Vec<u8> =
            [1.5, -2.0].iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        assert_eq!(floats("FP32", bytes(wide.clone())).unwrap(), [1.5, -2.0]);
        assert_eq!(floats("FP16", bytes(narrow.clone())).unwrap(), [1.5, -2.0]);
        assert_eq!(floats("FP32", leaves(Numbers::Floats(vec![1.5, -2.0]))).unwrap(), [1.5, -2.0]);
        assert_eq!(floats("FP32", leaves(Numbers::Bytes(vec![1, 2]))).unwrap(), [1.0, 2.0]);
        let nan = [f32::NAN, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        for (datatype, data) in [
            ("FP32", bytes(narrow.clone())),
            ("FP32", bytes(wide[..7].to_vec())),
            ("FP16", bytes(wide)),
            ("FP16", bytes(narrow[..3].to_vec())),
            ("FP32", bytes(nan)),
            ("FP16", bytes(vec![0, 0x7c, 0, 0])),
            ("FP16", leaves(Numbers::Floats(vec![1.5, -2.0]))),
            ("FP32", leaves(Numbers::Floats(vec![1e39_f64 as f32, 0.0]))),
            ("FP32", Data::Leaves(Leaves { texts: vec!["1".into()], ..Leaves::default() })),
            ("FP32", Data::Elements(vec![Bytes::new(); 2])),
        ] {
            assert!(refused(floats(datatype, data)), "{datatype}");
        }
        let mut four = input("FP32", &[], leaves(Numbers::Bytes(vec![1, 2, 3, 4]))).into_floats(4).unwrap();
        assert_eq!(four.next(3).into_values(), [1.0, 2.0, 3.0]);
        assert_eq!(four.next(1).into_values(), [4.0]);
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
