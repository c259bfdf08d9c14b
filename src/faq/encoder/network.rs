//! The BERT encoder (Devlin et al. 2019) on packed weights: token numbers of several texts to one vector each. It owns the
//! arithmetic and the working memory; files and words are `encoder`'s.
//!
//! The tokens of a batch stand one after the other without padding: products run over all of them, attention over each
//! text alone. So a batch costs what its tokens cost, and each weight is read from memory once for the whole batch.

use kernels::int8::Rows;
use pulp::NullaryFnOnce;

use super::elementwise::{Norm, Simd, add_and_normalise, exp, gelu, sum};
use super::linear::Linear;

/// Width of an attention head; every encoder of this family has it.
pub(super) const HEAD: usize = 32;

/// An encoder.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) simd: Simd,
    /// Width of a token's vector.
    pub(super) width: usize,
    /// One row per token of the vocabulary.
    pub(super) words: Vec<f32>,
    /// One row per position, the vector of the first sentence added.
    pub(super) positions: Vec<f32>,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
}

/// One transformer layer.
#[derive(Debug)]
pub(super) struct Layer {
    /// Query, key and value, one after the other; the query scaled by the root of [`HEAD`].
    pub(super) attention: Linear,
    pub(super) attention_out: Linear,
    pub(super) attention_norm: Norm,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) norm: Norm,
}

/// Working memory of one thread.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    rows: Vec<f32>,
    mixed: Vec<f32>,
    wide: Vec<f32>,
    keys: Vec<f32>,
    scores: Vec<f32>,
    rounded: Rows,
}

impl Network {
    /// How many tokens it knows.
    pub(super) fn vocabulary(&self) -> usize {
        self.words.len() / self.width
    }

    /// Appends the vector of every text to `out`: the mean of its tokens', brought to length one. Texts have at least one
    /// token and at most one per position, each below [`Self::vocabulary`].
    pub(super) fn embed(&self, texts: &[&[u32]], space: &mut Workspace, out: &mut Vec<f32>) {
        self.look_up(texts, &mut space.rows);
        for layer in &self.layers {
            self.attend(layer, texts, space);
            let Workspace { rows, mixed, wide, rounded, .. } = &mut *space;
            layer.attention_out.apply(mixed, rounded, wide);
            add_and_normalise(self.simd, rows, wide, &layer.attention_norm);
            layer.up.apply(rows, rounded, wide);
            gelu(self.simd, wide);
            layer.down.apply(wide, rounded, mixed);
            add_and_normalise(self.simd, rows, mixed, &layer.norm);
        }
        self.pool(texts, &space.rows, out);
    }

    /// The sum of each token's vector and its position's, normalised.
    fn look_up(&self, texts: &[&[u32]], rows: &mut Vec<f32>) {
        rows.clear();
        let mut positions = Vec::new();
        for text in texts {
            for token in *text {
                rows.extend_from_slice(&self.words[*token as usize * self.width..][..self.width]);
            }
            positions.extend_from_slice(&self.positions[..text.len() * self.width]);
        }
        add_and_normalise(self.simd, rows, &positions, &self.norm);
    }

    /// Leaves in `space.mixed`, for every token, each head's values weighed by their attention.
    fn attend(&self, layer: &Layer, texts: &[&[u32]], space: &mut Workspace) {
        let Workspace { rows, mixed, wide, keys, scores, rounded } = space;
        layer.attention.apply(rows, rounded, wide);
        mixed.clear();
        mixed.resize(rows.len(), 0.0);
        let mut first = 0;
        for text in texts {
            let tokens = first..first + text.len();
            first = tokens.end;
            let inputs = &wide[tokens.start * 3 * self.width..tokens.end * 3 * self.width];
            let mixed = &mut mixed[tokens.start * self.width..tokens.end * self.width];
            self.simd.run(Attend { inputs, width: self.width, keys, scores, mixed });
        }
    }

    fn pool(&self, texts: &[&[u32]], rows: &[f32], out: &mut Vec<f32>) {
        let mut first = 0;
        for text in texts {
            let tokens = &rows[first * self.width..][..text.len() * self.width];
            first += text.len();
            let start = out.len();
            out.resize(start + self.width, 0.0);
            let mean = &mut out[start..];
            for token in tokens.chunks_exact(self.width) {
                mean.iter_mut().zip(token).for_each(|(mean, value)| *mean += value);
            }
            let length = sum(mean, |value| value * value).sqrt().max(1e-12);
            mean.iter_mut().for_each(|value| *value /= length);
        }
    }
}

/// All heads of one text.
struct Attend<'a> {
    inputs: &'a [f32],
    width: usize,
    keys: &'a mut Vec<f32>,
    scores: &'a mut Vec<f32>,
    mixed: &'a mut [f32],
}

impl NullaryFnOnce for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { inputs, width, keys, scores, mixed } = self;
        for head in 0..width / HEAD {
            attend_head(inputs, width, head * HEAD, keys, scores, mixed);
        }
    }
}

/// One head of one text. `inputs` has a row of query, key and value per token, `mixed` one of all heads; `at` is where the
/// head's columns start. `keys` and `scores` are scratch space.
#[inline(always)]
fn attend_head(
    inputs: &[f32],
    width: usize,
    at: usize,
    keys: &mut Vec<f32>,
    scores: &mut Vec<f32>,
    mixed: &mut [f32],
) {
    let tokens = inputs.len() / (3 * width);
    let column = |token: usize, part: usize| -> &[f32; HEAD] {
        inputs[(3 * token + part) * width + at..].first_chunk().expect("bug: heads divide the width")
    };
    // Keys feature by feature, so that a query's products with all of them run along memory.
    keys.clear();
    for feature in 0..HEAD {
        keys.extend((0..tokens).map(|token| column(token, 1)[feature]));
    }
    scores.resize(tokens, 0.0);
    for token in 0..tokens {
        scores.fill(0.0);
        for (query, keys) in column(token, 0).iter().zip(keys.chunks_exact(tokens)) {
            scores.iter_mut().zip(keys).for_each(|(score, key)| *score += query * key);
        }
        let total = exponentials(scores);
        let mut value = [0.0; HEAD];
        for (other, score) in scores.iter().enumerate() {
            value.iter_mut().zip(column(other, 2)).for_each(|(sum, value)| *sum += score * value);
        }
        for (out, value) in mixed[token * width + at..][..HEAD].iter_mut().zip(value) {
            *out = value / total;
        }
    }
}

/// Replaces scores by their exponentials relative to the largest, and adds them up.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = exp(*score - largest));
    sum(scores, |score| score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::int8::{Dense, Isa};

    const WIDTH: usize = 2 * HEAD;
    const WIDE: usize = 3 * HEAD;

    /// A network of seeded weights.
    fn network(isa: Isa, simd: Simd) -> Network {
        let mut state = 3_u32;
        let mut numbers = |count: usize, shift: f32| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                shift + 0.3 * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
            };
            (0..count).map(|_| next()).collect()
        };
        let norm = || Norm { scale: vec![1.1; WIDTH], shift: vec![0.1; WIDTH], epsilon: 1e-12 };
        let mut linear = |inputs: usize, outputs: usize| {
            let (weight, bias) = (numbers(inputs * outputs, 0.0), numbers(outputs, 0.1));
            Linear::Int8(Dense::pack(&weight, &bias, inputs).expect("lengths agree").with(isa))
        };
        let mut layer = || Layer {
            attention: linear(WIDTH, 3 * WIDTH),
            attention_out: linear(WIDTH, WIDTH),
            attention_norm: norm(),
            up: linear(WIDTH, WIDE),
            down: linear(WIDE, WIDTH),
            norm: norm(),
        };
        let layers = vec![layer(), layer()];
        let (words, positions) = (numbers(50 * WIDTH, 0.0), numbers(40 * WIDTH, 0.0));
        Network { simd, width: WIDTH, words, positions, norm: norm(), layers }
    }

    #[test]
    fn a_vector_is_the_same_to_the_last_bit_whatever_the_instructions() {
        let text = |length: u32| -> Vec<u32> { (0..length).map(|at| at * 17 % 50).collect() };
        let texts: Vec<Vec<u32>> = [1, 2, 15, 17, 40].map(text).into();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let embed = |isa, simd| -> Vec<u32> {
            let mut out = Vec::new();
            network(isa, simd).embed(&texts, &mut Workspace::default(), &mut out);
            out.into_iter().map(f32::to_bits).collect()
        };
        let plain = embed(Isa::PORTABLE, Simd::PLAIN);
        for isa in Isa::available() {
            assert!(embed(isa, Simd::detect()) == plain, "{}", isa.name());
        }
    }
}
