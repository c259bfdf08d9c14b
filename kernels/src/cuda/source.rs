//! The text of this crate's kernels.

/// All kernels as one file.
pub const SOURCE: &str = "";
/// Their names.
pub const KERNELS: [&str; 0] = [];
