//! The figures of an evaluation: accuracy by rank, calibration, and how well the scope tells questions apart. Pure
//! functions of ranks, probabilities and scores.

/// How many ranks accuracy is reported for.
pub const RANKS: usize = 10;

/// Bins of the expected calibration error.
const BINS: usize = 15;

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

impl Accuracy {
    /// Of the ranks of the true originals, from 1.
    pub(super) fn of(ranks: impl Iterator<Item = usize>) -> Self {
        let mut sum = Self::default();
        for rank in ranks {
            sum.questions += 1;
            sum.at.iter_mut().skip(rank - 1).for_each(|found| *found += 1.0);
            sum.mean_rank += rank as f64;
            sum.reciprocal_rank += 1.0 / rank as f64;
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

/// The answers whose best match's probability lies in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// How many.
    pub questions: usize,
    /// Their mean probability; 0 where there are none.
    pub probability: f64,
    /// Share of them that was right; 0 where there are none.
    pub right: f64,
}

/// Sorts answers, of which the best match's probability and whether it was right are given, into [`BINS`] bins of equal
/// width.
pub(super) fn bins(answers: impl Iterator<Item = (f32, bool)>) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); BINS];
    for (probability, right) in answers {
        let bin = (f64::from(probability) * BINS as f64).ceil() as usize;
        let bin = &mut bins[bin.clamp(1, BINS) - 1];
        bin.questions += 1;
        bin.probability += f64::from(probability);
        bin.right += f64::from(u8::from(right));
    }
    for bin in &mut bins {
        let questions = bin.questions.max(1) as f64;
        bin.probability /= questions;
        bin.right /= questions;
    }
    bins
}

/// The mean over the answers of the gap between probability and accuracy of their bin.
pub(super) fn calibration_error(bins: &[Bin]) -> f64 {
    let questions: usize = bins.iter().map(|bin| bin.questions).sum();
    let gap = |bin: &Bin| bin.questions as f64 * (bin.probability - bin.right).abs();
    bins.iter().map(gap).sum::<f64>() / questions.max(1) as f64
}

/// What the threshold on the scope lets through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// The threshold.
    pub threshold: f32,
    /// Share kept of the duplicates whose original came first.
    pub right: f64,
    /// Share kept of the other duplicates.
    pub wrong: f64,
    /// Share kept of the out-of-scope questions; `None` without any.
    pub outside: Option<f64>,
}

impl Gate {
    /// Of the duplicates' scopes and whether they were answered right, and of out-of-scope questions' scopes.
    pub(super) fn of(threshold: f32, inside: &[(f32, bool)], outside: &[f32]) -> Self {
        let share = |wanted: bool| {
            let scopes: Vec<f32> =
                inside.iter().filter(|(_, right)| *right == wanted).map(|(scope, _)| *scope).collect();
            kept(threshold, &scopes).unwrap_or(0.0)
        };
        Self { threshold, right: share(true), wrong: share(false), outside: kept(threshold, outside) }
    }
}

fn kept(threshold: f32, scopes: &[f32]) -> Option<f64> {
    let kept = scopes.iter().filter(|scope| **scope >= threshold).count();
    (!scopes.is_empty()).then(|| kept as f64 / scopes.len() as f64)
}

/// Area under the receiver operating characteristic, by counting pairs in sorted order.
pub(super) fn auroc(inside: impl Iterator<Item = f32>, outside: &[f32]) -> Option<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_ranks() {
        let accuracy = Accuracy::of([1, 4].into_iter());
        assert_eq!((accuracy.at[0], accuracy.at[2], accuracy.at[3]), (0.5, 0.5, 1.0));
        assert_eq!((accuracy.mean_rank, accuracy.reciprocal_rank), (2.5, 0.625));
    }

    #[test]
    fn calibration_error_is_the_gap_within_bins() {
        // Two answers in one bin, mean probability 0.75, one right: a gap of 0.25.
        let error = |answers: &[(f32, bool)]| calibration_error(&bins(answers.iter().copied()));
        assert!((error(&[(0.75, true), (0.75, false)]) - 0.25).abs() < 1e-9);
        assert_eq!(error(&[(1.0, true)]), 0.0);
        assert_eq!(bins([(0.0, true), (1.0, false)].into_iter())[0].questions, 1);
    }

    #[test]
    fn the_gate_keeps_what_reaches_the_threshold() {
        let inside = [(0.9, true), (0.1, true), (0.5, false), (0.2, false)];
        let gate = Gate::of(0.5, &inside, &[0.4, 0.6]);
        assert_eq!((gate.right, gate.wrong, gate.outside), (0.5, 0.5, Some(0.5)));
        assert_eq!(Gate::of(0.5, &inside, &[]).outside, None);
    }

    #[test]
    fn auroc_counts_pairs_and_halves_ties() {
        assert_eq!(auroc([0.9, 0.8].into_iter(), &[0.1, 0.2]), Some(1.0));
        assert_eq!(auroc([0.5].into_iter(), &[0.5, 0.1]), Some(0.75));
        assert_eq!(auroc([0.5].into_iter(), &[]), None);
    }
}
