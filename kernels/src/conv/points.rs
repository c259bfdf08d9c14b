//! The transforms of Winograd's F(4x4, 3x3), built on the points 0, +-a, +-b and infinity with `a^2 = 1/2`, `b^2 = 2`.
//!
//! With `M(x) = x (x^2 - a^2) (x^2 - b^2)`, the row of a finite point `p` is: powers of `p` in the output transform,
//! powers of `p` divided by `M'(p)` in the weights', and the coefficients of `M(x) / (x - p)` in the input's (Lavin and
//! Gray 2016; Blahut 2010, chapter 5). These points are reciprocal, `a b = 1`, which keeps the largest factor at 2.5;
//! the usual 0, +-1, +-2 multiply rounding errors several times more.
#![allow(unsafe_code)]

use super::lanes::{Lanes, WIDTH};
use super::micro::{Finish, LANES};

/// Outputs of a tile in each direction.
pub(super) const TILE: usize = 4;
/// Inputs of a tile in each direction: `TILE + 3 - 1`.
pub(super) const SIDE: usize = 6;
/// Products of a tile.
pub(super) const POINTS: usize = SIDE * SIDE;

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
    /// Floats at each pixel, a multiple of [`WIDTH`].
    pub(super) channels: usize,
    /// Where point 0 goes; `channels` floats a point.
    pub(super) out: *mut f32,
    /// Floats from one point to the next.
    pub(super) step: usize,
}

/// # Safety
/// The CPU has the instructions of `L`, and the pointers are good for what [`Input`] says.
#[inline(always)]
pub(super) unsafe fn transform_input<L: Lanes>(input: &Input) {
    for channel in (0..input.channels).step_by(WIDTH) {
        let mut rows = [[L::splat(0.0); SIDE]; SIDE];
        for (y, row) in rows.iter_mut().enumerate() {
            // SAFETY: every pixel has floats up to `channels`.
            *row = input_row(std::array::from_fn(|x| unsafe {
                L::load(input.pixels[y * SIDE + x].add(channel))
            }));
        }
        for x in 0..SIDE {
            let column = input_row(rows.map(|row| row[x]));
            for (y, value) in column.into_iter().enumerate() {
                // SAFETY: every point has floats up to `channels`.
                unsafe { value.store(input.out.add((y * SIDE + x) * input.step + channel)) };
            }
        }
    }
}

#[inline(always)]
fn input_row<L: Lanes>(d: [L; SIDE]) -> [L; SIDE] {
    let (a, b, a2, b2, sum) = (L::splat(A), L::splat(B), L::splat(A2), L::splat(B2), L::splat(SUM));
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
    for at in (0..depth * LANES).step_by(WIDTH) {
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
    let (low, high) = (L::splat(job.finish.low), L::splat(job.finish.high));
    for lane in (0..LANES).step_by(WIDTH) {
        let mut half = [[L::splat(0.0); SIDE]; TILE];
        for x in 0..SIDE {
            // SAFETY: all points have `LANES` sums.
            let column = output_row(std::array::from_fn(|y| unsafe {
                L::load(job.sums.add((y * SIDE + x) * job.step + lane))
            }));
            for (half, value) in half.iter_mut().zip(column) {
                half[x] = value;
            }
        }
        // SAFETY: a panel has `LANES` biases.
        let bias = unsafe { L::load(job.finish.bias.add(lane)) };
        for (y, half) in half.into_iter().enumerate().take(job.rows) {
            for (x, value) in output_row(half).into_iter().enumerate().take(job.columns) {
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
fn output_row<L: Lanes>(m: [L; SIDE]) -> [L; TILE] {
    let (a, b, a2, b2) = (L::splat(A), L::splat(B), L::splat(A2), L::splat(B2));
    let (a3, b3) = (L::splat(A * A2), L::splat(B * B2));
    let (even_a, odd_a) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(even_a).add(even_b),
        odd_b.mul_add(b, odd_a.mul(a)),
        even_b.mul_add(b2, even_a.mul(a2)),
        odd_b.mul_add(b3, odd_a.mul_add(a3, m[5])),
    ]
}
