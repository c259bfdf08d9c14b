//! What is announced and counted, as protobuf.

use super::proto::{
    DataType, InferBatchStatistics, InferStatistics, ModelConfig, ModelDynamicBatching, ModelInput,
    ModelMetadataResponse, ModelOutput, ModelStatistics, ModelTransactionPolicy, ModelVersionPolicy,
    ServerMetadataResponse, StatisticDuration, model_config::SchedulingChoice,
    model_metadata_response::TensorMetadata, model_version_policy,
};
use crate::v2::{
    Model,
    metadata::{self, PLATFORM, SERVER, Tensor},
    statistics::{self, Batch, Requests, Span},
};

pub(super) fn server(admin: bool) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: SERVER.to_owned(),
        version: metadata::server_version().to_owned(),
        extensions: metadata::extensions(admin).into_iter().map(str::to_owned).collect(),
    }
}

pub(super) fn metadata(model: &Model) -> ModelMetadataResponse {
    let tensor = |tensor: &Tensor| TensorMetadata {
        name: tensor.name.to_owned(),
        datatype: tensor.datatype.to_owned(),
        shape: tensor.shape(),
    };
    let described = model.describe();
    ModelMetadataResponse {
        name: described.name,
        versions: described.versions.into_iter().map(str::to_owned).collect(),
        platform: PLATFORM.to_owned(),
        inputs: described.inputs.iter().map(tensor).collect(),
        outputs: described.outputs.iter().map(tensor).collect(),
    }
}

pub(super) fn config(model: &Model) -> ModelConfig {
    let described = model.describe();
    let batching = ModelDynamicBatching { preferred_batch_size: vec![described.executed as i32] };
    let latest = model_version_policy::Latest { num_versions: 1 };
    ModelConfig {
        name: described.name,
        platform: PLATFORM.to_owned(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(model_version_policy::PolicyChoice::Latest(latest)),
        }),
        max_batch_size: described.max_batch_size as i32,
        input: described.inputs.iter().map(input).collect(),
        output: described.outputs.iter().map(output).collect(),
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(batching)),
        backend: PLATFORM.to_owned(),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
    }
}

fn input(tensor: &Tensor) -> ModelInput {
    ModelInput {
        name: tensor.name.to_owned(),
        data_type: data_type(tensor).into(),
        dims: dims(tensor),
        optional: tensor.optional,
    }
}

fn output(tensor: &Tensor) -> ModelOutput {
    ModelOutput { name: tensor.name.to_owned(), data_type: data_type(tensor).into(), dims: dims(tensor) }
}

fn dims(tensor: &Tensor) -> Vec<i64> {
    tensor.dims.iter().map(|side| *side as i64).collect()
}

fn data_type(tensor: &Tensor) -> DataType {
    match tensor.datatype {
        "UINT8" => DataType::TypeUint8,
        "INT64" => DataType::TypeInt64,
        "FP32" => DataType::TypeFp32,
        "BYTES" => DataType::TypeString,
        other => unreachable!("bug: no model has tensors of {other}"),
    }
}

pub(super) fn statistics(of: statistics::ModelStatistics) -> ModelStatistics {
    ModelStatistics {
        name: of.name,
        version: of.version.to_owned(),
        last_inference: of.last_inference,
        inference_count: of.inference_count,
        execution_count: of.execution_count,
        inference_stats: Some(requests(&of.inference_stats)),
        batch_stats: of.batch_stats.iter().map(batch).collect(),
    }
}

fn requests(of: &Requests) -> InferStatistics {
    InferStatistics {
        success: span(of.success),
        fail: span(of.fail),
        queue: span(of.queue),
        compute_input: span(of.compute_input),
        compute_infer: span(of.compute_infer),
        compute_output: span(of.compute_output),
        cache_hit: span(of.cache_hit),
        cache_miss: span(of.cache_miss),
    }
}

fn batch(of: &Batch) -> InferBatchStatistics {
    InferBatchStatistics {
        batch_size: of.batch_size as u64,
        compute_input: span(of.compute_input),
        compute_infer: span(of.compute_infer),
        compute_output: span(of.compute_output),
    }
}

fn span(of: Span) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: of.count, ns: of.ns })
}
