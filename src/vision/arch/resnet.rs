//! ResNet-18 to 152 as torchvision builds and names them ("v1.5": the stride sits on the 3x3 convolution of a
//! bottleneck).

use super::blueprint::{Activation, BlockSpec, Blueprint, ConvSpec, Padding, Shortcut, TensorSpec, Window};

/// Channels that leave the stem.
const STEM_WIDTH: usize = 64;
/// Inner width of the blocks of each of the four stages (He et al. 2015, table 1).
const STAGE_WIDTHS: [usize; 4] = [64, 128, 256, 512];
/// torch's `BatchNorm2d` default.
const EPSILON: f64 = 1e-5;

/// What one residual block is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// 3x3, 3x3.
    Basic,
    /// 1x1, 3x3, 1x1 with four times the width going out.
    Bottleneck,
}

impl Kind {
    fn expansion(self) -> usize {
        match self {
            Kind::Basic => 1,
            Kind::Bottleneck => 4,
        }
    }
}

/// Block kind and blocks per stage: the only thing in which the depths differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) kind: Kind,
    pub(super) depths: [usize; 4],
}

impl Recipe {
    pub(super) fn blueprint(self, classes: usize) -> Blueprint {
        let mut blocks = Vec::with_capacity(self.depths.iter().sum());
        let mut inputs = STEM_WIDTH;
        for (stage, (&depth, &width)) in self.depths.iter().zip(&STAGE_WIDTHS).enumerate() {
            for index in 0..depth {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                blocks.push(block(self.kind, format!("layer{}.{index}", stage + 1), inputs, width, stride));
                inputs = width * self.kind.expansion();
            }
        }
        Blueprint {
            stem: conv("conv1", "bn1", (3, STEM_WIDTH), 7, 2),
            max_pool: true,
            blocks,
            epsilon: EPSILON,
            fc_weight: TensorSpec::new("fc.weight".into(), &[classes, inputs]),
            fc_bias: TensorSpec::new("fc.bias".into(), &[classes]),
        }
    }

    /// Whether the blocks that exist are exactly these, judged by which keys do.
    pub(super) fn fits(self, has: &impl Fn(&str) -> bool) -> bool {
        let holds = |stage: usize, index: usize| has(&format!("layer{stage}.{index}.conv1.weight"));
        let kind = if has("layer1.0.conv3.weight") { Kind::Bottleneck } else { Kind::Basic };
        let whole = |(stage, &depth): (usize, &usize)| holds(stage, depth - 1) && !holds(stage, depth);
        self.kind == kind && (1..).zip(&self.depths).all(whole)
    }
}

fn conv(name: &str, norm: &str, channels: (usize, usize), kernel: usize, stride: usize) -> ConvSpec {
    let (inputs, outputs) = channels;
    let window = Window { kernel, stride, padding: Padding::Centred };
    let (name, norm, activation) = (name.into(), norm.into(), Activation::Relu);
    ConvSpec { name, norm, inputs, outputs, window, depthwise: false, activation }
}

fn block(kind: Kind, name: String, inputs: usize, width: usize, stride: usize) -> BlockSpec {
    let outputs = width * kind.expansion();
    let part = |n: usize, channels, kernel, stride| {
        conv(&format!("{name}.conv{n}"), &format!("{name}.bn{n}"), channels, kernel, stride)
    };
    let branch = match kind {
        Kind::Basic => vec![part(1, (inputs, width), 3, stride), part(2, (width, width), 3, 1)],
        Kind::Bottleneck => vec![
            part(1, (inputs, width), 1, 1),
            part(2, (width, width), 3, stride),
            part(3, (width, outputs), 1, 1),
        ],
    };
    let shortcut = if stride == 1 && inputs == outputs {
        Shortcut::Identity
    } else {
        let (down, norm) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        let projection = conv(&down, &norm, (inputs, outputs), 1, stride);
        Shortcut::Projection(ConvSpec { activation: Activation::Linear, ..projection })
    };
    BlockSpec { name, branch, shortcut }
}

#[cfg(test)]
mod tests {
    use super::super::Arch;

    #[test]
    fn strides_sit_where_torchvision_puts_them() {
        let strided = |arch: Arch| -> Vec<String> {
            let net = arch.blueprint(1000);
            let convs = net.blocks.iter().flat_map(|b| b.branch.iter().chain(b.shortcut.projection()));
            convs.filter(|c| c.window.stride == 2).map(|c| c.name.clone()).collect()
        };
        assert_eq!(strided(Arch::ResNet152)[..2], ["layer2.0.conv2", "layer2.0.downsample.0"]);
        assert_eq!(strided(Arch::ResNet18)[4..], ["layer4.0.conv1", "layer4.0.downsample.0"]);
    }

    #[test]
    fn only_wide_first_blocks_project_their_shortcut() {
        let projected = |arch: Arch| -> Vec<String> {
            let blocks = arch.blueprint(10).blocks.into_iter();
            blocks.filter(|b| b.shortcut.projection().is_some()).map(|b| b.name).collect()
        };
        assert_eq!(projected(Arch::ResNet34), ["layer2.0", "layer3.0", "layer4.0"]);
        assert_eq!(projected(Arch::ResNet50), ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]);
    }
}
