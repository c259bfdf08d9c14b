//! Requests as a collector sees them.

use std::time::{Duration, Instant};

use convoy::{
    config::{CollectorConfig, Config, TraceConfig},
    grpc::proto::{ModelInferRequest, ModelInferResponse},
    http::{Ended, Shutdown},
};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpListener};
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::{
    collector::{Collector, attributes, hex},
    support::{Server, config, infer_question, metric, photo},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traced(url: &str, sample: f64) -> Config {
    let resource = vec![("service.name".to_owned(), "convoy".to_owned())];
    let headers = vec![("x-tenant".to_owned(), "7".to_owned())];
    let url = format!("{url}/v1/traces");
    let collector = Some(CollectorConfig { url, headers, resource });
    Config { trace: TraceConfig { collector, sample }, ..config() }
}

/// As a caller that records, or does not.
fn called(request: RequestBuilder, flags: &str) -> RequestBuilder {
    request.header("traceparent", format!("00-{TRACE}-{PARENT}-{flags}"))
}

fn text(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

/// The server's own span and its children.
fn split(spans: &[Span]) -> (&Span, Vec<&Span>) {
    let own = spans.iter().find(|span| span.kind() == SpanKind::Server).unwrap();
    (own, spans.iter().filter(|span| span.parent_span_id == own.span_id).collect())
}

fn assert_within(own: &Span, children: &[&Span]) {
    for child in children {
        assert_eq!(child.trace_id, own.trace_id);
        assert!(
            own.start_time_unix_nano <= child.start_time_unix_nano
                && child.start_time_unix_nano <= child.end_time_unix_nano
                && child.end_time_unix_nano <= own.end_time_unix_nano,
            "{child:?} is not within {own:?}"
        );
    }
}

#[tokio::test]
async fn a_photo_is_a_span_under_its_callers_with_its_stages_inside() {
    let mut collector = Collector::start().await;
    let server = Server::start(&traced(&collector.url(), 0.0));
    let before =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let request = Client::new().post(server.url("/classify?top=3")).body(photo(1));
    let answer = called(request, "01").header("tracestate", "vendor=x").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let received = collector.next().await;
    assert_eq!((received.path.as_str(), &received.head["x-tenant"]), ("/v1/traces", &"7".parse().unwrap()));
    assert_eq!(received.head["content-type"], "application/x-protobuf");
    assert_eq!(received.resource["service.name"], text("convoy"));

    let (own, children) = split(&received.spans);
    assert_eq!((hex(&own.trace_id).as_str(), hex(&own.parent_span_id).as_str()), (TRACE, PARENT));
    assert_eq!((own.name.as_str(), own.trace_state.as_str()), ("POST /classify", "vendor=x"));
    assert!(own.start_time_unix_nano >= before && own.status.is_none());
    let told = attributes(&own.attributes);
    assert_eq!(told["http.request.method"], text("POST"));
    assert_eq!(told["http.route"], text("/classify"));
    assert_eq!(told["url.path"], text("/classify"));
    assert_eq!(told["http.response.status_code"], Value::IntValue(200));
    assert!(!format!("{:?}", received.spans).contains("top=3"), "the query is the client's");

    let names = children.iter().map(|child| child.name.as_str()).filter(|name| *name != "batch-wait");
    assert_eq!(names.collect::<Vec<_>>(), ["read", "decode", "queue", "execute"]);
    assert_within(own, &children);
    assert!(children.is_sorted_by_key(|child| child.start_time_unix_nano));
    let execute = children.last().unwrap();
    assert_eq!(attributes(&execute.attributes)["convoy.batch.size"], Value::IntValue(1));
    assert!(
        execute.end_time_unix_nano - execute.start_time_unix_nano > 1_000_000,
        "a ResNet-18 takes longer"
    );
    assert_eq!(execute.kind(), SpanKind::Internal);
}

#[tokio::test]
async fn several_photos_have_their_stages_each() {
    let mut collector = Collector::start().await;
    let server = Server::start(&traced(&collector.url(), 1.0));
    let encode = |index| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, photo(index));
    let asked = json!({"input": {"a": encode(1), "b": encode(2), "c": encode(3)}});
    assert_eq!(Client::new().post(server.url("/score")).json(&asked).send().await.unwrap().status(), 200);
    let spans = collector.until("POST /score").await;
    let (own, children) = split(&spans);
    assert!(own.parent_span_id.is_empty(), "nobody called it");
    assert_within(own, &children);
    let executed: Vec<_> = children.iter().filter(|child| child.name == "execute").collect();
    let elements: Vec<_> =
        executed.iter().map(|child| attributes(&child.attributes)["convoy.element"].clone()).collect();
    assert_eq!(elements, [0, 1, 2].map(Value::IntValue));
}

#[tokio::test]
async fn callers_that_do_not_record_are_left_out_and_traces_begun_here_differ() {
    let mut collector = Collector::start().await;
    let server = Server::start(&traced(&collector.url(), 1.0));
    let client = Client::new();
    let ask = || client.post(server.url("/faq")).json(&json!({"question": "how to sort an array"}));
    assert_eq!(called(ask(), "00").send().await.unwrap().status(), 200);
    for path in ["/readyz", "/livez", "/metrics", "/v2/health/ready"] {
        client.get(server.url(path)).send().await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(ask().send().await.unwrap().status(), 200);
    }
    let mut spans = Vec::new();
    while spans.iter().filter(|span: &&Span| span.kind() == SpanKind::Server).count() < 2 {
        spans.extend(collector.next().await.spans);
    }
    let own: Vec<_> = spans.iter().filter(|span| span.kind() == SpanKind::Server).collect();
    assert!(own.iter().all(|span| span.name == "POST /faq"), "{own:?}");
    assert!(own.iter().all(|span| hex(&span.trace_id) != TRACE), "{own:?}");
    assert_ne!(own[0].trace_id, own[1].trace_id);
    let asked = spans.iter().filter(|span| span.parent_span_id == own[0].span_id);
    assert!(asked.map(|span| span.name.as_str()).any(|name| name == "execute"));
    server.end();
    assert!(collector.is_empty(), "the end of the server brought more");
}

#[tokio::test]
async fn failures_are_marked_and_refusals_are_not() {
    let mut collector = Collector::start().await;
    let server = Server::start(&traced(&collector.url(), 1.0));
    let client = Client::new();
    let hasty = client.post(server.url("/classify")).header("x-convoy-deadline-ms", "1").body(photo(1));
    assert_eq!(hasty.send().await.unwrap().status(), 504);
    let spans = collector.until("POST /classify").await;
    let (own, _) = split(&spans);
    assert_eq!(own.status.as_ref().map(|status| status.code()), Some(StatusCode::Error));
    assert_eq!(attributes(&own.attributes)["error.type"], text("504"));

    let secret = client.get(server.url("/nowhere/SECRET?key=SECRET")).send().await.unwrap();
    assert_eq!(secret.status(), 404);
    let spans = collector.until("GET").await;
    let (own, _) = split(&spans);
    assert!(own.status.is_none(), "404 is the client's");
    assert!(!format!("{spans:?}").contains("SECRET"));
}

#[tokio::test]
async fn grpc_calls_are_spans_in_the_words_of_rpc() {
    let mut collector = Collector::start().await;
    let mut settings = traced(&collector.url(), 0.0);
    settings.grpc_bind = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::start(&settings);
    let url = format!("http://{}", server.grpc.unwrap());
    let mut grpc = Grpc::new(Endpoint::from_shared(url).unwrap().connect().await.unwrap());
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(infer_question("how to sort an array"));
    let parent = format!("00-{TRACE}-{PARENT}-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    let path = "/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
    let codec: ProstCodec<ModelInferRequest, ModelInferResponse> = ProstCodec::default();
    grpc.unary(request, path, codec).await.unwrap();

    let spans = collector.until("inference.GRPCInferenceService/ModelInfer").await;
    let (own, children) = split(&spans);
    assert_eq!((hex(&own.trace_id).as_str(), hex(&own.parent_span_id).as_str()), (TRACE, PARENT));
    let told = attributes(&own.attributes);
    assert_eq!(told["rpc.system.name"], text("grpc"));
    assert_eq!(told["rpc.method"], text("inference.GRPCInferenceService/ModelInfer"));
    assert_eq!(told["rpc.response.status_code"], text("OK"));
    assert_within(own, &children);
    assert!(children.iter().any(|child| child.name == "execute"), "{children:?}");
    drop(grpc);
}

#[tokio::test]
async fn the_last_traces_leave_before_the_server_ends() {
    let mut collector = Collector::start().await;
    let mut server = Server::start(&traced(&collector.url(), 1.0));
    let client = Client::new();
    client.get(server.url("/version")).send().await.unwrap();
    drop(client);
    server.ask_to_stop(Shutdown::Immediate);
    let ended = tokio::task::spawn_blocking(move || server.join()).await.unwrap();
    assert_eq!(ended, Some(Ended::Drained));
    assert!(!collector.is_empty(), "they are there when it has ended");
    assert_eq!(collector.next().await.spans[0].name, "GET /version");
}

/// More requests than may wait, and one batch.
const FLOOD: usize = 4096 + 256 + 50;

#[tokio::test]
async fn a_collector_that_hangs_slows_nobody_and_losses_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Reads and never answers.
            held.push(tokio::spawn(
                async move { while stream.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {} },
            ));
        }
    });
    let server = Server::start(&traced(&url, 1.0));
    let client = Client::new();
    let mut slowest = Duration::ZERO;
    for _ in 0..FLOOD / 50 + 1 {
        let asked = (0..50).map(|_| {
            let request = client.get(server.url("/version"));
            async {
                let started = Instant::now();
                assert_eq!(request.send().await.unwrap().status(), 200);
                started.elapsed()
            }
        });
        let took = futures_util::future::join_all(asked).await;
        slowest = took.into_iter().fold(slowest, Duration::max);
    }
    // The exporter's own limit for one attempt is 5 s.
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    let metrics = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metric(&metrics, r#"convoy_traces_total{outcome="queue_full"}"#) > 0.0, "{metrics}");
    assert_eq!(metric(&metrics, r#"convoy_traces_total{outcome="exported"}"#), 0.0);
}

#[tokio::test]
async fn a_collector_that_is_away_is_given_up_and_counted() {
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::start(&traced(&format!("http://{free}"), 1.0));
    let client = Client::new();
    for _ in 0..3 {
        let asked = client.post(server.url("/faq")).json(&json!({"question": "how to sort an array"}));
        assert_eq!(asked.send().await.unwrap().status(), 200);
    }
    let started = Instant::now();
    loop {
        let metrics = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
        if metric(&metrics, r#"convoy_traces_total{outcome="failed"}"#) >= 3.0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{metrics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
