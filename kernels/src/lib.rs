//! Pixel and device kernels: shared resize geometry, the CPU versions that serve as oracle, and (later) the
//! device code. This crate knows arrays and arithmetic only; no files, no HTTP, no models.
