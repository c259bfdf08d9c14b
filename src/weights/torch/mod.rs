//! Reads checkpoints written by `torch.save`: the zip layout (PyTorch 1.6 and later) and the legacy one before it.
//!
//! Gives the tensors of the `state_dict` as contiguous little-endian bytes. Nothing in the file is run or trusted: every
//! tensor is proven to lie inside its storage, every storage inside the file, and no tensor may be larger than its
//! storage. Which tensors a network needs is not decided here.

mod legacy;
mod state_dict;
mod tensor;
mod zip_layout;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use zip::result::ZipError;

pub use tensor::Tensor;

use self::zip_layout::Zip;
use super::pickle::{Pickle, PickleError};

/// Why a `.pth` file was refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TorchError {
    /// The system did not give the file, or stopped giving it.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Neither layout.
    #[error("{} is no checkpoint: neither safetensors nor written by torch.save", path.display())]
    Format { path: PathBuf },
    /// The zip archive is damaged or lacks a member.
    #[error("{} is a damaged zip archive ({member})", path.display())]
    Zip { path: PathBuf, member: String, source: ZipError },
    /// A member of the archive is compressed or of a size that does not fit.
    #[error("{}: {member} of the archive {problem}", path.display())]
    Member { path: PathBuf, member: String, problem: &'static str },
    /// The pickle was refused.
    #[error("{}", path.display())]
    Pickle { path: PathBuf, source: PickleError },
    /// The pickle is sound and says something that cannot be used.
    #[error("{}: {what}", path.display())]
    Content { path: PathBuf, what: String },
}

/// An opened checkpoint whose tensors can be read.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    file: File,
    tensors: Vec<Tensor>,
    /// Where in the file each storage begins.
    storages: HashMap<String, u64>,
}

impl TorchFile {
    /// Opens `path` and proves that every tensor can be read; the checksums of a zip archive are verified.
    ///
    /// # Errors
    /// Anything that makes the file unusable.
    pub fn open(path: &Path) -> Result<Self, TorchError> {
        let fail = |source| TorchError::Read { path: path.into(), source };
        let mut file = File::open(path).map_err(fail)?;
        let mut start = Vec::new();
        file.by_ref().take(4).read_to_end(&mut start).map_err(fail)?;
        file.rewind().map_err(fail)?;
        let (tensors, storages) = match start.as_slice() {
            b"PK\x03\x04" => Zip::open(path, &file)?.read()?,
            [0x80, ..] => legacy::read(path, &mut file)?,
            _ => return Err(TorchError::Format { path: path.into() }),
        };
        Ok(Self { path: path.into(), file, tensors, storages })
    }

    /// The tensors in the order of the `state_dict`; names are unique.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The numbers of one of [`TorchFile::tensors`], row-major, little endian.
    ///
    /// # Errors
    /// A failing read.
    pub fn read(&mut self, tensor: &Tensor) -> Result<Vec<u8>, TorchError> {
        if tensor.elements() == 0 {
            return Ok(Vec::new());
        }
        let start = self.storages[&tensor.storage] + (tensor.offset * tensor.width()) as u64;
        let mut bytes = vec![0; tensor.span()];
        let done = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(&mut bytes));
        done.map_err(|source| TorchError::Read { path: self.path.clone(), source })?;
        Ok(if tensor.contiguous() { bytes } else { tensor::gather(tensor, &bytes) })
    }
}

/// The tensors, and where in the file each of their storages begins.
type Contents = (Vec<Tensor>, HashMap<String, u64>);

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Pickle<'a>, TorchError> {
    Pickle::parse(bytes).map_err(|source| TorchError::Pickle { path: path.into(), source })
}

/// What is wrong may be said with names of the file's, which may be long.
fn content(path: &Path, what: impl Into<String>) -> TorchError {
    const MAX_SHOWN: usize = 300;
    let what: String = what.into();
    TorchError::Content { path: path.into(), what: what.chars().take(MAX_SHOWN).collect() }
}
