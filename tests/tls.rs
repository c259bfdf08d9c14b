//! TLS as clients meet it: versions and ciphers one by one, ALPN, certificates that change under open connections, handshakes
//! that come to nothing, gRPC. Certificates are made here.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use convoy::{
    app::App,
    config::{Config, IngressConfig, TlsConfig},
    grpc::proto::{ServerLiveRequest, ServerLiveResponse},
    http::{Ended, Shutdown},
};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use support::{Server, config, metric};
use tempfile::TempDir;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned,
        SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
        version::{TLS12, TLS13},
    },
};

/// 2030-01-01T00:00:00Z.
const EXPIRY: f64 = 1_893_456_000.0;

/// A certificate for `localhost` and the files that a server has it from.
struct Identity {
    _folder: TempDir,
    files: TlsConfig,
}

impl Identity {
    fn new() -> (Self, CertificateDer<'static>) {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsConfig { cert: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        let identity = Self { files, _folder: folder };
        let certificate = identity.renew();
        (identity, certificate)
    }

    /// Another certificate in the same files.
    fn renew(&self) -> CertificateDer<'static> {
        let (certificate, cert, key) = certificate();
        replace(&self.files.cert, &cert);
        replace(&self.files.key, &key);
        certificate
    }
}

fn certificate() -> (CertificateDer<'static>, String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), certificate.pem(), key.serialize_pem())
}

fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, path).unwrap();
}

/// Questions only, over TLS on both ports, in the clear for operators.
fn over_tls(identity: &Identity) -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let ingress = IngressConfig {
        tls: Some(identity.files.clone()),
        ops_bind: Some(any),
        reload_interval: Duration::from_millis(20),
        ..IngressConfig::default()
    };
    Config { photos: None, grpc_bind: Some(any), ingress, ..config() }
}

fn metrics(server: &Server) -> String {
    let mut stream = TcpStream::connect(server.ops.unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn failures(server: &Server, reason: &str) -> f64 {
    metric(&metrics(server), &format!("convoy_tls_handshake_failures_total{{reason=\"{reason}\"}}"))
}

fn client(
    trusted: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Stream> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// A request on a connection that stays open, and the status of its answer.
fn get(stream: &mut Stream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head.lines().next().unwrap().to_owned()
}

#[test]
fn versions_1_2_and_1_3_are_spoken_and_http2_is_preferred() {
    let (identity, trusted) = Identity::new();
    let server = Server::start(&over_tls(&identity));
    for (version, spoken) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let mut stream = connect(server.address, client(&trusted, &[version], &["http/1.1"])).unwrap();
        assert_eq!(get(&mut stream, "/livez"), "HTTP/1.1 200 OK");
        assert_eq!(stream.conn.protocol_version(), Some(spoken));
        assert_eq!(get(&mut stream, "/readyz"), "HTTP/1.1 200 OK");
    }
    let agreed = |address, protocols: &[&str]| {
        let stream = connect(address, client(&trusted, &[&TLS13], protocols));
        stream
            .map(|stream| stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    assert_eq!(agreed(server.address, &["http/1.1", "h2"]).unwrap().as_deref(), Some("h2"));
    assert_eq!(agreed(server.address, &["http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(agreed(server.address, &[]).unwrap(), None);
    assert_eq!(agreed(server.grpc.unwrap(), &["h2"]).unwrap().as_deref(), Some("h2"));
    assert!(agreed(server.grpc.unwrap(), &["http/1.1"]).is_err(), "gRPC is HTTP/2");
    assert_eq!(metric(&metrics(&server), "convoy_tls_certificate_expiry_seconds"), EXPIRY);
}

/// What a server makes of a first message.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// It agrees on this cipher.
    Hello(u16),
    /// It refuses with this alert (RFC 8446, section 6).
    Alert(u8),
}

/// Says hello as a client of its own making: one version, one cipher, nothing that a library would hold back.
fn hello(address: SocketAddr, version: u16, cipher: u16) -> Heard {
    let modern = version == 0x0304;
    let with_length = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    let extension = |kind: u16, body: Vec<u8>| [&kind.to_be_bytes()[..], &with_length(body)].concat();
    let mut extensions = [
        extension(10, with_length(vec![0x00, 0x1d, 0x00, 0x17])),
        extension(11, vec![1, 0]),
        extension(13, with_length(vec![4, 3, 8, 4, 4, 1, 5, 3, 6, 3, 2, 3, 2, 1])),
    ]
    .concat();
    if modern {
        extensions.extend(extension(43, vec![2, 3, 4]));
        let share = [&[0x00, 0x1d][..], &with_length(vec![9; 32])].concat();
        extensions.extend(extension(51, with_length(share)));
    }
    let spoken = if modern { 0x0303 } else { version };
    let body = [
        &spoken.to_be_bytes()[..],
        &[7; 32],
        &[0],
        &with_length(cipher.to_be_bytes().to_vec()),
        &[1, 0],
        &with_length(extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat();
    let record = [&[22, 3, 1][..], &with_length(message)].concat();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&record).unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut body).unwrap();
    match head[0] {
        // After the message's kind, its length, the version, the random bits and an echoed session of its own length.
        22 => {
            let at = 39 + usize::from(body[38]);
            Heard::Hello(u16::from_be_bytes([body[at], body[at + 1]]))
        }
        _ => Heard::Alert(body[1]),
    }
}

#[test]
fn old_versions_are_refused_and_exactly_the_documented_ciphers_are_spoken() {
    let (identity, _) = Identity::new();
    let server = Server::start(&over_tls(&identity));
    let (handshake_failure, protocol_version) = (40, 70);
    for port in [server.address, server.grpc.unwrap()] {
        for version in [0x0300, 0x0301, 0x0302] {
            for cipher in [0xc02b, 0xc009, 0x002f] {
                assert_eq!(hello(port, version, cipher), Heard::Alert(protocol_version), "{version:04x}");
            }
        }
    }
    let spoken = |version, ciphers: &mut dyn Iterator<Item = u16>| {
        let mut spoken = Vec::new();
        for cipher in ciphers {
            match hello(server.address, version, cipher) {
                Heard::Hello(agreed) => {
                    assert_eq!(agreed, cipher);
                    spoken.push(cipher);
                }
                alert => assert_eq!(alert, Heard::Alert(handshake_failure), "{cipher:04x}"),
            }
        }
        spoken
    };
    // The ranges that suites of TLS 1.2 have their numbers from, NULL, EXPORT, RC4, 3DES and CBC among them.
    let mut known = (0x0000..=0x00ff).chain(0xc000..=0xc0ff).chain(0xcc13..=0xcc15).chain(0xcca8..=0xccae);
    // ECDHE-ECDSA with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305; the certificate here is no RSA one.
    assert_eq!(spoken(0x0303, &mut known), [0xc02b, 0xc02c, 0xcca9]);
    assert_eq!(spoken(0x0304, &mut (0x1301..=0x1307)), [0x1301, 0x1302, 0x1303]);
    assert!(failures(&server, "refused") > 400.0);
}

#[test]
fn a_new_certificate_is_presented_while_open_connections_go_on() {
    let (identity, old) = Identity::new();
    let server = Server::start(&over_tls(&identity));
    let mut open = connect(server.address, client(&old, &[&TLS13], &["http/1.1"])).unwrap();
    assert_eq!(get(&mut open, "/livez"), "HTTP/1.1 200 OK");
    let new = identity.renew();
    let end = Instant::now() + Duration::from_secs(20);
    while connect(server.address, client(&new, &[&TLS13], &[])).is_err() {
        assert!(Instant::now() < end, "the new certificate is not presented in 20 s");
    }
    assert!(connect(server.address, client(&old, &[&TLS13], &[])).is_err(), "the old one is not any more");
    assert!(connect(server.grpc.unwrap(), client(&new, &[&TLS13], &["h2"])).is_ok(), "on either port");
    assert_eq!(get(&mut open, "/livez"), "HTTP/1.1 200 OK", "a connection from before goes on");
}

#[test]
fn a_pair_that_cannot_be_used_leaves_the_old_one() {
    let (identity, trusted) = Identity::new();
    let server = Server::start(&over_tls(&identity));
    let failed = || metric(&metrics(&server), "convoy_reload_failures_total{what=\"tls\"}");
    let (_, cert, _) = certificate();
    for (times, file, text) in [
        (1.0, &identity.files.cert, cert.as_str()),
        (2.0, &identity.files.cert, "nothing"),
        (3.0, &identity.files.key, ""),
    ] {
        replace(file, text);
        let end = Instant::now() + Duration::from_secs(20);
        while failed() != times {
            assert!(Instant::now() < end, "{times}");
        }
        assert!(connect(server.address, client(&trusted, &[&TLS13], &[])).is_ok(), "{times}");
    }
    let renewed = identity.renew();
    let end = Instant::now() + Duration::from_secs(20);
    while connect(server.address, client(&renewed, &[&TLS13], &[])).is_err() {
        assert!(Instant::now() < end, "a good pair takes over after bad ones");
    }
}

#[test]
fn a_server_does_not_start_with_a_pair_that_cannot_be_used() {
    let (identity, _) = Identity::new();
    let (good_cert, good_key) =
        (fs::read_to_string(&identity.files.cert).unwrap(), fs::read_to_string(&identity.files.key).unwrap());
    let (_, other_cert, _) = certificate();
    let damaged = good_cert.replacen("MII", "", 1);
    for (cert, key, parts) in [
        ("", good_key.as_str(), &["tls.crt", "no certificate"][..]),
        (good_cert.as_str(), "", &["tls.key", "no private key"]),
        (good_cert.as_str(), good_cert.as_str(), &["tls.key", "no private key"]),
        (damaged.as_str(), good_key.as_str(), &["tls.crt", "cannot be read"]),
        (other_cert.as_str(), good_key.as_str(), &["tls.key", "does not belong", "tls.crt"]),
    ] {
        replace(&identity.files.cert, cert);
        replace(&identity.files.key, key);
        let error = format!("{:#}", App::build(&over_tls(&identity)).err().unwrap());
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} in {error}");
        assert!(!error.contains("BEGIN") && !error.contains(&good_key[40..80]), "{error}");
    }
}

#[test]
fn who_speaks_no_tls_is_closed_cleanly_and_who_says_nothing_is_cut() {
    let (identity, trusted) = Identity::new();
    let mut settings = over_tls(&identity);
    settings.http.read_timeout = Duration::from_secs(3);
    let server = Server::start(&settings);
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let mut stream = connect(server.address, client(&trusted, &[&TLS13], &["http/1.1"])).unwrap();
    assert_eq!(get(&mut stream, "/livez"), "HTTP/1.1 200 OK", "nobody waits for those who say nothing");
    let mut plain = TcpStream::connect(server.address).unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).expect("an end rather than a reset");
    assert_eq!(answer, b"");
    for mut socket in silent {
        let started = Instant::now();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _end_or_reset = socket.read(&mut [0]);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    drop(TcpStream::connect(server.address).unwrap());
    let end = Instant::now() + Duration::from_secs(20);
    while (failures(&server, "timeout"), failures(&server, "closed")) != (40.0, 1.0) {
        assert!(Instant::now() < end, "{}", metrics(&server));
    }
    assert_eq!(failures(&server, "not_tls"), 1.0);
}

#[test]
fn the_drain_waits_for_no_handshake() {
    let (identity, _) = Identity::new();
    let mut settings = over_tls(&identity);
    (settings.http.read_timeout, settings.http.grace) = (Duration::from_secs(300), Duration::from_secs(300));
    let mut server = Server::start(&settings);
    let silent = TcpStream::connect(server.address).unwrap();
    let open = "convoy_http_connections";
    while metric(&metrics(&server), open) < 2.0 {}
    server.ask_to_stop(Shutdown::Immediate);
    assert_eq!(server.join(), Some(Ended::Drained));
    drop(silent);
}

#[test]
fn an_answer_in_the_middle_of_a_body_arrives_with_its_end() {
    let (identity, trusted) = Identity::new();
    let mut settings = over_tls(&identity);
    settings.http.max_body = 64 << 10;
    let server = Server::start(&settings);
    let mut stream = connect(server.address, client(&trusted, &[&TLS13], &["http/1.1"])).unwrap();
    let head =
        "POST /faq HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..30 {
        let _closed_when_it_has_seen_enough = stream.write_all(&[b' '; 100_000]);
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the end is TLS's own, not a cut");
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn grpc_is_spoken_over_tls() {
    let (identity, trusted) = Identity::new();
    let server = Server::start(&over_tls(&identity));
    let socket = tokio::net::TcpStream::connect(server.grpc.unwrap()).await.unwrap();
    let connector = TlsConnector::from(client(&trusted, &[&TLS13, &TLS12], &["h2"]));
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let message = ServerLiveRequest {}.encode_to_vec();
    let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let request = hyper::Request::post("https://localhost/inference.GRPCInferenceService/ServerLive")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))
        .unwrap();
    let answered = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answered.trailers().unwrap()["grpc-status"], "0");
    let body = answered.to_bytes();
    assert!(ServerLiveResponse::decode(&body[5..]).unwrap().live);
}

#[test]
fn a_hangup_reloads_the_certificate_of_the_binary_at_once() {
    let (identity, old) = Identity::new();
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let mut child = Command::new(env!("CARGO_BIN_EXE_convoy"))
        .args(["serve", "--services", "faq", "--bind", "127.0.0.1:0", "--reload-interval-ms", "3600000"])
        .args(["--faq-model", &path(&config().faq.unwrap().model)])
        .args(["--tls-cert", &path(&identity.files.cert), "--tls-key", &path(&identity.files.key)])
        .env("CONVOY_LOG_FORMAT", "json")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut until = |message: &str| -> Value {
        let lines = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let mut found =
            lines.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message)));
        found.next().unwrap()
    };
    assert!(until("loaded: the certificate is valid until 2030-01-01T00:00:00Z")["what"] == "tls");
    let address: SocketAddr = until("serving")["address"].as_str().unwrap().parse().unwrap();
    assert!(connect(address, client(&old, &[&TLS13], &[])).is_ok());
    let new = identity.renew();
    assert!(connect(address, client(&old, &[&TLS13], &[])).is_ok(), "nobody has looked yet");
    let kill = |signal: &str| {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    };
    kill("-HUP");
    until("reloaded: the certificate");
    assert!(connect(address, client(&new, &[&TLS13], &[])).is_ok());
    kill("-INT");
    // To the end, so that the last lines find somebody who reads them.
    assert!(lines.all(|line| line.is_ok()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn one_asks_whether_the_own_server_is_ready_over_tls_and_trusts_no_other() {
    let (identity, _) = Identity::new();
    let server = Server::start(&over_tls(&identity));
    let ask = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_convoy")).arg("ready").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (address, operators) = (server.address.to_string(), server.ops.unwrap().to_string());
    let cert = identity.files.cert.to_str().unwrap();
    let own = ["--bind", &address, "--tls-cert", cert];
    assert_eq!(ask(&own), (Some(0), String::new()));
    assert_eq!(ask(&[&own[..], &["--ops-bind", &operators]].concat()), (Some(0), String::new()));
    let (code, said) = ask(&[&format!("https://localhost:{}", server.address.port())]);
    assert!(code == Some(1) && said.contains("does not answer"), "{said}");
    let (code, said) = ask(&["--bind", &address]);
    assert!(code == Some(1) && said.contains("does not answer"), "{said}");
}
