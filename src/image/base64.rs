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

/// Alphabet characters that are decoded at once: whole groups of four.
const CHUNK: usize = 4 << 10;

/// The bytes behind `text`, or `None` when its alphabet characters do not form base64 (one is left over). There is no copy
/// of the text: what is no data is left out a chunk at a time.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut data = Data { rest: payload(text).bytes() };
    let mut chunk = [0; CHUNK];
    let mut bytes = Vec::with_capacity(decoded_at_most(text.len()));
    loop {
        let filled = data.fill(&mut chunk);
        LENIENT.decode_vec(&chunk[..filled], &mut bytes).ok()?;
        if filled < CHUNK {
            return Some(bytes);
        }
    }
}

/// Bytes that `characters` of base64 take at most when they are decoded, and while they are.
pub const fn decoded_at_most(characters: usize) -> usize {
    characters / 4 * 3 + CHUNK
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
struct Data<'a> {
    rest: std::str::Bytes<'a>,
}

impl Data<'_> {
    /// Puts the next of them into `chunk`; fewer than it holds when there are no more.
    fn fill(&mut self, chunk: &mut [u8; CHUNK]) -> usize {
        let mut filled = 0;
        while filled < CHUNK {
            let Some(byte) = self.rest.next() else { break };
            chunk[filled] = match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => byte,
                b'-' => b'+',
                b'_' => b'/',
                b'=' => {
                    self.rest = "".bytes();
                    break;
                }
                b'\\' => {
                    self.rest.next();
                    continue;
                }
                _ => continue,
            };
            filled += 1;
        }
        filled
    }
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

    #[test]
    fn texts_of_several_chunks_are_whole_and_no_larger_than_foreseen() {
        for length in [CHUNK / 4 * 3 - 1, CHUNK / 4 * 3, CHUNK / 4 * 3 + 1, 100_000] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * at) as u8).collect();
            let plain = STANDARD.encode(&bytes);
            let lines: Vec<&str> =
                plain.as_bytes().chunks(76).map(|line| str::from_utf8(line).unwrap()).collect();
            let decoded = decode(&lines.join("\n")).unwrap();
            assert!(decoded == bytes && decoded.capacity() <= decoded_at_most(plain.len() + lines.len()));
        }
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
