//! What the server and its models announce: extensions, tensors, configuration. Only what works is said to.

use super::{Model, VERSION, photos, questions, tensor::MAX_ELEMENTS};

/// The name of the server.
pub const SERVER: &str = "convoy";

/// What models run on, as platform and as backend.
pub const PLATFORM: &str = "convoy";

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
pub struct Tensor {
    /// Its name.
    pub name: &'static str,
    /// As requests name it; configurations have names of their own.
    pub datatype: &'static str,
    /// Without the batch.
    pub dims: Vec<u64>,
    /// Whether a request may do without.
    pub optional: bool,
}

impl Tensor {
    /// Its shape with the batch, whose size is the client's, as first dimension.
    pub fn shape(&self) -> Vec<i64> {
        [-1].into_iter().chain(self.dims.iter().map(|side| *side as i64)).collect()
    }
}

/// What a model announces.
pub struct Description {
    /// Its name.
    pub name: String,
    /// All there are.
    pub versions: [&'static str; 1],
    /// What it takes.
    pub inputs: Vec<Tensor>,
    /// What it answers.
    pub outputs: Vec<Tensor>,
    /// Most elements of a request.
    pub max_batch_size: usize,
    /// Most elements executed at once.
    pub executed: usize,
}

/// The version of the server.
pub fn server_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The extensions of a server; the model repository works only where admin endpoints are on.
pub fn extensions(admin: bool) -> Vec<&'static str> {
    EXTENSIONS.into_iter().chain(admin.then_some("model_repository")).collect()
}

impl Model {
    /// What it announces.
    pub fn describe(&self) -> Description {
        let (inputs, outputs, executed) = match self {
            Self::Photos(photos) => {
                (photos::inputs(), photos::outputs(photos), photos.classifier.costs().max_batch())
            }
            Self::Questions(side) => {
                (questions::inputs(), questions::outputs(side), side.queue.costs().max_batch())
            }
        };
        Description {
            name: self.name().to_owned(),
            versions: [VERSION],
            inputs,
            outputs,
            max_batch_size: MAX_ELEMENTS,
            executed,
        }
    }
}
