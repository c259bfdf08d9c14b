//! The real binary with everything on, and bytes sent to its ports.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{requests::Place, support::config, tokens};

/// How it runs.
pub struct Options<'a> {
    pub format: &'a str,
    pub keys: Option<&'a Path>,
    pub jwks: Option<&'a Path>,
    pub collector: Option<&'a str>,
}

/// A server in a process of its own; its log is gathered to the end.
pub struct Process {
    child: Child,
    log: Option<JoinHandle<String>>,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
}

impl Process {
    pub fn start(options: &Options<'_>, more: &[(&str, &str)]) -> Self {
        let settings = config();
        let mut command = Command::new(env!("CARGO_BIN_EXE_convoy"));
        command
            .args([
                "serve",
                "--bind",
                "127.0.0.1:0",
                "--grpc-bind",
                "127.0.0.1:0",
                "--ops-bind",
                "127.0.0.1:0",
            ])
            .args(["--lame-duck-ms", "0", "--read-timeout-ms", "2000", "--trace-sample", "1", "--admin"])
            .args(["--log", "trace", "--log-format", options.format, "--cors-origin", "https://app.example"])
            .arg("--weights")
            .arg(settings.photos.unwrap().classifier.weights)
            .arg("--faq-model")
            .arg(settings.faq.unwrap().model);
        if let Some(keys) = options.keys {
            command.arg("--keys").arg(keys);
        }
        if let Some(jwks) = options.jwks {
            command.args([
                "--oidc-issuer",
                tokens::ISSUER,
                "--oidc-audience",
                tokens::AUDIENCE,
                "--oidc-jwks",
            ]);
            command.arg(jwks);
        }
        if let Some(url) = options.collector {
            command.args(["--otlp-endpoint", url]);
        }
        let mut child = command.envs(more.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (bound, addresses) = mpsc::channel();
        let log = thread::spawn(move || {
            let (mut all, mut line) = (Vec::new(), Vec::new());
            while log.read_until(b'\n', &mut line).unwrap() > 0 {
                if let Some(address) = address(&String::from_utf8_lossy(&line)) {
                    let _the_test_has_all = bound.send(address);
                }
                all.append(&mut line);
            }
            String::from_utf8(all).expect("a log that is UTF-8")
        });
        let [http, grpc, ops] = [(); 3]
            .map(|()| addresses.recv_timeout(Duration::from_secs(60)).expect("it serves within a minute"));
        Self { child, log: Some(log), http, grpc, ops }
    }

    pub fn address(&self, place: Place) -> SocketAddr {
        match place {
            Place::Http => self.http,
            Place::Grpc => self.grpc,
        }
    }

    /// Ends it as an orchestrator does; everything it has logged.
    pub fn stop(mut self) -> String {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(asked.success());
        let ended = self.child.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        assert!(ended.success(), "{ended}: {log}");
        log
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _gone_already = self.child.wait();
    }
}

/// The address in a line that says `serving`, in either format.
fn address(line: &str) -> Option<SocketAddr> {
    let rest = line.contains("serving").then(|| line.split("address").nth(1)).flatten()?;
    rest.trim_start_matches(['=', '"', ':']).split(['"', ' ', '\n']).next()?.parse().ok()
}

/// Sends `bytes`; what comes back until the server closes or, over HTTP/2, has answered.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A server that has seen enough closes before everything is sent.
    let _closed_by_the_server = stream.write_all(bytes);
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        answer.extend(&buffer[..length]);
        if bytes.starts_with(b"PRI ") && is_answered(&answer) {
            break;
        }
    }
    answer
}

/// Sends `bytes` and hangs up; what comes back all the same.
pub fn throw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    if stream.write_all(bytes).is_ok() {
        let _closed_by_the_server = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _reset_after_the_answer = stream.read_to_end(&mut answer);
    answer
}

/// Whether the server has ended the stream or the connection.
fn is_answered(mut frames: &[u8]) -> bool {
    while let Some((&[high, middle, low, kind, flags, ..], rest)) = frames.split_at_checked(9) {
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let ends_stream = matches!(kind, 0 | 1) && flags & 1 == 1;
        if ends_stream || matches!(kind, 3 | 7) {
            return true;
        }
        let Some(more) = rest.get(length..) else { return false };
        frames = more;
    }
    false
}
