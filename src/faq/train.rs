//! Trains a [`Model`] on a corpus: features, logistic regression, BM25 and nearest texts over originals, answers and
//! duplicates, blended by weights that cross-validation on the duplicates chooses. Everything is deterministic: the same
//! corpus and options give the same model, byte for byte, on the same build. Nothing here is used while answering.

use super::blend::{self, EMBEDDED, HeldOut, LEXICAL};
use super::bm25::Postings;
use super::clean::clean;
use super::corpus::Corpus;
use super::embedding::{Embedding, Products};
use super::encoder::{self, Encoder};
use super::features::{Features, Featurizer, Kind, Vocabulary};
use super::kin::Kinship;
use super::logistic::{Rows, Solver, Weights};
use super::model::{Model, Parts};
use super::neighbours::Neighbours;
use super::rng::Rng;

/// Choices a caller may make; the defaults were chosen by cross-validation on questions of three sources.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainOptions {
    /// Seed of every random order.
    pub seed: u64,
    /// Parts of the cross-validation that weighs the scores.
    pub folds: usize,
    /// Passes of the logistic regression over the texts.
    pub epochs: usize,
    /// Weight of the logistic loss against regularisation, as scikit-learn's `C`.
    pub c: f32,
    /// About how many bytes the largest table of weights may take: one per class and feature.
    pub weight_bytes: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { seed: 1, folds: 10, epochs: 6, c: 20.0, weight_bytes: 5 << 20 }
    }
}

/// A vocabulary is never cut below this many grams, however many classes share the budget.
const MIN_FEATURES: usize = 8192;

/// The most scores kept to fit the blend to, 512 MB: a larger corpus is represented by part of each fold.
const MAX_HELD_OUT_SCORES: usize = 1 << 27;

/// Texts between two reports of an encoder's progress.
const EMBEDDED_AT_ONCE: usize = 64;

/// What training is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// The texts were cut into features.
    Featurised {
        /// Originals, answers and duplicates.
        texts: usize,
        /// Grams kept.
        features: usize,
    },
    /// An encoder has read some of the texts.
    Embedded {
        /// So many.
        done: usize,
        /// Of so many.
        texts: usize,
    },
    /// One part of the cross-validation is done.
    Fold {
        /// From 1.
        done: usize,
        /// Of so many.
        folds: usize,
    },
    /// The scores were weighed; the final fit begins.
    Blended {
        /// Share of held-out duplicates whose original ranked first; 0 where there are no duplicates.
        accuracy: f64,
        /// Mean negated log probability of their originals.
        log_loss: f64,
    },
}

/// Trains a lexical model.
pub fn train(corpus: &Corpus, options: &TrainOptions, progress: impl FnMut(Progress)) -> Model {
    train_with(corpus, options, None, progress)
}

/// Trains a model. With an encoder it learns from the texts' vectors too, and needs that encoder to answer.
pub fn train_with(
    corpus: &Corpus,
    options: &TrainOptions,
    encoder: Option<&Encoder>,
    mut progress: impl FnMut(Progress),
) -> Model {
    let data = Data::new(corpus, options, encoder, &mut progress);
    progress(Progress::Featurised { texts: data.labels.len(), features: data.kinds.len() });
    let held_out = data.held_out(options, &mut progress);
    let blend = held_out.fit();
    let (accuracy, log_loss) = held_out.measure(&blend);
    progress(Progress::Blended { accuracy, log_loss });
    let everything: Vec<u32> = (0..data.labels.len() as u32).collect();
    let scorers = data.fit(options, &everything);
    let answers = data.index_answers();
    let kinship = Kinship::fit(&data.rows, &data.labels, &data.kinds, data.classes);
    let (held_out, blend, vocabulary) = (&held_out, &blend, data.vocabulary);
    let encoder = encoder.map(Encoder::identity);
    Model::new(Parts { corpus, options, vocabulary, scorers, kinship, answers, held_out, blend, encoder })
}

/// What is fitted to texts and scores others.
pub(super) struct Scorers {
    pub(super) weights: Weights,
    /// BM25 of all texts.
    pub(super) postings: Postings,
    /// Logarithm of each class's number of texts.
    pub(super) frequencies: Vec<f32>,
    pub(super) neighbours: Neighbours,
    pub(super) embedding: Option<Embedding>,
}

/// The corpus as numbers: rows of originals first, one per class in order, then of their answers, then of duplicates.
struct Data {
    vocabulary: Vocabulary,
    kinds: Vec<Kind>,
    rows: Rows,
    labels: Vec<u32>,
    classes: usize,
    /// Where the rows of the duplicates start.
    duplicates: u32,
    /// The texts' vectors and their length.
    vectors: Option<(Rows, usize)>,
}

impl Data {
    fn new(
        corpus: &Corpus,
        options: &TrainOptions,
        encoder: Option<&Encoder>,
        progress: &mut impl FnMut(Progress),
    ) -> Self {
        let classes = corpus.originals.len();
        let labelled = texts(corpus);
        let texts: Vec<String> = labelled.iter().map(|(_, text)| clean(text)).collect();
        let max_features = (options.weight_bytes / classes.max(1)).max(MIN_FEATURES);
        let vocabulary = Vocabulary::fit(texts.iter().map(String::as_str), max_features);
        let mut rows = Rows::default();
        let mut featurizer = Featurizer::default();
        for text in &texts {
            let features = featurizer.features(&vocabulary, text);
            rows.push(features.indices, features.values);
        }
        Self {
            kinds: vocabulary.entries().iter().map(|entry| entry.kind).collect(),
            labels: labelled.iter().map(|(class, _)| *class as u32).collect(),
            vocabulary,
            rows,
            classes,
            duplicates: (texts.len() - corpus.duplicates.len()) as u32,
            vectors: encoder.map(|encoder| (embed(encoder, &texts, progress), encoder.width())),
        }
    }

    fn fit(&self, options: &TrainOptions, subset: &[u32]) -> Scorers {
        let solver = Solver { c: options.c, epochs: options.epochs, seed: options.seed };
        let (features, classes) = (self.kinds.len(), self.classes);
        let mut frequencies = vec![0.0_f32; classes];
        subset.iter().for_each(|row| frequencies[self.labels[*row as usize] as usize] += 1.0);
        frequencies.iter_mut().for_each(|frequency| *frequency = frequency.max(1.0).ln());
        Scorers {
            weights: solver.fit(&self.rows, &self.labels, subset, features, classes),
            postings: self.index(subset),
            frequencies,
            neighbours: Neighbours::fit(&self.rows, &self.labels, subset, features, classes),
            embedding: self.vectors.as_ref().map(|(vectors, width)| {
                Embedding::fit(vectors, *width, &self.labels, subset, classes, solver)
            }),
        }
    }

    fn index(&self, subset: &[u32]) -> Postings {
        Postings::fit(&self.rows, &self.labels, subset, &self.kinds, self.classes)
    }

    fn index_answers(&self) -> Postings {
        let answers: Vec<u32> = (self.classes as u32..self.duplicates).collect();
        self.index(&answers)
    }

    /// Scores every duplicate by a model that was not trained on it. Originals and answers are always trained on: they
    /// are what a question is matched with.
    fn held_out(&self, options: &TrainOptions, progress: &mut impl FnMut(Progress)) -> HeldOut {
        let folds = options.folds.max(2);
        let fold_of = self.assign_folds(options.seed, folds);
        let answers = self.index_answers();
        let mut prior = LEXICAL.to_vec();
        prior.extend(self.vectors.as_ref().map_or(&[][..], |_| &EMBEDDED));
        let quota = (MAX_HELD_OUT_SCORES / prior.len() / self.classes.max(1)).div_ceil(folds);
        let mut held_out = HeldOut::new(self.classes, &prior);
        for fold in 0..folds {
            let (held, rest): (Vec<u32>, Vec<u32>) =
                (0..self.labels.len() as u32).partition(|row| fold_of[*row as usize] == Some(fold));
            if !held.is_empty() {
                let scorers = self.fit(options, &rest);
                let step = held.len().div_ceil(quota.max(1));
                for row in held.into_iter().step_by(step) {
                    let scores = held_out.push(self.labels[row as usize]);
                    self.score(&scorers, &answers, row, scores);
                }
            }
            progress(Progress::Fold { done: fold + 1, folds });
        }
        held_out
    }

    /// The fold of every row, spreading each class evenly; `None` for originals and answers.
    fn assign_folds(&self, seed: u64, folds: usize) -> Vec<Option<usize>> {
        let mut order: Vec<usize> = (self.duplicates as usize..self.labels.len()).collect();
        Rng::new(seed).shuffle(&mut order);
        order.sort_by_key(|row| self.labels[*row]);
        let mut fold_of = vec![None; self.labels.len()];
        for (position, row) in order.into_iter().enumerate() {
            fold_of[row] = Some(position % folds);
        }
        fold_of
    }

    /// Fills in the scores of one row, in the order of [`LEXICAL`] and [`EMBEDDED`].
    fn score(&self, scorers: &Scorers, answers: &Postings, row: u32, scores: &mut [f32]) {
        let vector = self.vectors.as_ref().map(|(vectors, _)| vectors.row(row as usize).1);
        let row = self.rows.row(row as usize);
        let mut runs: Vec<&mut [f32]> = scores.chunks_exact_mut(self.classes).collect();
        scorers.weights.score(row, runs[blend::LOGISTIC]);
        for (index, first) in [(&scorers.postings, blend::TEXTS), (answers, blend::ANSWERS)] {
            for feature in row.0 {
                index.score(*feature, runs[first + self.kinds[*feature as usize] as usize]);
            }
        }
        runs[blend::FREQUENCY].copy_from_slice(&scorers.frequencies);
        let features = Features { indices: row.0, values: row.1 };
        scorers.neighbours.score(features, 1.0, &mut Vec::new(), runs[blend::NEAREST]);
        if let Some((embedding, vector)) = scorers.embedding.as_ref().zip(vector) {
            for product in embedding.multiply(vector, &mut Products::default()) {
                embedding.score(product, [1.0, 0.0], runs[blend::HEAD]);
                embedding.score(product, [0.0, 1.0], runs[blend::SIMILAR]);
            }
        }
    }
}

/// The vectors of cleaned texts, as rows.
fn embed(encoder: &Encoder, texts: &[String], progress: &mut impl FnMut(Progress)) -> Rows {
    let everything: Vec<u32> = (0..encoder.width() as u32).collect();
    let mut scratch = encoder::Scratch::default();
    let mut rows = Rows::default();
    for (at, texts_at_once) in texts.chunks(EMBEDDED_AT_ONCE).enumerate() {
        let vectors = encoder.embed(texts_at_once.iter().map(String::as_str), &mut scratch);
        vectors.chunks_exact(everything.len()).for_each(|vector| rows.push(&everything, vector));
        let done = at * EMBEDDED_AT_ONCE + texts_at_once.len();
        progress(Progress::Embedded { done, texts: texts.len() });
    }
    rows
}

/// Every text of the corpus with its class: originals, then answers, then duplicates.
fn texts(corpus: &Corpus) -> Vec<(usize, &str)> {
    let originals = corpus.originals.iter().enumerate();
    let answers =
        originals.clone().filter_map(|(class, original)| Some((class, original.answer.as_deref()?)));
    let duplicates = corpus.duplicates.iter().map(|duplicate| (duplicate.original, duplicate.text.as_str()));
    originals
        .map(|(class, original)| (class, original.text.as_str()))
        .chain(answers)
        .chain(duplicates)
        .collect()
}
