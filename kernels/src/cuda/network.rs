//! A network on one GPU: its steps lowered to kernels that were chosen by measurement, and its weights. What runs batches
//! of it is `session`'s.
//!
//! The first convolution moves by two pixels over three colours, which is little for tensor cores: its input is stored as
//! cells of several pixels, so that it becomes one of stride 1 over the cells' channels.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::device::{Buffer, Device};
use super::error::CudaError;
use super::problem::{Activation, Problem};
use super::source;
use super::tune::{Choices, Libraries, Tuned, Tuning};

/// How a square window moves; as the CPU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Window {
    pub kernel: usize,
    pub stride: usize,
    /// Pixels by which the first window begins outside the picture.
    pub pad: usize,
}

/// An activation of one image: its shape and the slot of memory it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Place {
    pub slot: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Place {
    pub(super) fn elements(self) -> usize {
        self.height * self.width * self.channels
    }
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Op {
    /// `activation(conv(input) + bias + addend)`.
    Conv {
        /// `[outputs, depth, kernel, kernel]`, row-major; `depth` is 1 in a depthwise convolution.
        weight: Vec<f32>,
        /// `[outputs]`.
        bias: Vec<f32>,
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

/// One step of a network. The first reads the image, `[height, width, 3]`; the last one writes the logits.
#[derive(Debug, Clone)]
pub struct Step {
    /// What is done.
    pub op: Op,
    /// What it is done to.
    pub input: Place,
    /// Added before the activation; may lie where the output goes, element by element.
    pub addend: Option<Place>,
    /// Where the result goes.
    pub output: Place,
}

/// How a network is laid out on the GPU.
#[derive(Debug, Clone)]
pub struct Options {
    /// Mean and standard deviation of red, green and blue that bytes are normalised with, in units of full scale.
    pub mean: [f32; 3],
    /// The standard deviation that goes with it.
    pub std: [f32; 3],
    /// Batch sizes that kernels are chosen for, rising.
    pub buckets: Vec<usize>,
    /// Threads that build candidates while kernels are chosen.
    pub threads: usize,
    /// Plans of cuDNN's that are built and timed for each convolution.
    pub plans: usize,
    /// Time known choices again, beside what costs nothing to build.
    pub again: bool,
    /// Up to this many images a branch of the graph fetches the weights of later steps meanwhile: small batches are so
    /// quick that each layer waits for them, and 120 MB of a ResNet-152's do not stay in an L2 of 50 MB.
    pub prefetched: usize,
}

/// A step on the GPU; weights and biases by where they begin, in bytes.
pub(super) enum Kernel {
    Conv { problem: Problem, weight: usize, bias: usize, narrow_bias: usize },
    Depthwise { weight: usize, bias: usize, window: Window, activation: Activation },
    MaxPool { window: Window, quads: bool },
    AveragePool,
}

pub(super) struct Lowered {
    pub(super) kernel: Kernel,
    pub(super) input: Place,
    pub(super) addend: Option<Place>,
    pub(super) output: Place,
}

/// A network with its weights on a GPU.
pub struct Network {
    pub(super) device: Arc<Device>,
    pub(super) steps: Vec<Lowered>,
    /// Elements of each slot for one image.
    pub(super) slots: Vec<usize>,
    /// Weights and biases, one after another.
    pub(super) weights: Buffer,
    pub(super) weight_bytes: usize,
    /// Mean and standard deviation, `[2, 3]` f32.
    pub(super) norm: Buffer,
    pub(super) side: usize,
    pub(super) cells: Cells,
    pub(super) classes: usize,
    pub(super) buckets: Vec<usize>,
    pub(super) prefetched: usize,
    pub(super) tuned: HashMap<Problem, Tuned>,
    tuning: Tuning,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("steps", &self.steps.len()).finish_non_exhaustive()
    }
}

/// What is known of one kind of convolution after kernels were chosen.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The convolution.
    pub problem: Problem,
    /// How many steps of the network are of this kind.
    pub count: usize,
    /// Microseconds that the kernel was measured to take.
    pub micros: f32,
    /// Which kernel it is.
    pub kernel: String,
    /// How many were timed; 0 where the choice was an earlier one's.
    pub among: usize,
}

pub(super) fn unfit(reason: impl Into<String>) -> CudaError {
    CudaError::Network { reason: reason.into() }
}

/// Weights as the GPU reads them, one tensor after another, each aligned to 256 bytes.
#[derive(Default)]
struct Packer(Vec<u8>);

impl Packer {
    fn add(&mut self, bytes: impl IntoIterator<Item = u8>) -> usize {
        let at = self.0.len().next_multiple_of(256);
        self.0.resize(at, 0);
        self.0.extend(bytes);
        at
    }

    fn half(&mut self, values: &[f32]) -> Result<usize, CudaError> {
        let narrow: Vec<half::f16> = values.iter().map(|&value| half::f16::from_f32(value)).collect();
        if narrow.iter().any(|value| !value.is_finite()) {
            return Err(unfit("a folded weight is beyond fp16's range"));
        }
        Ok(self.add(narrow.into_iter().flat_map(|value| value.to_bits().to_ne_bytes())))
    }

    fn float(&mut self, values: &[f32]) -> usize {
        self.add(values.iter().flat_map(|value| value.to_ne_bytes()))
    }
}

/// `[outputs, depth, kernel, kernel]` to `[outputs, kernel, kernel, depth]`.
fn channels_last(weight: &[f32], depth: usize, kernel: usize) -> Vec<f32> {
    let window = kernel * kernel;
    let filter = |filter: &[f32]| -> Vec<f32> {
        (0..window).flat_map(|at| (0..depth).map(move |c| c * window + at)).map(|at| filter[at]).collect()
    };
    weight.chunks_exact(depth * window).flat_map(filter).collect()
}

/// A window of stride 2 over pixels as one of stride 1 over cells of `block` by `block` pixels: its side, its padding, and
/// as many results in each cell as windows of stride 2 begin there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cells {
    pub(super) block: usize,
    kernel: usize,
    before: usize,
    after: usize,
}

impl Cells {
    /// Result row `block / 2 * y + p` reads pixel row `block * y + 2 p - pad + k`, which lies in cell row
    /// `y + floor((2 p - pad + k) / block)`.
    fn of(window: Window, block: usize) -> Self {
        let before = window.pad.div_ceil(block);
        let last = (block - 2 + window.kernel - 1 + before * block - window.pad) / block;
        Self { block, kernel: last + 1, before, after: last.saturating_sub(before) }
    }

    /// Results of a cell along a side.
    fn results(self) -> usize {
        self.block / 2
    }

    pub(super) fn channels(self) -> usize {
        source::cell_channels(self.block)
    }

    /// `[outputs, 3, kernel, kernel]` to `[results, results, outputs, cells, cells, channels]`.
    fn weights(self, weight: &[f32], window: Window) -> Vec<f32> {
        let (kernel, side, block, channels) = (window.kernel, self.kernel, self.block, self.channels());
        let outputs = weight.len() / (3 * kernel * kernel);
        let filter = side * side * channels;
        let mut cells = vec![0.0; self.results() * self.results() * outputs * filter];
        for (at, &value) in weight.iter().enumerate() {
            let (x, y) = (at % kernel, at / kernel % kernel);
            let (colour, output) = (at / kernel / kernel % 3, at / kernel / kernel / 3);
            for phase in 0..self.results() * self.results() {
                let row = 2 * (phase / self.results()) + y + self.before * block - window.pad;
                let column = 2 * (phase % self.results()) + x + self.before * block - window.pad;
                let quad = row % block / 2 * self.results() + column % block / 2;
                let channel = quad * 12 + (row % 2 * 2 + column % 2) * 3 + colour;
                let cell = (row / block * side + column / block) * channels;
                cells[(phase * outputs + output) * filter + cell + channel] = value;
            }
        }
        cells
    }
}

/// How the first convolution is computed: by quads of results where a max pooling follows, which can read those.
fn entrance(steps: &[Step]) -> Result<Cells, CudaError> {
    let Op::Conv { window, depthwise: false, .. } = steps[0].op else {
        return Err(unfit("it does not begin with a convolution"));
    };
    let Place { height, width, channels, .. } = steps[0].input;
    if window.stride != 2 || channels != 3 || height != width || height % 4 != 0 {
        // Pictures that are uploaded lie 16 bytes apart or nothing: 3 x 4 x 4 bytes is a multiple of that.
        let entrance = "a convolution of stride 2 over a square RGB picture whose side is a multiple of 4";
        return Err(unfit(format!("it does not begin with {entrance}")));
    }
    let pooled = matches!(steps.get(1).map(|step| &step.op), Some(Op::MaxPool { .. }));
    Ok(Cells::of(window, if pooled { 4 } else { 2 }))
}

impl Network {
    /// Lowers `steps`, chooses kernels (those of `known` where they hold for this GPU) and uploads the weights. `slots` are
    /// the elements that each slot of memory must hold for one image. Returns the choices to keep, too.
    ///
    /// # Errors
    /// The network has a step that the engine does not know, a library is missing, or the GPU fails or has too little
    /// memory ([`CudaError::is_out_of_memory`]: fewer or smaller buckets may fit).
    pub fn new(
        device: Arc<Device>,
        steps: &[Step],
        slots: &[usize],
        options: &Options,
        known: &Choices,
    ) -> Result<(Arc<Self>, Choices), CudaError> {
        let mut packer = Packer::default();
        let last = steps.len().checked_sub(1).ok_or_else(|| unfit("it has no steps"))?;
        let (side, classes) = (steps[0].input.height, steps[last].output.channels);
        let cells = entrance(steps)?;
        let lower = |(at, step): (usize, &Step)| {
            let role = Role { entrance: (at == 0).then_some(cells), quads: at == 1 && cells.results() == 2 };
            lower(step, role, at == last, &mut packer)
        };
        let steps: Vec<Lowered> = steps.iter().enumerate().map(lower).collect::<Result<_, _>>()?;
        let mut slots = slots.to_vec();
        for place in steps.iter().flat_map(|step| [step.input, step.output]) {
            let slot = slots.get_mut(place.slot).ok_or_else(|| unfit("a step names a slot that is not"))?;
            *slot = (*slot).max(place.elements());
        }
        let buckets = options.buckets.clone();
        if buckets.first() != Some(&1) || buckets.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(unfit("buckets must rise from 1"));
        }
        let mut problems: Vec<Problem> = Vec::new();
        for &batch in &buckets {
            for step in &steps {
                if let Kernel::Conv { problem, .. } = step.kernel {
                    let problem = Problem { batch, ..problem };
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
            }
        }
        let libraries = Libraries::open(&device, options.threads, options.plans, options.again)?;
        let (tuned, choices, tuning) = libraries.tune(&problems, known)?;
        let (weights, weight_bytes) = (device.upload(&packer.0)?, packer.0.len());
        let norm: Vec<f32> = options.mean.iter().chain(&options.std).copied().collect();
        let norm = device.upload(&norm)?;
        let network = Self {
            device,
            steps,
            slots,
            weights,
            weight_bytes,
            norm,
            side,
            cells,
            classes,
            buckets,
            prefetched: options.prefetched,
            tuned,
            tuning,
        };
        Ok((Arc::new(network), choices))
    }

    /// The GPU it is on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Logits of an image.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Batch sizes that there are kernels for, rising.
    pub fn buckets(&self) -> &[usize] {
        &self.buckets
    }

    /// Where the weights and biases of some steps lie, in bytes from the first one's.
    pub(super) fn weights_of(&self, steps: Range<usize>) -> Range<usize> {
        let begins = |step: usize| {
            let weights = self.steps.iter().skip(step).find_map(|step| match step.kernel {
                Kernel::Conv { weight, .. } | Kernel::Depthwise { weight, .. } => Some(weight),
                Kernel::MaxPool { .. } | Kernel::AveragePool => None,
            });
            weights.unwrap_or(self.weight_bytes)
        };
        begins(steps.start)..begins(steps.end)
    }

    /// How its kernels were chosen.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    pub(super) fn max_batch(&self) -> usize {
        *self.buckets.last().expect("bug: there is a bucket of 1")
    }

    /// The convolutions of each bucket, in the order of the network, each kind once.
    pub fn layers(&self) -> Vec<Layer> {
        let mut layers: Vec<Layer> = Vec::new();
        for &batch in &self.buckets {
            for step in &self.steps {
                let Kernel::Conv { problem, .. } = step.kernel else { continue };
                let problem = Problem { batch, ..problem };
                if let Some(layer) = layers.iter_mut().find(|layer| layer.problem == problem) {
                    layer.count += 1;
                    continue;
                }
                let Tuned { candidate, micros, among } = &self.tuned[&problem];
                let kernel = candidate.choice().to_string();
                layers.push(Layer { problem, count: 1, micros: *micros, kernel, among: *among });
            }
        }
        layers
    }
}

/// What is special of the first two steps.
struct Role {
    /// The first one reads cells.
    entrance: Option<Cells>,
    /// The second one reads quads of the first one's results.
    quads: bool,
}

fn lower(step: &Step, role: Role, last: bool, packer: &mut Packer) -> Result<Lowered, CudaError> {
    let Step { ref op, mut input, addend, output } = *step;
    let kernel = match *op {
        Op::MaxPool { window } => Kernel::MaxPool { window, quads: role.quads },
        Op::AveragePool => Kernel::AveragePool,
        Op::Conv { ref weight, ref bias, window, depthwise: true, activation } => {
            let taps = window.kernel * window.kernel;
            let channels = input.channels;
            let last = (0..taps).flat_map(|tap| (0..channels).map(move |c| c * taps + tap));
            let weight: Vec<f32> = last.map(|at| weight[at]).collect();
            let (weight, bias) = (packer.half(&weight)?, packer.float(bias));
            Kernel::Depthwise { weight, bias, window, activation }
        }
        Op::Conv { ref weight, ref bias, window, depthwise: false, activation } => {
            let Window { kernel, stride, pad } = window;
            let rows = (output.height - 1) * stride + kernel;
            let after = rows.saturating_sub(input.height + pad);
            let mut problem = Problem {
                batch: 1,
                height: input.height,
                width: input.width,
                channels: input.channels,
                out_height: output.height,
                out_width: output.width,
                outputs: output.channels,
                kernel,
                stride,
                before: pad,
                after,
                activation,
                addend: addend.is_some(),
                wide: last,
            };
            let (weight, bias) = match role.entrance {
                None => (channels_last(weight, input.channels, kernel), bias.clone()),
                Some(cells) => {
                    let across = input.height / cells.block;
                    let phases = cells.results() * cells.results();
                    input = Place { height: across, width: across, channels: cells.channels(), ..input };
                    problem = Problem {
                        height: across,
                        width: across,
                        channels: cells.channels(),
                        out_height: across,
                        out_width: across,
                        outputs: phases * output.channels,
                        kernel: cells.kernel,
                        stride: 1,
                        before: cells.before,
                        after: cells.after,
                        ..problem
                    };
                    (cells.weights(weight, window), bias.repeat(phases))
                }
            };
            let (weight, narrow_bias) = (packer.half(&weight)?, packer.half(&bias)?);
            Kernel::Conv { problem, weight, bias: packer.float(&bias), narrow_bias }
        }
    };
    Ok(Lowered { kernel, input, addend, output })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    /// A plain convolution over NHWC, `weight` `[outputs, kernel, kernel, channels]`.
    fn convolve(
        input: &[f32],
        (side, channels): (usize, usize),
        weight: &[f32],
        (kernel, stride, before): (usize, usize, usize),
        out: usize,
    ) -> Vec<f32> {
        let filter = kernel * kernel * channels;
        let mut result = Vec::new();
        for (y, x) in (0..out).flat_map(|y| (0..out).map(move |x| (y, x))) {
            for weight in weight.chunks_exact(filter) {
                let mut sum = 0.0;
                for (ky, kx) in (0..kernel).flat_map(|y| (0..kernel).map(move |x| (y, x))) {
                    let (row, column) = (y * stride + ky, x * stride + kx);
                    if row < before || column < before || row >= side + before || column >= side + before {
                        continue;
                    }
                    let at = ((row - before) * side + column - before) * channels;
                    let weight = &weight[(ky * kernel + kx) * channels..];
                    sum += (0..channels).map(|c| input[at + c] * weight[c]).sum::<f32>();
                }
                result.push(sum);
            }
        }
        result
    }

    #[test]
    fn a_convolution_over_cells_is_the_one_over_pixels() {
        let noise = |count: usize| (0..count).map(|at| ((at * 7919 % 113) as f32 - 56.0) / 16.0);
        for (kernel, pad, side, block) in [
            (7, 3, 12, 2),
            (7, 3, 12, 4),
            (3, 0, 8, 2),
            (3, 0, 8, 4),
            (3, 1, 8, 4),
            (5, 2, 8, 2),
            (2, 0, 6, 2),
        ] {
            let window = Window { kernel, stride: 2, pad };
            let (outputs, out) = (5, side / 2);
            let image: Vec<f32> = noise(side * side * 3).collect();
            let weight: Vec<f32> = noise(outputs * 3 * kernel * kernel).collect();
            let straight = channels_last(&weight, 3, kernel);
            let expected = convolve(&image, (side, 3), &straight, (kernel, 2, pad), out);
            let cells = Cells::of(window, block);
            let (across, channels) = (side / block, cells.channels());
            let mut packed = vec![0.0; across * across * channels];
            for (at, value) in image.iter().enumerate() {
                let (y, x, colour) = (at / 3 / side, at / 3 % side, at % 3);
                let quad = y % block / 2 * (block / 2) + x % block / 2;
                let channel = quad * 12 + (y % 2 * 2 + x % 2) * 3 + colour;
                packed[(y / block * across + x / block) * channels + channel] = *value;
            }
            let weight = cells.weights(&weight, window);
            let movement = (cells.kernel, 1, cells.before);
            let found = convolve(&packed, (across, channels), &weight, movement, across);
            let results = cells.results();
            for (at, &expected) in expected.iter().enumerate() {
                let (y, x, output) = (at / outputs / out, at / outputs % out, at % outputs);
                let phase = y % results * results + x % results;
                let cell = y / results * across + x / results;
                let found = found[(cell * results * results + phase) * outputs + output];
                assert!((found - expected).abs() < 1e-3, "{window:?} {cells:?} {y} {x} {output}");
            }
            assert_eq!(across + cells.before + cells.after + 1 - cells.kernel, across, "{cells:?}");
        }
        let stem = Window { kernel: 7, stride: 2, pad: 3 };
        assert_eq!(Cells::of(stem, 4), Cells { block: 4, kernel: 3, before: 1, after: 1 });
        assert_eq!(Cells::of(stem, 2), Cells { block: 2, kernel: 4, before: 2, after: 1 });
    }
}
