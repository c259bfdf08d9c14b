//! The layout that `torch.save` wrote before PyTorch 1.6: pickles, then numbers, one after the other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::state_dict::state_dict;
use super::tensor::{storage_reference, width};
use super::{Contents, TorchError, content, parse};
use crate::weights::pickle::{self, Pickle, Value};

/// First pickle of a legacy file (`torch.serialization.MAGIC_NUMBER`), little endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Second pickle (`torch.serialization.PROTOCOL_VERSION`).
const PROTOCOL: i64 = 1001;

/// Magic number, protocol version, system information, object and storage keys as five pickles, then the storages in the
/// order of the keys, each an eight-byte element count and its numbers.
pub(super) fn read(path: &Path, file: &mut File) -> Result<Contents, TorchError> {
    let fail = |source| TorchError::Read { path: path.into(), source };
    let mut head = Vec::new();
    file.by_ref().take(pickle::MAX_BYTES as u64).read_to_end(&mut head).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    let mut at = check_preamble(path, &head)?;
    let object = parse(path, &head[at..])?;
    at += object.length;
    let keys = parse(path, &head[at..])?;
    at += keys.length;
    let tensors = state_dict(path, &object)?;
    let listed = keys.list(keys.root).ok_or_else(|| content(path, "it has no list of storages"))?;
    let mut walk = Walk { path, file, at: at as u64, length, known: known(path, &object)? };
    let mut storages = HashMap::new();
    for &key in listed {
        let key = keys.text(key).unwrap_or_default();
        storages.insert(key.to_owned(), walk.next(key)?);
    }
    match tensors.iter().find(|tensor| !storages.contains_key(&tensor.storage)) {
        None => Ok((tensors, storages)),
        Some(tensor) => Err(content(path, format!("storage {:?} is missing", tensor.storage))),
    }
}

/// Checks the first three pickles; where the fourth begins.
fn check_preamble(path: &Path, head: &[u8]) -> Result<usize, TorchError> {
    let mut at = 0;
    let mut next = || {
        let pickle = parse(path, &head[at..])?;
        at += pickle.length;
        Ok(pickle)
    };
    let magic = next()?;
    if magic.long(magic.root) != Some(&MAGIC) {
        return Err(TorchError::Format { path: path.into() });
    }
    if next()?.root != Value::Int(PROTOCOL) {
        return Err(content(path, "its protocol version is not 1001"));
    }
    let system = next()?;
    if system.get(system.root, "little_endian") != Some(Value::Bool(true)) {
        return Err(content(path, "its numbers are big endian; save it on a little-endian machine"));
    }
    Ok(at)
}

/// Bytes of a number and count of every storage that the pickle refers to: those of the `state_dict`, and those of an
/// optimizer, say, which lie between them.
fn known<'a>(path: &Path, object: &Pickle<'a>) -> Result<HashMap<&'a str, (usize, usize)>, TorchError> {
    let mut known = HashMap::new();
    for reference in object.references() {
        let (dtype, key, count) = storage_reference(object, reference).map_err(|what| content(path, what))?;
        if *known.entry(key).or_insert((width(dtype), count)) != (width(dtype), count) {
            return Err(content(path, format!("storage {key:?} is used with two types or sizes")));
        }
    }
    Ok(known)
}

/// Goes from storage to storage.
struct Walk<'a> {
    path: &'a Path,
    file: &'a mut File,
    /// Where the next storage begins.
    at: u64,
    /// Bytes of the file.
    length: u64,
    known: HashMap<&'a str, (usize, usize)>,
}

impl Walk<'_> {
    /// Where the numbers of the next storage, `key`, begin.
    fn next(&mut self, key: &str) -> Result<u64, TorchError> {
        let refuse = |what: &str| content(self.path, format!("storage {key:?} {what}"));
        let &(width, expected) = self.known.get(key).ok_or_else(|| refuse("is used by nothing"))?;
        let mut count = [0; 8];
        let read = self.file.seek(SeekFrom::Start(self.at)).and_then(|_| self.file.read_exact(&mut count));
        read.map_err(|source| TorchError::Read { path: self.path.into(), source })?;
        if u64::from_le_bytes(count) != expected as u64 {
            return Err(refuse("has another size than the pickle says"));
        }
        let start = self.at + 8;
        let end = start + (expected * width) as u64;
        if end > self.length {
            return Err(refuse(&format!("ends at byte {end} of {}: the file is truncated", self.length)));
        }
        self.at = end;
        Ok(start)
    }
}
