//! How much memory strangers can make the server use: what requests and answers may hold together, and what the whole
//! process can come to.
//!
//! | module | what it owns |
//! |---|---|
//! | [`budget`] | the bytes of requests and answers: charged as they come, given back when they are dropped |
//! | [`buffer`] | bytes that come a few at a time |
//! | [`bound`] | memory at worst, computed from what a server was told to allow |
//! | [`process`] | what the system says: memory in use, memory allowed |
//!
//! What is held, and for whom, is known where it is allocated.

pub mod bound;
pub mod budget;
pub mod buffer;
pub mod process;

pub use bound::Bound;
pub use budget::{Budget, Charge, Full};
pub use buffer::Buffer;
