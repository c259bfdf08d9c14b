//! What is announced, as JSON.

use serde_json::{Value, json};

use crate::v2::{
    Model,
    metadata::{self, PLATFORM, SERVER, Tensor},
};

/// `GET /v2`.
pub(super) fn server(admin: bool) -> Value {
    json!({"name": SERVER, "version": metadata::server_version(), "extensions": metadata::extensions(admin)})
}

/// `GET /v2/models/{model}`.
pub(super) fn of(model: &Model) -> Value {
    let tensor =
        |tensor: &Tensor| json!({"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape()});
    let all = |tensors: &[Tensor]| tensors.iter().map(tensor).collect::<Vec<_>>();
    let described = model.describe();
    json!({
        "name": described.name,
        "versions": described.versions,
        "platform": PLATFORM,
        "inputs": all(&described.inputs),
        "outputs": all(&described.outputs),
    })
}

/// `GET /v2/models/{model}/config`: `max_batch_size` is what a request may hold, the preferred batch what is executed at once.
pub(super) fn config(model: &Model) -> Value {
    let all = |tensors: &[Tensor]| tensors.iter().map(tensor_config).collect::<Vec<_>>();
    let described = model.describe();
    json!({
        "name": described.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": described.max_batch_size,
        "input": all(&described.inputs),
        "output": all(&described.outputs),
        "dynamic_batching": {"preferred_batch_size": [described.executed]},
        "model_transaction_policy": {"decoupled": false},
    })
}

fn tensor_config(tensor: &Tensor) -> Value {
    let datatype = match tensor.datatype {
        "BYTES" => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    };
    let mut config = json!({"name": tensor.name, "data_type": datatype, "dims": tensor.dims});
    if tensor.optional {
        config["optional"] = true.into();
    }
    config
}
