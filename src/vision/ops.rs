//! The candle operations of the forward pass that candle lacks or does slowly on the CPU: patches of a convolution as a
//! matrix, depthwise convolution, bias with shortcut and activation in place, and padded max pooling.
//!
//! All take contiguous f32 of shape `[1, channels, height, width]` and fail on anything else; none runs on a GPU.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, InplaceOp2, Layout, Shape, bail};
use rayon::prelude::*;

use super::arch::{Activation, Window};

/// One side of a picture under a moving window.
#[derive(Clone, Copy)]
struct Side {
    length: usize,
    outputs: usize,
    stride: usize,
    before: usize,
}

impl Side {
    fn new(window: Window, length: usize) -> Self {
        Self { length, outputs: window.along(length), stride: window.stride, before: window.before(length) }
    }

    /// The pixel under `tap` at output `at`, unless that is padding.
    fn pixel(self, at: usize, tap: usize) -> Option<usize> {
        (at * self.stride + tap).checked_sub(self.before).filter(|&pixel| pixel < self.length)
    }

    /// The outputs at which `tap` lies over pixels, and the first of these pixels.
    fn covered(self, tap: usize) -> (Range<usize>, usize) {
        let end = (self.length + self.before).saturating_sub(tap).div_ceil(self.stride).min(self.outputs);
        let first = self.before.saturating_sub(tap).div_ceil(self.stride).min(end);
        (first..end, (first * self.stride + tap).saturating_sub(self.before))
    }
}

/// Rewrites an image so that a convolution is one matrix product (im2col).
///
/// Output `[1, channels * kernel * kernel, rows, columns]`: plane `(c, ky, kx)` holds, for every output position, the
/// pixel under that tap, or 0 in the padding. The planes come in the order of a `[outputs, channels, kernel, kernel]`
/// weight, which therefore needs no rearranging.
pub(super) struct Patches(pub(super) Window);

impl Patches {
    /// Appends one plane: the pixels of `plane` under tap `(ky, kx)`.
    fn tap(&self, plane: &[f32], [rows, columns]: [Side; 2], (ky, kx): (usize, usize), out: &mut Vec<f32>) {
        let (covered, start) = columns.covered(kx);
        for row in 0..rows.outputs {
            let after = out.len() + columns.outputs;
            if let Some(y) = rows.pixel(row, ky).filter(|_| !covered.is_empty()) {
                out.resize(out.len() + covered.start, 0.0);
                let line = &plane[y * columns.length..][..columns.length][start..];
                match columns.stride {
                    1 => out.extend_from_slice(&line[..covered.len()]),
                    stride => out.extend(line.iter().step_by(stride).take(covered.len())),
                }
            }
            out.resize(after, 0.0);
        }
    }
}

impl CustomOp1 for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, [channels, height, width]) = (values(x, layout)?, dimensions(layout)?);
        let sides = [height, width].map(|length| Side::new(self.0, length));
        let (kernel, [rows, columns]) = (self.0.kernel, sides.map(|side| side.outputs));
        let mut out = Vec::with_capacity(channels * kernel * kernel * rows * columns);
        for plane in x.chunks_exact(height * width) {
            for tap in 0..kernel * kernel {
                self.tap(plane, sides, (tap / kernel, tap % kernel), &mut out);
            }
        }
        Ok((CpuStorage::F32(out), (1, channels * kernel * kernel, rows, columns).into()))
    }
}

/// A convolution in which each output channel reads the input channel of its own number.
pub(super) struct Depthwise<'a> {
    /// The kernel's movement.
    pub(super) window: Window,
    /// `[channels, kernel, kernel]`.
    pub(super) weight: &'a [f32],
}

/// Adds one channel's products with a filter to an output, which is zero.
type AddPlane = fn(&Frame, &[f32], &mut [f32]);

impl Depthwise<'_> {
    /// The loops for this kernel's side.
    fn loops(&self) -> candle_core::Result<AddPlane> {
        match self.window.kernel {
            1 => Ok(add_plane::<1>),
            3 => Ok(add_plane::<3>),
            5 => Ok(add_plane::<5>),
            7 => Ok(add_plane::<7>),
            kernel => bail!("no depthwise convolution of side {kernel}"),
        }
    }
}

fn add_plane<const K: usize>(frame: &Frame, filter: &[f32], out: &mut [f32]) {
    for (row, out) in out.chunks_exact_mut(frame.columns.outputs).enumerate() {
        for (ky, weights) in filter.as_chunks::<K>().0.iter().enumerate() {
            let line = frame.line(row * frame.rows.stride + ky);
            add_products(out, std::array::from_fn(|kx| frame.tap(line, kx)), weights);
        }
    }
}

fn add_products<const K: usize>(out: &mut [f32], taps: [&[f32]; K], weights: &[f32; K]) {
    let taps = taps.map(|tap| &tap[..out.len()]);
    for (at, out) in out.iter_mut().enumerate() {
        let mut sum = *out;
        for (tap, weight) in taps.iter().zip(weights) {
            sum += weight * tap[at];
        }
        *out = sum;
    }
}

/// One channel with its padding. Every line is stored as `stride` runs of the pixels between which the window steps, so
/// that neighbouring outputs read neighbouring pixels whatever the stride.
struct Frame {
    rows: Side,
    columns: Side,
    /// Length of a run.
    run: usize,
    /// `[before + height + kernel, stride, run]`, zero outside the picture.
    pixels: Vec<f32>,
}

impl Frame {
    fn new(window: Window, rows: Side, columns: Side) -> Self {
        let padded = |side: Side| side.before + side.length + window.kernel;
        let run = padded(columns).div_ceil(window.stride);
        Self { rows, columns, run, pixels: vec![0.0; padded(rows) * window.stride * run] }
    }

    fn fill(&mut self, plane: &[f32]) {
        let Side { length, stride, before, .. } = self.columns;
        let lines = self.pixels.chunks_exact_mut(stride * self.run).skip(self.rows.before);
        for (line, pixels) in lines.zip(plane.chunks_exact(length)) {
            for (phase, run) in line.chunks_exact_mut(self.run).enumerate() {
                // The first pixel of this run, and its place in it.
                let first = (phase + stride - before % stride) % stride;
                let inside = &mut run[(first + before) / stride..];
                match stride {
                    1 => inside[..length].copy_from_slice(pixels),
                    _ => {
                        let pixels = pixels.iter().skip(first).step_by(stride);
                        inside.iter_mut().zip(pixels).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
    }

    /// A line, counted from the first of the padding.
    fn line(&self, at: usize) -> &[f32] {
        let length = self.columns.stride * self.run;
        &self.pixels[at * length..][..length]
    }

    /// The pixels of `line` under column `kx` of the window, one for each output.
    fn tap<'a>(&self, line: &'a [f32], kx: usize) -> &'a [f32] {
        let stride = self.columns.stride;
        &line[kx % stride * self.run + kx / stride..][..self.columns.outputs]
    }
}

impl CustomOp1 for Depthwise<'_> {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, [channels, height, width]) = (values(x, layout)?, dimensions(layout)?);
        let taps = self.window.kernel * self.window.kernel;
        if self.weight.len() != channels * taps {
            bail!("{} weights for {channels} channels of {taps} taps", self.weight.len());
        }
        let loops = self.loops()?;
        let [rows, columns] = [height, width].map(|length| Side::new(self.window, length));
        let mut out = vec![0.0; channels * rows.outputs * columns.outputs];
        let outputs = out.par_chunks_exact_mut(rows.outputs * columns.outputs);
        let planes = x.par_chunks_exact(height * width).zip(self.weight.par_chunks_exact(taps)).zip(outputs);
        let frame = || Frame::new(self.window, rows, columns);
        planes.for_each_init(frame, |frame, ((x, filter), out)| {
            frame.fill(x);
            loops(frame, filter, out);
        });
        Ok((CpuStorage::F32(out), (1, channels, rows.outputs, columns.outputs).into()))
    }
}

/// What follows a convolution, in place: bias, then the shortcut where there is one, then the activation.
pub(super) struct Epilogue<'a> {
    /// One number a channel.
    bias: &'a [f32],
    /// Results outside are moved to the nearer end.
    bounds: (f32, f32),
}

impl<'a> Epilogue<'a> {
    pub(super) fn new(bias: &'a [f32], activation: Activation) -> Self {
        Self { bias, bounds: activation.bounds() }
    }

    /// Pixels of a plane, once `layout` is known to have one bias a plane.
    fn plane(&self, layout: &Layout) -> candle_core::Result<usize> {
        let [channels, height, width] = dimensions(layout)?;
        if channels != self.bias.len() {
            bail!("{} biases for {channels} channels", self.bias.len());
        }
        Ok(height * width)
    }
}

// `if` rather than `f32::max`, so that a NaN is passed on and found in the logits.
fn clamp(value: f32, (low, high): (f32, f32)) -> f32 {
    let value = if value < low { low } else { value };
    if value > high { high } else { value }
}

impl InplaceOp1 for Epilogue<'_> {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let plane = self.plane(layout)?;
        let y = values_mut(y, layout)?;
        for (y, bias) in y.chunks_exact_mut(plane).zip(self.bias) {
            y.iter_mut().for_each(|y| *y = clamp(*y + bias, self.bounds));
        }
        Ok(())
    }
}

impl InplaceOp2 for Epilogue<'_> {
    fn name(&self) -> &'static str {
        "bias-shortcut-activation"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        layout: &Layout,
        shortcut: &CpuStorage,
        shortcut_layout: &Layout,
    ) -> candle_core::Result<()> {
        let plane = self.plane(layout)?;
        let shortcut = values(shortcut, shortcut_layout)?;
        let y = values_mut(y, layout)?;
        for ((y, x), bias) in y.chunks_exact_mut(plane).zip(shortcut.chunks_exact(plane)).zip(self.bias) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = clamp(*y + bias + x, self.bounds));
        }
        Ok(())
    }
}

/// 3x3 maximum with stride 2 and padding 1, over the pixels that exist.
pub(super) struct MaxPool;

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool-3x3/2"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, [channels, height, width]) = (values(x, layout)?, dimensions(layout)?);
        let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
        let mut out = vec![f32::NEG_INFINITY; channels * rows * columns];
        for (x, out) in x.chunks_exact(height * width).zip(out.chunks_exact_mut(rows * columns)) {
            max_pool_plane(x, width, out, columns);
        }
        Ok((CpuStorage::F32(out), (1, channels, rows, columns).into()))
    }
}

fn max_pool_plane(x: &[f32], width: usize, out: &mut [f32], columns: usize) {
    let height = x.len() / width;
    for (row, out) in out.chunks_exact_mut(columns).enumerate() {
        for y in (2 * row).saturating_sub(1)..(2 * row + 2).min(height) {
            let line = &x[y * width..][..width];
            for (column, out) in out.iter_mut().enumerate() {
                let window = &line[(2 * column).saturating_sub(1)..(2 * column + 2).min(width)];
                *out = window.iter().fold(*out, |max, &v| if v > max || v.is_nan() { v } else { max });
            }
        }
    }
}

/// Channels, height and width of one image.
fn dimensions(layout: &Layout) -> candle_core::Result<[usize; 3]> {
    match *layout.dims() {
        [1, channels, height, width] if height * width > 0 => Ok([channels, height, width]),
        _ => bail!("expected [1, channels, height, width], got {:?}", layout.dims()),
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("expected contiguous f32, got {layout:?}"),
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("expected contiguous f32, got {layout:?}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::super::arch::Padding;
    use super::*;
    use candle_core::{Device, Tensor};

    fn image(channels: usize, height: usize, width: usize) -> Tensor {
        let values = (0..channels * height * width).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
        Tensor::from_vec(values, (1, channels, height, width), &Device::Cpu).unwrap()
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Sizes with odd and even sides, and smaller than a window.
    const SIZES: [(usize, usize); 8] = [(8, 8), (7, 9), (9, 4), (6, 5), (3, 1), (1, 2), (2, 2), (1, 1)];

    fn windows() -> impl Iterator<Item = Window> {
        let shapes = [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2), (7, 2)];
        let paddings = [Padding::Centred, Padding::Same];
        let with = move |(kernel, stride)| paddings.map(|padding| Window { kernel, stride, padding });
        shapes.into_iter().flat_map(with)
    }

    /// candle's own convolution of a picture padded by hand.
    fn convolve(x: &Tensor, weight: &Tensor, window: Window, groups: usize) -> Tensor {
        let pad = |x: Tensor, dim: usize| {
            let side = x.dim(dim).unwrap();
            let reach = (window.along(side) - 1) * window.stride + window.kernel;
            let before = window.before(side);
            let x = x.pad_with_zeros(dim, before, reach.saturating_sub(side + before)).unwrap();
            x.narrow(dim, 0, reach).unwrap()
        };
        pad(pad(x.clone(), 2), 3).conv2d(weight, 0, window.stride, 1, groups).unwrap()
    }

    // Small integers: every order of summation is exact.
    #[test]
    fn patches_and_a_product_are_candles_convolution() {
        for (window, (height, width)) in windows().flat_map(|w| SIZES.map(|size| (w, size))) {
            let Window { kernel, .. } = window;
            let x = image(2, height, width);
            let weight = image(2 * 3, kernel, kernel).reshape((3, 2, kernel, kernel)).unwrap();
            let patches = x.apply_op1_no_bwd(&Patches(window)).unwrap();
            let matrix = patches.flatten_from(2).unwrap().squeeze(0).unwrap();
            let product = weight.flatten_from(1).unwrap().matmul(&matrix).unwrap();
            let expected = convolve(&x, &weight, window, 1);
            assert_eq!(patches.dims()[2..], expected.dims()[2..], "{window:?} {height}x{width}");
            assert_eq!(flat(&product), flat(&expected), "{window:?} {height}x{width}");
        }
    }

    #[test]
    fn depthwise_is_candles_grouped_convolution() {
        for (window, (height, width)) in windows().flat_map(|w| SIZES.map(|size| (w, size))) {
            let x = image(3, height, width);
            let weight = image(3, window.kernel, window.kernel);
            let op = Depthwise { window, weight: &flat(&weight) };
            let found = x.apply_op1_no_bwd(&op).unwrap();
            let expected = convolve(&x, &weight.transpose(0, 1).unwrap().contiguous().unwrap(), window, 3);
            assert_eq!(found.dims(), expected.dims(), "{window:?} {height}x{width}");
            assert_eq!(flat(&found), flat(&expected), "{window:?} {height}x{width}");
        }
    }

    #[test]
    fn pooling_takes_the_largest_pixel_that_exists() {
        for (height, width) in [(4, 6), (5, 7), (1, 1), (2, 1), (1, 3)] {
            // All positive, so that padding with zeros changes no maximum.
            let x = (image(2, height, width) + 100.0).unwrap();
            let pooled = x.apply_op1_no_bwd(&MaxPool).unwrap();
            let padded = x.pad_with_zeros(2, 1, 1).unwrap().pad_with_zeros(3, 1, 1).unwrap();
            assert_eq!(
                flat(&pooled),
                flat(&padded.max_pool2d_with_stride(3, 2).unwrap()),
                "{height}x{width}"
            );
        }
    }

    #[test]
    fn the_epilogue_adds_bias_and_shortcut_then_clamps_and_keeps_nan() {
        let tensor = |v: &[f32]| Tensor::from_slice(v, (1, 2, 1, 2), &Device::Cpu).unwrap();
        let (bias, shortcut) = ([10.0, -10.0], tensor(&[0.0, -20.0, 30.0, 0.0]));
        let run = |end: Epilogue<'_>, shortcut: Option<&Tensor>| {
            let y = tensor(&[1.0, 2.0, 3.0, f32::NAN]);
            match shortcut {
                None => y.inplace_op1(&end).unwrap(),
                Some(shortcut) => y.inplace_op2(shortcut, &end).unwrap(),
            }
            flat(&y)
        };
        let end = |activation| Epilogue::new(&bias, activation);
        assert_eq!(run(end(Activation::Linear), None)[..3], [11.0, 12.0, -7.0]);
        assert_eq!(run(end(Activation::Relu), None)[..3], [11.0, 12.0, 0.0]);
        assert_eq!(run(end(Activation::Relu6), None)[..3], [6.0, 6.0, 0.0]);
        assert_eq!(run(end(Activation::Relu), Some(&shortcut))[..3], [11.0, 0.0, 23.0]);
        assert_eq!(run(end(Activation::Relu6), Some(&shortcut))[..3], [6.0, 0.0, 6.0]);
        for activation in [Activation::Linear, Activation::Relu, Activation::Relu6] {
            assert!(run(end(activation), Some(&shortcut))[3].is_nan());
        }
    }

    #[test]
    fn what_is_not_one_contiguous_image_is_an_error() {
        let x = image(2, 4, 4);
        assert!(x.t().unwrap().apply_op1_no_bwd(&MaxPool).is_err());
        assert!(x.reshape((2, 1, 4, 4)).unwrap().apply_op1_no_bwd(&MaxPool).is_err());
        assert!(x.inplace_op1(&Epilogue::new(&[0.0], Activation::Relu)).is_err());
        let window = Window { kernel: 3, stride: 1, padding: Padding::Same };
        assert!(x.apply_op1_no_bwd(&Depthwise { window, weight: &[0.0; 9] }).is_err());
    }
}
