//! The two passes with AVX2, exact to the last bit.
//!
//! `pmaddwd` multiplies 16-bit pairs, weights have more bits, so each weight is split as `high * 2^15 + low` with
//! `low` in `0..2^15`; both halves fit a signed word. The partial sums may wrap, the recombined sum is right modulo
//! 2^32 and the true sum fits 32 bits ([`super::super::geometry::WEIGHT_BITS`] leaves that room).
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{Axis, CHANNELS, HALF, Passes, Rows, WEIGHT_BITS, portable};
use crate::geometry::Span;

const LOW_BITS: i32 = 15;

/// Rows that share one preparation of the weights in the horizontal pass.
const GROUP: usize = 4;

/// Bytes that one load of four RGB pixels touches; the last four are not used.
const LOAD: usize = 16;

/// Bytes that one step of the vertical pass covers.
const BLOCK: usize = 32;

/// This implementation, where the CPU has AVX2.
pub(super) fn passes() -> Option<Passes> {
    is_x86_feature_detected!("avx2").then_some(Passes { horizontal, vertical })
}

fn horizontal(columns: &Axis, input: Rows, out: &mut [u8]) {
    // SAFETY: only reachable through `passes`, which has seen AVX2.
    unsafe { horizontal_avx2(columns, input, out) }
}

fn vertical(rows: &Axis, input: Rows, out_row: usize, out: &mut [u8]) {
    // SAFETY: only reachable through `passes`, which has seen AVX2.
    unsafe { vertical_avx2(rows, input, out_row, out) }
}

#[target_feature(enable = "avx2")]
fn horizontal_avx2(columns: &Axis, input: Rows, out: &mut [u8]) {
    let out_row = columns.spans().len() * CHANNELS;
    for (group, out) in out.chunks_mut(out_row * GROUP).enumerate() {
        let input = input.from(group * GROUP);
        if out.len() == out_row * GROUP {
            horizontal_rows::<GROUP>(columns, input, out);
        } else {
            for (row, out) in out.chunks_exact_mut(out_row).enumerate() {
                horizontal_rows::<1>(columns, input.from(row), out);
            }
        }
    }
}

/// The first `N` rows of `input`.
///
/// Loads run up to three zero-weighted taps and four bytes past a span. Inside the picture that is harmless; from
/// the first column whose loads would leave it (in the last row, near its end), columns go the portable way.
#[target_feature(enable = "avx2")]
fn horizontal_rows<const N: usize>(columns: &Axis, input: Rows, out: &mut [u8]) {
    let out_row = columns.spans().len() * CHANNELS;
    let first = columns.source().start;
    let readable = input.from(N - 1).bytes.len();
    let at = |span: Span| (span.first - first) as usize * CHANNELS;
    let padded = |span: Span| (span.len as usize).next_multiple_of(4);
    let fits = |span: Span| at(span) + padded(span) * CHANNELS + (LOAD - 4 * CHANNELS) <= readable;
    let safe = columns.spans().iter().take_while(|&&span| fits(span)).count();
    for (column, (span, weights)) in columns.rows().take(safe).enumerate() {
        let mut sums = [Sums::zero(); N];
        for (step, weights) in weights[..padded(span)].as_chunks::<4>().0.iter().enumerate() {
            let weights = pairs_of_four(weights);
            for (row, sums) in sums.iter_mut().enumerate() {
                let pixels = &input.bytes[row * input.stride + at(span) + step * 4 * CHANNELS..];
                sums.add(four_pixels(pixels), weights);
            }
        }
        for (sums, out) in sums.iter().zip(out.chunks_exact_mut(out_row)) {
            out[column * CHANNELS..][..CHANNELS].copy_from_slice(&rgb(sums.total())[..CHANNELS]);
        }
    }
    for (row, out) in out.chunks_exact_mut(out_row).enumerate() {
        portable::horizontal_row(columns, safe, input.from(row).bytes, out);
    }
}

/// A weight's halves as words, in pairs of neighbouring taps.
#[derive(Clone, Copy)]
struct Pairs {
    low: __m256i,
    high: __m256i,
}

/// Sums of products with the low and the high halves of the weights.
#[derive(Clone, Copy)]
struct Sums {
    low: __m256i,
    high: __m256i,
}

impl Sums {
    #[target_feature(enable = "avx2")]
    fn zero() -> Self {
        Self { low: _mm256_setzero_si256(), high: _mm256_setzero_si256() }
    }

    /// Adds `values[2i] * weights[2i] + values[2i + 1] * weights[2i + 1]` to every 32-bit lane `i`.
    #[target_feature(enable = "avx2")]
    fn add(&mut self, values: __m256i, weights: Pairs) {
        self.low = _mm256_add_epi32(self.low, _mm256_madd_epi16(values, weights.low));
        self.high = _mm256_add_epi32(self.high, _mm256_madd_epi16(values, weights.high));
    }

    /// The recombined sums; neither rounded nor shifted yet.
    #[target_feature(enable = "avx2")]
    fn total(self) -> __m256i {
        _mm256_add_epi32(_mm256_slli_epi32::<LOW_BITS>(self.high), self.low)
    }
}

/// Four taps for lanes of red, green and blue: words `(w0, w1)` four times, then `(w2, w3)` four times.
#[target_feature(enable = "avx2")]
fn pairs_of_four(weights: &[i32; 4]) -> Pairs {
    let spread = _mm256_setr_epi8(
        0, 1, 4, 5, 0, 1, 4, 5, 0, 1, 4, 5, 0, 1, 4, 5, 8, 9, 12, 13, 8, 9, 12, 13, 8, 9, 12, 13, 8, 9, 12,
        13,
    );
    let [a, b, c, d] = *weights;
    let weights = _mm256_broadcastsi128_si256(_mm_setr_epi32(a, b, c, d));
    let low = _mm256_and_si256(weights, _mm256_set1_epi32((1 << LOW_BITS) - 1));
    let high = _mm256_srai_epi32::<LOW_BITS>(weights);
    Pairs { low: _mm256_shuffle_epi8(low, spread), high: _mm256_shuffle_epi8(high, spread) }
}

/// Two taps, each for a whole vector: words `(w0, w1)` eight times.
#[target_feature(enable = "avx2")]
fn pair(w0: i32, w1: i32) -> Pairs {
    let words = |a: i32, b: i32| _mm256_set1_epi32((a & 0xffff) | (b << 16));
    let mask = (1 << LOW_BITS) - 1;
    Pairs { low: words(w0 & mask, w1 & mask), high: words(w0 >> LOW_BITS, w1 >> LOW_BITS) }
}

/// The first four RGB pixels as words `r0 r1 g0 g1 b0 b1 0 0 r2 r3 g2 g3 b2 b3 0 0`.
#[target_feature(enable = "avx2")]
fn four_pixels(src: &[u8]) -> __m256i {
    const Z: i8 = -1;
    let spread = _mm256_setr_epi8(
        0, Z, 3, Z, 1, Z, 4, Z, 2, Z, 5, Z, Z, Z, Z, Z, 6, Z, 9, Z, 7, Z, 10, Z, 8, Z, 11, Z, Z, Z, Z, Z,
    );
    let bytes = src.first_chunk::<LOAD>().expect("bug: a load outside the picture");
    // SAFETY: `bytes` is 16 readable bytes and the load needs no alignment.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), spread)
}

/// Adds the two halves of four-tap sums, rounds and clips; the fourth byte is meaningless.
#[target_feature(enable = "avx2")]
fn rgb(total: __m256i) -> [u8; 4] {
    let sum = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
    let level = _mm_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm_add_epi32(sum, _mm_set1_epi32(HALF)));
    let words = _mm_packs_epi32(level, level);
    _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes()
}

#[target_feature(enable = "avx2")]
fn vertical_avx2(rows: &Axis, input: Rows, out_row: usize, out: &mut [u8]) {
    let first = rows.source().start;
    let mut last = [0; BLOCK];
    for ((span, weights), out) in rows.rows().zip(out.chunks_exact_mut(out_row)) {
        let input = input.from((span.first - first) as usize);
        let weights = &weights[..(span.len as usize).next_multiple_of(2)];
        let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
        let done = blocks.len() * BLOCK;
        for (at, block) in (0..).step_by(BLOCK).zip(blocks) {
            vertical_block(span, weights, input, at, block);
        }
        match out_row.checked_sub(BLOCK) {
            _ if rest.is_empty() => {}
            Some(at) => {
                vertical_block(span, weights, input, at, &mut last);
                rest.copy_from_slice(&last[done - at..]);
            }
            None => narrow(span, weights, input, rest),
        }
    }
}

/// 32 bytes of one output row, made of those from byte `at` of the first `span.len` rows of `input`.
#[target_feature(enable = "avx2")]
fn vertical_block(span: Span, weights: &[i32], input: Rows, at: usize, out: &mut [u8; BLOCK]) {
    let mut sums = [Sums::zero(); 4];
    for (tap, &[w0, w1]) in (0..).step_by(2).zip(weights.as_chunks::<2>().0) {
        // Past an odd end the weight is zero and any row will do.
        let next = (tap + 1).min(span.len as usize - 1);
        let upper = load(&input.bytes[tap * input.stride + at..]);
        let lower = load(&input.bytes[next * input.stride + at..]);
        for (sums, values) in sums.iter_mut().zip(interleave(upper, lower)) {
            sums.add(values, pair(w0, w1));
        }
    }
    let [a, b, c, d] = sums.map(|sums| level(sums.total()));
    let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    // SAFETY: `out` is 32 writable bytes and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) }
}

/// Pairs of words `(upper[i], lower[i])`, in the order that two rounds of lane-wise packing undo.
#[target_feature(enable = "avx2")]
fn interleave(upper: __m256i, lower: __m256i) -> [__m256i; 4] {
    let zero = _mm256_setzero_si256();
    let (front, back) = (_mm256_unpacklo_epi8(upper, lower), _mm256_unpackhi_epi8(upper, lower));
    [
        _mm256_unpacklo_epi8(front, zero),
        _mm256_unpackhi_epi8(front, zero),
        _mm256_unpacklo_epi8(back, zero),
        _mm256_unpackhi_epi8(back, zero),
    ]
}

#[target_feature(enable = "avx2")]
fn load(src: &[u8]) -> __m256i {
    let bytes = src.first_chunk::<BLOCK>().expect("bug: a load outside the rows");
    // SAFETY: `bytes` is 32 readable bytes and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn level(total: __m256i) -> __m256i {
    _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm256_add_epi32(total, _mm256_set1_epi32(HALF)))
}

/// One output row narrower than a block.
fn narrow(span: Span, weights: &[i32], input: Rows, out: &mut [u8]) {
    for (at, byte) in out.iter_mut().enumerate() {
        let column = (0..span.len as usize).map(|tap| input.bytes[tap * input.stride + at]);
        *byte = super::clip(column.zip(weights).fold(HALF, |sum, (v, &w)| sum + i32::from(v) * w));
    }
}
