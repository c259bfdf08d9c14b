//! The two front doors: a photo goes in and predictions come out, a question goes in and matches come out.
//!
//! Every API family calls these; they know of seats, deadlines and the order of stages, not of HTTP or JSON.
//!
//! | module | what it owns |
//! |---|---|
//! | [`photos`] | decode, then classify |
//! | [`inflight`] | one execution for identical photos in flight |
//! | [`questions`] | match |
//! | [`timeline`] | where a request's time went |
//! | [`services`] | all there are in one process |
//! | [`slot`] | a model's place: loaded, replaced and unloaded while requests are in hand |
//! | [`readiness`] | whether traffic is wanted |

pub mod inflight;
pub mod photos;
pub mod questions;
pub mod readiness;
pub mod services;
pub mod slot;
pub mod timeline;

use std::time::Instant;

use tokio::time::timeout_at;

pub use photos::{Photo, PhotoSeat, Photos};
pub use questions::Questions;
pub use readiness::Readiness;
pub use services::{Absent, Services};
pub use slot::{Served, Slot};
pub use timeline::Timeline;

use crate::{
    batch::{Executor, Ticket, Timing},
    error::ScoreError,
};

/// Waits for a job until its deadline; dropping the future takes the job out of the line.
async fn answer<E: Executor>(
    ticket: Ticket<E>,
    deadline: Instant,
    own: impl FnOnce(E::Error) -> ScoreError,
) -> Result<(E::Output, Timing), ScoreError> {
    let answered = timeout_at(deadline.into(), ticket).await;
    let (answer, timing) = answered.map_err(|_elapsed| ScoreError::DeadlineExceeded)?;
    let output = answer.map_err(|error| ScoreError::from_job(error, own))?;
    Ok((output, timing))
}
