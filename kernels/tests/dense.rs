//! Fully connected layers against sums written from their definition, in f64, at sizes around the blocks.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use kernels::conv::{ConvError, Dense, Isa};

/// Sizes around tiles, panels and registers.
const SIZES: [usize; 6] = [1, 7, 31, 32, 33, 65];

/// Numbers in -1..1 that depend on nothing but their index and a seed.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn check(rows: usize, inputs: usize, outputs: usize) {
    let (weight, bias, x) = (noise(1, inputs * outputs), noise(2, outputs), noise(3, rows * inputs));
    let pack = || Dense::pack(&weight, &bias, inputs).unwrap();
    for layer in Isa::available().map(|isa| pack().with(isa)) {
        let width = layer.outputs();
        assert_eq!((layer.inputs(), width), (inputs, outputs.next_multiple_of(16)));
        let mut found = vec![f32::NAN; rows * width];
        layer.apply(&x, &mut found);
        for (at, &found) in found.iter().enumerate() {
            let (row, output) = (at / width, at % width);
            let term = |i| f64::from(weight[output * inputs + i]) * f64::from(x[row * inputs + i]);
            let expected = match output < outputs {
                true => f64::from(bias[output]) + (0..inputs).map(term).sum::<f64>(),
                false => 0.0,
            };
            let tolerance = 1e-6 * inputs as f64 + 1e-5;
            assert!(
                (f64::from(found) - expected).abs() <= tolerance,
                "{rows}x{inputs}x{outputs}: {found} for {expected} at row {row}, output {output}"
            );
        }
    }
}

#[test]
fn products_are_the_textbook_ones_at_every_size() {
    for size in SIZES {
        check(size, 37, 48);
        check(13, size, 48);
        check(13, 37, size);
    }
    // Rows in several blocks.
    check(65, 1536, 16);
    check(7, 20_000, 17);
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let layer = Dense::pack(&noise(1, 1536 * 20), &noise(2, 20), 1536).unwrap();
    let x = noise(3, 101 * 1536);
    let mut together = vec![0.0; 101 * layer.outputs()];
    layer.apply(&x, &mut together);
    for (x, expected) in x.chunks_exact(1536).zip(together.chunks_exact(layer.outputs())) {
        let mut alone = vec![0.0; layer.outputs()];
        layer.apply(x, &mut alone);
        assert_eq!(alone, expected);
    }
}

#[test]
fn weights_come_out_as_they_went_in() {
    let weight = noise(1, 37 * 5);
    let layer = Dense::pack(&weight, &[0.0; 37], 5).unwrap();
    for (at, &weight) in weight.iter().enumerate() {
        assert_eq!(layer.weight(at / 5, at % 5), weight);
    }
    layer.apply(&[], &mut []);
    assert!(matches!(Dense::pack(&weight, &[0.0; 36], 5), Err(ConvError::Weights)));
}
