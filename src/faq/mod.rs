//! Matches a question with the frequently asked ones it may be a duplicate of. From the text to the answer:
//! [`clean`] -> [`features`] -> [`model`] -> [`Ranking`]; from a corpus to a model: [`corpus`] -> [`mod@train`] (which uses
//! `logistic`, `bm25`, `neighbours` and `blend`) -> [`storage`]. Where the model was trained with one, an [`encoder`] turns the
//! text into a vector too. [`Answerer`] puts what is [`live`] behind the batch queue. Nothing here knows of HTTP, and
//! nothing is downloaded.

mod blend;
mod bm25;
pub mod clean;
pub mod corpus;
mod embedding;
pub mod encoder;
pub mod eval;
pub mod features;
mod kin;
pub mod live;
mod logistic;
pub mod model;
mod neighbours;
mod newton;
mod rng;
mod scope;
pub mod storage;
pub mod train;

use crate::batch::{Executor, Results};
use std::convert::Infallible;
use std::sync::Arc;

pub use corpus::{Corpus, CorpusError};
use embedding::Products;
pub use encoder::Encoder;
pub use eval::{Report, evaluate};
pub use live::{Live, Loaded};
pub use model::Model;
use model::Scratch;
pub use storage::LoadError;
pub use train::{Progress, TrainOptions, train, train_with};

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
#[derive(Debug, Clone)]
pub struct Ranking {
    /// Likeliest first, ties by index.
    pub matches: Vec<Match>,
    /// From 0 to 1: how likely it is that the question asks any of the originals.
    pub scope: f32,
    /// The model that answered, which a later one may have replaced: a match's index is into its questions.
    pub model: Arc<Model>,
}

impl Ranking {
    /// Whether the question asks any of the originals, as far as the model can tell.
    pub fn in_scope(&self) -> bool {
        self.scope >= self.model.threshold()
    }
}

/// Answers questions, with working memory of its own.
#[derive(Debug)]
pub struct Matcher {
    loaded: Arc<Loaded>,
    scratch: Scratch,
    encoder: encoder::Scratch,
    products: Products,
}

impl Matcher {
    /// One that shares `loaded`.
    pub fn new(loaded: Arc<Loaded>) -> Self {
        Self {
            loaded,
            scratch: Scratch::default(),
            encoder: encoder::Scratch::default(),
            products: Products::default(),
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.loaded.model()
    }

    /// The `top` likeliest originals of `text`; all where `None`.
    pub fn rank(&mut self, text: &str, top: Option<usize>) -> Ranking {
        self.rank_all([(text, top)]).pop().expect("bug: one question has one answer")
    }

    /// Answers several questions in their order; an encoder reads them together, and a model's rows are read once for all.
    pub fn rank_all<'t>(
        &mut self,
        questions: impl IntoIterator<Item = (&'t str, Option<usize>)>,
    ) -> Vec<Ranking> {
        let Self { loaded, scratch, encoder, products } = self;
        let model = loaded.model();
        let questions: Vec<(String, Option<usize>)> =
            questions.into_iter().map(|(text, top)| (clean::clean(text), top)).collect();
        let texts = questions.iter().map(|(text, _)| text.as_str());
        let vectors = loaded.encoder().map(|network| network.embed(texts, encoder)).unwrap_or_default();
        let mut products = model.multiply(&vectors, products);
        let answer = |(text, top): &(String, Option<usize>)| {
            let (matches, scope) = model.rank(text, products.next(), *top, scratch);
            Ranking { matches, scope, model: model.clone() }
        };
        questions.iter().map(answer).collect()
    }
}

/// Questions given to a worker at once: enough to spread the cost of a hand-over and of an encoder's weights, few enough
/// to keep answers prompt.
const MAX_BATCH: usize = 16;

/// Answers questions on one worker thread by whatever model is live when a batch begins.
#[derive(Debug)]
pub struct Answerer {
    live: Arc<Live>,
    matcher: Matcher,
}

impl Answerer {
    /// A worker with working memory of its own.
    pub fn new(live: Arc<Live>) -> Self {
        let matcher = Matcher::new(live.load());
        Self { live, matcher }
    }
}

impl Executor for Answerer {
    type Input = Question;
    type Output = Ranking;
    type Error = Infallible;

    fn max_batch(&self) -> usize {
        MAX_BATCH
    }

    fn sample(&self) -> Vec<Question> {
        let loaded = self.live.load();
        let known = loaded.model().questions().first();
        known.map(|known| Question { text: known.text.clone(), top: None }).into_iter().collect()
    }

    fn run(&mut self, batch: &[Question]) -> Result<Results<Self>, Infallible> {
        let loaded = self.live.load();
        if !Arc::ptr_eq(&loaded, &self.matcher.loaded) {
            self.matcher = Matcher::new(loaded);
        }
        let questions = batch.iter().map(|question| (question.text.as_str(), question.top));
        Ok(self.matcher.rank_all(questions).into_iter().map(Ok).collect())
    }
}
