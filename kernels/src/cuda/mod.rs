//! Networks on an NVIDIA GPU: by libraries that are loaded at run time, so that the same binary runs where there are none.
//!
//! | module | what it owns |
//! |---|---|
//! | [`device`] | one GPU: libraries, context, this crate's kernels compiled for it, memory, launches |
//! | [`network`] | a network's steps as kernels, and its weights |
//! | [`session`] | memory, a stream and recorded graphs: what runs batches of a network |
//! | [`problem`] | a convolution as the libraries are asked for it |
//! | `tune` | which of the libraries' kernels is the fastest here and right |
//! | `cudnn`, `cublaslt` | what the libraries have for a convolution |
//! | [`nvjpeg`] | JPEGs decoded by the GPU, and which of them |
//! | [`jpegs`] | batches of JPEGs to pixels in memory of the GPU |
//! | [`ragged`] | pictures of many sizes laid out for one launch of the resize kernel |
//! | [`source`] | the kernels' source and the shapes to launch them in |
//! | [`error`] | what goes wrong |

mod cublaslt;
mod cudnn;
pub mod device;
pub mod error;
pub mod jpegs;
pub mod network;
pub mod nvjpeg;
pub mod problem;
pub mod ragged;
pub mod session;
pub mod source;
mod tune;

pub use device::{Device, Found};
pub use error::CudaError;
pub use jpegs::{Decoded, Jpegs, JpegsError};
pub use network::{Layer, Network, Options};
pub use problem::{Activation, Problem};
pub use session::{Image, Ranked, Session};
pub use tune::{Choices, Tuning};
