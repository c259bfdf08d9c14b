//! A linear layer in the precision that its encoder was opened with. It owns the choice; the arithmetic is `kernels`'.

use std::fmt;

use clap::ValueEnum;
use kernels::{conv, int8};
use serde::{Deserialize, Serialize};

/// How the products of an encoder's layers are computed. Attention, normalisation and activation are in floats either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// In floats: the vectors of the encoder's authors.
    F32,
    /// In 8 bits: weights rounded for each output, what they multiply for each token.
    #[default]
    Int8,
}

impl Precision {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `y = W x + b` for rows `x`.
#[derive(Debug)]
pub(super) enum Linear {
    F32(conv::Dense),
    Int8(int8::Dense),
}

impl Linear {
    /// Packs `weight`, `[outputs, inputs]`, and `bias`, `[outputs]`; their lengths agree and outputs are a multiple of 16.
    pub(super) fn pack(precision: Precision, weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        match precision {
            Precision::F32 => Self::F32(
                conv::Dense::pack(weight, bias, inputs).expect("bug: shapes were checked on reading"),
            ),
            Precision::Int8 => Self::Int8(
                int8::Dense::pack(weight, bias, inputs).expect("bug: shapes were checked on reading"),
            ),
        }
    }

    /// The products of all rows, in `out`.
    pub(super) fn apply(&self, rows: &[f32], rounded: &mut int8::Rows, out: &mut Vec<f32>) {
        let size = |inputs, outputs| rows.len() / inputs * outputs;
        match self {
            Self::F32(layer) => {
                out.resize(size(layer.inputs(), layer.outputs()), 0.0);
                layer.apply(rows, out);
            }
            Self::Int8(layer) => {
                out.resize(size(layer.inputs(), layer.outputs()), 0.0);
                layer.apply(rows, rounded, out);
            }
        }
    }
}
