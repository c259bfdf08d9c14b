//! Real photos over HTTP, where the shared fixtures are at hand: the right classes, every odd file, no bad one.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::Path;

use reqwest::Client;
use serde_json::Value;
use support::{Server, config, files, shared, shared_weights};

fn resnet50() -> Server {
    let mut settings = config();
    settings.photos.as_mut().unwrap().classifier.weights = shared_weights("resnet50");
    settings.faq = None;
    Server::start(&settings)
}

async fn classify(server: &Server, bytes: Vec<u8>) -> (u16, Value) {
    let response = Client::new().post(server.url("/classify")).body(bytes).send().await.unwrap();
    (response.status().as_u16(), serde_json::from_str(&response.text().await.unwrap()).unwrap())
}

fn references(shared: &Path) -> Value {
    let file = std::fs::read(shared.join("fixtures/refs/resnet50__A.json")).unwrap();
    serde_json::from_slice::<Value>(&file).unwrap()["images"].take()
}

#[tokio::test]
async fn resnet50_names_what_is_in_the_photos() {
    let Some(shared) = shared() else { return };
    let server = resnet50();
    let references = references(&shared);
    let (mut right, mut same) = (0, 0);
    let photos = files(&shared.join("fixtures/images"));
    assert_eq!(photos.len(), 64);
    for (name, bytes) in photos {
        let (status, answer) = classify(&server, bytes).await;
        assert_eq!(status, 200, "{name}: {answer}");
        let best = answer["predictions"][0]["class"].as_u64().unwrap();
        let reference = &references[&name];
        right += usize::from(reference["class"].as_u64().unwrap() == best);
        same += usize::from(reference["top5"][0]["index"].as_u64().unwrap() == best);
    }
    assert!(right >= 50, "{right} of 64 named right");
    assert!(same >= 62, "{same} of 64 like the reference");
}

#[tokio::test]
async fn odd_files_are_answered_and_bad_ones_refused() {
    let Some(shared) = shared() else { return };
    let server = resnet50();
    for (name, bytes) in files(&shared.join("fixtures/odd")) {
        let (status, answer) = classify(&server, bytes).await;
        assert_eq!(status, 200, "{name}: {answer}");
    }
    for (name, bytes) in files(&shared.join("fixtures/bad")) {
        let (status, answer) = classify(&server, bytes).await;
        assert!((400..500).contains(&status), "{name}: {status} {answer}");
        assert!(answer["error"]["code"].is_string(), "{name}: {answer}");
    }
    let (_, photo) = files(&shared.join("fixtures/images")).remove(0);
    assert_eq!(classify(&server, photo).await.0, 200, "the server lives");
}
