//! A collector of traces: OTLP over HTTP, decoded with the messages of OpenTelemetry's own crate.

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, sync::mpsc};

/// What a message said of its process, its headers, and its spans.
pub struct Received {
    pub head: HeaderMap,
    pub path: String,
    pub resource: HashMap<String, Value>,
    pub spans: Vec<Span>,
}

/// Listens on a free port and passes on what it gets.
pub struct Collector {
    pub address: SocketAddr,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Collector {
    /// Answers every message with 200.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                let service = service_fn(move |request| take(request, sender.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, received }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next message.
    pub async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(Duration::from_secs(20), self.received.recv()).await;
        next.expect("no traces within 20 s").unwrap()
    }

    /// Spans up to and with the first that the server itself made and that is called `name`, and its children.
    pub async fn until(&mut self, name: &str) -> Vec<Span> {
        let mut spans = Vec::new();
        while !spans.iter().any(|span: &Span| span.name == name) {
            spans.extend(self.next().await.spans);
        }
        spans
    }

    /// Whether anything has come that nobody has looked at.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }
}

async fn take(
    request: Request<Incoming>,
    sender: mpsc::UnboundedSender<Received>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let message = ExportTraceServiceRequest::decode(bytes).unwrap();
    for one in message.resource_spans {
        let received = Received {
            head: head.headers.clone(),
            path: head.uri.path().to_owned(),
            resource: attributes(&one.resource.unwrap().attributes),
            spans: one.scope_spans.into_iter().flat_map(|scope| scope.spans).collect(),
        };
        let _the_test_is_over = sender.send(received);
    }
    Ok(Response::new(Full::default()))
}

/// Attributes by name.
pub fn attributes(list: &[KeyValue]) -> HashMap<String, Value> {
    list.iter().map(|pair| (pair.key.clone(), pair.value.clone().unwrap().value.unwrap())).collect()
}

/// Bytes as digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
