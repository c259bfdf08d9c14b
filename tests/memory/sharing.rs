//! What requests share: the budget of their bytes, and seats, which nobody holds who is still sending.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use convoy::config::Config;
use serde_json::json;

use crate::{
    support::{Server, config, metric, photo},
    wire::{JSON, answer, connect, head, post},
};

const MIB: usize = 1 << 20;
const FAQ: &str = "/v2/models/faq/infer";

fn metrics(server: &Server) -> String {
    let mut stream = connect(server.address);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    String::from_utf8(answer(&mut stream).body).unwrap()
}

/// Polls until the metrics fit; fails after a long time.
fn until(server: &Server, fits: impl Fn(&str) -> bool) {
    let started = Instant::now();
    while !fits(&metrics(server)) {
        assert!(started.elapsed() < Duration::from_secs(30), "still waiting at\n{}", metrics(server));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn held(metrics: &str) -> f64 {
    metric(metrics, "convoy_body_memory_bytes")
}

/// 16 MiB for everybody, bodies of up to 2 MiB, and clients told apart by a header.
fn small_budget() -> Config {
    let mut settings = config();
    settings.http.max_body = 2 * MIB;
    settings.memory.bodies = 16 * MIB;
    settings.clients.header = Some("x-client".into());
    settings
}

/// Begins a body of 2 MiB and sends so much of it.
fn begin(server: &Server, client: &str, sent: usize) -> TcpStream {
    let mut stream = connect(server.address);
    let more = format!("x-client: {client}\r\n");
    stream.write_all(head("/classify", 2 * MIB, &more).as_bytes()).unwrap();
    let _may_be_refused_meanwhile = stream.write_all(&vec![7; sent]);
    stream
}

#[test]
fn announcing_takes_nothing_and_sending_does() {
    let server = Server::start(&small_budget());
    let announced: Vec<_> = (0..100).map(|_| begin(&server, "loud", 0)).collect();
    until(&server, |metrics| metric(metrics, "convoy_http_connections") >= 100.0);
    // What every request costs is charged, and not a byte of the 200 MiB announced.
    until(&server, |metrics| held(metrics) >= 100.0 * 8192.0);
    assert!(held(&metrics(&server)) < MIB as f64);
    let question = json!({"question": "how to sort an array"}).to_string();
    assert_eq!(post(server.address, "/faq", JSON, question.as_bytes()).status, 200);
    let sent = begin(&server, "other", MIB);
    until(&server, |metrics| held(metrics) >= 100.0 * 8192.0 + MIB as f64);
    drop((announced, sent));
    until(&server, |metrics| held(metrics) == 0.0);
}

#[test]
fn a_client_that_takes_all_it_may_is_refused_and_others_are_not() {
    let server = Server::start(&small_budget());
    let taken: Vec<_> = (0..20).map(|_| begin(&server, "greedy", 2 * MIB - 1)).collect();
    until(&server, |metrics| metric(metrics, "convoy_body_memory_refused_total") > 0.0);
    let refused = post(server.address, "/classify", "x-client: greedy\r\n", &vec![7; 2 * MIB]);
    assert_eq!((refused.status, refused.code().as_str()), (429, "overloaded"));
    assert!(refused.head.contains("retry-after: 1\r\n"), "{}", refused.head);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("--body-memory-mib"));
    let text = metrics(&server);
    assert!((8.0 * MIB as f64..16.0 * MIB as f64).contains(&held(&text)), "{}", held(&text));
    // Somebody else's photo, and even a small one of the same client.
    for client in ["modest", "greedy"] {
        let answer = post(server.address, "/classify", &format!("x-client: {client}\r\n"), &photo(1));
        assert_eq!(answer.status, 200, "{client}: {}", String::from_utf8_lossy(&answer.body));
    }
    drop(taken);
    until(&server, |metrics| held(metrics) == 0.0);
    let again = post(server.address, "/classify", "x-client: greedy\r\n", &vec![7; 2 * MIB]);
    assert_eq!(again.code(), "unknown_image_format", "it was read");
}

/// 1,000 clients take the whole line by sending nothing, were their seats not given back.
#[test]
fn who_is_still_sending_holds_no_seat() {
    let mut settings = config();
    settings.photos.as_mut().unwrap().queue = 16;
    settings.http.max_body = 2 * MIB;
    let server = Server::start(&settings);
    let slow: Vec<_> = (0..64).map(|_| begin(&server, "slow", 1000)).collect();
    let depth = |metrics: &str| metric(metrics, r#"convoy_queue_depth{queue="classify"}"#);
    until(&server, |metrics| metric(metrics, "convoy_http_connections") >= 16.0 && depth(metrics) == 0.0);
    assert_eq!(post(server.address, "/classify", "", &photo(1)).status, 200);
    drop(slow);
}

#[test]
fn who_comes_late_with_a_body_takes_a_new_seat_or_is_refused() {
    let mut settings = config();
    settings.photos.as_mut().unwrap().queue = 16;
    settings.memory.seat_wait = Duration::from_millis(1);
    let server = Server::start(&settings);
    let file = photo(1);
    let late = |rest: bool| {
        let mut stream = connect(server.address);
        stream.write_all(head("/classify", file.len(), "").as_bytes()).unwrap();
        stream.write_all(&file[..100]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        if rest {
            stream.write_all(&file[100..]).unwrap();
        }
        stream
    };
    assert_eq!(answer(&mut late(true)).status, 200);
}

/// Questions in the binary layout are copied out of the body, and wait longer than it is there.
#[test]
fn copies_of_questions_are_charged() {
    let mut settings = small_budget();
    settings.memory.stall = Duration::from_secs(600);
    settings.http.read_timeout = Duration::from_secs(600);
    let server = Server::start(&settings);
    // Of what is open to large holdings, as much is left as one client may have of 1.6 to 1.8 MiB: four fifths of it. Reading a
    // MiB takes one and a half for a moment, and copying what was read two.
    let open = (14 * MIB) as f64;
    let (mut others, mut bodies) = (Vec::new(), 0);
    while held(&metrics(&server)) < open - 2.25 * MIB as f64 {
        let body = if bodies < 10 * MIB { MIB / 2 } else { MIB / 8 };
        bodies += body;
        let mut stream = connect(server.address);
        let more = format!("x-client: {}\r\n", others.len());
        stream.write_all(head("/classify", body, &more).as_bytes()).unwrap();
        stream.write_all(&vec![7; body - 1]).unwrap();
        others.push(stream);
        // And some KiB for each request.
        let expected = bodies as f64..(bodies + others.len() * 10_000) as f64;
        until(&server, |metrics| expected.contains(&held(metrics)));
    }
    let text = vec![b'a'; 30 << 10];
    let element = [&(text.len() as u32).to_le_bytes()[..], &text].concat();
    let ask = |count: usize| {
        let parameters = json!({"binary_data_size": count * element.len()});
        let input =
            json!({"name": "question", "shape": [count], "datatype": "BYTES", "parameters": parameters});
        let head = json!({"inputs": [input], "outputs": [{"name": "id"}]}).to_string();
        let more = format!("inference-header-content-length: {}\r\nx-client: asks\r\n", head.len());
        post(server.address, FAQ, &more, &[head.as_bytes(), &element.repeat(count)].concat())
    };
    let few = ask(10);
    assert_eq!(few.status, 200, "{}", String::from_utf8_lossy(&few.body));
    let read = post(server.address, "/classify", "x-client: asks\r\n", &vec![7; 34 * element.len()]);
    assert_eq!(read.code(), "unknown_image_format", "there is room for as many bytes once");
    let refused = ask(34);
    assert_eq!(refused.status, 429, "{}", String::from_utf8_lossy(&refused.body));
    drop(others);
}

/// An answer that nobody reads is charged until it is gone: a client cannot pile answers up.
#[test]
fn an_unread_answer_is_charged_until_its_client_goes() {
    let mut settings = small_budget();
    settings.memory.bodies = 128 * MIB;
    let server = Server::start(&settings);
    let input = json!({"name": "question", "shape": [4096], "datatype": "BYTES", "data": vec!["sort"; 4096]});
    let body = json!({"inputs": [input], "outputs": [{"name": "probabilities"}]}).to_string();
    let asked = || {
        let mut stream = connect(server.address);
        let more = format!("{JSON}x-client: deaf\r\n");
        stream.write_all(head("/v2/models/faq/infer", body.len(), &more).as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    };
    let deaf: Vec<_> = (0..2).map(|_| asked()).collect();
    // 4,096 rows of 169 numbers are some 8 MiB of JSON, of which the sockets take a part.
    until(&server, |metrics| {
        let answered = r#"convoy_http_requests_total{route="v2_infer",status="200"}"#;
        metrics.contains(answered) && held(metrics) > 2.0 * MIB as f64
    });
    drop(deaf);
    until(&server, |metrics| held(metrics) == 0.0);
}
