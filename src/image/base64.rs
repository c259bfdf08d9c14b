//! Reads base64 the way the existing clients write it, which is rarely plain.
//!
//! Accepted around the alphabet: a second pair of quotes (`"\"iVBOR...\""`), Python's repr of bytes (`b'iVBOR...'`),
//! data URLs, line breaks and their escapes, the URL-safe alphabet, missing padding. Python's decoder, which those
//! clients lean on, skips whatever is outside the alphabet; so does this one.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The bytes behind `text`, or `None` when its alphabet characters do not form base64 (one is left over).
pub fn decode(text: &str) -> Option<Vec<u8>> {
    LENIENT.decode(alphabet_only(payload(text))).ok()
}

/// Strips quotes, a bytes prefix and a data URL's head, from the outside in.
fn payload(text: &str) -> &str {
    let mut text = text.trim();
    text = unquoted(text).unwrap_or(text).trim();
    if let Some(inner) = text.strip_prefix(['b', 'B']).and_then(unquoted) {
        text = inner;
    }
    match text.split_once(";base64,") {
        Some((head, rest)) if head.starts_with("data:") => rest,
        _ => text,
    }
}

fn unquoted(text: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

/// The characters that carry data, in the standard alphabet, up to the padding. A backslash takes the character
/// after it along: `\n` inside a repr is a line break, not the letter n.
fn alphabet_only(text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => data.push(byte),
            b'-' => data.push(b'+'),
            b'_' => data.push(b'/'),
            b'=' => break,
            b'\\' => _ = bytes.next(),
            _ => {}
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_dress_of_the_existing_clients_comes_off() {
        let bytes: Vec<u8> = (0..=255).chain(250..=255).collect();
        let plain = STANDARD.encode(&bytes);
        let (head, tail) = plain.split_at(76);
        for dressed in [
            plain.clone(),
            format!("\"{plain}\""),
            format!("b'{plain}'"),
            format!("b\"{plain}\""),
            format!("\"b'{plain}'\""),
            format!("{head}\n{tail}\n"),
            format!("{head}\r\n{tail}"),
            format!("b'{head}\\n{tail}\\n'"),
            format!("data:image/png;base64,{plain}"),
            format!("\"data:image/jpeg;base64,{plain}\""),
            plain.trim_end_matches('=').to_owned(),
            URL_SAFE_NO_PAD.encode(&bytes),
            format!("  {plain}  "),
        ] {
            assert_eq!(decode(&dressed).as_deref(), Some(&bytes[..]), "{dressed}");
        }
    }

    #[test]
    fn a_left_over_character_is_no_base64() {
        assert_eq!(decode("AAAAA"), None);
        assert_eq!(decode(""), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            let _ = decode(&text);
        }

        #[test]
        fn plain_base64_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&STANDARD.encode(&bytes)), Some(bytes));
        }
    }
}
