//! Networks on an NVIDIA GPU.
//!
//! | module | what it owns |
//! |---|---|
//! | [`nvjpeg`] | JPEGs decoded by the GPU, and which of them |
//! | [`ragged`] | pictures of many sizes laid out for one launch of the resize kernel |

pub mod nvjpeg;
pub mod ragged;
