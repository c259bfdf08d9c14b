//! Photos to classes: loads a network, runs batches through an [`Engine`], and turns logits into ranked classes.
//!
//! | module | what it owns |
//! |---|---|
//! | [`arch`] | the networks as data: layers, names, shapes |
//! | [`preprocessing`] | what a photo becomes for each |
//! | [`weights`] | opening a checkpoint and refusing whatever is not that network |
//! | [`fold`] | the network in memory, BatchNorm folded: what engines are built from |
//! | [`random`] | seeded random checkpoints |
//! | [`labels`] | what classes are called |
//! | [`candle`], `ops` | the forward pass in candle, the oracle of other engines, and the operations it adds to candle |
//! | [`plan`] | the forward pass as a flat list of fused steps, for any device |
//! | [`cpu`] | the plan on this machine's CPU: the engine that serves |
//! | [`cuda`] | the plan on an NVIDIA GPU |
//! | [`classifier`] | batches of jobs to ranked classes |
//!
//! Decoding and resizing are `image`'s; queues and batching are `batch`'s.

pub mod arch;
pub mod candle;
pub mod classifier;
pub mod cpu;
pub mod cuda;
pub mod fold;
pub mod labels;
mod ops;
pub mod plan;
pub mod preprocessing;
pub mod random;
pub mod weights;

use std::error::Error;
use std::sync::Arc;

pub use arch::Arch;
pub use candle::CandleEngine;
pub use classifier::{Classifier, ClassifyInput, Prediction};
pub use cpu::CpuEngine;
pub use cuda::{CudaEngine, CudaModel, CudaOptions};
pub use labels::Labels;
pub use plan::Plan;
pub use preprocessing::Preprocessing;
pub use weights::{Checkpoint, ModelInfo, WeightsError};

use kernels::priority::Priority;

use crate::image::Prepared;

/// Side of the square image that every network here was trained on and takes.
pub const INPUT_SIZE: u32 = 224;

/// Numbers of one image.
const IMAGE: usize = 3 * (INPUT_SIZE * INPUT_SIZE) as usize;

/// What a network is shown: [`INPUT_SIZE`] pixels square, `[height, width, 3]` row-major, red first.
#[derive(Debug, Clone, PartialEq)]
pub enum Picture {
    /// To be normalised as the network's [`Preprocessing`] says.
    Rgb8(Prepared),
    /// Normalised already by whoever made it.
    Normalised(Box<[f32]>),
}

impl Picture {
    /// # Errors
    /// [`EngineError::ImageShape`] when there are more or fewer numbers than an image has.
    fn check(&self) -> Result<(), EngineError> {
        let found = match self {
            Self::Rgb8(image) => image.pixels.len(),
            Self::Normalised(values) => values.len(),
        };
        if found == IMAGE { Ok(()) } else { Err(EngineError::ImageShape { expected: IMAGE, found }) }
    }
}

impl From<Prepared> for Picture {
    fn from(image: Prepared) -> Self {
        Self::Rgb8(image)
    }
}

/// Runs the forward pass of one network on one device.
pub trait Engine: Send + 'static {
    /// Logits an image gets.
    fn classes(&self) -> usize;

    /// What the thread that runs it is there for. On a processor a batch takes tenths of a second and every core, a question
    /// or the head of a request tens of microseconds.
    fn priority(&self) -> Priority {
        Priority::Background
    }

    /// The pictures' logits, `[batch, classes]` row-major.
    ///
    /// # Errors
    /// A picture is of another size, or the device failed; no picture of the batch has an answer.
    fn forward(&mut self, batch: &[&Picture]) -> Result<Vec<f32>, EngineError>;

    /// The classes of each picture by falling probability, ties by index: as many as `top` says for it, all where it says
    /// more than there are.
    ///
    /// # Errors
    /// As [`Engine::forward`]; a picture whose logits are not finite fails by itself.
    fn classify(&mut self, batch: &[&Picture], top: &[usize]) -> Result<Vec<Ranking>, EngineError> {
        let logits = self.forward(batch)?;
        Ok(classifier::rank_rows(&logits, self.classes(), top))
    }
}

/// What one picture is answered.
pub type Ranking = Result<Vec<Prediction>, EngineError>;

/// Why one image has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The image was not prepared for this network.
    #[error("the model takes {expected} numbers an image ({INPUT_SIZE} pixels square), this one has {found}")]
    ImageShape {
        /// Numbers of one image.
        expected: usize,
        /// Numbers given.
        found: usize,
    },
    /// The network put out NaN or an infinity for this image.
    #[error("the logit of class {class} is not finite")]
    NonFinite {
        /// The first such class.
        class: u32,
    },
    /// The weights cannot be had.
    #[error(transparent)]
    Weights(Arc<WeightsError>),
    /// The engine failed on the whole batch.
    #[error("the forward pass failed")]
    Forward(#[source] Arc<dyn Error + Send + Sync>),
}

impl From<WeightsError> for EngineError {
    fn from(error: WeightsError) -> Self {
        Self::Weights(Arc::new(error))
    }
}

impl EngineError {
    /// Wraps what a device library reports.
    pub fn forward(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Forward(Arc::new(source))
    }
}
