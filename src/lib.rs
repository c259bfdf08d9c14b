//! convoy scores photos and questions in real time: one process, two services that share code but never threads.
//!
//! ```text
//! photo     http ─ seat or 429 ─ body ─ decode pool (image) ─ batch ─ scheduler thread: vision ─ reply ─ JSON
//! question  http ─ seat or 429 ─ body ───────────────────────── FAQ worker pool: faq ───────── reply ─ JSON
//! ```
//!
//! | module | what it owns |
//! |---|---|
//! | [`cli`] | the command line, one file a subcommand |
//! | [`config`] | flags and environment to a checked configuration |
//! | [`app`] | the composition root |
//! | [`service`] | the front doors: a photo in, predictions out; a question in, matches out |
//! | [`server`] | ports and their connections from the first to the drain, what every handler needs |
//! | [`access`] | who may ask for what: keys, tokens, rates |
//! | [`http`] | routes, wire types, status codes, pages |
//! | [`grpc`] | methods, messages, statuses |
//! | [`v2`] | the V2 protocol, apart from how it travels |
//! | [`batch`] | queues, what batches cost, who runs when and with whom, scheduler threads |
//! | [`image`] | untrusted bytes to pixels within limits |
//! | [`vision`] | weights, the network, classes and their labels |
//! | [`faq`] | text cleaning, features, training, the FAQ model |
//! | [`load`] | load on a server: when requests are sent, what becomes of them, reports |
//! | [`weights`] | models by name: fetching, converting, checking files |
//! | [`trace`] | a request's place in a trace; spans and how they leave |
//! | [`memory`] | what requests and answers may hold together, and what the process comes to at worst |
//! | [`metrics`] | every metric's name, help and buckets |
//! | [`error`] | what can become of a request |
//!
//! What never happens here (`tests/house.rs` checks the first three):
//!
//! 1. `batch` does not know HTTP, images, text or candle.
//! 2. Nothing but `app` and `cli` depends on `http` or `grpc`; status codes, JSON and protobuf shapes appear only there.
//! 3. Only `config` reads the environment.
//! 4. No `unsafe` outside the `kernels` crate; no statics with state.
//! 5. The async runtime decodes no image, runs no model and never blocks.
//! 6. No port opens before weights are verified and a batch has run.

pub mod access;
pub mod app;
pub mod batch;
pub mod cli;
pub mod config;
pub mod error;
pub mod faq;
pub mod grpc;
pub mod http;
pub mod image;
pub mod load;
pub mod memory;
pub mod metrics;
pub mod server;
pub mod service;
pub mod trace;
pub mod v2;
pub mod vision;
pub mod weights;
