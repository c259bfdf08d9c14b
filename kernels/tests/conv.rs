//! Every convolution and pooling against sums written from their definition, in f64, at sizes around the blocks.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use kernels::conv::{
    Activation, ConvError, Executor, ExecutorOptions, Head, Isa, Kernel, Map, Method, Op, Panels, Place,
    Step, Window,
};

/// Sizes around tiles, panels and registers.
const SIZES: [usize; 6] = [1, 7, 31, 32, 33, 65];

/// Numbers in -1..1 that depend on nothing but their index and a seed (splitmix64).
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let value = |at: u64| {
        let mut z = (seed << 32 ^ (at + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(value).collect()
}

/// Some pictures, `[batch, height, width, channels]`.
#[derive(Debug, Clone)]
struct Pictures {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    at: Vec<f64>,
}

impl Pictures {
    fn noise(seed: u64, [batch, height, width, channels]: [usize; 4]) -> Self {
        let at = noise(seed, batch * height * width * channels).into_iter().map(f64::from).collect();
        Self { batch, height, width, channels, at }
    }

    /// The same with so many rows and columns of zeros more at the end.
    fn grown(&self, by: usize) -> Self {
        let (height, width) = (self.height + by, self.width + by);
        let mut grown = Self { height, width, at: Vec::new(), ..*self };
        let zeros = vec![0.0; self.channels];
        for at in 0..self.batch * height * width {
            let (image, y, x) = (at / (height * width), at / width % height, at % width);
            grown.at.extend(self.pixel(image, y as isize, x as isize).unwrap_or(&zeros));
        }
        grown
    }

    fn pixel(&self, image: usize, y: isize, x: isize) -> Option<&[f64]> {
        let (y, x) = (usize::try_from(y).ok()?, usize::try_from(x).ok()?);
        let at = (image * self.height + y) * self.width + x;
        (y < self.height && x < self.width).then(|| &self.at[at * self.channels..][..self.channels])
    }

    /// Pictures whose pixels are what `make` makes of the pixels of each window, tap by tap.
    fn windows(&self, window: Window, channels: usize, make: impl Fn(&[Option<&[f64]>]) -> Vec<f64>) -> Self {
        let (height, width) = (extent(self.height, window), extent(self.width, window));
        let mut out = Self { batch: self.batch, height, width, channels, at: Vec::new() };
        let side = window.kernel as isize;
        for image in 0..self.batch {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let start = |at: usize| (at * window.stride) as isize - window.pad as isize;
                let taps = (0..side * side)
                    .map(|tap| self.pixel(image, start(y) + tap / side, start(x) + tap % side))
                    .collect::<Vec<_>>();
                out.at.extend(make(&taps));
            }
        }
        out
    }

    /// `weight` is `[outputs, channels or 1, kernel, kernel]`.
    fn convolved(&self, window: Window, weight: &[f32], bias: &[f32], depthwise: bool) -> Self {
        let (taps, depth) = (window.kernel.pow(2), if depthwise { 1 } else { self.channels });
        self.windows(window, bias.len(), |pixels| {
            let output = |output: usize| {
                let mut sum = f64::from(bias[output]);
                for (tap, pixel) in pixels.iter().enumerate() {
                    let Some(pixel) = pixel else { continue };
                    for channel in 0..depth {
                        let input = pixel[if depthwise { output } else { channel }];
                        sum += input * f64::from(weight[(output * depth + channel) * taps + tap]);
                    }
                }
                sum
            };
            (0..bias.len()).map(output).collect()
        })
    }
}

fn extent(side: usize, window: Window) -> usize {
    (side + 2 * window.pad - window.kernel) / window.stride + 1
}

fn same(kernel: usize, stride: usize) -> Window {
    Window { kernel, stride, pad: kernel / 2 }
}

fn clamp(value: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Linear => value,
        Activation::Relu => value.max(0.0),
        Activation::Relu6 => value.clamp(0.0, 6.0),
    }
}

/// How a case is run.
type Way = (usize, Isa);

/// Each instruction set that this CPU has, and the best with several threads.
fn every_way() -> impl Iterator<Item = Way> {
    Isa::available().map(|isa| (1, isa)).chain([(3, Isa::best())])
}

fn options(max_batch: usize, (threads, isa): Way) -> ExecutorOptions {
    ExecutorOptions { max_batch, threads, isa, head: Head::default() }
}

/// Runs the steps on `input` and gives the output of every image without the padding.
fn run(steps: Vec<Step>, input: &Pictures, options: ExecutorOptions) -> Vec<f32> {
    let mut executor = Executor::new(steps, options).unwrap();
    let map = executor.input_map();
    for image in 0..input.batch {
        let floats = executor.input(image);
        for (y, x) in (0..input.height).flat_map(|y| (0..input.width).map(move |x| (y, x))) {
            let pixel = input.pixel(image, y as isize, x as isize).unwrap();
            let at = (y + map.border()) * map.row() + (x + map.border()) * map.stride();
            for (to, &from) in floats[at..].iter_mut().zip(pixel) {
                *to = from as f32;
            }
        }
    }
    executor.run(input.batch);
    let map = executor.output_map();
    let pixels = |image| executor.output(image).chunks_exact(map.stride()).flat_map(|p| &p[..map.channels()]);
    (0..input.batch).flat_map(pixels).copied().collect()
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(found) - expected).abs();
        assert!(difference <= tolerance, "{what}: {found} for {expected} at {at}");
    }
}

/// A convolution to try.
#[derive(Debug, Clone, Copy)]
struct Case {
    input: [usize; 4],
    outputs: usize,
    window: Window,
    activation: Activation,
    method: Method,
    /// The input has the layout of a network's input.
    bordered: bool,
}

impl Case {
    fn new(input: [usize; 4], outputs: usize, window: Window) -> Self {
        let (activation, method) = (Activation::Relu, Method::Direct);
        Self { input, outputs, window, activation, method, bordered: false }
    }

    fn weights(&self) -> (Vec<f32>, Vec<f32>) {
        let filter = self.input[3] * self.window.kernel.pow(2);
        (noise(2, self.outputs * filter), noise(3, self.outputs))
    }

    fn source(&self) -> Map {
        let [_, height, width, channels] = self.input;
        match self.bordered {
            true => Map::input(height, width, channels, self.window.pad),
            false => Map::new(height, width, channels),
        }
    }

    fn target(&self) -> Map {
        let [_, height, width, _] = self.input;
        Map::new(extent(height, self.window), extent(width, self.window), self.outputs)
    }

    fn step(&self, addend: Option<Place>) -> Step {
        let (weight, bias) = self.weights();
        let panels = Panels::pack(&weight, &bias, self.input[3], self.window.kernel).unwrap();
        let (window, activation, method) = (self.window, self.activation, self.method);
        let op = Op::Conv { panels, window, activation, addend, method };
        Step::new(op, Place { slot: 0, map: self.source() }, Place { slot: 1, map: self.target() }).unwrap()
    }

    /// Sums of this many products below 1 stay this close to the true ones.
    fn tolerance(&self) -> f64 {
        1e-6 * (self.input[3] * self.window.kernel.pow(2)) as f64 + 1e-5
    }

    fn check(&self) {
        let input = Pictures::noise(1, self.input);
        let (weight, bias) = self.weights();
        let mut expected = input.convolved(self.window, &weight, &bias, false);
        expected.at.iter_mut().for_each(|value| *value = clamp(*value, self.activation));
        for way in every_way() {
            let found = run(vec![self.step(None)], &input, options(self.input[0], way));
            assert_close(&found, &expected.at, self.tolerance(), &format!("{self:?} {way:?}"));
        }
    }

    /// The same with an addend, a 1x1 convolution of the same input, that lies in `slot`.
    fn check_addend(&self, slot: usize) {
        let input = Pictures::noise(1, self.input);
        let (weight, bias) = self.weights();
        let direct = input.convolved(self.window, &weight, &bias, false);
        let shortcut = Window { kernel: 1, pad: 0, ..self.window };
        let (weight, bias) = (noise(4, self.outputs * self.input[3]), noise(5, self.outputs));
        let added = input.convolved(shortcut, &weight, &bias, false);
        let expected: Vec<f64> =
            direct.at.iter().zip(&added.at).map(|(a, b)| clamp(a + b, self.activation)).collect();
        let addend = Place { slot, map: self.target() };
        for way in every_way() {
            let op = Op::Conv {
                panels: Panels::pack(&weight, &bias, self.input[3], 1).unwrap(),
                window: shortcut,
                activation: Activation::Linear,
                addend: None,
                method: Method::Fastest,
            };
            let first = Step::new(op, Place { slot: 0, map: self.source() }, addend).unwrap();
            let found = run(vec![first, self.step(Some(addend))], &input, options(self.input[0], way));
            assert_close(&found, &expected, self.tolerance(), &format!("{self:?} slot {slot} {way:?}"));
        }
    }
}

#[test]
fn products_are_right_at_every_size_of_every_dimension() {
    for rows in SIZES {
        for inputs in SIZES {
            for outputs in SIZES {
                Case::new([1, 1, rows, inputs], outputs, same(1, 1)).check();
            }
        }
    }
}

/// Batch, height, width, inputs and outputs, of which one has each of [`SIZES`] and the others are those of `base`.
fn one_at_a_time(base: [usize; 5]) -> impl Iterator<Item = [usize; 5]> {
    (0..5).flat_map(move |at| {
        SIZES.into_iter().map(move |size| std::array::from_fn(|n| if n == at { size } else { base[n] }))
    })
}

#[test]
fn implicit_products_are_right_at_every_size_of_every_dimension() {
    for [batch, height, width, inputs, outputs] in one_at_a_time([2, 5, 6, 9, 17]) {
        for window in [same(3, 1), same(3, 2), same(5, 2)] {
            for bordered in [false, true] {
                let case = Case::new([batch, height, width, inputs], outputs, window);
                let kernel = if bordered { Kernel::Rows } else { Kernel::Implicit };
                assert_eq!(Case { bordered, ..case }.step(None).kernel(), kernel);
                Case { bordered, ..case }.check();
            }
        }
    }
}

#[test]
fn kernels_of_every_side_and_stride_are_right_at_the_edges() {
    for kernel in [1, 3, 5, 7] {
        for stride in [1, 2] {
            for (height, width) in [(7, 9), (8, 7), (33, 5)] {
                for bordered in [false, true] {
                    let case = Case::new([2, height, width, 3], 17, same(kernel, stride));
                    Case { bordered, ..case }.check();
                }
            }
        }
    }
}

#[test]
fn pictures_smaller_than_the_kernel_are_mostly_padding() {
    for side in [1, 2, 3] {
        for stride in [1, 2] {
            Case::new([1, side, side, 5], 3, same(7, stride)).check();
            Case { bordered: true, ..Case::new([1, side, 4, 5], 3, same(5, stride)) }.check();
        }
    }
}

#[test]
fn winograd_is_right_at_every_size_of_picture() {
    for height in SIZES.into_iter().chain(2..6) {
        for width in SIZES {
            let case = Case::new([1, height, width, 8], 3, same(3, 1));
            Case { method: Method::Fastest, ..case }.check();
        }
    }
}

#[test]
fn winograd_is_right_at_every_depth_and_batch() {
    for inputs in [8, 24, 32, 64, 136] {
        for outputs in SIZES {
            let case = Case::new([3, 7, 6, inputs], outputs, same(3, 1));
            Case { method: Method::Fastest, ..case }.check();
        }
    }
    for batch in SIZES {
        Case { method: Method::Fastest, ..Case::new([batch, 5, 6, 8], 17, same(3, 1)) }.check();
    }
    // More tiles than a piece of work has, and than are transformed at once.
    let many = Case::new([4, 61, 63, 64], 16, same(3, 1));
    Case { method: Method::Fastest, ..many }.check();
}

#[test]
fn the_fastest_kernel_that_applies_is_chosen() {
    let kernel = |case: Case| Case { method: Method::Fastest, ..case }.step(None).kernel();
    assert_eq!(kernel(Case::new([1, 7, 7, 64], 64, same(3, 1))), Kernel::Winograd);
    assert_eq!(kernel(Case::new([1, 7, 7, 64], 64, same(3, 2))), Kernel::Implicit);
    assert_eq!(kernel(Case::new([1, 7, 7, 64], 64, same(1, 1))), Kernel::Pointwise);
    assert_eq!(kernel(Case::new([1, 7, 7, 63], 64, same(3, 1))), Kernel::Implicit);
    assert_eq!(kernel(Case { bordered: true, ..Case::new([1, 7, 7, 3], 64, same(3, 2)) }), Kernel::Rows);
    assert_eq!(Case::new([1, 7, 7, 64], 64, same(3, 1)).step(None).kernel(), Kernel::Implicit);
}

#[test]
fn activations_and_addends_follow_the_sum() {
    for activation in [Activation::Linear, Activation::Relu, Activation::Relu6] {
        for (kernel, stride, method) in [
            (1, 1, Method::Fastest),
            (1, 2, Method::Fastest),
            (3, 1, Method::Fastest),
            (3, 1, Method::Direct),
            (3, 2, Method::Direct),
        ] {
            let case = Case::new([2, 9, 7, 40], 33, same(kernel, stride));
            let case = Case { activation, method, ..case };
            case.check();
            case.check_addend(1);
            case.check_addend(2);
        }
    }
}

/// A depthwise convolution of noise, with windows that reach `over` pixels further at the end than `window` says.
fn check_depthwise(size: [usize; 4], window: Window, over: usize) {
    let [_, height, width, channels] = size;
    let input = Pictures::noise(1, size);
    let (weight, bias) = (noise(2, channels * window.kernel.pow(2)), noise(3, channels));
    let mut expected = input.grown(over).convolved(window, &weight, &bias, true);
    expected.at.iter_mut().for_each(|value| *value = clamp(*value, Activation::Relu6));
    for way in every_way() {
        let weights = Panels::pack_depthwise(&weight, &bias, window.kernel).unwrap();
        let op = Op::Depthwise { weights, window, activation: Activation::Relu6 };
        let source = Place { slot: 0, map: Map::new(height, width, channels) };
        let target = Place { slot: 1, map: Map::new(expected.height, expected.width, channels) };
        let step = Step::new(op, source, target).unwrap();
        let found = run(vec![step], &input, options(input.batch, way));
        assert_close(&found, &expected.at, 1e-4, &format!("{size:?} {window:?} {over} {way:?}"));
    }
}

#[test]
fn depthwise_is_right_at_every_size_of_every_dimension() {
    for [batch, height, width, channels, _] in one_at_a_time([2, 5, 7, 17, 1]) {
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2), (7, 1)] {
            check_depthwise([batch, height, width, channels], same(kernel, stride), 0);
        }
    }
    for (height, width) in [(1, 1), (4, 3), (7, 13), (14, 14)] {
        for channels in SIZES {
            check_depthwise([1, height, width, channels], same(5, 1), 0);
        }
    }
}

#[test]
fn depthwise_windows_may_begin_late_and_end_beyond_the_picture() {
    for side in [2, 8, 14, 56] {
        for (kernel, pad) in [(3, 0), (5, 1)] {
            check_depthwise([2, side, side, 24], Window { kernel, stride: 2, pad }, 1);
        }
    }
}

/// The largest value of each window of three, and the mean over the picture.
fn check_pooling([batch, height, width, channels]: [usize; 4]) {
    let input = Pictures::noise(1, [batch, height, width, channels]);
    let source = Place { slot: 0, map: Map::new(height, width, channels) };
    let largest = |taps: &[Option<&[f64]>], channel: usize| {
        taps.iter().flatten().map(|pixel| pixel[channel]).fold(f64::NEG_INFINITY, f64::max)
    };
    let maxima = input
        .windows(same(3, 2), channels, |taps| (0..channels).map(|channel| largest(taps, channel)).collect());
    let mean = |image: usize, channel: usize| {
        let pixels = input.at[image * height * width * channels..].chunks_exact(channels);
        pixels.take(height * width).map(|pixel| pixel[channel]).sum::<f64>() / (height * width) as f64
    };
    let means: Vec<f64> = (0..batch)
        .flat_map(|image| (0..channels).map(move |channel| (image, channel)))
        .map(|(i, c)| mean(i, c))
        .collect();
    for way in every_way() {
        let target = Place { slot: 1, map: Map::new(maxima.height, maxima.width, channels) };
        let step = Step::new(Op::MaxPool { window: same(3, 2) }, source, target).unwrap();
        assert_close(&run(vec![step], &input, options(batch, way)), &maxima.at, 0.0, "largest");
        let target = Place { slot: 1, map: Map::new(1, 1, channels) };
        let step = Step::new(Op::AveragePool, source, target).unwrap();
        assert_close(&run(vec![step], &input, options(batch, way)), &means, 1e-5, "mean");
    }
}

#[test]
fn pooling_is_right_at_every_size_of_every_dimension() {
    for [batch, height, width, channels, _] in one_at_a_time([2, 6, 7, 17, 1]) {
        check_pooling([batch, height, width, channels]);
    }
}

#[test]
fn a_result_depends_neither_on_company_nor_on_the_team() {
    let case = Case { method: Method::Fastest, ..Case::new([5, 14, 14, 64], 64, same(3, 1)) };
    let cases = [case, Case { window: same(3, 2), ..case }, Case { window: same(1, 1), ..case }];
    for (case, isa) in cases.into_iter().flat_map(|case| Isa::available().map(move |isa| (case, isa))) {
        let input = Pictures::noise(1, case.input);
        let together = run(vec![case.step(None)], &input, options(5, (1, isa)));
        let shared = run(vec![case.step(None)], &input, options(5, (3, isa)));
        assert_eq!(together, shared);
        let one = input.height * input.width * input.channels;
        for image in 0..5 {
            let alone = Pictures { batch: 1, at: input.at[image * one..][..one].to_vec(), ..input.clone() };
            let alone = run(vec![case.step(None)], &alone, options(8, (2, isa)));
            assert_eq!(alone, together[image * alone.len()..][..alone.len()], "{}", isa.name());
        }
        if isa != Isa::PORTABLE {
            let best = run(vec![case.step(None)], &input, options(5, (1, Isa::best())));
            assert_eq!(together, best, "{} as {}", isa.name(), Isa::best().name());
        }
    }
}

/// Three convolutions in a row and a mean, over slots 0, 1, 2, 1, 2.
fn chain() -> Vec<Step> {
    let place = |slot, side| Place { slot, map: Map::new(side, side, 16) };
    let (weight, bias) = (noise(2, 16 * 16 * 9), noise(3, 16));
    let conv = |stride| Op::Conv {
        panels: Panels::pack(&weight, &bias, 16, 3).unwrap(),
        window: same(3, stride),
        activation: Activation::Relu,
        addend: None,
        method: Method::Fastest,
    };
    vec![
        Step::new(conv(1), place(0, 8), place(1, 8)).unwrap(),
        Step::new(conv(2), place(1, 8), place(2, 4)).unwrap(),
        Step::new(conv(1), place(2, 4), place(1, 4)).unwrap(),
        Step::new(Op::AveragePool, place(1, 4), place(2, 1)).unwrap(),
    ]
}

#[test]
fn a_head_that_images_pass_in_groups_changes_nothing() {
    let input = Pictures::noise(1, [5, 8, 8, 16]);
    let whole = run(chain(), &input, options(5, (1, Isa::best())));
    for (steps, images) in [(1, 1), (2, 2), (2, 3), (2, 5), (2, 9), (2, 0)] {
        for max_batch in [5, 7] {
            let head = Head { steps, images };
            let found =
                run(chain(), &input, ExecutorOptions { head, ..options(max_batch, (2, Isa::best())) });
            assert_eq!(found, whole, "{head:?}");
        }
    }
    // What leaves the head would be overwritten by the next group.
    let head = Head { steps: 3, images: 2 };
    assert!(Executor::new(chain(), ExecutorOptions { head, ..options(5, (1, Isa::best())) }).is_err());
}

/// The steps of an inverted bottleneck over 40x40 pixels, wide enough to be done in stripes: to 64 channels, across, and to
/// `narrow` channels. `slots` are each step's source and target; the last one may have an addend: its slot and channels.
fn bottleneck(
    window: Window,
    slots: [[usize; 2]; 3],
    narrow: usize,
    addend: Option<[usize; 2]>,
) -> Vec<Step> {
    let (side, after) = (40, 40_usize.div_ceil(window.stride));
    let place = |slot, side, channels| Place { slot, map: Map::new(side, side, channels) };
    let conv = |inputs: usize, outputs: usize, activation, addend| Op::Conv {
        panels: Panels::pack(&noise(2, outputs * inputs), &noise(3, outputs), inputs, 1).unwrap(),
        window: same(1, 1),
        activation,
        addend,
        method: Method::Fastest,
    };
    let weight = noise(4, 64 * window.kernel.pow(2));
    let weights = Panels::pack_depthwise(&weight, &noise(5, 64), window.kernel).unwrap();
    let across = Op::Depthwise { weights, window, activation: Activation::Relu6 };
    let addend = addend.map(|[slot, channels]| place(slot, after, channels));
    let steps = [
        (conv(24, 64, Activation::Relu6, None), [side, side], [24, 64]),
        (across, [side, after], [64, 64]),
        (conv(64, narrow, Activation::Linear, addend), [after, after], [64, narrow]),
    ];
    let step = |((op, sides, channels), slots): ((Op, [usize; 2], [usize; 2]), [usize; 2])| {
        let [source, target] = [0, 1].map(|end| place(slots[end], sides[end], channels[end]));
        Step::new(op, source, target).unwrap()
    };
    steps.into_iter().zip(slots).map(step).collect()
}

#[test]
fn stripes_change_nothing() {
    let input = Pictures::noise(1, [3, 40, 40, 24]);
    let late = |kernel| Window { kernel, stride: 2, pad: kernel / 2 - 1 };
    for window in [same(1, 1), same(3, 1), same(3, 2), same(5, 1), same(5, 2), late(3), late(5)] {
        // Each step as a network of its own, in which there is nothing to keep from memory.
        let mut expected = input.clone();
        for (at, channels) in [64, 64, 24].into_iter().enumerate() {
            let step = bottleneck(window, [[0, 1]; 3], 24, None).remove(at);
            let found = run(vec![step], &expected, options(3, (1, Isa::best())));
            let side = 40_usize.div_ceil(if at > 0 { window.stride } else { 1 });
            let at = found.into_iter().map(f64::from).collect();
            expected = Pictures { batch: 3, height: side, width: side, channels, at };
        }
        let expected: Vec<f32> = expected.at.iter().map(|&value| value as f32).collect();
        // Slots that all differ, that come again, and where the end would overwrite the beginning.
        for slots in [[[0, 1], [1, 2], [2, 3]], [[0, 1], [1, 2], [2, 1]], [[0, 1], [1, 2], [2, 0]]] {
            for threads in 1..=3 {
                let steps = bottleneck(window, slots, 24, None);
                let found = run(steps, &input, options(4, (threads, Isa::best())));
                assert!(found == expected, "{window:?} {slots:?} {threads} threads");
            }
        }
    }
}

#[test]
fn stripes_may_add_what_they_began_with_and_keep_what_is_read_again() {
    let input = Pictures::noise(1, [2, 40, 40, 24]);
    let slots = [[0, 1], [1, 2], [2, 3]];
    let steps = |narrow, addend| bottleneck(same(3, 1), slots, narrow, addend);
    let wide = run(vec![steps(24, None).remove(0)], &input, options(2, (1, Isa::best())));
    let wide: Vec<f64> = wide.into_iter().map(f64::from).collect();
    for (addend, narrow, added) in [([0, 24], 24, &input.at), ([1, 64], 64, &wide)] {
        let plain = run(steps(narrow, None), &input, options(2, (1, Isa::best())));
        let expected: Vec<f64> =
            plain.iter().zip(added).map(|(plain, added)| f64::from(*plain) + added).collect();
        for threads in 1..=2 {
            let found = run(steps(narrow, Some(addend)), &input, options(2, (threads, Isa::best())));
            assert_close(&found, &expected, 1e-5, &format!("{addend:?} {threads} threads"));
        }
    }
}

/// Every kernel once, small enough for Miri: `cargo +nightly miri test -p kernels --test conv miniature`.
#[test]
fn a_network_in_miniature_scores_the_same_every_way() {
    let place = |slot, side, channels| Place { slot, map: Map::new(side, side, channels) };
    let conv = |inputs: usize, outputs: usize, window: Window, addend| Op::Conv {
        panels: Panels::pack(
            &noise(2, outputs * inputs * window.kernel.pow(2)),
            &noise(3, outputs),
            inputs,
            window.kernel,
        )
        .unwrap(),
        window,
        activation: Activation::Relu6,
        addend,
        method: Method::Fastest,
    };
    let steps = || {
        let weights = Panels::pack_depthwise(&noise(4, 16 * 9), &noise(5, 16), 3).unwrap();
        let across = Op::Depthwise { weights, window: same(3, 1), activation: Activation::Linear };
        let stem = Place { slot: 0, map: Map::input(7, 7, 3, 1) };
        vec![
            Step::new(conv(3, 16, same(3, 2), None), stem, place(1, 4, 16)).unwrap(),
            Step::new(Op::MaxPool { window: same(3, 1) }, place(1, 4, 16), place(2, 4, 16)).unwrap(),
            Step::new(across, place(2, 4, 16), place(3, 4, 16)).unwrap(),
            Step::new(conv(16, 16, same(3, 1), Some(place(2, 4, 16))), place(3, 4, 16), place(2, 4, 16))
                .unwrap(),
            Step::new(conv(16, 17, same(3, 2), None), place(2, 4, 16), place(1, 2, 17)).unwrap(),
            Step::new(Op::AveragePool, place(1, 2, 17), place(2, 1, 17)).unwrap(),
            Step::new(conv(17, 5, same(1, 1), None), place(2, 1, 17), place(1, 1, 5)).unwrap(),
        ]
    };
    let kernels: Vec<Kernel> = steps().iter().map(Step::kernel).collect();
    use Kernel::{AveragePool, Depthwise, Implicit, MaxPool, Pointwise, Rows, Winograd};
    assert_eq!(kernels, [Rows, MaxPool, Depthwise, Winograd, Implicit, AveragePool, Pointwise]);
    let input = Pictures::noise(1, [2, 7, 7, 3]);
    let expected = run(steps(), &input, options(2, (1, Isa::PORTABLE)));
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    for way in every_way().chain([(2, Isa::PORTABLE)]) {
        let head = Head { steps: 2, images: 1 };
        let found = run(steps(), &input, ExecutorOptions { head, ..options(2, way) });
        assert_close(&found, &expected, 1e-4, &format!("{way:?}"));
    }
}

#[test]
fn a_nan_reaches_the_output_through_every_step() {
    for isa in Isa::available() {
        let mut input = Pictures::noise(1, [1, 6, 6, 16]);
        input.at[16 * 14] = f64::NAN;
        let at = |slot, side| Place { slot, map: Map::new(side, side, 16) };
        let (weight, bias) = (noise(2, 16 * 16 * 9), noise(3, 16));
        let conv = |method| Op::Conv {
            panels: Panels::pack(&weight, &bias, 16, 3).unwrap(),
            window: same(3, 1),
            activation: Activation::Relu6,
            addend: None,
            method,
        };
        let steps = vec![
            Step::new(Op::MaxPool { window: same(3, 1) }, at(0, 6), at(1, 6)).unwrap(),
            Step::new(conv(Method::Direct), at(1, 6), at(0, 6)).unwrap(),
            Step::new(conv(Method::Fastest), at(0, 6), at(1, 6)).unwrap(),
            Step::new(Op::AveragePool, at(1, 6), at(0, 1)).unwrap(),
        ];
        let output = run(steps, &input, options(1, (1, isa)));
        assert!(output.iter().all(|value| value.is_nan()), "{output:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (weight, bias) = (noise(1, 16 * 8 * 9), noise(2, 16));
    let conv = |window, addend| Op::Conv {
        panels: Panels::pack(&weight, &bias, 8, 3).unwrap(),
        window,
        activation: Activation::Relu,
        addend,
        method: Method::Fastest,
    };
    let place = |slot, side, channels| Place { slot, map: Map::new(side, side, channels) };
    let refused = |op, source, target| Step::new(op, source, target).is_err();
    let good = || conv(same(3, 1), None);
    assert!(!refused(good(), place(0, 9, 8), place(1, 9, 16)));
    assert!(refused(good(), place(1, 9, 8), place(1, 9, 16)), "source is target");
    assert!(refused(good(), place(0, 9, 7), place(1, 9, 16)), "inputs");
    assert!(refused(good(), place(0, 9, 8), place(1, 9, 17)), "outputs");
    assert!(refused(good(), place(0, 0, 8), place(1, 9, 16)), "nothing");
    assert!(refused(good(), place(0, 9, 8), place(1, usize::MAX, 16)), "everything");
    assert!(refused(conv(same(1, 1), None), place(0, 9, 8), place(1, 9, 16)), "kernel");
    assert!(refused(conv(same(3, 0), None), place(0, 9, 8), place(1, 9, 16)), "stride");
    let addend = Some(place(1, 8, 16));
    assert!(refused(conv(same(3, 1), addend), place(0, 9, 8), place(1, 9, 16)), "addend");
    let bare = Place { slot: 1, map: Map::input(9, 9, 3, 1) };
    assert!(refused(good(), place(0, 9, 8), bare), "no room for panels");
    let pool = Op::MaxPool { window: same(3, 2) };
    assert!(refused(pool, place(0, 9, 8), place(1, 7, 8)), "windows beyond the picture");
    let none = Executor::new(Vec::new(), options(1, (1, Isa::best())));
    assert!(matches!(none, Err(ConvError::Empty)));
    let step = Step::new(good(), place(0, 9, 8), place(usize::MAX - 1, 9, 16)).unwrap();
    assert!(Executor::new(vec![step], options(1, (1, Isa::best()))).is_err());
}
