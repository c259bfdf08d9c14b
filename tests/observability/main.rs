//! What operators see of a server: traces at a collector, log lines, and that rules, dashboard and scalers name
//! metrics that are there.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod collector;
mod logs;
mod named;
#[path = "../support/mod.rs"]
mod support;
mod traces;
