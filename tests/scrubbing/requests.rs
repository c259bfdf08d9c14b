//! Requests with a string of its own in every place where a client may put one, and what another client asks.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use convoy::grpc::proto::{
    InferParameter, InferTensorContents, ModelInferRequest, RepositoryModelLoadRequest,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use serde_json::{Value, json};

use crate::{
    canary::Canaries,
    keys::Keys,
    support::photo,
    wire::{grpc, http, http2},
};

/// The trace that one request belongs to.
pub const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const INFERENCE: &str = "/inference.GRPCInferenceService";

/// The port that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Http,
    Grpc,
}

/// Bytes for a port.
pub struct Request {
    pub name: String,
    pub place: Place,
    pub bytes: Vec<u8>,
}

/// The requests, gathered.
struct Gathered<'a> {
    canaries: &'a mut Canaries,
    bearer: String,
    requests: Vec<Request>,
}

impl Gathered<'_> {
    fn at(&mut self, name: &str) -> String {
        self.canaries.at(name)
    }

    fn raw(&mut self, name: &str, place: Place, bytes: Vec<u8>) {
        self.requests.push(Request { name: name.to_owned(), place, bytes });
    }

    /// A POST by somebody who may.
    fn post(&mut self, name: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let bearer = self.bearer.clone();
        let headers = [&[("authorization", bearer.as_str())][..], headers].concat();
        self.raw(name, Place::Http, http("POST", target, &headers, body));
    }

    fn json(&mut self, name: &str, target: &str, body: &Value) {
        self.post(name, target, &[("content-type", "application/json")], body.to_string().as_bytes());
    }

    fn call(&mut self, name: &str, method: &str, headers: &[(&str, &str)], message: &[u8]) {
        let bearer = self.bearer.clone();
        let headers = [&[("authorization", bearer.as_str())][..], headers].concat();
        self.raw(name, Place::Grpc, grpc(method, &headers, message));
    }
}

/// Every request, whole.
pub fn hostile(canaries: &mut Canaries, keys: &Keys) -> Vec<Request> {
    let bearer = format!("Bearer {}", keys.good);
    let mut all = Gathered { canaries, bearer, requests: Vec::new() };
    credentials(&mut all, keys);
    heads(&mut all);
    malformed(&mut all);
    questions(&mut all);
    photos(&mut all);
    v2(&mut all, keys);
    calls(&mut all);
    all.requests
}

fn credentials(all: &mut Gathered<'_>, keys: &Keys) {
    let question = br#"{"question": "how to sort an array"}"#;
    for (name, secret) in &keys.bad {
        // Twice, because one of them is good once.
        for _ in 0..2 {
            let bearer = format!("Bearer {secret}");
            all.raw(name, Place::Http, http("POST", "/faq", &[("authorization", bearer.as_str())], question));
            all.raw(name, Place::Http, http("POST", "/faq", &[("x-api-key", secret.as_str())], question));
            let headers = [("authorization", bearer.as_str())];
            all.raw(name, Place::Grpc, grpc(&format!("{INFERENCE}/ServerMetadata"), &headers, &[]));
        }
    }
    let good = keys.good.as_str();
    for (name, target, header) in [
        ("key in the query", format!("/faq?api_key={good}&key={good}"), ("x", "y")),
        ("key in the path", format!("/{good}/faq"), ("x", "y")),
        ("key as a cookie", "/faq".to_owned(), ("cookie", good)),
        ("key for a proxy", "/faq".to_owned(), ("proxy-authorization", good)),
        ("key of another scheme", "/faq".to_owned(), ("authorization", good)),
    ] {
        all.raw(name, Place::Http, http("POST", &target, &[header], question));
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("user:{}", all.at("secret password"))));
    all.raw("password", Place::Http, http("POST", "/faq", &[("authorization", basic.as_str())], question));
    let long = format!("Bearer {}", all.at("secret that is too long").repeat(20_000));
    all.raw("long key", Place::Http, http("POST", "/faq", &[("authorization", long.as_str())], question));
}

fn heads(all: &mut Gathered<'_>) {
    let question = br#"{"question": "how to sort an array"}"#;
    for name in [
        "user-agent",
        "x-request-id",
        "x-client",
        "x-forwarded-for",
        "x-convoy-deadline-ms",
        "x-convoy-priority",
        "grpc-timeout",
        "content-encoding",
        "content-type",
        "accept",
        "accept-encoding",
        "accept-language",
        "origin",
        "referer",
        "baggage",
        "traceparent",
        "expect",
        "inference-header-content-length",
        "if-none-match",
        "upgrade",
        "range",
    ] {
        let value = all.at(&format!("header {name}"));
        all.post(name, "/faq", &[(name, value.as_str())], question);
    }
    let (state, baggage) = (format!("v={}", all.at("tracestate")), format!("user={}", all.at("baggage")));
    let infer =
        json!({"inputs": [{"name": "question", "shape": [1], "datatype": "BYTES", "data": ["sort"]}]});
    let headers = [("traceparent", PARENT), ("tracestate", state.as_str()), ("baggage", baggage.as_str())];
    all.post("trace", "/v2/models/faq/infer", &headers, infer.to_string().as_bytes());
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01-{}", all.at("longer traceparent"));
    all.post("longer traceparent", "/faq", &[("traceparent", parent.as_str())], question);
    for (name, target) in [
        ("path", "/{}"),
        ("path with a line's end", "/{}%0d%0a2026-01-01T00:00:00.000000Z ERROR forged"),
        ("query", "/faq?{}=1"),
        ("value of a query", "/faq?top={}"),
        ("fragment", "/faq#{}"),
        ("absolute form", "http://{}.example/faq"),
        ("user of the absolute form", "http://{}@x/faq"),
    ] {
        let target = target.replace("{}", &all.at(name));
        all.post(name, &target, &[], question);
        all.raw(name, Place::Http, http("GET", &target, &[], b""));
    }
    let (method, header) = (all.at("method").to_uppercase(), all.at("name of a header"));
    all.raw("method", Place::Http, http(&method, "/faq", &[], b""));
    all.post("name of a header", "/faq", &[(header.as_str(), "1")], question);
}

/// What is not HTTP, or nearly.
fn malformed(all: &mut Gathered<'_>) {
    for (name, text) in [
        ("no HTTP", "{}\r\n\r\n"),
        ("version", "GET / HTTP/{}\r\n\r\n"),
        ("host", "GET / HTTP/1.1\r\nhost: {}\u{1b}[2J\r\nconnection: close\r\n\r\n"),
        ("header without a colon", "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n"),
        ("header with a space", "GET / HTTP/1.1\r\nhost: x\r\nx {}: 1\r\n\r\n"),
        ("header with a NUL", "GET / HTTP/1.1\r\nhost: x\r\nx: {}\0\r\n\r\n"),
        ("length", "POST /faq HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n"),
        ("coding", "POST /faq HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {}\r\n\r\n"),
        ("chunk's size", "POST /faq HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nz{}\r\n"),
        (
            "chunk's extension",
            "POST /faq HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2;{}=1\r\n{}\r\n0\r\n\r\n",
        ),
        (
            "trailer",
            "POST /faq HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: {}\r\n\r\n",
        ),
    ] {
        let text = text.replace("{}", &all.at(name));
        all.raw(name, Place::Http, text.clone().into_bytes());
        all.raw(name, Place::Grpc, text.into_bytes());
    }
    let pseudo = |which: &str, value: &str| {
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/faq"), (":authority", "x")];
        let fields = fields
            .map(|(name, usual)| (name, if name == which { value.to_owned() } else { usual.to_owned() }));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        http2(&fields, &[], b"")
    };
    for (which, value) in [
        (":method", "{} {}"),
        (":scheme", "{}\u{1b}"),
        (":path", "/{} \u{7f}{}"),
        (":authority", "{}@\\{}"),
        (":path", "/{}"),
    ] {
        let name = format!("HTTP/2 {which} {value}");
        let value = value.replace("{}", &all.at(&name));
        for place in [Place::Http, Place::Grpc] {
            all.raw(&name, place, pseudo(which, &value));
        }
    }
}

fn questions(all: &mut Gathered<'_>) {
    for (name, body) in [
        ("question", r#"{"question": "how to {}", "top": 1}"#),
        ("question with control characters", r#"{"question": "{}\u001b[2J\n2026 ERROR forged \u0000"}"#),
        ("field", r#"{"question": "sort", "{}": 1}"#),
        ("wrong type", r#"{"question": ["{}"]}"#),
        ("wrong number", r#"{"question": "sort", "top": "{}"}"#),
        ("not JSON", r#"{"question": {}"#),
        ("no end", r#"{"question": "{}"#),
        ("parameters", r#"{"question": "sort", "parameters": {"{}": "{}"}}"#),
    ] {
        let body = body.replace("{}", &all.at(name));
        all.post(name, "/faq", &[("content-type", "application/json")], body.as_bytes());
        all.post(name, "/score", &[], body.replace("question", "input").as_bytes());
    }
    let text = all.at("bytes that are not UTF-8");
    let body = [b"{\"question\": \"", text.as_bytes(), b"\xff\xfe\"}"].concat();
    all.post("bytes that are not UTF-8", "/faq", &[], &body);
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    let text = all.at("question, compressed");
    packed.write_all(format!("{{\"question\": \"{text}\"}}").as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    all.post("question, compressed", "/faq", &[("content-encoding", "gzip")], &packed);
    all.post("question, cut", "/faq", &[("content-encoding", "gzip")], &packed[..packed.len() - 9]);
}

fn photos(all: &mut Gathered<'_>) {
    let (key, bytes) = (all.at("key of a photo"), all.at("photo that is none"));
    let coded = STANDARD.encode(&bytes);
    all.json("photo that is none", "/score", &json!({"input": {key.clone(): coded}}));
    all.json("base64 that is none", "/score", &json!({"input": {key.clone(): format!("{bytes}!{bytes}")}}));
    let mut whole = photo(1);
    whole.extend(all.at("end of a photo").bytes());
    all.json("photo", "/score", &json!({"input": {key: STANDARD.encode(&whole)}}));
    all.post("photo", "/classify", &[("content-type", "image/png")], &whole);
    let mut cut = whole[..whole.len() / 2].to_vec();
    cut.extend(all.at("middle of a photo").bytes());
    all.post("photo that is cut", "/classify", &[], &cut);
    for (name, magic) in [
        ("JPEG", &b"\xff\xd8\xff\xe0\0\x10JFIF\0"[..]),
        ("GIF", b"GIF89a"),
        ("TIFF", b"II*\0\x08\0\0\0"),
        ("text", b""),
    ] {
        let body = [magic, all.at(name).repeat(3).as_bytes()].concat();
        all.post(name, "/classify", &[], &body);
    }
    let file = all.at("name of a file");
    let body = format!(
        "--b\r\ncontent-disposition: form-data; name=\"{file}\"; filename=\"{file}.jpg\"\r\n\r\n{bytes}\r\n--b--\r\n"
    );
    all.post("form", "/classify", &[("content-type", "multipart/form-data; boundary=b")], body.as_bytes());
}

fn v2(all: &mut Gathered<'_>, keys: &Keys) {
    for (name, target) in [
        ("model", "/v2/models/{}/infer"),
        ("model's version", "/v2/models/faq/versions/{}/infer"),
        ("model that is asked about", "/v2/models/{}"),
        ("no route", "/v2/{}"),
    ] {
        let target = target.replace("{}", &all.at(name));
        all.json(name, &target, &json!({"inputs": []}));
        let bearer = all.bearer.clone();
        all.raw(name, Place::Http, http("GET", &target, &[("authorization", bearer.as_str())], b""));
    }
    let input = |field: &str, value: Value| {
        let mut input = json!({"name": "question", "shape": [1], "datatype": "BYTES", "data": ["sort"]});
        input[field] = value;
        json!({"inputs": [input]})
    };
    for field in ["name", "shape", "datatype", "data", "parameters", "anything"] {
        let text = all.at(&format!("input's {field}"));
        all.json(field, "/v2/models/faq/infer", &input(field, json!(text)));
        all.json(field, "/v2/models/faq/infer", &input(field, json!([text])));
        all.json(field, "/v2/models/faq/infer", &input(field, json!({text.clone(): text})));
    }
    for field in ["id", "parameters", "outputs"] {
        let text = all.at(&format!("request's {field}"));
        let value = match field {
            "id" => json!(text),
            "parameters" => json!({text.clone(): text, "timeout": text, "priority": text}),
            _ => json!([{"name": text, "parameters": {"classification": text}}]),
        };
        let mut body = input("data", json!(["sort"]));
        body[field] = value;
        all.json(field, "/v2/models/faq/infer", &body);
    }
    let text = all.at("binary tensor");
    let mut input = json!({"name": "question", "shape": [1], "datatype": "BYTES"});
    for (name, size) in [("fits", text.len() + 4), ("too long", text.len() + 99), ("negative", 0)] {
        input["parameters"] = json!({"binary_data_size": size});
        let head = json!({"inputs": [input]}).to_string();
        let body = [head.as_bytes(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        let length = head.len().to_string();
        all.post(
            name,
            "/v2/models/faq/infer",
            &[("inference-header-content-length", length.as_str())],
            &body,
        );
    }
    let (model, parameter) = (all.at("model to load"), all.at("parameter of a model to load"));
    for model in [model.as_str(), "faq"] {
        let body = json!({"parameters": {parameter.clone(): parameter, "config": parameter}}).to_string();
        let target = format!("/v2/repository/models/{model}/load");
        let bearer = format!("Bearer {}", keys.operators);
        all.raw(
            "load",
            Place::Http,
            http("POST", &target, &[("authorization", bearer.as_str())], body.as_bytes()),
        );
    }
}

fn calls(all: &mut Gathered<'_>) {
    let infer = format!("{INFERENCE}/ModelInfer");
    let parameter =
        |text: &str| InferParameter { parameter_choice: Some(ParameterChoice::StringParam(text.to_owned())) };
    let mut request = ModelInferRequest {
        model_name: "faq".to_owned(),
        id: all.at("call's id"),
        parameters: [(all.at("call's parameter"), parameter(&all.at("value of a call's parameter")))].into(),
        inputs: vec![InferInputTensor {
            name: "question".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            contents: Some(InferTensorContents {
                bytes_contents: vec![all.at("call's question").into_bytes().into()],
                ..InferTensorContents::default()
            }),
            ..InferInputTensor::default()
        }],
        ..ModelInferRequest::default()
    };
    all.call("call", &infer, &[], &request.encode_to_vec());
    request.parameters.clear();
    all.call("call that is answered", &infer, &[("traceparent", PARENT)], &request.encode_to_vec());
    let message = request.encode_to_vec();
    all.call("message that is cut", &infer, &[], &message[..message.len() - 5]);
    request.inputs[0].name = all.at("call's input");
    request.inputs[0].datatype = all.at("call's datatype");
    all.call("input", &infer, &[], &request.encode_to_vec());
    request.outputs =
        vec![InferRequestedOutputTensor { name: all.at("call's output"), ..Default::default() }];
    request.model_version = all.at("call's version");
    all.call("output", &infer, &[], &request.encode_to_vec());
    request.model_name = all.at("call's model");
    all.call("model", &infer, &[], &request.encode_to_vec());
    for name in [
        "x-anything",
        "x-anything-bin",
        "grpc-timeout",
        "grpc-encoding",
        "user-agent",
        "x-convoy-priority",
        "baggage",
    ] {
        let text = all.at(&format!("metadata {name}"));
        all.call(name, &infer, &[(name, text.as_str())], &message);
    }
    let method = format!("{INFERENCE}/{}", all.at("method that is none"));
    all.call("method that is none", &method, &[], &message);
    let load = RepositoryModelLoadRequest { model_name: all.at("call to load"), ..Default::default() };
    all.call("load", &format!("{INFERENCE}/RepositoryModelLoad"), &[], &load.encode_to_vec());
    let service = all.at("service whose health is asked");
    let message = [&[0x0a, service.len() as u8][..], service.as_bytes()].concat();
    all.call("health", "/grpc.health.v1.Health/Check", &[], &message);
    let symbol = all.at("symbol that is looked up");
    let message = [&[0x22, symbol.len() as u8][..], symbol.as_bytes()].concat();
    all.call("reflection", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[], &message);
}

/// What another client asks, and is answered.
pub fn innocent(keys: &Keys) -> [Request; 5] {
    let bearer = format!("Bearer {}", keys.others);
    let headers = [("authorization", bearer.as_str())];
    let whole = |name: &str, bytes| Request { name: name.to_owned(), place: Place::Http, bytes };
    [
        whole("question", http("POST", "/faq", &headers, br#"{"question": "how to sort an array"}"#)),
        whole("photo", http("POST", "/classify", &headers, &photo(2))),
        whole("bad question", http("POST", "/faq", &headers, br#"{"question": 1}"#)),
        whole("version", http("GET", "/version", &headers, b"")),
        whole("readiness", http("GET", "/readyz", &headers, b"")),
    ]
}
