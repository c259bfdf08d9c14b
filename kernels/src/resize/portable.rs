//! The two passes in plain integer arithmetic: the oracle, and the only path on CPUs without AVX2.

use super::{Axis, CHANNELS, HALF, Rows, clip};

/// Every input row to an output row, output column by output column.
pub(super) fn horizontal(columns: &Axis, input: Rows, out: &mut [u8]) {
    let out_row = columns.spans().len() * CHANNELS;
    for (row, out) in out.chunks_exact_mut(out_row).enumerate() {
        horizontal_row(columns, 0, input.from(row).bytes, out);
    }
}

/// Output columns `skip..` of one row; `input` starts with the first pixel that any column needs.
pub(super) fn horizontal_row(columns: &Axis, skip: usize, input: &[u8], out: &mut [u8]) {
    let first = columns.source().start;
    let (pixels, out) = (input.as_chunks::<CHANNELS>().0, out.as_chunks_mut::<CHANNELS>().0);
    for ((span, weights), pixel) in columns.rows().zip(out).skip(skip) {
        let run = &pixels[(span.first - first) as usize..(span.end() - first) as usize];
        let mut sums = [HALF; CHANNELS];
        for (source, &weight) in run.iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum += i32::from(value) * weight;
            }
        }
        *pixel = sums.map(clip);
    }
}

/// Every output row from its run of input rows.
pub(super) fn vertical(rows: &Axis, input: Rows, out_row: usize, out: &mut [u8]) {
    let first = rows.source().start;
    let mut sums = vec![HALF; out_row];
    for ((span, weights), out) in rows.rows().zip(out.chunks_exact_mut(out_row)) {
        sums.fill(HALF);
        for (row, &weight) in ((span.first - first) as usize..).zip(&weights[..span.len as usize]) {
            for (sum, &value) in sums.iter_mut().zip(input.from(row).bytes) {
                *sum += i32::from(value) * weight;
            }
        }
        for (byte, &sum) in out.iter_mut().zip(&sums) {
            *byte = clip(sum);
        }
    }
}
