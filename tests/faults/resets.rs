//! Clients that reset their connection after any number of bytes of a good request, over HTTP/1, HTTP/2, gRPC and TLS:
//! real clients behind a wire that is cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use convoy::{
    config::{Config, IngressConfig, TlsConfig},
    grpc::proto::{ModelInferRequest, ModelInferResponse},
};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use crate::{
    journal,
    support::{Server, config, infer_question, metric, photo},
};

/// Bytes from the client after which every single one is tried; beyond them steps are.
const EACH: usize = 700;
const STEPS: usize = 60;

/// Carries one connection to `server` and resets it once `cut` bytes have gone there; how many went. Whoever tries again is
/// refused.
async fn wire(listener: TcpListener, server: SocketAddr, cut: usize) -> usize {
    let (mut client, _) = listener.accept().await.unwrap();
    drop(listener);
    let mut upstream = TcpStream::connect(server).await.unwrap();
    upstream.set_zero_linger().unwrap();
    let carried = AtomicUsize::new(0);
    let (mut from, mut to) = client.split();
    let (mut back, mut forth) = upstream.split();
    let there = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let left = cut - carried.load(Ordering::Relaxed);
            let most = left.min(buffer.len());
            if most == 0 {
                return;
            }
            let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else { return };
            if forth.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            carried.fetch_add(count, Ordering::Relaxed);
        }
    };
    let here = async {
        let _over = tokio::io::copy(&mut back, &mut to).await;
    };
    tokio::select! { () = there => {}, () = here => {} }
    carried.load(Ordering::Relaxed)
}

/// What a client makes of a connection to an address: the essence of its answer, if it gets one.
type Request = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, Option<Value>> + Send + Sync>;

fn http(http2: bool, path: &'static str, json: bool, body: Vec<u8>) -> Request {
    Arc::new(move |address| {
        let body = body.clone();
        Box::pin(async move {
            let client = Client::builder().no_proxy();
            let client = if http2 { client.http2_prior_knowledge() } else { client.http1_only() };
            let request = client.build().unwrap().post(format!("http://{address}{path}")).body(body);
            let request = if json { request.header("content-type", "application/json") } else { request };
            let answer: Value = request.send().await.ok()?.json().await.ok()?;
            Some(json!([answer["predictions"], answer["matches"]]))
        })
    })
}

fn grpc() -> Request {
    Arc::new(|address| {
        Box::pin(async move {
            let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.ok()?;
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready().await.ok()?;
            let request = infer_question("how do I sort an array");
            let codec: ProstCodec<ModelInferRequest, ModelInferResponse> = ProstCodec::default();
            let path = "/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
            let answer = grpc.unary(tonic::Request::new(request), path, codec).await.ok()?.into_inner();
            Some(json!(format!("{:?}", answer.raw_output_contents)))
        })
    })
}

fn tls(trusted: &CertificateDer<'static>) -> Request {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    Arc::new(move |address| {
        let connector = connector.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await.ok()?;
            let name = ServerName::try_from("localhost").unwrap();
            let stream = connector.connect(name, stream).await.ok()?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            let request = hyper::Request::post("/faq")
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(question())))
                .unwrap();
            let answer = sender.send_request(request).await.ok()?;
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            let answer: Value = serde_json::from_slice(&body).ok()?;
            Some(json!([answer["predictions"], answer["matches"]]))
        })
    })
}

fn question() -> Vec<u8> {
    json!({"question": "how do I sort an array", "top": 1}).to_string().into_bytes()
}

/// Cuts after every byte of a request; then everything is as before.
async fn cut_everywhere(what: &str, server: &Server, address: SocketAddr, request: Request) {
    let attempt = async |cut: usize| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        tokio::join!(wire(listener, address, cut), request(here))
    };
    let started = Instant::now();
    let (total, right) = attempt(usize::MAX).await;
    let right = right.expect("an uncut request is answered");
    let cuts = (0..total.min(EACH)).chain((EACH..total).step_by((total / STEPS).max(1)));
    let (mut tried, mut answered) = (0, 0);
    for cut in cuts {
        let (_, answer) = attempt(cut).await;
        tried += 1;
        if let Some(answer) = answer {
            // The end of a client's words may be more than the server needs: a window update, a farewell.
            assert_eq!(answer, right, "{what} cut after {cut} of {total} bytes");
            answered += 1;
        }
    }
    quiet(server).await;
    assert_eq!(attempt(usize::MAX).await.1.as_ref(), Some(&right), "{what}: the next one is answered");
    eprintln!(
        "| {what} | {tried} of {total} bytes | {answered} were answered all the same | {:.1?} |",
        started.elapsed()
    );
}

/// Waits until no seat is taken and no connection but the one that asks is open.
async fn quiet(server: &Server) {
    let started = Instant::now();
    loop {
        // A client of its own, whose connection is the only one that may be there.
        let address = server.ops.unwrap_or(server.address);
        let text = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
        let queues =
            ["decode", "classify", "faq"].map(|queue| format!("convoy_queue_depth{{queue=\"{queue}\"}}"));
        let served = |name: &&String| text.contains(name.as_str());
        let depths: f64 = queues.iter().filter(served).map(|queue| metric(&text, queue)).sum();
        if depths == 0.0 && metric(&text, "convoy_http_connections") <= 1.0 {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "a seat or a connection is left behind: {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Warnings and errors of what handles connections, save those of requests that other tests of this process make fail.
fn complaints(since: usize) -> Vec<String> {
    let loud = |line: &String| line.contains("ERROR") || line.contains("WARN");
    let own =
        |line: &String| ["convoy::server", "convoy::http", "convoy::grpc"].iter().any(|at| line.contains(at));
    let cut = |line: &String| !line.contains("request failed");
    journal::lines().into_iter().skip(since).filter(loud).filter(own).filter(cut).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_at_any_byte_leaves_nothing_behind() {
    journal::keep();
    let since = journal::lines().len();
    let server = Server::start(&Config { grpc_bind: Some("127.0.0.1:0".parse().unwrap()), ..config() });
    let (http1, rpc) = (server.address, server.grpc.unwrap());
    cut_everywhere("HTTP/1 POST /faq", &server, http1, http(false, "/faq", true, question())).await;
    cut_everywhere("HTTP/1 POST /classify", &server, http1, http(false, "/classify", false, photo(1))).await;
    cut_everywhere("HTTP/2 POST /faq", &server, http1, http(true, "/faq", true, question())).await;
    cut_everywhere("HTTP/2 POST /classify", &server, http1, http(true, "/classify", false, photo(1))).await;
    cut_everywhere("gRPC ModelInfer", &server, rpc, grpc()).await;
    assert_eq!(complaints(since), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_under_tls() {
    journal::keep();
    let since = journal::lines().len();
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = TlsConfig { cert: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
    std::fs::write(&files.cert, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    let ops_bind = Some("127.0.0.1:0".parse().unwrap());
    let ingress = IngressConfig { tls: Some(files), ops_bind, ..IngressConfig::default() };
    let server = Server::start(&Config { photos: None, ingress, ..config() });
    cut_everywhere("TLS, HTTP/1 POST /faq", &server, server.address, tls(certificate.der())).await;
    assert_eq!(complaints(since), [""; 0]);
}
