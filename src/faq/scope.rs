//! Whether a question asks any of the originals at all: a score from 0 to 1 and the threshold below which there is no
//! match. It owns both and how they are fitted to held-out texts; it never changes the ranking.
//!
//! A question out of scope is simulated by a held-out text whose own class is struck out: what remains is a question
//! like those of the corpus that no original answers. Questions about anything else score lower still.

use super::blend::HeldOut;
use super::newton::{Quadratic, ascend};

/// How the score is computed: `sigmoid(w_0 + w_1 ln p + w_2 e)`, where `p` is the best match's probability and `e` its
/// evidence, the blended score of its class without the class's own constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scope {
    pub(super) weights: [f32; 3],
    /// Scores below it mean that nothing matches.
    pub(super) threshold: f32,
}

/// What the weights are without evidence, and the threshold with few held-out texts, rounded from what two corpora give.
const PRIOR: [f64; 3] = [-3.5, 1.0, 0.3];
const PRIOR_THRESHOLD: f32 = 0.25;

/// How many held-out texts the prior is worth, roughly.
const PRIOR_STRENGTH: f64 = 10.0;

/// Share of the held-out texts whose best match was right that may fall below the threshold.
const REJECTED: f64 = 0.05;

/// A quantile of fewer right answers than this says little.
const MIN_RIGHT: usize = 40;

impl Scope {
    /// Fits the score to the held-out texts as `weights` blend their scores, `constants` being each class's own.
    pub(super) fn fit(held_out: &HeldOut, weights: &[f64], constants: &[f32]) -> Self {
        let mut samples = Vec::with_capacity(2 * held_out.len());
        let mut right = Vec::new();
        held_out.for_each_blended(weights, |logits, label| {
            let inside = Best::of(logits, constants);
            let mut others = logits.to_vec();
            others.swap_remove(label);
            let mut constants = constants.to_vec();
            constants.swap_remove(label);
            samples.push((inside, true));
            samples.extend((!others.is_empty()).then(|| (Best::of(&others, &constants), false)));
            right.extend((inside.class == label).then_some(inside));
        });
        let weights = ascend(&PRIOR, |weights| quadratic(weights, &samples));
        let scope = Self { weights: std::array::from_fn(|m| weights[m] as f32), threshold: PRIOR_THRESHOLD };
        let mut scores: Vec<f32> = right.iter().map(|best| scope.score(best)).collect();
        scores.sort_unstable_by(f32::total_cmp);
        let quantile = scores.get((scores.len() as f64 * REJECTED) as usize).copied();
        Self { threshold: quantile.filter(|_| scores.len() >= MIN_RIGHT).unwrap_or(PRIOR_THRESHOLD), ..scope }
    }

    /// How likely the question is one of the originals', from 0 to 1.
    pub(super) fn score(&self, best: &Best) -> f32 {
        let inputs = best.inputs();
        let logit: f32 = self.weights.iter().zip(inputs).map(|(weight, input)| weight * input as f32).sum();
        1.0 / (1.0 + (-logit).exp())
    }
}

/// The best match of one question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Best {
    pub(super) class: usize,
    pub(super) probability: f32,
    pub(super) evidence: f32,
}

impl Best {
    /// The best of `logits`, the first where several are.
    pub(super) fn of(logits: &[f32], constants: &[f32]) -> Self {
        let class =
            (1..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
        let sum: f32 = logits.iter().map(|logit| (logit - logits[class]).exp()).sum();
        Self { class, probability: 1.0 / sum, evidence: logits[class] - constants[class] }
    }

    fn inputs(&self) -> [f64; 3] {
        let probability = self.probability.max(f32::MIN_POSITIVE);
        [1.0, f64::from(probability).ln(), f64::from(self.evidence)]
    }
}

/// The log posterior of a logistic regression on `samples`.
fn quadratic(weights: &[f64], samples: &[(Best, bool)]) -> Quadratic {
    let mut sum = Quadratic::normal_prior(&PRIOR, weights, PRIOR_STRENGTH);
    for (best, inside) in samples {
        let inputs = best.inputs();
        let logit: f64 = weights.iter().zip(inputs).map(|(weight, input)| weight * input).sum();
        let signed = if *inside { logit } else { -logit };
        // -ln(1 + e^-x) without overflow on either side.
        sum.value -= (-signed.abs()).exp().ln_1p() + (-signed).max(0.0);
        let p = 1.0 / (1.0 + (-logit).exp());
        for m in 0..inputs.len() {
            sum.gradient[m] += (f64::from(u8::from(*inside)) - p) * inputs[m];
            for n in 0..=m {
                sum.add_curvature(m, n, p * (1.0 - p) * inputs[m] * inputs[n]);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hundred texts of three classes whose own class scores 12 and up in one case of two, else 4 and up.
    fn held_out() -> HeldOut {
        let mut held_out = HeldOut::new(3, &[1.0]);
        for text in 0..200_u32 {
            let strength = if text % 2 == 0 { 12.0 } else { 4.0 } + 0.01 * text as f32;
            let scores = held_out.push(text % 3);
            scores.fill(1.0);
            scores[text as usize % 3] = strength;
        }
        held_out
    }

    #[test]
    fn strong_matches_are_in_scope_and_weak_ones_are_not() {
        let scope = Scope::fit(&held_out(), &[1.0], &[0.0; 3]);
        let score = |logits: &[f32]| scope.score(&Best::of(logits, &[0.0; 3]));
        assert!(score(&[13.0, 1.0, 1.0]) > 0.9);
        assert!(score(&[1.0, 1.0, 1.0]) < 0.2);
        assert!(score(&[0.0; 3]) < scope.threshold);
        assert!(score(&[13.0, 1.0, 1.0]) > score(&[5.0, 1.0, 1.0]));
    }

    #[test]
    fn the_threshold_rejects_one_right_match_in_twenty() {
        let scope = Scope::fit(&held_out(), &[1.0], &[0.0; 3]);
        let mut kept = 0;
        held_out().for_each_blended(&[1.0], |logits, _| {
            kept += usize::from(scope.score(&Best::of(logits, &[0.0; 3])) >= scope.threshold);
        });
        assert_eq!(kept, 190);
    }

    #[test]
    fn a_class_of_many_texts_is_no_evidence() {
        let constants = [3.0, 0.0];
        assert_eq!(Best::of(&constants, &constants).evidence, 0.0);
    }

    #[test]
    fn without_held_out_texts_the_prior_stands() {
        let scope = Scope::fit(&HeldOut::new(3, &[1.0]), &[1.0], &[0.0; 3]);
        assert_eq!(scope, Scope { weights: PRIOR.map(|weight| weight as f32), threshold: PRIOR_THRESHOLD });
    }
}
