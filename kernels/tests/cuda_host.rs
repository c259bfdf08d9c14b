//! Every device kernel, built for the host, against what the CPU's code or a sum written from its definition says.
#![cfg(not(any(loom, miri)))]
#![allow(unsafe_code, reason = "the kernels are C")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod host;

use std::ffi::c_void;
use std::mem::offset_of;

use half::f16;
use kernels::cuda::ragged::{Batch, Descriptor, Limits, Picture, SOURCE_PADDING};
use kernels::cuda::source::{self, NO_CLASS};
use kernels::{Filter, Plan, Transform};
use proptest::prelude::*;

use host::{Memory, run};

type P = *mut c_void;

const NORM: [f32; 6] = [0.485, 0.456, 0.406, 0.229, 0.224, 0.225];

/// Numbers of their index and a seed (splitmix64).
fn bits(seed: u64, count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(move |at| {
        let mut z = (seed << 32 ^ (at + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Failing cases are told, not kept in a file.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Bytes of which many are 0 or 255: saturation is what clipping is for.
fn pixels(seed: u64, count: usize) -> Vec<u8> {
    bits(seed, count)
        .map(|bits| match bits >> 61 {
            0 | 1 => 0,
            2 | 3 => 255,
            _ => bits as u8,
        })
        .collect()
}

/// Floats in -1..1.
fn floats(seed: u64, count: usize) -> Vec<f32> {
    bits(seed, count).map(|bits| (bits >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Halves in -1..1, as bits.
fn halves(seed: u64, count: usize) -> Vec<u16> {
    floats(seed, count).into_iter().map(|value| f16::from_f32(value).to_bits()).collect()
}

fn wide(half: u16) -> f64 {
    f16::from_bits(half).to_f64()
}

/// As the device rounds: any NaN is 0x7fff.
fn rounded(value: f32) -> u16 {
    if value.is_nan() { 0x7fff } else { f16::from_f32(value).to_bits() }
}

/// Space to depth of a picture `[side, side, 3]` by `value(byte or float, colour)`.
fn cells<T: Copy>(picture: &[T], side: usize, block: usize, value: impl Fn(T, usize) -> u16) -> Vec<u16> {
    let (across, channels) = (side / block, source::cell_channels(block));
    let mut out = vec![0; across * across * channels];
    for (at, &of) in picture.iter().enumerate() {
        let (y, x, colour) = (at / 3 / side, at / 3 % side, at % 3);
        let quad = y % block / 2 * (block / 2) + x % block / 2;
        let channel = quad * 12 + (y % 2 * 2 + x % 2) * 3 + colour;
        out[((y / block) * across + x / block) * channels + channel] = value(of, colour);
    }
    out
}

/// Halves of a picture's cells.
fn cell_halves(side: usize, block: usize) -> usize {
    (side / block).pow(2) * source::cell_channels(block)
}

fn normalised(byte: u8, colour: usize) -> u16 {
    rounded((f32::from(byte) / 255.0 - NORM[colour]) / NORM[3 + colour])
}

#[test]
fn bytes_are_packed_as_the_cpu_normalises_them() {
    for (batch, side, block) in
        [(1, 16, 2), (2, 2, 2), (3, 30, 2), (1, 224, 2), (2, 4, 4), (2, 36, 4), (1, 224, 4)]
    {
        let pictures = pixels(side as u64, batch * side * side * 3);
        let (mut input, mut norm) = (Memory::of(&pictures), Memory::of(&NORM));
        let out = run!(source::pack_rgb8(batch as u32, side as u32), "convoy_pack_rgb8",
            |out: u16| of batch * cell_halves(side, block),
            input.pointer() => P, out.pointer() => P, side as i32 => i32, block as i32 => i32, norm.pointer() => P);
        let expected: Vec<u16> = pictures
            .chunks(side * side * 3)
            .flat_map(|picture| cells(picture, side, block, normalised))
            .collect();
        assert!(out == expected, "{batch} of {side} by {block}");
    }
    // Every byte of every colour.
    let pictures: Vec<u8> = (0..32 * 32 * 3).map(|at| (at / 3) as u8).collect();
    let (mut input, mut norm) = (Memory::of(&pictures), Memory::of(&NORM));
    let out = run!(source::pack_rgb8(1, 32), "convoy_pack_rgb8", |out: u16| of 32 * 32 * 4,
        input.pointer() => P, out.pointer() => P, 32 => i32, 2 => i32, norm.pointer() => P);
    assert!(out == cells(&pictures, 32, 2, normalised));
}

/// Floats around every place where rounding to a half turns, and any other.
fn treacherous(count: usize) -> Vec<f32> {
    let around = (0..=u16::MAX).flat_map(|half| {
        let value = f16::from_bits(half).to_f32();
        let next = f16::from_bits(half.wrapping_add(1)).to_f32();
        let tie = value / 2.0 + next / 2.0;
        [value, tie, tie.next_up(), tie.next_down()]
    });
    let special =
        [65519.996, 65520.0, 1e30, -1e30, f32::NAN, -f32::NAN, f32::INFINITY, 1e-40, -1e-8, 0.0, -0.0];
    let mut values: Vec<f32> = around.chain(special).collect();
    values.extend(bits(7, count - values.len()).map(|bits| f32::from_bits(bits as u32)));
    values
}

#[test]
fn floats_are_rounded_to_the_nearest_half_and_ties_to_even() {
    let (batch, side) = (3, 208);
    let pictures = treacherous(batch * side * side * 3);
    for block in [2, 4] {
        let mut input = Memory::of(&pictures);
        let out = run!(source::pack_f32(batch as u32, side as u32), "convoy_pack_f32",
            |out: u16| of batch * cell_halves(side, block),
            input.pointer() => P, out.pointer() => P, side as i32 => i32, block as i32 => i32);
        let expected: Vec<u16> = pictures
            .chunks(side * side * 3)
            .flat_map(|picture| cells(picture, side, block, |value, _| rounded(value)))
            .collect();
        let wrong = out.iter().zip(&expected).position(|(out, expected)| out != expected);
        assert_eq!(wrong, None, "cells of {block}");
    }
}

/// Lays `sizes` out with gaps, resizes them in one launch and compares with the CPU. Slots run backwards.
fn resize(side: u32, limits: Limits, sizes: &[(u32, u32, Transform)]) -> Batch {
    let plans: Vec<Plan> = sizes
        .iter()
        .map(|&(width, height, transform)| Plan::new(width, height, transform, side).unwrap())
        .collect();
    let (mut buffer, mut pictures, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    let slots = sizes.len() as u32 + 1;
    let block = if side.is_multiple_of(4) { 4 } else { 2 };
    for (index, plan) in plans.iter().enumerate() {
        let source = pixels(index as u64 + 1, plan.width() as usize * plan.height() as usize * 3);
        let slot = slots - 1 - index as u32;
        pictures.push(Picture { plan, source: buffer.len() as u64, slot });
        expected.push(cells(&plan.execute_portable(&source).unwrap(), side as usize, block, normalised));
        buffer.extend(source);
        buffer.extend(std::iter::repeat_n(0x77, index % 5));
    }
    buffer.extend([0x55; SOURCE_PADDING]);
    let batch = Batch::new(side, &pictures, limits).unwrap();
    let Some(shape) = batch.launch() else { return batch };
    assert!(shape.shared_bytes <= limits.shared_bytes);
    let descriptors: Vec<u8> = batch.descriptors.iter().flat_map(Descriptor::to_bytes).collect();
    let (mut buffer, mut descriptors) = (Memory::of(&buffer), Memory::of(&descriptors));
    let (mut tables, mut work, mut norm) =
        (Memory::of(&batch.tables), Memory::of(&batch.work), Memory::of(&NORM));
    let picture = cell_halves(side as usize, block);
    let out = run!(shape, "convoy_resize", |out: u16| of picture * slots as usize,
        buffer.pointer() => P, descriptors.pointer() => P, tables.pointer() => P, work.pointer() => P,
        out.pointer() => P, side as i32 => i32, block as i32 => i32, norm.pointer() => P);
    for (index, expected) in expected.iter().enumerate() {
        let slot = pictures[index].slot as usize;
        let out = &out[slot * picture..][..picture];
        if batch.refused.contains(&index) {
            assert!(out.iter().all(|&half| half == 0xA5A5), "somebody wrote a refused picture");
        } else {
            assert!(out == expected, "picture {index} of {sizes:?} to {side}");
        }
    }
    assert!(out[..picture].iter().all(|&half| half == 0xA5A5), "somebody wrote a slot that is nobody's");
    batch
}

const TRANSFORMS: [Transform; 4] = [
    Transform::RESIZE_CROP,
    Transform::STRETCH,
    Transform::ResizeCrop { short_side: 232, filter: Filter::Bicubic },
    Transform::Stretch { filter: Filter::Bilinear },
];

#[test]
fn extreme_shapes_are_the_cpu_s_or_refused() {
    let sizes =
        [(1, 1), (2, 1), (1, 3), (5000, 40), (37, 1200), (1, 65_535), (65_535, 1), (3, 9000), (2999, 3001)];
    let mut sizes: Vec<_> = TRANSFORMS
        .iter()
        .flat_map(|&transform| sizes.map(|(width, height)| (width, height, transform)))
        .collect();
    // The second pass's axis shrinks most that does not go first.
    sizes.push((6000, 3500, Transform::STRETCH));
    let small = resize(224, Limits::default(), &sizes);
    assert!(small.descriptors.iter().any(|descriptor| descriptor.vertical == 1));
    assert_eq!(small.refused, [sizes.len() - 1]);
    let large = resize(224, Limits { shared_bytes: 96 << 10, ..Limits::default() }, &sizes);
    assert_eq!(large.refused, []);
}

#[test]
fn a_batch_of_common_sizes_is_the_cpu_s() {
    let sizes =
        [(640, 480), (500, 375), (375, 500), (224, 224), (256, 256), (480, 640), (300, 800), (1920, 1080)];
    let sizes: Vec<_> = sizes.map(|(width, height)| (width, height, Transform::RESIZE_CROP)).repeat(3);
    assert_eq!(resize(224, Limits::default(), &sizes).refused, []);
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn any_batch_is_the_cpu_s(
        sizes in prop::collection::vec(
            (1..700_u32, 1..700_u32, prop::sample::select(&TRANSFORMS)), 1..4),
        side in prop_oneof![Just(224_u32), (1..=116_u32).prop_map(|half| half * 2)],
        shared_bytes in prop_oneof![Just(48_u32 << 10), 4_u32 << 10..48 << 10],
        blocks in 0..300_u32,
    ) {
        resize(side, Limits { shared_bytes, blocks, ..Limits::default() }, &sizes);
    }

    #[test]
    fn sides_beyond_a_block_are_the_cpu_s(
        width in 1..700_u32,
        height in 1..1500_u32,
        half in 128..200_u32,
        cubic in any::<bool>(),
        stretch in any::<bool>(),
    ) {
        let filter = if cubic { Filter::Bicubic } else { Filter::Bilinear };
        let crop = Transform::ResizeCrop { short_side: half * 2 + 9, filter };
        let transform = if stretch { Transform::Stretch { filter } } else { crop };
        resize(half * 2, Limits::default(), &[(width, height, transform)]);
    }
}

#[test]
fn a_descriptor_is_the_kernel_s_picture() {
    // SAFETY: the type is the function's.
    let layout =
        unsafe { host::library().get::<unsafe extern "C" fn(u32) -> u32>(b"convoy_host_picture") }.unwrap();
    let expected = [
        size_of::<Descriptor>(),
        offset_of!(Descriptor, source),
        offset_of!(Descriptor, pitch),
        offset_of!(Descriptor, vertical),
        offset_of!(Descriptor, lines),
        offset_of!(Descriptor, slot),
        offset_of!(Descriptor, first_spans),
        offset_of!(Descriptor, first_weights),
        offset_of!(Descriptor, first_taps),
        offset_of!(Descriptor, second_spans),
        offset_of!(Descriptor, second_weights),
        offset_of!(Descriptor, second_taps),
    ];
    for (index, expected) in (0..).zip(expected) {
        // SAFETY: the index is one of the layout's.
        assert_eq!(unsafe { layout(index) } as usize, expected, "entry {index}");
    }
}

/// A window's geometry: input, output, kernel, stride, top and left padding.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    kernel: usize,
    stride: usize,
    pad_top: usize,
    pad_left: usize,
}

impl Shape {
    fn inputs(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// The pixel that tap (ky, kx) of output (y, x) reads, unless it is outside.
    fn pixel(&self, y: usize, x: usize, ky: usize, kx: usize) -> Option<usize> {
        let y = (y * self.stride + ky).checked_sub(self.pad_top).filter(|&y| y < self.height)?;
        let x = (x * self.stride + kx).checked_sub(self.pad_left).filter(|&x| x < self.width)?;
        Some(y * self.width + x)
    }
}

prop_compose! {
    fn shapes()(
        batch in 1..3_usize,
        height in 1..15_usize,
        width in 1..15_usize,
        groups in 1..5_usize,
        kernel in prop::sample::select(&[1_usize, 2, 3, 5, 7]),
        stride in 1..3_usize,
        pad_top in 0..3_usize,
        pad_left in 0..3_usize,
        pad_more in 0..2_usize,
    ) -> Shape {
        let (pad_top, pad_left) = (pad_top.min(kernel - 1), pad_left.min(kernel - 1));
        let outputs = |side: usize, pad: usize| {
            (side + 2 * pad + pad_more).saturating_sub(kernel) / stride + 1
        };
        Shape {
            batch, height, width, channels: groups * 8,
            out_height: outputs(height, pad_top), out_width: outputs(width, pad_left),
            kernel, stride, pad_top, pad_left,
        }
    }
}

/// Within what f32 sums of `terms` products below one, rounded to a half at the end, may be off.
fn assert_near(out: f64, expected: f64, terms: usize, half: bool, what: &dyn std::fmt::Debug) {
    let rounding = if half { expected.abs() / 1024.0 + 1e-7 } else { 0.0 };
    let most = rounding + (terms + 2) as f64 * (terms + 2) as f64 * f64::from(f32::EPSILON);
    assert!((out - expected).abs() <= most, "{out} for {expected}: {what:?}");
}

/// `[batch, height, width, channels]` as `[batch, height / 2, width / 2, 2, 2, channels]`.
fn in_quads(shape: Shape, input: &[u16]) -> Vec<u16> {
    let Shape { height, width, channels, .. } = shape;
    let mut out = vec![0; input.len()];
    for (pixel, values) in input.chunks(channels).enumerate() {
        let (picture, y, x) = (pixel / width / height, pixel / width % height, pixel % width);
        let quad = (picture * height / 2 + y / 2) * (width / 2) + x / 2;
        out[(quad * 4 + y % 2 * 2 + x % 2) * channels..][..channels].copy_from_slice(values);
    }
    out
}

fn max_pool(shape: Shape, input: &[u16], quads: bool) -> Vec<u16> {
    let Shape { batch, height, width, channels, out_height, out_width, kernel, stride, pad_top, .. } = shape;
    let mut memory = Memory::of(input);
    run!(source::max_pool(batch as u32, out_height as u32, out_width as u32, channels as u32),
        "convoy_max_pool", |out: u16| of batch * out_height * out_width * channels,
        memory.pointer() => P, out.pointer() => P, height as i32 => i32, width as i32 => i32,
        channels as i32 => i32, out_height as i32 => i32, out_width as i32 => i32, kernel as i32 => i32,
        stride as i32 => i32, pad_top as i32 => i32, i32::from(quads) => i32)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn max_pools_are_the_greatest(shape in shapes()) {
        let shape = Shape { pad_left: shape.pad_top, ..shape };
        let input = halves(1, shape.inputs());
        let out = max_pool(shape, &input, false);
        if shape.height.is_multiple_of(2) && shape.width.is_multiple_of(2) {
            prop_assert!(out == max_pool(shape, &in_quads(shape, &input), true));
        }
        let outputs = shape.out_height * shape.out_width;
        for (at, &out) in out.iter().enumerate() {
            let (pixel, channel) = (at / shape.channels, at % shape.channels);
            let (picture, y, x) = (pixel / outputs, pixel % outputs / shape.out_width, pixel % shape.out_width);
            let mut best = f64::NEG_INFINITY;
            for tap in 0..shape.kernel * shape.kernel {
                if let Some(seen) = shape.pixel(y, x, tap / shape.kernel, tap % shape.kernel) {
                    let seen = picture * shape.height * shape.width + seen;
                    best = best.max(wide(input[seen * shape.channels + channel]));
                }
            }
            prop_assert_eq!(wide(out), best);
        }
    }

    #[test]
    fn average_pools_are_the_mean(batch in 1..4_usize, count in 1..60_usize, groups in 1..140_usize) {
        let channels = groups * 8;
        let input = halves(2, batch * count * channels);
        let mut memory = Memory::of(&input);
        let out = run!(source::average_pool(batch as u32, channels as u32), "convoy_average_pool",
            |out: u16| of batch * channels,
            memory.pointer() => P, out.pointer() => P, count as i32 => i32, channels as i32 => i32);
        for (at, &out) in out.iter().enumerate() {
            let (picture, channel) = (at / channels, at % channels);
            let sum: f64 = (0..count).map(|pixel| wide(input[(picture * count + pixel) * channels + channel])).sum();
            assert_near(wide(out), sum / count as f64, 8, true, &(batch, count, channels));
        }
    }

    #[test]
    fn depthwise_convolutions_are_their_sums(shape in shapes(), five in any::<bool>(), narrow in any::<bool>()) {
        let shape = Shape { kernel: if five { 5 } else { 3 }, ..shape };
        let taps = shape.kernel * shape.kernel;
        let (low, high) = if narrow { (0.0, 0.5) } else { (f32::NEG_INFINITY, f32::INFINITY) };
        let (input, weight, bias) =
            (halves(3, shape.inputs()), halves(4, taps * shape.channels), floats(5, shape.channels));
        let Shape { batch, height, width, channels, out_height, out_width, kernel, stride, pad_top, pad_left } = shape;
        let launch = source::depthwise(
            batch as u32, out_height as u32, out_width as u32, channels as u32, kernel as u32, stride as u32);
        let (mut memory, mut weights, mut biases) = (Memory::of(&input), Memory::of(&weight), Memory::of(&bias));
        let out = run!(launch.unwrap(), "convoy_depthwise", |out: u16| of batch * out_height * out_width * channels,
            memory.pointer() => P, weights.pointer() => P, biases.pointer() => P, out.pointer() => P,
            height as i32 => i32, width as i32 => i32, channels as i32 => i32, out_height as i32 => i32,
            out_width as i32 => i32, kernel as i32 => i32, stride as i32 => i32, pad_top as i32 => i32,
            pad_left as i32 => i32, low => f32, high => f32);
        for (at, &out) in out.iter().enumerate() {
            let (pixel, channel) = (at / channels, at % channels);
            let (picture, y, x) =
                (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
            let mut sum = f64::from(bias[channel]);
            for tap in 0..taps {
                if let Some(seen) = shape.pixel(y, x, tap / kernel, tap % kernel) {
                    sum += wide(input[(picture * height * width + seen) * channels + channel])
                        * wide(weight[tap * channels + channel]);
                }
            }
            assert_near(wide(out), sum.clamp(low.into(), high.into()), taps, true, &shape);
        }
    }

    #[test]
    fn convolutions_are_their_sums(
        shape in shapes(),
        channels in prop::sample::select(&[1_usize, 3, 8, 13, 16]),
        filters in 1..20_usize,
        tall in any::<bool>(),
        add in any::<bool>(),
        is_f32 in any::<bool>(),
        narrow in any::<bool>(),
    ) {
        let shape = Shape { channels, ..shape };
        let Shape { batch, height, width, channels, out_height, out_width, kernel, stride, pad_top, pad_left } = shape;
        let kernel_width = if tall { 1 } else { kernel };
        let taps = kernel * kernel_width;
        let (low, high) = if narrow { (0.0, 0.5) } else { (f32::NEG_INFINITY, f32::INFINITY) };
        let outputs = batch * out_height * out_width * filters;
        let (input, weight) = (halves(6, shape.inputs()), halves(7, filters * taps * channels));
        let (bias, addend) = (floats(8, filters), halves(9, outputs));
        let (mut memory, mut weights, mut biases, mut addends) =
            (Memory::of(&input), Memory::of(&weight), Memory::of(&bias), Memory::of(&addend));
        let launch = source::convolution(batch as u32, out_height as u32, out_width as u32, filters as u32);
        let addends = if add { addends.pointer() } else { std::ptr::null_mut() };
        let width_of = if is_f32 { 2 } else { 1 };
        let out = run!(launch, "convoy_convolution", |out: u16| of outputs * width_of,
            memory.pointer() => P, weights.pointer() => P, biases.pointer() => P, addends => P, out.pointer() => P,
            i32::from(is_f32) => i32, height as i32 => i32, width as i32 => i32, channels as i32 => i32,
            filters as i32 => i32, out_height as i32 => i32, out_width as i32 => i32, kernel as i32 => i32,
            kernel_width as i32 => i32, stride as i32 => i32, pad_top as i32 => i32, pad_left as i32 => i32,
            low => f32, high => f32);
        let out: Vec<f64> = if is_f32 {
            Memory::of(&out).read::<f32>().into_iter().map(f64::from).collect()
        } else {
            out.into_iter().map(wide).collect()
        };
        for (at, &out) in out.iter().enumerate() {
            let (pixel, filter) = (at / filters, at % filters);
            let (picture, y, x) =
                (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
            let mut sum = f64::from(bias[filter]) + if add { wide(addend[at]) } else { 0.0 };
            for tap in 0..taps {
                if let Some(seen) = shape.pixel(y, x, tap / kernel_width, tap % kernel_width) {
                    let seen = &input[(picture * height * width + seen) * channels..][..channels];
                    let factors = &weight[(filter * taps + tap) * channels..][..channels];
                    sum += seen.iter().zip(factors).map(|(&a, &b)| wide(a) * wide(b)).sum::<f64>();
                }
            }
            assert_near(out, sum.clamp(low.into(), high.into()), taps * channels, !is_f32, &shape);
        }
    }

    #[test]
    fn the_top_is_the_sorted_start(
        batch in 1..4_usize,
        classes in prop_oneof![1..40_usize, 900..1100_usize],
        k in 1..=32_usize,
        coarse in any::<bool>(),
        bad in prop::option::of((0..1100_usize, prop::sample::select(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]))),
        seed in any::<u32>(),
    ) {
        // Coarse logits have equals, zeros of both signs among them.
        let mut logits: Vec<f32> = floats(seed.into(), batch * classes)
            .into_iter()
            .map(|logit| if coarse { (logit * 4.0).round() } else { logit * 30.0 })
            .collect();
        if let Some((at, value)) = bad {
            logits[at % classes] = value;
        }
        let (out, probability, reported) = top(batch, classes, k, &logits);
        for picture in 0..batch {
            let row = &logits[picture * classes..][..classes];
            let first_bad = row.iter().position(|logit| !logit.is_finite());
            prop_assert_eq!(reported[picture], first_bad.map_or(-1, |at| at as i32));
            let mut order: Vec<usize> = if first_bad.is_some() { vec![] } else { (0..classes).collect() };
            order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap().then(a.cmp(&b)));
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&logit| f64::from(logit - most).exp()).sum();
            for place in 0..k {
                let (out, probability) = (out[picture * k + place], probability[picture * k + place]);
                match order.get(place) {
                    Some(&class) => {
                        let expected = f64::from(row[class] - most).exp() / sum;
                        prop_assert_eq!(out as usize, class);
                        prop_assert!((f64::from(probability) - expected).abs() <= expected * 1e-5 + 1e-37);
                    }
                    None => prop_assert_eq!((out, probability), (NO_CLASS, 0.0)),
                }
            }
        }
    }
}

fn top(batch: usize, classes: usize, k: usize, logits: &[f32]) -> (Vec<u32>, Vec<f32>, Vec<i32>) {
    let mut input = Memory::of(logits);
    let (mut probability, mut bad) = (Memory::rubbish::<f32>(batch * k), Memory::rubbish::<i32>(batch));
    let out = run!(source::top(batch as u32), "convoy_top", |out: u32| of batch * k,
        input.pointer() => P, out.pointer() => P, probability.pointer() => P, bad.pointer() => P,
        classes as i32 => i32, k as i32 => i32);
    (out, probability.read(), bad.read())
}

#[test]
fn every_half_is_the_float_that_it_is() {
    let input: Vec<u16> = (0..=u16::MAX).collect();
    let (mut memory, mut weight, mut bias) =
        (Memory::of(&input), Memory::of(&[0x3c00_u16]), Memory::of(&[0.0_f32]));
    let none: P = std::ptr::null_mut();
    let out = run!(source::convolution(1, 256, 256, 1), "convoy_convolution", |out: f32| of 1 << 16,
        memory.pointer() => P, weight.pointer() => P, bias.pointer() => P, none => P, out.pointer() => P, 1 => i32,
        256 => i32, 256 => i32, 1 => i32, 1 => i32, 256 => i32, 256 => i32, 1 => i32, 1 => i32, 1 => i32, 0 => i32,
        0 => i32, f32::NEG_INFINITY => f32, f32::INFINITY => f32);
    for (half, out) in input.into_iter().zip(out) {
        let expected = f16::from_bits(half).to_f32();
        assert!(out == expected || (out.is_nan() && expected.is_nan()), "{half:#x}: {out} for {expected}");
    }
}

#[test]
fn a_nan_is_not_clamped_or_pooled_away() {
    let (nan, one) = (f16::NAN.to_bits(), f16::ONE.to_bits());
    let shape = Shape {
        batch: 1,
        height: 4,
        width: 4,
        channels: 8,
        out_height: 4,
        out_width: 4,
        kernel: 3,
        stride: 1,
        pad_top: 1,
        pad_left: 1,
    };
    // In channel 3 of pixel (1, 1): the outputs around it see it, those of the last row and column do not.
    let mut input = vec![one; shape.inputs()];
    input[5 * 8 + 3] = nan;
    let seen = |at: usize| at % 8 == 3 && at / 8 / 4 < 3 && at / 8 % 4 < 3;
    let check = |out: &[u16]| {
        for (at, &half) in out.iter().enumerate() {
            assert_eq!(wide(half).is_nan(), seen(at), "output {at}");
        }
    };
    check(&max_pool(shape, &input, false));
    let (mut memory, mut weight, mut bias) =
        (Memory::of(&input), Memory::of(&[one; 9 * 8]), Memory::of(&[0.0_f32; 8]));
    check(&run!(source::depthwise(1, 4, 4, 8, 3, 1).unwrap(), "convoy_depthwise", |out: u16| of 4 * 4 * 8,
        memory.pointer() => P, weight.pointer() => P, bias.pointer() => P, out.pointer() => P, 4 => i32, 4 => i32,
        8 => i32, 4 => i32, 4 => i32, 3 => i32, 1 => i32, 1 => i32, 1 => i32, 0.0 => f32, 6.0 => f32));
    let none: P = std::ptr::null_mut();
    let out = run!(source::convolution(1, 4, 4, 1), "convoy_convolution", |out: u16| of 4 * 4,
        memory.pointer() => P, weight.pointer() => P, bias.pointer() => P, none => P, out.pointer() => P, 0 => i32,
        4 => i32, 4 => i32, 8 => i32, 1 => i32, 4 => i32, 4 => i32, 3 => i32, 3 => i32, 1 => i32, 1 => i32, 1 => i32,
        0.0 => f32, 6.0 => f32);
    for (at, &half) in out.iter().enumerate() {
        assert_eq!(wide(half).is_nan(), seen(at * 8 + 3), "output {at}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addend {
    None,
    Apart,
    /// Where the output goes.
    InPlace,
}

/// A launch of `convoy_small_convolution`.
#[derive(Debug, Clone, Copy)]
struct Small {
    shape: Shape,
    filters: usize,
    splits: usize,
    addend: Addend,
    bounds: (f32, f32),
}

const LINEAR: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

impl Small {
    /// Square pictures and windows with padding on all sides, split as for `blocks` blocks.
    fn square(
        side: usize,
        channels: usize,
        filters: usize,
        kernel: usize,
        stride: usize,
        blocks: u32,
    ) -> Self {
        let (pad, out) = (kernel / 2, (side - 1) / stride + 1);
        let shape = Shape {
            batch: 1,
            height: side,
            width: side,
            channels,
            out_height: out,
            out_width: out,
            kernel,
            stride,
            pad_top: pad,
            pad_left: pad,
        };
        let mut small =
            Self { shape, filters, splits: 1, addend: Addend::None, bounds: (0.0, f32::INFINITY) };
        small.splits = small.planned(blocks).unwrap().splits as usize;
        small
    }

    fn planned(&self, blocks: u32) -> Option<source::SmallConvolution> {
        let Shape { batch, channels, out_height, out_width, kernel, .. } = self.shape;
        let [batch, out_height, out_width, filters, channels, kernel] =
            [batch, out_height, out_width, self.filters, channels, kernel].map(|of| of as u32);
        source::small_convolution(batch, out_height, out_width, filters, channels, kernel, blocks)
    }

    fn outputs(&self) -> usize {
        self.shape.batch * self.shape.out_height * self.shape.out_width * self.filters
    }

    fn terms(&self) -> usize {
        self.shape.kernel * self.shape.kernel * self.shape.channels
    }

    /// With threads and blocks in several orders, which must not matter.
    fn run(&self, input: &[u16], weight: &[u16], bias: &[f32], addend: &[u16]) -> Vec<u16> {
        type Kernel = unsafe extern "C" fn(
            P,
            P,
            P,
            P,
            P,
            P,
            P,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            i32,
            f32,
            f32,
        );
        // SAFETY: the type is the kernel's.
        let kernel = unsafe { host::library().get::<Kernel>(b"convoy_small_convolution_host") }.unwrap();
        let Shape { batch, height, width, channels, out_height, out_width, kernel: side, .. } = self.shape;
        let [batch, height, width, channels, filters, out_height, out_width, side] =
            [batch, height, width, channels, self.filters, out_height, out_width, side].map(|of| of as i32);
        let [stride, top, left, splits] =
            [self.shape.stride, self.shape.pad_top, self.shape.pad_left, self.splits].map(|of| of as i32);
        let tiles = self.outputs() / self.filters;
        let tiles = tiles.div_ceil(64) * self.filters.div_ceil(32);
        let mut launch = self.planned(u32::MAX).unwrap().launch;
        assert_eq!(launch.grid.0 as usize, tiles);
        launch.grid.1 = self.splits as u32;
        let (parts, counted) = if self.splits > 1 { (tiles * self.splits * 64 * 32, tiles) } else { (0, 0) };
        let [mut memory, mut weights] = [input, weight].map(Memory::of);
        let mut biases = Memory::of(bias);
        let mut counters = Memory::of(&vec![0_u32; counted]);
        let blocks = (tiles * self.splits) as u32;
        let mut results = [(1, 1), (255, (blocks - 1).max(1)), (37, 65_537)].map(|(turn, block_turn)| {
            let mut partials = Memory::of(&vec![f32::NAN; parts]);
            let mut apart = Memory::of(addend);
            let mut out = match self.addend {
                Addend::InPlace => Memory::of(addend),
                _ => Memory::rubbish::<u16>(self.outputs()),
            };
            let add = match self.addend {
                Addend::None => std::ptr::null_mut(),
                Addend::Apart => apart.pointer(),
                Addend::InPlace => out.pointer(),
            };
            // SAFETY: every pointer is into a `Memory` of the size that the kernel's documentation asks for.
            host::launch_in_order(launch, turn, block_turn, || unsafe {
                kernel(
                    memory.pointer(),
                    weights.pointer(),
                    biases.pointer(),
                    add,
                    out.pointer(),
                    partials.pointer(),
                    counters.pointer(),
                    batch,
                    height,
                    width,
                    channels,
                    filters,
                    out_height,
                    out_width,
                    side,
                    stride,
                    top,
                    left,
                    splits,
                    self.bounds.0,
                    self.bounds.1,
                );
            });
            partials.read::<f32>();
            assert!(counters.read::<u32>().iter().all(|&count| count == 0), "counters are left: {self:?}");
            out.read::<u16>()
        });
        let result = std::mem::take(&mut results[0]);
        assert!(results[1..].iter().all(|other| *other == result), "an order matters: {self:?}");
        result
    }

    /// Of every output, the sum before the clamp and that of its terms' sizes.
    fn sums(&self, input: &[u16], weight: &[u16], bias: &[f32], addend: &[u16]) -> Vec<(f64, f64)> {
        let [input, weight, addend] =
            [input, weight, addend].map(|halves| halves.iter().map(|&half| wide(half)).collect::<Vec<f64>>());
        let Shape { height, width, channels, out_height, out_width, kernel, .. } = self.shape;
        let sum = |at: usize| {
            let (pixel, filter) = (at / self.filters, at % self.filters);
            let (picture, y, x) =
                (pixel / (out_height * out_width), pixel / out_width % out_height, pixel % out_width);
            let mut sum =
                f64::from(bias[filter]) + if self.addend == Addend::None { 0.0 } else { addend[at] };
            let mut size = sum.abs();
            for tap in 0..kernel * kernel {
                if let Some(seen) = self.shape.pixel(y, x, tap / kernel, tap % kernel) {
                    let seen = &input[(picture * height * width + seen) * channels..][..channels];
                    let factors = &weight[(filter * kernel * kernel + tap) * channels..][..channels];
                    for (a, b) in seen.iter().zip(factors) {
                        sum += a * b;
                        size += (a * b).abs();
                    }
                }
            }
            (sum, size)
        };
        (0..self.outputs()).map(sum).collect()
    }

    /// Of small integers, whose sums floats hold exactly: a term too many or too few shows.
    fn check_exactly(&self) {
        let integers = |seed: u64, count: usize| -> Vec<u16> {
            bits(seed, count).map(|bits| f16::from_f32((bits >> 60) as f32 - 7.0).to_bits()).collect()
        };
        let (input, weight) = (integers(1, self.shape.inputs()), integers(2, self.filters * self.terms()));
        let bias: Vec<f32> = integers(3, self.filters).into_iter().map(|half| wide(half) as f32).collect();
        let addend = integers(4, self.outputs());
        let out = self.run(&input, &weight, &bias, &addend);
        for (at, (sum, _)) in self.sums(&input, &weight, &bias, &addend).into_iter().enumerate() {
            let expected = f16::from_f64(sum.clamp(self.bounds.0.into(), self.bounds.1.into()));
            assert_eq!(wide(out[at]), expected.to_f64(), "output {at} of {self:?}");
        }
    }

    /// Of fractions, as near as a sum of floats that is rounded to a half can be.
    fn check_nearly(&self) {
        let (input, weight) = (halves(5, self.shape.inputs()), halves(6, self.filters * self.terms()));
        let (bias, addend) = (floats(7, self.filters), halves(8, self.outputs()));
        let out = self.run(&input, &weight, &bias, &addend);
        for (at, (sum, size)) in self.sums(&input, &weight, &bias, &addend).into_iter().enumerate() {
            let (out, expected) = (wide(out[at]), sum.clamp(self.bounds.0.into(), self.bounds.1.into()));
            // Errors of a sum's roundings largely cancel.
            let summing = size * f64::from(f32::EPSILON) * 4.0;
            let rounding = (expected.abs() + summing) / 2048.0 + 1e-7;
            assert!(
                (out - expected).abs() <= summing + rounding,
                "{out} for {expected}: output {at} of {self:?}"
            );
        }
    }
}

#[test]
fn small_convolutions_of_networks_are_their_sums() {
    for (side, channels, filters, kernel, stride, addend) in [
        (14, 256, 256, 3, 1, Addend::None),
        (28, 128, 128, 3, 1, Addend::None),
        (7, 512, 512, 3, 1, Addend::None),
        (14, 512, 512, 3, 2, Addend::None),
        (28, 256, 256, 3, 2, Addend::None),
        (14, 1024, 256, 1, 1, Addend::None),
        (14, 256, 1024, 1, 1, Addend::InPlace),
        (14, 512, 1024, 1, 2, Addend::Apart),
        (7, 64, 96, 5, 1, Addend::None),
    ] {
        let small = Small { addend, ..Small::square(side, channels, filters, kernel, stride, 132) };
        small.check_exactly();
        if small.terms() > 4000 {
            small.check_nearly();
        }
    }
}

#[test]
fn small_convolutions_are_split_in_any_way() {
    for splits in 1..=32 {
        Small { splits, ..Small::square(9, 96, 40, 3, 1, 1000) }.check_exactly();
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn small_convolutions_are_their_sums(
        shape in shapes(),
        batch in 1..4_usize,
        groups in 1..5_usize,
        octets in 1..13_usize,
        splits in 1..=32_usize,
        addend in prop::sample::select(&[Addend::None, Addend::Apart, Addend::InPlace]),
        bounds in prop::sample::select(&[LINEAR, (0.0, f32::INFINITY), (0.0, 6.0), (-3.5, 2.5)]),
    ) {
        let shape = Shape { batch, channels: groups * 32, ..shape };
        let small = Small { shape, filters: octets * 8, splits, addend, bounds };
        small.check_exactly();
        small.check_nearly();
    }
}

#[test]
fn a_nan_stays_in_a_small_convolution() {
    for splits in [1, 5] {
        let small = Small { splits, bounds: (0.0, 6.0), ..Small::square(6, 64, 40, 3, 1, 1000) };
        let mut input = halves(1, small.shape.inputs());
        // The pixel in row 1 and column 2, in the last step's channels.
        input[(6 + 2) * 64 + 61] = f16::NAN.to_bits();
        let out = small.run(&input, &halves(2, 40 * small.terms()), &floats(3, 40), &[]);
        for (at, &half) in out.iter().enumerate() {
            let (y, x) = (at / 40 / 6, at / 40 % 6);
            assert_eq!(wide(half).is_nan(), y < 3 && (1..4).contains(&x), "output {at}");
        }
    }
}

#[test]
fn small_convolutions_are_split_to_fill_the_device() {
    let plan = |pixels, filters, channels, kernel, blocks| {
        let small = source::small_convolution(1, pixels, 1, filters, channels, kernel, blocks)?;
        assert_eq!(small.launch.grid.1, small.splits);
        Some((small.launch.grid.0, small.splits, small.partial_bytes, small.counters))
    };
    assert_eq!(plan(196, 256, 256, 3, 132), Some((32, 4, 128 * 64 * 32 * 4, 32)));
    assert_eq!(plan(196, 256, 256, 3, 264), Some((32, 8, 256 * 64 * 32 * 4, 32)));
    assert_eq!(plan(49, 512, 512, 3, 132), Some((16, 8, 128 * 64 * 32 * 4, 16)));
    assert_eq!(plan(196, 1024, 256, 1, 132), Some((128, 1, 0, 0)));
    // A split has four steps at least, and there are 32 at most.
    assert_eq!(plan(49, 32, 256, 1, 132), Some((1, 2, 2 * 64 * 32 * 4, 1)));
    assert_eq!(plan(49, 32, 64, 1, 132), Some((1, 1, 0, 0)));
    assert_eq!(plan(49, 32, 512, 3, 132), Some((1, 32, 32 * 64 * 32 * 4, 1)));
    for (pixels, filters, channels) in
        [(784, 512, 128), (196, 256, 48), (196, 12, 64), (0, 8, 32), (1, 0, 32)]
    {
        assert_eq!(plan(pixels, filters, channels, 1, 132), None);
    }
}

#[test]
fn only_what_is_implemented_is_launched() {
    assert_eq!(source::depthwise(1, 4, 4, 8, 7, 1), None);
    assert_eq!(source::depthwise(1, 4, 4, 8, 3, 3), None);
    assert_eq!(source::depthwise(1, 4, 4, 12, 3, 1), None);
}

fn differ(a: &mut Memory, b: &mut Memory, a_is_f32: bool, b_is_f32: bool, count: usize) -> Vec<f64> {
    let (a, b) = (a.pointer(), b.pointer());
    let kernel_sums = |stride| {
        let mut sums = Memory::of(&[0.0_f64; 2]);
        type Differ = unsafe extern "C" fn(P, P, i32, i32, u64, P);
        // SAFETY: the type is the kernel's.
        let kernel = unsafe { host::library().get::<Differ>(b"convoy_differ_host") }.unwrap();
        // SAFETY: `a` and `b` hold `count` elements of their types, `sums` two.
        host::launch(source::differ(count as u64), stride, || unsafe {
            kernel(a, b, a_is_f32.into(), b_is_f32.into(), count as u64, sums.pointer());
        });
        sums.read::<f64>()
    };
    let sums = kernel_sums(1);
    assert!(host::same(&sums, &kernel_sums(255)), "threads race");
    sums
}

#[test]
fn differences_are_summed_and_a_nan_stays() {
    for count in [1, 255, 1000, 300_001] {
        let (a, b) = (floats(1, count), halves(2, count));
        let expected = a.iter().zip(&b).fold([0.0, 0.0], |[apart, size], (&a, &b)| {
            [apart + (f64::from(a) - wide(b)).powi(2), size + wide(b).powi(2)]
        });
        let sums = differ(&mut Memory::of(&a), &mut Memory::of(&b), true, false, count);
        for (sum, expected) in sums.iter().zip(expected) {
            assert!((sum - expected).abs() <= expected * 1e-12, "{sum} for {expected}");
        }
        let (mut as_a, mut as_b) = (Memory::of(&b), Memory::of(&b));
        assert_eq!(differ(&mut as_a, &mut as_b, false, false, count)[0], 0.0);
        let mut poisoned = a.clone();
        poisoned[count / 2] = f32::NAN;
        let (mut poisoned, mut clean) = (Memory::of(&poisoned), Memory::of(&a));
        assert!(differ(&mut poisoned, &mut clean, true, true, count)[0].is_nan());
        let sums = differ(&mut clean, &mut poisoned, true, true, count);
        assert!(sums.iter().all(|sum| sum.is_nan()), "{sums:?}");
    }
}

#[test]
fn filling_is_even_and_of_the_index_alone() {
    fn scramble(bits: u32) -> u32 {
        let bits = (bits ^ bits >> 16).wrapping_mul(0x7feb_352d);
        let bits = (bits ^ bits >> 15).wrapping_mul(0x846c_a68b);
        bits ^ bits >> 16
    }
    let fill = |count: usize, seed: u32, scale: f32| {
        run!(source::fill(count as u64), "convoy_fill", |out: u16| of count,
            out.pointer() => P, count as u64 => u64, seed => u32, scale => f32)
    };
    let count = 300_001;
    let out = fill(count, 5, 0.25);
    assert!(fill(1000, 5, 0.25) == out[..1000] && fill(1000, 6, 0.25) != out[..1000]);
    let values: Vec<f64> = out.iter().map(|&half| wide(half)).collect();
    for (at, &half) in (0_u32..).zip(&out) {
        let unit = (scramble(at ^ scramble(scramble(5))) >> 8) as f32 / 8_388_608.0 - 1.0;
        assert_eq!(half, rounded(unit * 0.25));
    }
    let (mean, square) = values.iter().fold((0.0, 0.0), |(mean, square), value| {
        (mean + value / count as f64, square + value * value / count as f64)
    });
    assert!(values.iter().all(|value| value.abs() <= 0.25) && mean.abs() < 0.001);
    assert!((square - 0.0625 / 3.0).abs() < 0.0005, "{square}");
}
