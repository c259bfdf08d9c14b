//! Weighs several scores of the same classes into one calibrated probability: a conditional logit model,
//! `p = softmax(sum_m w_m s_m)`, fitted to scores of texts that took no part in training. The weights carry the
//! temperature too. It owns the fit and its prior; where the scores come from is the trainer's business.

use super::features::Kind;
use super::logistic::softmax;

/// The scores blended: the logistic regression's, then BM25's of each [`Kind`] over all texts of a class, then the same
/// over its answer alone.
pub(super) const SCORES: usize = 1 + 2 * Kind::COUNT;

/// What the weights are without evidence, rounded from what cross-validation gives on two corpora of 168 and 227 classes.
pub(super) const PRIOR: [f64; SCORES] = [1.0, 0.11, 0.045, 0.013, 0.05, 0.02, 0.01];

/// How many held-out texts the prior is worth, roughly.
const PRIOR_STRENGTH: f64 = 10.0;

/// Newton steps; the objective is concave and settles in about five.
const STEPS: usize = 20;

/// Held-out texts, their scores and their classes.
#[derive(Debug, Default)]
pub(super) struct HeldOut {
    classes: usize,
    labels: Vec<u32>,
    /// For each text `SCORES` runs of one score per class.
    scores: Vec<f32>,
}

impl HeldOut {
    /// None yet.
    pub(super) fn new(classes: usize) -> Self {
        Self { classes, ..Self::default() }
    }

    /// Appends a text of class `label` and returns room for its scores, zeroed: `SCORES` runs of one per class.
    pub(super) fn push(&mut self, label: u32) -> &mut [f32] {
        self.labels.push(label);
        let start = self.scores.len();
        self.scores.resize(start + SCORES * self.classes, 0.0);
        &mut self.scores[start..]
    }

    fn texts(&self) -> impl Iterator<Item = (&[f32], usize)> {
        let scores = self.scores.chunks_exact(SCORES * self.classes);
        scores.zip(self.labels.iter().map(|label| *label as usize))
    }

    /// The weights of greatest posterior probability.
    pub(super) fn fit(&self) -> [f64; SCORES] {
        let mut weights = PRIOR;
        let mut best = self.quadratic(&weights);
        for _ in 0..STEPS {
            let Some(step) = solve(best.hessian, best.gradient) else { break };
            let Some((next, at)) = self.climb(&weights, &step, best.value) else { break };
            (weights, best) = (next, at);
        }
        weights
    }

    /// Share of the texts whose own class scores highest, and their mean negated log probability.
    pub(super) fn measure(&self, weights: &[f64; SCORES]) -> (f64, f64) {
        let (mut right, mut loss) = (0.0, 0.0);
        let mut probabilities = vec![0.0; self.classes];
        for (scores, label) in self.texts() {
            blend(scores, &weights.map(|weight| weight as f32), &mut probabilities);
            softmax(&mut probabilities);
            let own = probabilities[label];
            let rivals = probabilities.iter().enumerate().filter(|(class, _)| *class != label);
            right += f64::from(u8::from(rivals.into_iter().all(|(_, other)| *other < own)));
            loss -= f64::from(own.max(f32::MIN_POSITIVE)).ln();
        }
        let texts = self.labels.len().max(1) as f64;
        (right / texts, loss / texts)
    }

    /// The first of full, half, quarter ... of `step` that raises the objective.
    fn climb(
        &self,
        weights: &[f64; SCORES],
        step: &[f64; SCORES],
        value: f64,
    ) -> Option<([f64; SCORES], Quadratic)> {
        (0..8).find_map(|halvings| {
            let scale = 0.5_f64.powi(halvings);
            let next = std::array::from_fn(|m| weights[m] + scale * step[m]);
            let at = self.quadratic(&next);
            (at.value > value + 1e-9).then_some((next, at))
        })
    }

    /// Log posterior, its gradient and its negated Hessian.
    fn quadratic(&self, weights: &[f64; SCORES]) -> Quadratic {
        let mut sum = Quadratic::prior(weights);
        let mut probabilities = vec![0.0; self.classes];
        for (scores, label) in self.texts() {
            blend(scores, &weights.map(|weight| weight as f32), &mut probabilities);
            softmax(&mut probabilities);
            sum.add(scores, &probabilities, label);
        }
        sum
    }
}

/// `logits = sum_m weights[m] * scores[m]`.
fn blend(scores: &[f32], weights: &[f32; SCORES], logits: &mut [f32]) {
    logits.fill(0.0);
    for (run, weight) in scores.chunks_exact(logits.len()).zip(weights) {
        for (logit, score) in logits.iter_mut().zip(run) {
            *logit += weight * score;
        }
    }
}

struct Quadratic {
    value: f64,
    gradient: [f64; SCORES],
    hessian: [[f64; SCORES]; SCORES],
}

impl Quadratic {
    /// A normal prior about [`PRIOR`] whose deviation is the prior weight itself over the root of its strength.
    fn prior(weights: &[f64; SCORES]) -> Self {
        let mut prior = Self { value: 0.0, gradient: [0.0; SCORES], hessian: [[0.0; SCORES]; SCORES] };
        for m in 0..SCORES {
            let precision = PRIOR_STRENGTH / PRIOR[m].powi(2);
            let away = weights[m] - PRIOR[m];
            prior.value -= 0.5 * precision * away * away;
            prior.gradient[m] = -precision * away;
            prior.hessian[m][m] = precision;
        }
        prior
    }

    fn add(&mut self, scores: &[f32], probabilities: &[f32], label: usize) {
        let runs: [&[f32]; SCORES] =
            std::array::from_fn(|m| &scores[m * probabilities.len()..][..probabilities.len()]);
        let expect = |run: &dyn Fn(usize) -> f64| -> f64 {
            probabilities.iter().enumerate().map(|(class, p)| f64::from(*p) * run(class)).sum()
        };
        let means: [f64; SCORES] = std::array::from_fn(|m| expect(&|class| f64::from(runs[m][class])));
        self.value += f64::from(probabilities[label].max(f32::MIN_POSITIVE)).ln();
        for m in 0..SCORES {
            self.gradient[m] += f64::from(runs[m][label]) - means[m];
            for n in 0..=m {
                let product = expect(&|class| f64::from(runs[m][class]) * f64::from(runs[n][class]));
                self.hessian[m][n] += product - means[m] * means[n];
                self.hessian[n][m] = self.hessian[m][n];
            }
        }
    }
}

/// Solves `matrix * x = right` for a positive definite matrix by elimination; `None` where it is not.
fn solve(mut matrix: [[f64; SCORES]; SCORES], mut right: [f64; SCORES]) -> Option<[f64; SCORES]> {
    for pivot in 0..SCORES {
        let (above, below) = matrix.split_at_mut(pivot + 1);
        let top = &above[pivot];
        if top[pivot] <= 0.0 || top[pivot].is_nan() {
            return None;
        }
        for (row, offset) in below.iter_mut().zip(1..) {
            let factor = row[pivot] / top[pivot];
            row.iter_mut().zip(top).for_each(|(value, above)| *value -= factor * above);
            right[pivot + offset] -= factor * right[pivot];
        }
    }
    for row in (0..SCORES).rev() {
        let known: f64 = (row + 1..SCORES).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right.iter().all(|value| value.is_finite()).then_some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_evidence_the_prior_stands() {
        assert_eq!(HeldOut::new(3).fit(), PRIOR);
    }

    #[test]
    fn solves_linear_systems() {
        let entry = |row: usize, column: usize| match row.abs_diff(column) {
            0 => 2.0 + row as f64,
            apart => 0.5 / apart as f64,
        };
        let matrix: [[f64; SCORES]; SCORES] =
            std::array::from_fn(|row| std::array::from_fn(|column| entry(row, column)));
        let expected: [f64; SCORES] = std::array::from_fn(|at| at as f64 - 2.5);
        let right = matrix.map(|row| row.iter().zip(expected).map(|(a, b)| a * b).sum());
        let solved = solve(matrix, right).unwrap();
        assert!(solved.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(solve([[0.0; SCORES]; SCORES], right).is_none());
    }

    #[test]
    fn recovers_the_temperature_of_a_score() {
        // Two classes whose first score differs by 1; class 0 is right three times in four: weight ln 3. The other
        // scores say nothing.
        let mut held_out = HeldOut::new(2);
        for text in 0..40_000 {
            held_out.push(u32::from(text % 4 == 3))[0] = 1.0;
        }
        let weights = held_out.fit();
        assert!((weights[0] - 3.0_f64.ln()).abs() < 1e-3, "{weights:?}");
        assert_eq!(weights[1..], PRIOR[1..]);
    }
}
