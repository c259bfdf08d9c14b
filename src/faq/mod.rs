//! Matches a question with the frequently asked ones it may be a duplicate of. From the text to the answer:
//! [`clean`] -> [`features`] -> [`model`] -> [`Ranking`]; from a corpus to a model: [`corpus`] -> [`mod@train`] (which uses
//! `logistic`, `bm25` and `blend`) -> [`storage`]. [`Answerer`] puts a model behind the batch queue. Nothing here knows of
//! HTTP, and nothing is downloaded.

mod blend;
mod bm25;
pub mod clean;
pub mod corpus;
pub mod eval;
pub mod features;
mod logistic;
pub mod model;
mod rng;
pub mod storage;
pub mod train;

use crate::batch::{Executor, Results};
use std::convert::Infallible;
use std::sync::Arc;

pub use corpus::{Corpus, CorpusError};
pub use eval::{Report, evaluate};
pub use model::{Model, Scratch};
pub use storage::LoadError;
pub use train::{Progress, TrainOptions, train};

/// What somebody asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// As sent: plain text, HTML or Markdown; read up to [`clean::MAX_TEXT_BYTES`].
    pub text: String,
    /// How many matches to return; `None` for every original.
    pub top: Option<usize>,
}

/// One original question and how likely it is what was asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// Index into [`Model::questions`].
    pub question: usize,
    /// From 0 to 1; over all originals these sum to one.
    pub probability: f32,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Likeliest first, ties by index.
    pub matches: Vec<Match>,
}

/// Questions given to a worker at once: enough to spread the cost of a hand-over, few enough to keep answers prompt.
const MAX_BATCH: usize = 16;

/// Answers questions on one worker thread.
#[derive(Debug)]
pub struct Answerer {
    model: Arc<Model>,
    scratch: Scratch,
}

impl Answerer {
    /// A worker that shares `model` and has working memory of its own.
    pub fn new(model: Arc<Model>) -> Self {
        Self { model, scratch: Scratch::default() }
    }
}

impl Executor for Answerer {
    type Input = Question;
    type Output = Ranking;
    type Error = Infallible;

    fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    fn run(&mut self, batch: &[Question]) -> Result<Results<Self>, Infallible> {
        let Self { model, scratch } = self;
        Ok(batch.iter().map(|question| Ok(model.rank(&question.text, question.top, scratch))).collect())
    }
}
