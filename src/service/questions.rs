//! Questions: matched on the FAQ's own threads.

use std::sync::Arc;

use super::{Served, Timeline, answer};
use crate::{
    batch::{Queue, Seat, Terms},
    error::ScoreError,
    faq::{Answerer, Live, Loaded, Question, Ranking, live::OpenError},
};

/// The FAQ side of a server.
pub struct Questions {
    /// The FAQ pool's queue.
    pub queue: Queue<Answerer>,
    live: Arc<Live>,
}

/// The name the FAQ is asked for by.
pub const FAQ: &str = "faq";

impl Served for Questions {
    fn name(&self) -> &str {
        FAQ
    }
}

impl Questions {
    /// Workers of `queue` answer by what is live.
    pub fn new(queue: Queue<Answerer>, live: Arc<Live>) -> Self {
        Self { queue, live }
    }

    /// What answers now. An answer may be another model's: it carries its own.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.live.load()
    }

    /// Reads the model's files again and lets what they hold take over; no question is lost. This reads files: not for a
    /// thread of the async runtime.
    ///
    /// # Errors
    /// The files cannot be used; what answered before goes on answering.
    pub fn reload(&self) -> Result<(), OpenError> {
        let loaded = self.live.reload()?;
        let (questions, training) = (loaded.model().questions().len(), loaded.model().digest());
        tracing::info!(questions, training, "FAQ model reloaded");
        Ok(())
    }

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
