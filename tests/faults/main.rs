//! Faults put into a running server, with clients at it whose every answer is compared with the right one. `--nocapture`
//! prints what clients, probes and operators get to see, and how long it takes to recover.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stderr, reason = "what is seen beside what is asserted")]

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod executors;
mod files;
mod journal;
mod process;
mod resets;
