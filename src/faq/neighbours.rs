//! Cosine with the nearest text of each class: an inverted index of the texts' heaviest grams. It complements the
//! scores that describe a class as a whole: one close wording is evidence, however different the others are.

use super::features::Features;
use super::logistic::Rows;

/// Grams kept of each text. Cross-validation sees no difference between this many and all of them, and the grams left
/// out are the common ones, whose postings cost the most time.
const HEAVIEST: usize = 64;

/// For every feature, the texts that have it among their heaviest.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Neighbours {
    /// Where each feature's postings end.
    pub(super) ends: Vec<u32>,
    /// Text of each posting, rising within a feature.
    pub(super) texts: Vec<u32>,
    /// The text's value of that feature.
    pub(super) values: Vec<f32>,
    /// Where each class's texts end: texts are numbered class by class.
    pub(super) class_ends: Vec<u32>,
}

impl Neighbours {
    /// Indexes the rows named by `subset`, whose classes are `labels[row] < classes`.
    pub(super) fn fit(rows: &Rows, labels: &[u32], subset: &[u32], features: usize, classes: usize) -> Self {
        let mut order = subset.to_vec();
        order.sort_by_key(|row| labels[*row as usize]);
        let mut postings = Vec::new();
        for (text, row) in (0..).zip(&order) {
            postings.extend(heaviest(rows.row(*row as usize)).map(|(feature, value)| (feature, text, value)));
        }
        postings.sort_unstable_by_key(|(feature, text, _)| (*feature, *text));
        let end_of = |class| order.partition_point(|row| labels[*row as usize] <= class) as u32;
        let mut ends = vec![0; features];
        for (end, (feature, ..)) in (1..).zip(&postings) {
            ends[*feature as usize] = end;
        }
        ends.iter_mut().fold(0, |before, end| {
            *end = before.max(*end);
            *end
        });
        Self {
            ends,
            texts: postings.iter().map(|posting| posting.1).collect(),
            values: postings.iter().map(|posting| posting.2).collect(),
            class_ends: (0..classes as u32).map(end_of).collect(),
        }
    }

    /// Adds to every class's score `weight` times the cosine of its nearest text. `cosines` is scratch space.
    #[inline(always)]
    pub(super) fn score(
        &self,
        features: Features<'_>,
        weight: f32,
        cosines: &mut Vec<f32>,
        scores: &mut [f32],
    ) {
        cosines.clear();
        cosines.resize(self.class_ends.last().map_or(0, |end| *end as usize), 0.0);
        let cosines = cosines.as_mut_slice();
        for (feature, value) in features.indices.iter().zip(features.values) {
            let feature = *feature as usize;
            let start = if feature == 0 { 0 } else { self.ends[feature - 1] as usize };
            let range = start..self.ends[feature] as usize;
            for (text, posting) in self.texts[range.clone()].iter().zip(&self.values[range]) {
                cosines[*text as usize] += value * posting;
            }
        }
        let mut start = 0;
        for (score, end) in scores.iter_mut().zip(&self.class_ends) {
            let end = *end as usize;
            *score += weight * cosines[start..end].iter().copied().fold(0.0, f32::max);
            start = end;
        }
    }
}

/// The features of greatest value, ties by index.
fn heaviest((features, values): (&[u32], &[f32])) -> impl Iterator<Item = (u32, f32)> {
    let mut row: Vec<(u32, f32)> = features.iter().copied().zip(values.iter().copied()).collect();
    row.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    row.truncate(HEAVIEST);
    row.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let mut rows = Rows::default();
        rows.push(&[0, 2], &[0.6, 0.8]);
        rows.push(&[2], &[1.0]);
        rows.push(&[0, 1], &[0.8, 0.6]);
        rows
    }

    #[test]
    fn each_class_scores_by_its_nearest_text() {
        let neighbours = Neighbours::fit(&rows(), &[1, 0, 1], &[0, 1, 2], 4, 3);
        assert_eq!(neighbours.class_ends, [1, 3, 3]);
        assert_eq!(neighbours.ends, [2, 3, 5, 5]);
        let features = Features { indices: &[0, 2, 3], values: &[0.6, 0.64, 0.48] };
        let (mut cosines, mut scores) = (Vec::new(), [1.0; 3]);
        for _ in 0..2 {
            neighbours.score(features, 0.5, &mut cosines, &mut scores);
        }
        let expected = [1.0 + 0.64, 1.0 + 0.6 * 0.6 + 0.64 * 0.8, 1.0];
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{scores:?}");
    }

    #[test]
    fn only_the_heaviest_grams_of_the_subset_are_indexed() {
        let features: Vec<u32> = (0..100).collect();
        let values: Vec<f32> = features.iter().map(|feature| *feature as f32).collect();
        let mut rows = rows();
        rows.push(&features, &values);
        let neighbours = Neighbours::fit(&rows, &[0; 4], &[3], 100, 1);
        assert_eq!(neighbours.texts, [0; HEAVIEST]);
        assert_eq!(neighbours.values, values[100 - HEAVIEST..]);
        assert_eq!(neighbours.ends[100 - HEAVIEST], 1);
    }
}
