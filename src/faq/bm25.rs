//! BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond") with one document per
//! class: all its texts together. It complements the discriminative weights: it needs one example to know a gram, and its
//! scores grow with the evidence. Scores of words, pairs and character grams are kept apart so that they can be weighed.

use super::features::Kind;
use super::logistic::Rows;

/// How soon further texts with the same gram stop counting. Chosen, like [`B`], by cross-validation: classes with many
/// texts must not win by their length.
const K1: f32 = 2.0;

/// How much long documents are discounted: in full.
const B: f32 = 1.0;

/// For every feature, the classes that have it and what it is worth to each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Postings {
    /// Where each feature's postings end.
    pub(super) ends: Vec<u32>,
    /// Class of each posting, rising within a feature.
    pub(super) classes: Vec<u16>,
    /// Score of each posting.
    pub(super) weights: Vec<f32>,
}

impl Postings {
    fn range(&self, feature: u32) -> std::ops::Range<usize> {
        let start = if feature == 0 { 0 } else { self.ends[feature as usize - 1] as usize };
        start..self.ends[feature as usize] as usize
    }

    /// Multiplies every score by the weight of its feature's kind.
    pub(super) fn scale(&mut self, kinds: &[Kind], weights: [f32; Kind::COUNT]) {
        for (feature, kind) in (0..).zip(kinds) {
            let range = self.range(feature);
            self.weights[range].iter_mut().for_each(|score| *score *= weights[*kind as usize]);
        }
    }

    /// Adds the scores of `part`, whose postings must all be here too.
    pub(super) fn add(&mut self, part: &Self) {
        for feature in 0..part.ends.len() as u32 {
            let (range, added) = (self.range(feature), part.range(feature));
            for (class, weight) in part.classes[added.clone()].iter().zip(&part.weights[added]) {
                let at = self.classes[range.clone()].binary_search(class);
                self.weights[range.start + at.expect("bug: a part's classes are the whole's too")] += weight;
            }
        }
    }

    /// Adds the score of one feature to every class that has it.
    #[inline(always)]
    pub(super) fn score(&self, feature: u32, scores: &mut [f32]) {
        let range = self.range(feature);
        for (class, weight) in self.classes[range.clone()].iter().zip(&self.weights[range]) {
            scores[usize::from(*class)] += weight;
        }
    }

    /// Indexes the rows named by `subset`. A gram's frequency in a class is the number of its texts that have the gram.
    pub(super) fn fit(rows: &Rows, labels: &[u32], subset: &[u32], kinds: &[Kind], classes: usize) -> Self {
        let counts = class_frequencies(rows, labels, subset);
        let norms = length_norms(&counts, kinds, classes);
        let mut postings = Self::default();
        let mut groups = counts.chunk_by(|a, b| a.feature == b.feature).peekable();
        for (feature, kind) in (0..).zip(kinds) {
            if let Some(group) = groups.next_if(|group| group[0].feature == feature) {
                let df = group.len() as f32;
                let idf = (1.0 + (classes as f32 - df + 0.5) / (df + 0.5)).ln();
                for Count { class, texts, .. } in group {
                    let tf = *texts as f32;
                    let norm = norms[*kind as usize][usize::from(*class)];
                    postings.classes.push(*class);
                    postings.weights.push(idf * tf * (K1 + 1.0) / (tf + K1 * norm));
                }
            }
            postings.ends.push(postings.classes.len() as u32);
        }
        postings
    }
}

/// Postings as a model reads them: features that many classes have carry a row of all classes besides, because adding a row
/// is less work than adding as many postings one by one. No file has the rows; they are at most [`Self::CLASSES_A_POSTING`]
/// floats for each posting.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) postings: Postings,
    /// By feature, which row it has, [`Self::NONE`] for those that keep to their postings.
    row: Vec<u32>,
    /// Row after row, a score for each class.
    rows: Vec<f32>,
}

impl Index {
    const NONE: u32 = u32::MAX;

    /// A row costs as much as one posting for about so many classes.
    const CLASSES_A_POSTING: usize = 8;

    pub(super) fn new(postings: Postings, classes: usize) -> Self {
        let (mut row, mut rows) = (Vec::with_capacity(postings.ends.len()), Vec::new());
        for feature in 0..postings.ends.len() as u32 {
            if postings.range(feature).len() * Self::CLASSES_A_POSTING <= classes {
                row.push(Self::NONE);
                continue;
            }
            let start = rows.len();
            row.push((start / classes) as u32);
            rows.resize(start + classes, 0.0);
            postings.score(feature, &mut rows[start..]);
        }
        Self { postings, row, rows }
    }

    /// Adds the score of one feature to all classes, of which there are `scores.len()`.
    #[inline(always)]
    pub(super) fn score(&self, feature: u32, scores: &mut [f32]) {
        match self.row[feature as usize] {
            Self::NONE => self.postings.score(feature, scores),
            row => {
                let row = &self.rows[row as usize * scores.len()..][..scores.len()];
                scores.iter_mut().zip(row).for_each(|(score, added)| *score += added);
            }
        }
    }
}

/// In how many texts of one class a feature occurs.
#[derive(Debug, Clone, Copy)]
struct Count {
    feature: u32,
    class: u16,
    texts: u32,
}

/// The non-zero counts, by feature, then class.
fn class_frequencies(rows: &Rows, labels: &[u32], subset: &[u32]) -> Vec<Count> {
    let mut pairs = Vec::new();
    for &row in subset {
        let class = labels[row as usize] as u16;
        pairs.extend(rows.row(row as usize).0.iter().map(|feature| (*feature, class)));
    }
    pairs.sort_unstable();
    let count =
        |group: &[(u32, u16)]| Count { feature: group[0].0, class: group[0].1, texts: group.len() as u32 };
    pairs.chunk_by(|a, b| a == b).map(count).collect()
}

/// `1 - b + b * length / mean length` of every class's document, for each kind of gram.
fn length_norms(counts: &[Count], kinds: &[Kind], classes: usize) -> Vec<Vec<f32>> {
    let mut lengths = vec![vec![0.0; classes]; Kind::COUNT];
    for count in counts {
        lengths[kinds[count.feature as usize] as usize][usize::from(count.class)] += count.texts as f32;
    }
    for lengths in &mut lengths {
        let mean = lengths.iter().sum::<f32>() / classes as f32;
        for length in lengths {
            *length = if mean > 0.0 { 1.0 - B + B * *length / mean } else { 1.0 };
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_follow_the_formula() {
        let mut rows = Rows::default();
        rows.push(&[0, 1], &[1.0; 2]);
        rows.push(&[0], &[1.0]);
        rows.push(&[0, 2], &[1.0; 2]);
        let postings = Postings::fit(&rows, &[0, 0, 1], &[0, 1, 2], &[Kind::Word; 4], 2);
        assert_eq!(postings.ends, [2, 3, 4, 4]);
        assert_eq!(postings.classes, [0, 1, 0, 1]);
        // Lengths 3 and 2, mean 2.5; feature 1 occurs once, in class 0 of 2.
        let expected = (1.0_f32 + 1.5 / 1.5).ln() * 3.0 / (1.0 + 2.0 * 3.0 / 2.5);
        assert!((postings.weights[2] - expected).abs() < 1e-6);
        let mut scores = [0.0; 2];
        postings.score(1, &mut scores);
        assert_eq!(scores, [postings.weights[2], 0.0]);
    }

    #[test]
    fn scaled_postings_add_up() {
        let mut rows = Rows::default();
        rows.push(&[0, 1], &[1.0; 2]);
        rows.push(&[1], &[1.0]);
        let kinds = [Kind::Word, Kind::Chars];
        let fit = |subset: &[u32]| Postings::fit(&rows, &[0, 1], subset, &kinds, 2);
        let (mut whole, part) = (fit(&[0, 1]), fit(&[1]));
        let before = whole.weights.clone();
        whole.scale(&kinds, [2.0, 5.0, 3.0]);
        whole.add(&part);
        assert_eq!(whole.weights, [2.0 * before[0], 3.0 * before[1], 3.0 * before[2] + part.weights[0]]);
    }

    #[test]
    fn an_index_scores_as_its_postings_do() {
        let classes = 40;
        let mut rows = Rows::default();
        for class in 0..classes as u32 {
            rows.push(&[0, 1 + class % 2, 3 + class], &[1.0; 3]);
        }
        let labels: Vec<u32> = (0..classes as u32).collect();
        let postings = Postings::fit(&rows, &labels, &labels, &[Kind::Word; 43], classes);
        let index = Index::new(postings.clone(), classes);
        for feature in 0..43 {
            assert_eq!(index.row[feature as usize] != Index::NONE, feature < 3, "{feature}");
            let mut scores = [vec![0.5; classes], vec![0.5; classes]];
            postings.score(feature, &mut scores[0]);
            index.score(feature, &mut scores[1]);
            assert_eq!(scores[0], scores[1], "{feature}");
        }
    }

    #[test]
    fn only_the_subset_is_indexed() {
        let mut rows = Rows::default();
        rows.push(&[0], &[1.0]);
        rows.push(&[1], &[1.0]);
        let postings = Postings::fit(&rows, &[0, 1], &[1], &[Kind::Chars; 2], 2);
        assert_eq!((postings.ends, postings.classes), (vec![0, 1], vec![1]));
    }
}
