//! Parses the subset of Python's pickle format that `torch.save` writes (protocols 2 to 5) into plain values, and runs
//! nothing.
//!
//! A pickle is a program: its `GLOBAL` names a Python function and its `REDUCE` calls it. Here a call is only recorded,
//! and only for the few functions in [`Global`]; any other name is refused. Values live in one arena and refer to each
//! other by index, so nesting, cycles and sharing cost no stack, and an operation limit bounds memory. What the calls
//! mean is `torch`'s business.

mod machine;

use machine::Machine;
use safetensors::tensor::Dtype;

/// Longest pickle that is read; that of a ResNet-152 has about 0.2 MB.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Longest string that counts as text, which is there for names: one string may be referred to by every operation.
const MAX_TEXT: u32 = 512;
/// Most operations; a ResNet-152 takes about 50 thousand. Every one adds at most one value and one object.
const MAX_OPERATIONS: usize = 1 << 20;

/// A Python name that a checkpoint may refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `torch._utils._rebuild_tensor(storage, offset, size, stride)`, before PyTorch 0.4.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`.
    RebuildTensorV2,
    /// `torch._utils._rebuild_parameter(tensor, requires_grad, hooks)`.
    RebuildParameter,
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch.Size`.
    Size,
    /// `torch.FloatStorage` and its like: the element type of a storage.
    Storage(Dtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("torch._utils", "_rebuild_tensor") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensorV2),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch", "Size") => Some(Self::Size),
            ("torch", storage) => element_type(storage.strip_suffix("Storage")?).map(Self::Storage),
            _ => None,
        }
    }
}

fn element_type(storage: &str) -> Option<Dtype> {
    Some(match storage {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::BOOL,
        _ => return None,
    })
}

/// A value; compound ones are indices into the arena of their [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    /// Bytes of the pickle itself: a string, a bytes object, or the digits of an integer beyond 64 bits.
    Text(Span),
    Bytes(Span),
    Long(Span),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Set(usize),
    Global(Global),
    /// A recorded call.
    Call(usize),
    /// A reference to data outside the pickle.
    Persistent(usize),
}

/// A stretch of the pickle's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    length: u32,
}

#[derive(Debug)]
enum Object {
    /// Tuples, lists and sets.
    Items(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Call(Global, Value),
    Persistent(Value),
}

/// Why a pickle was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It names a Python object that no plain checkpoint needs.
    #[error("the pickle contains code ({0}), which is never run; save only the state_dict")]
    Code(String),
    /// An operation that `torch.save` does not write.
    #[error("operation {code:#04x} at byte {at} of the pickle is not one torch.save writes")]
    Operation {
        /// The byte.
        code: u8,
        /// Where it stands.
        at: usize,
    },
    /// It ends before its `STOP`.
    #[error("the pickle breaks off")]
    Truncated,
    /// An operation finds too little or the wrong thing on the stack, or a memo entry that was never written.
    #[error("the pickle is damaged at byte {at}")]
    Damaged {
        /// Where the operation stands.
        at: usize,
    },
    /// More bytes or operations than any checkpoint needs.
    #[error("the pickle is larger than that of any checkpoint")]
    TooLarge,
}

/// A parsed pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    objects: Vec<Object>,
    /// What the pickle is of.
    pub root: Value,
    /// How many bytes it took.
    pub length: usize,
}

impl<'a> Pickle<'a> {
    /// Parses the pickle at the start of `bytes`; what follows its `STOP` is left alone.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, PickleError> {
        let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
        let mut machine = Machine::new(bytes);
        for _ in 0..MAX_OPERATIONS {
            if let Some(root) = machine.step()? {
                let (objects, length) = machine.finish();
                return Ok(Self { bytes, objects, root, length });
            }
        }
        Err(PickleError::TooLarge)
    }

    /// The text of a string, when it is one, no longer than a name, and UTF-8.
    pub(super) fn text(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(span) if span.length <= MAX_TEXT => str::from_utf8(slice(self.bytes, span)).ok(),
            _ => None,
        }
    }

    /// The bytes of an integer beyond 64 bits, little endian.
    pub(super) fn long(&self, value: Value) -> Option<&'a [u8]> {
        match value {
            Value::Long(span) => Some(slice(self.bytes, span)),
            _ => None,
        }
    }

    /// The items of a tuple, or of a recorded `torch.Size(tuple)`.
    pub(super) fn tuple(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Tuple(id) => self.items(id),
            Value::Call(_) => match self.call(value)? {
                (Global::Size, &[Value::Tuple(id)]) => self.items(id),
                _ => None,
            },
            _ => None,
        }
    }

    /// The items of a list.
    pub(super) fn list(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::List(id) => self.items(id),
            _ => None,
        }
    }

    /// The entries of a dictionary, in the order they were set.
    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Dict(id) => match &self.objects[id] {
                Object::Dict(entries) => Some(entries),
                _ => None,
            },
            _ => None,
        }
    }

    /// The value of a dictionary's string key; of several equal keys the last counts, as in Python.
    pub(super) fn get(&self, dict: Value, key: &str) -> Option<Value> {
        let mut entries = self.dict(dict)?.iter().rev();
        entries.find(|(name, _)| self.text(*name) == Some(key)).map(|&(_, value)| value)
    }

    /// A recorded call: what is called, and its arguments.
    pub(super) fn call(&self, value: Value) -> Option<(Global, &[Value])> {
        match value {
            Value::Call(id) => match &self.objects[id] {
                &Object::Call(function, Value::Tuple(arguments)) => Some((function, self.items(arguments)?)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The tuple that a persistent reference consists of.
    pub(super) fn persistent(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Persistent(id) => match &self.objects[id] {
                &Object::Persistent(Value::Tuple(tuple)) => self.items(tuple),
                _ => None,
            },
            _ => None,
        }
    }

    /// Every persistent reference, in the order of the pickle.
    pub(super) fn references(&self) -> impl Iterator<Item = Value> {
        let ids = self.objects.iter().enumerate();
        ids.filter(|(_, object)| matches!(object, Object::Persistent(_))).map(|(id, _)| Value::Persistent(id))
    }

    fn items(&self, id: usize) -> Option<&[Value]> {
        match &self.objects[id] {
            Object::Items(items) => Some(items),
            _ => None,
        }
    }
}

fn slice(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.start as usize..][..span.length as usize]
}
