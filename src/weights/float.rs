//! Rounds numbers from one floating-point type to another, to nearest, ties to even.

use half::{bf16, f16};
use safetensors::tensor::Dtype;

/// How floating-point numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Float {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them significant.
    F16,
    /// 16 bits, 8 of them significant; the range of f32.
    Bf16,
}

impl Float {
    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Appends `value`, rounded to nearest even.
    fn push(self, value: f64, out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend((value as f32).to_le_bytes()),
            Self::F16 => out.extend(f16::from_f32(to_odd(value)).to_le_bytes()),
            Self::Bf16 => out.extend(bf16::from_f32(to_odd(value)).to_le_bytes()),
        }
    }
}

/// Rounds to odd, after which a second rounding, to fewer bits, comes out as if it were the only one (Boldo and
/// Melquiond 2005). `half`'s own conversions from f64 drop the low half of the mantissa, and with it what breaks ties.
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || !nearest.is_finite() {
        return nearest;
    }
    let away = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(away)) | 1)
}

pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Little-endian numbers of `dtype` as `float`; integers stay as they are.
pub(super) fn round(bytes: Vec<u8>, dtype: Dtype, float: Float) -> Vec<u8> {
    if !is_float(dtype) || dtype == float.dtype() {
        return bytes;
    }
    let count = bytes.len() * 8 / dtype.bitsize();
    let mut out = Vec::with_capacity(count * float.dtype().bitsize() / 8);
    let mut push = |value| float.push(value, &mut out);
    match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().for_each(|&b| push(f64::from_le_bytes(b))),
        Dtype::F32 => bytes.as_chunks().0.iter().for_each(|&b| push(f64::from(f32::from_le_bytes(b)))),
        Dtype::F16 => bytes.as_chunks().0.iter().for_each(|&b| push(f16::from_le_bytes(b).to_f64())),
        _ => bytes.as_chunks().0.iter().for_each(|&b| push(bf16::from_le_bytes(b).to_f64())),
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even_from_any_width() {
        // One and a half units in the last place of f16 (2^-10) and bf16 (2^-7) at 1.0; a hair above a tie in f64.
        let tie = 1.0 + 1.5 * 2f64.powi(-10);
        let above = 1.0 + 0.5 * 2f64.powi(-10) + 2f64.powi(-40);
        let bytes: Vec<u8> = [tie, above, 65520.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let halves = |bytes: Vec<u8>| -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()
        };
        let ulp = 2f32.powi(-10);
        assert_eq!(halves(round(bytes, Dtype::F64, Float::F16)), [1.0 + 2.0 * ulp, 1.0 + ulp, f32::INFINITY]);
        let tiny: Vec<u8> = [1e-300_f64, -1e300, 65519.999].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(halves(round(tiny, Dtype::F64, Float::F16)), [0.0, f32::NEG_INFINITY, 65504.0]);
        let brain = 1.0 + 1.5 * 2f32.powi(-7);
        let rounded = round(brain.to_le_bytes().to_vec(), Dtype::F32, Float::Bf16);
        assert_eq!(bf16::from_le_bytes(rounded.try_into().unwrap()).to_f32(), 1.0 + 2.0 * 2f32.powi(-7));
    }

    #[test]
    fn integers_and_numbers_of_the_same_type_pass_untouched() {
        let bytes = vec![1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(round(bytes.clone(), Dtype::I64, Float::F16), bytes);
        assert_eq!(round(bytes.clone(), Dtype::F16, Float::F16), bytes);
    }
}
