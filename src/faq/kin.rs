//! Lends a little of each class's probability to the classes that resemble it most. Where a question shares no gram with
//! its original, its domain still shows in the classes it does resemble; without the loan any of them may stand above
//! its kin. It owns who resembles whom and the arithmetic of the loan.

use super::features::Kind;
use super::logistic::Rows;

/// Share of a probability that is lent. Cross-validation improves from nothing to this and falls from twice this on.
const LENT: f32 = 0.01;

/// Below this nothing is lent: it would change nothing.
const MIN_LENDER: f32 = 1e-3;

/// Kin kept of each class.
const KIN: usize = 16;

/// Kin share a loan by this power of the cosine between the classes' words.
const POWER: i32 = 8;

/// For every class its nearest kin and what each gets of a loan.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kinship {
    /// Where each class's kin end.
    pub(super) ends: Vec<u32>,
    /// The kin, rising within a class.
    pub(super) classes: Vec<u16>,
    /// Their shares, which sum to one within a class.
    pub(super) shares: Vec<f32>,
}

impl Kinship {
    /// Compares the classes by the words of all their texts.
    pub(super) fn fit(rows: &Rows, labels: &[u32], kinds: &[Kind], classes: usize) -> Self {
        let centroids = centroids(rows, labels, kinds, classes);
        let by_feature = transpose(&centroids, kinds.len());
        let mut kinship = Self::default();
        let mut cosines = vec![0.0; classes];
        for (class, centroid) in centroids.iter().enumerate() {
            cosines.fill(0.0);
            for (feature, value) in centroid {
                for (other, posting) in &by_feature[*feature as usize] {
                    cosines[usize::from(*other)] += value * posting;
                }
            }
            cosines[class] = 0.0;
            kinship.push(&cosines);
        }
        kinship
    }

    fn push(&mut self, cosines: &[f32]) {
        let mut kin: Vec<(u16, f32)> = (0..).zip(cosines.iter().map(|cosine| cosine.powi(POWER))).collect();
        kin.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        kin.truncate(KIN);
        let sum: f32 = kin.iter().map(|(_, share)| share).sum();
        kin.retain(|(_, share)| *share > 0.0 && sum > f32::MIN_POSITIVE);
        kin.sort_unstable_by_key(|(class, _)| *class);
        self.classes.extend(kin.iter().map(|(class, _)| class));
        self.shares.extend(kin.iter().map(|(_, share)| share / sum));
        self.ends.push(self.classes.len() as u32);
    }

    /// Moves [`LENT`] of every probability of some size to the class's kin. The sum stays what it was.
    pub(super) fn lend(&self, probabilities: &mut [f32], before: &mut Vec<f32>) {
        before.clear();
        before.extend_from_slice(probabilities);
        let mut start = 0;
        for (class, end) in self.ends.iter().enumerate() {
            let range = start..*end as usize;
            start = range.end;
            if before[class] >= MIN_LENDER && !range.is_empty() {
                let loan = LENT * before[class];
                probabilities[class] -= loan;
                for (kin, share) in self.classes[range.clone()].iter().zip(&self.shares[range]) {
                    probabilities[usize::from(*kin)] += loan * share;
                }
            }
        }
    }
}

/// The mean direction of each class's texts, words only, of length one; by feature.
fn centroids(rows: &Rows, labels: &[u32], kinds: &[Kind], classes: usize) -> Vec<Vec<(u32, f32)>> {
    let mut sums = vec![Vec::new(); classes];
    for (row, label) in labels.iter().enumerate() {
        let (features, values) = rows.row(row);
        let words = features.iter().copied().zip(values.iter().copied());
        let words = words.filter(|(feature, _)| kinds[*feature as usize] == Kind::Word);
        sums[*label as usize].extend(scaled_to_one(words.collect()));
    }
    sums.into_iter().map(|sum| scaled_to_one(merge(sum))).collect()
}

/// Adds the values of equal features.
fn merge(mut values: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    values.sort_by_key(|(feature, _)| *feature);
    let groups = values.chunk_by(|a, b| a.0 == b.0);
    groups.map(|group| (group[0].0, group.iter().map(|(_, value)| value).sum())).collect()
}

fn scaled_to_one(mut values: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    let length = values.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
    values.iter_mut().for_each(|(_, value)| *value /= length);
    values
}

/// For every feature the classes that have it.
fn transpose(centroids: &[Vec<(u32, f32)>], features: usize) -> Vec<Vec<(u16, f32)>> {
    let mut by_feature = vec![Vec::new(); features];
    for (class, centroid) in (0..).zip(centroids) {
        for (feature, value) in centroid {
            by_feature[*feature as usize].push((class, *value));
        }
    }
    by_feature
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinship() -> Kinship {
        // Classes 0 and 1 share feature 0, classes 1 and 2 feature 1 more strongly; class 3 stands alone.
        let mut rows = Rows::default();
        rows.push(&[0, 4], &[0.6, 0.8]);
        rows.push(&[0, 1], &[0.6, 0.8]);
        rows.push(&[1], &[1.0]);
        rows.push(&[3], &[1.0]);
        Kinship::fit(&rows, &[0, 1, 2, 3], &[Kind::Word; 5], 4)
    }

    #[test]
    fn kin_share_by_resemblance() {
        let kinship = kinship();
        assert_eq!(kinship.ends, [1, 3, 4, 4]);
        assert_eq!(kinship.classes, [1, 0, 2, 1]);
        let (first, second) = (0.36_f32.powi(POWER), 0.8_f32.powi(POWER));
        assert!((kinship.shares[1] - first / (first + second)).abs() < 1e-6);
        assert_eq!(kinship.shares[3], 1.0);
    }

    #[test]
    fn a_loan_keeps_the_sum() {
        let mut probabilities = [0.0, 0.0005, 0.9, 0.0995];
        kinship().lend(&mut probabilities, &mut Vec::new());
        let expected = [0.0, 0.0005 + 0.009, 0.891, 0.0995];
        assert!(probabilities.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{probabilities:?}");
    }

    #[test]
    fn character_grams_make_no_kin() {
        let mut rows = Rows::default();
        rows.push(&[0], &[1.0]);
        rows.push(&[0], &[1.0]);
        let kinship = Kinship::fit(&rows, &[0, 1], &[Kind::Chars], 2);
        assert_eq!((kinship.ends, kinship.classes), (vec![0, 0], vec![]));
    }
}
