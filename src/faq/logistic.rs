//! Multinomial logistic regression on sparse rows, solved by stochastic dual coordinate ascent (Shalev-Shwartz and
//! Zhang 2013, "Stochastic Dual Coordinate Ascent Methods for Regularized Loss Minimization"). It owns the solver and
//! its weight matrix; it knows nothing of texts.
//!
//! Minimises `|W|^2 / 2 + c * sum_i -ln softmax(W^T x_i)[y_i]`. With dual variables `a_i` in the simplex the weights are
//! `W = c * sum_i x_i (e_{y_i} - a_i)^T`, and at the optimum `a_i = softmax(W^T x_i)`: each step moves one `a_i` towards
//! its softmax. There is no learning rate and, without an intercept, a text of no known feature scores every class alike.

use super::rng::Rng;

/// Sparse rows, one per text: feature indices and values.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    ends: Vec<usize>,
    features: Vec<u32>,
    values: Vec<f32>,
}

impl Rows {
    /// Appends a row.
    pub(super) fn push(&mut self, features: &[u32], values: &[f32]) {
        self.features.extend_from_slice(features);
        self.values.extend_from_slice(values);
        self.ends.push(self.features.len());
    }

    /// The features and values of one row.
    pub(super) fn row(&self, index: usize) -> (&[u32], &[f32]) {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let range = start..self.ends[index];
        (&self.features[range.clone()], &self.values[range])
    }
}

/// A dense matrix of one row per feature and one column per class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weights {
    data: Vec<f32>,
    classes: usize,
}

impl Weights {
    fn zeros(features: usize, classes: usize) -> Self {
        Self { data: vec![0.0; features * classes], classes }
    }

    /// The weights of one feature, by class.
    pub(super) fn row(&self, feature: usize) -> &[f32] {
        &self.data[feature * self.classes..][..self.classes]
    }

    /// Adds `W^T x` to `logits`.
    pub(super) fn score(&self, (features, values): (&[u32], &[f32]), logits: &mut [f32]) {
        for (feature, value) in features.iter().zip(values) {
            add_scaled(logits, *value, self.row(*feature as usize));
        }
    }

    /// Adds `step * x u^T`.
    fn update(&mut self, (features, values): (&[u32], &[f32]), step: f32, direction: &[f32]) {
        for (feature, value) in features.iter().zip(values) {
            let row = &mut self.data[*feature as usize * self.classes..][..self.classes];
            add_scaled(row, step * value, direction);
        }
    }
}

/// `sum += scale * row`.
fn add_scaled(sum: &mut [f32], scale: f32, row: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += scale * value;
    }
}

/// Replaces logits by probabilities that sum to one.
pub(super) fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for logit in &mut *logits {
        *logit = (*logit - largest).exp();
        sum += *logit;
    }
    for logit in logits {
        *logit /= sum;
    }
}

/// What the solver needs besides the data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Solver {
    /// Weight of the loss against the squared length of the weights, as scikit-learn's `C`.
    pub(super) c: f32,
    /// Passes over the rows.
    pub(super) epochs: usize,
    /// Seed of the order in which rows are visited.
    pub(super) seed: u64,
}

/// Floor of a dual variable inside a logarithm; also the value the wrong classes start from.
const MIN_DUAL: f32 = 1e-7;

impl Solver {
    /// Fits the rows named by `subset`, whose classes are `labels[row] < classes`.
    pub(super) fn fit(
        &self,
        rows: &Rows,
        labels: &[u32],
        subset: &[u32],
        features: usize,
        classes: usize,
    ) -> Weights {
        let mut weights = Weights::zeros(features, classes);
        let mut duals = vec![0.0; subset.len() * classes];
        for (position, row) in subset.iter().enumerate() {
            duals[position * classes + labels[*row as usize] as usize] = 1.0;
        }
        let mut order: Vec<usize> = (0..subset.len()).collect();
        let mut rng = Rng::new(self.seed);
        let mut direction = vec![0.0; classes];
        for _ in 0..self.epochs {
            rng.shuffle(&mut order);
            for &position in &order {
                let row = rows.row(subset[position] as usize);
                self.ascend(&mut weights, row, &mut duals[position * classes..][..classes], &mut direction);
            }
        }
        weights
    }

    /// Moves one row's dual variables towards the softmax of its scores, and the weights with them.
    fn ascend(&self, weights: &mut Weights, row: (&[u32], &[f32]), dual: &mut [f32], direction: &mut [f32]) {
        direction.fill(0.0);
        weights.score(row, direction);
        softmax(direction);
        let square: f32 = row.1.iter().map(|value| value * value).sum();
        let step = step_length(direction, dual, self.c * square);
        for (towards, dual) in direction.iter_mut().zip(&mut *dual) {
            *towards -= *dual;
            *dual += step * *towards;
        }
        weights.update(row, -self.c * step, direction);
    }
}

/// How far to move from `dual` to `target`, in (0, 1]. The dual objective's slope along the way is `d` (the symmetric
/// Kullback-Leibler divergence of the two) at 0 and `-curvature * |target - dual|^2` at 1; this is the zero of the line
/// between them.
fn step_length(target: &[f32], dual: &[f32], curvature: f32) -> f32 {
    let (mut divergence, mut square) = (0.0, 0.0);
    for (target, dual) in target.iter().zip(dual) {
        let difference = target - dual;
        divergence += difference * (target.max(MIN_DUAL) / dual.max(MIN_DUAL)).ln();
        square += difference * difference;
    }
    let slope = curvature * square;
    if divergence + slope > 0.0 { divergence / (divergence + slope) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three classes on four overlapping features; two rows contradict each other.
    fn rows() -> (Rows, [u32; 6]) {
        let mut rows = Rows::default();
        for features in [[0, 3], [0, 1], [1, 3], [1, 2], [2, 3], [2, 3]] {
            rows.push(&features, &[0.8, 0.6]);
        }
        (rows, [0, 0, 1, 1, 2, 0])
    }

    fn probabilities(weights: &Weights, row: (&[u32], &[f32])) -> Vec<f32> {
        let mut logits = vec![0.0; 3];
        weights.score(row, &mut logits);
        softmax(&mut logits);
        logits
    }

    #[test]
    fn the_solution_is_stationary() {
        let (rows, labels) = rows();
        let solver = Solver { c: 5.0, epochs: 300, seed: 1 };
        let weights = solver.fit(&rows, &labels, &[0, 1, 2, 3, 4, 5], 4, 3);
        // W = c * sum_i x_i (e_y - p_i)^T at the minimum.
        let mut implied = Weights::zeros(4, 3);
        for (row, label) in labels.iter().enumerate() {
            let mut residual = probabilities(&weights, rows.row(row)).iter().map(|p| -p).collect::<Vec<_>>();
            residual[*label as usize] += 1.0;
            implied.update(rows.row(row), solver.c, &residual);
        }
        let apart = weights.data.iter().zip(&implied.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-3, "{weights:?} {implied:?}");
    }

    #[test]
    fn separable_rows_are_learnt_and_the_rest_ignored() {
        let (rows, labels) = rows();
        let weights = Solver { c: 100.0, epochs: 50, seed: 1 }.fit(&rows, &labels, &[0, 2, 4], 4, 3);
        for row in [0, 2, 4] {
            assert!(probabilities(&weights, rows.row(row))[labels[row] as usize] > 0.9);
        }
    }

    #[test]
    fn softmax_survives_large_logits() {
        let mut logits = [1e6, 1e6, -1e6];
        softmax(&mut logits);
        assert_eq!(logits, [0.5, 0.5, 0.0]);
    }
}
