//! `convoy bench` over real sockets: against the real server, and against small servers whose stalls, refusals and limits
//! are known, so that what the report says can be compared with what happened.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use convoy::load::{Arrivals, Failure, Pace, Payload, Plan, Recording, report::Report, run};
use serde_json::Value;
use support::{Server, config};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convoy"));
    let Output { status, stdout, stderr } = command.arg("bench").args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Runs with `--json -` and gives back the report.
fn report(arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = bench(&[arguments, &["--json", "-"]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// A server with a thread a connection that answers each body with whole bytes; it closes a connection whose answer says
/// so, and never answers where there is none.
fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            thread::spawn(move || connection(stream.unwrap(), &*answer));
        }
    });
    address
}

fn connection(mut stream: TcpStream, answer: &dyn Fn(&str) -> Option<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(body) = read_request(&mut reader) {
        let Some(answer) = answer(&body) else { continue };
        if stream.write_all(answer.as_bytes()).is_err() || answer.contains("connection: close") {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(String::from_utf8(body).unwrap())
}

fn plan(address: SocketAddr, pace: Pace, connections: usize) -> Plan {
    let target = format!("http://{address}/faq").parse().unwrap();
    Plan {
        payloads: Payload::ready_questions(&target),
        target,
        pace,
        connections,
        warm_up: Duration::ZERO,
        duration: None,
        requests: Some(1000),
        timeout: Duration::from_secs(30),
    }
}

fn measure(plan: &Plan) -> Recording {
    run(plan, |_| {}).unwrap()
}

fn open(rate: f64) -> Pace {
    Pace::Open { rate, arrivals: Arrivals::Constant, seed: 0 }
}

/// Answers at once, but once, at the 200th request, nobody for this long.
const STALL: Duration = Duration::from_millis(500);

fn stalling() -> SocketAddr {
    let (turn, asked) = (Mutex::new(()), AtomicU64::new(0));
    serve(move |_| {
        let _turn = turn.lock().unwrap();
        if asked.fetch_add(1, Ordering::Relaxed) == 200 {
            thread::sleep(STALL);
        }
        Some(OK.to_owned())
    })
}

#[test]
fn the_open_loop_shows_a_stall_that_the_closed_loop_hides() {
    let stall = STALL.as_secs_f64() * 1e3;
    let closed = plan(stalling(), Pace::Closed, 4);
    let closed = Report::of_run(&closed, &measure(&closed)).run.latency_ms.unwrap();
    assert_eq!(closed.count, 1000);
    // Four of a thousand waited. A busy machine holds up others too, but not a tenth.
    assert!(closed.max >= stall && closed.p90 < stall / 2.0, "{closed:?}");

    let asked = plan(stalling(), open(1000.0), 4);
    let run = Report::of_run(&asked, &measure(&asked)).run;
    let (latency, service) = (run.latency_ms.unwrap(), run.service_ms.unwrap());
    // Half of the requests were due while the server stood still.
    assert!(latency.p99 > 0.9 * stall && latency.p90 > stall / 2.0, "{latency:?}");
    assert!(latency.mean > stall / 10.0, "{latency:?}");
    // Only the four that were on their way waited for the server itself.
    assert!(service.max >= stall && service.p90 < stall / 2.0, "{service:?}");
    assert_eq!((latency.count, run.opened), (1000, 4));
}

#[test]
fn every_due_request_is_sent_once_and_payloads_take_turns() {
    let seen: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let tally = seen.clone();
    let address = serve(move |body| {
        *tally.lock().unwrap().entry(body.to_owned()).or_default() += 1;
        Some(OK.to_owned())
    });
    for pace in
        [Pace::Closed, open(5000.0), Pace::Open { rate: 5000.0, arrivals: Arrivals::Poisson, seed: 1 }]
    {
        seen.lock().unwrap().clear();
        let recording = measure(&plan(address, pace, 3));
        let seen = seen.lock().unwrap();
        assert_eq!((recording.requests(), recording.answered()), (1000, 1000), "{pace:?}");
        assert_eq!(seen.values().copied().collect::<Vec<_>>(), [125; 8], "{pace:?}");
    }
}

#[test]
fn a_connection_that_the_server_closes_is_opened_again() {
    let closing = OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    let address = serve(move |_| Some(closing.clone()));
    for pace in [Pace::Closed, open(1000.0)] {
        let plan = Plan { requests: Some(100), ..plan(address, pace, 2) };
        let run = Report::of_run(&plan, &measure(&plan)).run;
        assert_eq!((run.answered, run.failed, run.opened), (100, 0, 100), "{pace:?}");
    }
}

#[test]
fn requests_that_get_no_answer_are_counted_sent_or_not() {
    let address = serve(|_| None);
    let plan =
        Plan { requests: Some(10), timeout: Duration::from_millis(200), ..plan(address, open(100.0), 1) };
    let run = Report::of_run(&plan, &measure(&plan)).run;
    assert_eq!((run.requests, run.answered, run.failed), (10, 0, 10));
    let count = |failure| run.failures.get(&failure).map_or(0, |tally| tally.count);
    assert!(count(Failure::Timeout) >= 1 && count(Failure::Unsent) >= 1, "{:?}", run.failures);
    assert_eq!(count(Failure::Timeout) + count(Failure::Unsent), 10);
}

#[test]
fn a_broken_answer_is_told_from_one_that_is_no_http() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nhalf", Failure::Closed),
        ("SSH-2.0-OpenSSH connection: close\r\n\r\n", Failure::Protocol),
    ] {
        let address = serve(move |_| Some(answer.to_owned()));
        let plan = Plan { requests: Some(5), ..plan(address, Pace::Closed, 1) };
        let run = Report::of_run(&plan, &measure(&plan)).run;
        assert_eq!(run.failures.keys().collect::<Vec<_>>(), [&expected], "{:?}", run.failures);
        assert_eq!(run.failed, 5);
    }
}

#[test]
fn questions_and_photos_of_its_own_reach_the_real_server() {
    let server = Server::start(&config());
    let base = ["--requests", "200", "--warm-up", "0", "--connections", "4"];
    let asked = report(&[&[server.url("/faq").as_str()], &base[..]].concat());
    let run = &asked["run"];
    assert_eq!((&run["requests"], &run["statuses"]["200"]["count"]), (&200.into(), &200.into()));
    assert_eq!(run["opened"], 4);
    assert!(run["body_bytes_received"].as_u64().unwrap() > 200 * 20, "{run}");
    let [p50, p99, max] = ["p50", "p99", "max"].map(|name| run["latency_ms"][name].as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{run}");

    let photos = report(&[&server.url("/classify"), "--requests", "12", "--warm-up", "0", "--rate", "10"]);
    assert_eq!(photos["run"]["statuses"]["200"]["count"], 12, "{photos}");
    assert!((photos["run"]["rate"].as_f64(), photos["run"]["pace"].as_str()) == (Some(10.0), Some("open")));
    // Twelve requests at 10/s are due within 1.1 s; the last is answered a little later.
    assert!(photos["run"]["seconds"].as_f64().unwrap() >= 1.1, "{photos}");
}

#[test]
fn what_the_server_refuses_is_shown_with_its_reason() {
    let server = Server::start(&config());
    let folder = tempfile::tempdir().unwrap();
    let photo = folder.path().join("no.jpg");
    std::fs::write(&photo, "no photo").unwrap();
    let url = server.url("/classify");
    let (code, stdout, stderr) =
        bench(&[&url, "--photo", photo.to_str().unwrap(), "--requests", "3", "--warm-up", "0"]);
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stdout.contains("statuses     415: 3") && stdout.contains("unknown_image_format"), "{stdout}");
    assert!(stderr.contains("no request was answered well: 3 x status 415"), "{stderr}");
}

#[test]
fn headers_and_the_deadline_are_sent() {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lines = heard.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                lines.lock().unwrap().push(std::mem::take(&mut line).trim().to_owned());
            }
            let _gone = stream.write_all(OK.as_bytes());
        }
    });
    let url = format!("http://{address}/faq");
    let arguments = [
        &url,
        "--requests",
        "1",
        "--connections",
        "1",
        "--warm-up",
        "0",
        "--header",
        "x-a: b",
        "--deadline-ms",
        "70",
    ];
    report(&arguments);
    let heard = heard.lock().unwrap();
    for line in ["POST /faq HTTP/1.1", "x-a: b", "x-convoy-deadline-ms: 70", &format!("host: {address}")] {
        assert!(heard.iter().any(|heard| heard == line), "{line} missing from {heard:?}");
    }
}

#[test]
fn the_highest_rate_is_found_and_drawn() {
    let turn = Mutex::new(());
    let address = serve(move |_| {
        let _turn = turn.lock().unwrap();
        // One after another: 200 a second at the very most.
        thread::sleep(Duration::from_millis(5));
        Some(OK.to_owned())
    });
    let folder = tempfile::tempdir().unwrap();
    let (html, json) = (folder.path().join("load.html"), folder.path().join("load.json"));
    let url = format!("http://{address}/faq?a&b");
    // Of so few requests the 99th percentile is the slowest: what bounds the rate is that the server falls behind.
    let search =
        ["--find-rate", "--p99-ms", "1000", "--rate", "40", "--duration", "1s", "--warm-up", "100ms"];
    let files = ["--html", html.to_str().unwrap(), "--json", json.to_str().unwrap()];
    let (code, stdout, stderr) = bench(&[&[url.as_str()], &search[..], &files[..]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let rate = report["search"]["rate"].as_f64().unwrap();
    assert!((40.0..=215.0).contains(&rate), "{stdout}");
    assert_eq!(report["run"]["rate"].as_f64(), Some(rate));
    let steps = report["search"]["steps"].as_array().unwrap();
    assert_eq!(stdout.matches("requests/s  answered").count(), steps.len(), "{stdout}");
    assert!(steps.iter().any(|step| step["missed"].is_string()), "{stdout}");

    let page = std::fs::read_to_string(html).unwrap();
    for part in ["Latency against throughput", "Latency by percentile", "Rate over time", "/faq?a&amp;b"] {
        assert!(page.contains(part), "{part} missing");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</desc>").count());
    for foreign in ["<script", "<link", "src=", "url(", "@import"] {
        assert!(!page.contains(foreign), "the page needs {foreign}");
    }
}

#[test]
fn what_cannot_be_run_says_what_to_do() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, stderr) = bench(&[&format!("http://{nobody}/faq")]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("cannot connect to {nobody}: is convoy serving there?")), "{stderr}");
    for (arguments, part) in [
        (&["https://localhost/faq"][..], "https is not supported"),
        (&["localhost:8080/faq"], "begins with http://"),
        (&["http://localhost/score"], "nothing to send to /score"),
        (&["http://localhost/faq", "--find-rate"], "--p99-ms"),
        (&["http://localhost/faq", "--rate", "0"], "0.001"),
        (&["http://localhost/faq", "--photo", "/nowhere/p"], "--photo /nowhere/p"),
        (&["http://localhost/x", "--body", "b"], "--content-type"),
    ] {
        let (code, _, stderr) = bench(arguments);
        assert_eq!(code, Some(64), "{arguments:?} {stderr}");
        assert!(stderr.contains(part), "{part} missing from {stderr}");
    }
    let (code, stdout, _) = bench(&["--help"]);
    assert_eq!((code, stdout.contains("Examples:")), (Some(0), true), "{stdout}");
}
