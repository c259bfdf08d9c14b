//! The inner loop in vector registers, written once over [`Sums`] and compiled for each instruction set: up to 4 rows in
//! eight of AVX2's 16 registers, 6 in twelve of them with dot products, 12 in twelve of AVX-512's 32.
//!
//! At 12 rows a Zen 4 issues one dot product of 512 bits a cycle, which is all it can: tiles of more rows, of two panels or
//! with weights fetched ahead measured the same.

use std::arch::x86_64::*;

use super::{LANES, Line, MicroKernels, OFFSET, Panel, Tile, TileFn, TileRows, Wide};

/// Compiles the kernel for `$features` and `$sums` for each count of rows.
macro_rules! tiles {
    ($features:literal, $sums:ty, $($rows:literal)*) => {{
        #[target_feature(enable = $features)]
        fn compiled<const N: usize>(t: Tile<'_>) {
            tile::<$sums, N>(t);
        }
        unsafe fn entry<const N: usize>(t: Tile<'_>) {
            // SAFETY: the caller vouches for the CPU.
            unsafe { compiled::<N>(t) }
        }
        const TILES: &[TileFn] = &[$(entry::<$rows>),*];
        TILES
    }};
}

/// Only for CPUs that have AVX2.
pub(super) const AVX2: MicroKernels = MicroKernels { tiles: tiles!("avx2", Words, 1 2 3 4) };

/// Only for CPUs that have AVX-VNNI too.
pub(super) const AVX_VNNI: MicroKernels =
    MicroKernels { tiles: tiles!("avx2,avxvnni", [__m256i; 2], 1 2 3 4 5 6) };

/// Only for CPUs that have AVX-512 and its VNNI.
pub(super) const AVX512_VNNI: MicroKernels =
    MicroKernels { tiles: tiles!("avx2,avx512f,avx512vnni", __m512i, 1 2 3 4 5 6 7 8 9 10 11 12) };

#[inline(always)]
fn tile<S: Sums, const N: usize>(tile: Tile<'_>) {
    let mut sums = [S::zero(); N];
    for (quads, line) in S::quads(tile.rows).as_chunks::<N>().0.iter().zip(tile.lines) {
        let weights = S::load(line);
        for (sums, quad) in sums.iter_mut().zip(quads) {
            *sums = sums.add_products(weights, quad);
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        let out =
            tile.out[row * tile.out_step..].first_chunk_mut().expect("bug: no room for a row's results");
        sums.finish(OFFSET * tile.rows.sums[row], tile.rows.units[row], tile.panel, out);
    }
}

/// The sums of a row, one for each of a panel's outputs.
///
/// # Safety
/// The CPU has the instructions of the implementation: methods may only be called from functions compiled for them.
unsafe trait Sums: Copy {
    /// A line of weights as the products need it.
    type Weights: Copy;
    /// Four numbers of a row as the products need them.
    type Quad: Copy;
    /// Those of a tile.
    fn quads(rows: TileRows<'_>) -> &[Self::Quad];
    fn zero() -> Self;
    fn load(line: &Line) -> Self::Weights;
    /// Adds to each output's sum the products of its four weights with the four numbers of `quad`.
    fn add_products(self, weights: Self::Weights, quad: &Self::Quad) -> Self;
    /// `(sum - offset) * (unit * output unit) + bias`.
    fn finish(self, offset: i32, unit: f32, panel: &Panel, out: &mut [f32; LANES]);
}

// SAFETY: the set of `Isa` that leads here is made only where the CPU has AVX-512 and VNNI; that is also why every intrinsic
// below may be called.
unsafe impl Sums for __m512i {
    type Weights = __m512i;
    type Quad = i32;

    #[inline(always)]
    fn quads(rows: TileRows<'_>) -> &[i32] {
        rows.quads
    }

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: see the impl.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn load(line: &Line) -> __m512i {
        // SAFETY: see the impl; a line is 64 bytes.
        unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add_products(self, weights: __m512i, quad: &i32) -> Self {
        // SAFETY: see the impl.
        unsafe { _mm512_dpbusd_epi32(self, weights, _mm512_set1_epi32(*quad)) }
    }

    #[inline(always)]
    fn finish(self, offset: i32, unit: f32, panel: &Panel, out: &mut [f32; LANES]) {
        // SAFETY: see the impl; units, bias and results are `LANES` floats each.
        unsafe {
            let units = _mm512_mul_ps(_mm512_set1_ps(unit), _mm512_loadu_ps(panel.units.as_ptr()));
            let sums = _mm512_cvtepi32_ps(_mm512_sub_epi32(self, _mm512_set1_epi32(offset)));
            let results = _mm512_add_ps(_mm512_mul_ps(sums, units), _mm512_loadu_ps(panel.bias.as_ptr()));
            _mm512_storeu_ps(out.as_mut_ptr(), results);
        }
    }
}

/// Eight sums of 32 bits in each of two registers.
type Halves = [__m256i; 2];

// SAFETY: the set of `Isa` that leads here is made only where the CPU has AVX2 and AVX-VNNI; that is also why every intrinsic
// below may be called.
unsafe impl Sums for Halves {
    type Weights = Halves;
    type Quad = i32;

    #[inline(always)]
    fn quads(rows: TileRows<'_>) -> &[i32] {
        rows.quads
    }

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: see the impl.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn load(line: &Line) -> Halves {
        // SAFETY: see the impl.
        unsafe { load_halves(line) }
    }

    #[inline(always)]
    fn add_products(self, weights: Halves, quad: &i32) -> Self {
        // SAFETY: see the impl.
        unsafe {
            let quad = _mm256_set1_epi32(*quad);
            let [low, high] = self;
            [_mm256_dpbusd_avx_epi32(low, weights[0], quad), _mm256_dpbusd_avx_epi32(high, weights[1], quad)]
        }
    }

    #[inline(always)]
    fn finish(self, offset: i32, unit: f32, panel: &Panel, out: &mut [f32; LANES]) {
        // SAFETY: see the impl.
        unsafe { finish_halves(self, offset, unit, panel, out) }
    }
}

/// Sums without dot products: weights are widened to 16 bits, the even ones in one register and the odd ones in another, as
/// the rows' numbers are since they were rounded: widening them here would be three instructions beside each four products.
/// Two products of 8 bits and 9 add up to less than 2^17, so nothing saturates.
#[derive(Clone, Copy)]
struct Words(Halves);

// SAFETY: the set of `Isa` that leads here is made only where the CPU has AVX2; that is also why every intrinsic below may be
// called.
unsafe impl Sums for Words {
    type Weights = [[__m256i; 2]; 2];
    type Quad = Wide;

    #[inline(always)]
    fn quads(rows: TileRows<'_>) -> &[Wide] {
        rows.wide
    }

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: see the impl.
        unsafe { Self([_mm256_setzero_si256(); 2]) }
    }

    #[inline(always)]
    fn load(line: &Line) -> [[__m256i; 2]; 2] {
        // SAFETY: see the impl.
        unsafe {
            load_halves(line).map(|bytes| {
                let even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
                [even, _mm256_srli_epi16::<8>(bytes)]
            })
        }
    }

    #[inline(always)]
    fn add_products(self, weights: [[__m256i; 2]; 2], quad: &Wide) -> Self {
        // SAFETY: see the impl.
        unsafe {
            let [even, odd] = [_mm256_set1_epi32(quad[0]), _mm256_set1_epi32(quad[1])];
            let add = |sums: __m256i, weights: [__m256i; 2]| {
                let evens = _mm256_add_epi32(sums, _mm256_madd_epi16(weights[0], even));
                _mm256_add_epi32(evens, _mm256_madd_epi16(weights[1], odd))
            };
            Self([add(self.0[0], weights[0]), add(self.0[1], weights[1])])
        }
    }

    #[inline(always)]
    fn finish(self, offset: i32, unit: f32, panel: &Panel, out: &mut [f32; LANES]) {
        // SAFETY: see the impl.
        unsafe { finish_halves(self.0, offset, unit, panel, out) }
    }
}

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn load_halves(line: &Line) -> Halves {
    let from = line.0.as_ptr();
    // SAFETY: the caller's promise; a line is twice 32 bytes.
    unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
}

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn finish_halves(sums: Halves, offset: i32, unit: f32, panel: &Panel, out: &mut [f32; LANES]) {
    for (half, sums) in sums.into_iter().enumerate() {
        let at = half * LANES / 2;
        // SAFETY: the caller's promise; units, bias and results are `LANES` floats each, of which this is one half.
        unsafe {
            let units = _mm256_mul_ps(_mm256_set1_ps(unit), _mm256_loadu_ps(panel.units.as_ptr().add(at)));
            let sums = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(offset)));
            let bias = _mm256_loadu_ps(panel.bias.as_ptr().add(at));
            _mm256_storeu_ps(out.as_mut_ptr().add(at), _mm256_add_ps(_mm256_mul_ps(sums, units), bias));
        }
    }
}
