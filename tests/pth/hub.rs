//! A hub on a free port that answers as a test scripts it: whole, cut, stalled, slow or not at all. One thread a
//! connection, one request a connection.

#![allow(unreachable_pub, reason = "a module of a test binary")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }
}

/// How the connection ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    /// Stays open until the hub goes.
    Stall,
}

/// What the hub does with a request.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: usize,
    send: usize,
    end: End,
    pieces: usize,
    pause: Duration,
    silent: bool,
}

impl Reply {
    pub fn owned(body: Vec<u8>) -> Self {
        let length = body.len();
        Self {
            status: 200,
            headers: Vec::new(),
            body,
            length,
            send: length,
            end: End::Close,
            pieces: 1,
            pause: Duration::ZERO,
            silent: false,
        }
    }

    pub fn ok(body: &[u8]) -> Self {
        Self::owned(body.to_vec())
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok(b"no") }
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("Location", location)
    }

    /// Takes the request and says nothing.
    pub fn silence() -> Self {
        Self { silent: true, ..Self::ok(b"") }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Announces another length.
    pub fn length(self, length: usize) -> Self {
        Self { length, ..self }
    }

    /// Closes the connection after so many bytes of the body.
    pub fn close_after(self, send: usize) -> Self {
        Self { send, ..self }
    }

    /// Sends no more after so many bytes of the body and leaves the connection open.
    pub fn stall_after(self, send: usize) -> Self {
        Self { send, end: End::Stall, ..self }
    }

    /// Sends the body in `pieces`, with a pause before each.
    pub fn pause(self, pieces: usize, pause: Duration) -> Self {
        Self { pieces, pause, ..self }
    }
}

/// `file`, or the part of it that the request asks for.
pub fn serve_file(request: &Request, file: &[u8]) -> Reply {
    let range = request.header("range");
    let start = range.as_deref().map(|range| {
        let start =
            range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).expect("an open range");
        start.parse::<usize>().expect("a number")
    });
    let total = file.len();
    match start {
        None => Reply::ok(file),
        Some(start) if start >= total => {
            Reply { status: 416, ..Reply::ok(b"") }.header("Content-Range", &format!("bytes */{total}"))
        }
        Some(start) => Reply { status: 206, ..Reply::ok(&file[start..]) }
            .header("Content-Range", &format!("bytes {start}-{}/{total}", total - 1)),
    }
}

type Script = dyn Fn(usize, &Request) -> Reply + Send + Sync;

/// Everything the threads share.
struct Shared {
    script: Box<Script>,
    requests: Mutex<Vec<Request>>,
    gone: Mutex<bool>,
    going: Condvar,
}

/// A running hub; stalled connections end when it is dropped.
pub struct Hub {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Hub {
    /// Starts a hub; `script` is given the number of the request and the request.
    pub fn start(script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            gone: Mutex::default(),
            going: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if *for_thread.gone.lock().expect("no panic") {
                    return;
                }
                let shared = Arc::clone(&for_thread);
                // A client that went away is not the hub's concern.
                thread::spawn(move || stream.and_then(|stream| answer(&shared, stream)));
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// The range that each request asked for.
    pub fn ranges(&self) -> Vec<Option<String>> {
        self.requests().iter().map(|request| request.header("range")).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        *self.shared.gone.lock().expect("no panic") = true;
        self.shared.going.notify_all();
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

fn answer(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let request = read(&stream)?;
    let number = {
        let mut requests = shared.requests.lock().expect("no panic");
        requests.push(request.clone());
        requests.len() - 1
    };
    let reply = (shared.script)(number, &request);
    if !reply.silent {
        write(&mut stream, &reply)?;
    }
    if reply.silent || matches!(reply.end, End::Stall) {
        let gone = shared.gone.lock().expect("no panic");
        drop(shared.going.wait_while(gone, |gone| !*gone).expect("no panic"));
    }
    Ok(())
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next().unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Ok(Request { path, headers })
}

fn write(stream: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\nContent-Length: {}\r\n", reply.status, reply.length);
    reply.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let body = &reply.body[..reply.send.min(reply.body.len())];
    for piece in body.chunks(body.len().div_ceil(reply.pieces).max(1)) {
        thread::sleep(reply.pause);
        stream.write_all(piece)?;
        stream.flush()?;
    }
    Ok(())
}
