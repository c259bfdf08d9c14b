//! Turns a checkpoint - `.pth` in either layout, or safetensors - into a safetensors file of one element type, and lets
//! it take its place only after it was read back as the network it claims to be.
//!
//! Floating-point numbers are rounded to nearest, ties to even; integers are kept. Tensors are handled one at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::digest;
pub use super::float::Float;
use super::float::{is_float, round};
use super::partial::Partial;
use super::torch::{Tensor, TorchError, TorchFile};
use crate::vision::arch::TensorSpec;
use crate::vision::fold::TensorSource;
use crate::vision::weights::{RANDOM_KEY, WeightsError};
use crate::vision::{Arch, Checkpoint, ModelInfo};

/// Metadata key that says which file the numbers came from, and its SHA-256.
pub const SOURCE_KEY: &str = "convoy.source";

/// Why a checkpoint was not converted. Whatever was at the output before is still there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConvertError {
    /// The input could not be read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The input is `.pth` and was refused.
    #[error("cannot read the checkpoint")]
    Torch(#[from] TorchError),
    /// The input is safetensors and was refused.
    #[error("cannot read the checkpoint")]
    Safetensors(#[source] WeightsError),
    /// Tensors that overlap in the input would make an output many times its size.
    #[error("the tensors of {} together are {bytes} bytes, more than twice its size", path.display())]
    Inflated { path: PathBuf, bytes: u64 },
    /// The output could not be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The converted file is not the network it should be.
    #[error("{} converts to no usable network", path.display())]
    Check { path: PathBuf, source: WeightsError },
}

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    /// Element type of the output.
    pub float: Float,
    /// Architecture it must have; found from the names when `None`.
    pub arch: Option<Arch>,
}

/// Converts `input` to `output`; what is known of the result.
///
/// # Errors
/// The input was refused, the output could not be written, or it is not a complete network of usable numbers.
pub fn convert(input: &Path, output: &Path, wanted: Conversion) -> Result<ModelInfo, ConvertError> {
    let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    convert_named(input, &name, output, wanted)
}

/// [`convert`] with another name for the input in the output's metadata.
pub(super) fn convert_named(
    input: &Path,
    name: &str,
    output: &Path,
    wanted: Conversion,
) -> Result<ModelInfo, ConvertError> {
    let read = |source| ConvertError::Read { path: input.into(), source };
    let mut source = Source::open(input, wanted.arch)?;
    let digest = digest::of_file(input).map_err(read)?;
    source.check_size(input, fs::metadata(input).map_err(read)?.len())?;
    let write = |source| ConvertError::Write { path: output.into(), source };
    let mut partial = Partial::open(output, &mut || ()).map_err(write)?;
    partial.clear().map_err(write)?;
    let mut about = source.about();
    about.insert(SOURCE_KEY.into(), format!("{name} sha256:{digest}"));
    source.write(&mut partial, wanted.float, about).map_err(|error| error.at(output))?;
    let check = |source| ConvertError::Check { path: input.into(), source };
    let mut checkpoint = Checkpoint::open(partial.path(), wanted.arch).map_err(check)?;
    checkpoint.network().map_err(check)?;
    partial.commit(output).map_err(write)?;
    let name = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ModelInfo { name, ..checkpoint.info() })
}

/// A failed step of writing, before the output's path is known.
enum WriteError {
    Input(ConvertError),
    Output(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(source: io::Error) -> Self {
        Self::Output(source)
    }
}

impl WriteError {
    fn at(self, output: &Path) -> ConvertError {
        match self {
            Self::Input(error) => error,
            Self::Output(source) => ConvertError::Write { path: output.into(), source },
        }
    }
}

/// An opened input.
enum Source {
    Torch(TorchFile),
    Safetensors(Box<Checkpoint>, Vec<TensorSpec>),
}

/// One tensor of the output, and where it comes from.
struct Item {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Index into the source.
    index: usize,
}

impl Source {
    fn open(path: &Path, arch: Option<Arch>) -> Result<Self, ConvertError> {
        let read = |source| ConvertError::Read { path: path.into(), source };
        let mut start = Vec::new();
        File::open(path).and_then(|file| file.take(9).read_to_end(&mut start)).map_err(read)?;
        if start.get(8) != Some(&b'{') {
            return Ok(Self::Torch(TorchFile::open(path)?));
        }
        let checkpoint = Checkpoint::open(path, arch).map_err(ConvertError::Safetensors)?;
        let info = checkpoint.info();
        // Counters, which no forward pass reads, are left out.
        let layout = info.arch.layout(info.classes).into_iter().filter(|spec| !spec.is_counter());
        Ok(Self::Safetensors(Box::new(checkpoint), layout.collect()))
    }

    fn check_size(&self, path: &Path, length: u64) -> Result<(), ConvertError> {
        let Self::Torch(file) = self else { return Ok(()) };
        let size = |tensor: &Tensor| tensor.elements() as u64 * (tensor.dtype.bitsize() as u64 / 8);
        let bytes = file.tensors().iter().fold(0_u64, |sum, tensor| sum.saturating_add(size(tensor)));
        if bytes > length.saturating_mul(2) {
            return Err(ConvertError::Inflated { path: path.into(), bytes });
        }
        Ok(())
    }

    /// Metadata that goes with the numbers.
    fn about(&self) -> HashMap<String, String> {
        let mut about = HashMap::from([("format".into(), "pt".into())]);
        if let Self::Safetensors(checkpoint, _) = self
            && checkpoint.info().random
        {
            about.insert(RANDOM_KEY.into(), "converted".into());
        }
        about
    }

    fn items(&self, float: Float) -> Vec<Item> {
        let stored = |dtype| if is_float(dtype) { float.dtype() } else { dtype };
        let mut items: Vec<Item> = match self {
            Self::Torch(file) => {
                let tensors = file.tensors().iter().enumerate();
                let item = |(index, tensor): (usize, &Tensor)| Item {
                    name: tensor.name.clone(),
                    dtype: stored(tensor.dtype),
                    shape: tensor.shape.clone(),
                    index,
                };
                tensors.map(item).collect()
            }
            Self::Safetensors(_, layout) => {
                let specs = layout.iter().enumerate();
                let item = |(index, spec): (usize, &TensorSpec)| Item {
                    name: spec.name.clone(),
                    dtype: float.dtype(),
                    shape: spec.shape.clone(),
                    index,
                };
                specs.map(item).collect()
            }
        };
        // The order of the reference writer, which keeps every tensor aligned: wide elements first, then by name.
        items.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
        items
    }

    fn write(
        &mut self,
        out: impl Write,
        float: Float,
        about: HashMap<String, String>,
    ) -> Result<(), WriteError> {
        let items = self.items(float);
        let mut out = BufWriter::with_capacity(1 << 20, out);
        out.write_all(&header(&items, about)?)?;
        for item in &items {
            out.write_all(&self.bytes(item, float).map_err(WriteError::Input)?)?;
        }
        Ok(out.flush()?)
    }

    fn bytes(&mut self, item: &Item, float: Float) -> Result<Vec<u8>, ConvertError> {
        match self {
            Self::Torch(file) => {
                let tensor = file.tensors()[item.index].clone();
                Ok(round(file.read(&tensor)?, tensor.dtype, float))
            }
            Self::Safetensors(checkpoint, layout) => {
                let values = checkpoint.tensor(&layout[item.index]).map_err(ConvertError::Safetensors)?;
                let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
                Ok(round(bytes, Dtype::F32, float))
            }
        }
    }
}

/// Length prefix and JSON, padded to eight bytes as the format asks.
fn header(items: &[Item], about: HashMap<String, String>) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let info = |item: &Item| {
        let start = end;
        end += item.shape.iter().product::<usize>() * item.dtype.bitsize() / 8;
        let info = TensorInfo { dtype: item.dtype, shape: item.shape.clone(), data_offsets: (start, end) };
        (item.name.clone(), info)
    };
    let infos = items.iter().map(info).collect();
    let metadata = Metadata::new(Some(about), infos).map_err(io::Error::other)?;
    let mut json = serde_json::to_vec(&metadata)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
