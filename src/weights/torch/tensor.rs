//! One tensor: what the pickle says of it, proven to lie inside its storage, and its numbers in row-major order.

use safetensors::tensor::Dtype;

use crate::weights::pickle::{Global, Pickle, Value};

const MAX_RANK: usize = 8;

/// One tensor of the `state_dict`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its key, without a `module.` that all keys share.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Steps in elements, one a dimension.
    pub(super) strides: Vec<usize>,
    /// First element in its storage.
    pub(super) offset: usize,
    /// Key of its storage.
    pub(super) storage: String,
    /// Elements of the whole storage.
    pub(super) storage_elements: usize,
}

impl Tensor {
    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of one number.
    pub(super) fn width(&self) -> usize {
        width(self.dtype)
    }

    /// Bytes from its first element to its last in the storage, both included.
    pub(super) fn span(&self) -> usize {
        let reach: usize =
            self.shape.iter().zip(&self.strides).map(|(size, stride)| (size - 1) * stride).sum();
        (reach + 1) * self.width()
    }

    pub(super) fn contiguous(&self) -> bool {
        let mut step = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == step;
            step *= size;
            fits
        })
    }
}

pub(super) fn width(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// Reads the recorded `_rebuild_tensor_v2(storage, offset, size, stride, ...)`.
pub(super) fn tensor(pickle: &Pickle<'_>, name: &str, value: Value) -> Result<Tensor, &'static str> {
    let (mut function, mut arguments) = pickle.call(value).ok_or("it is no tensor")?;
    if function == Global::RebuildParameter {
        let inner = *arguments.first().ok_or("it is a damaged parameter")?;
        (function, arguments) = pickle.call(inner).ok_or("it is a damaged parameter")?;
    }
    if !matches!(function, Global::RebuildTensor | Global::RebuildTensorV2) {
        return Err("it is no tensor");
    }
    let &[storage, Value::Int(offset), size, stride, ..] = arguments else {
        return Err("it is a damaged tensor");
    };
    let (dtype, storage, storage_elements) = storage_reference(pickle, storage)?;
    let (shape, strides) = (sizes(pickle, size)?, sizes(pickle, stride)?);
    let offset = usize::try_from(offset).map_err(|_| "its offset is negative")?;
    let tensor = Tensor {
        name: name.into(),
        dtype,
        shape,
        strides,
        offset,
        storage: storage.into(),
        storage_elements,
    };
    check_bounds(&tensor)?;
    Ok(tensor)
}

/// Element type, key and element count of `('storage', type, key, location, count[, view])`.
pub(super) fn storage_reference<'a>(
    pickle: &Pickle<'a>,
    value: Value,
) -> Result<(Dtype, &'a str, usize), &'static str> {
    let reference = pickle.persistent(value).ok_or("it has no storage")?;
    let (&[tag, Value::Global(Global::Storage(dtype)), key, _, Value::Int(count)], view) =
        reference.split_first_chunk::<5>().ok_or("its storage is damaged")?
    else {
        return Err("its storage is of an unknown type");
    };
    if pickle.text(tag) != Some("storage") || view.iter().any(|&view| view != Value::None) {
        return Err("its storage is a view, which PyTorch has not written since 0.4");
    }
    let key = pickle.text(key).ok_or("its storage has no key")?;
    let count = usize::try_from(count).map_err(|_| "its storage has a negative size")?;
    count
        .checked_mul(width(dtype))
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .ok_or("its storage is too large")?;
    Ok((dtype, key, count))
}

fn sizes(pickle: &Pickle<'_>, value: Value) -> Result<Vec<usize>, &'static str> {
    let items = pickle.tuple(value).filter(|items| items.len() <= MAX_RANK).ok_or("its shape is no shape")?;
    let size = |&item: &Value| match item {
        Value::Int(size) => usize::try_from(size).map_err(|_| "its shape or stride is negative"),
        _ => Err("its shape is no shape"),
    };
    items.iter().map(size).collect()
}

/// Proves that no index lies outside the storage, and that the tensor has no more elements than its storage.
fn check_bounds(tensor: &Tensor) -> Result<(), &'static str> {
    if tensor.shape.len() != tensor.strides.len() {
        return Err("it has not one stride a dimension");
    }
    let elements = tensor.shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    let elements = elements.filter(|&elements| elements <= tensor.storage_elements);
    if elements.ok_or("it is larger than its storage")? == 0 {
        return Ok(());
    }
    let reach =
        tensor.shape.iter().zip(&tensor.strides).try_fold(tensor.offset, |last, (&size, &stride)| {
            last.checked_add((size - 1).checked_mul(stride)?)
        });
    match reach {
        Some(last) if last < tensor.storage_elements => Ok(()),
        _ => Err("it reaches beyond its storage"),
    }
}

/// Elements in row-major order out of the bytes from the first to the last.
pub(super) fn gather(tensor: &Tensor, bytes: &[u8]) -> Vec<u8> {
    let width = tensor.width();
    let mut out = Vec::with_capacity(tensor.elements() * width);
    let mut index = vec![0; tensor.shape.len()];
    let mut at = 0;
    for _ in 0..tensor.elements() {
        out.extend_from_slice(&bytes[at * width..][..width]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += tensor.strides[axis];
            if index[axis] < tensor.shape[axis] {
                break;
            }
            at -= index[axis] * tensor.strides[axis];
            index[axis] = 0;
        }
    }
    out
}
