//! What strangers may make the server hold: every limit of size at its edge and past it (`limits`), the budget that requests
//! share and the seats that slow ones do not (`sharing`), and the bound of it all under attack (`attack`).

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "what is seen beside what is asserted")]

mod attack;
mod limits;
mod sharing;
#[path = "../support/mod.rs"]
mod support;
mod wire;
