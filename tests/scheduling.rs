//! The scheduler as clients meet it: deadlines, refusals, priorities, fair shares, shared executions, clients that leave.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use convoy::{
    app::Rig,
    batch::{self, Before, Class, CostTable, Executor, Terms},
    config::Config,
    image::{DecodeOptions, Transform, prepare},
    metrics::Metrics,
    vision::{
        Arch, Classifier, ClassifyInput, CpuEngine, INPUT_SIZE, Prediction, cpu::CpuOptions, random::Recipe,
    },
};
use crossbeam_channel::bounded;
use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder, Response, header};
use serde_json::{Value, json};
use support::{Server, config, metric, photo};

const DEADLINE: &str = "x-convoy-deadline-ms";

fn photos_only() -> Config {
    Config { faq: None, ..config() }
}

fn questions_only() -> Config {
    Config { photos: None, ..config() }
}

async fn metrics(server: &Server) -> String {
    Client::new().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap()
}

/// Waits until the metrics are as `wanted`; those.
async fn until(server: &Server, wanted: impl Fn(&str) -> bool) -> String {
    let started = Instant::now();
    loop {
        let text = metrics(server).await;
        if wanted(&text) {
            return text;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "still waiting at\n{text}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn outcome(metrics: &str, outcome: &str) -> f64 {
    metric(metrics, &format!(r#"convoy_jobs_total{{queue="classify",outcome="{outcome}"}}"#))
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Same classes, probabilities equal to within float noise of another batch size.
fn alike(a: &[Prediction], b: &[Prediction]) -> bool {
    let near = |(a, b): (&Prediction, &Prediction)| {
        a.class == b.class && (a.probability - b.probability).abs() < 1e-4
    };
    a.iter().zip(b).all(near)
}

#[tokio::test]
async fn where_batches_pay_a_crowd_forms_them_and_everybody_gets_their_own_answer() {
    let mut recipe = Recipe { fc_sd: 1.0, ..Recipe::new(Arch::ResNet18) };
    let engine = CpuEngine::new(&mut recipe, CpuOptions { max_batch: 8, threads: 2 }).unwrap();
    let mut classifier = Classifier::new(Box::new(engine), 8);
    let options = DecodeOptions { max_pixels: 1 << 20, max_memory: 320 << 20, apply_orientation: true };
    let picture = |index| prepare(&photo(index), &options, Transform::STRETCH, INPUT_SIZE).unwrap();
    let kinds: Vec<_> = (0..16).map(|index| ClassifyInput { image: picture(index).into(), top: 3 }).collect();
    let alone: Vec<_> = kinds
        .iter()
        .map(|one| classifier.run(std::slice::from_ref(one)).unwrap().remove(0).unwrap())
        .collect();

    // Batches pay by this table, whatever is true on this machine; it takes many batches to unlearn it.
    let costs = CostTable::from_points(8, [1, 8].map(|size| (size, Duration::from_secs(100 + size as u64))));
    let metrics = Metrics::new().queue("classify");
    let (queue, workers) = batch::start("classify", vec![classifier], 64, costs, metrics).unwrap();
    let deadline = Instant::now() + Duration::from_secs(24 * 60 * 60);
    let terms = Terms { deadline, class: Class::Interactive, client: batch::Client::ANONYMOUS };
    let crowd: Vec<_> =
        (0..64).map(|at| queue.admit(&terms).unwrap().submit(kinds[at % 16].clone())).collect();
    drop(queue);
    let mut largest = 0;
    for (index, ticket) in crowd.into_iter().enumerate() {
        let (answer, timing) = ticket.await;
        let answer = answer.unwrap();
        let fits: Vec<usize> = (0..16).filter(|&kind| alike(&answer, &alone[kind])).collect();
        assert_eq!(fits, [index % 16], "{answer:?}");
        largest = largest.max(timing.batch);
    }
    workers.join();
    assert_eq!(largest, 8);
}

/// The stages of `Server-Timing`, in milliseconds.
fn stages(response: &Response) -> Vec<(String, f64)> {
    let text = response.headers()["server-timing"].to_str().unwrap();
    let stage = |part: &str| {
        let (name, value) = part.trim().split_once(";dur=")?;
        Some((name.to_owned(), value.parse().unwrap()))
    };
    text.split(',').filter_map(stage).collect()
}

#[tokio::test]
async fn every_answer_tells_where_its_time_went() {
    let server = Server::start(&config());
    let client = Client::new();
    let photo = client.post(server.url("/classify")).body(photo(0)).send().await.unwrap();
    let told = stages(&photo);
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["read", "decode", "queue", "batch-wait", "execute", "total"]);
    let parts: f64 = told[..5].iter().map(|(_, ms)| ms).sum();
    assert!(parts <= told[5].1 && told[4].1 > 0.0, "{told:?}");
    let question = client.post(server.url("/faq")).json(&json!({"question": "sort"})).send().await.unwrap();
    let names: Vec<String> = stages(&question).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["read", "queue", "batch-wait", "execute", "total"]);
    let nothing = client.get(server.url("/nowhere")).send().await.unwrap();
    assert_eq!(stages(&nothing).len(), 1);

    let metrics = metrics(&server).await;
    for stage in ["convoy_read_seconds", "convoy_write_seconds"] {
        assert_eq!(metric(&metrics, &format!(r#"{stage}_count{{route="classify"}}"#)), 1.0);
    }
    for stage in ["queue", "batch_wait", "execute"] {
        assert_eq!(metric(&metrics, &format!(r#"convoy_{stage}_seconds_count{{queue="classify"}}"#)), 1.0);
    }
    assert_eq!(metric(&metrics, r#"convoy_execute_seconds_count{queue="decode"}"#), 1.0);
    for size in [1, 2, 4] {
        let name = format!(r#"convoy_batch_cost_seconds{{queue="classify",size="{size}"}}"#);
        assert!(metric(&metrics, &name) > 0.0, "measured at start");
    }
    assert!(metric(&metrics, r#"convoy_predicted_drain_seconds{queue="classify"}"#) >= 0.0);
    assert!((0.0..=1.0).contains(&metric(&metrics, r#"convoy_busy_fraction{queue="classify"}"#)));
}

#[tokio::test]
async fn deadlines_come_by_header_grpc_header_and_body() {
    let server = Server::start(&config());
    let client = Client::new();
    let classify = || client.post(server.url("/classify")).body(photo(1));
    // The engine has worked, so that its table counts.
    assert_eq!(answer(classify()).await.0, 200);
    for request in [
        classify().header(DEADLINE, "1"),
        classify().header("grpc-timeout", "1m"),
        client.post(server.url("/faq")).json(&json!({"question": "x", "parameters": {"timeout": 1}})),
        client.post(server.url("/score")).json(&json!({"input": "x", "parameters": {"timeout": 1}})),
    ] {
        let (status, value) = answer(request).await;
        assert_eq!((status, &value["error"]["code"]), (504, &json!("deadline_exceeded")), "{value}");
    }
    for (name, value) in [(DEADLINE, "soon"), ("grpc-timeout", "5"), ("x-convoy-priority", "high")] {
        let (status, answer) = answer(classify().header(name, value)).await;
        assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains(name), "{answer}");
    }
    assert_eq!(
        answer(classify().header(DEADLINE, "30000").header("x-convoy-priority", "batch")).await.0,
        200
    );
    let metrics = metrics(&server).await;
    assert_eq!(outcome(&metrics, "ok"), 2.0, "what was late never ran");
}

#[tokio::test]
async fn what_would_be_late_is_refused_at_once_and_told_when_to_come_back() {
    let mut settings = photos_only();
    settings.photos.as_mut().unwrap().classifier.engine_threads = 1;
    let server = Server::start(&settings);
    let client = Client::new();
    assert_eq!(answer(client.post(server.url("/classify")).body(photo(100))).await.0, 200);
    let alone = metric(&metrics(&server).await, r#"convoy_batch_cost_seconds{queue="classify",size="1"}"#);
    // Time for some of them, whatever this machine is busy with.
    let deadline = (alone * 30e3).ceil().to_string();
    let asks = (0..100).map(|index| {
        let request = client.post(server.url("/classify")).header(DEADLINE, &deadline).body(photo(index));
        async move {
            let started = Instant::now();
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.headers().clone(), started.elapsed(), response.text().await)
        }
    });
    let answers = join_all(asks).await;
    let count = |wanted| answers.iter().filter(|(status, ..)| *status == wanted).count();
    let (served, refused, late) = (count(200), count(429), count(504));
    assert_eq!(served + refused + late, 100);
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused, {late} late");
    for (_, headers, _, text) in answers.iter().filter(|(status, ..)| *status == 429) {
        let value: Value = serde_json::from_str(text.as_ref().unwrap()).unwrap();
        let ms = value["error"]["retry_after_ms"].as_u64().unwrap();
        let seconds: u64 = headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert_eq!(seconds, ms.div_ceil(1000).max(1), "{value}");
    }
    // One whose time ran out may have been decoding, waiting or running just then; one that was refused never ran.
    let ran = outcome(&metrics(&server).await, "ok") - 1.0;
    assert!(
        (served..=served + late).contains(&(ran as usize)),
        "{ran} ran, {served} were served, {late} were late"
    );
}

#[tokio::test]
async fn more_images_than_a_batch_holds_are_split_and_answered_in_order() {
    let mut settings = photos_only();
    settings.photos.as_mut().unwrap().max_batch = 4;
    let server = Server::start(&settings);
    let client = Client::new();
    let count = 11;
    let mut alone = Vec::new();
    for index in 0..count {
        let (_, value) = answer(client.post(server.url("/classify?top=3")).body(photo(index))).await;
        alone.push(value["predictions"][0]["label"].clone());
    }
    // Keys out of alphabetical order, so that their order says something.
    let keys: Vec<String> = (0..count).map(|index| format!("{:02}", (index * 7) % 100)).collect();
    let images =
        keys.iter().zip(0..).map(|(key, index)| format!(r#""{key}": "{}""#, STANDARD.encode(photo(index))));
    let body = format!(r#"{{"input": {{{}}}}}"#, images.collect::<Vec<_>>().join(","));
    let request = client.post(server.url("/score")).header("content-type", "application/json").body(body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let places: Vec<_> = keys.iter().map(|key| text.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    for (key, label) in keys.iter().zip(&alone) {
        assert_eq!(&value["result"][0][key][0][0], label, "{key}");
    }
    let largest = r#"convoy_batch_size_bucket{queue="classify",le="4"}"#;
    let metrics = metrics(&server).await;
    let batches = metric(&metrics, r#"convoy_batch_size_count{queue="classify"}"#);
    assert_eq!(metric(&metrics, largest), batches, "no batch above four");
}

#[tokio::test]
async fn identical_photos_in_flight_run_once_and_only_where_that_is_wanted() {
    let mut settings = photos_only();
    settings.photos.as_mut().unwrap().share_identical = true;
    let server = Server::start(&settings);
    let client = Client::new();
    let ask = |index| answer(client.post(server.url("/classify?top=2")).body(photo(index)));
    let (_, alone) = ask(3).await;
    let crowd = join_all((0..100).map(|index| ask(3 + u32::from(index == 50)))).await;
    let mut different = 0;
    for (status, value) in &crowd {
        assert_eq!(*status, 200);
        different += u32::from(value["predictions"][0]["class"] != alone["predictions"][0]["class"]);
    }
    assert!(different <= 1);
    let metrics = metrics(&server).await;
    let (ran, shared) = (outcome(&metrics, "ok"), metric(&metrics, "convoy_shared_photos_total"));
    assert_eq!(ran + shared, 101.0, "{ran} ran, {shared} shared");
    assert!(ran < 60.0, "{ran} of 100 ran");
}

#[tokio::test]
async fn a_thousand_aborted_requests_execute_at_most_one_batch() {
    let (open, gate) = bounded::<()>(0);
    let batches = Arc::new(AtomicUsize::new(0));
    let begun = batches.clone();
    let before: Before<Classifier> = Arc::new(move |_| {
        begun.fetch_add(1, Ordering::Relaxed);
        let _opened = gate.recv();
        Ok(())
    });
    let mut settings = photos_only();
    // The batch that is held closes no door.
    settings.health.stuck_after = Duration::from_secs(600);
    let server = Server::start_with(&settings, &Rig { classify: Some(before), ..Rig::default() });
    let photo = photo(5);
    let head = format!("POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", photo.len());
    for index in 0..1000 {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // Some leave before the end of the body, some right after it.
        let sent = if index % 3 == 0 { photo.len() / 2 } else { photo.len() };
        stream.write_all(&photo[..sent]).unwrap();
    }
    // One connection is the one that asks. The first batch, if there was any, is held until all the others have left.
    until(&server, |text| metric(text, "convoy_http_connections") <= 1.0).await;
    drop(open);
    let empty = |text: &str| {
        let depth = |queue: &str| metric(text, &format!(r#"convoy_queue_depth{{queue="{queue}"}}"#));
        ["classify", "decode"].map(depth) == [0.0, 0.0]
    };
    let text = until(&server, empty).await;
    assert!(metric(&text, r#"convoy_http_requests_total{route="classify",status="499"}"#) > 300.0, "{text}");
    let ran = batches.load(Ordering::Relaxed);
    assert!(ran <= 1, "{ran} batches ran although nobody waited");
}

#[tokio::test]
async fn a_noisy_client_does_not_crowd_out_a_quiet_one() {
    let mut settings = photos_only();
    settings.clients.header = Some("x-client".into());
    settings.photos.as_mut().unwrap().max_batch = 2;
    let server = Server::start(&settings);
    let client = Client::new();
    let ask = |name: &'static str, file: Vec<u8>| {
        // Long enough on any machine: nobody is to be refused for lateness here.
        let request =
            client.post(server.url("/classify")).header("x-client", name).header(DEADLINE, "300000");
        let request = request.body(file);
        tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
    };
    let quiet = photo(101);
    let noisy: Vec<_> = (0..100).map(|index| ask("noisy", photo(index))).collect();
    let waiting = r#"convoy_queue_waiting{queue="classify"}"#;
    let ran_when = outcome(&until(&server, |text| metric(text, waiting) > 60.0).await, "ok");
    assert_eq!(ask("quiet", quiet).await.unwrap(), 200);
    let ran = outcome(&metrics(&server).await, "ok") - ran_when;
    assert!(ran < 50.0, "{ran} ran before the quiet client's one, of 60 that waited");
    for status in join_all(noisy).await {
        assert_eq!(status.unwrap(), 200);
    }
}

#[tokio::test]
async fn questions_have_terms_too() {
    let server = Server::start(&questions_only());
    let client = Client::new();
    let ask = |value: Value| client.post(server.url("/faq")).json(&value);
    let patient = json!({"question": "how to sort an array", "parameters": {"timeout": 60_000_000}});
    assert_eq!(answer(ask(patient).header("x-convoy-priority", "batch")).await.0, 200);
    let (status, value) = answer(ask(json!({"question": "x"})).header(DEADLINE, "0")).await;
    assert!(status == 400 && value["error"]["message"].as_str().unwrap().contains(DEADLINE));
}
