//! What connections may ask for, at each limit and past it: seats, heads, silence, answers that are not taken, frames. Over
//! real sockets and byte by byte, because no client library would do these things.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use convoy::{
    config::Config,
    http::{Ended, Shutdown},
};
use serde_json::Value;
use support::{Server, config, metric};

/// Longer than any of these tests waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(700);

/// Of a server whose clients are to keep to it: long enough for a busy machine to do in time what must be in time.
const LIMIT: Duration = Duration::from_millis(2500);

/// Questions only, with as long to wait as nobody will.
fn unhurried() -> Config {
    let mut settings = Config { photos: None, ..config() };
    settings.http.read_timeout = Duration::from_secs(600);
    settings.http.connections.idle_timeout = Duration::from_secs(600);
    settings.http.connections.write_timeout = Duration::from_secs(600);
    settings.memory.stall = Duration::from_secs(600);
    settings.ingress.ops_bind = Some("127.0.0.1:0".parse().unwrap());
    settings
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads one answer with a `content-length`; its head and its body.
fn answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "ended in {}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length =
        head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn ask(stream: &mut TcpStream, path: &str) -> u16 {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    status(&answer(stream).0)
}

/// Waits until the other side has ended the connection; what it sent before that.
fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let (mut sent, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return sent,
            Ok(count) => sent.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return sent,
            Err(error) => panic!("still open: {error}"),
        }
    }
}

/// A question whose body has not come yet.
const BEGUN: &str =
    "POST /faq HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n";

/// The rest of it.
const REST: &str = r#"{"question": "how to sort an array"}"#;

/// Sends the head and as much of the body as shows that it is slow, once the server has asked for it.
fn begin(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    let head = BEGUN.replace("host: x", "host: x\r\nexpect: 100-continue");
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&REST.as_bytes()[..1]).unwrap();
    stream
}

/// Sends the rest of the question and sees whether the answer is the right one.
fn finish(mut stream: TcpStream) {
    stream.write_all(&REST.as_bytes()[1..]).unwrap();
    let (head, body) = answer(&mut stream);
    assert_eq!(status(&head), 200, "{head}");
    let answer: Value = serde_json::from_slice(&body).unwrap();
    let best = answer["matches"][0]["question"].as_str().unwrap();
    assert!(best.contains("sort"), "{best}");
}

fn metrics(server: &Server) -> String {
    let mut stream = connect(server.ops.unwrap());
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    String::from_utf8(answer(&mut stream).1).unwrap()
}

/// Connections that the server has ended because of `reason`.
fn ended(server: &Server, reason: &str) -> f64 {
    metric(&metrics(server), &format!("convoy_connections_ended_total{{reason=\"{reason}\"}}"))
}

/// Looks until `fits`; fails after a long time.
fn wait_until(server: &Server, fits: impl Fn(&str) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = metrics(server);
        if fits(&text) {
            return;
        }
        assert!(Instant::now() < end, "still waiting at\n{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_port_makes_room_for_the_next_and_whoever_waited_longest_goes() {
    let mut settings = unhurried();
    settings.http.connections.max = 8;
    let server = Server::start(&settings);
    let mut first = connect(server.address);
    let mut idle = connect(server.address);
    assert_eq!(ask(&mut idle, "/livez"), 200);
    // An answer's end is noted after its bytes have left, and in its first moment nobody is disturbed: there is time for both,
    // here and below.
    std::thread::sleep(SHORT);
    let mut silent: Vec<_> = (0..6).map(|_| connect(server.address)).collect();
    wait_until(&server, |text| {
        metric(text, "convoy_connections_ended_total{reason=\"evicted\"}") == 0.0
            && metric(text, "convoy_http_connections") == 9.0
    });
    std::thread::sleep(SHORT);
    // The eighth is in; the ninth costs the first its seat, the tenth the one that once had a request.
    let mut ninth = connect(server.address);
    assert_eq!(ask(&mut ninth, "/livez"), 200);
    assert_eq!(until_end(&mut first), b"");
    let mut tenth = connect(server.address);
    assert_eq!(ask(&mut tenth, "/livez"), 200);
    assert_eq!(until_end(&mut idle), b"");
    assert_eq!(ended(&server, "evicted"), 2.0);
    // However many come and say nothing, whoever asks is answered.
    for _ in 0..100 {
        silent.push(connect(server.address));
        let mut honest = connect(server.address);
        assert_eq!(ask(&mut honest, "/livez"), 200);
    }
}

#[test]
fn who_sends_at_once_is_heard_before_another_takes_the_seat() {
    let mut settings = unhurried();
    settings.http.connections.max = 2;
    let server = Server::start(&settings);
    let held = begin(server.address);
    // Three have come and asked before there is a seat, for which they then follow one another.
    for _ in 0..30 {
        let second = begin(server.address);
        let mut come: Vec<_> = (0..3).map(|_| connect(server.address)).collect();
        for stream in &mut come {
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        }
        finish(second);
        for stream in &mut come {
            assert_eq!(status(&answer(stream).0), 200);
        }
    }
    finish(held);
}

#[test]
fn a_request_in_hand_never_makes_room() {
    let mut settings = unhurried();
    settings.http.connections.max = 4;
    let server = Server::start(&settings);
    let mut held: Vec<_> = (0..4).map(|_| begin(server.address)).collect();
    let mut fifth = connect(server.address);
    fifth.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    fifth.set_read_timeout(Some(SHORT)).unwrap();
    let waits = fifth.read(&mut [0]).unwrap_err();
    assert!(matches!(waits.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waits}");
    fifth.set_read_timeout(Some(PATIENCE)).unwrap();
    finish(held.pop().unwrap());
    assert_eq!(status(&answer(&mut fifth).0), 200);
    held.into_iter().for_each(finish);
}

#[test]
fn an_address_has_as_many_connections_as_it_may() {
    let mut settings = unhurried();
    settings.http.connections.max_per_address = Some(3);
    let server = Server::start(&settings);
    let mut three: Vec<_> = (0..3).map(|_| connect(server.address)).collect();
    for stream in &mut three {
        assert_eq!(ask(stream, "/livez"), 200);
    }
    assert_eq!(until_end(&mut connect(server.address)), b"");
    assert_eq!(ended(&server, "address"), 1.0);
    three.pop();
    wait_until(&server, |text| metric(text, "convoy_http_connections") == 3.0);
    assert_eq!(ask(&mut connect(server.address), "/livez"), 200);
}

#[test]
fn silence_and_slow_heads_have_an_end_and_heads_in_time_are_answered() {
    let mut settings = unhurried();
    settings.http.read_timeout = LIMIT;
    let server = Server::start(&settings);
    let began = Instant::now();
    let (mut silent, mut slow) = (connect(server.address), connect(server.address));
    slow.write_all(b"G").unwrap();
    let mut half_preface = connect(server.address);
    half_preface.write_all(b"PRI * HT").unwrap();
    let mut prompt = connect(server.address);
    let trickle = std::thread::spawn(move || {
        for byte in b"ET /livez HTTP/1.1\r\nx-a: ".iter().chain(std::iter::repeat(&b'a')) {
            std::thread::sleep(Duration::from_millis(20));
            if slow.write_all(&[*byte]).is_err() {
                break;
            }
        }
    });
    prompt.write_all(b"G").unwrap();
    prompt.write_all(b"ET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(status(&answer(&mut prompt).0), 200);
    assert_eq!(until_end(&mut silent), b"");
    assert_eq!(until_end(&mut half_preface), b"");
    trickle.join().unwrap();
    assert!(began.elapsed() >= LIMIT);
    assert_eq!((ended(&server, "silent"), ended(&server, "slow_head")), (2.0, 1.0));
    // Between requests there is more time, and the next head has its own.
    assert_eq!(ask(&mut prompt, "/livez"), 200);
    prompt.write_all(b"GET /livez HTTP/1.1\r\nx-").unwrap();
    assert_eq!(until_end(&mut prompt), b"");
    assert_eq!(ended(&server, "slow_head"), 2.0);
}

#[test]
fn an_idle_connection_ends_and_one_with_a_request_in_hand_does_not() {
    let mut settings = unhurried();
    settings.http.connections.idle_timeout = Duration::from_secs(3);
    let server = Server::start(&settings);
    let mut stream = connect(server.address);
    let held = begin(server.address);
    // Longer than that in all.
    for _ in 0..7 {
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(ask(&mut stream, "/livez"), 200, "a sixth of the time leaves it open");
    }
    assert_eq!(until_end(&mut stream), b"");
    let mut http2 = Frames::open(server.address, &[]);
    let frames = http2.until_end();
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY && frame.error() == NO_ERROR), "{frames:?}");
    assert_eq!(ended(&server, "idle"), 2.0);
    finish(held);
}

#[test]
fn an_answer_that_is_not_taken_has_an_end_and_one_that_is_taken_slowly_arrives() {
    let mut settings = unhurried();
    settings.http.connections.write_timeout = LIMIT;
    let server = Server::start(&settings);
    // Pipelined until the answers fill whatever buffers there are and requests are not read any more.
    let mut greedy = connect(server.address);
    greedy.set_write_timeout(Some(SHORT / 4)).unwrap();
    let many = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(400);
    while greedy.write_all(&many).is_ok() {}
    wait_until(&server, |text| metric(text, "convoy_connections_ended_total{reason=\"not_reading\"}") == 1.0);
    // A window that is never opened.
    let mut closed = Frames::open(server.address, &setting(4, 0));
    closed.get(1, "/openapi.json");
    let frames = closed.until_end();
    assert!(
        frames.iter().any(|frame| frame.kind == HEADERS) && frames.iter().all(|frame| frame.kind != DATA)
    );
    assert_eq!(ended(&server, "not_reading"), 2.0);
    // A window that is opened a little at a time, slower than at once and faster than never.
    let mut slow = Frames::open(server.address, &setting(4, 0));
    slow.get(1, "/openapi.json");
    let mut received = 0;
    let mut rounds = 0;
    loop {
        slow.window(1, 20_000);
        let frame = slow.until(|frame| frame.kind == DATA);
        received += frame.payload.len();
        rounds += 1;
        if frame.flags & END != 0 {
            break;
        }
    }
    assert!(rounds > 1 && received > 20_000, "{received} bytes in {rounds} rounds");
    assert_eq!(ended(&server, "not_reading"), 2.0);
}

#[test]
fn who_takes_one_answer_too_slowly_costs_nobody_else_on_the_connection_an_answer() {
    let mut settings = unhurried();
    settings.http.connections.write_timeout = Duration::from_secs(3);
    let server = Server::start(&settings);
    let mut http2 = Frames::open(server.address, &setting(4, 0));
    http2.get(1, "/openapi.json");
    http2.send(&frame(HEADERS, END_HEADERS, 3, &question()));
    // Others' answers are taken all the while.
    let began = Instant::now();
    let mut stream = 5;
    loop {
        http2.get(stream, "/livez");
        http2.window(stream, 1000);
        let answered = |frame: &Frame| frame.kind == DATA && frame.stream == stream;
        if http2.until(|frame| frame.kind == GOAWAY || answered(frame)).kind == GOAWAY {
            break;
        }
        stream += 2;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(began.elapsed() >= 4 * Duration::from_secs(3));
    http2.send(&frame(DATA, END, 3, REST.as_bytes()));
    let answer = http2.until(|frame| frame.kind == HEADERS && frame.stream == 3);
    assert_eq!(answer.status(), Some(200), "what was in hand is answered");
    http2.until_end();
    assert_eq!(ended(&server, "not_reading"), 1.0);
}

#[test]
fn a_client_that_is_gone_does_not_hold_up_the_drain() {
    let mut settings = unhurried();
    settings.http.grace = Duration::from_secs(60);
    let mut server = Server::start(&settings);
    let mut gone = Frames::open(server.address, &[]);
    assert!(gone.answers(1));
    // It takes nothing in any more, and so answers no PING.
    server.ask_to_stop(Shutdown::Immediate);
    assert_eq!(server.join(), Some(Ended::Drained));
}

#[test]
fn a_client_that_goes_on_asking_does_not_hold_up_the_drain() {
    let mut settings = unhurried();
    settings.http.grace = Duration::from_secs(60);
    let mut server = Server::start(&settings);
    let mut deaf = Frames::open(server.address, &[]);
    assert!(deaf.answers(1));
    server.ask_to_stop(Shutdown::Immediate);
    // It never says that it has heard of the end, and always asks again before its answer is old.
    let asks = std::thread::spawn(move || {
        let mut stream = 3;
        while deaf.send(&frame(HEADERS, END | END_HEADERS, stream, &request(GET, "/livez"))) {
            stream += 2;
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(server.join(), Some(Ended::Drained));
    asks.join().unwrap();
}

/// A head of `size` bytes in all.
fn head_of(size: usize) -> Vec<u8> {
    let mut head = b"GET /livez HTTP/1.1\r\nhost: x\r\nx-long: ".to_vec();
    head.resize(size - 4, b'a');
    head.extend_from_slice(b"\r\n\r\n");
    head
}

fn ask_raw(address: SocketAddr, bytes: &[u8]) -> u16 {
    let mut stream = connect(address);
    let _closed_when_it_has_seen_enough = stream.write_all(bytes);
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    status(std::str::from_utf8(&line).unwrap())
}

#[test]
fn heads_are_bounded_in_bytes_headers_and_target() {
    let server = Server::start(&unhurried());
    assert_eq!(ask_raw(server.address, &head_of(64 << 10)), 200);
    assert_eq!(ask_raw(server.address, &head_of((64 << 10) + 1)), 431);
    assert_eq!(ask_raw(server.address, &head_of(10 << 20)), 431);
    let headers = |count: usize| {
        let lines: String = (1..count).map(|index| format!("x-{index}: 1\r\n")).collect();
        format!("GET /livez HTTP/1.1\r\nhost: x\r\n{lines}\r\n")
    };
    assert_eq!(ask_raw(server.address, headers(100).as_bytes()), 200);
    assert_eq!(ask_raw(server.address, headers(101).as_bytes()), 431);
    let target = |length: usize| format!("GET /livez?{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(length - 7));
    assert_eq!(ask_raw(server.address, target(60 << 10).as_bytes()), 200);
    assert_eq!(ask_raw(server.address, target(64 << 10).as_bytes()), 431);
    assert_eq!(ask_raw(server.address, b"\0\x01\x02 nonsense\r\n\r\n"), 400);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Server::start(&unhurried());
    let mut stream = connect(server.address);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let paths = ["/livez", "/nowhere", "/", "/readyz"].repeat(50);
    stream.write_all(paths.iter().map(|path| ask(path)).collect::<String>().as_bytes()).unwrap();
    for path in paths {
        let expected = if path == "/nowhere" { 404 } else { 200 };
        let (head, body) = answer(&mut stream);
        assert_eq!(status(&head), expected);
        assert_eq!(path == "/", body == b"Healthy");
    }
}

#[test]
fn a_deadline_is_cut_to_the_longest_there_is() {
    let mut settings = unhurried();
    settings.http.deadline = Duration::from_nanos(1);
    settings.http.max_deadline = Duration::from_nanos(1);
    let server = Server::start(&settings);
    let mut stream = connect(server.address);
    let asked = BEGUN.replace("host: x", "host: x\r\nx-convoy-deadline-ms: 99999999");
    stream.write_all(asked.as_bytes()).unwrap();
    stream.write_all(REST.as_bytes()).unwrap();
    assert_eq!(status(&answer(&mut stream).0), 504);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
/// `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
const END: u8 = 1;
const END_HEADERS: u8 = 4;
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame of HTTP/2 (RFC 9113, section 4).
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error of GOAWAY or RST_STREAM.
    fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status of an answer, as the server's HPACK writes those that the static table has.
    fn status(&self) -> Option<u16> {
        match (self.kind, self.payload.first()?) {
            (HEADERS, 0x88) => Some(200),
            (HEADERS, 0x8d) => Some(404),
            // A literal with the name of `:status`, and `431` in Huffman code.
            (HEADERS, 0x48) => (self.payload[2..5] == [0x69, 0x90, 0xff]).then_some(431),
            _ => None,
        }
    }
}

/// HTTP/2 frame by frame.
struct Frames(TcpStream);

fn setting(name: u16, value: u32) -> Vec<u8> {
    [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a request, in HPACK without its dynamic table.
fn request(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x86, 0x41, 1, b'x', 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    block
}

/// That of a question, whose body is to come.
fn question() -> Vec<u8> {
    // `content-type` by its place in the static table.
    [&request(POST, "/faq")[..], &[0x0f, 16, 16], b"application/json"].concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

impl Frames {
    fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let mut stream = connect(address);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    fn get(&mut self, stream: u32, path: &str) {
        self.send(&frame(HEADERS, END | END_HEADERS, stream, &request(GET, path)));
    }

    fn window(&mut self, stream: u32, bytes: u32) {
        self.send(&frame(WINDOW, 0, stream, &bytes.to_be_bytes()));
    }

    /// The next frame; `None` when the server has ended the connection.
    fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(error) => panic!("still open: {error}"),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap()) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn until(&mut self, fits: impl Fn(&Frame) -> bool) -> Frame {
        std::iter::from_fn(|| self.next()).find(fits).expect("the server ended the connection")
    }

    fn until_end(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Whether a request is answered well.
    fn answers(&mut self, stream: u32) -> bool {
        self.get(stream, "/livez");
        self.until(|frame| frame.kind == HEADERS && frame.stream == stream).status() == Some(200)
    }
}

#[test]
fn http2_heads_are_bounded() {
    let server = Server::start(&unhurried());
    // One header of 16 KiB a frame, which nobody indexes.
    let field = |size: usize| {
        let mut field = vec![0x00, 3, b'x', b'-', b'a'];
        // The length as an integer with a prefix of seven bits (RFC 7541, section 5.1).
        field.push(0x7f);
        let mut rest = size - 127;
        while rest >= 128 {
            field.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        field.push(rest as u8);
        field.resize(field.len() + size, b'a');
        field
    };
    let ask = |fields: usize| {
        let mut http2 = Frames::open(server.address, &[]);
        http2.send(&frame(HEADERS, END, 1, &request(GET, "/livez")));
        for index in 1..=fields {
            let last = if index == fields { END_HEADERS } else { 0 };
            if !http2.send(&frame(CONTINUATION, last, 1, &field(16_000))) {
                break;
            }
        }
        http2
    };
    let mut within = ask(4);
    assert_eq!(within.until(|frame| frame.kind == HEADERS).status(), Some(200), "64,000 bytes");
    let mut past = ask(5);
    let refused = past.until(|frame| frame.kind == HEADERS || frame.kind == GOAWAY);
    assert!(refused.kind == GOAWAY || refused.status() == Some(431), "{refused:?}");
    // Without end.
    let frames = ask(10_000).until_end();
    let calm = frames.iter().any(|frame| frame.kind == GOAWAY && frame.error() == ENHANCE_YOUR_CALM);
    assert!(calm || frames.iter().all(|frame| frame.kind != HEADERS), "{frames:?}");
    assert!(Frames::open(server.address, &[]).answers(1));
}

#[test]
fn streams_are_bounded_and_resets_have_an_end() {
    let mut settings = unhurried();
    settings.faq.as_mut().unwrap().queue = 1024;
    let server = Server::start(&settings);
    let mut http2 = Frames::open(server.address, &[]);
    let most = http2.until(|frame| frame.kind == SETTINGS && frame.flags & END == 0).payload;
    let most = most.chunks(6).find(|pair| pair[..2] == [0, 3]).map(|pair| pair[2..].try_into().unwrap());
    let most = u32::from_be_bytes(most.unwrap());
    // As many as it may, none of which ends, and one more.
    let heads = (0..=most).flat_map(|index| frame(HEADERS, END_HEADERS, 2 * index + 1, &question()));
    http2.send(&heads.collect::<Vec<_>>());
    let refused = http2.until(|frame| frame.kind == RESET && frame.stream == 2 * most + 1);
    assert_eq!(refused.error(), 7, "REFUSED_STREAM");
    // Rapid reset (CVE-2023-44487).
    let mut rapid = Frames::open(server.address, &[]);
    let pairs = (0..5000).flat_map(|index| {
        let stream = 2 * index + 1;
        let reset = frame(RESET, 0, stream, &8u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &request(POST, "/faq")), reset].concat()
    });
    rapid.send(&pairs.collect::<Vec<_>>());
    let frames = rapid.until_end();
    assert!(
        frames.iter().any(|frame| frame.kind == GOAWAY && frame.error() == ENHANCE_YOUR_CALM),
        "{frames:?}"
    );
    assert!(Frames::open(server.address, &[]).answers(1));
}

#[test]
fn floods_of_small_frames_end_or_are_answered_and_nobody_else_notices() {
    let server = Server::start(&unhurried());
    for flood in [
        frame(PING, 0, 0, &[7; 8]).repeat(1000),
        frame(SETTINGS, 0, 0, &setting(4, 65_535)).repeat(1000),
        frame(WINDOW, 0, 0, &1u32.to_be_bytes()).repeat(1000),
    ] {
        let mut flooding = Frames::open(server.address, &[]);
        flooding.0.set_write_timeout(Some(SHORT / 4)).unwrap();
        for _ in 0..200 {
            if !flooding.send(&flood) {
                break;
            }
        }
        assert!(Frames::open(server.address, &[]).answers(1));
    }
    // A body a byte a frame, more of them than are worth their overhead.
    let mut tiny = Frames::open(server.address, &[]);
    tiny.send(&frame(HEADERS, END_HEADERS, 1, &request(POST, "/faq")));
    let body = frame(DATA, 0, 1, b" ").repeat(10_000);
    let mut sent = 0;
    while sent < 400 && tiny.send(&body) {
        sent += 1;
    }
    let frames = tiny.until_end();
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY || frame.kind == RESET || frame.kind == HEADERS));
    assert!(Frames::open(server.address, &[]).answers(1));
}

/// The real binary with questions on a free port, behind `limit`, a shell's command; its log is read line by line.
struct Binary {
    child: Child,
    address: SocketAddr,
    log: Receiver<Value>,
}

impl Binary {
    fn start(limit: &str, flags: &[&str]) -> Self {
        let model = config().faq.unwrap().model;
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_convoy")])
            .args(["serve", "--services", "faq", "--bind", "127.0.0.1:0", "--faq-model"])
            .arg(model)
            .args(flags)
            .env("CONVOY_LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _nobody_reads_on =
                    sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        let mut binary = Self { child, address: "0.0.0.0:0".parse().unwrap(), log };
        let serving = binary.until("serving");
        binary.address = serving["address"].as_str().unwrap().parse().unwrap();
        binary
    }

    /// The next line whose message begins with `message`.
    fn until(&self, message: &str) -> Value {
        self.until_any(&[message])
    }

    /// The next line whose message begins with one of `messages`.
    fn until_any(&self, messages: &[&str]) -> Value {
        let next =
            || self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line begins with {messages:?}"));
        std::iter::repeat_with(next).find(|line| messages.iter().any(|message| said(line, message))).unwrap()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it; what it logged until then.
    fn stop(mut self) -> Vec<Value> {
        self.signal("-INT");
        assert!(self.child.wait().unwrap().success());
        std::iter::from_fn(|| self.log.recv_timeout(PATIENCE).ok()).collect()
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn said(line: &Value, message: &str) -> bool {
    line["message"].as_str().is_some_and(|text| text.starts_with(message))
}

#[test]
fn files_run_out_and_requests_in_hand_are_answered_and_others_soon() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml");
    let new_key = |name: &str| {
        let made = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .args(["keys", "new", name, "--scope", "score", "--file", keys.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let key = new_key("old");
    let server = Binary::start(
        "ulimit -n 64",
        &[
            "--keys",
            keys.to_str().unwrap(),
            "--reload-interval-ms",
            "3600000",
            "--read-timeout-ms",
            "600000",
            "--body-stall-ms",
            "3600000",
            "--deadline-ms",
            "300000",
        ],
    );
    // More than there are files for; each that comes in costs one that waits its place.
    let crowd: Vec<_> = (0..300).map(|_| connect(server.address)).collect();
    server.until("a connection could not be accepted");
    assert_eq!(ask(&mut connect(server.address), "/livez"), 200, "while the files are out");
    // Requests in hand until nobody is left to make room, and one that waits.
    let header = format!("host: x\r\nexpect: 100-continue\r\nx-api-key: {key}");
    let begin = || {
        let mut stream = connect(server.address);
        stream.write_all(BEGUN.replace("host: x", &header).as_bytes()).unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        let goes_on = stream.read_exact(&mut [0; 25]).is_ok();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (stream, goes_on)
    };
    let (mut held, mut keys_made) = (Vec::new(), 1);
    let (second, mut waits) = loop {
        let mut waits = loop {
            match begin() {
                (stream, true) => held.push(stream),
                (stream, false) => break stream,
            }
            assert!(held.len() < 64);
        };
        // A file that cannot be read changes nothing. Where it could be, there was a file for who waited, too.
        let key = new_key(&format!("new{keys_made}"));
        keys_made += 1;
        server.signal("-HUP");
        let told = server.until_any(&["not reloaded, what was there before stays", "reloaded: keys"]);
        if let Some(error) = told["error"].as_str() {
            assert!(error.contains("Too many open files"), "{told}");
            break (key, waits);
        }
        waits.read_exact(&mut [0; 25]).unwrap();
        held.push(waits);
    };
    for mut stream in held {
        stream.write_all(&REST.as_bytes()[..1]).unwrap();
        finish(stream);
    }
    waits.read_exact(&mut [0; 25]).unwrap();
    waits.write_all(&REST.as_bytes()[..1]).unwrap();
    finish(waits);
    drop(crowd);
    let asked = |key: &str| {
        let mut stream = connect(server.address);
        stream
            .write_all(format!("GET /version HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n").as_bytes())
            .unwrap();
        status(&answer(&mut stream).0)
    };
    assert_eq!((asked(&key), asked(&second)), (200, 401));
    server.signal("-HUP");
    server.until(&format!("reloaded: keys: {keys_made}"));
    assert_eq!((asked(&key), asked(&second)), (200, 200));
    let refusals = server.stop().iter().filter(|line| said(line, "a connection could not be")).count();
    assert!(refusals <= 40, "{refusals} lines of it in less than two minutes");
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_and_a_low_one_is_told_of() {
    let server = Binary::start("ulimit -Sn 64", &["--max-connections", "500"]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(soft >= 500 + 1 + 256, "{line}");
    // The address is taken, so that the second ends by itself.
    let mut warned = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_convoy")])
        .args(["serve", "--services", "faq", "--bind", &server.address.to_string(), "--faq-model"])
        .arg(config().faq.unwrap().model)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    warned.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    warned.wait().unwrap();
    assert!(text.contains("fewer open files are allowed") && text.contains("LimitNOFILE"), "{text}");
    server.stop();
}

#[test]
fn nobody_fills_the_disk_with_log_lines() {
    let server = Binary::start("true", &[]);
    let mut stream = connect(server.address);
    for _ in 0..500 {
        let late = BEGUN.replace("host: x", "host: x\r\ngrpc-timeout: 1n");
        stream.write_all(format!("{late}{REST}").as_bytes()).unwrap();
        assert_eq!(status(&answer(&mut stream).0), 504);
    }
    drop(stream);
    let lines = server.stop();
    let failures = lines.iter().filter(|line| said(line, "request failed")).count();
    assert_eq!(failures, 20, "{lines:?}");
}
