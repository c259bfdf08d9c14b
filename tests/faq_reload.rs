//! A running server's FAQ model is replaced while people ask: nobody's question is lost, nobody gets a mixture.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use convoy::{
    config::{Config, FaqConfig, HttpConfig},
    faq::{
        Corpus, TrainOptions,
        corpus::{Duplicate, Original},
        train,
    },
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use support::{Server, config};

const FIRST: [[&str; 3]; 2] = [
    ["How do I reset my password?", "forgot my password", "change the password of my account"],
    ["Where is my parcel?", "track a parcel", "my parcel has not arrived"],
];
const SECOND: [[&str; 3]; 3] = [
    ["How can I pay by card?", "do you take credit cards", "pay with a card"],
    ["When does the shop open?", "opening hours", "is the shop open on sunday"],
    ["How do I get a new password?", "password lost", "reset password"],
];

fn write(groups: &[[&str; 3]], first: i64, path: &Path) {
    let mut corpus = Corpus::default();
    for (original, [text, duplicates @ ..]) in groups.iter().enumerate() {
        let id = first + original as i64;
        corpus.originals.push(Original { id, answer_id: id, text: (*text).to_owned(), answer: None });
        corpus.duplicates.extend(duplicates.iter().map(|text| Duplicate {
            id: 1000,
            original,
            text: (*text).to_owned(),
            source: String::new(),
        }));
    }
    let folder = path.parent().unwrap();
    let fresh = folder.join("fresh");
    train(&corpus, &TrainOptions::default(), |_| {}).save(&fresh).unwrap();
    // As an operator does it: a reader sees the one file or the other.
    fs::rename(fresh, path).unwrap();
}

fn serving(model: &Path, admin: bool) -> Config {
    let config = config();
    Config {
        photos: None,
        faq: Some(FaqConfig { model: model.to_owned(), threads: 2, ..config.faq.unwrap() }),
        http: HttpConfig { admin, ..config.http },
        ..config
    }
}

async fn ask(client: &Client, server: &str, question: &str) -> (StatusCode, Value) {
    let asked = json!({"question": question, "top": 3});
    let response = client.post(format!("{server}/faq")).json(&asked).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn reload(client: &Client, server: &str) -> (StatusCode, Value) {
    let response = client.post(format!("{server}/admin/faq/reload")).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn models_change_under_load_and_no_question_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faq.safetensors");
    write(&FIRST, 0, &path);
    let server = Server::start(&serving(&path, true));
    let (client, url) = (Client::new(), server.url(""));
    let texts: HashMap<i64, &str> = (0..)
        .zip(FIRST.iter().map(|group| group[0]))
        .chain((100..).zip(SECOND.iter().map(|group| group[0])))
        .collect();
    let texts = Arc::new(texts);
    let (done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let (client, url, texts) = (client.clone(), url.clone(), texts.clone());
            let (done, asked) = (done.clone(), asked.clone());
            tokio::spawn(async move {
                let mut models = [0, 0];
                while !done.load(Ordering::Relaxed) {
                    let (status, answer) = ask(&client, &url, "I forgot my password").await;
                    assert_eq!(status, 200, "{answer}");
                    let matches = answer["matches"].as_array().unwrap();
                    let ids: Vec<i64> = matches.iter().map(|found| found["id"].as_i64().unwrap()).collect();
                    let second = ids[0] >= 100;
                    assert!(
                        ids.iter().all(|&id| (id >= 100) == second),
                        "one model answers one question: {answer}"
                    );
                    for (id, found) in ids.iter().zip(matches) {
                        assert_eq!(found["question"], texts[id]);
                    }
                    models[usize::from(second)] += 1;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                models
            })
        })
        .collect();
    for round in 0..6 {
        let before = asked.load(Ordering::Relaxed);
        while asked.load(Ordering::Relaxed) < before + 50 {
            assert!(askers.iter().all(|asker| !asker.is_finished()), "an asker has failed");
            tokio::task::yield_now().await;
        }
        let questions = if round % 2 == 0 {
            write(&SECOND, 100, &path);
            SECOND.len()
        } else {
            write(&FIRST, 0, &path);
            FIRST.len()
        };
        let (status, answer) = reload(&client, &url).await;
        assert_eq!((status, &answer["questions"]), (StatusCode::OK, &json!(questions)), "{answer}");
    }
    done.store(true, Ordering::Relaxed);
    let mut models = [0, 0];
    for asker in askers {
        let [first, second] = asker.await.unwrap();
        models = [models[0] + first, models[1] + second];
    }
    assert!(models.iter().all(|&answers| answers > 0), "{models:?}");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faq.safetensors");
    write(&FIRST, 0, &path);
    let server = Server::start(&serving(&path, true));
    let (client, url) = (Client::new(), server.url(""));
    fs::write(&path, "damaged").unwrap();
    let (status, answer) = reload(&client, &url).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (422, &json!("model_unusable")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("faq.safetensors"), "{answer}");
    let (status, answer) = ask(&client, &url, "where is my parcel").await;
    assert_eq!((status.as_u16(), &answer["matches"][0]["id"]), (200, &json!(1)));
}

#[tokio::test]
async fn without_leave_nobody_reloads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faq.safetensors");
    write(&FIRST, 0, &path);
    let server = Server::start(&serving(&path, false));
    let (client, url) = (Client::new(), server.url(""));
    let (status, answer) = reload(&client, &url).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (403, &json!("admin_off")));
}

#[tokio::test]
async fn what_nobody_knows_matches_nothing_and_is_still_scored() {
    let config = config();
    let server = Server::start(&Config { photos: None, ..config });
    let (client, url) = (Client::new(), server.url(""));
    let (status, answer) = ask(&client, &url, "which wine goes with roast lamb on a sunday").await;
    assert_eq!((status.as_u16(), &answer["matches"]), (200, &json!([])), "{answer}");
    let known = ask(&client, &url, "how do I sort an array of objects by a property").await.1;
    assert!(known["matches"].as_array().unwrap().len() == 3, "{known}");
    assert!(known["scope"].as_f64() > answer["scope"].as_f64());
    let scored =
        client.post(format!("{url}/score")).json(&json!({"input": "which wine goes with roast lamb"}));
    assert_eq!(scored.send().await.unwrap().status(), 200);
}
