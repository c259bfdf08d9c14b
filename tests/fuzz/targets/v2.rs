//! Infer requests of the V2 protocol as REST carries them: headers, compression, JSON, binary tensors, and what either
//! model makes of its inputs.

use std::io::Read;

use bytes::Bytes;
use convoy::{
    http::{reply::Failure, v2::infer::Framing},
    v2::{Error, Input, Request, photos, questions, tensor::MAX_ELEMENTS},
};
use flate2::{
    Compression,
    read::{GzEncoder, ZlibEncoder},
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Bytes that a body may inflate to (`--max-body-mib` in a server).
const LIMIT: usize = 1 << 18;

/// One byte of coding, two of the length of the JSON, then the body.
pub fn run(data: &[u8]) {
    let Some(([coding, low, high], body)) = data.split_first_chunk::<3>() else { return };
    let mut headers = HeaderMap::new();
    let codings = ["gzip", "deflate", "zstd"];
    if let Some(coding) = codings.get(usize::from(*coding)) {
        headers.insert(http::header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    let json = u16::from_le_bytes([*low, *high]);
    if json != u16::MAX {
        headers.insert(HeaderName::from_static("inference-header-content-length"), HeaderValue::from(json));
    }
    let framing = Framing::of(&headers).expect("headers that are in order");
    let body = Bytes::copy_from_slice(body);
    let read =
        || framing.read(body.clone(), LIMIT, "image", super::charge()).map(|(asked, _charge)| asked.request);
    match (read(), read()) {
        (Ok(once), Ok(again)) => check(once, again),
        (Err(once), Err(again)) => {
            assert_eq!(once.message, again.message);
            refused(&once);
        }
        _ => panic!("two readings"),
    }
}

/// Both models look at the same request.
pub(super) fn check(once: Request, again: Request) {
    let weight = |inputs: &[Input]| inputs.iter().map(|input| input.data.weight()).sum::<usize>();
    assert_eq!(weight(&once.inputs), weight(&again.inputs), "two readings");
    let counted = |count: usize| assert!((1..=MAX_ELEMENTS).contains(&count), "{count} elements");
    match photos::items(once.inputs) {
        Ok(items) => counted(items.len()),
        Err(error) => invalid(&error),
    }
    match questions::texts(again.inputs) {
        Ok(texts) => counted(texts.len()),
        Err(error) => invalid(&error),
    }
}

pub(super) fn invalid(error: &Error) {
    assert!(error.kind().is_some(), "a client's mistake: {error}");
    super::bounded(error);
}

fn refused(failure: &Failure) {
    assert!(failure.status.is_client_error(), "{}", failure.status);
    super::bounded_text(&failure.message);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let plain = |json: u16, body: &[u8]| [&[9], &json.to_le_bytes()[..], body].concat();
    let text = |body: &str| plain(u16::MAX, body.as_bytes());
    let image = r#"{"id":"1","inputs":[{"name":"image","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":11}}],"outputs":[{"name":"probabilities","parameters":{"classification":2,"binary_data":true}}]}"#;
    let binary = plain(image.len() as u16, &[image.as_bytes(), b"\x03\0\0\0abc\0\0\0\0"].concat());
    let body = br#"{"parameters":{"timeout":9,"priority":2,"binary_data_output":true},"inputs":[{"name":"question","shape":[1,1],"datatype":"BYTES","data":[["hello"]]}]}"#;
    let gzip = read_all(GzEncoder::new(&body[..], Compression::fast()));
    let zlib = read_all(ZlibEncoder::new(&body[..], Compression::fast()));
    let zstd = zstd::encode_all(&body[..], 1).unwrap();
    let coded = |coding: u8, body: &[u8]| [&[coding, 0xff, 0xff], body].concat();
    vec![
        text(r#"{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":["aGVsbG8="]}]}"#),
        text(
            r#"{"inputs":[{"name":"input","shape":[1,224,224,3],"datatype":"UINT8","data":[[1,2],[255]]}]}"#,
        ),
        text(
            r#"{"inputs":[{"name":"input","shape":[1,3,224,224],"datatype":"FP32","data":[0.5,-1,1e3,true]}]}"#,
        ),
        text(
            r#"{"inputs":[{"name":"input","shape":[1],"datatype":"FP16","parameters":{"shared_memory_region":"r"}}]}"#,
        ),
        plain(0, b"raw"),
        binary,
        coded(0, &gzip),
        coded(1, &zlib),
        coded(2, &zstd),
    ]
}

fn read_all(mut source: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).unwrap();
    bytes
}
