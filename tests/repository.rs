//! Models of a running server are replaced, taken away and brought back while clients ask: nothing that was let in fails.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use convoy::{
    app::App,
    config::HttpConfig,
    vision::{Arch, random::Recipe},
};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use support::{Server, config, photo};
use tempfile::TempDir;

/// A server whose operator may load and unload, and the weights it looks for: a copy, to be replaced.
fn serving(admin: bool) -> (TempDir, PathBuf, Server) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = config();
    settings.http = HttpConfig { admin, ..settings.http };
    let photos = settings.photos.as_mut().unwrap();
    let path = folder.path().join("resnet18.safetensors");
    fs::copy(&photos.classifier.weights, &path).unwrap();
    photos.classifier.weights = path.clone();
    let server = Server::start(&settings);
    (folder, path, server)
}

/// Puts other weights where the server looks, as an operator does it: a reader sees the one file or the other.
fn replace(path: &Path, recipe: &Recipe) {
    let fresh = path.with_extension("fresh");
    recipe.write(&fresh).unwrap();
    fs::rename(fresh, path).unwrap();
}

#[test]
fn two_models_of_one_name_do_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = config();
    let weights = &mut settings.photos.as_mut().unwrap().classifier.weights;
    let called_faq = folder.path().join("faq.safetensors");
    fs::copy(&weights, &called_faq).unwrap();
    *weights = called_faq;
    let refused = App::build(&settings).err().unwrap().to_string();
    assert!(refused.contains("`faq`") && refused.contains("rename"), "{refused}");
    settings.faq = None;
    assert!(App::build(&settings).is_ok(), "alone it may be called so");
}

async fn post(server: &Server, path: &str) -> (StatusCode, Value) {
    let response = Client::new().post(server.url(path)).body("{}").send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn classify(client: &Client, url: &str, photo: Vec<u8>) -> Response {
    client.post(format!("{url}/classify?top=3")).body(photo).send().await.unwrap()
}

/// The classes of a 200 and how likely they are.
fn classes(answer: &Value) -> Vec<(i64, f64)> {
    let predictions = answer["predictions"].as_array().unwrap_or_else(|| panic!("{answer}"));
    predictions.iter().map(|p| (p["class"].as_i64().unwrap(), p["probability"].as_f64().unwrap())).collect()
}

/// Clients that ask without pause until told to stop.
struct Crowd {
    done: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<usize>>,
}

impl Crowd {
    /// Photos and questions; each client tells in the end how many 503 it got. Anything but a right answer or word that
    /// the model is unloaded is a failure.
    fn start(server: &Server, right: &[Vec<(i64, f64)>]) -> Self {
        let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |at: usize| {
            let (client, url) = (Client::new(), server.url(""));
            let (done, answered, right) = (done.clone(), answered.clone(), right.to_vec());
            tokio::spawn(async move {
                let mut refused = 0;
                while !done.load(Ordering::Relaxed) {
                    let asks = at.is_multiple_of(3);
                    let response = match asks {
                        true => {
                            let question = json!({"question": "how do I sort an array"});
                            client.post(format!("{url}/faq")).json(&question).send().await.unwrap()
                        }
                        false => classify(&client, &url, photo(at as u32)).await,
                    };
                    let (status, answer): (_, Value) = (response.status(), response.json().await.unwrap());
                    match status.as_u16() {
                        200 if asks => assert!(answer["scope"].is_number(), "{answer}"),
                        200 => assert_eq!(classes(&answer), right[at], "of one model, the right one"),
                        503 => {
                            assert_eq!(answer["error"]["code"], "unloaded", "{answer}");
                            refused += 1;
                            tokio::task::yield_now().await;
                        }
                        _ => panic!("{status}: {answer}"),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                refused
            })
        };
        let clients = (0..right.len()).map(client).collect();
        Self { done, answered, clients }
    }

    /// Waits until so many more have been answered.
    async fn goes_on(&self, more: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        while self.answered.load(Ordering::Relaxed) < wanted {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client has failed");
            tokio::task::yield_now().await;
        }
    }

    /// How many were refused.
    async fn stop(self) -> usize {
        self.done.store(true, Ordering::Relaxed);
        let mut refused = 0;
        for client in self.clients {
            refused += client.await.unwrap();
        }
        refused
    }
}

async fn right_answers(server: &Server, photos: usize) -> Vec<Vec<(i64, f64)>> {
    let (client, url) = (Client::new(), server.url(""));
    let mut right = Vec::new();
    for at in 0..photos {
        let answer = classify(&client, &url, photo(at as u32)).await.json().await.unwrap();
        right.push(classes(&answer));
    }
    right
}

#[tokio::test]
async fn replacing_models_in_a_loop_costs_no_request() {
    let (_folder, _, server) = serving(true);
    let crowd = Crowd::start(&server, &right_answers(&server, 9).await);
    for _ in 0..6 {
        crowd.goes_on(20).await;
        for model in ["resnet18", "faq"] {
            let (status, answer) = post(&server, &format!("/v2/repository/models/{model}/load")).await;
            assert_eq!((status.as_u16(), answer), (200, json!({"name": model, "load": true})));
        }
    }
    assert_eq!(crowd.stop().await, 0, "nobody is refused while models are only replaced");
}

#[tokio::test]
async fn unloading_in_a_loop_answers_what_was_let_in_and_refuses_the_rest() {
    let (_folder, _, server) = serving(true);
    let crowd = Crowd::start(&server, &right_answers(&server, 9).await);
    for _ in 0..3 {
        crowd.goes_on(20).await;
        for action in ["unload", "load"] {
            for model in ["resnet18", "faq"] {
                let (status, answer) =
                    post(&server, &format!("/v2/repository/models/{model}/{action}")).await;
                assert_eq!((status.as_u16(), answer), (200, json!({"name": model, action: true})));
            }
            crowd.goes_on(1).await;
        }
    }
    assert!(crowd.stop().await > 0, "an unloaded model refuses");
}

#[tokio::test]
async fn what_the_file_holds_at_the_time_of_loading_answers_from_then_on() {
    let (_folder, path, server) = serving(true);
    let before = right_answers(&server, 1).await;
    fs::write(&path, "damaged").unwrap();
    let (status, answer) = post(&server, "/v2/repository/models/resnet18/load").await;
    assert_eq!(status.as_u16(), 422, "{answer}");
    let message = answer["error"].as_str().unwrap();
    assert!(message.contains("resnet18.safetensors") && message.contains("goes on"), "{message}");
    assert_eq!(right_answers(&server, 1).await, before, "a damaged file changes nothing");

    replace(&path, &Recipe { fc_sd: 1.0, seed: 7, ..Recipe::new(Arch::ResNet18) });
    assert_eq!(right_answers(&server, 1).await, before, "a file alone changes nothing");
    assert_eq!(post(&server, "/v2/repository/models/resnet18/load").await.0, 200);
    assert_ne!(right_answers(&server, 1).await, before);
}

#[tokio::test]
async fn an_unloaded_model_is_listed_named_and_missed() {
    let (_folder, _, server) = serving(true);
    let (client, url) = (Client::new(), server.url(""));
    let identity: Value = client.get(server.url("/v2")).send().await.unwrap().json().await.unwrap();
    assert!(identity["extensions"].as_array().unwrap().contains(&json!("model_repository")), "{identity}");
    assert_eq!(post(&server, "/v2/repository/models/resnet18/unload").await.0, 200);
    assert_eq!(post(&server, "/v2/repository/models/resnet18/unload").await.0, 200, "once more is no error");
    let (_, index) = post(&server, "/v2/repository/index").await;
    let listed =
        |name, state, reason| json!({"name": name, "version": "1", "state": state, "reason": reason});
    let expected = json!([listed("resnet18", "UNAVAILABLE", "unloaded"), listed("faq", "READY", "")]);
    assert_eq!(index, expected);
    let ready = client.get(server.url("/v2/models/resnet18/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(
        client.get(server.url("/readyz")).send().await.unwrap().status(),
        200,
        "the others are served"
    );
    let (status, answer) = post(&server, "/v2/models/resnet18/infer").await;
    assert_eq!(status.as_u16(), 503);
    assert!(answer["error"].as_str().unwrap().contains("resnet18/load"), "{answer}");
    let refused = classify(&client, &url, photo(0)).await;
    assert_eq!(refused.status(), 503);
    let score = client.post(server.url("/score")).json(&json!({"input": "how do I sort an array"}));
    assert_eq!(score.send().await.unwrap().status(), 200);
    assert_eq!(post(&server, "/v2/repository/models/nobody/load").await.0, 404);
    assert_eq!(post(&server, "/v2/repository/models/resnet18/load").await.0, 200);
    assert_eq!(classify(&client, &url, photo(0)).await.status(), 200);
}

#[tokio::test]
async fn without_leave_nobody_loads_or_unloads() {
    let (_folder, _, server) = serving(false);
    for path in ["resnet18/load", "resnet18/unload", "faq/load", "nobody/load"] {
        let (status, answer) = post(&server, &format!("/v2/repository/models/{path}")).await;
        assert_eq!(status.as_u16(), 403, "{answer}");
    }
}
