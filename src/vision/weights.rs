//! Opens a checkpoint (safetensors, the publisher's names, f32, f16 or bf16) and proves that it is the network asked for
//! before any number is used.
//!
//! The file is not trusted: the header is bounded, nothing is allocated for more bytes than the file has, and no
//! content makes this panic. Tensors are read one at a time, so that loading costs the memory of the network once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::arch::{Arch, TensorSpec};
use super::fold::{Network, TensorSource};

/// Metadata key that marks a checkpoint as random: its labels mean nothing.
pub const RANDOM_KEY: &str = "convoy.random";
/// Metadata key with a remark that belongs to the weights.
const NOTE_KEY: &str = "note";
/// Characters of a name or a shape in the file that an error repeats.
const MAX_SHOWN: usize = 100;
/// The header of a ResNet-152 is about 0.1 MB.
const MAX_HEADER: u64 = 4 << 20;

/// Why a checkpoint was refused. Every variant names the file, and its text says what to do next.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum WeightsError {
    /// The system did not give the file, or stopped giving it.
    #[error("cannot read weights {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A folder or a device.
    #[error("weights {} is not a regular file: give the path of one .safetensors file", path.display())]
    NotAFile { path: PathBuf },
    /// Zero bytes.
    #[error("weights {} is empty: fetch or write it again", path.display())]
    Empty { path: PathBuf },
    /// Shorter than its own header says.
    #[error("weights {} is truncated: {actual} bytes of {expected}; fetch it again", path.display())]
    Truncated { path: PathBuf, expected: u64, actual: u64 },
    /// Longer than its own header says.
    #[error("weights {} is damaged: {actual} bytes where its header says {expected}; fetch it again", path.display())]
    Oversized { path: PathBuf, expected: u64, actual: u64 },
    /// A zip or pickle, as `torch.save` writes.
    #[error("weights {} is a PyTorch pickle: convert it to safetensors (safetensors.torch.save_file)", path.display())]
    PyTorch { path: PathBuf },
    /// The first bytes are no safetensors header.
    #[error("weights {} is not a safetensors file", path.display())]
    NotSafetensors { path: PathBuf },
    /// The header is no valid safetensors header.
    #[error("weights {} has a damaged safetensors header; fetch it again", path.display())]
    Header { path: PathBuf, source: serde_json::Error },
    /// No architecture was given and the names fit none.
    #[error(
        "weights {} holds {tensors} tensors whose names fit none of {}; give the architecture to learn what is missing",
        path.display(), Arch::names()
    )]
    UnknownArchitecture { path: PathBuf, tensors: usize },
    /// Names or shapes are not those of the architecture.
    #[error("weights {} is not a {}: {mismatch}", path.display(), mismatch.arch)]
    Mismatch { path: PathBuf, mismatch: Box<Mismatch> },
    /// A tensor is stored in a type that is not read.
    #[error("weights {}: tensor {tensor} is stored as {dtype:?}; convert it to F32, F16 or BF16", path.display())]
    Dtype { path: PathBuf, tensor: String, dtype: Dtype },
    /// A tensor holds a NaN or an infinity, or a variance is negative.
    #[error("weights {}: element {index} of {tensor} is {value}, no usable number; fetch the file again", path.display())]
    Number { path: PathBuf, tensor: String, index: usize, value: f32 },
}

/// How the tensors of a file differ from those of an architecture; at least one count is not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The architecture asked for.
    pub arch: Arch,
    /// The architecture that the file's names fit.
    pub looks_like: Option<Arch>,
    /// Tensors of the architecture.
    pub expected: usize,
    /// Required tensors the file lacks.
    pub missing: Findings<String>,
    /// Tensors in the file that the architecture does not have.
    pub unexpected: Findings<String>,
    /// Tensors of another shape: name, expected, found.
    pub misshapen: Findings<(String, Vec<usize>, Vec<usize>)>,
}

/// The first of several, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings<T> {
    /// The first, in checkpoint order.
    pub first: Option<T>,
    /// How many there are.
    pub count: usize,
}

impl<T> FromIterator<T> for Findings<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        let first = items.next();
        let count = usize::from(first.is_some()) + items.count();
        Self { first, count }
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "of its {} tensors {} are missing", self.expected, self.missing.count)?;
        if let Some(name) = &self.missing.first {
            write!(f, " (first {name})")?;
        }
        write!(f, ", {} are unexpected", self.unexpected.count)?;
        if let Some(name) = &self.unexpected.first {
            write!(f, " (first {name:.MAX_SHOWN$})")?;
        }
        write!(f, ", {} have another shape", self.misshapen.count)?;
        if let Some((name, expected, found)) = &self.misshapen.first {
            let found = format!("{found:?}");
            write!(f, " (first {name}: expected {expected:?}, found {found:.MAX_SHOWN$})")?;
        }
        match self.looks_like {
            Some(arch) if arch != self.arch => write!(f, "; the file looks like a {arch}"),
            _ => write!(f, "; give the architecture it was saved from"),
        }
    }
}

/// What is known of a loaded model besides its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// File name without its ending.
    pub name: String,
    /// Which network.
    pub arch: Arch,
    /// Outputs of the last layer.
    pub classes: usize,
    /// The numbers are random: labels mean nothing.
    pub random: bool,
    /// A remark that came with the weights.
    pub note: Option<String>,
}

/// An opened checkpoint whose names, shapes, types and length are those of its architecture.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    /// Offset of the first tensor's first byte.
    data: u64,
    metadata: Metadata,
    arch: Arch,
    classes: usize,
}

impl Checkpoint {
    /// Opens `path` and checks it against `arch`, or against the architecture its names fit when `None`.
    ///
    /// # Errors
    /// Anything that makes the file unusable; no tensor has been read yet.
    pub fn open(path: &Path, arch: Option<Arch>) -> Result<Self, WeightsError> {
        let (file, data, metadata) = open_header(path)?;
        let tensors = metadata.tensors();
        let looks_like = Arch::detect(|name| tensors.contains_key(name));
        let unknown = || WeightsError::UnknownArchitecture { path: path.into(), tensors: tensors.len() };
        let arch = arch.or(looks_like).ok_or_else(unknown)?;
        // At least one class, so that an empty last layer counts as misshapen.
        let rows = tensors.get(&format!("{}.weight", arch.fc())).and_then(|fc| fc.shape.first());
        let classes = rows.map_or(1, |&rows| rows.max(1));
        let layout = arch.layout(classes);
        if let Some(mismatch) = compare(arch, looks_like, &layout, &metadata, &tensors) {
            return Err(WeightsError::Mismatch { path: path.into(), mismatch: Box::new(mismatch) });
        }
        check_dtypes(path, &layout, &tensors)?;
        drop(tensors);
        Ok(Self { path: path.into(), file, data, metadata, arch, classes })
    }

    /// What is known of the model from names, shapes and metadata.
    pub fn info(&self) -> ModelInfo {
        let about = |key: &str| self.metadata.metadata().as_ref().and_then(|map| map.get(key)).cloned();
        ModelInfo {
            name: self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            arch: self.arch,
            classes: self.classes,
            random: about(RANDOM_KEY).is_some(),
            note: about(NOTE_KEY).filter(|note| !note.is_empty()),
        }
    }

    /// Reads the whole network.
    ///
    /// # Errors
    /// A failing read, or a number no forward pass can use.
    pub fn network(&mut self) -> Result<Network, WeightsError> {
        Network::read(self)
    }

    fn read_at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, WeightsError> {
        let mut bytes = vec![0; length];
        let done = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(&mut bytes));
        done.map_err(|source| WeightsError::Read { path: self.path.clone(), source })?;
        Ok(bytes)
    }
}

impl TensorSource for Checkpoint {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn tensor(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, WeightsError> {
        let info =
            self.metadata.info(&spec.name).expect("bug: open() proved that the tensor is there").clone();
        let (start, end) = info.data_offsets;
        let bytes = self.read_at(self.data + start as u64, end - start)?;
        let values = decode(info.dtype, &bytes);
        let variance = spec.name.ends_with(".running_var");
        let unusable = |&(_, value): &(usize, &f32)| !value.is_finite() || (variance && *value < 0.0);
        match values.iter().enumerate().find(unusable) {
            None => Ok(values),
            Some((index, &value)) => {
                Err(WeightsError::Number { path: self.path.clone(), tensor: spec.name.clone(), index, value })
            }
        }
    }
}

/// Little-endian numbers to f32; exact for all three types.
fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let (words, _) = bytes.as_chunks::<4>();
    let (halves, _) = bytes.as_chunks::<2>();
    match dtype {
        Dtype::F32 => words.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => halves.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => halves.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        other => unreachable!("bug: open() let a {other:?} tensor through"),
    }
}

/// Opens the file and reads its header: the file, where its data starts, and what it holds.
fn open_header(path: &Path) -> Result<(File, u64, Metadata), WeightsError> {
    let path: PathBuf = path.into();
    let read = |source| WeightsError::Read { path: path.clone(), source };
    let about = std::fs::metadata(&path).map_err(read)?;
    if !about.is_file() {
        return Err(WeightsError::NotAFile { path });
    }
    let mut file = File::open(&path).map_err(read)?;
    let actual = file.metadata().map_err(read)?.len();
    let mut start = Vec::new();
    file.by_ref().take(9).read_to_end(&mut start).map_err(read)?;
    let length = header_length(&path, &start)?;
    let data = 8 + length;
    if actual < data {
        return Err(WeightsError::Truncated { path, expected: data, actual });
    }
    let mut json = vec![0; length as usize];
    file.seek(SeekFrom::Start(8)).and_then(|_| file.read_exact(&mut json)).map_err(read)?;
    let parsed: Result<Metadata, _> = serde_json::from_slice(&json);
    let metadata = parsed.map_err(|source| WeightsError::Header { path: path.clone(), source })?;
    let expected = data.saturating_add(metadata.data_len() as u64);
    match actual.cmp(&expected) {
        std::cmp::Ordering::Less => Err(WeightsError::Truncated { path, expected, actual }),
        std::cmp::Ordering::Greater => Err(WeightsError::Oversized { path, expected, actual }),
        std::cmp::Ordering::Equal => Ok((file, data, metadata)),
    }
}

/// Length of the JSON header, from the first nine bytes of the file.
fn header_length(path: &Path, start: &[u8]) -> Result<u64, WeightsError> {
    let path = path.to_path_buf();
    if start.is_empty() {
        return Err(WeightsError::Empty { path });
    }
    // Zip (torch.save since 1.6) and pickle protocol 2.
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02") {
        return Err(WeightsError::PyTorch { path });
    }
    match start {
        [length @ .., b'{'] if length.len() == 8 => {
            let length = length.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            if length <= MAX_HEADER { Ok(length) } else { Err(WeightsError::NotSafetensors { path }) }
        }
        _ => Err(WeightsError::NotSafetensors { path }),
    }
}

/// Checks every name and shape; `None` when all fit.
fn compare(
    arch: Arch,
    looks_like: Option<Arch>,
    layout: &[TensorSpec],
    metadata: &Metadata,
    found: &HashMap<String, &TensorInfo>,
) -> Option<Mismatch> {
    let expected: HashMap<&str, &TensorSpec> = layout.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    let required = || layout.iter().filter(|spec| !spec.is_counter());
    let missing: Findings<_> =
        required().filter(|spec| !found.contains_key(&spec.name)).map(|spec| spec.name.clone()).collect();
    let names = metadata.offset_keys().into_iter();
    let unexpected: Findings<_> = names.filter(|name| !expected.contains_key(name.as_str())).collect();
    let wrong = |spec: &TensorSpec| {
        let shape = &found.get(&spec.name)?.shape;
        (*shape != spec.shape).then(|| (spec.name.clone(), spec.shape.clone(), shape.clone()))
    };
    let misshapen: Findings<_> = required().filter_map(wrong).collect();
    let faults = missing.count + unexpected.count + misshapen.count;
    let expected = layout.len();
    (faults > 0).then_some(Mismatch { arch, looks_like, expected, missing, unexpected, misshapen })
}

fn check_dtypes(
    path: &Path,
    layout: &[TensorSpec],
    found: &HashMap<String, &TensorInfo>,
) -> Result<(), WeightsError> {
    let required = layout.iter().filter(|spec| !spec.is_counter());
    let dtypes = required.filter_map(|spec| Some((spec, found.get(&spec.name)?.dtype)));
    let readable = |dtype| matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    match dtypes.into_iter().find(|&(_, dtype)| !readable(dtype)) {
        None => Ok(()),
        Some((spec, dtype)) => {
            Err(WeightsError::Dtype { path: path.into(), tensor: spec.name.clone(), dtype })
        }
    }
}
