//! Infer requests as protobuf: the count before decoding, decoding, and what either model makes of its inputs.

use bytes::Bytes;
use convoy::grpc::{
    codec::Checked,
    message,
    proto::{
        InferParameter, InferTensorContents, ModelInferRequest,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};
use prost::Message;

pub fn run(data: &[u8]) {
    let checked = ModelInferRequest::check(data);
    if let Err(status) = &checked {
        super::bounded_text(status.message());
    }
    let decoded = ModelInferRequest::decode(Bytes::copy_from_slice(data));
    let Ok(request) = decoded else { return };
    let again = ModelInferRequest::decode(&request.encode_to_vec()[..]).expect("what is written is read");
    assert_eq!(format!("{request:?}").len(), format!("{again:?}").len(), "written and read again");
    if checked.is_err() {
        return;
    }
    match (message::read(request), message::read(again)) {
        (Ok(once), Ok(again)) => super::v2::check(once, again),
        (Err(error), Err(_)) => super::v2::invalid(&error),
        _ => panic!("two readings"),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let tensor = |name: &str, datatype: &str, contents| InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![1],
        parameters: [("x".to_owned(), parameter(ParameterChoice::BoolParam(true)))].into(),
        contents,
    };
    let elements = |elements: &[&'static [u8]]| InferTensorContents {
        bytes_contents: elements.iter().map(|element| Bytes::from_static(element)).collect(),
        ..InferTensorContents::default()
    };
    let numbers = InferTensorContents {
        uint_contents: vec![1, 255],
        fp32_contents: vec![0.5],
        ..InferTensorContents::default()
    };
    let wanted = InferRequestedOutputTensor {
        name: "probabilities".to_owned(),
        parameters: [("classification".to_owned(), parameter(ParameterChoice::Int64Param(2)))].into(),
    };
    let whole = ModelInferRequest {
        model_name: "faq".to_owned(),
        id: "1".to_owned(),
        parameters: [("timeout".to_owned(), parameter(ParameterChoice::Uint64Param(5)))].into(),
        inputs: vec![tensor("question", "BYTES", Some(elements(&[b"hello"])))],
        outputs: vec![wanted],
        ..ModelInferRequest::default()
    };
    let raw = ModelInferRequest {
        inputs: vec![tensor("image", "BYTES", None)],
        raw_input_contents: vec![Bytes::from_static(b"\x02\0\0\0ab")],
        ..ModelInferRequest::default()
    };
    let typed = ModelInferRequest {
        inputs: vec![tensor("input", "UINT8", Some(numbers))],
        ..ModelInferRequest::default()
    };
    [whole, raw, typed].iter().map(Message::encode_to_vec).collect()
}
