//! Brings the many photos or questions of one request through a queue that has fewer seats: some at a time, in order.
//!
//! The first portion is admitted whole or refused, as everybody's; what follows takes seats as they come free, until the
//! deadline. What an item is and how it is scored is not known here.

use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::{sleep, timeout_at};

use crate::{
    batch::{Refusal, Seat, Terms},
    error::ScoreError,
    faq::Answerer,
    service::{PhotoSeat, Photos, Questions},
};

/// Longest wait before a full queue is asked again.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A service that gives out seats.
pub(super) trait Line {
    type Seat;

    /// Seats in all.
    fn capacity(&self) -> usize;

    /// `count` seats, all or none; a refusal is counted.
    fn admit_many(&self, terms: &Terms, count: usize) -> Result<Vec<Self::Seat>, ScoreError>;

    /// One seat; a refusal is not counted.
    fn try_admit(&self, terms: &Terms) -> Result<Self::Seat, Refusal>;

    /// Moves the deadline of `seat` to that of `terms`.
    fn reschedule(seat: &mut Self::Seat, terms: &Terms);
}

impl Line for Photos {
    type Seat = PhotoSeat;

    fn capacity(&self) -> usize {
        self.classifier.capacity().min(self.decoder.capacity())
    }

    fn admit_many(&self, terms: &Terms, count: usize) -> Result<Vec<PhotoSeat>, ScoreError> {
        Self::admit_many(self, terms, count)
    }

    fn try_admit(&self, terms: &Terms) -> Result<PhotoSeat, Refusal> {
        Self::try_admit(self, terms)
    }

    fn reschedule(seat: &mut PhotoSeat, terms: &Terms) {
        seat.reschedule(terms.deadline);
    }
}

impl Line for Questions {
    type Seat = Seat<Answerer>;

    fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    fn admit_many(&self, terms: &Terms, count: usize) -> Result<Vec<Self::Seat>, ScoreError> {
        Ok(self.queue.admit_many(terms, count)?)
    }

    fn try_admit(&self, terms: &Terms) -> Result<Self::Seat, Refusal> {
        let mut seats = self.queue.try_admit(terms, 1)?;
        Ok(seats.pop().expect("bug: one seat was asked for"))
    }

    fn reschedule(seat: &mut Self::Seat, terms: &Terms) {
        seat.reschedule(terms.deadline);
    }
}

/// How many items of one request are under way at once: at most half the seats, so that others find some.
fn portion(capacity: usize, most: usize, items: usize) -> usize {
    (capacity / 2).min(most).min(items).max(1)
}

/// Scores `items` with `run`, at most `most` at a time; the answers come in their order.
///
/// `gate` is a seat taken on the terms `asked` before the body told `terms`.
///
/// # Errors
/// The first failure in order; the rest is then abandoned. A refusal where the first portion finds no seats.
pub(super) async fn feed<L: Line, I, O, F>(
    line: &L,
    (mut gate, asked): (L::Seat, &Terms),
    terms: &Terms,
    items: Vec<I>,
    most: usize,
    run: impl Fn(I, L::Seat) -> F,
) -> Result<Vec<O>, ScoreError>
where
    F: Future<Output = Result<O, ScoreError>>,
{
    let portion = portion(line.capacity(), most, items.len());
    let mut seats = Vec::with_capacity(portion);
    // A seat cannot change its class.
    if asked.class == terms.class {
        if asked.deadline != terms.deadline {
            L::reschedule(&mut gate, terms);
        }
        seats.push(gate);
    } else {
        drop(gate);
    }
    if seats.len() < portion {
        seats.extend(line.admit_many(terms, portion - seats.len())?);
    }
    let mut seats = seats.into_iter();
    let run = &run;
    let work = items.into_iter().map(|item| {
        let seat = seats.next();
        async move {
            let seat = match seat {
                Some(seat) => seat,
                None => next_seat(line, terms).await?,
            };
            run(item, seat).await
        }
    });
    stream::iter(work).buffered(portion).try_collect().await
}

/// Waits for a seat until the deadline.
async fn next_seat<L: Line>(line: &L, terms: &Terms) -> Result<L::Seat, ScoreError> {
    let free = async {
        loop {
            match line.try_admit(terms) {
                Err(Refusal::Full { retry_after }) => sleep(retry_after.min(LONGEST_PAUSE)).await,
                seat => return Ok(seat?),
            }
        }
    };
    let waited = timeout_at(terms.deadline.into(), free).await;
    waited.unwrap_or(Err(ScoreError::DeadlineExceeded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_leaves_seats_to_others_and_is_never_empty() {
        assert_eq!(portion(256, 64, 1000), 64);
        assert_eq!(portion(64, 64, 1000), 32);
        assert_eq!(portion(256, 64, 3), 3);
        assert_eq!(portion(1, 64, 3), 1);
    }
}
