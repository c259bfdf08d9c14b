//! Behaviour over real sockets: every route, every refusal, who gets whose answer, and how the server ends.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use convoy::{
    config::Config,
    http::{Ended, Shutdown},
};
use reqwest::{Client, Response, StatusCode, header};
use serde_json::{Value, json};
use support::{Server, config, metric, photo};

async fn body(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: not JSON: {text}")))
}

async fn post(server: &Server, path: &str, bytes: Vec<u8>) -> (StatusCode, Value) {
    body(Client::new().post(server.url(path)).body(bytes).send().await.unwrap()).await
}

async fn post_json(server: &Server, path: &str, value: &Value) -> (StatusCode, Value) {
    body(Client::new().post(server.url(path)).json(value).send().await.unwrap()).await
}

async fn get(server: &Server, path: &str) -> (StatusCode, String) {
    let response = Client::new().get(server.url(path)).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

fn code(value: &Value) -> &str {
    assert!(value["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
    value["error"]["code"].as_str().unwrap()
}

#[tokio::test]
async fn probes_and_identity() {
    let server = Server::start(&config());
    assert_eq!(get(&server, "/").await, (StatusCode::OK, "Healthy".into()));
    assert_eq!(get(&server, "/livez").await, (StatusCode::OK, r#"{"live":true}"#.into()));
    let (status, version) = get(&server, "/version").await;
    assert!(
        status == StatusCode::OK && version.starts_with("convoy ") && version.contains("random"),
        "{version}"
    );
    let (status, ready) = get(&server, "/readyz").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert!(
        status == StatusCode::OK && ready["ready"] == true && ready["photos"]["classes"] == 1000,
        "{ready}"
    );
    let (_, metrics) = get(&server, "/metrics").await;
    assert_eq!(metric(&metrics, "convoy_ready"), 1.0);
}

#[tokio::test]
async fn classify_answers_and_says_that_random_weights_mean_nothing() {
    let server = Server::start(&config());
    let url = server.url("/classify?top=4&transform=stretch");
    let response = Client::new().post(url).body(photo(1)).send().await.unwrap();
    assert!(response.headers()["x-convoy-warning"].to_str().unwrap().contains("random"));
    let (status, value) = body(response).await;
    assert_eq!(status, StatusCode::OK, "{value}");
    let predictions = value["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 4);
    let probabilities: Vec<f64> = predictions.iter().map(|p| p["probability"].as_f64().unwrap()).collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
    assert!(predictions[0]["label"].as_str().unwrap().starts_with('n'), "{value}");
    assert!(value["warning"].as_str().unwrap().contains("random"));
}

#[tokio::test]
async fn faq_finds_an_original_by_its_own_words() {
    let server = Server::start(&config());
    let corpus = support::faq_corpus();
    for original in corpus.originals.iter().step_by(17) {
        let asked = json!({"question": original.text, "top": 2});
        let (status, value) = post_json(&server, "/faq", &asked).await;
        assert_eq!(status, StatusCode::OK, "{value}");
        let best = &value["matches"][0];
        assert_eq!(best["id"], original.id, "{value}");
        assert_eq!(
            (&best["question"], value["matches"].as_array().unwrap().len()),
            (&json!(original.text), 2)
        );
        assert_eq!(best["answer"].as_str(), original.answer.as_deref());
    }
}

#[tokio::test]
async fn questions_without_known_words_match_nothing() {
    let server = Server::start(&config());
    for odd in ["", "\u{0}", "漢字", "🙂🙂", "zzzzqqqq xkcdwv"] {
        let (status, value) = post_json(&server, "/faq", &json!({"question": odd})).await;
        assert_eq!(status, StatusCode::OK, "{value}");
        assert_eq!(value["matches"], json!([]), "{odd:?}: {value}");
    }
}

#[tokio::test]
async fn every_refusal_has_its_status_and_code() {
    let mut settings = config();
    settings.http.max_body = 64 << 10;
    let server = Server::start(&settings);
    let client = Client::new();
    let big = vec![0u8; 65 << 10];
    for (request, status, expected) in [
        (client.get(server.url("/nowhere")), 404, "not_found"),
        (client.get(server.url("/classify")), 405, "method_not_allowed"),
        (client.post(server.url("/readyz")), 405, "method_not_allowed"),
        (client.post(server.url("/classify")), 400, "empty_image"),
        (client.post(server.url("/classify?top=0")).body(photo(0)), 400, "invalid_request"),
        (client.post(server.url("/classify?size=9")).body(photo(0)), 400, "invalid_request"),
        (client.post(server.url("/classify")).body("just text"), 415, "unknown_image_format"),
        (client.post(server.url("/classify")).json(&json!({})), 415, "unsupported_media_type"),
        (client.post(server.url("/classify")).body(photo(0)[..2000].to_vec()), 422, "undecodable_image"),
        (client.post(server.url("/classify")).body(big.clone()), 413, "body_too_large"),
        (client.post(server.url("/faq")).body(r#"{"question": "x"}"#), 415, "unsupported_media_type"),
        (client.post(server.url("/faq")).json(&json!({"question": 3})), 400, "invalid_request"),
        (client.post(server.url("/faq")).json(&json!({"question": "x", "tpo": 3})), 400, "invalid_request"),
        (client.post(server.url("/score")).json(&json!({"input": 3})), 400, "invalid_request"),
        (client.post(server.url("/score")).json(&json!({"input": {}})), 400, "invalid_request"),
        (client.post(server.url("/score")).json(&json!({"input": {"a": "????"}})), 400, "empty_image"),
    ] {
        let response = request.send().await.unwrap();
        let allow = response.headers().get(header::ALLOW).cloned();
        let (got, value) = body(response).await;
        assert_eq!((got.as_u16(), code(&value)), (status, expected), "{value}");
        assert_eq!(allow.is_some(), status == 405);
    }
    // Chunked, so that the size shows only while reading.
    let chunked = "POST /classify HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(chunked.as_bytes()).unwrap();
    for _ in 0..3 {
        stream.write_all(format!("{:x}\r\n", big.len()).as_bytes()).unwrap();
        stream.write_all(&big).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 413 "), "answered while the client still sends");
}

fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_slow_body_is_a_408_and_a_late_answer_a_504() {
    let mut settings = config();
    settings.http.read_timeout = Duration::from_millis(200);
    let server = Server::start(&settings);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 408 "));

    let mut settings = config();
    settings.http.deadline = Duration::from_millis(1);
    let server = Server::start(&settings);
    let (status, value) = post(&server, "/classify", photo(3)).await;
    assert_eq!((status.as_u16(), code(&value)), (504, "deadline_exceeded"));
}

#[tokio::test]
async fn a_full_queue_refuses_before_the_body_and_says_when_to_come_back() {
    let mut settings = config();
    settings.photos.as_mut().unwrap().queue = 16;
    settings.memory.seat_wait = Duration::from_secs(60);
    settings.memory.stall = Duration::from_secs(60);
    let server = Server::start(&settings);
    // Sixteen requests whose bodies never come hold every seat.
    let held: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(b"POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n").unwrap();
            stream
        })
        .collect();
    wait_for(&server, r#"convoy_queue_depth{queue="classify"}"#, |depth| depth == 16.0).await;
    let response = Client::new().post(server.url("/classify")).body(photo(0)).send().await.unwrap();
    let wait: u64 = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    let (status, value) = body(response).await;
    assert_eq!((status.as_u16(), code(&value)), (429, "overloaded"));
    assert!((1..60).contains(&wait));
    // Questions have a queue of their own.
    let (status, _) = post_json(&server, "/faq", &json!({"question": "how to sort an array"})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = post_json(&server, "/score", &json!({"input": "how to sort an array"})).await;
    assert_eq!(status, StatusCode::OK);
    drop(held);
    wait_for(&server, r#"convoy_queue_depth{queue="classify"}"#, |depth| depth == 0.0).await;
    assert_eq!(post(&server, "/classify", photo(0)).await.0, StatusCode::OK);
}

/// Polls a metric until it fits; fails after a long time.
async fn wait_for(server: &Server, name: &str, fits: impl Fn(f64) -> bool) {
    wait_until(server, |metrics| fits(metric(metrics, name))).await;
}

async fn wait_until(server: &Server, fits: impl Fn(&str) -> bool) {
    let started = Instant::now();
    loop {
        let (_, metrics) = get(server, "/metrics").await;
        if fits(&metrics) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "still waiting at\n{metrics}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn in_a_crowd_everybody_gets_their_own_answer() {
    let server = Server::start(&config());
    let client = Client::new();
    let ask = |index: u32| {
        let request = client.post(server.url("/classify?top=3")).body(photo(index));
        async move {
            let (status, value) = body(request.send().await.unwrap()).await;
            assert_eq!(status, StatusCode::OK, "{value}");
            value["predictions"].clone()
        }
    };
    let kinds = 16;
    let mut alone = Vec::new();
    for index in 0..kinds {
        alone.push(ask(index).await);
    }
    for (index, answer) in alone.iter().enumerate() {
        assert!(alone[..index].iter().all(|other| !alike(other, answer)), "photo {index} is not distinct");
    }
    let crowd = futures_util::future::join_all((0..64).map(|index| ask(index % kinds))).await;
    for (index, answer) in crowd.iter().enumerate() {
        let own = index % kinds as usize;
        assert!(alike(answer, &alone[own]), "client {index}: {answer} is not {}", alone[own]);
    }
    let (_, metrics) = get(&server, "/metrics").await;
    assert_eq!(metric(&metrics, r#"convoy_batch_size_sum{queue="classify"}"#), 64.0 + f64::from(kinds));
}

/// Same classes, probabilities equal to within float noise of another batch size.
fn alike(a: &Value, b: &Value) -> bool {
    let pairs = a.as_array().unwrap().iter().zip(b.as_array().unwrap());
    pairs.into_iter().all(|(a, b)| {
        let (pa, pb) = (a["probability"].as_f64().unwrap(), b["probability"].as_f64().unwrap());
        a["class"] == b["class"] && (pa - pb).abs() < 1e-4
    })
}

#[tokio::test]
async fn a_client_that_leaves_costs_the_engine_nothing() {
    let mut settings = config();
    settings.photos.as_mut().unwrap().max_batch = 1;
    let server = Server::start(&settings);
    let photo = photo(5);
    let head = format!("POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", photo.len());
    let leave = || {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&photo).unwrap();
        stream
    };
    let crowd: Vec<_> = (0..100).map(|_| leave()).collect();
    wait_for(&server, r#"convoy_queue_depth{queue="classify"}"#, |depth| depth > 50.0).await;
    drop(crowd);
    wait_for(&server, r#"convoy_queue_depth{queue="classify"}"#, |depth| depth == 0.0).await;
    wait_for(&server, r#"convoy_queue_depth{queue="decode"}"#, |depth| depth == 0.0).await;
    let (_, metrics) = get(&server, "/metrics").await;
    let ran = metric(&metrics, r#"convoy_jobs_total{queue="classify",outcome="ok"}"#);
    assert!(ran < 60.0, "{ran} of 100 ran although nobody waited");
    assert!(metric(&metrics, r#"convoy_http_requests_total{route="classify",status="499"}"#) > 0.0);
}

#[tokio::test]
async fn h2c_and_keep_alive_work() {
    let server = Server::start(&config());
    let h2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let asks = (0..20).map(|index| {
        let request = h2.post(server.url("/classify")).body(photo(index));
        async move { request.send().await.unwrap() }
    });
    for response in futures_util::future::join_all(asks).await {
        assert_eq!((response.status(), response.version()), (StatusCode::OK, reqwest::Version::HTTP_2));
    }
    let mut stream = TcpStream::connect(server.address).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
        let mut healthy = [0; 7];
        stream.read_exact(&mut healthy).unwrap();
        assert_eq!(&healthy, b"Healthy");
    }
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_usable() {
    let server = Server::start(&config());
    let mut stream = TcpStream::connect(server.address).unwrap();
    for path in ["/classify?top=0", "/nowhere", "/readyz", "/score", "/faq"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 50000\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &[7; 50_000]].concat()).unwrap();
        let head = read_head(&mut stream).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 4") && !head.contains("connection: close"), "{path}: {head}");
        let length =
            head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).unwrap();
    }
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn draining_turns_readiness_off_and_finishes_what_is_in_hand() {
    let mut settings = config();
    settings.http.lame_duck = Duration::from_secs(4);
    settings.photos.as_mut().unwrap().max_batch = 1;
    let mut server = Server::start(&settings);
    let client = Client::new();
    let asks: Vec<_> = (0..64)
        .map(|index| tokio::spawn(client.post(server.url("/classify")).body(photo(index)).send()))
        .collect();
    wait_for(&server, r#"convoy_queue_depth{queue="classify"}"#, |depth| depth > 8.0).await;
    server.ask_to_stop(Shutdown::Orchestrated);
    wait_for(&server, "convoy_ready", |ready| ready == 0.0).await;
    let (status, reason) = get(&server, "/readyz").await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && reason.contains("draining"), "{reason}");
    let (status, _) = get(&server, "/livez").await;
    assert_eq!(status, StatusCode::OK);
    for ask in asks {
        assert_eq!(ask.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    drop(client);
    assert_eq!(server.join(), Some(Ended::Drained));
}

/// Load balancers and clients keep connections open; none may be surprised by the port's closing while it sends.
#[tokio::test]
async fn before_the_port_closes_every_answer_ends_its_connection() {
    let mut settings = Config { photos: None, ..config() };
    settings.http.lame_duck = Duration::from_secs(4);
    let mut server = Server::start(&settings);
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let head = read_head(stream).to_ascii_lowercase();
        stream.read_exact(&mut [0; 7]).unwrap();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        head.contains("connection: close")
    };
    let mut old = TcpStream::connect(server.address).unwrap();
    assert!(!ask(&mut old));
    server.ask_to_stop(Shutdown::Orchestrated);
    wait_for(&server, "convoy_ready", |ready| ready == 0.0).await;
    let mut young = TcpStream::connect(server.address).unwrap();
    for stream in [&mut old, &mut young] {
        assert!(ask(stream), "the client is told");
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "and the connection ends");
    }
    assert_eq!(server.join(), Some(Ended::Drained));
}

#[tokio::test]
async fn requests_in_hand_when_the_port_closes_are_answered() {
    let mut settings = config();
    settings.photos.as_mut().unwrap().max_batch = 1;
    let mut server = Server::start(&settings);
    let client = Client::new();
    let asks: Vec<_> = (0..24)
        .map(|index| tokio::spawn(client.post(server.url("/classify")).body(photo(index)).send()))
        .collect();
    let (depth, done) =
        (r#"convoy_queue_depth{queue="classify"}"#, r#"convoy_jobs_total{queue="classify",outcome="ok"}"#);
    wait_until(&server, |metrics| metric(metrics, depth) + metric(metrics, done) >= 24.0).await;
    server.ask_to_stop(Shutdown::Immediate);
    for ask in asks {
        assert_eq!(ask.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(server.join(), Some(Ended::Drained));
    assert!(TcpStream::connect(server.address).is_err(), "the port is closed");
}
