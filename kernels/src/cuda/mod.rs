//! Networks on an NVIDIA GPU.
//!
//! | module | what it owns |
//! |---|---|
//! | [`ragged`] | pictures of many sizes laid out for one launch of the resize kernel |
//! | [`source`] | the kernels' source and the shapes to launch them in |

pub mod ragged;
pub mod source;
