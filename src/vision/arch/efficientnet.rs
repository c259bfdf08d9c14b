//! EfficientNet-Lite0 as the package `efficientnet_lite_pytorch` builds and names it: MobileNetV2's inverted bottlenecks
//! in EfficientNet-B0's proportions, without squeeze-and-excitation, with ReLU6 and TensorFlow's padding.

use super::blueprint::{Activation, BlockSpec, Blueprint, ConvSpec, Padding, Shortcut, TensorSpec, Window};

/// Channels that leave the stem.
const STEM_WIDTH: usize = 32;
/// Channels that the average is taken of.
const HEAD_WIDTH: usize = 1280;
/// TensorFlow's choice for this family; torch's default is 1e-5.
const EPSILON: f64 = 1e-3;

/// Blocks of one width.
struct Stage {
    repeats: usize,
    kernel: usize,
    /// Of the first block; the others have 1.
    stride: usize,
    /// Widening of the channels inside the block; 1 leaves the widening convolution out.
    expansion: usize,
    outputs: usize,
}

/// Tan & Le 2019, table 1, which Lite0 keeps.
#[rustfmt::skip]
const STAGES: [Stage; 7] = [
    Stage { repeats: 1, kernel: 3, stride: 1, expansion: 1, outputs: 16 },
    Stage { repeats: 2, kernel: 3, stride: 2, expansion: 6, outputs: 24 },
    Stage { repeats: 2, kernel: 5, stride: 2, expansion: 6, outputs: 40 },
    Stage { repeats: 3, kernel: 3, stride: 2, expansion: 6, outputs: 80 },
    Stage { repeats: 3, kernel: 5, stride: 1, expansion: 6, outputs: 112 },
    Stage { repeats: 4, kernel: 5, stride: 2, expansion: 6, outputs: 192 },
    Stage { repeats: 1, kernel: 3, stride: 1, expansion: 6, outputs: 320 },
];

pub(super) fn lite0(classes: usize) -> Blueprint {
    let mut blocks = Vec::new();
    let mut inputs = STEM_WIDTH;
    for stage in &STAGES {
        for index in 0..stage.repeats {
            let stride = if index == 0 { stage.stride } else { 1 };
            blocks.push(block(blocks.len(), stage, inputs, stride));
            inputs = stage.outputs;
        }
    }
    let head = conv("_conv_head".into(), "_bn1".into(), (inputs, HEAD_WIDTH), (1, 1));
    blocks.push(BlockSpec { name: "_conv_head".into(), branch: vec![head], shortcut: Shortcut::None });
    Blueprint {
        stem: conv("_conv_stem".into(), "_bn0".into(), (3, STEM_WIDTH), (3, 2)),
        max_pool: false,
        blocks,
        epsilon: EPSILON,
        fc_weight: TensorSpec::new("_fc.weight".into(), &[classes, HEAD_WIDTH]),
        fc_bias: TensorSpec::new("_fc.bias".into(), &[classes]),
    }
}

/// Whether the keys are those of Lite0's blocks: the larger Lites have more, the other EfficientNets squeeze.
pub(super) fn is_lite0(has: &impl Fn(&str) -> bool) -> bool {
    let blocks: usize = STAGES.iter().map(|stage| stage.repeats).sum();
    let holds = |index: usize| has(&format!("_blocks.{index}._depthwise_conv.weight"));
    holds(blocks - 1) && !holds(blocks) && !has("_blocks.0._se_reduce.weight")
}

fn conv(name: String, norm: String, channels: (usize, usize), window: (usize, usize)) -> ConvSpec {
    let ((inputs, outputs), (kernel, stride)) = (channels, window);
    let window = Window { kernel, stride, padding: Padding::Same };
    ConvSpec { name, norm, inputs, outputs, window, depthwise: false, activation: Activation::Relu6 }
}

/// 1x1 widening, depthwise, 1x1 narrowing without activation.
fn block(index: usize, stage: &Stage, inputs: usize, stride: usize) -> BlockSpec {
    let name = format!("_blocks.{index}");
    let wide = inputs * stage.expansion;
    let part = |what: &str, norm: usize, channels, window| {
        conv(format!("{name}._{what}_conv"), format!("{name}._bn{norm}"), channels, window)
    };
    let widen = (stage.expansion != 1).then(|| part("expand", 0, (inputs, wide), (1, 1)));
    let across = ConvSpec { depthwise: true, ..part("depthwise", 1, (wide, wide), (stage.kernel, stride)) };
    let narrow = part("project", 2, (wide, stage.outputs), (1, 1));
    let narrow = ConvSpec { activation: Activation::Linear, ..narrow };
    let branch = widen.into_iter().chain([across, narrow]).collect();
    let same = stride == 1 && inputs == stage.outputs;
    BlockSpec { name, branch, shortcut: if same { Shortcut::Identity } else { Shortcut::None } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_shapes_are_those_of_the_published_checkpoint() {
        let layout = lite0(1000).layout();
        let shape = |name: &str| layout.iter().find(|t| t.name == name).map(|t| t.shape.as_slice());
        assert_eq!(layout[0], TensorSpec::new("_conv_stem.weight".into(), &[32, 3, 3, 3]));
        assert_eq!(shape("_bn0.running_var"), Some(&[32][..]));
        assert_eq!(shape("_blocks.0._expand_conv.weight"), None);
        assert_eq!(shape("_blocks.0._depthwise_conv.weight"), Some(&[32, 1, 3, 3][..]));
        assert_eq!(shape("_blocks.3._bn0.weight"), Some(&[144][..]));
        assert_eq!(shape("_blocks.11._depthwise_conv.weight"), Some(&[672, 1, 5, 5][..]));
        assert_eq!(shape("_blocks.15._project_conv.weight"), Some(&[320, 1152, 1, 1][..]));
        assert_eq!(shape("_bn1.num_batches_tracked"), Some(&[][..]));
        assert_eq!(layout[layout.len() - 2], TensorSpec::new("_fc.weight".into(), &[1000, 1280]));
    }

    #[test]
    fn only_repeated_blocks_have_a_shortcut() {
        let added = lite0(1000).blocks.into_iter().enumerate();
        let added = added.filter(|(_, block)| block.shortcut != Shortcut::None).map(|(index, _)| index);
        assert_eq!(added.collect::<Vec<_>>(), [2, 4, 6, 7, 9, 10, 12, 13, 14]);
    }

    #[test]
    fn relatives_are_not_taken_for_lite0() {
        let names: Vec<String> = lite0(1000).layout().into_iter().map(|tensor| tensor.name).collect();
        let with = |extra: &str| is_lite0(&|name: &str| name == extra || names.iter().any(|n| n == name));
        assert!(with(""));
        assert!(!with("_blocks.0._se_reduce.weight"), "EfficientNet-B0");
        assert!(!with("_blocks.16._depthwise_conv.weight"), "EfficientNet-Lite1");
    }
}
