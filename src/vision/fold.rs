//! A network ready for any engine: each BatchNorm folded into the convolution before it, weights in f32.
//!
//! Knows where tensors come from only as a [`TensorSource`]; layouts for a particular device are the engines' business.

use super::arch::{Arch, ConvSpec, Shortcut, TensorSpec};
use super::weights::WeightsError;

/// Where the numbers of a network come from: a checkpoint or a generator.
pub trait TensorSource {
    /// Which network they are for.
    fn arch(&self) -> Arch;

    /// Outputs of its last layer.
    fn classes(&self) -> usize;

    /// The tensor's numbers in row-major order, exactly [`TensorSpec::elements`] of them, all finite.
    ///
    /// # Errors
    /// Whatever keeps the numbers from being had.
    fn tensor(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, WeightsError>;
}

/// A convolution with bias.
#[derive(Debug, Clone)]
pub struct Conv {
    /// Name, shape, window and activation.
    pub spec: ConvSpec,
    /// `[outputs, depth, kernel, kernel]`, row-major; `depth` is 1 in a depthwise convolution.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// Convolutions in a row, and what is added before the activation of the last.
#[derive(Debug, Clone)]
pub struct Block {
    /// At least one convolution, in order.
    pub branch: Vec<Conv>,
    /// What is added.
    pub shortcut: Shortcut<Conv>,
}

/// All numbers of one network, in the order of the forward pass.
#[derive(Debug, Clone)]
pub struct Network {
    /// Which network this is.
    pub arch: Arch,
    /// Outputs of the last layer.
    pub classes: usize,
    /// The first convolution.
    pub stem: Conv,
    /// Whether a 3x3/2 max pool with padding 1 follows the stem.
    pub max_pool: bool,
    /// All blocks, in order; the average over the picture follows.
    pub blocks: Vec<Block>,
    /// `[classes, features]`, row-major.
    pub fc_weight: Vec<f32>,
    /// `[classes]`.
    pub fc_bias: Vec<f32>,
}

impl Network {
    /// Reads and folds every tensor of `source`.
    ///
    /// # Errors
    /// The first error of the source.
    pub fn read(source: &mut impl TensorSource) -> Result<Self, WeightsError> {
        let (arch, classes) = (source.arch(), source.classes());
        let plan = arch.blueprint(classes);
        let mut fold = |spec| fold(spec, plan.epsilon, source);
        let stem = fold(plan.stem)?;
        let mut blocks = Vec::with_capacity(plan.blocks.len());
        for block in plan.blocks {
            let branch = block.branch.into_iter().map(&mut fold).collect::<Result<_, _>>()?;
            let shortcut = block.shortcut.try_map(&mut fold)?;
            blocks.push(Block { branch, shortcut });
        }
        let fc_weight = source.tensor(&plan.fc_weight)?;
        let fc_bias = source.tensor(&plan.fc_bias)?;
        Ok(Self { arch, classes, stem, max_pool: plan.max_pool, blocks, fc_weight, fc_bias })
    }
}

/// Weight and bias of each convolution in the order of [`super::plan::Plan::new`]'s, the last layer included: read and
/// folded when they are asked for, so that nobody has to hold all of them.
pub fn in_order<S: TensorSource>(
    source: &mut S,
) -> impl Iterator<Item = Result<(Vec<f32>, Vec<f32>), WeightsError>> {
    let plan = source.arch().blueprint(source.classes());
    let blocks = plan.blocks.into_iter().flat_map(|block| {
        let mut branch = block.branch;
        let last = branch.pop();
        let projection = match block.shortcut {
            Shortcut::Projection(conv) => Some(conv),
            Shortcut::None | Shortcut::Identity => None,
        };
        branch.into_iter().chain(projection).chain(last)
    });
    let convs = std::iter::once(plan.stem).chain(blocks).map(Some).chain(std::iter::once(None));
    convs.map(move |spec| match spec {
        Some(spec) => fold(spec, plan.epsilon, source).map(|conv| (conv.weight, conv.bias)),
        None => Ok((source.tensor(&plan.fc_weight)?, source.tensor(&plan.fc_bias)?)),
    })
}

/// `w' = w * gamma / sqrt(var + eps)`, `b' = beta - mean * gamma / sqrt(var + eps)`, in f64, rounded once.
fn fold(spec: ConvSpec, epsilon: f64, source: &mut impl TensorSource) -> Result<Conv, WeightsError> {
    let mut weight = source.tensor(&spec.weight())?;
    let gamma = source.tensor(&spec.norm_tensor("weight"))?;
    let beta = source.tensor(&spec.norm_tensor("bias"))?;
    let mean = source.tensor(&spec.norm_tensor("running_mean"))?;
    let var = source.tensor(&spec.norm_tensor("running_var"))?;
    let mut bias = Vec::with_capacity(spec.outputs);
    for (channel, filter) in weight.chunks_exact_mut(spec.filter()).enumerate() {
        let scale = f64::from(gamma[channel]) / (f64::from(var[channel]) + epsilon).sqrt();
        filter.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
        bias.push((f64::from(beta[channel]) - f64::from(mean[channel]) * scale) as f32);
    }
    Ok(Conv { spec, weight, bias })
}
