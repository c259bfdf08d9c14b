//! The V2 protocol over gRPC on real sockets: every method, tensors raw and typed, streams, deadlines and cancellation,
//! bounds, the drain, health and reflection, and NVIDIA's unmodified client.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    collections::HashMap,
    convert::Infallible,
    io::Write,
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use convoy::{
    config::{Config, HttpConfig},
    grpc::proto::{
        InferParameter, InferTensorContents, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
        ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
        ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
        RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
        RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse,
        ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
        ServerReadyRequest, ServerReadyResponse,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
    server::{Ended, Shutdown},
};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use support::{Server, config, faq_corpus, metric, photo};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

const INFERENCE: &str = "inference.GRPCInferenceService";
const HEALTH: &str = "grpc.health.v1.Health";
const PUSHBACK: &str = "grpc-retry-pushback-ms";

fn with_grpc() -> Config {
    Config { grpc_bind: Some("127.0.0.1:0".parse().unwrap()), ..config() }
}

async fn channel(server: &Server) -> Channel {
    let url = format!("http://{}", server.grpc.unwrap());
    Endpoint::from_shared(url).unwrap().connect().await.unwrap()
}

async fn ready(channel: &Channel) -> Grpc<Channel> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    grpc
}

async fn call_of<Q, A>(channel: &Channel, service: &str, method: &str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let path = format!("/{service}/{method}").parse().unwrap();
    let answer = ready(channel).await.unary(Request::new(request), path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

async fn call<Q, A>(channel: &Channel, method: &str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    call_of(channel, INFERENCE, method, request).await
}

async fn infer(channel: &Channel, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    call(channel, "ModelInfer", request).await
}

/// Opens a stream in both directions.
async fn open<Q, A>(
    channel: &Channel,
    path: &str,
    requests: impl Stream<Item = Q> + Send + 'static,
) -> Result<Streaming<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let requests = Request::new(requests);
    let path = path.parse().unwrap();
    let answers = ready(channel).await.streaming(requests, path, ProstCodec::default()).await?;
    Ok(answers.into_inner())
}

fn stream_path() -> String {
    format!("/{INFERENCE}/ModelStreamInfer")
}

/// Elements of a BYTES tensor in the binary layout.
fn elements(all: &[impl AsRef<[u8]>]) -> Bytes {
    let element = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    all.iter().flat_map(|bytes| element(bytes.as_ref())).collect()
}

fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

/// A request with one raw tensor.
fn raw(model: &str, input: InferInputTensor, bytes: impl Into<Bytes>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![input],
        raw_input_contents: vec![bytes.into()],
        ..ModelInferRequest::default()
    }
}

fn photos(files: &[Vec<u8>]) -> ModelInferRequest {
    raw("resnet18", tensor("image", "BYTES", &[files.len() as i64, 1]), elements(files))
}

fn questions(texts: &[impl AsRef<[u8]>]) -> ModelInferRequest {
    raw("faq", tensor("question", "BYTES", &[texts.len() as i64]), elements(texts))
}

fn number(value: i64) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(value)) }
}

fn with_parameter(mut request: ModelInferRequest, name: &str, value: i64) -> ModelInferRequest {
    request.parameters.insert(name.to_owned(), number(value));
    request
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

fn output<'a>(answer: &'a ModelInferResponse, name: &str) -> &'a [u8] {
    let at = answer.outputs.iter().position(|output| output.name == name).unwrap();
    &answer.raw_output_contents[at]
}

fn ids(answer: &ModelInferResponse) -> Vec<i64> {
    output(answer, "id").as_chunks::<8>().0.iter().map(|eight| i64::from_le_bytes(*eight)).collect()
}

async fn get(server: &Server, path: &str) -> Value {
    reqwest::get(server.url(path)).await.unwrap().json().await.unwrap()
}

async fn metrics(server: &Server) -> String {
    reqwest::get(server.url("/metrics")).await.unwrap().text().await.unwrap()
}

/// What `/classify` says of a photo: every class's probability, by index.
async fn classified(server: &Server, photo: Vec<u8>) -> Vec<f32> {
    let asked = reqwest::Client::new().post(server.url("/classify?top=1000")).body(photo);
    let value: Value = asked.send().await.unwrap().json().await.unwrap();
    let mut row = vec![0.0; 1000];
    for prediction in value["predictions"].as_array().unwrap() {
        row[prediction["class"].as_u64().unwrap() as usize] =
            prediction["probability"].as_f64().unwrap() as f32;
    }
    row
}

fn alike(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// Polls until `wanted` holds of the metrics; fails after a long time.
async fn until(server: &Server, wanted: impl Fn(&str) -> bool) -> String {
    let started = Instant::now();
    loop {
        let metrics = metrics(server).await;
        if wanted(&metrics) {
            return metrics;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "still waiting at\n{metrics}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn depth(metrics: &str) -> f64 {
    metric(metrics, r#"convoy_queue_depth{queue="classify"}"#)
}

#[tokio::test]
async fn what_is_served_is_announced_as_over_rest() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let live: ServerLiveResponse = call(&channel, "ServerLive", ServerLiveRequest {}).await.unwrap();
    let wanted: ServerReadyResponse = call(&channel, "ServerReady", ServerReadyRequest {}).await.unwrap();
    assert!(live.live && wanted.ready);
    let identity: ServerMetadataResponse =
        call(&channel, "ServerMetadata", ServerMetadataRequest {}).await.unwrap();
    let rest = get(&server, "/v2").await;
    assert_eq!(rest["extensions"], json!(identity.extensions));
    assert_eq!(
        (rest["name"].as_str(), identity.version),
        (Some("convoy"), rest["version"].as_str().unwrap().to_owned())
    );
    for model in ["resnet18", "faq"] {
        let (name, version) = (model.to_owned(), "1".to_owned());
        let state: ModelReadyResponse =
            call(&channel, "ModelReady", ModelReadyRequest { name: name.clone(), version: version.clone() })
                .await
                .unwrap();
        assert!(state.ready);
        let request = ModelMetadataRequest { name: name.clone(), version: String::new() };
        let metadata: ModelMetadataResponse = call(&channel, "ModelMetadata", request).await.unwrap();
        let rest = get(&server, &format!("/v2/models/{model}")).await;
        assert_eq!(
            json!([metadata.name, metadata.versions, metadata.platform]),
            json!([rest["name"], rest["versions"], rest["platform"]])
        );
        for (tensors, rest) in [(metadata.inputs, &rest["inputs"]), (metadata.outputs, &rest["outputs"])] {
            let tensors: Vec<_> = tensors
                .iter()
                .map(|t| json!({"name": t.name, "datatype": t.datatype, "shape": t.shape}))
                .collect();
            assert_eq!(json!(tensors), *rest);
        }
        let request = ModelConfigRequest { name: name.clone(), version };
        let config: ModelConfigResponse = call(&channel, "ModelConfig", request).await.unwrap();
        let config = config.config.unwrap();
        let rest = get(&server, &format!("/v2/models/{model}/config")).await;
        assert_eq!(rest["max_batch_size"], config.max_batch_size);
        for (at, input) in config.input.iter().enumerate() {
            let rest = &rest["input"][at];
            assert_eq!((&rest["name"], &rest["dims"]), (&json!(input.name), &json!(input.dims)));
            assert_eq!(rest["data_type"], input.data_type().as_str_name());
            assert_eq!(rest["optional"] == true, input.optional);
        }
        assert_eq!(config.output.len(), rest["output"].as_array().unwrap().len());
    }
    let index: RepositoryIndexResponse =
        call(&channel, "RepositoryIndex", RepositoryIndexRequest::default()).await.unwrap();
    let listed: Vec<_> = index.models.iter().map(|m| (m.name.as_str(), m.state.as_str())).collect();
    assert_eq!(listed, [("resnet18", "READY"), ("faq", "READY")]);
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_name() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let ready =
        |name: &str, version: &str| ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
    for request in [ready("nothing", ""), ready("resnet18", "2")] {
        let refused = call::<_, ModelReadyResponse>(&channel, "ModelReady", request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains("resnet18 and faq"), "{refused}");
    }
    let refused = call::<_, ModelReadyResponse>(&channel, "TraceSetting", ServerLiveRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    let over_http_1 = reqwest::get(format!("http://{}/v2", server.grpc.unwrap())).await;
    assert!(over_http_1.is_err(), "{over_http_1:?}");
    let metrics = metrics(&server).await;
    assert_eq!(
        metric(&metrics, r#"convoy_grpc_requests_total{method="ModelReady",status="NOT_FOUND"}"#),
        2.0
    );
    assert_eq!(
        metric(&metrics, r#"convoy_grpc_requests_total{method="unknown",status="UNIMPLEMENTED"}"#),
        1.0
    );
}

#[tokio::test]
async fn photos_raw_and_typed_get_what_classify_answers() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let files = [photo(1), photo(2)];
    let rows = [classified(&server, photo(1)).await, classified(&server, photo(2)).await];
    assert!(!alike(&rows[0], &rows[1]), "the photos are told apart");
    let typed = ModelInferRequest {
        inputs: vec![InferInputTensor {
            contents: Some(InferTensorContents {
                bytes_contents: files.iter().map(|file| Bytes::from(file.clone())).collect(),
                ..InferTensorContents::default()
            }),
            ..tensor("image", "BYTES", &[2])
        }],
        raw_input_contents: Vec::new(),
        ..photos(&files)
    };
    for request in [photos(&files), typed] {
        let request = ModelInferRequest { id: "seven".to_owned(), ..request };
        let answer = infer(&channel, request).await.unwrap();
        assert_eq!(
            (answer.model_name.as_str(), answer.model_version.as_str(), answer.id.as_str()),
            ("resnet18", "1", "seven")
        );
        assert_eq!((answer.outputs[0].datatype.as_str(), &answer.outputs[0].shape), ("FP32", &vec![2, 1000]));
        let answered = floats(output(&answer, "probabilities"));
        assert!(alike(&answered[..1000], &rows[0]) && alike(&answered[1000..], &rows[1]));
    }
    let mut ranked = photos(&files);
    ranked.outputs = vec![InferRequestedOutputTensor {
        name: "probabilities".to_owned(),
        parameters: HashMap::from([("classification".to_owned(), number(2))]),
    }];
    let answer = infer(&channel, ranked).await.unwrap();
    assert_eq!((answer.outputs[0].datatype.as_str(), &answer.outputs[0].shape), ("BYTES", &vec![2, 2]));
    let first = &output(&answer, "probabilities")[4..];
    let best = rows[0].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let text = String::from_utf8_lossy(&first[..40]).into_owned();
    assert_eq!(text.split(':').nth(1), Some(best.to_string().as_str()), "{text}");
    let stats: ModelStatisticsResponse =
        call(&channel, "ModelStatistics", ModelStatisticsRequest::default()).await.unwrap();
    let [photos, faq] = stats.model_stats.as_slice() else { panic!("{stats:?}") };
    assert_eq!((photos.name.as_str(), photos.inference_count, faq.inference_count), ("resnet18", 6, 0));
    let counts = photos.inference_stats.as_ref().unwrap();
    assert_eq!((counts.success.unwrap().count, counts.fail.unwrap().count), (3, 0));
    assert!(counts.compute_infer.unwrap().ns > 0 && !photos.batch_stats.is_empty());
    let rest = get(&server, "/v2/models/resnet18/stats").await;
    assert_eq!(rest["model_stats"][0]["inference_count"], 6, "both transports tell of the same counts");
}

#[tokio::test]
async fn cropped_pixels_are_the_same_raw_and_typed() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let pixels: Vec<u8> = (0..224 * 224 * 3_u32).map(|at| (at * 7 / 3 % 256) as u8).collect();
    let input = tensor("input", "UINT8", &[1, 224, 224, 3]);
    let contents = |numbers| InferTensorContents { uint_contents: numbers, ..InferTensorContents::default() };
    let typed = |numbers| ModelInferRequest {
        inputs: vec![InferInputTensor { contents: Some(contents(numbers)), ..input.clone() }],
        raw_input_contents: Vec::new(),
        ..raw("resnet18", input.clone(), Bytes::new())
    };
    let numbers: Vec<u32> = pixels.iter().map(|pixel| u32::from(*pixel)).collect();
    let one = infer(&channel, raw("resnet18", input.clone(), pixels)).await.unwrap();
    let two = infer(&channel, typed(numbers.clone())).await.unwrap();
    let row = floats(output(&one, "probabilities"));
    assert!(
        alike(&row, &floats(output(&two, "probabilities"))) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-3
    );
    let mut beyond = numbers;
    beyond[5] = 256;
    let refused = infer(&channel, typed(beyond)).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("0 to 255"), "{refused}");
}

#[tokio::test]
async fn a_thousand_questions_in_one_request_are_answered_in_order() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let originals = faq_corpus().originals;
    let asked: Vec<_> = (0..1000).map(|at| &originals[(at * 7 + at / 10) % originals.len()]).collect();
    let texts: Vec<_> = asked.iter().map(|original| original.text.as_str()).collect();
    let answer = infer(&channel, questions(&texts)).await.unwrap();
    assert_eq!(ids(&answer), asked.iter().map(|original| original.id).collect::<Vec<_>>());
    let names: Vec<_> = answer.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["probabilities", "scope", "id", "match", "answer"]);
    assert_eq!(output(&answer, "match"), elements(&texts));
}

#[tokio::test]
async fn what_does_not_fit_is_an_invalid_argument() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let one = || photos(&[photo(0)]);
    let other = |input: InferInputTensor| ModelInferRequest { inputs: vec![input], ..one() };
    let region = HashMap::from([("shared_memory_region".to_owned(), number(1))]);
    let wanted = |name: &str| InferRequestedOutputTensor { name: name.to_owned(), ..Default::default() };
    for (why, request) in [
        (
            "more elements than the shape says",
            raw("resnet18", tensor("image", "BYTES", &[1]), elements(&[photo(0), photo(0)])),
        ),
        ("a length past the end", raw("resnet18", tensor("image", "BYTES", &[1]), vec![255; 9])),
        ("an empty batch", other(tensor("image", "BYTES", &[0]))),
        ("a negative side", other(tensor("image", "BYTES", &[-1]))),
        ("a huge batch", other(tensor("image", "BYTES", &[i64::MAX]))),
        ("another datatype", other(tensor("image", "FP32", &[1]))),
        ("an unknown input", other(tensor("picture", "BYTES", &[1]))),
        ("no values", ModelInferRequest { raw_input_contents: vec![], ..one() }),
        ("values too many", ModelInferRequest { raw_input_contents: vec![Bytes::new(); 2], ..one() }),
        ("no inputs", ModelInferRequest { inputs: vec![], raw_input_contents: vec![], ..one() }),
        ("shared memory", other(InferInputTensor { parameters: region, ..tensor("image", "BYTES", &[1]) })),
        ("an unknown output", ModelInferRequest { outputs: vec![wanted("logits")], ..one() }),
        ("an output twice", ModelInferRequest { outputs: vec![wanted("probabilities"); 2], ..one() }),
        ("a negative priority", with_parameter(one(), "priority", -1)),
        ("a photo that is none", photos(&[b"just text".to_vec()])),
        ("a photo cut short", photos(&[photo(0)[..2000].to_vec()])),
        ("a question that is not UTF-8", questions(&[[0xff, 0xfe]])),
        (
            "more elements than any request may have",
            ModelInferRequest {
                raw_input_contents: vec![],
                ..other(InferInputTensor {
                    contents: Some(InferTensorContents {
                        bytes_contents: vec![Bytes::new(); 10_000],
                        ..Default::default()
                    }),
                    ..tensor("image", "BYTES", &[10_000])
                })
            },
        ),
    ] {
        let refused = infer(&channel, request).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().len() > 10, "{why}: {refused}");
    }
    for parameters in
        [("priority", 1), ("priority", 2), ("timeout", 60_000_000), ("timeout", 0), ("unknown", 5)]
    {
        infer(&channel, with_parameter(one(), parameters.0, parameters.1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_answers_in_order_and_survives_what_fails() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let originals = faq_corpus().originals;
    let requests: Vec<_> = (0..60)
        .map(|at| {
            let request = match at {
                20 => questions(&[[0xff_u8, 0xfe]]),
                30 => ModelInferRequest { model_name: "nothing".to_owned(), ..questions(&["x"]) },
                40 => photos(&[photo(3)]),
                _ => questions(&[&originals[at].text]),
            };
            ModelInferRequest { id: format!("number {at}"), ..request }
        })
        .collect();
    let mut answers =
        open::<_, ModelStreamInferResponse>(&channel, &stream_path(), stream::iter(requests)).await.unwrap();
    for (at, original) in originals.iter().enumerate().take(60) {
        let answer = answers.message().await.unwrap().unwrap();
        let inferred = answer.infer_response.unwrap();
        assert_eq!(inferred.id, format!("number {at}"));
        match at {
            20 => assert!(answer.error_message.contains("UTF-8"), "{}", answer.error_message),
            30 => assert!(answer.error_message.contains("`nothing`"), "{}", answer.error_message),
            _ => assert_eq!(answer.error_message, "", "{at}"),
        }
        match at {
            20 | 30 => assert!(inferred.outputs.is_empty()),
            40 => {
                let row = classified(&server, photo(3)).await;
                assert!(alike(&floats(output(&inferred, "probabilities")), &row));
            }
            _ => assert_eq!(ids(&inferred), [original.id]),
        }
    }
    assert!(answers.message().await.unwrap().is_none());
    let metrics = metrics(&server).await;
    assert_eq!(metric(&metrics, r#"convoy_grpc_requests_total{method="ModelStreamInfer",status="OK"}"#), 1.0);
}

/// Sends one message as a client of its own making, with headers that libraries would act on themselves.
async fn by_hand(server: &Server, header: (&str, &str), request: &ModelInferRequest) -> (i32, String) {
    let message = request.encode_to_vec();
    let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let asked = client
        .post(format!("http://{}/{INFERENCE}/ModelInfer", server.grpc.unwrap()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(header.0, header.1)
        .body(frame);
    let answer = asked.send().await.unwrap();
    let text = |name: &str| answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    (text("grpc-status").parse().unwrap_or(0), text("grpc-message"))
}

#[tokio::test]
async fn deadlines_are_kept_whoever_names_them() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let late = infer(&channel, with_parameter(photos(&[photo(1)]), "timeout", 1)).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    for (header, value, code) in [
        ("grpc-timeout", "1n", Code::DeadlineExceeded),
        ("grpc-timeout", "100u", Code::DeadlineExceeded),
        ("grpc-timeout", "1H", Code::Ok),
        ("grpc-timeout", "soon", Code::InvalidArgument),
        ("x-convoy-deadline-ms", "0", Code::InvalidArgument),
        ("x-convoy-deadline-ms", "60000", Code::Ok),
        ("x-convoy-priority", "batch", Code::Ok),
        ("x-convoy-priority", "high", Code::InvalidArgument),
    ] {
        let (status, message) = by_hand(&server, (header, value), &photos(&[photo(1)])).await;
        assert_eq!(Code::from_i32(status), code, "{header}: {value}: {message}");
    }
    // A stream of its own has no end; `grpc-timeout` gives it one.
    let socket = TokioIo::new(tokio::net::TcpStream::connect(server.grpc.unwrap()).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(connection);
    let never: StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>> =
        StreamBody::new(stream::pending());
    let asked = hyper::Request::post(format!("http://convoy{}", stream_path()))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "200m")
        .body(never)
        .unwrap();
    let ended = client.send_request(asked).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(ended.trailers().unwrap()["grpc-status"], "4");
    let metrics = metrics(&server).await;
    let late = r#"convoy_grpc_requests_total{method="ModelStreamInfer",status="DEADLINE_EXCEEDED"}"#;
    assert_eq!(metric(&metrics, late), 1.0);
}

#[tokio::test]
async fn who_does_not_read_a_streams_answers_keeps_nobodys_place() {
    let mut settings = Config { photos: None, ..with_grpc() };
    // As many messages may be under way.
    settings.faq.as_mut().unwrap().queue = 8;
    settings.http.connections.write_timeout = Duration::from_secs(300);
    let server = Server::start(&settings);
    let url = format!("http://{}", server.grpc.unwrap());
    let deaf = Endpoint::from_shared(url).unwrap().initial_stream_window_size(0).connect().await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..24 {
        let requests = stream::iter((0..32).map(|_| questions(&["sort"]))).chain(stream::pending());
        let answers = open::<_, ModelStreamInferResponse>(&deaf, &stream_path(), requests).await;
        unread.push(answers.unwrap());
    }
    let scored = |metrics: &str| {
        let scored = r#"convoy_jobs_total{queue="faq",outcome="ok"} "#;
        metrics.lines().find_map(|line| line.strip_prefix(scored)?.parse::<u32>().ok())
    };
    // One of each stream, of three times as many streams as there are places.
    until(&server, |metrics| scored(metrics).is_some_and(|scored| scored >= 24)).await;
    let channel = channel(&server).await;
    let started = Instant::now();
    let answer = loop {
        // Others of those streams may be under way yet.
        match infer(&channel, questions(&["sort"])).await {
            Err(refused) if refused.code() == Code::ResourceExhausted => {
                assert!(started.elapsed() < Duration::from_secs(60), "{refused}");
            }
            answer => break answer.unwrap(),
        }
    };
    assert!(!ids(&answer).is_empty());
}

#[tokio::test]
async fn a_probe_with_an_unusual_head_is_charged_for_it() {
    let server = Server::start(&Config { photos: None, ..with_grpc() });
    let channel = channel(&server).await;
    let watch = async |value: String| {
        let mut request = Request::new(HealthCheckRequest { service: String::new() });
        request.metadata_mut().insert("x-long", value.parse().unwrap());
        let path = format!("/{HEALTH}/Watch").parse().unwrap();
        let codec = ProstCodec::<_, HealthCheckResponse>::default();
        ready(&channel).await.server_streaming(request, path, codec).await.unwrap()
    };
    let held = "convoy_body_memory_bytes";
    let _usual = watch("a".repeat(1000)).await;
    until(&server, |metrics| metric(metrics, held) == 0.0).await;
    let _unusual = watch("a".repeat(30_000)).await;
    assert!(metric(&metrics(&server).await, held) >= 28_000.0);
}

#[tokio::test]
async fn a_call_of_one_message_takes_no_second_one() {
    let server = Server::start(&Config { photos: None, ..with_grpc() });
    let channel = channel(&server).await;
    let path = format!("/{INFERENCE}/ModelInfer");
    let twice = stream::iter([questions(&["sort"]), questions(&["sort"])]);
    let refused = open::<_, ModelInferResponse>(&channel, &path, twice).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("second"), "{refused}");
    infer(&channel, questions(&["sort"])).await.unwrap();
}

#[tokio::test]
async fn an_id_is_of_a_bounded_length() {
    let server = Server::start(&Config { photos: None, ..with_grpc() });
    let channel = channel(&server).await;
    let called = |length: usize| ModelInferRequest { id: "i".repeat(length), ..questions(&["sort"]) };
    assert_eq!(infer(&channel, called(1024)).await.unwrap().id.len(), 1024);
    let refused = infer(&channel, called(1025)).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("1024"), "{refused}");
    let asked = stream::iter([called(2000)]);
    let mut answers = open::<_, ModelStreamInferResponse>(&channel, &stream_path(), asked).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(answer.error_message.contains("1024"), "{}", answer.error_message);
    assert_eq!(answer.infer_response.unwrap().id.len(), 1024, "as much of it as tells whose answer it is");
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_line() {
    let mut settings = with_grpc();
    settings.photos.as_mut().unwrap().max_batch = 1;
    settings.http.max_body = 64 << 20;
    let server = Server::start(&settings);
    let channel = channel(&server).await;
    let many: Vec<_> = (0..200).map(photo).collect();
    let call = tokio::spawn(async move { infer(&channel, photos(&many)).await });
    until(&server, |metrics| depth(metrics) >= 8.0).await;
    call.abort();
    // A metric that is not there before the first such call.
    let cancelled = r#"convoy_grpc_requests_total{method="ModelInfer",status="CANCELLED"} 1"#;
    let cancelled = |metrics: &str| metrics.lines().any(|line| line == cancelled);
    let metrics = until(&server, |metrics| depth(metrics) == 0.0 && cancelled(metrics)).await;
    let abandoned = |queue: &str| {
        metric(&metrics, &format!(r#"convoy_jobs_total{{queue="{queue}",outcome="abandoned"}}"#))
    };
    assert!(abandoned("classify") + abandoned("decode") > 0.0, "{metrics}");
    assert!(metric(&metrics, r#"convoy_jobs_total{queue="classify",outcome="ok"}"#) < 200.0);
}

#[tokio::test]
async fn a_message_over_the_limit_is_not_read() {
    let mut settings = with_grpc();
    settings.http.max_body = 64 << 10;
    let server = Server::start(&settings);
    let channel = channel(&server).await;
    let large = photos(&[vec![0; 65 << 10]]);
    let refused = infer(&channel, large.clone()).await.unwrap_err();
    assert!(refused.code() == Code::OutOfRange && refused.message().contains("65536"), "{refused}");
    let name = "x".repeat(70 << 10);
    let request = ModelReadyRequest { name, version: String::new() };
    let refused = call::<_, ModelReadyResponse>(&channel, "ModelReady", request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let requests = stream::iter([questions(&["sort"]), large]);
    let mut answers = open::<_, ModelStreamInferResponse>(&channel, &stream_path(), requests).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().error_message, "", "what came before is answered");
    assert_eq!(answers.message().await.unwrap_err().code(), Code::OutOfRange);
    infer(&channel, questions(&["sort"])).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let mut settings = with_grpc();
    settings.photos.as_mut().unwrap().queue = 16;
    settings.memory.seat_wait = Duration::from_secs(60);
    settings.memory.stall = Duration::from_secs(60);
    let server = Server::start(&settings);
    let channel = channel(&server).await;
    let head = "POST /classify HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n";
    let held: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    until(&server, |metrics| depth(metrics) == 16.0).await;
    let refused = infer(&channel, photos(&[photo(0)])).await.unwrap_err();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("full"), "{refused}");
    let wait: u64 = refused.metadata().get(PUSHBACK).unwrap().to_str().unwrap().parse().unwrap();
    assert!((1..60_000).contains(&wait), "{wait}");
    infer(&channel, questions(&["sort"])).await.unwrap();
    drop(held);
    until(&server, |metrics| depth(metrics) == 0.0).await;
    infer(&channel, photos(&[photo(0)])).await.unwrap();
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_where_the_operator_allows_it() {
    let named =
        |name: &str| RepositoryModelUnloadRequest { model_name: name.to_owned(), ..Default::default() };
    let load = |name: &str| RepositoryModelLoadRequest { model_name: name.to_owned(), ..Default::default() };
    let mut settings = with_grpc();
    {
        let server = Server::start(&settings);
        let channel = channel(&server).await;
        let refused: Result<RepositoryModelLoadResponse, _> =
            call(&channel, "RepositoryModelLoad", load("faq")).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let refused: Result<RepositoryModelUnloadResponse, _> =
            call(&channel, "RepositoryModelUnload", named("faq")).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    settings.http = HttpConfig { admin: true, ..settings.http };
    let server = Server::start(&settings);
    let channel = channel(&server).await;
    let before = infer(&channel, photos(&[photo(1)])).await.unwrap();
    let _: RepositoryModelUnloadResponse =
        call(&channel, "RepositoryModelUnload", named("resnet18")).await.unwrap();
    let refused = infer(&channel, photos(&[photo(1)])).await.unwrap_err();
    assert!(
        refused.code() == Code::Unavailable && refused.message().contains("RepositoryModelLoad"),
        "{refused}"
    );
    let request = ModelReadyRequest { name: "resnet18".to_owned(), version: String::new() };
    let state: ModelReadyResponse = call(&channel, "ModelReady", request).await.unwrap();
    assert!(!state.ready);
    let request = RepositoryIndexRequest { ready: true, ..Default::default() };
    let index: RepositoryIndexResponse = call(&channel, "RepositoryIndex", request).await.unwrap();
    assert_eq!(index.models.len(), 1);
    let nobody: Result<RepositoryModelLoadResponse, _> =
        call(&channel, "RepositoryModelLoad", load("nobody")).await;
    assert_eq!(nobody.unwrap_err().code(), Code::NotFound);
    let _: RepositoryModelLoadResponse =
        call(&channel, "RepositoryModelLoad", load("resnet18")).await.unwrap();
    let after = infer(&channel, photos(&[photo(1)])).await.unwrap();
    assert_eq!(output(&after, "probabilities"), output(&before, "probabilities"));
}

#[tokio::test]
async fn the_drain_answers_what_is_in_hand_and_ends_streams() {
    let mut settings = with_grpc();
    (settings.http.lame_duck, settings.http.grace) = (Duration::from_secs(6), Duration::from_secs(300));
    (settings.http.deadline, settings.http.max_deadline) =
        (Duration::from_secs(300), Duration::from_secs(300));
    settings.http.max_body = 64 << 20;
    settings.photos.as_mut().unwrap().max_batch = 1;
    let mut server = Server::start(&settings);
    let channel = channel(&server).await;
    let watch = stream::iter([HealthCheckRequest::default()]);
    let mut watch =
        open::<_, HealthCheckResponse>(&channel, &format!("/{HEALTH}/Watch"), watch).await.unwrap();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let asking = stream::iter([questions(&["sort"])]).chain(stream::pending());
    let mut asking = open::<_, ModelStreamInferResponse>(&channel, &stream_path(), asking).await.unwrap();
    assert_eq!(asking.message().await.unwrap().unwrap().error_message, "");
    let files: Vec<_> = (0..100).map(photo).collect();
    let in_hand = tokio::spawn({
        let channel = channel.clone();
        async move { infer(&channel, photos(&files)).await }
    });
    until(&server, |metrics| depth(metrics) >= 8.0).await;
    server.ask_to_stop(Shutdown::Orchestrated);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let state: HealthCheckResponse =
        call_of(&channel, HEALTH, "Check", HealthCheckRequest::default()).await.unwrap();
    assert_eq!(state.status(), ServingStatus::NotServing);
    let wanted: ServerReadyResponse = call(&channel, "ServerReady", ServerReadyRequest {}).await.unwrap();
    assert!(!wanted.ready);
    infer(&channel, questions(&["sort"])).await.expect("the lame duck still answers");
    assert!(watch.message().await.unwrap().is_none(), "watching ends when the port closes");
    assert!(asking.message().await.unwrap().is_none(), "and so does a stream that asks nothing");
    assert_eq!(in_hand.await.unwrap().unwrap().outputs[0].shape, [100, 1000]);
    assert_eq!(server.join(), Some(Ended::Drained));
}

#[tokio::test]
async fn health_is_told_of_the_server_and_of_the_service() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    let check = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        call_of::<_, HealthCheckResponse>(&channel, HEALTH, "Check", request).await
    };
    for service in ["", INFERENCE] {
        assert_eq!(check(service).await.unwrap().status(), ServingStatus::Serving);
    }
    assert_eq!(check("nothing").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_tells_of_every_service_and_its_messages() {
    let server = Server::start(&with_grpc());
    let channel = channel(&server).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let requests = stream::iter([
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(format!("{INFERENCE}.ModelInfer"))),
        ]);
        let mut answers = open::<_, ServerReflectionResponse>(&channel, &path, requests).await.unwrap();
        let listed = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
        let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&INFERENCE) && names.contains(&HEALTH), "{names:?}");
        let file = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::FileDescriptorResponse(file) = file else { panic!("{file:?}") };
        let described = String::from_utf8_lossy(&file.file_descriptor_proto[0]).into_owned();
        assert!(described.contains("raw_input_contents"), "{described}");
    }
}

#[test]
fn tritons_own_python_client_works_unmodified() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let server = Server::start(&with_grpc());
    let output = Command::new(python)
        .arg(root.join("tests/clients/v2_grpc.py"))
        .arg(server.grpc.unwrap().to_string())
        .arg(root.join("weights/faq/questions.tsv"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "tritonclient: ok\n");
}
