//! Measures a model on duplicates it was not trained on, and on questions that match nothing. It owns the definitions of
//! the figures; it prints nothing and judges nothing.

use super::corpus::Corpus;
use super::model::Model;
use super::{Match, Matcher};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How many ranks accuracy is reported for.
pub const RANKS: usize = 10;

/// Bins of the expected calibration error.
const BINS: usize = 15;

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

/// How often and how well the true original was found.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Accuracy {
    /// Questions measured.
    pub questions: usize,
    /// Share of questions whose true original is among the best 1, 2, ... [`RANKS`].
    pub at: [f64; RANKS],
    /// Mean rank of the true original, from 1.
    pub mean_rank: f64,
    /// Mean of one over that rank.
    pub reciprocal_rank: f64,
}

/// What one evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Over all duplicates.
    pub overall: Accuracy,
    /// By the corpus's `Source` column, in alphabetical order.
    pub sources: Vec<(String, Accuracy)>,
    /// Expected calibration error of the best match's probability, in 15 bins of equal width (Guo et al. 2017).
    pub calibration_error: f64,
    /// Mean over the questions of the squared error of all probabilities, summed over the originals.
    pub brier: f64,
    /// Chance that a duplicate's best probability exceeds an out-of-scope question's, ties counting half; `None` without
    /// such questions.
    pub out_of_scope_auroc: Option<f64>,
    /// Median time to answer one question in full on this thread.
    pub p50: Duration,
    /// Time within which 99 of 100 are answered.
    pub p99: Duration,
    /// Questions a second on this thread.
    pub per_second: f64,
}

/// Measures `model` on the duplicates of `test` and on texts that match none of its originals.
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
    let strangers: Vec<f32> = out_of_scope.iter().map(|text| matcher.rank(text, Some(1)).scope).collect();
    let per_second = times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64();
    times.sort_unstable();
    Ok(Report {
        overall: Accuracy::of(answers.iter()),
        sources: by_source(&answers),
        calibration_error: calibration_error(&answers),
        brier: answers.iter().map(|answer| answer.squared_error).sum::<f64>() / answers.len() as f64,
        out_of_scope_auroc: auroc(answers.iter().map(|answer| answer.scope), &strangers),
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        per_second,
    })
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
        let rank = 1 + matches
            .iter()
            .position(|found| found.question == truth)
            .expect("bug: a full ranking names every original");
        let squared_error = matches.iter().map(|found| {
            (f64::from(found.probability) - f64::from(u8::from(found.question == truth))).powi(2)
        });
        Self { source, rank, scope, best: matches[0].probability, squared_error: squared_error.sum() }
    }
}

impl Accuracy {
    fn of<'a>(answers: impl Iterator<Item = &'a Outcome<'a>>) -> Self {
        let mut sum = Self::default();
        for answer in answers {
            sum.questions += 1;
            sum.at.iter_mut().skip(answer.rank - 1).for_each(|found| *found += 1.0);
            sum.mean_rank += answer.rank as f64;
            sum.reciprocal_rank += 1.0 / answer.rank as f64;
        }
        let questions = sum.questions as f64;
        Self {
            questions: sum.questions,
            at: sum.at.map(|found| found / questions),
            mean_rank: sum.mean_rank / questions,
            reciprocal_rank: sum.reciprocal_rank / questions,
        }
    }
}

fn by_source(answers: &[Outcome<'_>]) -> Vec<(String, Accuracy)> {
    let mut groups: BTreeMap<&str, Vec<&Outcome<'_>>> = BTreeMap::new();
    for answer in answers {
        groups.entry(answer.source).or_default().push(answer);
    }
    groups.into_iter().map(|(source, group)| (source.to_owned(), Accuracy::of(group.into_iter()))).collect()
}

fn calibration_error(answers: &[Outcome<'_>]) -> f64 {
    let mut gaps = [0.0; BINS];
    for answer in answers {
        let bin = (f64::from(answer.best) * BINS as f64).ceil() as usize;
        gaps[bin.clamp(1, BINS) - 1] += f64::from(answer.best) - f64::from(u8::from(answer.rank == 1));
    }
    gaps.iter().map(|gap| gap.abs()).sum::<f64>() / answers.len() as f64
}

/// Area under the receiver operating characteristic, by counting pairs in sorted order.
fn auroc(inside: impl Iterator<Item = f32>, outside: &[f32]) -> Option<f64> {
    let mut outside = outside.to_vec();
    outside.sort_unstable_by(f32::total_cmp);
    let (mut pairs, mut won) = (0.0, 0.0);
    for score in inside {
        let below = outside.partition_point(|other| *other < score);
        let equal = outside.partition_point(|other| *other <= score) - below;
        won += below as f64 + 0.5 * equal as f64;
        pairs += outside.len() as f64;
    }
    (pairs > 0.0).then(|| won / pairs)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<14} {:>9} {:>7} {:>7} {:>7} {:>9} {:>7}",
            "source", "questions", "acc@1", "acc@3", "acc@10", "mean rank", "MRR"
        )?;
        for (source, accuracy) in &self.sources {
            accuracy.row(f, source)?;
        }
        self.overall.row(f, "all")?;
        write!(f, "accuracy@1..{RANKS}:")?;
        self.overall.at.iter().try_for_each(|found| write!(f, " {found:.3}"))?;
        write!(f, "\nECE {:.4}   Brier {:.4}", self.calibration_error, self.brier)?;
        if let Some(auroc) = self.out_of_scope_auroc {
            write!(f, "   out-of-scope AUROC {auroc:.4}")?;
        }
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (p50, p99) = (micros(self.p50), micros(self.p99));
        write!(f, "\np50 {p50:.1} us   p99 {p99:.1} us   {:.0} questions/s on one thread", self.per_second)
    }
}

impl Accuracy {
    fn row(&self, f: &mut fmt::Formatter<'_>, source: &str) -> fmt::Result {
        let Self { questions, at, mean_rank, reciprocal_rank } = self;
        writeln!(
            f,
            "{source:<14} {questions:>9} {:>7.4} {:>7.4} {:>7.4} {mean_rank:>9.3} {reciprocal_rank:>7.4}",
            at[0], at[2], at[9]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(rank: usize, best: f32) -> Outcome<'static> {
        Outcome { source: "s", scope: 0.5, rank, best, squared_error: 0.0 }
    }

    #[test]
    fn accuracy_counts_ranks() {
        let answers = [outcome(1, 0.9), outcome(4, 0.5)];
        let accuracy = Accuracy::of(answers.iter());
        assert_eq!((accuracy.at[0], accuracy.at[2], accuracy.at[3]), (0.5, 0.5, 1.0));
        assert_eq!((accuracy.mean_rank, accuracy.reciprocal_rank), (2.5, 0.625));
    }

    #[test]
    fn an_outcome_sums_squared_errors_over_all_classes() {
        let matches = vec![Match { question: 1, probability: 0.7 }, Match { question: 0, probability: 0.3 }];
        let outcome = Outcome::new(&matches, 0.5, 0, "s");
        assert_eq!(outcome.rank, 2);
        assert!((outcome.squared_error - 0.98).abs() < 1e-6);
    }

    #[test]
    fn calibration_error_is_the_gap_within_bins() {
        // Two answers in one bin, mean probability 0.75, one right: a gap of 0.25.
        assert!((calibration_error(&[outcome(1, 0.75), outcome(2, 0.75)]) - 0.25).abs() < 1e-9);
        assert_eq!(calibration_error(&[outcome(1, 1.0)]), 0.0);
    }

    #[test]
    fn auroc_counts_pairs_and_halves_ties() {
        assert_eq!(auroc([0.9, 0.8].into_iter(), &[0.1, 0.2]), Some(1.0));
        assert_eq!(auroc([0.5].into_iter(), &[0.5, 0.1]), Some(0.75));
        assert_eq!(auroc([0.5].into_iter(), &[]), None);
    }
}
