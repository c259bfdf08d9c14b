//! Measures a model on duplicates it was not trained on, and on questions that match nothing. It owns the walk over the
//! questions and the report; `figures` defines the numbers, [`bootstrap`] how sure they are, [`plot`] draws.

pub mod bootstrap;
mod display;
pub mod figures;
pub mod plot;

use super::corpus::Corpus;
use super::model::Model;
use super::{Match, Matcher};
pub use bootstrap::{Comparison, Interval, compare};
pub use figures::{Accuracy, Bin, Gate, RANKS};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Why a model cannot be measured on a corpus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// There is nothing to measure on.
    #[error("the corpus has no duplicates to measure on")]
    NoDuplicates,
    /// A duplicate's original is not in the model.
    #[error("the model does not know AnswerId {0}")]
    UnknownAnswer(i64),
}

/// What one evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Over all duplicates.
    pub overall: Accuracy,
    /// 95 % interval of the share of duplicates whose original came first.
    pub accuracy_interval: Interval,
    /// 95 % interval of the mean rank.
    pub rank_interval: Interval,
    /// By the corpus's `Source` column, in alphabetical order.
    pub sources: Vec<(String, Accuracy)>,
    /// The best match's probability against how often it was right, in 15 bins of equal width.
    pub bins: Vec<Bin>,
    /// Expected calibration error over these bins (Guo et al. 2017).
    pub calibration_error: f64,
    /// Mean over the questions of the squared error of all probabilities, summed over the originals.
    pub brier: f64,
    /// What the threshold lets through.
    pub gate: Gate,
    /// Chance that a duplicate's scope exceeds an out-of-scope question's, ties counting half; `None` without such
    /// questions.
    pub out_of_scope_auroc: Option<f64>,
    /// Rank of every duplicate's original, in the order of the corpus.
    pub ranks: Vec<usize>,
    /// Median time to answer one question in full on this thread.
    pub p50: Duration,
    /// Time within which 99 of 100 are answered.
    pub p99: Duration,
    /// Questions a second on this thread, one at a time.
    pub per_second: f64,
    /// Questions a second on this thread, taken as from a long queue.
    pub batched_per_second: f64,
}

/// Questions answered together when a long queue is measured.
const QUEUE_BATCH: usize = 16;

/// Measures a model on the duplicates of `test` and on texts that match none of its originals.
///
/// # Errors
/// [`EvalError`] where there is nothing to measure or a duplicate belongs to an original that the model does not have.
pub fn evaluate(matcher: &mut Matcher, test: &Corpus, out_of_scope: &[String]) -> Result<Report, EvalError> {
    let truths = truths(matcher.model(), test)?;
    let mut times = Vec::new();
    let mut answers = Vec::new();
    for (duplicate, truth) in test.duplicates.iter().zip(truths) {
        let start = Instant::now();
        let ranking = matcher.rank(&duplicate.text, None);
        times.push(start.elapsed());
        answers.push(Outcome::new(&ranking.matches, ranking.scope, truth, &duplicate.source));
    }
    let batched = batched_time(matcher, test);
    let strangers: Vec<f32> = out_of_scope.iter().map(|text| matcher.rank(text, Some(1)).scope).collect();
    let ranks: Vec<usize> = answers.iter().map(|answer| answer.rank).collect();
    let bins = figures::bins(answers.iter().map(|answer| (answer.best, answer.rank == 1)));
    let questions = answers.len() as f64;
    let per_second = questions / times.iter().sum::<Duration>().as_secs_f64();
    times.sort_unstable();
    let inside: Vec<(f32, bool)> = answers.iter().map(|answer| (answer.scope, answer.rank == 1)).collect();
    Ok(Report {
        overall: Accuracy::of(ranks.iter().copied()),
        accuracy_interval: bootstrap::mean_interval(&ranks, |rank| f64::from(u8::from(rank == 1))),
        rank_interval: bootstrap::mean_interval(&ranks, |rank| rank as f64),
        sources: by_source(&answers),
        calibration_error: figures::calibration_error(&bins),
        bins,
        brier: answers.iter().map(|answer| answer.squared_error).sum::<f64>() / questions,
        gate: Gate::of(matcher.model().threshold(), &inside, &strangers),
        out_of_scope_auroc: figures::auroc(inside.iter().map(|(scope, _)| *scope), &strangers),
        ranks,
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        per_second,
        batched_per_second: questions / batched.as_secs_f64(),
    })
}

/// Time to answer all duplicates a batch at a time.
fn batched_time(matcher: &mut Matcher, test: &Corpus) -> Duration {
    let start = Instant::now();
    for batch in test.duplicates.chunks(QUEUE_BATCH) {
        let answers = matcher.rank_all(batch.iter().map(|duplicate| (duplicate.text.as_str(), None)));
        debug_assert_eq!(answers.len(), batch.len());
    }
    start.elapsed()
}

/// The model's index of every duplicate's original.
fn truths(model: &Model, test: &Corpus) -> Result<Vec<usize>, EvalError> {
    let known: FxHashMap<i64, usize> =
        model.questions().iter().enumerate().map(|(index, original)| (original.answer_id, index)).collect();
    if test.duplicates.is_empty() {
        return Err(EvalError::NoDuplicates);
    }
    let answer_ids = test.duplicates.iter().map(|duplicate| test.originals[duplicate.original].answer_id);
    answer_ids.map(|id| known.get(&id).copied().ok_or(EvalError::UnknownAnswer(id))).collect()
}

/// What one duplicate's answer was worth.
struct Outcome<'a> {
    source: &'a str,
    rank: usize,
    scope: f32,
    best: f32,
    squared_error: f64,
}

impl<'a> Outcome<'a> {
    fn new(matches: &[Match], scope: f32, truth: usize, source: &'a str) -> Self {
        let position = matches.iter().position(|found| found.question == truth);
        let rank = 1 + position.expect("bug: a full ranking names every original");
        let squared_error = matches.iter().map(|found| {
            (f64::from(found.probability) - f64::from(u8::from(found.question == truth))).powi(2)
        });
        Self { source, rank, scope, best: matches[0].probability, squared_error: squared_error.sum() }
    }
}

fn by_source(answers: &[Outcome<'_>]) -> Vec<(String, Accuracy)> {
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for answer in answers {
        groups.entry(answer.source).or_default().push(answer.rank);
    }
    groups.into_iter().map(|(source, ranks)| (source.to_owned(), Accuracy::of(ranks.into_iter()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_sums_squared_errors_over_all_classes() {
        let matches = vec![Match { question: 1, probability: 0.7 }, Match { question: 0, probability: 0.3 }];
        let outcome = Outcome::new(&matches, 0.5, 0, "s");
        assert_eq!(outcome.rank, 2);
        assert!((outcome.squared_error - 0.98).abs() < 1e-6);
    }
}
