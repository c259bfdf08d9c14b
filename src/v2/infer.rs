//! From a request that has been read to scores: a seat before its body is there, then the model's own module.

use std::{sync::Arc, time::Duration};

use tokio::task::spawn_blocking;

use super::{Error, Kind, Model, Request, photos, questions, tensor::Values};
use crate::{
    batch::{Seat, Terms},
    error::ScoreError,
    faq::Answerer,
    memory::Charge,
    service::{PhotoSeat, Photos, Questions, Timeline},
};

/// Work on more bytes than this leaves the async runtime.
const INLINE: usize = 256 << 10;

/// Most numbers in an answer: 32 MiB of FP32.
const MAX_VALUES: usize = 8 << 20;

/// Bytes that a number of an answer takes at most while the answer is made: as a class and its probability, in its row, in
/// its tensor, and written, as JSON in a buffer that doubles.
const NUMBER: usize = 8 + 4 + 4 + 2 * 16;

/// The same of a class with its label.
const LABELLED: usize = 256;

/// A request that has been read.
pub struct Received {
    /// What it asks.
    pub request: Request,
    /// Its head's terms as the body changes them.
    pub terms: Terms,
    /// From body to tensors.
    pub parsing: Duration,
    /// What its tensors are charged.
    pub charge: Charge,
}

/// What a model made of a request.
pub struct Scored {
    /// In the order asked for.
    pub outputs: Vec<Output>,
    /// One an element of the batch.
    pub timelines: Vec<Timeline>,
    /// What the outputs are charged, and what it takes to write them.
    pub charge: Charge,
}

/// One output tensor.
#[derive(Debug)]
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Batch first.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Values,
}

/// A seat that a request has before its body is there, and the terms it was taken on.
pub struct Gate {
    seat: GateSeat,
    terms: Terms,
}

enum GateSeat {
    Photos(Arc<Photos>, PhotoSeat),
    Questions(Arc<Questions>, Seat<Answerer>),
}

impl Model {
    /// Takes the seat of one element.
    ///
    /// # Errors
    /// [`ScoreError::Refused`] when none is free or the answer would be late.
    pub fn admit(&self, terms: &Terms) -> Result<Gate, ScoreError> {
        let seat = match self {
            Self::Photos(photos) => GateSeat::Photos(photos.clone(), photos.admit(terms)?),
            Self::Questions(side) => GateSeat::Questions(side.clone(), side.admit(terms)?),
        };
        Ok(Gate { seat, terms: *terms })
    }

    /// The input that a body without any framing is.
    pub fn raw_input(&self) -> &'static str {
        match self {
            Self::Photos(_) => photos::IMAGE,
            Self::Questions(_) => questions::QUESTION,
        }
    }
}

impl Gate {
    /// Scores the request, at most `most` of its elements at a time.
    ///
    /// # Errors
    /// What became of it instead; dropping the future abandons whatever is under way.
    pub async fn score(self, received: Received, most: usize) -> Result<Scored, Error> {
        let Self { seat, terms } = self;
        match seat {
            GateSeat::Photos(photos, seat) => photos::score(&photos, (seat, &terms), received, most).await,
            GateSeat::Questions(side, seat) => questions::score(&side, (seat, &terms), received, most).await,
        }
    }
}

/// Runs `work`, which takes time in proportion to `bytes`, where it holds up nobody.
///
/// # Panics
/// When `work` does.
pub async fn off_runtime<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= INLINE {
        return work();
    }
    spawn_blocking(work).await.expect("bug: reading and writing bodies does not panic and is not cancelled")
}

/// What `count` elements of an answer are charged, of `width` numbers each, or labelled classes where `labelled`, and of
/// texts of `text` bytes together; a holding beside `charge`.
///
/// # Errors
/// There are more than [`MAX_VALUES`] numbers, or there is no memory for them.
pub(super) fn charge_answer(
    charge: &Charge,
    count: usize,
    width: usize,
    labelled: bool,
    text: usize,
) -> Result<Charge, Error> {
    check_size(count, width)?;
    let numbers = count * width * if labelled { LABELLED } else { NUMBER };
    let mut answer = charge.another();
    // Twice: as a tensor and written.
    answer.add(numbers.saturating_add(count.saturating_mul(2 * text))).map_err(ScoreError::from)?;
    Ok(answer)
}

fn check_size(count: usize, width: usize) -> Result<(), Error> {
    if count.saturating_mul(width) <= MAX_VALUES {
        return Ok(());
    }
    let message = format!(
        "{count} times {width} numbers are over the {MAX_VALUES} of an answer; ask for fewer, or for a classification"
    );
    Err(Error::new(Kind::TooLarge, "answer_too_large", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded() {
        assert!(check_size(4096, 1000).is_ok());
        assert!(check_size(4096, 21_000).is_err() && check_size(usize::MAX, 2).is_err());
    }
}
