//! A trained model and how it answers: sparse features against quantised weights, postings and neighbours, softmax, rank.
//! It owns the in-memory layout and the arithmetic of one question; files are `storage`'s and training is `train`'s.

use super::Match;
use super::blend::{self, HeldOut};
use super::bm25::{self, Postings};
use super::corpus::{Corpus, Original};
use super::embedding::{Embedding, Product, Products};
use super::encoder::{Identity, Simd};
use super::features::{Features, Featurizer, Kind, Vocabulary};
use super::kin::Kinship;
use super::logistic::{Weights, softmax};
use super::neighbours::Neighbours;
use super::scope::{Best, Scope};
use super::train::{Scorers, TrainOptions};
use half::f16;
use pulp::NullaryFnOnce;

/// A trained model: immutable, shared by every worker.
///
/// A question with features `x` scores `sum_f x_f scale_f W_f + sum_f P_f + b + g max_t x . t` over the classes, where `W`
/// is dense int8, `P` the sparse BM25 postings, `b` a constant of each class and `t` runs over the texts of the class, all
/// weighed by the blend already; softmax makes that probabilities, of which kinship lends a little. A question without any
/// known gram scores zero everywhere, hence `1 / N` for each original. A model trained with an encoder adds what the text's
/// vector scores.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) originals: Vec<Original>,
    pub(super) vocabulary: Vocabulary,
    pub(super) dense: Quantised,
    pub(super) bm25: bm25::Index,
    /// What each class scores for the number of its texts.
    pub(super) constants: Vec<f32>,
    pub(super) neighbours: Neighbours,
    /// Weight of the nearest text's cosine.
    pub(super) nearest: f32,
    pub(super) kinship: Kinship,
    /// What it learnt from an encoder's vectors, weighed by the blend, and that encoder.
    pub(super) embedding: Option<(Embedding, Identity)>,
    pub(super) scope: Scope,
    /// Duplicates it was trained on.
    pub(super) duplicates: u64,
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
    pub(super) scorers: Scorers,
    pub(super) kinship: Kinship,
    /// BM25 of the answers alone.
    pub(super) answers: Postings,
    pub(super) held_out: &'a HeldOut,
    pub(super) blend: &'a [f64],
    /// The encoder whose vectors were trained on.
    pub(super) encoder: Option<&'a Identity>,
}

/// Working memory of one thread; a question costs no allocation but for its answer.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    featurizer: Featurizer,
    cosines: Vec<f32>,
    scores: Vec<f32>,
    /// Probabilities before loans.
    before: Vec<f32>,
}

impl Model {
    /// Puts the trained parts into the layout that answers, rounded exactly as a file would hold them.
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let Parts {
            corpus,
            options,
            vocabulary,
            scorers,
            mut kinship,
            mut answers,
            held_out,
            blend,
            encoder,
        } = parts;
        let Scorers { weights, mut postings, frequencies, mut neighbours, embedding } = scorers;
        let kinds: Vec<Kind> = vocabulary.entries().iter().map(|entry| entry.kind).collect();
        let of_kinds = |first: usize| std::array::from_fn(|kind| blend[first + kind] as f32);
        postings.scale(&kinds, of_kinds(blend::TEXTS));
        answers.scale(&kinds, of_kinds(blend::ANSWERS));
        postings.add(&answers);
        round_to_half(&mut postings.weights);
        round_to_half(&mut neighbours.values);
        round_to_half(&mut kinship.shares);
        let constants: Vec<f32> =
            frequencies.iter().map(|frequency| blend[blend::FREQUENCY] as f32 * frequency).collect();
        Self {
            originals: corpus.originals.clone(),
            dense: Quantised::new(&weights, kinds.len(), blend[blend::LOGISTIC] as f32),
            vocabulary,
            bm25: bm25::Index::new(postings, constants.len()),
            scope: Scope::fit(held_out, blend, &constants),
            constants,
            neighbours,
            nearest: blend[blend::NEAREST] as f32,
            kinship,
            embedding: embedding
                .zip(encoder)
                .map(|(embedding, encoder)| (embedding.weighed(blend), encoder.clone())),
            duplicates: corpus.duplicates.len() as u64,
            digest: digest(corpus, options, encoder.map(|encoder| encoder.digest.as_str())),
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

    /// How many words, pairs and character grams it knows.
    pub fn vocabulary_sizes(&self) -> [(&'static str, usize); Kind::COUNT] {
        let count =
            |wanted: Kind| self.vocabulary.entries().iter().filter(|entry| entry.kind == wanted).count();
        [("words", count(Kind::Word)), ("pairs", count(Kind::Pair)), ("character grams", count(Kind::Chars))]
    }

    /// Sixteen hexadecimal digits of the corpus and options that the model was trained on: to tell models apart, no proof
    /// against forgery.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How many duplicates it was trained on.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// A question whose [`Ranking::scope`](super::Ranking::scope) is below matches nothing: one in twenty right matches of
    /// the cross-validation was.
    pub fn threshold(&self) -> f32 {
        self.scope.threshold
    }

    /// The encoder it needs; `None` for a lexical model.
    pub fn encoder(&self) -> Option<&Identity> {
        self.embedding.as_ref().map(|(_, encoder)| encoder)
    }

    /// What [`Model::rank`] needs of the vectors of texts, row by row; nothing for a lexical model.
    pub(super) fn multiply<'a>(
        &self,
        vectors: &[f32],
        products: &'a mut Products,
    ) -> impl Iterator<Item = Product<'a>> {
        let embedding = self.embedding.as_ref();
        embedding.map(|(embedding, _)| embedding.multiply(vectors, products)).into_iter().flatten()
    }

    /// The `top` likeliest originals of a cleaned text (all where `None`), likeliest first and ties by index, and the scope
    /// of the question. A model that needs an encoder is given the products of the text's vector.
    pub(super) fn rank(
        &self,
        text: &str,
        product: Option<Product<'_>>,
        top: Option<usize>,
        scratch: &mut Scratch,
    ) -> (Vec<Match>, f32) {
        let known = self.score(text, product, scratch);
        let Scratch { scores, before, .. } = scratch;
        let scope = self.scope.score(&Best::of(scores, &self.constants));
        softmax(scores);
        if known {
            self.kinship.lend(scores, before);
        }
        let all = scores.iter().enumerate();
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
        (matches, scope)
    }

    /// The blended score of every original, before softmax; false where nothing is known of the text.
    fn score(&self, text: &str, product: Option<Product<'_>>, scratch: &mut Scratch) -> bool {
        let Scratch { featurizer, cosines, scores, .. } = scratch;
        let features = featurizer.features(&self.vocabulary, text);
        scores.clear();
        scores.resize(self.originals.len(), 0.0);
        if features.indices.is_empty() && (text.is_empty() || self.embedding.is_none()) {
            return false;
        }
        scores.copy_from_slice(&self.constants);
        Simd::detect().run(GramScores { model: self, features, cosines, scores });
        if let Some((embedding, _)) = &self.embedding {
            let product = product.expect("bug: a model and its encoder are loaded together");
            embedding.score(product, [1.0, embedding.similar], scores);
        }
        true
    }
}

/// Adds what a text's grams score. Vectors of any width give the same sums: no two scores are added to each other.
struct GramScores<'a> {
    model: &'a Model,
    features: Features<'a>,
    cosines: &'a mut Vec<f32>,
    scores: &'a mut [f32],
}

impl NullaryFnOnce for GramScores<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { model, features, cosines, scores } = self;
        for (feature, value) in features.indices.iter().zip(features.values) {
            model.dense.score(*feature as usize, *value, scores);
            model.bm25.score(*feature, scores);
        }
        model.neighbours.score(features, model.nearest, cosines, scores);
    }
}

/// Rounds to what a file keeps.
fn round_to_half(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
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

    #[inline(always)]
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

fn digest(corpus: &Corpus, options: &TrainOptions, encoder: Option<&str>) -> String {
    let mut hash = Fnv::new();
    hash.write_text(encoder.unwrap_or_default());
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
