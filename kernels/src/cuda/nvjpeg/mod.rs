//! JPEGs decoded by an NVIDIA GPU: an own binding of nvJPEG, loaded at run time, and what decides which pictures it gets.
//! Device memory, streams and contexts are the callers'.
//!
//! | module | what it owns |
//! |---|---|
//! | [`decoder`] | batches of JPEGs to interleaved RGB in device memory |
//! | [`error`] | what can go wrong, with the library's own names |
//! | [`header`] | whether the GPU's JPEG engine may take a file, read off its headers |
//! | [`library`] | finding the library, and the signatures of its functions |
//! | [`split`] | how many pictures of a batch the GPU gets and how many the processors |

pub mod decoder;
pub mod error;
pub mod header;
pub mod library;
pub mod split;

pub use decoder::{Backend, Decoder, Settings, Target};
pub use error::{NvjpegError, Status};
pub use header::{NoHeader, Refusal, Sampling, Traits, scan};
pub use library::{Library, Version};
pub use split::{Shares, Side, Split};
