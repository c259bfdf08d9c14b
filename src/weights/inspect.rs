//! What is in a checkpoint file, for people: digest, network, tensors. Refusing is `vision`'s and `torch`'s.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};

use super::convert::SOURCE_KEY;
use super::digest::{self, Sha};
use super::torch::{Tensor, TorchError, TorchFile};
use crate::vision::arch::TensorSpec;
use crate::vision::weights::WeightsError;
use crate::vision::{Arch, Checkpoint};

/// Longest safetensors header that is read.
const MAX_HEADER: u64 = 4 << 20;

/// Why a file does not hold a network.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The system did not give the file.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A safetensors file that is no network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A `.pth` file that cannot be read.
    #[error(transparent)]
    Torch(#[from] TorchError),
    /// A sound `.pth` file whose names fit no known network.
    #[error("{} holds {tensors} tensors that fit no known network", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// How many tensors it has.
        tensors: usize,
    },
    /// A sound `.pth` file that is not quite the network.
    #[error("{} is not a {arch}: {tensor} is missing, unexpected or of another shape", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// The network.
        arch: Arch,
        /// The first tensor that differs.
        tensor: String,
    },
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The network.
    pub arch: Arch,
    /// Outputs of its last layer.
    pub classes: usize,
    /// The numbers are marked as random.
    pub random: bool,
    /// How many tensors the file has.
    pub tensors: usize,
    /// How many numbers they have together.
    pub elements: usize,
    /// Their element types, in no particular order.
    pub dtypes: Vec<String>,
    /// Which file the numbers were converted from, if they were.
    pub source: Option<String>,
}

/// The SHA-256 of a file.
///
/// # Errors
/// It cannot be read.
pub fn digest(path: &Path) -> Result<Sha, InspectError> {
    digest::of_file(path).map_err(|source| InspectError::Read { path: path.into(), source })
}

/// Checks every tensor of `path` and says what it holds.
///
/// # Errors
/// It is no complete network of usable numbers.
pub fn content(path: &Path, arch: Option<Arch>) -> Result<Content, InspectError> {
    match Checkpoint::open(path, arch) {
        Ok(checkpoint) => safetensors(path, checkpoint),
        Err(WeightsError::PyTorch { .. }) => pytorch(path, arch),
        Err(error) => Err(error.into()),
    }
}

/// Tensors, numbers and element types of a file.
type Counts = (usize, usize, Vec<String>);

fn safetensors(path: &Path, mut checkpoint: Checkpoint) -> Result<Content, InspectError> {
    checkpoint.network()?;
    let read = |source| InspectError::Read { path: path.into(), source };
    let metadata = header(path).map_err(read)?;
    let tensors = metadata.tensors();
    let shapes = tensors.values().map(|info| (info.dtype, info.shape.iter().product()));
    let source = metadata.metadata().as_ref().and_then(|about| about.get(SOURCE_KEY)).cloned();
    let (tensors, elements, dtypes) = sum(shapes);
    let info = checkpoint.info();
    Ok(Content {
        arch: info.arch,
        classes: info.classes,
        random: info.random,
        tensors,
        elements,
        dtypes,
        source,
    })
}

/// Reads the header that [`Checkpoint::open`] has just proven sound.
fn header(path: &Path) -> io::Result<Metadata> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 8];
    file.read_exact(&mut bytes)?;
    let length = bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    bytes.clear();
    file.take(length.min(MAX_HEADER)).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Compares names and shapes; whether every number can be used is found out by converting.
fn pytorch(path: &Path, arch: Option<Arch>) -> Result<Content, InspectError> {
    let file = TorchFile::open(path)?;
    let tensors: HashMap<&str, &Tensor> = file.tensors().iter().map(|t| (t.name.as_str(), t)).collect();
    let unknown = || InspectError::Unknown { path: path.into(), tensors: tensors.len() };
    let arch = arch.or_else(|| Arch::detect(|name| tensors.contains_key(name))).ok_or_else(unknown)?;
    let bias = arch.layout(1).pop().and_then(|bias| tensors.get(bias.name.as_str()).copied());
    let classes = bias.and_then(|bias| bias.shape.first()).copied().unwrap_or_default().max(1);
    let layout = arch.layout(classes);
    if let Some(tensor) = difference(&layout, &tensors) {
        return Err(InspectError::Differs { path: path.into(), arch, tensor });
    }
    let shapes = tensors.values().map(|tensor| (tensor.dtype, tensor.elements()));
    let (tensors, elements, dtypes) = sum(shapes);
    Ok(Content { arch, classes, random: false, tensors, elements, dtypes, source: None })
}

/// The first tensor in which a file differs from a layout.
fn difference(layout: &[TensorSpec], tensors: &HashMap<&str, &Tensor>) -> Option<String> {
    let expected: HashSet<&str> = layout.iter().map(|spec| spec.name.as_str()).collect();
    let wrong = |spec: &&TensorSpec| {
        let found = tensors.get(spec.name.as_str());
        found.map_or(!spec.is_counter(), |tensor| tensor.shape != spec.shape)
    };
    let unexpected =
        || tensors.keys().filter(|name| !expected.contains(*name)).min().map(|name| (*name).to_owned());
    layout.iter().find(wrong).map(|spec| spec.name.clone()).or_else(unexpected)
}

/// Counts tensors, numbers and types.
fn sum(shapes: impl Iterator<Item = (Dtype, usize)>) -> Counts {
    let (mut tensors, mut elements, mut dtypes) = (0, 0, BTreeSet::new());
    for (dtype, count) in shapes {
        tensors += 1;
        elements += count;
        dtypes.insert(format!("{dtype:?}"));
    }
    (tensors, elements, dtypes.into_iter().collect())
}
