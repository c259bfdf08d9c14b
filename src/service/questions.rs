//! Questions: matched on the FAQ's own threads.

use std::sync::Arc;

use super::{Timeline, answer};
use crate::{
    batch::{Queue, Seat, Terms},
    error::ScoreError,
    faq::{self, Answerer, Question, Ranking},
};

/// The FAQ side of a server.
pub struct Questions {
    /// The FAQ pool's queue.
    pub queue: Queue<Answerer>,
    /// The loaded model, for the texts behind its answers.
    pub model: Arc<faq::Model>,
}

impl Questions {
    /// Ranks the originals for one question; `top` of them, or all.
    ///
    /// # Errors
    /// What became of it instead.
    pub async fn ask(
        &self,
        seat: Seat<Answerer>,
        text: String,
        top: Option<usize>,
        terms: &Terms,
    ) -> Result<(Ranking, Timeline), ScoreError> {
        let ticket = seat.submit(Question { text, top });
        let (ranking, timing) = answer(ticket, terms.deadline, |never| match never {}).await?;
        Ok((ranking, Timeline::of(timing)))
    }

    /// Takes the seat of one question.
    ///
    /// # Errors
    /// [`ScoreError::Refused`] when none is free or the answer would be late.
    pub fn admit(&self, terms: &Terms) -> Result<Seat<Answerer>, ScoreError> {
        Ok(self.queue.admit(terms)?)
    }
}
