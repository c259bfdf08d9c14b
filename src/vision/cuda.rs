//! The CUDA engine: a [`Plan`] with the network's weights on a GPU.
//!
//! Several engines share one network, so that one's copies overlap with another's kernels. Which kernels run is the
//! `kernels` crate's affair; the choices that it made are kept in a file, because making them takes a minute.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::cuda::network::{self, Network, Op as CudaOp, Place, Window as CudaWindow};
use kernels::cuda::session::MAX_TOP;
use kernels::cuda::{Activation as CudaActivation, Choices, Device, Image, Layer, Ranked, Session, Tuning};
use kernels::priority::Priority;

use super::arch::Activation;
use super::classifier::{Prediction, rank_rows};
use super::fold::{self, TensorSource};
use super::plan::{Op, Plan, Step, Value, Window};
use super::weights::WeightsError;
use super::{Engine, EngineError, INPUT_SIZE, Picture, Ranking};

/// Images up to which fetching weights ahead pays on the GPUs that were measured.
pub const PREFETCHED: usize = 8;

/// How a network runs on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaOptions {
    /// Batch sizes that kernels are chosen for, rising from 1; the last one is the most images at once.
    pub buckets: Vec<usize>,
    /// Engines that share the network, each with memory for a batch.
    pub sessions: usize,
    /// Threads that build kernels while they are chosen.
    pub threads: usize,
    /// Plans of cuDNN's that are built and timed for each convolution.
    pub plans: usize,
    /// Time known kernels again, beside those that cost nothing to build.
    pub again: bool,
    /// Up to this many images weights are fetched ahead ([`PREFETCHED`]).
    pub prefetched: usize,
    /// File in which chosen kernels are kept; nowhere when not given.
    pub choices: Option<PathBuf>,
}

/// A network on a GPU and what runs it.
#[derive(Debug)]
pub struct CudaModel {
    /// As many as asked for.
    pub engines: Vec<CudaEngine>,
    /// What became of what was asked for, in words for the log.
    pub notes: Vec<String>,
    network: Arc<Network>,
}

/// One batch at a time of a network on a GPU.
#[derive(Debug)]
pub struct CudaEngine {
    session: Session,
}

impl CudaModel {
    /// Chooses kernels, uploads the network's weights and lays out memory. Where memory does not suffice, the largest batch
    /// is left out until it does. A start that fails with kernels chosen before is tried again without them.
    ///
    /// # Errors
    /// `weights` has unusable numbers or none, a library is missing, or the GPU fails.
    pub fn new(
        device: Arc<Device>,
        weights: &mut impl TensorSource,
        options: &CudaOptions,
    ) -> Result<Self, EngineError> {
        let own = weights.arch().preprocessing();
        let plan = Plan::new(weights.arch(), weights.classes(), INPUT_SIZE as usize);
        let steps = lower(&plan, fold::in_order(weights))?;
        let mut notes = Vec::new();
        let mut known = match options.choices.as_deref() {
            Some(file) => read(file, &mut notes),
            None => Choices::none(),
        };
        let mut trusting = known != Choices::none();
        let mut buckets = options.buckets.clone();
        loop {
            let layout = network::Options {
                mean: own.mean,
                std: own.std,
                buckets: buckets.clone(),
                threads: options.threads,
                plans: options.plans,
                again: options.again,
                prefetched: options.prefetched,
            };
            let made = Network::new(device.clone(), &steps, &plan.slots, &layout, &known).and_then(
                |(network, choices)| {
                    // What was chosen stays chosen, whether or not there is memory for more.
                    if choices != known {
                        if let Some(file) = options.choices.as_deref() {
                            write(file, &choices, &mut notes);
                        }
                        known = choices;
                    }
                    let session = |_| Session::new(network.clone()).map(|session| CudaEngine { session });
                    let engines = (0..options.sessions.max(1)).map(session).collect::<Result<Vec<_>, _>>()?;
                    Ok((network, engines))
                },
            );
            match made {
                Ok((network, engines)) => return Ok(Self { engines, notes, network }),
                Err(error) if error.is_out_of_memory() && buckets.len() > 1 => {
                    let largest = buckets.pop().unwrap_or(1);
                    let left = buckets.last().copied().unwrap_or(1);
                    notes.push(format!(
                        "the GPU has too little memory for batches of {largest}: at most {left} go together"
                    ));
                }
                Err(error) if trusting && !error.is_sticky() => {
                    notes.push(format!(
                        "kernels are chosen anew, with those of an earlier start it failed: {error}"
                    ));
                    (known, trusting) = (Choices::none(), false);
                }
                Err(error) => return Err(EngineError::forward(error)),
            }
        }
    }

    /// Most images at once.
    pub fn max_batch(&self) -> usize {
        self.network.buckets().last().copied().unwrap_or(1)
    }

    /// How kernels were chosen.
    pub fn tuning(&self) -> Tuning {
        self.network.tuning()
    }

    /// The kernels that were chosen.
    pub fn layers(&self) -> Vec<Layer> {
        self.network.layers()
    }
}

/// Powers of two up to the largest batch, and that.
pub fn buckets(max_batch: usize) -> Vec<usize> {
    let max_batch = max_batch.max(1);
    let powers = std::iter::successors(Some(1usize), |size| size.checked_mul(2));
    powers.take_while(|&size| size < max_batch).chain([max_batch]).collect()
}

fn read(file: &Path, notes: &mut Vec<String>) -> Choices {
    match std::fs::read_to_string(file) {
        Ok(text) => Choices::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Choices::none(),
        Err(error) => {
            notes.push(format!("kernels are chosen anew: {} cannot be read: {error}", file.display()));
            Choices::none()
        }
    }
}

fn write(file: &Path, choices: &Choices, notes: &mut Vec<String>) {
    // Under a name of its own first: a start that is killed, or another at the same time, leaves no half of a file.
    let mut beside = file.as_os_str().to_owned();
    // In a container every process has the same number, and several may share the folder.
    beside.push(format!(".{}-{:016x}", std::process::id(), fastrand::u64(..)));
    let beside = PathBuf::from(beside);
    let written = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
        std::fs::write(&beside, choices.to_string()).and_then(|()| std::fs::rename(&beside, file))
    });
    if let Err(error) = written {
        let _nothing_beside_it = std::fs::remove_file(&beside);
        notes.push(format!(
            "chosen kernels are not kept, the next start chooses again: {} cannot be written: {error}",
            file.display()
        ));
    }
}

impl CudaEngine {
    /// What runs the batches, to measure.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Engine for CudaEngine {
    /// It gives the GPU work and sleeps.
    fn priority(&self) -> Priority {
        Priority::Brief
    }

    fn classes(&self) -> usize {
        self.session.network().classes()
    }

    fn forward(&mut self, batch: &[&Picture]) -> Result<Vec<f32>, EngineError> {
        self.session.logits(&images(batch)?).map_err(EngineError::forward)
    }

    fn classify(&mut self, batch: &[&Picture], top: &[usize]) -> Result<Vec<Ranking>, EngineError> {
        let most = top.iter().copied().max().unwrap_or(0);
        if most > MAX_TOP {
            let logits = self.forward(batch)?;
            return Ok(rank_rows(&logits, self.classes(), top));
        }
        let ranked = self.session.classify(&images(batch)?, most).map_err(EngineError::forward)?;
        let answer = |(ranked, &top): (Ranked, &usize)| match ranked {
            Ranked::NonFinite(class) => Err(EngineError::NonFinite { class }),
            Ranked::Best(best) => {
                let best = best.into_iter().take(top);
                Ok(best.map(|(class, probability)| Prediction { class, probability }).collect())
            }
        };
        Ok(ranked.into_iter().zip(top).map(answer).collect())
    }
}

/// The batch as a session takes it.
fn images<'a>(batch: &[&'a Picture]) -> Result<Vec<Image<'a>>, EngineError> {
    let image = |&picture: &&'a Picture| {
        picture.check()?;
        Ok(match picture {
            Picture::Rgb8(image) => Image::Rgb8(&image.pixels),
            Picture::Normalised(values) => Image::Normalised(values),
        })
    };
    batch.iter().map(image).collect()
}

/// The plan's steps with their weights.
fn lower(
    plan: &Plan,
    mut weights: impl Iterator<Item = Result<(Vec<f32>, Vec<f32>), WeightsError>>,
) -> Result<Vec<network::Step>, EngineError> {
    let step = |step: &Step| {
        let op = match step.op {
            Op::MaxPool { window: movement } => CudaOp::MaxPool { window: window(movement) },
            Op::AveragePool => CudaOp::AveragePool,
            Op::Conv { window: movement, depthwise, activation } => {
                let (weight, bias) = weights.next().expect("bug: a plan's convolutions are its network's")?;
                let activation = match activation {
                    Activation::Linear => CudaActivation::Linear,
                    Activation::Relu => CudaActivation::Relu,
                    Activation::Relu6 => CudaActivation::Relu6,
                };
                CudaOp::Conv { weight, bias, window: window(movement), depthwise, activation }
            }
        };
        let (input, addend, output) = (place(step.input), step.addend.map(place), place(step.output));
        Ok(network::Step { op, input, addend, output })
    };
    plan.steps.iter().map(step).collect()
}

fn place(value: Value) -> Place {
    let super::plan::Shape { height, width, channels } = value.shape;
    Place { slot: value.slot, height, width, channels }
}

fn window(window: Window) -> CudaWindow {
    CudaWindow { kernel: window.kernel, stride: window.stride, pad: window.pad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two_and_the_largest_batch() {
        assert_eq!(buckets(0), [1]);
        assert_eq!(buckets(1), [1]);
        assert_eq!(buckets(8), [1, 2, 4, 8]);
        assert_eq!(buckets(48), [1, 2, 4, 8, 16, 32, 48]);
    }
}
