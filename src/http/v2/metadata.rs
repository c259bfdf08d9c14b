//! What the server and its models announce: extensions, tensors, configuration. Only what works is said to.

use serde_json::{Value, json};

use super::{Model, VERSION, photos, questions, tensor::MAX_ELEMENTS};

/// The protocol's extensions that are served whole whatever the configuration.
const EXTENSIONS: [&str; 6] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
];

/// A tensor that a model takes or answers.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: &'static str,
    pub(super) datatype: &'static str,
    /// Without the batch.
    pub(super) dims: Vec<u64>,
    /// Whether a request may do without.
    pub(super) optional: bool,
}

impl Tensor {
    /// With the batch, whose size is the client's, as first dimension.
    fn metadata(&self) -> Value {
        let shape: Vec<i64> = [-1].into_iter().chain(self.dims.iter().map(|side| *side as i64)).collect();
        json!({"name": self.name, "datatype": self.datatype, "shape": shape})
    }

    fn config(&self) -> Value {
        let datatype = match self.datatype {
            "BYTES" => "TYPE_STRING".to_owned(),
            other => format!("TYPE_{other}"),
        };
        let mut config = json!({"name": self.name, "data_type": datatype, "dims": self.dims});
        if self.optional {
            config["optional"] = true.into();
        }
        config
    }
}

fn inputs(model: &Model) -> Vec<Tensor> {
    match model {
        Model::Photos(_) => photos::inputs(),
        Model::Questions(_) => questions::inputs(),
    }
}

fn outputs(model: &Model) -> Vec<Tensor> {
    match model {
        Model::Photos(photos) => photos::outputs(photos),
        Model::Questions(side) => questions::outputs(side),
    }
}

/// `GET /v2`; the model repository works only where admin endpoints are on.
pub(super) fn server(admin: bool) -> Value {
    let extensions: Vec<_> = EXTENSIONS.into_iter().chain(admin.then_some("model_repository")).collect();
    json!({"name": "convoy", "version": env!("CARGO_PKG_VERSION"), "extensions": extensions})
}

/// `GET /v2/models/{model}`.
pub(super) fn of(model: &Model) -> Value {
    let all = |tensors: Vec<Tensor>| tensors.iter().map(Tensor::metadata).collect::<Vec<_>>();
    json!({
        "name": model.name(),
        "versions": [VERSION],
        "platform": "convoy",
        "inputs": all(inputs(model)),
        "outputs": all(outputs(model)),
    })
}

/// `GET /v2/models/{model}/config`: `max_batch_size` is what a request may hold, the preferred batch what is executed at once.
pub(super) fn config(model: &Model) -> Value {
    let all = |tensors: Vec<Tensor>| tensors.iter().map(Tensor::config).collect::<Vec<_>>();
    let executed = match model {
        Model::Photos(photos) => photos.classifier.costs().max_batch(),
        Model::Questions(side) => side.queue.costs().max_batch(),
    };
    json!({
        "name": model.name(),
        "platform": "convoy",
        "backend": "convoy",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": MAX_ELEMENTS,
        "input": all(inputs(model)),
        "output": all(outputs(model)),
        "dynamic_batching": {"preferred_batch_size": [executed]},
        "model_transaction_policy": {"decoupled": false},
    })
}
