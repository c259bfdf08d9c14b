//! A network on one GPU: its steps lowered to kernels that were chosen by measurement, its weights, and sessions that run
//! batches of it.
//!
//! A session is one batch at a time with memory, a stream and recorded graphs of its own; several sessions on several
//! threads are what lets copies in, kernels and copies out overlap. What a picture is and what classes are called is not
//! known here.
//!
//! The first convolution moves by two pixels over three colours, which is little for tensor cores: its input is stored as
//! cells of several pixels, so that it becomes one of stride 1 over the cells' channels.

#![allow(unsafe_code, reason = "launches on the GPU and copies, which take addresses")]

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream, result};

use super::cudnn::Operands;
use super::device::{Argument, Buffer, Device, Pinned};
use super::error::{Context, CudaError};
use super::problem::{Activation, Problem};
use super::source;
use super::tune::{self, Choices, Libraries, Tuned, Tuning, WORKSPACE};

/// Most classes that [`Session::classify`] ranks on the GPU.
pub const MAX_TOP: usize = source::MAX_TOP as usize;

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
    fn elements(self) -> usize {
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
}

/// A step on the GPU.
enum Kernel {
    Conv { problem: Problem, weight: usize, bias: usize, narrow_bias: usize },
    Depthwise { weight: usize, bias: usize, window: Window, activation: Activation },
    MaxPool { window: Window, quads: bool },
    AveragePool,
}

struct Lowered {
    kernel: Kernel,
    input: Place,
    addend: Option<Place>,
    output: Place,
}

/// A network with its weights on a GPU.
pub struct Network {
    device: Arc<Device>,
    steps: Vec<Lowered>,
    /// Elements of each slot for one image.
    slots: Vec<usize>,
    /// Weights and biases, one after another.
    weights: Buffer,
    /// Mean and standard deviation, `[2, 3]` f32.
    norm: Buffer,
    side: usize,
    cells: Cells,
    classes: usize,
    buckets: Vec<usize>,
    tuned: HashMap<Problem, Tuned>,
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

fn unfit(reason: impl Into<String>) -> CudaError {
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
struct Cells {
    block: usize,
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

    fn channels(self) -> usize {
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
    if window.stride != 2 || channels != 3 || height != width || height % 2 != 0 {
        return Err(unfit("it does not begin with a convolution of stride 2 over a square RGB picture"));
    }
    let pooled = matches!(steps.get(1).map(|step| &step.op), Some(Op::MaxPool { .. }));
    Ok(Cells::of(window, if pooled && height % 4 == 0 { 4 } else { 2 }))
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
        let libraries = Libraries::open(&device, options.threads, options.plans)?;
        let (tuned, choices, tuning) = libraries.tune(&problems, known)?;
        let weights = device.upload(&packer.0)?;
        let norm: Vec<f32> = options.mean.iter().chain(&options.std).copied().collect();
        let norm = device.upload(&norm)?;
        let network =
            Self { device, steps, slots, weights, norm, side, cells, classes, buckets, tuned, tuning };
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

    /// How its kernels were chosen.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    fn max_batch(&self) -> usize {
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

/// One image.
#[derive(Debug, Clone, Copy)]
pub enum Image<'a> {
    /// `[side, side, 3]` bytes.
    Rgb8(&'a [u8]),
    /// `[side, side, 3]`, normalised.
    Normalised(&'a [f32]),
}

/// The best classes of one image.
#[derive(Debug, Clone, PartialEq)]
pub enum Ranked {
    /// Classes and their softmax, falling, ties by index.
    Best(Vec<(u32, f32)>),
    /// The first class whose logit is not finite.
    NonFinite(u32),
}

/// How a batch of each size is cut into buckets, and what it costs.
#[derive(Debug, Clone, PartialEq)]
struct Cuts {
    /// Bucket to run first, by images left; index 0 is not used.
    first: Vec<usize>,
    micros: Vec<f32>,
}

impl Cuts {
    /// The cheapest cuts of every batch up to the largest of `buckets` (size, microseconds), rising from 1. A bucket may run
    /// with fewer images than it has room for.
    fn new(buckets: &[(usize, f32)]) -> Self {
        let largest = buckets.last().map_or(0, |bucket| bucket.0);
        let mut cuts = Self { first: vec![0; largest + 1], micros: vec![0.0; largest + 1] };
        for images in 1..=largest {
            let cost = |&(size, micros): &(usize, f32)| micros + cuts.micros[images.saturating_sub(size)];
            let cheapest = buckets.iter().map(|bucket| (bucket.0, cost(bucket)));
            let best = cheapest.min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            (cuts.first[images], cuts.micros[images]) = best.unwrap_or_default();
        }
        cuts
    }
}

/// Runs batches of a network, one at a time.
pub struct Session {
    network: Arc<Network>,
    stream: Arc<CudaStream>,
    bell: CudaEvent,
    arena: Vec<Buffer>,
    workspace: Buffer,
    /// Logits of the bucket that runs, f32.
    logits: Buffer,
    /// Pictures as they come.
    pixels: Buffer,
    staging: Pinned,
    /// Classes, probabilities and faults of a batch.
    ranks: Buffer,
    ranks_out: Pinned,
    logits_out: Pinned,
    graphs: HashMap<usize, CudaGraph>,
    cuts: Cuts,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("network", &self.network).finish_non_exhaustive()
    }
}

// SAFETY: graphs are used through exclusive references only; everything else the driver lets any thread use.
unsafe impl Send for Session {}

impl Session {
    /// Lays out memory and records a graph for each bucket.
    ///
    /// # Errors
    /// The GPU fails or has too little memory.
    pub fn new(network: Arc<Network>) -> Result<Self, CudaError> {
        let device = network.device.clone();
        let most = network.max_batch();
        let (image, classes) = (3 * network.side * network.side, network.classes);
        let arena = network.slots.iter().map(|elements| device.alloc(2 * elements * most));
        let mut session = Self {
            stream: device.stream()?,
            bell: device.bell()?,
            arena: arena.collect::<Result<_, _>>()?,
            workspace: device.alloc(WORKSPACE)?,
            logits: device.alloc(4 * classes * most)?,
            pixels: device.alloc(4 * image * most)?,
            staging: device.pinned(4 * image * most)?,
            ranks: device.alloc(4 * (2 * MAX_TOP + 1) * most)?,
            ranks_out: device.pinned(4 * (2 * MAX_TOP + 1) * most)?,
            logits_out: device.pinned(4 * classes * most)?,
            graphs: HashMap::new(),
            cuts: Cuts { first: Vec::new(), micros: Vec::new() },
            network,
        };
        let mut timed = Vec::new();
        for bucket in session.network.buckets.clone() {
            // Once without a graph: what a kernel loads lazily must not happen while a graph is recorded.
            session.enqueue(bucket)?;
            session.stream.synchronize().during("trying the network")?;
            let graph = tune::record(&session.stream, || session.enqueue(bucket))?;
            graph.upload().during("uploading a graph")?;
            session.graphs.insert(bucket, graph);
            session.replay(bucket, 2)?;
            timed.push((bucket, session.replay(bucket, 5)?));
        }
        session.cuts = Cuts::new(&timed);
        Ok(session)
    }

    /// The network it runs.
    pub fn network(&self) -> &Arc<Network> {
        &self.network
    }

    fn slot(&self, place: Place) -> CUdeviceptr {
        self.arena[place.slot].address
    }

    /// Puts the steps over a bucket's images on the stream, from slot 0 to the logits.
    fn enqueue(&self, batch: usize) -> Result<(), CudaError> {
        let network = &*self.network;
        let weight = |at: usize| network.weights.address + at as u64;
        let int = |value: usize| Argument::Int(value as i32);
        let (last, images) = (network.steps.len() - 1, batch as u32);
        for (at, step) in network.steps.iter().enumerate() {
            let Lowered { kernel, input, addend, output } = step;
            let (x, y) =
                (self.slot(*input), if at == last { self.logits.address } else { self.slot(*output) });
            let [height, width, channels] =
                [output.height, output.width, output.channels].map(|size| size as u32);
            match *kernel {
                Kernel::Conv { problem, weight: weights, bias, narrow_bias } => {
                    let problem = Problem { batch, ..problem };
                    let operands = Operands {
                        x,
                        weights: weight(weights),
                        bias: weight(bias),
                        narrow_bias: weight(narrow_bias),
                        addend: addend.map_or(0, |addend| self.slot(addend)),
                        y,
                        workspace: self.workspace.address,
                    };
                    let candidate = &network.tuned[&problem].candidate;
                    // SAFETY: slots hold the largest bucket, weights were laid out for this problem.
                    unsafe { candidate.enqueue(&network.device, &problem, &operands, &self.stream) }?;
                }
                Kernel::Depthwise { weight: weights, bias, window, activation } => {
                    let (low, high) = activation.bounds();
                    let mut arguments = [
                        Argument::Address(x),
                        Argument::Address(weight(weights)),
                        Argument::Address(weight(bias)),
                        Argument::Address(y),
                        int(input.height),
                        int(input.width),
                        int(input.channels),
                        int(output.height),
                        int(output.width),
                        int(window.kernel),
                        int(window.stride),
                        int(window.pad),
                        int(window.pad),
                        Argument::Float(low),
                        Argument::Float(high),
                    ];
                    let (kernel, stride) = (window.kernel as u32, window.stride as u32);
                    let launch = source::depthwise(images, height, width, channels, kernel, stride);
                    let launch =
                        launch.ok_or_else(|| unfit("a depthwise window that there is no kernel for"))?;
                    // SAFETY: the kernel's arguments; slots hold the largest bucket.
                    unsafe {
                        network.device.launch("convoy_depthwise", launch, &self.stream, &mut arguments)
                    }?;
                }
                Kernel::MaxPool { window, quads } => {
                    let mut arguments = [
                        Argument::Address(x),
                        Argument::Address(y),
                        int(input.height),
                        int(input.width),
                        int(input.channels),
                        int(output.height),
                        int(output.width),
                        int(window.kernel),
                        int(window.stride),
                        int(window.pad),
                        Argument::Int(i32::from(quads)),
                    ];
                    let launch = source::max_pool(images, height, width, channels);
                    // SAFETY: as above.
                    unsafe {
                        network.device.launch("convoy_max_pool", launch, &self.stream, &mut arguments)
                    }?;
                }
                Kernel::AveragePool => {
                    let mut arguments = [
                        Argument::Address(x),
                        Argument::Address(y),
                        int(input.height * input.width),
                        int(input.channels),
                    ];
                    let launch = source::average_pool(images, channels);
                    // SAFETY: as above.
                    unsafe {
                        network.device.launch("convoy_average_pool", launch, &self.stream, &mut arguments)
                    }?;
                }
            }
        }
        Ok(())
    }

    /// Microseconds of one forward pass over a bucket, the mean of `count` on this session's stream.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// There is no such bucket.
    pub fn replay(&mut self, bucket: usize, count: usize) -> Result<f32, CudaError> {
        let (start, end) = (self.network.device.timer()?, self.network.device.timer()?);
        start.record(&self.stream).during("timing the network")?;
        for _ in 0..count {
            self.graphs[&bucket].launch().during("timing the network")?;
        }
        end.record(&self.stream).during("timing the network")?;
        Ok(start.elapsed_ms(&end).during("timing the network")? * 1000.0 / count.max(1) as f32)
    }

    /// The images' logits, `[batch, classes]`.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// An image has another number of elements than the network takes.
    pub fn logits(&mut self, images: &[Image<'_>]) -> Result<Vec<f32>, CudaError> {
        let classes = self.network.classes;
        let mut all = Vec::with_capacity(images.len() * classes);
        for images in images.chunks(self.network.max_batch()) {
            self.run(images, 0)?;
            let floats = self.logits_out.as_slice().as_chunks::<4>().0.iter();
            all.extend(floats.take(images.len() * classes).map(|&bytes| f32::from_ne_bytes(bytes)));
        }
        Ok(all)
    }

    /// The `top` best classes of each image, at most [`MAX_TOP`]; only those come back from the GPU.
    ///
    /// # Errors
    /// The GPU fails.
    ///
    /// # Panics
    /// As [`Session::logits`].
    pub fn classify(&mut self, images: &[Image<'_>], top: usize) -> Result<Vec<Ranked>, CudaError> {
        let top = top.clamp(1, MAX_TOP);
        let mut all = Vec::with_capacity(images.len());
        for images in images.chunks(self.network.max_batch()) {
            self.run(images, top)?;
            let (classes, probabilities, faults) = self.ranking(top);
            let words = self.ranks_out.as_slice().as_chunks::<4>().0;
            for image in 0..images.len() {
                let fault = i32::from_ne_bytes(words[faults / 4 + image]);
                all.push(match u32::try_from(fault) {
                    Ok(class) => Ranked::NonFinite(class),
                    Err(_none) => {
                        let row = image * top..(image + 1) * top;
                        let class = |at: usize| u32::from_ne_bytes(words[classes / 4 + at]);
                        let value = |at: usize| f32::from_ne_bytes(words[probabilities / 4 + at]);
                        let row = row.map(|at| (class(at), value(at)));
                        Ranked::Best(row.take_while(|&(class, _)| class != source::NO_CLASS).collect())
                    }
                });
            }
        }
        Ok(all)
    }

    /// Where classes, probabilities and faults begin in `ranks`, in bytes.
    fn ranking(&self, top: usize) -> (usize, usize, usize) {
        let row = 4 * top * self.network.max_batch();
        (0, row, 2 * row)
    }

    /// Runs at most the largest bucket; with `top` 0 the logits come back, otherwise the ranking.
    fn run(&mut self, images: &[Image<'_>], top: usize) -> Result<(), CudaError> {
        self.network.device.bind()?;
        let (numbers, classes) = (3 * self.network.side * self.network.side, self.network.classes);
        let stride = 4 * numbers;
        let bytes = images.iter().any(|image| matches!(image, Image::Normalised(_)));
        // Bytes lie closely; a batch with floats in it has room for a float in each place.
        let stride = if bytes { stride } else { numbers };
        for (room, image) in self.staging.as_mut_slice().chunks_exact_mut(stride).zip(images) {
            match image {
                Image::Rgb8(pixels) => room[..numbers].copy_from_slice(pixels),
                Image::Normalised(values) => {
                    assert_eq!(values.len(), numbers, "an image of another size");
                    let room = room.as_chunks_mut::<4>().0.iter_mut();
                    room.zip(*values).for_each(|(room, value)| *room = value.to_ne_bytes());
                }
            }
        }
        let raw = self.stream.cu_stream();
        let staged = &self.staging.as_slice()[..stride * images.len()];
        // SAFETY: the buffer has room for the largest bucket; the staging memory is pinned and not written before the bell.
        unsafe { result::memcpy_htod_async(self.pixels.address, staged, raw) }.during("copying pictures")?;
        let (first, second, third) = self.ranking(top);
        let mut done = 0;
        while done < images.len() {
            let bucket = self.cuts.first[images.len() - done];
            let here = bucket.min(images.len() - done);
            self.pack(&images[done..done + here], stride, done)?;
            self.graphs[&bucket].launch().during("running the network")?;
            if top == 0 {
                let to = self.logits_out.address().wrapping_add(4 * classes * done);
                // SAFETY: room for the largest bucket's logits; read only after the bell.
                let to = unsafe { std::slice::from_raw_parts_mut(to, 4 * classes * here) };
                // SAFETY: as above; the GPU's buffer holds a bucket's logits.
                unsafe { result::memcpy_dtoh_async(to, self.logits.address, raw) }
                    .during("copying logits")?;
            } else {
                let at = |start: usize, each: usize| {
                    Argument::Address(self.ranks.address + (start + each * done) as u64)
                };
                let mut arguments = [
                    Argument::Address(self.logits.address),
                    at(first, 4 * top),
                    at(second, 4 * top),
                    at(third, 4),
                    Argument::Int(classes as i32),
                    Argument::Int(top as i32),
                ];
                let launch = source::top(here as u32);
                // SAFETY: the kernel's arguments; the ranking has room for the largest bucket and `MAX_TOP`.
                unsafe { self.network.device.launch("convoy_top", launch, &self.stream, &mut arguments) }?;
            }
            done += here;
        }
        if top > 0 {
            let length = third + 4 * self.network.max_batch();
            // SAFETY: both have room for as many bytes; read only after the bell.
            let to = unsafe { std::slice::from_raw_parts_mut(self.ranks_out.address(), length) };
            // SAFETY: as above.
            unsafe { result::memcpy_dtoh_async(to, self.ranks.address, raw) }.during("copying ranks")?;
        }
        self.bell.record(&self.stream).during("running the network")?;
        self.bell.synchronize().during("running the network")
    }

    /// Normalises pictures into slot 0, each run of one kind by one launch.
    fn pack(&self, images: &[Image<'_>], stride: usize, offset: usize) -> Result<(), CudaError> {
        let network = &*self.network;
        let across = network.side / network.cells.block;
        let halves = across * across * network.cells.channels();
        let is_bytes = |image: &Image<'_>| matches!(image, Image::Rgb8(_));
        let numbers = 3 * network.side * network.side;
        let mut at = 0;
        while at < images.len() {
            let bytes = is_bytes(&images[at]);
            // Bytes among floats do not lie closely: one by one.
            let apart = bytes && stride != numbers;
            let alike = images[at..].iter().take_while(|image| is_bytes(image) == bytes).count();
            let count = if apart { 1 } else { alike };
            let from = Argument::Address(self.pixels.address + ((offset + at) * stride) as u64);
            let to = Argument::Address(self.arena[0].address + (2 * at * halves) as u64);
            let [side, block] = [network.side, network.cells.block].map(|size| Argument::Int(size as i32));
            let (images, pixels) = (count as u32, network.side as u32);
            // SAFETY: the kernels' arguments; both buffers hold the largest bucket.
            unsafe {
                if bytes {
                    let norm = Argument::Address(network.norm.address);
                    let mut arguments = [from, to, side, block, norm];
                    let launch = source::pack_rgb8(images, pixels);
                    network.device.launch("convoy_pack_rgb8", launch, &self.stream, &mut arguments)
                } else {
                    let mut arguments = [from, to, side, block];
                    let launch = source::pack_f32(images, pixels);
                    network.device.launch("convoy_pack_f32", launch, &self.stream, &mut arguments)
                }
            }?;
            at += count;
        }
        Ok(())
    }
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

    #[test]
    fn a_batch_is_cut_where_it_is_cheapest() {
        let cuts = Cuts::new(&[(1, 10.0), (8, 20.0), (32, 50.0), (64, 100.0)]);
        assert_eq!((cuts.first[1], cuts.first[2], cuts.first[3]), (1, 1, 8));
        assert_eq!((cuts.first[40], cuts.micros[40]), (8, 70.0));
        assert_eq!((cuts.first[64], cuts.micros[64]), (32, 100.0));
        assert_eq!((cuts.first[60], cuts.micros[60]), (32, 100.0));
    }
}
