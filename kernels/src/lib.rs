//! Pixel and device kernels: shared resize geometry, the CPU versions that serve as oracle, and the GPU's. This crate knows
//! arrays and arithmetic only; no files, no HTTP, no models.
//!
//! | module | what it owns |
//! |---|---|
//! | [`transform`] | what is asked for: filter, resize and crop |
//! | [`geometry`] | the arithmetic of a transform as tables, shared by every implementation |
//! | [`mod@resize`] | executing those tables on the CPU: portable (the oracle) and AVX2, byte for byte the same |
//! | [`mod@normalize`] | 8-bit interleaved pixels to normalised planar floats |
//! | [`conv`] | convolutional networks on the CPU |
//! | [`cuda`] | networks on an NVIDIA GPU |
//! | [`int8`] | fully connected layers in 8 bits on the CPU |
//! | [`heap`] | giving free memory back to the system |
//! | [`priority`] | how threads that compute for long and threads that somebody waits for share the processors |

pub mod conv;
pub mod cuda;
pub mod geometry;
pub mod heap;
pub mod int8;
pub mod normalize;
pub mod priority;
pub mod resize;
pub mod transform;

pub use geometry::{Axis, MAX_SIDE, Order, Plan, PlanError, Span, WEIGHT_BITS};
pub use normalize::normalize;
pub use resize::{ResizeError, resize};
pub use transform::{Filter, Transform, TransformParseError};
