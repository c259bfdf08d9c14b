//! The real binary: a log that nobody reads, a process that is killed, one that ends while nobody reads.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{config, metric};

/// A serving process.
struct Process {
    child: Child,
    address: SocketAddr,
    log: BufReader<ChildStderr>,
}

impl Process {
    /// Serves questions at `bind`, and is ready.
    fn start(bind: &str, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .args(["serve", "--services", "faq", "--bind", bind, "--faq-model"])
            .arg(config().faq.unwrap().model)
            .args(more)
            .env("CONVOY_LOG_FORMAT", "json")
            .env("CONVOY_LAME_DUCK_MS", "0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut process = Self { child, address: SocketAddr::from(([0; 4], 0)), log };
        process.address = process.await_address();
        process
    }

    fn await_address(&mut self) -> SocketAddr {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the process ended before it served");
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "serving" {
                return event["address"].as_str().unwrap().parse().unwrap();
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// A connection that asks one question after another.
struct Asker(BufReader<TcpStream>);

impl Asker {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(BufReader::new(stream))
    }

    /// The answer's body, without what it took.
    fn exchange(&mut self, request: &str) -> String {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("no answer") > 0, "closed before the answer");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    fn ask(&mut self) -> Value {
        let body = r#"{"question": "how do I sort an array", "top": 1}"#;
        let head = format!(
            "POST /faq HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer: Value = serde_json::from_str(&self.exchange(&format!("{head}{body}"))).unwrap();
        answer["matches"].clone()
    }
}

/// More lines than the pipe and the queue before it hold.
const QUESTIONS: usize = 12_000;

#[test]
fn a_log_that_nobody_reads_stops_nothing_and_its_losses_are_counted() {
    let mut process = Process::start("127.0.0.1:0", &["--log", "info,access=info"]);
    let mut asker = Asker::connect(process.address);
    let right = asker.ask();
    assert!(right[0]["id"].is_i64(), "{right}");
    for _ in 0..QUESTIONS {
        assert_eq!(asker.ask(), right);
    }
    // Counted with the next look that the server takes at itself.
    let dropped = (0..400).find_map(|_| {
        let text = asker.exchange("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        let dropped = metric(&text, "convoy_log_lines_dropped_total");
        std::thread::sleep(Duration::from_millis(25));
        (dropped > 0.0).then_some(dropped)
    });
    let dropped = dropped.expect("no line was counted as lost");
    process.signal("-TERM");
    let asked = Instant::now();
    let status = process.child.wait().unwrap();
    eprintln!(
        "a log that nobody reads: {QUESTIONS} right answers, {dropped} lines lost, exit {status} {:.2?} after SIGTERM",
        asked.elapsed()
    );
    assert!(status.success(), "{status}");
    // What was written before the pipe was full is whole.
    let mut rest = String::new();
    process.log.read_to_string(&mut rest).unwrap();
    assert!(rest.lines().next().is_some_and(|line| serde_json::from_str::<Value>(line).is_ok()), "{rest}");
}

#[test]
fn a_killed_process_leaves_nothing_that_keeps_the_next_one_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start("127.0.0.1:0", &[]);
    let address = process.address;
    let right = Asker::connect(address).ask();
    let mut times = Vec::new();
    for _ in 0..5 {
        // Connections in every state: idle, with half a request, with a whole one.
        let mut idle = Asker::connect(address);
        assert_eq!(idle.ask(), right);
        let mut half = TcpStream::connect(address).unwrap();
        half.write_all(b"POST /faq HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").unwrap();
        process.signal("-KILL");
        process.child.wait().unwrap();
        let killed = Instant::now();
        process = Process::start(&address.to_string(), &[]);
        assert_eq!(Asker::connect(address).ask(), right);
        times.push(killed.elapsed());
        drop((idle, half));
    }
    eprintln!("SIGKILL to the right answer of the next process on the same port: {times:.2?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_second_signal_ends_the_process_at_once_and_its_log_says_so() {
    let mut process = Process::start("127.0.0.1:0", &["--lame-duck-ms", "3600000"]);
    process.signal("-TERM");
    let mut line = String::new();
    while !line.contains("asked to stop") {
        line.clear();
        assert!(process.log.read_line(&mut line).unwrap() > 0, "the process ended after one signal");
    }
    process.signal("-TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(1));
    let mut rest = String::new();
    process.log.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("convoy: stopped at once, requests in hand are lost\n"), "{rest}");
}
