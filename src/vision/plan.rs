//! The forward pass as a flat list of fused steps: convolution with bias, shortcut and activation, pooling, last layer.
//!
//! Shapes, work and the slot of memory each activation goes to, for any device and for one image; no numbers of a model
//! and no layout of a device. Printing a plan gives a table of it.

use std::fmt;

use super::arch::{Activation, Arch, BlockSpec, ConvSpec, Shortcut};
use super::fold::{self, Network};

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

    /// Weights and biases of the network's convolutions in the order of [`Plan::new`]'s, the last layer included.
    pub fn weights(network: Network) -> impl Iterator<Item = (Vec<f32>, Vec<f32>)> {
        let blocks = network.blocks.into_iter().flat_map(|block| {
            let mut branch = block.branch;
            let last = branch.pop();
            let projection = match block.shortcut {
                Shortcut::Projection(conv) => Some(conv),
                Shortcut::None | Shortcut::Identity => None,
            };
            branch.into_iter().chain(projection).chain(last)
        });
        let convs = std::iter::once(network.stem).chain(blocks);
        let last = std::iter::once((network.fc_weight, network.fc_bias));
        convs.map(|fold::Conv { weight, bias, .. }| (weight, bias)).chain(last)
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

/// A plan in the making: activations are named by index, and get their slots when all uses are known.
struct Builder {
    shapes: Vec<Shape>,
    steps: Vec<Draft>,
}

/// A step whose activations have no slots yet.
struct Draft {
    name: String,
    op: Op,
    input: usize,
    addend: Option<usize>,
    output: usize,
}

impl Builder {
    fn new(image: Shape) -> Self {
        Self { shapes: vec![image], steps: Vec::new() }
    }

    fn image(&self) -> usize {
        0
    }

    /// Appends a step; `channels` where its output has other channels than its input.
    fn add(
        &mut self,
        name: &str,
        op: Op,
        input: usize,
        addend: Option<usize>,
        channels: Option<usize>,
    ) -> usize {
        let Shape { height, width, channels: inputs } = self.shapes[input];
        let (height, width) = match op {
            Op::Conv { window, .. } | Op::MaxPool { window } => (window.along(height), window.along(width)),
            Op::AveragePool => (1, 1),
        };
        self.shapes.push(Shape { height, width, channels: channels.unwrap_or(inputs) });
        let output = self.shapes.len() - 1;
        self.steps.push(Draft { name: name.into(), op, input, addend, output });
        output
    }

    fn conv(&mut self, spec: &ConvSpec, input: usize, addend: Option<usize>) -> usize {
        let Shape { height, width, .. } = self.shapes[input];
        debug_assert_eq!(height, width, "one padding serves both directions of a square picture");
        let pad = spec.window.before(height);
        let window = Window { kernel: spec.window.kernel, stride: spec.window.stride, pad };
        let op = Op::Conv { window, depthwise: spec.depthwise, activation: spec.activation };
        self.add(&spec.name, op, input, addend, Some(spec.outputs))
    }

    /// The projection comes late, so that it does not lie in memory while the branch is computed.
    fn block(&mut self, block: &BlockSpec, x: usize) -> usize {
        let (last, first) = block.branch.split_last().expect("bug: a block has convolutions");
        let y = first.iter().fold(x, |y, conv| self.conv(conv, y, None));
        let shortcut = match &block.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(x),
            Shortcut::Projection(conv) => Some(self.conv(conv, x, None)),
        };
        self.conv(last, y, shortcut)
    }

    /// The step that reads an activation last.
    fn last_use(&self, value: usize) -> usize {
        let uses = |step: &Draft| step.input == value || step.addend == Some(value) || step.output == value;
        self.steps.iter().rposition(uses).expect("bug: a step made it")
    }

    /// The longest head: only its last output is read later, and all its steps move more activations than weights.
    fn head(&self) -> usize {
        let moves_more = |step: &&Draft| {
            let step = self.place(step, &|value| Value { slot: 0, shape: self.shapes[value] });
            step.traffic() > step.parameters()
        };
        let most = self.steps.iter().take_while(moves_more).count();
        let read_later = |end: usize| {
            let later = self.steps[end..].iter().flat_map(|step| [Some(step.input), step.addend]);
            later.flatten().filter(move |&value| value <= self.steps[end - 1].output).collect::<Vec<_>>()
        };
        let whole = |&end: &usize| read_later(end).iter().all(|&value| value == self.steps[end - 1].output);
        (1..=most).rev().find(whole).unwrap_or(0)
    }

    fn place(&self, draft: &Draft, value: &impl Fn(usize) -> Value) -> Step {
        let (input, output) = (value(draft.input), value(draft.output));
        Step { name: draft.name.clone(), op: draft.op, input, addend: draft.addend.map(value), output }
    }

    fn finish(self, name: &str) -> Plan {
        let head = self.head();
        let last: Vec<usize> = (1..self.shapes.len()).map(|value| self.last_use(value)).collect();
        let dies = |value: usize, at: usize| value != self.image() && last[value - 1] == at;
        let mut slots = Slots::new(self.shapes[self.image()]);
        let mut place = vec![0; self.shapes.len()];
        let mut steps = Vec::with_capacity(self.steps.len());
        for (at, draft) in self.steps.iter().enumerate() {
            let shape = self.shapes[draft.output];
            let leaves_head = at + 1 == head;
            let reused = draft.addend.filter(|&addend| dies(addend, at) && !leaves_head);
            place[draft.output] = match reused {
                Some(addend) => place[addend],
                None if leaves_head => slots.add(shape.elements()),
                None => slots.take(shape.elements()),
            };
            for value in [draft.input].into_iter().chain(draft.addend) {
                if dies(value, at) && Some(value) != reused {
                    slots.free.push(place[value]);
                }
            }
            let value = |value: usize| Value { slot: place[value], shape: self.shapes[value] };
            steps.push(self.place(draft, &value));
        }
        Plan { name: name.into(), steps, slots: slots.sizes, head }
    }
}

/// Slots handed out so far.
struct Slots {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Slots {
    fn new(image: Shape) -> Self {
        Self { sizes: vec![image.elements()], free: Vec::new() }
    }

    /// The smallest free slot that is large enough, or the largest one made larger, or a new one.
    fn take(&mut self, elements: usize) -> usize {
        let key = |&at: &usize| {
            let size = self.sizes[self.free[at]];
            if size >= elements { (0, size) } else { (1, usize::MAX - size) }
        };
        let Some(at) = (0..self.free.len()).min_by_key(key) else {
            return self.add(elements);
        };
        let slot = self.free.swap_remove(at);
        self.sizes[slot] = self.sizes[slot].max(elements);
        slot
    }

    fn add(&mut self, elements: usize) -> usize {
        self.sizes.push(elements);
        self.sizes.len() - 1
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (image, parameters) = (self.input(), self.steps.iter().map(Step::parameters).sum::<usize>());
        writeln!(
            f,
            "{}: {} steps on {image}, {:.1} million multiply-adds, {:.2} million parameters",
            self.name,
            self.steps.len(),
            self.macs() as f64 / 1e6,
            parameters as f64 / 1e6
        )?;
        let elements: usize = self.slots.iter().sum();
        writeln!(
            f,
            "{} slots, {:.2} million elements an image: {:?}",
            self.slots.len(),
            elements as f64 / 1e6,
            self.slots
        )?;
        writeln!(
            f,
            "{:>4}  {:<22} {:<30} {:>12}    {:<12} {:<10} {:>8} {:>8} {:>8}",
            "step", "name", "operation", "input", "output", "slots", "MMAC", "weights", "moved"
        )?;
        self.steps.iter().enumerate().try_for_each(|(at, step)| writeln!(f, "{at:>4}  {step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slots = format!("{} > {}", self.input.slot, self.output.slot);
        let mut op = self.op.to_string();
        if let Some(addend) = self.addend {
            slots = format!("{} + {} > {}", self.input.slot, addend.slot, self.output.slot);
            op = op.replacen(" bias", " bias shortcut", 1);
        }
        write!(
            f,
            "{:<22} {op:<30} {:>12} -> {:<12} {slots:<10} {:>8.1} {:>8} {:>8}",
            self.name,
            self.input.shape.to_string(),
            self.output.shape.to_string(),
            self.macs() as f64 / 1e6,
            self.parameters(),
            self.traffic()
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Conv { window, depthwise, activation } => {
                let kind = if *depthwise { "depthwise" } else { "conv" };
                write!(f, "{kind} {window} bias{activation}")
            }
            Op::MaxPool { window } => write!(f, "max {window}"),
            Op::AveragePool => write!(f, "mean"),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{0}x{0}/{1}", self.kernel, self.stride)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activation::Linear => "",
            Activation::Relu => " relu",
            Activation::Relu6 => " relu6",
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::vision::random::Recipe;

    /// Convolutions with the last layer, and millions of multiply-adds at 224 pixels, from torchvision's tables (GFLOPS
    /// there are multiply-adds).
    const PUBLISHED: [(Arch, usize, usize); 5] = [
        (Arch::ResNet18, 21, 1814),
        (Arch::ResNet34, 37, 3664),
        (Arch::ResNet50, 54, 4089),
        (Arch::ResNet101, 105, 7801),
        (Arch::ResNet152, 156, 11514),
    ];

    #[test]
    fn work_and_parameters_are_the_published_ones() {
        for (arch, convs, mmacs) in PUBLISHED {
            let plan = Plan::new(arch, 1000, 224);
            assert_eq!(plan.steps.len(), convs + 2, "{arch}");
            assert_eq!((plan.macs() + 500_000) / 1_000_000, mmacs, "{arch}");
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
            let recipe = Recipe { classes: 7, ..Recipe::new(arch) };
            let network = Network::read(arch, 7, &mut recipe.clone()).unwrap();
            let lengths = Plan::weights(network).map(|(weight, bias)| weight.len() + bias.len());
            let expected = plan.steps.iter().map(Step::parameters).filter(|&n| n > 0);
            assert_eq!(lengths.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_plan_prints_as_a_table() {
        let text = Plan::new(Arch::ResNet152, 1000, 224).to_string();
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert_eq!(text.lines().count(), 3 + 158);
        assert!(line("resnet152").contains("158 steps on 224x224x3"));
        for part in ["conv 1x1/1 bias shortcut relu", "14x14x256 -> 14x14x1024", " 51.4 "] {
            assert!(line("layer3.20.conv3").contains(part), "{}", line("layer3.20.conv3"));
        }
    }
}
