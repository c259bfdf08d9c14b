//! Logits of the CPU engine at every depth, Winograd on: against the candle engine (always), and against torch's where the
//! shared fixtures are.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "how close the logits are, for whoever asks with --nocapture")]

use std::fs;
use std::path::{Path, PathBuf};

use convoy::image::Prepared;
use convoy::vision::cpu::{CpuEngine, CpuOptions};
use convoy::vision::fold::Network;
use convoy::vision::random::{Recipe, Stream};
use convoy::vision::{Arch, CandleEngine, Checkpoint, Engine, INPUT_SIZE, Picture};
use safetensors::tensor::SafeTensors;

/// Largest difference from torch's logits that any test allows.
const TOLERANCE: f64 = 1e-3;
const OPTIONS: CpuOptions = CpuOptions { max_batch: 8, threads: 2 };
const SIDE: usize = INPUT_SIZE as usize;

fn engine(recipe: &Recipe) -> CpuEngine {
    CpuEngine::new(&mut recipe.clone(), OPTIONS).unwrap()
}

fn random_image(name: &str) -> Picture {
    let values = Stream::new(name, 0, 3 * SIDE * SIDE).uniform(0.0, 256.0);
    Prepared { pixels: values.into_iter().map(|v| v as u8).collect(), size: INPUT_SIZE }.into()
}

fn max_difference(a: &[f32], b: impl IntoIterator<Item = f64>) -> f64 {
    let differences: Vec<f64> = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).abs()).collect();
    assert_eq!(differences.len(), a.len());
    assert!(a.iter().all(|v| v.is_finite()));
    differences.into_iter().fold(0.0, f64::max)
}

#[test]
fn every_depth_agrees_with_candle() {
    let image = random_image("image");
    for arch in Arch::ALL {
        let recipe = Recipe { classes: 11, fc_sd: 0.05, ..Recipe::new(arch) };
        let network = Network::read(&mut recipe.clone()).unwrap();
        let expected = CandleEngine::new(network, 2).unwrap().forward(&[&image]).unwrap();
        let logits = engine(&recipe).forward(&[&image]).unwrap();
        let difference = max_difference(&logits, expected.iter().map(|&v| f64::from(v)));
        assert!(difference < TOLERANCE, "{arch}: {difference}");
    }
}

#[test]
fn an_image_scores_the_same_alone_in_any_batch_and_on_any_number_of_threads() {
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        let engine = |max_batch, threads| {
            CpuEngine::new(&mut Recipe::new(arch), CpuOptions { max_batch, threads }).unwrap()
        };
        let images: Vec<Picture> = (0..5).map(|n| random_image(&format!("image.{n}"))).collect();
        let images: Vec<&Picture> = images.iter().collect();
        let together = engine(5, 1).forward(&images).unwrap();
        let mut other = engine(3, 3);
        assert_eq!(other.forward(&images).unwrap(), together, "{arch}: batches of 3 on 3 threads");
        let alone: Vec<f32> = images.iter().flat_map(|image| other.forward(&[image]).unwrap()).collect();
        assert_eq!(alone, together, "{arch}: alone");
        assert_ne!(together[..1000], together[1000..2000], "{arch}");
    }
}

/// Weights and a quarter, and 60 MB: what an engine may keep for batches of eight.
#[test]
fn memory_is_that_of_the_weights_and_little_more() {
    for arch in [Arch::ResNet50, Arch::ResNet152, Arch::EfficientNetLite0] {
        let recipe = Recipe::new(arch);
        let mut engine = engine(&recipe);
        let executor = engine.executor();
        let weights = 4 * arch.parameters(recipe.classes);
        let bytes = executor.weight_bytes() + executor.working_bytes();
        println!("{arch}: {bytes} bytes for {weights} of weights, {} of work", executor.working_bytes());
        assert!(bytes <= weights + weights / 4 + 60_000_000, "{arch}: {bytes} bytes");
        assert!(executor.weight_bytes() > weights * 9 / 10, "{arch}");
    }
}

#[test]
fn an_image_of_another_size_is_refused() {
    let recipe = Recipe { classes: 2, ..Recipe::new(Arch::ResNet18) };
    let mut engine = engine(&recipe);
    let short = vec![0.0; 3 * SIDE * SIDE - 1];
    assert!(engine.forward(&[&random_image("image"), &Picture::Normalised(short.into())]).is_err());
    assert_eq!(engine.forward(&[]).unwrap(), Vec::<f32>::new());
}

#[test]
fn resnet18_agrees_with_torch_on_every_image() {
    agree("resnet18", usize::MAX);
}

#[test]
fn resnet50_agrees_with_torch_on_every_image() {
    agree("resnet50", usize::MAX);
}

#[test]
fn resnet152_agrees_with_torch_on_every_image() {
    agree("resnet152-grown", usize::MAX);
    agree("resnet152-seed0", usize::MAX);
}

#[test]
fn every_resnet_agrees_with_torch_on_random_weights() {
    let Some(shared) = shared() else { return };
    let refs = fs::read(shared.join("fixtures/refs/synthetic.json")).unwrap();
    let refs: serde_json::Value = serde_json::from_slice(&refs).unwrap();
    // `[3, side, side]` to `[side, side, 3]`.
    let interleaved = |planes: Vec<f32>| -> Vec<f32> {
        (0..SIDE * SIDE).flat_map(|at| [0, 1, 2].map(|c| planes[c * SIDE * SIDE + at])).collect()
    };
    let input = ["input.0", "input.1"].map(|name| {
        let planes = Stream::new(name, 0, 3 * SIDE * SIDE).uniform(-2.0, 2.0);
        Picture::Normalised(interleaved(planes).into())
    });
    for arch in Arch::ALL.into_iter().filter(|&arch| arch != Arch::EfficientNetLite0) {
        let recipe = Recipe { fc_sd: 0.05, ..Recipe::new(arch) };
        let logits = engine(&recipe).forward(&input.each_ref()).unwrap();
        let rows = refs[arch.name()]["logits_f64"].as_array().unwrap();
        let expected = rows.iter().flat_map(|row| row.as_array().unwrap()).map(|v| v.as_f64().unwrap());
        let difference = max_difference(&logits, expected);
        assert!(difference < TOLERANCE, "{arch}: {difference}");
    }
}

/// The shared fixtures, where this checkout lies beside them.
fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    path.exists().then_some(path)
}

/// Compares the first `limit` images of both modes that have prepared pixels and reference logits.
fn agree(model: &str, limit: usize) {
    let Some(shared) = shared() else { return };
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(".cache/weights/{model}.safetensors"));
    assert!(weights.exists(), "{} is missing: `make test` expands it", weights.display());
    let mut engine = CpuEngine::new(&mut Checkpoint::open(&weights, None).unwrap(), OPTIONS).unwrap();
    for mode in ["A", "B"] {
        let refs = fs::read(shared.join(format!("fixtures/refs/{model}__{mode}.safetensors"))).unwrap();
        let refs = SafeTensors::deserialize(&refs).unwrap();
        let pixels = |key: &str| shared.join(format!("fixtures/prep/{mode}/{}.png", key.replace('#', "__")));
        let mut keys: Vec<&str> = refs.names();
        keys.retain(|key| pixels(key).exists());
        keys.sort_unstable();
        keys.truncate(limit);
        assert!(keys.len() >= 2, "{model} {mode}: {} images", keys.len());
        let images: Vec<Picture> = keys.iter().map(|key| prepared(&pixels(key))).collect();
        let logits = engine.forward(&images.iter().collect::<Vec<_>>()).unwrap();
        let floats = |bytes: &[u8]| -> Vec<f64> {
            bytes.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
        };
        let expected = keys.iter().flat_map(|key| floats(refs.tensor(key).unwrap().data()));
        let difference = max_difference(&logits, expected);
        assert!(difference < TOLERANCE, "{model} {mode}: {difference}");
    }
}

fn prepared(path: &Path) -> Picture {
    let image = image::open(path).unwrap().into_rgb8();
    assert_eq!(image.dimensions(), (INPUT_SIZE, INPUT_SIZE), "{}", path.display());
    Prepared { pixels: image.into_raw(), size: INPUT_SIZE }.into()
}
