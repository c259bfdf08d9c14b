//! Random strings, and finding any piece of them in any form.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Characters of a string.
const LENGTH: usize = 24;

/// Bytes that must agree: eight of 36 characters by chance are one in 10^12; hex digits need more, because ids of traces
/// are random hex digits too.
const PIECE: usize = 8;
const LONG_PIECE: usize = 20;

/// Strings by where they are put.
pub struct Canaries {
    rng: fastrand::Rng,
    by_name: HashMap<String, Vec<Vec<u8>>>,
}

impl Canaries {
    pub fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), by_name: HashMap::new() }
    }

    /// A fresh string for the place `name`.
    pub fn at(&mut self, name: &str) -> String {
        let text: String = (0..LENGTH).map(|_| char::from(self.rng.lowercase() as u8)).collect();
        let text: String =
            text.chars().map(|c| if self.rng.u8(..4) == 0 { self.rng.digit(10) } else { c }).collect();
        self.add(name, text.as_bytes());
        text
    }

    /// That `text` is something to look for too.
    pub fn add(&mut self, name: &str, text: &[u8]) {
        self.by_name.entry(name.to_owned()).or_default().push(text.to_vec());
    }

    /// Nothing of those whose name is `wanted` is in `text`.
    pub fn assert_absent(&self, text: &[u8], wanted: impl Fn(&str) -> bool, place: &str) {
        if let Some((at, name)) = self.first(text, wanted) {
            let around = &text[at.saturating_sub(200)..(at + 200).min(text.len())];
            panic!("{place}: has something of {name}: {}", String::from_utf8_lossy(around));
        }
    }

    /// Whether something of `name` is in `text`.
    pub fn found(&self, text: &[u8], name: &str) -> bool {
        self.first(text, |other| other == name).is_some()
    }

    /// Where a piece of a string in one of its forms is in `text`, and whose it is.
    fn first(&self, text: &[u8], wanted: impl Fn(&str) -> bool) -> Option<(usize, &str)> {
        let wanted = self.by_name.iter().filter(|(name, _)| wanted(name));
        let forms: Vec<(&str, usize, Vec<u8>)> = wanted
            .flat_map(|(name, values)| values.iter().map(move |value| (name.as_str(), value)))
            .flat_map(|(name, value)| forms(value).map(move |(piece, form)| (name, piece, form)))
            .collect();
        [PIECE, LONG_PIECE].into_iter().find_map(|length| {
            let of_length = forms.iter().filter(|(_, piece, _)| *piece == length);
            let pieces: HashMap<&[u8], &str> = of_length
                .flat_map(|(name, _, form)| form.windows(length).map(move |at| (at, *name)))
                .collect();
            let mut windows = text.windows(length).enumerate();
            windows.find_map(|(at, window)| pieces.get(window).map(|name| (at, *name)))
        })
    }
}

/// `value` as it may be written, and how long a piece of that says that it is no coincidence.
fn forms(value: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let each = |form: fn(&u8) -> String| value.iter().map(form).collect::<String>().into_bytes();
    let with_before = |count: usize| {
        let coded = STANDARD.encode([&vec![b'.'; count][..], value].concat()).into_bytes();
        // The characters at the ends are made of their neighbours too.
        coded[(count * 8).div_ceil(6)..coded.len() - 4].to_vec()
    };
    let short = [value.to_vec(), with_before(0), with_before(1), with_before(2)];
    let long = [
        each(|byte| format!("{byte:02x}")),
        each(|byte| format!("{byte:02X}")),
        each(|byte| format!("%{byte:02X}")),
        each(|byte| format!("\\x{byte:02x}")),
        each(|byte| format!("\\u{byte:04x}")),
        each(|byte| format!("\\u{{{byte:x}}}")),
        each(|byte| format!("{byte}, ")),
    ];
    short.map(|form| (PIECE, form)).into_iter().chain(long.map(|form| (LONG_PIECE, form)))
}

#[test]
fn every_form_of_a_piece_is_found() {
    let mut canaries = Canaries::new(0);
    let secret = canaries.at("secret");
    let piece = &secret.as_bytes()[5..19];
    let dump = format!("{piece:?}");
    let hex: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = piece.iter().map(|byte| format!("\\u{byte:04x}")).collect();
    let percent: String = piece.iter().map(|byte| format!("%{byte:02X}")).collect();
    let coded = STANDARD.encode([b"question: ", piece].concat());
    for text in [&secret[5..14], &dump, &hex, &escaped, &percent, &coded] {
        assert!(canaries.found(format!("a log line with {text} in it").as_bytes(), "secret"), "{text}");
    }
    assert!(!canaries.found(b"a log line of 0123456789abcdefghijklmnopqrstuvwxyz", "secret"));
}
