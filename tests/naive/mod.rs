//! Both families in f64 by the letter, the oracle of the engines: loops for convolutions, BatchNorm as its formula,
//! padding as its publisher words it, wiring from the key names and the papers' tables.

use std::collections::HashMap;

use convoy::vision::random::Recipe;

/// Channels, height, width.
pub(crate) struct Map {
    pub(crate) shape: [usize; 3],
    pub(crate) at: Vec<f64>,
}

/// What distinguishes the publishers' layers.
#[derive(Clone, Copy)]
enum Publisher {
    Torch,
    TensorFlow,
}

struct Network {
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
    publisher: Publisher,
}

pub(crate) fn logits(recipe: &Recipe, image: &Map) -> Vec<f64> {
    let f64s = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    let tensors: HashMap<_, _> =
        recipe.tensors().map(|(spec, values)| (spec.name, (spec.shape, f64s(values)))).collect();
    if tensors.contains_key("_conv_stem.weight") {
        Network { tensors, publisher: Publisher::TensorFlow }.efficientnet(image)
    } else {
        Network { tensors, publisher: Publisher::Torch }.resnet(image)
    }
}

impl Network {
    fn resnet(&self, image: &Map) -> Vec<f64> {
        let mut x = max_pool(&relu(self.conv_norm(image, "conv1", "bn1", 2)));
        for stage in 1..=4 {
            for index in 0.. {
                let name = format!("layer{stage}.{index}");
                if !self.has(&format!("{name}.conv1")) {
                    break;
                }
                x = self.residual(x, &name, if stage > 1 && index == 0 { 2 } else { 1 });
            }
        }
        self.classify(&x, "fc")
    }

    fn residual(&self, x: Map, name: &str, stride: usize) -> Map {
        let part = |x: &Map, n: usize, stride| {
            self.conv_norm(x, &format!("{name}.conv{n}"), &format!("{name}.bn{n}"), stride)
        };
        let mut y = match self.has(&format!("{name}.conv3")) {
            true => part(&relu(part(&relu(part(&x, 1, 1)), 2, stride)), 3, 1),
            false => part(&relu(part(&x, 1, stride)), 2, 1),
        };
        let (down, norm) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        let shortcut = if self.has(&down) { self.conv_norm(&x, &down, &norm, stride) } else { x };
        y.at.iter_mut().zip(&shortcut.at).for_each(|(y, x)| *y += x);
        relu(y)
    }

    fn efficientnet(&self, image: &Map) -> Vec<f64> {
        let strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1];
        let mut x = relu6(self.conv_norm(image, "_conv_stem", "_bn0", 2));
        for (index, stride) in strides.into_iter().enumerate() {
            x = self.inverted(x, &format!("_blocks.{index}"), stride);
        }
        self.classify(&relu6(self.conv_norm(&x, "_conv_head", "_bn1", 1)), "_fc")
    }

    fn inverted(&self, x: Map, name: &str, stride: usize) -> Map {
        let part = |x: &Map, what: &str, n: usize, stride| {
            self.conv_norm(x, &format!("{name}._{what}_conv"), &format!("{name}._bn{n}"), stride)
        };
        let wide = self.has(&format!("{name}._expand_conv")).then(|| relu6(part(&x, "expand", 0, 1)));
        let deep = relu6(part(wide.as_ref().unwrap_or(&x), "depthwise", 1, stride));
        let mut y = part(&deep, "project", 2, 1);
        if y.shape == x.shape && stride == 1 {
            y.at.iter_mut().zip(&x.at).for_each(|(y, x)| *y += x);
        }
        y
    }

    fn has(&self, conv: &str) -> bool {
        self.tensors.contains_key(&format!("{conv}.weight"))
    }

    fn classify(&self, x: &Map, fc: &str) -> Vec<f64> {
        let plane = x.shape[1] * x.shape[2];
        let pooled: Vec<f64> = x.at.chunks(plane).map(|p| p.iter().sum::<f64>() / plane as f64).collect();
        let dot = |row: &[f64]| row.iter().zip(&pooled).map(|(w, x)| w * x).sum::<f64>();
        let rows = self.tensors[&format!("{fc}.weight")].1.chunks(pooled.len());
        rows.zip(&self.tensors[&format!("{fc}.bias")].1).map(|(row, bias)| dot(row) + bias).collect()
    }

    fn conv_norm(&self, x: &Map, conv: &str, norm: &str, stride: usize) -> Map {
        let (shape, weight) = &self.tensors[&format!("{conv}.weight")];
        let slide = Slide::new(self.publisher, [x.shape[1], x.shape[2]], shape[2], stride);
        let epsilon = match self.publisher {
            Publisher::Torch => 1e-5,
            Publisher::TensorFlow => 1e-3,
        };
        let [gamma, beta, mean, var] = ["weight", "bias", "running_mean", "running_var"]
            .map(|what| &self.tensors[&format!("{norm}.{what}")].1);
        // A depthwise convolution's outputs each see one channel.
        let seen = |output: usize| if shape[1] == x.shape[0] { 0..shape[1] } else { output..output + 1 };
        slide.map(shape[0], |output, position| {
            let filter = &weight[output * shape[1] * shape[2] * shape[2]..];
            let taps = slide.taps(x, seen(output), position);
            let sum: f64 = taps.map(|(k, v)| filter[k] * v).sum();
            (sum - mean[output]) / (var[output] + epsilon).sqrt() * gamma[output] + beta[output]
        })
    }
}

fn relu(mut x: Map) -> Map {
    x.at.iter_mut().for_each(|v| *v = v.max(0.0));
    x
}

fn relu6(mut x: Map) -> Map {
    x.at.iter_mut().for_each(|v| *v = v.clamp(0.0, 6.0));
    x
}

fn max_pool(x: &Map) -> Map {
    let slide = Slide::new(Publisher::Torch, [x.shape[1], x.shape[2]], 3, 2);
    slide.map(x.shape[0], |channel, position| {
        slide.taps(x, channel..channel + 1, position).map(|(_, v)| v).fold(f64::MIN, f64::max)
    })
}

/// A window's walk over a picture.
struct Slide {
    kernel: usize,
    stride: usize,
    /// Rows and columns of padding before the picture.
    before: [usize; 2],
    /// Rows and columns of positions.
    outputs: [usize; 2],
}

impl Slide {
    fn new(publisher: Publisher, size: [usize; 2], kernel: usize, stride: usize) -> Self {
        let side = |n: usize| match publisher {
            Publisher::Torch => (kernel / 2, (n + 2 * (kernel / 2) - kernel) / stride + 1),
            Publisher::TensorFlow => {
                let outputs = n.div_ceil(stride);
                (((outputs - 1) * stride + kernel).saturating_sub(n) / 2, outputs)
            }
        };
        let [rows, columns] = size.map(side);
        Self { kernel, stride, before: [rows.0, columns.0], outputs: [rows.1, columns.1] }
    }

    /// A map of `value(channel, position)`.
    fn map(&self, channels: usize, value: impl Fn(usize, [usize; 2]) -> f64) -> Map {
        let [rows, columns] = self.outputs;
        let plane = |c: usize| (0..rows * columns).map(move |p| (c, [p / columns, p % columns]));
        let at = (0..channels).flat_map(plane).map(|(c, position)| value(c, position)).collect();
        Map { shape: [channels, rows, columns], at }
    }

    /// The values of `channels` under the window, each with its place in a `[channel, ky, kx]` filter.
    fn taps<'a>(
        &'a self,
        x: &'a Map,
        channels: std::ops::Range<usize>,
        [row, column]: [usize; 2],
    ) -> impl Iterator<Item = (usize, f64)> + 'a {
        let [_, height, width] = x.shape;
        let area = self.kernel * self.kernel;
        (0..channels.len() * area).filter_map(move |k| {
            let (c, ky, kx) = (channels.start + k / area, k % area / self.kernel, k % self.kernel);
            let y = (row * self.stride + ky).checked_sub(self.before[0]).filter(|&y| y < height)?;
            let z = (column * self.stride + kx).checked_sub(self.before[1]).filter(|&z| z < width)?;
            Some((k, x.at[(c * height + y) * width + z]))
        })
    }
}
