//! A trained model and how it answers: sparse features against quantised weights and postings, softmax, rank. It owns the
//! in-memory layout and the arithmetic of one question; files are `storage`'s and training is `train`'s.

use super::blend::SCORES;
use super::bm25::Postings;
use super::clean::clean_into;
use super::corpus::{Corpus, Original};
use super::features::{Featurizer, Kind, Vocabulary};
use super::logistic::{Weights, softmax};
use super::train::TrainOptions;
use super::{Match, Ranking};
use half::f16;

/// A trained model: immutable, shared by every worker.
///
/// A question with features `x` scores `sum_f x_f * scale_f * W_f + sum_f P_f` over the classes, where `W` is dense int8
/// and `P` the sparse BM25 postings, both already weighed by the blend; softmax makes that probabilities. A question
/// without any known gram scores zero everywhere, hence `1 / N` for each original.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) originals: Vec<Original>,
    pub(super) vocabulary: Vocabulary,
    pub(super) dense: Quantised,
    pub(super) postings: Postings,
    pub(super) digest: String,
}

/// A matrix of one row per feature and one column per class, each row scaled to int8.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Quantised {
    /// Row after row.
    pub(super) data: Vec<i8>,
    /// What one unit of each row is worth.
    pub(super) scales: Vec<f32>,
}

/// What training hands over.
pub(super) struct Parts<'a> {
    pub(super) corpus: &'a Corpus,
    pub(super) options: &'a TrainOptions,
    pub(super) vocabulary: Vocabulary,
    pub(super) weights: Weights,
    /// Of all texts.
    pub(super) postings: Postings,
    /// Of the answers alone.
    pub(super) answers: Postings,
    pub(super) blend: [f64; SCORES],
}

/// Working memory of one thread; a question costs no allocation but for its answer.
#[derive(Debug, Default)]
pub struct Scratch {
    text: String,
    featurizer: Featurizer,
    scores: Vec<f32>,
}

impl Model {
    /// Puts the trained parts into the layout that answers, rounded exactly as a file would hold them.
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let Parts { corpus, options, vocabulary, weights, mut postings, mut answers, blend } = parts;
        let [logistic, rest @ ..] = blend.map(|weight| weight as f32);
        let kinds: Vec<Kind> = vocabulary.entries().iter().map(|entry| entry.kind).collect();
        let (texts_weights, answers_weights) = rest.split_at(Kind::COUNT);
        postings.scale(&kinds, std::array::from_fn(|kind| texts_weights[kind]));
        answers.scale(&kinds, std::array::from_fn(|kind| answers_weights[kind]));
        postings.add(&answers);
        postings.weights.iter_mut().for_each(|score| *score = f16::from_f32(*score).to_f32());
        let dense = Quantised::new(&weights, kinds.len(), logistic);
        Self {
            originals: corpus.originals.clone(),
            vocabulary,
            dense,
            postings,
            digest: digest(corpus, options),
        }
    }

    /// The original questions, in the order of the corpus; a [`Match`] names one by its index here.
    pub fn questions(&self) -> &[Original] {
        &self.originals
    }

    /// How many grams the model knows.
    pub fn features(&self) -> usize {
        self.vocabulary.entries().len()
    }

    /// Sixteen hexadecimal digits of the corpus and options that the model was trained on: to tell models apart, no proof
    /// against forgery.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The probability of every original, by index. All finite, summing to one.
    pub fn probabilities<'s>(&self, text: &str, scratch: &'s mut Scratch) -> &'s [f32] {
        let Scratch { text: cleaned, featurizer, scores } = scratch;
        clean_into(text, cleaned);
        let features = featurizer.features(&self.vocabulary, cleaned);
        scores.clear();
        scores.resize(self.originals.len(), 0.0);
        for (feature, value) in features.indices.iter().zip(features.values) {
            self.dense.score(*feature as usize, *value, scores);
            self.postings.score(*feature, scores);
        }
        softmax(scores);
        scores
    }

    /// The `top` likeliest originals (all where `None`), likeliest first and ties by index.
    pub fn rank(&self, text: &str, top: Option<usize>, scratch: &mut Scratch) -> Ranking {
        let probabilities = self.probabilities(text, scratch);
        let all = probabilities.iter().enumerate();
        let mut matches: Vec<Match> =
            all.map(|(question, probability)| Match { question, probability: *probability }).collect();
        let order =
            |a: &Match, b: &Match| b.probability.total_cmp(&a.probability).then(a.question.cmp(&b.question));
        let top = top.unwrap_or(matches.len());
        if top < matches.len() {
            matches.select_nth_unstable_by(top, order);
            matches.truncate(top);
        }
        matches.sort_unstable_by(order);
        Ranking { matches }
    }
}

impl Quantised {
    fn new(weights: &Weights, features: usize, blend: f32) -> Self {
        let mut quantised = Self::default();
        for feature in 0..features {
            let row = weights.row(feature);
            let largest = row.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            let unit = if largest > 0.0 { largest / 127.0 } else { 1.0 };
            quantised.data.extend(row.iter().map(|weight| (weight / unit).round() as i8));
            quantised.scales.push(unit * blend);
        }
        quantised
    }

    fn score(&self, feature: usize, value: f32, scores: &mut [f32]) {
        let row = &self.data[feature * scores.len()..][..scores.len()];
        let value = value * self.scales[feature];
        for (score, weight) in scores.iter_mut().zip(row) {
            *score += value * f32::from(*weight);
        }
    }
}

/// 64-bit FNV-1a (Fowler, Noll and Vo).
#[derive(Debug, Clone, Copy)]
pub(super) struct Fnv(u64);

impl Fnv {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// Writes a text so that no two sequences of texts write the same bytes.
    fn write_text(&mut self, text: &str) {
        self.write(&(text.len() as u64).to_le_bytes());
        self.write(text.as_bytes());
    }

    pub(super) fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

fn digest(corpus: &Corpus, options: &TrainOptions) -> String {
    let mut hash = Fnv::new();
    hash.write_text(&format!("{options:?}"));
    for original in &corpus.originals {
        hash.write(&original.id.to_le_bytes());
        hash.write(&original.answer_id.to_le_bytes());
        hash.write_text(&original.text);
        hash.write_text(original.answer.as_deref().unwrap_or_default());
    }
    for duplicate in &corpus.duplicates {
        hash.write(&(duplicate.original as u64).to_le_bytes());
        hash.write_text(&duplicate.text);
    }
    hash.hex()
}
