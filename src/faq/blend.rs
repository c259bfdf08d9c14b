//! Weighs several scores of the same classes into one calibrated probability: a conditional logit model,
//! `p = softmax(sum_m w_m s_m)`, fitted to scores of texts that took no part in training. The weights carry the
//! temperature too. It owns the fit and its prior; where the scores come from is the trainer's business.

use super::features::Kind;
use super::logistic::softmax;
use super::newton::{Quadratic, ascend};

/// The scores of a lexical model, in order: the logistic regression's, then BM25's of each [`Kind`] over all texts of a
/// class, then the same over its answer alone, then the logarithm of the number of its texts, then the cosine of its
/// nearest text. The values are what the weights are without evidence, rounded from what cross-validation gives on two
/// corpora of 168 and 227 classes.
pub(super) const LEXICAL: [f64; 3 + 2 * Kind::COUNT] = [1.0, 0.11, 0.045, 0.018, 0.05, 0.02, 0.01, 0.2, 3.0];

/// What follows them where the model reads vectors: the logistic regression's score on them, and the cosine of the nearest
/// text's vector.
pub(super) const EMBEDDED: [f64; 2] = [0.7, 10.0];

/// Where each of them stands.
pub(super) const LOGISTIC: usize = 0;
pub(super) const TEXTS: usize = LOGISTIC + 1;
pub(super) const ANSWERS: usize = TEXTS + Kind::COUNT;
pub(super) const FREQUENCY: usize = ANSWERS + Kind::COUNT;
pub(super) const NEAREST: usize = FREQUENCY + 1;
pub(super) const HEAD: usize = NEAREST + 1;
pub(super) const SIMILAR: usize = HEAD + 1;

/// How many held-out texts the prior is worth, roughly.
const PRIOR_STRENGTH: f64 = 10.0;

/// Held-out texts, their scores and their classes.
#[derive(Debug)]
pub(super) struct HeldOut {
    classes: usize,
    prior: Vec<f64>,
    labels: Vec<u32>,
    /// For each text as many runs as `prior` is long, of one score per class.
    scores: Vec<f32>,
}

impl HeldOut {
    /// None yet. Each text has a run of scores for every weight of `prior`.
    pub(super) fn new(classes: usize, prior: &[f64]) -> Self {
        Self { classes, prior: prior.to_vec(), labels: Vec::new(), scores: Vec::new() }
    }

    /// Appends a text of class `label` and returns room for its scores, zeroed: a run of one per class for each weight.
    pub(super) fn push(&mut self, label: u32) -> &mut [f32] {
        self.labels.push(label);
        let start = self.scores.len();
        self.scores.resize(start + self.prior.len() * self.classes, 0.0);
        &mut self.scores[start..]
    }

    /// How many texts there are.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    fn texts(&self) -> impl Iterator<Item = (&[f32], usize)> {
        let scores = self.scores.chunks_exact(self.prior.len() * self.classes);
        scores.zip(self.labels.iter().map(|label| *label as usize))
    }

    /// The weights of greatest posterior probability.
    pub(super) fn fit(&self) -> Vec<f64> {
        ascend(&self.prior, |weights| self.quadratic(weights))
    }

    /// Calls `each` with every text's blended scores, before softmax, and its class.
    pub(super) fn for_each_blended(&self, weights: &[f64], mut each: impl FnMut(&mut [f32], usize)) {
        let mut logits = vec![0.0; self.classes];
        for (scores, label) in self.texts() {
            blend(scores, weights, &mut logits);
            each(&mut logits, label);
        }
    }

    /// Share of the texts whose own class scores highest, and their mean negated log probability.
    pub(super) fn measure(&self, weights: &[f64]) -> (f64, f64) {
        let (mut right, mut loss) = (0.0, 0.0);
        self.for_each_blended(weights, |scores, label| {
            softmax(scores);
            let own = scores[label];
            let mut rivals = scores.iter().enumerate().filter(|(class, _)| *class != label);
            right += f64::from(u8::from(rivals.all(|(_, other)| *other < own)));
            loss -= f64::from(own.max(f32::MIN_POSITIVE)).ln();
        });
        let texts = self.labels.len().max(1) as f64;
        (right / texts, loss / texts)
    }

    /// Log posterior, its gradient and its negated Hessian.
    fn quadratic(&self, weights: &[f64]) -> Quadratic {
        let mut sum = Quadratic::normal_prior(&self.prior, weights, PRIOR_STRENGTH);
        let mut probabilities = vec![0.0; self.classes];
        for (scores, label) in self.texts() {
            blend(scores, weights, &mut probabilities);
            softmax(&mut probabilities);
            add_text(&mut sum, scores, &probabilities, label);
        }
        sum
    }
}

/// `logits = sum_m weights[m] * scores[m]`.
fn blend(scores: &[f32], weights: &[f64], logits: &mut [f32]) {
    logits.fill(0.0);
    for (run, weight) in scores.chunks_exact(logits.len()).zip(weights) {
        for (logit, score) in logits.iter_mut().zip(run) {
            *logit += *weight as f32 * score;
        }
    }
}

/// Adds `ln p[label]` and its derivatives: `s[label] - E s`, and the covariance of the scores under `p`.
fn add_text(sum: &mut Quadratic, scores: &[f32], probabilities: &[f32], label: usize) {
    let runs: Vec<&[f32]> = scores.chunks_exact(probabilities.len()).collect();
    let expect = |value: &dyn Fn(usize) -> f64| -> f64 {
        probabilities.iter().enumerate().map(|(class, p)| f64::from(*p) * value(class)).sum()
    };
    let means: Vec<f64> = runs.iter().map(|run| expect(&|class| f64::from(run[class]))).collect();
    sum.value += f64::from(probabilities[label].max(f32::MIN_POSITIVE)).ln();
    for m in 0..runs.len() {
        sum.gradient[m] += f64::from(runs[m][label]) - means[m];
        for n in 0..=m {
            let product = expect(&|class| f64::from(runs[m][class]) * f64::from(runs[n][class]));
            sum.add_curvature(m, n, product - means[m] * means[n]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_evidence_the_prior_stands() {
        assert_eq!(HeldOut::new(3, &LEXICAL).fit(), LEXICAL);
    }

    #[test]
    fn recovers_the_temperature_of_a_score() {
        // Two classes whose first score differs by 1; class 0 is right three times in four: weight ln 3. The other
        // scores say nothing.
        let mut held_out = HeldOut::new(2, &LEXICAL);
        for text in 0..40_000 {
            held_out.push(u32::from(text % 4 == 3))[0] = 1.0;
        }
        let weights = held_out.fit();
        assert!((weights[0] - 3.0_f64.ln()).abs() < 1e-3, "{weights:?}");
        assert_eq!(weights[1..], LEXICAL[1..]);
    }
}
