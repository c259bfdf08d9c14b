//! Tensors as JSON: arrays to values one by one, and values to arrays.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};

use crate::v2::tensor::{Leaves, MAX_ELEMENTS, Values};

/// The leaves of a JSON array, row-major.
#[derive(Debug, Default)]
pub(super) struct Flat(pub(super) Leaves);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = Self::default();
        deserializer.deserialize_seq(Flatten(&mut flat.0))?;
        Ok(flat)
    }
}

/// Adds the leaves of one array, or one leaf.
struct Flatten<'a>(&'a mut Leaves);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
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
        self.0.numbers.push_whole(number);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.0.others += 1;
        Ok(())
    }
}

/// Values as a flat JSON array.
pub(super) struct Written<'a>(pub(super) &'a Values);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Values::Fp32(values) => values.serialize(serializer),
            Values::Int64(values) => values.serialize(serializer),
            Values::Bytes(texts) => texts.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v2::tensor::Numbers;

    fn json(text: &str) -> Leaves {
        serde_json::from_str::<Flat>(text).unwrap().0
    }

    #[test]
    fn nested_and_flat_arrays_are_the_same() {
        for text in [r#"["a", "b"]"#, r#"[["a"], ["b"]]"#, r#"[[["a", "b"]]]"#] {
            assert_eq!(json(text).texts, ["a", "b"], "{text}");
        }
        assert_eq!(json("[[1, 2], [3, 255]]").numbers, Numbers::Bytes(vec![1, 2, 3, 255]));
        assert_eq!(json("[[1, -2], [0.5, 256]]").numbers, Numbers::Floats(vec![1.0, -2.0, 0.5, 256.0]));
    }

    #[test]
    fn leaves_are_told_apart_by_type() {
        assert_eq!(json("[true]").others, 1);
        for text in ["3", r#""a""#, "{}", r#"[{"a": 1}]"#, "[null]"] {
            assert!(serde_json::from_str::<Flat>(text).is_err(), "{text}");
        }
        let many = format!("[{}\"\"]", "\"\",".repeat(MAX_ELEMENTS));
        assert!(serde_json::from_str::<Flat>(&many).unwrap_err().to_string().contains("4096"));
        let deep = "[".repeat(100_000);
        assert!(serde_json::from_str::<Flat>(&deep).is_err());
    }
}
