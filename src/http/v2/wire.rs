//! The JSON of an infer request and of its answer, and which bytes after it belong to which tensor.
//!
//! Pure: a body in, an [`Asked`] out; outputs in, a body out. What inputs mean to a model is not known here; the values of
//! tensors are `tensor`'s.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};

use super::{
    super::{json, reply::Failure},
    tensor::{Flat, Written},
};
use crate::v2::{
    self, Input, Output, Request, VERSION,
    request::{check_id, refuse_shared_memory, short},
    tensor::Data,
};

/// A request, taken apart.
#[derive(Debug)]
pub struct Asked {
    /// What it asks.
    pub request: Request,
    /// How it wants its answer.
    pub form: Form,
}

/// What a request says of the form of its answer.
#[derive(Debug, Clone, Default)]
pub struct Form {
    /// Echoed.
    id: Option<String>,
    /// Whether outputs that do not say are binary.
    binary: bool,
    /// Those that say.
    said: Vec<(String, bool)>,
}

impl Form {
    /// About as many bytes as it takes.
    pub(super) fn memory(&self) -> usize {
        let said = self.said.iter().map(|(name, _)| name.len()).sum::<usize>();
        self.id.as_ref().map_or(0, String::len) + said
    }

    fn is_binary(&self, output: &str) -> bool {
        self.said.iter().find(|(name, _)| name == output).map_or(self.binary, |(_, binary)| *binary)
    }
}

/// What a request says of itself; what is not known is ignored.
#[derive(Default, Deserialize)]
struct Parameters {
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    timeout: Option<u64>,
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    priority: Option<u64>,
    #[serde(default, deserialize_with = "json::unquoted")]
    binary_data_output: bool,
}

#[derive(Deserialize)]
struct WireRequest {
    id: Option<String>,
    #[serde(default, deserialize_with = "json::unquoted")]
    parameters: Parameters,
    #[serde(deserialize_with = "json::unquoted")]
    inputs: Few<WireInput, 16>,
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    outputs: Option<Few<WireWanted, 64>>,
}

/// A list of at most `MOST`, none of them strings: a tensor or a dimension takes many times the bytes that it is written in.
struct Few<T, const MOST: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor(PhantomData))
    }
}

struct FewVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for FewVisitor<T, MOST> {
    type Value = Few<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MOST}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Few<T, MOST>, A::Error> {
        let mut few = Vec::new();
        while let Some(json::Unquoted(item)) = items.next_element()? {
            if few.len() == MOST {
                return Err(A::Error::invalid_length(MOST + 1, &self));
            }
            few.push(item);
        }
        Ok(Few(few))
    }
}

#[derive(Deserialize)]
struct WireInput {
    name: String,
    datatype: String,
    #[serde(deserialize_with = "json::unquoted")]
    shape: Few<u64, 16>,
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    data: Option<Flat>,
    #[serde(default, deserialize_with = "json::unquoted")]
    parameters: InputParameters,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    binary_data_size: Option<usize>,
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct WireWanted {
    name: String,
    #[serde(default, deserialize_with = "json::unquoted")]
    parameters: WantedParameters,
}

#[derive(Default, Deserialize)]
struct WantedParameters {
    #[serde(default, deserialize_with = "json::unquoted_or_null")]
    binary_data: Option<bool>,
    #[serde(default, deserialize_with = "json::unquoted")]
    classification: usize,
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

impl Asked {
    /// Reads `body`, whose first `json` bytes are JSON; all are where `None`.
    ///
    /// # Errors
    /// 400 that says what does not fit.
    pub(super) fn read(body: &Bytes, json: Option<usize>) -> Result<Self, Failure> {
        let length = json.unwrap_or(body.len());
        if length > body.len() {
            let there = body.len();
            let message = format!("Inference-Header-Content-Length is {length}, the body has {there} bytes");
            return Err(Failure::invalid(message));
        }
        let request: WireRequest = json::whole(&body[..length]).map_err(|error| {
            Failure::unreadable(r#"{"inputs": [{"name", "shape", "datatype", "data"}]}"#, &error)
        })?;
        if let Some(id) = &request.id {
            check_id(id)?;
        }
        let mut rest = body.slice(length..);
        let inputs = request.inputs.0.into_iter().map(|input| input.with_bytes(&mut rest));
        let inputs = inputs.collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(Failure::invalid(format!("{} bytes follow the last binary tensor", rest.len())));
        }
        let Parameters { timeout, priority, binary_data_output } = request.parameters;
        let mut form = Form { id: request.id, binary: binary_data_output, said: Vec::new() };
        let mut wanted = Vec::new();
        for WireWanted { name, parameters } in request.outputs.map_or_else(Vec::new, |outputs| outputs.0) {
            refuse_shared_memory(parameters.shared_memory_region.is_some(), &name)?;
            form.said.extend(parameters.binary_data.map(|binary| (name.clone(), binary)));
            wanted.push(v2::Wanted { name, classification: parameters.classification });
        }
        let parameters = v2::Parameters { timeout, priority };
        Ok(Self { request: Request { parameters, inputs, wanted }, form })
    }

    /// A request whose whole body is the only element of the tensor `name`; all its outputs are binary.
    pub(super) fn raw(name: &str, body: Bytes) -> Self {
        let input = Input {
            name: name.to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
            data: Data::Elements(vec![body]),
        };
        let parameters = v2::Parameters::default();
        let request = Request { parameters, inputs: vec![input], wanted: Vec::new() };
        Self { request, form: Form { binary: true, ..Form::default() } }
    }
}

impl WireInput {
    /// Takes its bytes off the front of `rest`, where it says that they are there.
    fn with_bytes(self, rest: &mut Bytes) -> Result<Input, Failure> {
        let Self { name, datatype, shape, data, parameters } = self;
        refuse_shared_memory(parameters.shared_memory_region.is_some(), &name)?;
        let data = match (data, parameters.binary_data_size) {
            (Some(Flat(leaves)), None) => Data::Leaves(leaves),
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
        Ok(Input { name, datatype, shape: shape.0, data })
    }
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
    data: Option<Written<'a>>,
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
pub(super) fn render(model: &str, form: &Form, outputs: &[Output]) -> Rendered {
    let is_binary = |output: &Output| form.is_binary(output.name);
    let wire = outputs.iter().map(|output| {
        let binary = is_binary(output);
        let size = binary.then(|| OutputParameters { binary_data_size: output.values.binary_size() });
        WireOutput {
            name: output.name,
            datatype: output.values.datatype(),
            shape: &output.shape,
            parameters: size,
            data: (!binary).then_some(Written(&output.values)),
        }
    });
    let id = form.id.as_deref();
    let answer = WireAnswer { model_name: model, model_version: VERSION, id, outputs: wire.collect() };
    let mut body = serde_json::to_vec(&answer).expect("bug: wire types serialize");
    let json = outputs.iter().any(is_binary).then_some(body.len());
    for output in outputs.iter().filter(|output| is_binary(output)) {
        output.values.append_binary(&mut body);
    }
    Rendered { body, json }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::v2::tensor::Values;

    fn read(json: &Value, tail: &[u8]) -> Result<Asked, Failure> {
        let json = json.to_string();
        let body = Bytes::from([json.as_bytes(), tail].concat());
        Asked::read(&body, Some(json.len()))
    }

    fn input(parameters: &Value) -> Value {
        json!({"name": "a", "shape": [1], "datatype": "BYTES", "parameters": parameters})
    }

    #[test]
    fn binary_tensors_follow_in_the_order_of_the_inputs() {
        let (two, three) = (input(&json!({"binary_data_size": 2})), input(&json!({"binary_data_size": 3})));
        let request = read(&json!({"inputs": [two, three]}), b"xxyyy").unwrap();
        let bytes: Vec<_> = request.request.inputs.iter().map(|input| format!("{:?}", input.data)).collect();
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
        let many = |count: usize| vec![1; count];
        let shaped = |shape: Vec<u64>| json!({"inputs": [{"name": "a", "shape": shape, "datatype": "BYTES", "data": []}]});
        assert!(read(&shaped(many(16)), b"").is_ok());
        assert!(read(&shaped(many(17)), b"").unwrap_err().message.contains("at most 16"));
        assert!(Asked::read(&Bytes::from_static(b"{}"), Some(3)).unwrap_err().message.contains("3"));
        assert!(Asked::read(&Bytes::from_static(b"{}"), Some(usize::MAX)).is_err());
    }

    #[test]
    fn an_id_is_of_a_bounded_length() {
        let of = |length: usize| read(&json!({"id": "i".repeat(length), "inputs": []}), b"");
        assert_eq!(of(1024).unwrap().form.memory(), 1024);
        let failure = of(1025).unwrap_err();
        assert!(failure.status == 400 && failure.message.contains("at most 1024"), "{}", failure.message);
    }

    #[test]
    fn outputs_are_read_with_what_they_say_of_themselves() {
        let outputs = json!([{"name": "q", "parameters": {"classification": 2, "x": [1]}},
            {"name": "p", "parameters": {"binary_data": true}}]);
        let asked = read(&json!({"inputs": [], "outputs": outputs}), b"").unwrap();
        let wanted: Vec<_> =
            asked.request.wanted.iter().map(|output| (output.name.as_str(), output.classification)).collect();
        assert_eq!(wanted, [("q", 2), ("p", 0)]);
        assert_eq!((asked.form.is_binary("p"), asked.form.is_binary("q")), (true, false));
        let region = json!([{"name": "p", "parameters": {"shared_memory_region": "r"}}]);
        assert_eq!(read(&json!({"inputs": [], "outputs": region}), b"").unwrap_err().status, 400);
    }

    #[test]
    fn an_answer_carries_numbers_flat_or_behind_the_json() {
        let values = || Values::Fp32(vec![0.5, 0.25]);
        let output = |name| Output { name, shape: vec![1, 2], values: values() };
        let form = Form { id: Some("7".to_owned()), binary: false, said: vec![("p".to_owned(), true)] };
        let rendered = render("m", &form, &[output("p"), output("q")]);
        let json = rendered.json.unwrap();
        let head: Value = serde_json::from_slice(&rendered.body[..json]).unwrap();
        assert_eq!(head["id"], "7");
        assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 8);
        assert_eq!(
            (head["outputs"][0].get("data"), &head["outputs"][1]["data"]),
            (None, &json!([0.5, 0.25]))
        );
        assert_eq!(&rendered.body[json..], [0.5f32.to_le_bytes(), 0.25f32.to_le_bytes()].concat());
        assert_eq!(render("m", &Form::default(), &[output("q")]).json, None);
    }

    proptest! {
        #[test]
        fn any_body_is_survived(body: Vec<u8>, json: Option<usize>) {
            let _ = Asked::read(&body.into(), json);
        }
    }
}
