//! The layout that `torch.save` writes since PyTorch 1.6: a zip archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::state_dict::state_dict;
use super::{Contents, Tensor, TorchError, content, parse};
use crate::weights::pickle;

/// Longest folder in an archive: `torch.save` calls it as it called the file.
const MAX_PREFIX: usize = 256;

/// The zip layout: `NAME/data.pkl`, `NAME/byteorder` and one stored member `NAME/data/KEY` a storage.
pub(super) struct Zip<'a> {
    path: &'a Path,
    archive: ZipArchive<&'a File>,
    prefix: String,
}

impl<'a> Zip<'a> {
    pub(super) fn open(path: &'a Path, file: &'a File) -> Result<Self, TorchError> {
        let zip = |source| TorchError::Zip { path: path.into(), member: "its directory".into(), source };
        let archive = ZipArchive::new(file).map_err(zip)?;
        let prefix =
            archive.file_names().find_map(|name| Some(name.ok()?.strip_suffix("data.pkl")?.to_owned()));
        let prefix = prefix
            .filter(|prefix| prefix.len() <= MAX_PREFIX)
            .ok_or_else(|| TorchError::Format { path: path.into() })?;
        Ok(Self { path, archive, prefix })
    }

    pub(super) fn read(mut self) -> Result<Contents, TorchError> {
        let pickle = self.small_member("data.pkl", pickle::MAX_BYTES as u64)?;
        let pickle = parse(self.path, &pickle)?;
        if self.archive.index_for_name(&format!("{}byteorder", self.prefix)).is_some()
            && self.small_member("byteorder", 16)? != b"little"
        {
            return Err(content(self.path, "its numbers are big endian; save it on a little-endian machine"));
        }
        let tensors = state_dict(self.path, &pickle)?;
        let mut storages = HashMap::new();
        for tensor in &tensors {
            if !storages.contains_key(&tensor.storage) {
                storages.insert(tensor.storage.clone(), self.storage(tensor)?);
            }
        }
        Ok((tensors, storages))
    }

    fn small_member(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, TorchError> {
        let member = format!("{}{name}", self.prefix);
        let zip = |source| TorchError::Zip { path: self.path.into(), member: member.clone(), source };
        let entry = self.archive.by_name(&member).map_err(zip)?;
        let mut bytes = Vec::new();
        entry.take(limit + 1).read_to_end(&mut bytes).map_err(|source| zip(source.into()))?;
        if bytes.len() as u64 > limit {
            return Err(TorchError::Member { path: self.path.into(), member, problem: "is too large" });
        }
        Ok(bytes)
    }

    /// Reads a storage once against its checksum and says where it begins.
    fn storage(&mut self, tensor: &Tensor) -> Result<u64, TorchError> {
        let member = format!("{}data/{}", self.prefix, tensor.storage);
        let zip = |source| TorchError::Zip { path: self.path.into(), member: member.clone(), source };
        let mut entry = self.archive.by_name(&member).map_err(zip)?;
        let refuse = |problem| TorchError::Member { path: self.path.into(), member: member.clone(), problem };
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(refuse("is compressed, which torch.save never does"));
        }
        let bytes = (tensor.storage_elements * tensor.width()) as u64;
        if entry.size() != bytes || entry.compressed_size() != bytes {
            return Err(refuse("has another size than the pickle says"));
        }
        let start = entry.data_start().ok_or_else(|| refuse("cannot be found"))?;
        io::copy(&mut entry, &mut io::sink()).map_err(|source| zip(source.into()))?;
        Ok(start)
    }
}
