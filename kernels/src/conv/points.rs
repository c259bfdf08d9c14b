//! The transforms of Winograd's F(4x4, 3x3), built on the points 0, +-a, +-b and infinity with `a^2 = 1/2`, `b^2 = 2`.
//!
//! With `M(x) = x (x^2 - a^2) (x^2 - b^2)`, the row of a finite point `p` is: powers of `p` in the output transform,
//! powers of `p` divided by `M'(p)` in the weights', and the coefficients of `M(x) / (x - p)` in the input's (Lavin and
//! Gray 2016; Blahut 2010, chapter 5). These points are reciprocal, `a b = 1`, which keeps the largest factor at 2.5;
//! the usual 0, +-1, +-2 multiply rounding errors several times more.
//!
//! A short side of a tile has two outputs and makes do with 0, +-a and infinity, which are F(2, 3)'s. The weights are those
//! of all points, so the input's row of a finite point `p` is that of F(2, 3) times `p^2 - b^2`, by which the two `M'`
//! differ.
#![allow(unsafe_code)]

use super::lanes::Lanes;
use super::micro::{Finish, LANES};

/// Outputs of a tile in each direction.
pub(super) const TILE: usize = 4;
/// Inputs of a tile in each direction: `TILE + 3 - 1`.
pub(super) const SIDE: usize = 6;
/// Products of a tile.
pub(super) const POINTS: usize = SIDE * SIDE;

/// Outputs of a short side.
pub(super) const SHORT_TILE: usize = 2;
/// Inputs of a short side.
const SHORT_SIDE: usize = SHORT_TILE + 3 - 1;

/// Whether a short side does without this point of a side.
pub(super) fn is_long(point: usize) -> bool {
    matches!(point, 3 | 4)
}

/// Which sides of a tile are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    /// Two rows of output.
    pub(super) rows: bool,
    /// Two columns of output.
    pub(super) columns: bool,
}

const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;
/// `a^2`, `b^2`, and their sum; their product is 1.
const A2: f32 = 0.5;
const B2: f32 = 2.0;
const SUM: f32 = 2.5;
/// `M'(a) = 2 a^2 (a^2 - b^2)` and `M'(b) = 2 b^2 (b^2 - a^2)`; `M'(0) = a^2 b^2 = 1`.
const MA: f32 = -1.5;
const MB: f32 = 6.0;

/// Powers of each point over `M'`: the weights' transform of one column. The last row is infinity.
const G: [[f32; 3]; SIDE] = [
    [1.0, 0.0, 0.0],
    [1.0 / MA, A / MA, A2 / MA],
    [1.0 / MA, -A / MA, A2 / MA],
    [1.0 / MB, B / MB, B2 / MB],
    [1.0 / MB, -B / MB, B2 / MB],
    [0.0, 0.0, 1.0],
];

/// One tile of input to transform.
pub(super) struct Input {
    /// The tile's pixels, row by row.
    pub(super) pixels: [*const f32; POINTS],
    /// Floats at each pixel, a multiple of [`LANES`].
    pub(super) channels: usize,
    /// Where point 0 goes; `channels` floats a point.
    pub(super) out: *mut f32,
    /// Floats from one point to the next.
    pub(super) step: usize,
    /// Its pixels beyond a short side are not read, and the points that it does without are not written.
    pub(super) short: Short,
}

/// # Safety
/// The CPU has the instructions of `L`, and the pointers are good for what [`Input`] says.
#[inline(always)]
pub(super) unsafe fn transform_input<L: Lanes>(input: &Input) {
    // SAFETY: the caller's promise.
    unsafe {
        match (input.short.rows, input.short.columns) {
            (false, false) => transform_input_of::<L, false, false>(input),
            (false, true) => transform_input_of::<L, false, true>(input),
            (true, false) => transform_input_of::<L, true, false>(input),
            (true, true) => transform_input_of::<L, true, true>(input),
        }
    }
}

/// # Safety
/// As [`transform_input`].
#[inline(always)]
unsafe fn transform_input_of<L: Lanes, const ROWS: bool, const COLUMNS: bool>(input: &Input) {
    let inside = |short: bool, at: usize| !short || at < SHORT_SIDE;
    for channel in (0..input.channels).step_by(L::WIDTH) {
        let zero = L::splat(0.0);
        let mut rows = [[zero; SIDE]; SIDE];
        for (y, row) in rows.iter_mut().enumerate().filter(|&(y, _)| inside(ROWS, y)) {
            *row = input_row::<L, COLUMNS>(std::array::from_fn(|x| match inside(COLUMNS, x) {
                // SAFETY: every pixel has floats up to `channels`.
                true => unsafe { L::load(input.pixels[y * SIDE + x].add(channel)) },
                false => zero,
            }));
        }
        for x in (0..SIDE).filter(|&x| !COLUMNS || !is_long(x)) {
            let column = input_row::<L, ROWS>(rows.map(|row| row[x]));
            for (y, value) in column.into_iter().enumerate().filter(|&(y, _)| !ROWS || !is_long(y)) {
                // SAFETY: every point has floats up to `channels`.
                unsafe { value.store(input.out.add((y * SIDE + x) * input.step + channel)) };
            }
        }
    }
}

#[inline(always)]
fn input_row<L: Lanes, const SHORT: bool>(d: [L; SIDE]) -> [L; SIDE] {
    let (a, b, a2, b2, sum) = (L::splat(A), L::splat(B), L::splat(A2), L::splat(B2), L::splat(SUM));
    if SHORT {
        let (even, odd) = (d[2].mul(L::splat(A2 - B2)), d[1].mul(L::splat(A2 - B2)));
        return [
            b2.neg_mul_add(d[2], d[0]),
            odd.mul_add(a, even),
            odd.neg_mul_add(a, even),
            d[4],
            d[4],
            a2.neg_mul_add(d[1], d[3]),
        ];
    }
    let (even_a, odd_a) = (b2.neg_mul_add(d[2], d[4]), b2.neg_mul_add(d[1], d[3]));
    let (even_b, odd_b) = (a2.neg_mul_add(d[2], d[4]), a2.neg_mul_add(d[1], d[3]));
    [
        sum.neg_mul_add(d[2], d[0].add(d[4])),
        odd_a.mul_add(a, even_a),
        odd_a.neg_mul_add(a, even_a),
        odd_b.mul_add(b, even_b),
        odd_b.neg_mul_add(b, even_b),
        sum.neg_mul_add(d[3], d[1].add(d[5])),
    ]
}

/// Rows of points in pairs that share loads and sums.
pub(super) const PAIRS: [[usize; 2]; 3] = [[0, 5], [1, 2], [3, 4]];

/// One panel of weights to transform, one pair of rows of points.
pub(super) struct Weights<'a> {
    /// Which of [`PAIRS`].
    pub(super) pair: usize,
    /// `[depth, 3, 3, LANES]`.
    pub(super) panel: &'a [f32],
    /// `[2, SIDE, step]`, of which the first `[depth, LANES]` of each point are written.
    pub(super) out: &'a mut [f32],
    /// Floats from one point to the next.
    pub(super) step: usize,
}

/// # Safety
/// The CPU has the instructions of `L`; the lengths are those that [`Weights`] says.
#[inline(always)]
pub(super) unsafe fn transform_weights<L: Lanes>(job: Weights<'_>) {
    let depth = job.panel.len() / (9 * LANES);
    debug_assert!(job.step >= depth * LANES && job.out.len() >= 2 * SIDE * job.step);
    let (panel, out) = (job.panel.as_ptr(), job.out.as_mut_ptr());
    let down = G[PAIRS[job.pair][0]].map(L::splat);
    for at in (0..depth * LANES).step_by(L::WIDTH) {
        let first = at / LANES * 9 * LANES + at % LANES;
        let column = |x: usize| -> [L; 2] {
            // SAFETY: the panel has 9 taps of `LANES` weights for each channel.
            let [top, middle, bottom] =
                std::array::from_fn(|y| unsafe { L::load(panel.add(first + (3 * y + x) * LANES)) });
            if job.pair == 0 {
                return [top, bottom];
            }
            let even = bottom.mul_add(down[2], top.mul(down[0]));
            [middle.mul_add(down[1], even), middle.neg_mul_add(down[1], even)]
        };
        let columns = [column(0), column(1), column(2)];
        for row in 0..2 {
            let points = weight_row(columns.map(|column| column[row]));
            for (x, value) in points.into_iter().enumerate() {
                // SAFETY: there is room for `depth` channels of two rows of points.
                unsafe { value.store(out.add((row * SIDE + x) * job.step + at)) };
            }
        }
    }
}

#[inline(always)]
fn weight_row<L: Lanes>(g: [L; 3]) -> [L; SIDE] {
    let even = |p: usize| g[2].mul_add(L::splat(G[p][2]), g[0].mul(L::splat(G[p][0])));
    let (even_a, even_b) = (even(1), even(3));
    let (a, b) = (L::splat(G[1][1]), L::splat(G[3][1]));
    [
        g[0],
        g[1].mul_add(a, even_a),
        g[1].neg_mul_add(a, even_a),
        g[1].mul_add(b, even_b),
        g[1].neg_mul_add(b, even_b),
        g[2],
    ]
}

/// One tile of sums to transform and write, one panel wide.
pub(super) struct Output {
    /// The sums of point 0, `LANES` floats.
    pub(super) sums: *const f32,
    /// Floats from one point to the next.
    pub(super) step: usize,
    /// Rows that exist, `1..=TILE`.
    pub(super) rows: usize,
    /// Columns that exist, `1..=TILE`.
    pub(super) columns: usize,
    /// The points that a short side does without are not read; at most [`SHORT_TILE`] of it exists.
    pub(super) short: Short,
    /// First pixel.
    pub(super) out: *mut f32,
    /// Floats from one row to the next, of output and addend.
    pub(super) row: usize,
    /// Floats from one pixel to the next, of output and addend.
    pub(super) pixel: usize,
    /// Bias, addend and bounds; the addend is that of the first pixel.
    pub(super) finish: Finish,
}

/// # Safety
/// The CPU has the instructions of `L`, and the pointers are good for what [`Output`] says.
#[inline(always)]
pub(super) unsafe fn transform_output<L: Lanes>(job: &Output) {
    // SAFETY: the caller's promise.
    unsafe {
        match (job.short.rows, job.short.columns) {
            (false, false) => transform_output_of::<L, false, false>(job),
            (false, true) => transform_output_of::<L, false, true>(job),
            (true, false) => transform_output_of::<L, true, false>(job),
            (true, true) => transform_output_of::<L, true, true>(job),
        }
    }
}

/// # Safety
/// As [`transform_output`].
#[inline(always)]
unsafe fn transform_output_of<L: Lanes, const ROWS: bool, const COLUMNS: bool>(job: &Output) {
    let zero = L::splat(0.0);
    let (low, high) = (L::splat(job.finish.low), L::splat(job.finish.high));
    for lane in (0..LANES).step_by(L::WIDTH) {
        let mut half = [[zero; SIDE]; TILE];
        for x in (0..SIDE).filter(|&x| !COLUMNS || !is_long(x)) {
            let column = output_row::<L, ROWS>(std::array::from_fn(|y| match ROWS && is_long(y) {
                // SAFETY: all points have `LANES` sums.
                false => unsafe { L::load(job.sums.add((y * SIDE + x) * job.step + lane)) },
                true => zero,
            }));
            for (half, value) in half.iter_mut().zip(column) {
                half[x] = value;
            }
        }
        // SAFETY: a panel has `LANES` biases.
        let bias = unsafe { L::load(job.finish.bias.add(lane)) };
        for (y, half) in half.into_iter().enumerate().take(job.rows) {
            for (x, value) in output_row::<L, COLUMNS>(half).into_iter().enumerate().take(job.columns) {
                let offset = y * job.row + x * job.pixel + lane;
                let mut value = value.add(bias);
                if !job.finish.addend.is_null() {
                    // SAFETY: the addend is laid out as the output.
                    value = value.add(unsafe { L::load(job.finish.addend.add(offset)) });
                }
                // SAFETY: the pixel exists and has room for a panel.
                unsafe { value.at_least(low).at_most(high).store(job.out.add(offset)) };
            }
        }
    }
}

#[inline(always)]
fn output_row<L: Lanes, const SHORT: bool>(m: [L; SIDE]) -> [L; TILE] {
    let (a, b, a2, b2) = (L::splat(A), L::splat(B), L::splat(A2), L::splat(B2));
    let (a3, b3) = (L::splat(A * A2), L::splat(B * B2));
    let (even_a, odd_a) = (m[1].add(m[2]), m[1].sub(m[2]));
    if SHORT {
        return [m[0].add(even_a), odd_a.mul_add(a, m[5]), m[3], m[4]];
    }
    let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(even_a).add(even_b),
        odd_b.mul_add(b, odd_a.mul(a)),
        even_b.mul_add(b2, even_a.mul(a2)),
        odd_b.mul_add(b3, odd_a.mul_add(a3, m[5])),
    ]
}
