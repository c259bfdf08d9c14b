//! EfficientNet-Lite0: its checkpoint is made, found and refused as strictly as a ResNet's, and, where the published
//! weights and the shared photos are, its logits are those of its publisher's PyTorch model and it names what it sees.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use convoy::batch::Executor;
use convoy::image::{DecodeOptions, Prepared, prepare};
use convoy::vision::cpu::CpuOptions;
use convoy::vision::random::Recipe;
use convoy::vision::weights::WeightsError;
use convoy::vision::{
    Arch, CandleEngine, Checkpoint, Classifier, ClassifyInput, CpuEngine, Engine, INPUT_SIZE, Picture,
};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

const OPTIONS: CpuOptions = CpuOptions { max_batch: 8, threads: 2 };

#[test]
fn a_random_checkpoint_is_recognised_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lite0.safetensors");
    Recipe { classes: 7, ..Recipe::new(Arch::EfficientNetLite0) }.write(&path).unwrap();
    let mut checkpoint = Checkpoint::open(&path, None).unwrap();
    let info = checkpoint.info();
    assert_eq!((info.arch, info.classes, info.random), (Arch::EfficientNetLite0, 7, true));
    let network = checkpoint.network().unwrap();
    assert_eq!(network.blocks.len(), 17);
    assert_eq!(network.fc_weight.len(), 7 * 1280);
    let error = Checkpoint::open(&path, Some(Arch::ResNet50)).unwrap_err().to_string();
    assert!(error.contains("looks like a efficientnet-lite0"), "{error}");
}

#[test]
fn the_first_of_every_kind_of_fault_is_named() {
    let mut tensors: Vec<_> =
        Recipe { classes: 3, ..Recipe::new(Arch::EfficientNetLite0) }.tensors().collect();
    for (spec, values) in &mut tensors {
        match spec.name.as_str() {
            "_blocks.2._bn0.bias" => spec.name = "_blocks.2._bn9.bias".into(),
            // A dense kernel where a depthwise one belongs.
            "_blocks.0._depthwise_conv.weight" => {
                (spec.shape, *values) = (vec![32, 32, 3, 3], vec![0.0; 32 * 32 * 9]);
            }
            _ => {}
        }
    }
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let blobs: Vec<_> = tensors.into_iter().map(|(spec, values)| (spec, bytes(&values))).collect();
    let view = |shape: &Vec<usize>, blob| TensorView::new(Dtype::F32, shape.clone(), blob).unwrap();
    let views = blobs.iter().map(|(spec, blob)| (&spec.name, view(&spec.shape, blob)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lite0.safetensors");
    serialize_to_file(views, None, &path).unwrap();
    let error = Checkpoint::open(&path, None).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing.first.as_deref(), Some("_blocks.2._bn0.bias"));
    assert_eq!(mismatch.unexpected.first.as_deref(), Some("_blocks.2._bn9.bias"));
    let misshapen = ("_blocks.0._depthwise_conv.weight".into(), vec![32, 1, 3, 3], vec![32, 32, 3, 3]);
    assert_eq!(mismatch.misshapen.first, Some(misshapen));
    assert_eq!((mismatch.missing.count, mismatch.unexpected.count, mismatch.misshapen.count), (1, 1, 1));
}

#[test]
fn logits_are_the_publishers() {
    let Some((shared, mut checkpoint)) = published() else { return };
    let mut engines: [Box<dyn Engine>; 2] = [
        Box::new(CandleEngine::new(checkpoint.network().unwrap(), OPTIONS.threads).unwrap()),
        Box::new(CpuEngine::new(&mut checkpoint, OPTIONS).unwrap()),
    ];
    let references: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("golden/lite0_logits.json")).unwrap();
    assert_eq!(references.len(), 8);
    for (name, reference) in references {
        let image = image::open(shared.join("fixtures/prep/A").join(&name)).unwrap().into_rgb8();
        let image = Picture::from(Prepared { pixels: image.into_raw(), size: INPUT_SIZE });
        for engine in &mut engines {
            agree(&engine.forward(&[&image]).unwrap(), &reference, &name);
        }
    }
}

fn agree(logits: &[f32], reference: &serde_json::Value, name: &str) {
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    assert_eq!(serde_json::json!(classes[..5]), reference["best"], "{name}");
    let expected = reference["every_tenth"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
    let differences = logits.iter().step_by(10).zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    let largest = differences.fold(0.0, f64::max);
    assert!(largest < 1e-3, "{name}: {largest}");
}

#[test]
fn it_names_what_is_in_the_photos() {
    let Some((shared, mut checkpoint)) = published() else { return };
    let engine = CpuEngine::new(&mut checkpoint, OPTIONS).unwrap();
    let mut photos: Vec<PathBuf> =
        fs::read_dir(shared.join("fixtures/images")).unwrap().map(|entry| entry.unwrap().path()).collect();
    photos.sort();
    assert_eq!(photos.len(), 64);
    let transform = Arch::EfficientNetLite0.preprocessing().resize_crop(None);
    let options = DecodeOptions { max_pixels: 50_000_000, max_memory: 320 << 20, apply_orientation: true };
    let input = |path: &PathBuf| ClassifyInput {
        image: prepare(&fs::read(path).unwrap(), &options, transform, INPUT_SIZE).unwrap().into(),
        top: 5,
    };
    let mut classifier = Classifier::new(Box::new(engine), OPTIONS.max_batch);
    let answers = photos
        .chunks(OPTIONS.max_batch)
        .flat_map(|photos| classifier.run(&photos.iter().map(input).collect::<Vec<_>>()).unwrap());
    let (mut best, mut among) = (0, 0);
    for (index, answer) in answers.enumerate() {
        let class = index as u32 * 1000 / 64;
        let predictions = answer.unwrap();
        best += usize::from(predictions[0].class == class);
        among += usize::from(predictions.iter().any(|prediction| prediction.class == class));
    }
    assert!(best >= 55, "{best} of 64 named right");
    assert!(among >= 61, "{among} of 64 among the best five");
}

/// The shared fixtures and the published weights, where both are.
fn published() -> Option<(PathBuf, Checkpoint)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (shared, weights) =
        (root.join("../shared"), root.join(".cache/weights/efficientnet-lite0.safetensors"));
    if !shared.is_dir() {
        return None;
    }
    assert!(weights.is_file(), "{} is missing: run `make fixtures`", weights.display());
    let checkpoint = Checkpoint::open(&weights, None).unwrap();
    let info = checkpoint.info();
    assert_eq!((info.arch, info.classes, info.random), (Arch::EfficientNetLite0, 1000, false));
    Some((shared, checkpoint))
}
