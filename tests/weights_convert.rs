//! `.pth` files to safetensors: what PyTorch wrote reads back bit for bit, whatever else is refused by name, and no
//! failure touches the file that was there before. `tests/pth/make.py` wrote the fixtures.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "pth/legacy.rs"]
mod legacy;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use convoy::vision::arch::{Arch, TensorSpec};
use convoy::vision::random::Recipe;
use convoy::vision::weights::WeightsError;
use convoy::weights::convert::{Conversion, ConvertError, Float, convert};
use convoy::weights::torch::{TorchError, TorchFile};
use half::{bf16, f16};
use legacy::legacy;
use safetensors::tensor::{Dtype, SafeTensors};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const CLASSES: usize = 3;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth").join(name)
}

/// An error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Type, shape and bytes of every tensor of a fixture, by name.
type Contents = BTreeMap<String, (String, String, String)>;

fn expected(case: &str) -> Contents {
    let text = fs::read_to_string(fixture("expected.txt")).unwrap();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_case = fields.filter(|fields| fields[0] == case);
    of_case.map(|f| (f[1].to_owned(), (f[2].into(), f[3].into(), f[4].into()))).collect()
}

fn contents(path: &Path) -> Contents {
    let mut file = TorchFile::open(path).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let tensors = file.tensors().to_vec();
    let read = |tensor: &convoy::weights::torch::Tensor| {
        let bytes = file.read(tensor).unwrap();
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let shape = format!("{:?}", tensor.shape).replace(' ', "");
        (tensor.name.clone(), (format!("{:?}", tensor.dtype), shape, hex))
    };
    tensors.iter().map(read).collect()
}

#[test]
fn what_pytorch_wrote_reads_back_bit_for_bit_in_both_layouts() {
    for case in ["types", "views", "module", "parallel", "trained", "reference", "parameters"] {
        let expected = expected(case);
        assert!(!expected.is_empty(), "{case}");
        for layout in ["zip", "legacy"] {
            assert_eq!(contents(&fixture(&format!("{case}-{layout}.pth"))), expected, "{case} {layout}");
        }
    }
    assert_eq!(contents(&fixture("protocol4-zip.pth")), expected("protocol4"));
}

/// Every hostile fixture, and words of the error that refuses it.
const EVIL: [(&str, &str); 51] = [
    ("os-system", "contains code (os.system)"),
    ("stack-global", "contains code (posix.system)"),
    ("builtins-eval", "contains code (builtins.eval)"),
    ("getattr", "contains code (builtins.getattr)"),
    ("torch-load", "contains code (torch.storage._load_from_bytes)"),
    ("newobj", "contains code (an object made by operation 0x81)"),
    ("inst", "operation 0x53"),
    ("extension", "contains code (an object made by operation 0x82)"),
    ("build", "contains code (BUILD"),
    ("reduce-text", "damaged at byte 9"),
    ("reduce-storage", "damaged"),
    ("memo-missing", "damaged at byte 2"),
    ("memo-huge", "no dictionary of tensors"),
    ("text-huge", "breaks off"),
    ("text-endless", "breaks off"),
    ("underflow", "damaged at byte 2"),
    ("no-mark", "damaged at byte 2"),
    ("below-mark", "damaged at byte 4"),
    ("odd-dict", "damaged"),
    ("no-stop", "breaks off"),
    ("no-tensor", "w: it is no tensor"),
    ("no-dict", "no dictionary of tensors"),
    ("number-key", "a key of its dictionary is no name"),
    ("twice", "w is there twice"),
    ("self-state", "state_dict: it is no tensor"),
    ("beyond", "reaches beyond its storage"),
    ("far-stride", "reaches beyond its storage"),
    ("wrapping-stride", "reaches beyond its storage"),
    ("wrapping-shape", "larger than its storage"),
    ("expanded", "larger than its storage"),
    ("negative", "negative"),
    ("negative-offset", "offset is negative"),
    ("negative-storage", "storage has a negative size"),
    ("huge-storage", "storage is too large"),
    ("long-storage", "another size than the pickle says"),
    ("no-strides", "not one stride a dimension"),
    ("many-dimensions", "shape is no shape"),
    ("no-storage", "evil/data/1"),
    ("path", "evil/data/../../../etc/passwd"),
    ("quantised", "contains code (torch.QInt8Storage)"),
    ("compressed", "compressed, which torch.save never does"),
    ("bit-flip", "evil/data/0"),
    ("cut", "damaged zip archive"),
    ("no-directory", "damaged zip archive"),
    ("big-endian", "big endian"),
    ("legacy-cut", "the file is truncated"),
    ("legacy-protocol", "protocol version"),
    ("legacy-big-endian", "big endian"),
    ("legacy-magic", "nor written by torch.save"),
    ("text", "nor written by torch.save"),
    ("empty", "nor written by torch.save"),
];

#[test]
fn hostile_files_are_refused_by_name_and_reason() {
    for (name, words) in EVIL {
        let path = fixture(&format!("evil/{name}.pth"));
        let error = chain(&TorchFile::open(&path).unwrap_err());
        assert!(error.contains(words), "{name}: {error}");
        assert!(error.contains(&format!("{name}.pth")), "{name}: {error}");
    }
    let files = fs::read_dir(fixture("evil")).unwrap().count();
    assert_eq!(files, EVIL.len(), "every hostile fixture is in the list");
}

fn zip(path: &Path, pickle: &[u8], storage: &[u8]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in [("x/data.pkl", pickle), ("x/data/0", storage)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

/// Pickles that would take a naive reader's stack, memory or afternoon.
#[test]
fn pickles_that_grow_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grow.pth");
    let open = |pickle: &[u8]| {
        zip(&path, pickle, b"");
        chain(&TorchFile::open(&path).unwrap_err())
    };
    let nested = |open: &[u8], close: &[u8], depth| [b"\x80\x02N", open, &close.repeat(depth), b"."].concat();
    let deep = 500_000;
    assert!(open(&nested(b"", b"\x85", deep)).contains("no dictionary"), "tuples in tuples");
    assert!(
        open(&nested(b"0}q\x00", b"h\x00h\x00h\x00s0h\x00", 10_000)).contains("no name"),
        "itself in itself"
    );
    assert!(
        open(&nested(b"", b"\x85", 2_000_000)).contains("larger than that of any checkpoint"),
        "operations"
    );
    assert!(open(&vec![b'('; 20 << 20]).contains("too large"), "bytes");
    // One list of many pairs, made into a dictionary again and again.
    let mut pickle = b"\x80\x02(".to_vec();
    pickle.extend(b"N\x85N\x86".repeat(100_000).iter().filter(|&&byte| byte != 0x85));
    pickle.extend(b"lq\x000ccollections\nOrderedDict\nq\x010");
    pickle.extend(b"h\x01h\x00\x85R0".repeat(100_000));
    pickle.extend(b"N.");
    assert!(open(&pickle).contains("damaged") || open(&pickle).contains("larger than"), "{}", open(&pickle));
}

#[test]
fn bytes_of_fixtures_changed_or_cut_anywhere_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutant.pth");
    for name in ["views-legacy.pth", "views-zip.pth"] {
        let whole = fs::read(fixture(name)).unwrap();
        fs::write(&path, &whole).unwrap();
        // Changed in place: a file system may sync one that is truncated and written anew.
        let file = File::options().write(true).open(&path).unwrap();
        for (at, &byte) in whole.iter().enumerate() {
            for value in [0xff, byte ^ 1, byte] {
                file.write_all_at(&[value], at as u64).unwrap();
                try_to_read(&path);
            }
        }
        for length in (0..whole.len()).rev() {
            file.set_len(length as u64).unwrap();
            try_to_read(&path);
        }
    }
}

fn try_to_read(path: &Path) {
    if let Ok(mut file) = TorchFile::open(path) {
        for tensor in file.tensors().to_vec() {
            assert_eq!(file.read(&tensor).unwrap().len(), tensor.elements() * tensor.dtype.bitsize() / 8);
        }
    }
}

fn tensors() -> Vec<(TensorSpec, Vec<f32>)> {
    Recipe { classes: CLASSES, ..Recipe::new(Arch::ResNet18) }.tensors().collect()
}

struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new(input: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("in.pth"), input).unwrap();
        fs::write(folder.path().join("out.safetensors"), "old").unwrap();
        Self { folder }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("in.pth")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out.safetensors")
    }

    fn convert(&self, float: Float, arch: Option<Arch>) -> Result<(), ConvertError> {
        convert(&self.input(), &self.output(), Conversion { float, arch }).map(drop)
    }

    /// The file that was there before is there still, and nothing else.
    fn assert_untouched(&self) {
        assert_eq!(fs::read(self.output()).unwrap(), b"old");
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_network_converts_to_the_same_numbers_rounded_to_nearest_even() {
    let tensors = tensors();
    let scratch = Scratch::new(&legacy(&tensors));
    type Round = fn(f32) -> Vec<u8>;
    let roundings: [(Float, Dtype, Round); 3] = [
        (Float::F32, Dtype::F32, |v| v.to_le_bytes().into()),
        (Float::F16, Dtype::F16, |v| f16::from_f32(v).to_le_bytes().into()),
        (Float::Bf16, Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().into()),
    ];
    for (float, dtype, round) in roundings {
        scratch.convert(float, None).unwrap();
        let file = fs::read(scratch.output()).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(file.len(), tensors.len());
        for (spec, values) in &tensors {
            let found = file.tensor(&spec.name).unwrap();
            assert_eq!((found.dtype(), found.shape()), (dtype, spec.shape.as_slice()), "{}", spec.name);
            let same = values.iter().flat_map(|&value| round(value)).eq(found.data().iter().copied());
            assert!(same, "{} differs as {dtype:?}", spec.name);
        }
        assert_eq!(fs::read_dir(scratch.folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn safetensors_convert_too_and_random_ones_stay_marked() {
    let scratch = Scratch::new(b"");
    Recipe { classes: CLASSES, ..Recipe::new(Arch::ResNet18) }.write(&scratch.input()).unwrap();
    let wanted = Conversion { float: Float::F16, arch: Some(Arch::ResNet18) };
    let info = convert(&scratch.input(), &scratch.output(), wanted).unwrap();
    assert_eq!((info.name.as_str(), info.classes, info.random), ("out", CLASSES, true));
}

#[test]
fn what_is_no_complete_network_is_not_written() {
    type Change<'a> = &'a dyn Fn(&mut Vec<(TensorSpec, Vec<f32>)>);
    let refused = |change: Change<'_>, arch, words: &str| {
        let mut tensors = tensors();
        change(&mut tensors);
        let scratch = Scratch::new(&legacy(&tensors));
        let error = scratch.convert(Float::F32, arch).unwrap_err();
        let text = chain(&error);
        assert!(text.contains("in.pth") && text.contains(words), "{text}");
        scratch.assert_untouched();
        error
    };
    let missing = refused(&|tensors| drop(tensors.remove(7)), None, "1 are missing (first layer1.0.bn1.bias");
    assert!(matches!(missing, ConvertError::Check { source: WeightsError::Mismatch { .. }, .. }));
    refused(&|tensors| tensors[3].0.name.push('x'), None, "1 are unexpected (first bn1.running_meanx");
    refused(&|_| {}, Some(Arch::ResNet50), "is not a resnet50");
    refused(&|tensors| tensors[0].1[5] = f32::NAN, None, "element 5 of conv1.weight is NaN");
}

#[test]
fn numbers_that_overflow_the_smaller_type_are_refused() {
    let mut tensors = tensors();
    tensors[0].1[5] = 1e6;
    let scratch = Scratch::new(&legacy(&tensors));
    let error = chain(&scratch.convert(Float::F16, None).unwrap_err());
    assert!(error.contains("element 5 of conv1.weight is inf"), "{error}");
    scratch.assert_untouched();
    scratch.convert(Float::Bf16, None).unwrap();
}

#[test]
fn a_hostile_or_missing_input_leaves_the_output_alone() {
    let scratch = Scratch::new(&fs::read(fixture("evil/os-system.pth")).unwrap());
    let error = scratch.convert(Float::F32, None).unwrap_err();
    assert!(matches!(&error, ConvertError::Torch(TorchError::Pickle { .. })), "{}", chain(&error));
    scratch.assert_untouched();
    let nowhere = scratch.folder.path().join("nowhere.pth");
    let wanted = Conversion { float: Float::F32, arch: None };
    let error = convert(&nowhere, &scratch.output(), wanted).unwrap_err();
    assert!(chain(&error).contains("nowhere.pth"), "{}", chain(&error));
    scratch.assert_untouched();
}

/// Runs `convoy weights` where no file may grow beyond `blocks` of 512 bytes, as on a disk that is full.
fn with_little_space(blocks: usize, arguments: &[&Path]) -> Output {
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &limited, "sh", env!("CARGO_BIN_EXE_convoy"), "weights"]).args(arguments);
    command.output().unwrap()
}

#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let scratch = Scratch::new(&legacy(&tensors()));
    let (input, output) = (scratch.input(), scratch.output());
    let done = with_little_space(2000, &[Path::new("convert"), &input, &output]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write") && said.contains("out.safetensors"), "{said}");
    scratch.assert_untouched();
}

#[test]
fn verify_prints_digest_network_and_tensors_of_both_kinds() {
    let scratch = Scratch::new(&legacy(&tensors()));
    scratch.convert(Float::Bf16, None).unwrap();
    for (path, dtype) in [(scratch.input(), "F32"), (scratch.output(), "BF16")] {
        let done = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .args(["weights", "verify"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
        let digest = convoy::weights::digest::of_file(&path).unwrap();
        for words in [&format!("sha256   {digest}"), "resnet18, 3 classes", "102,", dtype, "random   no"] {
            assert!(said.contains(words), "{words} is not in {said}");
        }
    }
}

/// Real weights, where they are at hand: through `.pth` and back without a bit changed.
#[test]
fn a_trained_network_survives_the_way_through_pth() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("../shared").is_dir() {
        return;
    }
    let path = root.join(".cache/weights/resnet18.safetensors");
    let whole = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; `make test` expands it", path.display()));
    let whole = SafeTensors::deserialize(&whole).unwrap();
    let floats =
        |bytes: &[u8]| -> Vec<f32> { bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect() };
    let named = Arch::ResNet18.layout(1000).into_iter().filter(|spec| !spec.is_counter());
    let tensors: Vec<_> = named
        .map(|spec| {
            let v = floats(whole.tensor(&spec.name).unwrap().data());
            (spec, v)
        })
        .collect();
    let scratch = Scratch::new(&legacy(&tensors));
    scratch.convert(Float::F32, Some(Arch::ResNet18)).unwrap();
    let converted = fs::read(scratch.output()).unwrap();
    let converted = SafeTensors::deserialize(&converted).unwrap();
    for (spec, _) in &tensors {
        assert!(whole.tensor(&spec.name).unwrap() == converted.tensor(&spec.name).unwrap(), "{}", spec.name);
    }
}
