//! What a model learns from the vectors of an encoder: a logistic regression on them, and the cosine with the nearest
//! text of each class. It owns both and their layout; the vectors are `encoder`'s and their weight in the answer `blend`'s.

use super::blend;
use super::logistic::{Rows, Solver, Weights};
use half::f16;
use kernels::conv::Dense;
use std::sync::Arc;

/// Weight of the logistic loss against regularisation, by cross-validation; vectors have length one.
const C: f32 = 30.0;

/// The scores of vectors, weighed by the blend in a finished model.
#[derive(Debug, Clone)]
pub(super) struct Embedding {
    /// Numbers in a vector.
    pub(super) width: usize,
    /// One row of a vector's length per class.
    pub(super) head: Arc<Dense>,
    /// One row per text, class by class.
    pub(super) texts: Arc<Dense>,
    /// Where each class's texts end.
    pub(super) class_ends: Vec<u32>,
    /// Weight of the nearest text's cosine.
    pub(super) similar: f32,
}

/// The products of some vectors with a model's rows: working memory of one thread.
#[derive(Debug, Default)]
pub(super) struct Products {
    head: Vec<f32>,
    texts: Vec<f32>,
}

/// Those of one vector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    head: &'a [f32],
    texts: &'a [f32],
}

impl Embedding {
    /// One of given rows: `head` has a row of `width` per class, `texts` one per text.
    pub(super) fn new(width: usize, head: &[f32], texts: &[f32], class_ends: Vec<u32>, similar: f32) -> Self {
        Self { width, head: pack(head, width), texts: pack(texts, width), class_ends, similar }
    }

    /// Fits the vectors named by `subset`, whose classes are `labels[row] < classes`.
    pub(super) fn fit(
        vectors: &Rows,
        width: usize,
        labels: &[u32],
        subset: &[u32],
        classes: usize,
        solver: Solver,
    ) -> Self {
        let weights = Solver { c: C, ..solver }.fit(vectors, labels, subset, width, classes);
        let mut order = subset.to_vec();
        order.sort_by_key(|row| labels[*row as usize]);
        let texts: Vec<f32> = order.iter().flat_map(|row| vectors.row(*row as usize).1).copied().collect();
        let end_of = |class| order.partition_point(|row| labels[*row as usize] <= class) as u32;
        let class_ends = (0..classes as u32).map(end_of).collect();
        Self::new(width, &transpose(&weights, width, classes), &texts, class_ends, 1.0)
    }

    /// The same weighed by `blend`, rounded as a file keeps it.
    pub(super) fn weighed(&self, blend: &[f64]) -> Self {
        let half = |value: f32| f16::from_f32(value).to_f32();
        let weight = blend[blend::HEAD] as f32;
        let head: Vec<f32> = self.head_rows().iter().map(|value| half(weight * value)).collect();
        let texts: Vec<f32> = self.text_rows().iter().map(|value| half(*value)).collect();
        Self::new(self.width, &head, &texts, self.class_ends.clone(), blend[blend::SIMILAR] as f32)
    }

    /// The regression's rows, class by class.
    pub(super) fn head_rows(&self) -> Vec<f32> {
        unpack(&self.head, self.class_ends.len())
    }

    /// The texts' vectors, class by class.
    pub(super) fn text_rows(&self) -> Vec<f32> {
        unpack(&self.texts, self.class_ends.last().map_or(0, |end| *end as usize))
    }

    /// Multiplies `vectors`, row by row: several at once read the model's rows from memory but once.
    pub(super) fn multiply<'a>(
        &self,
        vectors: &[f32],
        products: &'a mut Products,
    ) -> impl Iterator<Item = Product<'a>> {
        let Products { head, texts } = products;
        let count = vectors.len() / self.width;
        head.resize(count * self.head.outputs(), 0.0);
        self.head.apply(vectors, head);
        texts.resize(count * self.texts.outputs(), 0.0);
        self.texts.apply(vectors, texts);
        let rows = head.chunks_exact(self.head.outputs()).zip(texts.chunks_exact(self.texts.outputs()));
        rows.map(|(head, texts)| Product { head, texts })
    }

    /// Adds to every class's score `weights[0]` times the regression's and `weights[1]` times its nearest text's cosine.
    pub(super) fn score(&self, product: Product<'_>, weights: [f32; 2], scores: &mut [f32]) {
        scores.iter_mut().zip(product.head).for_each(|(score, product)| *score += weights[0] * product);
        let mut start = 0;
        for (score, end) in scores.iter_mut().zip(&self.class_ends) {
            let texts = &product.texts[start..*end as usize];
            start = *end as usize;
            if !texts.is_empty() {
                *score += weights[1] * texts.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            }
        }
    }
}

/// Rows of `width` as the outputs of a layer; one of zeros where there are none.
fn pack(rows: &[f32], width: usize) -> Arc<Dense> {
    let mut rows = rows.to_vec();
    rows.resize(rows.len().max(width), 0.0);
    let bias = vec![0.0; rows.len() / width];
    Arc::new(Dense::pack(&rows, &bias, width).expect("bug: whole rows"))
}

/// The first `count` rows that were packed.
fn unpack(layer: &Dense, count: usize) -> Vec<f32> {
    (0..count).flat_map(|row| (0..layer.inputs()).map(move |at| layer.weight(row, at))).collect()
}

/// One row per class from one row per number of a vector.
fn transpose(weights: &Weights, width: usize, classes: usize) -> Vec<f32> {
    (0..classes).flat_map(|class| (0..width).map(move |at| weights.row(at)[class])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_score_by_regression_and_nearest_text() {
        let head = [1.0, 0.0, 0.0, 2.0];
        let texts = [0.6, 0.8, 1.0, 0.0, 0.0, -1.0];
        let embedding = Embedding::new(2, &head, &texts, vec![2, 3], 1.0);
        let mut products = Products::default();
        let both: Vec<Product<'_>> = embedding.multiply(&[0.8, 0.6, -1.0, 0.0], &mut products).collect();
        for (product, expected) in both
            .iter()
            .zip([[10.0 + 0.8 + 0.5 * 0.96, 20.0 + 1.2 - 0.5 * 0.6], [10.0 - 1.0 - 0.5 * 0.6, 20.0]])
        {
            let mut scores = [10.0, 20.0];
            embedding.score(*product, [1.0, 0.5], &mut scores);
            assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{scores:?}");
        }
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn fitted_vectors_find_their_class() {
        let mut vectors = Rows::default();
        let rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.8, 0.6, 0.0]];
        rows.iter().for_each(|row| vectors.push(&[0, 1, 2], row));
        let solver = Solver { c: 1.0, epochs: 20, seed: 1 };
        let embedding = Embedding::fit(&vectors, 3, &[2, 0, 1, 2], &[0, 1, 2, 3], 3, solver);
        assert_eq!(embedding.class_ends, [1, 2, 4]);
        for (row, class) in rows.iter().zip([2, 0, 1, 2]) {
            let (mut products, mut scores) = (Products::default(), [0.0; 3]);
            let product = embedding.multiply(row, &mut products).next().expect("one");
            embedding.score(product, [1.0, 1.0], &mut scores);
            assert!((0..3).all(|other| scores[other] <= scores[class]), "{scores:?}");
        }
    }
}
