//! What a convolutional network is made of: convolutions with their windows and activations, blocks with shortcuts, and
//! the tensors that a checkpoint keeps of them.
//!
//! No particular network and no arithmetic on pixels.

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The key in the publisher's `state_dict`.
    pub name: String,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    pub(super) fn new(name: String, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec() }
    }

    /// How many numbers the tensor holds.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether this counts training batches: no forward pass reads it and a checkpoint may omit it.
    pub fn is_counter(&self) -> bool {
        self.name.ends_with(".num_batches_tracked")
    }
}

/// What follows a sum.
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
    /// The interval into which results are moved.
    pub fn bounds(self) -> (f32, f32) {
        match self {
            Activation::Linear => (f32::NEG_INFINITY, f32::INFINITY),
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
        }
    }
}

/// Where the first window of a convolution begins. Either way there are `ceil(side / stride)` windows along a side, and
/// those that leave the picture see zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Padding {
    /// `kernel / 2` before the picture: PyTorch's habit, the window's middle on every `stride`th pixel.
    Centred,
    /// Half, rounded down, of the pixels that all windows together lack: TensorFlow's `SAME`. With stride 2 and an even
    /// side that is one pixel less than [`Padding::Centred`].
    Same,
}

/// How a square window of odd side moves over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Side: 1, 3, 5 or 7.
    pub kernel: usize,
    /// Step in both directions: 1 or 2.
    pub stride: usize,
    /// Where the first one begins.
    pub padding: Padding,
}

impl Window {
    /// Windows along a side of the picture.
    pub fn along(self, side: usize) -> usize {
        side.div_ceil(self.stride)
    }

    /// Pixels by which the first window begins before a side of the picture.
    pub fn before(self, side: usize) -> usize {
        match self.padding {
            Padding::Centred => self.kernel / 2,
            Padding::Same => {
                let reach = self.along(side).saturating_sub(1) * self.stride + self.kernel;
                reach.saturating_sub(side) / 2
            }
        }
    }
}

/// A convolution without bias, the BatchNorm behind it, and what follows. Dilation is 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvSpec {
    /// Key prefix of the convolution, `layer1.0.conv1`.
    pub name: String,
    /// Key prefix of its BatchNorm, `layer1.0.bn1`.
    pub norm: String,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// The kernel's movement.
    pub window: Window,
    /// Each output channel reads only the input channel of its own number; there are as many of both.
    pub depthwise: bool,
    /// What follows BatchNorm; at the end of a block, what follows the sum with the shortcut.
    pub activation: Activation,
}

impl ConvSpec {
    /// Input channels that one output reads.
    pub fn depth(&self) -> usize {
        if self.depthwise { 1 } else { self.inputs }
    }

    /// Weights of one output channel.
    pub fn filter(&self) -> usize {
        self.depth() * self.window.kernel * self.window.kernel
    }

    /// The convolution's weight, `[outputs, depth, kernel, kernel]`.
    pub fn weight(&self) -> TensorSpec {
        let shape = [self.outputs, self.depth(), self.window.kernel, self.window.kernel];
        TensorSpec::new(format!("{}.weight", self.name), &shape)
    }

    /// A per-channel tensor of the BatchNorm: `weight`, `bias`, `running_mean` or `running_var`.
    pub fn norm_tensor(&self, what: &str) -> TensorSpec {
        TensorSpec::new(format!("{}.{what}", self.norm), &[self.outputs])
    }

    fn layout(&self, out: &mut Vec<TensorSpec>) {
        out.push(self.weight());
        out.extend(["weight", "bias", "running_mean", "running_var"].map(|what| self.norm_tensor(what)));
        out.push(TensorSpec::new(format!("{}.num_batches_tracked", self.norm), &[]));
    }
}

/// What is added to a block's branch before the last activation; `C` is how a convolution is represented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortcut<C> {
    /// Nothing.
    None,
    /// The block's input.
    Identity,
    /// A convolution of the block's input.
    Projection(C),
}

impl<C> Shortcut<C> {
    /// The convolution, where there is one.
    pub fn projection(&self) -> Option<&C> {
        match self {
            Shortcut::Projection(conv) => Some(conv),
            Shortcut::None | Shortcut::Identity => None,
        }
    }

    /// The same shortcut with another representation of its convolution.
    ///
    /// # Errors
    /// Whatever `convert` reports.
    pub fn try_map<D, E>(self, convert: impl FnOnce(C) -> Result<D, E>) -> Result<Shortcut<D>, E> {
        Ok(match self {
            Shortcut::None => Shortcut::None,
            Shortcut::Identity => Shortcut::Identity,
            Shortcut::Projection(conv) => Shortcut::Projection(convert(conv)?),
        })
    }
}

/// Convolutions one after the other, and what is added before the activation of the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    /// Key prefix, `layer3.17`.
    pub name: String,
    /// At least one convolution, in order.
    pub branch: Vec<ConvSpec>,
    /// What is added.
    pub shortcut: Shortcut<ConvSpec>,
}

/// A whole network: stem, perhaps a max pool, blocks, global average, fully connected layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// The first convolution.
    pub stem: ConvSpec,
    /// Whether a 3x3/2 max pool with padding 1 follows the stem.
    pub max_pool: bool,
    /// All blocks, in order. A convolution on its own, as before the average, is a block of one without shortcut.
    pub blocks: Vec<BlockSpec>,
    /// Added to every BatchNorm's variance.
    pub epsilon: f64,
    /// Weight of the fully connected layer, `[classes, features]`.
    pub fc_weight: TensorSpec,
    /// Its bias, `[classes]`.
    pub fc_bias: TensorSpec,
}

impl Blueprint {
    /// Every tensor of the network, in `state_dict` order.
    pub fn layout(&self) -> Vec<TensorSpec> {
        let mut out = Vec::new();
        self.stem.layout(&mut out);
        for block in &self.blocks {
            block.branch.iter().chain(block.shortcut.projection()).for_each(|conv| conv.layout(&mut out));
        }
        out.extend([self.fc_weight.clone(), self.fc_bias.clone()]);
        out
    }

    /// The block whose branch ends with the BatchNorm of this name.
    pub fn ended_by(&self, norm: &str) -> Option<&BlockSpec> {
        self.blocks.iter().find(|block| block.branch.last().is_some_and(|conv| conv.norm == norm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_begin_where_torch_and_tensorflow_let_them() {
        let before = |kernel, stride, padding, side| Window { kernel, stride, padding }.before(side);
        for kernel in [1, 3, 5, 7] {
            for side in [1, 2, 7, 8, 224] {
                assert_eq!(before(kernel, 1, Padding::Same, side), kernel / 2, "{kernel} {side}");
                assert_eq!(before(kernel, 2, Padding::Centred, side), kernel / 2, "{kernel} {side}");
            }
        }
        // From the formula in TensorFlow's documentation of `SAME`.
        for (kernel, side, pixels) in [(3, 224, 0), (3, 7, 1), (5, 56, 1), (5, 57, 2), (1, 8, 0), (7, 2, 2)] {
            assert_eq!(before(kernel, 2, Padding::Same, side), pixels, "{kernel} {side}");
        }
    }
}
