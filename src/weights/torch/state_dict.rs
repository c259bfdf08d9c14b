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
    let mut widths = HashMap::new();
    for &(key, value) in entries {
        let name = pickle.text(key).ok_or_else(|| content(path, "a key of its dictionary is no string"))?;
        let refuse = |what: &str| content(path, format!("{}: {what}", shown(name)));
        let tensor = tensor(pickle, name, value).map_err(refuse)?;
        let same = *widths.entry(tensor.storage.clone()).or_insert((tensor.dtype, tensor.storage_elements));
        if same != (tensor.dtype, tensor.storage_elements) {
            return Err(refuse("its storage is used with two types or sizes"));
        }
        tensors.push(tensor);
    }
    strip_parallel(&mut tensors);
    let mut names = HashSet::new();
    match tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        None => Ok(tensors),
        Some(twice) => Err(content(path, format!("{} is there twice", shown(&twice.name)))),
    }
}

fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

fn strip_parallel(tensors: &mut [Tensor]) {
    if tensors.iter().all(|tensor| tensor.name.starts_with(PARALLEL)) {
        tensors.iter_mut().for_each(|tensor| tensor.name.replace_range(..PARALLEL.len(), ""));
    }
}
