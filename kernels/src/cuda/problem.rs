//! A convolution as the libraries are asked for it: shapes and what is fused, no addresses and no numbers.

use std::fmt;

/// What follows the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    /// The interval that values are held in.
    pub(super) fn bounds(self) -> (f32, f32) {
        match self {
            Self::Linear => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }
}

/// `activation(conv(x) + bias [+ addend])` over a whole batch: x `[batch, height, width, channels]` and the result in
/// NHWC, weights `[outputs, kernel, kernel, channels]`, fp16 with sums in f32; bias in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Problem {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub outputs: usize,
    /// Side of the window.
    pub kernel: usize,
    pub stride: usize,
    /// Pixels by which the first window begins outside the picture, above and to the left.
    pub before: usize,
    /// Pixels by which the last window may end outside, below and to the right.
    pub after: usize,
    pub activation: Activation,
    /// Whether something of the result's shape is added before the activation.
    pub addend: bool,
    /// The result is written in f32.
    pub wide: bool,
}

impl Problem {
    /// Elements read, per batch.
    pub fn inputs(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Elements written, per batch.
    pub fn results(&self) -> usize {
        self.batch * self.out_height * self.out_width * self.outputs
    }

    /// Elements of the weights.
    pub fn weights(&self) -> usize {
        self.outputs * self.kernel * self.kernel * self.channels
    }

    /// Floating point operations, per batch: two for each product.
    pub fn flops(&self) -> usize {
        2 * self.results() * self.kernel * self.kernel * self.channels
    }

    /// The fewest bytes moved, per batch: each operand once.
    pub fn bytes(&self) -> usize {
        let result = self.results() * if self.wide { 4 } else { 2 };
        let addend = if self.addend { 2 * self.results() } else { 0 };
        2 * (self.inputs() + self.weights()) + result + addend
    }

    /// Whether it is a plain product of matrices: every pixel by itself.
    pub fn is_product(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.before == 0 && self.after == 0
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, height, width, channels, outputs, kernel, stride, before, after, .. } = self;
        write!(
            f,
            "{batch}x{height}x{width}x{channels}-{kernel}x{kernel}/{stride}+{before}+{after}-{outputs}"
        )?;
        if self.addend {
            f.write_str("-add")?;
        }
        match self.activation {
            Activation::Linear => {}
            Activation::Relu => f.write_str("-relu")?,
            Activation::Relu6 => f.write_str("-relu6")?,
        }
        if self.wide { f.write_str("-f32") } else { Ok(()) }
    }
}
