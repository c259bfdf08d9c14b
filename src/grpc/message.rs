//! Infer requests and answers, from protobuf and to it.

use std::collections::HashMap;

use bytes::Bytes;

use super::proto::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_infer_response::InferOutputTensor,
};
use crate::v2::{
    Error, Input, Output, Parameters, Request, VERSION, Wanted,
    request::{refuse_shared_memory, short},
    tensor::{Data, Leaves, Numbers},
};

/// Says of a tensor that its values lie in shared memory.
const REGION: &str = "shared_memory_region";

/// Bytes that take time to read.
pub(super) fn weight(message: &ModelInferRequest) -> usize {
    let numbers = |input: &InferInputTensor| {
        input.contents.as_ref().map_or(0, |c| c.uint_contents.len() + 4 * c.fp32_contents.len())
    };
    let raw: usize = message.raw_input_contents.iter().map(Bytes::len).sum();
    raw + message.inputs.iter().map(numbers).sum::<usize>()
}

/// What a message asks.
///
/// # Errors
/// It says what does not fit.
pub fn read(message: ModelInferRequest) -> Result<Request, Error> {
    let ModelInferRequest { parameters, inputs, outputs, raw_input_contents: raw, .. } = message;
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(Error::invalid(format!(
            "{} inputs, but {} raw_input_contents: there must be one an input",
            inputs.len(),
            raw.len()
        )));
    }
    let parameters =
        Parameters { timeout: number(&parameters, "timeout")?, priority: number(&parameters, "priority")? };
    let mut raw = raw.into_iter();
    let inputs = inputs.into_iter().map(|tensor| input(tensor, raw.next())).collect::<Result<_, _>>()?;
    let wanted = outputs.into_iter().map(wanted).collect::<Result<_, _>>()?;
    Ok(Request { parameters, inputs, wanted })
}

fn input(tensor: InferInputTensor, raw: Option<Bytes>) -> Result<Input, Error> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = tensor;
    refuse_shared_memory(parameters.contains_key(REGION), &name)?;
    let side = |side: i64| {
        u64::try_from(side)
            .map_err(|_negative| Error::invalid(format!("input `{}` has a negative side", short(&name))))
    };
    let shape = shape.into_iter().map(side).collect::<Result<_, _>>()?;
    let contents = contents.filter(|contents| *contents != InferTensorContents::default());
    let data = match (raw, contents) {
        (Some(raw), None) => Data::Binary(raw),
        (None, Some(contents)) => typed(contents),
        (Some(_), Some(_)) => {
            let message = format!("input `{}` has both contents and raw_input_contents", short(&name));
            return Err(Error::invalid(message));
        }
        (None, None) => {
            let message = format!(
                "input `{}` has no values: give raw_input_contents, or bytes_contents for BYTES, uint_contents for UINT8, fp32_contents for FP32",
                short(&name)
            );
            return Err(Error::invalid(message));
        }
    };
    Ok(Input { name, datatype, shape, data })
}

fn typed(contents: InferTensorContents) -> Data {
    let InferTensorContents { uint_contents: whole, fp32_contents: floats, bytes_contents: elements } =
        contents;
    if whole.is_empty() && floats.is_empty() {
        return Data::Elements(elements);
    }
    let (numbers, others) = match floats.is_empty() {
        true => {
            let mut numbers = Numbers::default();
            whole.iter().for_each(|number| numbers.push_whole(u64::from(*number)));
            (numbers, elements.len())
        }
        false => (Numbers::Floats(floats), whole.len() + elements.len()),
    };
    Data::Leaves(Leaves { texts: Vec::new(), numbers, others })
}

fn wanted(output: InferRequestedOutputTensor) -> Result<Wanted, Error> {
    let InferRequestedOutputTensor { name, parameters } = output;
    refuse_shared_memory(parameters.contains_key(REGION), &name)?;
    let classification = number(&parameters, "classification")?.unwrap_or(0);
    Ok(Wanted { name, classification: usize::try_from(classification).unwrap_or(usize::MAX) })
}

fn number(parameters: &HashMap<String, InferParameter>, name: &str) -> Result<Option<u64>, Error> {
    let Some(parameter) = parameters.get(name) else { return Ok(None) };
    let number = match parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(number).ok(),
        Some(ParameterChoice::Uint64Param(number)) => Some(number),
        _ => None,
    };
    let bad = || Error::invalid(format!("parameter `{name}` must be a whole number that is not negative"));
    number.map(Some).ok_or_else(bad)
}

/// The answer of `model`, its values raw.
pub(super) fn write(model: String, id: String, outputs: &[Output]) -> ModelInferResponse {
    let tensor = |output: &Output| InferOutputTensor {
        name: output.name.to_owned(),
        datatype: output.values.datatype().to_owned(),
        shape: output.shape.iter().map(|side| *side as i64).collect(),
    };
    let raw = |output: &Output| {
        let mut raw = Vec::new();
        output.values.append_binary(&mut raw);
        raw.into()
    };
    ModelInferResponse {
        outputs: outputs.iter().map(tensor).collect(),
        raw_output_contents: outputs.iter().map(raw).collect(),
        ..unanswered(model, id)
    }
}

/// An answer without any outputs.
pub(super) fn unanswered(model: String, id: String) -> ModelInferResponse {
    ModelInferResponse {
        model_name: model,
        model_version: VERSION.to_owned(),
        id,
        ..ModelInferResponse::default()
    }
}

/// A flag among the parameters of an answer.
pub(super) fn flag(value: bool) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(contents: Option<InferTensorContents>) -> InferInputTensor {
        InferInputTensor { name: "a".to_owned(), shape: vec![1], contents, ..Default::default() }
    }

    fn request(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Request, Error> {
        read(ModelInferRequest { inputs, raw_input_contents: raw, ..Default::default() })
    }

    #[test]
    fn values_are_raw_or_typed_and_never_both() {
        let contents = |numbers: &[u32], elements: &[&'static [u8]]| InferTensorContents {
            uint_contents: numbers.to_vec(),
            bytes_contents: elements.iter().map(|element| Bytes::from_static(element)).collect(),
            ..InferTensorContents::default()
        };
        let read = request(vec![tensor(None), tensor(None)], vec!["x".into(), "y".into()]).unwrap();
        assert_eq!(format!("{:?}", read.inputs[1].data), r#"Binary(b"y")"#);
        let read = request(vec![tensor(Some(contents(&[], &[b"x"])))], vec![]).unwrap();
        assert_eq!(format!("{:?}", read.inputs[0].data), r#"Elements([b"x"])"#);
        let leaves =
            |contents| match request(vec![tensor(Some(contents))], vec![]).unwrap().inputs.remove(0).data {
                Data::Leaves(Leaves { numbers, others, .. }) => (numbers, others),
                other => panic!("{other:?}"),
            };
        assert_eq!(leaves(contents(&[1, 255], &[])), (Numbers::Bytes(vec![1, 255]), 0));
        assert_eq!(leaves(contents(&[1, 256], &[b"x"])), (Numbers::Floats(vec![1.0, 256.0]), 1));
        let floats = InferTensorContents { fp32_contents: vec![0.5], ..contents(&[7], &[]) };
        assert_eq!(leaves(floats), (Numbers::Floats(vec![0.5]), 1));
        for (inputs, raw) in [
            (vec![tensor(None)], vec![]),
            (vec![tensor(None)], vec!["x".into(), "y".into()]),
            (vec![tensor(Some(contents(&[1], &[])))], vec!["x".into()]),
            (vec![InferInputTensor { shape: vec![-1], ..tensor(None) }], vec!["x".into()]),
        ] {
            assert!(request(inputs, raw).is_err());
        }
    }

    #[test]
    fn parameters_are_whole_numbers() {
        let of = |choice| {
            let parameter = InferParameter { parameter_choice: choice };
            number(&HashMap::from([("priority".to_owned(), parameter)]), "priority")
        };
        assert_eq!(of(Some(ParameterChoice::Int64Param(2))).unwrap(), Some(2));
        assert_eq!(of(Some(ParameterChoice::Uint64Param(u64::MAX))).unwrap(), Some(u64::MAX));
        for bad in [
            None,
            Some(ParameterChoice::Int64Param(-1)),
            Some(ParameterChoice::StringParam("1".to_owned())),
            Some(ParameterChoice::DoubleParam(1.0)),
        ] {
            assert!(of(bad).is_err());
        }
        assert_eq!(number(&HashMap::new(), "priority").unwrap(), None);
    }
}
