//! The forward pass in candle, on the CPU: the simple engine that faster ones are checked against.
//!
//! One definition for all networks: the wiring comes with the [`Network`], BatchNorm already folded. A convolution is
//! one matrix product per image, threaded by candle's `gemm`, or plain loops where it is depthwise; images of a batch run
//! one after another, so that the activations of one stay in cache and its logits cannot depend on its company.

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::arch::{Activation, Shortcut, Window};
use super::fold::{self, Network};
use super::ops::{Depthwise, Epilogue, MaxPool, Patches};
use super::{Engine, EngineError, INPUT_SIZE, Picture, Preprocessing};

/// A network as candle tensors, and the threads that multiply them.
#[derive(Debug)]
pub struct CandleEngine {
    preprocessing: Preprocessing,
    stem: Conv,
    max_pool: bool,
    blocks: Vec<Block>,
    fc: Linear,
    classes: usize,
    threads: ThreadPool,
}

#[derive(Debug)]
struct Block {
    branch: Vec<Conv>,
    shortcut: Shortcut<Conv>,
}

/// A convolution with bias and activation.
#[derive(Debug)]
struct Conv {
    window: Window,
    kernel: Kernel,
    /// `[outputs]`.
    bias: Vec<f32>,
    activation: Activation,
}

#[derive(Debug)]
enum Kernel {
    /// `[outputs, inputs * kernel * kernel]`.
    Dense(Tensor),
    /// `[channels, kernel, kernel]`.
    Depthwise(Vec<f32>),
}

impl CandleEngine {
    /// Takes over the network's numbers and computes on `threads` threads of its own.
    ///
    /// # Errors
    /// candle refused a tensor, or the system a thread.
    pub fn new(network: Network, threads: usize) -> Result<Self, EngineError> {
        let threads = ThreadPoolBuilder::new().num_threads(threads).build().map_err(EngineError::forward)?;
        Self::build(network, threads).map_err(EngineError::forward)
    }

    fn build(network: Network, threads: ThreadPool) -> candle_core::Result<Self> {
        let Network { arch, classes, stem, max_pool, blocks, fc_weight, fc_bias } = network;
        let preprocessing = arch.preprocessing();
        let stem = Conv::new(stem)?;
        let blocks = blocks.into_iter().map(Block::new).collect::<Result<_, _>>()?;
        let weight = Tensor::from_vec(fc_weight, (classes, arch.features()), &Device::Cpu)?;
        let bias = Tensor::from_vec(fc_bias, classes, &Device::Cpu)?;
        let fc = Linear::new(weight, Some(bias));
        Ok(Self { preprocessing, stem, max_pool, blocks, fc, classes, threads })
    }

    /// Logits `[classes]` of one normalised image, `[3, height, width]` row-major, of any size.
    ///
    /// # Errors
    /// `image` has another length, or candle failed.
    pub fn logits(&self, image: Vec<f32>, height: usize, width: usize) -> Result<Vec<f32>, EngineError> {
        let x = Tensor::from_vec(image, (1, 3, height, width), &Device::Cpu);
        let logits = x.and_then(|x| self.threads.install(|| self.run(&x)));
        logits.and_then(|logits| logits.flatten_all()?.to_vec1()).map_err(EngineError::forward)
    }

    /// `[1, 3, height, width]` to `[1, classes]`.
    fn run(&self, image: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.stem.forward(image, None)?;
        if self.max_pool {
            x = x.apply_op1_no_bwd(&MaxPool)?;
        }
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.fc.forward(&x.mean((2, 3))?)
    }
}

impl Engine for CandleEngine {
    fn classes(&self) -> usize {
        self.classes
    }

    fn forward(&mut self, batch: &[&Picture]) -> Result<Vec<f32>, EngineError> {
        batch.iter().try_for_each(|picture| picture.check())?;
        let side = INPUT_SIZE as usize;
        let mut all = Vec::with_capacity(batch.len() * self.classes());
        for picture in batch {
            let mut input = vec![0.0; 3 * side * side];
            match picture {
                Picture::Rgb8(image) => self.preprocessing.normalize(&image.pixels, &mut input),
                Picture::Normalised(values) => planar(values, &mut input),
            }
            all.append(&mut self.logits(input, side, side)?);
        }
        Ok(all)
    }
}

/// `[height, width, 3]` to `[3, height, width]`.
fn planar(values: &[f32], out: &mut [f32]) {
    let pixels = values.as_chunks::<3>().0;
    for (channel, plane) in out.chunks_exact_mut(pixels.len()).enumerate() {
        plane.iter_mut().zip(pixels).for_each(|(to, from)| *to = from[channel]);
    }
}

impl Block {
    fn new(block: fold::Block) -> candle_core::Result<Self> {
        let branch = block.branch.into_iter().map(Conv::new).collect::<Result<_, _>>()?;
        Ok(Self { branch, shortcut: block.shortcut.try_map(Conv::new)? })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let shortcut = match &self.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(x.clone()),
            Shortcut::Projection(conv) => Some(conv.forward(x, None)?),
        };
        let (last, first) = self.branch.split_last().expect("bug: a block has convolutions");
        let mut y = x.clone();
        for conv in first {
            y = conv.forward(&y, None)?;
        }
        last.forward(&y, shortcut.as_ref())
    }
}

impl Conv {
    fn new(conv: fold::Conv) -> candle_core::Result<Self> {
        let fold::Conv { spec, weight, bias } = conv;
        let kernel = match spec.depthwise {
            true => Kernel::Depthwise(weight),
            false => Kernel::Dense(Tensor::from_vec(weight, (spec.outputs, spec.filter()), &Device::Cpu)?),
        };
        Ok(Self { window: spec.window, kernel, bias, activation: spec.activation })
    }

    fn forward(&self, x: &Tensor, shortcut: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let y = match &self.kernel {
            Kernel::Dense(weight) => self.product(weight, x)?,
            Kernel::Depthwise(weight) => x.apply_op1_no_bwd(&Depthwise { window: self.window, weight })?,
        };
        let end = Epilogue::new(&self.bias, self.activation);
        match shortcut {
            None => y.inplace_op1(&end)?,
            Some(shortcut) => y.inplace_op2(shortcut, &end)?,
        }
        Ok(y)
    }

    /// The convolution as one matrix product.
    fn product(&self, weight: &Tensor, x: &Tensor) -> candle_core::Result<Tensor> {
        let patches = match self.window {
            Window { kernel: 1, stride: 1, .. } => x.clone(),
            window => x.apply_op1_no_bwd(&Patches(window))?,
        };
        let (_, depth, rows, columns) = patches.dims4()?;
        let y = weight.matmul(&patches.reshape((depth, rows * columns))?)?;
        y.reshape((1, self.bias.len(), rows, columns))
    }
}
