//! Faults of executors and of the threads that run them, in each pool: errors, panics, hangs, the end of a thread.

use std::{
    convert::Infallible,
    panic,
    sync::{Arc, Once},
    thread,
    time::{Duration, Instant},
};

use convoy::{
    app::Rig,
    batch::{Before, Executor},
    config::HealthConfig,
    faq::Answerer,
    image::Decoder,
    vision::{Classifier, EngineError},
};
use parking_lot::{Condvar, Mutex};
use reqwest::Client;
use serde_json::Value;

use crate::{
    crowd::{Crowd, Kind, failed, told},
    journal,
    support::{Server, config, metric, photo},
};

const STUCK_AFTER: Duration = Duration::from_secs(2);
const DEAD_AFTER: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Error,
    Panic,
    /// Panics once, then is well.
    PanicOnce,
    /// Never returns, until the fault is another one.
    Hang,
    /// Takes the thread along: a panic outside of what contains panics.
    Die,
}

/// A panic's payload that panics once more when it is dropped, in the scheduler's own code.
struct Twice;

impl Drop for Twice {
    fn drop(&mut self) {
        panic!("a panic outside the executor");
    }
}

/// The fault of one pool, from outside.
#[derive(Clone)]
struct Switch(Arc<(Mutex<Fault>, Condvar)>);

impl Switch {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(Fault::None), Condvar::new())))
    }

    fn set(&self, fault: Fault) {
        *self.0.0.lock() = fault;
        self.0.1.notify_all();
    }

    /// Commits the fault before each execution of a pool; `error` is what its executor fails with.
    fn before<E: Executor>(&self, error: fn() -> Result<(), E::Error>) -> Before<E> {
        let Self(shared) = self.clone();
        Arc::new(move |_| {
            let (fault, changed) = &*shared;
            let mut fault = fault.lock();
            match *fault {
                Fault::None => Ok(()),
                Fault::Error => error(),
                Fault::Panic => panic!("an injected panic"),
                Fault::PanicOnce => {
                    *fault = Fault::None;
                    panic!("an injected panic")
                }
                Fault::Hang => {
                    changed.wait_while(&mut fault, |fault| *fault == Fault::Hang);
                    Ok(())
                }
                Fault::Die => {
                    *fault = Fault::None;
                    panic::panic_any(Twice)
                }
            }
        })
    }
}

/// Panics of pools print one line, as the binary logs one: where backtraces are asked for, the first takes seconds to find its
/// symbols, and whoever waits for the thread waits for that as well.
fn panics_in_a_line() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            let name = thread.name().unwrap_or_default();
            if ["decode-", "classify-", "faq-"].iter().any(|pool| name.starts_with(pool)) {
                eprintln!("{name}: {}", info.payload_as_str().unwrap_or("a panic"));
            } else {
                default(info);
            }
        }));
    });
}

/// A server with a switch at each pool.
struct Stage {
    server: Server,
    client: Client,
    decode: Switch,
    classify: Switch,
    faq: Switch,
}

impl Stage {
    fn new(decode_threads: usize) -> Self {
        journal::keep();
        panics_in_a_line();
        let [decode, classify, faq] = [Switch::new(), Switch::new(), Switch::new()];
        let rig = Rig {
            decode: Some(decode.before::<Decoder>(|| unreachable!("a photo's own errors are its client's"))),
            classify: Some(classify.before::<Classifier>(|| {
                Err(EngineError::forward(std::io::Error::other("the device does not answer")))
            })),
            faq: Some(faq.before::<Answerer>(|| -> Result<(), Infallible> {
                unreachable!("questions have no errors")
            })),
        };
        let mut settings = config();
        settings.health = HealthConfig { stuck_after: STUCK_AFTER, dead_after: DEAD_AFTER };
        settings.http.admin = true;
        settings.photos.as_mut().unwrap().decode_threads = decode_threads;
        let server = Server::start_with(&settings, &rig);
        Self { server, client: Client::new(), decode, classify, faq }
    }

    fn pool(&self, name: &str) -> (&Switch, Kind) {
        match name {
            "decode" => (&self.decode, Kind::Photo),
            "classify" => (&self.classify, Kind::Photo),
            _ => (&self.faq, Kind::Question),
        }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(self.server.url(path)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Waits until `path` answers `status`; why, and how long that took.
    async fn until(&self, path: &str, status: u16) -> (String, Duration) {
        let started = Instant::now();
        loop {
            let (found, body) = self.get(path).await;
            if found == status {
                return (body["reason"].as_str().unwrap_or_default().to_owned(), started.elapsed());
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{path} stays {found}: {body}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn metrics(&self) -> String {
        self.client.get(self.server.url("/metrics")).send().await.unwrap().text().await.unwrap()
    }

    /// One request of a kind, without a deadline of its own: status, code, `Retry-After`.
    async fn ask(&self, kind: Kind) -> (u16, String, Option<String>) {
        let request = match kind {
            Kind::Photo => self.client.post(self.server.url("/classify")).body(photo(40)),
            Kind::Question => {
                self.client.post(self.server.url("/faq")).json(&serde_json::json!({"question": "sort"}))
            }
        };
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer: Value = response.json().await.unwrap();
        let code = answer["error"]["code"].as_str().unwrap_or("ok").to_owned();
        (status, code, headers.get("retry-after").map(|value| value.to_str().unwrap().to_owned()))
    }
}

fn other(kind: Kind) -> Kind {
    if kind == Kind::Photo { Kind::Question } else { Kind::Photo }
}

fn logged(parts: &[&str]) -> bool {
    journal::lines().iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

/// The executor of `pool` fails on everything with `fault`, and later does not.
async fn fails_on_everything(pool: &str, fault: Fault) {
    let stage = Stage::new(1);
    let crowd = Crowd::gather(&stage.server.url("")).await;
    let (switch, kind) = stage.pool(pool);
    crowd.until(kind, 200, "ok", 20).await;
    switch.set(fault);
    let seen = crowd.until(kind, 500, "internal", 20).await;
    let (reason, off) = stage.until("/readyz", 503).await;
    assert!(reason.starts_with(&format!("the {pool} pool has failed on everything")), "{reason}");
    assert_eq!(stage.get("/livez").await.0, 200, "it is given time");
    crowd.until(other(kind), 200, "ok", 5).await;
    let (dead, after) = stage.until("/livez", 503).await;
    assert!(dead.contains("has failed on everything"), "{dead}");
    switch.set(Fault::None);
    let (_, back) = stage.until("/readyz", 200).await;
    assert_eq!(stage.get("/livez").await.0, 200);
    let well = crowd.until(kind, 200, "ok", 20).await;
    crowd.stop().await;
    assert!(logged(&["not ready", &format!("the {pool} pool has failed")]), "{:?}", journal::lines());
    assert!(logged(&["the executor answers again", &format!("queue=\"{pool}\"")]));
    eprintln!(
        "| {pool}: {fault:?} on everything | {} | `{reason}` after {off:.2?} | 503 after {after:.2?} | ready {back:.2?} after the fault; then {} |",
        told(&seen),
        told(&well)
    );
}

#[tokio::test]
async fn an_engine_that_fails_on_everything_takes_the_server_out_until_it_is_well() {
    fails_on_everything("classify", Fault::Error).await;
}

#[tokio::test]
async fn an_engine_that_panics_on_everything_takes_the_server_out_until_it_is_well() {
    fails_on_everything("classify", Fault::Panic).await;
}

#[tokio::test]
async fn so_do_decoders() {
    fails_on_everything("decode", Fault::Panic).await;
}

#[tokio::test]
async fn and_the_faq() {
    fails_on_everything("faq", Fault::Panic).await;
}

#[tokio::test]
async fn one_panic_costs_one_answer_and_nothing_else() {
    let stage = Stage::new(1);
    let crowd = Crowd::gather(&stage.server.url("")).await;
    for pool in ["decode", "classify", "faq"] {
        let (switch, kind) = stage.pool(pool);
        crowd.until(kind, 200, "ok", 10).await;
        switch.set(Fault::PanicOnce);
        let seen = crowd.until(kind, 200, "ok", 40).await;
        assert_eq!(stage.get("/readyz").await.0, 200);
        assert!(failed(&seen) <= 1, "{}", told(&seen));
        eprintln!("| {pool}: one panic | {} | 200 | 200 | at once |", told(&seen));
    }
    crowd.stop().await;
}

/// The executor of `pool` never returns, and later does.
async fn hangs(pool: &str) {
    let stage = Stage::new(1);
    let crowd = Crowd::gather(&stage.server.url("")).await;
    let (switch, kind) = stage.pool(pool);
    crowd.until(kind, 200, "ok", 20).await;
    let hung = Instant::now();
    switch.set(Fault::Hang);
    let (reason, _) = stage.until("/readyz", 503).await;
    let off = hung.elapsed();
    assert!(
        reason.starts_with(&format!("the {pool} pool is stuck: a batch has been running for")),
        "{reason}"
    );
    let (status, code, retry) = stage.ask(kind).await;
    assert_eq!(
        (status, code.as_str(), retry.as_deref()),
        (503, "unable", Some("1")),
        "at once, not at its deadline"
    );
    let text = stage.metrics().await;
    assert_eq!(metric(&text, &format!("convoy_stuck_executors{{queue=\"{pool}\"}}")), 1.0);
    assert!(metric(&text, &format!("convoy_jobs_total{{queue=\"{pool}\",outcome=\"refused_down\"}}")) > 0.0);
    let seen = crowd.until(kind, 503, "unable", 10).await;
    crowd.until(other(kind), 200, "ok", 5).await;
    let (_, _) = stage.until("/livez", 503).await;
    let dead = hung.elapsed();
    switch.set(Fault::None);
    let (_, back) = stage.until("/readyz", 200).await;
    assert_eq!(stage.get("/livez").await.0, 200);
    let well = crowd.until(kind, 200, "ok", 20).await;
    assert_eq!(metric(&stage.metrics().await, &format!("convoy_stuck_executors{{queue=\"{pool}\"}}")), 0.0);
    crowd.stop().await;
    assert!(logged(&["not ready", &format!("the {pool} pool is stuck")]), "{:?}", journal::lines());
    eprintln!(
        "| {pool}: hangs | {} | `{reason}` after {off:.2?} | 503 after {dead:.2?} | ready {back:.2?} after it returned; then {} |",
        told(&seen),
        told(&well)
    );
}

#[tokio::test]
async fn a_hung_engine_is_noticed_and_nobody_waits_for_it() {
    hangs("classify").await;
}

#[tokio::test]
async fn so_is_a_hung_decoder() {
    hangs("decode").await;
}

#[tokio::test]
async fn and_a_hung_faq() {
    hangs("faq").await;
}

/// The only thread of `pool` ends; a model that is loaded anew brings another one.
async fn dies(pool: &str) {
    let stage = Stage::new(1);
    // So long that only who is forgotten can be late, however busy the machine is.
    let crowd = Crowd::patient(&stage.server.url(""), Duration::from_secs(30)).await;
    let (switch, kind) = stage.pool(pool);
    crowd.until(kind, 200, "ok", 20).await;
    switch.set(Fault::Die);
    let (reason, off) = stage.until("/readyz", 503).await;
    assert!(reason.starts_with(&format!("the {pool} pool has lost a thread")), "{reason}");
    assert_eq!(stage.get("/livez").await.0, 503, "it does not come back");
    let (status, code, retry) = stage.ask(kind).await;
    assert_eq!((status, code.as_str(), retry.as_deref()), (503, "unable", Some("1")));
    let mut seen = crowd.take();
    let after = crowd.everyone(kind).await;
    let late = after.keys().any(|(_, status, _)| *status == 504);
    assert!(!late, "whoever was in its hands is told at once: {}", told(&after));
    after.into_iter().for_each(|(outcome, count)| *seen.entry(outcome).or_default() += count);
    crowd.until(other(kind), 200, "ok", 5).await;
    if kind == Kind::Photo {
        let (load, started) = (stage.server.url("/v2/repository/models/resnet18/load"), Instant::now());
        assert_eq!(stage.client.post(load).body("{}").send().await.unwrap().status(), 200);
        stage.until("/readyz", 200).await;
        let back = started.elapsed();
        let well = crowd.until(kind, 200, "ok", 20).await;
        eprintln!(
            "| {pool}: its thread ends | {} | `{reason}` after {off:.2?} | 503 at once | loading the model anew: ready in {back:.2?}; then {} |",
            told(&seen),
            told(&well)
        );
    } else {
        eprintln!(
            "| {pool}: its thread ends | {} | `{reason}` after {off:.2?} | 503 at once | a new process |",
            told(&seen)
        );
    }
    crowd.stop().await;
}

#[tokio::test]
async fn the_end_of_the_engines_thread_leaves_nobody_waiting() {
    dies("classify").await;
}

#[tokio::test]
async fn nor_does_that_of_the_only_decoder() {
    dies("decode").await;
}

#[tokio::test]
async fn nor_that_of_the_only_faq_thread() {
    dies("faq").await;
}

#[tokio::test]
async fn a_thread_that_ends_beside_others_costs_what_it_held() {
    let stage = Stage::new(3);
    let crowd = Crowd::gather(&stage.server.url("")).await;
    crowd.until(Kind::Photo, 200, "ok", 20).await;
    stage.decode.set(Fault::Die);
    let (reason, _) = stage.until("/readyz", 503).await;
    assert!(reason.starts_with("the decode pool has lost a thread"), "{reason}");
    assert_eq!(stage.get("/livez").await.0, 503);
    let seen = crowd.until(Kind::Photo, 200, "ok", 40).await;
    assert!(failed(&seen) <= 1, "{}", told(&seen));
    crowd.stop().await;
    eprintln!(
        "| decode: one thread of three ends | {} | `{reason}` | 503 at once | the others go on |",
        told(&seen)
    );
}

#[tokio::test]
async fn a_client_cannot_take_the_server_out_with_poison() {
    let stage = Stage::new(1);
    let url = stage.server.url("/v2/models/resnet18/infer");
    // Numbers that no network survives: the engine's answer is not finite, and that is the client's doing.
    let (head, body) = poison();
    for _ in 0..12 {
        let request = stage.client.post(&url).header("inference-header-content-length", head.len());
        let response = request.body([head.as_bytes(), &body].concat()).send().await.unwrap();
        assert_eq!(response.status(), 500, "{}", response.text().await.unwrap());
        assert_eq!(stage.get("/readyz").await.0, 200);
    }
    assert_eq!(stage.ask(Kind::Photo).await.0, 200);
}

fn poison() -> (String, Vec<u8>) {
    let body: Vec<u8> = std::iter::repeat_n(3e38_f32.to_le_bytes(), 3 * 224 * 224).flatten().collect();
    let input = serde_json::json!({"name": "input", "shape": [1, 3, 224, 224], "datatype": "FP32",
        "parameters": {"binary_data_size": body.len()}});
    (serde_json::json!({"inputs": [input]}).to_string(), body)
}

#[test]
fn a_hung_engine_does_not_keep_the_process_from_ending() {
    let stage = Stage::new(1);
    let mut server = stage.server;
    stage.classify.set(Fault::Hang);
    let address = server.address;
    let photo = photo(1);
    let head = format!("POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", photo.len());
    let mut client = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut client, &[head.as_bytes(), &photo].concat()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let busy = || async {
        let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
        metric(&text, "convoy_batch_age_seconds{queue=\"classify\"}") > 0.0
    };
    while !runtime.block_on(busy()) {}
    drop(client);
    drop(runtime);
    server.ask_to_stop(convoy::http::Shutdown::Immediate);
    assert_eq!(server.join(), Some(convoy::http::Ended::Drained), "nobody waits for what nobody wants");
    stage.classify.set(Fault::None);
}
