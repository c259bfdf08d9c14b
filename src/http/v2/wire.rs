//! The JSON of an infer request and of its answer, and which bytes after it belong to which tensor.
//!
//! Pure: a body in, a [`Request`] out; outputs in, a body out. What inputs mean to a model is not known here; the values of
//! tensors are [`super::tensor`]'s.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    super::reply::Failure,
    VERSION,
    tensor::{Data, Values},
};

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Request {
    /// Echoed.
    pub(super) id: Option<String>,
    pub(super) parameters: Parameters,
    pub(super) inputs: Vec<Input>,
    /// `None` asks for all.
    wanted: Option<Vec<Wanted>>,
}

/// What a request says of itself; what is not known is ignored.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Parameters {
    /// Microseconds; 0 says nothing.
    pub(super) timeout: Option<u64>,
    /// 1 is the most urgent, 0 says nothing.
    pub(super) priority: Option<u64>,
    /// Whether outputs that do not say are binary.
    #[serde(default)]
    binary_data_output: bool,
}

/// One input tensor.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<u64>,
    pub(super) data: Data,
}

#[derive(Deserialize)]
struct WireRequest {
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    inputs: Vec<WireInput>,
    outputs: Option<Vec<Wanted>>,
}

#[derive(Deserialize)]
struct WireInput {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    data: Option<Data>,
    #[serde(default)]
    parameters: InputParameters,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: WantedParameters,
}

#[derive(Debug, Default, Deserialize)]
struct WantedParameters {
    binary_data: Option<bool>,
    #[serde(default)]
    classification: usize,
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

/// One output that is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) name: &'static str,
    pub(super) binary: bool,
    /// As the best so many classes instead of as a tensor of numbers.
    pub(super) classes: Option<usize>,
}

impl Request {
    /// Reads `body`, whose first `json` bytes are JSON; all are where `None`.
    ///
    /// # Errors
    /// 400 that says what does not fit.
    pub(super) fn read(body: &Bytes, json: Option<usize>) -> Result<Self, Failure> {
        let json = json.unwrap_or(body.len());
        if json > body.len() {
            let length = body.len();
            let message = format!("Inference-Header-Content-Length is {json}, the body has {length} bytes");
            return Err(Failure::invalid(message));
        }
        let request: WireRequest = serde_json::from_slice(&body[..json]).map_err(|error| {
            Failure::invalid(format!(
                r#"expected {{"inputs": [{{"name", "shape", "datatype", "data"}}]}}: {error}"#
            ))
        })?;
        let mut rest = body.slice(json..);
        let inputs = request.inputs.into_iter().map(|input| input.with_bytes(&mut rest));
        let inputs = inputs.collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(Failure::invalid(format!("{} bytes follow the last binary tensor", rest.len())));
        }
        Ok(Self { id: request.id, parameters: request.parameters, inputs, wanted: request.outputs })
    }

    /// A request whose whole body is the only element of the tensor `name`; all its outputs are binary.
    pub(super) fn raw(name: &str, body: Bytes) -> Self {
        let input = Input {
            name: name.to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            data: Data::Element(body),
        };
        let parameters = Parameters { binary_data_output: true, ..Parameters::default() };
        Self { id: None, parameters, inputs: vec![input], wanted: None }
    }

    /// The outputs to answer, in the order asked for, of those in `known`; only `ranked` can be had as classes.
    ///
    /// # Errors
    /// 400 for outputs that are unknown or asked for twice, and for classes of one that has none.
    pub(super) fn picked(&self, known: &[&'static str], ranked: &str) -> Result<Vec<Picked>, Failure> {
        let binary = self.parameters.binary_data_output;
        let Some(wanted) = self.wanted.as_deref().filter(|wanted| !wanted.is_empty()) else {
            return Ok(known.iter().map(|name| Picked { name, binary, classes: None }).collect());
        };
        let mut picked: Vec<Picked> = Vec::new();
        for output in wanted {
            let named = known.iter().find(|name| **name == output.name).ok_or_else(|| {
                Failure::invalid(format!(
                    "unknown output `{}`; known: {}",
                    short(&output.name),
                    known.join(", ")
                ))
            })?;
            if picked.iter().any(|earlier| earlier.name == *named) {
                return Err(Failure::invalid(format!("output `{named}` is asked for twice")));
            }
            refuse_shared_memory(output.parameters.shared_memory_region.is_some(), named)?;
            let classes = Some(output.parameters.classification).filter(|classes| *classes > 0);
            if classes.is_some() && *named != ranked {
                return Err(Failure::invalid(format!(
                    "output `{named}` has no classification; `{ranked}` has"
                )));
            }
            let binary = output.parameters.binary_data.unwrap_or(binary);
            picked.push(Picked { name: named, binary, classes });
        }
        Ok(picked)
    }
}

impl WireInput {
    /// Takes its bytes off the front of `rest`, where it says that they are there.
    fn with_bytes(self, rest: &mut Bytes) -> Result<Input, Failure> {
        let Self { name, datatype, shape, data, parameters } = self;
        refuse_shared_memory(parameters.shared_memory_region.is_some(), &name)?;
        let data = match (data, parameters.binary_data_size) {
            (Some(data), None) => data,
            (None, Some(size)) if size <= rest.len() => Data::Binary(rest.split_to(size)),
            (None, Some(size)) => {
                let (name, left) = (short(&name), rest.len());
                let message =
                    format!("input `{name}` has binary_data_size {size}, the body only {left} bytes");
                return Err(Failure::invalid(message));
            }
            (Some(_), Some(_)) => {
                let message = format!("input `{}` has both data and binary_data_size", short(&name));
                return Err(Failure::invalid(message));
            }
            (None, None) => {
                let message = format!("input `{}` has neither data nor binary_data_size", short(&name));
                return Err(Failure::invalid(message));
            }
        };
        Ok(Input { name, datatype, shape, data })
    }
}

fn refuse_shared_memory(asked: bool, tensor: &str) -> Result<(), Failure> {
    match asked {
        true => Err(Failure::invalid(format!("`{}`: shared memory is not supported", short(tensor)))),
        false => Ok(()),
    }
}

/// A client's word, cut to a length fit for a message.
pub(super) fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

/// One output tensor.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) name: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
    pub(super) binary: bool,
}

#[derive(Serialize)]
struct WireAnswer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<WireOutput<'a>>,
}

#[derive(Serialize)]
struct WireOutput<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Values>,
}

#[derive(Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

/// An answer's body.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) body: Vec<u8>,
    /// The length of its JSON, where tensors follow it.
    pub(super) json: Option<usize>,
}

/// Writes the answer of `model`.
pub(super) fn render(model: &str, id: Option<&str>, outputs: &[Output]) -> Rendered {
    let wire = outputs.iter().map(|output| {
        let size = output.binary.then(|| OutputParameters { binary_data_size: output.values.binary_size() });
        WireOutput {
            name: output.name,
            datatype: output.values.datatype(),
            shape: &output.shape,
            parameters: size,
            data: (!output.binary).then_some(&output.values),
        }
    });
    let answer = WireAnswer { model_name: model, model_version: VERSION, id, outputs: wire.collect() };
    let mut body = serde_json::to_vec(&answer).expect("bug: wire types serialize");
    let json = outputs.iter().any(|output| output.binary).then_some(body.len());
    for output in outputs.iter().filter(|output| output.binary) {
        output.values.append_binary(&mut body);
    }
    Rendered { body, json }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(json: &Value, tail: &[u8]) -> Result<Request, Failure> {
        let json = json.to_string();
        let body = Bytes::from([json.as_bytes(), tail].concat());
        Request::read(&body, Some(json.len()))
    }

    fn input(parameters: &Value) -> Value {
        json!({"name": "a", "shape": [1], "datatype": "BYTES", "parameters": parameters})
    }

    #[test]
    fn binary_tensors_follow_in_the_order_of_the_inputs() {
        let (two, three) = (input(&json!({"binary_data_size": 2})), input(&json!({"binary_data_size": 3})));
        let request = read(&json!({"inputs": [two, three]}), b"xxyyy").unwrap();
        let bytes: Vec<_> = request.inputs.iter().map(|input| format!("{:?}", input.data)).collect();
        assert_eq!(bytes, [r#"Binary(b"xx")"#, r#"Binary(b"yyy")"#]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let sized = |size: u64| json!({"inputs": [input(&json!({"binary_data_size": size}))]});
        for (json, tail) in [
            (sized(3), &b"xx"[..]),
            (sized(2), b"xxx"),
            (sized(u64::MAX), b"xx"),
            (json!({"inputs": [input(&json!({}))]}), b""),
            (json!({"inputs": []}), b"x"),
            (json!({}), b""),
            (json!({"inputs": [{"name": "a", "shape": [-1], "datatype": "BYTES", "data": []}]}), b""),
            (json!({"inputs": [input(&json!({"shared_memory_region": "r"}))]}), b""),
        ] {
            assert_eq!(read(&json, tail).unwrap_err().status, 400, "{json}");
        }
        assert!(Request::read(&Bytes::from_static(b"{}"), Some(3)).unwrap_err().message.contains("3"));
        assert!(Request::read(&Bytes::from_static(b"{}"), Some(usize::MAX)).is_err());
    }

    #[test]
    fn outputs_are_picked_in_the_order_asked_for() {
        let request = |outputs: Value| read(&json!({"inputs": [], "outputs": outputs}), b"").unwrap();
        let picked = |outputs| request(outputs).picked(&["p", "q"], "p");
        let plain = |name| Picked { name, binary: false, classes: None };
        assert_eq!(picked(json!(null)).unwrap(), [plain("p"), plain("q")]);
        assert_eq!(picked(json!([{"name": "q"}, {"name": "p"}])).unwrap(), [plain("q"), plain("p")]);
        let ranked = picked(json!([{"name": "p", "parameters": {"classification": 2, "x": [1]}}])).unwrap();
        assert_eq!(ranked, [Picked { classes: Some(2), ..plain("p") }]);
        for bad in [
            json!([{"name": "r"}]),
            json!([{"name": "p"}, {"name": "p"}]),
            json!([{"name": "q", "parameters": {"classification": 1}}]),
        ] {
            assert!(picked(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_carries_numbers_flat_or_behind_the_json() {
        let values = || Values::Fp32(vec![0.5, 0.25]);
        let output = |name, binary| Output { name, shape: vec![1, 2], values: values(), binary };
        let rendered = render("m", Some("7"), &[output("p", true), output("q", false)]);
        let json = rendered.json.unwrap();
        let head: Value = serde_json::from_slice(&rendered.body[..json]).unwrap();
        assert_eq!(head["id"], "7");
        assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 8);
        assert_eq!(
            (head["outputs"][0].get("data"), &head["outputs"][1]["data"]),
            (None, &json!([0.5, 0.25]))
        );
        assert_eq!(&rendered.body[json..], [0.5f32.to_le_bytes(), 0.25f32.to_le_bytes()].concat());
        assert_eq!(render("m", None, &[output("q", false)]).json, None);
    }

    proptest! {
        #[test]
        fn any_body_is_survived(body: Vec<u8>, json: Option<usize>) {
            let _ = Request::read(&body.into(), json);
        }
    }
}
