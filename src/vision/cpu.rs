//! The CPU engine: a [`Plan`] with the network's weights on the convolution kernels of this machine.
//!
//! Everything is laid out once; a forward pass allocates only the logits it returns. How a step is computed is the
//! `kernels` crate's affair.

use kernels::conv::{
    self, ConvError, Executor, ExecutorOptions, Head, Isa, Kernel, Map, Method, Panels, Place,
};

use super::arch::Activation;
use super::fold::{self, TensorSource};
use super::plan::{Op, Plan, Shape, Step, Value, Window};
use super::weights::WeightsError;
use super::{Engine, EngineError, INPUT_SIZE, Picture};

/// Elements that the largest step of the head may move for all images that go together: a quarter of a last level cache
/// of 32 MiB.
const HEAD_ELEMENTS: usize = 2 << 20;

/// How a [`CpuEngine`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Most images at once; memory is laid out for as many.
    pub max_batch: usize,
    /// Threads that compute, the caller's included.
    pub threads: usize,
}

/// A network on the CPU.
#[derive(Debug)]
pub struct CpuEngine {
    executor: Executor,
    classes: usize,
    /// Normalised value of each byte, by channel.
    tables: Box<[[f32; 256]; 3]>,
}

impl CpuEngine {
    /// Lays out memory and packs the network's weights, one convolution after another as `weights` gives them.
    ///
    /// # Errors
    /// `weights` has unusable numbers or none, or the system gives no threads.
    pub fn new(weights: &mut impl TensorSource, options: CpuOptions) -> Result<Self, EngineError> {
        let own = weights.arch().preprocessing();
        let plan = Plan::new(weights.arch(), weights.classes(), INPUT_SIZE as usize);
        let steps = lower(&plan, fold::in_order(weights))?;
        let CpuOptions { max_batch, threads } = options;
        let largest = plan.steps[..plan.head].iter().map(Step::traffic).max().unwrap_or(1);
        let head = Head { steps: plan.head, images: HEAD_ELEMENTS / largest };
        let options = ExecutorOptions { max_batch, threads, isa: Isa::best(), head };
        let executor = Executor::new(steps, options).map_err(EngineError::forward)?;
        let table = |c: usize| std::array::from_fn(|value| (value as f32 / 255.0 - own.mean[c]) / own.std[c]);
        Ok(Self { executor, classes: plan.classes(), tables: Box::new(std::array::from_fn(table)) })
    }

    /// The steps' executor, to ask and to measure.
    pub fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    fn run(&mut self, batch: usize, logits: &mut Vec<f32>) {
        self.executor.run(batch);
        for image in 0..batch {
            logits.extend_from_slice(&self.executor.output(image)[..self.classes]);
        }
    }
}

impl Engine for CpuEngine {
    fn classes(&self) -> usize {
        self.classes
    }

    fn forward(&mut self, batch: &[&Picture]) -> Result<Vec<f32>, EngineError> {
        batch.iter().try_for_each(|picture| picture.check())?;
        let mut logits = Vec::with_capacity(batch.len() * self.classes);
        for batch in batch.chunks(self.executor.max_batch()) {
            for (at, picture) in batch.iter().enumerate() {
                let normalise = |channel: usize, byte| self.tables[channel][usize::from(byte)];
                match picture {
                    Picture::Rgb8(image) => fill(&mut self.executor, at, &image.pixels, normalise),
                    Picture::Normalised(values) => fill(&mut self.executor, at, values, |_, value| value),
                }
            }
            self.run(batch.len(), &mut logits);
        }
        Ok(logits)
    }
}

/// Writes an image, `[height, width, 3]`, inside the border of the executor's `at`th input.
fn fill<T: Copy>(executor: &mut Executor, at: usize, image: &[T], value: impl Fn(usize, T) -> f32) {
    let map = executor.input_map();
    let (border, row) = (map.border(), map.row());
    let lines = executor.input(at).chunks_exact_mut(row).skip(border);
    for (line, pixels) in lines.zip(image.chunks_exact(3 * map.width())) {
        let line = &mut line[3 * border..][..3 * map.width()];
        for (to, from) in line.as_chunks_mut::<3>().0.iter_mut().zip(pixels.as_chunks::<3>().0) {
            *to = std::array::from_fn(|channel| value(channel, from[channel]));
        }
    }
}

/// What computes each step of a plan.
pub fn kernels(plan: &Plan) -> Vec<Kernel> {
    let kernel = |(step, (source, target)): (&Step, (Place, Place))| match step.op {
        Op::MaxPool { .. } => Kernel::MaxPool,
        Op::AveragePool => Kernel::AveragePool,
        Op::Conv { depthwise: true, .. } => Kernel::Depthwise,
        Op::Conv { window: movement, .. } => {
            Kernel::of_convolution(window(movement), Method::Fastest, &source.map, &target.map)
        }
    };
    plan.steps.iter().zip(places(plan)).map(kernel).collect()
}

/// The plan's steps with their weights.
fn lower(
    plan: &Plan,
    mut weights: impl Iterator<Item = Result<(Vec<f32>, Vec<f32>), WeightsError>>,
) -> Result<Vec<conv::Step>, EngineError> {
    let step = |(step, (source, target)): (&Step, (Place, Place))| {
        let weights = match step.op {
            Op::Conv { .. } => weights.next().expect("bug: a plan's convolutions are its network's")?,
            Op::MaxPool { .. } | Op::AveragePool => (Vec::new(), Vec::new()),
        };
        let op = op(step, &weights).map_err(EngineError::forward)?;
        conv::Step::new(op, source, target).map_err(EngineError::forward)
    };
    plan.steps.iter().zip(places(plan)).map(step).collect()
}

/// Where each step reads and writes.
fn places(plan: &Plan) -> impl Iterator<Item = (Place, Place)> {
    // The first kernel reads whole rows of its window, over the border.
    let border = match plan.steps[0].op {
        Op::Conv { window, .. } => window.reach(plan.input().height),
        Op::MaxPool { .. } | Op::AveragePool => 0,
    };
    plan.steps.iter().enumerate().map(move |(at, step)| {
        let mut source = place(step.input);
        if at == 0 {
            let Shape { height, width, channels } = step.input.shape;
            source.map = Map::input(height, width, channels, border);
        }
        (source, place(step.output))
    })
}

fn op(step: &Step, (weight, bias): &(Vec<f32>, Vec<f32>)) -> Result<conv::Op, ConvError> {
    let (window, depthwise, activation) = match step.op {
        Op::MaxPool { window: movement } => return Ok(conv::Op::MaxPool { window: window(movement) }),
        Op::AveragePool => return Ok(conv::Op::AveragePool),
        Op::Conv { window: movement, depthwise, activation } => (window(movement), depthwise, activation),
    };
    let activation = match activation {
        Activation::Linear => conv::Activation::Linear,
        Activation::Relu => conv::Activation::Relu,
        Activation::Relu6 => conv::Activation::Relu6,
    };
    if depthwise {
        let weights = Panels::pack_depthwise(weight, bias, window.kernel)?;
        return Ok(conv::Op::Depthwise { weights, window, activation });
    }
    let panels = Panels::pack(weight, bias, step.input.shape.channels, window.kernel)?;
    let addend = step.addend.map(place);
    Ok(conv::Op::Conv { panels, window, activation, addend, method: Method::Fastest })
}

fn place(value: Value) -> Place {
    let Shape { height, width, channels } = value.shape;
    Place { slot: value.slot, map: Map::new(height, width, channels) }
}

fn window(window: Window) -> conv::Window {
    conv::Window { kernel: window.kernel, stride: window.stride, pad: window.pad }
}
