//! The JSON bodies of `POST /score` and `POST /faq`, and base64 in all its dresses.

use std::collections::HashSet;

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use convoy::{
    http::{
        faq::Asked,
        score::{Image, Input, Scored},
    },
    image::base64,
};

use super::charge;

/// Photos that one request may have (`--max-images` in a server).
const LIMIT: usize = 16;

pub fn run(data: &[u8]) {
    let read = || Scored::read(data, LIMIT, &mut charge());
    let scored = read();
    match &scored {
        Ok(scored) => check(&scored.input, data.len()),
        Err(failure) => refused(failure),
    }
    assert_eq!(scored.ok(), read().ok(), "two readings");
    if let Err(failure) = Asked::read(data) {
        refused(&failure);
    }
    if let Some(bytes) = base64::decode(&String::from_utf8_lossy(data)) {
        assert!(bytes.len() <= data.len());
        assert_eq!(base64::decode(&STANDARD.encode(&bytes)), Some(bytes));
    }
}

fn check(input: &Input, length: usize) {
    let Input::Images(images, _beyond) = input else { return };
    assert!(images.len() <= LIMIT, "{} photos", images.len());
    let keys: HashSet<&str> = images.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys.len(), images.len(), "two photos under one key");
    let bytes = |image: &Image| image.as_ref().map_or(0, |bytes| bytes.len());
    let all: usize = images.iter().map(|(_, image)| bytes(image)).sum();
    assert!(all <= length, "{all} bytes of photos in {length} of a body");
}

fn refused(failure: &convoy::http::reply::Failure) {
    assert_eq!(failure.status, 400);
    super::bounded_text(&failure.message);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"input": "how do i make a deep copy"}"#,
        r#"{"input": {"a": "aGVsbG8=", "b": "data:image/png;base64,aGVsbG8"}, "parameters": {"timeout": 5}}"#,
        r#"{"input": {"a": "\"b'aGVsb\\nG8='\"", "a": "-_-_", "\u00e9\ud83d\ude00": "x"}}"#,
        r#"{"question": "remove one item", "top": 3, "parameters": {"timeout": 10}}"#,
        r#"{"question": "x", "top": 0}"#,
        "b'aGVs\\nbG8='",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
