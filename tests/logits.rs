//! Logits of every network: against a naive one written from the papers (always), and of the ResNets against torch's, on
//! the exact pixels torch was given (where the shared fixtures are).

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod naive;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use convoy::batch::Executor;
use convoy::image::Prepared;
use convoy::vision::arch::Arch;
use convoy::vision::fold::Network;
use convoy::vision::random::{Recipe, Stream};
use convoy::vision::{CandleEngine, Checkpoint, Classifier, ClassifyInput, Engine, INPUT_SIZE, Picture};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};

/// Largest difference from torch's logits that any test allows.
const TOLERANCE: f64 = 1e-4;
/// Threads of an engine here.
const THREADS: usize = 2;
/// Images an engine is given at once here.
const BATCH: usize = 8;

fn max_difference(a: &[f32], b: impl IntoIterator<Item = f64>) -> f64 {
    let differences: Vec<f64> = a.iter().zip(b).map(|(&a, b)| (f64::from(a) - b).abs()).collect();
    assert_eq!(differences.len(), a.len());
    assert!(a.iter().all(|v| v.is_finite()));
    differences.into_iter().fold(0.0, f64::max)
}

fn random_engine(recipe: &Recipe) -> CandleEngine {
    CandleEngine::new(Network::read(&mut recipe.clone()).unwrap(), THREADS).unwrap()
}

fn random_image(name: &str) -> Picture {
    let side = INPUT_SIZE as usize;
    let values = Stream::new(name, 0, 3 * side * side).uniform(0.0, 256.0);
    Prepared { pixels: values.into_iter().map(|v| v as u8).collect(), size: INPUT_SIZE }.into()
}

/// Compares one random picture's logits.
fn agrees_with_the_naive_network(arch: Arch, height: usize, width: usize) {
    let recipe = Recipe { classes: 11, ..Recipe::new(arch) };
    let input = Stream::new("input", 3, 3 * height * width).uniform(-2.0, 2.0);
    let image = naive::Map { shape: [3, height, width], at: input.iter().map(|&v| f64::from(v)).collect() };
    let expected = naive::logits(&recipe, &image);
    let logits = random_engine(&recipe).logits(input, height, width).unwrap();
    let difference = max_difference(&logits, expected);
    assert!(difference < TOLERANCE, "{arch} {height}x{width}: {difference}");
}

#[test]
fn every_network_agrees_with_the_naive_one() {
    // Not square, and odd in the deeper stages.
    Arch::ALL.into_iter().for_each(|arch| agrees_with_the_naive_network(arch, 40, 24));
}

#[test]
fn same_padding_agrees_with_the_naive_network_on_sides_of_any_parity() {
    for (height, width) in [(37, 53), (33, 18), (64, 31), (5, 3), (2, 1), (1, 1)] {
        agrees_with_the_naive_network(Arch::EfficientNetLite0, height, width);
    }
}

#[test]
fn an_image_scores_the_same_alone_and_in_any_batch() {
    for arch in [Arch::ResNet18, Arch::ResNet50, Arch::EfficientNetLite0] {
        let mut engine = random_engine(&Recipe::new(arch));
        let images: Vec<Picture> = (0..5).map(|n| random_image(&format!("image.{n}"))).collect();
        let together = engine.forward(&images.iter().collect::<Vec<_>>()).unwrap();
        let alone: Vec<f32> = images.iter().flat_map(|image| engine.forward(&[image]).unwrap()).collect();
        assert_eq!(together, alone, "{arch}");
        assert_ne!(together[..1000], together[1000..2000], "{arch}");
    }
}

#[test]
fn a_classifier_warms_up_and_ranks_what_the_engine_puts_out() {
    let recipe = Recipe { classes: 5, ..Recipe::new(Arch::ResNet18) };
    let mut classifier = Classifier::new(Box::new(random_engine(&recipe)), 2);
    classifier.warm_up().unwrap();
    let image = random_image("image");
    let logits = random_engine(&recipe).forward(&[&image]).unwrap();
    let answers = classifier.run(&[ClassifyInput { image, top: 5 }]).unwrap();
    let predictions = answers[0].as_ref().unwrap();
    let best = (0..5).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert_eq!(predictions[0].class as usize, best);
    assert!((predictions.iter().map(|p| p.probability).sum::<f32>() - 1.0).abs() < 1e-6);
}

#[test]
fn resnet18_agrees_with_torch_on_every_image() {
    agree("resnet18", &["A", "B"], usize::MAX);
}

#[test]
fn resnet50_agrees_with_torch_on_every_image() {
    agree("resnet50", &["A", "B"], usize::MAX);
}

#[test]
fn resnet152_agrees_with_torch() {
    agree("resnet152-grown", &["A", "B"], 3);
    agree("resnet152-seed0", &["A", "B"], 3);
}

#[test]
fn weights_rounded_to_half_precision_agree_with_torch() {
    let Some(shared) = shared() else { return };
    let f32s = fs::read(weights("resnet50")).unwrap();
    let f32s = SafeTensors::deserialize(&f32s).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (model, dtype) in [("resnet50-f16", Dtype::F16), ("resnet50-bf16", Dtype::BF16)] {
        let path = folder.path().join(model);
        round(&f32s, dtype, &path);
        agree_on(&shared, &path, model, "A", 8);
    }
}

#[test]
fn every_resnet_agrees_with_torch_on_random_weights() {
    let Some(shared) = shared() else { return };
    let refs: serde_json::Value = json(&shared.join("fixtures/refs/synthetic.json"));
    let side = INPUT_SIZE as usize;
    let input = ["input.0", "input.1"].map(|name| Stream::new(name, 0, 3 * side * side).uniform(-2.0, 2.0));
    for (name, reference) in refs.as_object().unwrap() {
        let arch: Arch = name.parse().unwrap();
        let recipe = Recipe { fc_sd: 0.05, ..Recipe::new(arch) };
        let engine = random_engine(&recipe);
        for (image, expected) in input.iter().zip(reference["logits_f64"].as_array().unwrap()) {
            let expected = expected.as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
            let difference = max_difference(&engine.logits(image.clone(), side, side).unwrap(), expected);
            assert!(difference < TOLERANCE, "{arch}: {difference}");
        }
    }
}

/// The shared fixtures, where this checkout lies beside them.
fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    path.exists().then_some(path)
}

/// An expanded weights file; absent although the fixtures are there is a failure.
fn weights(model: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(".cache/weights/{model}.safetensors"));
    assert!(path.exists(), "{} is missing: `make test` expands it", path.display());
    path
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn agree(model: &str, modes: &[&str], limit: usize) {
    let Some(shared) = shared() else { return };
    for mode in modes {
        agree_on(&shared, &weights(model), model, mode, limit);
    }
}

/// Compares the first `limit` images that have both prepared pixels and reference logits.
fn agree_on(shared: &Path, weights: &Path, model: &str, mode: &str, limit: usize) {
    let mut checkpoint = Checkpoint::open(weights, None).unwrap();
    let mut engine = CandleEngine::new(checkpoint.network().unwrap(), THREADS).unwrap();
    let refs = fs::read(shared.join(format!("fixtures/refs/{model}__{mode}.safetensors"))).unwrap();
    let refs = SafeTensors::deserialize(&refs).unwrap();
    let pixels = |key: &str| shared.join(format!("fixtures/prep/{mode}/{}.png", key.replace('#', "__")));
    let mut keys: Vec<&str> = refs.names();
    keys.retain(|key| pixels(key).exists());
    keys.sort_unstable();
    keys.truncate(limit);
    assert!(keys.len() >= limit.min(2), "{model} {mode}: {} images", keys.len());
    for keys in keys.chunks(BATCH) {
        let images: Vec<Picture> = keys.iter().map(|key| prepared(&pixels(key))).collect();
        let logits = engine.forward(&images.iter().collect::<Vec<_>>()).unwrap();
        for (key, row) in keys.iter().zip(logits.chunks_exact(engine.classes())) {
            let expected = refs.tensor(key).unwrap();
            let expected =
                expected.data().as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b)));
            let difference = max_difference(row, expected);
            assert!(difference < TOLERANCE, "{model} {mode} {key}: {difference}");
        }
    }
}

fn prepared(path: &Path) -> Picture {
    let image = image::open(path).unwrap().into_rgb8();
    assert_eq!(image.dimensions(), (INPUT_SIZE, INPUT_SIZE), "{}", path.display());
    Prepared { pixels: image.into_raw(), size: INPUT_SIZE }.into()
}

/// Writes every f32 tensor rounded to `dtype`.
fn round(tensors: &SafeTensors<'_>, dtype: Dtype, path: &Path) {
    let half = |bytes: &[u8; 4]| match (dtype, f32::from_le_bytes(*bytes)) {
        (Dtype::F16, value) => f16::from_f32(value).to_le_bytes(),
        (_, value) => bf16::from_f32(value).to_le_bytes(),
    };
    let floats = tensors.iter().filter(|(_, tensor)| tensor.dtype() == Dtype::F32);
    let rounded: HashMap<String, (Vec<usize>, Vec<u8>)> = floats
        .map(|(name, tensor)| {
            let bytes = tensor.data().as_chunks::<4>().0.iter().flat_map(half).collect();
            (name.to_owned(), (tensor.shape().to_vec(), bytes))
        })
        .collect();
    let views = rounded
        .iter()
        .map(|(name, (shape, bytes))| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}
