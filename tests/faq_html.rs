//! Cleaning of real posts against the reference's, where the shared data is present: the same words, but for the causes that
//! `clean` names.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use convoy::faq::clean::clean;
use std::path::Path;

fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase().replace(['\u{2018}', '\u{2019}'], "'");
    let words = text.split(|next: char| !next.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Whether an entity such as `&amp;` stands in the text.
fn has_entity(text: &str) -> bool {
    let name = |part: &str| {
        let end = part.find(';').unwrap_or(0);
        (1..10).contains(&end) && part[..end].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'#')
    };
    text.split('&').skip(1).any(name)
}

#[test]
fn real_posts_clean_to_the_references_words() {
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared"));
    if !shared.exists() {
        return;
    }
    let mut reader =
        csv::ReaderBuilder::new().delimiter(b'\t').from_path(shared.join("faq/raw_html.tsv")).unwrap();
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let (html, reference) = (column("Text0"), column("TextReferenceClean"));
    let (mut same, mut unexplained) = (0, Vec::new());
    for row in reader.records() {
        let row = row.unwrap();
        let (html, reference) = (&row[html], &row[reference]);
        if words(&clean(html)) == words(reference) {
            same += 1;
        } else if !(has_entity(reference)
            || ["<code", "<pre", "<a ", "http"].iter().any(|cause| html.contains(cause)))
        {
            unexplained.push(row[0].to_owned());
        }
    }
    assert!(same >= 1740, "{same} posts have the same words");
    assert!(unexplained.len() <= 1, "{unexplained:?}");
}
