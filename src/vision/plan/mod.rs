//! The forward pass as a flat list of fused steps: convolution with bias, shortcut and activation, pooling, last layer.
//!
//! Shapes, work and the slot of memory each activation goes to, for any device and for one image; no numbers of a model
//! and no layout of a device.

mod build;
mod text;

use build::Builder;

use super::arch::{Activation, Arch};

/// A forward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What network this is, `resnet152`.
    pub name: String,
    /// What is done, in order. The first step reads the image, the last one writes the logits.
    pub steps: Vec<Step>,
    /// Elements that each slot must hold for one image. The image has slot 0 to itself.
    pub slots: Vec<usize>,
    /// How many of the first steps move more activations than weights. A device with caches may take a few images at a
    /// time through these: nothing but the last one's output is needed later, and no other of them uses its slot.
    pub head: usize,
}

/// An activation: its shape and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Index into [`Plan::slots`].
    pub slot: usize,
    /// Its shape.
    pub shape: Shape,
}

/// The shape of one image's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Shape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// One fused step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Key prefix of the weights in a checkpoint, or what the step does.
    pub name: String,
    /// What is done.
    pub op: Op,
    /// What it is done to.
    pub input: Value,
    /// Added to the result before the activation; may lie where the output goes, element by element.
    pub addend: Option<Value>,
    /// Where the result goes; never where the input lies.
    pub output: Value,
}

/// What a step does. Windows that leave the picture see zeros in a convolution and nothing in a pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `activation(conv(input) + bias + addend)`; weights come in the order of these steps.
    Conv {
        /// The kernel's movement.
        window: Window,
        /// Each output channel reads the input channel of its own number.
        depthwise: bool,
        /// What follows the sum.
        activation: Activation,
    },
    /// The largest value of each window.
    MaxPool {
        /// The window's movement.
        window: Window,
    },
    /// The mean over the picture.
    AveragePool,
}

/// How a square window moves over the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Side.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Pixels by which the first window begins outside the picture.
    pub pad: usize,
}

impl Shape {
    /// Numbers in it.
    pub fn elements(self) -> usize {
        self.height * self.width * self.channels
    }
}

impl Window {
    /// A window that covers pixel `stride * n` in its middle: padding `kernel / 2`.
    pub fn centred(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, pad: kernel / 2 }
    }

    /// Windows along a side.
    fn along(self, side: usize) -> usize {
        side.div_ceil(self.stride)
    }

    /// Pixels by which the windows along a side reach over either end of it, at most.
    pub fn reach(self, side: usize) -> usize {
        let end = (self.along(side).max(1) - 1) * self.stride + self.kernel;
        end.saturating_sub(side + self.pad).max(self.pad)
    }
}

impl Plan {
    /// The forward pass over square images of `side` pixels.
    pub fn new(arch: Arch, classes: usize, side: usize) -> Self {
        let net = arch.blueprint(classes);
        let mut plan = Builder::new(Shape { height: side, width: side, channels: 3 });
        let mut x = plan.conv(&net.stem, plan.image(), None);
        if net.max_pool {
            x = plan.add("maxpool", Op::MaxPool { window: Window::centred(3, 2) }, x, None, None);
        }
        for block in &net.blocks {
            x = plan.block(block, x);
        }
        let pooled = plan.add("avgpool", Op::AveragePool, x, None, None);
        let last =
            Op::Conv { window: Window::centred(1, 1), depthwise: false, activation: Activation::Linear };
        plan.add("fc", last, pooled, None, Some(classes));
        plan.finish(arch.name())
    }

    /// Shape of the image.
    pub fn input(&self) -> Shape {
        self.steps[0].input.shape
    }

    /// Logits of an image.
    pub fn classes(&self) -> usize {
        self.steps.last().map_or(0, |step| step.output.shape.channels)
    }

    /// Multiplications, each with an addition, of one image.
    pub fn macs(&self) -> usize {
        self.steps.iter().map(Step::macs).sum()
    }
}

impl Step {
    /// Multiplications, each with an addition, of one image by the plain sum.
    pub fn macs(&self) -> usize {
        match self.op {
            Op::Conv { window, depthwise, .. } => {
                let depth = if depthwise { 1 } else { self.input.shape.channels };
                self.output.shape.elements() * depth * window.kernel * window.kernel
            }
            Op::MaxPool { .. } | Op::AveragePool => 0,
        }
    }

    /// Weights and biases.
    pub fn parameters(&self) -> usize {
        match self.op {
            Op::Conv { window, depthwise, .. } => {
                let depth = if depthwise { 1 } else { self.input.shape.channels };
                self.output.shape.channels * (depth * window.kernel * window.kernel + 1)
            }
            Op::MaxPool { .. } | Op::AveragePool => 0,
        }
    }

    /// Elements read and written for one image, weights not counted.
    pub fn traffic(&self) -> usize {
        let values = [Some(self.input), self.addend, Some(self.output)];
        values.into_iter().flatten().map(|value| value.shape.elements()).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::vision::fold;
    use crate::vision::random::Recipe;

    /// Convolutions with the last layer, and hundredths of GFLOPS as torchvision's documentation gives them (they are
    /// multiply-adds).
    const PUBLISHED: [(Arch, usize, usize); 5] = [
        (Arch::ResNet18, 21, 181),
        (Arch::ResNet34, 37, 366),
        (Arch::ResNet50, 54, 409),
        (Arch::ResNet101, 105, 780),
        (Arch::ResNet152, 156, 1151),
    ];

    #[test]
    fn work_and_parameters_are_the_published_ones() {
        for (arch, convs, work) in PUBLISHED {
            let plan = Plan::new(arch, 1000, 224);
            assert_eq!(plan.steps.len(), convs + 2, "{arch}");
            assert_eq!((plan.macs() + 5_000_000) / 10_000_000, work, "{arch}");
            // BatchNorm's scale and shift are folded into weights and biases.
            let norms: usize = plan.steps.iter().map(|s| s.output.shape.channels).sum::<usize>()
                - 64
                - arch.features()
                - plan.classes();
            let parameters: usize = plan.steps.iter().map(Step::parameters).sum();
            assert_eq!(parameters + norms, arch.parameters(1000), "{arch}");
            assert_eq!((plan.input().elements(), plan.classes()), (3 * 224 * 224, 1000));
        }
    }

    #[test]
    fn no_step_overwrites_what_is_still_needed() {
        for arch in Arch::ALL {
            let plan = Plan::new(arch, 10, 64);
            // What each slot holds: the number of the step that wrote it.
            let mut holds = vec![usize::MAX; plan.slots.len()];
            for (at, step) in plan.steps.iter().enumerate() {
                for value in [Some(step.input), step.addend, Some(step.output)].into_iter().flatten() {
                    assert!(value.shape.elements() <= plan.slots[value.slot], "{arch} {}", step.name);
                }
                assert_ne!(step.input.slot, step.output.slot);
                assert!(at == 0 || step.input.slot != 0 && step.output.slot != 0);
                let written = |value: Value| {
                    holds[value.slot] == usize::MAX || plan.steps[holds[value.slot]].output == value
                };
                assert!(written(step.input), "{arch} {}", step.name);
                assert!(step.addend.is_none_or(written), "{arch} {}", step.name);
                holds[step.output.slot] = at;
            }
        }
    }

    #[test]
    fn identity_shortcuts_are_added_in_place() {
        let plan = Plan::new(Arch::ResNet50, 10, 224);
        let adds: Vec<&Step> = plan.steps.iter().filter(|s| s.addend.is_some()).collect();
        assert_eq!(adds.len(), 16);
        assert_eq!(adds.iter().filter(|s| s.addend == Some(s.output)).count(), 15);
        assert_eq!(plan.slots.len(), 5);
    }

    #[test]
    fn the_head_ends_with_the_second_stage_and_leaves_one_activation() {
        for (arch, ..) in PUBLISHED {
            let plan = Plan::new(arch, 1000, 224);
            let (head, rest) = plan.steps.split_at(plan.head);
            let left = head.last().unwrap();
            assert!(left.name.starts_with("layer2.") && rest[0].name.starts_with("layer3.0."), "{arch}");
            let uses = |step: &&Step| {
                let values = [Some(step.input), step.addend, Some(step.output)];
                values.into_iter().flatten().any(|value| value.slot == left.output.slot)
            };
            assert_eq!(head.iter().filter(uses).count(), 1, "{arch}");
            assert_eq!(rest[0].input, left.output);
        }
    }

    #[test]
    fn weights_come_in_the_order_of_the_steps() {
        for arch in [Arch::ResNet18, Arch::ResNet50, Arch::EfficientNetLite0] {
            let plan = Plan::new(arch, 7, 224);
            let mut recipe = Recipe { classes: 7, ..Recipe::new(arch) };
            let length = |(weight, bias): (Vec<f32>, Vec<f32>)| weight.len() + bias.len();
            let lengths = fold::in_order(&mut recipe).map(|conv| length(conv.unwrap()));
            let expected = plan.steps.iter().map(Step::parameters).filter(|&n| n > 0);
            assert_eq!(lengths.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }
}
