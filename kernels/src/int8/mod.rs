//! Fully connected layers in 8 bits: weights rounded once when they are packed, rows rounded as they come, products added
//! up in whole numbers.
//!
//! | module | what it owns |
//! |---|---|
//! | [`dense`](Dense) | a layer: packed weights, and multiplying rows by them |
//! | [`rows`](Rows) | how rows are rounded, and how they lie in memory |
//! | [`isa`](Isa) | which instructions this CPU has for it |
//! | `micro` | the inner loop, one implementation per instruction set |
//!
//! Both sides are symmetric: a weight is a whole number from -127 to 127 times its output's unit, a number of a row the same
//! times its row's. Sums are exact, and what is done in floats is done number by number in one fixed order, so results are the
//! same to the last bit whatever the instruction set, the rows' company and the thread. What rows mean is the callers'
//! business.

mod dense;
mod isa;
mod micro;
mod rows;

pub use dense::{Dense, WeightsError};
pub use isa::Isa;
pub use rows::Rows;
