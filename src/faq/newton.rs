//! Newton's method for small concave problems: a dozen weights with a normal prior. It owns the iteration and the linear
//! solve; what is fitted is the caller's.

/// Newton steps; the problems here settle in about five.
const STEPS: usize = 20;

/// Log posterior, its gradient and its negated Hessian at one point.
#[derive(Debug, Clone)]
pub(super) struct Quadratic {
    pub(super) value: f64,
    pub(super) gradient: Vec<f64>,
    hessian: Vec<Vec<f64>>,
}

impl Quadratic {
    /// A normal prior about `prior` whose deviation is the prior weight itself over the root of `strength`.
    pub(super) fn normal_prior(prior: &[f64], weights: &[f64], strength: f64) -> Self {
        let size = prior.len();
        let mut sum = Self { value: 0.0, gradient: vec![0.0; size], hessian: vec![vec![0.0; size]; size] };
        for m in 0..size {
            let precision = strength / prior[m].powi(2);
            let away = weights[m] - prior[m];
            sum.value -= 0.5 * precision * away * away;
            sum.gradient[m] = -precision * away;
            sum.hessian[m][m] = precision;
        }
        sum
    }

    /// Adds to the negated second derivative by weights `m` and `n`.
    pub(super) fn add_curvature(&mut self, m: usize, n: usize, value: f64) {
        self.hessian[m][n] += value;
        if m != n {
            self.hessian[n][m] += value;
        }
    }
}

/// The weights of the greatest value that Newton's method finds from `start`.
pub(super) fn ascend(start: &[f64], quadratic: impl Fn(&[f64]) -> Quadratic) -> Vec<f64> {
    let mut weights = start.to_vec();
    let mut best = quadratic(&weights);
    for _ in 0..STEPS {
        let value = best.value;
        let Some(step) = solve(best.hessian, best.gradient) else { break };
        // The first of full, half, quarter ... of the step that climbs.
        let climbed = (0..8).find_map(|halvings| {
            let scale = 0.5_f64.powi(halvings);
            let next: Vec<f64> =
                weights.iter().zip(&step).map(|(weight, step)| weight + scale * step).collect();
            let at = quadratic(&next);
            (at.value > value + 1e-9).then_some((next, at))
        });
        let Some((next, at)) = climbed else { break };
        (weights, best) = (next, at);
    }
    weights
}

/// Solves `matrix * x = right` for a positive definite matrix by elimination; `None` where it is not.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let size = right.len();
    for pivot in 0..size {
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
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right.iter().all(|value| value.is_finite()).then_some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_linear_systems() {
        let entry = |row: usize, column: usize| match row.abs_diff(column) {
            0 => 2.0 + row as f64,
            apart => 0.5 / apart as f64,
        };
        let matrix: Vec<Vec<f64>> =
            (0..7).map(|row| (0..7).map(|column| entry(row, column)).collect()).collect();
        let expected: Vec<f64> = (0..7).map(|at| f64::from(at) - 2.5).collect();
        let right: Vec<f64> =
            matrix.iter().map(|row| row.iter().zip(&expected).map(|(a, b)| a * b).sum()).collect();
        let solved = solve(matrix, right.clone()).unwrap();
        assert!(solved.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(solve(vec![vec![0.0; 7]; 7], right).is_none());
    }

    #[test]
    fn climbs_to_the_posterior_mode() {
        // -(w - 3)^2 / 2 beside a prior about 1 of precision 1: the mode is half way.
        let mode = ascend(&[1.0], |weights| {
            let mut sum = Quadratic::normal_prior(&[1.0], weights, 1.0);
            sum.value -= 0.5 * (weights[0] - 3.0).powi(2);
            sum.gradient[0] -= weights[0] - 3.0;
            sum.add_curvature(0, 0, 1.0);
            sum
        });
        assert!((mode[0] - 2.0).abs() < 1e-9, "{mode:?}");
    }
}
