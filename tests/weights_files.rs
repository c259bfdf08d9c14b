//! Checkpoint files, good and bad: what is written is read back, and whatever is not the network asked for is refused
//! with an error that names the file, the tensor and the next step.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

use convoy::vision::arch::{Arch, TensorSpec};
use convoy::vision::fold::{Network, TensorSource};
use convoy::vision::random::Recipe;
use convoy::vision::weights::{Checkpoint, WeightsError};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

const CLASSES: usize = 3;

/// A folder with one file in it.
struct Scratch {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new(content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    fn open(&self, arch: Option<Arch>) -> Result<Checkpoint, WeightsError> {
        Checkpoint::open(&self.path, arch)
    }
}

fn recipe() -> Recipe {
    Recipe { classes: CLASSES, ..Recipe::new(Arch::ResNet18) }
}

/// The random ResNet-18 as named f32 tensors; without counters, which are optional.
fn tensors() -> Vec<(TensorSpec, Vec<f32>)> {
    recipe().tensors().collect()
}

fn encode(tensors: &[(TensorSpec, Vec<f32>)], dtype: Dtype) -> Vec<u8> {
    let bytes = |values: &[f32]| -> Vec<u8> {
        match dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
        }
    };
    let blobs: Vec<_> = tensors.iter().map(|(spec, values)| (spec, bytes(values))).collect();
    let views = blobs
        .iter()
        .map(|(spec, blob)| (spec.name.clone(), TensorView::new(dtype, spec.shape.clone(), blob).unwrap()));
    serialize(views, None).unwrap()
}

/// The random network with every number rounded.
struct Rounded(Recipe, Rounding);

type Rounding = fn(f32) -> f32;

impl TensorSource for Rounded {
    fn arch(&self) -> Arch {
        self.0.arch
    }

    fn classes(&self) -> usize {
        self.0.classes
    }

    fn tensor(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, WeightsError> {
        Ok(self.0.tensor(spec)?.into_iter().map(self.1).collect())
    }
}

fn assert_same(a: &Network, b: &Network) {
    let numbers = |network: &Network| -> Vec<f32> {
        let blocks =
            network.blocks.iter().flat_map(|block| block.branch.iter().chain(block.shortcut.projection()));
        let convs = std::iter::once(&network.stem).chain(blocks);
        let convs = convs.flat_map(|conv| conv.weight.iter().chain(&conv.bias));
        convs.chain(&network.fc_weight).chain(&network.fc_bias).copied().collect()
    };
    assert!(numbers(a) == numbers(b), "the networks differ");
}

#[test]
fn a_random_checkpoint_is_read_back_bit_for_bit_and_marked_as_random() {
    let scratch = Scratch::new(b"old");
    let recipe = Recipe { seed: 7, ..recipe() };
    recipe.write(&scratch.path).unwrap();
    let mut checkpoint = scratch.open(None).unwrap();
    let info = checkpoint.info();
    assert_eq!(
        (info.name.as_str(), info.arch, info.classes, info.random),
        ("model", Arch::ResNet18, CLASSES, true)
    );
    let written = Network::read(&mut recipe.clone()).unwrap();
    assert_same(&checkpoint.network().unwrap(), &written);
    let raw = fs::read(&scratch.path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&raw).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["convoy.random"], "seed=7");
    assert_eq!(header.tensors().len(), Arch::ResNet18.layout(CLASSES).len());
    assert_eq!(fs::read_dir(scratch.path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn f16_and_bf16_load_as_their_rounded_numbers_and_counters_are_optional() {
    let roundings: [(Dtype, Rounding); 3] = [
        (Dtype::F32, |v| v),
        (Dtype::F16, |v| f16::from_f32(v).to_f32()),
        (Dtype::BF16, |v| bf16::from_f32(v).to_f32()),
    ];
    for (dtype, rounding) in roundings {
        let scratch = Scratch::new(&encode(&tensors(), dtype));
        let mut checkpoint = scratch.open(Some(Arch::ResNet18)).unwrap();
        assert!(!checkpoint.info().random);
        let expected = Network::read(&mut Rounded(recipe(), rounding)).unwrap();
        assert_same(&checkpoint.network().unwrap(), &expected);
    }
}

#[test]
fn the_first_of_every_kind_of_fault_is_named_with_its_count() {
    let mut tensors = tensors();
    for (spec, values) in &mut tensors {
        match spec.name.as_str() {
            "layer1.0.bn1.weight" => spec.name = "layer1.0.norm1.weight".into(),
            "layer1.0.bn2.weight" => spec.name = "layer1.0.norm2.weight".into(),
            "layer2.0.bn1.bias" => (spec.shape, *values) = (vec![2], vec![0.0; 2]),
            _ => {}
        }
    }
    let scratch = Scratch::new(&encode(&tensors, Dtype::F32));
    let error = scratch.open(None).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = &error else { panic!("{error}") };
    assert_eq!(mismatch.missing.first.as_deref(), Some("layer1.0.bn1.weight"));
    assert_eq!(mismatch.unexpected.first.as_deref(), Some("layer1.0.norm1.weight"));
    let misshapen = ("layer2.0.bn1.bias".to_owned(), vec![128], vec![2]);
    assert_eq!(mismatch.misshapen.first, Some(misshapen));
    assert_eq!((mismatch.missing.count, mismatch.unexpected.count, mismatch.misshapen.count), (2, 2, 1));
    let text = error.to_string();
    for part in
        ["model.safetensors", "resnet18", "layer1.0.bn1.weight", "layer1.0.norm1.weight", "expected [128]"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn another_architecture_is_refused_and_recognised() {
    let scratch = Scratch::new(&encode(&tensors(), Dtype::F32));
    for arch in Arch::ALL.into_iter().filter(|&arch| arch != Arch::ResNet18) {
        let error = scratch.open(Some(arch)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("is not a {arch}")) && error.contains("looks like a resnet18"),
            "{error}"
        );
    }
    let foreign = vec![(TensorSpec { name: "embeddings.weight".into(), shape: vec![2] }, vec![0.0; 2])];
    let scratch = Scratch::new(&encode(&foreign, Dtype::F32));
    assert!(matches!(scratch.open(None), Err(WeightsError::UnknownArchitecture { tensors: 1, .. })));
    assert!(matches!(scratch.open(Some(Arch::ResNet50)), Err(WeightsError::Mismatch { .. })));
}

#[test]
fn types_and_numbers_no_forward_pass_can_use_are_refused() {
    let scratch = Scratch::new(&encode(&tensors(), Dtype::F64));
    let error = scratch.open(None).unwrap_err();
    assert!(
        matches!(&error, WeightsError::Dtype { tensor, dtype: Dtype::F64, .. } if tensor == "conv1.weight")
    );
    for (name, value) in [("fc.bias", f32::NAN), ("conv1.weight", f32::INFINITY), ("bn1.running_var", -0.5)] {
        let mut tensors = tensors();
        tensors.iter_mut().find(|(spec, _)| spec.name == name).unwrap().1[1] = value;
        let error = Scratch::new(&encode(&tensors, Dtype::F32)).open(None).unwrap().network().unwrap_err();
        assert!(matches!(&error, WeightsError::Number { tensor, index: 1, .. } if tensor == name), "{error}");
    }
}

#[test]
fn files_that_are_no_checkpoint_are_told_apart() {
    let open = |content: &[u8]| Scratch::new(content).open(None).unwrap_err();
    assert!(matches!(open(b""), WeightsError::Empty { .. }));
    assert!(matches!(open(b"PK\x03\x04 and the rest"), WeightsError::PyTorch { .. }));
    assert!(matches!(open(b"\x80\x02}q\x00."), WeightsError::PyTorch { .. }));
    assert!(matches!(open(b"short"), WeightsError::NotSafetensors { .. }));
    assert!(matches!(open(b"<html>404 Not Found</html>"), WeightsError::NotSafetensors { .. }));
    let header = |length: u64, json: &str| [&length.to_le_bytes(), json.as_bytes()].concat();
    assert!(matches!(open(&header(u64::MAX, "{}")), WeightsError::NotSafetensors { .. }));
    assert!(matches!(open(&header(100, "{}")), WeightsError::Truncated { expected: 108, actual: 10, .. }));
    assert!(matches!(open(&header(5, "{oops")), WeightsError::Header { .. }));
    assert!(matches!(open(&header(2, "{}")), WeightsError::UnknownArchitecture { tensors: 0, .. }));
    assert!(matches!(open(&header(2, "{} ")), WeightsError::Oversized { .. }));
    let deep = "{\"a\":".to_owned() + &"[".repeat(100_000);
    assert!(matches!(open(&header(deep.len() as u64, &deep)), WeightsError::Header { .. }));
    let lie = r#"{"fc.weight":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,0]}}"#;
    assert!(matches!(open(&header(lie.len() as u64, lie)), WeightsError::Header { .. }));
    let none = r#"{"fc.weight":{"dtype":"F32","shape":[4611686018427387904,0],"data_offsets":[0,0]}}"#;
    let none = Scratch::new(&header(none.len() as u64, none));
    assert!(matches!(none.open(Some(Arch::ResNet152)), Err(WeightsError::Mismatch { .. })));
}

#[test]
fn a_file_cut_or_padded_anywhere_is_refused() {
    let whole = encode(&tensors(), Dtype::F16);
    for kept in [1, 7, 8, 9, 200, whole.len() / 2, whole.len() - 1] {
        let error = Scratch::new(&whole[..kept]).open(None).unwrap_err();
        let expected = if kept < 9 { "not a safetensors" } else { "truncated" };
        assert!(error.to_string().contains(expected), "{kept}: {error}");
    }
    let padded = [whole.as_slice(), b"x"].concat();
    assert!(matches!(Scratch::new(&padded).open(None), Err(WeightsError::Oversized { .. })));
}

#[test]
fn paths_that_are_no_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Checkpoint::open(path, None).unwrap_err();
    assert!(matches!(open(folder.path()), WeightsError::NotAFile { .. }));
    let error = open(&folder.path().join("none"));
    assert!(
        matches!(&error, WeightsError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
}

/// The generator of the shared test weights and this crate's make the same bits.
#[test]
fn the_random_resnet152_is_the_one_other_implementations_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = root.join("../shared");
    if !shared.exists() {
        return;
    }
    let center = fs::read(shared.join("weights/resnet152-seed0-center.json")).unwrap();
    let center = serde_json::from_slice(&center).unwrap();
    let recipe = Recipe { fc_sd: 0.45, center: Some(center), ..Recipe::new(Arch::ResNet152) };
    let path = root.join(".cache/weights/resnet152-seed0.safetensors");
    let file = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; `make test` expands it", path.display()));
    let file = SafeTensors::deserialize(&file).unwrap();
    for (spec, values) in recipe.tensors() {
        let expected = file.tensor(&spec.name).unwrap();
        assert_eq!(expected.shape(), spec.shape);
        let same = expected.data().chunks_exact(4).zip(&values).all(|(bytes, v)| bytes == v.to_le_bytes());
        assert!(same && expected.data().len() == 4 * values.len(), "{} differs", spec.name);
    }
}
