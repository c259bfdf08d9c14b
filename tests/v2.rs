//! The V2 protocol over real sockets: what is announced, tensors both ways as JSON and as bytes, compression, terms,
//! refusals, statistics, and the unmodified clients that people use.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use convoy::http::Shutdown;
use flate2::{Compression, read::GzEncoder, read::ZlibEncoder};
use reqwest::{Client, RequestBuilder, Response, header};
use serde_json::{Value, json};
use support::{Server, config, faq_corpus, metric, photo};

const JSON_LENGTH: &str = "inference-header-content-length";
const PHOTOS: &str = "/v2/models/resnet18/infer";
const FAQ: &str = "/v2/models/faq/infer";

async fn body(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: not JSON: {text}")))
}

async fn get(server: &Server, path: &str) -> (u16, Value) {
    body(Client::new().get(server.url(path)).send().await.unwrap()).await
}

async fn post(server: &Server, path: &str, value: &Value) -> (u16, Value) {
    body(Client::new().post(server.url(path)).json(value).send().await.unwrap()).await
}

fn error(value: &Value) -> &str {
    value["error"].as_str().filter(|message| !message.is_empty()).unwrap_or_else(|| panic!("{value}"))
}

/// Elements of a BYTES tensor in the binary layout.
fn elements(all: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let element = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    all.iter().flat_map(|bytes| element(bytes.as_ref())).collect()
}

/// A request with one binary input; its other members from `more`.
fn binary(server: &Server, path: &str, input: &Value, more: &Value, tail: &[u8]) -> RequestBuilder {
    let mut input = input.clone();
    input["parameters"] = json!({"binary_data_size": tail.len()});
    let mut request = more.clone();
    request["inputs"] = json!([input]);
    let json = request.to_string();
    let whole = [json.as_bytes(), tail].concat();
    Client::new().post(server.url(path)).header(JSON_LENGTH, json.len()).body(whole)
}

fn images(count: usize) -> Value {
    json!({"name": "image", "shape": [count, 1], "datatype": "BYTES"})
}

/// The JSON of a binary answer, and the bytes of each output.
async fn unpack(response: Response) -> (Value, Vec<Vec<u8>>) {
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/octet-stream");
    let json: usize = response.headers()[JSON_LENGTH].to_str().unwrap().parse().unwrap();
    let whole = response.bytes().await.unwrap();
    let head: Value = serde_json::from_slice(&whole[..json]).unwrap();
    let mut rest = whole.slice(json..);
    let outputs = head["outputs"].as_array().unwrap().iter().map(|output| {
        assert!(output.get("data").is_none(), "{output}");
        let size = output["parameters"]["binary_data_size"].as_u64().unwrap() as usize;
        rest.split_to(size).to_vec()
    });
    let outputs = outputs.collect();
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
    (head, outputs)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

/// What `/classify` says of a photo: every class's probability, by index.
async fn classified(server: &Server, photo: Vec<u8>) -> Vec<f32> {
    let url = server.url("/classify?top=1000");
    let (_, value) = body(Client::new().post(url).body(photo).send().await.unwrap()).await;
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

#[tokio::test]
async fn what_is_served_is_announced() {
    let server = Server::start(&config());
    assert_eq!(get(&server, "/v2/health/live").await, (200, json!({"live": true})));
    assert_eq!(get(&server, "/v2/health/ready").await, (200, json!({"live": true, "ready": true})));
    assert_eq!(get(&server, "/v2/models").await, (200, json!({"models": ["resnet18", "faq"]})));
    let (status, identity) = get(&server, "/v2").await;
    assert_eq!((status, &identity["name"]), (200, &json!("convoy")));
    let extensions = identity["extensions"].as_array().unwrap();
    assert!(extensions.contains(&json!("binary_tensor_data")) && extensions.contains(&json!("statistics")));
    for unserved in ["model_repository", "sequence", "system_shared_memory", "cuda_shared_memory", "trace"] {
        assert!(!extensions.contains(&json!(unserved)), "{unserved}");
    }
    for path in ["/v2/models/resnet18", "/v2/models/resnet18/versions/1"] {
        let (status, metadata) = get(&server, path).await;
        let output = json!([{"name": "probabilities", "datatype": "FP32", "shape": [-1, 1000]}]);
        assert_eq!((status, &metadata["outputs"], &metadata["versions"]), (200, &output, &json!(["1"])));
        assert_eq!(metadata["inputs"][0], json!({"name": "image", "datatype": "BYTES", "shape": [-1, 1]}));
        assert_eq!(metadata["inputs"][1]["shape"], json!([-1, 224, 224, 3]));
        assert!(metadata["platform"].is_string());
    }
    let (_, metadata) = get(&server, "/v2/models/faq").await;
    assert_eq!(metadata["outputs"][0]["shape"], json!([-1, faq_corpus().originals.len()]));
    for model in ["resnet18", "faq"] {
        let base = format!("/v2/models/{model}");
        let (_, metadata) = get(&server, &base).await;
        let (status, configuration) = get(&server, &format!("{base}/config")).await;
        assert!(
            status == 200 && configuration["max_batch_size"].as_u64().unwrap() >= 1000,
            "{configuration}"
        );
        for (side, own) in [("input", "inputs"), ("output", "outputs")] {
            let names = |list: &Value| -> Vec<Value> {
                list.as_array().unwrap().iter().map(|tensor| tensor["name"].clone()).collect()
            };
            assert_eq!(names(&configuration[side]), names(&metadata[own]));
        }
        let ready = get(&server, &format!("{base}/versions/1/ready")).await;
        assert_eq!(ready, (200, json!({"name": model, "ready": true})));
    }
    let index = post(&server, "/v2/repository/index", &json!({"ready": true})).await.1;
    assert_eq!(index[0], json!({"name": "resnet18", "version": "1", "state": "READY", "reason": ""}));
    assert_eq!(index[1]["name"], "faq");
    let empty = Client::new().post(server.url("/v2/repository/index")).send().await.unwrap();
    assert_eq!(body(empty).await, (200, index));
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_the_protocols_words() {
    let server = Server::start(&config());
    for path in [
        "/v2/nothing",
        "/v2/models/resnet152",
        "/v2/models/resnet18/versions/2",
        "/v2/models/resnet18/versions/2/ready",
        "/v2/models/x/config",
        "/v2/models/x/stats",
        "/v2/systemsharedmemory/status",
    ] {
        let (status, value) = get(&server, path).await;
        assert_eq!(status, 404, "{path}");
        assert!(error(&value).len() > 10);
    }
    let wrong_verb = Client::new().get(server.url(PHOTOS)).send().await.unwrap();
    assert_eq!(wrong_verb.headers()[header::ALLOW], "POST");
    assert_eq!(body(wrong_verb).await.0, 405);
    assert_eq!(post(&server, "/v2/health/ready", &json!({})).await.0, 405);
    for (path, status) in [("/v2/models/x/infer", 404)] {
        let (got, value) = post(&server, path, &json!({})).await;
        assert_eq!(got, status, "{path}: {value}");
        error(&value);
    }
    let metrics = Client::new().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"route="v2_infer",status="404""#), "model names are no labels: {metrics}");
    assert!(!metrics.contains("resnet152"));
}

#[tokio::test]
async fn photos_in_json_get_what_classify_answers() {
    let server = Server::start(&config());
    let photos = [photo(1), photo(2)];
    let rows = [classified(&server, photo(1)).await, classified(&server, photo(2)).await];
    assert!(!alike(&rows[0], &rows[1]), "the photos are told apart");
    let encoded = photos.each_ref().map(|photo| STANDARD.encode(photo));
    let [a, b] = &encoded;
    for (shape, data) in [(json!([2]), json!([a, b])), (json!([2, 1]), json!([[a], [b]]))] {
        let input = json!({"name": "image", "shape": shape, "datatype": "BYTES", "data": data});
        let asked = json!({"id": "seven", "inputs": [input], "parameters": {"unknown": [{"deep": 1}]}});
        let (status, value) = post(&server, PHOTOS, &asked).await;
        assert_eq!(status, 200, "{value}");
        assert_eq!((&value["model_name"], &value["id"]), (&json!("resnet18"), &json!("seven")));
        assert_eq!(value["model_version"], "1");
        let output = &value["outputs"][0];
        assert_eq!((&output["datatype"], &output["shape"]), (&json!("FP32"), &json!([2, 1000])));
        let data: Vec<f32> = serde_json::from_value(output["data"].clone()).unwrap();
        assert!(alike(&data[..1000], &rows[0]) && alike(&data[1000..], &rows[1]));
    }
}

#[tokio::test]
async fn binary_tensors_go_both_ways() {
    let server = Server::start(&config());
    let (one, two) = (classified(&server, photo(3)).await, classified(&server, photo(4)).await);
    let tail = elements(&[photo(3), photo(4)]);
    let all = json!({"parameters": {"binary_data_output": true}});
    let (head, outputs) =
        unpack(binary(&server, PHOTOS, &images(2), &all, &tail).send().await.unwrap()).await;
    assert_eq!((&head["outputs"][0]["shape"], head.get("id")), (&json!([2, 1000]), None));
    let rows = floats(&outputs[0]);
    assert!(alike(&rows[..1000], &one) && alike(&rows[1000..], &two));
    // What an output says of itself counts more than what the request says.
    let json_only = json!({
        "parameters": {"binary_data_output": true},
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": false}}],
    });
    let response = binary(&server, PHOTOS, &images(2), &json_only, &tail).send().await.unwrap();
    assert!(!response.headers().contains_key(JSON_LENGTH));
    let (status, value) = body(response).await;
    assert_eq!((status, value["outputs"][0]["data"].as_array().unwrap().len()), (200, 2000));
    // The header may be there although everything is JSON.
    let asked =
        json!({"inputs": [{"name": "question", "shape": [1], "datatype": "BYTES", "data": ["sort"]}]});
    let text = asked.to_string();
    let all_json = Client::new().post(server.url(FAQ)).header(JSON_LENGTH, text.len()).body(text);
    assert_eq!(body(all_json.send().await.unwrap()).await.0, 200);
}

#[tokio::test]
async fn a_photo_alone_is_a_request() {
    let server = Server::start(&config());
    let row = classified(&server, photo(5)).await;
    let raw = Client::new().post(server.url(PHOTOS)).header(JSON_LENGTH, 0).body(photo(5));
    let (head, outputs) = unpack(raw.send().await.unwrap()).await;
    assert_eq!(head["outputs"][0]["shape"], json!([1, 1000]));
    assert!(alike(&floats(&outputs[0]), &row));
    let original = &faq_corpus().originals[3];
    let raw = Client::new().post(server.url(FAQ)).header(JSON_LENGTH, 0).body(original.text.clone());
    let (head, outputs) = unpack(raw.send().await.unwrap()).await;
    assert_eq!(head["outputs"][2]["name"], "id");
    assert_eq!(outputs[2], original.id.to_le_bytes());
    assert_eq!(outputs[3], elements(&[&original.text]));
}

#[tokio::test]
async fn cropped_pixels_are_classified_without_decoding() {
    let server = Server::start(&config());
    // A photo that is a square of the right side already: what the decoder makes of it are its own pixels.
    let square = image::RgbImage::from_fn(224, 224, |x, y| {
        image::Rgb([(x * 7 % 256) as u8, (y * 3 % 256) as u8, (x * y % 256) as u8])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    square.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let url = server.url("/classify?top=1000&transform=stretch");
    let (_, value) = body(Client::new().post(url).body(png.into_inner()).send().await.unwrap()).await;
    let best = value["predictions"][0].clone();
    let pixels = square.into_raw();
    let input = json!({"name": "input", "shape": [2, 224, 224, 3], "datatype": "UINT8"});
    let two = [pixels.clone(), vec![128; pixels.len()]].concat();
    let ranked = json!({"outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]});
    let (status, value) = body(binary(&server, PHOTOS, &input, &ranked, &two).send().await.unwrap()).await;
    assert_eq!(status, 200, "{value}");
    let class: Vec<&str> = value["outputs"][0]["data"][0].as_str().unwrap().splitn(3, ':').collect();
    assert_eq!((class[1], class[2]), (best["class"].to_string().as_str(), best["label"].as_str().unwrap()));
    assert!((class[0].parse::<f64>().unwrap() - best["probability"].as_f64().unwrap()).abs() < 1e-4);
    let json = json!({"inputs": [{"name": "input", "shape": [1, 224, 224, 3], "datatype": "UINT8", "data": pixels}],
        "outputs": ranked["outputs"]});
    let (status, value) = post(&server, PHOTOS, &json).await;
    assert_eq!(status, 200, "{value}");
    assert!(value["outputs"][0]["data"][0].as_str().unwrap().contains(&format!(":{}:", best["class"])));
}

#[tokio::test]
async fn numbers_that_the_client_normalised_are_classified_as_they_are() {
    let server = Server::start(&config());
    let size = 224 * 224;
    let pixels: Vec<u8> = (0..3 * size).map(|at| (at * 31 % 251) as u8).collect();
    let (mean, sd) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let value = |at: usize| (f32::from(pixels[at]) / 255.0 - mean[at % 3]) / sd[at % 3];
    let interleaved: Vec<f32> = (0..3 * size).map(value).collect();
    let planar: Vec<f32> = (0..3 * size).map(|at| interleaved[at % size * 3 + at / size]).collect();
    let wide = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let half = planar.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
    let ask = async |datatype: &str, shape: [usize; 4], bytes: Vec<u8>| {
        let input = json!({"name": "input", "shape": shape, "datatype": datatype});
        let asked = binary(&server, PHOTOS, &input, &json!({}), &bytes).send().await.unwrap();
        let (status, value) = body(asked).await;
        assert_eq!(status, 200, "{value}");
        let row = value["outputs"][0]["data"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap());
        row.collect::<Vec<_>>()
    };
    let expected = ask("UINT8", [1, 224, 224, 3], pixels.clone()).await;
    let near = |row: &[f64], by: f64| row.iter().zip(&expected).all(|(a, b)| (a - b).abs() < by);
    assert!(expected.iter().sum::<f64>() > 0.999);
    assert!(near(&ask("FP32", [1, 224, 224, 3], wide(&interleaved)).await, 1e-6));
    assert!(near(&ask("FP32", [1, 3, 224, 224], wide(&planar)).await, 1e-6));
    assert!(near(&ask("FP16", [1, 3, 224, 224], half).await, 1e-2));
    let two = ask("FP32", [2, 3, 224, 224], [wide(&planar), vec![0; 12 * size]].concat()).await;
    assert_eq!((two.len(), near(&two[..1000], 1e-6)), (2000, true));
    let input = json!({"name": "input", "shape": [1, 3, 224, 224], "datatype": "FP32", "data": planar});
    let (status, value) = post(&server, PHOTOS, &json!({"inputs": [input]})).await;
    assert_eq!(status, 200, "{value}");
    let row: Vec<f64> =
        value["outputs"][0]["data"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert!(near(&row, 1e-5));
    let nan = vec![0xff; 12 * size];
    let input = json!({"name": "input", "shape": [1, 3, 224, 224], "datatype": "FP32"});
    let (status, value) = body(binary(&server, PHOTOS, &input, &json!({}), &nan).send().await.unwrap()).await;
    assert_eq!((status, error(&value).contains("NaN")), (400, true), "{value}");
}

#[tokio::test]
async fn a_classification_is_sorted_and_labelled() {
    let server = Server::start(&config());
    let row = classified(&server, photo(6)).await;
    let ranked = |classes: u64| json!({"outputs": [{"name": "probabilities", "parameters": {"classification": classes}}]});
    let tail = elements(&[photo(6)]);
    let (_, value) = body(binary(&server, PHOTOS, &images(1), &ranked(3), &tail).send().await.unwrap()).await;
    let output = &value["outputs"][0];
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([1, 3])));
    let mut last = f32::INFINITY;
    for class in output["data"].as_array().unwrap() {
        let parts: Vec<&str> = class.as_str().unwrap().splitn(3, ':').collect();
        let (value, index): (f32, usize) = (parts[0].parse().unwrap(), parts[1].parse().unwrap());
        assert!(value <= last && (value - row[index]).abs() < 1e-4 && parts[2].starts_with('n'), "{class}");
        last = value;
    }
    let (_, value) =
        body(binary(&server, PHOTOS, &images(1), &ranked(5000), &tail).send().await.unwrap()).await;
    assert_eq!(value["outputs"][0]["shape"], json!([1, 1000]), "no more than there are");
    let (_, value) = body(binary(&server, PHOTOS, &images(1), &ranked(0), &tail).send().await.unwrap()).await;
    assert_eq!(value["outputs"][0]["datatype"], "FP32", "zero is none");
}

#[tokio::test]
async fn questions_get_the_outputs_that_they_ask_for() {
    let server = Server::start(&config());
    let corpus = faq_corpus();
    let originals = [&corpus.originals[0], &corpus.originals[7]];
    let texts = [originals[0].text.as_str(), originals[1].text.as_str(), "zzzzqqqq xkcdwv"];
    let input = json!({"name": "question", "shape": [3], "datatype": "BYTES", "data": texts});
    let (status, value) = post(&server, FAQ, &json!({"inputs": [input]})).await;
    assert_eq!(status, 200, "{value}");
    let output = |name: &str| {
        let all = value["outputs"].as_array().unwrap();
        all.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("{name}: {value}"))
    };
    assert_eq!(output("probabilities")["shape"], json!([3, corpus.originals.len()]));
    assert_eq!(output("id")["data"], json!([originals[0].id, originals[1].id, -1]));
    assert_eq!(output("match")["data"], json!([texts[0], texts[1], ""]));
    let answer = |at: usize| originals[at].answer.clone().unwrap_or_default();
    assert_eq!(output("answer")["data"], json!([answer(0), answer(1), ""]));
    let scopes: Vec<f32> = serde_json::from_value(output("scope")["data"].clone()).unwrap();
    assert!(scopes[0] > scopes[2] && scopes[1] > scopes[2], "{scopes:?}");
    let rows: Vec<f32> = serde_json::from_value(output("probabilities")["data"].clone()).unwrap();
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let width = corpus.originals.len();
    assert_eq!((best(&rows[..width]), best(&rows[width..2 * width])), (0, 7));
    let wanted = json!([{"name": "id"}, {"name": "probabilities", "parameters": {"classification": 2}}]);
    let (_, value) = post(&server, FAQ, &json!({"inputs": [input], "outputs": wanted})).await;
    assert_eq!((value["outputs"].as_array().unwrap().len(), &value["outputs"][0]["name"]), (2, &json!("id")));
    let class = value["outputs"][1]["data"][2].as_str().unwrap();
    assert!(class.ends_with(&format!(":7:{}", texts[1])), "{class}");
}

#[tokio::test]
async fn every_size_and_type_that_does_not_fit_is_a_400() {
    let server = Server::start(&config());
    let tail = elements(&[photo(0)]);
    let none = json!({});
    let named = |name: &str| json!({"name": name, "shape": [1], "datatype": "BYTES"});
    let with = |key: &str, value: Value| {
        let mut input = images(1);
        input[key] = value;
        input
    };
    for (why, input, more, tail) in [
        ("more elements than the shape says", images(1), &none, elements(&[photo(0), photo(0)])),
        ("fewer", images(2), &none, tail.clone()),
        ("a length past the end", images(1), &none, [&[255u8; 4][..], b"xyz"].concat()),
        ("a length cut short", images(1), &none, vec![1, 0]),
        ("no bytes", images(1), &none, Vec::new()),
        ("an empty batch", images(0), &none, Vec::new()),
        ("a huge batch", images(usize::MAX), &none, tail.clone()),
        ("a shape of another rank", with("shape", json!([1, 1, 1])), &none, tail.clone()),
        ("a negative side", with("shape", json!([-1])), &none, tail.clone()),
        ("no shape", with("shape", json!([])), &none, tail.clone()),
        ("another datatype", with("datatype", json!("FP32")), &none, tail.clone()),
        ("an unknown input", named("picture"), &none, tail.clone()),
        ("data twice", with("data", json!(["AAAA"])), &none, tail.clone()),
        ("an unknown output", images(1), &json!({"outputs": [{"name": "logits"}]}), tail.clone()),
        (
            "an output twice",
            images(1),
            &json!({"outputs": [{"name": "probabilities"}, {"name": "probabilities"}]}),
            tail.clone(),
        ),
        (
            "a priority that is no number",
            images(1),
            &json!({"parameters": {"priority": "high"}}),
            tail.clone(),
        ),
        ("an id that is no text", images(1), &json!({"id": 7}), tail.clone()),
        (
            "pixels of another size",
            json!({"name": "input", "shape": [1, 224, 224, 3], "datatype": "UINT8"}),
            &none,
            vec![0; 224 * 224 * 3 - 1],
        ),
        (
            "pixels of another shape",
            json!({"name": "input", "shape": [1, 3, 224, 224], "datatype": "UINT8"}),
            &none,
            vec![0; 224 * 224 * 3],
        ),
    ] {
        let (status, value) = body(binary(&server, PHOTOS, &input, more, &tail).send().await.unwrap()).await;
        assert_eq!(status, 400, "{why}: {value}");
        error(&value);
    }
    let client = Client::new();
    for (why, length, text) in [
        ("a header beyond the body", "100", "{}"),
        ("a negative header", "-1", "{}"),
        ("a header that is no number", "x", "{}"),
        ("a header that no machine can hold", "99999999999999999999999999", "{}"),
        ("JSON cut by the header", "5", r#"{"inputs": []}"#),
        ("no inputs", "14", r#"{"inputs": []}"#),
        ("no JSON", "4", "null"),
    ] {
        let asked = client.post(server.url(PHOTOS)).header(JSON_LENGTH, length).body(text);
        let (status, value) = body(asked.send().await.unwrap()).await;
        assert_eq!(status, 400, "{why}: {value}");
        error(&value);
    }
    let two = json!({"inputs": [with("data", json!(["AAAA"])), with("data", json!(["AAAA"]))]});
    assert_eq!(post(&server, PHOTOS, &two).await.0, 400);
    assert_eq!(post(&server, PHOTOS, &json!({"inputs": [with("data", json!(["?AAAAA"]))]})).await.0, 400);
    let invalid = binary(&server, FAQ, &named("question"), &none, &elements(&[[0xff, 0xfe]]));
    assert_eq!(body(invalid.send().await.unwrap()).await.0, 400, "a question that is not UTF-8");
    assert_eq!(
        post(&server, PHOTOS, &json!({"inputs": [with("data", json!(vec!["x"; 5000]))]})).await.0,
        400
    );
}

#[tokio::test]
async fn photos_that_cannot_be_read_keep_their_status() {
    let mut settings = config();
    settings.http.max_body = 64 << 10;
    let server = Server::start(&settings);
    for (photo, status) in [(b"just text".to_vec(), 415), (photo(0)[..2000].to_vec(), 422), (Vec::new(), 400)]
    {
        let tail = elements(&[photo]);
        let response = binary(&server, PHOTOS, &images(1), &json!({}), &tail).send().await.unwrap();
        let (got, value) = body(response).await;
        assert_eq!(got, status, "{value}");
        error(&value);
    }
    let large = Client::new().post(server.url(PHOTOS)).body(vec![b' '; 65 << 10]).send().await.unwrap();
    let (status, value) = body(large).await;
    assert_eq!(status, 413);
    error(&value);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzEncoder::new(bytes, Compression::fast()).read_to_end(&mut out).unwrap();
    out
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ZlibEncoder::new(bytes, Compression::fast()).read_to_end(&mut out).unwrap();
    out
}

#[tokio::test]
async fn bodies_may_be_compressed_both_ways() {
    let server = Server::start(&config());
    let row = classified(&server, photo(8)).await;
    let tail = elements(&[photo(8)]);
    let input = json!({"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": tail.len()}});
    let json = json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string();
    let plain = [json.as_bytes(), &tail].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    for (coding, packed) in [("gzip", gzip(&plain)), ("deflate", zlib(&plain)), ("zstd", zstd(&plain))] {
        let asked = Client::new()
            .post(server.url(PHOTOS))
            .header(header::CONTENT_ENCODING, coding)
            .header(header::ACCEPT_ENCODING, coding)
            .header(JSON_LENGTH, json.len())
            .body(packed);
        let response = asked.send().await.unwrap();
        assert_eq!(response.status(), 200, "{coding}");
        assert_eq!(response.headers()[header::CONTENT_ENCODING], coding);
        let length: usize = response.headers()[JSON_LENGTH].to_str().unwrap().parse().unwrap();
        let packed = response.bytes().await.unwrap();
        let mut whole = Vec::new();
        match coding {
            "gzip" => flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut whole).map(drop).unwrap(),
            "deflate" => {
                flate2::read::ZlibDecoder::new(&packed[..]).read_to_end(&mut whole).map(drop).unwrap()
            }
            _ => whole = zstd::decode_all(&packed[..]).unwrap(),
        }
        assert!(alike(&floats(&whole[length..]), &row), "{coding}");
    }
}

#[tokio::test]
async fn codings_are_bounded_and_others_refused() {
    let server = Server::start(&config());
    let send = |coding: &'static str, bytes: Vec<u8>| {
        Client::new().post(server.url(FAQ)).header(header::CONTENT_ENCODING, coding).body(bytes).send()
    };
    let bomb = vec![b' '; 9 << 20];
    for (coding, packed) in
        [("gzip", gzip(&bomb)), ("deflate", zlib(&bomb)), ("zstd", zstd::encode_all(&bomb[..], 1).unwrap())]
    {
        assert!(packed.len() < 1 << 20);
        let (status, value) = body(send(coding, packed.clone()).await.unwrap()).await;
        assert_eq!(status, 413, "{coding}: {value}");
        let (status, value) = body(send(coding, packed[..packed.len() / 2].to_vec()).await.unwrap()).await;
        assert!(status == 400 || status == 413, "{coding}: {value}");
        let (status, value) = body(send(coding, b"not compressed".to_vec()).await.unwrap()).await;
        assert_eq!(status, 400, "{coding}: {value}");
        error(&value);
    }
    let response = send("br", b"{}".to_vec()).await.unwrap();
    assert_eq!(response.headers()[header::ACCEPT_ENCODING], "gzip, deflate, zstd");
    let (status, value) = body(response).await;
    assert_eq!(status, 501);
    error(&value);
}

#[tokio::test]
async fn the_body_may_shorten_the_deadline_and_name_a_priority() {
    let server = Server::start(&config());
    let tail = elements(&[photo(9)]);
    let ask = |parameters: Value| {
        binary(&server, PHOTOS, &images(1), &json!({"parameters": parameters}), &tail).send()
    };
    let (status, value) = body(ask(json!({"timeout": 1})).await.unwrap()).await;
    assert_eq!(status, 504, "{value}");
    error(&value);
    for parameters in
        [json!({"timeout": 60_000_000, "priority": 1}), json!({"priority": 2}), json!({"timeout": 0})]
    {
        assert_eq!(body(ask(parameters).await.unwrap()).await.0, 200);
    }
    let late = binary(&server, PHOTOS, &images(1), &json!({}), &tail).header("x-convoy-deadline-ms", "0");
    let (status, value) = body(late.send().await.unwrap()).await;
    assert_eq!(status, 400);
    error(&value);
}

#[tokio::test]
async fn a_full_queue_refuses_before_the_body_and_says_when_to_come_back() {
    let mut settings = config();
    settings.photos.as_mut().unwrap().queue = 16;
    settings.memory.seat_wait = Duration::from_secs(60);
    settings.memory.stall = Duration::from_secs(60);
    let server = Server::start(&settings);
    let head = format!("POST {PHOTOS} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n");
    let held: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_for_depth(&server, 16.0).await;
    let raw = Client::new().post(server.url(PHOTOS)).header(JSON_LENGTH, 0).body(photo(0));
    let response = raw.send().await.unwrap();
    let wait: u64 = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    let (status, value) = body(response).await;
    assert_eq!(status, 429, "{value}");
    assert!((1..60).contains(&wait) && error(&value).contains("full"));
    drop(held);
    wait_for_depth(&server, 0.0).await;
}

/// Polls until so many seats are taken; fails after a long time.
async fn wait_for_depth(server: &Server, depth: f64) {
    let started = Instant::now();
    loop {
        let metrics = Client::new().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
        if metric(&metrics, r#"convoy_queue_depth{queue="classify"}"#) == depth {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "still waiting at\n{metrics}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A PNG of a few kilobytes that differs clearly from every other `index`.
fn small_photo(index: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(32, 32, |x, y| {
        image::Rgb([(x * (index + 1) * 9) as u8, (y * (10 - index) * 9) as u8, (index * 25) as u8])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

#[tokio::test]
async fn a_thousand_photos_in_one_request_are_answered_in_order() {
    let mut settings = config();
    let photos = settings.photos.as_mut().unwrap();
    (photos.max_batch, photos.queue) = (8, 64);
    settings.http.max_images = 64;
    (settings.http.deadline, settings.http.max_deadline) =
        (Duration::from_secs(600), Duration::from_secs(600));
    let server = Server::start(&settings);
    let files: Vec<_> = (0..10).map(small_photo).collect();
    let mut alone: Vec<Vec<f32>> = Vec::new();
    for file in &files {
        let row = classified(&server, file.clone()).await;
        assert!(alone.iter().all(|other| !alike(other, &row)), "the photos are told apart");
        alone.push(row);
    }
    let count = 1000;
    let order = |at: usize| (at * 7 + at / 10) % files.len();
    let tail = elements(&(0..count).map(|at| &files[order(at)]).collect::<Vec<_>>());
    let all = json!({"parameters": {"binary_data_output": true}});
    let asked = binary(&server, PHOTOS, &images(count), &all, &tail);
    let (head, outputs) = unpack(asked.send().await.unwrap()).await;
    assert_eq!(head["outputs"][0]["shape"], json!([count, 1000]));
    for (at, row) in floats(&outputs[0]).as_chunks::<1000>().0.iter().enumerate() {
        assert!(alike(row, &alone[order(at)]), "photo {at} has another one's answer");
    }
    let (_, stats) = get(&server, "/v2/models/resnet18/stats").await;
    let stats = &stats["model_stats"][0];
    let executions = stats["execution_count"].as_u64().unwrap();
    assert!(stats["inference_count"] == 1000 && (125..=1000).contains(&executions), "{stats}");
}

#[tokio::test]
async fn statistics_count_what_was_asked() {
    let server = Server::start(&config());
    let (_, before) = get(&server, "/v2/models/resnet18/stats").await;
    let before = &before["model_stats"][0];
    assert_eq!((&before["inference_count"], &before["last_inference"]), (&json!(0), &json!(0)));
    let tail = elements(&[photo(1), photo(2), photo(3)]);
    let asked = binary(&server, PHOTOS, &images(3), &json!({}), &tail).send().await.unwrap();
    assert_eq!(body(asked).await.0, 200);
    assert_eq!(post(&server, PHOTOS, &json!({"inputs": []})).await.0, 400);
    for path in ["/v2/models/resnet18/stats", "/v2/models/resnet18/versions/1/stats"] {
        let (status, after) = get(&server, path).await;
        let after = &after["model_stats"][0];
        assert_eq!((status, &after["name"], &after["version"]), (200, &json!("resnet18"), &json!("1")));
        assert_eq!(after["inference_count"], 3);
        assert!((1..=3).contains(&after["execution_count"].as_u64().unwrap()), "{after}");
        assert!(after["last_inference"].as_u64().unwrap() > 1_600_000_000_000);
        let stats = &after["inference_stats"];
        for part in ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"] {
            assert_eq!(stats[part]["count"], 1, "{part}: {after}");
        }
        for part in ["success", "fail", "compute_input", "compute_infer", "compute_output"] {
            assert!(stats[part]["ns"].as_u64().unwrap() > 0, "{part}: {after}");
        }
        for part in ["cache_hit", "cache_miss"] {
            assert!(stats[part]["count"].is_u64() && stats[part]["ns"].is_u64(), "{part}: {after}");
        }
        let whole = stats["success"]["ns"].as_u64().unwrap();
        assert!(stats["compute_infer"]["ns"].as_u64().unwrap() < whole, "{after}");
        let batches = after["batch_stats"].as_array().unwrap();
        let jobs: u64 = batches
            .iter()
            .map(|batch| {
                batch["batch_size"].as_u64().unwrap() * batch["compute_infer"]["count"].as_u64().unwrap()
            })
            .sum();
        assert_eq!(jobs, 3, "{after}");
    }
    let (_, all) = get(&server, "/v2/models/stats").await;
    assert_eq!(
        (&all["model_stats"][1]["name"], &all["model_stats"][1]["inference_count"]),
        (&json!("faq"), &json!(0))
    );
    let metrics = Client::new().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let of = |name: &str| metric(&metrics, name);
    assert_eq!(of(r#"nv_inference_count{model="resnet18",version="1"}"#), 3.0);
    assert_eq!(of(r#"nv_inference_request_success{model="resnet18",version="1"}"#), 1.0);
    assert_eq!(of(r#"nv_inference_request_failure{model="resnet18",version="1",reason="OTHER"}"#), 1.0);
    assert!(of(r#"nv_inference_compute_infer_duration_us{model="resnet18",version="1"}"#) > 0.0);
}

#[tokio::test]
async fn readiness_ends_with_the_drain() {
    let mut settings = config();
    settings.http.lame_duck = Duration::from_secs(4);
    let mut server = Server::start(&settings);
    server.ask_to_stop(Shutdown::Orchestrated);
    let started = Instant::now();
    let (mut status, mut value) = get(&server, "/v2/health/ready").await;
    while status == 200 && started.elapsed() < Duration::from_secs(3) {
        (status, value) = get(&server, "/v2/health/ready").await;
    }
    assert_eq!((status, &value["live"], &value["ready"]), (503, &json!(true), &json!(false)));
    let (status, value) = get(&server, "/v2/models/faq/ready").await;
    assert_eq!((status, &value["ready"]), (503, &json!(false)));
    let (_, index) = post(&server, "/v2/repository/index", &json!({})).await;
    assert!(index[0]["state"] == "UNAVAILABLE" && index[0]["reason"].as_str().unwrap().contains("draining"));
    assert_eq!(post(&server, "/v2/repository/index", &json!({"ready": true})).await.1, json!([]));
}

#[test]
fn tritons_own_python_client_works_unmodified() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.is_file(), "{} is missing: `make test` makes it", python.display());
    let server = Server::start(&config());
    let output = Command::new(python)
        .arg(root.join("tests/clients/v2.py"))
        .arg(server.address.to_string())
        .arg(root.join("weights/faq/questions.tsv"))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "tritonclient: ok\n");
}
