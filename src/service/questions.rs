//! Questions: matched on the FAQ's own threads.

use std::sync::Arc;

use tokio::{sync::Mutex, task::spawn_blocking};

use super::{Timeline, answer};
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
    /// Held while files are read, so that reloads happen one after another.
    reloading: Mutex<()>,
}

impl Questions {
    /// Workers of `queue` answer by what is live.
    pub fn new(queue: Queue<Answerer>, live: Arc<Live>) -> Self {
        Self { queue, live, reloading: Mutex::default() }
    }

    /// What answers now. An answer may be another model's: it carries its own.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.live.load()
    }

    /// Reads the model's files again, on a thread that may block, and lets what they hold take over; no question is lost.
    ///
    /// # Errors
    /// The files cannot be used; what answered before goes on answering.
    pub async fn reload(&self) -> Result<Arc<Loaded>, OpenError> {
        let _one_at_a_time = self.reloading.lock().await;
        let live = self.live.clone();
        let reloaded = spawn_blocking(move || live.reload()).await.expect("bug: a reload panicked");
        match &reloaded {
            Ok(loaded) => tracing::info!(
                questions = loaded.model().questions().len(),
                training = loaded.model().digest(),
                "FAQ model reloaded"
            ),
            Err(error) => tracing::error!(
                error = error as &(dyn std::error::Error + 'static),
                "FAQ model not reloaded, the one before goes on answering"
            ),
        }
        reloaded
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
