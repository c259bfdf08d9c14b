//! Convolutional networks on the CPU: fused steps over activations with channels innermost, run by a team of threads in
//! one arena.
//!
//! | module | what it owns |
//! |---|---|
//! | [`executor`](Executor) | a checked list of steps, their memory, and running them |
//! | [`step`](Step) | one operation, its operands, and the rules that make it safe |
//! | [`kernel`](Kernel) | which implementation computes a step |
//! | [`map`](Map) | how activations lie in memory |
//! | [`panels`](Panels) | how weights lie in memory |
//! | `product` | convolution as a matrix product without an im2col copy |
//! | `winograd`, `points` | 3x3 convolution with a quarter of the multiplications |
//! | `depthwise`, `pooling` | what is no matrix product |
//! | `stripes` | steps that go through an image together, some rows at a time |
//! | [`dense`](Dense) | a fully connected layer by itself |
//! | `micro`, `lanes` | the inner loops, one implementation per instruction set |
//! | [`team`](Team), `barrier` | threads that share out the pieces of a step |
//! | `sync` | what those two are made of |
//!
//! Sums run over the depth in a fixed order whatever the batch, the team or the cut into pieces: an image's results do
//! not depend on its company, nor on the number of threads. Which network this is, nobody here knows.

mod barrier;
mod buffer;
mod dense;
mod depthwise;
mod executor;
mod frame;
mod kernel;
mod lanes;
mod map;
mod micro;
mod panels;
mod points;
mod pooling;
mod product;
mod step;
mod stripes;
mod sync;
mod team;
mod winograd;

pub use dense::Dense;
pub use executor::{Executor, ExecutorOptions, Head};
pub use kernel::Kernel;
pub use lanes::Isa;
pub use map::{MAX_EXTENT, Map};
pub use panels::{Depthwise, Panels};
pub use step::{Activation, Method, Op, Place, Step, Window};
pub use team::{Member, Team};

/// Why a network cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ConvError {
    /// Weights and bias have lengths that no convolution of this shape has.
    #[error("weights and bias have lengths that no convolution of this shape has")]
    Weights,
    /// An activation's extents are zero or too large, or its pixels have no room for whole panels.
    #[error(
        "an activation's extents are not in 1..={MAX_EXTENT}, or its pixels have no room for whole panels"
    )]
    Map,
    /// An operation's operands do not fit it or each other.
    #[error("the operands of an operation do not fit it or each other")]
    Operands,
    /// The network has no steps, or takes no images.
    #[error("there is nothing to run")]
    Empty,
    /// The system gives no threads.
    #[error("the system gives no threads")]
    Threads(#[source] std::io::Error),
}
