//! Seeded random checkpoints in the publisher's layout: a placeholder that loads, runs and costs what the real network
//! does, and the weights of tests. It classifies nothing.
//!
//! Every number depends only on the seed, the tensor's name and the element's index, by integer hashing and IEEE
//! doubles alone, so that any language can rebuild the same bits:
//!
//! * `bits(name, seed, i) = mix(base + (i + 1) * G)`, the splitmix64 stream (Steele et al. 2014) with
//!   `G = 0x9E3779B97F4A7C15` and `base = fnv1a64(name) ^ seed * G`, all modulo 2^64;
//! * `uniform(lo, hi) = lo + (bits >> 11) * 2^-53 * (hi - lo)`;
//! * `normal(sd) = (a + b + c + d - 131070) * (sd / L)` over the four 16-bit lanes of `bits`, where `L` is the standard
//!   deviation of such a sum.
//!
//! Convolutions are `N(0, 2 / fan_in)` (He et al. 2015), the fan of a depthwise one being its window; BatchNorm gamma
//! `U(0.5, 1)`, beta and running mean `N(0, 0.1^2)`, running variance `U(0.5, 1.5)`; the fully connected layer's weight
//! is `N(0, fc_sd^2)` and its bias `N(0, 0.1^2)`. Gamma and beta of the last BatchNorm of a block are scaled by 0.2 where
//! a shortcut is added, which keeps a deep network from blowing up, and by 1.5 where none is, which keeps the picture
//! from fading among the biases.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::arch::{Arch, Shortcut, TensorSpec};
use super::fold::TensorSource;
use super::weights::{RANDOM_KEY, WeightsError};

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
/// Mean of a sum of four uniform 16-bit integers.
const LANE_MEAN: i64 = 131_070;
/// Units of [`Recipe::center`] per 1.0.
const CENTER_SCALE: f64 = 4096.0;

/// Everything that determines a random checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Which network.
    pub arch: Arch,
    /// Outputs of the last layer.
    pub classes: usize,
    /// The same seed gives the same bits.
    pub seed: u64,
    /// Standard deviation of the fully connected layer's weight.
    pub fc_sd: f64,
    /// The typical pooled feature vector in 1/4096, one entry a feature: the fully connected
    /// layer's bias is reduced by `weight . center`.
    /// Without it a random network gives every image nearly the same logits.
    pub center: Option<Vec<i32>>,
}

/// Why a random checkpoint was not written.
#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    /// The centre does not belong to this architecture.
    #[error("the centre has {found} entries, {arch} has {expected} features")]
    Center {
        /// Architecture asked for.
        arch: Arch,
        /// Its features.
        expected: usize,
        /// Entries given.
        found: usize,
    },
    /// The file could not be written; nothing is left at `path` that was not there before.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where the checkpoint should have gone.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Recipe {
    /// 1000 classes, seed 0, no centre, and an `fc_sd` at which logits stay within a few tens for any image.
    pub fn new(arch: Arch) -> Self {
        Self { arch, classes: 1000, seed: 0, fc_sd: 0.05, center: None }
    }

    /// Every floating-point tensor with its numbers, in `state_dict` order.
    pub fn tensors(&self) -> impl Iterator<Item = (TensorSpec, Vec<f32>)> + '_ {
        let layout = self.arch.layout(self.classes);
        layout.into_iter().filter(|spec| !spec.is_counter()).map(|spec| {
            let values = self.values(&spec);
            (spec, values)
        })
    }

    /// Writes the checkpoint as f32 safetensors through a temporary file beside `path`, so that `path` never holds half
    /// a checkpoint.
    ///
    /// # Errors
    /// A centre of the wrong length, or what the file system says.
    pub fn write(&self, path: &Path) -> Result<(), RandomError> {
        let (expected, found) = (self.arch.features(), self.center.as_ref().map_or(0, Vec::len));
        if self.center.is_some() && expected != found {
            return Err(RandomError::Center { arch: self.arch, expected, found });
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let written = self.write_to(&partial).and_then(|()| fs::rename(&partial, path));
        written.map_err(|source| {
            // The temporary file may never have come to be.
            let _ = fs::remove_file(&partial);
            RandomError::Write { path: path.into(), source }
        })
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        let mut layout = self.arch.layout(self.classes);
        // The order of the reference writer: wide elements first, then by name.
        layout.sort_by(|a, b| b.is_counter().cmp(&a.is_counter()).then_with(|| a.name.cmp(&b.name)));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&self.header(&layout)?)?;
        let mut bytes = Vec::new();
        for spec in &layout {
            bytes.clear();
            match spec.is_counter() {
                true => bytes.extend(0_i64.to_le_bytes()),
                false => bytes.extend(self.values(spec).into_iter().flat_map(f32::to_le_bytes)),
            }
            out.write_all(&bytes)?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// Length prefix and JSON, padded to eight bytes as the format asks.
    fn header(&self, layout: &[TensorSpec]) -> io::Result<Vec<u8>> {
        let mut end = 0;
        let info = |spec: &TensorSpec| {
            let (dtype, size) = if spec.is_counter() { (Dtype::I64, 8) } else { (Dtype::F32, 4) };
            let start = end;
            end += spec.elements() * size;
            (spec.name.clone(), TensorInfo { dtype, shape: spec.shape.clone(), data_offsets: (start, end) })
        };
        let infos = layout.iter().map(info).collect();
        let about = HashMap::from([(RANDOM_KEY.into(), format!("seed={}", self.seed))]);
        let metadata = Metadata::new(Some(about), infos).map_err(io::Error::other)?;
        let mut json = serde_json::to_vec(&metadata)?;
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        Ok(header)
    }

    fn values(&self, spec: &TensorSpec) -> Vec<f32> {
        let stream = Stream::new(&spec.name, self.seed, spec.elements());
        let (module, what) = spec.name.rsplit_once('.').expect("bug: every tensor belongs to a module");
        match (module, what, spec.shape.as_slice()) {
            (fc, "weight", _) if fc == self.arch.fc() => stream.normal(self.fc_sd),
            (fc, _, _) if fc == self.arch.fc() => self.centred(stream.normal(0.1)),
            (_, _, &[_, depth, height, width]) => {
                stream.normal((2.0 / (depth * height * width) as f64).sqrt())
            }
            (norm, "weight", _) => stream.uniform(0.5 * self.gain(norm), self.gain(norm)),
            (norm, "bias", _) => stream.normal(0.1 * self.gain(norm)),
            (_, "running_mean", _) => stream.normal(0.1),
            _ => stream.uniform(0.5, 1.5),
        }
    }

    /// By how much gamma and beta of a BatchNorm are scaled.
    fn gain(&self, norm: &str) -> f64 {
        match self.arch.blueprint(1).ended_by(norm).map(|block| &block.shortcut) {
            None => 1.0,
            Some(Shortcut::None) => 1.5,
            Some(Shortcut::Identity | Shortcut::Projection(_)) => 0.2,
        }
    }

    /// Subtracts `weight . center`, with the product taken in integers so that it is exact.
    fn centred(&self, mut bias: Vec<f32>) -> Vec<f32> {
        let Some(center) = &self.center else { return bias };
        let weight = format!("{}.weight", self.arch.fc());
        let mut lanes = Stream::new(&weight, self.seed, self.classes * center.len()).lanes();
        for value in &mut bias {
            let dot: i64 = center.iter().zip(&mut lanes).map(|(&c, lane)| lane * i64::from(c)).sum();
            *value = (f64::from(*value) - dot as f64 * (self.fc_sd / lane_sd() / CENTER_SCALE)) as f32;
        }
        bias
    }
}

impl TensorSource for Recipe {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn tensor(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, WeightsError> {
        Ok(self.values(spec))
    }
}

/// Standard deviation of a sum of four uniform 16-bit integers.
fn lane_sd() -> f64 {
    ((65536.0_f64 * 65536.0 - 1.0) / 12.0 * 4.0).sqrt()
}

/// The random numbers of one tensor.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    base: u64,
    length: usize,
}

impl Stream {
    /// The first `length` numbers of the tensor called `name`.
    pub fn new(name: &str, seed: u64, length: usize) -> Self {
        Self { base: fnv1a64(name) ^ seed.wrapping_mul(GOLDEN), length }
    }

    /// Uniform numbers from `lo` up to `hi`.
    pub fn uniform(self, lo: f64, hi: f64) -> Vec<f32> {
        let unit = |bits: u64| (bits >> 11) as f64 * (0.5_f64).powi(53);
        self.bits().map(|bits| (lo + unit(bits) * (hi - lo)) as f32).collect()
    }

    /// Numbers of mean 0 and standard deviation `sd`, nearly normal.
    fn normal(self, sd: f64) -> Vec<f32> {
        let scale = sd / lane_sd();
        self.lanes().map(|lane| (lane as f64 * scale) as f32).collect()
    }

    /// The integers that `normal` scales.
    fn lanes(self) -> impl Iterator<Item = i64> {
        let lane = |bits: u64, n: u32| i64::from((bits >> (16 * n)) as u16);
        self.bits().map(move |bits| (0..4).map(|n| lane(bits, n)).sum::<i64>() - LANE_MEAN)
    }

    fn bits(self) -> impl Iterator<Item = u64> {
        (1..=self.length as u64).map(move |i| mix(self.base.wrapping_add(i.wrapping_mul(GOLDEN))))
    }
}

/// The output function of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fnv1a64(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_the_published_ones() {
        // FNV-1a test vectors of the reference implementation, and splitmix64's first output from state 0.
        assert_eq!(fnv1a64(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64("foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(mix(GOLDEN), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn moments_are_those_asked_for() {
        let n = 100_000;
        let moments = |values: Vec<f32>| {
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
            let var = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
            (mean, var.sqrt())
        };
        let (mean, sd) = moments(Stream::new("a", 1, n).normal(0.5));
        assert!(mean.abs() < 0.01 && (sd - 0.5).abs() < 0.01, "{mean} {sd}");
        let (mean, sd) = moments(Stream::new("a", 2, n).uniform(1.0, 3.0));
        assert!((mean - 2.0).abs() < 0.01 && (sd - 2.0 / 12.0_f64.sqrt()).abs() < 0.01, "{mean} {sd}");
    }

    #[test]
    fn a_seed_and_a_name_decide_the_numbers() {
        let first = |name, seed| Stream::new(name, seed, 4).uniform(0.0, 1.0);
        assert_eq!(first("conv1.weight", 0), first("conv1.weight", 0));
        assert_ne!(first("conv1.weight", 0), first("conv1.weight", 1));
        assert_ne!(first("conv1.weight", 0), first("fc.weight", 0));
    }

    #[test]
    fn the_centre_is_taken_out_of_the_bias_only() {
        let plain = Recipe { classes: 3, ..Recipe::new(Arch::ResNet18) };
        let centred = Recipe { center: Some(vec![4096; 512]), ..plain.clone() };
        let layout = Arch::ResNet18.layout(3);
        let (weight, bias) = (&layout[layout.len() - 2], &layout[layout.len() - 1]);
        assert_eq!(plain.values(weight), centred.values(weight));
        let sum: f32 = plain.values(weight)[..512].iter().sum();
        let shift = plain.values(bias)[0] - centred.values(bias)[0];
        assert!((shift - sum).abs() < 1e-4, "{shift} {sum}");
    }

    #[test]
    fn a_centre_of_the_wrong_length_and_an_absent_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let short = Recipe { center: Some(vec![0; 3]), ..Recipe::new(Arch::ResNet18) };
        assert!(matches!(
            short.write(&folder.path().join("a")),
            Err(RandomError::Center { expected: 512, .. })
        ));
        let lost = Recipe::new(Arch::ResNet18).write(&folder.path().join("none/a"));
        assert!(matches!(lost, Err(RandomError::Write { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
