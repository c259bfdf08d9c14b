//! Every limit of size, at its edge and past it.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use convoy::{
    config::Config,
    grpc::proto::{
        InferTensorContents, ModelInferRequest, ModelInferResponse, model_infer_request::InferInputTensor,
    },
};
use flate2::{Compression, read::GzEncoder};
use serde_json::json;
use tonic::{Code, Request, Status, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::{
    support::{Server, config, photo},
    wire::{JSON, answer, black_png, connect, head, post},
};

const KIB: usize = 1 << 10;
const FAQ: &str = "/v2/models/faq/infer";

/// `text` with as many spaces as it takes to `length` bytes.
fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length, b' ');
    bytes
}

fn small_bodies() -> Config {
    let mut settings = config();
    settings.http.max_body = 64 * KIB;
    settings
}

#[test]
fn a_body_of_the_most_bytes_is_read_and_one_byte_more_is_not() {
    let server = Server::start(&small_bodies());
    let question = r#"{"question": "how to sort an array"}"#;
    assert_eq!(post(server.address, "/faq", JSON, &padded(question, 64 * KIB)).status, 200);
    let over = post(server.address, "/faq", JSON, &padded(question, 64 * KIB + 1));
    assert_eq!((over.status, over.code().as_str()), (413, "body_too_large"));

    // In chunks, so that the size shows only while reading.
    for (bytes, status) in [(64 * KIB, 200), (64 * KIB + 1, 413)] {
        let mut stream = connect(server.address);
        let begin = format!("POST /faq HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
        stream.write_all(begin.as_bytes()).unwrap();
        for chunk in padded(question, bytes).chunks(1000) {
            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
            stream.write_all(chunk).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        assert_eq!(answer(&mut stream).status, status, "{bytes} bytes in chunks");
    }
}

#[test]
fn a_compressed_body_of_the_most_bytes_is_read_and_one_byte_more_is_not() {
    let server = Server::start(&small_bodies());
    let request =
        r#"{"inputs": [{"name": "question", "shape": [1], "datatype": "BYTES", "data": ["how to sort"]}]}"#;
    for (bytes, status) in [(64 * KIB, 200), (64 * KIB + 1, 413)] {
        let plain = padded(request, bytes);
        let mut gzip = Vec::new();
        GzEncoder::new(&plain[..], Compression::fast()).read_to_end(&mut gzip).unwrap();
        let mut zlib = Vec::new();
        flate2::read::ZlibEncoder::new(&plain[..], Compression::fast()).read_to_end(&mut zlib).unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for (coding, packed) in [("gzip", gzip), ("deflate", zlib), ("zstd", zstd)] {
            let answer = post(server.address, FAQ, &format!("content-encoding: {coding}\r\n"), &packed);
            assert_eq!(answer.status, status, "{coding}, {bytes} bytes");
        }
    }
}

#[test]
fn a_request_of_the_most_images_is_scored_and_one_more_is_not() {
    let mut settings = config();
    settings.http.max_images = 3;
    let server = Server::start(&settings);
    let file = STANDARD.encode(photo(1));
    let ask = |count: usize| {
        let images: serde_json::Map<_, _> = (0..count).map(|at| (at.to_string(), json!(file))).collect();
        post(server.address, "/score", JSON, json!({ "input": images }).to_string().as_bytes())
    };
    assert_eq!(ask(3).status, 200);
    let over = ask(4);
    assert_eq!((over.status, over.code().as_str()), (413, "too_many_images"));
    assert!(over.json()["error"]["message"].as_str().unwrap().starts_with("4 images"));
    // Of two equal keys the last counts, and they are one image.
    let twice = format!(r#"{{"input": {{"a": "{file}", "b": "{file}", "c": "{file}", "a": "{file}"}}}}"#);
    assert_eq!(post(server.address, "/score", JSON, twice.as_bytes()).status, 200);
}

#[test]
fn a_photo_of_the_most_pixels_is_decoded_and_a_column_more_is_not() {
    let mut settings = config();
    settings.photos.as_mut().unwrap().classifier.decode.max_pixels = 1_000_000;
    let server = Server::start(&settings);
    assert_eq!(post(server.address, "/classify", "", &black_png(1000, 1000, false)).status, 200);
    let over = post(server.address, "/classify", "", &black_png(1001, 1000, false));
    assert_eq!((over.status, over.code().as_str()), (413, "image_too_large"));
}

#[test]
fn a_photo_of_the_most_working_memory_is_decoded_and_a_row_more_is_not() {
    const STATE: u64 = (16 << 20) + (2 << 20);
    let mut settings = config();
    settings.photos.as_mut().unwrap().classifier.decode.max_memory = STATE + 8 * 1_000_000;
    let server = Server::start(&settings);
    assert_eq!(post(server.address, "/classify", "", &black_png(1000, 1000, true)).status, 200);
    let over = post(server.address, "/classify", "", &black_png(1000, 1001, true));
    assert_eq!((over.status, over.code().as_str()), (413, "image_too_large"));
    assert!(over.json()["error"]["message"].as_str().unwrap().contains("--max-decode-mib"));
    assert_eq!(post(server.address, "/classify", "", &black_png(1000, 1001, false)).status, 200);
}

#[test]
fn of_a_long_question_the_first_32_kib_count() {
    let server = Server::start(&config());
    let ask = |text: String| {
        let answer = post(server.address, "/faq", JSON, json!({ "question": text }).to_string().as_bytes());
        assert_eq!(answer.status, 200);
        answer.json()["matches"].clone()
    };
    let question = format!("{:>1$}", "how to sort an array", 32 * KIB);
    let edge = ask(question.clone());
    assert_eq!(edge, ask("how to sort an array".to_owned()));
    assert_eq!(ask(format!("{question} how to reverse a linked list{}", " x".repeat(100_000))), edge);
}

#[test]
fn a_tensor_of_the_most_elements_is_scored_and_one_more_is_not() {
    let server = Server::start(&config());
    let ask = |count: usize| {
        let outputs = json!([{"name": "id"}]);
        let input =
            json!({"name": "question", "shape": [count], "datatype": "BYTES", "data": vec!["sort"; count]});
        post(server.address, FAQ, JSON, json!({"inputs": [input], "outputs": outputs}).to_string().as_bytes())
    };
    let most = ask(4096);
    assert_eq!(most.status, 200);
    assert_eq!(most.json()["outputs"][0]["data"].as_array().unwrap().len(), 4096);
    assert_eq!(ask(4097).status, 400);
}

#[test]
fn dimensions_tensors_and_outputs_are_counted_before_they_take_memory() {
    let server = Server::start(&config());
    let ask = |dimensions: usize, inputs: usize, outputs: usize| {
        let shape: Vec<_> = std::iter::once(1).chain(std::iter::repeat_n(1, dimensions - 1)).collect();
        let input = json!({"name": "question", "shape": shape, "datatype": "BYTES", "data": ["sort"]});
        let body = json!({"inputs": vec![input; inputs], "outputs": vec![json!({"name": "id"}); outputs]});
        let answer = post(server.address, FAQ, JSON, body.to_string().as_bytes());
        (answer.status, String::from_utf8(answer.body).unwrap())
    };
    assert_eq!(ask(2, 1, 1).0, 200);
    for (dimensions, inputs, outputs, most) in [(17, 1, 1, "16"), (1, 17, 1, "16"), (1, 1, 65, "64")] {
        let (status, said) = ask(dimensions, inputs, outputs);
        assert!(status == 400 && said.contains(&format!("at most {most}")), "{said}");
    }
}

async fn infer(server: &Server, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    let url = format!("http://{}", server.grpc.unwrap());
    let mut grpc = Grpc::new(Endpoint::from_shared(url).unwrap().connect().await.unwrap());
    grpc.ready().await.unwrap();
    let path = "/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
    Ok(grpc.unary(Request::new(request), path, ProstCodec::default()).await?.into_inner())
}

fn asking(elements: Vec<Vec<u8>>) -> ModelInferRequest {
    let shape = vec![elements.len() as i64];
    let contents = InferTensorContents {
        bytes_contents: elements.into_iter().map(Into::into).collect(),
        ..Default::default()
    };
    let input = InferInputTensor {
        name: "question".into(),
        datatype: "BYTES".into(),
        shape,
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: "faq".into(), inputs: vec![input], ..Default::default() }
}

#[tokio::test]
async fn a_message_of_the_most_bytes_is_read_and_one_byte_more_is_not() {
    let settings = Config { grpc_bind: Some("127.0.0.1:0".parse().unwrap()), ..small_bodies() };
    let server = Server::start(&settings);
    let around = prost::Message::encoded_len(&asking(vec![padded("sort", 60 * KIB)])) - 60 * KIB;
    let sized = |bytes: usize| asking(vec![padded("sort", bytes - around)]);
    assert_eq!(prost::Message::encoded_len(&sized(64 * KIB)), 64 * KIB);
    infer(&server, sized(64 * KIB)).await.unwrap();
    assert_eq!(infer(&server, sized(64 * KIB + 1)).await.unwrap_err().code(), Code::OutOfRange);
}

#[test]
fn a_body_may_be_silent_for_so_long_and_no_longer() {
    let mut settings = config();
    settings.memory.stall = Duration::from_secs(2);
    settings.http.read_timeout = Duration::from_secs(20);
    let server = Server::start(&settings);
    let body = br#"{"question": "how to sort an array"}"#;
    let begin = |stream: &mut std::net::TcpStream| {
        stream.write_all(head("/faq", body.len(), JSON).as_bytes()).unwrap();
    };
    let mut slow = connect(server.address);
    begin(&mut slow);
    // Longer than that in all.
    for part in body.chunks(3) {
        std::thread::sleep(Duration::from_millis(200));
        slow.write_all(part).unwrap();
    }
    assert_eq!(answer(&mut slow).status, 200, "slow, and never silent for long");
    let mut silent = connect(server.address);
    begin(&mut silent);
    silent.write_all(&body[..9]).unwrap();
    let since = Instant::now();
    let refused = answer(&mut silent);
    assert_eq!((refused.status, refused.code().as_str()), (408, "body_timeout"));
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("--body-stall-ms"));
    assert!(since.elapsed() < settings.http.read_timeout, "long before --read-timeout-ms");
}
