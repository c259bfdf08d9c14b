//! The shapes of the V2 protocol's requests and answers, for the document only: the protocol's own code writes most of them
//! freely. `tests/openapi.rs` holds them against real answers.

#![allow(dead_code, reason = "only their schemas are of use")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What went wrong.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Error")]
pub(super) struct Failed {
    error: String,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Server")]
pub(super) struct Server {
    name: String,
    version: String,
    extensions: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Live")]
pub(super) struct Live {
    live: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Both members, because clients disagree on which one is looked at.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Ready")]
pub(super) struct Ready {
    live: bool,
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2ModelReady")]
pub(super) struct ModelReady {
    name: String,
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Models")]
pub(super) struct Models {
    models: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Model")]
pub(super) struct Model {
    name: String,
    versions: Vec<String>,
    platform: String,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// A tensor that a model takes or answers.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Tensor")]
struct Tensor {
    name: String,
    datatype: String,
    /// With the batch, whose size is the client's, as -1 in front.
    shape: Vec<i64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Config")]
pub(super) struct Config {
    name: String,
    platform: String,
    backend: String,
    version_policy: Map<String, Value>,
    /// Photos or questions that a request may hold.
    max_batch_size: u64,
    input: Vec<ConfigTensor>,
    output: Vec<ConfigTensor>,
    dynamic_batching: Batching,
    model_transaction_policy: Map<String, Value>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2ConfigTensor")]
struct ConfigTensor {
    name: String,
    data_type: String,
    dims: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    optional: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Batching")]
struct Batching {
    /// What is executed at once.
    preferred_batch_size: Vec<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Statistics")]
pub(super) struct Statistics {
    model_stats: Vec<ModelStatistics>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2ModelStatistics")]
struct ModelStatistics {
    name: String,
    version: String,
    /// Milliseconds since 1970; 0 before the first.
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: RequestStatistics,
    response_stats: BTreeMap<String, Span>,
    batch_stats: Vec<BatchStatistics>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2RequestStatistics")]
struct RequestStatistics {
    success: Span,
    fail: Span,
    queue: Span,
    compute_input: Span,
    compute_infer: Span,
    compute_output: Span,
    cache_hit: Span,
    cache_miss: Span,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2BatchStatistics")]
struct BatchStatistics {
    batch_size: u64,
    compute_input: Span,
    compute_infer: Span,
    compute_output: Span,
}

/// How often, and how long in all.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Span")]
struct Span {
    count: u64,
    ns: u64,
}

/// Tensors to score. Bytes of binary tensors follow the JSON in the order of `inputs`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "V2InferRequest")]
pub(super) struct Infer {
    /// Echoed.
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    inputs: Vec<Input>,
    /// All where it is missing.
    outputs: Option<Vec<Wanted>>,
}

/// Others are ignored.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "V2Parameters")]
struct Parameters {
    /// Microseconds after which the answer is worth nothing; 0 says nothing.
    timeout: Option<u64>,
    /// 1 is interactive, above it batch, 0 says nothing.
    priority: Option<u64>,
    /// Whether outputs that do not say are binary.
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "V2Input")]
struct Input {
    /// `image` or `input` of photos, `question` of the FAQ.
    name: String,
    /// `BYTES`, and of `input` `UINT8`.
    datatype: String,
    shape: Vec<u64>,
    /// Row by row, nested or not; photos as base64.
    data: Option<Vec<Value>>,
    #[serde(default)]
    parameters: InputParameters,
}

#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "V2InputParameters")]
struct InputParameters {
    /// Instead of `data`: how many bytes after the JSON are this tensor's.
    binary_data_size: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "V2Wanted")]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: WantedParameters,
}

#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "V2WantedParameters")]
struct WantedParameters {
    binary_data: Option<bool>,
    /// Of `probabilities`: the best so many classes as `value:index:label`.
    #[serde(default)]
    classification: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2InferAnswer")]
pub(super) struct Inferred {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Output")]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<Value>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2OutputParameters")]
struct OutputParameters {
    /// How many bytes after the JSON are this tensor's.
    binary_data_size: u64,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "V2IndexRequest")]
pub(super) struct IndexRequest {
    /// Only models that are ready.
    #[serde(default)]
    ready: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2IndexEntry")]
pub(super) struct IndexEntry {
    name: String,
    version: String,
    state: State,
    /// Empty where it is ready.
    reason: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(rename = "V2State")]
enum State {
    Ready,
    Unavailable,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Loaded")]
pub(super) struct Loaded {
    name: String,
    load: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "V2Unloaded")]
pub(super) struct Unloaded {
    name: String,
    unload: bool,
}
