//! Clients that ask again and again and know the right answers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::support::photo;

/// What a crowd gives each request, unless told otherwise.
const DEADLINE: Duration = Duration::from_secs(3);

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The decode pool and the classifier.
    Photo,
    /// The FAQ's pool.
    Question,
}

/// How often a kind of request ended with a status and a code.
pub(crate) type Outcomes = BTreeMap<(Kind, u16, String), usize>;

/// One request whose right answer is known.
#[derive(Clone)]
struct Ask {
    kind: Kind,
    path: &'static str,
    body: Vec<u8>,
    json: bool,
    right: Value,
}

impl Ask {
    fn request(&self, client: &Client, base: &str, deadline: Duration) -> RequestBuilder {
        let request = client.post(format!("{base}{}", self.path)).body(self.body.clone());
        let request = request.header("x-convoy-deadline-ms", deadline.as_millis().to_string());
        if self.json { request.header("content-type", "application/json") } else { request }
    }
}

/// The part of an answer that must always be the same.
fn essence(answer: &Value) -> Value {
    json!([answer["predictions"], answer["matches"], answer["scope"], answer["result"][0]])
}

/// See the module's text.
pub(crate) struct Crowd {
    base: String,
    deadline: Duration,
    asks: Vec<Ask>,
    done: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Outcomes>>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    /// Of each client what it asks for, and how many answers it has had.
    answered: Vec<(Kind, Arc<AtomicUsize>)>,
}

impl Crowd {
    /// Learns the right answers from the server at `base` while it is well, then asks it on and on.
    pub(crate) async fn gather(base: &str) -> Self {
        Self::patient(base, DEADLINE).await
    }

    /// As [`Crowd::gather`]; each request has `deadline`.
    pub(crate) async fn patient(base: &str, deadline: Duration) -> Self {
        let client = Client::new();
        let mut asks = Vec::new();
        for at in 0..5 {
            let body = photo(at);
            asks.push((Kind::Photo, "/classify?top=3", body, false));
        }
        let image = |at| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, photo(at));
        let two = json!({"input": {"a": image(5), "b": image(6)}}).to_string().into_bytes();
        asks.push((Kind::Photo, "/score", two, true));
        for text in ["how do I sort an array of objects by a property", "how to make a deep copy"] {
            let question = json!({"question": text, "top": 3}).to_string().into_bytes();
            asks.push((Kind::Question, "/faq", question, true));
        }
        let mut known = Vec::new();
        for (kind, path, body, json) in asks {
            let mut ask = Ask { kind, path, body, json, right: Value::Null };
            let response = ask.request(&client, base, deadline).send().await.unwrap();
            assert_eq!(response.status(), 200);
            ask.right = essence(&response.json().await.unwrap());
            known.push(ask);
        }
        let mut crowd = Self {
            base: base.to_owned(),
            deadline,
            asks: known,
            done: Arc::default(),
            outcomes: Arc::default(),
            clients: Vec::new(),
            answered: Vec::new(),
        };
        crowd.answered = crowd.asks.iter().map(|ask| (ask.kind, Arc::default())).collect();
        let clients = crowd.asks.iter().zip(&crowd.answered);
        crowd.clients =
            clients.map(|(ask, (_, answered))| crowd.client(ask.clone(), answered.clone())).collect();
        crowd
    }

    fn client(&self, ask: Ask, answered: Arc<AtomicUsize>) -> tokio::task::JoinHandle<()> {
        let (base, deadline) = (self.base.clone(), self.deadline);
        let (done, outcomes) = (self.done.clone(), self.outcomes.clone());
        tokio::spawn(async move {
            let client = Client::new();
            while !done.load(Ordering::Relaxed) {
                let response = ask.request(&client, &base, deadline).send().await.unwrap();
                let status = response.status().as_u16();
                let answer: Value = response.json().await.unwrap();
                if status == 200 && ask.path != "/score" {
                    assert_eq!(essence(&answer), ask.right, "a wrong answer to {}", ask.path);
                }
                let code = if status == 200 && ask.path == "/score" {
                    parts(&answer, &ask.right)
                } else {
                    answer["error"]["code"].as_str().unwrap_or("ok").to_owned()
                };
                *outcomes.lock().unwrap().entry((ask.kind, status, code)).or_default() += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                // Whoever is refused does not come back at once; nor do questions, beside which photos' threads, which stand back
                // for them, would have next to nothing of two cores.
                if status != 200 || ask.kind == Kind::Question {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
    }

    /// What has become of requests since this was asked last.
    pub(crate) fn take(&self) -> Outcomes {
        std::mem::take(&mut self.outcomes.lock().unwrap())
    }

    /// Waits until so many more requests of a kind ended that way, and tells what became of all meanwhile.
    pub(crate) async fn until(&self, kind: Kind, status: u16, code: &str, count: usize) -> Outcomes {
        let key = (kind, status, code.to_owned());
        let seen = || self.outcomes.lock().unwrap().get(&key).copied().unwrap_or(0);
        let wanted = seen() + count;
        self.wait(|| seen() >= wanted).await;
        self.take()
    }

    /// Waits until every client of a kind has the answer to what it asks now, and to one more request; tells what became of
    /// all meanwhile.
    pub(crate) async fn everyone(&self, kind: Kind) -> Outcomes {
        let clients = || self.answered.iter().filter(|(asks, _)| *asks == kind);
        let count = |(_, answered): &(Kind, Arc<AtomicUsize>)| answered.load(Ordering::Relaxed);
        let before: Vec<usize> = clients().map(count).collect();
        self.wait(|| clients().map(count).zip(&before).all(|(now, before)| now >= before + 2)).await;
        self.take()
    }

    async fn wait(&self, met: impl Fn() -> bool) {
        let started = Instant::now();
        while !met() {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client has failed");
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", self.outcomes.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for everybody's last answer.
    pub(crate) async fn stop(self) {
        self.done.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

/// Of a request with several images each has its own fate; the codes of those that failed.
fn parts(answer: &Value, right: &Value) -> String {
    let (got, right) = (&answer["result"][0], &right[3]);
    let mut codes = Vec::new();
    for (key, part) in got.as_object().unwrap() {
        match part.get("error") {
            Some(error) => codes.push(error["code"].as_str().unwrap().to_owned()),
            None => assert_eq!(part, &right[key], "a wrong answer to {key} in /score"),
        }
    }
    codes.sort();
    codes.dedup();
    if codes.is_empty() { "ok".to_owned() } else { codes.join("+") }
}

/// How many got no answer for another reason than that time ran out on a busy machine.
pub(crate) fn failed(outcomes: &Outcomes) -> usize {
    let late = ["ok", "deadline_exceeded", "overloaded"];
    let only_late = |codes: &str| codes.split('+').all(|code| late.contains(&code));
    outcomes.iter().filter(|((_, _, codes), _)| !only_late(codes)).map(|(_, count)| count).sum()
}

/// Outcomes for people.
pub(crate) fn told(outcomes: &Outcomes) -> String {
    let one = |((kind, status, code), count): (&(Kind, u16, String), &usize)| {
        format!("{count} {kind:?} {status} {code}").to_lowercase()
    };
    outcomes.iter().map(one).collect::<Vec<_>>().join(", ")
}
