//! Networks on an NVIDIA GPU.
//!
//! | module | what it owns |
//! |---|---|
//! | [`ragged`] | pictures of many sizes laid out for one launch of the resize kernel |

pub mod ragged;
