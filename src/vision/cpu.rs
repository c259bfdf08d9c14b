//! The CPU engine: a [`Plan`] with the network's weights on the convolution kernels of this machine.
//!
//! Everything is laid out once; a forward pass allocates only the logits it returns. How a step is computed is the
//! `kernels` crate's affair.

use kernels::conv::{self, ConvError, Executor, ExecutorOptions, Head, Kernel, Map, Method, Panels, Place};
use rayon::ThreadPool;

use super::arch::Activation;
use super::fold::Network;
use super::plan::{Op, Plan, Shape, Step, Value, Window};
use super::{Engine, EngineError, INPUT_SIZE, threads};
use crate::image::Prepared;

/// Elements that the largest step of the head may move for all images that go together: a quarter of a last level cache
/// of 32 MiB.
const HEAD_ELEMENTS: usize = 2 << 20;

/// How a [`CpuEngine`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Most images at once; memory is laid out for as many.
    pub max_batch: usize,
    /// Threads that compute while the caller waits.
    pub threads: usize,
}

/// A network on the CPU.
#[derive(Debug)]
pub struct CpuEngine {
    executor: Executor,
    /// One thread that stands back: the executor's first member. Linux gives a thread the niceness of the one that
    /// starts it, so the executor is made here and the rest of its team stands back too.
    lead: ThreadPool,
    classes: usize,
    /// Normalised value of each byte, by channel.
    tables: Box<[[f32; 256]; 3]>,
}

impl CpuEngine {
    /// Packs the network's weights and lays out memory. Weights are given up one by one as they are packed.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(network: Network, options: CpuOptions) -> Result<Self, EngineError> {
        let own = network.arch.preprocessing();
        let plan = Plan::new(network.arch, network.classes, INPUT_SIZE as usize);
        let steps = lower(&plan, Plan::weights(network)).map_err(EngineError::forward)?;
        let CpuOptions { max_batch, threads } = options;
        let largest = plan.steps[..plan.head].iter().map(Step::traffic).max().unwrap_or(1);
        let head = Head { steps: plan.head, images: HEAD_ELEMENTS / largest };
        let options = ExecutorOptions { max_batch, threads, portable: false, head };
        let lead = threads::pool(1).map_err(EngineError::forward)?;
        let executor = lead.install(|| Executor::new(steps, options)).map_err(EngineError::forward)?;
        let table = |c: usize| std::array::from_fn(|value| (value as f32 / 255.0 - own.mean[c]) / own.std[c]);
        Ok(Self { executor, lead, classes: plan.classes(), tables: Box::new(std::array::from_fn(table)) })
    }

    /// The steps' executor, to ask and to measure.
    pub fn executor(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Logits of images that are normalised already, each `[INPUT_SIZE, INPUT_SIZE, 3]`, one after the other.
    ///
    /// # Panics
    /// When `images` is not whole images.
    pub fn logits(&mut self, images: &[f32]) -> Vec<f32> {
        let image = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;
        assert!(images.len().is_multiple_of(image), "{} floats are not whole images", images.len());
        let mut logits = Vec::with_capacity(images.len() / image * self.classes);
        for batch in images.chunks(image * self.executor.max_batch()) {
            for (at, image) in batch.chunks_exact(image).enumerate() {
                fill(&mut self.executor, at, image, |_, value| value);
            }
            self.run(batch.len() / image, &mut logits);
        }
        logits
    }

    fn run(&mut self, batch: usize, logits: &mut Vec<f32>) {
        let executor = &mut self.executor;
        self.lead.install(|| executor.run(batch));
        for image in 0..batch {
            logits.extend_from_slice(&self.executor.output(image)[..self.classes]);
        }
    }
}

impl Engine for CpuEngine {
    fn classes(&self) -> usize {
        self.classes
    }

    fn forward(&mut self, batch: &[&Prepared]) -> Result<Vec<f32>, EngineError> {
        let expected = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;
        if let Some(image) = batch.iter().find(|image| image.pixels.len() != expected) {
            return Err(EngineError::ImageShape { expected, found: image.pixels.len() });
        }
        let mut logits = Vec::with_capacity(batch.len() * self.classes);
        for batch in batch.chunks(self.executor.max_batch()) {
            for (at, image) in batch.iter().enumerate() {
                let normalise = |channel: usize, byte| self.tables[channel][usize::from(byte)];
                fill(&mut self.executor, at, &image.pixels, normalise);
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
    mut weights: impl Iterator<Item = (Vec<f32>, Vec<f32>)>,
) -> Result<Vec<conv::Step>, ConvError> {
    let steps = plan.steps.iter().zip(places(plan));
    steps.map(|(step, (source, target))| conv::Step::new(op(step, &mut weights)?, source, target)).collect()
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

fn op(step: &Step, weights: &mut impl Iterator<Item = (Vec<f32>, Vec<f32>)>) -> Result<conv::Op, ConvError> {
    let (window, depthwise, activation) = match step.op {
        Op::MaxPool { window: movement } => return Ok(conv::Op::MaxPool { window: window(movement) }),
        Op::AveragePool => return Ok(conv::Op::AveragePool),
        Op::Conv { window: movement, depthwise, activation } => (window(movement), depthwise, activation),
    };
    let (weight, bias) = weights.next().expect("bug: a plan's convolutions are its network's");
    let activation = match activation {
        Activation::Linear => conv::Activation::Linear,
        Activation::Relu => conv::Activation::Relu,
        Activation::Relu6 => conv::Activation::Relu6,
    };
    if depthwise {
        let weights = Panels::pack_depthwise(&weight, &bias, window.kernel)?;
        return Ok(conv::Op::Depthwise { weights, window, activation });
    }
    let panels = Panels::pack(&weight, &bias, step.input.shape.channels, window.kernel)?;
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

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::fs;

    use rustix::{process::getpriority_process, thread::gettid};

    use super::*;
    use crate::vision::Arch;
    use crate::vision::random::Recipe;

    /// Niceness of each thread of this process whose name begins so (field 19 of proc(5)'s `stat`).
    fn niceness(name: &str) -> Vec<i32> {
        let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let named = tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap().starts_with(name));
        let stat = |task: std::path::PathBuf| fs::read_to_string(task.join("stat")).unwrap();
        let after_name = |stat: &str| stat.rsplit_once(") ").unwrap().1.to_owned();
        named.map(|task| after_name(&stat(task)).split(' ').nth(16).unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn the_whole_team_stands_back_and_nobody_else() {
        let own = getpriority_process(Some(gettid())).unwrap();
        let recipe = Recipe { classes: 2, ..Recipe::new(Arch::ResNet18) };
        let network = Network::read(recipe.arch, 2, &mut recipe.clone()).unwrap();
        let engine = CpuEngine::new(network, CpuOptions { max_batch: 1, threads: 3 }).unwrap();
        let lead = engine.lead.install(|| getpriority_process(Some(gettid())).unwrap());
        assert!(lead > own, "{lead} {own}");
        assert_eq!(niceness("conv-"), [lead; 2]);
        assert_eq!(getpriority_process(Some(gettid())).unwrap(), own);
    }
}
