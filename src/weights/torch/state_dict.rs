//! From the values of a pickle to the tensors of a `state_dict`: wrappers and prefixes off, names and storages unique.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::tensor::{Tensor, tensor};
use super::{TorchError, content};
use crate::weights::pickle::Pickle;

/// Keys under which training scripts keep the `state_dict`.
const WRAPPERS: [&str; 2] = ["state_dict", "model"];
/// Prefix that `DataParallel` puts before every name.
const PARALLEL: &str = "module.";

/// The tensors of the `state_dict` in a pickle, unwrapped and without `module.`.
pub(super) fn state_dict(path: &Path, pickle: &Pickle<'_>) -> Result<Vec<Tensor>, TorchError> {
    let mut dict = pickle.root;
    // A wrapper may stand inside another, {"model": {"state_dict": ...}}.
    for _ in 0..WRAPPERS.len() {
        let inner = WRAPPERS.iter().find_map(|key| pickle.get(dict, key));
        dict = inner.filter(|&inner| pickle.dict(inner).is_some()).unwrap_or(dict);
    }
    let entries = pickle.dict(dict).ok_or_else(|| content(path, "it is no dictionary of tensors"))?;
    let mut tensors = Vec::with_capacity(entries.len());
    let (mut names, mut widths) = (HashSet::new(), HashMap::new());
    for &(key, value) in entries {
        let name = pickle.text(key).ok_or_else(|| content(path, "a key of its dictionary is no name"))?;
        // Before it is copied: a few bytes of pickle may set one key a hundred thousand times.
        if !names.insert(name) {
            return Err(content(path, format!("{} is there twice", shown(name))));
        }
        let refuse = |what: &str| content(path, format!("{}: {what}", shown(name)));
        let tensor = tensor(pickle, name, value).map_err(refuse)?;
        let same = *widths.entry(tensor.storage.clone()).or_insert((tensor.dtype, tensor.storage_elements));
        if same != (tensor.dtype, tensor.storage_elements) {
            return Err(refuse("its storage is used with two types or sizes"));
        }
        tensors.push(tensor);
    }
    strip_parallel(&mut tensors);
    Ok(tensors)
}

fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

fn strip_parallel(tensors: &mut [Tensor]) {
    if tensors.iter().all(|tensor| tensor.name.starts_with(PARALLEL)) {
        tensors.iter_mut().for_each(|tensor| tensor.name.replace_range(..PARALLEL.len(), ""));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    /// A dictionary that has the tensor of one storage under `name`, `times` times; of both the pickle holds one.
    fn repeated(name: &str, times: usize) -> Vec<u8> {
        let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
            X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQK\0))tR";
        let memo = [&text(name)[..], b"q\x000", tensor, b"q\x010"].concat();
        [b"\x80\x02", &memo[..], b"}", &b"h\0h\x01s".repeat(times), b"."].concat()
    }

    fn refusal(pickle: &[u8]) -> String {
        state_dict(Path::new("x.pth"), &Pickle::parse(pickle).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_few_bytes_of_pickle_do_not_become_gigabytes_of_names() {
        let names = |pickle: &[u8]| {
            let tensors = state_dict(Path::new("x.pth"), &Pickle::parse(pickle).unwrap()).unwrap();
            tensors.into_iter().map(|tensor| tensor.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&repeated("w", 1)), ["w"]);
        assert_eq!(refusal(&repeated("w", 300_000)), "x.pth: w is there twice");
        let long = "w".repeat(8 << 20);
        assert_eq!(refusal(&repeated(&long, 300_000)), "x.pth: a key of its dictionary is no name");
    }
}
